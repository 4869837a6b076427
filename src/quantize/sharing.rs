//! Which points share one observer: union-find over the annotated points.
//!
//! Sharing is explicit ([`QuantizationSpec::Shared`]) or implicit: an input edge whose spec agrees with that of another
//! edge of the same value, or of the value itself, is the same tensor quantized the same way, so one observer serves.
//! The order of the unions decides which point's spec a group takes, and follows PT2E.

use std::collections::HashMap;

use super::annotation::{Annotations, EdgeOrNode};
use super::prepare::PrepareError;
use super::spec::{ObservedSpec, QuantizationSpec};
use crate::graph::Graph;

/// The observers that a graph needs, and which point each of them serves.
#[derive(Debug)]
pub(super) struct Groups {
    group_of: HashMap<EdgeOrNode, usize>,
    /// One entry per group: the spec of its observer.
    pub(super) specs: Vec<ObservedSpec>,
}

impl Groups {
    /// The group of a point; `None` if the point is not annotated or stays float.
    pub(super) fn observed(&self, point: EdgeOrNode) -> Option<usize> {
        self.group_of.get(&point).copied()
    }
}

/// Groups all annotated points.
///
/// # Errors
/// [`PrepareError::SharedWithNothing`] and [`PrepareError::SharedCycle`], naming both ends.
pub(super) fn group(graph: &Graph, annotations: &Annotations) -> Result<Groups, PrepareError> {
    let mut points: Vec<EdgeOrNode> = Vec::new();
    let mut index: HashMap<EdgeOrNode, usize> = HashMap::new();
    let mut specs = Vec::new();
    for (point, spec) in annotations.points(graph) {
        // One producer read through two arguments is a single edge; the last word counts, as in a map.
        if let Some(&at) = index.get(&point) {
            specs[at] = spec;
            continue;
        }
        index.insert(point, points.len());
        points.push(point);
        specs.push(spec);
    }
    for (point, spec) in points.iter().zip(&specs) {
        if let Some(QuantizationSpec::Shared(target)) = spec
            && !index.contains_key(target)
        {
            let (point, target) = (point.describe(graph), target.describe(graph));
            return Err(PrepareError::SharedWithNothing { point, target });
        }
    }

    let users = graph.users();
    let mut forest = Forest { parent: (0..points.len()).collect(), points: &points, index: &index, specs: &specs };
    for (at, &point) in points.iter().enumerate() {
        let shared = match specs[at] {
            Some(QuantizationSpec::Shared(target)) => Some(index[&target]),
            _ => None,
        };
        if let EdgeOrNode::Edge { producer, consumer } = point {
            let implicit = annotations.get(consumer).is_some_and(|a| a.allow_implicit_sharing);
            if implicit && let Some(spec) = forest.root_spec(graph, at)? {
                let others = users[producer.index()]
                    .iter()
                    .filter(|&&user| user != consumer)
                    .map(|&consumer| EdgeOrNode::Edge { producer, consumer });
                // Other users before the producer: the reverse order can make a shared edge its own ancestor.
                for other in others.chain([EdgeOrNode::Node(producer)]) {
                    let Some(&other) = index.get(&other) else { continue };
                    if forest.root_spec(graph, other)?.is_some_and(|s| agree(&s, &spec)) {
                        forest.union(other, at);
                    }
                }
            }
        }
        if let Some(target) = shared {
            forest.union(target, at);
        }
    }

    let mut group_of = HashMap::new();
    let mut group_of_root: HashMap<usize, usize> = HashMap::new();
    let mut group_specs = Vec::new();
    for at in 0..points.len() {
        // The first point of a group decides; one that shares takes the spec at the end of its chain.
        let spec = match specs[at] {
            Some(QuantizationSpec::Observed(spec)) => Some(spec),
            _ => forest.root_spec(graph, at)?,
        };
        let Some(spec) = spec else { continue };
        let root = forest.find(at);
        let group = *group_of_root.entry(root).or_insert_with(|| {
            group_specs.push(spec);
            group_specs.len() - 1
        });
        group_of.insert(points[at], group);
    }
    Ok(Groups { group_of, specs: group_specs })
}

/// Everything but the observer: two specs that differ only in it merge, and the first point decides.
fn agree(a: &ObservedSpec, b: &ObservedSpec) -> bool {
    a.range == b.range && a.qscheme == b.qscheme
}

struct Forest<'a> {
    parent: Vec<usize>,
    points: &'a [EdgeOrNode],
    index: &'a HashMap<EdgeOrNode, usize>,
    specs: &'a [Option<QuantizationSpec>],
}

impl Forest<'_> {
    fn find(&mut self, at: usize) -> usize {
        let mut root = at;
        while self.parent[root] != root {
            root = self.parent[root];
        }
        let mut at = at;
        while self.parent[at] != root {
            at = std::mem::replace(&mut self.parent[at], root);
        }
        root
    }

    /// Puts the child's group under the parent's, except where that would lead a shared spec back to itself.
    fn union(&mut self, parent: usize, child: usize) {
        let (parent, child) = (self.find(parent), self.find(child));
        if parent == child {
            return;
        }
        let names_child = matches!(self.specs[parent], Some(QuantizationSpec::Shared(t)) if self.index[&t] == child);
        if names_child {
            self.parent[parent] = child;
        } else {
            self.parent[child] = parent;
        }
    }

    /// Follows shared specs through the groups to one that is not shared.
    fn root_spec(&mut self, graph: &Graph, at: usize) -> Result<Option<ObservedSpec>, PrepareError> {
        let mut root = self.find(at);
        for _ in 0..=self.points.len() {
            match self.specs[root] {
                None => return Ok(None),
                Some(QuantizationSpec::Observed(spec)) => return Ok(Some(spec)),
                Some(QuantizationSpec::Shared(target)) => root = self.find(self.index[&target]),
            }
        }
        let (point, target) = (self.points[at].describe(graph), self.points[root].describe(graph));
        Err(PrepareError::SharedCycle { point, target })
    }
}

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

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::graph::{GraphBuilder, NodeId};
    use crate::numerics::EPS;
    use crate::qparams::{QScheme, QuantRange};
    use crate::quantize::{ObserverKind, QuantizationAnnotation};
    use crate::tensor::Shape;

    /// A chain and a fan of adds: values with several readers.
    fn graph() -> Graph {
        let mut g = GraphBuilder::new();
        let mut values = vec![g.input("x", Shape::rows(2)).expect("an input")];
        for i in 0..6 {
            let (a, b) = (values[i], values[i / 2]);
            values.push(g.add(&format!("add{i}"), a, b).expect("a sum"));
        }
        g.finish(values.last().copied()).expect("a graph")
    }

    fn observed(kind: usize) -> ObservedSpec {
        let range = [QuantRange::INT8, QuantRange::INT8_NARROW][kind % 2];
        ObservedSpec { range, qscheme: QScheme::PerTensorAffine, observer: ObserverKind::MinMax, eps: EPS }
    }

    /// For each node: whether it shares implicitly, and a spec for each input edge and the output, where numbers pick an
    /// observed spec or another point to share with.
    type Choice = (bool, Vec<Option<usize>>, Option<usize>);

    fn annotate(graph: &Graph, choices: &[Choice]) -> Annotations {
        let nodes: Vec<NodeId> = graph.iter().map(|(id, _)| id).skip(1).collect();
        let point = |at: usize| {
            let consumer = nodes[at / 2 % nodes.len()];
            match at % 2 {
                0 => EdgeOrNode::Node(consumer),
                _ => EdgeOrNode::Edge { producer: graph.node(consumer).inputs[0], consumer },
            }
        };
        let spec = |at: usize| match at {
            0 | 1 => QuantizationSpec::Observed(observed(at)),
            _ => QuantizationSpec::Shared(point(at)),
        };
        let mut annotations = Annotations::new(graph);
        for (&id, (allow_implicit_sharing, inputs, output)) in nodes.iter().zip(choices) {
            let edges = graph.node(id).inputs.iter().copied().zip(inputs.iter().map(|i| i.map(spec)));
            annotations.set(
                id,
                QuantizationAnnotation {
                    input_qspec_map: edges.collect(),
                    output_qspec: output.map(spec),
                    allow_implicit_sharing: *allow_implicit_sharing,
                },
            );
        }
        annotations
    }

    fn choices() -> impl Strategy<Value = Vec<Choice>> {
        let spec = || prop::option::weighted(0.9, prop_oneof![4 => 0usize..2, 1 => 2usize..14]);
        prop::collection::vec((any::<bool>(), prop::collection::vec(spec(), 2), spec()), 6)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

        /// Groups partition the points: one group each, numbered without gaps, an explicit share always inside one group.
        #[test]
        fn groups_are_an_equivalence_relation(choices in choices()) {
            let graph = graph();
            let annotations = annotate(&graph, &choices);
            // Sharing with nothing or in a circle is refused; that is tested by name elsewhere.
            let Ok(groups) = group(&graph, &annotations) else { return Ok(()) };
            let mut members: HashMap<usize, Vec<EdgeOrNode>> = HashMap::new();
            let mut last = HashMap::new();
            for (point, spec) in annotations.points(&graph) {
                last.insert(point, spec);
            }
            for (&point, spec) in &last {
                match groups.observed(point) {
                    Some(group) => members.entry(group).or_default().push(point),
                    // Only what stays float, or shares with what does, has no group.
                    None => prop_assert!(!matches!(spec, Some(QuantizationSpec::Observed(_)))),
                }
                if let Some(QuantizationSpec::Shared(target)) = spec {
                    prop_assert_eq!(groups.observed(point), groups.observed(*target));
                }
            }
            prop_assert_eq!(members.len(), groups.specs.len());
            for (group, points) in members {
                // One spec serves the group, and each member that has a spec of its own agrees with it.
                for point in points {
                    if let Some(Some(QuantizationSpec::Observed(own))) = last.get(&point) {
                        prop_assert!(agree(own, &groups.specs[group]), "{point:?}");
                    }
                }
            }
        }
    }
}

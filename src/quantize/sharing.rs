//! Sharing: finds the points that share one observer, by union-find over the annotated points.
//!
//! Sharing is explicit ([`QuantizationSpec::Shared`]) or implicit: an input edge whose spec agrees with that of another
//! edge of the same value, or of the value itself, is the same tensor quantized the same way, so one observer serves.
//! The order of the unions decides which point's spec a group takes, and follows PT2E.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::annotation::{Annotations, EdgeOrNode};
use super::prepare::error::PrepareError;
use super::spec::QuantizationSpec;
use crate::graph::{Graph, NodeId};

/// The observers that a graph needs, and the points of each.
#[derive(Debug)]
pub(super) struct Groups {
    group_of: HashMap<EdgeOrNode, usize>,
    /// One entry per group: the spec of its observer, never a shared one.
    pub(super) specs: Vec<QuantizationSpec>,
    /// One entry per group: the groups that it is derived from.
    pub(super) derived_from: Vec<Vec<usize>>,
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
/// Returns [`PrepareError::SharedWithNothing`], [`PrepareError::SharedCycle`], [`PrepareError::SharedContradiction`],
/// [`PrepareError::DerivedFromNothing`] and [`PrepareError::DerivedCycle`], naming both ends.
pub(super) fn group(graph: &Graph, annotations: &Annotations) -> Result<Groups, PrepareError> {
    group_by(graph, annotations, join)
}

/// Unites the points that share.
type Join = fn(&Graph, &Annotations, &mut Forest<'_>) -> Result<(), PrepareError>;

fn group_by(graph: &Graph, annotations: &Annotations, join: Join) -> Result<Groups, PrepareError> {
    let mut points: Vec<EdgeOrNode> = Vec::new();
    let mut index: HashMap<EdgeOrNode, usize> = HashMap::new();
    let mut specs = Vec::new();
    for (point, spec) in annotations.points(graph) {
        // A producer that is read through two arguments is one edge; the last spec counts, as in a map.
        if let Some(&at) = index.get(&point) {
            specs[at] = spec;
            continue;
        }
        index.insert(point, points.len());
        points.push(point);
        specs.push(spec);
    }
    for (point, spec) in points.iter().zip(&specs) {
        if let Some(QuantizationSpec::Shared(target)) = spec {
            let (point, target_name) = (point.describe(graph), target.describe(graph));
            match index.get(target).map(|&at| specs[at]) {
                Some(Some(_)) => {}
                Some(None) => {
                    let problem = "stays in float".to_owned();
                    return Err(PrepareError::SharedContradiction { point, target: target_name, problem });
                }
                None => return Err(PrepareError::SharedWithNothing { point, target: target_name }),
            }
        }
    }

    let mut forest = Forest { parent: (0..points.len()).collect(), points: &points, index: &index, specs: &specs };
    join(graph, annotations, &mut forest)?;

    let mut group_of = HashMap::new();
    let mut group_of_root: HashMap<usize, usize> = HashMap::new();
    let mut group_specs: Vec<QuantizationSpec> = Vec::new();
    let mut first_of: Vec<usize> = Vec::new();
    for at in 0..points.len() {
        // The first point of a group decides; one that shares takes the spec at the end of its chain.
        let spec = match specs[at] {
            Some(QuantizationSpec::Shared(_)) | None => forest.root_spec(graph, at)?,
            own => own,
        };
        let Some(spec) = spec else { continue };
        let root = forest.find(at);
        let group = *group_of_root.entry(root).or_insert_with(|| {
            group_specs.push(spec.clone());
            first_of.push(at);
            group_specs.len() - 1
        });
        group_of.insert(points[at], group);
        contradiction(graph, (points[at], spec), (points[first_of[group]], &group_specs[group]))?;
    }
    let derived_from = derived_from(graph, &points, &group_of, &group_specs, &first_of)?;
    Ok(Groups { group_of, specs: group_specs, derived_from })
}

fn join(graph: &Graph, annotations: &Annotations, forest: &mut Forest<'_>) -> Result<(), PrepareError> {
    let users = graph.users();
    let mut alike: HashMap<NodeId, Alike<'_>> = HashMap::new();
    for (at, &point) in forest.points.iter().enumerate() {
        if let EdgeOrNode::Edge { producer, consumer } = point {
            let implicit = annotations.get(consumer).is_some_and(|a| a.allow_implicit_sharing);
            if implicit && let Some(spec) = forest.root_spec(graph, at)? {
                let of_value = match alike.entry(producer) {
                    Entry::Occupied(entry) => entry.into_mut(),
                    Entry::Vacant(entry) => {
                        entry.insert(Alike::new(graph, &users[producer.index()], producer, forest)?)
                    }
                };
                of_value.share(spec, at, forest);
            }
        }
        if let Some(QuantizationSpec::Shared(target)) = forest.specs[at] {
            forest.union(forest.index[target], at);
        }
    }
    Ok(())
}

/// Refuses a point that cannot have the observer of the first point of its group.
fn contradiction(
    graph: &Graph,
    (point, own): (EdgeOrNode, &QuantizationSpec),
    (first, spec): (EdgeOrNode, &QuantizationSpec),
) -> Result<(), PrepareError> {
    let shape = |point| match point {
        EdgeOrNode::Edge { producer: id, .. } | EdgeOrNode::Node(id) => (id, &graph.node(id).shape),
    };
    let ((id, mine), (first_id, theirs)) = (shape(point), shape(first));
    let channels = |axis: usize| (mine.axis(axis), theirs.axis(axis));
    let problem = match spec {
        _ if !own.agrees(spec) => format!("is {spec}, but the former is {own}"),
        _ if spec.is_dynamic() && id != first_id => {
            "is dynamic: two values cannot have one scale that is found at run time".to_owned()
        }
        QuantizationSpec::Observed(spec) => match spec.qscheme.ch_axis().map(channels) {
            Some((mine, theirs)) if mine != theirs => {
                let length = |n: Option<usize>| n.map_or("no".to_owned(), |n| n.to_string());
                format!("has {} channels, but the former has {}", length(theirs), length(mine))
            }
            _ => return Ok(()),
        },
        _ => return Ok(()),
    };
    let (point, target) = (point.describe(graph), first.describe(graph));
    Err(PrepareError::SharedContradiction { point, target, problem })
}

fn derived_from(
    graph: &Graph,
    points: &[EdgeOrNode],
    group_of: &HashMap<EdgeOrNode, usize>,
    specs: &[QuantizationSpec],
    first_of: &[usize],
) -> Result<Vec<Vec<usize>>, PrepareError> {
    let name = |group: usize| points[first_of[group]].describe(graph);
    let sources = |(group, spec): (usize, &QuantizationSpec)| match spec {
        QuantizationSpec::Derived(spec) => spec
            .derived_from
            .iter()
            .map(|source| {
                let (point, target) = (name(group), source.describe(graph));
                group_of.get(source).copied().ok_or(PrepareError::DerivedFromNothing { point, target })
            })
            .collect(),
        _ => Ok(Vec::new()),
    };
    let from: Vec<Vec<usize>> = specs.iter().enumerate().map(sources).collect::<Result<_, _>>()?;
    let mut done = vec![false; specs.len()];
    in_order(&from).into_iter().for_each(|group| done[group] = true);
    match done.iter().position(|done| !done) {
        None => Ok(from),
        Some(group) => {
            let target = from[group].iter().find(|&&source| !done[source]).map_or_else(String::new, |&at| name(at));
            Err(PrepareError::DerivedCycle { point: name(group), target })
        }
    }
}

/// Returns an order in which each group comes after the groups that it is derived `from`. Groups of a cycle, and those that are
/// derived from a group which does not exist, are left out.
pub(crate) fn in_order(from: &[Vec<usize>]) -> Vec<usize> {
    let mut waiting: Vec<usize> = from.iter().map(Vec::len).collect();
    let mut readers = vec![Vec::new(); from.len()];
    for (at, sources) in from.iter().enumerate() {
        for &source in sources {
            if let Some(readers) = readers.get_mut(source) {
                readers.push(at);
            }
        }
    }
    let mut order: Vec<usize> = (0..from.len()).filter(|&at| waiting[at] == 0).collect();
    let mut next = 0;
    while let Some(&at) = order.get(next) {
        for &reader in &readers[at] {
            waiting[reader] -= 1;
            if waiting[reader] == 0 {
                order.push(reader);
            }
        }
        next += 1;
    }
    order
}

/// The points of one value that may share implicitly, in classes whose specs agree: the edges in the order of the users, then the value
/// itself. The reverse order can make a shared edge its own ancestor.
///
/// After an edge was united with all points of its class, the class keeps one of them: a value with many users takes one step for each
/// user, not for each pair of users. Uniting points never changes which specs agree, except to an error.
struct Alike<'a> {
    classes: Vec<(&'a QuantizationSpec, Vec<usize>)>,
}

impl<'a> Alike<'a> {
    fn new(graph: &Graph, users: &[NodeId], producer: NodeId, forest: &mut Forest<'a>) -> Result<Self, PrepareError> {
        let edges = users.iter().map(|&consumer| EdgeOrNode::Edge { producer, consumer });
        let mut classes: Vec<(&QuantizationSpec, Vec<usize>)> = Vec::new();
        for point in edges.chain([EdgeOrNode::Node(producer)]) {
            let Some(&at) = forest.index.get(&point) else { continue };
            let Some(spec) = forest.root_spec(graph, at)? else { continue };
            match classes.iter_mut().find(|(other, _)| other.agrees(spec)) {
                Some((_, points)) => points.push(at),
                None => classes.push((spec, vec![at])),
            }
        }
        Ok(Self { classes })
    }

    /// Unites an edge with all other points of its class.
    fn share(&mut self, spec: &QuantizationSpec, at: usize, forest: &mut Forest<'_>) {
        let Some((_, points)) = self.classes.iter_mut().find(|(other, _)| other.agrees(spec)) else { return };
        for &other in points.iter().filter(|&&other| other != at) {
            forest.union(other, at);
        }
        points.truncate(1);
    }
}

struct Forest<'a> {
    parent: Vec<usize>,
    points: &'a [EdgeOrNode],
    index: &'a HashMap<EdgeOrNode, usize>,
    specs: &'a [Option<&'a QuantizationSpec>],
}

impl<'a> Forest<'a> {
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

    /// Puts the group of the child under that of the parent, unless a shared spec would lead back to itself.
    fn union(&mut self, parent: usize, child: usize) {
        let (parent, child) = (self.find(parent), self.find(child));
        if parent == child {
            return;
        }
        let names_child = matches!(self.specs[parent], Some(QuantizationSpec::Shared(t)) if self.index[t] == child);
        if names_child {
            self.parent[parent] = child;
        } else {
            self.parent[child] = parent;
        }
    }

    /// Follows shared specs through the groups to a spec that is not shared.
    fn root_spec(&mut self, graph: &Graph, at: usize) -> Result<Option<&'a QuantizationSpec>, PrepareError> {
        let mut root = self.find(at);
        for _ in 0..=self.points.len() {
            match self.specs[root] {
                Some(QuantizationSpec::Shared(target)) => root = self.find(self.index[target]),
                own => return Ok(own),
            }
        }
        // Every spec on the cycle is shared: that of this point, or that of its group.
        let own = [at, root].into_iter().find_map(|at| match self.specs[at] {
            Some(QuantizationSpec::Shared(target)) => Some((self.points[at], *target)),
            _ => None,
        });
        let (point, target) = own.unwrap_or((self.points[at], self.points[root]));
        Err(PrepareError::SharedCycle { point: point.describe(graph), target: target.describe(graph) })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::graph::{GraphBuilder, NodeId};
    use crate::numerics::EPS;
    use crate::quantize::{ObservedSpec, ObserverKind, QuantizationAnnotation};
    use crate::values::{QScheme, QuantRange, Shape};

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
        ObservedSpec { range, qscheme: QScheme::per_tensor_affine(), observer: ObserverKind::MinMax, eps: EPS }
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

    fn join_pairs(graph: &Graph, annotations: &Annotations, forest: &mut Forest<'_>) -> Result<(), PrepareError> {
        let users = graph.users();
        for (at, &point) in forest.points.iter().enumerate() {
            if let EdgeOrNode::Edge { producer, consumer } = point
                && annotations.get(consumer).is_some_and(|a| a.allow_implicit_sharing)
                && let Some(spec) = forest.root_spec(graph, at)?
            {
                let others = users[producer.index()].iter().filter(|&&user| user != consumer);
                let others = others.map(|&consumer| EdgeOrNode::Edge { producer, consumer });
                for other in others.chain([EdgeOrNode::Node(producer)]) {
                    let Some(&other) = forest.index.get(&other) else { continue };
                    if forest.root_spec(graph, other)?.is_some_and(|s| s.agrees(spec)) {
                        forest.union(other, at);
                    }
                }
            }
            if let Some(QuantizationSpec::Shared(target)) = forest.specs[at] {
                forest.union(forest.index[target], at);
            }
        }
        Ok(())
    }

    /// 100,000 sums with one constant are 10¹⁰ pairs of edges, which take minutes; and each of their groups comes after those before.
    #[test]
    fn edges_of_one_value_take_a_step_each() {
        const SUMS: usize = 100_000;
        let mut g = GraphBuilder::new();
        let x = g.input("x", Shape::rows(1)).expect("an input");
        let constant = g.constant("c", crate::values::Tensor::from(ndarray::arr1(&[1f32]))).expect("a constant");
        let mut sum = x;
        for i in 0..SUMS {
            sum = g.add(&format!("add{i}"), sum, constant).expect("a sum");
        }
        let graph = g.finish([sum]).expect("a graph");
        let mut annotations = Annotations::new(&graph);
        for (id, node) in graph.iter().skip(2) {
            // Two kinds in turn, and some that stay float.
            let spec = [Some(observed(0).into()), Some(observed(1).into()), None][id.index() % 3].clone();
            let input_qspec_map = vec![(node.inputs[0], Some(observed(0).into())), (constant, spec)];
            annotations.set(id, QuantizationAnnotation { input_qspec_map, ..QuantizationAnnotation::default() });
        }
        let groups = group(&graph, &annotations).expect("groups");
        // One for each sum's first input, and two for the constant.
        assert_eq!(groups.specs.len(), SUMS + 2);
    }

    #[test]
    fn what_is_derived_comes_after_what_it_is_derived_from() {
        assert_eq!(in_order(&[vec![2], vec![], vec![1, 1]]), [1, 2, 0]);
        // One that leads back to itself, what is derived of it, and what is derived of nothing that is there.
        assert_eq!(in_order(&[vec![1], vec![0], vec![0], vec![9], vec![]]), [4]);
        // Looking through all again after each would take minutes.
        let chain: Vec<Vec<usize>> = (0..200_000).map(|at| if at < 199_999 { vec![at + 1] } else { vec![] }).collect();
        assert!(in_order(&chain).into_iter().eq((0..200_000).rev()));
    }

    fn choices() -> impl Strategy<Value = Vec<Choice>> {
        let spec = || prop::option::weighted(0.9, prop_oneof![4 => 0usize..2, 1 => 2usize..14]);
        prop::collection::vec((any::<bool>(), prop::collection::vec(spec(), 2), spec()), 6)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

        /// The form that looks at each pair of edges of a value is what PT2E does.
        #[test]
        fn groups_are_those_of_all_pairs(choices in choices()) {
            let graph = graph();
            let annotations = annotate(&graph, &choices);
            match (group(&graph, &annotations), group_by(&graph, &annotations, join_pairs)) {
                (Ok(groups), Ok(of_pairs)) => {
                    prop_assert_eq!(groups.group_of, of_pairs.group_of);
                    prop_assert_eq!(groups.specs, of_pairs.specs);
                }
                // The pairs are looked at after each union, and so refuse a cycle of shares that a later union dissolves.
                (Ok(_), Err(PrepareError::SharedCycle { .. })) => {}
                (groups, of_pairs) => prop_assert_eq!(groups.is_err(), of_pairs.is_err()),
            }
        }

        /// Groups partition the points: one group each, numbered without gaps, an explicit share always inside one group.
        #[test]
        fn groups_are_an_equivalence_relation(choices in choices()) {
            let graph = graph();
            let annotations = annotate(&graph, &choices);
            // Sharing with nothing or in a cycle is refused; that is tested by name elsewhere.
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
                    if let Some(Some(own @ QuantizationSpec::Observed(_))) = last.get(&point) {
                        prop_assert!(own.agrees(&groups.specs[group]), "{point:?}");
                    }
                }
            }
        }
    }
}

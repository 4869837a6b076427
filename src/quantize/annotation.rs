//! Annotations: the points of a graph that a quantizer wants quantized. They are a side table, not part of the graph.

use serde::{Deserialize, Serialize};

use super::spec::QuantizationSpec;
use crate::graph::{Graph, NodeId};

/// A point where a value can be quantized.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum EdgeOrNode {
    /// A value as one consumer reads it. A consumer that reads it twice is one edge.
    Edge {
        /// The node whose value it is.
        producer: NodeId,
        /// The node that reads it.
        consumer: NodeId,
    },
    /// A node's value, for all its consumers.
    Node(NodeId),
}

impl EdgeOrNode {
    /// Returns the name of the point in messages.
    #[must_use]
    pub fn describe(self, graph: &Graph) -> String {
        let name = |id: NodeId| graph.nodes().get(id.index()).map_or("a node that does not exist", |n| &n.name);
        match self {
            Self::Edge { producer, consumer } => format!("{} -> {}", name(producer), name(consumer)),
            Self::Node(id) => name(id).to_owned(),
        }
    }
}

/// The annotation of one node.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizationAnnotation {
    /// The spec of each input, by the node that produces it. `None` leaves it in float.
    pub input_qspec_map: Vec<(NodeId, Option<QuantizationSpec>)>,
    /// The spec of the node's output.
    pub output_qspec: Option<QuantizationSpec>,
    /// Whether an input edge may share the observer of its producer, or of another consumer of the same value, when
    /// the specs agree.
    pub allow_implicit_sharing: bool,
}

impl Default for QuantizationAnnotation {
    fn default() -> Self {
        Self { input_qspec_map: Vec::new(), output_qspec: None, allow_implicit_sharing: true }
    }
}

/// The annotations of one graph, and the reasons why other nodes are left in float.
#[derive(Debug, Clone, PartialEq)]
pub struct Annotations {
    of_node: Vec<Option<QuantizationAnnotation>>,
    left_float: Vec<Option<String>>,
    kept_float: Vec<bool>,
}

impl Annotations {
    /// Creates an annotation of `graph` without an annotated node.
    #[must_use]
    pub fn new(graph: &Graph) -> Self {
        let nodes = graph.nodes().len();
        Self { of_node: vec![None; nodes], left_float: vec![None; nodes], kept_float: vec![false; nodes] }
    }

    /// Returns the annotation of a node.
    #[must_use]
    pub fn get(&self, id: NodeId) -> Option<&QuantizationAnnotation> {
        self.of_node.get(id.index())?.as_ref()
    }

    /// Replaces the annotation of a node; a node of another graph is ignored.
    pub fn set(&mut self, id: NodeId, annotation: QuantizationAnnotation) {
        if let Some(slot) = self.of_node.get_mut(id.index()) {
            *slot = Some(annotation);
        }
    }

    /// Removes the annotation of a node.
    pub fn remove(&mut self, id: NodeId) {
        if let Some(slot) = self.of_node.get_mut(id.index()) {
            *slot = None;
        }
    }

    /// Notes why a node is not quantized, for [`QuantizationSummary`](super::QuantizationSummary).
    pub fn leave_float(&mut self, id: NodeId, reason: impl Into<String>) {
        if let Some(slot) = self.left_float.get_mut(id.index()) {
            *slot = Some(reason.into());
        }
    }

    /// Keeps a node in float. Without this, a function, a sum or an operator that moves elements becomes an integer node if it stands
    /// between quantized values.
    pub fn keep_float(&mut self, id: NodeId, reason: impl Into<String>) {
        self.leave_float(id, reason);
        if let Some(slot) = self.kept_float.get_mut(id.index()) {
            *slot = true;
        }
    }

    /// Whether a node is [kept in float](Self::keep_float).
    #[must_use]
    pub fn is_kept_float(&self, id: NodeId) -> bool {
        self.kept_float.get(id.index()).is_some_and(|kept| *kept)
    }

    /// Returns the reason why a node is not quantized, if its quantizer gave one.
    #[must_use]
    pub fn float_reason(&self, id: NodeId) -> Option<&str> {
        self.left_float.get(id.index())?.as_deref()
    }

    /// Every annotated point with its spec: for each node in order its input edges, then its output.
    pub(super) fn points<'g>(
        &'g self,
        graph: &'g Graph,
    ) -> impl Iterator<Item = (EdgeOrNode, Option<&'g QuantizationSpec>)> + 'g {
        graph.iter().filter_map(|(id, _)| Some((id, self.get(id)?))).flat_map(|(consumer, annotation)| {
            let edge = move |(producer, spec): &'g (NodeId, Option<QuantizationSpec>)| {
                (EdgeOrNode::Edge { producer: *producer, consumer }, spec.as_ref())
            };
            let output = annotation.output_qspec.as_ref().map(|spec| (EdgeOrNode::Node(consumer), Some(spec)));
            annotation.input_qspec_map.iter().map(edge).chain(output)
        })
    }
}

//! The summary of a prepared graph: which nodes are quantized, and how.

use std::fmt;

use super::annotation::{Annotations, EdgeOrNode};
use super::sharing::Groups;
use super::spec::QuantizationSpec;
use crate::graph::{Graph, NodeId};
use crate::ops::{Input, Op};

/// The nodes that are quantized, with specs and observers, and the nodes that are not, with reasons. Print it.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct QuantizationSummary {
    /// Every annotated node, in execution order.
    pub quantized: Vec<QuantizedNode>,
    /// Every other node that computes something, in execution order.
    pub float: Vec<UnquantizedNode>,
}

/// A node with a quantized input or output.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct QuantizedNode {
    /// Its name.
    pub name: String,
    /// The name of its operator.
    pub op: String,
    /// Its quantized inputs, and its output if that is quantized.
    pub points: Vec<QuantizedPoint>,
}

/// One quantized input or output of a node.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct QuantizedPoint {
    /// The input's name, or "output".
    pub name: String,
    /// The number of its observer.
    pub observer: usize,
    /// Its spec, such as `-128..=127 per tensor affine histogram`.
    pub spec: String,
}

/// A node that computes in float.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct UnquantizedNode {
    /// Its name.
    pub name: String,
    /// The name of its operator.
    pub op: String,
    /// The reason why it is not quantized.
    pub reason: String,
}

impl QuantizationSummary {
    pub(super) fn new(graph: &Graph, annotations: &Annotations, groups: &Groups) -> Self {
        let mut summary = Self { quantized: Vec::new(), float: Vec::new() };
        for (id, node) in graph.iter() {
            let (name, op) = (node.name.clone(), node.op.name().to_owned());
            let points = points(graph, annotations, groups, id);
            if !points.is_empty() {
                summary.quantized.push(QuantizedNode { name, op, points });
            } else if !matches!(node.op, Op::Input(Input) | Op::Constant(_)) {
                let reason = annotations.float_reason(id).unwrap_or("its quantizer does not annotate it").to_owned();
                summary.float.push(UnquantizedNode { name, op, reason });
            }
        }
        summary
    }
}

fn points(graph: &Graph, annotations: &Annotations, groups: &Groups, id: NodeId) -> Vec<QuantizedPoint> {
    let Some(annotation) = annotations.get(id) else { return Vec::new() };
    let point = |name: &str, point: EdgeOrNode, own: &QuantizationSpec| {
        let observer = groups.observed(point)?;
        let mut spec = groups.specs[observer].to_string();
        if let QuantizationSpec::Shared(with) = own {
            spec = format!("{spec}, shared with {}", with.describe(graph));
        }
        Some(QuantizedPoint { name: name.to_owned(), observer, spec })
    };
    let inputs = annotation.input_qspec_map.iter().filter_map(|(producer, spec)| {
        let edge = EdgeOrNode::Edge { producer: *producer, consumer: id };
        point(&graph.node(*producer).name, edge, spec.as_ref()?)
    });
    let output = annotation.output_qspec.as_ref().and_then(|spec| point("output", EdgeOrNode::Node(id), spec));
    inputs.chain(output).collect()
}

impl fmt::Display for QuantizationSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} nodes quantized", self.quantized.len())?;
        for QuantizedNode { name, op, points } in &self.quantized {
            writeln!(f, "  {name} ({op})")?;
            for QuantizedPoint { name, observer, spec } in points {
                writeln!(f, "    {name}: {spec} (observer {observer})")?;
            }
        }
        writeln!(f, "{} nodes left in float", self.float.len())?;
        self.float.iter().try_for_each(|UnquantizedNode { name, op, reason }| writeln!(f, "  {name} ({op}): {reason}"))
    }
}

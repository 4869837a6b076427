//! The summary of a graph: which nodes compute in integers, which in float, and why.

use std::fmt;

use super::{Graph, Node};
use crate::ops::{
    DequantizeDynamic, Input, IntegerAdd, IntegerLinear, IntegerLinearGroups, IntegerMatMulDynamic, IntegerMul, Lut,
    Op, Requantize, ScaleAccumulator, ScaleAccumulatorDynamic,
};
use crate::values::DType;

/// A node that computes in float.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FloatNode {
    /// Name of the node.
    pub name: String,
    /// Name of its operator.
    pub op: &'static str,
    /// Reason why it has no integer form.
    pub reason: String,
}

impl fmt::Display for FloatNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.name, self.op, self.reason)
    }
}

/// The nodes of a graph that compute in integers, those that compute in float, and why. Print it to read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// One line for each node that computes in integers, in execution order.
    pub integer: Vec<String>,
    /// Every node that computes in float, in execution order.
    pub float: Vec<FloatNode>,
}

impl Graph {
    /// Lists the nodes that compute in integers and those that compute in float. Inputs, constants, quantize and dequantize nodes are
    /// in neither list.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let mut summary = Summary { integer: Vec::new(), float: Vec::new() };
        let users = self.users();
        let mut constant = Vec::with_capacity(self.nodes.len());
        for node in self.nodes() {
            let known = !matches!(node.op, Op::Input(Input)) && node.inputs.iter().all(|input| constant[input.index()]);
            constant.push(known);
        }
        for (id, node) in self.iter() {
            match &node.op {
                Op::IntegerLinear(IntegerLinear { fraction_bits }) => {
                    let user = users[id.index()].first().map(|&user| &self.node(user).op);
                    summary.integer.push(linear_line(self, node, *fraction_bits, user));
                }
                Op::IntegerLinearGroups(IntegerLinearGroups { fraction_bits, group_size }) => {
                    let user = users[id.index()].first().map(|&user| &self.node(user).op);
                    let line = linear_line(self, node, *fraction_bits, user);
                    summary.integer.push(format!("{line}, weight in groups of {group_size}"));
                }
                Op::IntegerConv(conv) => {
                    let user = users[id.index()].first().map(|&user| &self.node(user).op);
                    let (x, y, w) = (&self.node(node.inputs[0]).shape, &node.shape, &self.node(node.inputs[1]).shape);
                    let (name, bits, to) = (&node.name, conv.fraction_bits, to(user));
                    let line = format!("{name} (conv): {x} -> {y}, weight {w}, {bits} fraction bits, to {to}");
                    summary.integer.push(line);
                }
                // The line of their layer describes these.
                Op::Requantize(_) | Op::ScaleAccumulator(_) | Op::ScaleAccumulatorDynamic(_) => {}
                Op::Input(Input) | Op::Constant(_) | Op::Observe(_) => {}
                Op::Quantize(_) | Op::Dequantize(_) => {}
                Op::ChooseQParams(_) | Op::QuantizeDynamic(_) | Op::DequantizeDynamic(DequantizeDynamic) => {}
                Op::IntegerMatMul(_) => {
                    let (a, b) = (self.node(node.inputs[0]), self.node(node.inputs[1]));
                    let user = users[id.index()].first().map(|&user| &self.node(user).op);
                    summary.integer.push(format!("{} (matmul): {} · {}, to {}", node.name, a.shape, b.shape, to(user)));
                }
                Op::IntegerMatMulDynamic(IntegerMatMulDynamic { relu }) => {
                    let (a, b) = (self.node(node.inputs[0]), self.node(node.inputs[1]));
                    let result =
                        format!("float{}, inputs quantized dynamically", if *relu { " with relu" } else { "" });
                    summary.integer.push(format!("{} (matmul): {} · {}, to {result}", node.name, a.shape, b.shape));
                }
                Op::IntegerAdd(IntegerAdd { lo, hi, qparams, .. })
                | Op::IntegerMul(IntegerMul { lo, hi, qparams, .. }) => {
                    let op = if matches!(node.op, Op::IntegerAdd(_)) { "add" } else { "mul" };
                    let z = qparams.zero_point();
                    summary.integer.push(format!("{} ({op}): to int8 {lo}..={hi}, zero point {z}", node.name));
                }
                Op::Lut(Lut { qparams }) => {
                    let z = qparams.zero_point();
                    summary.integer.push(format!("{} (lookup table): to int8, zero point {z}", node.name));
                }
                op if node.dtype == DType::I8 => {
                    summary.integer.push(format!("{} ({}) of quantized values", node.name, op.name()))
                }
                // The interpreter and `lower` compute nodes between constants only once.
                _ if constant[id.index()] => {}
                // These are ids and masks.
                _ if node.dtype != DType::F32 => {}
                _ => {
                    let reason = node.float_reason.as_deref().unwrap_or("the graph is not in integer form");
                    let (name, op) = (node.name.clone(), node.op.name());
                    summary.float.push(FloatNode { name, op, reason: reason.to_owned() });
                }
            }
        }
        summary
    }
}

fn linear_line(graph: &Graph, node: &Node, fraction_bits: u32, user: Option<&Op>) -> String {
    let dims = graph.node(node.inputs[1]).shape.fixed_dims();
    format!("{} (linear): {} -> {}, {fraction_bits} fraction bits, to {}", node.name, dims[1], dims[0], to(user))
}

/// Describes the result of `user`, the node that reads an accumulator.
fn to(user: Option<&Op>) -> String {
    match user {
        // A fused ReLU shows as a range that begins at the zero point, but so may a range without one.
        Some(Op::Requantize(Requantize { qparams, lo, hi, .. })) => {
            format!("int8 {lo}..={hi}, zero point {}", qparams.zero_point())
        }
        Some(Op::ScaleAccumulator(ScaleAccumulator { relu, .. })) => {
            format!("float{}", if *relu { " with relu" } else { "" })
        }
        Some(Op::ScaleAccumulatorDynamic(ScaleAccumulatorDynamic { relu })) => {
            format!("float{}, input quantized dynamically", if *relu { " with relu" } else { "" })
        }
        _ => "i32".to_owned(),
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} nodes in integers", self.integer.len())?;
        self.integer.iter().try_for_each(|line| writeln!(f, "  {line}"))?;
        writeln!(f, "{} nodes in float", self.float.len())?;
        self.float.iter().try_for_each(|node| writeln!(f, "  {node}"))
    }
}

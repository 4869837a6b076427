//! What cannot be exported, found before anything is written, so that it can be listed in full.

use super::{ExportError, Inexpressible, Preset};
use crate::graph::{Graph, Node, NodeId};
use crate::ops::{ChooseQParams, Dequantize, DequantizeDynamic, Op, Quantize, QuantizeDynamic};
use crate::values::{QuantRange, TensorQParams};

/// Per node, whether an output depends on it.
pub(super) fn needed(graph: &Graph) -> Vec<bool> {
    let mut needed = vec![false; graph.nodes().len()];
    graph.outputs().iter().for_each(|id| needed[id.index()] = true);
    for (at, node) in graph.nodes().iter().enumerate().rev() {
        if needed[at] {
            node.inputs.iter().for_each(|id| needed[id.index()] = true);
        }
    }
    needed
}

/// Refuses a graph, with every node that is to blame.
pub(super) fn check(graph: &Graph, preset: Preset, needed: &[bool]) -> Result<(), ExportError> {
    let nodes = || graph.iter().filter(|(id, _)| needed[id.index()]);
    let mut integers = nodes().filter(|(_, node)| is_integer(&node.op));
    if let Some((_, node)) = integers.next() {
        return Err(ExportError::Integers { node: node.name.clone(), op: node.op.name(), count: 1 + integers.count() });
    }
    let (users, outputs) = (graph.users(), graph.output_flags());
    let refused: Vec<Inexpressible> = nodes()
        .filter_map(|(id, node)| {
            let readers: Vec<&Node> =
                users[id.index()].iter().filter(|user| needed[user.index()]).map(|user| graph.node(*user)).collect();
            let reason = inexpressible(graph, id, node, &readers, outputs[id.index()], preset)?;
            Some(Inexpressible { node: node.name.clone(), op: node.op.name(), reason })
        })
        .collect();
    if !refused.is_empty() {
        return Err(ExportError::Inexpressible { preset, nodes: refused });
    }
    if preset == Preset::TensorRt {
        let quantizing: Vec<(&Node, i32)> =
            nodes().filter_map(|(_, node)| Some((node, off_zero(qparams(&node.op)?)))).collect();
        let of = quantizing.len();
        let off = quantizing.into_iter().filter(|(_, zero_point)| *zero_point != 0);
        let nodes: Vec<(String, i32)> = off.map(|(node, zero_point)| (node.name.clone(), zero_point)).collect();
        if !nodes.is_empty() {
            return Err(ExportError::Asymmetric { nodes, of });
        }
    }
    Ok(())
}

fn is_integer(op: &Op) -> bool {
    matches!(
        op,
        Op::IntegerLinear(_)
            | Op::Requantize(_)
            | Op::ScaleAccumulator(_)
            | Op::ScaleAccumulatorDynamic(_)
            | Op::IntegerAdd(_)
            | Op::IntegerMul(_)
            | Op::IntegerMatMul(_)
            | Op::IntegerMatMulDynamic(_)
            | Op::Lut(_)
    )
}

/// Why a node has no form in ONNX.
fn inexpressible(
    graph: &Graph,
    id: NodeId,
    node: &Node,
    readers: &[&Node],
    is_output: bool,
    preset: Preset,
) -> Option<String> {
    if node.shape.fixed_dims().contains(&0) {
        return Some(format!("its shape {} has an axis of length 0", node.shape));
    }
    match &node.op {
        Op::Observe(_) => Some("is being calibrated; convert the graph first".to_owned()),
        Op::Quantize(Quantize { range, qparams }) if !matches!(graph.node(node.inputs[0]).op, Op::Constant(_)) => {
            if *range == QuantRange::INT32 {
                Some("QuantizeLinear has no codes of 32 bits, and its input is not a constant".to_owned())
            } else if *range != QuantRange::INT8 && matches!(qparams, TensorQParams::PerChannel { .. }) {
                Some(format!("Clip cannot hold each channel to codes of {range}"))
            } else {
                None
            }
        }
        Op::ChooseQParams(_) | Op::QuantizeDynamic(_) | Op::DequantizeDynamic(DequantizeDynamic)
            if preset == Preset::TensorRt =>
        {
            Some("its scale is found when the value is known; quantize statically".to_owned())
        }
        Op::ChooseQParams(_) | Op::QuantizeDynamic(_) if is_output => {
            Some("what dynamic quantization finds and makes stays inside of the graph".to_owned())
        }
        Op::ChooseQParams(ChooseQParams { range, .. }) => {
            let fits = |reader: &&Node| match reader.op {
                Op::QuantizeDynamic(QuantizeDynamic { range: of_codes }) => {
                    reader.inputs[1] == id && of_codes == *range
                }
                Op::DequantizeDynamic(DequantizeDynamic) => reader.inputs[1] == id,
                _ => false,
            };
            let odd = readers.iter().find(|reader| !fits(reader))?;
            Some(format!("{} does not quantize or dequantize to its codes of {range}", odd.name))
        }
        Op::QuantizeDynamic(_) => {
            let fits = |reader: &&Node| {
                reader.op == Op::DequantizeDynamic(DequantizeDynamic) && reader.inputs[1] == node.inputs[1]
            };
            let odd = readers.iter().find(|reader| !fits(reader))?;
            Some(format!("{} reads its codes without dequantizing them", odd.name))
        }
        Op::DequantizeDynamic(DequantizeDynamic) => {
            let made_of = graph.node(node.inputs[0]);
            let by_both = matches!(made_of.op, Op::QuantizeDynamic(_))
                && matches!(graph.node(node.inputs[1]).op, Op::ChooseQParams(_));
            (!by_both).then(|| format!("{} is not quantized with a scale that is found there", made_of.name))
        }
        _ => None,
    }
}

fn qparams(op: &Op) -> Option<&TensorQParams> {
    match op {
        Op::Quantize(Quantize { qparams, .. }) | Op::Dequantize(Dequantize { qparams }) => Some(qparams),
        _ => None,
    }
}

/// The first zero point that is not 0.
fn off_zero(qparams: &TensorQParams) -> i32 {
    match qparams {
        TensorQParams::PerTensor(q) => q.zero_point(),
        TensorQParams::PerChannel { channels, .. } => {
            channels.iter().map(|q| q.zero_point()).find(|zero_point| *zero_point != 0).unwrap_or(0)
        }
    }
}

//! The integer graph against the quantize/dequantize graph: each integer op, fed the latter's values, is at most one step away.

use std::collections::HashMap;

use enfold::graph::NodeId;
use enfold::interp::Interpreter;
use enfold::ops::{Input, Op};
use enfold::values::{DType, QParams};
use enfold::{Graph, Tensor};
use ndarray::IxDyn;

use crate::qat::wide::Array;
use crate::qat::wide::images::{average_pool, resize_linear};

/// The number of quantized values that were compared, and of those that were one step apart.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Codes {
    pub(crate) compared: usize,
    pub(crate) apart: usize,
    /// Float results of integer layers.
    pub(crate) floats: usize,
}

impl Codes {
    pub(crate) fn add(&mut self, other: Self) {
        self.compared += other.compared;
        self.apart += other.apart;
        self.floats += other.floats;
    }

    /// Whether at most 0.02 % of the quantized values are one step apart.
    pub(crate) fn within_bar(self) -> bool {
        self.compared > 0 && self.apart as f64 <= 2e-4 * self.compared as f64
    }
}

/// Feeds every integer op the values, scales and zero points that the quantize/dequantize graph has at its inputs, and compares
/// the result with that graph's own result. Every node of the integer graph that computes something is compared.
pub(crate) fn compare_ops(quantized: &Graph, integers: &Graph, inputs: &[&Tensor]) -> Result<Codes, String> {
    let (oracle, rewritten) = (Interpreter::new(quantized), Interpreter::new(integers));
    let feeds: Vec<_> = quantized.inputs().iter().copied().zip(inputs.iter().copied()).collect();
    let ids: Vec<NodeId> = quantized.iter().map(|(id, _)| id).collect();
    let all = oracle.run_nodes(&feeds, &ids).map_err(|e| e.to_string())?;
    let values: HashMap<&str, &Tensor> = quantized.nodes().iter().map(|node| node.name.as_str()).zip(&all).collect();
    let value = |name: &str| values.get(name).copied().ok_or_else(|| format!("the oracle has no {name}"));
    let mut codes = Codes::default();
    for (id, node) in integers.iter() {
        let constant = rewritten.constant_value(id).map_err(|e| e.to_string())?.is_some();
        let moved = matches!(
            node.op,
            Op::Concat(_)
                | Op::Pad(_)
                | Op::Reshape(_)
                | Op::Flatten(_)
                | Op::Transpose(_)
                | Op::Max(_)
                | Op::Slice(_)
                | Op::IndexSelect(_)
                | Op::MaxPool(_)
                | Op::Lut(_)
        ) && node.dtype == DType::I8;
        let result = match node.op {
            _ if constant => continue,
            Op::Requantize(_)
            | Op::IntegerAdd(_)
            | Op::IntegerMul(_)
            | Op::IntegerAveragePool(_)
            | Op::IntegerResizeLinear(_) => value(&node.name)?,
            // The quantize/dequantize graph has no such value: a lookup table of its own follows.
            _ if moved && !values.contains_key(node.name.as_str()) => continue,
            _ if moved && value(&node.name)?.dtype() != DType::I8 => continue,
            _ if moved => value(&node.name)?,
            Op::ScaleAccumulator(_) | Op::ScaleAccumulatorDynamic(_) => value(&node.origin)?,
            Op::IntegerMatMulDynamic(_) => value(&node.origin)?,
            _ => continue,
        };
        let fed = frontier(integers, &rewritten, id, &values);
        let fed: Vec<(NodeId, &Tensor)> =
            fed.into_iter().map(|at| (at, values[integers.node(at).name.as_str()])).collect();
        let got = rewritten.run_nodes(&fed, &[id]).map_err(|e| format!("{}: {e}", node.name))?.swap_remove(0);
        type Mean<'a> = &'a dyn Fn(&Array) -> Array;
        let mut mean = |x: QParams, y: QParams, of: Mean<'_>| {
            let input = rewritten.run_nodes(&fed, &[node.inputs[0]]).map_err(|e| format!("{}: {e}", node.name))?;
            codes.add(compare_means(&node.name, &input[0], x, y, of, (&got, result))?);
            Ok::<(), String>(())
        };
        match &node.op {
            Op::IntegerAveragePool(pool) => {
                mean(pool.x, pool.y, &|x| average_pool(x, &pool.windows))?;
                continue;
            }
            Op::IntegerResizeLinear(resize) => {
                mean(resize.x, resize.y, &|x| resize_linear(x, &resize.grid))?;
                continue;
            }
            _ => {}
        }
        match (got.as_i8(), result.as_i8()) {
            (Some(got), Some(expected)) => {
                for (at, (&got, &expected)) in got.iter().zip(expected).enumerate() {
                    let steps = (i32::from(got) - i32::from(expected)).abs();
                    if steps > i32::from(!moved) {
                        return Err(format!("{}: element {at} is {got}, expected {expected}", node.name));
                    }
                    codes.apart += usize::from(steps == 1);
                }
                codes.compared += got.len();
            }
            _ => {
                // The bias of a static layer is rounded to a 256th of a step; f32 sums to some millionths.
                let dynamic = matches!(node.op, Op::ScaleAccumulatorDynamic(_) | Op::IntegerMatMulDynamic(_));
                let tolerance = if dynamic { 1e-5 } else { 1e-3 };
                let (got, expected) = (got.as_f32().unwrap_or_default(), result.as_f32().unwrap_or_default());
                let largest = expected.iter().fold(0f32, |m, v| m.max(v.abs())).max(1e-3);
                for (at, (&got, &expected)) in got.iter().zip(expected).enumerate() {
                    if (got - expected).abs() > tolerance * largest {
                        return Err(format!("{}: element {at} is {got}, expected {expected}", node.name));
                    }
                }
                codes.floats += got.len();
            }
        }
    }
    Ok(codes)
}

/// Compares means of quantized values `x` with those that `mean` computes in `f64`. They are equal, except that either neighbour of a
/// tie is right: the mean of an even number of quantized values often is one, and the noise of floats chooses a side.
fn compare_means(
    name: &str,
    x: &Tensor,
    x_qparams: QParams,
    y_qparams: QParams,
    mean: &dyn Fn(&Array) -> Array,
    (got, expected): (&Tensor, &Tensor),
) -> Result<Codes, String> {
    let scale = f64::from(x_qparams.scale()) / f64::from(y_qparams.scale());
    let steps = |&q: &i8| f64::from(i32::from(q) - x_qparams.zero_point()) * scale;
    let real = x.as_i8().unwrap_or_default().iter().map(steps).collect();
    let means = mean(&Array::from_shape_vec(IxDyn(x.shape()), real).expect("fits"));
    let (got, expected) = (got.as_i8().unwrap_or_default(), expected.as_i8().unwrap_or_default());
    if got.len() != means.len() || got.len() != expected.len() {
        return Err(format!("{name}: {} means, expected {}", got.len(), expected.len()));
    }
    for (at, ((&got, &expected), &mean)) in got.iter().zip(expected).zip(&means).enumerate() {
        let from_half = ((mean - mean.floor()) - 0.5).abs();
        let is_tie = from_half <= 1e-6 * mean.abs().max(1.0);
        let apart = (i32::from(got) - i32::from(expected)).abs();
        if apart > i32::from(is_tie) {
            return Err(format!("{name}: element {at} is {got}, expected {expected}: {mean} steps"));
        }
    }
    Ok(Codes { compared: got.len(), ..Codes::default() })
}

/// Finds the nearest nodes before `id` whose value the oracle knows: quantized values, and qparams of dynamic ones.
fn frontier(graph: &Graph, interpreter: &Interpreter, id: NodeId, known: &HashMap<&str, &Tensor>) -> Vec<NodeId> {
    let mut pending = graph.node(id).inputs.clone();
    let mut found = Vec::new();
    while let Some(at) = pending.pop() {
        let node = graph.node(at);
        if interpreter.constant_value(at).is_ok_and(|v| v.is_some()) || found.contains(&at) {
            continue;
        }
        let value = known.get(node.name.as_str()).filter(|value| value.dtype() == node.dtype);
        let codes = node.dtype == DType::I8 || matches!(node.op, Op::ChooseQParams(_) | Op::Input(Input));
        match value {
            Some(_) if codes => found.push(at),
            _ => pending.extend(&node.inputs),
        }
    }
    found
}

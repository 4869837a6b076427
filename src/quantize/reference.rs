//! The integer reference representation: what the engines execute.
//!
//! Each linear layer between quantized values, with or without a ReLU behind it, becomes an `integer_linear` node and a
//! `requantize` or, for a float output, a `scale_accumulator` node, by equations 3 to 7. What cannot be put into integers
//! stays float, and its node says why ([`Graph::summary`] lists them all). Quantize and dequantize nodes stay where a
//! float value enters or leaves.

use std::collections::HashSet;
use std::sync::Arc;

use ndarray::Array1;

use crate::graph::{Graph, GraphError, NodeId, Op, Rewriter, UnaryOp};
use crate::interp::{InterpError, Interpreter};
use crate::numerics;
use crate::qparams::{QParams, QuantRange, TensorQParams};
use crate::tensor::Tensor;

/// Why no integer form could be made: a constant could not be evaluated. A single node without an integer form is not an
/// error: it stays float.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct ReferenceError(#[from] InterpError);

/// Why rewriting cannot fail: each new node has the shape and type of what it stands for.
const FITS: &str = "the integer form has the shapes and types of the graph";

/// Rewrites a quantize/dequantize graph into integers.
///
/// # Errors
/// [`ReferenceError`] for a constant that cannot be evaluated, such as a row that a table lacks.
pub fn reference(graph: &Graph) -> Result<Graph, ReferenceError> {
    let interpreter = Interpreter::new(graph);
    let matcher = Matcher { graph, interpreter: &interpreter, users: graph.users() };
    let mut rewriter = Rewriter::new(graph);
    let mut fused = HashSet::new();
    for (id, node) in graph.iter() {
        if fused.contains(&id) {
            continue;
        }
        let reason = match node.op {
            Op::Linear => match matcher.linear(id)? {
                Ok(layer) => {
                    layer.emit(graph, &mut rewriter).expect(FITS);
                    fused.extend(layer.fused);
                    continue;
                }
                Err(reason) => Some(reason),
            },
            Op::Input | Op::Constant(_) | Op::Quantize { .. } | Op::Dequantize { .. } => None,
            Op::IntegerLinear { .. } | Op::Requantize { .. } | Op::ScaleAccumulator { .. } => None,
            Op::Observe { .. } => Some("the graph is still being calibrated; convert it first".to_owned()),
            _ if interpreter.constant_value(id)?.is_some() => None,
            _ => Some(format!("{} has no integer form", node.op.name())),
        };
        let new = rewriter.copy(id).expect(FITS);
        if let Some(reason) = reason {
            rewriter.stays_float(new, reason);
        }
    }
    Ok(rewriter.finish().expect(FITS))
}

/// A linear layer that can be put into integers.
struct Layer {
    /// The float linear node.
    linear: NodeId,
    /// The int8 input.
    x: NodeId,
    /// The int8 weight `[N, K]`: a node, and its codes.
    w: NodeId,
    codes: Arc<Tensor>,
    /// `[N]`
    bias: Vec<i32>,
    fraction_bits: u32,
    /// `[N]`: multiplier or output scale.
    factors: Vec<f32>,
    end: End,
    /// The nodes behind the linear one that the layer takes in; the last is what it stands for.
    fused: Vec<NodeId>,
}

/// What comes behind the accumulator.
#[derive(Clone, Copy)]
enum End {
    Int8 { qparams: QParams, lo: i32, hi: i32 },
    Float { relu: bool },
}

impl Layer {
    fn emit(&self, graph: &Graph, rewriter: &mut Rewriter<'_>) -> Result<(), GraphError> {
        let node = graph.node(self.linear);
        let origin = &node.origin;
        let constant = |rewriter: &mut Rewriter<'_>, suffix: &str, value: Arc<Tensor>| {
            rewriter.add(&format!("{}.{suffix}", node.name), Op::Constant(value), Vec::new(), origin)
        };
        // A weight that was not folded is folded now.
        let w = match graph.node(self.w).op {
            Op::Constant(_) => rewriter.get(self.w)?,
            _ => constant(rewriter, "weight.codes", Arc::clone(&self.codes))?,
        };
        let bias = Arc::new(Tensor::from(Array1::from(self.bias.clone())));
        let bias = constant(rewriter, "bias.codes", bias)?;
        let inputs = vec![rewriter.get(self.x)?, w, bias];
        let acc = Op::IntegerLinear { fraction_bits: self.fraction_bits };
        let acc = rewriter.add(&node.name, acc, inputs, origin)?;

        let last = self.fused.last().copied().unwrap_or(self.linear);
        let factors = Arc::new(Tensor::from(Array1::from(self.factors.clone())));
        let new = match self.end {
            End::Int8 { qparams, lo, hi } => {
                let multiplier = constant(rewriter, "multiplier", factors)?;
                let op = Op::Requantize { qparams, lo, hi };
                rewriter.add(&graph.node(last).name, op, vec![acc, multiplier], origin)?
            }
            End::Float { relu } => {
                let scale = constant(rewriter, "output_scale", factors)?;
                let op = Op::ScaleAccumulator { relu };
                rewriter.add(&format!("{}.output", node.name), op, vec![acc, scale], origin)?
            }
        };
        rewriter.replace(last, new);
        Ok(())
    }
}

/// A reason for staying float is data, an error is not: hence the result inside the result.
type Match<T> = Result<Result<T, String>, ReferenceError>;

struct Matcher<'g> {
    graph: &'g Graph,
    interpreter: &'g Interpreter,
    users: Vec<Vec<NodeId>>,
}

impl Matcher<'_> {
    fn linear(&self, linear: NodeId) -> Match<Layer> {
        let inputs = &self.graph.node(linear).inputs;
        let Op::Dequantize { qparams: TensorQParams::PerTensor(x_qparams) } = self.graph.node(inputs[0]).op else {
            return Ok(Err("its input is not quantized per tensor".to_owned()));
        };
        let Op::Dequantize { qparams: w_qparams } = &self.graph.node(inputs[1]).op else {
            return Ok(Err("its weight is not quantized".to_owned()));
        };
        let (x, w) = (self.graph.node(inputs[0]).inputs[0], self.graph.node(inputs[1]).inputs[0]);
        let Some(codes) = self.interpreter.constant_value(w)? else {
            return Ok(Err("its weight is not a constant".to_owned()));
        };
        let bias = match inputs.get(2) {
            None => None,
            Some(&bias) => match self.interpreter.constant_value(bias)? {
                None => return Ok(Err("its bias is not a constant".to_owned())),
                bias => bias,
            },
        };
        let &[n, k] = codes.shape() else { return Ok(Err("its weight is not a matrix".to_owned())) };
        let scales = match weight_scales(w_qparams, n) {
            Ok(scales) => scales,
            Err(reason) => return Ok(Err(reason)),
        };
        let bias = match &bias {
            None => vec![0.0; n],
            Some(bias) => bias.as_f32().unwrap_or_default().to_vec(),
        };
        if let Some((at, value)) = bias.iter().enumerate().find(|(_, b)| !b.is_finite()) {
            return Ok(Err(format!("element {at} of its bias is {value}")));
        }
        let channels =
            Channels { codes: codes.as_i8().unwrap_or_default(), k, scales: &scales, bias: &bias, x_qparams };
        let (fraction_bits, bias) = match channels.bias() {
            Ok(folded) => folded,
            Err(reason) => return Ok(Err(reason)),
        };
        let (end, fused) = self.end(linear);
        let factor = |s_w: f32| match end {
            End::Int8 { qparams, .. } => numerics::multiplier(x_qparams.scale(), s_w, qparams.scale(), fraction_bits),
            End::Float { .. } => numerics::output_scale(x_qparams.scale(), s_w, fraction_bits),
        };
        let mut factors = Vec::with_capacity(n);
        for (channel, &s_w) in scales.iter().enumerate() {
            let Some(factor) = factor(s_w) else {
                let s_x = x_qparams.scale();
                return Ok(Err(format!(
                    "channel {channel}: input scale {s_x:e} and weight scale {s_w:e} give a multiplier that is not a \
                     normal f32 (equation 3)"
                )));
            };
            factors.push(factor);
        }
        Ok(Ok(Layer { linear, x, w, codes, bias, fraction_bits, factors, end, fused }))
    }

    /// What follows a linear node and belongs to it: a ReLU, a quantize, both, or neither.
    fn end(&self, linear: NodeId) -> (End, Vec<NodeId>) {
        let mut fused = Vec::new();
        let mut next = self.only_user(linear);
        let relu = next.filter(|&id| self.graph.node(id).op == Op::Unary(UnaryOp::Relu));
        if let Some(relu) = relu {
            fused.push(relu);
            next = self.only_user(relu);
        }
        let quantize = next.and_then(|id| match &self.graph.node(id).op {
            Op::Quantize { qparams: TensorQParams::PerTensor(qparams), range } => Some((id, *qparams, *range)),
            _ => None,
        });
        let Some((id, qparams, range)) = quantize else {
            return (End::Float { relu: relu.is_some() }, fused);
        };
        fused.push(id);
        let (lo, hi) = codes(range, qparams, relu.is_some());
        (End::Int8 { qparams, lo, hi }, fused)
    }

    /// The one node that reads a value, unless the caller of the graph reads it too.
    fn only_user(&self, id: NodeId) -> Option<NodeId> {
        match self.users[id.index()].as_slice() {
            [user] if !self.graph.outputs().contains(&id) => Some(*user),
            _ => None,
        }
    }
}

/// Equation 6.
fn codes(range: QuantRange, qparams: QParams, relu: bool) -> (i32, i32) {
    let (lo, hi) = (range.quant_min(), range.quant_max());
    (if relu { lo.max(qparams.zero_point()) } else { lo }, hi)
}

/// One scale per output channel, for weights without zero points.
fn weight_scales(qparams: &TensorQParams, n: usize) -> Result<Vec<f32>, String> {
    let channels: &[QParams] = match qparams {
        TensorQParams::PerTensor(q) => std::slice::from_ref(q),
        TensorQParams::PerChannel { channels, ch_axis: 0 } => channels,
        TensorQParams::PerChannel { ch_axis, .. } => {
            return Err(format!("its weight has a scale per index of axis {ch_axis}, expected axis 0"));
        }
    };
    if let Some((channel, q)) = channels.iter().enumerate().find(|(_, q)| q.zero_point() != 0) {
        return Err(format!("channel {channel} of its weight has zero point {}, expected 0", q.zero_point()));
    }
    Ok(channels.iter().map(QParams::scale).cycle().take(n).collect())
}

/// What equation 4 needs to know of a layer.
struct Channels<'a> {
    /// `[N, K]`
    codes: &'a [i8],
    k: usize,
    scales: &'a [f32],
    bias: &'a [f32],
    x_qparams: QParams,
}

impl Channels<'_> {
    /// The fraction bits and the folded bias of equation 4.
    fn bias(&self) -> Result<(u32, Vec<i32>), String> {
        if self.k == 0 {
            return Err("it has 0 input features, expected at least 1".to_owned());
        }
        let sums: Vec<(i64, i64)> = self
            .codes
            .chunks_exact(self.k)
            .map(|row| row.iter().fold((0, 0), |(s, m), &w| (s + i64::from(w), m + i64::from(w.unsigned_abs()))))
            .collect();
        let folded = |fraction_bits: u32| -> Result<Vec<i32>, String> {
            let channels = self.bias.iter().zip(self.scales).zip(&sums).enumerate();
            channels
                .map(|(channel, ((&b, &s_w), &(sum, magnitude)))| {
                    let (s_x, z_x) = (self.x_qparams.scale(), self.x_qparams.zero_point());
                    let bias = numerics::folded_bias(b, s_x, z_x, s_w, sum, fraction_bits);
                    match i32::try_from(bias) {
                        Ok(bias) if numerics::fits_accumulator(magnitude, i64::from(bias), fraction_bits) => Ok(bias),
                        _ => Err(format!(
                            "channel {channel}: products up to {} and a bias of {bias} do not fit the i32 accumulator \
                             ({}, equation 4)",
                            magnitude * 128,
                            i32::MAX
                        )),
                    }
                })
                .collect()
        };
        // The most fraction bits that fit; the reason given is that of none at all.
        let mut refused = String::new();
        for fraction_bits in (0..=numerics::MAX_FRACTION_BITS).rev() {
            match folded(fraction_bits) {
                Ok(bias) => return Ok((fraction_bits, bias)),
                Err(reason) => refused = reason,
            }
        }
        Err(refused)
    }
}

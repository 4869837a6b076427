//! The integer reference representation: what the engines execute.
//!
//! Between quantized values, these become integer nodes: linear layers and matmul (equations 3 to 7 and 9), sums (8),
//! products (9), any chain of functions of one element (a table of 256 codes), concatenations, and what only moves elements. A ReLU
//! and the quantize node behind them are taken in. Dynamic linear layers and products sum integers too, and give floats.
//!
//! What cannot be put into integers stays float, and its node says why ([`Graph::summary`] lists them all). Quantize and
//! dequantize nodes stay where a float value enters or leaves.

mod linear;
mod patterns;

use std::collections::HashSet;
use std::sync::Arc;

use ndarray::Array1;

use crate::graph::{Graph, NodeId, Rewriter};
use crate::interp::{InterpError, Interpreter};
use crate::ops::{
    Add, Constant, Dequantize, DequantizeDynamic, Input, Linear, MatMul, Mul, Op, Quantize, Requantize,
    ScaleAccumulator, Unary, UnaryOp,
};
use crate::values::{QParams, QuantRange, Tensor, TensorQParams};

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
    let matcher = Matcher { graph, interpreter: &interpreter, users: graph.users(), outputs: graph.output_flags() };
    let mut rewriter = Rewriter::new(graph);
    let mut fused = HashSet::new();
    for (id, node) in graph.iter() {
        if fused.contains(&id) {
            continue;
        }
        if matches!(node.op, Op::Input(Input) | Op::Constant(_)) || interpreter.constant_value(id)?.is_some() {
            rewriter.copy(id).expect(FITS);
            continue;
        }
        let rewritten = match node.op {
            // The quantizer was told to leave it, whatever stands around it.
            _ if node.float_reason.is_some() && !is_integer(&node.op) => {
                rewriter.copy(id).expect(FITS);
                continue;
            }
            Op::Linear(Linear) => matcher.linear(&mut rewriter, id)?,
            Op::MatMul(MatMul) => matcher.matmul(&mut rewriter, id),
            Op::Add(Add) => matcher.add(&mut rewriter, id),
            Op::Mul(Mul) => matcher.mul(&mut rewriter, id),
            Op::Unary(_) | Op::Clamp(_) => matcher.table(&mut rewriter, id),
            Op::Concat(_) => matcher.concat(&mut rewriter, id),
            Op::Reshape(_) | Op::Flatten(_) | Op::Transpose(_) | Op::Max(_) | Op::Slice(_) => {
                matcher.movement(&mut rewriter, id)
            }
            Op::Quantize(_) if matcher.requantize(&mut rewriter, id) => continue,
            Op::Observe(_) => Err("the graph is still being calibrated; convert it first".to_owned()),
            _ if is_integer(&node.op) => {
                rewriter.copy(id).expect(FITS);
                continue;
            }
            _ => Err(format!("{} has no integer form", node.op.name())),
        };
        match rewritten {
            Ok(taken) => fused.extend(taken),
            Err(reason) => {
                let new = rewriter.copy(id).expect(FITS);
                // What moves codes is an integer node already.
                if graph.node(id).dtype == crate::values::DType::F32 {
                    rewriter.stays_float(new, reason);
                }
            }
        }
    }
    Ok(rewriter.finish().expect(FITS))
}

/// Ops of the integer form, and those between the two worlds.
fn is_integer(op: &Op) -> bool {
    matches!(
        op,
        Op::Quantize(_)
            | Op::Dequantize(_)
            | Op::ChooseQParams(_)
            | Op::QuantizeDynamic(_)
            | Op::DequantizeDynamic(DequantizeDynamic)
            | Op::IntegerLinear(_)
            | Op::IntegerMatMul(_)
            | Op::IntegerMatMulDynamic(_)
            | Op::IntegerAdd(_)
            | Op::IntegerMul(_)
            | Op::Lut(_)
            | Op::Requantize(_)
            | Op::ScaleAccumulator(_)
            | Op::ScaleAccumulatorDynamic(_)
    )
}

/// The nodes behind a rewritten one that it takes in.
type Fused = Vec<NodeId>;

/// A reason for staying float is data, an error is not: hence the result inside the result.
type Match<T> = Result<Result<T, String>, ReferenceError>;

/// What comes behind an accumulator.
#[derive(Clone, Copy)]
enum End {
    Int8 { qparams: QParams, lo: i32, hi: i32 },
    Float { relu: bool },
}

struct Matcher<'g> {
    graph: &'g Graph,
    interpreter: &'g Interpreter,
    users: Vec<Vec<NodeId>>,
    outputs: Vec<bool>,
}

impl Matcher<'_> {
    /// What follows a node and belongs to it: a ReLU, a quantize, both, or neither.
    fn end(&self, id: NodeId) -> (End, Fused) {
        let mut fused = Vec::new();
        let mut next = self.only_user(id);
        let relu = next.filter(|&id| self.is_relu(id));
        if let Some(relu) = relu {
            fused.push(relu);
            next = self.only_user(relu);
        }
        let Some((id, qparams, range)) = next.and_then(|id| self.quantize(id)) else {
            return (End::Float { relu: relu.is_some() }, fused);
        };
        fused.push(id);
        // Equation 6.
        let (lo, hi) = (range.quant_min(), range.quant_max());
        let lo = if relu.is_some() { lo.max(qparams.zero_point()) } else { lo };
        (End::Int8 { qparams, lo, hi }, fused)
    }

    /// Adds what makes a layer's result from its accumulator, and lets it stand for the last node taken in.
    fn finish(
        &self,
        rewriter: &mut Rewriter<'_>,
        id: NodeId,
        acc: NodeId,
        end: End,
        factors: Vec<f32>,
        fused: Fused,
    ) -> Fused {
        let last = fused.last().copied().unwrap_or(id);
        let (node, origin) = (self.graph.node(id), &self.graph.node(last).origin);
        let factors = Tensor::from(Array1::from(factors));
        let new = match end {
            End::Int8 { qparams, lo, hi } => {
                let multiplier = self.constant(rewriter, id, "multiplier", factors);
                let op = Op::Requantize(Requantize { qparams, lo, hi });
                rewriter.add(&self.graph.node(last).name, op, vec![acc, multiplier], origin)
            }
            End::Float { relu } => {
                let scale = self.constant(rewriter, id, "output_scale", factors);
                let op = Op::ScaleAccumulator(ScaleAccumulator { relu });
                rewriter.add(&format!("{}.output", node.name), op, vec![acc, scale], origin)
            }
        };
        rewriter.replace(last, new.expect(FITS));
        fused
    }

    /// A constant of a rewritten node.
    fn constant(&self, rewriter: &mut Rewriter<'_>, of: NodeId, suffix: &str, value: impl Into<Arc<Tensor>>) -> NodeId {
        let node = self.graph.node(of);
        rewriter
            .add(
                &format!("{}.{suffix}", node.name),
                Op::Constant(Constant { tensor: value.into() }),
                Vec::new(),
                &node.origin,
            )
            .expect(FITS)
    }

    /// The codes behind a dequantized int8 value, and what they mean.
    fn operand(&self, id: NodeId) -> Option<(NodeId, QParams)> {
        let node = self.graph.node(id);
        match node.op {
            Op::Dequantize(Dequantize { qparams: TensorQParams::PerTensor(qparams) })
                if self.graph.node(node.inputs[0]).dtype == crate::values::DType::I8 =>
            {
                Some((node.inputs[0], qparams))
            }
            _ => None,
        }
    }

    /// A quantize node to int8 with one scale.
    fn quantize(&self, id: NodeId) -> Option<(NodeId, QParams, QuantRange)> {
        match &self.graph.node(id).op {
            Op::Quantize(Quantize { qparams: TensorQParams::PerTensor(qparams), range })
                if *range != QuantRange::INT32 =>
            {
                Some((id, *qparams, *range))
            }
            _ => None,
        }
    }

    fn is_relu(&self, id: NodeId) -> bool {
        let node = self.graph.node(id);
        node.op == Op::Unary(Unary { op: UnaryOp::Relu }) && node.float_reason.is_none()
    }

    /// The one node that reads a value, unless the caller of the graph reads it too.
    fn only_user(&self, id: NodeId) -> Option<NodeId> {
        match self.users[id.index()].as_slice() {
            [user] if !self.outputs[id.index()] => Some(*user),
            _ => None,
        }
    }
}

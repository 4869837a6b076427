//! Rewrites a quantize/dequantize graph into its integer form, which the engines execute.
//!
//! These operators become integer operators where their inputs and outputs are quantized: linear layers, convolutions and matrix products
//! (equations 3 to 7 and 9), means (13), sums (8), products of elements (9), any chain of functions of one element (a lookup table of 256
//! entries), concatenation, and operators that move elements. A ReLU or a clamp and a quantize node that follow are fused. Dynamically
//! quantized linear layers and matrix products accumulate integers too, and their results are floats.
//!
//! An operator that cannot be rewritten stays float, and its node states the reason ([`Graph::summary`] lists all of them). Quantize and
//! dequantize nodes remain where a float value enters or leaves.

mod elementwise;
mod linear;
mod matmul;
mod movement;
mod pool;
mod quantize;
mod unary;

use std::collections::HashSet;

use ndarray::Array1;

use crate::graph::{Graph, NodeId, Rewriter};
use crate::interp::{InterpError, Interpreter};
use crate::numerics::{self, FloatProducts, QuantizeRule};
use crate::ops::{
    Clamp, Constant, Conv, ConvTranspose, Dequantize, Input, Linear, MatMul, Op, Quantize, Requantize,
    ScaleAccumulator, Unary, UnaryOp,
};
use crate::values::{DType, QParams, QuantRange, Tensor, TensorQParams};

/// A constant of the graph could not be evaluated. A node without an integer form is not an error: it stays float.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct ToIntegerError(#[from] InterpError);

/// Rewriting cannot fail: each new node has the shape and type of the node that it replaces.
const FITS: &str = "the integer form has the shapes and types of the graph";

const NOT_INPUTS: &str = "its inputs are not all quantized per tensor";
const NOT_INPUT: &str = "its input is not quantized per tensor";
const NOT_OUTPUT: &str = "its output is not quantized, or others read it before it is";

/// Rewrites a quantize/dequantize graph into integers.
///
/// ```
/// use enfold::quantize::{ConvertOptions, QuantizationConfig, WgpuQuantizer, convert, prepare, to_integer};
/// use enfold::{GraphBuilder, Shape, Tensor};
///
/// let mut g = GraphBuilder::new();
/// let x = g.input("x", Shape::rows(2))?;
/// let y = g.linear("fc", x, Tensor::from_f32(&[2, 2], vec![0.5, -0.25, 0.1, 0.9])?, None)?;
/// let graph = g.finish([y])?;
///
/// let quantizer = WgpuQuantizer::new().set_global(QuantizationConfig::symmetric().per_channel());
/// let mut prepared = prepare(&graph, &quantizer)?;
/// prepared.observe(&[Tensor::from_f32(&[2, 2], vec![1.0, -1.0, 0.3, 0.7])?])?;
/// let quantized = convert(&prepared, &ConvertOptions::default())?;
///
/// let integers = to_integer(&quantized)?;
/// // No operator computes in float; a graph says of each operator that does, why.
/// assert!(integers.summary().float.is_empty());
/// # Ok::<(), enfold::Error>(())
/// ```
///
/// # Errors
/// Returns [`ToIntegerError`] for a constant that cannot be evaluated, for example an embedding of a row that its table lacks.
pub fn to_integer(graph: &Graph) -> Result<Graph, ToIntegerError> {
    to_integer_with_options(graph, &ToIntegerOptions::default())
}

/// The options of [`to_integer_with_options`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ToIntegerOptions {
    /// How linear layers and matrix products compute that stay float. The default is [`FloatProducts::Reproducible`]: the same bits on
    /// every engine, at an error of 2⁻¹² in each factor, which is small beside that of int8. [`FloatProducts::Full`] is more accurate,
    /// and engines agree within rounding only.
    pub float_products: FloatProducts,
}

impl Default for ToIntegerOptions {
    fn default() -> Self {
        Self { float_products: FloatProducts::Reproducible }
    }
}

/// Rewrites a quantize/dequantize graph into integers, with options, like [`to_integer`].
///
/// # Errors
/// Returns the same errors as [`to_integer`].
pub fn to_integer_with_options(graph: &Graph, options: &ToIntegerOptions) -> Result<Graph, ToIntegerError> {
    let products = options.float_products;
    let interpreter = Interpreter::new(graph);
    let matcher = Matcher { graph, interpreter: &interpreter, users: graph.users(), outputs: graph.output_flags() };
    let mut rewriter = Rewriter::new(graph);
    let mut fused = HashSet::new();
    for (id, node) in graph.iter() {
        if fused.contains(&id) {
            continue;
        }
        let is_input = matches!(node.op, Op::Input(Input) | Op::Constant(_));
        let rewritten = if is_input || interpreter.constant_value(id)?.is_some() {
            Rewritten::Unchanged
        } else if let Some(reason) = node.float_reason.clone().filter(|_| matcher.is_kept(id)) {
            Rewritten::Float(reason)
        } else {
            matcher.rewrite(&mut rewriter, id)?
        };
        match rewritten {
            Rewritten::Fused(nodes) => fused.extend(nodes),
            // Products of constants too: engines on other machines compute them.
            Rewritten::Unchanged => drop(matcher.copy(&mut rewriter, id, products)),
            Rewritten::Float(reason) => {
                let new = matcher.copy(&mut rewriter, id, products);
                // An operator that moves quantized values is an integer operator as it is.
                if node.dtype == DType::F32 {
                    rewriter.stays_float(new, reason);
                }
            }
        }
    }
    Ok(rewriter.finish().expect(FITS))
}

/// Calls [`to_integer`], of which this is the former name.
///
/// # Errors
/// Returns the same errors as [`to_integer`].
#[deprecated(note = "renamed to `to_integer`")]
pub fn reference(graph: &Graph) -> Result<Graph, ToIntegerError> {
    to_integer(graph)
}

/// The nodes after a rewritten one that were fused with it.
type Fused = Vec<NodeId>;

/// The inner result is a reason for staying float, which is data; the outer one is an error.
type Match<T> = Result<Result<T, String>, ToIntegerError>;

/// Rewrites a node of one family; `None` for nodes of others.
type Family = fn(&Matcher<'_>, &mut Rewriter<'_>, NodeId) -> Result<Option<Rewritten>, ToIntegerError>;

/// The result of rewriting one node.
enum Rewritten {
    /// An integer operator replaces it, together with these nodes after it.
    Fused(Fused),
    /// The node is copied.
    Unchanged,
    /// It stays float, for this reason.
    Float(String),
}

impl From<Result<Fused, String>> for Rewritten {
    fn from(result: Result<Fused, String>) -> Self {
        result.map_or_else(Self::Float, Self::Fused)
    }
}

/// The conversion of an accumulator to the result of a layer.
#[derive(Clone, Copy)]
enum Epilogue {
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
    /// Rewrites a node by the rule of its family.
    fn rewrite(&self, rewriter: &mut Rewriter<'_>, id: NodeId) -> Result<Rewritten, ToIntegerError> {
        let families: [Family; 7] = [
            linear::rewrite,
            matmul::rewrite,
            elementwise::rewrite,
            unary::rewrite,
            pool::rewrite,
            movement::rewrite,
            quantize::rewrite,
        ];
        for family in families {
            if let Some(rewritten) = family(self, rewriter, id)? {
                return Ok(rewritten);
            }
        }
        let op = &self.graph.node(id).op;
        if is_integer(op) {
            return Ok(Rewritten::Unchanged);
        }
        Ok(Rewritten::Float(format!("{} has no integer form", op.name())))
    }

    /// Whether the quantizer was told to leave a node in float, whatever surrounds it.
    fn is_kept(&self, id: NodeId) -> bool {
        let node = self.graph.node(id);
        node.float_reason.is_some() && !is_integer(&node.op)
    }

    /// Copies a node. Products of floats become those of a kind.
    fn copy(&self, rewriter: &mut Rewriter<'_>, id: NodeId, products: FloatProducts) -> NodeId {
        let node = self.graph.node(id);
        let op: Op = match &node.op {
            Op::Linear(_) => Linear { products }.into(),
            Op::MatMul(_) => MatMul { products }.into(),
            Op::Conv(conv) => Conv { products, ..conv.clone() }.into(),
            Op::ConvTranspose(conv) => ConvTranspose { products, ..conv.clone() }.into(),
            _ => return rewriter.copy(id).expect(FITS),
        };
        let inputs = node.inputs.iter().map(|&input| rewriter.get(input).expect(FITS)).collect();
        let new = rewriter.add(&node.name, op, inputs, &node.origin).expect(FITS);
        rewriter.replace(id, new);
        if let Some(reason) = &node.float_reason {
            rewriter.stays_float(new, reason.clone());
        }
        new
    }

    /// The nodes that follow and are fused: a ReLU or another clamp, a quantize node, both, or neither.
    fn epilogue(&self, id: NodeId) -> (Epilogue, Fused) {
        let mut fused = Vec::new();
        let mut next = self.only_user(id);
        let clamp = next.and_then(|id| self.clamp(id));
        if let Some((id, _)) = clamp {
            fused.push(id);
            next = self.only_user(id);
        }
        let Some((quantize, qparams, range)) = next.and_then(|id| self.quantize(id)) else {
            let relu = clamp.is_some_and(|(id, _)| self.is_relu(id));
            // A float result is clamped by a step of its own.
            fused.truncate(usize::from(relu));
            return (Epilogue::Float { relu }, fused);
        };
        fused.push(quantize);
        // Equation 6. Quantization is monotonic, so that quantized values may be clamped in place of real ones.
        let (mut lo, mut hi) = (range.quant_min(), range.quant_max());
        if let Some((_, [min, max])) = clamp {
            let quantized = |bound| self.rule(quantize).quantize(bound, qparams, lo, hi);
            (lo, hi) = (quantized(min), quantized(max));
        }
        (Epilogue::Int8 { qparams, lo, hi }, fused)
    }

    /// A node that clamps its input, with the bounds.
    fn clamp(&self, id: NodeId) -> Option<(NodeId, [f32; 2])> {
        let node = self.graph.node(id);
        match node.op {
            _ if node.float_reason.is_some() => None,
            Op::Unary(Unary { op: UnaryOp::Relu }) => Some((id, [0.0, f32::INFINITY])),
            Op::Clamp(Clamp { min, max }) => Some((id, [min, max])),
            _ => None,
        }
    }

    /// Adds the operator that makes the result from an accumulator, in place of the last fused node.
    fn finish(
        &self,
        rewriter: &mut Rewriter<'_>,
        id: NodeId,
        acc: NodeId,
        epilogue: Epilogue,
        factors: Vec<f32>,
        fused: Fused,
    ) -> Fused {
        let last = fused.last().copied().unwrap_or(id);
        let ch_axis = match rewriter.node(acc).op {
            Op::IntegerConv(_) => Some(1),
            _ => None,
        };
        let (node, origin) = (self.graph.node(id), &self.graph.node(last).origin);
        let factors = Constant::new(Tensor::from(Array1::from(factors)));
        let new = match epilogue {
            Epilogue::Int8 { qparams, lo, hi } => {
                let multiplier = self.constant(rewriter, id, "multiplier", factors);
                let op = Op::Requantize(Requantize { qparams, lo, hi, ch_axis });
                rewriter.add(&self.graph.node(last).name, op, vec![acc, multiplier], origin)
            }
            Epilogue::Float { relu } => {
                let scale = self.constant(rewriter, id, "output_scale", factors);
                let op = Op::ScaleAccumulator(ScaleAccumulator { relu, ch_axis });
                rewriter.add(&format!("{}.output", node.name), op, vec![acc, scale], origin)
            }
        };
        rewriter.replace(last, new.expect(FITS));
        fused
    }

    /// Adds a constant that belongs to a rewritten node.
    fn constant(&self, rewriter: &mut Rewriter<'_>, of: NodeId, suffix: &str, constant: Constant) -> NodeId {
        let node = self.graph.node(of);
        let name = format!("{}.{suffix}", node.name);
        rewriter.add(&name, constant, Vec::new(), &node.origin).expect(FITS)
    }

    /// The int8 value that a node dequantizes, with its qparams.
    fn operand(&self, id: NodeId) -> Option<(NodeId, QParams)> {
        let node = self.graph.node(id);
        match node.op {
            Op::Dequantize(Dequantize { qparams: TensorQParams::PerTensor(qparams) })
                if self.graph.node(node.inputs[0]).dtype == DType::I8 =>
            {
                Some((node.inputs[0], qparams))
            }
            _ => None,
        }
    }

    /// A node that quantizes to int8 with one scale.
    fn quantize(&self, id: NodeId) -> Option<(NodeId, QParams, QuantRange)> {
        match &self.graph.node(id).op {
            Op::Quantize(Quantize { qparams: TensorQParams::PerTensor(qparams), range, .. })
                if *range != QuantRange::INT32 =>
            {
                Some((id, *qparams, *range))
            }
            _ => None,
        }
    }

    /// How a quantize node scales floats.
    fn rule(&self, quantize: NodeId) -> QuantizeRule {
        match self.graph.node(quantize).op {
            Op::Quantize(Quantize { rule, .. }) => rule,
            _ => QuantizeRule::default(),
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

    /// The int8 values of all inputs, with their qparams.
    fn operands(&self, id: NodeId) -> Result<Vec<(NodeId, QParams)>, String> {
        let operands = self.graph.node(id).inputs.iter().map(|&input| self.operand(input));
        operands.collect::<Option<_>>().ok_or_else(|| NOT_INPUTS.to_owned())
    }

    /// Adds an integer operator in place of the last fused node.
    fn replace(&self, rewriter: &mut Rewriter<'_>, fused: Fused, op: Op, inputs: &[NodeId]) -> Fused {
        if let Some(&last) = fused.last() {
            let node = self.graph.node(last);
            let inputs = inputs.iter().map(|&input| rewriter.get(input).expect(FITS)).collect();
            let new = rewriter.add(&node.name, op, inputs, &node.origin).expect(FITS);
            rewriter.replace(last, new);
        }
        fused
    }
}

/// Operators of the integer form, and those between floats and quantized values.
fn is_integer(op: &Op) -> bool {
    op.is_integer() || matches!(op, Op::Quantize(_) | Op::Dequantize(_))
}

/// `s_a · s_b / s_y`, or without an output scale `s_a · s_b`.
fn multiplier(a: QParams, b: QParams, y: Option<QParams>) -> Result<f32, String> {
    let y = y.map_or(1.0, |y| y.scale());
    numerics::multiplier(a.scale(), b.scale(), y, 0).ok_or_else(|| {
        let (a, b) = (a.scale(), b.scale());
        format!("input scales {a:e} and {b:e} over {y:e} give a multiplier that is not a normal f32 (equation 9)")
    })
}

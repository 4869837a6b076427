//! The numeric debugger: compares two graphs on the same inputs, node by node.
//!
//! Every pass copies `origin`, the name of the float node, so that nodes of any two stages with the same origin can be compared: float
//! with quantize/dequantize, quantize/dequantize with integers. Quantized values are compared in real units.
//!
//! ```
//! # use enfold::{GraphBuilder, Shape, Tensor};
//! # use enfold::quantize::{ConvertOptions, QuantizationConfig, WgpuQuantizer, convert, prepare};
//! # let mut g = GraphBuilder::new();
//! # let x = g.input("x", Shape::rows(2))?;
//! # let y = g.linear("fc", x, Tensor::from_f32(&[2, 2], vec![0.5, -0.25, 0.1, 0.9])?, None)?;
//! # let float = g.finish([y])?;
//! # let batch = Tensor::from_f32(&[2, 2], vec![1.0, -1.0, 0.3, 0.7])?;
//! # let mut prepared = prepare(&float, &WgpuQuantizer::new().set_global(QuantizationConfig::symmetric()))?;
//! # prepared.observe(&[&batch])?;
//! # let quantized = convert(&prepared, &ConvertOptions::default())?;
//! let comparison = enfold::compare::compare(&float, &quantized, &[&batch])?;
//! println!("{comparison}");
//! assert!(comparison.output_sqnr_db > 30.0);
//! # Ok::<(), enfold::Error>(())
//! ```

mod distribution;
mod index;
mod isolate;
mod metrics;
mod sensitivity;

use std::borrow::Borrow;
use std::collections::HashMap;
use std::fmt;

pub use self::distribution::{Clipping, Distribution, NodeDistributions, distributions};
use self::index::Index;
use self::isolate::Actual;
pub use self::metrics::{cosine, mse, sqnr_db};
pub use self::sensitivity::{Sensitivity, sensitivity};
use crate::graph::{Graph, NodeId};
use crate::interp::{InterpError, Interpreter};
use crate::numerics;
use crate::ops::{IntegerAdd, IntegerMul, Op, Quantize, Requantize};
use crate::values::{DType, QParams, Tensor};

/// Two graphs could not be compared.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CompareError {
    /// One of the graphs could not be run.
    #[error(transparent)]
    Interp(#[from] InterpError),
    /// A node has different shapes in the two graphs.
    #[error("{node}: its shape is {actual:?}, but {expected:?} in the reference")]
    Shape {
        /// The node.
        node: String,
        /// Its shape in the graph under test.
        actual: Vec<usize>,
        /// Its shape in the reference.
        expected: Vec<usize>,
    },
    /// No node of one graph has the origin of a node of the other.
    #[error("the graphs have no node in common: the first is of {reference}, the second of {actual}")]
    NothingShared {
        /// A node of the reference.
        reference: String,
        /// A node of the graph under test.
        actual: String,
    },
    /// The values of an output are integers without a scale, such as ids.
    #[error("{node}: its values are {dtype} without a scale, which cannot be compared")]
    NotReal {
        /// The output.
        node: String,
        /// The type of its values.
        dtype: DType,
    },
    /// Two slices of values differ in length.
    #[error("{actual} values, but {expected} in the reference")]
    Lengths {
        /// Values under test.
        actual: usize,
        /// Values of the reference.
        expected: usize,
    },
    /// The graphs have different numbers of outputs.
    #[error("{actual} outputs, but {expected} in the reference")]
    Outputs {
        /// Outputs of the graph under test.
        actual: usize,
        /// Outputs of the reference.
        expected: usize,
    },
}

/// The comparison of one float node.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeComparison {
    /// The name of the float node, which is the origin of the nodes of both graphs.
    pub origin: String,
    /// The operator in the reference.
    pub op: &'static str,
    /// The node of the graph under test whose value was compared: the last with this origin.
    pub node: String,
    /// Signal to quantization noise of the whole graph up to here, in dB.
    pub sqnr_db: f64,
    /// Mean squared error of the whole graph up to here, in squared real units.
    pub mse: f64,
    /// Cosine of the angle between the values.
    pub cosine: f64,
    /// The share of the reference's values that are outside the quantized range by more than half a step; `None` if the value is not
    /// quantized.
    pub saturated: Option<f64>,
    /// Signal to quantization noise of the weight alone, in dB, if the node has one.
    pub weight_sqnr_db: Option<f64>,
    /// Signal to quantization noise of this node alone, with inputs from the reference, in dB.
    pub isolated_sqnr_db: f64,
}

/// The comparison of two graphs; print it for a table, worst node first.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// Every shared node, in execution order.
    pub nodes: Vec<NodeComparison>,
    /// Signal to quantization noise of the worst output, in dB.
    pub output_sqnr_db: f64,
    /// The smallest cosine of an output.
    pub output_cosine: f64,
}

impl Comparison {
    /// The nodes by their error in isolation, the worst first.
    #[must_use]
    pub fn ranked(&self) -> Vec<&NodeComparison> {
        let mut ranked: Vec<&NodeComparison> = self.nodes.iter().collect();
        // NaN is worse than any number.
        let key = |node: &NodeComparison| match node.isolated_sqnr_db {
            db if db.is_nan() => f64::NEG_INFINITY,
            db => db,
        };
        ranked.sort_by(|a, b| key(a).total_cmp(&key(b)));
        ranked
    }

    /// The comparison of a float node.
    #[must_use]
    pub fn get(&self, origin: &str) -> Option<&NodeComparison> {
        self.nodes.iter().find(|node| node.origin == origin)
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.nodes.iter().map(|node| node.origin.len()).max().unwrap_or(0).max(4);
        writeln!(
            f,
            "{:width$}  op              alone dB   so far dB   weight dB        MSE     cosine   saturated",
            "node"
        )?;
        for node in self.ranked() {
            let optional = |v: Option<f64>, scale: f64| v.map_or("-".to_owned(), |v| format!("{:.2}", v * scale));
            writeln!(
                f,
                "{:width$}  {:<14} {:>9.2} {:>11.2} {:>11} {:>10.2e} {:>10.6} {:>9} %",
                node.origin,
                node.op,
                node.isolated_sqnr_db,
                node.sqnr_db,
                optional(node.weight_sqnr_db, 1.0),
                node.mse,
                node.cosine,
                optional(node.saturated, 100.0),
            )?;
        }
        writeln!(f, "outputs: {:.2} dB, cosine {:.6}", self.output_sqnr_db, self.output_cosine)
    }
}

/// Runs both graphs on the same inputs and compares every node that both have.
///
/// # Errors
/// [`CompareError`] names the node or input that does not fit.
pub fn compare<T: Borrow<Tensor>>(reference: &Graph, actual: &Graph, inputs: &[T]) -> Result<Comparison, CompareError> {
    let (expected, given) = (reference.outputs().len(), actual.outputs().len());
    if given != expected {
        return Err(CompareError::Outputs { actual: given, expected });
    }
    let inputs: Vec<&Tensor> = inputs.iter().map(Borrow::borrow).collect();
    let truth = Interpreter::new(reference);
    let reference_values = Values::of(&truth, &inputs)?;
    let under_test = Interpreter::new(actual);
    let actual_values = Values::of(&under_test, &inputs)?;
    let (of_truth, of_actual) = (&reference_values.index, &actual_values.index);
    let isolated = Actual { interpreter: &under_test, index: of_actual, reference: &reference_values, inputs: &inputs };

    let mut nodes = Vec::new();
    for &(ref origin, id) in &reference_values.ordered {
        let Some(&other) = actual_values.by_origin.get(origin) else { continue };
        // Inputs may be quantized, but are no nodes of the network.
        if of_truth.is_input(origin) || of_actual.is_input(origin) {
            continue;
        }
        let (expected, got) = (&reference_values.reals[&id], &actual_values.reals[&other]);
        if expected.shape() != got.shape() {
            let (actual, expected) = (got.shape().to_vec(), expected.shape().to_vec());
            return Err(CompareError::Shape { node: origin.clone(), actual, expected });
        }
        let (expected, got) = (floats(expected), floats(got));
        let alone = isolated.run(other)?;
        nodes.push(NodeComparison {
            origin: origin.clone(),
            op: reference.node(id).op.name(),
            node: actual.node(other).name.clone(),
            sqnr_db: sqnr_db(expected, got)?,
            mse: mse(expected, got)?,
            cosine: cosine(expected, got)?,
            saturated: saturated(actual, of_actual, other, expected),
            weight_sqnr_db: isolated.weight_sqnr_db(origin, &truth)?,
            isolated_sqnr_db: sqnr_db(expected, floats(&alone))?,
        });
    }
    if nodes.is_empty() {
        let name = |graph: &Graph| graph.node(graph.outputs()[0]).origin.clone();
        return Err(CompareError::NothingShared { reference: name(reference), actual: name(actual) });
    }
    let outputs = real_outputs(&truth, of_truth, &inputs)?;
    let outputs = outputs.into_iter().zip(real_outputs(&under_test, of_actual, &inputs)?);
    let (mut output_sqnr_db, mut output_cosine) = (f64::INFINITY, 1f64);
    for ((expected, got), id) in outputs.zip(actual.outputs()) {
        if expected.shape() != got.shape() {
            let (actual_shape, expected) = (got.shape().to_vec(), expected.shape().to_vec());
            return Err(CompareError::Shape { node: actual.node(*id).name.clone(), actual: actual_shape, expected });
        }
        output_sqnr_db = worse(output_sqnr_db, sqnr_db(floats(&expected), floats(&got))?);
        output_cosine = worse(output_cosine, cosine(floats(&expected), floats(&got))?);
    }
    Ok(Comparison { nodes, output_sqnr_db, output_cosine })
}

/// The smaller of two numbers; NaN is smaller than any.
fn worse(a: f64, b: f64) -> f64 {
    if a.is_nan() || a < b { a } else { b }
}

fn real_outputs(interpreter: &Interpreter, index: &Index, inputs: &[&Tensor]) -> Result<Vec<Tensor>, CompareError> {
    let graph = interpreter.graph();
    let values = interpreter.run(inputs)?.into_iter().zip(graph.outputs());
    let reals = values.map(|(value, &id)| match real(index, id, value) {
        Tensor::F32(reals) => Ok(Tensor::F32(reals)),
        other => Err(CompareError::NotReal { node: graph.node(id).name.clone(), dtype: other.dtype() }),
    });
    reals.collect()
}

/// The values of a graph that can be compared, in real units.
struct Values {
    /// For each origin, the last node that has it, in execution order of the first.
    ordered: Vec<(String, NodeId)>,
    by_origin: HashMap<String, NodeId>,
    reals: HashMap<NodeId, Tensor>,
    index: Index,
}

impl Values {
    /// The origins of all nodes whose values can be compared, in execution order of the first node with each, and the last node with
    /// each.
    fn comparable(
        interpreter: &Interpreter,
        index: &Index,
    ) -> Result<(Vec<String>, HashMap<String, NodeId>), InterpError> {
        let graph = interpreter.graph();
        let mut by_origin: HashMap<String, NodeId> = HashMap::new();
        let mut order = Vec::new();
        for (id, node) in graph.iter() {
            let real = matches!(node.dtype, DType::F32 | DType::I8) && !matches!(node.op, Op::ChooseQParams(_));
            let known = node.dtype == DType::F32 || index.qparams(id).is_some();
            if !real || !known || interpreter.constant_value(id)?.is_some() {
                continue;
            }
            if by_origin.insert(node.origin.clone(), id).is_none() {
                order.push(node.origin.clone());
            }
        }
        Ok((order, by_origin))
    }

    fn of(interpreter: &Interpreter, inputs: &[&Tensor]) -> Result<Self, InterpError> {
        let graph = interpreter.graph();
        let index = Index::new(graph);
        let (order, by_origin) = Self::comparable(interpreter, &index)?;
        let feeds: Vec<_> = graph.inputs().iter().copied().zip(inputs.iter().copied()).collect();
        let wanted: Vec<NodeId> = order.iter().map(|origin| by_origin[origin]).collect();
        if inputs.len() != graph.inputs().len() {
            return Err(InterpError::InputCount { actual: inputs.len(), expected: graph.inputs().len() });
        }
        let values = interpreter.run_nodes(&feeds, &wanted)?;
        let reals = wanted.iter().zip(values).map(|(&id, value)| (id, real(&index, id, value))).collect();
        let ordered = order.into_iter().zip(wanted).collect();
        Ok(Self { ordered, by_origin, reals, index })
    }
}

/// The smallest and largest quantized value that a node may have.
fn quantized_range(graph: &Graph, index: &Index, id: NodeId) -> Option<(i32, i32)> {
    match &graph.node(id).op {
        Op::Quantize(Quantize { range, .. }) => Some((range.quant_min(), range.quant_max())),
        Op::Requantize(Requantize { lo, hi, .. })
        | Op::IntegerAdd(IntegerAdd { lo, hi, .. })
        | Op::IntegerMul(IntegerMul { lo, hi, .. }) => Some((*lo, *hi)),
        _ => index.qparams(id).map(|_| (-128, 127)),
    }
}

/// Converts quantized values to real units; other values are unchanged.
fn real(index: &Index, id: NodeId, value: Tensor) -> Tensor {
    match (value, index.qparams(id)) {
        (Tensor::I8(values), Some(q)) => {
            Tensor::from(values.mapv(|value| numerics::dequantize(value.into(), q.scale(), q.zero_point())))
        }
        (value, _) => value,
    }
}

/// The qparams and the quantized range of a node's value.
fn quantized_to(graph: &Graph, index: &Index, id: NodeId) -> Option<(QParams, (i32, i32))> {
    let quantized = match graph.node(id).op {
        Op::Dequantize(_) => graph.node(id).inputs[0],
        _ => id,
    };
    Some((index.qparams(quantized)?, quantized_range(graph, index, quantized)?))
}

/// The smallest and largest real value that a node can have.
fn clipping(graph: &Graph, index: &Index, id: NodeId) -> Option<(f32, f32)> {
    let (qparams, (lo, hi)) = quantized_to(graph, index, id)?;
    let real = |value: i32| numerics::dequantize(value, qparams.scale(), qparams.zero_point());
    Some((real(lo), real(hi)))
}

/// The share of the reference's values that are more than half a step outside the quantized range.
fn saturated(graph: &Graph, index: &Index, id: NodeId, reference: &[f32]) -> Option<f64> {
    let (qparams, (lo, hi)) = quantized_to(graph, index, id)?;
    let limit = |value: i32, half: f32| ((value - qparams.zero_point()) as f32 + half) * qparams.scale();
    let (low, high) = (limit(lo, -0.5), limit(hi, 0.5));
    let beyond = reference.iter().filter(|v| **v < low || **v > high).count();
    Some(beyond as f64 / reference.len().max(1) as f64)
}

fn floats(tensor: &Tensor) -> &[f32] {
    tensor.as_f32().expect("only real values are compared")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_number_is_the_worst() {
        assert!(worse(1.0, f64::NAN).is_nan() && worse(f64::NAN, 1.0).is_nan());
        assert_eq!((worse(1.0, 2.0), worse(f64::INFINITY, 3.0)), (1.0, 3.0));
    }
}

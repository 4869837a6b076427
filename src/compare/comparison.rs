//! The comparison of two graphs, node by node.

use std::borrow::Borrow;
use std::fmt;

use super::error::CompareError;
use super::index::Index;
use super::isolate::Actual;
use super::metrics::{cosine, mse, sqnr_db};
use super::values::{Values, floats, real, saturated};
use crate::graph::Graph;
use crate::interp::Interpreter;
use crate::values::Tensor;

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
    /// Returns the nodes by their error in isolation, the worst first.
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

    /// Returns the comparison of a float node.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_number_is_the_worst() {
        assert!(worse(1.0, f64::NAN).is_nan() && worse(f64::NAN, 1.0).is_nan());
        assert_eq!((worse(1.0, 2.0), worse(f64::INFINITY, 3.0)), (1.0, 3.0));
    }
}

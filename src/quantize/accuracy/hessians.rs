//! Second moments of the inputs of linear layers.

use std::borrow::Borrow;

use super::error::AccuracyError;
use super::statistics::{difference, finite_values};
use crate::graph::{Graph, NodeId};
use crate::interp::Interpreter;
use crate::numerics::gemm;
use crate::ops::Op;
use crate::quantize::PreparedGraph;
use crate::values::Tensor;

/// For each value that a linear layer with a quantized weight reads, the sum of `x · xᵀ` over the tokens of calibration: half of the Hessian
/// of the squared error of the layer's outputs.
///
/// The sums take 8 bytes for each pair of features. [`in_parts`](Self::in_parts) divides the values of a network by their memory.
/// Sums of the same graph over other batches [`merge`](Self::merge) into one.
#[derive(Debug)]
pub struct Hessians {
    interpreter: Interpreter,
    values: Vec<Moments>,
    batches: u64,
}

/// The second moments of one value.
#[derive(Debug, Clone)]
pub(super) struct Moments {
    /// The value that layers read, behind its observer.
    pub(super) id: NodeId,
    pub(super) features: usize,
    /// The linear layers that read it.
    pub(super) layers: Vec<NodeId>,
    /// `Σ x · xᵀ`, `[features, features]`; empty before the first batch.
    pub(super) sums: Vec<f64>,
}

impl Hessians {
    /// Prepares to observe all linear layers of a prepared graph whose weights are quantized.
    #[must_use]
    pub fn new(prepared: &PreparedGraph) -> Self {
        Self { interpreter: Interpreter::new(prepared.graph()), values: moments(prepared), batches: 0 }
    }

    /// Divides the values of a prepared graph into parts that take at most `max_bytes` each, or hold one value. The batches of
    /// calibration are run once for each part.
    #[must_use]
    pub fn in_parts(prepared: &PreparedGraph, max_bytes: usize) -> Vec<Self> {
        let mut parts: Vec<(usize, Vec<Moments>)> = Vec::new();
        for value in moments(prepared) {
            let bytes = value.features.saturating_mul(value.features).saturating_mul(size_of::<f64>());
            match parts.last_mut() {
                Some((sum, part)) if sum.saturating_add(bytes) <= max_bytes => {
                    *sum += bytes;
                    part.push(value);
                }
                _ => parts.push((bytes, vec![value])),
            }
        }
        let of = |(_, values)| Self { interpreter: Interpreter::new(prepared.graph()), values, batches: 0 };
        parts.into_iter().map(of).collect()
    }

    /// Returns the number of batches that have been observed.
    #[must_use]
    pub fn batches(&self) -> u64 {
        self.batches
    }

    pub(super) fn graph(&self) -> &Graph {
        self.interpreter.graph()
    }

    pub(super) fn values(&self) -> &[Moments] {
        &self.values
    }

    /// Runs one batch and adds the products of its tokens.
    ///
    /// # Errors
    /// Returns [`AccuracyError::Interp`] for inputs that do not fit the graph, and [`AccuracyError::NonFinite`] for a value that is NaN
    /// or infinite. The sums are then as before the batch.
    pub fn observe<T: Borrow<Tensor>>(&mut self, inputs: &[T]) -> Result<(), AccuracyError> {
        let ids: Vec<NodeId> = self.values.iter().map(|value| value.id).collect();
        let results = finite_values(&self.interpreter, inputs, &ids)?;
        self.values.iter_mut().zip(&results).for_each(|(value, result)| value.add(result));
        self.batches += 1;
        Ok(())
    }

    /// Adds the sums of other batches of the same graph.
    ///
    /// # Errors
    /// Returns [`AccuracyError::OtherGraph`] for sums of another graph or of other values. The sums are then as before.
    pub fn merge(&mut self, other: &Self) -> Result<(), AccuracyError> {
        let values = |hessians: &Self| hessians.values.iter().map(|value| value.id).collect::<Vec<_>>();
        let problem = difference(self.graph(), other.graph());
        let problem = problem.or_else(|| (values(self) != values(other)).then(|| "another part of it".to_owned()));
        if let Some(problem) = problem {
            return Err(AccuracyError::OtherGraph { problem });
        }
        for (mine, theirs) in self.values.iter_mut().zip(&other.values) {
            if mine.sums.is_empty() {
                mine.sums.clone_from(&theirs.sums);
            } else {
                mine.sums.iter_mut().zip(&theirs.sums).for_each(|(sum, v)| *sum += v);
            }
        }
        self.batches += other.batches;
        Ok(())
    }
}

/// The values that linear layers with a quantized weight read, in the order of the graph.
fn moments(prepared: &PreparedGraph) -> Vec<Moments> {
    let graph = prepared.graph();
    let mut values: Vec<Moments> = Vec::new();
    for (layer, node) in graph.iter().filter(|(_, node)| matches!(node.op, Op::Linear(_))) {
        if !matches!(graph.node(node.inputs[1]).op, Op::Observe(_)) {
            continue;
        }
        // Layers that read one value through observers of their own have the same moments.
        let mut id = node.inputs[0];
        while matches!(graph.node(id).op, Op::Observe(_)) {
            id = graph.node(id).inputs[0];
        }
        let Some(features) = graph.node(id).shape.last() else { continue };
        match values.iter_mut().find(|value| value.id == id) {
            Some(value) => value.layers.push(layer),
            None => values.push(Moments { id, features, layers: vec![layer], sums: Vec::new() }),
        }
    }
    values
}

impl Moments {
    fn add(&mut self, value: &Tensor) {
        let Some(x) = value.as_f32() else { return };
        let k = self.features;
        let mut products = vec![0f32; k * k];
        gemm::matmul_transposed(&mut products, x, x, [k, k, x.len() / k.max(1)]);
        if self.sums.is_empty() {
            self.sums = vec![0.0; k * k];
        }
        self.sums.iter_mut().zip(products).for_each(|(sum, v)| *sum += f64::from(v));
    }
}

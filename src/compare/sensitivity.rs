//! Sensitivity: which layers must stay in float.

use super::comparison::{NodeComparison, compare};
use super::error::CompareError;
use crate::graph::Graph;
use crate::values::Tensor;

/// The layers that must stay in float for the outputs to reach a signal to quantization noise ratio.
#[derive(Debug, Clone, PartialEq)]
pub struct Sensitivity {
    /// Names for [`WgpuQuantizer::set_module_name`](crate::quantize), the most sensitive layer first.
    pub layers: Vec<String>,
    /// The signal to quantization noise ratio of the worst output with these layers in float, in dB.
    pub output_sqnr_db: f64,
    /// Whether the target was reached.
    pub reached: bool,
}

/// Leaves one layer after another in float, each time the one with the largest error alone, until the worst output reaches
/// `target_sqnr_db`. `quantize` gets the names of the layers to leave in float, and returns the graph to compare with `float`.
///
/// # Errors
/// Returns the errors of `quantize`, and [`CompareError`].
pub fn sensitivity<E: From<CompareError>>(
    float: &Graph,
    inputs: &[Tensor],
    target_sqnr_db: f64,
    mut quantize: impl FnMut(&[String]) -> Result<Graph, E>,
) -> Result<Sensitivity, E> {
    let is_layer = |op: &str| ["linear", "matmul", "add", "mul", "concat"].contains(&op);
    let mut layers: Vec<String> = Vec::new();
    loop {
        let comparison = compare(float, &quantize(&layers)?, inputs)?;
        let output_sqnr_db = comparison.output_sqnr_db;
        let reached = output_sqnr_db >= target_sqnr_db;
        let lossy = |node: &&NodeComparison| node.isolated_sqnr_db < f64::INFINITY && is_layer(node.op);
        let worst = comparison.ranked().into_iter().filter(lossy).find(|node| !layers.contains(&node.origin));
        match worst {
            Some(worst) if !reached => layers.push(worst.origin.clone()),
            _ => return Ok(Sensitivity { layers, output_sqnr_db, reached }),
        }
    }
}

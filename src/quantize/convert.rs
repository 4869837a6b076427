//! Convert: observers become quantize/dequantize pairs, weights become int8 constants.

use std::collections::HashMap;

use rayon::prelude::*;

use super::fold;
use super::observer::ObserverError;
use super::prepare::PreparedGraph;
use super::reference::{ReferenceError, reference};
use crate::graph::{Graph, GraphError, NodeId, ObserverId, Op, Rewriter};
use crate::qparams::{QuantRange, TensorQParams};

/// How [`convert`] leaves the graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvertOptions {
    /// Replace the quantize node of a constant by an int8 constant. On by default.
    pub fold_quantize: bool,
    /// Rewrite the result into integers, as [`reference()`] does. Off by default.
    pub use_reference_representation: bool,
}

impl Default for ConvertOptions {
    fn default() -> Self {
        Self { fold_quantize: true, use_reference_representation: false }
    }
}

/// Why a prepared graph could not be converted.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// An observer has seen nothing, or what it saw gives no usable parameters.
    #[error("{node}: {source} ({batches} batches observed)")]
    Observer {
        /// The observed node.
        node: String,
        /// What is wrong.
        source: ObserverError,
        /// How many batches were observed in all.
        batches: u64,
    },
    /// The converted graph is not valid.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The integer form could not be made.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
}

/// Turns every observer into a quantize and a dequantize node. Each annotated consumer gets a dequantize of its own, so
/// that a layer and its dequantizes can be matched without looking at other layers.
///
/// # Errors
/// [`ConvertError::Observer`] names the first value that was never observed or whose range is not usable.
pub fn convert(prepared: &PreparedGraph, options: &ConvertOptions) -> Result<Graph, ConvertError> {
    let qparams = qparams(prepared)?;
    let mut graph = quantize_dequantize(prepared, &qparams)?;
    if options.fold_quantize {
        graph = fold::fold_quantize(&graph)?;
    }
    if options.use_reference_representation {
        graph = reference(&graph)?;
    }
    Ok(graph)
}

/// Parameters and codes of every observer.
fn qparams(prepared: &PreparedGraph) -> Result<Vec<(TensorQParams, QuantRange)>, ConvertError> {
    let observers = prepared.observers();
    // A histogram's search takes milliseconds; a network has many.
    let all: Vec<_> = observers.par_iter().map(|o| Ok((o.calculate_qparams()?, o.spec().range))).collect();
    let error = |at, source| {
        let node = prepared.observed(ObserverId(at)).to_owned();
        ConvertError::Observer { node, source, batches: prepared.batches() }
    };
    all.into_iter().enumerate().map(|(at, result)| result.map_err(|source| error(at, source))).collect()
}

fn quantize_dequantize(
    prepared: &PreparedGraph,
    qparams: &[(TensorQParams, QuantRange)],
) -> Result<Graph, ConvertError> {
    let graph = prepared.graph();
    let mut rewriter = Rewriter::new(graph);
    // For each observer node: its quantize node and the parameters, from which consumers make their dequantize.
    let mut quantized: HashMap<NodeId, (NodeId, &TensorQParams)> = HashMap::new();
    let users = graph.users();
    for (id, node) in graph.iter() {
        if let Op::Observe { observer } = node.op {
            let (qparams, range) = &qparams[observer.0];
            let value = rewriter.get(node.inputs[0])?;
            let name = &graph.node(node.inputs[0]).name;
            let op = Op::Quantize { qparams: qparams.clone(), range: *range };
            let q = rewriter.add(&format!("{name}.quantize"), op, vec![value], &node.origin)?;
            quantized.insert(id, (q, qparams));
            let dq = dequantize(&mut rewriter, q, qparams)?;
            rewriter.replace(id, dq);
            continue;
        }
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for &input in &node.inputs {
            let read_elsewhere = users[input.index()].len() > 1 || graph.outputs().contains(&input);
            let own = prepared.is_annotated(id) && read_elsewhere;
            inputs.push(match quantized.get(&input) {
                Some((q, qparams)) if own => dequantize(&mut rewriter, *q, qparams)?,
                _ => rewriter.get(input)?,
            });
        }
        rewriter.copy_with(id, inputs)?;
    }
    Ok(rewriter.finish()?)
}

fn dequantize(rewriter: &mut Rewriter<'_>, q: NodeId, qparams: &TensorQParams) -> Result<NodeId, GraphError> {
    let node = rewriter.node(q);
    let stem = node.name.strip_suffix(".quantize").unwrap_or(&node.name);
    let (name, origin) = (format!("{stem}.dequantize"), node.origin.clone());
    rewriter.add(&name, Op::Dequantize { qparams: qparams.clone() }, vec![q], &origin)
}

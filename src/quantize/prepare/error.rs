//! Errors of prepare and of calibration.

use crate::graph::GraphError;
use crate::interp::InterpError;
use crate::quantize::observer::ObserverError;
use crate::values::DType;

/// A graph could not be prepared, or a batch could not be observed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PrepareError {
    /// The graph is the graph of a prepared graph.
    #[error("{node} is observed already; prepare takes a graph without observers")]
    Prepared {
        /// The first observe node.
        node: String,
    },
    /// More batches than can be counted.
    #[error("{this} batches and {other} more are too many to count; at most {}", u64::MAX)]
    Batches {
        /// Batches observed so far.
        this: u64,
        /// Batches to be added.
        other: u64,
    },
    /// A spec shares the observer of a point that is not annotated.
    #[error("{point} shares the observer of {target}, which is not annotated")]
    SharedWithNothing {
        /// The point that shares.
        point: String,
        /// The point that it names.
        target: String,
    },
    /// Shared specs lead back to themselves.
    #[error("{point} shares an observer through {target} with itself; one point of the circle needs a spec of its own")]
    SharedCycle {
        /// The point that shares.
        point: String,
        /// The point where the cycle closes.
        target: String,
    },
    /// A spec shares an observer that cannot serve its point.
    #[error("{point} shares the observer of {target}, which {problem}")]
    SharedContradiction {
        /// The point that shares.
        point: String,
        /// The point whose observer it shares.
        target: String,
        /// The contradiction.
        problem: String,
    },
    /// A spec is derived from a point that is not annotated, or stays in float.
    #[error("{point} is derived from {target}, which is not quantized")]
    DerivedFromNothing {
        /// The derived point.
        point: String,
        /// The point that it names.
        target: String,
    },
    /// Derived specs lead back to themselves.
    #[error("{point} is derived from {target}, which is derived from it")]
    DerivedCycle {
        /// The derived point.
        point: String,
        /// The point that it names.
        target: String,
    },
    /// A configuration of the quantizer matches no node.
    #[error("{filter} matches no node{}", near(near_names))]
    NoMatch {
        /// The configuration.
        filter: String,
        /// Names that exist and resemble it.
        near_names: Vec<String>,
    },
    /// The configurations of a quantizer contradict each other.
    #[error("{config}: {problem}")]
    Config {
        /// The configuration.
        config: String,
        /// The contradiction.
        problem: String,
    },
    /// A composed quantizer has changed what another has annotated.
    #[error("quantizer {quantizer} changes the annotation of {node}, which quantizer {owner} made")]
    Overwritten {
        /// The position of the quantizer, counted from 0.
        quantizer: usize,
        /// The node.
        node: String,
        /// The position of the quantizer that annotated it first.
        owner: usize,
    },
    /// Observers of another graph cannot be merged.
    #[error("the observers are of another graph: {problem}")]
    OtherGraph {
        /// The first difference.
        problem: String,
    },
    /// An annotation names an input that the node does not have.
    #[error("{node} is annotated for input {input}, which it does not read")]
    NoSuchInput {
        /// The annotated node.
        node: String,
        /// The producer named.
        input: String,
    },
    /// A value that is annotated to be quantized is not of floats.
    #[error("{point} is annotated to be quantized, but is of {dtype}; expected {}", DType::F32)]
    NotFloat {
        /// The annotated point.
        point: String,
        /// The type of its values.
        dtype: DType,
    },
    /// A spec or a value does not suit its observer.
    #[error("{node}: {source}")]
    Observer {
        /// The observed node.
        node: String,
        /// The problem.
        source: ObserverError,
    },
    /// The prepared graph is not valid.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The prepared graph could not be run.
    #[error(transparent)]
    Interp(#[from] InterpError),
}

fn near(names: &[String]) -> String {
    if names.is_empty() { String::new() } else { format!("; there are: {}", names.join(", ")) }
}

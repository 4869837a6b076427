//! The error of lowering.

use crate::graph::{FloatNode, GraphError};
use crate::interp::InterpError;
use crate::program::ProgramError;

/// The error of lowering a graph.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LowerError {
    /// Nodes that no step can compute.
    #[error("{} of {total} nodes have no step:{}", nodes.len(), list(nodes))]
    Unsupported {
        /// All of these nodes, each with the reason.
        nodes: Vec<FloatNode>,
        /// Number of nodes of the graph.
        total: usize,
    },
    /// A constant could not be computed.
    #[error(transparent)]
    Constant(#[from] InterpError),
    /// A node could not be decomposed.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The program is not valid.
    #[error(transparent)]
    Program(#[from] ProgramError),
}

/// Formats one line for each node.
fn list(nodes: &[FloatNode]) -> String {
    nodes.iter().map(|node| format!("\n  {node}")).collect()
}

//! Errors of archives.

use crate::graph::GraphError;

/// A file could not be written or read.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The file could not be opened, read or written.
    #[error("{path}: {message}")]
    Io {
        /// The file.
        path: String,
        /// The message of the operating system.
        message: String,
    },
    /// The file is not a sound safetensors file: truncated, or with tensors that overlap or are larger than it.
    #[error("not a sound safetensors file: {message}")]
    Format {
        /// The problem.
        message: String,
    },
    /// The file was made by a newer version.
    #[error("the file has format {format}, this version reads up to {newest}", newest = super::format::FORMAT)]
    Newer {
        /// Its format.
        format: u32,
    },
    /// The file was made by an older version, whose operators only the feature `flow` rewrites.
    #[error(
        "the file has format {format}, and without the feature `flow`, formats are read from {oldest} on: load and save it with `flow`",
        oldest = super::format::DERIVED_OPERATORS
    )]
    Older {
        /// Its format.
        format: u32,
    },
    /// The header is not sound: fields are missing, or the JSON is not valid.
    #[error("the header cannot be read: {message}")]
    Header {
        /// The problem.
        message: String,
    },
    /// A graph was asked for and the file holds a prepared graph, or the other way round.
    #[error("the file holds {actual}, expected {expected}")]
    Kind {
        /// The kind that it holds.
        actual: &'static str,
        /// The kind that was asked for.
        expected: &'static str,
    },
    /// A tensor is missing or of the wrong type.
    #[error("tensor {tensor}: {problem}")]
    Tensor {
        /// The tensor.
        tensor: String,
        /// The problem.
        problem: String,
    },
    /// A node or observer has numbers that are not possible.
    #[error("{node}: {problem}")]
    Node {
        /// The node or observer.
        node: String,
        /// The problem.
        problem: String,
    },
    /// The nodes do not make a graph.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// A prepared graph derives qparams by a function of the caller, which no file can hold.
    #[error("observer {observer} of {node} has a custom rule, which cannot be saved")]
    CustomRule {
        /// The observer's number.
        observer: usize,
        /// The value that it observes.
        node: String,
    },
}

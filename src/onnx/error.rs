//! What can be wrong with a file.

use std::collections::HashMap;

/// Why a file could not be imported.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum OnnxError {
    /// A file could not be opened or read.
    #[error("{path}: {message}")]
    Io {
        /// The file.
        path: String,
        /// What the system says.
        message: String,
    },
    /// The bytes are not a model: truncated, damaged, or another kind of file.
    #[error("not a sound ONNX file: {message}")]
    Decode {
        /// What is wrong.
        message: String,
    },
    /// The file would take far more memory than it has bytes.
    #[error("the file has {bytes} bytes but would take {needed} bytes of memory to read; at most {limit} are allowed")]
    Expansion {
        /// Bytes of the file.
        bytes: usize,
        /// Bytes of memory that its parts would take.
        needed: usize,
        /// The most that is allowed.
        limit: usize,
    },
    /// The operators are of a version that is not supported.
    #[error("{}; supported are {} to {}", opset(*version), super::OPSETS.start(), super::OPSETS.end())]
    Opset {
        /// The version; 0 if the file names none.
        version: i64,
    },
    /// A weight or other stored tensor is not sound.
    #[error("tensor {tensor}: {problem}")]
    Tensor {
        /// The tensor.
        tensor: String,
        /// What is wrong.
        problem: String,
    },
    /// Data in another file cannot be used.
    #[error("tensor {tensor}: its data lie in {location:?}: {problem}")]
    External {
        /// The tensor.
        tensor: String,
        /// The file, as the model names it.
        location: String,
        /// What is wrong.
        problem: String,
    },
    /// Tensors share their data in other files: a small file would become large in memory.
    #[error(
        "tensors refer to {referred} bytes of other files, but only to {covered} different ones; at most twice as many are allowed"
    )]
    Overlap {
        /// Bytes of all tensors that have their data in other files.
        referred: u64,
        /// Bytes of those files that belong to at least one tensor.
        covered: u64,
    },
    /// An input of the model is of a kind that a graph has not.
    #[error("input {input}: {problem}")]
    Input {
        /// The input.
        input: String,
        /// What is wrong.
        problem: String,
    },
    /// An output of the model cannot be an output of a graph.
    #[error("output {output}: {problem}{}", length_of(dim.as_deref(), ""))]
    Output {
        /// The output, or `graph`.
        output: String,
        /// What is wrong.
        problem: String,
        /// The dimension that must have a length for it, if one must.
        dim: Option<String>,
    },
    /// Dimensions have no length.
    #[error("{}", missing(.0, ""))]
    MissingDims(Vec<MissingDim>),
    /// A length is given to a dimension that the model lacks.
    #[error("the model has no dimension called {name}; {}", if known.is_empty() { "all of its dimensions have lengths".to_owned() } else { format!("it has {}", known.join(", ")) })]
    UnknownDim {
        /// The name.
        name: String,
        /// The names that there are.
        known: Vec<String>,
    },
    /// A length is not possible.
    #[error("dimension {name} is {length}; expected from 1 to {}", super::dims::MAX_LENGTH)]
    DimLength {
        /// The dimension.
        name: String,
        /// Its length.
        length: i64,
    },
    /// Two values have one name.
    #[error("two values are called {name}")]
    Duplicate {
        /// The name.
        name: String,
    },
    /// A node reads a value that no node writes, and that is neither an input nor stored.
    #[error("{node}: reads {value}, which nothing in the file gives")]
    NoSuchValue {
        /// The reading node, or `outputs`.
        node: String,
        /// The value.
        value: String,
    },
    /// Nodes read each other.
    #[error("{node}: reads, by way of other nodes, its own result")]
    Cycle {
        /// One of the nodes.
        node: String,
    },
    /// Nodes that have no counterpart here: all of them.
    #[error("{}", unsupported(.0, ""))]
    Unsupported(Vec<UnsupportedNode>),
    /// The graph that was made is not valid.
    #[error(transparent)]
    Graph(#[from] crate::graph::GraphError),
}

/// A dimension that has no length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingDim {
    /// Its name: the model's, or `{input}.{axis}` where the model has none.
    pub name: String,
    /// The inputs that have it.
    pub inputs: Vec<String>,
}

/// A node that has no counterpart here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsupportedNode {
    /// Its name, or where it has none, that of its first output.
    pub name: String,
    /// The operator, with its domain unless that is the default one.
    pub op_type: String,
    /// Why.
    pub reason: String,
    /// The dimension that must have a length for it, if that is what is missing.
    pub dim: Option<String>,
}

/// Lines of a list of nodes; behind them, nodes are only counted.
const MOST_LINES: usize = 20;

impl OnnxError {
    /// The message for the caller of a program, where lengths of dimensions follow `argument`, as in `--dim seq=8`.
    #[must_use]
    pub fn with_argument(&self, argument: &str) -> String {
        let argument = format!("{argument} ");
        match self {
            Self::MissingDims(dims) => missing(dims, &argument),
            Self::Unsupported(nodes) => unsupported(nodes, &argument),
            Self::Output { output, problem, dim } => {
                format!("output {output}: {problem}{}", length_of(dim.as_deref(), &argument))
            }
            other => other.to_string(),
        }
    }
}

fn opset(version: i64) -> String {
    match version {
        0 => "the file does not say for which opset it is written".to_owned(),
        version => format!("the file is written for opset {version}"),
    }
}

fn missing(dims: &[MissingDim], argument: &str) -> String {
    let all = dims.iter().map(|d| format!("{} (of {})", d.name, d.inputs.join(", "))).collect::<Vec<_>>().join(", ");
    let example = dims.iter().map(|d| format!("{}=8", d.name)).collect::<Vec<_>>().join(",");
    let are = if dims.len() == 1 { "a dimension is" } else { "dimensions are" };
    format!("{are} not given: {all}; give each a length, as in {argument}{example}")
}

fn length_of(dim: Option<&str>, argument: &str) -> String {
    dim.map_or_else(String::new, |dim| format!("; give {dim} a length, as in {argument}{dim}=8"))
}

/// One line for all nodes of an operator with the same reason, in the order of the first of each.
fn unsupported(nodes: &[UnsupportedNode], argument: &str) -> String {
    let mut line_of: HashMap<(&str, &str), usize> = HashMap::new();
    let mut lines: Vec<(&UnsupportedNode, usize)> = Vec::new();
    for node in nodes {
        let line = *line_of.entry((&node.op_type, &node.reason)).or_insert(lines.len());
        match lines.get_mut(line) {
            Some((_, count)) => *count += 1,
            None => lines.push((node, 1)),
        }
    }
    let count = if nodes.len() == 1 { "1 node".to_owned() } else { format!("{} nodes", nodes.len()) };
    let mut text = format!("{count} cannot be imported:");
    for (first, count) in lines.iter().take(MOST_LINES) {
        let UnsupportedNode { name, op_type, reason, dim } = first;
        let hint = length_of(dim.as_deref(), argument);
        text += &match count {
            1 => format!("\n  {name} ({op_type}): {reason}{hint}"),
            _ => format!("\n  {op_type} ×{count}, first {name}: {reason}{hint}"),
        };
    }
    let more: usize = lines.iter().skip(MOST_LINES).map(|(_, count)| count).sum();
    if more > 0 {
        text += &format!("\n  and {more} more");
    }
    text
}

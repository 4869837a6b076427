//! Errors of an import.

use std::collections::HashMap;

/// Errors of an import.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum OnnxError {
    /// A file could not be opened or read.
    #[error("{path}: {message}")]
    Io {
        /// The path of the file.
        path: String,
        /// The message of the operating system.
        message: String,
    },
    /// The bytes are not a model: truncated, damaged, or another kind of file.
    #[error("not a sound ONNX file: {message}")]
    Decode {
        /// The problem, as the end of a sentence.
        message: String,
    },
    /// The file would take far more memory than it has bytes, which a sound file does not.
    #[error("the file has {bytes} bytes but would take {needed} bytes of memory to read; at most {limit} are allowed")]
    Expansion {
        /// Bytes of the file.
        bytes: usize,
        /// Bytes of memory that its parts would take.
        needed: usize,
        /// The most that is allowed.
        limit: usize,
    },
    /// The opset is not supported.
    #[error("{}; supported are {} to {}", opset(*version), super::OPSETS.start(), super::OPSETS.end())]
    Opset {
        /// The version of the default opset; 0 if the file names none.
        version: i64,
    },
    /// A stored tensor has a wrong shape, type or length.
    #[error("tensor {tensor}: {problem}")]
    Tensor {
        /// The name of the tensor.
        tensor: String,
        /// The problem, as the end of a sentence.
        problem: String,
    },
    /// The data of a tensor in another file cannot be used.
    #[error("tensor {tensor}: its data lie in {location:?}: {problem}")]
    External {
        /// The name of the tensor.
        tensor: String,
        /// The path of the other file, as the model gives it.
        location: String,
        /// The problem, as the end of a sentence.
        problem: String,
    },
    /// Tensors share their data in other files: a small file would become large in memory.
    #[error(
        "tensors refer to {referred} bytes of other files, but only to {covered} different ones; at most twice as many are allowed"
    )]
    Overlap {
        /// The number of bytes of all tensors that have their data in other files.
        referred: u64,
        /// The number of bytes of those files that belong to at least one tensor.
        covered: u64,
    },
    /// An input of the model has a type or shape that a graph does not support.
    #[error("input {input}: {problem}")]
    Input {
        /// The name of the input.
        input: String,
        /// The problem, as the end of a sentence.
        problem: String,
    },
    /// An output of the model cannot be an output of a graph.
    #[error("output {output}: {problem}{}", length_of(dim.as_deref(), *length, ""))]
    Output {
        /// The name of the output, or `graph`.
        output: String,
        /// The problem, as the end of a sentence.
        problem: String,
        /// The dimension whose length would help, if one would.
        dim: Option<String>,
        /// A length of that dimension that would help.
        length: usize,
    },
    /// Dimensions of the model need lengths, and [`ImportOptions`](super::ImportOptions) give none.
    #[error("{}", missing(.0, ""))]
    MissingDims(Vec<MissingDim>),
    /// [`ImportOptions`](super::ImportOptions) give a length to a dimension that the model lacks.
    #[error("the model has no dimension called {name}; {}", if known.is_empty() { "all of its dimensions have lengths".to_owned() } else { format!("it has {}", known.join(", ")) })]
    UnknownDim {
        /// The name that was given.
        name: String,
        /// The names of the model's dimensions.
        known: Vec<String>,
    },
    /// The length of a dimension is out of range.
    #[error("dimension {name} is {length}; expected from 1 to {}", super::dims::MAX_LENGTH)]
    DimLength {
        /// The name of the dimension.
        name: String,
        /// The length that was given.
        length: i64,
    },
    /// Two values have the same name.
    #[error("two values are called {name}")]
    Duplicate {
        /// The name.
        name: String,
    },
    /// A node reads a value that no node writes, and that is neither an input nor stored.
    #[error("{node}: reads {value}, which nothing in the file gives")]
    NoSuchValue {
        /// The name of the node that reads the value, or `outputs`.
        node: String,
        /// The name of the value.
        value: String,
    },
    /// Nodes form a cycle.
    #[error("{node}: reads, by way of other nodes, its own result")]
    Cycle {
        /// The name of one of the nodes.
        node: String,
    },
    /// Some nodes are not supported. All of them are listed.
    #[error("{}", unsupported(.0, ""))]
    Unsupported(Vec<UnsupportedNode>),
    /// The graph that results is not valid.
    #[error(transparent)]
    Graph(#[from] crate::graph::GraphError),
}

/// A dimension of the model that needs a length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingDim {
    /// The name in the model, or `{input}.{axis}` if the model gives none.
    pub name: String,
    /// The names of the inputs that have the dimension.
    pub inputs: Vec<String>,
}

/// A node that is not supported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsupportedNode {
    /// The name of the node, or the name of its first output if the node has none.
    pub name: String,
    /// The operator, with its domain unless that is the default one.
    pub op_type: String,
    /// The reason, without the name of the node.
    pub reason: String,
    /// The dimension whose length would help, if one would.
    pub dim: Option<String>,
    /// A length of that dimension that would help.
    pub length: usize,
    /// The length that the dimension has been given, where the file is made for another one.
    pub given: Option<usize>,
}

/// The length that advice names where it helps.
pub(super) const EXAMPLE_LENGTH: usize = 8;

/// The most lines of a list of nodes. Further nodes are counted.
const MOST_LINES: usize = 20;

impl OnnxError {
    /// Returns the message for a command line on which lengths of dimensions follow `argument`, as in `--dim seq=8`.
    #[must_use]
    pub fn with_argument(&self, argument: &str) -> String {
        let argument = format!("{argument} ");
        match self {
            Self::MissingDims(dims) => missing(dims, &argument),
            Self::Unsupported(nodes) => unsupported(nodes, &argument),
            Self::Output { output, problem, dim, length } => {
                format!("output {output}: {problem}{}", length_of(dim.as_deref(), *length, &argument))
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
    let example = dims.iter().map(|d| format!("{}={EXAMPLE_LENGTH}", d.name)).collect::<Vec<_>>().join(",");
    let are = if dims.len() == 1 { "a dimension is" } else { "dimensions are" };
    let only = "lengths are fixed at import, except that of one dimension in front, the batch";
    format!("{are} not given: {all}; {only}; give each a length, as in {argument}{example}")
}

fn length_of(dim: Option<&str>, length: usize, argument: &str) -> String {
    dim.map_or_else(String::new, |dim| format!("; give {dim} a length, as in {argument}{dim}={length}"))
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
        let UnsupportedNode { name, op_type, reason, dim, length, given } = first;
        let hint = match (dim, given) {
            (Some(dim), Some(given)) => {
                format!("; the file can be imported with {argument}{dim}={length}, not with {dim}={given}")
            }
            _ => length_of(dim.as_deref(), *length, argument),
        };
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

//! Options and errors of an export.

use std::fmt;
use std::str::FromStr;

/// The reader that a file is written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Preset {
    /// ONNX Runtime and other readers of quantize/dequantize models: zero points may have any value, and quantized activations are `uint8`,
    /// for which ONNX Runtime has integer kernels on all processors. Biases of statically quantized
    /// convolutions, and of such linear layers on two axes, are quantized to `int32` with the scale of the accumulator, without which
    /// ONNX Runtime does not fuse a layer and its ReLU into an integer kernel. Biases stay float if weights have fewer than 8 bits,
    /// since the rounding to such large steps would move the output.
    #[default]
    OnnxRuntime,
    /// TensorRT: static quantization with zero points of 0 only; biases are float.
    TensorRt,
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OnnxRuntime => "onnxruntime",
            Self::TensorRt => "tensorrt",
        })
    }
}

impl FromStr for Preset {
    type Err = ExportError;

    /// Parses the names that [`Display`](fmt::Display) writes: `onnxruntime` and `tensorrt`.
    fn from_str(name: &str) -> Result<Self, ExportError> {
        match name {
            "onnxruntime" => Ok(Self::OnnxRuntime),
            "tensorrt" => Ok(Self::TensorRt),
            _ => Err(ExportError::Preset { name: name.to_owned() }),
        }
    }
}

/// Options of an export. The default is a file for ONNX Runtime.
///
/// ```
/// use enfold::onnx::{ExportOptions, Preset};
///
/// let options = ExportOptions { preset: Preset::TensorRt, ..ExportOptions::default() };
/// assert_eq!((options.batch.as_str(), options.producer.as_str()), ("batch", "enfold"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportOptions {
    /// The reader that the file is written for.
    pub preset: Preset,
    /// The name of the leading dimension, which is `rows` in the graph: "batch" by default.
    pub batch: String,
    /// The program that the file names as its producer: "enfold" by default.
    pub producer: String,
}

impl Default for ExportOptions {
    fn default() -> Self {
        Self { preset: Preset::default(), batch: "batch".to_owned(), producer: "enfold".to_owned() }
    }
}

/// A node that has no form in ONNX.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inexpressible {
    /// The name of the node.
    pub node: String,
    /// The [`Op::name`](crate::ops::Op::name) of its operator.
    pub op: &'static str,
    /// The reason, without the name of the node.
    pub reason: String,
}

impl fmt::Display for Inexpressible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.node, self.op, self.reason)
    }
}

/// Errors of an export.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// Some nodes have no form in ONNX. All of them are listed.
    #[error("{} nodes have no form in ONNX for {preset}: {}", nodes.len(), listed(nodes))]
    Inexpressible {
        /// The reader that the file would be for.
        preset: Preset,
        /// The nodes, in execution order.
        nodes: Vec<Inexpressible>,
    },
    /// The graph is in the integer form, whose operators ONNX lacks.
    #[error(
        "{node}: is {op}, one of {count} nodes of the integer form, which ONNX lacks; export the quantize/dequantize graph \
         that it was made of, which convert returns by default"
    )]
    Integers {
        /// The name of the first such node.
        node: String,
        /// The [`Op::name`](crate::ops::Op::name) of its operator.
        op: &'static str,
        /// The number of such nodes.
        count: usize,
    },
    /// Some zero points are not 0, which TensorRT refuses. All of them are listed.
    #[error(
        "{} of the graph's {of} quantize and dequantize nodes have zero points other than 0, which TensorRT does not take: {}; \
         quantize with QuantizationConfig::symmetric().symmetric_activations()",
        nodes.len(), zero_points(nodes)
    )]
    Asymmetric {
        /// The nodes with their first zero point that is not 0, in execution order.
        nodes: Vec<(String, i32)>,
        /// The number of all quantize and dequantize nodes.
        of: usize,
    },
    /// No preset has this name.
    #[error("there is no preset {name:?}; the presets are onnxruntime and tensorrt")]
    Preset {
        /// The name given.
        name: String,
    },
    /// The name of the leading dimension is empty or a number.
    #[error("the leading dimension cannot be called {name:?}: a name is not empty and not a number")]
    BatchName {
        /// The name given.
        name: String,
    },
    /// The model is too large for one file.
    #[error(
        "the model takes {size_bytes} bytes, and an ONNX file at most {limit_bytes}; save() writes the weights to a second file"
    )]
    TooLarge {
        /// The size of the model in bytes.
        size_bytes: usize,
        /// The largest size of a file in bytes.
        limit_bytes: usize,
    },
    /// A file could not be written.
    #[error("{path}: {message}")]
    Io {
        /// The path of the file.
        path: String,
        /// The message of the operating system.
        message: String,
    },
}

fn listed(nodes: &[Inexpressible]) -> String {
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn zero_points(nodes: &[(String, i32)]) -> String {
    nodes.iter().map(|(node, zero_point)| format!("{node} ({zero_point})")).collect::<Vec<_>>().join(", ")
}

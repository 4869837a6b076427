//! Graphs as ONNX files: opset 17, quantization as QuantizeLinear and DequantizeLinear.

mod check;
mod constants;
mod elementwise;
mod embedding;
mod exporter;
mod file;
mod integer;
mod linear;
mod matmul;
mod movement;
mod norm;
mod quantize;
mod reduce;
#[cfg(test)]
mod tests;
mod unary;
mod writer;

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use crate::graph::Graph;

/// Whom a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Preset {
    /// ONNX Runtime and other readers of QDQ: any zero points. Biases of statically quantized layers on rank 2 are `int32` codes at
    /// the scale of the layer's sums, without which ONNX Runtime does not fuse a layer and its ReLU to an integer kernel; they stay
    /// float where weights have less than 7 bits, whose coarse sums would move the output.
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

    /// Takes what [`Display`](fmt::Display) writes.
    fn from_str(name: &str) -> Result<Self, ExportError> {
        match name {
            "onnxruntime" => Ok(Self::OnnxRuntime),
            "tensorrt" => Ok(Self::TensorRt),
            _ => Err(ExportError::Preset { name: name.to_owned() }),
        }
    }
}

/// How a graph is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportOptions {
    preset: Preset,
    batch: String,
    producer: String,
}

impl Default for ExportOptions {
    fn default() -> Self {
        Self { preset: Preset::default(), batch: "batch".to_owned(), producer: "enfold".to_owned() }
    }
}

impl ExportOptions {
    /// For ONNX Runtime, with the leading dimension called "batch".
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// For whom.
    #[must_use]
    pub fn preset(mut self, preset: Preset) -> Self {
        self.preset = preset;
        self
    }

    /// The name of the leading dimension, `rows`.
    #[must_use]
    pub fn batch(mut self, name: &str) -> Self {
        name.clone_into(&mut self.batch);
        self
    }

    /// What the file says made it.
    #[must_use]
    pub fn producer(mut self, name: &str) -> Self {
        name.clone_into(&mut self.producer);
        self
    }
}

/// A node that cannot be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inexpressible {
    /// Its name.
    pub node: String,
    /// Its [`Op::name`](crate::graph::Op::name).
    pub op: &'static str,
    /// Why.
    pub reason: String,
}

impl fmt::Display for Inexpressible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.node, self.op, self.reason)
    }
}

/// Why a graph was not exported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// Nodes without a form in ONNX, all of them.
    #[error("{} nodes have no form in ONNX for {preset}: {}", nodes.len(), listed(nodes))]
    Inexpressible {
        /// For whom.
        preset: Preset,
        /// The nodes, in execution order.
        nodes: Vec<Inexpressible>,
    },
    /// The integer form, whose ops are this crate's own.
    #[error(
        "{node}: is {op}, one of {count} nodes of the integer form, which ONNX lacks; export the quantize/dequantize graph \
         that it was made of, which convert returns by default"
    )]
    Integers {
        /// The first such node.
        node: String,
        /// Its [`Op::name`](crate::graph::Op::name).
        op: &'static str,
        /// How many there are.
        count: usize,
    },
    /// Zero points that TensorRT does not take, all of them.
    #[error(
        "{} of the graph's {of} quantize and dequantize nodes have zero points other than 0, which TensorRT does not take: {}; \
         quantize with QuantizationConfig::symmetric().symmetric_activations()",
        nodes.len(), zero_points(nodes)
    )]
    Asymmetric {
        /// The nodes with their first zero point that is not 0, in execution order.
        nodes: Vec<(String, i32)>,
        /// How many quantize and dequantize nodes there are.
        of: usize,
    },
    /// An unknown preset.
    #[error("there is no preset {name:?}; the presets are onnxruntime and tensorrt")]
    Preset {
        /// The name given.
        name: String,
    },
    /// A name of the leading dimension that cannot be one.
    #[error("the leading dimension cannot be called {name:?}: a name is not empty and not a number")]
    BatchName {
        /// The name given.
        name: String,
    },
    /// More than one file can hold.
    #[error(
        "the model takes {size_bytes} bytes, and an ONNX file at most {limit_bytes}; save() writes the weights to a second file"
    )]
    TooLarge {
        /// Bytes of the model.
        size_bytes: usize,
        /// The most that a file holds.
        limit_bytes: usize,
    },
    /// A file could not be written.
    #[error("{path}: {message}")]
    Io {
        /// The file.
        path: String,
        /// What the system says.
        message: String,
    },
}

fn listed(nodes: &[Inexpressible]) -> String {
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn zero_points(nodes: &[(String, i32)]) -> String {
    nodes.iter().map(|(node, zero_point)| format!("{node} ({zero_point})")).collect::<Vec<_>>().join(", ")
}

/// The graph as the bytes of an ONNX file of opset 17.
///
/// What goes out is a float graph or the quantize/dequantize form that [`convert`](crate::quantize::convert()) returns, static or
/// dynamic. Values and nodes have the names of the graph's nodes, outputs those of the float nodes they stem from; what an op
/// decomposes into is called `{node}.{part}`.
///
/// - `rows` is a symbolic dimension, so that any batch runs.
/// - Inputs of `i32` are declared `int64`, as tokenizers make ids, and cast.
/// - Weights are int8 initializers with a DequantizeLinear, whatever their number of bits. A linear layer is a Gemm on rank 2, else,
///   and where it is dynamic, a MatMul of the transposed weight and an Add.
/// - Codes of less than int8 are held to their range by a Clip before the QuantizeLinear.
/// - Dynamic quantization per tensor is DynamicQuantizeLinear, whose `uint8` codes are ours plus 128. It knows no smallest scale:
///   a value that spans less than 255 times our smallest (255 · 2⁻¹² = 0.062 by default) is quantized more finely there. Per token,
///   or with other codes, there is no such operator: the same arithmetic is written out in floats.
///
/// Run as it is written, a file gives the interpreter's codes. Integer kernels that a reader puts in its place round differently,
/// by at most one step an operator; of ONNX Runtime, on processors without VNNI, only with `session.x64quantprecision` set to 1,
/// without which sums of 8-bit weights saturate.
///
/// # Errors
/// [`ExportError`] names every node that has no form there, and models beyond 1.9 GB, which [`save`] divides.
pub fn export(graph: &Graph, options: &ExportOptions) -> Result<Vec<u8>, ExportError> {
    file::encode(&model(graph, options)?, file::LIMIT_BYTES)
}

/// Writes the graph to an ONNX file. Of models beyond 1.9 GB, which no such file holds, the weights go to a second file beside it,
/// called as `path` with `.data` appended. Both are complete before either takes the place of a file that is there: also of one
/// in which another model keeps its weights, so compare [`data_files`](crate::onnx::data_files) of such a model.
///
/// # Errors
/// As [`export()`], and [`ExportError::Io`] for a file that cannot be written.
pub fn save(graph: &Graph, path: impl AsRef<Path>, options: &ExportOptions) -> Result<(), ExportError> {
    file::save(model(graph, options)?, path.as_ref(), file::LIMIT_BYTES)
}

fn model(graph: &Graph, options: &ExportOptions) -> Result<super::proto::ModelProto, ExportError> {
    if options.batch.trim().is_empty() || options.batch.parse::<f64>().is_ok() {
        return Err(ExportError::BatchName { name: options.batch.clone() });
    }
    let needed = check::needed(graph);
    check::check(graph, options.preset, &needed)?;
    let exporter = exporter::Exporter::new(graph, options);
    exporter.run(&needed).map_err(|nodes| ExportError::Inexpressible { preset: options.preset, nodes })
}

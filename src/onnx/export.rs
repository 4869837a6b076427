//! Export of graphs to ONNX files of opset 17, with quantization as QuantizeLinear and DequantizeLinear.

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

/// The reader that a file is written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Preset {
    /// ONNX Runtime and other readers of quantize/dequantize models: zero points may have any value. Biases of statically quantized layers
    /// on two axes are quantized to `int32` with the scale of the accumulator, without which ONNX Runtime does not fuse a layer and
    /// its ReLU into an integer kernel. Biases stay float if weights have less than 7 bits, since the rounding to such large steps would
    /// move the output.
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

/// Options of an export.
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
    /// Options for ONNX Runtime, with the leading dimension called "batch".
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the reader that the file is written for.
    #[must_use]
    pub fn preset(mut self, preset: Preset) -> Self {
        self.preset = preset;
        self
    }

    /// Sets the name of the leading dimension, which is `rows` in the graph.
    #[must_use]
    pub fn batch(mut self, name: &str) -> Self {
        name.clone_into(&mut self.batch);
        self
    }

    /// Sets the program that the file names as its producer.
    #[must_use]
    pub fn producer(mut self, name: &str) -> Self {
        name.clone_into(&mut self.producer);
        self
    }
}

/// A node that has no form in ONNX.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inexpressible {
    /// The name of the node.
    pub node: String,
    /// The [`Op::name`](crate::graph::Op::name) of its operator.
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
        /// The [`Op::name`](crate::graph::Op::name) of its operator.
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

/// Writes a graph as the bytes of an ONNX file of opset 17.
///
/// The graph is a float graph, or the quantize/dequantize form that [`convert`](crate::quantize::convert()) returns, static or dynamic.
/// Values and nodes have the names of the graph's nodes, and outputs those of [`Graph::output_names`]. The nodes that one node of the
/// graph decomposes into are called `{node}.{part}`.
///
/// - `rows` is a symbolic dimension, so that any batch runs.
/// - Inputs of `i32` are declared `int64`, the type that tokenizers make ids of, and cast.
/// - Weights are int8 initializers with a DequantizeLinear, whatever their number of bits. A linear layer on two axes is a Gemm. On more
///   axes, and if it is quantized dynamically, it is a MatMul with the transposed weight and an Add.
/// - A Clip before the QuantizeLinear limits quantized values of less than 8 bits to their range.
/// - Dynamic quantization per tensor to int8 is DynamicQuantizeLinear, whose `uint8` values are those of the graph plus 128. That operator
///   has no smallest scale, so a tensor whose values span less than 255 times the smallest scale of the graph (255 · 2⁻¹² = 0.062 by
///   default) is quantized more finely. ONNX has no operator for dynamic quantization per token or to other ranges, so its arithmetic
///   is written out in floats.
///
/// A runtime that computes each node as it is written gets the interpreter's quantized values. Integer kernels that a runtime puts in
/// place of the nodes round differently, by at most one step an operator. On processors without VNNI, that bound holds for ONNX Runtime
/// only with `session.x64quantprecision` set to 1, without which sums of 8-bit weights saturate.
///
/// # Errors
/// [`ExportError`] names every node that has no form in ONNX. Models beyond 1.9 GB are an error too; [`save`] writes their weights
/// to a second file.
pub fn export(graph: &Graph, options: &ExportOptions) -> Result<Vec<u8>, ExportError> {
    file::encode(&model(graph, options)?, file::LIMIT_BYTES)
}

/// Writes a graph to an ONNX file at `path`. The weights of a model beyond 1.9 GB, which one file cannot hold, go to a second file
/// beside it, which has the name of the first with `.data` appended. Both files are complete before they replace existing files.
/// An existing `.data` file is replaced even if another model keeps its weights in it, so compare
/// [`data_files`](crate::onnx::data_files) of such a model.
///
/// # Errors
/// [`ExportError`], for the same reasons as [`export()`], and [`ExportError::Io`] for a file that cannot be written.
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

//! Export of graphs to ONNX files of opset 17, with quantization as QuantizeLinear and DequantizeLinear.

mod check;
mod constants;
mod conv;
mod dynamic_values;
mod elementwise;
mod embedding;
mod exporter;
mod file;
mod groups;
mod integer;
mod linear;
mod matmul;
mod movement;
mod norm;
mod options;
mod pool;
mod quantize;
mod reduce;
#[cfg(test)]
mod tests;
mod unary;
mod writer;

use std::path::Path;

use crate::graph::Graph;

use self::exporter::Write;
pub use self::options::{ExportError, ExportOptions, Inexpressible, Preset};

/// The families of operators. Each writes the nodes that it knows.
const FAMILIES: &[Write] = &[
    conv::write,
    elementwise::write,
    embedding::write,
    integer::write,
    linear::write,
    matmul::write,
    movement::write,
    norm::write,
    pool::write,
    quantize::write,
    reduce::write,
    unary::write,
];

/// Writes a graph as the bytes of an ONNX file of opset 17.
///
/// The graph is a float graph, or the quantize/dequantize form that [`convert`](crate::quantize::convert()) returns, static or dynamic.
/// Values and nodes have the names of the graph's nodes, and outputs those of [`Graph::output_names`]. The nodes that one node of the
/// graph decomposes into are called `{node}.{part}`.
///
/// - `rows` is a symbolic dimension, so that any batch runs.
/// - Inputs of `i32` are declared `int64`, the type that tokenizers make ids of, and cast.
/// - Weights are int8 initializers with a DequantizeLinear, whatever their number of bits. A linear layer on two axes is a Gemm. On more
///   axes, it is a MatMul with the transposed weight and an Add.
/// - Quantized activations are `uint8` for ONNX Runtime, 128 higher than in the graph, and int8 for TensorRT. ONNX Runtime has products of
///   `uint8` with int8 on all processors, and runs each layer that has an integer form in integers.
/// - A convolution reads its weight as it is. An adaptive average pool is a GlobalAveragePool, or an AveragePool whose windows are of
///   one size; one whose windows differ in size is refused.
/// - A Clip limits quantized values of less than 8 bits to their range: after the QuantizeLinear for ONNX Runtime, before it for TensorRT.
/// - Dynamic quantization per tensor to int8 is DynamicQuantizeLinear, whose `uint8` values are those of the graph plus 128. That operator
///   has no smallest scale, so a tensor whose values span less than 255 times the smallest scale of the graph (255 · 2⁻¹² = 0.062 by
///   default) is quantized more finely. ONNX has no operator for dynamic quantization per token, with zero point 0 or to other ranges, so
///   the file defines functions of domain `enfold` for them, which any reader replaces by their nodes.
/// - A dynamic layer is MatMulInteger, Cast, Mul with the scales, and Add, of which ONNX Runtime makes one operator. If each token has a
///   scale, it is a function too, whose products are a MatMulInteger. So is a product of two values, if the second is quantized per
///   tensor.
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
/// Returns [`ExportError`] for the same reasons as [`export()`], and [`ExportError::Io`] for a file that cannot be written.
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
    exporter.run(&needed, FAMILIES).map_err(|nodes| ExportError::Inexpressible { preset: options.preset, nodes })
}

//! Import and export of ONNX files, float and quantized.
//!
//! [`load`] reads a file of opset 7 to 26 and gives a float [`Graph`], or a quantize/dequantize graph if the file has QuantizeLinear
//! and DequantizeLinear nodes, or operators of quantized values such as QLinearConv. [`export()`] writes such a graph for ONNX Runtime,
//! TensorRT and other readers of ONNX.
//!
//! The import evaluates every node that depends only on stored values and known dimensions. It finds layers that a file spells out
//! in smaller nodes: `MatMul` and `Add` become a linear layer, and decomposed layer normalizations, GELU and SiLU become one node
//! each.
//!
//! # Dimensions
//! [`ImportOptions::dims`] gives a length to a dimension that the model names, such as `batch` or `seq`. A dimension without a name is
//! called `{input}.{axis}`; so is one that the file calls `?`, and one of length −1, which old files write for an unknown length. A
//! dimension of length 0 is refused unless it is given a length by that name. One dimension may be left out if it is the first axis
//! of all inputs that have it: it becomes `rows`, which varies at run time. All others must be given. A model that moves the batch, or
//! merges it with another axis in a way that a graph cannot express, needs the length of the batch too, and the error says so.
//!
//! A model may have the batch behind another axis, as in `[sequence, batch, features]` behind a transpose. The graph keeps it in front;
//! operators on single elements, those that move elements, recurrent layers, reductions, softmax, layer normalizations and products with a
//! known matrix take its axes as the model has them. An input of the model whose batch is not in front has a batch of fixed length.
//!
//! # Numbers
//! - **Floats** of any width are computed in `f32`. A cast to 16 bits rounds to nearest, ties to even; other operators on 16 bits
//!   keep the precision of `f32`. A known float of 64 bits that is beyond the range of `f32` is refused.
//! - **Integers** are computed in `i32`, exactly: types of up to 32 bits wrap around, and quotients lose their fraction. For wider types
//!   and `uint32`, an input or a result that `i32` does not hold is an error on the interpreter and the CPU engine, and wraps around on
//!   a GPU. An operator without an integer form is refused; only a cast converts integers to floats.
//! - **Ids** of `Gather`, and indices of `GatherElements`, `GatherND`, `ScatterElements` and `ScatterND`, are given or computed; those below
//!   0 count from the end of the axis. An id outside its axis is an error on the interpreter and the CPU engine, and stands for the nearest
//!   element on a GPU. Updates that meet in one element follow each other in their order, on every engine; the last one counts unless
//!   they are added or joined in another way.
//! - **Booleans** that are computed at run time are the floats 0 and 1. NaN as a boolean is true.
//! - **Comparisons** follow IEEE 754: NaN is equal to nothing, itself included, and neither greater nor less. `Max` and `Min` are NaN if
//!   either value is. `Where` selects, so that nothing of the other branch shows.
//!
//! # Quantized values
//! - **Values of 8 bits** are int8, those of `uint8` 128 lower than in the file. An input or output of the model that is `uint8` is `i32`
//!   in the graph, with the numbers of the file. `Clip`, `Relu`, `Max`, `Min`, `Where`, `Expand` and operators that move elements work on
//!   quantized values; a table of them may be read by `Gather` before it is dequantized.
//! - **Dynamic quantization** as ONNX Runtime's quantizer writes it (`DynamicQuantizeLinear`, `MatMulInteger`, `Cast`, `Mul` with the
//!   scales) becomes a layer of dequantized values, which has an integer form. Scale and zero point are those of ONNX; values are multiplied
//!   by the reciprocal of the scale ([`numerics`](crate::numerics), equation 2), where ONNX divides, so that one that is within a rounding
//!   of the middle between two steps may get the other of them. Weights of `uint8` whose zero point is not 128 and `ConvInteger` are
//!   computed in float, and the summary of the graph says why.
//! - **Values of 16 bits** are integers between float steps, which are exact.
//! - **Weights with a scale for each block** (`MatMulNBits`, `DequantizeLinear` with a `block_size`) become floats, or with
//!   [`ImportOptions::integer_groups`] group-wise integer weights, if a layer reads them without a node in between. An export writes group-wise weights of up to 4 and
//!   of 8 bits as `MatMulNBits`, whose groups are 16, 32, 64, 128 or 256 features, and the import of such a file gives the same integers.
//!
//! # Images
//! Windows of convolutions and pools slide over one or two axes. `Resize`, `Pad` with elements of the image, `Gather` at known indices and
//! slices with steps select elements along one axis after the other ([`IndexSelect`](crate::ops::IndexSelect)); cubic interpolation and
//! antialiasing are sums of such selections with weights, of at most 64 elements. `GridSample` gathers the elements around the positions of
//! a grid, which may be known or computed, and weighs them (nearest, linear or cubic). Normalizations over channels or groups of them are layer normalizations of the flat
//! image, with a scale and a bias for each channel. `tf_crop_and_resize` is refused.
//!
//! # Operators that become several
//! A function that the file defines itself is replaced by its nodes, and an `If` by the branch whose condition is known; if only a run
//! can tell, both branches are computed, so that an error in either stops the run. Attention, rotary embeddings, `Einsum` and the
//! operators that ONNX Runtime's optimizers and quantizers write (of domain `com.microsoft`: `SkipLayerNormalization`, `FusedConv`,
//! `QLinearAdd`, `MatMulNBits` and others) become the operators that they stand for. Attention with a past of keys and values is
//! supported for ONNX's own operator only.
//!
//! `LSTM`, `GRU` and `RNN` are unrolled over the steps of a sequence, up to 2048 of both directions together. The products of all inputs are
//! one linear layer, those of the state one for each step, or two for a `GRU` that resets its state before the product; all of them can be
//! quantized. Their weights must be known: stored, or computed from stored values. `Loop` and `Scan` are unrolled too, if the number of
//! their iterations is known: at most 1024.
//!
//! # Exports
//! [`export()`] lists the forms of all nodes. For [`Preset::OnnxRuntime`], they are those that its optimizer turns into integer kernels:
//! - **Static layers** read activations of `uint8` and weights of int8. ONNX Runtime fuses DequantizeLinear, layer and QuantizeLinear into
//!   `QLinearConv`, `QLinearMatMul` or `QGemm`, and a layer whose output stays float into `MatMulIntegerToFloat` or `QGemm`. A ReLU that
//!   only quantized values follow is the lower end of their range.
//! - **Dynamic layers per tensor** are DynamicQuantizeLinear, MatMulInteger, Cast, Mul and Add, which it fuses into
//!   `DynamicQuantizeMatMul`, or into `MatMulIntegerToFloat` where several layers read the same values.
//! - **Dynamic layers per token**, with zero point 0 or of other ranges are functions of the domain `enfold`, which the file defines. Any
//!   reader replaces them by their nodes: arithmetic of floats for scales and quantized values, and one MatMulInteger, which is an
//!   integer kernel.
//! - **Embedding tables of int8** ([`quantize_embeddings`](crate::quantize::quantize_embeddings)) are such a function too: it dequantizes the
//!   rows that are looked up.
//!
//! A file that is read again gives the same integers, but for the biases of static convolutions and of static linear layers on two axes:
//! ONNX Runtime fuses a bias only if it is an integer of the accumulator's scale, where a graph keeps a fraction of up to 12 bits
//! ([`numerics`](crate::numerics), equation 4). So some values are one step apart. Files for [`Preset::TensorRt`] have biases of floats.
//!
//! # Names
//! A layer has the name of the module that its weight or bias belongs to: `encoder.layer.0.attention.self.query` for a parameter
//! `encoder.layer.0.attention.self.query.bias`. Any other node keeps its name, with dots: `/encoder/MatMul` becomes `encoder.MatMul`.
//! Inputs keep their names, and so do outputs ([`Graph::output_names`]).

mod attributes;
#[cfg(test)]
mod build;
mod dims;
mod draft;
mod error;
mod export;
mod exported_functions;
mod external;
mod fold;
mod functions;
mod group_weight;
mod host;
mod import;
mod integers;
mod names;
mod patterns;
mod places;
mod proto;
mod rows;
mod scan;
mod slices;
mod tensor;
#[cfg(test)]
mod tests;
mod value;
mod values;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use prost::bytes::Bytes;

use crate::files;
use crate::graph::Graph;
use external::Folders;

pub use error::{MissingDim, OnnxError, UnsupportedNode};
pub use export::{ExportError, ExportOptions, Inexpressible, Preset, export, save};

/// The opsets that are read.
const OPSETS: RangeInclusive<i64> = 7..=26;

/// Options of an import.
///
/// ```
/// use enfold::onnx::ImportOptions;
///
/// let options = ImportOptions { dims: [("batch".to_owned(), 8)].into(), ..Default::default() };
/// assert_eq!(options, ImportOptions::with_dims([("batch", 8)]));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImportOptions {
    /// The lengths of dimensions, by the names that the model gives them. None by default.
    pub dims: BTreeMap<String, usize>,
    /// Whether weights with a scale for each block of input features (`MatMulNBits`, `DequantizeLinear` with a
    /// `block_size`) stay quantized, so that their layers have an integer
    /// form. Their quantized values are kept; each scale becomes the nearest product of a scale for the output channel and an integer of 1
    /// to 255, which moves it by up to 1/510 of the largest scale of the channel. An input that is not quantized is, dynamically for each
    /// row. Off by default: then such weights become floats, and results are within rounding of those of the file.
    pub integer_groups: bool,
}

impl ImportOptions {
    /// Creates options that give lengths to dimensions. Of two lengths for one name, the last counts.
    #[must_use]
    pub fn with_dims<N: Into<String>>(dims: impl IntoIterator<Item = (N, usize)>) -> Self {
        let dims = dims.into_iter().map(|(name, length)| (name.into(), length)).collect();
        Self { dims, ..Self::default() }
    }
}

/// Imports the file at `path`. Weights in other files are read from the folder of the model only, or if the model and those files are
/// links, from the folder that the link to the model leads to.
///
/// # Errors
/// [`OnnxError`] says what is wrong with the file, or lists all nodes that are not supported.
pub fn load(path: impl AsRef<Path>, options: &ImportOptions) -> Result<Graph, OnnxError> {
    import_from(read(path.as_ref())?, path, options)
}

/// Imports the bytes of the file at `path`, which also says where weights in other files may lie.
///
/// # Errors
/// Returns [`OnnxError`] for the same reasons as [`load`].
pub fn import_from(
    bytes: impl Into<Bytes>,
    path: impl AsRef<Path>,
    options: &ImportOptions,
) -> Result<Graph, OnnxError> {
    let path = path.as_ref();
    let folder = match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => Path::new("."),
    };
    let real = path.canonicalize().ok();
    let folders = Folders { base: Some(folder), linked: real.as_deref().and_then(Path::parent) };
    import::import(bytes.into(), folders, options)
}

/// Returns the other files in which the model at `path` keeps weights. A program that overwrites one of them changes the model.
///
/// # Errors
/// Returns [`OnnxError`] if the model cannot be read.
pub fn data_files(path: impl AsRef<Path>) -> Result<Vec<PathBuf>, OnnxError> {
    let path = path.as_ref();
    external::files(read(path)?, path.parent().unwrap_or(Path::new("")))
}

/// Returns how many nodes of each operator a file has, by the operator's name, with its domain unless that is the default one. Nodes of
/// functions and branches are not counted.
///
/// # Errors
/// Returns [`OnnxError`] if the bytes are no ONNX file.
pub fn operators(bytes: impl Into<Bytes>) -> Result<BTreeMap<String, usize>, OnnxError> {
    import::operators(bytes.into())
}

fn read(path: &Path) -> Result<Bytes, OnnxError> {
    let io = |e: std::io::Error| OnnxError::Io { path: path.display().to_string(), message: e.to_string() };
    Ok(files::read(path).map_err(io)?.into())
}

/// Imports the bytes of a file. Weights in other files must lie in `folder`; without a folder, a model that has such weights is
/// refused.
///
/// # Errors
/// Returns [`OnnxError`] for the same reasons as [`load`].
pub fn import(bytes: impl Into<Bytes>, folder: Option<&Path>, options: &ImportOptions) -> Result<Graph, OnnxError> {
    import::import(bytes.into(), Folders { base: folder, linked: None }, options)
}

//! ONNX files: float and quantized networks in, float and quantized networks out.
//!
//! [`export()`] writes a float or quantize/dequantize graph for ONNX Runtime, TensorRT and whatever else reads ONNX.
//!
//! [`load`] reads a file of opset 11 to 21 and makes a float [`Graph`], or a Q/DQ graph if the file has quantize and dequantize
//! nodes. Everything that depends on stored values and known dimensions only is evaluated while importing. Of patterns, layers
//! are made: `MatMul` and `Add` become linear layers, and decomposed layer normalizations, GELU and SiLU become themselves.
//!
//! # Dimensions
//! A dimension that the model names (`batch`, `seq`) is given a length by [`ImportOptions::dim`]; one without a name is called
//! `{input}.{axis}`, and so is one of length −1, which old files have instead, or called `?`; one of length 0 is refused unless it
//! is given a length by that name. One that leads all inputs that have it may be left out: it becomes `rows`, which varies at run
//! time. All others must be given. A model that moves the batch or merges it with another axis in a way that a graph cannot express needs
//! that length too; the error says so.
//!
//! # Numbers
//! Floats of any width are computed in `f32`; a cast to 16 bits rounds them, to nearest and ties to even, and what else a model
//! computes in 16 bits keeps the precision of `f32`. Known ones are refused where 64 bits hold more than `f32`. Integers are
//! `i32`, and what is computed of them is exact: types of up to 32 bits wrap around, quotients lose their fraction. Of wider types
//! and `uint32`, results that `i32` does not hold are an error on interpreter and CPU, as inputs that do not fit are, and wrap
//! around on a GPU. What has no integer form is refused: no integer becomes a float but by a cast. Booleans that are computed at
//! run time are floats, 0 and 1. Comparisons and choices follow IEEE 754: a NaN is equal to nothing, itself included, and neither
//! greater nor less; `Max` and `Min` are NaN if either value is; a NaN as a boolean is true. `Where` chooses: nothing of the
//! branch not taken shows.
//!
//! # Names
//! A layer is called as the module that its weight or bias belongs to (`encoder.layer.0.attention.self.query` for a parameter
//! `encoder.layer.0.attention.self.query.bias`), any other node by its own name, with dots (`/encoder/MatMul` becomes
//! `encoder.MatMul`). Inputs keep their names, and so do outputs ([`Graph::output_names`]).

mod attributes;
#[cfg(test)]
mod build;
mod dims;
mod draft;
mod error;
mod export;
mod external;
mod fold;
mod functions;
mod host;
mod import;
mod integers;
mod names;
mod patterns;
mod proto;
mod rows;
mod scan;
mod slices;
mod tensor;
#[cfg(test)]
mod tests;
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

/// The versions of the default operator set that are read.
const OPSETS: RangeInclusive<i64> = 11..=21;

/// How a file is imported.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImportOptions {
    dims: BTreeMap<String, usize>,
}

impl ImportOptions {
    /// No dimension has a length of its own.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives a dimension of the model a length.
    #[must_use]
    pub fn dim(mut self, name: impl Into<String>, length: usize) -> Self {
        self.dims.insert(name.into(), length);
        self
    }

    /// Gives several dimensions their lengths.
    #[must_use]
    pub fn dims<N: Into<String>>(mut self, dims: impl IntoIterator<Item = (N, usize)>) -> Self {
        self.dims.extend(dims.into_iter().map(|(name, length)| (name.into(), length)));
        self
    }
}

/// Imports a file. Data in other files are read from the folder of this one, or where both are links, from the folder that
/// the link to this one leads to, and from nowhere else.
///
/// # Errors
/// [`OnnxError`] says what is wrong with the file, or lists all nodes that are not supported.
pub fn load(path: impl AsRef<Path>, options: &ImportOptions) -> Result<Graph, OnnxError> {
    import_from(read(path.as_ref())?, path, options)
}

/// Imports bytes that have been read from `path` already.
///
/// # Errors
/// As [`load`].
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

/// The other files in which the model at `path` keeps data: who writes to one of them changes the model.
///
/// # Errors
/// [`OnnxError`] if the model cannot be read.
pub fn data_files(path: impl AsRef<Path>) -> Result<Vec<PathBuf>, OnnxError> {
    let path = path.as_ref();
    external::files(read(path)?, path.parent().unwrap_or(Path::new("")))
}

fn read(path: &Path) -> Result<Bytes, OnnxError> {
    let io = |e: std::io::Error| OnnxError::Io { path: path.display().to_string(), message: e.to_string() };
    Ok(files::read(path).map_err(io)?.into())
}

/// Imports the bytes of a file. `folder` is where data in other files may lie; without it, a model that has such data is refused.
///
/// # Errors
/// As [`load`].
pub fn import(bytes: impl Into<Bytes>, folder: Option<&Path>, options: &ImportOptions) -> Result<Graph, OnnxError> {
    import::import(bytes.into(), Folders { base: folder, linked: None }, options)
}

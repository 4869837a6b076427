//! Weights of layers in a safetensors file, by their names.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use half::{bf16, f16};
use safetensors::Dtype;

use super::GraphError;
use crate::files::{self, safetensors::Header};
use crate::values::Tensor;

/// The tensors of a safetensors file, as PyTorch and others save the parameters of a network, for
/// [`GraphBuilder::linear_from`](super::GraphBuilder::linear_from) and the other layers of the builder that end in `_from`.
///
/// ```
/// use enfold::graph::Weights;
/// use enfold::{GraphBuilder, Shape};
/// # let floats = |data: &[f32]| data.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
/// # let (w, b) = (floats(&[0.5; 6]), floats(&[0.0; 2]));
/// # let view = |shape: &[usize], data| safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.to_vec(), data).expect("fits");
/// # let bytes = safetensors::serialize([("net.fc1.weight", view(&[2, 3], &w)), ("net.fc1.bias", view(&[2], &b))], None).expect("a file");
///
/// // `Weights::read("network.safetensors")` reads a file.
/// let weights = Weights::from_bytes(bytes)?.under("net");
/// let mut g = GraphBuilder::new();
/// let x = g.input("x", Shape::rows(3))?;
/// let h = g.linear_from(&weights, "fc1", x)?; // net.fc1.weight and net.fc1.bias
/// let graph = g.finish([h])?;
/// assert_eq!(graph.node(h).shape, Shape::rows(2));
/// assert!(weights.unused().is_empty(), "the network has all parameters of the file");
/// # Ok::<(), enfold::Error>(())
/// ```
///
/// Floats of 16 bits (F16, BF16) become f32, which holds each of them. It is cheap to clone.
#[derive(Debug, Clone)]
pub struct Weights {
    file: Arc<File>,
    /// What precedes all names, with the dot behind it.
    prefix: String,
}

#[derive(Debug)]
struct File {
    /// The path, or what stands for it.
    name: String,
    bytes: Vec<u8>,
    /// Where the tensors begin.
    data: usize,
    header: Header,
    used: Mutex<BTreeSet<String>>,
}

impl Weights {
    /// Reads a file.
    ///
    /// # Errors
    /// Returns [`GraphError::WeightFile`] for a file that cannot be read, or that is not a safetensors file.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, GraphError> {
        let path = path.as_ref();
        let name = path.display().to_string();
        match files::read(path) {
            Ok(bytes) => Self::new(name, bytes),
            Err(error) => Err(GraphError::WeightFile { file: name, problem: error.to_string() }),
        }
    }

    /// Takes the bytes of a file.
    ///
    /// # Errors
    /// Returns [`GraphError::WeightFile`] for bytes that are not a safetensors file.
    pub fn from_bytes(bytes: impl Into<Vec<u8>>) -> Result<Self, GraphError> {
        Self::new("weights".to_owned(), bytes.into())
    }

    fn new(name: String, bytes: Vec<u8>) -> Result<Self, GraphError> {
        let read = files::safetensors::header(&bytes);
        let (data, header) =
            read.map_err(|error| GraphError::WeightFile { file: name.clone(), problem: error.to_string() })?;
        let file = File { name, bytes, data, header, used: Mutex::default() };
        Ok(Self { file: Arc::new(file), prefix: String::new() })
    }

    /// Returns the weights of a module of the file: names are those behind `prefix` and a dot. Both share the file, and what was used.
    #[must_use]
    pub fn under(&self, prefix: &str) -> Self {
        let (file, prefix) = (Arc::clone(&self.file), format!("{}{prefix}.", self.prefix));
        Self { file, prefix }
    }

    /// Returns the names of all tensors, in alphabetic order.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let all = self.file.header.tensors();
        all.filter_map(|(name, _)| name.strip_prefix(&self.prefix)).map(str::to_owned).collect()
    }

    /// Returns the names of the tensors that no layer has taken, in alphabetic order: a network that has forgotten a layer leaves its
    /// tensors here.
    #[must_use]
    pub fn unused(&self) -> Vec<String> {
        let used = self.file.used.lock().unwrap_or_else(PoisonError::into_inner);
        self.names().into_iter().filter(|name| !used.contains(&format!("{}{name}", self.prefix))).collect()
    }

    /// Returns the shape of a tensor; `None` if there is none with this name.
    #[must_use]
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.file.header.tensor(&format!("{}{name}", self.prefix)).map(|info| info.shape.as_slice())
    }

    /// Returns a tensor: floats of 16 and 32 bits as f32, and i8, i32 and i64 as they are.
    ///
    /// # Errors
    /// Returns [`GraphError::NoWeight`] with the nearest names if there is none with this name, [`GraphError::WeightType`] for other
    /// elements.
    pub fn tensor(&self, name: &str) -> Result<Tensor, GraphError> {
        let full = format!("{}{name}", self.prefix);
        let Some(info) = self.file.header.tensor(&full) else { return Err(self.missing(&full)) };
        let (begin, end) = info.data_offsets;
        let bytes = &self.file.bytes[self.file.data + begin..self.file.data + end];
        let shape = &info.shape;
        let tensor = match info.dtype {
            Dtype::F32 => Tensor::from_f32(shape, elements(bytes, f32::from_le_bytes)),
            Dtype::F16 => Tensor::from_f32(shape, elements(bytes, |bytes| f16::from_le_bytes(bytes).to_f32())),
            Dtype::BF16 => Tensor::from_f32(shape, elements(bytes, |bytes| bf16::from_le_bytes(bytes).to_f32())),
            Dtype::I8 => Tensor::from_i8(shape, elements(bytes, i8::from_le_bytes)),
            Dtype::I32 => Tensor::from_i32(shape, elements(bytes, i32::from_le_bytes)),
            Dtype::I64 => Tensor::from_i64(shape, elements(bytes, i64::from_le_bytes)),
            other => return Err(GraphError::WeightType { name: full, dtype: other.to_string() }),
        };
        let tensor = tensor
            .map_err(|error| GraphError::WeightFile { file: self.file.name.clone(), problem: error.to_string() })?;
        self.mark(name);
        Ok(tensor)
    }

    /// Returns a tensor that a layer may do without.
    pub(super) fn optional(&self, name: &str) -> Result<Option<Tensor>, GraphError> {
        if self.shape(name).is_some() { self.tensor(name).map(Some) } else { Ok(None) }
    }

    /// Remembers that a tensor has a place in the network.
    pub(super) fn mark(&self, name: &str) {
        let full = format!("{}{name}", self.prefix);
        self.file.used.lock().unwrap_or_else(PoisonError::into_inner).insert(full);
    }

    fn missing(&self, full: &str) -> GraphError {
        let header = &self.file.header;
        let names: BTreeSet<&str> = header.tensors().map(|(name, _)| name).collect();
        let with_shape = |name: &str| {
            let shape = header.tensor(name).map(|info| info.shape.as_slice()).unwrap_or_default();
            format!("{name} {shape:?}")
        };
        let near = nearest(full, &names).into_iter().map(with_shape).collect();
        GraphError::NoWeight { file: self.file.name.clone(), name: full.to_owned(), tensors: names.len(), near }
    }
}

/// Elements of a file, which need not lie as the host's elements do.
fn elements<const N: usize, T>(bytes: &[u8], element: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks().0.iter().map(|&bytes| element(bytes)).collect()
}

/// The five names that resemble `wanted` most, by the edits that lead from one to the other.
pub(crate) fn nearest<'n>(wanted: &str, names: &BTreeSet<&'n str>) -> Vec<&'n str> {
    let similarity = |name: &str| strsim::normalized_damerau_levenshtein(wanted, name);
    let mut names: Vec<(f64, &str)> = names.iter().map(|&name| (similarity(name), name)).collect();
    names.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    names.into_iter().take(5).map(|(_, name)| name).collect()
}

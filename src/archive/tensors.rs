//! The tensors of a file.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use safetensors::{Dtype, View};

use super::error::ArchiveError;
use super::packed::{PackedRecord, pack};
use crate::files::safetensors as files;
use crate::values::{Contents, Tensor};

/// Collects the tensors of a graph. Equal constants are stored once.
#[derive(Debug, Default)]
pub(super) struct Writer {
    tensors: Vec<Stored>,
    constants: Contents,
    packed: BTreeMap<String, PackedRecord>,
}

/// A tensor on its way to a file, without a copy unless it is packed.
#[derive(Debug)]
pub(super) struct Stored {
    tensor: Arc<Tensor>,
    /// Quantized values of at most 4 bits, packed, and the number of bytes.
    packed: Option<(Vec<u8>, [usize; 1])>,
}

impl View for Stored {
    fn dtype(&self) -> Dtype {
        match *self.tensor {
            _ if self.packed.is_some() => Dtype::U8,
            Tensor::F32(_) => Dtype::F32,
            Tensor::I8(_) => Dtype::I8,
            Tensor::I32(_) => Dtype::I32,
            Tensor::I64(_) => Dtype::I64,
        }
    }

    fn shape(&self) -> &[usize] {
        self.packed.as_ref().map_or(self.tensor.shape(), |(_, shape)| shape)
    }

    fn data(&self) -> Cow<'_, [u8]> {
        if let Some((bytes, _)) = &self.packed {
            return Cow::Borrowed(bytes);
        }
        // Row-major, as all tensors are; files are little-endian, as all hosts that wgpu runs on.
        Cow::Borrowed(self.tensor.bytes())
    }

    fn data_len(&self) -> usize {
        self.data().len()
    }
}

impl Writer {
    /// The name under which a constant is stored; `bits` are those of quantized values.
    pub(super) fn constant(&mut self, tensor: Arc<Tensor>, bits: Option<u32>) -> String {
        let next = self.tensors.len();
        match self.constants.first(&tensor, next) {
            (_, number) if number < next => name(number),
            _ => self.add(tensor, bits),
        }
    }

    fn add(&mut self, tensor: Arc<Tensor>, bits: Option<u32>) -> String {
        let name = name(self.tensors.len());
        let packed = pack(&tensor, bits).map(|(record, bytes)| {
            self.packed.insert(name.clone(), record);
            let length = bytes.len();
            (bytes, [length])
        });
        self.tensors.push(Stored { tensor, packed });
        name
    }

    pub(super) fn floats(&mut self, data: Vec<f32>) -> String {
        self.add(Arc::new(Tensor::from(ndarray::Array1::from(data))), None)
    }

    pub(super) fn longs(&mut self, data: Vec<i64>) -> String {
        self.add(Arc::new(Tensor::from(ndarray::Array1::from(data))), None)
    }

    /// The records of all packed tensors, for the header.
    pub(super) fn packed(&mut self) -> BTreeMap<String, PackedRecord> {
        std::mem::take(&mut self.packed)
    }

    pub(super) fn views(self) -> impl Iterator<Item = (String, Stored)> {
        self.tensors.into_iter().enumerate().map(|(at, stored)| (name(at), stored))
    }
}

fn name(number: usize) -> String {
    format!("tensor.{number}")
}

/// Reads the tensors of a file.
///
/// Each tensor is in memory once, whatever the header names: constants that name the same tensor share it, as they did when they were
/// saved, and a list of numbers can be named only once.
#[derive(Debug)]
pub(super) struct Reader<'f> {
    header: files::Header,
    /// The bytes behind the header.
    data: &'f [u8],
    packed: BTreeMap<String, PackedRecord>,
    constants: RefCell<HashMap<String, Arc<Tensor>>>,
    lists: RefCell<HashSet<String>>,
}

impl<'f> Reader<'f> {
    /// The header is that of the data.
    pub(super) fn new(header: files::Header, data: &'f [u8], packed: BTreeMap<String, PackedRecord>) -> Self {
        Self { header, data, packed, constants: RefCell::default(), lists: RefCell::default() }
    }

    /// A constant.
    pub(super) fn shared(&self, name: &str) -> Result<Arc<Tensor>, ArchiveError> {
        if let Some(tensor) = self.constants.borrow().get(name) {
            return Ok(Arc::clone(tensor));
        }
        let tensor = Arc::new(self.tensor(name)?);
        self.constants.borrow_mut().insert(name.to_owned(), Arc::clone(&tensor));
        Ok(tensor)
    }

    /// A list of numbers.
    fn own(&self, name: &str) -> Result<Tensor, ArchiveError> {
        if self.lists.borrow_mut().insert(name.to_owned()) {
            return self.tensor(name);
        }
        let problem = "is named twice, and is no constant".to_owned();
        Err(ArchiveError::Tensor { tensor: name.to_owned(), problem })
    }

    fn tensor(&self, name: &str) -> Result<Tensor, ArchiveError> {
        let broken = |problem: String| ArchiveError::Tensor { tensor: name.to_owned(), problem };
        let info = self.header.tensor(name).ok_or_else(|| broken("is not in the file".to_owned()))?;
        let (shape, (from, to)) = (&info.shape, info.data_offsets);
        let data = self.data.get(from..to).ok_or_else(|| broken(format!("ends at {to} of {}", self.data.len())))?;
        if let Some(record) = self.packed.get(name) {
            return match info.dtype {
                Dtype::U8 => record.unpack(data).map_err(broken),
                other => Err(broken(format!("is packed, and its type is {other:?}, expected U8"))),
            };
        }
        let tensor = match info.dtype {
            Dtype::F32 => Tensor::from_f32(shape, elements(data)),
            Dtype::I8 => Tensor::from_i8(shape, elements(data)),
            Dtype::I32 => Tensor::from_i32(shape, elements(data)),
            Dtype::I64 => Tensor::from_i64(shape, elements(data)),
            other => return Err(broken(format!("its type {other:?} is none of f32, i8, i32 and i64"))),
        };
        tensor.map_err(|e| broken(e.to_string()))
    }

    pub(super) fn floats(&self, name: &str) -> Result<Vec<f32>, ArchiveError> {
        match self.own(name)? {
            Tensor::F32(a) => Ok(a.into_iter().collect()),
            other => Err(wrong_type(name, &other, "f32")),
        }
    }

    pub(super) fn longs(&self, name: &str) -> Result<Vec<i64>, ArchiveError> {
        match self.own(name)? {
            Tensor::I64(a) => Ok(a.into_iter().collect()),
            other => Err(wrong_type(name, &other, "i64")),
        }
    }

    pub(super) fn integers(&self, name: &str) -> Result<Vec<i32>, ArchiveError> {
        match self.own(name)? {
            Tensor::I32(a) => Ok(a.into_iter().collect()),
            other => Err(wrong_type(name, &other, "i32")),
        }
    }
}

fn wrong_type(name: &str, tensor: &Tensor, expected: &str) -> ArchiveError {
    let problem = format!("is {}, expected {expected}", tensor.dtype());
    ArchiveError::Tensor { tensor: name.to_owned(), problem }
}

/// The elements of a tensor, whose bytes need not be aligned.
fn elements<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(data: &[u8]) -> Vec<T> {
    bytemuck::pod_collect_to_vec(data)
}

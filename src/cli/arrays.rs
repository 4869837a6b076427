//! Reads and writes data files, which hold arrays by name.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{BufReader, Cursor, Read, Seek, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use enfold::{Tensor, files};
use ndarray::{ArrayD, ArrayViewD};
use ndarray_npy::WriteNpyExt;
use safetensors::tensor::{Dtype, TensorInfo, TensorView};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::elements::Element;
use super::failure::usage;
use super::model::is_archive;
use super::npy::Header;
use super::npz::Npz;
use super::output::{self, extension};

/// The element type and the shape of an array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ArrayType {
    /// The element type in the file.
    pub(super) element: Element,
    pub(super) shape: Vec<usize>,
}

impl fmt::Display for ArrayType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.element.name(), self.shape)
    }
}

/// The arrays of a data file. [`array_type`](Self::array_type) reads the type of one array, [`elements`](Self::elements) its elements.
#[derive(Debug)]
pub(super) struct Arrays {
    pub(super) path: PathBuf,
    source: Source,
}

#[derive(Debug)]
enum Source {
    /// The one array of an `.npy` file: its header, and the file at the first element.
    Npy(Header, Box<dyn Stream>),
    Npz(Npz<Box<dyn Stream>>),
    Safetensors(Vec<u8>, BTreeMap<String, Stored>),
}

/// An array of a safetensors file.
#[derive(Debug)]
struct Stored {
    dtype: Dtype,
    shape: Vec<usize>,
    /// The bytes of its elements in the file.
    range: Range<usize>,
}

/// A file, or the bytes that came through a pipe.
trait Stream: Read + Seek + fmt::Debug {}

impl Stream for BufReader<File> {}
impl Stream for Cursor<Vec<u8>> {}

const FORMATS: &str = ".npy, .npz or .safetensors";

impl Arrays {
    pub(super) fn load(path: &Path) -> Result<Self> {
        let name = path.display();
        let mut kind = extension(path);
        // A file without an extension, such as a pipe, is recognized by its content.
        let whole = if kind.is_empty() { Some(read_context(files::read(path), path)?) } else { None };
        if let Some(bytes) = &whole {
            kind = by_content(bytes).to_owned();
        }
        if !["npy", "npz", "safetensors"].contains(&kind.as_str()) {
            return Err(usage(format!("{name}: DATA is {FORMATS}")));
        }
        let read = |whole: Option<Vec<u8>>| whole.map_or_else(|| read_context(files::read(path), path), Ok);
        let source = match kind.as_str() {
            "safetensors" => safetensors(read(whole)?),
            _ => {
                let (mut file, size_bytes): (Box<dyn Stream>, u64) = match whole.is_none() && path.is_file() {
                    true => {
                        let (file, metadata) = read_context(files::open(path), path)?;
                        (Box::new(BufReader::new(file)), metadata.len())
                    }
                    false => {
                        let bytes = read(whole)?;
                        let size_bytes = bytes.len() as u64;
                        (Box::new(Cursor::new(bytes)), size_bytes)
                    }
                };
                match kind.as_str() {
                    "npz" => Npz::new(file).map(Source::Npz),
                    _ => Header::read(&mut file, size_bytes).map(|header| Source::Npy(header, file)),
                }
            }
        };
        Ok(Self { path: path.to_owned(), source: source.with_context(|| name.to_string())? })
    }

    /// Returns the names of the arrays in order, or `None` for an `.npy` file, whose one array has no name.
    pub(super) fn names(&self) -> Option<Vec<&str>> {
        match &self.source {
            Source::Npy(..) => None,
            Source::Npz(npz) => Some(npz.names().collect()),
            Source::Safetensors(_, arrays) => Some(arrays.keys().map(String::as_str).collect()),
        }
    }

    /// Reads the element type and the shape of an array. The name is ignored for an `.npy` file.
    pub(super) fn array_type(&mut self, name: &str) -> Result<ArrayType> {
        let found = match &mut self.source {
            Source::Npy(header, _) => Ok((&*header).into()),
            Source::Npz(npz) => npz.header(name).map(|header| (&header).into()),
            Source::Safetensors(_, arrays) => stored(arrays, name).and_then(|array| array.array_type(name)),
        };
        found.with_context(|| self.path.display().to_string())
    }

    /// Reads the elements of an array, row-major and little-endian.
    pub(super) fn elements(&mut self, name: &str) -> Result<Vec<u8>> {
        let read = match &mut self.source {
            Source::Npy(header, file) => header.elements(file),
            Source::Npz(npz) => npz.elements(name),
            Source::Safetensors(bytes, arrays) => stored(arrays, name).map(|array| bytes[array.range.clone()].to_vec()),
        };
        read.with_context(|| self.path.display().to_string())
    }
}

impl From<&Header> for ArrayType {
    fn from(header: &Header) -> Self {
        Self { element: header.element, shape: header.shape.clone() }
    }
}

/// Recognizes a data file by its first bytes. Returns its extension, or an empty text.
fn by_content(bytes: &[u8]) -> &'static str {
    match bytes {
        [b'\x93', b'N', b'U', b'M', b'P', b'Y', ..] => "npy",
        [b'P', b'K', ..] => "npz",
        bytes if is_archive(bytes) => "safetensors",
        _ => "",
    }
}

fn read_context<T>(read: std::io::Result<T>, path: &Path) -> Result<T> {
    read.with_context(|| format!("{}: the data cannot be read", path.display()))
}

/// Refuses an output file whose format does not exist or cannot hold the outputs, before any work is done.
pub(super) fn check_format(path: &Path, outputs: usize) -> Result<()> {
    match extension(path).as_str() {
        "npz" | "safetensors" => Ok(()),
        "npy" if outputs == 1 => Ok(()),
        "npy" => Err(usage(format!(
            "{}: an .npy file holds one array, and the model has {outputs} outputs; write .npz or .safetensors",
            path.display()
        ))),
        _ => Err(usage(format!("{}: DATA is {FORMATS}", path.display()))),
    }
}

/// Writes outputs by name, each in its own type.
pub(super) fn save(path: &Path, arrays: &[(String, Tensor)]) -> Result<()> {
    check_format(path, arrays.len())?;
    let bytes = match (extension(path).as_str(), arrays) {
        ("npy", [(_, only)]) => write_npy(only)?,
        ("npz", _) => write_npz(arrays)?,
        _ => write_safetensors(arrays)?,
    };
    output::write(path, &bytes)
}

/// Converts a tensor of any type to f32.
pub(super) fn floats(tensor: Tensor) -> ArrayD<f32> {
    match tensor {
        Tensor::F32(a) => a.into(),
        Tensor::I8(a) => ArrayViewD::from(&a).mapv(f32::from),
        Tensor::I32(a) => ArrayViewD::from(&a).mapv(|v| v as f32),
        Tensor::I64(a) => ArrayViewD::from(&a).mapv(|v| v as f32),
    }
}

fn write_npy(tensor: &Tensor) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match tensor {
        Tensor::F32(a) => ArrayViewD::from(a).write_npy(&mut bytes)?,
        Tensor::I8(a) => ArrayViewD::from(a).write_npy(&mut bytes)?,
        Tensor::I32(a) => ArrayViewD::from(a).write_npy(&mut bytes)?,
        Tensor::I64(a) => ArrayViewD::from(a).write_npy(&mut bytes)?,
    }
    Ok(bytes)
}

fn write_npz(arrays: &[(String, Tensor)]) -> Result<Vec<u8>> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, array) in arrays {
        let npy = write_npy(array)?;
        // Members beyond 4 GiB need wider length fields, which not every reader supports, so smaller ones do without.
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
        let options = options.large_file(u32::try_from(npy.len()).is_err());
        let written = zip.start_file(format!("{name}.npy"), options).map_err(Into::into);
        let written = written.and_then(|()| anyhow::Ok(zip.write_all(&npy)?));
        written.with_context(|| format!("array {name}"))?;
    }
    Ok(zip.finish()?.into_inner())
}

fn write_safetensors(arrays: &[(String, Tensor)]) -> Result<Vec<u8>> {
    let stored = |tensor: &Tensor| match tensor {
        Tensor::F32(a) => (Dtype::F32, a.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>()),
        Tensor::I8(a) => (Dtype::I8, a.iter().flat_map(|v| v.to_le_bytes()).collect()),
        Tensor::I32(a) => (Dtype::I32, a.iter().flat_map(|v| v.to_le_bytes()).collect()),
        Tensor::I64(a) => (Dtype::I64, a.iter().flat_map(|v| v.to_le_bytes()).collect()),
    };
    let buffers: Vec<(Dtype, Vec<u8>)> = arrays.iter().map(|(_, tensor)| stored(tensor)).collect();
    let mut views = Vec::new();
    for ((name, tensor), (dtype, buffer)) in arrays.iter().zip(&buffers) {
        views.push((name.as_str(), TensorView::new(*dtype, tensor.shape().to_vec(), buffer)?));
    }
    Ok(safetensors::serialize(views, None)?)
}

/// Finds the arrays of a safetensors file.
fn safetensors(bytes: Vec<u8>) -> Result<Source> {
    let (first, header) = files::safetensors::header(&bytes)?;
    let stored = |(name, info): (&str, &TensorInfo)| {
        let (from, to) = info.data_offsets;
        (name.to_owned(), Stored { dtype: info.dtype, shape: info.shape.clone(), range: first + from..first + to })
    };
    let arrays = header.tensors().map(stored).collect();
    Ok(Source::Safetensors(bytes, arrays))
}

fn stored<'a>(arrays: &'a BTreeMap<String, Stored>, name: &str) -> Result<&'a Stored> {
    arrays.get(name).with_context(|| format!("there is no array {name}"))
}

impl Stored {
    fn array_type(&self, name: &str) -> Result<ArrayType> {
        let element = match self.dtype {
            Dtype::F32 => Element::F32,
            Dtype::F64 => Element::F64,
            Dtype::F16 => Element::F16,
            Dtype::BF16 => Element::Bf16,
            Dtype::I64 => Element::I64,
            Dtype::I32 => Element::I32,
            Dtype::I16 => Element::I16,
            Dtype::I8 => Element::I8,
            Dtype::U64 => Element::U64,
            Dtype::U32 => Element::U32,
            Dtype::U16 => Element::U16,
            Dtype::U8 => Element::U8,
            Dtype::BOOL => Element::Bool,
            other => {
                let only = "which is not one of f16, bf16, f32, f64, bool, and integers";
                return Err(anyhow!("array {name}: its element type is {other}, {only}"));
            }
        };
        Ok(ArrayType { element, shape: self.shape.clone() })
    }
}

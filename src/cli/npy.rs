//! NumPy's files.

use std::io::Cursor;

use anyhow::{Context, Result, bail};
use enfold::Tensor;
use ndarray::{ArrayD, IxDyn, OwnedRepr};
use ndarray_npy::{NpzReader, NpzWriter, ReadNpyError, ReadNpyExt, ReadNpzError, ReadableElement, WriteNpyExt};

use super::arrays::{Array, Values};

/// The array of an `.npy` file.
pub(super) fn read_npy(bytes: &[u8]) -> Result<Array> {
    any(&mut Npy(bytes))
}

/// The arrays of an `.npz` file, by name.
pub(super) fn read_npz(bytes: &[u8]) -> Result<Vec<(String, Array)>> {
    let mut reader = NpzReader::new(Cursor::new(bytes))?;
    let mut arrays = Vec::new();
    for name in reader.names()? {
        let array = any(&mut Npz { reader: &mut reader, name: &name }).with_context(|| format!("array {name}"))?;
        arrays.push((name.strip_suffix(".npy").unwrap_or(&name).to_owned(), array));
    }
    Ok(arrays)
}

/// An `.npy` file of one array.
pub(super) fn write_npy(array: &ArrayD<f32>) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    array.write_npy(&mut bytes)?;
    Ok(bytes)
}

/// An `.npz` file of arrays by name.
pub(super) fn write_npz(arrays: &[(String, ArrayD<f32>)]) -> Result<Vec<u8>> {
    let mut writer = NpzWriter::new(Cursor::new(Vec::new()));
    for (name, array) in arrays {
        writer.add_array(name.as_str(), array).with_context(|| format!("array {name}"))?;
    }
    Ok(writer.finish()?.into_inner())
}

/// What holds one array.
trait Source {
    /// The array, or `None` if it is of another type.
    fn read<T: ReadableElement>(&mut self) -> Result<Option<ArrayD<T>>>;
}

struct Npy<'a>(&'a [u8]);

impl Source for Npy<'_> {
    fn read<T: ReadableElement>(&mut self) -> Result<Option<ArrayD<T>>> {
        match ArrayD::<T>::read_npy(self.0) {
            Ok(array) => Ok(Some(array)),
            Err(ReadNpyError::WrongDescriptor(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

struct Npz<'a, 'b> {
    reader: &'a mut NpzReader<Cursor<&'b [u8]>>,
    name: &'a str,
}

impl Source for Npz<'_, '_> {
    fn read<T: ReadableElement>(&mut self) -> Result<Option<ArrayD<T>>> {
        match self.reader.by_name::<OwnedRepr<T>, IxDyn>(self.name) {
            Ok(array) => Ok(Some(array)),
            Err(ReadNpzError::Npy(ReadNpyError::WrongDescriptor(_))) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// What a source holds, whichever of the types it is.
fn any(source: &mut impl Source) -> Result<Array> {
    macro_rules! tried {
        ($($t:ty),*) => {
            $(if let Some(array) = source.read::<$t>()? {
                return Elements::from(array).array(stringify!($t));
            })*
        };
    }
    tried!(f32, f64, i64, i32, i16, i8, u64, u32, u16, u8, bool);
    bail!("its element type is not one of f32, f64, bool, and signed or unsigned integers; convert it with astype")
}

/// An array of any element type on its way to one of two.
enum Elements {
    F32(ArrayD<f32>),
    F64(ArrayD<f64>),
    Integers(ArrayD<i64>),
    Unsigned(ArrayD<u64>),
}

impl Elements {
    fn array(self, dtype: &'static str) -> Result<Array> {
        let (shape, values) = match self {
            Self::F32(a) => (a.shape().to_vec(), Values::F32(Tensor::from(a).as_f32().unwrap_or_default().to_vec())),
            Self::F64(a) => (a.shape().to_vec(), Values::of_f64(a.iter().copied())?),
            Self::Integers(a) => (a.shape().to_vec(), Values::Integers(a.iter().copied().collect())),
            Self::Unsigned(a) => (a.shape().to_vec(), Values::of_u64(a.iter().copied())?),
        };
        Ok(Array { dtype, shape, values })
    }
}

macro_rules! elements {
    ($($t:ty => $variant:ident),*) => {
        $(impl From<ArrayD<$t>> for Elements {
            fn from(array: ArrayD<$t>) -> Self {
                Self::$variant(array.mapv(Into::into))
            }
        })*
    };
}
elements!(f32 => F32, f64 => F64, i64 => Integers, i32 => Integers, i16 => Integers, i8 => Integers, u64 => Unsigned,
    u32 => Integers, u16 => Integers, u8 => Integers, bool => Integers);

//! NumPy's files.

use std::io::{Cursor, Read};

use anyhow::{Context, Result, bail};
use enfold::Tensor;
use ndarray::ArrayD;
use ndarray_npy::{NpzWriter, ReadNpyError, ReadNpyExt, WriteNpyExt};
use zip::ZipArchive;

use super::arrays::{Array, Values};

/// The array of an `.npy` file.
pub(super) fn read_npy(bytes: &[u8]) -> Result<Array> {
    // The library would allocate what the header asks for.
    if let Some(elements) = declared_elements(bytes)
        && elements > bytes.len() as u128
    {
        bail!("it is cut short: its shape has {elements} elements, and there are only {} bytes", bytes.len());
    }
    macro_rules! tried {
        ($($t:ty),*) => {
            $(match ArrayD::<$t>::read_npy(bytes) {
                Ok(array) => return Elements::from(array).array(stringify!($t)),
                Err(ReadNpyError::WrongDescriptor(_)) => {}
                Err(error) => return Err(error.into()),
            })*
        };
    }
    tried!(f32, f64, i64, i32, i16, i8, u64, u32, u16, u8, bool);
    bail!("its element type is not one of f32, f64, bool, and signed or unsigned integers; convert it with astype")
}

/// The arrays of an `.npz` file, by name.
pub(super) fn read_npz(bytes: &[u8]) -> Result<Vec<(String, Array)>> {
    let mut archive = ZipArchive::new(Cursor::new(bytes))?;
    let mut arrays = Vec::new();
    for at in 0..archive.len() {
        let mut file = archive.by_index(at)?;
        let name = file.name().to_owned();
        let mut npy = Vec::new();
        file.read_to_end(&mut npy).with_context(|| format!("array {name}"))?;
        let array = read_npy(&npy).with_context(|| format!("array {name}"))?;
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

/// How many elements a header declares; `None` if it cannot be read, which the library then says.
fn declared_elements(bytes: &[u8]) -> Option<u128> {
    let header = match bytes.get(6)? {
        1 => bytes.get(10..)?.get(..usize::from(u16::from_le_bytes([*bytes.get(8)?, *bytes.get(9)?])))?,
        _ => bytes.get(12..)?.get(..u32::from_le_bytes(bytes.get(8..12)?.try_into().ok()?) as usize)?,
    };
    let header = std::str::from_utf8(header).ok()?;
    let shape = header.split_once("'shape':")?.1.split_once('(')?.1.split_once(')')?.0;
    let lengths = shape.split(',').map(str::trim).filter(|length| !length.is_empty());
    lengths.map(|length| length.parse::<u128>().ok()).try_fold(1u128, |n, length| Some(n.saturating_mul(length?)))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_declare_their_elements() {
        let bytes = write_npy(&ArrayD::zeros(vec![3, 4])).expect("written");
        assert_eq!(declared_elements(&bytes), Some(12));
        assert_eq!(declared_elements(&write_npy(&ArrayD::zeros(vec![])).expect("written")), Some(1));
        assert_eq!(declared_elements(&bytes[..20]), None);
    }
}

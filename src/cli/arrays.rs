//! Data files: arrays by name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use enfold::Tensor;
use half::{bf16, f16};
use ndarray::ArrayD;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use super::failure::usage;
use super::npy;
use super::output::{self, extension};

/// One array of a file, row-major.
#[derive(Debug, Clone)]
pub(super) struct Array {
    /// The element type in the file.
    pub(super) dtype: &'static str,
    pub(super) shape: Vec<usize>,
    pub(super) values: Values,
}

/// Elements as they are fed: floats, or integers that still have to fit the input.
#[derive(Debug, Clone)]
pub(super) enum Values {
    F32(Vec<f32>),
    Integers(Vec<i64>),
}

impl Values {
    /// Refuses numbers that only f64 holds.
    pub(super) fn of_f64(values: impl Iterator<Item = f64>) -> Result<Self> {
        let narrow = |(at, v): (usize, f64)| match v as f32 {
            narrow if narrow.is_infinite() && v.is_finite() => bail!("element {at} is {v:e}, which does not fit f32"),
            narrow => Ok(narrow),
        };
        values.enumerate().map(narrow).collect::<Result<_>>().map(Self::F32)
    }

    /// Refuses numbers that only u64 holds.
    pub(super) fn of_u64(values: impl Iterator<Item = u64>) -> Result<Self> {
        let signed = |(at, v): (usize, u64)| {
            i64::try_from(v).with_context(|| format!("element {at} is {v}, which does not fit an integer input"))
        };
        values.enumerate().map(signed).collect::<Result<_>>().map(Self::Integers)
    }
}

/// The arrays of a data file.
#[derive(Debug)]
pub(super) struct Arrays {
    pub(super) path: PathBuf,
    pub(super) by_name: Named,
}

/// With names, or the one array of an `.npy` file.
#[derive(Debug)]
pub(super) enum Named {
    Only(Array),
    Many(BTreeMap<String, Array>),
}

const FORMATS: &str = ".npy, .npz or .safetensors";

impl Arrays {
    pub(super) fn load(path: &Path) -> Result<Self> {
        let name = path.display();
        let kind = extension(path);
        if !["npy", "npz", "safetensors"].contains(&kind.as_str()) {
            return Err(usage(format!("{name}: DATA is {FORMATS}")));
        }
        let bytes = std::fs::read(path).with_context(|| format!("{name}: the data cannot be read"))?;
        let by_name = match kind.as_str() {
            "npy" => npy::read_npy(&bytes).map(Named::Only),
            "npz" => npy::read_npz(&bytes).map(|arrays| Named::Many(arrays.into_iter().collect())),
            _ => read_safetensors(&bytes).map(Named::Many),
        };
        Ok(Self { path: path.to_owned(), by_name: by_name.with_context(|| name.to_string())? })
    }
}

/// Refuses a data file that could not be written, before any work is done.
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

/// Writes outputs by name, as f32.
pub(super) fn save(path: &Path, arrays: &[(String, ArrayD<f32>)]) -> Result<()> {
    check_format(path, arrays.len())?;
    let bytes = match (extension(path).as_str(), arrays) {
        ("npy", [(_, only)]) => npy::write_npy(only)?,
        ("npz", _) => npy::write_npz(arrays)?,
        _ => write_safetensors(arrays)?,
    };
    output::write(path, &bytes)
}

/// A tensor of any type in f32.
pub(super) fn floats(tensor: Tensor) -> ArrayD<f32> {
    match tensor {
        Tensor::F32(a) => a.into_inner(),
        Tensor::I8(a) => a.mapv(f32::from),
        Tensor::I32(a) => a.mapv(|v| v as f32),
        Tensor::I64(a) => a.mapv(|v| v as f32),
    }
}

fn write_safetensors(arrays: &[(String, ArrayD<f32>)]) -> Result<Vec<u8>> {
    let bytes = |array: &ArrayD<f32>| array.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let buffers: Vec<Vec<u8>> = arrays.iter().map(|(_, array)| bytes(array)).collect();
    let mut views = Vec::new();
    for ((name, array), buffer) in arrays.iter().zip(&buffers) {
        views.push((name.as_str(), TensorView::new(Dtype::F32, array.shape().to_vec(), buffer)?));
    }
    Ok(safetensors::serialize(views, None)?)
}

fn read_safetensors(bytes: &[u8]) -> Result<BTreeMap<String, Array>> {
    let file = SafeTensors::deserialize(bytes)?;
    let named = |(name, view): (String, TensorView<'_>)| {
        let array = array(&view).with_context(|| format!("array {name}"))?;
        Ok((name, array))
    };
    file.tensors().into_iter().map(named).collect()
}

fn array(view: &TensorView<'_>) -> Result<Array> {
    fn each<'a, const N: usize, T>(data: &'a [u8], of: impl Fn([u8; N]) -> T + 'a) -> impl Iterator<Item = T> + 'a {
        data.as_chunks::<N>().0.iter().map(move |&bytes| of(bytes))
    }
    let data = view.data();
    let integers = |values: &mut dyn Iterator<Item = i64>| Values::Integers(values.collect());
    let (dtype, values) = match view.dtype() {
        Dtype::F32 => ("f32", Values::F32(each(data, f32::from_le_bytes).collect())),
        Dtype::F64 => ("f64", Values::of_f64(each(data, f64::from_le_bytes))?),
        Dtype::F16 => ("f16", Values::F32(each(data, |b| f16::from_le_bytes(b).to_f32()).collect())),
        Dtype::BF16 => ("bf16", Values::F32(each(data, |b| bf16::from_le_bytes(b).to_f32()).collect())),
        Dtype::I64 => ("i64", integers(&mut each(data, i64::from_le_bytes))),
        Dtype::I32 => ("i32", integers(&mut each(data, |b| i32::from_le_bytes(b).into()))),
        Dtype::I16 => ("i16", integers(&mut each(data, |b| i16::from_le_bytes(b).into()))),
        Dtype::I8 => ("i8", integers(&mut each(data, |b| i8::from_le_bytes(b).into()))),
        Dtype::U64 => ("u64", Values::of_u64(each(data, u64::from_le_bytes))?),
        Dtype::U32 => ("u32", integers(&mut each(data, |b| u32::from_le_bytes(b).into()))),
        Dtype::U16 => ("u16", integers(&mut each(data, |b| u16::from_le_bytes(b).into()))),
        Dtype::U8 => ("u8", integers(&mut each(data, |b| u8::from_le_bytes(b).into()))),
        Dtype::BOOL => ("bool", integers(&mut each(data, |b| u8::from_le_bytes(b).into()))),
        other => bail!("its element type is {other}, which is not one of f16, bf16, f32, f64, bool, and integers"),
    };
    Ok(Array { dtype, shape: view.shape().to_vec(), values })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_do_not_fit_are_refused() {
        assert!(Values::of_f64([1.0, f64::INFINITY].into_iter()).is_ok());
        let error = Values::of_f64([1.0, 1e300].into_iter()).expect_err("beyond f32");
        assert!(error.to_string().contains("element 1 is 1e300"), "{error}");
        assert!(Values::of_u64([u64::MAX].into_iter()).is_err());
    }
}

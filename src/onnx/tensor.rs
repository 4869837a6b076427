//! Stored tensors. They are checked before anything is allocated, and decoded when they are needed.

use std::borrow::Cow;
use std::sync::Arc;

use half::{bf16, f16};
use rayon::prelude::*;

use super::dims::{MAX_RANK, elements};
use super::error::OnnxError;
use super::external::{self, Folders, Region};
use super::host::Data;
use super::proto::{TensorProto, data_type as ty};
use crate::values::{DType, TensorQParams};

/// A stored tensor. Its data exist and have the length that its shape demands.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Stored {
    pub(super) dims: Vec<usize>,
    pub(super) data_type: i32,
    /// The index of the stored tensor whose axes were swapped to make this one.
    pub(super) swap_of: Option<usize>,
    proto: Arc<TensorProto>,
    pub(super) external: Option<Region>,
}

/// Values of `TensorProto::data_location`.
const EXTERNAL: i32 = 1;

impl Stored {
    /// Checks shape, type and length.
    pub(super) fn new(proto: TensorProto, folders: Folders<'_>) -> Result<Self, OnnxError> {
        let fail = |problem: String| Err(OnnxError::Tensor { tensor: proto.name.clone(), problem });
        if proto.dims.len() > MAX_RANK {
            return fail(format!("it has {} axes, expected up to {MAX_RANK}", proto.dims.len()));
        }
        let mut dims = Vec::with_capacity(proto.dims.len());
        for &dim in &proto.dims {
            match usize::try_from(dim) {
                Ok(dim) => dims.push(dim),
                Err(_) => return fail(format!("its shape {:?} has a negative length", proto.dims)),
            }
        }
        let Some(bits) = bits(proto.data_type) else {
            return fail(format!("it has type {}, which is not a type of numbers", type_name(proto.data_type)));
        };
        let count = elements(&dims);
        let bytes = count.and_then(|n| n.checked_mul(bits)).map(|bits| bits.div_ceil(8));
        let (Some(count), Some(expected)) = (count, bytes) else {
            return fail(format!("its shape {dims:?} is too large"));
        };
        let mut external = None;
        if proto.data_location == EXTERNAL {
            external = Some(external::locate(&proto, folders, expected)?);
        } else if proto.raw_data.is_empty() {
            let (actual, expected) = (typed_length(&proto), typed_count(proto.data_type, count));
            if actual != expected {
                return fail(format!("it has {actual} elements, but shape {dims:?} holds {expected}"));
            }
        } else if proto.raw_data.len() != expected {
            let actual = proto.raw_data.len();
            return fail(format!(
                "it has {actual} bytes, but shape {dims:?} of {} takes {expected}",
                type_name(proto.data_type)
            ));
        }
        Ok(Self { dims, data_type: proto.data_type, swap_of: None, proto: Arc::new(proto), external })
    }

    pub(super) fn name(&self) -> &str {
        &self.proto.name
    }

    /// The same tensor under another name.
    pub(super) fn renamed(mut self, name: &str) -> Self {
        name.clone_into(&mut Arc::make_mut(&mut self.proto).name);
        self
    }

    /// The tensor, whose index is `at`, with its two axes swapped; `None` if it is not a matrix of floats. Both share the data.
    pub(super) fn swapped(&self, at: usize) -> Option<Self> {
        let (&[k, n], true, None) = (self.dims.as_slice(), self.is_float(), self.swap_of) else { return None };
        Some(Self { dims: vec![n, k], swap_of: Some(at), ..self.clone() })
    }

    pub(super) fn len(&self) -> usize {
        self.dims.iter().product()
    }

    pub(super) fn is_float(&self) -> bool {
        is_float(self.data_type)
    }

    /// The number of bytes of [`data`](Self::data).
    pub(super) fn decoded_bytes(&self) -> usize {
        let size = if self.is_float() {
            4
        } else if self.data_type == ty::BOOL {
            1
        } else {
            8
        };
        self.len().saturating_mul(size)
    }

    /// The elements: floats in `f32`, integers in `i64`.
    pub(super) fn data(&self) -> Result<Data, String> {
        Ok(match self.data_type {
            ty::BOOL => Data::Bool(self.integers()?.into_iter().map(|v| v != 0).collect()),
            _ if self.is_float() => Data::F32(self.floats()?),
            _ => Data::I64(self.integers()?),
        })
    }

    /// The elements of a tensor of floats.
    pub(super) fn floats(&self) -> Result<Vec<f32>, String> {
        let floats = self.floats_as_stored()?;
        Ok(match (self.swap_of, self.dims.as_slice()) {
            (Some(_), &[n, k]) => transposed(&floats, k, n),
            _ => floats,
        })
    }

    fn floats_as_stored(&self) -> Result<Vec<f32>, String> {
        let proto = &self.proto;
        if let Some(raw) = self.raw()? {
            return Ok(match self.data_type {
                // Files are little-endian, so that this is a copy.
                ty::FLOAT if cfg!(target_endian = "little") => bytemuck::pod_collect_to_vec(&raw),
                ty::FLOAT => raw.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
                ty::DOUBLE => narrowed(raw.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)))?,
                ty::FLOAT16 => raw.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
                _ => raw.as_chunks::<2>().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
            });
        }
        Ok(match self.data_type {
            ty::FLOAT => proto.float_data.clone(),
            ty::DOUBLE => narrowed(proto.double_data.iter().copied())?,
            ty::FLOAT16 => proto.int32_data.iter().map(|&b| f16::from_bits(b as u16).to_f32()).collect(),
            _ => proto.int32_data.iter().map(|&b| bf16::from_bits(b as u16).to_f32()).collect(),
        })
    }

    /// The elements of a tensor of integers.
    fn integers(&self) -> Result<Vec<i64>, String> {
        let proto = &self.proto;
        let too_large =
            |v: u64| i64::try_from(v).map_err(|_| format!("{v} in {} does not fit 64 bits with sign", proto.name));
        if let ty::INT4 | ty::UINT4 = self.data_type {
            return Ok(self.quantized()?.into_iter().map(i64::from).collect());
        }
        if let Some(raw) = self.raw()? {
            return Ok(match self.data_type {
                ty::INT8 => raw.iter().map(|&b| i64::from(b as i8)).collect(),
                ty::UINT8 | ty::BOOL => raw.iter().map(|&b| i64::from(b)).collect(),
                ty::INT16 => raw.as_chunks::<2>().0.iter().map(|b| i64::from(i16::from_le_bytes(*b))).collect(),
                ty::UINT16 => raw.as_chunks::<2>().0.iter().map(|b| i64::from(u16::from_le_bytes(*b))).collect(),
                ty::INT32 => raw.as_chunks::<4>().0.iter().map(|b| i64::from(i32::from_le_bytes(*b))).collect(),
                ty::UINT32 => raw.as_chunks::<4>().0.iter().map(|b| i64::from(u32::from_le_bytes(*b))).collect(),
                ty::INT64 => raw.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect(),
                _ => {
                    let values = raw.as_chunks::<8>().0.iter();
                    values.map(|b| too_large(u64::from_le_bytes(*b))).collect::<Result<_, _>>()?
                }
            });
        }
        Ok(match self.data_type {
            ty::INT64 => proto.int64_data.clone(),
            ty::UINT32 | ty::UINT64 => proto.uint64_data.iter().map(|&v| too_large(v)).collect::<Result<_, _>>()?,
            _ => proto.int32_data.iter().map(|&v| i64::from(v)).collect(),
        })
    }

    /// The elements of a tensor of 8 or 4 bits as int8: those of `uint8` are lowered by 128.
    pub(super) fn quantized(&self) -> Result<Vec<i8>, String> {
        let shift = if self.data_type == ty::UINT8 { 128 } else { 0 };
        if let ty::INT4 | ty::UINT4 = self.data_type {
            let packed: Vec<u8> = match self.raw()? {
                Some(raw) => raw.into_owned(),
                None => self.proto.int32_data.iter().map(|&b| b as u8).collect(),
            };
            let signed = self.data_type == ty::INT4;
            let value = |nibble: u8| if signed { ((nibble << 4) as i8) >> 4 } else { nibble as i8 };
            let mut values: Vec<i8> = packed.iter().flat_map(|&byte| [value(byte & 15), value(byte >> 4)]).collect();
            values.truncate(self.len());
            return Ok(values);
        }
        Ok(match self.raw()? {
            Some(raw) => raw.iter().map(|&b| b.wrapping_sub(shift) as i8).collect(),
            None => self.proto.int32_data.iter().map(|&v| (v as u8).wrapping_sub(shift) as i8).collect(),
        })
    }

    fn raw(&self) -> Result<Option<Cow<'_, [u8]>>, String> {
        if let Some(region) = &self.external {
            return Ok(Some(Cow::Owned(region.read()?)));
        }
        // A tensor without elements has neither raw data nor typed data.
        Ok((!self.proto.raw_data.is_empty()).then(|| Cow::Borrowed(&self.proto.raw_data[..])))
    }
}

/// Floats of 64 bits in 32 bits. An error names the first one that is beyond the range of `f32`.
fn narrowed(values: impl Iterator<Item = f64>) -> Result<Vec<f32>, String> {
    let narrow = |(at, v): (usize, f64)| match v as f32 {
        narrow if narrow.is_infinite() && v.is_finite() => {
            Err(format!("element {at} is {v:e}, which does not fit f32"))
        }
        narrow => Ok(narrow),
    };
    values.enumerate().map(narrow).collect()
}

pub(super) fn is_float(data_type: i32) -> bool {
    matches!(data_type, ty::FLOAT | ty::DOUBLE | ty::FLOAT16 | ty::BFLOAT16)
}

/// The bits of one element of a type of numbers, or of a boolean.
pub(super) fn bits(data_type: i32) -> Option<usize> {
    Some(match data_type {
        ty::INT4 | ty::UINT4 => 4,
        ty::INT8 | ty::UINT8 | ty::BOOL => 8,
        ty::INT16 | ty::UINT16 | ty::FLOAT16 | ty::BFLOAT16 => 16,
        ty::INT32 | ty::UINT32 | ty::FLOAT => 32,
        ty::INT64 | ty::UINT64 | ty::DOUBLE => 64,
        _ => return None,
    })
}

/// The number of entries that a typed field has for `count` elements: two elements of 4 bits share an entry.
fn typed_count(data_type: i32, count: usize) -> usize {
    if let ty::INT4 | ty::UINT4 = data_type { count.div_ceil(2) } else { count }
}

fn typed_length(proto: &TensorProto) -> usize {
    match proto.data_type {
        ty::FLOAT => proto.float_data.len(),
        ty::DOUBLE => proto.double_data.len(),
        ty::INT64 => proto.int64_data.len(),
        ty::UINT32 | ty::UINT64 => proto.uint64_data.len(),
        _ => proto.int32_data.len(),
    }
}

/// The ONNX type of an element type of the graph.
pub(super) fn element_type(dtype: DType) -> i32 {
    match dtype {
        DType::F32 => ty::FLOAT,
        DType::I8 => ty::INT8,
        DType::I32 => ty::INT32,
        DType::I64 => ty::INT64,
    }
}

/// The types of numbers that a `Cast` converts to, with their names.
pub(super) fn numbers() -> impl Iterator<Item = (i32, String)> {
    let is_number = |data_type: &i32| bits(*data_type).is_some_and(|bits| bits >= 8);
    (ty::FLOAT..=ty::BFLOAT16).filter(is_number).map(|data_type| (data_type, type_name(data_type)))
}

/// The name of a type in messages.
pub(super) fn type_name(data_type: i32) -> String {
    let name = match data_type {
        ty::FLOAT => "float32",
        ty::UINT8 => "uint8",
        ty::INT8 => "int8",
        ty::UINT16 => "uint16",
        ty::INT16 => "int16",
        ty::INT32 => "int32",
        ty::INT64 => "int64",
        ty::STRING => "string",
        ty::BOOL => "bool",
        ty::FLOAT16 => "float16",
        ty::DOUBLE => "float64",
        ty::UINT32 => "uint32",
        ty::UINT64 => "uint64",
        ty::BFLOAT16 => "bfloat16",
        ty::UINT4 => "uint4",
        ty::INT4 => "int4",
        0 => "undefined",
        14 => "complex64",
        15 => "complex128",
        17 => "float8e4m3fn",
        18 => "float8e4m3fnuz",
        19 => "float8e5m2",
        20 => "float8e5m2fnuz",
        23 => "float4e2m1",
        24 => "float8e8m0",
        25 => "uint2",
        26 => "int2",
        other => return format!("number {other}"),
    };
    name.to_owned()
}

/// The parameters of a matrix of quantized values whose axes are swapped.
pub(super) fn swapped_qparams(qparams: &TensorQParams) -> TensorQParams {
    match qparams {
        TensorQParams::PerChannel { channels, ch_axis } => {
            TensorQParams::PerChannel { channels: Arc::clone(channels), ch_axis: 1 - ch_axis.min(&1) }
        }
        // Groups are not swapped: their callers have none.
        other => other.clone(),
    }
}

/// Transposes `[k, n]` to `[n, k]`, in blocks that fit a cache.
pub(super) fn transposed<T: Copy + Default + Send + Sync>(data: &[T], k: usize, n: usize) -> Vec<T> {
    const BLOCK: usize = 32;
    let mut out = vec![T::default(); data.len()];
    if data.is_empty() {
        return out;
    }
    out.par_chunks_mut(BLOCK * k).enumerate().for_each(|(block, rows)| {
        let first = block * BLOCK;
        let width = rows.len() / k;
        for start in (0..k).step_by(BLOCK) {
            for row in start..(start + BLOCK).min(k) {
                for col in 0..width {
                    rows[col * k + row] = data[row * n + first + col];
                }
            }
        }
    });
    out
}

//! Known weights whose elements have a scale for each block of neighbours. They become floats, which a quantizer may quantize anew, or if
//! the options say so group-wise integer weights, whose scales are products of integers.

use std::sync::Arc;

use super::importer::Importer;
use super::operator::{Call, Operator, Values};
use crate::onnx::group_weight::{GroupWeight, group_qparams};
use crate::onnx::host::{self, Data, Host, show};
use crate::onnx::proto::data_type as ty;
use crate::onnx::tensor::{is_float, type_name};
use crate::onnx::value::Value;
use crate::values::Tensor;

operators! {
    "MatMulNBits" => Operator::stored(Importer::matmul_n_bits),
}

/// Numbers of a few bits, packed from the lowest bits of a byte on.
struct Packed {
    bytes: Vec<u8>,
    bits: usize,
}

impl Packed {
    fn get(&self, at: usize) -> f32 {
        let each = 8 / self.bits;
        let byte = self.bytes[at / each] >> (at % each * self.bits);
        f32::from(byte & (u8::MAX >> (8 - self.bits)))
    }
}

impl Importer {
    /// The bytes of a known tensor of `uint8`.
    fn bytes_of(&mut self, value: &Value, expected: usize) -> Result<Vec<u8>, String> {
        let data_type = self.type_of(value);
        if data_type != ty::UINT8 {
            return Err(format!("its packed numbers are of {}, expected uint8", type_name(data_type)));
        }
        let bytes: Vec<u8> = match value {
            Value::Stored(at) => {
                let stored = &self.stored[*at];
                stored.quantized()?.into_iter().map(|v| (v as u8).wrapping_add(128)).collect()
            }
            _ => self.host(value)?.integers()?.into_iter().map(|v| v as u8).collect(),
        };
        if bytes.len() != expected {
            return Err(format!("it has {} bytes of packed numbers, expected {expected}", bytes.len()));
        }
        Ok(bytes)
    }

    /// Takes the bytes of the floats of a packed tensor. A file of 4 bits an element may become eight times as large; each of its tensors
    /// may once, and the constant of the graph beside it.
    fn unpack(&mut self, packed: &Value, count: usize) -> Result<(), String> {
        if let Value::Stored(at) = packed
            && self.unpacked.insert(*at)
        {
            self.budget.allow(count, 8);
        }
        self.budget.take(count, 4)
    }

    /// `x · wᵀ + bias` with the weight `w[n, k] = (q[n, k] − z[n, b]) · s[n, b]`, where `b` is the block of `k`.
    fn matmul_n_bits(&mut self, call: &Call<'_>) -> Values {
        let number = |name: &str, default: i64| {
            let value = call.node.int(name, default)?;
            usize::try_from(value).ok().filter(|&n| (1..=1 << 28).contains(&n)).ok_or(format!("its {name} is {value}"))
        };
        let (n, k) = (number("N", 0)?, number("K", 0)?);
        let (bits, size) = (number("bits", 4)?, number("block_size", 0)?);
        if !matches!(bits, 2 | 4 | 8) {
            return Err(format!("its bits are {bits}; supported are 2, 4 and 8"));
        }
        if call.optional(4).is_some() {
            return Err("its blocks are in another order (g_idx), which is not supported".to_owned());
        }
        if call.node.int("weight_prepacked", 0)? != 0 {
            return Err("its weight is packed for a device".to_owned());
        }
        let blocks = k.div_ceil(size);
        let block_bytes = size.saturating_mul(bits).div_ceil(8);
        let bytes = n.saturating_mul(blocks).saturating_mul(block_bytes);
        let weight = Packed { bytes: self.bytes_of(&call.input(1)?.clone(), bytes)?, bits };
        let scales = self.host(call.input(2)?)?.to_floats()?;
        if scales.len() != n.saturating_mul(blocks) {
            return Err(format!("it has {} scales for {n} rows of {blocks} blocks", scales.len()));
        }
        let zero_points: Vec<f32> = match call.optional(3) {
            None => vec![(1 << (bits - 1)) as f32; scales.len()],
            Some(value) if is_float(self.type_of(value)) => self.host(value)?.to_floats()?,
            Some(value) => {
                let row = (blocks * bits).div_ceil(8);
                let packed = Packed { bytes: self.bytes_of(&value.clone(), n * row)?, bits };
                (0..n * blocks).map(|at| packed.get(at / blocks * row * 8 / bits + at % blocks)).collect()
            }
        };
        if zero_points.len() != scales.len() {
            return Err(format!("it has {} zero points for {} scales", zero_points.len(), scales.len()));
        }
        if self.integer_groups
            && let Some(groups) = group_qparams([n, k, bits, size], &scales, &zero_points)
        {
            self.budget.take(n.saturating_mul(k), 1)?;
            let half = (1 << (bits - 1)) as f32;
            let value = |at: usize| {
                let block = at / k * blocks + at % k / size;
                (weight.get(block * block_bytes * 8 / bits + at % k % size) - half) as i8
            };
            let values = Tensor::from_i8(&[n, k], (0..n * k).map(value).collect()).map_err(|e| e.to_string())?;
            return self.group_layer(call, values, bits as u32, groups);
        }
        self.unpack(&call.input(1)?.clone(), n.saturating_mul(k))?;
        let value = |(at, row): (usize, usize)| {
            let block = row * blocks + at / size;
            (weight.get(block * block_bytes * 8 / bits + at % size) - zero_points[block]) * scales[block]
        };
        // The matrix `[K, N]`.
        let data = (0..k).flat_map(|at| (0..n).map(move |row| (at, row))).map(value).collect();
        let name = match call.input(1)? {
            Value::Stored(at) => Some(Arc::from(self.stored[*at].name())),
            _ => None,
        };
        let matrix = Value::Host(Host { name, ..Host::new(vec![k, n], Data::F32(data)) }.into());
        let x = call.input(0)?;
        match call.optional(5) {
            None => self.result(call, "MatMul", &[x, &matrix], &[]),
            Some(bias) => {
                let product = self.emitted(call, "product", "MatMul", &[x, &matrix], &[])?;
                self.result(call, "Add", &[&product, bias], &[])
            }
        }
    }

    /// A known tensor with a scale for each block of `size` elements along an axis, as floats.
    pub(super) fn dequantize_blocks(&mut self, call: &Call<'_>, size: i64) -> Values {
        let x = call.input(0)?;
        if matches!(x, Value::Run(_)) {
            return Err("it has a scale for each block of a value that is not known, which is not supported".to_owned());
        }
        let size = usize::try_from(size).ok().filter(|&size| size > 0).ok_or(format!("its block_size is {size}"))?;
        let (dims, name, values): (_, _, Vec<i32>) = match x {
            Value::Stored(at) if matches!(self.stored[*at].data_type, ty::INT4 | ty::UINT4 | ty::INT8 | ty::UINT8) => {
                let stored = &self.stored[*at];
                let shift = if stored.data_type == ty::UINT8 { 128 } else { 0 };
                let values = stored.quantized()?.into_iter().map(|v| i32::from(v) + shift).collect();
                (stored.dims.clone(), Some(Arc::from(stored.name())), values)
            }
            _ => {
                let x = self.host(x)?;
                x.fixed()?;
                (x.dims.clone(), x.name.clone(), x.integers()?.into_iter().map(|v| v as i32).collect())
            }
        };
        self.unpack(&call.input(0)?.clone(), values.len())?;
        let axis = host::axis(call.node.int("axis", 1)?, dims.len())?;
        let mut expected = dims.clone();
        expected[axis] = expected[axis].div_ceil(size);
        let scale = self.host(call.input(1)?)?;
        let zero_point = call.optional(2).map(|zero_point| self.host(zero_point)).transpose()?;
        for parameters in [Some(&scale), zero_point.as_ref()].into_iter().flatten() {
            if parameters.dims != expected {
                let has = show(&parameters.logical());
                return Err(format!("its scales or zero points are {has} for {dims:?}, expected {expected:?}"));
            }
        }
        let scales = scale.to_floats()?;
        let zero_points = zero_point.map(|zero_point| zero_point.integers()).transpose()?;
        let inner: usize = dims[axis + 1..].iter().product();
        let (length, blocks) = (dims[axis], expected[axis]);
        let real = |(at, value): (usize, i32)| {
            let (outer, along) = (at / (inner * length), at / inner % length);
            let block = (outer * blocks + along / size) * inner + at % inner;
            (i64::from(value) - zero_points.as_ref().map_or(0, |zero_points| zero_points[block])) as f32 * scales[block]
        };
        let data = Data::F32(values.iter().copied().enumerate().map(real).collect());
        let host = Arc::new(Host { name, ..Host::new(dims, data) });
        if self.integer_groups {
            let data_type = self.type_of(call.input(0)?);
            let zero_points = zero_points.as_deref();
            if let Some(weight) = GroupWeight::of_blocks(&host, data_type, (axis, size), &values, &scales, zero_points)
            {
                self.budget.take(values.len(), 1)?;
                self.group_weights.insert(Arc::as_ptr(&host), weight);
            }
        }
        Ok(vec![Value::Host(host)])
    }
}

//! Quantize and dequantize nodes. Codes of uint8 become int8: 128 less, and so do their zero points, which are the same reals.

use std::sync::Arc;

use super::{Call, Data, Host, Importer, Kind, Quantized, Run, Value, Values, one};
use crate::graph::NodeId;
use crate::numerics;
use crate::onnx::host::{Length, Walk, axis, show};
use crate::onnx::proto::data_type as ty;
use crate::onnx::tensor::type_name;
use crate::ops::{Dequantize, Op, Quantize};
use crate::values::{QParams, QParamsError, QuantRange, Tensor, TensorQParams};

/// Scales and zero points as a file gives them.
struct Parameters {
    scales: Vec<f32>,
    /// Of int8 codes.
    zero_points: Vec<i32>,
    /// The axis of the model that has one of them each; `None` for one in all.
    axis: Option<usize>,
}

impl Importer {
    pub(super) fn quantize_linear(&mut self, call: &Call<'_>) -> Values {
        let x = call.input(0)?;
        let data_type = match call.optional(2) {
            Some(zero_point) => self.data_type(zero_point),
            None => match i32::try_from(call.node.int("output_dtype", 0)?) {
                Ok(0) => ty::UINT8,
                other => other.unwrap_or(0),
            },
        };
        let range = range(data_type)?;
        let parameters = self.parameters(call, data_type)?;
        if !matches!(x, Value::Run(_)) {
            return self.quantize_known(call, data_type, range, &parameters);
        }
        let x = self.as_float(call, x)?;
        let qparams = self.run_qparams(x, &parameters)?;
        let id = self.draft.add(&call.name, Op::Quantize(Quantize { qparams, range }), &[x.id])?;
        one(Run { id, kind: Kind::Codes { unsigned: data_type == ty::UINT8 }, ..x })
    }

    pub(super) fn dequantize_linear(&mut self, call: &Call<'_>) -> Values {
        let x = call.input(0)?;
        let data_type = match x {
            Value::Run(Run { kind: Kind::Codes { unsigned }, .. }) => {
                if *unsigned {
                    ty::UINT8
                } else {
                    ty::INT8
                }
            }
            Value::Stored(_) | Value::Host(_) => self.data_type(x),
            Value::Run(run) => {
                let what = if run.kind == Kind::Float { "floats" } else { "integers" };
                return Err(format!(
                    "it reads {what} that are computed or given at run time; supported are codes that are stored, an input \
                     of int8, or what a QuantizeLinear makes"
                ));
            }
            _ => return Err("its input is dequantized already".to_owned()),
        };
        if let Some(zero_point) = call.optional(2) {
            let other = self.data_type(zero_point);
            let four_bits = matches!(other, ty::INT4 | ty::UINT4) && matches!(x, Value::Run(_));
            if other != data_type && !four_bits {
                return Err(format!("its codes are {}, its zero point {}", type_name(data_type), type_name(other)));
            }
        }
        let parameters = self.parameters(call, data_type)?;
        let Value::Run(x) = x else { return self.dequantize_known(call, data_type, &parameters) };
        let qparams = self.run_qparams(*x, &parameters)?;
        let id = self.draft.add(&call.name, Op::Dequantize(Dequantize { qparams }), &[x.id])?;
        one(Run { id, kind: Kind::Float, ..*x })
    }

    fn data_type(&self, value: &Value) -> i32 {
        match value {
            Value::Stored(at) => self.stored[*at].data_type,
            Value::Host(host) => host.data_type,
            _ => 0,
        }
    }

    fn parameters(&mut self, call: &Call<'_>, data_type: i32) -> Result<Parameters, String> {
        if call.node.int("block_size", 0)? != 0 {
            return Err("it has a scale for each block, which is not supported".to_owned());
        }
        let lengths = self.logical(call.input(0)?);
        let scale = self.host(call.input(1)?)?;
        let scales = scale.floats().ok_or("its scale is not a float")?.to_vec();
        let shift = if data_type == ty::UINT8 { 128 } else { 0 };
        let zero_points = match call.optional(2) {
            None => vec![-shift; scales.len()],
            Some(zero_point) => {
                let zero_points = self.host(zero_point)?.integers()?.into_iter();
                zero_points.map(|z| i32::try_from(z.saturating_sub(shift.into())).unwrap_or(i32::MAX)).collect()
            }
        };
        if zero_points.len() != scales.len() {
            return Err(format!("it has {} scales but {} zero points", scales.len(), zero_points.len()));
        }
        if scale.dims.len() > 1 {
            return Err(format!("its scale has {} axes, expected up to 1", scale.dims.len()));
        }
        let mut at = None;
        if scale.dims.len() == 1 && scales.len() != 1 {
            let axis = axis(call.node.int("axis", 1)?, lengths.len())?;
            if lengths[axis] != Length::Known(scales.len() as i64) {
                return Err(format!("it has {} scales for axis {axis} of {}", scales.len(), show(&lengths)));
            }
            at = Some(axis);
        }
        if scales.is_empty() {
            return Err("it has no scale".to_owned());
        }
        Ok(Parameters { scales, zero_points, axis: at })
    }

    fn run_qparams(&self, x: Run, parameters: &Parameters) -> Result<TensorQParams, String> {
        let axis = parameters.axis.map(|axis| self.inner_axis(x, axis)).transpose()?;
        parameters.qparams(axis).map_err(|e| e.to_string())
    }

    /// Codes of a known value, as the file would store them.
    fn quantize_known(
        &mut self,
        call: &Call<'_>,
        data_type: i32,
        range: QuantRange,
        parameters: &Parameters,
    ) -> Values {
        let x = self.host(call.input(0)?)?;
        x.fixed()?;
        self.budget.take(x.data.len(), 8)?;
        let floats = x.to_floats()?;
        let channels = parameters.channels(&x.dims);
        let shift = if data_type == ty::UINT8 { 128 } else { 0 };
        let (lo, hi) = (range.quant_min(), range.quant_max());
        let code = |(v, channel): (f32, usize)| {
            let zero_point = parameters.zero_points[channel];
            let code = (v / parameters.scales[channel]).round_ties_even() as i32;
            i64::from(code.saturating_add(zero_point).clamp(lo, hi) + shift)
        };
        let data = Data::I64(floats.into_iter().zip(channels).map(code).collect());
        let host = Host { data, data_type, ..(*x).clone() };
        Ok(vec![Value::Host(Arc::new(host))])
    }

    fn dequantize_known(&mut self, call: &Call<'_>, data_type: i32, parameters: &Parameters) -> Values {
        let x = call.input(0)?;
        if let Value::Host(host) = x {
            host.fixed()?;
        }
        let name = call.node.output.first().cloned().unwrap_or_default();
        let named_after = match x {
            Value::Stored(at) => self.stored[*at].name().to_owned(),
            _ => name.clone(),
        };
        // A bias is called as it was before it was quantized, a weight may be.
        let own = super::super::names::module(&named_after);
        let name = if own.is_some() { named_after } else { name };
        let codes = match data_type {
            ty::INT32 => {
                if parameters.zero_points.iter().any(|z| *z != 0) {
                    return Err("its zero point is not 0, as those of int32 are".to_owned());
                }
                let host = self.host(x)?;
                let codes = host.integers()?.into_iter().map(|v| v as i32).collect();
                Tensor::from_i32(&host.dims, codes)
            }
            ty::INT8 | ty::UINT8 | ty::INT4 | ty::UINT4 => match x {
                Value::Stored(at) => {
                    let stored = &self.stored[*at];
                    Tensor::from_i8(&stored.dims, stored.codes()?)
                }
                _ => {
                    let host = self.host(x)?;
                    let shift = if data_type == ty::UINT8 { 128 } else { 0 };
                    let codes = host.integers()?.into_iter().map(|v| (v - shift).clamp(-128, 127) as i8).collect();
                    Tensor::from_i8(&host.dims, codes)
                }
            },
            other => return Err(format!("codes of type {} are not supported", type_name(other))),
        };
        let codes = codes.map_err(|e| e.to_string())?;
        match parameters.qparams(parameters.axis) {
            Ok(qparams) => Ok(vec![Value::Quantized(Arc::new(Quantized { codes, qparams, name }))]),
            Err(_) => {
                // A scale of 0, say: the values are known all the same.
                self.budget.take(codes.len(), 4)?;
                let channels = parameters.channels(codes.shape());
                let real = |(code, channel): (i32, usize)| {
                    code.wrapping_sub(parameters.zero_points[channel]) as f32 * parameters.scales[channel]
                };
                let data = Data::F32(integers(&codes).zip(channels).map(real).collect());
                let name = Some(Arc::from(name));
                Ok(vec![Value::Host(Arc::new(Host { name, ..Host::new(codes.shape().to_vec(), data) }))])
            }
        }
    }

    /// A constant of codes and its dequantize node.
    pub(in crate::onnx) fn quantized_constant(&mut self, quantized: &Quantized) -> Result<NodeId, String> {
        self.budget.take(quantized.codes.len(), 1)?;
        let codes = self.draft.constant(&quantized.name, quantized.codes.clone());
        let id = self.draft.add("", Op::Dequantize(Dequantize { qparams: quantized.qparams.clone() }), &[codes])?;
        self.draft.nodes[id.index()].origin.clone_from(&quantized.name);
        Ok(id)
    }
}

impl Parameters {
    fn qparams(&self, axis: Option<usize>) -> Result<TensorQParams, QParamsError> {
        match axis {
            Some(axis) => TensorQParams::per_channel(&self.scales, &self.zero_points, axis),
            None => QParams::new(self.scales[0], self.zero_points[0]).map(TensorQParams::PerTensor),
        }
    }

    /// Which of them each element has.
    fn channels(&self, dims: &[usize]) -> Walk {
        let mut strides = vec![0; dims.len()];
        if let Some(axis) = self.axis {
            strides[axis] = 1;
        }
        Walk::new(dims, strides, 0)
    }
}

impl Quantized {
    /// The reals.
    pub(in crate::onnx) fn host(&self) -> Host {
        let dims = self.codes.shape().to_vec();
        let data: Vec<f32> = match &self.qparams {
            TensorQParams::PerTensor(q) => {
                integers(&self.codes).map(|code| numerics::dequantize(code, q.scale(), q.zero_point())).collect()
            }
            TensorQParams::PerChannel { channels, ch_axis } => {
                let mut strides = vec![0; dims.len()];
                strides[*ch_axis] = 1;
                let real = |(code, channel): (i32, usize)| {
                    let q = channels[channel];
                    numerics::dequantize(code, q.scale(), q.zero_point())
                };
                integers(&self.codes).zip(Walk::new(&dims, strides, 0)).map(real).collect()
            }
        };
        Host { name: Some(Arc::from(self.name.as_str())), ..Host::new(dims, Data::F32(data)) }
    }

    /// The parameters of a matrix whose axes are swapped.
    pub(super) fn swapped_qparams(&self) -> TensorQParams {
        match &self.qparams {
            TensorQParams::PerChannel { channels, ch_axis } => {
                TensorQParams::PerChannel { channels: Arc::clone(channels), ch_axis: 1 - ch_axis.min(&1) }
            }
            per_tensor => per_tensor.clone(),
        }
    }
}

fn integers(codes: &Tensor) -> Box<dyn Iterator<Item = i32> + '_> {
    match codes.as_i32() {
        Some(codes) => Box::new(codes.iter().copied()),
        None => Box::new(codes.as_i8().expect("codes are of i8 or i32").iter().map(|&code| code.into())),
    }
}

fn range(data_type: i32) -> Result<QuantRange, String> {
    let range = match data_type {
        ty::INT8 | ty::UINT8 => Ok(QuantRange::INT8),
        ty::INT4 => QuantRange::new(-8, 7),
        ty::UINT4 => QuantRange::new(0, 15),
        other => return Err(format!("codes of type {} are not supported", type_name(other))),
    };
    range.map_err(|e| e.to_string())
}

//! `QuantizeLinear` and `DequantizeLinear`.
//!
//! Quantized values of `uint8` become int8: the importer subtracts 128 from them and from their zero points, so that they stand for
//! the same reals.

use std::sync::Arc;

use super::importer::Importer;
use super::operator::{Call, Operator, Values, one};
use crate::graph::NodeId;
use crate::numerics::QuantizeRule;
use crate::onnx::host::{Data, Host, Length, Walk, axis, show};
use crate::onnx::integers;
use crate::onnx::names;
use crate::onnx::proto::data_type as ty;
use crate::onnx::tensor::{swapped_qparams, transposed, type_name};
use crate::onnx::value::Quantized;
use crate::onnx::value::{Kind, Run, Value};
use crate::ops::{Dequantize, Quantize};
use crate::values::{QParams, QParamsError, QuantRange, Tensor, TensorQParams};

operators! {
    "DequantizeLinear" => Operator::stored(Importer::dequantize_linear).deferring(Importer::dequantize_deferred),
    "QuantizeLinear" => Operator::stored(Importer::quantize_linear).deferring(Importer::quantize_deferred),
}

/// Scales and zero points as a file gives them.
pub(super) struct Parameters {
    pub(super) scales: Vec<f32>,
    /// Zero points of int8 values: those of `uint8` are 128 lower than in the file.
    pub(super) zero_points: Vec<i32>,
    /// The axis of the model whose indices each have a scale; `None` for one scale of the tensor.
    pub(super) axis: Option<usize>,
}

impl Importer {
    fn quantize_linear(&mut self, call: &Call<'_>) -> Values {
        let x = call.input(0)?;
        let data_type = match call.optional(2) {
            Some(zero_point) => self.type_of(zero_point),
            None => match call.node.int("output_dtype", 0)? {
                0 => ty::UINT8,
                other => i32::try_from(other).unwrap_or(0),
            },
        };
        let precision = call.node.int("precision", 0)?;
        if precision != 0 && precision != i64::from(ty::FLOAT) {
            return Err(format!("its precision is type {precision}; supported is float"));
        }
        let parameters = self.parameters(call, data_type)?;
        if let ty::INT16 | ty::UINT16 = data_type {
            return match x {
                Value::Run(_) => self.quantize_wide(call, data_type, &parameters),
                _ => self.quantize_known(call, data_type, integers::range(data_type), &parameters),
            };
        }
        let range = range(data_type)?;
        if !matches!(x, Value::Run(_)) {
            let shift = if data_type == ty::UINT8 { 128 } else { 0 };
            let (lo, hi) = (i128::from(range.quant_min()) + shift, i128::from(range.quant_max()) + shift);
            return self.quantize_known(call, data_type, (lo, hi), &parameters);
        }
        let x = self.as_float(call, x)?;
        let qparams = self.run_qparams(x, &parameters)?;
        let id = self.draft.add(&call.name, Quantize { qparams, range, rule: QuantizeRule::Divide }, &[x.id])?;
        one(Run { id, kind: Kind::Quantized { unsigned: data_type == ty::UINT8 }, ..x })
    }

    fn dequantize_linear(&mut self, call: &Call<'_>) -> Values {
        let x = call.input(0)?;
        match call.node.int("block_size", 0)? {
            0 => {}
            size => return self.dequantize_blocks(call, size),
        }
        match x {
            Value::Run(Run { kind: Kind::Quantized { .. } | Kind::Int(_), .. }) | Value::Stored(_) | Value::Host(_) => {
            }
            Value::Run(run) => {
                let what = type_name(self.type_of(&Value::Run(*run)));
                return Err(format!("its input is {what}, expected quantized values"));
            }
            _ => return Err("its input is dequantized already".to_owned()),
        }
        let data_type = self.type_of(x);
        if let Some(zero_point) = call.optional(2) {
            let other = self.type_of(zero_point);
            let four_bits = matches!(other, ty::INT4 | ty::UINT4) && matches!(x, Value::Run(_));
            if other != data_type && !four_bits {
                return Err(format!("its input is {}, its zero point {}", type_name(data_type), type_name(other)));
            }
        }
        let parameters = self.parameters(call, data_type)?;
        let Value::Run(x) = x else { return self.dequantize_known(call, data_type, &parameters) };
        let x = &match x.kind {
            // Values of 8 bits are quantized values, whatever computes them.
            Kind::Int(ty::INT8 | ty::UINT8) => {
                let codes = self.as_float(call, &Value::Run(*x))?;
                self.quantized_codes(&call.part("codes"), codes, data_type == ty::UINT8)?
            }
            Kind::Int(_) => return self.dequantize_wide(call, *x, data_type, &parameters),
            _ => *x,
        };
        let qparams = self.run_qparams(*x, &parameters)?;
        let id = self.draft.add(&call.name, Dequantize { qparams }, &[x.id])?;
        one(Run { id, kind: Kind::Float, ..*x })
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

    /// The quantized values of a known tensor, as the file would store them.
    fn quantize_known(
        &mut self,
        call: &Call<'_>,
        data_type: i32,
        (lo, hi): (i128, i128),
        parameters: &Parameters,
    ) -> Values {
        let x = self.host(call.input(0)?)?;
        x.fixed()?;
        self.budget.take(x.data.len(), 8)?;
        let floats = x.to_floats()?;
        let channels = parameters.channels(&x.dims);
        let shift = if data_type == ty::UINT8 { 128 } else { 0 };
        let quantize = |(v, channel): (f32, usize)| {
            let steps = (v / parameters.scales[channel]).round_ties_even() as i64;
            let value = i128::from(steps) + i128::from(parameters.zero_points[channel]) + shift;
            value.clamp(lo, hi) as i64
        };
        let data = Data::I64(floats.into_iter().zip(channels).map(quantize).collect());
        let host = Host { data, data_type, ..(*x).clone() };
        Ok(vec![Value::Host(Arc::new(host))])
    }

    fn dequantize_known(&mut self, call: &Call<'_>, data_type: i32, parameters: &Parameters) -> Values {
        let x = call.input(0)?;
        if let Value::Host(host) = x {
            host.fixed()?;
        }
        let output = call.node.output.first().map_or("", String::as_str);
        let stored = match x {
            Value::Stored(at) => self.stored[*at].name(),
            _ => output,
        };
        // The name of a parameter is kept, so that its layer is named after it.
        let name = if names::module(stored).is_some() { stored } else { output }.to_owned();
        if let ty::INT16 | ty::UINT16 = data_type {
            // A graph has no quantized values of 16 bits, but the reals are known.
            let host = self.host(x)?;
            self.budget.take(host.data.len(), 4)?;
            let integers = host.integers()?.into_iter().map(|v| v as i32);
            let reals = integers.zip(parameters.channels(&host.dims)).map(|of| parameters.real(of)).collect();
            let host = Host { name: Some(Arc::from(name)), ..Host::new(host.dims.clone(), Data::F32(reals)) };
            return Ok(vec![Value::Host(host.into())]);
        }
        let values = self.quantized_values(x, data_type, parameters)?;
        match parameters.qparams(parameters.axis) {
            Ok(qparams) => Ok(vec![Value::Quantized(Arc::new(Quantized { values, qparams, name }))]),
            Err(_) => {
                // A graph refuses the parameters, a scale of 0 for example, but the reals are known.
                self.budget.take(values.len(), 4)?;
                let data = Data::F32(parameters.reals(&values));
                let name = Some(Arc::from(name));
                Ok(vec![Value::Host(Arc::new(Host { name, ..Host::new(values.shape().to_vec(), data) }))])
            }
        }
    }

    /// A known tensor of quantized values as int8, or as `i32` for biases.
    fn quantized_values(&mut self, x: &Value, data_type: i32, parameters: &Parameters) -> Result<Tensor, String> {
        let values = match data_type {
            ty::INT32 => {
                if parameters.zero_points.iter().any(|z| *z != 0) {
                    return Err("its zero point is not 0, as those of int32 are".to_owned());
                }
                let host = self.host(x)?;
                let values = host.integers()?.into_iter().map(|v| v as i32).collect();
                Tensor::from_i32(&host.dims, values)
            }
            ty::INT8 | ty::UINT8 | ty::INT4 | ty::UINT4 => match x {
                Value::Stored(at) => {
                    let stored = &self.stored[*at];
                    Tensor::from_i8(&stored.dims, stored.quantized()?)
                }
                _ => {
                    let host = self.host(x)?;
                    let shift = if data_type == ty::UINT8 { 128 } else { 0 };
                    let values = host.integers()?.into_iter().map(|v| (v - shift).clamp(-128, 127) as i8).collect();
                    Tensor::from_i8(&host.dims, values)
                }
            },
            other => return Err(unsupported(other)),
        };
        values.map_err(|e| e.to_string())
    }

    /// A constant of quantized values, and the node that dequantizes it.
    pub(in crate::onnx) fn quantized_constant(&mut self, quantized: &Quantized) -> Result<NodeId, String> {
        self.budget.take(quantized.values.len(), 1)?;
        let values = self.draft.constant(&quantized.name, quantized.values.clone());
        let id = self.draft.add("", Dequantize { qparams: quantized.qparams.clone() }, &[values])?;
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

    /// The real that a value of one channel stands for.
    fn real(&self, (value, channel): (i32, usize)) -> f32 {
        value.wrapping_sub(self.zero_points[channel]) as f32 * self.scales[channel]
    }

    /// The reals that quantized values stand for. Unlike those of the `Dequantize` operator, the scales may be any floats.
    fn reals(&self, values: &Tensor) -> Vec<f32> {
        let real = |of| self.real(of);
        let channels = self.channels(values.shape());
        match (values.as_i32(), values.as_i8()) {
            (Some(values), _) => values.iter().copied().zip(channels).map(real).collect(),
            (None, values) => values.into_iter().flatten().map(|&v| v.into()).zip(channels).map(real).collect(),
        }
    }

    /// The index of the scale that each element has, in a tensor of shape `dims`.
    fn channels(&self, dims: &[usize]) -> Walk {
        let mut strides = vec![0; dims.len()];
        if let Some(axis) = self.axis {
            strides[axis] = 1;
        }
        Walk::new(dims, strides, 0)
    }
}

impl Quantized {
    /// The reals that the values stand for.
    pub(in crate::onnx) fn host(&self) -> Result<Host, String> {
        let values = Host::evaluated(&Dequantize { qparams: self.qparams.clone() }.into(), &[&self.values])?;
        Ok(Host { name: Some(Arc::from(self.name.as_str())), ..values })
    }

    /// The matrix with its axes swapped.
    pub(super) fn transposed(&self) -> Result<Self, String> {
        let (&[k, n], Some(values)) = (self.values.shape(), self.values.as_i8()) else {
            return Err("its weight is not a matrix of quantized values".to_owned());
        };
        let values = Tensor::from_i8(&[n, k], transposed(values, k, n)).map_err(|e| e.to_string())?;
        Ok(Self { values, qparams: swapped_qparams(&self.qparams), name: self.name.clone() })
    }
}

fn unsupported(data_type: i32) -> String {
    format!("quantized values of type {} are not supported", type_name(data_type))
}

fn range(data_type: i32) -> Result<QuantRange, String> {
    let range = match data_type {
        ty::INT8 | ty::UINT8 => Ok(QuantRange::INT8),
        ty::INT4 => QuantRange::new(-8, 7),
        ty::UINT4 => QuantRange::new(0, 15),
        other => return Err(unsupported(other)),
    };
    range.map_err(|e| e.to_string())
}

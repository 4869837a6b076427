//! Dynamic quantization: `DynamicQuantizeLinear`, and products of quantized values whose sums are scaled afterwards.
//!
//! The sum of products of quantized values, times the scale of each factor, is the product of the floats that the factors stand for.
//! So a `MatMulInteger` waits for its scales, and then becomes a product of dequantized values.

use std::sync::Arc;

use super::importer::Importer;
use super::operator::{Call, Operator, Values};
use crate::graph::NodeId;
use crate::onnx::attributes::int_attribute;
use crate::onnx::exported_functions as functions;
use crate::onnx::host::{Data, Host, Length};
use crate::onnx::proto::{AttributeProto, NodeProto, data_type as ty};
use crate::onnx::tensor::type_name;
use crate::onnx::value::{Deferred, Factor, Kind, Product, Run, Scale, Value};
use crate::ops::{ChooseQParams, DequantizeDynamic, QuantizeDynamic};
use crate::values::{MIN_SCALE, QScheme, QuantRange};

operators! {
    "ConvInteger" => Operator::stored(Importer::conv_integer).deferring(Importer::conv_integer),
    "DynamicQuantizeLinear" => Operator::nodes(Importer::dynamic_quantize_linear),
    "MatMulInteger" => Operator::stored(Importer::matmul_integer).deferring(Importer::matmul_integer),
}

/// The operators of ONNX Runtime's own domain.
pub(super) fn contrib(op_type: &str) -> Option<Operator> {
    Some(match op_type {
        "DynamicQuantizeMatMul" => Operator::stored(Importer::dynamic_quantize_matmul),
        "MatMulIntegerToFloat" => {
            Operator::stored(Importer::matmul_integer_to_float).deferring(Importer::matmul_integer_to_float)
        }
        _ => return None,
    })
}

/// The functions that an export defines in its file.
pub(super) fn function(name: &str) -> Option<Operator> {
    match name {
        functions::MATMUL => Some(Operator::stored(Importer::matmul_per_token).deferring(Importer::matmul_per_token)),
        functions::DEQUANTIZE => {
            Some(Operator::stored(Importer::dequantize_deferred).deferring(Importer::dequantize_deferred))
        }
        functions::ROWS => Some(Operator::stored(Importer::quantized_rows)),
        _ => functions::qscheme(name).map(|_| Operator::nodes(Importer::dynamic_quantize)),
    }
}

/// The constant that a known zero point or a known scale becomes for `count` channels.
fn for_channels(host: &Host, count: usize) -> Result<Host, String> {
    let data = match &host.data {
        Data::F32(v) if v.len() == 1 => Data::F32(vec![v[0]; count]),
        Data::I64(v) if v.len() == 1 => Data::I64(vec![v[0]; count]),
        data if data.len() == count => data.clone(),
        data => return Err(format!("it has {} scales or zero points for {count} channels", data.len())),
    };
    let dims = if count == 1 { Vec::new() } else { vec![count] };
    Ok(Host::new(dims, data).typed(host.data_type))
}

impl Importer {
    /// The rule of ONNX is that of equation 10 but for its smallest scale: ONNX has none, and here it is the smallest usable one. The
    /// zero point `round(0 − min / scale)` is that of equation 10, 128 higher.
    fn dynamic_quantize_linear(&mut self, call: &Call<'_>) -> Values {
        let x = self.float(call, call.input(0)?)?;
        if x.kind != Kind::Float {
            return Err(format!("it quantizes {}", type_name(self.type_of(&Value::Run(x)))));
        }
        let qscheme = QScheme::per_tensor_affine();
        let choose = ChooseQParams { qscheme, range: QuantRange::INT8, eps: MIN_SCALE };
        self.chosen_and_quantized(call, [x, x], choose)
    }

    /// A call of one of the functions that quantize.
    fn dynamic_quantize(&mut self, call: &Call<'_>) -> Values {
        let [x, observed] = [self.float(call, call.input(0)?)?, self.float(call, call.input(1)?)?];
        let mut number = |at: usize| {
            let value = self.scalar(call.input(at)?);
            value.ok_or_else(|| format!("its input {at} is not one number that is known while importing"))
        };
        let ([lo, hi], eps) = ([number(2)?, number(3)?], number(4)?);
        if [lo, hi].iter().any(|v| v.fract() != 0.0 || v.abs() > 128.0) {
            return Err(format!("its quantized values are from {lo} to {hi}, expected integers of 8 bits"));
        }
        let range = QuantRange::new(lo as i32, hi as i32).map_err(|e| e.to_string())?;
        let qscheme = functions::qscheme(&call.node.op_type).ok_or("it has no scheme")?;
        self.chosen_and_quantized(call, [x, observed], ChooseQParams { qscheme, range, eps })
    }

    /// `x` quantized by the range of `observed`: the values, their scale and their zero point.
    fn chosen_and_quantized(&mut self, call: &Call<'_>, [x, observed]: [Run; 2], choose: ChooseQParams) -> Values {
        let range = choose.range;
        let qparams = self.draft.add(&call.part("qparams"), choose, &[observed.id])?;
        let values = self.quantized_dynamically(&call.name, x, qparams, range)?;
        let scale = Scale { qparams: vec![qparams], known: None };
        let deferred = |deferred| Value::Deferred(Arc::new(deferred));
        Ok(vec![Value::Run(values), deferred(Deferred::Scale(scale)), deferred(Deferred::ZeroPoint(qparams))])
    }

    /// `x` quantized to `uint8` by dynamic qparams.
    pub(super) fn quantized_dynamically(
        &mut self,
        name: &str,
        x: Run,
        qparams: NodeId,
        range: QuantRange,
    ) -> Result<Run, String> {
        let id = self.draft.add(name, QuantizeDynamic { range }, &[x.id, qparams])?;
        Ok(Run { id, kind: Kind::Quantized { unsigned: true }, ..x })
    }

    /// The floats that quantized values stand for by dynamic qparams.
    pub(super) fn dequantized_dynamically(&mut self, name: &str, values: Run, qparams: NodeId) -> Result<Run, String> {
        let id = match self.dequantized.get(&(values.id, qparams)) {
            Some(&id) => id,
            None => {
                let id = self.draft.add(name, DequantizeDynamic, &[values.id, qparams])?;
                self.dequantized.insert((values.id, qparams), id);
                id
            }
        };
        Ok(Run { id, kind: Kind::Float, ..values })
    }

    /// A factor of a product: the values at one input, and their zero point at another.
    fn factor(&self, call: &Call<'_>, at: usize, zero_point: usize) -> Result<Factor, String> {
        let values = call.input(at)?.clone();
        let of = self.type_of(&values);
        if !matches!(of, ty::INT8 | ty::UINT8) || matches!(values, Value::Deferred(_)) {
            return Err(format!("its input {at} is {}, expected int8 or uint8", type_name(of)));
        }
        match call.optional(zero_point) {
            Some(Value::Deferred(deferred)) => match (&**deferred, &values) {
                (&Deferred::ZeroPoint(qparams), &Value::Run(values)) if of == ty::UINT8 => {
                    Ok(Factor::Dynamic { values, qparams })
                }
                (Deferred::ZeroPoint(_), _) => Err(format!(
                    "its input {at} is {} that is not quantized at run time, but its zero point is",
                    type_name(of)
                )),
                _ => Err(format!("its zero point is {}", deferred.refusal())),
            },
            zero_point => {
                if let Some(zero_point) = zero_point
                    && self.type_of(zero_point) != of
                {
                    let other = type_name(self.type_of(zero_point));
                    return Err(format!("its input {at} is {}, its zero point {other}", type_name(of)));
                }
                Ok(Factor::Known { values, zero_point: zero_point.cloned() })
            }
        }
    }

    fn integer_product(
        &mut self,
        call: &Call<'_>,
        op_type: &'static str,
        attributes: Vec<AttributeProto>,
    ) -> Result<Product, String> {
        let factors = [self.factor(call, 0, 2)?, self.factor(call, 1, 3)?];
        let name = &call.node.name;
        // The quantizer of ONNX Runtime adds this to the name of the operator that was quantized.
        let name = name.strip_suffix("_quant").unwrap_or(name).to_owned();
        let scale = Scale { qparams: Vec::new(), known: None };
        Ok(Product { op_type, attributes, name, factors, is_float: false, scale })
    }

    fn matmul_integer(&mut self, call: &Call<'_>) -> Values {
        let product = self.integer_product(call, "MatMul", Vec::new())?;
        Ok(vec![Value::Deferred(Deferred::Product(product).into())])
    }

    fn conv_integer(&mut self, call: &Call<'_>) -> Values {
        let product = self.integer_product(call, "Conv", call.node.attribute.clone())?;
        Ok(vec![Value::Deferred(Deferred::Product(product).into())])
    }

    /// A product of floats, quantized at run time, and quantized values; and a bias.
    fn dynamic_quantize_matmul(&mut self, call: &Call<'_>) -> Values {
        let x = vec![Some(call.input(0)?.clone())];
        let quantize = Operator::nodes(Self::dynamic_quantize_linear);
        let node = NodeProto { name: call.part("quantized"), ..NodeProto::default() };
        let mut quantized = self.evaluate(&node, quantize, x)?.into_iter();
        let [values, scale, zero_point] = [(); 3].map(|()| quantized.next());
        let known = self.host(call.input(2)?)?;
        let scale = match scale {
            Some(Value::Deferred(deferred)) => match &*deferred {
                Deferred::Scale(scale) => Scale { known: Some(known), ..scale.clone() },
                other => return Err(other.refusal()),
            },
            _ => return Err("its input has no scale".to_owned()),
        };
        let inputs = vec![values, Some(call.input(1)?.clone()), zero_point, call.optional(3).cloned()];
        self.whole_product(call, inputs, scale, 4)
    }

    /// A product of quantized values whose scales it reads itself; and a bias.
    fn matmul_integer_to_float(&mut self, call: &Call<'_>) -> Values {
        let a = self.scale_of(call.input(2)?)?;
        let b = self.scale_of(call.input(3)?)?;
        let scale = self.scale_product(call, a, b)?;
        let inputs = [0, 1, 4, 5].map(|at| call.optional(at).cloned()).to_vec();
        self.whole_product(call, inputs, scale, 6)
    }

    /// A call of the function that multiplies values with a scale for each token.
    fn matmul_per_token(&mut self, call: &Call<'_>) -> Values {
        let [a, b] = [self.scale_of(call.input(1)?)?, self.scale_of(call.input(4)?)?];
        let scale = self.scale_product(call, a, b)?;
        let inputs = [0, 3, 2, 5].map(|at| call.optional(at).cloned()).to_vec();
        self.whole_product(call, inputs, scale, 6)
    }

    fn whole_product(&mut self, call: &Call<'_>, inputs: Vec<Option<Value>>, scale: Scale, bias: usize) -> Values {
        let inner = Call { node: call.node, inputs, name: call.name.clone() };
        let mut product = self.integer_product(&inner, "MatMul", Vec::new())?;
        product.is_float = true;
        product.scale = scale;
        if !product.is_scaled() {
            return Err("its scales are not those of its factors".to_owned());
        }
        let Some(bias) = call.optional(bias) else { return Ok(vec![self.resolved(&call.name, &product)?]) };
        let y = self.resolved(&call.part("product"), &product)?;
        self.result(call, "Add", &[&y, bias], &[])
    }

    /// The product of floats that a scaled product of quantized values is.
    pub(super) fn resolved(&mut self, name: &str, product: &Product) -> Result<Value, String> {
        let name = if product.name.is_empty() { name } else { &product.name };
        let mut known = product.scale.known.clone();
        let mut factors = Vec::with_capacity(2);
        // The right factor, which most often is the weight, may take a scale for each channel.
        for (side, factor) in product.factors.iter().enumerate().rev() {
            let part = format!("{name}.{}", ["left", "right"][side]);
            let value = match factor {
                &Factor::Dynamic { values, qparams } => {
                    Value::Run(self.dequantized_dynamically(&part, values, qparams)?)
                }
                Factor::Known { values, zero_point } => {
                    let axis = channel_axis(product.op_type, side);
                    let scale = match known.take() {
                        Some(scale) if self.takes_scale(&product.factors, side, axis, product.op_type, &scale) => scale,
                        other => {
                            known = other;
                            Host::new(Vec::new(), Data::F32(vec![1.0])).into()
                        }
                    };
                    let zero_point = zero_point.as_ref().map(|zero_point| self.host(zero_point)).transpose()?;
                    let count = scale.data.len().max(zero_point.as_ref().map_or(1, |host| host.data.len()));
                    let scale = Value::Host(for_channels(&scale, count)?.into());
                    let zero_point = match zero_point {
                        Some(host) => Some(Value::Host(for_channels(&host, count)?.into())),
                        None => None,
                    };
                    let inputs = vec![Some(values.clone()), Some(scale), zero_point];
                    self.emit(&part, "DequantizeLinear", inputs, vec![int_attribute("axis", axis)])?
                }
            };
            factors.push(Some(value));
        }
        factors.reverse();
        let Some(known) = known else { return self.emit(name, product.op_type, factors, product.attributes.clone()) };
        let unscaled = self.emit(&format!("{name}.unscaled"), product.op_type, factors, product.attributes.clone())?;
        self.emit(name, "Mul", vec![Some(unscaled), Some(Value::Host(known))], Vec::new())
    }

    /// Whether a scale of a product is one of a factor: one number, or one for each channel of the result.
    fn takes_scale(&self, factors: &[Factor; 2], side: usize, axis: i64, op_type: &str, scale: &Host) -> bool {
        let rank = |factor: &Factor| match factor {
            Factor::Dynamic { values, .. } => self.logical(&Value::Run(*values)).len(),
            Factor::Known { values, .. } => self.logical(values).len(),
        };
        if scale.rows.is_some() || scale.dims.len() > rank(&factors[0]) || rank(&factors[1]) < 2 {
            return false;
        }
        if scale.data.len() == 1 {
            return true;
        }
        let Factor::Known { values, .. } = &factors[side] else { return false };
        let lengths = self.logical(values);
        // The axis of the result that the channels are on, from the last one.
        let back = if op_type == "Conv" { lengths.len().saturating_sub(1) } else { 1 };
        let channel = if axis < 0 { lengths.len() - 1 } else { 0 };
        side == 1
            && (op_type == "Conv" || lengths.len() == 2)
            && scale.dims.len() >= back
            && scale.dims[scale.dims.len() - back] == scale.data.len()
            && lengths[channel] == Length::Known(scale.data.len() as i64)
    }
}

/// The axis of a factor that holds the channels of the result.
fn channel_axis(op_type: &str, side: usize) -> i64 {
    match (op_type, side) {
        ("Conv", 1) => 0,
        (_, 1) => -1,
        // A scale for each row of the left factor.
        _ => -2,
    }
}

//! The operators of quantized values: each is the operator of floats between dequantized inputs and a quantized result, as in the form
//! with QuantizeLinear and DequantizeLinear.

use super::importer::Importer;
use super::operator::{Call, Operator, Values};
use crate::onnx::attributes::int_attribute;
use crate::onnx::host::{Data, Host};
use crate::onnx::proto::{AttributeProto, data_type as ty};
use crate::onnx::value::Value;

operators! {
    "QGemm" => Operator::stored(Importer::q_gemm),
    "QLinearAdd" => Operator::stored(|i, call| i.q_elementwise(call, "Add")),
    "QLinearAveragePool" => Operator::stored(|i, call| i.q_unary(call, "AveragePool")),
    "QLinearConcat" => Operator::stored(Importer::q_concat),
    "QLinearConv" => Operator::stored(Importer::q_conv),
    "QLinearGlobalAveragePool" => Operator::stored(|i, call| i.q_unary(call, "GlobalAveragePool")),
    "QLinearLeakyRelu" => Operator::stored(|i, call| i.q_unary(call, "LeakyRelu")),
    "QLinearMatMul" => Operator::stored(|i, call| i.q_elementwise(call, "MatMul")),
    "QLinearMul" => Operator::stored(|i, call| i.q_elementwise(call, "Mul")),
    "QLinearSigmoid" => Operator::stored(|i, call| i.q_unary(call, "Sigmoid")),
    "QLinearSoftmax" => Operator::stored(Importer::q_softmax),
    "QLinearWhere" => Operator::stored(Importer::q_where),
}

impl Importer {
    /// The floats that quantized values stand for: input `at`, whose scale and zero point are the next two.
    fn real(&mut self, call: &Call<'_>, at: usize, axis: i64) -> Result<Value, String> {
        let inputs =
            vec![Some(call.input(at)?.clone()), Some(call.input(at + 1)?.clone()), call.optional(at + 2).cloned()];
        self.emit(&call.part(&format!("input{at}")), "DequantizeLinear", inputs, vec![int_attribute("axis", axis)])
    }

    /// The quantized result. Its scale is input `at`, its zero point the next one; without that, the result has zero point 0 and the
    /// type of the first values.
    fn quantized(&mut self, call: &Call<'_>, y: Value, at: usize, values: usize) -> Values {
        let zero_point = match call.optional(at + 1) {
            Some(zero_point) => zero_point.clone(),
            None => {
                let data_type = self.type_of(call.input(values)?);
                Value::Host(Host::new(Vec::new(), Data::I64(vec![0])).typed(data_type).into())
            }
        };
        let inputs = vec![Some(y), Some(call.input(at)?.clone()), Some(zero_point)];
        Ok(vec![self.emit(&call.name, "QuantizeLinear", inputs, Vec::new())?])
    }

    fn float_result(
        &mut self,
        call: &Call<'_>,
        op_type: &str,
        inputs: Vec<Option<Value>>,
        attributes: Vec<AttributeProto>,
    ) -> Result<Value, String> {
        if call.node.int("channels_last", 0)? != 0 {
            return Err("its channels are the last axis; supported is axis 1".to_owned());
        }
        self.emit(&call.part("float"), op_type, inputs, attributes)
    }

    /// An operator of one input, with the attributes of the node.
    fn q_unary(&mut self, call: &Call<'_>, op_type: &str) -> Values {
        let x = self.real(call, 0, 1)?;
        let own = |attribute: &&AttributeProto| attribute.name != "channels_last";
        let attributes = call.node.attribute.iter().filter(own).cloned().collect();
        let y = self.float_result(call, op_type, vec![Some(x)], attributes)?;
        self.quantized(call, y, 3, 0)
    }

    /// An operator of two inputs. The right factor of a product may have a scale for each column.
    fn q_elementwise(&mut self, call: &Call<'_>, op_type: &str) -> Values {
        let (a, b) = (self.real(call, 0, 0)?, self.real(call, 3, -1)?);
        let y = self.float_result(call, op_type, vec![Some(a), Some(b)], Vec::new())?;
        self.quantized(call, y, 6, 0)
    }

    fn q_softmax(&mut self, call: &Call<'_>) -> Values {
        let x = self.real(call, 0, 1)?;
        let (axis, rank) = (call.node.int("axis", -1)?, self.logical(&x).len() as i64);
        // Before opset 13, all axes from this one on count as one.
        if call.node.int("opset", 13)? < 13 && axis != -1 && axis != rank - 1 {
            return Err(format!(
                "its axis is {axis} of {rank}, and its opset is before 13; supported is the last axis"
            ));
        }
        let y = self.float_result(call, "Softmax", vec![Some(x)], vec![int_attribute("axis", axis)])?;
        self.quantized(call, y, 3, 0)
    }

    fn q_where(&mut self, call: &Call<'_>) -> Values {
        let (x, y) = (self.real(call, 1, 1)?, self.real(call, 4, 1)?);
        let y = self.float_result(call, "Where", vec![Some(call.input(0)?.clone()), Some(x), Some(y)], Vec::new())?;
        self.quantized(call, y, 7, 1)
    }

    fn q_concat(&mut self, call: &Call<'_>) -> Values {
        let count = call.inputs.len().saturating_sub(2);
        if count == 0 || !count.is_multiple_of(3) {
            return Err(format!("it has {count} inputs, scales and zero points, expected three for each value"));
        }
        let parts =
            (2..call.inputs.len()).step_by(3).map(|at| self.real(call, at, 1).map(Some)).collect::<Result<_, _>>()?;
        let axis = int_attribute("axis", call.node.int("axis", 0)?);
        let y = self.float_result(call, "Concat", parts, vec![axis])?;
        self.quantized(call, y, 0, 2)
    }

    fn q_conv(&mut self, call: &Call<'_>) -> Values {
        let (x, weight) = (self.real(call, 0, 1)?, self.real(call, 3, 0)?);
        let bias = self.real_bias(call, 8, [1, 4], 1.0)?;
        let own = |attribute: &&AttributeProto| attribute.name != "channels_last";
        let attributes = call.node.attribute.iter().filter(own).cloned().collect();
        let y = self.float_result(call, "Conv", vec![Some(x), Some(weight), bias], attributes)?;
        self.quantized(call, y, 6, 0)
    }

    fn q_gemm(&mut self, call: &Call<'_>) -> Values {
        let trans_b = call.node.int("transB", 0)?;
        let (a, b) = (self.real(call, 0, 0)?, self.real(call, 3, if trans_b != 0 { 0 } else { -1 })?);
        let bias = self.real_bias(call, 6, [1, 4], call.node.float("alpha", 1.0)?)?;
        let y = self.float_result(call, "Gemm", vec![Some(a), Some(b), bias], call.node.attribute.clone())?;
        match call.optional(7) {
            Some(_) => self.quantized(call, y, 7, 0),
            None => Ok(vec![y]),
        }
    }

    /// The floats that a bias of `int32` stands for: its scale is the product of the scales of two inputs and of a factor.
    fn real_bias(
        &mut self,
        call: &Call<'_>,
        at: usize,
        scales: [usize; 2],
        factor: f32,
    ) -> Result<Option<Value>, String> {
        let Some(bias) = call.optional(at) else { return Ok(None) };
        if self.type_of(bias) != ty::INT32 {
            return Err("its bias is not of int32".to_owned());
        }
        let [x, weight] = [self.host(call.input(scales[0])?)?, self.host(call.input(scales[1])?)?];
        let x = x.scalar().ok_or("the scale of its input is not one number")?;
        let scales =
            weight.floats().ok_or("its scales are not floats")?.iter().map(|w| x * w * factor).collect::<Vec<_>>();
        let dims = if scales.len() == 1 { Vec::new() } else { vec![scales.len()] };
        let scale = Value::Host(Host::new(dims, Data::F32(scales)).into());
        let inputs = vec![Some(bias.clone()), Some(scale), None];
        // A bias has the channels on its last axis.
        let axis = int_attribute("axis", -1);
        Ok(Some(self.emit(&call.part("bias"), "DequantizeLinear", inputs, vec![axis])?))
    }
}

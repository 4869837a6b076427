//! Dynamic quantization: scales and zero points that are computed at run time (equation 10), and products of values that have them.

use crate::graph::NodeId;
use crate::onnx::attributes::int_attribute;
use crate::onnx::export::dynamic_values::DynamicValues;
use crate::onnx::export::exporter::Exporter;
use crate::onnx::exported_functions::{self as functions, DOMAIN};
use crate::onnx::proto::data_type;
use crate::ops::{ChooseQParams, Dequantize, Op};
use crate::values::{DType, QScheme, QuantRange, TensorQParams};

/// A product of integers: values that are quantized dynamically, and a second factor.
#[derive(Debug)]
pub(in crate::onnx::export) struct IntegerProduct {
    /// The node that quantizes.
    left: NodeId,
    right: Right,
}

#[derive(Debug)]
enum Right {
    /// The node of an int8 weight `[N, K]`, whose zero points are 0, and its qparams.
    Weight(NodeId, TensorQParams),
    /// The node that quantizes with one scale for the tensor.
    Dynamic(NodeId),
}

impl Exporter<'_> {
    /// Writes the node that quantizes, which also gives scale and zero point; `false` if the scheme has no form.
    pub(super) fn quantize_dynamic(&mut self, id: NodeId) -> bool {
        let &[x, qparams] = &self.graph.node(id).inputs[..] else { return false };
        let choose = self.graph.node(qparams);
        let Op::ChooseQParams(ChooseQParams { qscheme, range, eps }) = choose.op else { return false };
        let observed = choose.inputs[0];
        let (name, qparams) = (self.graph.node(id).name.clone(), self.name(qparams).to_owned());
        let quantized = self.name(id).to_owned();
        let [scale, zero_point] = ["scale", "zero_point"].map(|part| self.writer.unique(&format!("{qparams}.{part}")));
        let value = self.value(x);
        if qscheme == QScheme::per_tensor_affine() && range == QuantRange::INT8 && observed == x {
            self.writer.node("DynamicQuantizeLinear", &name, &[&value], &quantized, Vec::new());
        } else if let Some(function) = functions::quantize_name(qscheme) {
            let observed = self.value(observed);
            let numbers =
                [("quant_min", range.quant_min() as f32), ("quant_max", range.quant_max() as f32), ("eps", eps)];
            let numbers = numbers.map(|(part, value)| self.writer.scalar(&format!("{qparams}.{part}"), value));
            let inputs: Vec<String> = [value, observed].into_iter().chain(numbers).collect();
            self.call(function, &name, &inputs, &quantized);
        } else {
            return false;
        }
        if let Some(node) = self.writer.nodes.last_mut() {
            node.output.extend([scale.clone(), zero_point.clone()]);
        }
        let per_token = qscheme.is_per_token();
        self.dynamic.insert(id, DynamicValues { quantized, scale, zero_point, per_token });
        true
    }

    pub(super) fn dequantize_dynamic(&mut self, id: NodeId) {
        let Some(values) = self.dynamic.get(&self.graph.node(id).inputs[0]).cloned() else { return };
        let inputs = [values.quantized, values.scale, values.zero_point];
        if !values.per_token {
            return self.parts(id).last("DequantizeLinear", &inputs);
        }
        let (name, output) = (self.graph.node(id).name.clone(), self.name(id).to_owned());
        self.call(functions::DEQUANTIZE, &name, &inputs, &output);
    }

    /// Writes a call of a function of the file.
    pub(in crate::onnx::export) fn call(
        &mut self,
        function: &'static str,
        name: &str,
        inputs: &[String],
        output: &str,
    ) {
        self.writer.node(function, name, inputs, output, Vec::new());
        if let Some(node) = self.writer.nodes.last_mut() {
            node.domain = DOMAIN.to_owned();
        }
        self.functions.insert(function);
    }

    /// Whether a node dequantizes dynamically for products of integers alone, which read the quantized values.
    pub(in crate::onnx::export) fn is_absorbed(&self, id: NodeId) -> bool {
        matches!(self.graph.node(id).op, Op::DequantizeDynamic(_))
            && !self.is_output(id)
            && self.readers(id).all(|reader| self.integer_product(reader).is_some())
    }

    /// The factors of a layer or a product that is one of integers in the integer form too.
    pub(in crate::onnx::export) fn integer_product(&self, id: NodeId) -> Option<IntegerProduct> {
        let node = self.graph.node(id);
        let left = self.quantized_dynamically(node.inputs.first().copied()?)?;
        let right = match &node.op {
            Op::Linear(_) => {
                let weight = self.graph.node(node.inputs[1]);
                let Op::Dequantize(Dequantize { qparams }) = &weight.op else { return None };
                let values = weight.inputs[0];
                let fits = match qparams {
                    TensorQParams::PerTensor(q) => q.zero_point() == 0,
                    TensorQParams::PerChannel { channels, ch_axis } => {
                        *ch_axis == 0 && channels.iter().all(|q| q.zero_point() == 0)
                    }
                    TensorQParams::PerGroup(_) => false,
                };
                if !fits || self.graph.node(values).dtype != DType::I8 || !self.is_constant(values) {
                    return None;
                }
                Right::Weight(values, qparams.clone())
            }
            Op::MatMul(_) => {
                let right = self.quantized_dynamically(node.inputs[1])?;
                let Op::ChooseQParams(choose) = &self.graph.node(self.graph.node(right).inputs[1]).op else {
                    return None;
                };
                if choose.qscheme.is_per_token() {
                    return None;
                }
                Right::Dynamic(right)
            }
            _ => return None,
        };
        Some(IntegerProduct { left, right })
    }

    /// The node that quantizes the values that a node dequantizes dynamically.
    fn quantized_dynamically(&self, id: NodeId) -> Option<NodeId> {
        let node = self.graph.node(id);
        let values = matches!(node.op, Op::DequantizeDynamic(_)).then(|| node.inputs[0])?;
        matches!(self.graph.node(values).op, Op::QuantizeDynamic(_)).then_some(values)
    }

    /// Writes a product of integers and what scales its sums, in the form that ONNX Runtime's optimizer makes one operator of. The last
    /// node has the name of the part, or without one that of the node. The name of the result is returned.
    pub(in crate::onnx::export) fn write_integer_product(
        &mut self,
        id: NodeId,
        product: &IntegerProduct,
        part: Option<&str>,
    ) -> String {
        let output = match part {
            Some(part) => self.writer.unique(&format!("{}.{part}", self.name(id))),
            None => self.name(id).to_owned(),
        };
        let name = if part.is_some() { output.clone() } else { self.graph.node(id).name.clone() };
        let Some(x) = self.dynamic.get(&product.left).cloned() else { return output };
        let (w, w_scale, w_zero_point) = match &product.right {
            Right::Weight(values, qparams) => {
                let w = self.transposed(*values);
                let wish = format!("{output}.scale");
                let scale = match qparams {
                    TensorQParams::PerTensor(q) => self.writer.scalar(&wish, q.scale()),
                    // Groups are not products of integers here.
                    TensorQParams::PerChannel { .. } | TensorQParams::PerGroup(_) => {
                        self.writer.floats(&wish, &qparams.channels().iter().map(|q| q.scale()).collect::<Vec<_>>())
                    }
                };
                let zero_point = self.writer.quantized_value(&format!("{output}.zero_point"), 0, data_type::INT8);
                (w, scale, zero_point)
            }
            Right::Dynamic(values) => {
                let Some(of) = self.dynamic.get(values).cloned() else { return output };
                (of.quantized, of.scale, of.zero_point)
            }
        };
        if x.per_token {
            let inputs = [x.quantized, x.scale, x.zero_point, w, w_scale, w_zero_point];
            self.call(functions::MATMUL, &name, &inputs, &output);
            return output;
        }
        let wish = |part: &str| format!("{output}.{part}");
        let sums = self.writer.part(
            "MatMulInteger",
            &wish("sums"),
            &[&x.quantized, &w, &x.zero_point, &w_zero_point],
            Vec::new(),
        );
        let to_float = vec![int_attribute("to", data_type::FLOAT.into())];
        let floats = self.writer.part("Cast", &wish("floats"), &[sums], to_float);
        let scales = self.writer.part("Mul", &wish("scales"), &[&x.scale, &w_scale], Vec::new());
        self.writer.node("Mul", &name, &[floats, scales], &output, Vec::new());
        output
    }
}

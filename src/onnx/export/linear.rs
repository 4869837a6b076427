//! Linear layers, and the biases of linear layers and convolutions.

use std::borrow::Cow;

use super::Preset;
use super::constants::channel;
use super::exporter::Exporter;
use crate::graph::NodeId;
use crate::onnx::attributes::int_attribute;
use crate::onnx::proto::data_type;
use crate::ops::{ConvTranspose, Dequantize, DequantizeDynamic, Op};
use crate::values::{DType, QParams, Tensor, TensorQParams};

pub(super) fn write(exporter: &mut Exporter<'_>, id: NodeId) -> bool {
    let Op::Linear(_) = exporter.graph.node(id).op else { return false };
    exporter.linear(id);
    true
}

impl Exporter<'_> {
    /// A layer whose input is quantized dynamically is a product of integers, whose sums are scaled. Another layer on two axes is a Gemm,
    /// which reads the weight as it is. Beyond two axes, a layer is a MatMul, which reads the transposed weight: ONNX Runtime has integer kernels for that form alone.
    fn linear(&mut self, id: NodeId) {
        let node = self.graph.node(id);
        if let Some(product) = self.integer_product(id) {
            let part = if node.inputs.len() > 2 { Some("product") } else { None };
            let output = self.write_integer_product(id, &product, part);
            if let Some(&bias) = node.inputs.get(2) {
                let bias = self.value(bias);
                self.parts(id).last("Add", &[output, bias]);
            }
            return;
        }
        let (x, w) = (self.value(node.inputs[0]), node.inputs[1]);
        if let Op::Dequantize(Dequantize { qparams: TensorQParams::PerGroup(groups) }) = &self.graph.node(w).op
            && let Some(values) = self.known(self.graph.node(w).inputs[0]).map(Cow::into_owned)
        {
            return self.group_layer(id, &x, &values, groups);
        }
        let input = self.graph.node(node.inputs[0]);
        if input.shape.rank() == 2 && input.op != Op::DequantizeDynamic(DequantizeDynamic) {
            let inputs: Vec<String> = [x, self.factor(w)].into_iter().chain(self.bias(id)).collect();
            self.parts(id).last_with("Gemm", &inputs, vec![int_attribute("transB", 1)]);
            return;
        }
        let w = self.transposed(w);
        let Some(&bias) = node.inputs.get(2) else { return self.parts(id).last("MatMul", &[x, w]) };
        // The bias is added in float: ONNX Runtime does not fuse the Add of a quantized bias.
        let bias = self.value(bias);
        let mut parts = self.parts(id);
        let product = parts.op("MatMul", "product", &[x, w]);
        parts.last("Add", &[product, bias]);
    }

    /// The name of the bias of a linear layer or a convolution, in the form that the preset demands.
    pub(super) fn bias(&mut self, id: NodeId) -> Option<String> {
        let &[x, w, b] = &self.graph.node(id).inputs[..] else {
            return None;
        };
        let wish = format!("{}.quantized", self.name(b));
        match self.options.preset {
            Preset::OnnxRuntime => {
                if let Some((values, qparams)) = self.quantized_bias(id, [x, w, b]) {
                    let values = self.writer.tensor(&wish, &values);
                    let output = self.writer.unique(&format!("{}.dequantize", self.name(b)));
                    self.writer.linear("DequantizeLinear", &output, &values, &output, &qparams, data_type::INT32);
                    return Some(output);
                }
            }
            Preset::TensorRt => {
                if let (Op::Dequantize(Dequantize { qparams }), true) = (&self.graph.node(b).op, self.is_constant(b))
                    && let Some(Tensor::I32(values)) = self.known(self.graph.node(b).inputs[0]).as_deref()
                {
                    let real = |(n, value): (usize, &i32)| *value as f32 * channel(qparams, n).scale();
                    let reals = values.iter().enumerate().map(real).collect();
                    if let Ok(reals) = Tensor::from_f32(values.shape(), reals) {
                        return Some(self.writer.tensor(&wish, &reals));
                    }
                }
            }
        }
        Some(self.value(b))
    }

    /// A float bias quantized to `i32` with the scale of the layer's accumulator, if input and weight are int8 and the accumulator stays
    /// in `i32`. The rounding moves an output by at most 1/128 of the effect of one step of an input. It would be more for weights of fewer
    /// bits than 8, whose bias stays float.
    fn quantized_bias(&self, id: NodeId, [x, w, b]: [NodeId; 3]) -> Option<(Tensor, TensorQParams)> {
        let node = |id| self.graph.node(id);
        let Op::Dequantize(Dequantize { qparams: TensorQParams::PerTensor(of_x) }) = &node(x).op else { return None };
        let Op::Dequantize(Dequantize { qparams: of_w }) = &node(w).op else { return None };
        // The outputs of a transposed convolution are the second axis of its weight, in each of the groups of the first.
        let (output_axis, groups) = match &node(id).op {
            Op::ConvTranspose(ConvTranspose { groups, .. }) => (1, *groups),
            _ => (0, 1),
        };
        let by_output = match of_w {
            TensorQParams::PerTensor(_) => true,
            TensorQParams::PerChannel { ch_axis, .. } => *ch_axis == output_axis,
            TensorQParams::PerGroup(_) => false,
        };
        if node(node(x).inputs[0]).dtype != DType::I8 || !by_output {
            return None;
        }
        let weight = self.known(node(w).inputs[0])?;
        let bias = self.known(b)?;
        let (weight, bias) = (weight.as_i8()?, bias.as_f32()?);
        if self.graph.bits(node(w).inputs[0]) < 8 {
            return None;
        }
        let sums = sums(weight, &node(w).shape.fixed_dims(), output_axis, groups);
        let mut values = Vec::with_capacity(bias.len());
        let mut scales = Vec::with_capacity(bias.len());
        for (n, &bias) in bias.iter().enumerate() {
            let scale = f64::from(of_x.scale()) * f64::from(channel(of_w, n).scale());
            let qparams = QParams::new(scale as f32, 0).ok()?;
            let value = (f64::from(bias) / f64::from(qparams.scale())).round_ties_even();
            // Each product is at most 255 · |w|, whatever the zero point.
            let products = 255.0 * *sums.get(n)? as f64;
            if value.abs() + products > f64::from(i32::MAX) {
                return None;
            }
            values.push(value as i32);
            scales.push(qparams);
        }
        let qparams = match of_w {
            TensorQParams::PerTensor(_) => TensorQParams::PerTensor(*scales.first()?),
            _ => TensorQParams::PerChannel { channels: scales.into(), ch_axis: 0 },
        };
        Some((Tensor::from_i32(&[values.len()], values).ok()?, qparams))
    }
}

/// For each output, the sum of the absolute values of its weights. The outputs are an axis of the weight, 0 or 1, in each of the groups
/// that axis 0 has in the second case.
fn sums(weight: &[i8], dims: &[usize], output_axis: usize, groups: usize) -> Vec<i64> {
    let outputs = dims[output_axis];
    let inner: usize = dims[output_axis + 1..].iter().product();
    let of_group = weight.len() / groups.max(1);
    let mut sums = vec![0i64; outputs * groups];
    for (at, &w) in weight.iter().enumerate() {
        sums[at / of_group * outputs + at % of_group / inner % outputs] += i64::from(w).abs();
    }
    sums
}

//! Linear layers, static and dynamic, and convolutions.

use std::sync::Arc;

use ndarray::Array1;

use super::{Epilogue, FITS, Fused, Match, Matcher, NOT_INPUT, Rewritten, ToIntegerError};
use crate::graph::{NodeId, Rewriter};
use crate::numerics;
use crate::ops::{
    Constant, Conv, Dequantize, DequantizeDynamic, ImageLayout, IntegerConv, IntegerLinear, Op, ScaleAccumulatorDynamic,
};
use crate::values::slices::codes;
use crate::values::{DType, QParams, QuantizedTensor, Tensor, TensorQParams};

/// The quantized input of a layer.
enum Input {
    /// int8 values with known scale and zero point.
    Static { values: NodeId, qparams: QParams },
    /// int8 values, and their dynamic qparams.
    Dynamic { values: NodeId, qparams: NodeId },
}

/// The constants of a layer of N output channels, each a sum of K products.
struct Parameters {
    /// The node of the weight, if it is in the order below.
    node: Option<NodeId>,
    /// The weight `[N, …]`, with K elements for each channel and zero points of 0.
    weight: QuantizedTensor,
    k: usize,
    /// The scale of each channel of the weight, `[N]`.
    scales: Vec<f32>,
    /// The bias in real units, `[N]`.
    bias: Vec<f32>,
}

/// The rule of the family.
pub(super) fn rewrite(
    matcher: &Matcher<'_>,
    rewriter: &mut Rewriter<'_>,
    id: NodeId,
) -> Result<Option<Rewritten>, ToIntegerError> {
    match matcher.graph.node(id).op {
        Op::Linear(_) | Op::Conv(_) | Op::ConvTranspose(_) => Ok(Some(matcher.linear(rewriter, id)?.into())),
        _ => Ok(None),
    }
}

impl Matcher<'_> {
    fn linear(&self, rewriter: &mut Rewriter<'_>, linear: NodeId) -> Match<Fused> {
        let inputs = &self.graph.node(linear).inputs;
        let x = self.graph.node(inputs[0]);
        let input = match x.op {
            Op::Dequantize(Dequantize { qparams: TensorQParams::PerTensor(qparams) }) => {
                Input::Static { values: x.inputs[0], qparams }
            }
            Op::DequantizeDynamic(DequantizeDynamic) if !matches!(self.graph.node(linear).op, Op::Linear(_)) => {
                return Ok(Err("its input is quantized dynamically, which linear layers support only".to_owned()));
            }
            Op::DequantizeDynamic(DequantizeDynamic) => Input::Dynamic { values: x.inputs[0], qparams: x.inputs[1] },
            _ => return Ok(Err(NOT_INPUT.to_owned())),
        };
        let parameters = match self.parameters(linear)? {
            Ok(parameters) => parameters,
            Err(reason) => return Ok(Err(reason)),
        };
        Ok(match input {
            Input::Static { values, qparams } => self.static_linear(rewriter, linear, values, qparams, &parameters),
            Input::Dynamic { values, qparams } => self.dynamic_linear(rewriter, linear, [values, qparams], &parameters),
        })
    }

    fn parameters(&self, layer: NodeId) -> Match<Parameters> {
        let layer = self.graph.node(layer);
        let inputs = &layer.inputs;
        let Op::Dequantize(Dequantize { qparams }) = &self.graph.node(inputs[1]).op else {
            return Ok(Err("its weight is not quantized".to_owned()));
        };
        let node = self.graph.node(inputs[1]).inputs[0];
        let Some(values) = self.interpreter.constant_value(node)? else {
            return Ok(Err("its weight is not a constant".to_owned()));
        };
        let bias = match inputs.get(2) {
            None => None,
            Some(&bias) => match self.interpreter.constant_value(bias)? {
                None => return Ok(Err("its bias is not a constant".to_owned())),
                bias => bias,
            },
        };
        if values.dtype() != DType::I8 {
            return Ok(Err(format!("its weight is of {}, expected i8", values.dtype())));
        }
        let bits = self.graph.bits(node);
        let (node, values, qparams) = match &layer.op {
            Op::ConvTranspose(conv) => {
                let qparams = match outputs_first(qparams, conv.groups) {
                    Ok(qparams) => qparams,
                    Err(reason) => return Ok(Err(reason)),
                };
                let (shape, mirrored) = conv.mirrored(values.as_i8().expect(FITS), values.shape());
                (None, Arc::new(codes(&shape, mirrored)), qparams)
            }
            _ => (Some(node), values, qparams.clone()),
        };
        let n = values.shape()[0];
        let k = values.shape()[1..].iter().product();
        let scales = match weight_scales(&qparams, n) {
            Ok(scales) => scales,
            Err(reason) => return Ok(Err(reason)),
        };
        let weight = match QuantizedTensor::new(values, qparams, bits) {
            Ok(weight) => weight,
            Err(error) => return Ok(Err(format!("its weight is not sound: {error}"))),
        };
        let bias = match &bias {
            None => vec![0.0; n],
            Some(bias) => bias.as_f32().expect(FITS).to_vec(),
        };
        if let Some((at, value)) = bias.iter().enumerate().find(|(_, b)| !b.is_finite()) {
            return Ok(Err(format!("element {at} of its bias is {value}")));
        }
        if k == 0 {
            return Ok(Err("it has 0 input features, expected at least 1".to_owned()));
        }
        Ok(Ok(Parameters { node, weight, k, scales, bias }))
    }

    fn static_linear(
        &self,
        rewriter: &mut Rewriter<'_>,
        linear: NodeId,
        x: NodeId,
        x_qparams: QParams,
        parameters: &Parameters,
    ) -> Result<Fused, String> {
        let node = self.graph.node(linear);
        let (fraction_bits, bias) = parameters.folded_bias(x_qparams)?;
        let (epilogue, fused) = self.epilogue(linear);
        let factor = |s_w: f32| match epilogue {
            Epilogue::Int8 { qparams, .. } => {
                numerics::multiplier(x_qparams.scale(), s_w, qparams.scale(), fraction_bits)
            }
            Epilogue::Float { .. } => numerics::output_scale(x_qparams.scale(), s_w, fraction_bits),
        };
        let factors = factors(&parameters.scales, x_qparams.scale(), factor)?;
        let w = self.weight(rewriter, linear, parameters);
        let bias = self.constant(rewriter, linear, "bias.quantized", vector(bias));
        let inputs = vec![rewriter.get(x).expect(FITS), w, bias];
        let conv = |window, groups| {
            let zero_point = x_qparams.zero_point();
            Op::IntegerConv(IntegerConv {
                window,
                groups,
                zero_point,
                fraction_bits,
                layout: ImageLayout::ChannelsFirst,
            })
        };
        let acc = match &node.op {
            Op::Conv(Conv { window, groups, .. }) => conv(window.clone(), *groups),
            Op::ConvTranspose(transposed) => conv(transposed.as_conv(), transposed.groups),
            _ => Op::IntegerLinear(IntegerLinear { fraction_bits }),
        };
        let acc = rewriter.add(&node.name, acc, inputs, &node.origin).expect(FITS);
        Ok(self.finish(rewriter, linear, acc, epilogue, factors, fused))
    }

    fn dynamic_linear(
        &self,
        rewriter: &mut Rewriter<'_>,
        linear: NodeId,
        [x, x_qparams]: [NodeId; 2],
        parameters: &Parameters,
    ) -> Result<Fused, String> {
        let node = self.graph.node(linear);
        let mut sums = Vec::with_capacity(parameters.scales.len());
        for (channel, (sum, magnitude)) in parameters.sums().into_iter().enumerate() {
            // |x − z_x| ≤ 255, and z_x · Σ w is subtracted after the sum.
            match i32::try_from(magnitude * 255) {
                Ok(_) => sums.push(sum as i32),
                Err(_) => {
                    let (products, max) = (magnitude * 255, i32::MAX);
                    return Err(format!(
                        "channel {channel}: products up to {products} do not fit the i32 accumulator ({max}, equation 7)"
                    ));
                }
            }
        }
        // The result is float, so only a ReLU is fused.
        let relu = self.only_user(linear).filter(|&id| self.is_relu(id));
        let n = parameters.scales.len();
        let w = self.weight(rewriter, linear, parameters);
        let zeros = self.constant(rewriter, linear, "zeros", vector(vec![0i32; n]));
        let sums = self.constant(rewriter, linear, "weight.sums", vector(sums));
        let scales = self.constant(rewriter, linear, "weight.scales", vector(parameters.scales.clone()));
        let bias = self.constant(rewriter, linear, "bias", vector(parameters.bias.clone()));
        let inputs = vec![rewriter.get(x).expect(FITS), w, zeros];
        let acc = Op::IntegerLinear(IntegerLinear { fraction_bits: 0 });
        let acc = rewriter.add(&node.name, acc, inputs, &node.origin).expect(FITS);
        let op = Op::ScaleAccumulatorDynamic(ScaleAccumulatorDynamic { relu: relu.is_some() });
        let inputs = vec![acc, rewriter.get(x_qparams).expect(FITS), sums, scales, bias];
        let last = relu.unwrap_or(linear);
        let origin = &self.graph.node(last).origin;
        let new = rewriter.add(&format!("{}.output", node.name), op, inputs, origin).expect(FITS);
        rewriter.replace(last, new);
        Ok(relu.into_iter().collect())
    }

    /// The weight as a constant: a weight that was not folded is folded here.
    fn weight(&self, rewriter: &mut Rewriter<'_>, linear: NodeId, parameters: &Parameters) -> NodeId {
        match parameters.node {
            Some(node) if matches!(self.graph.node(node).op, Op::Constant(_)) => rewriter.get(node).expect(FITS),
            _ => self.constant(rewriter, linear, "weight.quantized", Constant::from(&parameters.weight)),
        }
    }
}

fn vector<T>(data: Vec<T>) -> Constant
where
    Tensor: From<Array1<T>>,
{
    Constant::new(Tensor::from(Array1::from(data)))
}

/// A multiplier or an output scale for each channel.
fn factors(scales: &[f32], s_x: f32, factor: impl Fn(f32) -> Option<f32>) -> Result<Vec<f32>, String> {
    let channel = |(channel, &s_w): (usize, &f32)| {
        factor(s_w).ok_or_else(|| {
            format!(
                "channel {channel}: input scale {s_x:e} and weight scale {s_w:e} give a multiplier that is not a normal \
                 f32 (equation 3)"
            )
        })
    };
    scales.iter().enumerate().map(channel).collect()
}

/// The qparams of the weight of a transposed convolution `[C, N / groups, …]`, once its output channels are axis 0.
fn outputs_first(qparams: &TensorQParams, groups: usize) -> Result<TensorQParams, String> {
    match qparams.clone() {
        TensorQParams::PerChannel { channels, ch_axis: 1 } if groups == 1 => {
            Ok(TensorQParams::PerChannel { channels, ch_axis: 0 })
        }
        TensorQParams::PerChannel { ch_axis, .. } => Err(format!(
            "its weight has a scale per index of axis {ch_axis} with {groups} groups: a sum of integers needs one for each output channel"
        )),
        per_tensor => Ok(per_tensor),
    }
}

/// The scale of each of `n` output channels, for weights whose zero points are 0.
fn weight_scales(qparams: &TensorQParams, n: usize) -> Result<Vec<f32>, String> {
    let channels: &[QParams] = match qparams {
        TensorQParams::PerTensor(q) => std::slice::from_ref(q),
        TensorQParams::PerChannel { channels, ch_axis: 0 } => channels,
        TensorQParams::PerChannel { ch_axis, .. } => {
            return Err(format!("its weight has a scale per index of axis {ch_axis}, expected axis 0"));
        }
    };
    if let Some((channel, q)) = channels.iter().enumerate().find(|(_, q)| q.zero_point() != 0) {
        return Err(format!("channel {channel} of its weight has zero point {}, expected 0", q.zero_point()));
    }
    Ok(channels.iter().map(QParams::scale).cycle().take(n).collect())
}

impl Parameters {
    /// `Σ w` and `Σ |w|` of each channel.
    fn sums(&self) -> Vec<(i64, i64)> {
        let add = |(sum, magnitude), &w: &i8| (sum + i64::from(w), magnitude + i64::from(w.unsigned_abs()));
        self.weight.values().chunks_exact(self.k).map(|row| row.iter().fold((0, 0), add)).collect()
    }

    /// The most fraction bits that fit the accumulator, and the folded bias, by equation 4.
    fn folded_bias(&self, x_qparams: QParams) -> Result<(u32, Vec<i32>), String> {
        let sums = self.sums();
        let folded = |fraction_bits: u32| -> Result<Vec<i32>, String> {
            let channels = self.bias.iter().zip(&self.scales).zip(&sums).enumerate();
            channels
                .map(|(channel, ((&b, &s_w), &(sum, magnitude)))| {
                    let (s_x, z_x) = (x_qparams.scale(), x_qparams.zero_point());
                    let bias = numerics::folded_bias(b, s_x, z_x, s_w, sum, fraction_bits);
                    match i32::try_from(bias) {
                        Ok(bias) if numerics::fits_accumulator(magnitude, i64::from(bias), fraction_bits) => Ok(bias),
                        _ => Err(format!(
                            "channel {channel}: products up to {} and a bias of {bias} do not fit the i32 accumulator \
                             ({}, equation 4)",
                            magnitude * 128,
                            i32::MAX
                        )),
                    }
                })
                .collect()
        };
        // If no number of fraction bits fits, the reason given is that of 0 bits.
        let mut refused = String::new();
        for fraction_bits in (0..=numerics::MAX_FRACTION_BITS).rev() {
            match folded(fraction_bits) {
                Ok(bias) => return Ok((fraction_bits, bias)),
                Err(reason) => refused = reason,
            }
        }
        Err(refused)
    }
}

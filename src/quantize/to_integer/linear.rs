//! Linear layers, static and dynamic, and convolutions.

mod parameters;

use std::sync::Arc;

use ndarray::Array1;

use self::parameters::{Parameters, group_scales, outputs_first, weight_scales};
use super::{Epilogue, FITS, Fused, Match, Matcher, NOT_INPUT, Rewritten, ToIntegerError};
use crate::graph::{NodeId, Rewriter};
use crate::numerics;
use crate::ops::{
    Constant, Conv, Dequantize, DequantizeDynamic, ImageLayout, IntegerConv, Op, ScaleAccumulatorDynamic,
};
use crate::values::slices::{codes, integers};
use crate::values::{DType, QParams, QuantizedTensor, Tensor, TensorQParams};

/// The quantized input of a layer.
enum Input {
    /// int8 values with known scale and zero point.
    Static { values: NodeId, qparams: QParams },
    /// int8 values, and their dynamic qparams.
    Dynamic { values: NodeId, qparams: NodeId },
}

/// The largest integer scales of groups to try after 255, if sums do not fit.
const FEWER_STEPS: [u8; 4] = [127, 63, 31, 15];

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
        let mut parameters = match self.parameters(linear)? {
            Ok(parameters) => parameters,
            Err(reason) => return Ok(Err(reason)),
        };
        let mut fewer = FEWER_STEPS.into_iter();
        loop {
            let rewritten = match input {
                Input::Static { values, qparams } => self.static_linear(rewriter, linear, values, qparams, &parameters),
                Input::Dynamic { values, qparams } => {
                    self.dynamic_linear(rewriter, linear, [values, qparams], &parameters)
                }
            };
            // Smaller integer scales of groups make smaller sums.
            match (rewritten, fewer.next()) {
                (Err(reason), Some(most)) => match parameters.with_integer_scales(most) {
                    Some(smaller) => parameters = smaller,
                    None => return Ok(Err(reason)),
                },
                (rewritten, _) => return Ok(rewritten),
            }
        }
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
        let groups = match (qparams, &layer.op) {
            (TensorQParams::PerGroup(groups), Op::Linear(_)) => Some(groups.clone()),
            (TensorQParams::PerGroup(_), _) => {
                return Ok(Err("its weight has a scale for each group, which linear layers support only".to_owned()));
            }
            _ => None,
        };
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
        let scales = match &groups {
            None => weight_scales(&qparams, n),
            Some(groups) => group_scales(groups),
        };
        let scales = match scales {
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
        let parameters = Parameters { node, weight, k, scales, groups, bias };
        Ok(parameters.check_differences().map(|()| parameters))
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
        let mut inputs = vec![rewriter.get(x).expect(FITS), w, bias];
        inputs.extend(self.groups(rewriter, linear, parameters));
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
            _ => parameters.accumulator(fraction_bits),
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
        let mut inputs = vec![rewriter.get(x).expect(FITS), w, zeros];
        inputs.extend(self.groups(rewriter, linear, parameters));
        let acc = rewriter.add(&node.name, parameters.accumulator(0), inputs, &node.origin).expect(FITS);
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

impl Matcher<'_> {
    /// The constants of the groups of a weight: integer scales and zero points.
    fn groups(&self, rewriter: &mut Rewriter<'_>, linear: NodeId, parameters: &Parameters) -> Vec<NodeId> {
        let Some((groups, integer)) = parameters.integer_groups() else { return Vec::new() };
        let shape = [groups.rows(), groups.groups_per_row()];
        let multipliers = integer.multipliers().iter().map(|&m| i32::from(m)).collect();
        let zero_points = groups.groups().iter().map(|group| group.zero_point() as i8).collect();
        [("group.scales", integers(&shape, multipliers)), ("group.zero_points", codes(&shape, zero_points))]
            .map(|(what, tensor)| self.constant(rewriter, linear, &format!("weight.{what}"), Constant::new(tensor)))
            .into()
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

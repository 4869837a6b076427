//! The steps of layers: a linear layer or a convolution with what follows its accumulator.

use std::sync::Arc;

use super::Lowering;
use crate::graph::{Node, NodeId};
use crate::ops::{Constant, IntegerConv, Op, Requantize, ScaleAccumulator, ScaleAccumulatorDynamic, by_tap};
use crate::program::{Epilogue, QConv, QLinear, StepOp, WeightGroups};
use crate::values::QParams;

impl Lowering<'_> {
    /// Adds the step of an int8 linear layer, with its epilogue.
    pub(super) fn linear(&mut self, id: NodeId, node: &Node, fraction_bits: u32, groups: Option<WeightGroups>) {
        let [x, w, bias, ..] = node.inputs[..] else { return };
        let Some((reader, qparams, epilogue)) = self.epilogue(id) else { return };
        let Some((weight, bias)) = self.i8(w).zip(self.i32(bias)) else {
            return self.refuse(id, "its quantized weight and bias are not constants");
        };
        let dims = self.graph.node(w).shape.fixed_dims();
        let (n, k) = (dims[0], dims[1]);
        let mut inputs = vec![x];
        if let Epilogue::Dynamic { .. } = epilogue {
            let dynamic_qparams = self.graph.node(reader).inputs[1];
            if dynamic_qparams > id && self.known(dynamic_qparams).is_none() {
                return self.refuse(id, "its scales and zero points are computed after its sums");
            }
            inputs.push(dynamic_qparams);
        }
        let bits = self.bits(w);
        let op = StepOp::QLinear(QLinear { weight, bits, groups, n, k, bias, fraction_bits, epilogue });
        self.step_for(reader, &node.name, op, &inputs, qparams);
    }

    /// Returns the factors of the groups of a weight, or the reason why there are none.
    pub(super) fn groups(&self, node: &Node, size: usize) -> Result<WeightGroups, String> {
        let (multipliers, zero_points) = (self.known(node.inputs[3]), self.known(node.inputs[4]));
        let Some((multipliers, zero_points)) =
            multipliers.and_then(|m| m.as_i32()).zip(zero_points.and_then(|z| z.as_i8()))
        else {
            return Err("the scales and zero points of its groups are not constants".to_owned());
        };
        let multiplier = |(group, &m): (usize, &i32)| match u8::try_from(m) {
            Ok(m) if m > 0 => Ok(m),
            _ => Err(format!("the integer scale of group {group} is {m}, expected 1 to 255")),
        };
        let multipliers = multipliers.iter().enumerate().map(multiplier).collect::<Result<_, _>>()?;
        Ok(WeightGroups { size, multipliers, zero_points: zero_points.into() })
    }

    /// Adds the step of an int8 convolution, with its epilogue. Images have the channels last, since a graph pass has moved them.
    pub(super) fn conv(&mut self, id: NodeId, node: &Node, conv: &IntegerConv) {
        let [x, w, bias] = node.inputs[..] else { return };
        let Some((reader, qparams, epilogue)) = self.epilogue(id) else { return };
        let Some((weight, bias)) = self.known(w).cloned().zip(self.i32(bias)) else {
            return self.refuse(id, "its quantized weight and bias are not constants");
        };
        let Some(values) = weight.as_i8() else { return };
        let n = weight.shape()[0];
        let k = values.len() / n;
        // A weight that several layers share is reordered once.
        let reordered = self.conv_weights.entry(Arc::as_ptr(&weight));
        let reordered = reordered.or_insert_with(|| by_tap(values, weight.shape()).into());
        let (weight, bits) = (Arc::clone(reordered), self.bits(w));
        let layer = QLinear { weight, bits, groups: None, n, k, bias, fraction_bits: conv.fraction_bits, epilogue };
        let (window, groups, zero_point) = (conv.window.clone(), conv.groups, conv.zero_point);
        let op = StepOp::QConv(QConv { layer, window, groups, zero_point });
        self.step_for(reader, &node.name, op, &[x], qparams);
    }

    /// Returns the bits of a quantized weight. A constant that does not state them has 8.
    fn bits(&self, weight: NodeId) -> u32 {
        match self.graph.node(weight).op {
            Op::Constant(Constant { bits: Some(bits), .. }) => bits,
            _ => 8,
        }
    }

    /// Returns the node that reads an accumulator, the qparams of its result, and the epilogue that it becomes.
    pub(super) fn epilogue(&mut self, acc: NodeId) -> Option<(NodeId, Option<QParams>, Epilogue)> {
        let reader = match self.users[acc.index()].as_slice() {
            [reader] if !self.is_output[acc.index()] => *reader,
            _ => {
                self.refuse(acc, "its accumulator is not read by exactly one node");
                return None;
            }
        };
        let node = self.graph.node(reader);
        if let Op::Requantize(Requantize { ch_axis: Some(axis), .. })
        | Op::ScaleAccumulator(ScaleAccumulator { ch_axis: Some(axis), .. }) = node.op
            && axis + 1 != node.shape.rank()
        {
            self.refuse(acc, format!("its channels are axis {axis}, which is not the last"));
            return None;
        }
        let vector = |at: usize| node.inputs.get(at).and_then(|&f| self.f32(f));
        let made = match node.op {
            Op::Requantize(Requantize { qparams, lo, hi, .. }) => vector(1).map(|multiplier| {
                let zero_point = qparams.zero_point();
                (Some(qparams), Epilogue::Requantize { multiplier, zero_point, lo, hi })
            }),
            Op::ScaleAccumulator(ScaleAccumulator { relu, .. }) => {
                vector(1).map(|scale| (None, Epilogue::Scale { scale, relu }))
            }
            Op::ScaleAccumulatorDynamic(ScaleAccumulatorDynamic { relu }) => {
                let sums = node.inputs.get(2).and_then(|&sums| self.i32(sums));
                vector(3)
                    .zip(vector(4))
                    .zip(sums)
                    .map(|((scale, bias), weight_sum)| (None, Epilogue::Dynamic { scale, weight_sum, bias, relu }))
            }
            _ => {
                self.refuse(acc, "its accumulator is neither requantized nor scaled");
                return None;
            }
        };
        if made.is_none() {
            self.refuse(acc, "its factors are not constants");
        }
        made.map(|(qparams, epilogue)| (reader, qparams, epilogue))
    }

    /// Checks that an epilogue has an accumulator whose step includes it.
    pub(super) fn check_epilogue(&mut self, id: NodeId, node: &Node) {
        let acc = &self.graph.node(node.inputs[0]).op;
        if !matches!(acc, Op::IntegerLinear(_) | Op::IntegerLinearGroups(_) | Op::IntegerConv(_) | Op::IntegerMatMul(_))
        {
            self.refuse(id, "its accumulator does not come from a linear layer, a convolution or a matmul");
        } else if self.known(node.inputs[0]).is_some() {
            self.refuse(id, "its accumulator is a constant, but its factors are not");
        }
    }
}

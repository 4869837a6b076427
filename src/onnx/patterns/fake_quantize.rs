//! Quantization that a file spells out in floats: a quotient, its rounding, its limits, and the product with the scale; and limits before
//! a quantize node, which are its range.

use super::{Pattern, exact};
use crate::graph::NodeId;
use crate::numerics::QuantizeRule;
use crate::ops::{Clamp, Dequantize, Op, Quantize, UnaryOp};
use crate::values::{DType, QParams, QuantRange, TensorQParams};

impl Pattern<'_> {
    /// `s · (clamp(round(x / s) + z, min, max) − z)` is the dequantization of a quantization, if the limits are integers that 8 bits hold.
    pub(super) fn fake_quantize(&mut self) -> bool {
        let here = self.here();
        let Some((x, clamp, quantize)) = self.spelled_out(here) else { return false };
        let qparams = quantize.qparams.clone();
        let sum = self.inputs(clamp)[0];
        self.readers[sum.index()] -= 1;
        self.readers[x.index()] += 1;
        let node = &mut self.draft.nodes[clamp.index()];
        node.inputs = vec![x];
        node.op = quantize.into();
        node.dtype = DType::I8;
        self.becomes(Op::Dequantize(Dequantize { qparams }), vec![clamp])
    }

    /// Floats that are clamped to what two quantized values stand for, and then quantized, are quantized to the range of these values: as
    /// exports write it, whose quantized values have no Clip for TensorRT.
    pub(super) fn limited_quantize(&mut self) -> bool {
        match self.narrower() {
            Some((x, quantize)) => self.becomes(quantize.into(), vec![x]),
            None => false,
        }
    }

    /// What a clamp before a quantize node reads, and the quantize node of the narrower range.
    fn narrower(&self) -> Option<(NodeId, Quantize)> {
        let Op::Quantize(quantize) = self.op(self.here()) else { return None };
        let TensorQParams::PerTensor(q) = &quantize.qparams else { return None };
        let clamp = self.inputs(self.here())[0];
        let Op::Clamp(Clamp { min, max }) = *self.op(clamp) else { return None };
        // The bounds must be exact: a value between two steps may lie beyond another bound.
        let value = |bound: f32| {
            let steps = (bound / q.scale()).round_ties_even();
            (steps.abs() <= 512.0 && steps * q.scale() == bound).then(|| steps as i32 + q.zero_point())
        };
        let (low, high) = (value(min)?.max(quantize.range.quant_min()), value(max)?.min(quantize.range.quant_max()));
        let range = QuantRange::new(low, high).ok()?;
        let fits = self.readers[clamp.index()] == 1 && (low..=high).contains(&q.zero_point());
        fits.then(|| (self.inputs(clamp)[0], Quantize { range, ..quantize.clone() }))
    }

    /// The input of a quantization, the node of its limits, and the operator.
    fn spelled_out(&self, here: NodeId) -> Option<(NodeId, NodeId, Quantize)> {
        let (mut id, scale) = self.scaled(here)?;
        let alone = |id: NodeId| self.readers[id.index()] == 1;
        let mut after = 0.0;
        if let Some((inner, shift)) = self.shifted(id).filter(|_| alone(id)) {
            (id, after) = (inner, shift);
        }
        let clamp = id;
        let Op::Clamp(Clamp { min, max }) = *self.op(clamp) else { return None };
        let mut id = self.inputs(clamp)[0];
        let (mut zero, mut between) = (0.0, vec![clamp, id]);
        if let Some((inner, shift)) = self.shifted(id) {
            (id, zero) = (inner, shift);
            between.push(id);
        }
        let quotient = self.unary(id, UnaryOp::Round)?;
        between.push(quotient);
        let (x, inverse) = self.scaled(quotient)?;
        let integer = |v: f32| (v.fract() == 0.0 && v.abs() <= 512.0).then_some(v as i32);
        let (low, high) = (integer(min)?.checked_sub(integer(zero)?)?, integer(max)?.checked_sub(integer(zero)?)?);
        if after != -zero || !between.into_iter().all(alone) || !exact(inverse * scale, 1.0) {
            return None;
        }
        // The limits are those of multiples of the scale. Zero points of uint8 are 128 lower in int8.
        let zero_point = if low >= -128 && high <= 127 && zero == 0.0 { 0 } else { -128 - low };
        let qparams = QParams::new(scale, zero_point).ok()?;
        let range = QuantRange::new(low + zero_point, high + zero_point).ok()?;
        let holds_zero = (range.quant_min()..=range.quant_max()).contains(&zero_point);
        // The importer writes a quotient by a number as the product with its reciprocal.
        let rule = if inverse == 1.0 / scale { QuantizeRule::Divide } else { QuantizeRule::Multiply };
        holds_zero.then(|| (x, clamp, Quantize { qparams: qparams.into(), range, rule }))
    }
}

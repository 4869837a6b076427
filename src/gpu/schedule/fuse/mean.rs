//! Means with weights along an axis, as the pooling of a sentence encoder computes them from products and two sums.

use super::Fusion;
use crate::gpu::kernels::fused_step::{FusedStep, WeightedMean};
use crate::ops::{Div, Mul, Op, Sum};
use crate::program::{StepOp, ValueId};

impl Fusion<'_> {
    /// The division of a sum of products by the sum of one of the factors, perhaps clamped, if nothing else reads those sums.
    pub(super) fn weighted_mean(&self, fused: &FusedStep) -> Option<WeightedMean> {
        let steps = self.program.steps();
        let shape = |id: ValueId| &self.program.value(id).shape;
        let division =
            self.only_reader(fused.main).filter(|&reader| matches!(self.op(reader), StepOp::Op(Op::Div(Div))))?;
        let (dividend, divisor) = (steps[division].inputs[0], steps[division].inputs[1]);
        let sum_of_weights = |step: &usize| matches!(self.op(*step), StepOp::Op(Op::Sum(_)));
        let last = self.writers[divisor.index()].filter(|&writer| self.only_reader(writer) == Some(division))?;
        let (total, clamp) = match self.op(last) {
            StepOp::Op(Op::Clamp(_)) => {
                let total = self.writers[steps[last].inputs[0].index()].filter(sum_of_weights)?;
                (total, (self.only_reader(total)? == last).then_some(last)?.into())
            }
            _ => (Some(last).filter(sum_of_weights)?, None),
        };
        // The kernel reads the weight of each element where it reads its factor.
        let (StepOp::Op(Op::Sum(Sum { axis, .. })), StepOp::Op(Op::Sum(Sum { axis: other, .. }))) =
            (self.op(fused.main), self.op(total))
        else {
            return None;
        };
        let (product, weights) = (&steps[fused.product?], steps[total].inputs[0]);
        let factors = [product.inputs[0], product.inputs[1]];
        let (rank, length) = (shape(product.output).rank(), |id: ValueId| shape(id).axis(*axis));
        let suits = dividend == steps[fused.main].output
            && factors[0] != factors[1]
            && factors.contains(&weights)
            && axis == other
            && axis + 1 < rank
            && shape(weights).rank() == rank
            && length(weights) == length(product.output)
            && shape(steps[division].output) == shape(dividend);
        suits.then_some(WeightedMean { total, clamp, division })
    }

    /// The weighted mean of which a step sums the weights, if that comes before the sum of products.
    pub(super) fn mean_with_weights(&self, total: usize) -> Option<FusedStep> {
        let steps = self.program.steps();
        let reader = self.only_reader(total)?;
        let division =
            if matches!(self.op(reader), StepOp::Op(Op::Clamp(_))) { self.only_reader(reader)? } else { reader };
        let StepOp::Op(Op::Div(Div)) = self.op(division) else { return None };
        let sum = self.writers[steps[division].inputs[0].index()]?;
        let product = FusedStep::single(self.writers[steps[sum].inputs.first()?.index()]?);
        if !matches!(self.op(product.main), StepOp::Op(Op::Mul(Mul))) || self.scale_and_mask(product).is_some() {
            return None;
        }
        self.product_and_sum(product).filter(|fused| fused.mean.is_some_and(|mean| mean.total == total))
    }
}

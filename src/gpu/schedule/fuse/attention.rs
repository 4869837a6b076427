//! The fusion of matmuls with transposes, and of attention.

use super::Fusion;
use crate::gpu::kernels::attention;
use crate::gpu::kernels::fused_step::{Attention, FusedStep};
use crate::gpu::kernels::layout::padded_rows;
use crate::gpu::kernels::norm;
use crate::gpu::kernels::strided::MAX_AXES;
use crate::ops::{Add, Mul, Op, Transpose};
use crate::program::{StepOp, ValueId, ValueType};

impl Fusion<'_> {
    /// The steps of attention, of which step `scores` is the first matmul.
    pub(super) fn attention(&self, scores: usize) -> Option<FusedStep> {
        let reader = self.only_reader(scores)?;
        let softmax = match self.op(reader) {
            StepOp::Op(Op::Mul(Mul)) => self.scale_and_mask(FusedStep::single(reader))?,
            StepOp::Op(Op::Add(Add)) if self.masks(reader, scores) => {
                self.before_softmax(FusedStep { mask: Some(reader), ..FusedStep::single(reader) }, reader)?
            }
            StepOp::Op(Op::Softmax(_)) => self.before_softmax(FusedStep::single(reader), scores)?,
            _ => return None,
        };
        let main = self.only_reader(softmax.main)?;
        let [first, second] = [scores, main].map(|step| &self.program.steps()[step]);
        let (StepOp::Op(Op::MatMul(a)), StepOp::Op(Op::MatMul(b))) = (&first.op, &second.op) else { return None };
        let shape = |id: ValueId| &self.program.value(id).shape;
        let [weights, result] = [second.inputs[0], second.output].map(shape);
        let (Some(keys), false) = (weights.last(), second.inputs[0] == second.inputs[1]) else { return None };
        let rank = weights.rank();
        // The rows of a matrix are not the batch, and each matrix of scores meets one matrix of values.
        let is_stack = (3..=MAX_AXES + 2).contains(&rank)
            && result.rank() == rank
            && result.dims()[..rank - 2] == weights.dims()[..rank - 2];
        let has_features = shape(first.inputs[0]).last().is_some_and(|depth| depth > 0);
        let scaled = softmax.scale.is_none_or(|scale| {
            let own = norm::softmax::scaled(self.program, &self.program.steps()[scale]);
            own.is_some_and(|(own, _)| own == first.output)
        });
        let weighs = self.program.steps()[softmax.main].output == second.inputs[0];
        let m = weights.axis(rank.saturating_sub(2)).unwrap_or(0);
        if a != b || !is_stack || !has_features || !scaled || !weighs || !attention::suits(m, keys, self.config) {
            return None;
        }
        let transposes = self.with_transposes(FusedStep::single(scores)).transposes;
        let of_values = self.with_transposes(FusedStep::single(main)).transposes[1];
        let attention = Some(Attention { scores, softmax: softmax.main, transposes });
        let FusedStep { scale, mask, .. } = softmax;
        let fused = FusedStep { attention, scale, mask, transposes: [None, of_values], ..FusedStep::single(main) };
        Some(self.with_quantized_result(self.with_result_transpose(fused)))
    }

    /// Fuses the transposes of a matmul's operands if the kernel can read through them.
    pub(super) fn with_transposes(&self, fused: FusedStep) -> FusedStep {
        let matmul = &self.program.steps()[fused.main];
        let mut fused = fused;
        for (at, slot) in fused.transposes.iter_mut().enumerate() {
            let operand = matmul.inputs[at];
            let Some(transpose) = self.writers[operand.index()] else { continue };
            let StepOp::Op(Op::Transpose(Transpose { perm })) = self.op(transpose) else { continue };
            let alone = self.only_reader(transpose) == Some(fused.main);
            // The other operand must not lie in the same place.
            let source = self.program.steps()[transpose].inputs[0];
            let apart = matmul.inputs.iter().all(|&input| input != source);
            let is_int8 = self.program.value(operand).value_type == ValueType::I8;
            if alone && apart && readable(perm, at, is_int8) {
                *slot = Some(transpose);
            }
        }
        if fused.transposes.iter().all(Option::is_some) {
            let source = |step: Option<usize>| step.map(|step| self.program.steps()[step].inputs[0]);
            if source(fused.transposes[0]) == source(fused.transposes[1]) {
                fused.transposes[1] = None;
            }
        }
        fused
    }

    /// Whether a matmul reads what a step writes, and may be fused with it.
    fn is_factor(&self, step: usize) -> bool {
        let is_matmul = |&reader: &usize| matches!(self.op(reader), StepOp::QMatMul(_) | StepOp::Op(Op::MatMul(_)));
        self.readers[self.program.steps()[step].output.index()].iter().any(is_matmul)
    }

    /// Fuses the transpose of a matmul's result if rows stay rows and are not the batch.
    pub(super) fn with_result_transpose(&self, fused: FusedStep) -> FusedStep {
        let shape = &self.program.value(self.program.steps()[fused.main].output).shape;
        let last = shape.rank() - 1;
        match self.only_reader(fused.main).map(|reader| (reader, self.op(reader))) {
            Some((reader, StepOp::Op(Op::Transpose(Transpose { perm }))))
                if perm[last] == last && !(shape.is_batched() && last == 1) && !self.is_factor(reader) =>
            {
                FusedStep { result_transpose: Some(reader), last: reader, ..fused }
            }
            _ => fused,
        }
    }

    /// Fuses the quantization of attention's result, perhaps after a reshape that joins the heads, if a word of int8 values lies in one
    /// row of one matrix.
    fn with_quantized_result(&self, fused: FusedStep) -> FusedStep {
        let is_reshape = |step: &usize| matches!(self.op(*step), StepOp::Op(Op::Reshape(_)));
        let result_reshape = self.only_reader(fused.last).filter(is_reshape);
        let Some(reader) = self.only_reader(result_reshape.unwrap_or(fused.last)) else { return fused };
        let cols = |step: usize| self.program.value(self.program.steps()[step].output).cols();
        match self.op(reader) {
            StepOp::Op(Op::Quantize(_)) if cols(fused.main).is_multiple_of(4) && !padded_rows(cols(reader)) => {
                FusedStep { quantize: Some(reader), result_reshape, last: reader, ..fused }
            }
            _ => fused,
        }
    }
}

/// Whether a matmul can read an operand through a permutation: the features of `a` must be contiguous, and of an int8 `b` either its
/// features or its columns.
fn readable(perm: &[usize], operand: usize, is_int8: bool) -> bool {
    let [.., row, column] = perm[..] else { return false };
    let innermost = perm.len() - 1;
    match operand {
        0 => column == innermost,
        _ => !is_int8 || row == innermost || column == innermost,
    }
}

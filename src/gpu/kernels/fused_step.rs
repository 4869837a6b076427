//! Steps that share a dispatch.

use crate::numerics::UnaryOp;
use crate::ops::{Op, Unary};
use crate::program::{Program, Step, StepOp};

/// Steps that share a dispatch, or one step alone. Indices are those of [`Program::steps`].
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct FusedStep {
    /// The step that decides over the kernel.
    pub(crate) main: usize,
    /// The last step, whose output the dispatch writes.
    pub(crate) last: usize,
    /// The lookup table after an int8 linear layer.
    pub(crate) lut: Option<usize>,
    /// The int8 sum after an int8 linear layer.
    pub(crate) add: Option<usize>,
    /// The unary function after a linear layer or a sum along an axis.
    pub(crate) function: Option<usize>,
    /// Whether the result is written as f16.
    pub(crate) to_f16: bool,
    /// The product with a number, and the sum with a mask, before a softmax.
    pub(crate) scale: Option<usize>,
    pub(crate) mask: Option<usize>,
    /// The product before a sum along an axis.
    pub(crate) product: Option<usize>,
    /// The division of that sum by the sum of one of the factors.
    pub(crate) mean: Option<WeightedMean>,
    /// The casts of integers that such a sum, or its product, computes again from what they read: those of its operands.
    pub(crate) casts: [Option<usize>; 2],
    /// The sum before a layer norm.
    pub(crate) add_before: Option<usize>,
    /// Whether other steps, or the caller, read that sum.
    pub(crate) keeps_sum: bool,
    /// The quantization after a layer norm or attention, or after the choice of its qparams.
    pub(crate) quantize: Option<usize>,
    /// The choice of qparams between a layer norm and its quantization.
    pub(crate) choose: Option<usize>,
    /// Whether other steps, or the caller, read the floats of a layer norm that is quantized.
    pub(crate) keeps_norm: bool,
    /// The transposes of a matmul's operands; in attention, those of the matmul with the values.
    pub(crate) transposes: [Option<usize>; 2],
    /// The transpose of a matmul's result, and a reshape of that before it is quantized.
    pub(crate) result_transpose: Option<usize>,
    pub(crate) result_reshape: Option<usize>,
    /// The scores and their softmax before a matmul with the values.
    pub(crate) attention: Option<Attention>,
    /// A chain of elementwise steps, in order, with the main step as the first; none of a step that is alone.
    pub(crate) chain: [Option<usize>; 8],
    /// Other linear layers that read what the main step reads.
    pub(crate) siblings: [Option<usize>; 3],
}

/// The steps of attention before its last matmul, besides the product with a number and the sum with a mask.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Attention {
    /// The matmul that computes the scores.
    pub(crate) scores: usize,
    pub(crate) softmax: usize,
    /// The transposes of the operands of `scores`.
    pub(crate) transposes: [Option<usize>; 2],
}

/// The steps that make a sum of products the mean of one factor, weighted by the other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct WeightedMean {
    /// The sum of the weights.
    pub(crate) total: usize,
    /// The clamp of that sum, which keeps it from 0.
    pub(crate) clamp: Option<usize>,
    pub(crate) division: usize,
}

impl FusedStep {
    /// A step alone.
    pub(crate) fn single(step: usize) -> Self {
        Self { main: step, last: step, ..Self::default() }
    }

    /// The main step.
    pub(crate) fn step<'p>(&self, program: &'p Program) -> &'p Step {
        &program.steps()[self.main]
    }

    /// The last step.
    pub(crate) fn last_step<'p>(&self, program: &'p Program) -> &'p Step {
        &program.steps()[self.last]
    }

    /// The unary function that follows.
    pub(crate) fn unary_op(&self, program: &Program) -> Option<UnaryOp> {
        match program.steps()[self.function?].op {
            StepOp::Op(Op::Unary(Unary { op })) => Some(op),
            _ => None,
        }
    }

    /// All steps except transposes and casts, with repetition.
    pub(crate) fn steps(&self) -> impl Iterator<Item = usize> {
        let others = [
            self.lut,
            self.add,
            self.function,
            self.scale,
            self.mask,
            self.add_before,
            self.quantize,
            self.choose,
            self.product,
        ];
        let attention = self.attention.map(|attention| [attention.scores, attention.softmax]);
        let all = [Some(self.main), Some(self.last)].into_iter().chain(others).flatten();
        let result = [self.result_transpose, self.result_reshape];
        let mean = self.mean.map_or([None; 3], |mean| [Some(mean.total), mean.clamp, Some(mean.division)]);
        let more = result.into_iter().chain(mean).chain(self.siblings).chain(self.chain).flatten();
        all.chain(attention.into_iter().flatten()).chain(more)
    }

    /// Whether several linear layers share the dispatch.
    pub(crate) fn shares(&self) -> bool {
        self.siblings.iter().any(Option::is_some)
    }

    /// The linear layers of the dispatch.
    pub(crate) fn layers(&self) -> impl Iterator<Item = usize> {
        [Some(self.main)].into_iter().chain(self.siblings).flatten()
    }

    /// The transposes and casts that the dispatch reads through.
    pub(crate) fn read_through(&self) -> impl Iterator<Item = usize> {
        let scores = self.attention.map_or([None; 2], |attention| attention.transposes);
        self.transposes.into_iter().chain(scores).chain(self.casts).flatten()
    }
}

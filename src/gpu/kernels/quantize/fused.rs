//! Quantization with static qparams in the dispatch of another step.

use super::per_tensor;
use crate::gpu::device::shader::{Piece, text};
use crate::numerics::QuantizeRule;
use crate::ops::{Op, Quantize};
use crate::program::StepOp;

/// A quantization with static qparams, for kernels that it is fused with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StaticQuantize {
    pub(crate) rule: QuantizeRule,
    /// The inverse scale, or the scale if the rule divides.
    pub(crate) factor: f32,
    pub(crate) zero_point: i32,
    /// The range, relative to the zero point.
    pub(crate) lo: f32,
    pub(crate) hi: f32,
}

impl StaticQuantize {
    /// That of a step; `None` if it is another.
    pub(crate) fn of(op: &StepOp) -> Option<Self> {
        let StepOp::Op(Op::Quantize(Quantize { qparams, range, rule })) = op else { return None };
        let qparams = per_tensor(qparams);
        let [lo, hi] = [range.quant_min(), range.quant_max()].map(|q| (q - qparams.zero_point()) as f32);
        let factor = if *rule == QuantizeRule::Divide { qparams.scale() } else { qparams.inv_scale() };
        Some(Self { rule: *rule, factor, zero_point: qparams.zero_point(), lo, hi })
    }
}

/// The WGSL of `quantize_bits`, for shaders that have `shared/quantize.wgsl`.
pub(crate) fn quantize_bits(rule: QuantizeRule) -> Piece {
    macro_rules! piece {
        ($name:literal) => {
            Piece { name: $name, wgsl: text!("shared/", $name) }
        };
    }
    match rule {
        QuantizeRule::Multiply => piece!("quantize_multiply"),
        QuantizeRule::Divide => piece!("quantize_divide"),
    }
}

//! Sums and products of elements.

use super::{Epilogue, Fused, Matcher, NOT_INPUTS, NOT_OUTPUT, Rewritten, ToIntegerError, multiplier};
use crate::graph::{NodeId, Rewriter};
use crate::numerics::AddMultipliers;
use crate::ops::{Add, IntegerAdd, IntegerMul, Mul, Op};

/// The rule of the family.
pub(super) fn rewrite(
    matcher: &Matcher<'_>,
    rewriter: &mut Rewriter<'_>,
    id: NodeId,
) -> Result<Option<Rewritten>, ToIntegerError> {
    match matcher.graph.node(id).op {
        Op::Add(Add) => Ok(Some(matcher.add(rewriter, id).into())),
        Op::Mul(Mul) => Ok(Some(matcher.mul(rewriter, id).into())),
        _ => Ok(None),
    }
}

impl Matcher<'_> {
    /// `int8 + int8 → int8` (equation 8).
    fn add(&self, rewriter: &mut Rewriter<'_>, id: NodeId) -> Result<Fused, String> {
        let operands = self.operands(id)?;
        let [(a, a_qparams), (b, b_qparams)] = operands[..] else { return Err(NOT_INPUTS.to_owned()) };
        let (Epilogue::Int8 { qparams, lo, hi }, fused) = self.epilogue(id) else { return Err(NOT_OUTPUT.to_owned()) };
        let scales = [a_qparams.scale(), b_qparams.scale(), qparams.scale()];
        let multipliers = AddMultipliers::new(scales[0], scales[1], scales[2]).ok_or_else(|| {
            let [a, b, y] = scales;
            format!("input scales {a:e} and {b:e} are out of proportion to the output scale {y:e} (equation 8)")
        })?;
        let (a_zero_point, b_zero_point) = (a_qparams.zero_point(), b_qparams.zero_point());
        let op = Op::IntegerAdd(IntegerAdd { a_zero_point, b_zero_point, multipliers, qparams, lo, hi });
        Ok(self.replace(rewriter, fused, op, &[a, b]))
    }

    /// `int8 · int8 → int8` of each element (equation 9).
    fn mul(&self, rewriter: &mut Rewriter<'_>, id: NodeId) -> Result<Fused, String> {
        let operands = self.operands(id)?;
        let [(a, a_qparams), (b, b_qparams)] = operands[..] else { return Err(NOT_INPUTS.to_owned()) };
        let (Epilogue::Int8 { qparams, lo, hi }, fused) = self.epilogue(id) else { return Err(NOT_OUTPUT.to_owned()) };
        let multiplier = multiplier(a_qparams, b_qparams, Some(qparams))?;
        let (a_zero_point, b_zero_point) = (a_qparams.zero_point(), b_qparams.zero_point());
        let op = Op::IntegerMul(IntegerMul { a_zero_point, b_zero_point, multiplier, qparams, lo, hi });
        Ok(self.replace(rewriter, fused, op, &[a, b]))
    }
}

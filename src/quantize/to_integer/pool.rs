//! Pools and resizes that compute with values: means. Pools that take the largest element move values.

use super::{Fused, Matcher, NOT_INPUT, NOT_OUTPUT, Rewritten, ToIntegerError};
use crate::graph::{NodeId, Rewriter};
use crate::ops::{IntegerAveragePool, IntegerResizeLinear, Op};
use crate::values::{QParams, QuantRange};

/// The rule of the family.
pub(super) fn rewrite(
    matcher: &Matcher<'_>,
    rewriter: &mut Rewriter<'_>,
    id: NodeId,
) -> Result<Option<Rewritten>, ToIntegerError> {
    let bounds = |range: QuantRange| (range.quant_min(), range.quant_max());
    let fused = match &matcher.graph.node(id).op {
        Op::AveragePool(pool) => matcher.average(rewriter, id, |x, y, range| {
            let ((lo, hi), windows) = (bounds(range), pool.windows.clone());
            IntegerAveragePool { windows, x, y, lo, hi, layout: pool.layout }.into()
        }),
        Op::ResizeLinear(resize) => matcher.average(rewriter, id, |x, y, range| {
            let ((lo, hi), grid) = (bounds(range), resize.grid.clone());
            IntegerResizeLinear { grid, x, y, lo, hi, layout: resize.layout }.into()
        }),
        _ => return Ok(None),
    };
    Ok(Some(fused.into()))
}

impl Matcher<'_> {
    fn average(
        &self,
        rewriter: &mut Rewriter<'_>,
        id: NodeId,
        integer: impl Fn(QParams, QParams, QuantRange) -> Op,
    ) -> Result<Fused, String> {
        let node = self.graph.node(id);
        let (values, x) = self.operand(node.inputs[0]).ok_or(NOT_INPUT)?;
        let quantize = self.only_user(id).and_then(|id| self.quantize(id));
        let (quantize, y, range) = quantize.ok_or_else(|| NOT_OUTPUT.to_owned())?;
        let inputs = vec![rewriter.get(values).expect(super::FITS)];
        let name = &self.graph.node(quantize).name;
        // The operator refuses sums that do not fit i32, and multipliers that are not normal.
        let op = integer(x, y, range);
        let new = rewriter.add(name, op, inputs, &node.origin).map_err(|refused| refused.to_string())?;
        rewriter.replace(quantize, new);
        Ok(vec![quantize])
    }
}

//! Pools that compute with values: means. Pools that take the largest element move values.

use super::{Fused, Matcher, NOT_INPUT, NOT_OUTPUT, Rewritten, ToIntegerError};
use crate::graph::{NodeId, Rewriter};
use crate::ops::{AveragePool, IntegerAveragePool, Op};

/// The rule of the family.
pub(super) fn rewrite(
    matcher: &Matcher<'_>,
    rewriter: &mut Rewriter<'_>,
    id: NodeId,
) -> Result<Option<Rewritten>, ToIntegerError> {
    match &matcher.graph.node(id).op {
        Op::AveragePool(pool) => Ok(Some(matcher.average_pool(rewriter, id, pool).into())),
        _ => Ok(None),
    }
}

impl Matcher<'_> {
    fn average_pool(&self, rewriter: &mut Rewriter<'_>, id: NodeId, pool: &AveragePool) -> Result<Fused, String> {
        let node = self.graph.node(id);
        let (values, x) = self.operand(node.inputs[0]).ok_or(NOT_INPUT)?;
        let quantize = self.only_user(id).and_then(|id| self.quantize(id));
        let (quantize, y, range) = quantize.ok_or_else(|| NOT_OUTPUT.to_owned())?;
        let (windows, lo, hi) = (pool.windows.clone(), range.quant_min(), range.quant_max());
        let op = IntegerAveragePool { windows, x, y, lo, hi, layout: pool.layout };
        let inputs = vec![rewriter.get(values).expect(super::FITS)];
        let name = &self.graph.node(quantize).name;
        // The operator refuses windows whose sums do not fit i32, and multipliers that are not normal.
        let new = rewriter.add(name, op, inputs, &node.origin).map_err(|refused| refused.to_string())?;
        rewriter.replace(quantize, new);
        Ok(vec![quantize])
    }
}

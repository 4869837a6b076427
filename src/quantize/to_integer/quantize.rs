//! Quantize nodes that read dequantized values.

use super::{FITS, Matcher, Rewritten, ToIntegerError};
use crate::graph::{NodeId, Rewriter};
use crate::ops::{Op, Quantize};
use crate::values::{QParams, QuantRange};

/// The rule of the family.
pub(super) fn rewrite(
    matcher: &Matcher<'_>,
    rewriter: &mut Rewriter<'_>,
    id: NodeId,
) -> Result<Option<Rewritten>, ToIntegerError> {
    match matcher.graph.node(id).op {
        Op::Quantize(_) if matcher.requantize(rewriter, id) => Ok(Some(Rewritten::Fused(Vec::new()))),
        Op::Observe(_) => {
            Ok(Some(Rewritten::Float("the graph is still being calibrated; convert it first".to_owned())))
        }
        _ => Ok(None),
    }
}

impl Matcher<'_> {
    /// Rewrites a quantize node that reads a dequantized value: to that value if the qparams are the same, else to a lookup table. False
    /// if it reads another value.
    fn requantize(&self, rewriter: &mut Rewriter<'_>, id: NodeId) -> bool {
        let node = self.graph.node(id);
        let (Some((x, x_qparams)), Some((_, qparams, range))) = (self.operand(node.inputs[0]), self.quantize(id))
        else {
            return false;
        };
        let codes = rewriter.get(x).expect(FITS);
        let new = if self.is_unchanged(x, x_qparams, qparams, range) {
            codes
        } else {
            self.lookup_table(rewriter, id, &node.name, codes, x_qparams, &[], (qparams, range))
        };
        rewriter.replace(id, new);
        true
    }

    /// Whether quantized values have the same qparams after requantization, and already fit the range.
    pub(super) fn is_unchanged(&self, x: NodeId, x_qparams: QParams, qparams: QParams, range: QuantRange) -> bool {
        let fits = match &self.graph.node(x).op {
            Op::Quantize(Quantize { range: own, .. }) => {
                own.quant_min() >= range.quant_min() && own.quant_max() <= range.quant_max()
            }
            _ => range == QuantRange::INT8,
        };
        x_qparams == qparams && fits
    }
}

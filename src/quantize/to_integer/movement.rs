//! Operators that move elements: they work on quantized values as they are.

use super::{FITS, Fused, Matcher, NOT_INPUT, NOT_OUTPUT, Rewritten, ToIntegerError};
use crate::graph::{NodeId, Rewriter};
use crate::ops::Op;

/// The rule of the family.
pub(super) fn rewrite(
    matcher: &Matcher<'_>,
    rewriter: &mut Rewriter<'_>,
    id: NodeId,
) -> Result<Option<Rewritten>, ToIntegerError> {
    match &matcher.graph.node(id).op {
        Op::Concat(_) => Ok(Some(matcher.concat(rewriter, id).into())),
        op if op.moves_values() => Ok(Some(matcher.movement(rewriter, id).into())),
        _ => Ok(None),
    }
}

impl Matcher<'_> {
    /// Concatenates quantized values; inputs whose qparams are not those of the output pass through a lookup table.
    fn concat(&self, rewriter: &mut Rewriter<'_>, id: NodeId) -> Result<Fused, String> {
        let node = self.graph.node(id);
        let operands = self.operands(id)?;
        let quantize = self.only_user(id).and_then(|id| self.quantize(id));
        let (quantize, qparams, range) = quantize.ok_or_else(|| NOT_OUTPUT.to_owned())?;
        let mut inputs = Vec::with_capacity(operands.len());
        for (at, &(x, x_qparams)) in operands.iter().enumerate() {
            let codes = rewriter.get(x).expect(FITS);
            inputs.push(if self.is_unchanged(x, x_qparams, qparams, range) {
                codes
            } else {
                let name = format!("{}.input{at}", node.name);
                self.lookup_table(rewriter, quantize, &name, codes, x_qparams, &[], (qparams, range))
            });
        }
        let name = &self.graph.node(quantize).name;
        let new = rewriter.add(name, node.op.clone(), inputs, &node.origin).expect(FITS);
        rewriter.replace(quantize, new);
        Ok(vec![quantize])
    }

    /// Moves quantized values, and passes them through a lookup table if the output has other qparams.
    fn movement(&self, rewriter: &mut Rewriter<'_>, id: NodeId) -> Result<Fused, String> {
        let node = self.graph.node(id);
        let (x, x_qparams) = self.operands(id).map_err(|_| NOT_INPUT.to_owned())?[0];
        let quantize = self.only_user(id).and_then(|id| self.quantize(id));
        let (quantize, qparams, range) = quantize.ok_or_else(|| NOT_OUTPUT.to_owned())?;
        let codes = rewriter.get(x).expect(FITS);
        let same = self.is_unchanged(x, x_qparams, qparams, range);
        let quantized = &self.graph.node(quantize).name;
        let name = if same { quantized } else { &node.name };
        let mut new = rewriter.add(name, node.op.clone(), vec![codes], &node.origin).expect(FITS);
        if !same {
            new = self.lookup_table(rewriter, quantize, quantized, new, x_qparams, &[], (qparams, range));
        }
        rewriter.replace(quantize, new);
        Ok(vec![quantize])
    }
}

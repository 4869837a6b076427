//! Operators that move elements: they work on quantized values as they are.

use super::{FITS, Fused, Matcher, NOT_INPUT, NOT_OUTPUT, Rewritten, ToIntegerError};
use crate::graph::{NodeId, Rewriter};
use crate::ops::{Constant, Op};
use crate::values::Tensor;

/// The rule of the family.
pub(super) fn rewrite(
    matcher: &Matcher<'_>,
    rewriter: &mut Rewriter<'_>,
    id: NodeId,
) -> Result<Option<Rewritten>, ToIntegerError> {
    match &matcher.graph.node(id).op {
        Op::Concat(_) | Op::Pad(_) => Ok(Some(matcher.concat(rewriter, id).into())),
        op if op.moves_values() => Ok(Some(matcher.movement(rewriter, id).into())),
        _ => Ok(None),
    }
}

impl Matcher<'_> {
    /// Concatenates or pads quantized values; inputs whose qparams are not those of the output pass through a lookup table. The value
    /// of a pad is quantized as the output is: 0 becomes the zero point.
    fn concat(&self, rewriter: &mut Rewriter<'_>, id: NodeId) -> Result<Fused, String> {
        let node = self.graph.node(id);
        let operands = match node.op {
            Op::Pad(_) => vec![self.operand(node.inputs[0]).ok_or(NOT_INPUT)?],
            _ => self.operands(id)?,
        };
        let quantize = self.only_user(id).and_then(|id| self.quantize(id));
        let (quantize, qparams, range) = quantize.ok_or_else(|| NOT_OUTPUT.to_owned())?;
        let padding = match node.op {
            Op::Pad(_) => {
                let value = self.graph.node(node.inputs[1]).op.constant().and_then(|value| value.as_f32());
                let &[value] = value.ok_or("its padding value is not a constant")? else { unreachable!("{FITS}") };
                let (quant_min, quant_max) = (range.quant_min(), range.quant_max());
                Some(self.rule(quantize).quantize(value, qparams, quant_min, quant_max) as i8)
            }
            _ => None,
        };
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for (at, &(x, x_qparams)) in operands.iter().enumerate() {
            let values = rewriter.get(x).expect(FITS);
            inputs.push(if self.is_unchanged(x, x_qparams, qparams, range) {
                values
            } else {
                let name = format!("{}.input{at}", node.name);
                self.lookup_table(rewriter, quantize, &name, values, x_qparams, &[], (qparams, range))
            });
        }
        if let Some(value) = padding {
            inputs.push(self.constant(
                rewriter,
                id,
                "value.quantize",
                Constant::new(Tensor::from(ndarray::arr0(value))),
            ));
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
        let values = rewriter.get(x).expect(FITS);
        let same = self.is_unchanged(x, x_qparams, qparams, range);
        let quantized = &self.graph.node(quantize).name;
        let name = if same { quantized } else { &node.name };
        let mut new = rewriter.add(name, node.op.clone(), vec![values], &node.origin).expect(FITS);
        if !same {
            new = self.lookup_table(rewriter, quantize, quantized, new, x_qparams, &[], (qparams, range));
        }
        rewriter.replace(quantize, new);
        Ok(vec![quantize])
    }
}

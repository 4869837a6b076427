//! Functions of one element: a chain of them between int8 values is one lookup table (equation 12).

use ndarray::Array1;

use super::{FITS, Fused, Matcher, NOT_INPUT, NOT_OUTPUT, Rewritten, ToIntegerError};
use crate::graph::{NodeId, Rewriter};
use crate::numerics;
use crate::ops::{Clamp, Constant, Lut, Op, Quantize, Unary};
use crate::values::{QParams, QuantRange, Tensor};

/// The rule of the family.
pub(super) fn rewrite(
    matcher: &Matcher<'_>,
    rewriter: &mut Rewriter<'_>,
    id: NodeId,
) -> Result<Option<Rewritten>, ToIntegerError> {
    match matcher.graph.node(id).op {
        Op::Unary(_) | Op::Clamp(_) => Ok(Some(matcher.functions(rewriter, id).into())),
        _ => Ok(None),
    }
}

impl Matcher<'_> {
    /// Rewrites a chain of functions of one element into a lookup table, unless its result is NaN for a value that the input may have.
    fn functions(&self, rewriter: &mut Rewriter<'_>, id: NodeId) -> Result<Fused, String> {
        let operands = self.operands(id).map_err(|_| NOT_INPUT.to_owned())?;
        let (x, x_qparams) = operands[0];
        let mut fused = Vec::new();
        let mut next = Some(id);
        while let Some(function) = next
            && matches!(self.graph.node(function).op, Op::Unary(_) | Op::Clamp(_))
            && self.graph.node(function).float_reason.is_none()
        {
            fused.push(function);
            next = self.only_user(function);
        }
        let chain: Vec<&Op> = fused.iter().map(|&id| &self.graph.node(id).op).collect();
        let Some((quantize, qparams, range)) = next.and_then(|id| self.quantize(id)) else {
            return Err(NOT_OUTPUT.to_owned());
        };
        if let Some((value, function)) = self.nan(x, x_qparams, &fused) {
            let real = numerics::dequantize(value, x_qparams.scale(), x_qparams.zero_point());
            let function = self.graph.node(function);
            let (name, op) = (&function.name, function.op.name());
            return Err(format!(
                "{op} at {name} makes NaN of the quantized value {value}, which is {real:e}, and no quantized value is NaN"
            ));
        }
        fused.push(quantize);
        let x = rewriter.get(x).expect(FITS);
        let name = &self.graph.node(quantize).name;
        let table = self.lookup_table(rewriter, quantize, name, x, x_qparams, &chain, (qparams, range));
        rewriter.replace(quantize, table);
        Ok(fused)
    }

    /// The first quantized value that `x` may have for which a chain gives NaN, and the function that gives it.
    fn nan(&self, x: NodeId, qparams: QParams, chain: &[NodeId]) -> Option<(i32, NodeId)> {
        let range = match &self.graph.node(x).op {
            Op::Quantize(Quantize { range, .. }) => *range,
            _ => QuantRange::INT8,
        };
        (range.quant_min()..=range.quant_max()).find_map(|value| {
            let mut real = numerics::dequantize(value, qparams.scale(), qparams.zero_point());
            let function = chain.iter().find(|&&id| {
                real = apply(&self.graph.node(id).op, real);
                real.is_nan()
            });
            function.map(|&id| (value, id))
        })
    }

    /// Adds a lookup table. Each entry is a value dequantized, passed through the chain, in `f64` with `libm` (equation 12), and
    /// quantized by the rule of the node.
    #[allow(clippy::too_many_arguments)] // The arguments have nothing in common.
    pub(super) fn lookup_table(
        &self,
        rewriter: &mut Rewriter<'_>,
        quantize: NodeId,
        name: &str,
        x: NodeId,
        x_qparams: QParams,
        chain: &[&Op],
        (y, range): (QParams, QuantRange),
    ) -> NodeId {
        let rule = self.rule(quantize);
        let entry = |value: i8| {
            let real = numerics::dequantize(value.into(), x_qparams.scale(), x_qparams.zero_point());
            let real = chain.iter().fold(real, |v, op| apply(op, v));
            rule.quantize(real, y, range.quant_min(), range.quant_max()) as i8
        };
        let table: Array1<i8> = (i8::MIN..=i8::MAX).map(entry).collect();
        let table = self.constant(rewriter, quantize, "table", Constant::new(Tensor::from(table)));
        let node = self.graph.node(quantize);
        rewriter.add(name, Op::Lut(Lut { qparams: y }), vec![x, table], &node.origin).expect(FITS)
    }
}

/// Applies a function of one element, rounded once.
fn apply(op: &Op, v: f32) -> f32 {
    match op {
        Op::Unary(Unary { op }) => op.eval(f64::from(v)) as f32,
        Op::Clamp(Clamp { min, max }) => v.clamp(*min, *max),
        _ => v,
    }
}

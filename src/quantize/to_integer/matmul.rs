//! Products of two int8 matrices, static and dynamic.

use super::{Epilogue, FITS, Fused, Matcher, NOT_INPUTS, Rewritten, ToIntegerError, multiplier};
use crate::graph::{NodeId, Rewriter};
use crate::numerics::MAX_MATMUL_K;
use crate::ops::{DequantizeDynamic, IntegerMatMul, IntegerMatMulDynamic, Op};
use crate::values::Shape;

/// The rule of the family.
pub(super) fn rewrite(
    matcher: &Matcher<'_>,
    rewriter: &mut Rewriter<'_>,
    id: NodeId,
) -> Result<Option<Rewritten>, ToIntegerError> {
    match matcher.graph.node(id).op {
        Op::MatMul(_) => Ok(Some(matcher.matmul(rewriter, id).into())),
        _ => Ok(None),
    }
}

impl Matcher<'_> {
    /// Rewrites a matrix product, static (equation 9) or dynamic (equation 9d).
    fn matmul(&self, rewriter: &mut Rewriter<'_>, id: NodeId) -> Result<Fused, String> {
        let node = self.graph.node(id);
        let k = self.graph.node(node.inputs[0]).shape.last().expect(FITS);
        let fits = || match k {
            0..=MAX_MATMUL_K => Ok(()),
            _ => Err(format!("it sums {k} products, at most {MAX_MATMUL_K} fit the i32 accumulator (equation 9)")),
        };
        match [0, 1].map(|at| self.dynamic_operand(node.inputs[at])) {
            [Some(a), Some(b)] => return fits().and_then(|()| self.dynamic_matmul(rewriter, id, a, b)),
            [None, None] => {}
            [a, _] => {
                let (dynamic, other) = if a.is_some() { ("left", "right") } else { ("right", "left") };
                return Err(format!("its {dynamic} factor is quantized dynamically, its {other} one is not"));
            }
        }
        let operands = self.operands(id)?;
        let [(a, a_qparams), (b, b_qparams)] = operands[..] else { return Err(NOT_INPUTS.to_owned()) };
        fits()?;
        let (epilogue, fused) = self.epilogue(id);
        let factor = match epilogue {
            Epilogue::Int8 { qparams, .. } => multiplier(a_qparams, b_qparams, Some(qparams))?,
            Epilogue::Float { .. } => multiplier(a_qparams, b_qparams, None)?,
        };
        let (a_zero_point, b_zero_point) = (a_qparams.zero_point(), b_qparams.zero_point());
        let inputs = [a, b].map(|input| rewriter.get(input).expect(FITS)).to_vec();
        let acc = Op::IntegerMatMul(IntegerMatMul { a_zero_point, b_zero_point });
        let acc = rewriter.add(&node.name, acc, inputs, &node.origin).expect(FITS);
        let factors = vec![factor; node.shape.last().expect(FITS)];
        Ok(self.finish(rewriter, id, acc, epilogue, factors, fused))
    }

    /// Rewrites a product of dynamically quantized factors (equation 9d). Its result is float, so only a ReLU is fused.
    fn dynamic_matmul(
        &self,
        rewriter: &mut Rewriter<'_>,
        id: NodeId,
        [a, a_qparams]: [NodeId; 2],
        [b, b_qparams]: [NodeId; 2],
    ) -> Result<Fused, String> {
        let qparams = &self.graph.node(b_qparams).shape;
        if *qparams != Shape::fixed(&[2]) {
            return Err(format!(
                "its right factor has scales {qparams}, one a row, which vary along the sum; expected [2], one for the tensor \
                 (equation 9d)"
            ));
        }
        let relu = self.only_user(id).filter(|&id| self.is_relu(id));
        let last = relu.unwrap_or(id);
        let inputs = [a, b, a_qparams, b_qparams].map(|input| rewriter.get(input).expect(FITS)).to_vec();
        let op = Op::IntegerMatMulDynamic(IntegerMatMulDynamic { relu: relu.is_some() });
        let (name, origin) = (&self.graph.node(id).name, &self.graph.node(last).origin);
        let new = rewriter.add(name, op, inputs, origin).expect(FITS);
        rewriter.replace(last, new);
        Ok(relu.into_iter().collect())
    }

    /// The quantized values and the dynamic qparams of a node that dequantizes dynamically.
    fn dynamic_operand(&self, id: NodeId) -> Option<[NodeId; 2]> {
        let node = self.graph.node(id);
        matches!(node.op, Op::DequantizeDynamic(DequantizeDynamic)).then(|| [node.inputs[0], node.inputs[1]])
    }
}

//! Gradients of matrix products.

use super::{Backward, Rule, sum_to};
use crate::numerics::FloatProducts;
use crate::ops::{self, MatMul, Op};
use crate::values::Tensor;
use crate::values::slices::f32s;

pub(super) fn rule(op: &Op) -> Option<Rule<'_>> {
    let Op::MatMul(MatMul { products: FloatProducts::Full }) = op else { return None };
    Some(Box::new(matmul))
}

/// `da = dy · bᵀ`, `db = aᵀ · dy`, summed over the batch axes that were broadcast.
fn matmul(b: &Backward<'_>, dx: &mut [f32]) {
    let dy = b.dy_tensor();
    let product = match b.at {
        0 => ops::matmul_f32(&dy, &transposed(b.inputs[1]), FloatProducts::Full),
        _ => ops::matmul_f32(&transposed(b.inputs[0]), &dy, FloatProducts::Full),
    };
    sum_to(f32s(&product), product.shape(), dx, b.x().shape());
}

/// The last two axes exchanged.
fn transposed(x: &Tensor) -> Tensor {
    let mut perm: Vec<usize> = (0..x.shape().len()).collect();
    let last = perm.len() - 1;
    perm.swap(last - 1, last);
    ops::transposed(x, &perm)
}

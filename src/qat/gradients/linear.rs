//! Gradients of linear layers.

use super::{Rule, column_sums};
use crate::numerics::FloatProducts;
use crate::numerics::gemm;
use crate::ops::{Linear, Op};
use crate::values::slices::{f32s, rows_before_last};

pub(super) fn rule(op: &Op) -> Option<Rule<'_>> {
    let Op::Linear(Linear { products: FloatProducts::Full }) = op else { return None };
    Some(Box::new(|b, dx| {
        let (x, w) = (b.inputs[0], b.inputs[1]);
        let sizes = [rows_before_last(b.y.shape()), w.shape()[0], w.shape()[1]];
        linear(b.at, sizes, f32s(x), f32s(w), b.dy, dx);
    }))
}

/// `dx = dy · w`, `dw = dyᵀ · x`, `db = Σ dy`; `[m, n, k]` are the rows, the output features and the input features.
fn linear(at: usize, [m, n, k]: [usize; 3], x: &[f32], w: &[f32], dy: &[f32], dx: &mut [f32]) {
    match at {
        0 => gemm::matmul(dx, dy, w, [m, k, n]),
        1 => gemm::matmul_transposed(dx, dy, x, [n, k, m]),
        _ => column_sums(dy, dx),
    }
}

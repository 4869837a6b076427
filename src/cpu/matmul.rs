//! Products of two tensors.

use super::elementwise::{broadcast_shape, position};
use super::epilogue::{qparams_of_row, requantize, scale_accumulator};
use super::step_run::{Output, StepRun};
use crate::numerics::float::products;
use crate::numerics::{self, FloatProducts, gemm};
use crate::ops::{IntegerMatMulDynamic, MatMul, Op};
use crate::parallel::*;
use crate::program::{Epilogue, StepOp};
use crate::values::Tensor;
use crate::values::slices::{CHECKED, f32s, i8s, integers, tensor};

pub(super) fn run(run: &mut StepRun<'_>) -> Option<Output> {
    let rest = run.rest;
    Some(Ok(match &run.step.op {
        StepOp::QMatMul(m) => {
            let acc = matmul_i8(run.x(), rest[0], m.a_zero_point, m.b_zero_point);
            match &m.epilogue {
                Epilogue::Requantize { multiplier, zero_point, lo, hi } => {
                    requantize(&acc, multiplier, *zero_point, *lo, *hi)
                }
                Epilogue::Scale { scale, relu } => scale_accumulator(&acc, scale, *relu),
                Epilogue::Dynamic { .. } => unreachable!("{CHECKED}"),
            }
        }
        StepOp::Op(Op::MatMul(MatMul { products })) => {
            let y = run.pool.take(run.shape.iter().product());
            matmul_f32(run.x(), rest[0], y, *products)
        }
        StepOp::Op(Op::IntegerMatMulDynamic(IntegerMatMulDynamic { relu })) => {
            matmul_dynamic_i8(run.x(), rest[0], f32s(rest[1]), f32s(rest[2]), *relu)
        }
        _ => return None,
    }))
}

/// Multiplies `a[…, M, K] · b[…, K, N]`, leading axes broadcast. `y` is a buffer of as many elements as the result.
fn matmul_f32(a: &Tensor, b: &Tensor, mut y: Vec<f32>, kind: FloatProducts) -> Tensor {
    let stacks = Stacks::new(a, b);
    let (m, n, k) = (stacks.m, stacks.n, stacks.k);
    let shape = stacks.shape();
    let (a, b) = (f32s(a), f32s(b));
    if kind == FloatProducts::Reproducible {
        let (a, b) = (products::factors(a), products::factors(b));
        if m * n > 0 {
            y.par_chunks_exact_mut(m * n).with_min_len(stacks.worth_a_task()).enumerate().for_each(|(at, y)| {
                let (i, j) = stacks.position(at);
                products::product(y, &a[i * m * k..][..m * k], &b[j * k * n..][..k * n], [n, k], None);
            });
        }
    } else if stacks.b.iter().product::<usize>() == 1 && stacks.a.len() == stacks.y.len() {
        // With one matrix on the right, one product takes all rows of the left.
        gemm::matmul(&mut y, a, b, [stacks.y.iter().product::<usize>() * m, n, k]);
    } else if m * n > 0 {
        y.par_chunks_exact_mut(m * n).with_min_len(stacks.worth_a_task()).enumerate().for_each(|(at, y)| {
            let (i, j) = stacks.position(at);
            gemm::matmul(y, &a[i * m * k..][..m * k], &b[j * k * n..][..k * n], [m, n, k]);
        });
    }
    tensor(shape, y)
}

/// Computes equation 9, `Σ (a − z_a) · (b − z_b)`, of `a[…, M, K]` and `b[…, K, N]`, leading axes broadcast.
fn matmul_i8(a: &Tensor, b: &Tensor, a_zero_point: i32, b_zero_point: i32) -> Tensor {
    let stacks = Stacks::new(a, b);
    let shape = stacks.shape();
    let mut y = vec![0i32; shape.iter().product()];
    let (a, b) = (i8s(a), i8s(b));
    if !y.is_empty() {
        let rows = products::TASK.div_ceil((stacks.n * stacks.k).max(1));
        y.par_chunks_exact_mut(stacks.n).with_min_len(rows).enumerate().for_each(|(row, y)| {
            let (a, b) = stacks.row(row, a, b).1;
            add_products(y, a, b, [a_zero_point, b_zero_point]);
        });
    }
    integers(&shape, y)
}

/// Computes equation 9d of `a[…, M, K]`, with dynamic qparams for the tensor or for each row, and `b[…, K, N]`, with those of the
/// tensor; leading axes broadcast.
fn matmul_dynamic_i8(a: &Tensor, b: &Tensor, a_qparams: &[f32], b_qparams: &[f32], relu: bool) -> Tensor {
    let stacks = Stacks::new(a, b);
    let shape = stacks.shape();
    let mut y = vec![0f32; shape.iter().product()];
    let (a, b) = (i8s(a), i8s(b));
    let (b_scale, b_zero_point) = qparams_of_row(b_qparams, 0);
    if !y.is_empty() {
        let rows = products::TASK.div_ceil((stacks.n * stacks.k).max(1));
        let rows = y.par_chunks_exact_mut(stacks.n).with_min_len(rows).enumerate();
        rows.for_each_init(Vec::new, |acc: &mut Vec<i32>, (row, y)| {
            let (a_row, (a, b)) = stacks.row(row, a, b);
            let (a_scale, a_zero_point) = qparams_of_row(a_qparams, a_row);
            acc.clear();
            acc.resize(y.len(), 0);
            add_products(acc, a, b, [a_zero_point, b_zero_point]);
            for (y, &acc) in y.iter_mut().zip(acc.iter()) {
                *y = numerics::scale_matmul_dynamic(acc, a_scale, b_scale, relu);
            }
        });
    }
    tensor(shape, y)
}

/// Adds a row `a[K]` times a matrix `b[K, N]`, both less their zero points, to `acc[N]`. The bound of equation 9 keeps sums
/// inside `i32`. They wrap around if a graph computes zero points that no int8 range has.
fn add_products(acc: &mut [i32], a: &[i8], b: &[i8], [a_zero_point, b_zero_point]: [i32; 2]) {
    for (&a, b) in a.iter().zip(b.chunks_exact(acc.len())) {
        let a = i32::from(a).wrapping_sub(a_zero_point);
        for (acc, &b) in acc.iter_mut().zip(b) {
            *acc = acc.wrapping_add(a.wrapping_mul(i32::from(b).wrapping_sub(b_zero_point)));
        }
    }
}

/// The shapes of `a[…, M, K] · b[…, K, N]`. The stacks are the leading axes, which broadcast to those of the result.
struct Stacks<'t> {
    a: &'t [usize],
    b: &'t [usize],
    y: Vec<usize>,
    m: usize,
    n: usize,
    k: usize,
}

impl<'t> Stacks<'t> {
    fn new(a: &'t Tensor, b: &'t Tensor) -> Self {
        let (a, a_matrix) = a.shape().split_at(a.shape().len() - 2);
        let (b, b_matrix) = b.shape().split_at(b.shape().len() - 2);
        Self { a, b, y: broadcast_shape(a, b), m: a_matrix[0], n: b_matrix[1], k: a_matrix[1] }
    }

    /// The number of matrices that are worth a parallel task.
    fn worth_a_task(&self) -> usize {
        products::TASK.div_ceil(self.m.saturating_mul(self.n).saturating_mul(self.k).max(1))
    }

    fn shape(&self) -> Vec<usize> {
        self.y.iter().copied().chain([self.m, self.n]).collect()
    }

    /// Returns the indices of the matrices of `a` and `b` whose product is matrix `at` of the result.
    fn position(&self, at: usize) -> (usize, usize) {
        (position(at, &self.y, self.a), position(at, &self.y, self.b))
    }

    /// Returns, for a row of the result, the index of the row of `a` that it comes from, that row, and the matrix of `b`.
    fn row<'d>(&self, row: usize, a: &'d [i8], b: &'d [i8]) -> (usize, (&'d [i8], &'d [i8])) {
        let (m, n, k) = (self.m, self.n, self.k);
        let (i, j) = self.position(row / m);
        let a_row = i * m + row % m;
        (a_row, (&a[a_row * k..][..k], &b[j * k * n..][..k * n]))
    }
}

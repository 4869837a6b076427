//! Products of two tensors.

use std::borrow::Cow;

use super::broadcast::{broadcast_shape, position};
use super::epilogue::{qparams_of_row, requantize, scale_accumulator};
use super::fusion::{Fused, apply, apply_to_all};
use super::movement::transpose;
use super::step_run::{Output, StepRun};
use crate::numerics::float::{canonical, products};
use crate::numerics::gemm::strided::{EXACT_INTEGERS, Scratch, Strided, product};
use crate::numerics::{self, FloatProducts, gemm};
use crate::ops::{IntegerMatMulDynamic, MatMul, Op};
use crate::parallel::*;
use crate::program::{Epilogue, StepOp};
use crate::values::slices::{CHECKED, f32s, i8s, integers, tensor};

pub(super) fn run(run: &mut StepRun<'_>) -> Option<Output> {
    let rest = run.rest;
    let stacks = |run: &StepRun<'_>| Stacks::new(run.x().shape(), rest[0].shape(), run.views);
    Some(Ok(match &run.step.op {
        StepOp::QMatMul(m) => {
            let stacks = stacks(run);
            let mut y = vec![0i32; stacks.len()];
            stacks.integers(&mut y, [i8s(run.x()), i8s(rest[0])], |_| m.a_zero_point, m.b_zero_point);
            let acc = integers(run.shape, y);
            match &m.epilogue {
                Epilogue::Requantize { multiplier, zero_point, lo, hi } => {
                    requantize(&acc, multiplier, *zero_point, *lo, *hi)
                }
                Epilogue::Scale { scale, relu } => scale_accumulator(&acc, scale, *relu),
                Epilogue::Dynamic { .. } => unreachable!("{CHECKED}"),
            }
        }
        StepOp::Op(Op::MatMul(MatMul { products })) => {
            let (mut stacks, mut y) = (stacks(run), run.pool.take(run.shape.iter().product()));
            let mut factors = [Cow::Borrowed(run.x()), Cow::Borrowed(rest[0])];
            if *products == FloatProducts::Full && stacks.is_large() && run.views != [None; 2] {
                // The library reads matrices in row-major order.
                for (factor, view) in factors.iter_mut().zip(run.views) {
                    if let Some(view) = view {
                        *factor = Cow::Owned(transpose(factor, view));
                    }
                }
                stacks = Stacks::new(factors[0].shape(), factors[1].shape(), [None; 2]);
            }
            stacks.floats(&mut y, [f32s(&factors[0]), f32s(&factors[1])], *products, run.fused);
            tensor(run.shape.to_vec(), y)
        }
        StepOp::Op(Op::IntegerMatMulDynamic(IntegerMatMulDynamic { relu })) => {
            let (stacks, y) = (stacks(run), run.pool.take(run.shape.iter().product()));
            let fused = run.fused;
            let y = stacks.dynamic(y, [i8s(run.x()), i8s(rest[0])], [f32s(rest[1]), f32s(rest[2])], *relu, fused);
            tensor(run.shape.to_vec(), y)
        }
        _ => return None,
    }))
}

/// A stack of matrices `[…, rows, columns]` in row-major memory, perhaps of another order of the axes.
struct Matrices {
    shape: Vec<usize>,
    strides: Vec<usize>,
}

impl Matrices {
    /// Views a tensor of a shape. Axis `i` of the view is axis `view[i]` of the tensor.
    fn new(shape: &[usize], view: Option<&[usize]>) -> Self {
        let strides = |axis: usize| shape[axis + 1..].iter().product();
        match view {
            Some(view) => Self {
                shape: view.iter().map(|&axis| shape[axis]).collect(),
                strides: view.iter().map(|&axis| strides(axis)).collect(),
            },
            None => Self { shape: shape.to_vec(), strides: (0..shape.len()).map(strides).collect() },
        }
    }

    /// The axes before those of the matrices.
    fn stack(&self) -> &[usize] {
        &self.shape[..self.shape.len() - 2]
    }

    /// The matrix that broadcasts to matrix `at` of a stack.
    fn matrix<'d, T>(&self, data: &'d [T], at: usize, stack: &[usize]) -> Strided<'d, T> {
        let own = self.stack();
        let (mut left, mut first) = (position(at, stack, own), 0);
        for (&length, stride) in own.iter().zip(&self.strides).rev() {
            first += left % length * stride;
            left /= length;
        }
        let [row, col] = *self.strides.last_chunk().expect(CHECKED);
        Strided { data: &data[first.min(data.len())..], row, col }
    }
}

/// The shapes of `a[…, M, K] · b[…, K, N]`. The stacks are the leading axes, which broadcast to those of the result.
struct Stacks {
    a: Matrices,
    b: Matrices,
    y: Vec<usize>,
    m: usize,
    n: usize,
    k: usize,
}

impl Stacks {
    fn new(a: &[usize], b: &[usize], [a_view, b_view]: [Option<&[usize]>; 2]) -> Self {
        let (a, b) = (Matrices::new(a, a_view), Matrices::new(b, b_view));
        let [m, k] = *a.shape.last_chunk().expect(CHECKED);
        let n = *b.shape.last().expect(CHECKED);
        Self { y: broadcast_shape(a.stack(), b.stack()), a, b, m, n, k }
    }

    /// The rows of the left that one product takes: all of them, if there is one matrix on the right.
    fn rows_together(&self) -> usize {
        let is_one = self.b.stack().iter().all(|&length| length == 1) && self.a.stack().len() == self.y.len();
        if is_one { self.y.iter().product::<usize>() * self.m } else { self.m }
    }

    /// Whether the library computes products of floats with all bits.
    fn is_large(&self) -> bool {
        self.rows_together().saturating_mul(self.n).saturating_mul(self.k) > gemm::LARGE
    }

    /// The number of elements of the result.
    fn len(&self) -> usize {
        self.y.iter().product::<usize>() * self.m * self.n
    }

    /// Calls `run` for parts of the matrices of the result: with the index of the matrix, the first row, and the rows.
    fn for_each_part<O: Send>(&self, y: &mut [O], run: impl Fn(&mut Scratch, usize, usize, &mut [O]) + Sync) {
        let matrix = self.m * self.n;
        if y.is_empty() {
            return;
        }
        let work = matrix.saturating_mul(self.k).max(1);
        let parts = (2 * current_num_threads()).div_ceil(y.len() / matrix).min(work / products::TASK).max(1);
        let rows = self.m.div_ceil(parts).next_multiple_of(8);
        let matrices = y.par_chunks_exact_mut(matrix).with_min_len(products::TASK.div_ceil(work)).enumerate();
        matrices.for_each_init(Scratch::default, |scratch, (at, y)| {
            if rows >= self.m {
                return run(scratch, at, 0, y);
            }
            let parts = y.par_chunks_mut(rows * self.n).enumerate();
            parts.for_each_init(Scratch::default, |scratch, (part, y)| run(scratch, at, part * rows, y));
        });
    }

    /// The rows from `first` on of the matrix of the left that belongs to matrix `at` of the result, and that of the right.
    fn matrices<'d, A, B>(
        &self,
        (a, b): (&'d [A], &'d [B]),
        at: usize,
        first: usize,
    ) -> (Strided<'d, A>, Strided<'d, B>) {
        let (a, b) = (self.a.matrix(a, at, &self.y), self.b.matrix(b, at, &self.y));
        (Strided { data: &a.data[(first * a.row).min(a.data.len())..], ..a }, b)
    }

    /// Multiplies floats, and runs steps on the results.
    fn floats(&self, y: &mut [f32], [a, b]: [&[f32]; 2], kind: FloatProducts, fused: &[Fused<'_>]) {
        if kind == FloatProducts::Reproducible {
            return self.parts_of_floats(y, (a, b), fused, products::factor, canonical);
        }
        if !self.is_large() {
            return self.parts_of_floats(y, (a, b), fused, |v| v, |sum| sum);
        }
        let (m, n, k, rows) = (self.m, self.n, self.k, self.rows_together());
        for (at, y) in y.chunks_exact_mut(rows * n).enumerate() {
            let [i, j] = [&self.a, &self.b].map(|of| position(at, &self.y, of.stack()));
            gemm::matmul(y, &a[i * m * k..][..rows * k], &b[j * k * n..][..k * n], [rows, n, k]);
        }
        apply_to_all(fused, y, n);
    }

    /// Multiplies floats in parts: `factor` of them, and `result` of the sums.
    fn parts_of_floats(
        &self,
        y: &mut [f32],
        factors: (&[f32], &[f32]),
        fused: &[Fused<'_>],
        factor: impl Fn(f32) -> f32 + Sync,
        result: impl Fn(f32) -> f32 + Sync,
    ) {
        let (m, n, k) = (self.m, self.n, self.k);
        self.for_each_part(y, |scratch, at, first, y| {
            let (a, b) = self.matrices(factors, at, first);
            let rows = y.len() / n;
            product(
                scratch,
                y,
                [rows, n, k],
                (
                    a,
                    #[inline(always)]
                    |_, v| factor(v),
                ),
                (
                    b,
                    #[inline(always)]
                    |v| factor(v),
                ),
                #[inline(always)]
                |y, sums| {
                    for (y, &sum) in y.iter_mut().zip(sums) {
                        *y = result(sum);
                    }
                },
            );
            apply(fused, y, (at * m + first) * n, n);
        });
    }

    /// Adds the products of equation 9, `Σ (a − z_a) · (b − z_b)`, to `y`. `a_zero_point` is that of a row of the stack of the left.
    fn integers(
        &self,
        y: &mut [i32],
        [a, b]: [&[i8]; 2],
        a_zero_point: impl Fn(usize) -> i32 + Sync,
        b_zero_point: i32,
    ) {
        self.for_each_part(y, |scratch, at, first, y| {
            let row = position(at, &self.y, self.a.stack()) * self.m + first;
            let (a, b) = self.matrices((a, b), at, first);
            self.add_products(scratch, y, a, b, |at| a_zero_point(row + at), b_zero_point);
        });
    }

    /// Adds the products of some rows. The bound of equation 9 keeps sums inside `i32`. They wrap around if a graph computes zero points
    /// that no int8 range has.
    fn add_products(
        &self,
        scratch: &mut Scratch,
        y: &mut [i32],
        a: Strided<'_, i8>,
        b: Strided<'_, i8>,
        a_zero_point: impl Fn(usize) -> i32,
        b_zero_point: i32,
    ) {
        let (n, k, rows) = (self.n, self.k, y.len() / self.n);
        let is_int8 = |zero_point: i32| i8::try_from(zero_point).is_ok();
        if !is_int8(b_zero_point) || !(0..rows).all(|row| is_int8(a_zero_point(row))) {
            for (at, y) in y.iter_mut().enumerate() {
                let (row, col, z) = (at / n, at % n, a_zero_point(at / n));
                for i in 0..k {
                    let a = i32::from(a.data[row * a.row + i * a.col]).wrapping_sub(z);
                    let b = i32::from(b.data[i * b.row + col * b.col]).wrapping_sub(b_zero_point);
                    *y = y.wrapping_add(a.wrapping_mul(b));
                }
            }
            return;
        }
        for from in (0..k).step_by(EXACT_INTEGERS) {
            product(
                scratch,
                y,
                [rows, n, EXACT_INTEGERS.min(k - from)],
                (
                    Strided { data: &a.data[from * a.col..], ..a },
                    #[inline(always)]
                    |row, v| (i32::from(v) - a_zero_point(row)) as f32,
                ),
                (
                    Strided { data: &b.data[from * b.row..], ..b },
                    #[inline(always)]
                    |v| (i32::from(v) - b_zero_point) as f32,
                ),
                #[inline(always)]
                |y, sums| {
                    for (y, &sum) in y.iter_mut().zip(sums) {
                        *y = y.wrapping_add(sum as i32);
                    }
                },
            );
        }
    }

    /// Computes equation 9d into a buffer `y`: `a` has dynamic qparams for the tensor or for each row, `b` those of the tensor.
    fn dynamic(
        &self,
        mut y: Vec<f32>,
        [a, b]: [&[i8]; 2],
        qparams: [&[f32]; 2],
        relu: bool,
        fused: &[Fused<'_>],
    ) -> Vec<f32> {
        let (b_scale, b_zero_point) = qparams_of_row(qparams[1], 0);
        self.for_each_part(&mut y, |scratch, at, first, y| {
            let row = position(at, &self.y, self.a.stack()) * self.m + first;
            let (a, b) = self.matrices((a, b), at, first);
            let mut acc = vec![0i32; y.len()];
            self.add_products(scratch, &mut acc, a, b, |at| qparams_of_row(qparams[0], row + at).1, b_zero_point);
            for (at, (y, acc)) in y.chunks_exact_mut(self.n).zip(acc.chunks_exact(self.n)).enumerate() {
                let (a_scale, _) = qparams_of_row(qparams[0], row + at);
                for (y, &acc) in y.iter_mut().zip(acc) {
                    *y = numerics::scale_matmul_dynamic(acc, a_scale, b_scale, relu);
                }
            }
            apply(fused, y, (at * self.m + first) * self.n, self.n);
        });
        y
    }
}

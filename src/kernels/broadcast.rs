//! Kernels on two tensors whose shapes broadcast.

use std::borrow::Cow;

use ndarray::{ArrayD, IxDyn, Zip};
use rayon::prelude::*;

use super::TASK;
use super::quantized::qparams_of_row;
use crate::numerics::{self, BinaryOp, vectorized};
use crate::values::Tensor;
use crate::values::slices::{CHECKED, f32s, i8s, integers, tensor};

/// Computes `f(a, b)` of each pair of floats, broadcast. It reuses the buffer of `a` where `a` has the shape of the result.
pub(crate) fn zip_f32_onto(a: Tensor, b: &Tensor, f: impl Fn(f32, f32) -> f32 + Sync + Send) -> Tensor {
    match (a, b) {
        (Tensor::F32(a), Tensor::F32(b)) => Tensor::from(zip(Cow::Owned(a.into_inner()), b, f)),
        _ => unreachable!("{CHECKED}"),
    }
}

/// Computes `op(a, b)` of each pair of floats, broadcast. It reuses the buffer of `a` where `a` has the shape of the result.
pub(crate) fn binary(op: BinaryOp, a: Tensor, b: &Tensor) -> Tensor {
    // Each function has a loop of its own, so that the loop vectorizes.
    match op {
        BinaryOp::Equal => zip_f32_onto(a, b, |a, b| BinaryOp::Equal.eval(a, b)),
        BinaryOp::Less => zip_f32_onto(a, b, |a, b| BinaryOp::Less.eval(a, b)),
        BinaryOp::LessOrEqual => zip_f32_onto(a, b, |a, b| BinaryOp::LessOrEqual.eval(a, b)),
        BinaryOp::Maximum => zip_f32_onto(a, b, numerics::maximum),
        BinaryOp::Minimum => zip_f32_onto(a, b, numerics::minimum),
    }
}

/// Returns the function of `x` and a mask that gives `x` where the mask is not 0 (if `inverted`, where it is 0), and −0 elsewhere.
pub(crate) fn mask(inverted: bool) -> impl Fn(f32, f32) -> f32 + Sync + Send {
    move |x, condition| if (condition != 0.0) != inverted { x } else { -0.0 }
}

/// Computes `f(a, b)` of each pair of quantized values, broadcast.
pub(crate) fn zip_i8(a: &Tensor, b: &Tensor, f: impl Fn(i8, i8) -> i8 + Sync + Send) -> Tensor {
    match (a, b) {
        (Tensor::I8(a), Tensor::I8(b)) => Tensor::from(zip(Cow::Borrowed(&**a), b, f)),
        _ => unreachable!("{CHECKED}"),
    }
}

fn zip<T>(a: Cow<'_, ArrayD<T>>, b: &ArrayD<T>, f: impl Fn(T, T) -> T + Sync + Send) -> ArrayD<T>
where
    T: Copy + Default + Send + Sync,
{
    let shape = broadcast_shape(a.shape(), b.shape());
    if a.shape() == shape {
        let mut y = a.into_owned();
        zip_assign(&mut y, b, f);
        return y;
    }
    if b.shape() == shape {
        let mut y = b.clone();
        zip_assign(&mut y, &a, |b, a| f(a, b));
        return y;
    }
    let mut y = ArrayD::from_elem(IxDyn(&shape), T::default());
    let (a, b) = (a.broadcast(IxDyn(&shape)).expect(CHECKED), b.broadcast(IxDyn(&shape)).expect(CHECKED));
    Zip::from(&mut y).and(&a).and(&b).par_for_each(|y, &a, &b| *y = f(a, b));
    y
}

/// Sets `y` to `f(y, b)`, with `b` broadcast to the shape of `y`.
fn zip_assign<T>(y: &mut ArrayD<T>, b: &ArrayD<T>, f: impl Fn(T, T) -> T + Sync)
where
    T: Copy + Send + Sync,
{
    let shape = y.shape().to_vec();
    let own = |axis: usize| (axis + b.ndim()).checked_sub(shape.len()).map_or(1, |axis| b.shape()[axis]);
    // Finds the last axes along all of which `b` either has the length of `y` or is broadcast: `run` elements, in one loop.
    let (mut runs, mut run, mut axis) = (None, 1, shape.len());
    while axis > 0 {
        let length = shape[axis - 1];
        if length != 1 && *runs.get_or_insert(own(axis - 1) == length) != (own(axis - 1) == length) {
            break;
        }
        run *= length;
        axis -= 1;
    }
    let runs = runs.unwrap_or(true);
    let (leading, own_leading) = (&shape[..axis], &b.shape()[..(axis + b.ndim()).saturating_sub(shape.len())]);
    let (Some(y), Some(b)) = (y.as_slice_mut(), b.as_slice()) else { unreachable!("{CHECKED}") };
    if y.is_empty() {
        return;
    }
    let assign = |y: &mut [T], b: &[T]| {
        vectorized(
            #[inline(always)]
            || match b {
                _ if runs => y.iter_mut().zip(b).for_each(|(y, &b)| *y = f(*y, b)),
                [b, ..] => y.iter_mut().for_each(|y| *y = f(*y, *b)),
                [] => {}
            },
        );
    };
    if leading.iter().product::<usize>() == 1 {
        y.par_chunks_mut(TASK).enumerate().for_each(|(at, y)| assign(y, if runs { &b[at * TASK..] } else { b }));
        return;
    }
    let rows = TASK.div_ceil(run);
    y.par_chunks_mut(rows * run).enumerate().for_each(|(at, y)| {
        for (row, y) in y.chunks_exact_mut(run).enumerate() {
            let row = position(at * rows + row, leading, own_leading);
            assign(y, &b[if runs { row * run } else { row }..]);
        }
    });
}

/// Multiplies `a[…, M, K] · b[…, K, N]`, leading axes broadcast. `y` is a buffer of as many elements as the result.
pub(crate) fn matmul_f32_into(a: &Tensor, b: &Tensor, mut y: Vec<f32>) -> Tensor {
    let stacks = Stacks::new(a, b);
    let (m, n, k) = (stacks.m, stacks.n, stacks.k);
    let shape = stacks.shape();
    let (a, b) = (f32s(a), f32s(b));
    if stacks.b.iter().product::<usize>() == 1 && stacks.a.len() == stacks.y.len() {
        // With one matrix on the right, one product takes all rows of the left.
        crate::numerics::gemm::matmul(&mut y, a, b, [stacks.y.iter().product::<usize>() * m, n, k]);
    } else if m * n > 0 {
        y.par_chunks_exact_mut(m * n).enumerate().for_each(|(at, y)| {
            let (i, j) = stacks.position(at);
            crate::numerics::gemm::matmul(y, &a[i * m * k..][..m * k], &b[j * k * n..][..k * n], [m, n, k]);
        });
    }
    tensor(shape, y)
}

/// Computes equation 9, `Σ (a − z_a) · (b − z_b)`, of `a[…, M, K]` and `b[…, K, N]`, leading axes broadcast.
pub(crate) fn matmul_i8(a: &Tensor, b: &Tensor, a_zero_point: i32, b_zero_point: i32) -> Tensor {
    let stacks = Stacks::new(a, b);
    let shape = stacks.shape();
    let mut y = vec![0i32; shape.iter().product()];
    let (a, b) = (i8s(a), i8s(b));
    if !y.is_empty() {
        y.par_chunks_exact_mut(stacks.n).enumerate().for_each(|(row, y)| {
            let (a, b) = stacks.row(row, a, b).1;
            add_products(y, a, b, [a_zero_point, b_zero_point]);
        });
    }
    integers(&shape, y)
}

/// Computes equation 9d of `a[…, M, K]`, with dynamic qparams for the tensor or for each row, and `b[…, K, N]`, with those of the
/// tensor; leading axes broadcast.
pub(crate) fn matmul_dynamic_i8(a: &Tensor, b: &Tensor, a_qparams: &[f32], b_qparams: &[f32], relu: bool) -> Tensor {
    let stacks = Stacks::new(a, b);
    let shape = stacks.shape();
    let mut y = vec![0f32; shape.iter().product()];
    let (a, b) = (i8s(a), i8s(b));
    let (b_scale, b_zero_point) = qparams_of_row(b_qparams, 0);
    if !y.is_empty() {
        let rows = y.par_chunks_exact_mut(stacks.n).enumerate();
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

/// The broadcast shape by NumPy's rule, of shapes that inference has checked.
pub(super) fn broadcast_shape(a: &[usize], b: &[usize]) -> Vec<usize> {
    let (long, short) = if a.len() >= b.len() { (a, b) } else { (b, a) };
    let skip = long.len() - short.len();
    let pick = |(i, &l): (usize, &usize)| if i >= skip && l == 1 { short[i - skip] } else { l };
    long.iter().enumerate().map(pick).collect()
}

/// Returns the index, in a stack of shape `own`, of the element that broadcasts to element `at` of a stack of shape `stack`.
fn position(mut at: usize, stack: &[usize], own: &[usize]) -> usize {
    let (mut position, mut stride) = (0, 1);
    for (axis, &len) in stack.iter().enumerate().rev() {
        let Some(own_axis) = (axis + own.len()).checked_sub(stack.len()) else { break };
        let index = at % len;
        at /= len;
        position += if own[own_axis] == 1 { 0 } else { index * stride };
        stride *= own[own_axis];
    }
    position
}

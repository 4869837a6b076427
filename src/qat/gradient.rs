//! The gradient of each op: from that of its result to that of one of its inputs.

use ndarray::{ArrayViewD, ArrayViewMutD, Axis, IxDyn};
use rayon::prelude::*;

use crate::numerics::gemm;
use crate::ops::{
    self, Add, BatchNorm, Binary, BinaryOp, Clamp, Concat, Div, Embedding, Input, LayerNorm, Linear, MatMul, Max, Mul,
    MulScalar, Op, Slice, Softmax, Sum, Transpose, Unary, UnaryOp, Where,
};
use crate::values::Tensor;
use crate::values::slices::{f32s, i32s, rows_before_last};

/// Whether an op has a gradient with respect to its float inputs.
pub(super) fn exists(op: &Op) -> bool {
    matches!(
        op,
        Op::Input(Input)
            | Op::Constant(_)
            | Op::Linear(Linear)
            | Op::MatMul(MatMul)
            | Op::Add(Add)
            | Op::Mul(Mul)
            | Op::Div(Div)
            | Op::Where(Where)
            | Op::Binary(_)
            | Op::Clamp(_)
            | Op::Slice(_)
            | Op::Sum(_)
            | Op::AddScalar(_)
            | Op::MulScalar(_)
            | Op::Unary(_)
            | Op::Reshape(_)
            | Op::Flatten(_)
            | Op::Transpose(_)
            | Op::Concat(_)
            | Op::Max(_)
            | Op::Softmax(_)
            | Op::LayerNorm(_)
            | Op::BatchNorm(_)
            | Op::Embedding(Embedding)
            | Op::Observe(_)
    )
}

/// Writes the gradient of input `at` into `dx`, which has the input's length; `dy` is that of the result `y`.
pub(super) fn gradient(op: &Op, at: usize, inputs: &[&Tensor], y: &Tensor, dy: &[f32], dx: &mut [f32]) {
    let x = inputs[at];
    match op {
        Op::Linear(Linear) => {
            let (n, k) = (inputs[1].shape()[0], inputs[1].shape()[1]);
            linear(at, [rows_before_last(y.shape()), n, k], f32s(inputs[0]), f32s(inputs[1]), dy, dx);
        }
        Op::MatMul(MatMul) => matmul(at, inputs, y, dy, dx),
        Op::Add(Add) => sum_to(dy, y.shape(), dx, x.shape()),
        Op::Mul(Mul) => {
            let dy = Tensor::from_f32(y.shape(), dy.to_vec()).expect(LENGTHS);
            let product = ops::zip_f32(&dy, inputs[1 - at], |dy, other| dy * other);
            sum_to(f32s(&product), y.shape(), dx, x.shape());
        }
        Op::Div(Div) => {
            let dy = Tensor::from_f32(y.shape(), dy.to_vec()).expect(LENGTHS);
            let mut quotient = ops::zip_f32(&dy, inputs[1], |dy, b| dy / b);
            if at == 1 {
                // −dy · a / b².
                quotient = ops::zip_f32(&quotient, y, |d, y| -d * y);
            }
            sum_to(f32s(&quotient), y.shape(), dx, x.shape());
        }
        Op::Binary(Binary { op: BinaryOp::Maximum | BinaryOp::Minimum }) => {
            // To the first where it was taken, which it is of equal ones, else to the second.
            let taken = ops::zip_f32(inputs[0], y, |a, y| f32::from(a == y || a.is_nan()));
            let dy = Tensor::from_f32(y.shape(), dy.to_vec()).expect(LENGTHS);
            let taken = ops::zip_f32(&dy, &taken, keep(at == 1));
            sum_to(f32s(&taken), y.shape(), dx, x.shape());
        }
        // What is 0 or 1 has no slope, and a condition has none.
        Op::Binary(_) => dx.fill(0.0),
        Op::Where(Where) if at == 0 => dx.fill(0.0),
        Op::Where(Where) => {
            let dy = Tensor::from_f32(y.shape(), dy.to_vec()).expect(LENGTHS);
            let taken = ops::zip_f32(&dy, inputs[0], keep(at == 2));
            sum_to(f32s(&taken), y.shape(), dx, x.shape());
        }
        Op::Clamp(Clamp { min, max }) => {
            let inside = |x: f32| *min <= x && x <= *max;
            dx.iter_mut().zip(f32s(x)).zip(dy).for_each(|((dx, &x), &dy)| *dx = if inside(x) { dy } else { 0.0 });
        }
        Op::MulScalar(MulScalar { value }) => dx.iter_mut().zip(dy).for_each(|(dx, dy)| *dx = dy * value),
        Op::Unary(Unary { op }) => unary(*op, f32s(x), dy, dx),
        Op::Transpose(Transpose { perm }) => {
            // The result's axes, moved back.
            let mut back = vec![0; perm.len()];
            perm.iter().enumerate().for_each(|(to, &from)| back[from] = to);
            copy(view(dy, y.shape()).permuted_axes(IxDyn(&back)), dx);
        }
        Op::Concat(Concat { axis }) => {
            let before: usize = inputs[..at].iter().map(|input| input.shape()[*axis]).sum();
            let mut part = view(dy, y.shape());
            part.slice_axis_inplace(Axis(*axis), (before..before + x.shape()[*axis]).into());
            copy(part, dx);
        }
        Op::Slice(Slice { axis, start, end }) => {
            dx.fill(0.0);
            let mut whole = ArrayViewMutD::from_shape(IxDyn(x.shape()), dx).expect(LENGTHS);
            whole.slice_axis_inplace(Axis(*axis), (*start..*end).into());
            whole.assign(&view(dy, y.shape()));
        }
        Op::Sum(Sum { axis, .. }) => {
            let lines = Lines::of(x.shape(), *axis);
            for (start, &dy) in lines.starts(x.len()).zip(dy) {
                (0..lines.length).for_each(|i| dx[start + i * lines.inner] = dy);
            }
        }
        Op::Max(Max { axis }) => max(f32s(x), Lines::of(x.shape(), *axis), dy, dx),
        Op::Softmax(Softmax { axis }) => softmax(f32s(y), Lines::of(y.shape(), *axis), dy, dx),
        Op::LayerNorm(LayerNorm { eps }) => layer_norm(at, f32s(inputs[0]), f32s(inputs[1]), *eps, dy, dx),
        Op::BatchNorm(BatchNorm { eps }) => {
            let inner = y.shape()[2..].iter().product();
            let statistics = [1, 2, 3].map(|i| f32s(inputs[i]));
            batch_norm(at, f32s(inputs[0]), inner, statistics, *eps, dy, dx);
        }
        Op::Embedding(Embedding) => {
            let d = x.shape()[1].max(1);
            dx.fill(0.0);
            for (&id, dy) in i32s(inputs[0]).iter().zip(dy.chunks_exact(d)) {
                // The forward pass has refused ids that the table lacks.
                let row = &mut dx[id.max(0) as usize * d..][..d];
                row.iter_mut().zip(dy).for_each(|(dx, dy)| *dx += dy);
            }
        }
        // The same elements.
        _ => dx.copy_from_slice(dy),
    }
}

const LENGTHS: &str = "a gradient has the length of its value";

fn view<'d>(data: &'d [f32], shape: &[usize]) -> ArrayViewD<'d, f32> {
    ArrayViewD::from_shape(IxDyn(shape), data).expect(LENGTHS)
}

fn copy(from: ArrayViewD<'_, f32>, to: &mut [f32]) {
    to.iter_mut().zip(from.iter()).for_each(|(to, from)| *to = *from);
}

/// `dy` where a condition holds, or if `inverted` where it does not, else 0.
fn keep(inverted: bool) -> impl Fn(f32, f32) -> f32 + Sync + Send {
    move |dy, condition| if (condition != 0.0) != inverted { dy } else { 0.0 }
}

/// Sums over the axes along which `own` was broadcast to `shape`.
fn sum_to(dy: &[f32], shape: &[usize], dx: &mut [f32], own: &[usize]) {
    if shape == own {
        return dx.copy_from_slice(dy);
    }
    dx.fill(0.0);
    // Strides of `own` along the axes of `shape`, 0 where it was broadcast.
    let skip = shape.len() - own.len();
    let mut strides = vec![0; shape.len()];
    let mut stride = 1;
    for axis in (0..own.len()).rev() {
        strides[skip + axis] = if own[axis] == 1 { 0 } else { stride };
        stride *= own[axis];
    }
    let mut sums = vec![0f64; dx.len()];
    let mut index = vec![0; shape.len()];
    let mut at = 0;
    for &dy in dy {
        sums[at] += f64::from(dy);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            at += strides[axis];
            if index[axis] < shape[axis] {
                break;
            }
            at -= strides[axis] * shape[axis];
            index[axis] = 0;
        }
    }
    dx.iter_mut().zip(sums).for_each(|(dx, sum)| *dx = sum as f32);
}

/// `dx = dy · w`, `dw = dyᵀ · x`, `db = Σ dy`; `[m, n, k]` are rows, output and input features.
pub(super) fn linear(at: usize, [m, n, k]: [usize; 3], x: &[f32], w: &[f32], dy: &[f32], dx: &mut [f32]) {
    match at {
        0 => gemm::matmul(dx, dy, w, [m, k, n]),
        1 => gemm::matmul_transposed(dx, dy, x, [n, k, m]),
        _ => column_sums(dy, dx),
    }
}

/// The sum of each column, over the rows in order.
pub(super) fn column_sums(rows: &[f32], sums: &mut [f32]) {
    let n = sums.len();
    let mut wide = vec![0f64; n];
    for row in rows.chunks_exact(n.max(1)) {
        wide.iter_mut().zip(row).for_each(|(sum, &v)| *sum += f64::from(v));
    }
    sums.iter_mut().zip(wide).for_each(|(sum, wide)| *sum = wide as f32);
}

fn matmul(at: usize, inputs: &[&Tensor], y: &Tensor, dy: &[f32], dx: &mut [f32]) {
    let turned = |x: &Tensor| {
        let mut perm: Vec<usize> = (0..x.shape().len()).collect();
        let last = perm.len() - 1;
        perm.swap(last - 1, last);
        ops::transposed(x, &perm)
    };
    let dy = Tensor::from_f32(y.shape(), dy.to_vec()).expect(LENGTHS);
    let product = match at {
        0 => ops::matmul_f32(&dy, &turned(inputs[1])),
        _ => ops::matmul_f32(&turned(inputs[0]), &dy),
    };
    sum_to(f32s(&product), product.shape(), dx, inputs[at].shape());
}

fn unary(op: UnaryOp, x: &[f32], dy: &[f32], dx: &mut [f32]) {
    const TASK: usize = 1 << 14;
    dx.par_chunks_mut(TASK).zip(x.par_chunks(TASK)).zip(dy.par_chunks(TASK)).for_each(|((dx, x), dy)| match op {
        UnaryOp::Relu => {
            dx.iter_mut().zip(x).zip(dy).for_each(|((dx, &x), &dy)| *dx = if x > 0.0 { dy } else { 0.0 });
        }
        _ => {
            for ((dx, &x), &dy) in dx.iter_mut().zip(x).zip(dy) {
                *dx = (f64::from(dy) * op.derivative(f64::from(x))) as f32;
            }
        }
    });
}

/// The lines of a tensor along one axis: `outer · inner` of them, of `length` elements that are `inner` apart.
#[derive(Clone, Copy)]
struct Lines {
    length: usize,
    inner: usize,
}

impl Lines {
    fn of(shape: &[usize], axis: usize) -> Self {
        Self { length: shape[axis], inner: shape[axis + 1..].iter().product() }
    }

    /// Where each line begins.
    fn starts(self, elements: usize) -> impl Iterator<Item = usize> {
        let block = self.length * self.inner;
        let blocks = elements.checked_div(block).unwrap_or_default();
        (0..blocks).flat_map(move |outer| (0..self.inner).map(move |i| outer * block + i))
    }
}

/// All of it to the first of the largest.
fn max(x: &[f32], lines: Lines, dy: &[f32], dx: &mut [f32]) {
    dx.fill(0.0);
    for (start, &dy) in lines.starts(x.len()).zip(dy) {
        let at = |i: usize| start + i * lines.inner;
        let first = (1..lines.length).fold(0, |first, i| if x[at(i)] > x[at(first)] { i } else { first });
        dx[at(first)] = dy;
    }
}

/// `dx = y · (dy − Σ y · dy)`.
fn softmax(y: &[f32], lines: Lines, dy: &[f32], dx: &mut [f32]) {
    for start in lines.starts(y.len()) {
        let at = |i: usize| start + i * lines.inner;
        let sum: f64 = (0..lines.length).map(|i| f64::from(y[at(i)]) * f64::from(dy[at(i)])).sum();
        for i in 0..lines.length {
            dx[at(i)] = (f64::from(y[at(i)]) * (f64::from(dy[at(i)]) - sum)) as f32;
        }
    }
}

/// With `x̂ = (x − mean) / std`: `dx = (g − mean(g) − x̂ · mean(g · x̂)) / std` for `g = dy · w`, `dw = Σ dy · x̂`, `db = Σ dy`.
fn layer_norm(at: usize, x: &[f32], w: &[f32], eps: f32, dy: &[f32], dx: &mut [f32]) {
    let n = w.len();
    if at == 2 || n == 0 {
        return column_sums(dy, dx);
    }
    let mut sums = vec![0f64; if at == 1 { n } else { 0 }];
    for (row, (x, dy)) in x.chunks_exact(n).zip(dy.chunks_exact(n)).enumerate() {
        let mean = x.iter().map(|&v| f64::from(v)).sum::<f64>() / n as f64;
        let variance = x.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n as f64;
        let inv_std = 1.0 / (variance + f64::from(eps)).sqrt();
        let normal = |i: usize| (f64::from(x[i]) - mean) * inv_std;
        if at == 1 {
            sums.iter_mut().enumerate().for_each(|(i, sum)| *sum += f64::from(dy[i]) * normal(i));
            continue;
        }
        let g = |i: usize| f64::from(dy[i]) * f64::from(w[i]);
        let mean_g = (0..n).map(g).sum::<f64>() / n as f64;
        let mean_gx = (0..n).map(|i| g(i) * normal(i)).sum::<f64>() / n as f64;
        for (i, dx) in dx[row * n..(row + 1) * n].iter_mut().enumerate() {
            *dx = ((g(i) - mean_g - normal(i) * mean_gx) * inv_std) as f32;
        }
    }
    if at == 1 {
        dx.iter_mut().zip(sums).for_each(|(dx, sum)| *dx = sum as f32);
    }
}

/// With frozen statistics: `dx = dy · γ / std`, `dγ = Σ dy · (x − mean) / std`, `dβ = Σ dy`, over `x` of shape
/// `[…, channels, inner]`. The statistics themselves have no gradient.
fn batch_norm(
    at: usize,
    x: &[f32],
    inner: usize,
    [mean, variance, gamma]: [&[f32]; 3],
    eps: f32,
    dy: &[f32],
    dx: &mut [f32],
) {
    let channels = mean.len();
    let inner = inner.max(1);
    let inv_std: Vec<f64> = variance.iter().map(|&v| 1.0 / (f64::from(v) + f64::from(eps)).sqrt()).collect();
    let runs = || x.chunks_exact(inner).zip(dy.chunks_exact(inner)).enumerate().map(|(run, d)| (run % channels, d));
    let mut sums = vec![0f64; channels];
    match at {
        0 => {
            for (dx, (c, (_, dy))) in dx.chunks_exact_mut(inner).zip(runs()) {
                let factor = f64::from(gamma[c]) * inv_std[c];
                dx.iter_mut().zip(dy).for_each(|(dx, &dy)| *dx = (f64::from(dy) * factor) as f32);
            }
            return;
        }
        3 => {
            for (c, (x, dy)) in runs() {
                let normal = |x: f32| (f64::from(x) - f64::from(mean[c])) * inv_std[c];
                sums[c] += x.iter().zip(dy).map(|(&x, &dy)| f64::from(dy) * normal(x)).sum::<f64>();
            }
        }
        4 => runs().for_each(|(c, (_, dy))| sums[c] += dy.iter().map(|&dy| f64::from(dy)).sum::<f64>()),
        _ => {}
    }
    dx.iter_mut().zip(sums).for_each(|(dx, sum)| *dx = sum as f32);
}

//! Gradients: for each operator, the rule from the gradient of its result to those of its inputs.
//!
//! [`rule`] is the only place that says which operators have a gradient: an operator without a rule is refused before training.

mod conv;
mod elementwise;
mod embedding;
mod linear;
mod matmul;
mod movement;
mod norm;
mod pool;
mod quantize;
mod reduce;
mod unary;

use ndarray::{ArrayViewD, IxDyn};

use crate::ops::Op;
use crate::values::Tensor;

/// The values from which the gradient of one input is computed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Backward<'a> {
    /// The input whose gradient is asked for.
    pub(super) at: usize,
    /// All inputs of the operator.
    pub(super) inputs: &'a [&'a Tensor],
    /// The result.
    pub(super) y: &'a Tensor,
    /// The gradient of the result, of the same length.
    pub(super) dy: &'a [f32],
}

/// Writes the gradient of one input into a slice of the input's length.
pub(super) type Rule<'op> = Box<dyn Fn(&Backward<'_>, &mut [f32]) + 'op>;

/// The gradient of an operator; `None` if gradients cannot pass it.
pub(super) fn rule(op: &Op) -> Option<Rule<'_>> {
    let families: [fn(&Op) -> Option<Rule<'_>>; 11] = [
        linear::rule,
        conv::rule,
        pool::rule,
        matmul::rule,
        elementwise::rule,
        unary::rule,
        reduce::rule,
        norm::rule,
        movement::rule,
        embedding::rule,
        quantize::rule,
    ];
    families.into_iter().find_map(|rule| rule(op))
}

impl Backward<'_> {
    /// The input whose gradient is asked for.
    fn x(&self) -> &Tensor {
        self.inputs[self.at]
    }

    /// The gradient of the result as a tensor.
    fn dy_tensor(&self) -> Tensor {
        Tensor::from_f32(self.y.shape(), self.dy.to_vec()).expect(LENGTHS)
    }

    /// Sums `gradient`, which has the shape of the result, over the axes along which the input was broadcast.
    fn sum_to(&self, gradient: &[f32], dx: &mut [f32]) {
        sum_to(gradient, self.y.shape(), dx, self.x().shape());
    }
}

const LENGTHS: &str = "a gradient has the length of its value";

/// The rule of operators whose result has the elements of the input, in the same order.
fn identity(b: &Backward<'_>, dx: &mut [f32]) {
    dx.copy_from_slice(b.dy);
}

fn view<'d>(data: &'d [f32], shape: &[usize]) -> ArrayViewD<'d, f32> {
    ArrayViewD::from_shape(IxDyn(shape), data).expect(LENGTHS)
}

fn copy(from: ArrayViewD<'_, f32>, to: &mut [f32]) {
    to.iter_mut().zip(from.iter()).for_each(|(to, from)| *to = *from);
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

/// The sum of each column in `f64`, over the rows in order.
fn column_sums(rows: &[f32], sums: &mut [f32]) {
    let n = sums.len();
    let mut exact = vec![0f64; n];
    for row in rows.chunks_exact(n.max(1)) {
        exact.iter_mut().zip(row).for_each(|(sum, &v)| *sum += f64::from(v));
    }
    sums.iter_mut().zip(exact).for_each(|(sum, exact)| *sum = exact as f32);
}

/// The lines of a tensor along one axis: `outer · inner` of them, of `length` elements that are `inner` apart.
#[derive(Clone, Copy)]
struct Lines {
    length: usize,
    inner: usize,
}

impl Lines {
    fn new(shape: &[usize], axis: usize) -> Self {
        Self { length: shape[axis], inner: shape[axis + 1..].iter().product() }
    }

    /// The index of the first element of each line.
    fn starts(self, elements: usize) -> impl Iterator<Item = usize> {
        let block = self.length * self.inner;
        let blocks = elements.checked_div(block).unwrap_or(0);
        (0..blocks).flat_map(move |outer| (0..self.inner).map(move |i| outer * block + i))
    }
}

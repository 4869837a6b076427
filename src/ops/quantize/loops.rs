//! Loops over elements and the qparams of their rows, channels or groups.

use crate::numerics::vectorized;
use crate::parallel::*;
use crate::values::{GroupQParams, QParams, TensorQParams};

/// Returns scale and zero point of a row, from dynamic qparams for the tensor or for each row.
pub(crate) fn qparams_of_row(qparams: &[f32], row: usize) -> (f32, i32) {
    let at = if qparams.len() == 2 { 0 } else { row * 2 };
    (qparams[at], qparams[at + 1] as i32)
}

/// Computes `rule(x, qparams)` of each element and the dynamic qparams of its row.
pub(super) fn each_row<T: Copy + Sync, R: Default + Clone + Send>(
    x: &[T],
    shape: &[usize],
    qparams: &[f32],
    rule: impl Fn(T, (f32, i32)) -> R + Sync,
) -> Vec<R> {
    let cols = shape.last().copied().unwrap_or(1).max(1);
    let mut y = vec![R::default(); x.len()];
    y.par_chunks_mut(cols).zip(x.par_chunks(cols)).enumerate().for_each(|(row, (y, x))| {
        let row_qparams = qparams_of_row(qparams, row);
        y.iter_mut().zip(x).for_each(|(y, &x)| *y = rule(x, row_qparams));
    });
    y
}

/// The smallest number of elements that is worth a parallel task.
const TASK: usize = 1 << 14;

/// The index of the first NaN.
pub(super) fn first_nan(x: &[f32]) -> Option<usize> {
    let any = |block: &[f32]| {
        vectorized(
            #[inline(always)]
            || {
                let mut any = false;
                for v in block {
                    any |= v.is_nan();
                }
                any
            },
        )
    };
    let first = x.par_chunks(TASK).position_first(any)? * TASK;
    x[first..].iter().position(|v| v.is_nan()).map(|at| first + at)
}

/// Computes `rule(x, qparams)` of each element and the qparams of its channel or group.
pub(super) fn each_channel<T: Copy + Sync, R: Default + Clone + Send>(
    x: &[T],
    shape: &[usize],
    qparams: &TensorQParams,
    rule: impl Fn(T, QParams) -> R + Sync,
) -> Vec<R> {
    let mut y = vec![R::default(); x.len()];
    for_each_channel(
        &mut y,
        x,
        shape,
        qparams,
        #[inline(always)]
        |y, x, q| {
            for (y, &x) in y.iter_mut().zip(x) {
                *y = rule(x, q);
            }
        },
    );
    y
}

/// Calls `f` with consecutive elements of `y` and `x` that have the same qparams. It is compiled for the vector instructions of this
/// processor, since training quantizes every weight in every step.
pub(crate) fn for_each_channel<T: Sync, R: Send>(
    y: &mut [R],
    x: &[T],
    shape: &[usize],
    qparams: &TensorQParams,
    f: impl Fn(&mut [R], &[T], QParams) + Sync,
) {
    let (channels, inner) = match qparams {
        TensorQParams::PerTensor(q) => (std::slice::from_ref(q), TASK),
        TensorQParams::PerChannel { channels, ch_axis } => (&channels[..], shape[ch_axis + 1..].iter().product()),
        TensorQParams::PerGroup(groups) => return for_each_group(y, x, shape, groups, f),
    };
    if y.is_empty() {
        return;
    }
    let runs = TASK.div_ceil(inner);
    y.par_chunks_mut(runs * inner).zip(x.par_chunks(runs * inner)).enumerate().for_each(|(at, (y, x))| {
        vectorized(
            #[inline(always)]
            || {
                for (run, (y, x)) in y.chunks_mut(inner).zip(x.chunks(inner)).enumerate() {
                    f(y, x, channels[(at * runs + run) % channels.len()]);
                }
            },
        );
    });
}

/// Calls `f` with the elements of `y` and `x` of each group, whose last in a row may be shorter.
fn for_each_group<T: Sync, R: Send>(
    y: &mut [R],
    x: &[T],
    shape: &[usize],
    groups: &GroupQParams,
    f: impl Fn(&mut [R], &[T], QParams) + Sync,
) {
    let k = shape.last().copied().unwrap_or(1).max(1);
    let of_row = groups.groups().par_chunks_exact(groups.groups_per_row());
    y.par_chunks_exact_mut(k).zip(x.par_chunks_exact(k)).zip(of_row).for_each(|((y, x), of_row)| {
        vectorized(
            #[inline(always)]
            || {
                for ((y, x), &q) in y.chunks_mut(groups.size()).zip(x.chunks(groups.size())).zip(of_row) {
                    f(y, x, q);
                }
            },
        );
    });
}

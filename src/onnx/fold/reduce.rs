//! Reductions of known tensors. The sum of floats over all axes is computed in `f64` and rounded once.

use super::{Fold, Folded, one};
use crate::onnx::host::{Data, Host, Walk, axis, strides};
use crate::onnx::integers::wrap;

/// The reductions of ONNX, each as a name after `Reduce`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::onnx) enum Reduction {
    L1,
    L2,
    LogSum,
    Max,
    Mean,
    Min,
    Prod,
    Sum,
    SumSquare,
}

/// For each axis, whether a reduction reduces it.
pub(in crate::onnx) fn reduced_axes(axes: Option<&[i64]>, rank: usize, noop: bool) -> Result<Vec<bool>, String> {
    let mut reduced = vec![false; rank];
    match axes {
        Some(axes) if !axes.is_empty() => {
            for &a in axes {
                reduced[axis(a, rank)?] = true;
            }
        }
        _ if noop => {}
        _ => reduced.fill(true),
    }
    Ok(reduced)
}

impl Fold<'_> {
    pub(in crate::onnx) fn reduce(&mut self, reduction: Reduction) -> Folded {
        let node = self.node;
        let (start, step): (f64, fn(f64, f64) -> f64) = match reduction {
            Reduction::Sum | Reduction::Mean | Reduction::LogSum => (0.0, |a, v| a + v),
            Reduction::Prod => (1.0, |a, v| a * v),
            // Unlike those of the standard library, these keep NaN.
            Reduction::Max => (f64::NEG_INFINITY, |a, v| if v > a || v.is_nan() { v } else { a }),
            Reduction::Min => (f64::INFINITY, |a, v| if v < a || v.is_nan() { v } else { a }),
            Reduction::L1 => (0.0, |a, v| a + v.abs()),
            Reduction::L2 | Reduction::SumSquare => (0.0, |a, v| a + v * v),
        };
        let x = self.input(0)?;
        x.fixed()?;
        let noop = node.int("noop_with_empty_axes", 0)? != 0;
        let reduced = reduced_axes(self.list("axes", 1)?.as_deref(), x.dims.len(), noop)?;
        let keep = node.int("keepdims", 1)? != 0;
        // The view has the kept axes first and the reduced axes last.
        let own = strides(&x.dims);
        let mut order: Vec<usize> = (0..x.dims.len()).collect();
        order.sort_by_key(|&axis| reduced[axis]);
        let view: Vec<usize> = order.iter().map(|&axis| x.dims[axis]).collect();
        let walk = Walk::new(&view, order.iter().map(|&axis| own[axis]).collect(), 0);
        let count: usize = (0..x.dims.len()).filter(|&axis| reduced[axis]).map(|axis| x.dims[axis]).product();
        let kept = |axis: &usize| keep || !reduced[*axis];
        let dims: Vec<usize> =
            (0..x.dims.len()).filter(kept).map(|axis| if reduced[axis] { 1 } else { x.dims[axis] }).collect();
        let outer: usize = dims.iter().product();
        if count == 0 {
            return Err("it reduces no elements".to_owned());
        }
        self.budget.take(outer, x.data.size())?;
        let finish = |sum: f64| match reduction {
            Reduction::Mean => sum / count as f64,
            Reduction::L2 => sum.sqrt(),
            Reduction::LogSum => sum.ln(),
            _ => sum,
        };
        let mut places = walk;
        let data = match &x.data {
            Data::F32(v) => {
                let mut one = || {
                    let steps = (0..count).filter_map(|_| places.next());
                    finish(steps.fold(start, |sum, place| step(sum, v[place].into()))) as f32
                };
                Data::F32((0..outer).map(|_| one()).collect())
            }
            Data::I64(v) => {
                let mut one = || {
                    let values: Vec<i128> = (0..count).filter_map(|_| places.next()).map(|i| v[i].into()).collect();
                    wrap(integer(reduction, &values, x.data_type)?, x.data_type)
                };
                Data::I64((0..outer).map(|_| one()).collect::<Result<_, _>>()?)
            }
            _ => return Err("it reduces neither floats nor integers".to_owned()),
        };
        one(Host::new(dims, data).typed(x.data_type))
    }

    pub(in crate::onnx) fn cumulative_sum(&mut self) -> Folded {
        let (x, at) = (self.input(0)?, self.input(1)?);
        x.fixed()?;
        let at = at.integers()?.first().copied().ok_or("its axis is empty")?;
        let at = axis(at, x.dims.len())?;
        let exclusive = self.node.int("exclusive", 0)? != 0;
        let reverse = self.node.int("reverse", 0)? != 0;
        self.budget.take(x.data.len(), x.data.size())?;
        let (inner, length) = (x.dims[at + 1..].iter().product(), x.dims[at]);
        let mut result = (*x).clone();
        match &mut result.data {
            Data::F32(v) => sum_lines(v, inner, length, [exclusive, reverse], 0.0, |a, b| Ok(a + b))?,
            Data::I64(v) => sum_lines(v, inner, length, [exclusive, reverse], 0, |a, b| {
                wrap(i128::from(a) + i128::from(b), x.data_type)
            })?,
            _ => return Err("it sums neither floats nor integers".to_owned()),
        }
        one(result)
    }
}

/// Replaces each element of an axis by the sum of those up to it, without itself if `exclusive`, from the last one if `reverse`.
fn sum_lines<T: Copy>(
    values: &mut [T],
    inner: usize,
    length: usize,
    [exclusive, reverse]: [bool; 2],
    zero: T,
    add: impl Fn(T, T) -> Result<T, String>,
) -> Result<(), String> {
    for block in values.chunks_mut((inner * length).max(1)) {
        for line in 0..inner {
            let mut sum = zero;
            for step in 0..length {
                let place = line + inner * if reverse { length - 1 - step } else { step };
                let before = sum;
                sum = if step == 0 { block[place] } else { add(sum, block[place])? };
                block[place] = if exclusive { before } else { sum };
            }
        }
    }
    Ok(())
}

/// A reduction of integers, exact as far as 128 bits reach.
fn integer(reduction: Reduction, values: &[i128], data_type: i32) -> Result<i128, String> {
    let too_large = || "an integer overflows".to_owned();
    let sum = |f: fn(i128) -> Option<i128>| {
        values.iter().try_fold(0i128, |sum, &v| sum.checked_add(f(v)?)).ok_or_else(too_large)
    };
    match reduction {
        Reduction::Sum => sum(Some),
        // The sum wraps around in its type before it is divided.
        Reduction::Mean => Ok(i128::from(wrap(sum(Some)?, data_type)?) / values.len() as i128),
        Reduction::LogSum => Err("it is not supported for integers".to_owned()),
        Reduction::L1 => sum(|v| v.checked_abs()),
        Reduction::L2 => sum(|v| v.checked_mul(v)).map(i128::isqrt),
        Reduction::SumSquare => sum(|v| v.checked_mul(v)),
        Reduction::Max => Ok(values.iter().copied().fold(i128::MIN, i128::max)),
        Reduction::Min => Ok(values.iter().copied().fold(i128::MAX, i128::min)),
        // Each product wraps around in its type, which gives the low bits of the exact product.
        Reduction::Prod => values.iter().try_fold(1i128, |product, &v| {
            wrap(product.checked_mul(v).ok_or_else(too_large)?, data_type).map(i128::from)
        }),
    }
}

//! Reductions of known tensors.

use super::Fold;
use crate::onnx::host::{Data, Host, Walk, axis, strides};
use crate::onnx::integers;

/// Which axes a reduction drops.
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
    pub(super) fn reduce(&mut self) -> Result<Option<Host>, String> {
        let node = self.node;
        let Some(kind) = node.op_type.strip_prefix("Reduce") else { return Ok(None) };
        let (start, step): (f64, fn(f64, f64) -> f64) = match kind {
            "Sum" | "Mean" => (0.0, |a, v| a + v),
            "Prod" => (1.0, |a, v| a * v),
            // Unlike those of the standard library, they keep NaN.
            "Max" => (f64::NEG_INFINITY, |a, v| if v > a || v.is_nan() { v } else { a }),
            "Min" => (f64::INFINITY, |a, v| if v < a || v.is_nan() { v } else { a }),
            "L1" => (0.0, |a, v| a + v.abs()),
            "L2" | "SumSquare" => (0.0, |a, v| a + v * v),
            _ => return Ok(None),
        };
        let x = self.input(0)?;
        x.fixed()?;
        let noop = node.int("noop_with_empty_axes", 0)? != 0;
        let reduced = reduced_axes(self.list("axes", 1)?.as_deref(), x.dims.len(), noop)?;
        let keep = node.int("keepdims", 1)? != 0;
        // The kept axes first, then the reduced ones.
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
        let finish = |sum: f64| match kind {
            "Mean" => sum / count as f64,
            "L2" => sum.sqrt(),
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
                    integers::wrap(integer(kind, &values, x.data_type)?, x.data_type)
                };
                Data::I64((0..outer).map(|_| one()).collect::<Result<_, _>>()?)
            }
            _ => return Err("it reduces neither floats nor integers".to_owned()),
        };
        Ok(Some(Host::new(dims, data).typed(x.data_type)))
    }
}

/// Exactly, as far as 128 bits reach.
fn integer(kind: &str, values: &[i128], data_type: i32) -> Result<i128, String> {
    let too_large = || "an integer overflows".to_owned();
    let sum = |f: fn(i128) -> Option<i128>| {
        values.iter().try_fold(0i128, |sum, &v| sum.checked_add(f(v)?)).ok_or_else(too_large)
    };
    match kind {
        "Sum" => sum(Some),
        // As the sum of the type, which may have wrapped around.
        "Mean" => Ok(i128::from(integers::wrap(sum(Some)?, data_type)?) / values.len() as i128),
        "L1" => sum(|v| v.checked_abs()),
        "L2" => sum(|v| v.checked_mul(v)).map(i128::isqrt),
        "SumSquare" => sum(|v| v.checked_mul(v)),
        "Max" => Ok(values.iter().copied().fold(i128::MIN, i128::max)),
        "Min" => Ok(values.iter().copied().fold(i128::MAX, i128::min)),
        // Cut to the type in between, which gives what cutting at the end gives.
        _ => values.iter().try_fold(1i128, |product, &v| {
            integers::wrap(product.checked_mul(v).ok_or_else(too_large)?, data_type).map(i128::from)
        }),
    }
}

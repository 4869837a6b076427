//! The axes of values on the device, and how kernels over any strides walk through them.

use super::layout::row_words;
use crate::gpu::device::error::GpuError;
use crate::gpu::device::shader::wgsl_struct;
use crate::program::{Program, Step, Value, ValueType};

/// Axes before the last that kernels decode, after those that allow it are merged.
pub(crate) const MAX_AXES: usize = 5;

wgsl_struct! {
    /// `Strided` of `shared/strided.wgsl`.
    Strided {
        axes: [[u32; 4]; MAX_AXES], rank: u32, rows_factor: u32, cols: u32, row_threads: u32, a_col: u32, b_col: u32,
        a_offset: u32, y_offset: u32,
    }
}

/// One axis: its length, unknown for `rows`, and its stride in elements or, for int8 values, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Axis {
    pub(crate) length: Option<usize>,
    pub(crate) stride: usize,
}

/// The axes of a value as it lies on the device; there is always a last one, of static length.
pub(crate) fn axes(value: &Value) -> Vec<Axis> {
    let batch = value.shape.is_batched().then_some(None);
    let mut lengths: Vec<Option<usize>> =
        batch.into_iter().chain(value.shape.fixed_dims().iter().map(|&length| Some(length))).collect();
    if value.shape.last().is_none() {
        lengths.push(Some(1));
    }
    let mut stride = 1;
    let mut axes: Vec<Axis> = Vec::with_capacity(lengths.len());
    for (at, &length) in lengths.iter().enumerate().rev() {
        axes.push(Axis { length, stride });
        stride *= length.unwrap_or(1);
        if at + 1 == lengths.len() && value.value_type == ValueType::I8 {
            stride = row_words(value.cols()) * 4;
        }
    }
    axes.reverse();
    axes
}

/// The axes of a value in another order.
pub(crate) fn transposed(value: &Value, perm: &[usize]) -> Vec<Axis> {
    let own = axes(value);
    perm.iter().map(|&axis| own[axis]).collect()
}

/// The strides of axes.
pub(crate) fn strides(axes: &[Axis]) -> Vec<usize> {
    axes.iter().map(|axis| axis.stride).collect()
}

/// The stride of an operand along each axis of a result to which it is broadcast.
pub(crate) fn broadcast(operand: &Value, result: &[Axis]) -> Vec<usize> {
    aligned(&axes(operand), result)
}

/// The strides of axes that are aligned with the last of `result`; 0 where they do not have the same length.
pub(crate) fn aligned(own: &[Axis], result: &[Axis]) -> Vec<usize> {
    let skip = result.len().saturating_sub(own.len());
    let stride = |(at, axis): (usize, &Axis)| match at.checked_sub(skip).map(|at| own[at]) {
        Some(own) if own.length == axis.length => own.stride,
        _ => 0,
    };
    result.iter().enumerate().map(stride).collect()
}

impl Strided {
    /// The rows of a value, without strides.
    pub(crate) fn rows(value: &Value, row_threads: usize) -> Self {
        let (rows_factor, cols) = (value.rows_factor() as u32, value.cols() as u32);
        Self { rows_factor, cols, row_threads: row_threads as u32, ..Self::default() }
    }

    /// A kernel on each element or word of `y`, with the strides of its operands along the axes of `y`.
    ///
    /// # Errors
    /// Returns [`GpuError::Limit`] if the operands walk through too many axes in different orders.
    pub(crate) fn elementwise(name: &str, y: &Value, a: &[usize], b: &[usize]) -> Result<Self, GpuError> {
        let result = axes(y);
        let last = result.len() - 1;
        let threads = if y.value_type == ValueType::I8 { y.cols().div_ceil(4) } else { y.cols() };
        let mut strided = Self::rows(y, threads);
        (strided.a_col, strided.b_col) = (a[last] as u32, b[last] as u32);
        strided.set_axes(name, &result[..last], [&a[..last], &b[..last], &strides(&result[..last])])?;
        Ok(strided)
    }

    /// A kernel on each element or word of `y` with one operand.
    ///
    /// # Errors
    /// Returns the same errors as [`Strided::elementwise`].
    pub(crate) fn unary(step: &Step, y: &Value, a: &[usize]) -> Result<Self, GpuError> {
        Self::elementwise(&step.name, y, a, &vec![0; a.len()])
    }

    /// Fills in the axes before the last, and merges those that all operands walk through as one. The strides are those of a, b
    /// and y.
    ///
    /// # Errors
    /// Returns [`GpuError::Limit`] if there are too many.
    pub(crate) fn set_axes(&mut self, name: &str, axes: &[Axis], strides: [&[usize]; 3]) -> Result<(), GpuError> {
        let mut merged: Vec<(Option<usize>, [usize; 3])> = Vec::new();
        for (at, axis) in axes.iter().enumerate() {
            let own = strides.map(|strides| strides[at]);
            match (merged.last_mut(), axis.length) {
                (Some(_), Some(1)) => {}
                (Some((outer, outer_strides)), Some(length)) if (0..3).all(|i| outer_strides[i] == own[i] * length) => {
                    *outer = outer.map(|outer| outer * length);
                    *outer_strides = own;
                }
                _ => merged.push((axis.length, own)),
            }
        }
        if merged.len() > MAX_AXES {
            let (what, actual, limit) = ("axes before the last", merged.len() as u64, MAX_AXES as u64);
            return Err(GpuError::Limit { name: name.to_owned(), what, actual, limit });
        }
        self.rank = merged.len() as u32;
        for (slot, (length, [a, b, y])) in self.axes.iter_mut().zip(merged) {
            *slot = [length.unwrap_or(0) as u32, a as u32, b as u32, y as u32];
        }
        Ok(())
    }
}

/// Operands that have the layout of the result, so that a kernel can compute vectors of four words.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Contiguous {
    pub(crate) strided: Strided,
    /// Vectors of the second operand before it repeats.
    pub(crate) b_vecs: u32,
}

impl Contiguous {
    /// `None` unless the operands of a step have the layout of its result. The second may repeat: trailing axes lie at the end of
    /// memory.
    pub(crate) fn of(program: &Program, step: &Step) -> Option<Self> {
        let y = program.value(step.output);
        let vector = if y.value_type == ValueType::I8 { 16 } else { 4 };
        let whole = y.value_type == ValueType::I8 || y.cols().is_multiple_of(4);
        let a = program.value(step.inputs[0]);
        if a.shape != y.shape || !whole {
            return None;
        }
        let vectors = |value: &Value| (value.rows_factor() * value.cols().div_ceil(vector)) as u32;
        let b_vecs = match step.inputs.get(1).map(|&b| program.value(b)) {
            None => 1,
            Some(b) if b.shape == y.shape => u32::MAX,
            Some(b) => {
                let repeats = !b.shape.is_batched()
                    && b.shape.last().is_some()
                    && y.shape.fixed_dims().ends_with(&b.shape.fixed_dims());
                repeats.then(|| vectors(b))?
            }
        };
        Some(Self { strided: Strided::rows(y, y.cols().div_ceil(vector)), b_vecs })
    }
}

//! Host tensors: what enters and leaves a graph on the CPU.

use std::fmt;

use ndarray::{Array, ArrayD, Dimension, IxDyn};

/// The element type of a [`Tensor`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32-bit float.
    F32,
    /// int8 code.
    I8,
    /// 32-bit integer: accumulators, biases, ids.
    I32,
    /// 64-bit integer.
    I64,
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::I8 => "i8",
            Self::I32 => "i32",
            Self::I64 => "i64",
        })
    }
}

mod contents;
mod row_major;

pub(crate) use contents::Contents;
pub use row_major::RowMajor;

/// A dense host tensor of one of four element types, row-major. Any array becomes one by [`From`].
#[derive(Debug, Clone, PartialEq)]
pub enum Tensor {
    /// Floats.
    F32(RowMajor<f32>),
    /// int8 codes.
    I8(RowMajor<i8>),
    /// 32-bit integers.
    I32(RowMajor<i32>),
    /// 64-bit integers.
    I64(RowMajor<i64>),
}

/// A vector of the wrong length for its shape.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{actual} elements for shape {shape:?}, which holds {expected}")]
pub struct TensorError {
    /// The shape asked for.
    pub shape: Vec<usize>,
    /// Elements given.
    pub actual: usize,
    /// Elements that the shape holds; `usize::MAX` if it overflows.
    pub expected: usize,
}

impl Tensor {
    /// A float tensor from row-major data.
    ///
    /// # Errors
    /// [`TensorError`] unless `data` has as many elements as `shape`.
    pub fn from_f32(shape: &[usize], data: Vec<f32>) -> Result<Self, TensorError> {
        array(shape, data).map(Self::F32)
    }

    /// An int8 tensor from row-major data.
    ///
    /// # Errors
    /// [`TensorError`] unless `data` has as many elements as `shape`.
    pub fn from_i8(shape: &[usize], data: Vec<i8>) -> Result<Self, TensorError> {
        array(shape, data).map(Self::I8)
    }

    /// An `i32` tensor from row-major data.
    ///
    /// # Errors
    /// [`TensorError`] unless `data` has as many elements as `shape`.
    pub fn from_i32(shape: &[usize], data: Vec<i32>) -> Result<Self, TensorError> {
        array(shape, data).map(Self::I32)
    }

    /// An `i64` tensor from row-major data.
    ///
    /// # Errors
    /// [`TensorError`] unless `data` has as many elements as `shape`.
    pub fn from_i64(shape: &[usize], data: Vec<i64>) -> Result<Self, TensorError> {
        array(shape, data).map(Self::I64)
    }

    /// The lengths of all axes.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        match self {
            Self::F32(a) => a.shape(),
            Self::I8(a) => a.shape(),
            Self::I32(a) => a.shape(),
            Self::I64(a) => a.shape(),
        }
    }

    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shape().iter().product()
    }

    /// Whether it has no elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Element type.
    #[must_use]
    pub fn dtype(&self) -> DType {
        match self {
            Self::F32(_) => DType::F32,
            Self::I8(_) => DType::I8,
            Self::I32(_) => DType::I32,
            Self::I64(_) => DType::I64,
        }
    }

    /// The elements in row-major order, if they are floats.
    #[must_use]
    pub fn as_f32(&self) -> Option<&[f32]> {
        match self {
            Self::F32(a) => Some(a.elements()),
            _ => None,
        }
    }

    /// The elements in row-major order, if they are int8.
    #[must_use]
    pub fn as_i8(&self) -> Option<&[i8]> {
        match self {
            Self::I8(a) => Some(a.elements()),
            _ => None,
        }
    }

    /// The elements in row-major order, if they are `i32`.
    #[must_use]
    pub fn as_i32(&self) -> Option<&[i32]> {
        match self {
            Self::I32(a) => Some(a.elements()),
            _ => None,
        }
    }

    /// The elements in row-major order, as they are in memory.
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::F32(a) => bytemuck::cast_slice(a.elements()),
            Self::I8(a) => bytemuck::cast_slice(a.elements()),
            Self::I32(a) => bytemuck::cast_slice(a.elements()),
            Self::I64(a) => bytemuck::cast_slice(a.elements()),
        }
    }

    /// The first element that is NaN or infinite, with its row-major index; `None` for integers.
    #[must_use]
    pub fn first_non_finite(&self) -> Option<(usize, f32)> {
        let values = self.as_f32()?;
        // Blocks first: the sum of absolute values is finite only if all are, and it vectorises.
        const BLOCK: usize = 1024;
        values.chunks(BLOCK).enumerate().find_map(|(block, chunk)| {
            if chunk.iter().fold(true, |all, v| all & v.is_finite()) {
                return None;
            }
            let at = chunk.iter().position(|v| !v.is_finite())?;
            Some((block * BLOCK + at, chunk[at]))
        })
    }
}

fn array<T: Clone>(shape: &[usize], data: Vec<T>) -> Result<RowMajor<T>, TensorError> {
    let expected = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).unwrap_or(usize::MAX);
    let actual = data.len();
    let array = ArrayD::from_shape_vec(IxDyn(shape), data);
    array.map(RowMajor::from).map_err(|_| TensorError { shape: shape.to_vec(), actual, expected })
}

macro_rules! from_array {
    ($t:ty, $variant:ident) => {
        impl<D: Dimension> From<Array<$t, D>> for Tensor {
            fn from(a: Array<$t, D>) -> Self {
                Self::$variant(a.into())
            }
        }
    };
}
from_array!(f32, F32);
from_array!(i8, I8);
from_array!(i32, I32);
from_array!(i64, I64);

/// More elements than any memory holds: with at most so many, sizes in bytes do not overflow.
pub(crate) const MAX_ELEMENTS: usize = isize::MAX as usize / 16;

/// The shape of a value in a graph: static, except that a leading batch dimension `rows` may be left to run time.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Shape {
    batched: bool,
    dims: Vec<usize>,
}

impl Shape {
    /// `[rows, cols]`.
    #[must_use]
    pub fn rows(cols: usize) -> Self {
        Self::batched(&[cols])
    }

    /// `[rows, dims…]`.
    #[must_use]
    pub fn batched(dims: &[usize]) -> Self {
        Self { batched: true, dims: dims.to_vec() }
    }

    /// `[dims…]`, all static.
    #[must_use]
    pub fn fixed(dims: &[usize]) -> Self {
        Self { batched: false, dims: dims.to_vec() }
    }

    /// Whether the leading dimension is `rows`.
    #[must_use]
    pub fn is_batched(&self) -> bool {
        self.batched
    }

    /// Number of axes, `rows` included.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.dims.len() + usize::from(self.batched)
    }

    /// The static dimensions: all of them, or all after `rows`.
    #[must_use]
    pub fn dims(&self) -> &[usize] {
        &self.dims
    }

    /// The length of an axis; `None` for `rows` and beyond the last.
    #[must_use]
    pub fn axis(&self, axis: usize) -> Option<usize> {
        self.dims.get(axis.checked_sub(usize::from(self.batched))?).copied()
    }

    /// The length of the last axis; `None` if that is `rows`, or for a scalar.
    #[must_use]
    pub fn last(&self) -> Option<usize> {
        self.dims.last().copied()
    }

    /// Elements of one batch row, or of all if there is no batch; `None` if no memory can hold so many, whichever axes have length 0.
    #[must_use]
    pub fn elements(&self) -> Option<usize> {
        let most = self.dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d.max(1)))?;
        (most <= MAX_ELEMENTS).then(|| if self.dims.contains(&0) { 0 } else { most })
    }

    /// Whether memory could hold a batch of `rows`.
    pub(crate) fn fits(&self, rows: usize) -> bool {
        let rows = if self.batched { rows } else { 1 };
        let elements = |shape: &Self| shape.elements().and_then(|n| n.checked_mul(rows));
        elements(self).is_some_and(|n| n <= MAX_ELEMENTS)
    }

    /// All axis lengths at a batch of `rows`.
    #[must_use]
    pub fn with_rows(&self, rows: usize) -> Vec<usize> {
        let lead = self.batched.then_some(rows);
        lead.into_iter().chain(self.dims.iter().copied()).collect()
    }

    /// Whether a host tensor of shape `actual` may stand for this one, at some batch.
    #[must_use]
    pub fn admits(&self, actual: &[usize]) -> bool {
        actual.len() == self.rank() && actual[usize::from(self.batched)..] == self.dims
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lead = self.batched.then(|| "rows".to_owned());
        let all: Vec<String> = lead.into_iter().chain(self.dims.iter().map(ToString::to_string)).collect();
        write!(f, "[{}]", all.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn transposed_arrays_become_row_major() {
        let a = array![[1f32, 2.0], [3.0, 4.0]];
        let t = Tensor::from(a.reversed_axes());
        assert_eq!(t.as_f32(), Some([1.0, 3.0, 2.0, 4.0].as_slice()));
    }

    #[test]
    fn lengths_are_checked() {
        let e = Tensor::from_f32(&[2, 3], vec![0.0; 5]).expect_err("five for six");
        assert_eq!((e.actual, e.expected), (5, 6));
        assert_eq!(Tensor::from_i8(&[usize::MAX, 2], vec![]).expect_err("overflow").expected, usize::MAX);
    }

    #[test]
    fn non_finite_values_are_located() {
        let mut data = vec![0f32; 3000];
        data[2500] = f32::NEG_INFINITY;
        let t = Tensor::from_f32(&[3000], data).expect("length fits");
        assert_eq!(t.first_non_finite(), Some((2500, f32::NEG_INFINITY)));
    }

    #[test]
    fn shapes_admit_any_batch() {
        let s = Shape::batched(&[3, 4]);
        assert!(s.admits(&[7, 3, 4]) && !s.admits(&[3, 4]) && !s.admits(&[7, 4, 3]));
        assert_eq!((s.axis(0), s.axis(2), s.to_string()), (None, Some(4), "[rows, 3, 4]".to_owned()));
    }
}

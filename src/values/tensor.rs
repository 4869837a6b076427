//! Host tensors: what enters and leaves a graph on the CPU.

use ndarray::{Array, Dimension};

use super::{DType, RowMajor};

/// A dense host tensor of one of four element types, row-major. Any array becomes one by [`From`].
#[derive(Debug, Clone, PartialEq)]
pub enum Tensor {
    /// Floats.
    F32(RowMajor<f32>),
    /// Quantized values, or other 8-bit integers.
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
    /// Creates a float tensor from row-major data.
    ///
    /// # Errors
    /// Returns [`TensorError`] unless `data` has as many elements as `shape`.
    pub fn from_f32(shape: &[usize], data: Vec<f32>) -> Result<Self, TensorError> {
        array(shape, data).map(Self::F32)
    }

    /// Creates an int8 tensor from row-major data.
    ///
    /// # Errors
    /// Returns [`TensorError`] unless `data` has as many elements as `shape`.
    pub fn from_i8(shape: &[usize], data: Vec<i8>) -> Result<Self, TensorError> {
        array(shape, data).map(Self::I8)
    }

    /// Creates an `i32` tensor from row-major data.
    ///
    /// # Errors
    /// Returns [`TensorError`] unless `data` has as many elements as `shape`.
    pub fn from_i32(shape: &[usize], data: Vec<i32>) -> Result<Self, TensorError> {
        array(shape, data).map(Self::I32)
    }

    /// Creates an `i64` tensor from row-major data.
    ///
    /// # Errors
    /// Returns [`TensorError`] unless `data` has as many elements as `shape`.
    pub fn from_i64(shape: &[usize], data: Vec<i64>) -> Result<Self, TensorError> {
        array(shape, data).map(Self::I64)
    }

    /// Returns the lengths of all axes.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        match self {
            Self::F32(a) => a.shape(),
            Self::I8(a) => a.shape(),
            Self::I32(a) => a.shape(),
            Self::I64(a) => a.shape(),
        }
    }

    /// Returns the number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shape().iter().product()
    }

    /// Whether it has no elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the element type.
    #[must_use]
    pub fn dtype(&self) -> DType {
        match self {
            Self::F32(_) => DType::F32,
            Self::I8(_) => DType::I8,
            Self::I32(_) => DType::I32,
            Self::I64(_) => DType::I64,
        }
    }

    /// Returns the elements in row-major order, if they are floats.
    #[must_use]
    pub fn as_f32(&self) -> Option<&[f32]> {
        match self {
            Self::F32(a) => Some(a.elements()),
            _ => None,
        }
    }

    /// Returns the elements in row-major order, if they are int8.
    #[must_use]
    pub fn as_i8(&self) -> Option<&[i8]> {
        match self {
            Self::I8(a) => Some(a.elements()),
            _ => None,
        }
    }

    /// Returns the elements in row-major order, if they are `i32`.
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

    /// Returns the first element that is NaN or infinite, with its row-major index; `None` for integers.
    #[must_use]
    pub fn first_non_finite(&self) -> Option<(usize, f32)> {
        let values = self.as_f32()?;
        // Whole blocks are tested first, which vectorises.
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

fn array<T>(shape: &[usize], data: Vec<T>) -> Result<RowMajor<T>, TensorError> {
    let actual = data.len();
    RowMajor::new(shape, data).ok_or_else(|| {
        let expected = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).unwrap_or(usize::MAX);
        TensorError { shape: shape.to_vec(), actual, expected }
    })
}

macro_rules! from_array {
    ($t:ty, $variant:ident) => {
        impl<D: Dimension> From<Array<$t, D>> for Tensor {
            fn from(a: Array<$t, D>) -> Self {
                Self::$variant(a.into())
            }
        }

        impl From<RowMajor<$t>> for Tensor {
            fn from(a: RowMajor<$t>) -> Self {
                Self::$variant(a)
            }
        }
    };
}
from_array!(f32, F32);
from_array!(i8, I8);
from_array!(i32, I32);
from_array!(i64, I64);

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
}

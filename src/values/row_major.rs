//! Arrays whose elements lie in row-major order.

use std::fmt;
use std::ops::{Index, IndexMut};

use ndarray::{Array, ArrayD, ArrayViewD, Dimension, IxDyn};

/// An array whose elements lie in row-major order, without gaps: what kernels, files and devices read as a slice.
///
/// Arrays of `ndarray` are converted with [`From`], in both directions; nothing else of that crate is visible here.
///
/// ```
/// use enfold::Tensor;
/// use enfold::values::RowMajor;
///
/// let transposed = ndarray::array![[1f32, 2.0], [3.0, 4.0]].reversed_axes();
/// let a = RowMajor::from(transposed);
/// assert_eq!(a.elements(), [1.0, 3.0, 2.0, 4.0]);
/// assert_eq!(a[[1, 0]], 2.0);
/// assert_eq!(Tensor::F32(a.clone()).shape(), a.shape());
/// ```
#[derive(Clone, PartialEq)]
pub struct RowMajor<T>(ArrayD<T>);

const ROW_MAJOR: &str = "made in row-major order, and never changed but for its elements";

impl<T> RowMajor<T> {
    /// Returns the elements in row-major order.
    #[must_use]
    pub fn elements(&self) -> &[T] {
        self.0.as_slice().expect(ROW_MAJOR)
    }

    /// Returns the elements in row-major order, for writing.
    #[must_use]
    pub fn elements_mut(&mut self) -> &mut [T] {
        self.0.as_slice_mut().expect(ROW_MAJOR)
    }

    /// Returns the length of each axis.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        self.0.shape()
    }

    /// Returns the number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether there are no elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the elements in row-major order.
    pub fn iter(&self) -> std::slice::Iter<'_, T> {
        self.elements().iter()
    }

    /// Returns the array of `ndarray`, for operators that walk along axes.
    pub(crate) fn array(&self) -> &ArrayD<T> {
        &self.0
    }

    /// Returns the array of `ndarray`.
    pub(crate) fn into_array(self) -> ArrayD<T> {
        self.0
    }

    /// Returns an array of the same shape with `f` of each element.
    pub(crate) fn map<R>(&self, f: impl Fn(&T) -> R) -> RowMajor<R> {
        RowMajor(self.0.map(f))
    }

    /// Returns the elements in row-major order.
    #[must_use]
    pub fn into_vec(self) -> Vec<T> {
        let len = self.0.len();
        let (mut elements, offset) = self.0.into_raw_vec_and_offset();
        // If the array was cut out of a larger one, elements of that one lie on both sides.
        elements.drain(..offset.unwrap_or(0));
        elements.truncate(len);
        elements
    }
}

/// Elements that lie in another order are copied.
impl<T: Clone, D: Dimension> From<Array<T, D>> for RowMajor<T> {
    fn from(a: Array<T, D>) -> Self {
        let a = if a.is_standard_layout() { a } else { a.as_standard_layout().into_owned() };
        Self(a.into_dyn())
    }
}

impl<T> From<RowMajor<T>> for ArrayD<T> {
    fn from(a: RowMajor<T>) -> Self {
        a.0
    }
}

impl<'a, T> From<&'a RowMajor<T>> for ArrayViewD<'a, T> {
    fn from(a: &'a RowMajor<T>) -> Self {
        a.0.view()
    }
}

/// The element at an index of each axis. An index outside the array panics, as for slices, and so does one for another number of axes.
impl<T, const N: usize> Index<[usize; N]> for RowMajor<T> {
    type Output = T;

    fn index(&self, index: [usize; N]) -> &T {
        &self.0[IxDyn(&index)]
    }
}

impl<T, const N: usize> IndexMut<[usize; N]> for RowMajor<T> {
    fn index_mut(&mut self, index: [usize; N]) -> &mut T {
        &mut self.0[IxDyn(&index)]
    }
}

impl<T> IntoIterator for RowMajor<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.into_vec().into_iter()
    }
}

impl<'a, T> IntoIterator for &'a RowMajor<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.elements().iter()
    }
}

impl<T: fmt::Display> fmt::Display for RowMajor<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T: fmt::Debug> fmt::Debug for RowMajor<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::Tensor;

    /// An array of any strides becomes a tensor whose elements are one slice.
    #[test]
    fn every_layout_becomes_row_major() {
        let base = Array::from_shape_vec([2, 3, 4], (0..24).collect::<Vec<i32>>()).expect("24 elements");
        let mut turned = base.clone();
        turned.swap_axes(0, 2);
        let mut backwards = base.clone();
        backwards.invert_axis(ndarray::Axis(1));
        let mut part = base.clone();
        part.slice_collapse(ndarray::s![1.., 1..;2, ..]);
        let broadcast = base.broadcast([5, 2, 3, 4]).expect("repeated").to_owned();
        for array in [base.into_dyn(), turned.into_dyn(), backwards.into_dyn(), part.into_dyn(), broadcast.into_dyn()] {
            let expected: Vec<i32> = array.iter().copied().collect();
            let shape = array.shape().to_vec();
            let mut a = RowMajor::from(array);
            assert_eq!(a.elements(), expected, "{shape:?}");
            let tensor = Tensor::I32(a.clone());
            assert_eq!((tensor.shape(), tensor.as_i32()), (&shape[..], Some(&expected[..])));
            a.elements_mut()[0] += 1;
            assert_eq!(a.iter().next(), Some(&(expected[0] + 1)));
            assert_eq!(a.into_vec().len(), expected.len(), "{shape:?}");
            assert_eq!(Tensor::I32(a_of(&tensor)), tensor);
        }
    }

    fn a_of(tensor: &Tensor) -> RowMajor<i32> {
        match tensor {
            Tensor::I32(a) => RowMajor::from(a.clone().into_array()),
            other => panic!("{}", other.dtype()),
        }
    }
}

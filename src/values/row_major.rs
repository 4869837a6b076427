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
pub struct RowMajor<T> {
    shape: IxDyn,
    elements: Vec<T>,
}

const FITS: &str = "has as many elements as its shape says";

impl<T> RowMajor<T> {
    /// Makes an array of elements in row-major order. `None` if there are not as many as the shape says, or if the lengths of the axes,
    /// apart from those of 0, hold more than memory.
    pub(crate) fn new(shape: &[usize], elements: Vec<T>) -> Option<Self> {
        let lengths = || shape.iter().filter(|length| **length > 0);
        let most = lengths().try_fold(1usize, |product, &length| product.checked_mul(length))?;
        let expected = if lengths().count() < shape.len() { 0 } else { most };
        let fits = isize::try_from(most).is_ok() && elements.len() == expected;
        fits.then(|| Self { shape: IxDyn(shape), elements })
    }

    /// Returns the elements in row-major order.
    #[must_use]
    pub fn elements(&self) -> &[T] {
        &self.elements
    }

    /// Returns the elements in row-major order, for writing.
    #[must_use]
    pub fn elements_mut(&mut self) -> &mut [T] {
        &mut self.elements
    }

    /// Returns the length of each axis.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        self.shape.slice()
    }

    /// Returns the number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.elements.len()
    }

    /// Returns whether there are no elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.elements.is_empty()
    }

    /// Returns the elements in row-major order.
    pub fn iter(&self) -> std::slice::Iter<'_, T> {
        self.elements.iter()
    }

    /// Returns the array as one of `ndarray`, for operators that walk along axes.
    pub(crate) fn array(&self) -> ArrayViewD<'_, T> {
        ArrayViewD::from_shape(self.shape.clone(), &self.elements).expect(FITS)
    }

    /// Returns the array of `ndarray`.
    pub(crate) fn into_array(self) -> ArrayD<T> {
        ArrayD::from_shape_vec(self.shape, self.elements).expect(FITS)
    }

    /// Returns an array of the same shape with `f` of each element.
    pub(crate) fn map<R>(&self, f: impl Fn(&T) -> R) -> RowMajor<R> {
        RowMajor { shape: self.shape.clone(), elements: self.elements.iter().map(f).collect() }
    }

    /// Returns the elements in row-major order.
    #[must_use]
    pub fn into_vec(self) -> Vec<T> {
        self.elements
    }
}

/// Elements that lie in another order are copied.
impl<T: Clone, D: Dimension> From<Array<T, D>> for RowMajor<T> {
    fn from(a: Array<T, D>) -> Self {
        let a = if a.is_standard_layout() { a } else { a.as_standard_layout().into_owned() };
        let (shape, len) = (IxDyn(a.shape()), a.len());
        let (mut elements, offset) = a.into_raw_vec_and_offset();
        // If the array was cut out of a larger one, elements of that one lie on both sides.
        elements.drain(..offset.unwrap_or(0));
        elements.truncate(len);
        Self { shape, elements }
    }
}

impl<T> From<RowMajor<T>> for ArrayD<T> {
    fn from(a: RowMajor<T>) -> Self {
        a.into_array()
    }
}

impl<'a, T> From<&'a RowMajor<T>> for ArrayViewD<'a, T> {
    fn from(a: &'a RowMajor<T>) -> Self {
        a.array()
    }
}

/// The element at an index of each axis. An index outside the array panics, as for slices, and so does one for another number of axes.
impl<T, const N: usize> Index<[usize; N]> for RowMajor<T> {
    type Output = T;

    fn index(&self, index: [usize; N]) -> &T {
        let place = place(self.shape(), &index);
        &self.elements[place]
    }
}

impl<T, const N: usize> IndexMut<[usize; N]> for RowMajor<T> {
    fn index_mut(&mut self, index: [usize; N]) -> &mut T {
        let place = place(self.shape(), &index);
        &mut self.elements[place]
    }
}

/// Where an element is.
fn place(shape: &[usize], index: &[usize]) -> usize {
    assert_eq!(index.len(), shape.len(), "an index of {} axes for {shape:?}", index.len());
    shape.iter().zip(index).fold(0, |place, (&length, &at)| {
        assert!(at < length, "index {index:?} is outside {shape:?}");
        place * length + at
    })
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
        self.array().fmt(f)
    }
}

impl<T: fmt::Debug> fmt::Debug for RowMajor<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.array().fmt(f)
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

    #[test]
    #[should_panic(expected = "index [0, 3] is outside [2, 3]")]
    fn indices_are_checked() {
        let _ = RowMajor::new(&[2, 3], vec![0; 6]).expect("six")[[0, 3]];
    }

    #[test]
    fn shapes_hold_the_elements() {
        assert_eq!(RowMajor::new(&[2, 3], vec![0, 1, 2, 3, 4, 5]).expect("six")[[1, 0]], 3);
        assert_eq!(RowMajor::new(&[], vec![7]).expect("one")[[]], 7);
        assert!(RowMajor::new(&[3, 0, 2], Vec::<u8>::new()).is_some());
        for shape in [&[2, 2][..], &[usize::MAX, 2], &[0, usize::MAX, 2], &[0, usize::MAX], &[]] {
            assert_eq!(RowMajor::new(shape, Vec::<u8>::new()), None, "{shape:?}");
        }
    }

    fn a_of(tensor: &Tensor) -> RowMajor<i32> {
        match tensor {
            Tensor::I32(a) => RowMajor::from(a.clone().into_array()),
            other => panic!("{}", other.dtype()),
        }
    }
}

//! Shapes of values in a graph.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The largest number of elements of a value. With at most so many, sizes in bytes do not overflow.
pub(crate) const MAX_ELEMENTS: usize = isize::MAX as usize / 16;

/// The length of one axis of a [`Shape`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dim {
    /// A length that the graph knows.
    Fixed(usize),
    /// The batch, whose length each run chooses.
    Rows,
}

impl Dim {
    /// Returns the length, unless it is that of the batch.
    #[must_use]
    pub fn fixed(self) -> Option<usize> {
        match self {
            Self::Fixed(length) => Some(length),
            Self::Rows => None,
        }
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(length) => length.fmt(f),
            Self::Rows => f.write_str("rows"),
        }
    }
}

/// The shape of a value in a graph. All axes have fixed lengths, except that the leading one may be the batch, `rows`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Shape {
    /// Only the first may be [`Dim::Rows`].
    dims: Vec<Dim>,
}

impl Shape {
    /// Creates the shape `[rows, cols]`.
    #[must_use]
    pub fn rows(cols: usize) -> Self {
        Self::batched(&[cols])
    }

    /// Creates the shape `[rows, dims…]`.
    #[must_use]
    pub fn batched(dims: &[usize]) -> Self {
        Self::new(true, dims)
    }

    /// Creates the shape `[dims…]`, all of fixed length.
    #[must_use]
    pub fn fixed(dims: &[usize]) -> Self {
        Self::new(false, dims)
    }

    pub(crate) fn new(is_batched: bool, dims: &[usize]) -> Self {
        let rows = is_batched.then_some(Dim::Rows);
        Self { dims: rows.into_iter().chain(dims.iter().map(|&length| Dim::Fixed(length))).collect() }
    }

    /// Creates a shape with these axes; `None` if an axis after the first is the batch.
    #[must_use]
    pub fn from_dims(dims: Vec<Dim>) -> Option<Self> {
        let others = dims.get(1..).unwrap_or(&[]);
        (!others.contains(&Dim::Rows)).then_some(Self { dims })
    }

    /// Whether the leading axis is `rows`.
    #[must_use]
    pub fn is_batched(&self) -> bool {
        self.dims.first() == Some(&Dim::Rows)
    }

    /// Returns the number of axes, `rows` included.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.dims.len()
    }

    /// Returns the length of every axis.
    #[must_use]
    pub fn dims(&self) -> &[Dim] {
        &self.dims
    }

    /// Returns the lengths of all axes but `rows`.
    #[must_use]
    pub fn fixed_dims(&self) -> Vec<usize> {
        self.dims.iter().filter_map(|dim| dim.fixed()).collect()
    }

    /// Returns the length of an axis; `None` for `rows` and beyond the last.
    #[must_use]
    pub fn axis(&self, axis: usize) -> Option<usize> {
        self.dims.get(axis)?.fixed()
    }

    /// Returns the length of the last axis; `None` if that is `rows`, or for a scalar.
    #[must_use]
    pub fn last(&self) -> Option<usize> {
        self.dims.last()?.fixed()
    }

    /// The same shape with another length of the last axis, if that is not `rows`.
    pub(crate) fn with_last(&self, length: usize) -> Self {
        let mut shape = self.clone();
        if let Some(last @ Dim::Fixed(_)) = shape.dims.last_mut() {
            *last = Dim::Fixed(length);
        }
        shape
    }

    /// The same shape with one more axis at the end.
    pub(crate) fn append(&self, length: usize) -> Self {
        let mut shape = self.clone();
        shape.dims.push(Dim::Fixed(length));
        shape
    }

    /// Returns the number of elements of one row of the batch, or of all if there is no batch. `None` if no memory can hold so
    /// many, whichever axes have length 0.
    #[must_use]
    pub fn elements(&self) -> Option<usize> {
        let mut most = 1usize;
        let mut is_empty = false;
        for length in self.dims.iter().filter_map(|dim| dim.fixed()) {
            is_empty |= length == 0;
            most = most.checked_mul(length.max(1))?;
        }
        (most <= MAX_ELEMENTS).then_some(if is_empty { 0 } else { most })
    }

    /// Whether memory could hold a batch of `rows`.
    pub(crate) fn fits(&self, rows: usize) -> bool {
        let rows = if self.is_batched() { rows } else { 1 };
        self.elements().and_then(|n| n.checked_mul(rows)).is_some_and(|n| n <= MAX_ELEMENTS)
    }

    /// Returns the lengths of all axes at a batch of `rows`.
    #[must_use]
    pub fn with_rows(&self, rows: usize) -> Vec<usize> {
        self.dims.iter().map(|dim| dim.fixed().unwrap_or(rows)).collect()
    }

    /// Whether a host tensor of shape `actual` has this shape for some length of the batch.
    #[must_use]
    pub fn admits(&self, actual: &[usize]) -> bool {
        let fits = |(dim, length): (&Dim, &usize)| dim.fixed().is_none_or(|fixed| fixed == *length);
        actual.len() == self.rank() && self.dims.iter().zip(actual).all(fits)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self.dims.iter().map(ToString::to_string).collect();
        write!(f, "[{}]", all.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_admit_any_batch() {
        let s = Shape::batched(&[3, 4]);
        assert!(s.admits(&[7, 3, 4]) && !s.admits(&[3, 4]) && !s.admits(&[7, 4, 3]));
        assert_eq!((s.axis(0), s.axis(2), s.to_string()), (None, Some(4), "[rows, 3, 4]".to_owned()));
    }

    #[test]
    fn only_the_leading_axis_may_be_the_batch() {
        let fixed = Dim::Fixed(3);
        assert_eq!(Shape::from_dims(vec![Dim::Rows, fixed]), Some(Shape::rows(3)));
        assert_eq!(Shape::from_dims(vec![fixed, Dim::Rows]), None);
        assert_eq!(Shape::from_dims(vec![Dim::Rows, Dim::Rows]), None);
    }
}

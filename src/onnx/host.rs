//! Tensors that are known while importing.

use std::sync::Arc;

use super::dims::{MAX_RANK, elements};
use super::proto::data_type as ty;
use crate::ops::{Arguments, Op, Operand};
use crate::values::{Shape, Tensor};

/// A length, or an integer that is computed of lengths: known, or a multiple of the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Length {
    Known(i64),
    /// This many times `rows`; at least 1.
    Rows(i64),
}

/// The elements of a tensor, row-major.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Data {
    F32(Vec<f32>),
    I64(Vec<i64>),
    Bool(Vec<bool>),
    /// Integers of which at least one depends on the batch.
    Lengths(Vec<Length>),
}

/// A known tensor.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Host {
    /// If set, the first of `dims` is 1 and stands for this many times `rows`: the tensor is the same for every row.
    pub(super) rows: Option<usize>,
    pub(super) dims: Vec<usize>,
    pub(super) data: Data,
    /// The ONNX type, which may be narrower than that of `data`.
    pub(super) data_type: i32,
    /// The name of the stored tensor that the elements come from.
    pub(super) name: Option<Arc<str>>,
}

/// The memory that known tensors may take in all: a file of a few bytes must not become gigabytes.
#[derive(Debug)]
pub(super) struct Budget {
    limit: usize,
    left: usize,
}

impl Budget {
    /// Four times the bytes of all files of a model, and at least `floor`.
    pub(super) fn new(bytes: usize, floor: usize) -> Self {
        let limit = bytes.saturating_mul(4).max(floor);
        Self { limit, left: limit }
    }

    /// Adds the bytes of `count` elements of `size` bytes, for packed numbers that a file has and that take more bytes when they are
    /// unpacked.
    pub(super) fn allow(&mut self, count: usize, size: usize) {
        let bytes = count.saturating_mul(size);
        self.limit = self.limit.saturating_add(bytes);
        self.left = self.left.saturating_add(bytes);
    }

    /// Takes the bytes of `count` elements of `size` bytes. An error says that too few are left.
    pub(super) fn take(&mut self, count: usize, size: usize) -> Result<(), String> {
        let bytes = count.saturating_mul(size);
        match self.left.checked_sub(bytes) {
            Some(left) => self.left = left,
            None => {
                let used = self.limit - self.left;
                return Err(format!(
                    "its value takes {bytes} bytes; with {used} before it, constants would exceed {} bytes",
                    self.limit
                ));
            }
        }
        Ok(())
    }
}

/// The reason to refuse a value that depends on the batch.
pub(super) const NEEDS_ROWS: &str = "its value depends on the length of the batch";

impl Data {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::F32(v) => v.len(),
            Self::I64(v) => v.len(),
            Self::Bool(v) => v.len(),
            Self::Lengths(v) => v.len(),
        }
    }

    /// Bytes of one element.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::F32(_) => 4,
            Self::I64(_) => 8,
            Self::Bool(_) => 1,
            Self::Lengths(_) => size_of::<Length>(),
        }
    }

    /// The elements at these positions.
    pub(super) fn pick(&self, places: impl Iterator<Item = usize>) -> Self {
        match self {
            Self::F32(v) => Self::F32(places.map(|i| v[i]).collect()),
            Self::I64(v) => Self::I64(places.map(|i| v[i]).collect()),
            Self::Bool(v) => Self::Bool(places.map(|i| v[i]).collect()),
            Self::Lengths(v) => Self::lengths(places.map(|i| v[i]).collect()),
        }
    }

    /// The elements followed by those of another tensor; `None` if the two are of different kinds.
    pub(super) fn followed_by(&self, other: &Self) -> Option<Self> {
        Some(match (self, other) {
            (Self::F32(a), Self::F32(b)) => Self::F32([a.as_slice(), b].concat()),
            (Self::I64(a), Self::I64(b)) => Self::I64([a.as_slice(), b].concat()),
            (Self::Bool(a), Self::Bool(b)) => Self::Bool([a.as_slice(), b].concat()),
            (a, b) => Self::Lengths([a.to_lengths()?, b.to_lengths()?].concat()),
        })
    }

    /// The elements as integers that may depend on the batch; `None` if they are not integers.
    pub(super) fn to_lengths(&self) -> Option<Vec<Length>> {
        match self {
            Self::I64(v) => Some(v.iter().map(|&v| Length::Known(v)).collect()),
            Self::Lengths(v) => Some(v.clone()),
            Self::F32(_) | Self::Bool(_) => None,
        }
    }

    /// Integers, as known ones if none depends on the batch.
    pub(super) fn lengths(values: Vec<Length>) -> Self {
        let known = |v: &Length| match v {
            Length::Known(v) => Some(*v),
            Length::Rows(_) => None,
        };
        match values.iter().map(known).collect() {
            Some(known) => Self::I64(known),
            None => Self::Lengths(values),
        }
    }
}

impl Host {
    pub(super) fn new(dims: Vec<usize>, data: Data) -> Self {
        let data_type = match data {
            Data::F32(_) => ty::FLOAT,
            Data::Bool(_) => ty::BOOL,
            Data::I64(_) | Data::Lengths(_) => ty::INT64,
        };
        debug_assert_eq!(elements(&dims), Some(data.len()));
        Self { rows: None, dims, data, data_type, name: None }
    }

    /// The result of an operator of the graph on known tensors; the result must be floats. Shape and elements are those that a graph
    /// infers and its interpreter computes.
    pub(super) fn evaluated(op: &Op, tensors: &[&Tensor]) -> Result<Self, String> {
        let shapes: Vec<Shape> = tensors.iter().map(|tensor| Shape::fixed(tensor.shape())).collect();
        let operands = tensors.iter().zip(&shapes).map(|(tensor, shape)| Operand { dtype: tensor.dtype(), shape });
        let operands: Vec<Operand<'_>> = operands.collect();
        let output = op.infer(&operands).map_err(|e| e.to_string())?.shape;
        let result = op.eval(&Arguments { tensors, output: &output, packed: None });
        match result.map_err(|e| format!("element {} has no result", e.index()))? {
            Tensor::F32(floats) => Ok(Self::new(output.fixed_dims(), Data::F32(floats.into_vec()))),
            other => Err(format!("{op} gives {}", other.dtype())),
        }
    }

    /// The tensor of a value of floats.
    pub(super) fn float_tensor(&self) -> Result<Tensor, String> {
        let floats = self.floats().ok_or("it has elements that are not floats")?;
        Tensor::from_f32(&self.dims, floats.to_vec()).map_err(|e| e.to_string())
    }

    pub(super) fn vector(values: Vec<Length>) -> Self {
        Self::new(vec![values.len()], Data::lengths(values))
    }

    /// The same elements under another ONNX type that is kept in the same form.
    pub(super) fn typed(self, data_type: i32) -> Self {
        Self { data_type, ..self }
    }

    /// Refuses a result of 64 bits that is infinite although no input is: it is too large for the 32 bits in which it is kept.
    pub(super) fn in_range(self, inputs: &[Option<Arc<Host>>]) -> Result<Self, String> {
        let infinite = |host: &Host| host.floats().is_some_and(|v| v.iter().any(|v| v.is_infinite()));
        let made = self.data_type == ty::DOUBLE && infinite(&self);
        if made && !inputs.iter().flatten().any(|host| infinite(host)) {
            return Err("its result is of 64 bits, and too large for 32".to_owned());
        }
        Ok(self)
    }

    /// The shape as the model sees it, with the batch.
    pub(super) fn logical(&self) -> Vec<Length> {
        let mut lengths: Vec<Length> = self.dims.iter().map(|&d| Length::Known(d as i64)).collect();
        if let (Some(rows), Some(first)) = (self.rows, lengths.first_mut()) {
            *first = Length::Rows(rows as i64);
        }
        lengths
    }

    /// All elements as floats, whatever their type.
    pub(super) fn to_floats(&self) -> Result<Vec<f32>, String> {
        Ok(match &self.data {
            Data::F32(v) => v.clone(),
            Data::I64(v) => v.iter().map(|&v| v as f32).collect(),
            Data::Bool(v) => v.iter().map(|&v| f32::from(u8::from(v))).collect(),
            Data::Lengths(_) => return Err(NEEDS_ROWS.to_owned()),
        })
    }

    /// All elements as floats, if they are floats.
    pub(super) fn floats(&self) -> Option<&[f32]> {
        match &self.data {
            Data::F32(v) => Some(v),
            _ => None,
        }
    }

    /// The only element, as a float.
    pub(super) fn scalar(&self) -> Option<f32> {
        match &self.data {
            Data::F32(v) if v.len() == 1 => Some(v[0]),
            Data::I64(v) if v.len() == 1 => Some(v[0] as f32),
            Data::Bool(v) if v.len() == 1 => Some(f32::from(u8::from(v[0]))),
            _ => None,
        }
    }

    /// All elements as known integers.
    pub(super) fn integers(&self) -> Result<Vec<i64>, String> {
        match &self.data {
            Data::I64(v) => Ok(v.clone()),
            Data::Bool(v) => Ok(v.iter().map(|&v| v.into()).collect()),
            Data::Lengths(_) => Err(NEEDS_ROWS.to_owned()),
            Data::F32(_) => Err("floats where integers belong".to_owned()),
        }
    }

    /// The elements as a shape: integers that may depend on the batch.
    pub(super) fn shape(&self) -> Result<Vec<Length>, String> {
        if self.data.len() > MAX_RANK {
            return Err(format!("a shape of {} axes, expected up to {MAX_RANK}", self.data.len()));
        }
        self.data.to_lengths().ok_or_else(|| "a shape that is not made of integers".to_owned())
    }

    /// Refuses a value that is the same for every row, for operators that would have to repeat it.
    pub(super) fn fixed(&self) -> Result<(), String> {
        if self.rows.is_some() { Err(NEEDS_ROWS.to_owned()) } else { Ok(()) }
    }
}

/// The positions of the elements of a strided view, in row-major order.
#[derive(Debug)]
pub(super) struct Walk {
    dims: Vec<usize>,
    strides: Vec<isize>,
    index: Vec<usize>,
    place: isize,
    left: usize,
}

impl Walk {
    /// `dims` and `strides` are those of the view, which lies inside its tensor.
    pub(super) fn new(dims: &[usize], strides: Vec<isize>, start: isize) -> Self {
        let left = dims.iter().product();
        Self { dims: dims.to_vec(), strides, index: vec![0; dims.len()], place: start, left }
    }

    /// A view of a tensor of shape `dims` that is broadcast to `out`.
    pub(super) fn broadcast(dims: &[usize], out: &[usize]) -> Self {
        let own = strides(dims);
        let extra = out.len() - dims.len();
        let stride = |axis: usize| match axis.checked_sub(extra) {
            Some(axis) if dims[axis] != 1 => own[axis],
            _ => 0,
        };
        Self::new(out, (0..out.len()).map(stride).collect(), 0)
    }
}

impl Iterator for Walk {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        self.left = self.left.checked_sub(1)?;
        let place = self.place as usize;
        for axis in (0..self.dims.len()).rev() {
            self.index[axis] += 1;
            self.place += self.strides[axis];
            if self.index[axis] < self.dims[axis] {
                break;
            }
            self.place -= self.strides[axis] * self.dims[axis] as isize;
            self.index[axis] = 0;
        }
        Some(place)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

/// Row-major strides.
pub(super) fn strides(dims: &[usize]) -> Vec<isize> {
    let mut strides = vec![1isize; dims.len()];
    for axis in (1..dims.len()).rev() {
        strides[axis - 1] = strides[axis] * dims[axis] as isize;
    }
    strides
}

/// The shape of two operands by NumPy's rule, for lengths that may depend on the batch.
pub(super) fn broadcast(a: &[Length], b: &[Length]) -> Result<Vec<Length>, String> {
    let rank = a.len().max(b.len());
    let at = |lengths: &[Length], axis: usize| match (axis + lengths.len()).checked_sub(rank) {
        Some(axis) => lengths[axis],
        None => Length::Known(1),
    };
    let join = |axis: usize| match (at(a, axis), at(b, axis)) {
        (a, b) if a == b => Ok(a),
        (a, Length::Known(1)) => Ok(a),
        (Length::Known(1), b) => Ok(b),
        _ => Err(format!("shapes {} and {} do not broadcast", show(a), show(b))),
    };
    (0..rank).map(join).collect()
}

/// A shape for messages.
pub(super) fn show(lengths: &[Length]) -> String {
    let show = |length: &Length| match length {
        Length::Known(n) => n.to_string(),
        Length::Rows(1) => "rows".to_owned(),
        Length::Rows(k) => format!("{k}·rows"),
    };
    format!("[{}]", lengths.iter().map(show).collect::<Vec<_>>().join(", "))
}

/// The `rows` and `dims` of a [`Host`] for a shape as the model sees it: a leading batch becomes 1.
pub(super) fn kept(lengths: &[Length]) -> Result<(Option<usize>, Vec<usize>), String> {
    let mut rows = None;
    let mut dims = Vec::with_capacity(lengths.len());
    for (axis, length) in lengths.iter().enumerate() {
        match *length {
            Length::Known(n) => dims.push(usize::try_from(n).map_err(|_| format!("a length of {n}"))?),
            Length::Rows(k) if axis == 0 => {
                rows = Some(k as usize);
                dims.push(1);
            }
            Length::Rows(_) => return Err("it moves the batch away from the front".to_owned()),
        }
    }
    elements(&dims).ok_or_else(|| format!("shape {dims:?} is too large"))?;
    Ok((rows, dims))
}

/// An axis counted from the front.
pub(super) fn axis(axis: i64, rank: usize) -> Result<usize, String> {
    let from_front = if axis < 0 { axis.checked_add(rank as i64) } else { Some(axis) };
    match from_front.map(usize::try_from) {
        Some(Ok(axis)) if axis < rank => Ok(axis),
        _ => Err(format!("axis {axis} of {rank}")),
    }
}

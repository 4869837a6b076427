//! Blocks of a tensor at coordinates that are computed at run time: read by [`GatherNd`], written by [`ScatterNd`].

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::numerics::ScatterReduction;
use crate::ops::error::{EvalError, OpError};
use crate::ops::operands::{Arguments, Operands, TensorType, batch, expect_size, parameter, rank_error};
use crate::ops::operator::Operator;
use crate::values::slices::{CHECKED, integers, tensor};
use crate::values::{DType, Dim, Shape, Tensor};

/// Blocks of a tensor by their coordinates, as in ONNX. Inputs: x of shape `[batch…, indexed…, block…]`, floats or `i32`; ids (`i32`) of
/// shape `[batch…, n…, depth]`, which are a coordinate for each of the `depth` indexed axes. The result is `[batch…, n…, block…]`. An id
/// below 0 counts from the end of its axis. One outside the axis is an error on the host; on a GPU it stands for the nearest element.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatherNd {
    /// The number of leading axes that x and the ids share.
    pub batch_dims: usize,
}

/// A tensor of which blocks at some coordinates are updated, in the order of the ids. Inputs: x and ids as those of [`GatherNd`], with one
/// batch; updates of shape `[batch…, n…, block…]` and the type of x. A GPU compares each element with all ids of its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScatterNd {
    /// The number of leading axes that x, ids and updates share.
    pub batch_dims: usize,
    /// How an update changes an element. Integers can be replaced only.
    pub reduction: ScatterReduction,
}

/// The axes of x and the ids. Lengths are those of one row if there are rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Blocks {
    /// The lengths of the axes that are selected along.
    pub(crate) indexed: Vec<usize>,
    /// The blocks that the ids of one batch name; `None` if all ids belong to one batch.
    pub(crate) of_batch: Option<usize>,
    /// Elements of a block.
    pub(crate) block: usize,
}

impl Blocks {
    /// The most axes that coordinates select along.
    pub(crate) const MAX_DEPTH: usize = 8;

    /// The axes of inputs that inference has accepted.
    pub(crate) fn new(x: &Shape, ids: &Shape, batch_dims: usize) -> Self {
        let lengths = |dims: &[Dim]| dims.iter().filter_map(|dim| dim.fixed()).collect::<Vec<usize>>();
        let (front, depth) = (&ids.dims()[..ids.rank() - 1], ids.last().unwrap_or(0));
        let (indexed, block) = x.dims()[batch_dims..].split_at(depth);
        let of_batch = (batch_dims > 0).then(|| lengths(&front[batch_dims..]).iter().product());
        Self { indexed: lengths(indexed), of_batch, block: lengths(block).iter().product() }
    }

    /// The place of each block that ids name, in blocks. The error has the index of an id outside its axis, the id, and the axis' length.
    fn places(&self, ids: &[i32]) -> Result<Vec<usize>, EvalError> {
        let depth = self.indexed.len();
        let place = |(at, coordinates): (usize, &[i32])| {
            let batch = self.of_batch.map_or(0, |of_batch| at / of_batch.max(1));
            let coordinates = coordinates.iter().zip(&self.indexed).enumerate();
            coordinates.into_iter().try_fold(batch, |place, (axis, (&id, &length))| {
                let from_start = if id < 0 { i64::from(id) + length as i64 } else { id.into() };
                let inside = usize::try_from(from_start).ok().filter(|place| *place < length);
                let inside = inside.ok_or(EvalError::Id { index: at * depth + axis, id, rows: length })?;
                Ok(place * length + inside)
            })
        };
        ids.chunks_exact(depth).enumerate().map(place).collect()
    }
}

/// Checks x and ids, and returns the shape of the blocks that are read or written.
fn infer(inputs: &Operands<'_>, batch_dims: usize) -> Result<Shape, OpError> {
    inputs.expect_one_of(0, &[DType::F32, DType::I32])?;
    inputs.expect_dtype(1, DType::I32)?;
    let (x, ids) = (inputs.shape(0), inputs.shape(1));
    let depth = ids.last().ok_or_else(|| rank_error("ids", ids, "a last axis of static length"))?;
    if !(1..=Blocks::MAX_DEPTH).contains(&depth) {
        return Err(parameter("number of coordinates", depth, "must be from 1 to 8"));
    }
    if batch_dims >= ids.rank() || batch_dims.saturating_add(depth) > x.rank() {
        let value = format!("{batch_dims} with {depth} coordinates");
        let rule = "must leave axes of the input for the coordinates, and the last axis of the ids";
        return Err(parameter("batch_dims", value, rule));
    }
    if x.is_batched() && batch_dims == 0 {
        return Err(batch("takes blocks along the batch"));
    }
    for axis in 0..batch_dims {
        match (x.dims()[axis], ids.dims()[axis]) {
            (Dim::Fixed(own), Dim::Fixed(other)) => expect_size("length of an axis that both share", other, own)?,
            (Dim::Rows, Dim::Rows) => {}
            _ => return Err(OpError::Broadcast { left: x.clone(), right: ids.clone() }),
        }
    }
    let (indexed, block) = x.dims()[batch_dims..].split_at(depth);
    if indexed.contains(&Dim::Fixed(0)) {
        return Err(parameter("axis of length", 0, "has no elements that an id could name"));
    }
    let dims = ids.dims()[..ids.rank() - 1].iter().chain(block).copied().collect();
    Shape::from_dims(dims).ok_or_else(|| batch("takes blocks along the batch"))
}

impl Operator for GatherNd {
    fn name(&self) -> &'static str {
        "gather_nd"
    }

    fn infer(&self, inputs: &Operands<'_>) -> Result<TensorType, OpError> {
        inputs.expect_arity(2)?;
        Ok(TensorType::new(inputs.dtype(0), infer(inputs, self.batch_dims)?))
    }

    fn eval(&self, inputs: &Arguments<'_>) -> Result<Tensor, EvalError> {
        let [x, ids] = [0, 1].map(|input| inputs.tensor(input));
        let blocks = Blocks::new(&Shape::fixed(x.shape()), &Shape::fixed(ids.shape()), self.batch_dims);
        let places = blocks.places(inputs.i32s(1))?;
        let shape = inputs.output.with_rows(ids.shape()[0]);
        let all = || places.iter().flat_map(|place| place * blocks.block..(place + 1) * blocks.block);
        Ok(match x {
            Tensor::F32(x) => tensor(shape, all().map(|at| x.elements()[at]).collect()),
            Tensor::I32(x) => integers(&shape, all().map(|at| x.elements()[at]).collect()),
            _ => unreachable!("{CHECKED}"),
        })
    }

    fn parameters(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.batch_dims == 0 { Ok(()) } else { write!(f, " batch_dims {}", self.batch_dims) }
    }
}

impl Operator for ScatterNd {
    fn name(&self) -> &'static str {
        "scatter_nd"
    }

    fn infer(&self, inputs: &Operands<'_>) -> Result<TensorType, OpError> {
        inputs.expect_arity(3)?;
        let (x, dtype) = (inputs.shape(0), inputs.dtype(0));
        let updates = infer(inputs, self.batch_dims)?;
        inputs.expect_dtype(2, dtype)?;
        if inputs.shape(1).is_batched() != x.is_batched() || updates != *inputs.shape(2) {
            return Err(OpError::Broadcast { left: updates, right: inputs.shape(2).clone() });
        }
        if dtype == DType::I32 && self.reduction != ScatterReduction::Replace {
            return Err(parameter("reduction", self.reduction, "must be replace for integers"));
        }
        Ok(TensorType::new(dtype, x.clone()))
    }

    fn eval(&self, inputs: &Arguments<'_>) -> Result<Tensor, EvalError> {
        let [x, ids] = [0, 1].map(|input| inputs.tensor(input));
        let blocks = Blocks::new(&Shape::fixed(x.shape()), &Shape::fixed(ids.shape()), self.batch_dims);
        let places = blocks.places(inputs.i32s(1))?;
        let block = blocks.block;
        Ok(match x {
            Tensor::F32(_) => {
                let (mut y, updates) = (inputs.f32s(0).to_vec(), inputs.f32s(2));
                for (at, place) in places.into_iter().enumerate() {
                    let of_block = y[place * block..][..block].iter_mut().zip(&updates[at * block..]);
                    of_block.for_each(|(y, update)| *y = self.reduction.eval(*y, *update));
                }
                tensor(x.shape().to_vec(), y)
            }
            _ => {
                let (mut y, updates) = (inputs.i32s(0).to_vec(), inputs.i32s(2));
                for (at, place) in places.into_iter().enumerate() {
                    y[place * block..][..block].copy_from_slice(&updates[at * block..][..block]);
                }
                integers(x.shape(), y)
            }
        })
    }

    fn parameters(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " {}", self.reduction)?;
        GatherNd { batch_dims: self.batch_dims }.parameters(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(x: &[usize], ids: &[usize], batch_dims: usize) -> Blocks {
        Blocks::new(&Shape::fixed(x), &Shape::fixed(ids), batch_dims)
    }

    #[test]
    fn places_of_coordinates() {
        let all = blocks(&[2, 3, 4], &[2, 2], 0);
        assert_eq!(all, Blocks { indexed: vec![2, 3], of_batch: None, block: 4 });
        assert_eq!(all.places(&[1, -1, 0, 2]), Ok(vec![5, 2]));
        let of_two = blocks(&[2, 3, 4], &[2, 2, 1], 1);
        assert_eq!(of_two, Blocks { indexed: vec![3], of_batch: Some(2), block: 4 });
        assert_eq!(of_two.places(&[0, -3, 2, 1]), Ok(vec![0, 0, 5, 4]));
        for (id, index) in [(3, 1), (-4, 1)] {
            assert_eq!(all.places(&[1, id, 0, 2]), Err(EvalError::Id { index, id, rows: 3 }));
        }
    }
}

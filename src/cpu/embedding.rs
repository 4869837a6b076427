//! Rows of embedding tables, and blocks of tensors by their coordinates.

use super::error::CpuError;
use super::step_run::{Output, StepRun};
use crate::ops::{Blocks, Embedding, GatherNd, Op, ScatterNd};
use crate::program::StepOp;
use crate::values::slices::{f32s, f32s_mut, i32s, integers, tensor};
use crate::values::{Shape, Tensor};

pub(super) fn run(run: &mut StepRun<'_>) -> Option<Output> {
    match run.step.op {
        StepOp::Op(Op::Embedding(Embedding { from_end })) => {
            let table = run.rest[0];
            let outside = |(index, id)| CpuError::Id { step: run.name(), index, id, rows: table.shape()[0] };
            Some(embedding(run.x(), table, from_end).map_err(outside))
        }
        StepOp::Op(Op::GatherNd(gather)) => Some(run.gather_nd(gather)),
        StepOp::Op(Op::ScatterNd(scatter)) => Some(run.scatter_nd(scatter)),
        _ => None,
    }
}

/// Copies rows `ids` of `table[V, D]`; ids below 0 are counted from the end of the table if `from_end`. The error is the row-major index of
/// an id outside the table, and the id.
fn embedding(ids: &Tensor, table: &Tensor, from_end: bool) -> Result<Tensor, (usize, i32)> {
    let (rows, cols) = (table.shape()[0], table.shape()[1]);
    let data = f32s(table);
    let mut y = Vec::with_capacity(ids.len() * cols);
    for (index, &id) in i32s(ids).iter().enumerate() {
        let place = usize::try_from(id.unsigned_abs()).ok();
        let row = if id >= 0 { place } else { place.filter(|_| from_end).and_then(|place| rows.checked_sub(place)) };
        match row {
            Some(row) if row < rows => y.extend_from_slice(&data[row * cols..][..cols]),
            _ => return Err((index, id)),
        }
    }
    let shape = ids.shape().iter().copied().chain([cols]).collect();
    Ok(tensor(shape, y))
}

/// The place of each block that ids name, in blocks. The error is the row-major index of an id outside its axis, the id, and the length of
/// the axis.
fn places(blocks: &Blocks, ids: &[i32]) -> Result<Vec<usize>, (usize, i32, usize)> {
    let depth = blocks.indexed.len();
    let whole: usize = blocks.indexed.iter().product();
    let mut places = Vec::with_capacity(ids.len() / depth);
    for at in 0..ids.len() / depth {
        let mut place = 0;
        for (axis, &length) in blocks.indexed.iter().enumerate() {
            let id = ids[at * depth + axis];
            let distance = id.unsigned_abs() as usize;
            let inside = if id < 0 { length.checked_sub(distance) } else { Some(distance).filter(|id| *id < length) };
            place = place * length + inside.ok_or((at * depth + axis, id, length))?;
        }
        let batch = match blocks.of_batch {
            Some(of_batch) => at / of_batch,
            None => 0,
        };
        places.push(batch * whole + place);
    }
    Ok(places)
}

fn gather<T: Copy>(x: &[T], places: &[usize], block: usize) -> Vec<T> {
    let mut y = Vec::with_capacity(places.len() * block);
    places.iter().for_each(|place| y.extend_from_slice(&x[place * block..][..block]));
    y
}

/// Updates the blocks of `y` at `places`, one after the other.
fn scatter<T: Copy>(y: &mut [T], places: &[usize], updates: &[T], block: usize, update: impl Fn(T, T) -> T) {
    for (place, updates) in places.iter().zip(updates.chunks_exact(block.max(1))) {
        for (y, &value) in y[place * block..][..block].iter_mut().zip(updates) {
            *y = update(*y, value);
        }
    }
}

impl StepRun<'_> {
    fn blocks(&self, batch_dims: usize) -> Result<(Blocks, Vec<usize>), CpuError> {
        let ids = self.rest[0];
        let blocks = Blocks::new(&Shape::fixed(self.x().shape()), &Shape::fixed(ids.shape()), batch_dims);
        let outside = |(index, id, rows)| CpuError::Id { step: self.name(), index, id, rows };
        let places = places(&blocks, i32s(ids)).map_err(outside)?;
        Ok((blocks, places))
    }

    fn gather_nd(&self, GatherNd { batch_dims }: GatherNd) -> Output {
        let (blocks, places) = self.blocks(batch_dims)?;
        Ok(match self.x() {
            Tensor::I32(x) => integers(self.shape, gather(x.elements(), &places, blocks.block)),
            x => tensor(self.shape.to_vec(), gather(f32s(x), &places, blocks.block)),
        })
    }

    fn scatter_nd(&mut self, ScatterNd { batch_dims, reduction }: ScatterNd) -> Output {
        let (blocks, places) = self.blocks(batch_dims)?;
        let updates = self.rest[1];
        let mut y = self.take_x();
        match &mut y {
            Tensor::I32(y) => scatter(y.elements_mut(), &places, i32s(updates), blocks.block, |_, update| update),
            y => scatter(f32s_mut(y), &places, f32s(updates), blocks.block, |y, update| reduction.eval(y, update)),
        }
        Ok(y)
    }
}

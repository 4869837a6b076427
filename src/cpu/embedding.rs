//! Rows of embedding tables.

use super::error::CpuError;
use super::step_run::{Output, StepRun};
use crate::ops::{Embedding, Op};
use crate::program::StepOp;
use crate::values::Tensor;
use crate::values::slices::{f32s, i32s, tensor};

pub(super) fn run(run: &mut StepRun<'_>) -> Option<Output> {
    let StepOp::Op(Op::Embedding(Embedding { from_end })) = run.step.op else { return None };
    let table = run.rest[0];
    let outside = |(index, id)| CpuError::Id { step: run.name(), index, id, rows: table.shape()[0] };
    Some(embedding(run.x(), table, from_end).map_err(outside))
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

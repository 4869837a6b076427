//! Embedding: rows of a table by id, and blocks of any tensor by their coordinates.

mod blocks;

use std::fmt;

use serde::{Deserialize, Serialize};

use super::error::{EvalError, OpError};
use super::operands::{Arguments, Operands, TensorType};
use super::operator::Operator;
use crate::values::slices::tensor;
use crate::values::{DType, Tensor};

pub(crate) use self::blocks::Blocks;
pub use self::blocks::{GatherNd, ScatterNd};

/// Rows of an embedding table. Inputs: ids (`i32`) of any shape, table `[V, D]` of floats. The result appends an axis of length D to
/// the shape of the ids. An id outside the table is an error on the host; a GPU returns the nearest row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "Option<Written>", into = "Option<Written>")]
pub struct Embedding {
    /// Whether an id below 0 counts from the end of the table, as in ONNX: −1 is the last row. Otherwise, it is outside the table.
    pub from_end: bool,
}

/// What is written of it: nothing, as in older archives, if ids below 0 are outside the table.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    from_end: bool,
}

impl From<Option<Written>> for Embedding {
    fn from(written: Option<Written>) -> Self {
        Self { from_end: written.is_some_and(|written| written.from_end) }
    }
}

impl From<Embedding> for Option<Written> {
    fn from(Embedding { from_end }: Embedding) -> Self {
        from_end.then_some(Written { from_end })
    }
}

impl Embedding {
    /// The row of a table of `rows` that an id stands for; `None` if it is outside.
    pub(crate) fn row(self, id: i32, rows: usize) -> Option<usize> {
        let id = i64::from(id);
        let from_start = if self.from_end && id < 0 { id + i64::try_from(rows).ok()? } else { id };
        usize::try_from(from_start).ok().filter(|row| *row < rows)
    }
}

impl Operator for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn module_type(&self) -> Option<&'static str> {
        Some("Embedding")
    }

    fn parameter_names(&self) -> &'static [&'static str] {
        &["", "weight"]
    }

    fn infer(&self, inputs: &Operands<'_>) -> Result<TensorType, OpError> {
        inputs.expect_dtypes(&[DType::I32, DType::F32])?;
        inputs.expect_fixed_rank(1, "table", 2, "2")?;
        Ok(TensorType::new(DType::F32, inputs.shape(0).append(inputs.shape(1).fixed_dims()[1])))
    }

    fn eval(&self, inputs: &Arguments<'_>) -> Result<Tensor, EvalError> {
        let (ids, table) = (inputs.tensor(0), inputs.tensor(1).shape());
        let (rows, cols) = (table[0], table[1]);
        let mut y = Vec::with_capacity(ids.len() * cols);
        for (index, &id) in inputs.i32s(0).iter().enumerate() {
            match self.row(id, rows) {
                Some(row) => y.extend_from_slice(&inputs.f32s(1)[row * cols..][..cols]),
                None => return Err(EvalError::Id { index, id, rows }),
            }
        }
        Ok(tensor(ids.shape().iter().copied().chain([cols]).collect(), y))
    }
    fn parameters(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.from_end { " from end" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Op;

    #[test]
    fn rows_of_ids() {
        for (id, from_start, from_end) in
            [(0, Some(0), Some(0)), (4, Some(4), Some(4)), (5, None, None), (-1, None, Some(4)), (-5, None, Some(0))]
        {
            assert_eq!(Embedding::default().row(id, 5), from_start, "{id}");
            assert_eq!(Embedding { from_end: true }.row(id, 5), from_end, "{id}");
        }
        for id in [-6, i32::MIN, i32::MAX] {
            assert_eq!(Embedding { from_end: true }.row(id, 5), None, "{id}");
        }
    }

    /// Lookups without ids from the end are written as they were before there were any.
    #[test]
    fn written_as_before() {
        for (op, text) in [
            (Embedding::default(), r#"{"embedding":null}"#),
            (Embedding { from_end: true }, r#"{"embedding":{"from_end":true}}"#),
        ] {
            assert_eq!(serde_json::to_string(&Op::from(op)).expect("text"), text);
            assert_eq!(serde_json::from_str::<Op>(text).expect("an operator"), op.into());
        }
        assert_eq!(
            serde_json::from_str::<Op>(r#"{"embedding":{"from_end":false}}"#).expect("one"),
            Embedding::default().into()
        );
        assert!(serde_json::from_str::<Op>(r#"{"embedding":{"from_start":true}}"#).is_err());
    }
}

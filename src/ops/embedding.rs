//! Embedding: rows of a table by id.

use serde::{Deserialize, Serialize};

use super::error::{EvalError, OpError};
use super::operands::{Arguments, Operands, TensorType};
use super::operator::Operator;
use crate::values::slices::tensor;
use crate::values::{DType, Tensor};

/// Rows of an embedding table. Inputs: ids (`i32`) of any shape, table `[V, D]` of floats. The result appends an axis of length D to
/// the shape of the ids. An id outside the table is an error on the host; a GPU returns the nearest row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Embedding;

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
            match usize::try_from(id) {
                Ok(row) if row < rows => y.extend_from_slice(&inputs.f32s(1)[row * cols..][..cols]),
                _ => return Err(EvalError::Id { index, id, rows }),
            }
        }
        Ok(tensor(ids.shape().iter().copied().chain([cols]).collect(), y))
    }
}

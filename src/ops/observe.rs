//! Observation of values while a prepared graph is calibrated.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::error::{EvalError, OpError};
use super::operands::{Arguments, Operands, TensorType};
use super::operator::Operator;
use crate::values::{DType, Tensor};

/// The identifier of an observer of a prepared graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ObserverId(pub usize);

/// The input, unchanged, which an observer sees. Input and output: floats of any shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observe {
    /// The observer of the prepared graph.
    pub observer: ObserverId,
}

impl Operator for Observe {
    fn name(&self) -> &'static str {
        "observe"
    }

    fn infer(&self, inputs: &Operands<'_>) -> Result<TensorType, OpError> {
        inputs.expect_floats(1)?;
        Ok(TensorType::new(DType::F32, inputs.shape(0).clone()))
    }

    fn eval(&self, inputs: &Arguments<'_>) -> Result<Tensor, EvalError> {
        Ok(inputs.tensor(0).clone())
    }

    fn parameters(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " observer {}", self.observer.0)
    }

    fn is_step(&self) -> bool {
        false
    }
}

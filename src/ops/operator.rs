//! The interface of operators.

use std::fmt;

use super::error::{EvalError, OpError};
use super::operands::{Arguments, Operands, TensorType};
use crate::values::Tensor;

/// The properties and the evaluation of an operator, which depend on no engine.
pub(crate) trait Operator {
    /// Returns the name in listings and in configurations by operator type.
    fn name(&self) -> &'static str;

    /// Infers shape and type of the result.
    fn infer(&self, inputs: &Operands<'_>) -> Result<TensorType, OpError>;

    /// Computes the result, by the scalar equations. No method of the trait's objects, so that programs that never evaluate an operator
    /// do not contain the evaluation of all.
    fn eval(&self, inputs: &Arguments<'_>) -> Result<Tensor, EvalError>
    where
        Self: Sized;

    /// Returns the PyTorch module that the operator is, if that module has parameters: `"Linear"`.
    fn module_type(&self) -> Option<&'static str> {
        None
    }

    /// Returns the names that the inputs have as parameters of that module, in the order of the inputs; empty for other inputs.
    fn parameter_names(&self) -> &'static [&'static str] {
        &[]
    }

    /// Writes the parameters that follow the name in a listing. Each begins with a space. No method of the trait's objects, so that programs
    /// that list no operator do not contain the parameters of all.
    fn parameters(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result
    where
        Self: Sized,
    {
        Ok(())
    }

    /// Whether each element of the result is an element of an input, unchanged, so that the operator works on any type and quantized
    /// values keep their scale and zero point.
    fn moves_values(&self) -> bool {
        false
    }

    /// Changes the operator so that it computes the same of inputs whose axes are permuted, and gives the result permuted likewise: axis
    /// `i` is the former axis `perm[i]`. `None` if there is no such operator.
    fn permute(&mut self, _perm: &[usize]) -> Option<Aligned> {
        None
    }

    /// Whether the operator belongs to the integer form of a graph: it computes with quantized values.
    fn is_integer(&self) -> bool {
        false
    }

    /// Whether the operator sums products with a weight or with another activation: a layer of a network.
    fn is_layer(&self) -> bool {
        false
    }

    /// Whether a step of a program computes the operator as it is. Lowering fuses or decomposes all others.
    fn is_step(&self) -> bool {
        true
    }
}

/// The inputs of an operator that are permuted with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Aligned {
    /// All inputs, which broadcast.
    All,
    /// The first; the others stay as they are.
    First,
}

/// Returns the place of an axis after a permutation.
pub(super) fn moved(perm: &[usize], axis: usize) -> usize {
    perm.iter().position(|&from| from == axis).unwrap_or(axis)
}

//! The checks that inference makes, each naming the node and both numbers.

use crate::graph::{GraphError, Node};
use crate::qparams::TensorQParams;
use crate::tensor::{DType, Shape};

/// One node's inputs, and the checks that name it.
pub(super) struct Check<'n> {
    pub(super) name: &'n str,
    pub(super) inputs: &'n [&'n Node],
}

impl Check<'_> {
    pub(super) fn shape(&self, input: usize) -> &Shape {
        &self.inputs[input].shape
    }

    pub(super) fn arity(&self, expected: usize) -> Result<(), GraphError> {
        let actual = self.inputs.len();
        if actual == expected {
            return Ok(());
        }
        Err(GraphError::Arity { node: self.name.to_owned(), actual, expected })
    }

    pub(super) fn dtype(&self, input: usize, expected: DType) -> Result<(), GraphError> {
        let actual = self.inputs[input].dtype;
        if actual == expected {
            return Ok(());
        }
        Err(GraphError::DType { node: self.name.to_owned(), input, actual, expected })
    }

    pub(super) fn floats(&self, arity: usize) -> Result<(), GraphError> {
        self.arity(arity)?;
        (0..arity).try_for_each(|i| self.dtype(i, DType::F32))
    }

    pub(super) fn int8s(&self, arity: usize) -> Result<(), GraphError> {
        self.arity(arity)?;
        (0..arity).try_for_each(|i| self.dtype(i, DType::I8))
    }

    /// int8 codes, or the `i32` ones of a bias.
    pub(super) fn codes(&self, input: usize) -> Result<(), GraphError> {
        if self.inputs[input].dtype == DType::I32 { Ok(()) } else { self.dtype(input, DType::I8) }
    }

    pub(super) fn code_range(&self, lo: i32, hi: i32) -> Result<(), GraphError> {
        let inside = |c: i32| i8::try_from(c).is_ok();
        if inside(lo) && inside(hi) && lo <= hi {
            return Ok(());
        }
        Err(self.parameter("codes", format!("{lo}..={hi}"), "a range of int8"))
    }

    pub(super) fn zero_point(&self, zero_point: i32) -> Result<(), GraphError> {
        crate::qparams::QuantRange::INT8.check_zero_point(zero_point).map_err(|source| self.qparams(source))
    }

    pub(super) fn size(&self, what: &'static str, actual: usize, expected: usize) -> Result<(), GraphError> {
        if actual == expected {
            return Ok(());
        }
        Err(GraphError::Size { node: self.name.to_owned(), what, actual, expected })
    }

    pub(super) fn fixed_rank(
        &self,
        input: usize,
        what: &'static str,
        rank: usize,
        expected: &'static str,
    ) -> Result<(), GraphError> {
        let shape = self.shape(input);
        if shape.is_batched() {
            return Err(self.batch("takes a parameter that varies with the batch"));
        }
        if shape.rank() == rank { Ok(()) } else { Err(self.rank(what, shape, expected)) }
    }

    /// The length of an axis that exists and is not the batch.
    pub(super) fn inner_axis(&self, shape: &Shape, axis: usize) -> Result<usize, GraphError> {
        if shape.is_batched() && axis == 0 {
            return Err(self.batch("works along the batch"));
        }
        shape.axis(axis).ok_or_else(|| self.parameter("axis", axis, "must be one of the input's axes"))
    }

    pub(super) fn channels(&self, qparams: &TensorQParams) -> Result<(), GraphError> {
        let TensorQParams::PerChannel { channels, ch_axis } = qparams else { return Ok(()) };
        let expected = self.inner_axis(self.shape(0), *ch_axis)?;
        self.size("number of channel scales", channels.len(), expected)
    }

    pub(super) fn eps(&self, eps: f32) -> Result<(), GraphError> {
        if eps.is_finite() && eps >= 0.0 {
            return Ok(());
        }
        Err(self.parameter("eps", eps, "must be finite and not negative"))
    }

    pub(super) fn rank(&self, what: &'static str, shape: &Shape, expected: &'static str) -> GraphError {
        GraphError::Rank { node: self.name.to_owned(), what, actual: shape.rank(), expected }
    }

    pub(super) fn batch(&self, problem: &'static str) -> GraphError {
        GraphError::Batch { node: self.name.to_owned(), problem }
    }

    pub(super) fn qparams(&self, source: crate::qparams::QParamsError) -> GraphError {
        GraphError::QParams { node: self.name.to_owned(), source }
    }

    pub(super) fn parameter(&self, what: &'static str, value: impl ToString, rule: &'static str) -> GraphError {
        GraphError::Parameter { node: self.name.to_owned(), what, value: value.to_string(), rule }
    }
}

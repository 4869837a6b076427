//! Errors of the passes for accuracy.

use crate::graph::GraphError;
use crate::interp::InterpError;
use crate::quantize::{ObserverError, PrepareError};

/// A pass could not collect statistics, or could not be applied.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AccuracyError {
    /// A value in calibration is NaN or infinite.
    #[error("{node}: element {index} of its value in calibration is {value}")]
    NonFinite {
        /// The node.
        node: String,
        /// The row-major index of the element.
        index: usize,
        /// The element.
        value: f32,
    },
    /// Statistics are of another graph.
    #[error("the statistics are of another graph: {problem}")]
    OtherGraph {
        /// The first difference.
        problem: String,
    },
    /// No batch was observed.
    #[error("no batch was observed; call observe with calibration data first")]
    NoData,
    /// An option is outside its range.
    #[error("{what} is {value}, must be in {min}..={max}")]
    Parameter {
        /// The option.
        what: &'static str,
        /// Its value.
        value: f64,
        /// The smallest value.
        min: f64,
        /// The largest value.
        max: f64,
    },
    /// The second moments of a layer's inputs are not positive definite, although they were damped.
    #[error(
        "{layer}: the second moments of its {features} inputs have no Cholesky factor with a damping of {damping}; raise the damping"
    )]
    Singular {
        /// The layer.
        layer: String,
        /// Its input features.
        features: usize,
        /// The damping, as a share of the mean of the diagonal.
        damping: f64,
    },
    /// A run failed.
    #[error(transparent)]
    Interp(#[from] InterpError),
    /// A graph could not be rebuilt.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// An observer has no parameters.
    #[error("{node}: {source}")]
    Observer {
        /// The value that it observes.
        node: String,
        /// Its error.
        source: ObserverError,
    },
    /// A prepared graph could not be edited.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
}

impl AccuracyError {
    /// Refuses an option that is outside its range.
    pub(super) fn check(what: &'static str, value: f64, min: f64, max: f64) -> Result<(), Self> {
        if (min..=max).contains(&value) { Ok(()) } else { Err(Self::Parameter { what, value, min, max }) }
    }
}

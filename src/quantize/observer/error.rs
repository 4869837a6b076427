//! Errors of observers.

use crate::quantize::spec::ObserverKind;
use crate::values::{DType, QParamsError, QScheme};

/// An observer refused a tensor, or has no qparams.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ObserverError {
    /// A value is NaN or infinite. The statistics are as before.
    #[error("element {index} is {value}; observed values must be finite")]
    NonFinite {
        /// Row-major index of the first such value.
        index: usize,
        /// The value.
        value: f32,
    },
    /// The tensor is not float.
    #[error("the tensor is {actual}, expected f32")]
    DType {
        /// Its type.
        actual: DType,
    },
    /// The channel axis does not exist or has changed its length.
    #[error("{actual} channels on axis {ch_axis}, expected {expected}")]
    Channels {
        /// The channel axis.
        ch_axis: usize,
        /// Channels of this tensor, 0 if it lacks the axis.
        actual: usize,
        /// Channels seen before, at least 1.
        expected: usize,
    },
    /// The tensor has no rows to divide into groups, or other groups than before.
    #[error("{actual} groups of {size}, expected {expected}")]
    Groups {
        /// Elements in a group.
        size: usize,
        /// Groups of this tensor, 0 if it has no axis.
        actual: usize,
        /// Groups seen before, at least 1.
        expected: usize,
    },
    /// Nothing has been observed.
    #[error("nothing has been observed")]
    Uncalibrated,
    /// A histogram has no channels.
    #[error("a histogram observes whole tensors; per channel, use ObserverKind::MinMax")]
    PerChannelHistogram,
    /// A scheme that its observer cannot serve.
    #[error("{qscheme} is not a scheme for the observer {observer}")]
    Scheme {
        /// The scheme.
        qscheme: QScheme,
        /// The observer.
        observer: ObserverKind,
    },
    /// The bits of the scheme do not hold the range of quantized values.
    #[error(transparent)]
    Bits {
        /// The bits and the range.
        source: QParamsError,
    },
    /// A parameter of the observer is out of its range.
    #[error("{what} is {value}, expected {min} to {max}")]
    Parameter {
        /// The parameter.
        what: &'static str,
        /// Its value.
        value: f32,
        /// The smallest allowed.
        min: f32,
        /// The largest allowed.
        max: f32,
    },
    /// The qparams are computed at run time, not before.
    #[error("it is quantized dynamically: its parameters are not known before it is")]
    Dynamic,
    /// The parameters come from other observers; the prepared graph asks those.
    #[error("its parameters are derived from those of other values")]
    Derived,
    /// A rule gave no parameters.
    #[error("no parameters could be derived: {reason}")]
    Rule {
        /// The reason that the rule gave.
        reason: String,
    },
    /// Two observers of different specs cannot be merged.
    #[error("an observer of {this} cannot be merged with one of {other}")]
    MergeSpecs {
        /// The spec of this observer.
        this: String,
        /// The spec of the other.
        other: String,
    },
    /// Parameters that were trained cannot be merged.
    #[error("its parameters were trained, and those of the other are not the same")]
    MergeTrained,
    /// Moving averages cannot be merged.
    #[error(
        "moving averages depend on the order of the batches, so two of them cannot be merged; use min/max or a histogram"
    )]
    MergeMovingAverage,
    /// The range leads to unusable parameters.
    #[error("range {min:e}..={max:e}: {source}")]
    QParams {
        /// Smallest value seen.
        min: f32,
        /// Largest value seen.
        max: f32,
        /// The problem.
        source: QParamsError,
    },
}

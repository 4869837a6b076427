//! Quantization specs: how one value is quantized.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::annotation::EdgeOrNode;
use crate::values::{QParams, QScheme, QuantRange, TensorQParams};

/// The statistics that an observer keeps. The [`QScheme`] decides the granularity.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ObserverKind {
    /// The smallest and largest value seen, of the tensor or of each channel.
    MinMax,
    /// Moving averages of the smallest and the largest value of each batch: `average += averaging_constant · (value − average)`.
    MovingAverageMinMax {
        /// A number in 0..=1; 0.01 is usual. 1 keeps the last batch only.
        averaging_constant: f32,
    },
    /// A histogram of 2048 bins whose range is narrowed to where the quantization error is smallest. Per tensor only.
    Histogram,
    /// The histogram, narrowed to the values between two quantiles: `fraction` of the mass, cut equally at both ends. Per
    /// tensor only.
    Percentile {
        /// The share of the mass that is kept, in 0..=1; 0.9999 is usual.
        fraction: f32,
    },
    /// The histogram, narrowed to the window with the smallest mean squared error of all windows that shrink both ends by
    /// the same share, and each end alone. Per tensor only.
    Mse,
    /// No statistics: scale and zero point are computed from each value at run time. This is dynamic quantization.
    Placeholder,
}

impl ObserverKind {
    /// A moving average with PT2E's constant, 0.01.
    pub const MOVING_AVERAGE: Self = Self::MovingAverageMinMax { averaging_constant: 0.01 };

    /// 99.999 % of the values, the choice of `enfold quantize`.
    pub const PERCENTILE: Self = Self::Percentile { fraction: 0.999_99 };

    /// Whether the observer counts values in a histogram.
    pub(super) fn is_histogram(self) -> bool {
        matches!(self, Self::Histogram | Self::Percentile { .. } | Self::Mse)
    }
}

impl fmt::Display for ObserverKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MinMax => f.write_str("min/max"),
            Self::MovingAverageMinMax { averaging_constant } => write!(f, "moving average {averaging_constant}"),
            Self::Histogram => f.write_str("histogram"),
            Self::Percentile { fraction } => write!(f, "percentile {fraction}"),
            Self::Mse => f.write_str("least squares"),
            Self::Placeholder => f.write_str("dynamic"),
        }
    }
}

/// A spec by which an observer watches a tensor and derives its quantization parameters.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ObservedSpec {
    /// The range of quantized values.
    pub range: QuantRange,
    /// Granularity, symmetry and bits, which must hold `range`; per token for dynamic quantization only.
    pub qscheme: QScheme,
    /// The statistics kept.
    pub observer: ObserverKind,
    /// The smallest scale that may result.
    pub eps: f32,
}

impl ObservedSpec {
    /// Whether scale and zero point are computed at run time.
    #[must_use]
    pub fn is_dynamic(&self) -> bool {
        self.observer == ObserverKind::Placeholder
    }
}

/// A spec of constant quantization parameters, for known ranges such as a sigmoid's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct FixedQParamsSpec {
    /// Scale and zero point.
    pub qparams: QParams,
    /// The range of quantized values.
    pub range: QuantRange,
}

/// A spec that derives the parameters from those of other points, when the graph is converted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DerivedSpec {
    /// The points, in the order in which the rule takes them.
    pub derived_from: Vec<EdgeOrNode>,
    /// The function that derives them.
    pub rule: DerivedRule,
    /// The range of quantized values; [`QuantRange::INT32`] for a bias.
    pub range: QuantRange,
}

/// A function from the parameters of other points to those of this one, or the reason why there are none.
pub type DeriveFn = Arc<dyn Fn(&[TensorQParams]) -> Result<TensorQParams, String> + Send + Sync>;

/// A rule that derives qparams from those of other points.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DerivedRule {
    /// Scale `s_x · s_w` in `f32`, for each channel if the weight is quantized per channel, and zero point 0: the `i32` bias of
    /// a linear layer. It is derived from the input and the weight of the layer, in this order.
    BiasScale,
    /// A function of the caller. A prepared graph that has one cannot be saved.
    #[serde(skip)]
    Custom(DeriveFn),
}

impl fmt::Debug for DerivedRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BiasScale => "BiasScale",
            Self::Custom(_) => "Custom",
        })
    }
}

impl PartialEq for DerivedRule {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::BiasScale, Self::BiasScale) => true,
            (Self::Custom(a), Self::Custom(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

/// The spec of one value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum QuantizationSpec {
    /// The value has its own observer.
    Observed(ObservedSpec),
    /// The qparams are given.
    #[serde(rename = "fixed_qparams")]
    FixedQParams(FixedQParamsSpec),
    /// The value has the observer of another point.
    Shared(EdgeOrNode),
    /// The qparams are a function of those of other points.
    Derived(DerivedSpec),
}

impl QuantizationSpec {
    /// Whether scale and zero point are computed at run time.
    #[must_use]
    pub fn is_dynamic(&self) -> bool {
        matches!(self, Self::Observed(spec) if spec.is_dynamic())
    }

    /// The elements in a group, if the value is quantized group-wise.
    pub(super) fn group_size(&self) -> Option<usize> {
        match self {
            Self::Observed(spec) => spec.qscheme.group_size(),
            _ => None,
        }
    }

    /// Whether two points with these specs can have one observer: everything but the observer's kind agrees. When two specs
    /// that differ only in it merge, the first point decides.
    pub(super) fn agrees(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Observed(a), Self::Observed(b)) => {
                (a.range, a.qscheme, a.is_dynamic()) == (b.range, b.qscheme, b.is_dynamic())
            }
            _ => self == other,
        }
    }
}

impl From<ObservedSpec> for QuantizationSpec {
    fn from(spec: ObservedSpec) -> Self {
        Self::Observed(spec)
    }
}

impl From<FixedQParamsSpec> for QuantizationSpec {
    fn from(spec: FixedQParamsSpec) -> Self {
        Self::FixedQParams(spec)
    }
}

impl From<DerivedSpec> for QuantizationSpec {
    fn from(spec: DerivedSpec) -> Self {
        Self::Derived(spec)
    }
}

/// One line, for summaries and messages.
impl fmt::Display for QuantizationSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Observed(spec) => write!(f, "{} {} {}", spec.range, spec.qscheme, spec.observer),
            Self::FixedQParams(spec) => {
                let (scale, zero_point) = (spec.qparams.scale(), spec.qparams.zero_point());
                write!(f, "{} fixed scale {scale:e} zero point {zero_point}", spec.range)
            }
            Self::Shared(_) => f.write_str("shared"),
            Self::Derived(spec) => write!(f, "{} derived by {:?}", spec.range, spec.rule),
        }
    }
}

//! How a value is to be quantized.

use super::annotation::EdgeOrNode;
use crate::qparams::{QScheme, QuantRange};

/// Which statistics an observer keeps. Granularity comes from the [`QScheme`], not from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ObserverKind {
    /// The smallest and largest value seen, of the tensor or of each channel.
    MinMax,
    /// A histogram of 2048 bins whose range is narrowed to where the quantization error is smallest. Per tensor only.
    Histogram,
}

/// "Observe this tensor and derive its quantization parameters."
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ObservedSpec {
    /// The codes.
    pub range: QuantRange,
    /// Symmetric or affine, per tensor or per channel.
    pub qscheme: QScheme,
    /// The statistics kept.
    pub observer: ObserverKind,
    /// The smallest scale that may result.
    pub eps: f32,
}

/// How one value is quantized.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum QuantizationSpec {
    /// By its own observer.
    Observed(ObservedSpec),
    /// By the very observer of another point.
    Shared(EdgeOrNode),
}

impl From<ObservedSpec> for QuantizationSpec {
    fn from(spec: ObservedSpec) -> Self {
        Self::Observed(spec)
    }
}

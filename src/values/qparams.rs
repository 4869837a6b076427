//! Quantization parameters: scale, zero point and range of quantized values, checked where they are made.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{DType, GroupQParams, Number};

/// The reason why quantization parameters were refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum QParamsError {
    /// The scale, or its reciprocal, is not a positive normal `f32`.
    #[error(
        "scale {:e} is not usable: a scale is a positive normal f32 between {:e} and {:e}",
        Number(*scale), Number(MIN_SCALE), Number(MAX_SCALE)
    )]
    Scale {
        /// The refused scale.
        scale: f32,
    },
    /// The zero point is not a quantized value of the range.
    #[error("zero point {zero_point} is outside the quantized range {quant_min}..={quant_max}")]
    ZeroPoint {
        /// The refused zero point.
        zero_point: i32,
        /// Smallest quantized value.
        quant_min: i32,
        /// Largest quantized value.
        quant_max: i32,
    },
    /// The range does not fit int8, does not contain 0, or is empty.
    #[error(
        "quantized range {quant_min}..={quant_max} is not usable: it must contain 0, hold two values and fit -128..=127"
    )]
    Range {
        /// Smallest quantized value.
        quant_min: i32,
        /// Largest quantized value.
        quant_max: i32,
    },
    /// A scheme whose bits are not 2 to 8, or do not hold the range of quantized values.
    #[error("{bits} bits do not hold quantized values of {range}; a scheme has 2 to 8 bits")]
    Bits {
        /// The bits of the scheme.
        bits: u32,
        /// The range of quantized values.
        range: QuantRange,
    },
    /// Groups whose size is not a multiple of 4, or not at least 4.
    #[error("groups of {size} elements: a size is a multiple of 4, such as 32, 64 or 128")]
    GroupSize {
        /// Elements in a group.
        size: usize,
    },
    /// The vectors of a group-wise scheme do not make whole rows of groups.
    #[error("{actual} {what} of groups, expected {expected}")]
    GroupCount {
        /// What is counted.
        what: &'static str,
        /// Their number.
        actual: usize,
        /// The right number.
        expected: usize,
    },
    /// The integer scale of a group is 0.
    #[error("the integer scale of group {group} is 0, expected 1 to 255")]
    GroupMultiplier {
        /// The number of the group, row by row.
        group: usize,
    },
    /// The vectors of a per-channel scheme differ in length.
    #[error("{scales} scales but {zero_points} zero points")]
    ChannelCount {
        /// Number of scales.
        scales: usize,
        /// Number of zero points.
        zero_points: usize,
    },
}

/// The smallest usable scale, 2⁻¹²⁴: below it a GPU that flushes subnormals to zero could quantize an input differently.
pub const MIN_SCALE: f32 = f32::MIN_POSITIVE * 4.0;
/// The largest usable scale, 2¹²⁴: above it the reciprocal approaches the subnormals.
pub const MAX_SCALE: f32 = 1.0 / MIN_SCALE;

/// One scale and one zero point: `real = scale · (q − zero_point)`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "UncheckedQParams", into = "UncheckedQParams")]
pub struct QParams {
    scale: f32,
    zero_point: i32,
}

impl QParams {
    /// Checks that `scale` is a positive normal number whose reciprocal is one too, and that `zero_point` is an int8 value.
    ///
    /// # Errors
    /// Returns [`QParamsError::Scale`] or [`QParamsError::ZeroPoint`] for the first that is not.
    pub fn new(scale: f32, zero_point: i32) -> Result<Self, QParamsError> {
        if !(MIN_SCALE..=MAX_SCALE).contains(&scale) {
            return Err(QParamsError::Scale { scale });
        }
        QuantRange::INT8.check_zero_point(zero_point)?;
        Ok(Self { scale, zero_point })
    }

    /// Returns the scale: real units per integer step.
    #[must_use]
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// Returns `1 / scale`, the factor of equation 2, in steps per real unit.
    #[must_use]
    pub fn inv_scale(&self) -> f32 {
        1.0 / self.scale
    }

    /// Returns the quantized value of real 0.
    #[must_use]
    pub fn zero_point(&self) -> i32 {
        self.zero_point
    }
}

/// Parameters in a file, which are checked when they are read.
#[derive(Serialize, Deserialize)]
struct UncheckedQParams {
    scale: f32,
    zero_point: i32,
}

impl TryFrom<UncheckedQParams> for QParams {
    type Error = QParamsError;

    fn try_from(unchecked: UncheckedQParams) -> Result<Self, QParamsError> {
        Self::new(unchecked.scale, unchecked.zero_point)
    }
}

impl From<QParams> for UncheckedQParams {
    fn from(QParams { scale, zero_point }: QParams) -> Self {
        Self { scale, zero_point }
    }
}

/// The range of quantized values that a tensor may hold, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "[i32; 2]", into = "[i32; 2]")]
pub struct QuantRange {
    quant_min: i32,
    quant_max: i32,
}

impl QuantRange {
    /// All of int8, `-128..=127`: activations.
    pub const INT8: Self = Self { quant_min: -128, quant_max: 127 };
    /// `-127..=127`: weights, so that a symmetric scale maps ±max to ±127.
    pub const INT8_NARROW: Self = Self { quant_min: -127, quant_max: 127 };

    /// All of `i32`, with zero point 0: biases whose parameters are derived from those of their layer.
    pub const INT32: Self = Self { quant_min: i32::MIN, quant_max: i32::MAX };

    /// Returns the type that holds the quantized values.
    #[must_use]
    pub fn dtype(&self) -> DType {
        if *self == Self::INT32 { DType::I32 } else { DType::I8 }
    }

    /// Creates a range inside int8 that contains 0 and at least two values.
    ///
    /// # Errors
    /// Returns [`QParamsError::Range`] if it is not such a range.
    pub fn new(quant_min: i32, quant_max: i32) -> Result<Self, QParamsError> {
        let inside = quant_min >= i32::from(i8::MIN) && quant_max <= i32::from(i8::MAX);
        if !inside || quant_min > 0 || quant_max < 0 || quant_min >= quant_max {
            return Err(QParamsError::Range { quant_min, quant_max });
        }
        Ok(Self { quant_min, quant_max })
    }

    /// Returns the smallest quantized value.
    #[must_use]
    pub fn quant_min(&self) -> i32 {
        self.quant_min
    }

    /// Returns the largest quantized value.
    #[must_use]
    pub fn quant_max(&self) -> i32 {
        self.quant_max
    }

    /// Returns the smallest number of bits, at least 2, whose two's complement holds the range: 4 for `-8..=7` and for `-7..=7`.
    #[must_use]
    pub fn bits(&self) -> u32 {
        let magnitude_bits = |v: i32| i32::BITS - (if v < 0 { !v } else { v }).leading_zeros();
        (magnitude_bits(self.quant_min).max(magnitude_bits(self.quant_max)) + 1).max(2)
    }

    /// Checks that `zero_point` is in the range.
    ///
    /// # Errors
    /// Returns [`QParamsError::ZeroPoint`] if it is not.
    pub fn check_zero_point(&self, zero_point: i32) -> Result<(), QParamsError> {
        let Self { quant_min, quant_max } = *self;
        if (quant_min..=quant_max).contains(&zero_point) {
            Ok(())
        } else {
            Err(QParamsError::ZeroPoint { zero_point, quant_min, quant_max })
        }
    }
}

impl TryFrom<[i32; 2]> for QuantRange {
    type Error = QParamsError;

    fn try_from([quant_min, quant_max]: [i32; 2]) -> Result<Self, QParamsError> {
        if [quant_min, quant_max] == <[i32; 2]>::from(Self::INT32) {
            return Ok(Self::INT32);
        }
        Self::new(quant_min, quant_max)
    }
}

impl From<QuantRange> for [i32; 2] {
    fn from(range: QuantRange) -> Self {
        [range.quant_min, range.quant_max]
    }
}

impl fmt::Display for QuantRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..={}", self.quant_min, self.quant_max)
    }
}

/// The quantization parameters of a whole tensor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "UncheckedTensorQParams", into = "UncheckedTensorQParams")]
#[non_exhaustive]
pub enum TensorQParams {
    /// One scale and zero point for all elements.
    PerTensor(QParams),
    /// One scale and zero point for each index of `ch_axis`.
    PerChannel {
        /// One entry per channel.
        channels: Arc<[QParams]>,
        /// The axis that is indexed by channel.
        ch_axis: usize,
    },
    /// One scale and zero point for each group of neighbours along the last axis.
    PerGroup(GroupQParams),
}

impl TensorQParams {
    /// Builds per-channel parameters from parallel vectors, as files and observers hold them.
    ///
    /// # Errors
    /// Returns [`QParamsError`] for the first channel that is not valid, or for vectors of different lengths.
    pub fn per_channel(scales: &[f32], zero_points: &[i32], ch_axis: usize) -> Result<Self, QParamsError> {
        if scales.len() != zero_points.len() {
            return Err(QParamsError::ChannelCount { scales: scales.len(), zero_points: zero_points.len() });
        }
        let channels =
            scales.iter().zip(zero_points).map(|(&s, &z)| QParams::new(s, z)).collect::<Result<Arc<[_]>, _>>()?;
        Ok(Self::PerChannel { channels, ch_axis })
    }

    /// Returns the parameters of the tensor, of each channel, or of each group, row by row.
    #[must_use]
    pub fn channels(&self) -> &[QParams] {
        match self {
            Self::PerTensor(qparams) => std::slice::from_ref(qparams),
            Self::PerChannel { channels, .. } => channels,
            Self::PerGroup(groups) => groups.groups(),
        }
    }

    /// Returns the parameters of the whole tensor; `None` if each channel or group has its own.
    #[must_use]
    pub fn per_tensor(&self) -> Option<QParams> {
        match self {
            Self::PerTensor(qparams) => Some(*qparams),
            Self::PerChannel { .. } | Self::PerGroup(_) => None,
        }
    }

    /// Checks that every zero point is in `range`.
    ///
    /// # Errors
    /// Returns [`QParamsError::ZeroPoint`] for the first that is not.
    pub fn check_range(&self, range: QuantRange) -> Result<(), QParamsError> {
        self.channels().iter().try_for_each(|q| range.check_zero_point(q.zero_point))
    }
}

impl From<QParams> for TensorQParams {
    fn from(qparams: QParams) -> Self {
        Self::PerTensor(qparams)
    }
}

/// Parameters in a file, which are checked when they are read.
#[derive(Serialize, Deserialize)]
enum UncheckedTensorQParams {
    #[serde(rename = "per_tensor")]
    Tensor { scale: f32, zero_point: i32 },
    #[serde(rename = "per_channel")]
    Channel { scales: Vec<f32>, zero_points: Vec<i32>, ch_axis: usize },
    #[serde(rename = "per_group")]
    Group(GroupQParams),
}

impl TryFrom<UncheckedTensorQParams> for TensorQParams {
    type Error = QParamsError;

    fn try_from(unchecked: UncheckedTensorQParams) -> Result<Self, QParamsError> {
        match unchecked {
            UncheckedTensorQParams::Tensor { scale, zero_point } => {
                QParams::new(scale, zero_point).map(Self::PerTensor)
            }
            UncheckedTensorQParams::Channel { scales, zero_points, ch_axis } => {
                Self::per_channel(&scales, &zero_points, ch_axis)
            }
            UncheckedTensorQParams::Group(groups) => Ok(Self::PerGroup(groups)),
        }
    }
}

impl From<TensorQParams> for UncheckedTensorQParams {
    fn from(qparams: TensorQParams) -> Self {
        match qparams {
            TensorQParams::PerTensor(QParams { scale, zero_point }) => Self::Tensor { scale, zero_point },
            TensorQParams::PerChannel { channels, ch_axis } => {
                let (scales, zero_points) = channels.iter().map(|q| (q.scale, q.zero_point)).unzip();
                Self::Channel { scales, zero_points, ch_axis }
            }
            TensorQParams::PerGroup(groups) => Self::Group(groups),
        }
    }
}

impl fmt::Display for TensorQParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PerTensor(q) => write!(f, "scale {:e} zero_point {}", q.scale, q.zero_point),
            Self::PerChannel { channels, ch_axis } => {
                let (lo, hi) = ends_of_scales(channels);
                write!(f, "{} scales {lo:e}..={hi:e} on axis {ch_axis}", channels.len())
            }
            Self::PerGroup(groups) => {
                let (count, (lo, hi)) = (groups.groups().len(), ends_of_scales(groups.groups()));
                write!(f, "{count} scales {lo:e}..={hi:e} of groups of {}", groups.size())
            }
        }
    }
}

/// The smallest and the largest scale.
fn ends_of_scales(qparams: &[QParams]) -> (f32, f32) {
    qparams.iter().fold((f32::MAX, 0f32), |(lo, hi), q| (lo.min(q.scale), hi.max(q.scale)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_must_be_normal_with_a_normal_reciprocal() {
        for scale in [0.0, -1.0, f32::NAN, f32::INFINITY, 1e-40, f32::MIN_POSITIVE, 3e38] {
            assert!(matches!(QParams::new(scale, 0), Err(QParamsError::Scale { .. })), "{scale}");
        }
        for scale in [MIN_SCALE, 1.0, MAX_SCALE] {
            assert!(QParams::new(scale, 0).is_ok_and(|q| q.inv_scale().is_normal()), "{scale}");
        }
    }

    #[test]
    fn ranges_hold_zero_and_fit_int8() {
        for (lo, hi) in [(-129, 127), (-128, 128), (1, 5), (-5, -1), (0, 0), (5, -5)] {
            assert_eq!(QuantRange::new(lo, hi), Err(QParamsError::Range { quant_min: lo, quant_max: hi }));
        }
        assert!(QuantRange::new(-8, 7).is_ok());
        for (lo, hi, bits) in
            [(-1, 1, 2), (-2, 1, 2), (0, 3, 3), (-3, 3, 3), (-7, 7, 4), (-8, 7, 4), (-8, 8, 5), (-128, 127, 8)]
        {
            assert_eq!(QuantRange::new(lo, hi).map(|range| range.bits()), Ok(bits), "{lo}..={hi}");
        }
        assert_eq!(QuantRange::INT32.bits(), 32);
        assert!(QParams::new(1.0, 128).is_err());
    }

    #[test]
    fn per_channel_vectors_match() {
        assert!(matches!(
            TensorQParams::per_channel(&[1.0, 2.0], &[0], 0),
            Err(QParamsError::ChannelCount { scales: 2, zero_points: 1 })
        ));
    }
}

//! Quantization schemes: how many scales a tensor has, whether its zero points are 0, and how many bits its values take.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{QParamsError, QuantRange};

/// The elements of a tensor that share one scale and zero point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Granularity {
    /// All elements.
    Tensor,
    /// The elements with the same index along an axis.
    Channel {
        /// The channel axis.
        axis: usize,
    },
    /// The elements of one row of the last axis. For dynamic quantization only.
    Token,
    /// Each run of `size` elements along the last axis, which is the input features of a linear layer's weight. The last group of a row
    /// may be shorter.
    Group {
        /// The axis that is divided into groups: the last one.
        axis: usize,
        /// Elements in a group: a multiple of 4.
        size: usize,
    },
}

/// Whether zero points are free or 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Symmetry {
    /// The zero point is chosen, so that the range of real values may be one-sided.
    Affine,
    /// The zero point is 0.
    Symmetric,
}

/// A quantization scheme of a tensor: its granularity, symmetry and bits are independent of each other.
///
/// ```
/// use enfold::values::{Granularity, QScheme, Symmetry};
///
/// let scheme = QScheme::per_channel_symmetric(0).with_bits(4);
/// assert_eq!(scheme.granularity, Granularity::Channel { axis: 0 });
/// assert_eq!((scheme.symmetry, scheme.bits), (Symmetry::Symmetric, 4));
/// assert_eq!(scheme.to_string(), "per channel (axis 0) symmetric");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct QScheme {
    /// The elements that share one scale and zero point.
    pub granularity: Granularity,
    /// Whether the zero point is 0.
    pub symmetry: Symmetry,
    /// The bits that hold a quantized value, 2 to 8.
    pub bits: u32,
}

impl QScheme {
    const fn new(granularity: Granularity, symmetry: Symmetry) -> Self {
        Self { granularity, symmetry, bits: 8 }
    }

    /// Returns a scheme of one scale and zero point for the tensor, 8 bits.
    #[must_use]
    pub const fn per_tensor_affine() -> Self {
        Self::new(Granularity::Tensor, Symmetry::Affine)
    }

    /// Returns a scheme of one scale for the tensor, zero point 0, 8 bits.
    #[must_use]
    pub const fn per_tensor_symmetric() -> Self {
        Self::new(Granularity::Tensor, Symmetry::Symmetric)
    }

    /// Returns a scheme of a scale and zero point for each index of `axis`, 8 bits.
    #[must_use]
    pub const fn per_channel_affine(axis: usize) -> Self {
        Self::new(Granularity::Channel { axis }, Symmetry::Affine)
    }

    /// Returns a scheme of a scale for each index of `axis`, zero point 0, 8 bits.
    #[must_use]
    pub const fn per_channel_symmetric(axis: usize) -> Self {
        Self::new(Granularity::Channel { axis }, Symmetry::Symmetric)
    }

    /// Returns a scheme of a scale and zero point for each row of the last axis, 8 bits, for dynamic quantization only.
    #[must_use]
    pub const fn per_token_affine() -> Self {
        Self::new(Granularity::Token, Symmetry::Affine)
    }

    /// Returns a scheme of a scale for each group of `size` input features of a weight `[N, K]`, zero point 0, 8 bits.
    #[must_use]
    pub const fn per_group_symmetric(size: usize) -> Self {
        Self::new(Granularity::Group { axis: 1, size }, Symmetry::Symmetric)
    }

    /// Returns a scheme of a scale and zero point for each group of `size` input features of a weight `[N, K]`, 8 bits.
    #[must_use]
    pub const fn per_group_affine(size: usize) -> Self {
        Self::new(Granularity::Group { axis: 1, size }, Symmetry::Affine)
    }

    /// Returns the same scheme with another number of bits.
    #[must_use]
    pub const fn with_bits(self, bits: u32) -> Self {
        Self { bits, ..self }
    }

    /// Returns the channel axis of a per-channel scheme.
    #[must_use]
    pub fn ch_axis(&self) -> Option<usize> {
        match self.granularity {
            Granularity::Channel { axis } => Some(axis),
            _ => None,
        }
    }

    /// Returns the elements in a group of a group-wise scheme.
    #[must_use]
    pub fn group_size(&self) -> Option<usize> {
        match self.granularity {
            Granularity::Group { size, .. } => Some(size),
            _ => None,
        }
    }

    /// Whether each row of the last axis has its own scale and zero point.
    #[must_use]
    pub fn is_per_token(&self) -> bool {
        self.granularity == Granularity::Token
    }

    /// Whether the zero point is 0 by construction.
    #[must_use]
    pub fn is_symmetric(&self) -> bool {
        self.symmetry == Symmetry::Symmetric
    }

    /// Checks that the bits of this scheme are 2 to 8 and hold every value of `range`.
    ///
    /// # Errors
    /// Returns [`QParamsError::Bits`] if they are not.
    pub fn check_range(&self, range: QuantRange) -> Result<(), QParamsError> {
        if (2..=8).contains(&self.bits) && range.bits() <= self.bits {
            return Ok(());
        }
        Err(QParamsError::Bits { bits: self.bits, range })
    }
}

/// Granularity and symmetry; the range of quantized values, which messages give beside it, tells the bits.
impl fmt::Display for QScheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.granularity {
            Granularity::Tensor => f.write_str("per tensor ")?,
            Granularity::Channel { axis } => write!(f, "per channel (axis {axis}) ")?,
            Granularity::Token => f.write_str("per token ")?,
            Granularity::Group { axis, size } => write!(f, "per group of {size} (axis {axis}) ")?,
        }
        f.write_str(if self.is_symmetric() { "symmetric" } else { "affine" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_hold_the_range() {
        let scheme = QScheme::per_tensor_symmetric();
        assert_eq!(scheme.check_range(QuantRange::INT8), Ok(()));
        assert_eq!(scheme.with_bits(4).check_range(QuantRange::new(-7, 7).expect("valid")), Ok(()));
        for (scheme, range) in [(scheme.with_bits(7), QuantRange::INT8), (scheme.with_bits(33), QuantRange::INT32)] {
            assert_eq!(scheme.check_range(range), Err(QParamsError::Bits { bits: scheme.bits, range }));
        }
    }
}

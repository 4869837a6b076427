//! Quantized tensors: int8 values together with everything that says which real numbers they are.

use std::sync::Arc;

use super::{DType, Granularity, QScheme, Symmetry, Tensor, TensorQParams};

/// Quantized values with their scheme, scales, zero points and bits. All of them agree: [`QuantizedTensor::new`] checks it.
///
/// ```
/// use enfold::Tensor;
/// use enfold::values::{QScheme, QuantizedTensor, TensorQParams};
///
/// let values = Tensor::from_i8(&[2, 3], vec![-7, 0, 7, 1, 2, 3])?;
/// let qparams = TensorQParams::per_channel(&[0.5, 0.25], &[0, 0], 0)?;
/// let weight = QuantizedTensor::new(values, qparams, 4)?;
/// assert_eq!(weight.scheme(), QScheme::per_channel_symmetric(0).with_bits(4));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizedTensor {
    tensor: Arc<Tensor>,
    qparams: TensorQParams,
    bits: u32,
}

/// The reason why values, quantization parameters and bits do not make a quantized tensor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QuantizedTensorError {
    /// The values are not int8.
    #[error("its values are {actual}, expected {}", DType::I8)]
    DType {
        /// Their type.
        actual: DType,
    },
    /// The bits are not 2 to 8.
    #[error("it has {bits} bits, expected 2 to 8")]
    Bits {
        /// The bits.
        bits: u32,
    },
    /// A value does not fit the bits.
    #[error("element {index} is {value}, which {bits} bits do not hold")]
    Value {
        /// Row-major index of the value.
        index: usize,
        /// The value.
        value: i8,
        /// The bits.
        bits: u32,
    },
    /// The rows are not divided into so many groups.
    #[error("it has {actual} scales of groups of {size}, expected {expected} for shape {shape:?}")]
    Groups {
        /// Elements in a group.
        size: usize,
        /// Number of scales.
        actual: usize,
        /// The right number.
        expected: usize,
        /// The shape of the values.
        shape: Vec<usize>,
    },
    /// The channel axis does not exist, or has another length than there are scales.
    #[error("it has {actual} scales for axis {axis} of shape {shape:?}")]
    Channels {
        /// The channel axis.
        axis: usize,
        /// Number of scales.
        actual: usize,
        /// The shape of the values.
        shape: Vec<usize>,
    },
}

impl QuantizedTensor {
    /// Checks that `tensor` is int8, that `bits` (2 to 8) hold every value, and that there is one scale and zero point for the tensor, for
    /// each of its channels, or for each of its groups.
    ///
    /// # Errors
    /// Returns [`QuantizedTensorError`] with the first number that is wrong.
    pub fn new(
        tensor: impl Into<Arc<Tensor>>,
        qparams: TensorQParams,
        bits: u32,
    ) -> Result<Self, QuantizedTensorError> {
        let tensor = tensor.into();
        check_bits(&tensor, bits)?;
        if let TensorQParams::PerChannel { channels, ch_axis } = &qparams
            && tensor.shape().get(*ch_axis) != Some(&channels.len())
        {
            let (axis, actual, shape) = (*ch_axis, channels.len(), tensor.shape().to_vec());
            return Err(QuantizedTensorError::Channels { axis, actual, shape });
        }
        if let TensorQParams::PerGroup(groups) = &qparams
            && let Err(expected) = groups.check_shape(tensor.shape())
        {
            let (size, actual, shape) = (groups.size(), groups.groups().len(), tensor.shape().to_vec());
            return Err(QuantizedTensorError::Groups { size, actual, expected, shape });
        }
        Ok(Self { tensor, qparams, bits })
    }

    /// Returns the quantized values as an int8 tensor.
    #[must_use]
    pub fn tensor(&self) -> &Arc<Tensor> {
        &self.tensor
    }

    /// Returns the quantized values in row-major order.
    #[must_use]
    pub fn values(&self) -> &[i8] {
        self.tensor.as_i8().expect("checked when it was made")
    }

    /// Returns the lengths of all axes.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        self.tensor.shape()
    }

    /// Returns scale and zero point, of the tensor or of each channel.
    #[must_use]
    pub fn qparams(&self) -> &TensorQParams {
        &self.qparams
    }

    /// Returns the bits that hold each value, 2 to 8.
    #[must_use]
    pub fn bits(&self) -> u32 {
        self.bits
    }

    /// Returns the scheme: granularity, symmetry (symmetric if every zero point is 0) and bits.
    #[must_use]
    pub fn scheme(&self) -> QScheme {
        let granularity = match &self.qparams {
            TensorQParams::PerTensor(_) => Granularity::Tensor,
            TensorQParams::PerChannel { ch_axis, .. } => Granularity::Channel { axis: *ch_axis },
            TensorQParams::PerGroup(groups) => {
                Granularity::Group { axis: self.shape().len().saturating_sub(1), size: groups.size() }
            }
        };
        let is_symmetric = self.qparams.channels().iter().all(|q| q.zero_point() == 0);
        let symmetry = if is_symmetric { Symmetry::Symmetric } else { Symmetry::Affine };
        QScheme { granularity, symmetry, bits: self.bits }
    }
}

/// Checks that a tensor is int8, and that `bits` (2 to 8) hold each of its values in two's complement.
pub(crate) fn check_bits(tensor: &Tensor, bits: u32) -> Result<(), QuantizedTensorError> {
    let values = tensor.as_i8().ok_or(QuantizedTensorError::DType { actual: tensor.dtype() })?;
    check_values(values, bits)
}

/// Checks that `bits` (2 to 8) hold each value in two's complement.
pub(crate) fn check_values(values: &[i8], bits: u32) -> Result<(), QuantizedTensorError> {
    if !(2..=8).contains(&bits) {
        return Err(QuantizedTensorError::Bits { bits });
    }
    if bits == 8 {
        return Ok(());
    }
    let (lo, hi) = (i8::MIN >> (8 - bits), i8::MAX >> (8 - bits));
    // Unlike a search, this loop vectorizes. Each pass over a graph checks its constants.
    if !values.iter().fold(false, |beyond, &value| beyond | (value < lo) | (value > hi)) {
        return Ok(());
    }
    match values.iter().position(|value| !(lo..=hi).contains(value)) {
        None => Ok(()),
        Some(index) => Err(QuantizedTensorError::Value { index, value: values[index], bits }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::{GroupQParams, QParams};

    fn tensor(values: &[i8]) -> Tensor {
        Tensor::from_i8(&[values.len(), 1], values.to_vec()).expect("fits")
    }

    #[test]
    fn values_fit_the_bits() {
        for bits in 2..=8 {
            let (lo, hi) = (i8::MIN >> (8 - bits), i8::MAX >> (8 - bits));
            assert_eq!(check_bits(&tensor(&[lo, 0, hi]), bits), Ok(()), "{bits}");
            let beyond = [lo.checked_sub(1), hi.checked_add(1)];
            for value in beyond.into_iter().flatten() {
                let error = QuantizedTensorError::Value { index: 1, value, bits };
                assert_eq!(check_bits(&tensor(&[0, value]), bits), Err(error));
            }
        }
        for bits in [0, 1, 9, u32::MAX] {
            assert_eq!(check_bits(&tensor(&[]), bits), Err(QuantizedTensorError::Bits { bits }));
        }
    }

    #[test]
    fn groups_are_checked() {
        let values = || Tensor::from_i8(&[2, 10], vec![1; 20]).expect("fits");
        for (groups, rows) in [(2, 2), (3, 3), (1, 2)] {
            let scales = vec![0.5; groups * rows];
            let qparams = GroupQParams::new(4, groups, &scales, &[]).expect("valid");
            let error = QuantizedTensor::new(values(), TensorQParams::PerGroup(qparams), 4);
            let (actual, shape) = (groups * rows, vec![2, 10]);
            assert_eq!(error, Err(QuantizedTensorError::Groups { size: 4, actual, expected: 6, shape }));
        }
        let qparams = GroupQParams::new(4, 3, &[0.5; 6], &[1; 6]).expect("valid");
        let scheme = QuantizedTensor::new(values(), TensorQParams::PerGroup(qparams), 4).expect("valid").scheme();
        assert_eq!(scheme, QScheme::per_group_affine(4).with_bits(4));
    }

    #[test]
    fn types_and_channels_are_checked() {
        let one = QParams::new(1.0, 0).expect("valid");
        let floats = Tensor::from_f32(&[1], vec![0.0]).expect("fits");
        let error = QuantizedTensor::new(floats, one.into(), 8);
        assert_eq!(error, Err(QuantizedTensorError::DType { actual: DType::F32 }));
        for (scales, axis) in [(3, 0), (2, 1), (2, 2)] {
            let qparams = TensorQParams::per_channel(&vec![1.0; scales], &vec![0; scales], axis).expect("valid");
            let error = QuantizedTensor::new(tensor(&[1, 2]), qparams, 8);
            assert_eq!(error, Err(QuantizedTensorError::Channels { axis, actual: scales, shape: vec![2, 1] }));
        }
        let shifted = TensorQParams::per_channel(&[1.0, 2.0], &[0, 1], 0).expect("valid");
        let scheme = QuantizedTensor::new(tensor(&[1, 2]), shifted, 3).expect("valid").scheme();
        assert_eq!(scheme, QScheme::per_channel_affine(0).with_bits(3));
    }
}

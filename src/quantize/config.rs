//! Quantization configurations: the specs that a quantizer gives to its patterns.

use super::prepare::PrepareError;
use super::spec::{ObservedSpec, ObserverKind, QuantizationSpec};
use crate::numerics::EPS;
use crate::values::{QScheme, QuantRange, Symmetry};

/// The specs that a quantizer gives to the inputs, the output and the weight of its patterns.
///
/// ```
/// use enfold::{QuantizationConfig, WgpuQuantizer};
///
/// // int8 with a scale for each output channel; weights of 4 bits in one module; the last layer in float.
/// let config = QuantizationConfig::symmetric().per_channel();
/// let quantizer = WgpuQuantizer::new()
///     .set_module_name("blocks.0", config.clone().weight_bits(4))
///     .set_module_name("head", None)
///     .set_global(config);
/// # let _ = quantizer;
/// // Scales that each batch chooses for itself need no calibration.
/// assert!(QuantizationConfig::symmetric().dynamic_per_token().is_dynamic());
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizationConfig {
    /// The spec of the inputs of a pattern.
    pub input_activation: Option<QuantizationSpec>,
    /// The spec of its output.
    pub output_activation: Option<QuantizationSpec>,
    /// The spec of its weight.
    pub weight: Option<QuantizationSpec>,
}

impl QuantizationConfig {
    /// Returns static int8 quantization: weights symmetric per tensor in −127..=127 by [`ObserverKind::MinMax`], activations
    /// affine in −128..=127 by [`ObserverKind::Histogram`], bias in float. Scales are at least 2⁻¹² for activations, and 2⁻²³ for weights,
    /// which is the default of PyTorch's observers. Its XNNPACK configuration has 2⁻¹² for weights too, which rounds all weights below
    /// 2⁻¹³ to 0, such as those of a convolution that has taken in a batch norm with a large variance;
    /// [`smallest_weight_scale`](Self::smallest_weight_scale) gives it back. A channel's scale is also at least 2⁻¹² of the largest channel's, and
    /// that of zeros alone is 2⁻¹².
    #[must_use]
    pub fn symmetric() -> Self {
        let activation = ObservedSpec {
            range: QuantRange::INT8,
            qscheme: QScheme::per_tensor_affine(),
            observer: ObserverKind::Histogram,
            eps: EPS,
        };
        let weight = ObservedSpec {
            range: QuantRange::INT8_NARROW,
            qscheme: QScheme::per_tensor_symmetric(),
            observer: ObserverKind::MinMax,
            eps: f32::EPSILON,
        };
        Self {
            input_activation: Some(activation.into()),
            output_activation: Some(activation.into()),
            weight: Some(weight.into()),
        }
    }

    /// Returns the same configuration with one weight scale for each output channel.
    #[must_use]
    pub fn per_channel(mut self) -> Self {
        if let Some(QuantizationSpec::Observed(weight)) = &mut self.weight {
            weight.qscheme = QScheme::per_channel_symmetric(0).with_bits(weight.qscheme.bits);
        }
        self
    }

    /// Returns the same configuration with dynamic quantization: the scale and zero point of an activation are computed at run
    /// time, one for the whole batch, and outputs are float. Only linear layers can be quantized dynamically, and products of two
    /// activations on request.
    #[must_use]
    pub fn dynamic(self) -> Self {
        let mut config = self.activations(|spec| spec.observer = ObserverKind::Placeholder);
        config.output_activation = None;
        config
    }

    /// Returns the same configuration with [`dynamic`](Self::dynamic) quantization and a scale and zero point for each row of the
    /// last axis. It is more accurate, and the result for one row does not depend on the other rows. The right factor of a
    /// product of two activations keeps one scale, since a scale for each row would vary along the sum.
    #[must_use]
    pub fn dynamic_per_token(self) -> Self {
        self.dynamic().activations(|spec| spec.qscheme = QScheme::per_token_affine().with_bits(spec.qscheme.bits))
    }

    /// Returns the same configuration for quantization-aware training: moving averages observe static activations and weights.
    #[must_use]
    pub fn qat(self) -> Self {
        let observer = ObserverKind::MOVING_AVERAGE;
        let mut config = self.activations(|spec| {
            if !spec.is_dynamic() {
                spec.observer = observer;
            }
        });
        if let Some(QuantizationSpec::Observed(weight)) = &mut config.weight {
            weight.observer = observer;
        }
        config
    }

    /// Returns the same configuration with another observer for activations.
    #[must_use]
    pub fn activation_observer(self, observer: ObserverKind) -> Self {
        self.activations(|spec| spec.observer = observer)
    }

    /// Returns the same configuration with another smallest scale for weights, such as [`EPS`](crate::numerics::EPS), XNNPACK's.
    #[must_use]
    pub fn smallest_weight_scale(mut self, scale: f32) -> Self {
        if let Some(QuantizationSpec::Observed(weight)) = &mut self.weight {
            weight.eps = scale;
        }
        self
    }

    /// Returns the same configuration with zero points of 0 for activations too, which TensorRT requires, in −127..=127: the
    /// largest magnitude becomes ±127. In −128..=127 it would lie half-way between two quantized values. Values of one sign, such
    /// as those after a ReLU, use half of the range. Dynamic activations get one scale for the tensor: there is no symmetric
    /// scheme per token.
    #[must_use]
    pub fn symmetric_activations(self) -> Self {
        self.activations(|spec| {
            spec.qscheme = QScheme::per_tensor_symmetric();
            spec.range = QuantRange::INT8_NARROW;
        })
    }

    /// Returns the same configuration with another range of quantized values for activations, and the bits that hold it.
    #[must_use]
    pub fn activation_range(self, range: QuantRange) -> Self {
        self.activations(|spec| {
            spec.range = range;
            spec.qscheme.bits = range.bits();
        })
    }

    /// Returns the same configuration with another range of quantized values for weights, such as −7..=7 for 4 bits, and the bits
    /// that hold it.
    #[must_use]
    pub fn weight_range(mut self, range: QuantRange) -> Self {
        if let Some(QuantizationSpec::Observed(weight)) = &mut self.weight {
            weight.range = range;
            weight.qscheme.bits = range.bits();
        }
        self
    }

    /// Returns the same configuration with weights of another number of bits, 2 to 8, in the largest range that suits their scheme: one that
    /// is symmetric about 0, as −7..=7 for 4 bits; for [groups](Self::weight_group) of fewer than 8 bits and for
    /// [zero points](Self::asymmetric_weights) all values, as −8..=7. Other numbers of bits are refused when a graph is prepared.
    #[must_use]
    pub fn weight_bits(self, bits: u32) -> Self {
        self.weights(|weight| weight.qscheme.bits = bits)
    }

    /// Returns the same configuration with a scale for each group of `size` input features of a linear layer's weight: 32, 64, 128 or
    /// another multiple of 4. The last group of a row may be shorter. With [`weight_bits(4)`](Self::weight_bits) and
    /// [`dynamic_per_token`](Self::dynamic_per_token), this is what torchao calls 8da4w.
    ///
    /// The scales of a row are products of one float and integers of 1 to 255, so that a layer still sums integers (equation 4). Other
    /// layers than linear ones have a scale for each output channel, of the same bits.
    ///
    /// ```
    /// use enfold::quantize::QuantizationConfig;
    ///
    /// let config = QuantizationConfig::symmetric().dynamic_per_token().weight_bits(4).weight_group(32);
    /// let asymmetric = config.asymmetric_weights();
    /// # assert_eq!(asymmetric.weight.map(|weight| weight.to_string()).as_deref(), Some("-8..=7 per group of 32 (axis 1) affine min/max"));
    /// ```
    #[must_use]
    pub fn weight_group(self, size: usize) -> Self {
        self.weights(|weight| {
            let scheme = QScheme::per_group_symmetric(size);
            weight.qscheme = QScheme { symmetry: weight.qscheme.symmetry, ..scheme.with_bits(weight.qscheme.bits) };
            // The smallest scale of torchao: a group has far smaller values than a tensor may have.
            weight.eps = f32::EPSILON;
        })
    }

    /// Returns the same configuration with a zero point for each [group](Self::weight_group) of a weight. A layer multiplies the
    /// differences of weights and zero points, which must fit int8, so weights have at most 7 bits.
    #[must_use]
    pub fn asymmetric_weights(self) -> Self {
        self.weights(|weight| weight.qscheme.symmetry = Symmetry::Affine)
    }

    /// Changes the scheme of the weights, and then chooses their range by it.
    fn weights(mut self, change: impl Fn(&mut ObservedSpec)) -> Self {
        if let Some(QuantizationSpec::Observed(weight)) = &mut self.weight {
            change(weight);
            let QScheme { symmetry, bits, .. } = weight.qscheme;
            // Bits that no scheme has are refused with the range of before.
            let half = 1i32 << (bits.clamp(2, 8) - 1);
            let is_narrow = symmetry == Symmetry::Symmetric && (bits == 8 || weight.qscheme.group_size().is_none());
            let range = QuantRange::new(if is_narrow { 1 - half } else { -half }, half - 1);
            weight.range = range.unwrap_or(weight.range);
        }
        self
    }

    /// Returns the same configuration with float outputs.
    #[must_use]
    pub fn float_output(mut self) -> Self {
        self.output_activation = None;
        self
    }

    /// Whether activations are quantized dynamically.
    #[must_use]
    pub fn is_dynamic(&self) -> bool {
        self.input_activation.as_ref().is_some_and(QuantizationSpec::is_dynamic)
    }

    fn activations(mut self, change: impl Fn(&mut ObservedSpec)) -> Self {
        for spec in [&mut self.input_activation, &mut self.output_activation] {
            if let Some(QuantizationSpec::Observed(spec)) = spec {
                change(spec);
            }
        }
        self
    }

    /// Refuses specs that the integer form could not honour; `name` says for what the configuration was set.
    pub(super) fn check(&self, name: &str) -> Result<(), PrepareError> {
        let refuse = |problem: &str| Err(PrepareError::Config { config: name.to_owned(), problem: problem.to_owned() });
        if self.is_dynamic() && self.output_activation.is_some() {
            return refuse("inputs are dynamic, so outputs are float, but it has a spec for outputs");
        }
        if self.output_activation.as_ref().is_some_and(QuantizationSpec::is_dynamic) {
            return refuse("outputs cannot be dynamic; let the next layer's inputs be");
        }
        if self.weight.is_some() != self.input_activation.is_some() {
            return refuse("inputs and weights are either both quantized or both float");
        }
        for spec in [&self.input_activation, &self.output_activation] {
            if let Some(QuantizationSpec::Observed(spec)) = spec
                && (spec.qscheme.ch_axis().is_some() || spec.qscheme.group_size().is_some())
            {
                return refuse("activations have one scale, not one for each channel or group");
            }
        }
        match &self.weight {
            Some(QuantizationSpec::Observed(weight)) if weight.is_dynamic() => refuse("weights are known, not dynamic"),
            Some(QuantizationSpec::Observed(weight)) if weight.qscheme.group_size().is_some() => {
                match weight.range.quant_max() - weight.range.quant_min() {
                    widest if widest > i32::from(i8::MAX) && !weight.qscheme.is_symmetric() => refuse(&format!(
                        "weights of {} minus their zero points are up to {widest}, and int8 holds {}",
                        weight.range,
                        i8::MAX
                    )),
                    _ => Ok(()),
                }
            }
            Some(QuantizationSpec::Observed(weight)) if !weight.qscheme.is_symmetric() => {
                refuse("weights without groups are symmetric: their zero point is 0")
            }
            Some(QuantizationSpec::Observed(weight)) if weight.qscheme.ch_axis().is_some_and(|axis| axis != 0) => {
                refuse("channels of a weight are on axis 0")
            }
            _ => Ok(()),
        }
    }
}

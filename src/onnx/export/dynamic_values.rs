//! The values that dynamic quantization gives in a file.

/// The names of quantized values of `uint8`, and of the values that hold their dynamic qparams.
#[derive(Debug, Clone)]
pub(super) struct DynamicValues {
    pub(super) quantized: String,
    pub(super) scale: String,
    pub(super) zero_point: String,
    /// Whether each token has a scale and a zero point.
    pub(super) per_token: bool,
}

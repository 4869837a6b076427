//! The values that hold dynamic qparams.

use crate::graph::NodeId;

/// The names of the values that hold dynamic qparams.
#[derive(Debug, Clone)]
pub(super) enum Parameters {
    /// The results of a DynamicQuantizeLinear, which also quantizes.
    Operator {
        /// The node whose value it quantizes.
        x: NodeId,
        quantized: String,
        scale: String,
        zero_point: String,
    },
    /// The results of float arithmetic. Quantized values are floats minus their zero point, from `lo` to `hi`.
    Arithmetic { scale: String, inv_scale: String, lo: String, hi: String },
}

//! Quantization: from a float graph to one in int8.
//!
//! The flow is PyTorch's PT2E:
//!
//! 1. A [`Quantizer`] looks at the graph and *annotates* it: for each point, an edge or a node's value, a
//!    [`QuantizationSpec`] says how it is to be quantized.
//! 2. [`prepare`] groups the points that share an observer and inserts an `observe` node for each. Constants are observed
//!    here.
//! 3. [`PreparedGraph::observe`] runs calibration batches.
//! 4. [`convert()`] replaces each observer by a quantize and a dequantize node with the scale and zero point that it derives.
//!    Weights are folded to int8 constants. The result still computes in float, on values that int8 can hold: it is the
//!    oracle for everything after it.
//! 5. [`to_integer()`] rewrites that graph into integers, by the equations of [`numerics`](crate::numerics).

pub mod accuracy;
mod annotation;
mod batch_norm;
mod composable_quantizer;
mod config;
mod convert;
mod embeddings;
mod fake_quantize;
mod fold;
mod observer;
mod prepare;
mod quantizer;
mod sharing;
mod spec;
mod summary;
mod to_integer;
mod wgpu_quantizer;

pub use annotation::{Annotations, EdgeOrNode, QuantizationAnnotation};
pub use composable_quantizer::ComposableQuantizer;
pub use config::QuantizationConfig;
pub use convert::{ConvertError, ConvertOptions, convert};
pub use embeddings::{QuantizedEmbeddings, quantize_embeddings};
pub use fake_quantize::{FakeQuantize, QParamsRule};
pub use observer::{Observer, ObserverError};
pub use prepare::{PrepareError, PreparedGraph, prepare};
pub use quantizer::Quantizer;
pub use spec::{DeriveFn, DerivedRule, DerivedSpec, FixedQParamsSpec, ObservedSpec, ObserverKind, QuantizationSpec};
pub use summary::{QuantizationSummary, QuantizedNode, QuantizedPoint, UnquantizedNode};
#[allow(deprecated)]
pub use to_integer::reference;
pub use to_integer::{ToIntegerError, ToIntegerOptions, to_integer, to_integer_with_options};
pub use wgpu_quantizer::WgpuQuantizer;

/// Items for training that are not part of the public flow.
pub(crate) mod trained {
    pub(crate) use super::batch_norm::{FoldedNorm, factor};
    pub(crate) use super::prepare::{derived, prepare_with_norms};
}

/// Items for archives: the parts of a prepared graph, and of what accuracy passes collect.
pub(crate) mod archived {
    pub(crate) use super::accuracy::Sums;
    pub(crate) use super::observer::{Histogram, Histograms, Observer, State};
    pub(crate) use super::prepare::Parts;
    pub(crate) use super::sharing::in_order;
}

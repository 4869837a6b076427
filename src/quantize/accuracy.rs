//! Passes that raise the accuracy of a quantized network, each usable alone:
//!
//! 1. [`smooth`] moves outliers of activations into weights, before [`prepare`](super::prepare()). It takes a float graph and returns one
//!    with the same outputs.
//! 2. [`clip_weights`] narrows the ranges of weights to where their squared error is least. It edits a prepared graph.
//! 3. [`fit_ranges`] sets the range of a value by the error behind the functions that read it, such as a GELU. It edits a calibrated graph.
//! 4. [`gptq`] rounds weights so that the errors of a layer's outputs cancel out, by the second moments of its inputs
//!    ([`Hessians`]). It edits a prepared graph, and keeps the ranges that it finds there.
//!
//! [`layer_sensitivities`] measures what each [`LayerChoice`] for each layer costs, and [`Plan::choose`] picks the smallest network that
//! reaches a target.
//!
//! The statistics come from calibration data, and can be collected in shards that are merged.
//!
//! ```
//! use enfold::quantize::accuracy::{ChannelStatistics, GptqOptions, Hessians, SmoothOptions, clip_weights, gptq, smooth};
//! use enfold::quantize::{ConvertOptions, QuantizationConfig, WgpuQuantizer, convert, prepare};
//! use enfold::values::QuantRange;
//! use enfold::{GraphBuilder, Shape, Tensor};
//!
//! let mut g = GraphBuilder::new();
//! let x = g.input("x", Shape::rows(2))?;
//! let ones = Tensor::from_f32(&[2], vec![1.0, 20.0])?;
//! let norm = g.layer_norm("norm", x, ones, Tensor::from_f32(&[2], vec![0.0, 0.1])?, 1e-5)?;
//! let y = g.linear("fc", norm, Tensor::from_f32(&[2, 2], vec![0.5, -0.25, 0.1, 0.9])?, None)?;
//! let float = g.finish([y])?;
//! let batches = [Tensor::from_f32(&[3, 2], vec![1.0, -1.0, 0.3, 0.7, 2.0, 0.4])?];
//!
//! let mut statistics = ChannelStatistics::new(&float);
//! for batch in &batches {
//!     statistics.observe(&[batch])?;
//! }
//! let smoothed = smooth(&float, &statistics, &SmoothOptions::default())?;
//! println!("{smoothed}");
//!
//! let config = QuantizationConfig::symmetric().per_channel().weight_range(QuantRange::new(-7, 7)?);
//! let mut prepared = prepare(&smoothed.graph, &WgpuQuantizer::new().set_global(config))?;
//! for batch in &batches {
//!     prepared.observe(&[batch])?;
//! }
//! clip_weights(&mut prepared)?;
//! let mut hessians = Hessians::new(&prepared);
//! for batch in &batches {
//!     hessians.observe(&[batch])?;
//! }
//! gptq(&mut prepared, &hessians, &GptqOptions::default())?;
//! let quantized = convert(&prepared, &ConvertOptions::default())?;
//! # Ok::<(), enfold::Error>(())
//! ```

mod clip;
mod error;
mod functions;
mod gptq;
mod hessians;
mod plan;
mod sensitivity;
mod smooth;
mod statistics;
mod weights;

pub use self::clip::{ClippedWeight, clip_weights};
pub use self::error::AccuracyError;
pub use self::functions::{FittedRange, fit_ranges};
pub use self::gptq::{GptqOptions, RoundedWeight, gptq, gptq_skips};
pub use self::hessians::Hessians;
pub(crate) use self::hessians::Sums;
pub use self::plan::{LayerChoice, Plan, Target};
pub use self::sensitivity::{ChoiceError, LayerSensitivities, LayerSensitivity, layer_sensitivities};
pub use self::smooth::{SmoothOptions, Smoothed, SmoothedValue, SmoothingPlace, smooth};
pub use self::statistics::ChannelStatistics;

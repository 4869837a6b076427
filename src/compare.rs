//! The numeric debugger: compares two graphs on the same inputs, node by node.
//!
//! Every pass copies `origin`, the name of the float node, so that nodes of any two stages with the same origin can be compared: float
//! with quantize/dequantize, quantize/dequantize with integers. Quantized values are compared in real units.
//!
//! ```
//! # use enfold::{GraphBuilder, Shape, Tensor};
//! # use enfold::quantize::{ConvertOptions, QuantizationConfig, WgpuQuantizer, convert, prepare};
//! # let mut g = GraphBuilder::new();
//! # let x = g.input("x", Shape::rows(2))?;
//! # let y = g.linear("fc", x, Tensor::from_f32(&[2, 2], vec![0.5, -0.25, 0.1, 0.9])?, None)?;
//! # let float = g.finish([y])?;
//! # let batch = Tensor::from_f32(&[2, 2], vec![1.0, -1.0, 0.3, 0.7])?;
//! # let mut prepared = prepare(&float, &WgpuQuantizer::new().set_global(QuantizationConfig::symmetric()))?;
//! # prepared.observe(&[&batch])?;
//! # let quantized = convert(&prepared, &ConvertOptions::default())?;
//! let comparison = enfold::compare::compare(&float, &quantized, &[&batch])?;
//! println!("{comparison}");
//! assert!(comparison.output_sqnr_db > 30.0);
//! # Ok::<(), enfold::Error>(())
//! ```

mod comparison;
mod distribution;
mod error;
mod index;
mod isolate;
mod metrics;
mod sensitivity;
mod values;

pub use self::comparison::{Comparison, NodeComparison, compare};
pub use self::distribution::{Clipping, Distribution, NodeDistributions, distributions};
pub use self::error::CompareError;
pub use self::metrics::{cosine, mse, sqnr_db};
pub use self::sensitivity::{Sensitivity, sensitivity};

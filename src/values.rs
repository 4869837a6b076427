//! Values: tensors, shapes and quantization parameters, each checked where it is made.

mod contents;
mod dtype;
mod qparams;
mod qscheme;
mod row_major;
mod shape;
pub(crate) mod slices;
mod tensor;

pub(crate) use contents::Contents;
pub use dtype::DType;
pub use qparams::{MAX_SCALE, MIN_SCALE, QParams, QParamsError, QuantRange, TensorQParams};
pub use qscheme::{Granularity, QScheme, Symmetry};
pub use row_major::RowMajor;
pub(crate) use shape::MAX_ELEMENTS;
pub use shape::{Dim, Shape};
pub use tensor::{Tensor, TensorError};

//! Values: tensors, shapes and quantization parameters, each checked where it is made.

mod contents;
pub(crate) mod decimal;
mod dtype;
mod group_qparams;
mod number;
pub(crate) mod pages;
mod qparams;
mod qscheme;
mod quantized_tensor;
mod row_major;
mod shape;
pub(crate) mod slices;
mod tensor;

pub(crate) use contents::Contents;
pub use dtype::DType;
pub(crate) use group_qparams::check_size;
pub use group_qparams::{GroupQParams, IntegerScales};
pub(crate) use number::{Number, Quoted};
pub use qparams::{MAX_SCALE, MIN_SCALE, QParams, QParamsError, QuantRange, TensorQParams};
pub use qscheme::{Granularity, QScheme, Symmetry};
pub use quantized_tensor::{QuantizedTensor, QuantizedTensorError};
pub(crate) use quantized_tensor::{check_bits, check_values};
pub use row_major::RowMajor;
pub(crate) use shape::MAX_ELEMENTS;
pub use shape::{Dim, Shape};
pub use tensor::{Tensor, TensorError};

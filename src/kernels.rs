//! Host kernels: functions on slices, parallel where it pays, that know nothing of graphs.
//!
//! Float and fast int8 products come from `rten-gemm`. What is exact here is exact everywhere: each integer kernel is
//! tested to equal the scalar rule in [`numerics`](crate::numerics) that it speeds up.

mod elementwise;
mod normalize;
mod product;
mod product_i8;
mod quantize;
mod wide;

pub(crate) use elementwise::unary;
pub(crate) use normalize::{batch_norm, layer_norm, softmax_rows};
pub(crate) use product::{PackedWeight, linear, matmul};
pub(crate) use product_i8::{Int8Product, Int8Weight, flip_all, library_max_k};
pub(crate) use quantize::{NotANumber, Requantize, dequantize, quantize, requantize_block, scale_block};
pub(crate) use wide::wide;

/// Elements that one parallel task should at least have.
const TASK: usize = 1 << 14;

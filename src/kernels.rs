//! The kernels of the CPU engine: functions on slices and tensors, parallel where it pays, that know nothing of graphs.
//!
//! Float products and fast int8 products come from `rten-gemm`. Tests compare each integer kernel, bit for bit, with the scalar
//! equation in [`numerics`](crate::numerics) that it speeds up.

mod broadcast;
mod elementwise;
mod gemm_i8;
mod integers;
mod movement;
mod normalize;
mod quantize;
mod quantized;
mod vecmath;

pub(crate) use broadcast::{binary, mask, matmul_dynamic_i8, matmul_f32_into, matmul_i8, zip_f32_onto};
pub(crate) use elementwise::{to_float, unary, unary_into};
pub(crate) use gemm_i8::{Int8Gemm, Int8Weight, rten_max_k};
pub(crate) use integers::{NoInteger, int32, sum_i32, to_integer};
pub(crate) use movement::{
    NoSuchRow, along_axis_onto, concat, embedding, max, reshape_onto, slice, sum, transpose, transpose_f32,
};
pub(crate) use normalize::{layer_norm_in_place, softmax_rows};
pub(crate) use quantize::{Int8Output, NotANumber, dequantize, quantize, requantize_row, scale_row};
pub(crate) use quantized::{
    Channels, add_i8, choose_qparams, dequantize_dynamic, lut, mul_i8, qparams_of_row, quantize_dynamic, requantize,
    scale_accumulator, scale_dynamic_row,
};
pub(crate) use vecmath::{softmax_in_place, unary_in_place};

/// Smallest number of elements that is worth a parallel task.
const TASK: usize = 1 << 14;

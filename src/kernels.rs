//! Host kernels: functions on slices and tensors, parallel where it pays, that know nothing of graphs.
//!
//! Float and fast int8 products come from `rten-gemm`. What is exact here is exact everywhere: each integer kernel is
//! tested to equal the scalar rule in [`numerics`](crate::numerics) that it speeds up.

mod broadcast;
mod elementwise;
mod integers;
mod movement;
mod normalize;
mod product_i8;
mod quantize;
mod quantized;
mod vecmath;

pub(crate) use broadcast::{binary, mask, matmul_dynamic_i8, matmul_f32_into, matmul_i8, zip_f32_onto};
pub(crate) use elementwise::{to_float, unary, unary_into};
pub(crate) use integers::{NoInteger, int32, sum_i32, to_integer};
pub(crate) use movement::{
    NoSuchRow, along_axis_onto, concat, embedding, max, reshape_onto, slice, sum, transpose, transpose_f32,
};
pub(crate) use normalize::{layer_norm_in_place, softmax_rows};
pub(crate) use product_i8::{Int8Product, Int8Weight, library_max_k};
pub(crate) use quantize::{NotANumber, Requantize, dequantize, quantize, requantize_row, scale_row};
pub(crate) use quantized::{
    Channels, Codes, add_i8, choose_qparams, dequantize_dynamic, lut, mul_i8, pair_of, quantize_dynamic, requantize,
    scale_accumulator, scale_dynamic_row,
};
pub(crate) use vecmath::{softmax_in_place, unary_in_place};

/// Elements that one parallel task should at least have.
const TASK: usize = 1 << 14;

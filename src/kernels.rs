//! Kernels of the CPU engine that know nothing of programs: int8 products of weights, and products of two matrices that a run computes.
//! Tests compare each kernel, bit for bit, with plain sums.

mod after;
mod gemm_i8;
mod lanes;
pub(crate) mod linear_f32;
pub(crate) mod matmul;
mod tasks;

pub(crate) use after::After;
pub(crate) use gemm_i8::{Int8Gemm, Int8Weight, rten_max_k};

//! Kernels of the CPU engine that know nothing of programs: int8 products of weights, and products of two matrices that a run computes.
//! Tests compare each kernel, bit for bit, with plain sums.

mod gemm_i8;
pub(crate) mod matmul;

pub(crate) use gemm_i8::{After, Int8Gemm, Int8Weight, rten_max_k};

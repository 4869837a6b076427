//! Kernels of the CPU engine that know nothing of programs: int8 products.
//!
//! Where there is no kernel of ours, fast int8 products come from `rten-gemm`. Tests compare each kernel, bit for bit, with plain sums.

mod gemm_i8;

pub(crate) use gemm_i8::{Activations, Int8Gemm, Int8Weight, rten_max_k};

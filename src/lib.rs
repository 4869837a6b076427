//! Quantize a float network to int8 and run it bit-exactly on any GPU that wgpu reaches.

pub mod cpu;
mod error;
#[cfg(feature = "gpu")]
pub mod gpu;
pub mod graph;
pub mod interp;
mod kernels;
pub mod lower;
pub mod numerics;
pub mod program;
pub mod qparams;
pub mod quantize;
pub mod tensor;

pub use error::Error;
pub use graph::{Graph, GraphBuilder};
pub use tensor::{Shape, Tensor};

//! The CPU engine: runs a [`Program`](crate::program::Program) fast, with the bits of the interpreter.
//!
//! Threads share the rows. For each block of rows, the epilogue runs while the sums of the product are in cache. [`GemmBackend`]
//! selects the kernel of int8 products.

mod broadcast;
mod buffer_pool;
mod conv;
mod elementwise;
mod embedding;
mod engine;
mod epilogue;
mod error;
mod fusion;
mod int8_layer;
mod linear;
mod matmul;
mod movement;
mod norm;
mod options;
mod pool;
mod quantize;
mod reduce;
mod rounding;
mod step_run;
mod steps;
mod task_size;
#[cfg(test)]
mod tests;
mod unary;

pub use self::engine::Engine;
pub use self::error::CpuError;
pub use self::options::{GemmBackend, Options};

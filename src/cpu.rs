//! The CPU engine: runs a [`Program`](crate::program::Program) fast. Its int8 steps give the bits of the interpreter.
//!
//! Threads share the rows. For each block of rows, the epilogue runs while the sums of the product are in cache. [`GemmBackend`]
//! selects the kernel of int8 products, and [`Functions`] whether float functions use SIMD instructions or have the interpreter's
//! bits.

mod buffer_pool;
mod engine;
mod error;
mod linear;
mod options;
mod steps;
#[cfg(test)]
mod tests;

pub use self::engine::Engine;
pub use self::error::CpuError;
pub use self::options::{Functions, GemmBackend, Options};

//! The lowest layers of enfold: values, the rules of quantized arithmetic, and the kernels of int8 products.
//!
//! The unit tests of these layers are those that depend on the processor. This crate builds them without the library's other tests and
//! their dependencies, so that an emulator of another processor soon runs them.

#![allow(dead_code, unused_imports)]

#[path = "../../src"]
mod src {
    pub(crate) mod kernels;
    pub(crate) mod numerics;
    pub(crate) mod parallel;
    pub(crate) mod values;
}
use src::{kernels, numerics, parallel, values};

#[cfg(test)]
mod processor;

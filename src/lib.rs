//! Quantize a float network to int8 and run it on any GPU that wgpu reaches, its integer steps bit for bit.
//!
//! ```text
//! float Graph ──prepare──▶ PreparedGraph ──convert──▶ Graph (Q/DQ) ──to_integer──▶ Graph (integers) ──lower──▶ Program
//!    │                     observe                     │                          │                     │       │
//!  interp                                            interp                     interp               cpu::    gpu::
//!                                                 (the oracle)               (normative)           Engine   Engine
//! ```
//!
//! 1. [`GraphBuilder`] writes a float [`Graph`]; [`interp`] runs any graph.
//! 2. [`quantize`]: a [`Quantizer`](quantize::Quantizer) says what is quantized and how, statically or dynamically;
//!    [`prepare`](quantize::prepare) puts observers there; calibration batches pass through;
//!    [`convert`](quantize::convert()) replaces observers by quantize/dequantize pairs and folds the weights to int8.
//! 3. [`to_integer`](quantize::to_integer()) rewrites that into integers, and lists what stays float, with the reason.
//! 4. [`lower`](lower::lower) makes a [`Program`](program::Program) of any graph, which [`cpu::Engine`] and `gpu::Engine`
//!    execute.
//!
//! Where rounding costs too much accuracy, [`qat`] trains: [`prepare_qat`](qat::prepare_qat) in the place of `prepare`, then the
//! same conversion.
//!
//! Beside them: [`compare`] says what each layer lost and which ones to leave in float; [`archive`] saves and loads every
//! stage; `onnx` reads and writes ONNX files. The README has an example from the first line to the last.
//!
//! # Exactness
//!
//! [`numerics`] numbers the equations. int8 in, int8 out: `i32` sums, an integer bias, one float product, round to nearest even.
//! No compiler can fuse or reorder one product, so the codes are the same bits in the interpreter, on the CPU engine and on
//! every GPU that passes its known-answer test. int8 in, float out is one product too, and as exact; so are int8 sums (integer
//! multipliers), products, and every chain of functions between codes (a table of 256 entries). Scale, zero point and codes of
//! dynamic quantization are the same bits for the same input.
//!
//! What stays float is not: float layers and functions, softmax, normalization, and the float outputs of dynamic layers
//! and products agree within tolerances, since the order of sums and `exp` differ from device to device.
//!
//! # Limits
//!
//! Only the leading dimension, `rows`, varies at run time. What has no integer form runs as float steps and is listed by
//! [`Graph::summary`], with the reason; [`lower`](lower::lower) refuses by name what no step computes: values of i64 other than
//! constants, batch norms whose statistics are not constants, and graphs that are still being calibrated. The sum of a layer must
//! fit `i32` (equation 4): at full weights, K up to 131,071; of a product of two activations, K up to 33,025 (equation 9); else it
//! stays float.
//!
//! # Features
//!
//! - `gpu` (default): the wgpu engine. No wgpu backend is enabled here; the application chooses them.
//! - `webgpu`: `gpu` with the browser's backend, for `wasm32-unknown-unknown`.
//! - `coopmat`: `gpu` with products of int8 on the matrix units of adapters that have cooperative matrices. Experimental, as that
//!   feature of wgpu is.
//! - `onnx`: networks from ONNX files and to ONNX files, float and quantized.
//! - `cli`: the command line, `enfold`, with the backends of wgpu that it needs. Libraries have no use for it.
//!
//! # Glossary
//!
//! - **scale**, **zero point**: real = scale · (code − zero point).
//! - **symmetric**, **affine**: zero point 0, or any.
//! - **per tensor**, **per channel**, **per token**: one scale, or one for each output channel of a weight, or for each row of
//!   the last axis of an activation.
//! - **static**, **dynamic**: activation scales from calibration, or from each batch as it comes.
//! - **observer**: watches values while calibrating, and derives scale and zero point from them.
//! - **fake quantize**: quantize and dequantize at once, with a gradient: how a network is trained for its codes.
//! - **QAT**, **PTQ**: quantization-aware training, and post-training quantization, which only calibrates.
//! - **Q/DQ**: a float graph with quantize and dequantize nodes; it computes in float on values that int8 can hold.
//! - **multiplier**: input scale · weight scale / output scale, what an `i32` sum is multiplied by.
//! - **fraction bits**: how many bits finer than one step of the sum the bias is kept.

pub mod archive;
pub mod compare;
pub mod cpu;
mod error;
#[doc(hidden)]
pub mod files;
#[cfg(feature = "gpu")]
pub mod gpu;
pub mod graph;
pub mod interp;
mod kernels;
pub mod lower;
pub mod numerics;
#[cfg(feature = "onnx")]
pub mod onnx;
pub mod ops;
pub mod program;
pub mod qat;
pub mod quantize;
pub mod values;

pub use error::Error;
pub use graph::{Graph, GraphBuilder};
pub use values::{Shape, Tensor};

/// The README's examples are tests.
#[cfg(all(doctest, feature = "gpu"))]
#[doc = include_str!("../README.md")]
struct Readme;

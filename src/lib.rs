//! Quantizes a float network to int8 and runs it on any GPU that wgpu reaches, inside the application's own device. Integer steps
//! give the same bits on the CPU and on every GPU that passes the known-answer tests.
//!
//! ```text
//! float Graph ──prepare──▶ PreparedGraph ──convert──▶ Graph (Q/DQ) ──to_integer──▶ Graph (integers) ──lower──▶ Program
//!    │                     observe                     │                           │                     │       │
//!  interp                                            interp                      interp               cpu::    gpu::
//!                                                 (the oracle)                (normative)           Engine   Engine
//! ```
//!
//! # From a float network to a recorded frame
//!
//! ```no_run
//! # async fn whole_way(device: &wgpu::Device, queue: &wgpu::Queue, x: &wgpu::Buffer, y: &wgpu::Buffer) -> Result<(), enfold::Error> {
//! use enfold::{ConvertOptions, GraphBuilder, QuantizationConfig, Shape, Tensor, WgpuQuantizer};
//! use enfold::{convert, gpu, lower, prepare, to_integer};
//!
//! // A float network; `onnx::load` reads one from a file.
//! let mut g = GraphBuilder::new();
//! let input = g.input("x", Shape::rows(2))?;
//! let h = g.linear("fc1", input, Tensor::from_f32(&[3, 2], vec![0.5, -1.0, 0.25, 0.75, -0.5, 1.0])?, None)?;
//! let h = g.relu("relu1", h)?;
//! let output = g.linear("fc2", h, Tensor::from_f32(&[1, 3], vec![1.0, -0.5, 0.5])?, None)?;
//! let graph = g.finish([output])?;
//!
//! // Offline, on the CPU: calibrate, convert, rewrite to integers, save.
//! let quantizer = WgpuQuantizer::new().set_global(QuantizationConfig::symmetric().per_channel());
//! let mut prepared = prepare(&graph, &quantizer)?;
//! prepared.observe(&[Tensor::from_f32(&[2, 2], vec![1.0, 0.2, -0.4, 0.9])?])?; // once for each batch of calibration data
//! let integers = to_integer(&convert(&prepared, &ConvertOptions::default())?)?;
//! enfold::archive::save(&integers, "network.safetensors")?;
//!
//! // In the application, once: load the file, and bind the application's buffers.
//! let program = lower(&enfold::archive::load("network.safetensors")?)?;
//! let engine = gpu::Engine::new(device, queue, &gpu::Options::default()).await?;
//! let run = engine.load(&program).await?.bind(&[x], &[y], 64).await?;
//!
//! // In every frame, for up to 64 rows:
//! let mut encoder = device.create_command_encoder(&Default::default());
//! run.record(&mut encoder, 17)?;
//! queue.submit([encoder.finish()]);
//! # Ok(())
//! # }
//! ```
//!
//! **Which stage to ship.** An [`archive`] holds any stage. Ship the integer graph: it is the smallest, and `lower` turns it into a
//! [`Program`](program::Program) in one call when the application starts. Keep the float graph, or the prepared graph with its
//! observers, where the network will be quantized again. Ship the Q/DQ graph, or export it with `onnx`, where another runtime reads it.
//!
//! `guide` has a chapter on applications: bevy, egui and winit, where the device comes from, how to drive the futures, and what to do when the
//! device is lost.
//!
//! # The stages
//!
//! 1. [`GraphBuilder`] writes a float [`Graph`]; [`interp`] runs any graph.
//! 2. A [`Quantizer`] decides which values are quantized, and how, statically or dynamically. [`prepare`] inserts observers,
//!    calibration batches pass through them, and [`convert()`] replaces them by quantize/dequantize pairs and folds the weights to int8.
//! 3. [`to_integer()`] rewrites that into integers, and lists the nodes that stay float, with the reason.
//! 4. [`lower()`] turns any graph into a [`Program`](program::Program), which [`cpu::Engine`] and `gpu::Engine` execute.
//!
//! Where rounding costs too much accuracy, [`qat`] trains: [`prepare_qat`](qat::prepare_qat) in place of `prepare`, then the same
//! conversion. [`compare`](mod@compare) measures the error of each layer and finds the layers to leave in float. [`archive`] saves and
//! loads every stage; `onnx` reads and writes ONNX files.
//!
//! # Exactness
//!
//! [`numerics`] numbers the equations. A step from int8 to int8 computes `i32` sums, an integer bias and one float product, and rounds to
//! nearest even. No compiler can fuse or reorder one product, so the result has the same bits in the interpreter, on the CPU engine and
//! on every GPU that passes its known-answer test. A step from int8 to float is one product too, and as exact; so are int8 sums (integer
//! multipliers), products, and lookup tables, which every chain of functions between int8 values becomes. Scale, zero point and
//! quantized values of dynamic quantization have the same bits too.
//!
//! So do float steps: functions, sums, softmax, normalization, and the float outputs of dynamic layers (equation 11). They use only sums,
//! products and correctly rounded quotients of `f32`, in a fixed order; numbers below 2⁻¹⁰⁰ are 0 where they are added. The
//! bits of NaN are not promised. Products that stay float in a quantized graph have factors of 12 significant bits ([`FloatProducts`](numerics::FloatProducts)),
//! unless [`ToIntegerOptions`](quantize::ToIntegerOptions) ask for full ones. Only full products, those of float graphs, agree within
//! rounding: the order of their sums differs from engine to engine.
//!
//! # Limits
//!
//! Only the leading dimension, `rows`, varies at run time. Operators without an integer form run as float steps, and
//! [`Graph::summary`] lists them with the reason. [`lower()`] refuses by name what no step computes: values of i64 other than
//! constants, batch norms whose statistics are not constants, and graphs that are still being calibrated. The sum of a layer must
//! fit `i32` (equation 4): at full weights, K up to 131,071; in a product of two activations, K up to 33,025 (equation 9). A layer or
//! product beyond that stays float.
//!
//! # Features
//!
//! - `flow` (default): quantizing, training, comparing and saving. Without it, the crate is a player of archives: load, lower, run.
//! - `threads` (with `flow`): `rayon` and `rten-gemm` for the CPU. Without it, one thread runs plain loops.
//! - `gpu` (default): the wgpu engine. No wgpu backend is enabled here; the application chooses them.
//! - `webgpu`: `gpu` with the browser's backend, for `wasm32-unknown-unknown`.
//! - `coopmat`: `gpu` with int8 products on the cooperative matrices of adapters that have them. Experimental, as that feature of
//!   wgpu is.
//! - `coopmat-spirv`: `coopmat` with matrices of int8 values, which wgpu and naga do not know: the engine translates one kernel to SPIR-V
//!   itself, and wgpu passes it on to Vulkan unread. Experimental; it enables wgpu's Vulkan backend.
//! - `onnx`: networks from ONNX files and to ONNX files, float and quantized.
//! - `cli`: the command line, `enfold`, with the backends of wgpu that it needs. Libraries have no use for it.
//!
//! # Glossary
//!
//! - **scale**, **zero point**: real = scale · (quantized value − zero point).
//! - **symmetric**, **affine**: the zero point is 0, or any.
//! - **per tensor**, **per channel**, **per token**, **per group**: one scale, or one for each output channel of a weight, for each row of
//!   the last axis of an activation, or for each run of neighbouring input features of a weight (group-wise).
//! - **static**, **dynamic**: activation scales come from calibration, or from each batch as it comes.
//! - **observer**: watches values while calibrating, and derives scale and zero point from them.
//! - **fake quantize**: quantizes and dequantizes at once, with a gradient: how a network is trained for quantization.
//! - **QAT**, **PTQ**: quantization-aware training, and post-training quantization, which only calibrates.
//! - **Q/DQ**: a float graph with quantize and dequantize nodes; it computes in float on values that int8 can hold.
//! - **multiplier**: input scale · weight scale / output scale, the factor of an `i32` sum.
//! - **epilogue**: the computation that follows an accumulator: requantization to int8, or scaling to float.
//! - **lookup table**: 256 entries that replace a chain of functions between int8 values.
//! - **fraction bits**: the number of bits by which the bias is finer than one step of the sum.

// Without the flow, not all of what it shares with the engines is used.
#![cfg_attr(not(feature = "flow"), allow(dead_code, unused_imports, unreachable_pub))]

pub mod archive;
#[cfg(feature = "flow")]
pub mod compare;
pub mod cpu;
#[cfg(all(test, feature = "flow", feature = "threads"))]
mod engine_tests;
mod error;
#[doc(hidden)]
pub mod files;
#[cfg(feature = "gpu")]
pub mod gpu;
pub mod graph;
#[cfg(feature = "gpu")]
pub mod guide;
pub mod interp;
mod kernels;
pub mod lower;
pub mod numerics;
#[cfg(feature = "onnx")]
pub mod onnx;
pub mod ops;
mod parallel;
pub mod program;
#[cfg(feature = "flow")]
pub mod qat;
#[cfg(feature = "flow")]
pub mod quantize;
pub mod values;

#[cfg(feature = "flow")]
pub use compare::compare;
pub use error::Error;
pub use graph::{Graph, GraphBuilder};
pub use lower::{LowerOptions, lower, lower_with};
#[cfg(feature = "flow")]
pub use quantize::{
    ComposableQuantizer, ConvertOptions, PreparedGraph, QuantizationConfig, Quantizer, WgpuQuantizer, convert, prepare,
    to_integer,
};
pub use values::{DType, QParams, QScheme, Shape, Tensor};

/// The README's examples are tests.
#[cfg(all(doctest, feature = "gpu"))]
#[doc = include_str!("../README.md")]
struct Readme;

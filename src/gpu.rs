//! The GPU engine: executes a [`Program`](crate::program::Program) inside the caller's own wgpu device.
//!
//! ```no_run
//! # async fn frame(
//! #     device: &wgpu::Device, queue: &wgpu::Queue, program: &enfold::program::Program,
//! #     input: &wgpu::Buffer, output: &wgpu::Buffer,
//! # ) -> Result<(), enfold::gpu::GpuError> {
//! use enfold::gpu::{Engine, Options};
//!
//! // Once:
//! let engine = Engine::new(device, queue, &Options::default()).await?;
//! let model = engine.load(program).await?;
//! let run = model.bind(&[input], &[output], 64).await?;
//! // Every frame, with any number of rows up to 64:
//! let mut encoder = device.create_command_encoder(&Default::default());
//! run.record(&mut encoder, 17)?;
//! queue.submit([encoder.finish()]);
//! # Ok(())
//! # }
//! ```
//!
//! The application keeps its device: nothing here installs a handler on it, and recording neither submits nor polls nor
//! writes a buffer from the host. [`Engine::new`] runs a test with known answers, [`Engine::load`] those of the kernels that a
//! program is the first to need, [`Engine::tune`] and [`Run::timings`] measure, and [`Model::run`] is a convenience; these submit and wait, and nothing else does. Device loss reaches the engine because the
//! application's own callback calls [`Engine::mark_lost`].
//!
//! Any device will do: the engine reads its limits, needs no feature, and with WebGPU's default limits everything runs. What it
//! profits from, [`Engine::wanted_features`] and [`Engine::wanted_limits`] name for `request_device`.
//!
//! **Speed.** [`LinearKernel`] lists the kernels; a table by class of device chooses among them, and [`Engine::tune`] refines it.
//! Steps that belong together share a dispatch (functions, sums and rounding behind layers, sums before norms). Weights of 2 to 4
//! bits stay packed. Where a grid would be too small for the device, K is divided; where a dispatch would be too long for a
//! driver's watchdog, its rows are. None of it changes a bit of what is promised below.
//!
//! **Memory.** Intermediate values share one buffer over time; [`Run::memory`] says how much all of it takes.
//!
//! **Bits.** int8 results, int8-to-float linear layers, and the scales, zero points and codes of dynamic quantization equal the
//! interpreter's on every device that passes the known-answer tests; a device that fails one is refused. So do steps that only
//! move, compare or choose (slices, the largest element, comparisons, clamps, absolute values), and integers as floats. NaN and
//! infinities are where IEEE 754 has them; [`StepOp::Float`](crate::program::StepOp::Float) says what remains to a GPU. Other steps on floats, and
//! the float outputs of dynamic layers, agree within tolerances. NaN, which the CPU refuses, has the code of real 0 here, and an
//! id that its table lacks gives the nearest row.
//!
//! **Buffers** that the caller binds, whole or as slices, are dense and row-major, with the usage `STORAGE`: four bytes a float,
//! two bytes a half, one byte a code, the size rounded up to whole words of 4 bytes. Inputs are bound for writing, but never
//! written.

mod arena;
mod axes;
mod bind;
mod choice;
pub mod context;
// Compiled either way, so that the rest need not know of the feature.
#[cfg_attr(not(feature = "coopmat"), allow(dead_code, unreachable_pub))]
mod coop;
mod engine;
mod error;
mod fuse;
mod general;
mod known_answer;
mod layout;
mod memory;
mod model;
mod params;
mod pipeline;
mod plan;
mod run;
pub mod shaders;
mod tile;
mod transfer;
mod trusted;
mod tune;

#[cfg(feature = "coopmat")]
pub use coop::Fragment;
pub use engine::{Engine, Options, PackedDot, SplitK};
pub use error::GpuError;
pub use memory::{Memory, Slice};
pub use model::Model;
pub use run::{Run, StepTiming, Timings};
pub use tile::{LinearKernel, TileShape};
pub use tune::TuningTable;
pub use wgpu;

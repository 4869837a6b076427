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
//! writes a buffer from the host. [`Engine::new`] runs a test with known answers, and [`Model::run`] is a convenience; both
//! submit and wait, and nothing else does. Device loss reaches the engine because the application's own callback calls
//! [`Engine::mark_lost`].
//!
//! **Bits.** int8 results, int8-to-float linear layers, and the scales, zero points and codes of dynamic quantization equal the
//! interpreter's on every device that passes the known-answer test; a device that fails it is refused. Steps on floats, and the
//! float outputs of dynamic layers, agree within tolerances. NaN, which the CPU refuses, has the code of real 0 here, and an
//! id that its table lacks gives the nearest row.
//!
//! **Buffers** that the caller binds are dense and row-major, with the usage `STORAGE`: four bytes a float, one byte a
//! code, the size rounded up to whole words of 4 bytes.

pub mod context;
mod engine;
mod error;
mod general;
mod known_answer;
mod layout;
mod model;
mod pipeline;
mod plan;
mod run;
pub mod shaders;
mod tile;
mod transfer;

pub use engine::{Engine, Options, PackedDot};
pub use error::GpuError;
pub use model::Model;
pub use run::Run;
pub use tile::{LinearKernel, TileShape};
pub use wgpu;

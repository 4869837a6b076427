//! The GPU engine: executes a [`Program`](crate::program::Program) in the caller's own wgpu device.
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
//! The application keeps its device: the engine installs no handlers, and recording neither submits nor polls nor writes a buffer from
//! the host. [`Engine::load`] compiles kernels and runs known-answer tests, [`Engine::tune`] and [`Run::timings`] measure, and
//! [`Model::run`] is a convenience; only these submit work and wait for it. The application's own device-lost callback calls
//! [`Engine::mark_lost`].
//!
//! **Waiting.** No future of the engine blocks the thread that polls it, and between two kernels that it compiles it lets others run.
//! A native device finishes work only while somebody polls it: a thread of the engine's does, or with [`Poll::Application`] the
//! application. [`block_on`] is the blocking twin of every `async` function.
//!
//! Any device will do: the engine reads its limits, needs no feature, and runs everything with WebGPU's default limits.
//! [`Engine::wanted_features`] and [`Engine::wanted_limits`] name for `request_device` what makes it faster.
//!
//! **Engines share a device.** Pipelines are compiled and tested when a model first needs them, once for a device: its engines share
//! them.
//!
//! **Speed.** [`LinearKernel`] lists the kernels of int8 linear layers. A table by class of device chooses among them, and
//! [`Engine::tune`] refines it. Fused steps share a dispatch: layers that read the same value, functions, sums and casts after layers,
//! sums before norms and quantization after them, chains of elementwise steps, products before sums along an axis, and attention of
//! floats, where a workgroup's memory holds the scores of 16 rows. [`Run::describe`] lists what was fused. Weights of 2 to 4 bits stay
//! packed. If a grid would be too small for the device, K is divided; if a dispatch would be too long for a driver's watchdog, its rows
//! are divided. None of this changes the bits that are promised below.
//!
//! **Memory.** Intermediate values share one buffer over time; [`Run::memory`] reports all sizes.
//!
//! **Bits.** All results equal the interpreter's, except those of [full products](crate::numerics::FloatProducts) of floats, which
//! agree within rounding, and the bits of NaN. Each kernel passes a known-answer test when a device first needs it. A kernel that is
//! wrong is an error of [`Engine::load`]; a kernel whose floats agree within rounding only, or that loses an infinity or NaN since its
//! compiler assumes that there are none (Metal's fast math may), is used, logged, and named by [`Engine::inexact_kernels`]. The CPU
//! refuses NaN when it quantizes; a GPU makes it the zero point. An id outside its table gives the nearest row.
//!
//! **Buffers** that the caller binds, whole or as [`BufferRange`]s, are dense and row-major, with the usage `STORAGE`: four bytes for an
//! f32 or i32, two for an f16, one for an i8, and the size rounded up to whole words of 4 bytes. Inputs are bound as read_write, but
//! never written.

mod bind;
mod bound;
pub mod context;
mod device;
mod engine;
mod indirect;
// Compiled with and without the feature `coopmat`, so that the rest need not know of it.
#[cfg_attr(not(feature = "coopmat"), allow(dead_code, unreachable_pub))]
mod kernels;
mod known_answer;
mod memory;
mod model;
mod options;
mod progress;
mod readback;
mod run;
mod schedule;
mod swap;
mod texture;
mod timings;
mod tune;

pub use device::error::GpuError;
pub use device::wait::Poll;
#[cfg(not(target_arch = "wasm32"))]
pub use device::wait::block_on;
pub use engine::Engine;
pub use kernels::linear::choice::{PackedDot, SplitK};
#[cfg(feature = "coopmat")]
pub use kernels::linear::coopmat::Fragment;
pub use kernels::linear::tile::{LinearKernel, TileShape};
pub use kernels::linear::tuning::TuningTable;
pub use memory::{BufferRange, Memory};
pub use model::Model;
pub use options::{Options, TuneOptions};
pub use progress::{LoadProgress, TuneProgress};
pub use readback::Readback;
pub use run::Run;
pub use texture::{TextureInput, TextureOptions};
pub use timings::{StepTiming, Timings};
pub use wgpu;

/// The shaders, for the crate's own tests: no part of the API.
#[doc(hidden)]
pub mod shaders {
    pub use super::device::shader::{Binding, BindingKind, Piece, Shader, Struct};

    /// Returns every shader, with each of the functions that its kernels may choose, and its entry points.
    #[must_use]
    pub fn all() -> Vec<(Shader, Vec<&'static str>)> {
        super::kernels::shaders()
    }

    /// Returns name, WGSL, entry point and parameters of each pass that is no kernel of a program.
    #[must_use]
    pub fn passes() -> Vec<(&'static str, &'static str, &'static str, Struct)> {
        vec![("texture", super::texture::WGSL, super::texture::ENTRY, super::texture::SampleParams::LAYOUT)]
    }

    /// Returns the SPIR-V of an entry point with these override constants, for a shader whose cooperative matrices have int8 factors.
    ///
    /// # Errors
    /// Returns naga's message if it does not translate the shader.
    #[cfg(feature = "coopmat-spirv")]
    pub fn int8_matrices(shader: &Shader, entry: &str, overrides: &[(&str, u32)]) -> Result<Vec<u32>, String> {
        super::device::spirv::translate(shader, entry, overrides).map(|(words, _)| words)
    }
}

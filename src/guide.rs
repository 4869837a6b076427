//! enfold in an application: bevy, egui, winit, or a device of one's own.
//!
//! An application has one wgpu device, and so has everything in it that shares buffers and textures. enfold takes that device, and it must
//! be of the same version of wgpu: **wgpu 30**, which is also [`enfold::gpu::wgpu`](crate::gpu::wgpu). `cargo tree --duplicates` shows a
//! second version, and "expected `wgpu::Device`, found `wgpu::Device`" is what the compiler says about it.
//!
//! | crate | versions on wgpu 30 | where device and queue are |
//! |---|---|---|
//! | `bevy` | 0.20 (0.19 is on wgpu 29) | `Res<RenderDevice>`, `Res<RenderQueue>` in the render world |
//! | `egui-wgpu`, `eframe` | 0.36, 0.37 (0.35 is on wgpu 29) | `egui_wgpu::RenderState`: its fields `device` and `queue` |
//! | `winit` | any: it has no wgpu | the application asks an adapter for them |
//! | `vello` | 0.11 | the application gives them to it, as to enfold |
//! | `glyphon` | 0.12 | the same |
//! | `wgpu-profiler` | 0.28 | the same |
//!
//! ```toml
//! [dependencies]
//! enfold = "0.1"     # adds no backend of wgpu: the application's wgpu has them
//! wgpu = "30"        # with all backends of the platform; or enfold::gpu::wgpu, if another crate chooses the backends
//! pollster = "1"     # or the application's executor
//! bytemuck = "1"     # floats as bytes
//! ```
//!
//! # A device of one's own: winit, or no window at all
//!
//! Any device will do. [`Engine::wanted_features`] and [`Engine::wanted_limits`] name what makes the engine faster; add what the rest of
//! the application needs.
//!
//! ```no_run
//! use enfold::gpu::{Engine, wgpu};
//!
//! type Opened = Result<(wgpu::Device, wgpu::Queue), Box<dyn std::error::Error>>;
//!
//! async fn device(surface: Option<&wgpu::Surface<'_>>) -> Opened {
//!     let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
//!     let adapter = instance
//!         .request_adapter(&wgpu::RequestAdapterOptions {
//!             power_preference: wgpu::PowerPreference::HighPerformance,
//!             compatible_surface: surface, // the window's, with an instance that has its display handle
//!             ..Default::default()
//!         })
//!         .await?;
//!     let descriptor = wgpu::DeviceDescriptor {
//!         required_features: Engine::wanted_features(adapter.features()),
//!         required_limits: Engine::wanted_limits(&adapter.limits()),
//!         ..Default::default()
//!     };
//!     Ok(adapter.request_device(&descriptor).await?)
//! }
//! # fn main() {}
//! ```
//!
//! `pollster::block_on(device(None))` runs it. Without a window and without a choice,
//! [`Context::request`](crate::gpu::context::Context::request) does all of it.
//!
//! # The first network
//!
//! ```no_run
//! use enfold::gpu::{Engine, GpuError, Model, Options, Run, wgpu};
//! use enfold::program::Program;
//!
//! /// What a frame needs.
//! struct Network {
//!     input: wgpu::Buffer,
//!     output: wgpu::Buffer,
//!     run: Run,
//! }
//!
//! impl Network {
//!     /// Binds a model to new buffers, for up to `rows` rows.
//!     async fn new(device: &wgpu::Device, model: &Model, rows: usize) -> Result<Self, GpuError> {
//!         let buffer = |bytes: u64| {
//!             let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
//!             device.create_buffer(&wgpu::BufferDescriptor { label: None, size: bytes, usage, mapped_at_creation: false })
//!         };
//!         let program = model.program();
//!         let bytes = |id| {
//!             let value = program.value(id);
//!             let elements = value.len(rows).expect("a size that fits memory") as u64;
//!             (elements * value.value_type.size_bytes() as u64).next_multiple_of(4)
//!         };
//!         let (input, output) = (buffer(bytes(program.inputs()[0])), buffer(bytes(program.outputs()[0])));
//!         let run = model.bind(&[&input], &[&output], rows).await?;
//!         Ok(Self { input, output, run })
//!     }
//!
//!     /// Records a frame of so many rows; nothing waits.
//!     fn frame(&self, queue: &wgpu::Queue, encoder: &mut wgpu::CommandEncoder, x: &[f32], rows: usize) -> Result<(), GpuError> {
//!         queue.write_buffer(&self.input, 0, bytemuck::cast_slice(x)); // or a compute pass of the application's writes it
//!         self.run.record(encoder, rows) // `output` has the results for what is recorded after it
//!     }
//! }
//!
//! async fn start(device: &wgpu::Device, queue: &wgpu::Queue, program: &Program) -> Result<Network, GpuError> {
//!     let engine = Engine::new(device, queue, &Options::default()).await?;
//!     let model = engine.load(program).await?; // compiles kernels: show a progress bar by `load_with_progress`
//!     Network::new(device, &model, 64).await
//! }
//! # fn main() {}
//! ```
//!
//! A program comes from [`lower`](crate::lower()) of a graph, which comes from an [`archive`](crate::archive), an ONNX file, or a
//! [`GraphBuilder`](crate::GraphBuilder), also with [weights by their names](crate::graph::Weights) from a safetensors file. To read
//! results on the host, [`Readback`](crate::gpu::Readback) copies them without a stop, and [`Model::run`](crate::gpu::Model::run) takes and
//! returns tensors.
//!
//! # How to drive the futures
//!
//! [`Engine::new`], [`Engine::load`], [`Model::bind`](crate::gpu::Model::bind) and the measuring functions are `async`, need no particular
//! executor, never block, and are `Send` on native targets. Recording is not `async`.
//!
//! - **At the start of a native program**, block: [`gpu::block_on(&device, future)`](crate::gpu::block_on), or
//!   `pollster::block_on(future)`.
//! - **While frames are drawn**, spawn: `AsyncComputeTaskPool::get().spawn(future)` in bevy, `tokio::spawn(future)`, a thread with
//!   `block_on`; keep the result in a channel or an `Arc<Mutex<Option<Network>>>`, and draw without the network until it is there.
//! - **In a browser**, `wasm_bindgen_futures::spawn_local(future)`.
//!
//! A native device finishes work only while somebody polls it. By default a thread of the engine's does that as long as it waits; an
//! application that calls `device.poll` in each frame anyway takes [`Poll::Application`](crate::gpu::Poll::Application):
//!
//! ```no_run
//! use std::future::Future;
//! use std::pin::Pin;
//! use std::task::{Context, Poll, Waker};
//!
//! use enfold::gpu::{GpuError, Model, wgpu};
//!
//! /// A model on its way, in an application without an executor.
//! struct Loading(Pin<Box<dyn Future<Output = Result<Model, GpuError>>>>);
//!
//! impl Loading {
//!     /// Called once a frame. A future that only waits for the device costs next to nothing here.
//!     fn advance(&mut self, device: &wgpu::Device) -> Option<Result<Model, GpuError>> {
//!         device.poll(wgpu::PollType::Poll).ok()?;
//!         match self.0.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
//!             Poll::Ready(model) => Some(model),
//!             Poll::Pending => None,
//!         }
//!     }
//! }
//! # fn main() {}
//! ```
//!
//! # egui-wgpu and eframe
//!
//! `eframe::CreationContext::wgpu_render_state` is the [`RenderState`] with device and queue; ask for features and limits by
//! `WgpuSetupCreateNew::device_descriptor`, a function of the adapter that returns a `wgpu::DeviceDescriptor`. `CallbackTrait::prepare`
//! gets the frame's encoder as `egui_encoder`: record there, and draw the output buffer in `paint`. Keep the [`Run`] in
//! `callback_resources`.
//!
//! ```no_run
//! use enfold::gpu::{GpuError, Run, wgpu};
//!
//! /// The body of `CallbackTrait::prepare`: `run` comes from `callback_resources.get::<Run>()`.
//! fn prepare(run: &Run, egui_encoder: &mut wgpu::CommandEncoder, rows: usize) -> Result<Vec<wgpu::CommandBuffer>, GpuError> {
//!     run.record(egui_encoder, rows)?;
//!     Ok(Vec::new()) // egui submits its own encoder
//! }
//! # fn main() {}
//! ```
//!
//! # bevy
//!
//! In the render world, `RenderDevice::wgpu_device` returns the `&wgpu::Device`, and `RenderQueue` dereferences to the `wgpu::Queue`.
//! `RenderPlugin`'s `RenderCreation::Automatic(Box::new(WgpuSettings { features, limits, … }))` asks for features and limits:
//! `wgpu::Limits` with the values of [`Engine::wanted_limits`]. A system in the schedule `RenderGraph` takes a `RenderContext` and records
//! into its `command_encoder()`; bevy submits it. The pattern, with bevy's own types in comments:
//!
//! ```no_run
//! use enfold::gpu::{GpuError, Run, wgpu};
//!
//! // #[derive(Resource)]
//! struct Network(Run); // `Run` is `Send + Sync` on native targets
//!
//! // fn infer(mut context: RenderContext, network: Option<Res<Network>>)
//! fn infer(encoder: &mut wgpu::CommandEncoder, network: Option<&Network>) -> Result<(), GpuError> {
//!     let Some(network) = network else { return Ok(()) }; // it is still loading in a task
//!     network.0.record(encoder, 17) // context.command_encoder()
//! }
//! # fn main() {}
//! ```
//!
//! A compute shader of bevy's writes the input; storage buffers of `RenderDevice::create_buffer` can be bound as they are, since they
//! dereference to `wgpu::Buffer`.
//!
//! # Which limits
//!
//! WebGPU's default limits suffice ([`Engine::MIN_LIMITS`] is less), with smaller tiles and weights of at most 128 MiB in a binding: larger
//! ones are divided, and values that are larger are refused with both numbers. [`Engine::wanted_limits`] raises those that matter to what
//! the adapter has. Recording from a buffer's number of rows needs indirect dispatches, which all of WebGPU has.
//!
//! # A device that is lost
//!
//! A driver that was updated or has hung, or a laptop that changed its GPU, loses the device. Everything of the engine returns
//! [`GpuError::DeviceLost`](crate::gpu::GpuError::DeviceLost) then; nothing panics. The application makes a new device, a new engine, and
//! loads the same [`Program`](crate::program::Program), which lives on the host:
//!
//! ```no_run
//! use std::sync::{Arc, Weak};
//!
//! use enfold::gpu::{Engine, wgpu};
//!
//! /// The callback belongs to the application, and holds no engine: an engine keeps its device, and a device its callback.
//! fn watch(device: &wgpu::Device, engine: &Arc<Engine>) {
//!     let engine: Weak<Engine> = Arc::downgrade(engine);
//!     device.set_device_lost_callback(move |reason, message| {
//!         eprintln!("device lost ({reason:?}): {message}");
//!         if let Some(engine) = engine.upgrade() {
//!             engine.mark_lost(); // `Run::record_in`, which asks nothing, learns it by this
//!         }
//!     });
//! }
//! # fn main() {}
//! ```
//!
//! # Measuring
//!
//! [`Run::timings`] runs each step with timestamps. In a frame, [`Run::record_timed`] writes the times of the steps into the application's
//! own query set, and [`Run::record_in`] goes into a compute pass that has timestamps of its own: `wgpu-profiler`'s
//! `scope.scoped_compute_pass("network")`, for example. `Options::debug_groups` names the steps in RenderDoc and Xcode.
//!
//! [`Engine::new`]: crate::gpu::Engine::new
//! [`Engine::load`]: crate::gpu::Engine::load
//! [`Engine::wanted_features`]: crate::gpu::Engine::wanted_features
//! [`Engine::wanted_limits`]: crate::gpu::Engine::wanted_limits
//! [`Engine::MIN_LIMITS`]: crate::gpu::Engine::MIN_LIMITS
//! [`Run`]: crate::gpu::Run
//! [`Run::timings`]: crate::gpu::Run::timings
//! [`Run::record_timed`]: crate::gpu::Run::record_timed
//! [`Run::record_in`]: crate::gpu::Run::record_in
//! [`RenderState`]: https://docs.rs/egui-wgpu/0.37/egui_wgpu/struct.RenderState.html

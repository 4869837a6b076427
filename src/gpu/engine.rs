//! The engine: a device, and a choice of kernels.

use std::sync::{Arc, Mutex, PoisonError};

use super::device::Device;
use super::device::error::GpuError;
use super::kernels::config::Config;
use super::kernels::linear::choice::{Abilities, DeviceClass, choices, pick};
use super::kernels::linear::coopmat::{CHUNKS, Coopmat};
use super::kernels::linear::tile::{LinearKernel, TileShape};
use super::kernels::linear::tuning::TuningTable;
use super::known_answer;
use super::model::{self, Model};
use super::options::{Options, TuneOptions};
use super::progress::{LoadProgress, Progress, TuneProgress};
use super::tune;
use crate::ops::Op;
use crate::program::{Program, Step, StepOp};

/// An engine that runs programs on one wgpu device. It is cheap to clone. Threads may share it where they may share wgpu's objects.
#[derive(Debug, Clone)]
pub struct Engine {
    pub(super) device: Arc<Device>,
    choices: Arc<Choices>,
}

/// The kernels that an engine may choose.
#[derive(Debug)]
struct Choices {
    /// All choices for the device, best first.
    configs: Vec<Arc<Config>>,
    /// The first of them that has given known answers, once a program has needed it.
    tested: Mutex<Option<Arc<Config>>>,
}

impl Engine {
    /// The least that a device must allow; [`Engine::new`] refuses devices that allow less. Other limits may have any value: layers,
    /// batches and tiles that exceed them are refused, or not chosen.
    pub const MIN_LIMITS: wgpu::Limits = wgpu::Limits {
        max_bind_groups: 1,
        max_bindings_per_bind_group: 9,
        max_dynamic_uniform_buffers_per_pipeline_layout: 2,
        max_storage_buffers_per_shader_stage: 6,
        max_uniform_buffers_per_shader_stage: 3,
        max_compute_workgroup_storage_size: 8320,
        max_compute_invocations_per_workgroup: 256,
        max_compute_workgroup_size_x: 256,
        max_compute_workgroup_size_y: 16,
        ..wgpu::Limits::downlevel_defaults()
    };

    /// Returns the features of an adapter from which the engine profits, for `request_device`. The engine needs none.
    #[must_use]
    pub fn wanted_features(available: wgpu::Features) -> wgpu::Features {
        available & (wgpu::Features::SUBGROUP | wgpu::Features::TIMESTAMP_QUERY | wgpu::Features::PIPELINE_CACHE)
    }

    /// WebGPU's default limits, raised to those of an adapter where larger weights, batches or tiles profit, and attention of
    /// more than 128 keys on software adapters.
    #[must_use]
    pub fn wanted_limits(available: &wgpu::Limits) -> wgpu::Limits {
        wgpu::Limits {
            max_buffer_size: available.max_buffer_size,
            max_storage_buffer_binding_size: available.max_storage_buffer_binding_size,
            max_compute_workgroup_storage_size: available.max_compute_workgroup_storage_size,
            max_compute_invocations_per_workgroup: available.max_compute_invocations_per_workgroup,
            max_compute_workgroup_size_x: available.max_compute_workgroup_size_x,
            max_compute_workgroup_size_y: available.max_compute_workgroup_size_y,
            ..wgpu::Limits::default()
        }
    }

    /// Makes an engine on the caller's device. Compiles nothing: [`Engine::load`] compiles and tests what a program needs.
    ///
    /// All engines of a device share what was compiled and tested on it, as long as one of them lives.
    ///
    /// ```no_run
    /// # async fn start(adapter: &wgpu::Adapter) -> Result<(), Box<dyn std::error::Error>> {
    /// use enfold::gpu::{Engine, Options};
    ///
    /// let descriptor = wgpu::DeviceDescriptor {
    ///     required_features: Engine::wanted_features(adapter.features()), // and what the application needs
    ///     required_limits: Engine::wanted_limits(&adapter.limits()),
    ///     ..Default::default()
    /// };
    /// let (device, queue) = adapter.request_device(&descriptor).await?;
    /// let engine = Engine::new(&device, &queue, &Options::default()).await?;
    /// # drop(engine);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Returns [`GpuError::Limit`] for a device that allows less than [`Engine::MIN_LIMITS`], [`GpuError::Tile`] for a tile shape
    /// that it does not hold, [`GpuError::Feature`] for kernels that it cannot run, and [`GpuError::Device`] for errors of wgpu.
    pub async fn new(device: &wgpu::Device, queue: &wgpu::Queue, options: &Options) -> Result<Self, GpuError> {
        check_limits(&device.limits())?;
        let device = Device::shared(device, queue, options.pipeline_cache.as_deref()).await?;
        device.check_lost()?;
        Self::on(device, options)
    }

    /// Makes an engine that shares nothing, so that a test may break its kernels.
    #[cfg(test)]
    pub(super) async fn alone(device: &wgpu::Device, queue: &wgpu::Queue, options: &Options) -> Result<Self, GpuError> {
        Self::on(Arc::new(Device::new(device, queue, None).await?), options)
    }

    /// Makes an engine with other options on the same device. Both engines share pipelines, and each known-answer test runs once. Loss
    /// of the device concerns both.
    ///
    /// # Errors
    /// Returns the same errors as [`Engine::new`].
    pub async fn with_options(&self, options: &Options) -> Result<Self, GpuError> {
        self.device.check_lost()?;
        Self::on(Arc::clone(&self.device), options)
    }

    /// Packs a program's weights and uploads them. First it compiles the kernels that the program needs and that no engine of this
    /// device has tested yet, and runs their known-answer tests; that submits work and waits for it. If kernels of int8 products
    /// compute wrongly, it tries others.
    ///
    /// ```no_run
    /// # async fn start(engine: &enfold::gpu::Engine) -> Result<(), enfold::Error> {
    /// let program = enfold::lower(&enfold::archive::load("network.safetensors")?)?;
    /// let model = engine.load(&program).await?; // the program can be dropped; a lost device needs it again
    /// # drop(model);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Returns [`GpuError::KnownAnswer`] if a kernel that the program needs does not compute correctly on this device;
    /// [`GpuError::Limit`] for a constant that is larger than this device allows, or a step whose operands walk through more than
    /// six axes in different orders; [`GpuError::Device`] if the device has no memory left.
    pub async fn load(&self, program: &Program) -> Result<Model, GpuError> {
        self.load_reporting(program, &mut Progress::silent()).await
    }

    /// Does what [`Engine::load`] does, and calls `report` whenever kernels were compiled and tested, or weights uploaded. The numbers never
    /// shrink; at the end, what is done is all that there is to do.
    ///
    /// ```no_run
    /// # async fn shown(
    /// #     engine: &enfold::gpu::Engine, program: &enfold::program::Program,
    /// # ) -> Result<enfold::gpu::Model, enfold::gpu::GpuError> {
    /// let report = |now: enfold::gpu::LoadProgress| {
    ///     eprint!("\r{} of {} kernels, {} of {} bytes", now.kernels, now.all_kernels, now.bytes, now.all_bytes);
    /// };
    /// engine.load_with_progress(program, report).await
    /// # }
    /// ```
    ///
    /// # Errors
    /// Returns the same errors as [`Engine::load`].
    pub async fn load_with_progress(
        &self,
        program: &Program,
        report: impl FnMut(LoadProgress),
    ) -> Result<Model, GpuError> {
        self.load_reporting(program, &mut Progress::new(report)).await
    }

    async fn load_reporting(
        &self,
        program: &Program,
        progress: &mut Progress<impl FnMut(LoadProgress)>,
    ) -> Result<Model, GpuError> {
        self.device.check_lost()?;
        let multiplies = |step: &Step| {
            matches!(
                step.op,
                StepOp::QLinear(_) | StepOp::QConv(_) | StepOp::QMatMul(_) | StepOp::Op(Op::IntegerMatMulDynamic(_))
            )
        };
        progress.expect(0, model::host_bytes(program));
        let config = if program.steps().iter().any(multiplies) { self.tested(progress).await? } else { self.config() };
        known_answer::check_program(&self.device, &config, program, progress).await?;
        Model::load(&self.device, &config, program, progress).await
    }

    /// Measures the tile shapes that this device can hold on the int8 linear layers and the convolutions of one group of a program, at a
    /// batch of `rows`. Submits work and waits for it. [`Options::tuning`] takes the result, also in another process.
    ///
    /// It begins with the layers that have the most products, and stops when the budget is spent: it looks at the clock between
    /// measurements and between kernels that it compiles. A layer whose measurements are not all done is not in the table, and keeps the
    /// kernel that the engine chooses without it. In browsers, whose clock the library cannot read, only the time that the
    /// device measures counts.
    ///
    /// ```no_run
    /// # use enfold::gpu::{Engine, GpuError, Options, TuneOptions};
    /// # async fn tuned(engine: &Engine, program: &enfold::program::Program) -> Result<Engine, GpuError> {
    /// let table = engine.tune(program, 64, &TuneOptions::default()).await?;
    /// let json = table.to_json()?; // for the next start of the application
    /// engine.with_options(&Options { tuning: Some(table), ..Options::default() }).await
    /// # }
    /// ```
    ///
    /// # Errors
    /// Returns [`GpuError::Rows`] for a batch of 0, [`GpuError::Feature`] where there is neither a timestamp query nor another
    /// clock, as in a browser or with [`Poll::Application`](super::Poll::Application), and the errors of [`Engine::load`].
    pub async fn tune(&self, program: &Program, rows: usize, options: &TuneOptions) -> Result<TuningTable, GpuError> {
        self.tune_with_progress(program, rows, options, |_| {}).await
    }

    /// Does what [`Engine::tune`] does, and calls `report` whenever a tile shape was compiled or a layer measured.
    ///
    /// ```no_run
    /// # use enfold::gpu::{Engine, GpuError, TuneOptions, TuneProgress, TuningTable};
    /// # async fn shown(engine: &Engine, program: &enfold::program::Program) -> Result<TuningTable, GpuError> {
    /// let report = |now: TuneProgress| eprint!("\r{} of {} layers", now.layers, now.all_layers);
    /// engine.tune_with_progress(program, 64, &TuneOptions::default(), report).await
    /// # }
    /// ```
    ///
    /// # Errors
    /// Returns the same errors as [`Engine::tune`].
    pub async fn tune_with_progress(
        &self,
        program: &Program,
        rows: usize,
        options: &TuneOptions,
        report: impl FnMut(TuneProgress),
    ) -> Result<TuningTable, GpuError> {
        tune::tune(&self.device, &self.tested(&mut Progress::silent()).await?, program, rows, options, report).await
    }

    /// Returns the data of the pipeline cache, for [`Options::pipeline_cache`] of a later engine on the same adapter; `None`
    /// without `Features::PIPELINE_CACHE`.
    #[must_use]
    pub fn pipeline_cache_data(&self) -> Option<Vec<u8>> {
        self.device.pipelines.cache.as_ref()?.get_data()
    }

    /// Tells the engine that its device was lost; call it from the device-lost callback, which belongs to the application.
    /// All engines, models and runs of this device return [`GpuError::DeviceLost`] from now on. A new engine on a new device continues
    /// with the same [`Program`].
    ///
    /// Without this call they ask the device themselves, except [`Run::record_in`](super::Run::record_in), which costs no more than
    /// its commands, and except in a browser, which answers later.
    ///
    /// The callback belongs to the device, and an engine keeps its device. So a callback that owns a clone of the engine makes a cycle
    /// that is never freed. Let it hold a [`Weak`](std::sync::Weak) of an `Arc<Engine>`, as `examples/embed` does:
    ///
    /// ```no_run
    /// # use std::sync::{Arc, Mutex, PoisonError};
    /// # fn watch(device: &wgpu::Device, engine: &Arc<enfold::gpu::Engine>) {
    /// let engine = Arc::downgrade(engine);
    /// device.set_device_lost_callback(move |_reason, _message| {
    ///     if let Some(engine) = engine.upgrade() {
    ///         engine.mark_lost();
    ///     }
    /// });
    /// # }
    /// ```
    pub fn mark_lost(&self) {
        self.device.mark_lost();
    }

    /// Returns the tile shape for an int8 linear layer of `matrix_rows` rows and `n` output columns on this device, without
    /// tuning.
    #[must_use]
    pub fn tile(&self, matrix_rows: usize, n: usize) -> TileShape {
        let config = self.config();
        let candidates = &config.choice.candidates;
        candidates[pick(candidates.iter(), matrix_rows as u64, n)].tile
    }

    /// Returns the kernels that have failed to give the CPU's bits on this device, of the programs that were loaded so far: their float
    /// results agree within rounding only, or lose an infinity or NaN. It is empty on a device that keeps to IEEE 754 and does not see
    /// through the barriers of the shaders (equation 11 of [`numerics`](crate::numerics)); a name in it is also logged as a warning.
    /// A kernel that is wrong beyond that is an error of [`Engine::load`].
    #[must_use]
    pub fn inexact_kernels(&self) -> Vec<&'static str> {
        self.device.inexact()
    }

    /// Whether cooperative matrices are used for layers that are large enough. The first program with int8 products may change it: its
    /// kernels are tested then.
    #[must_use]
    pub fn uses_coopmat(&self) -> bool {
        self.config().choice.coopmat.is_some()
    }

    /// Whether WGSL's packed dot product is used. The first program with int8 products may change it: its kernels are tested then.
    #[must_use]
    pub fn uses_packed_dot(&self) -> bool {
        self.config().choice.packed_dot
    }

    /// Returns the device's limits.
    #[must_use]
    pub fn limits(&self) -> &wgpu::Limits {
        &self.device.limits
    }
}

impl Engine {
    /// An engine on a device that others may share.
    pub(super) fn on(device: Arc<Device>, options: &Options) -> Result<Self, GpuError> {
        let info = device.wgpu.adapter_info();
        let features = device.wgpu.features();
        let has_subgroups = features.contains(wgpu::Features::SUBGROUP) && !options.without_subgroups;
        let abilities = Abilities {
            class: DeviceClass::of(&info),
            limits: device.limits.clone(),
            subgroup: has_subgroups.then_some(info.subgroup_min_size),
            coopmat: options
                .wanted_fragment()
                .filter(|fragment| has_subgroups && features.contains(fragment.features()))
                // What Vulkan gets unread has no run-time checks.
                .filter(|fragment| !(options.checked && fragment.kernel() == LinearKernel::CoopmatInt8))
                .and_then(|fragment| Coopmat::new(fragment, info.subgroup_max_size, CHUNKS[0])),
        };
        let tuning = options.tuning.clone().unwrap_or_default().for_adapter(&info);
        let macs_per_dispatch = options.macs_per_dispatch.unwrap_or(abilities.class.macs_per_dispatch()).max(1);
        let config = |choice| Config {
            choice,
            tuning: tuning.clone(),
            subgroup: abilities.subgroup,
            limits: abilities.limits.clone(),
            wide_rows: abilities.class != DeviceClass::Software,
            float_lanes: abilities.class == DeviceClass::Software && abilities.subgroup.is_some_and(|size| size >= 8),
            checked: options.checked,
            unpacked_weights: options.unpacked_weights,
            unfused: options.unfused,
            debug_groups: options.debug_groups,
            macs_per_dispatch,
            max_partial_sums: abilities.class.max_partial_sums(),
            poll: options.poll,
        };
        let configs = choices(&abilities, &options.wanted())?.into_iter().map(|choice| Arc::new(config(choice)));
        Ok(Self { device, choices: Arc::new(Choices { configs: configs.collect(), tested: Mutex::default() }) })
    }

    /// The choice that was tested, else the first.
    pub(super) fn config(&self) -> Arc<Config> {
        let tested = self.choices.tested.lock().unwrap_or_else(PoisonError::into_inner).clone();
        tested.unwrap_or_else(|| Arc::clone(&self.choices.configs[0]))
    }

    /// The first choice that computes correctly. Tests it when it is first needed.
    pub(super) async fn tested(
        &self,
        progress: &mut Progress<impl FnMut(LoadProgress)>,
    ) -> Result<Arc<Config>, GpuError> {
        let tested = self.choices.tested.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(tested) = tested {
            return Ok(tested);
        }
        let config = choose(&self.device, &self.choices.configs, progress).await?;
        let config = Arc::new(without_wrong_tuning(&self.device, config).await?);
        let info = self.device.wgpu.adapter_info();
        log::info!("{} [{:?}, {:?}]: {}", info.name, info.backend, info.device_type, config.choice);
        *self.choices.tested.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&config));
        Ok(config)
    }
}

/// Refuses a device that allows less than the least, before anything is made on it.
fn check_limits(limits: &wgpu::Limits) -> Result<(), GpuError> {
    macro_rules! numbers {
        ($($limit:ident)*) => {
            [$((stringify!($limit), Engine::MIN_LIMITS.$limit, limits.$limit)),*]
        };
    }
    let numbers = numbers!(
        max_bind_groups
        max_bindings_per_bind_group
        max_dynamic_uniform_buffers_per_pipeline_layout
        max_storage_buffers_per_shader_stage
        max_uniform_buffers_per_shader_stage
        max_compute_workgroup_storage_size
        max_compute_invocations_per_workgroup
        max_compute_workgroup_size_x
        max_compute_workgroup_size_y
    );
    match numbers.into_iter().find(|(_, least, allowed)| allowed < least) {
        None => Ok(()),
        Some((name, least, allowed)) => {
            let (actual, limit) = (least.into(), allowed.into());
            Err(GpuError::Limit { name: name.to_owned(), what: "the engine needs at least", actual, limit })
        }
    }
}

/// The first choice that computes correctly; if there is none, the first failure.
async fn choose<'c>(
    device: &Arc<Device>,
    configs: &'c [Arc<Config>],
    progress: &mut Progress<impl FnMut(LoadProgress)>,
) -> Result<&'c Config, GpuError> {
    let mut failure = None;
    for config in configs {
        match known_answer::check_choice(device, config, progress).await {
            Ok(()) => return Ok(config),
            Err(GpuError::DeviceLost) => return Err(GpuError::DeviceLost),
            // Wrong answers, or a driver that cannot compile a kernel: another choice may work.
            Err(error) => {
                log::warn!("{}: {error}", config.choice);
                failure.get_or_insert(error);
            }
        }
    }
    // There is always a choice, so there is a failure if none was right.
    Err(failure.unwrap_or(GpuError::DeviceLost))
}

/// Removes tuned shapes that compute wrongly on this device.
async fn without_wrong_tuning(device: &Arc<Device>, config: &Config) -> Result<Config, GpuError> {
    let mut wrong = Vec::new();
    for (tile, rows) in config.tuning.tiles() {
        let fits = TileShape::new(tile.kernel(), tile.rows(), tile.k_step(), &config.limits).is_ok();
        if !fits || !config.allows(tile) || !known_answer::is_right(device, config, tile, rows).await? {
            wrong.push((tile, rows));
        }
    }
    let tuning: TuningTable = config.tuning.clone().without(&wrong);
    Ok(Config { tuning, ..config.clone() })
}

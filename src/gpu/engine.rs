//! The engine: one device, its pipelines, and the choice of kernels.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::choice::{Abilities, Candidate, Choice, DeviceClass, choices, pick};
use super::coop::{CHUNKS, Coop, Fragment};
use super::error::GpuError;
use super::known_answer;
use super::layout::WeightBits;
use super::model::Model;
use super::pipeline::Pipelines;
use super::tile::{LinearKernel, TileShape};
use super::transfer::is_lost_now;
use super::tune::{self, TuningTable};
use crate::program::Program;

/// How four products of int8 are summed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PackedDot {
    /// WGSL's packed dot product, unless the known-answer test finds the device's wrong.
    #[default]
    Auto,
    /// WGSL's packed dot product.
    Native,
    /// By separate multiplications.
    Emulated,
}

/// Whether K is divided among workgroups, whose sums then meet in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SplitK {
    /// Where the grid would be too small to keep the device busy.
    #[default]
    Auto,
    /// Nowhere.
    Never,
    /// Wherever K is long enough to be divided and the sums fit.
    Always,
}

/// How an engine computes. What the [module](super) promises to the bit does not depend on it; float steps, and codes behind them, may
/// differ in a rounding.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    /// One tile shape for all layers and rows, instead of the engine's choice for this device.
    pub tile: Option<TileShape>,
    /// How products are summed.
    pub packed_dot: PackedDot,
    /// Whether K is divided.
    pub split_k: SplitK,
    /// Compiles shaders with wgpu's run-time checks. Without, as is the default, the host has validated what they would check.
    pub checked: bool,
    /// Leaves weights of 2 to 4 bits unpacked, one byte a code.
    pub unpacked_weights: bool,
    /// Gives each step a dispatch of its own, instead of joining those of the fixed list to one.
    pub unfused: bool,
    /// Uses no subgroup operations, even where the device has them.
    pub without_subgroups: bool,
    /// Records a debug group with the node's name around each step, for tools that capture frames.
    pub debug_groups: bool,
    /// The adapter's matrix units, from [`Fragment::of`], for products of int8 on them. They are used if the device was made with
    /// [`Fragment::FEATURES`] and passes their test with known answers, else silently not.
    #[cfg(feature = "coopmat")]
    pub fragment: Option<Fragment>,
    /// The most multiplications and additions in one dispatch, instead of what suits the device; more are divided by rows, so that
    /// a driver's watchdog sees none that is too long.
    pub macs_per_dispatch: Option<u64>,
    /// What [`Engine::tune`] found, for layers of the shapes that it measured.
    pub tuning: Option<TuningTable>,
    /// What [`Engine::pipeline_cache_data`] returned earlier, so that the driver need not compile again.
    pub pipeline_cache: Option<Vec<u8>>,
}

impl Options {
    #[cfg(feature = "coopmat")]
    fn wanted_fragment(&self) -> Option<Fragment> {
        self.fragment
    }

    #[cfg(not(feature = "coopmat"))]
    fn wanted_fragment(&self) -> Option<Fragment> {
        None
    }
}

/// Runs programs on one wgpu device. Cheap to clone; may be shared between threads where wgpu's objects may.
#[derive(Debug, Clone)]
pub struct Engine {
    pub(super) shared: Arc<Shared>,
    pub(super) choice: Choice,
    pub(super) settings: Arc<Settings>,
}

/// What the options say beyond the choice of kernels.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) unpacked_weights: bool,
    pub(super) unfused: bool,
    pub(super) debug_groups: bool,
    pub(super) macs_per_dispatch: u64,
    pub(super) tuning: TuningTable,
}

/// What all engines, models and runs of a device share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    pub(super) limits: wgpu::Limits,
    pub(super) pipelines: Pipelines,
    lost: AtomicBool,
    /// The kernels that have given known answers, and whether with packed dot products.
    known: Mutex<BTreeSet<(&'static str, bool)>>,
}

impl Shared {
    /// What is known of a loss already: costs nothing.
    pub(super) fn check_marked_lost(&self) -> Result<(), GpuError> {
        if self.lost.load(Ordering::Relaxed) { Err(GpuError::DeviceLost) } else { Ok(()) }
    }

    /// Asks the device too, in case nobody has told.
    pub(super) fn check_lost(&self) -> Result<(), GpuError> {
        self.check_marked_lost()?;
        if is_lost_now(&self.device) {
            self.lost.store(true, Ordering::Relaxed);
        }
        self.check_marked_lost()
    }

    pub(super) fn known(&self) -> MutexGuard<'_, BTreeSet<(&'static str, bool)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine {
    /// What a device must allow at least; [`Engine::new`] refuses one that allows less. Of the other limits any will do: layers, batches
    /// and tiles that are too large for them are refused, or not chosen.
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

    /// The features that the engine profits from, of those that an adapter has: for `request_device`. It needs none.
    #[must_use]
    pub fn wanted_features(available: wgpu::Features) -> wgpu::Features {
        available & (wgpu::Features::SUBGROUP | wgpu::Features::TIMESTAMP_QUERY | wgpu::Features::PIPELINE_CACHE)
    }

    /// WebGPU's default limits, raised as far as an adapter allows where larger weights, batches or tiles profit.
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

    /// Makes an engine on the caller's device, compiles its kernels of linear layers and tests them on known answers. Submits work
    /// and waits for it.
    ///
    /// # Errors
    /// [`GpuError::Limit`] for a device that allows less than [`Engine::MIN_LIMITS`], [`GpuError::KnownAnswer`] if no kernel computes
    /// correctly on it, [`GpuError::Tile`] for a tile shape that it does not hold, and [`GpuError::Device`] for errors of wgpu.
    pub async fn new(device: &wgpu::Device, queue: &wgpu::Queue, options: &Options) -> Result<Self, GpuError> {
        check_limits(&device.limits())?;
        let info = device.adapter_info();
        let has_subgroups = device.features().contains(wgpu::Features::SUBGROUP) && !options.without_subgroups;
        let abilities = Abilities {
            class: DeviceClass::of(&info),
            limits: device.limits(),
            subgroup: has_subgroups.then_some(info.subgroup_min_size),
            coop: options
                .wanted_fragment()
                .filter(|fragment| has_subgroups && device.features().contains(fragment.features()))
                .map(|fragment| Coop { fragment, lanes: info.subgroup_max_size, chunk_vecs: CHUNKS[0] }),
        };
        let pipelines = Pipelines::new(device, options, abilities.subgroup).await?;
        let shared = Arc::new(Shared {
            device: device.clone(),
            queue: queue.clone(),
            limits: device.limits(),
            pipelines,
            lost: AtomicBool::new(false),
            known: Mutex::default(),
        });
        let settings = Settings {
            unpacked_weights: options.unpacked_weights,
            unfused: options.unfused,
            debug_groups: options.debug_groups,
            macs_per_dispatch: options.macs_per_dispatch.unwrap_or(abilities.class.macs_per_dispatch()).max(1),
            tuning: options.tuning.clone().unwrap_or_default().for_adapter(&info),
        };
        let engine = choose(&shared, &abilities, options, settings).await?.without_wrong_tuning().await?;
        log::info!("{} [{:?}, {:?}]: {}", info.name, info.backend, info.device_type, engine.choice);
        Ok(engine)
    }

    /// Packs a program's weights and uploads them. Before that, kernels whose bits are promised and that no earlier program of this
    /// engine needed are tested on known answers, which submits work and waits for it.
    ///
    /// # Errors
    /// [`GpuError::KnownAnswer`] if a kernel that the program needs does not compute correctly on this device;
    /// [`GpuError::Limit`] for a constant that is larger than this device allows, or a step that walks through more than six axes
    /// in different orders; [`GpuError::Device`] if the device has no memory left.
    pub async fn load(&self, program: &Program) -> Result<Model, GpuError> {
        self.shared.check_lost()?;
        known_answer::check_program(self, program).await?;
        Model::load(self, program).await
    }

    /// Measures the tile shapes that this device can hold on the linear layers of a program, at a batch of `rows`. Submits work
    /// and waits for it; seconds, for large layers. [`Options::tuning`] takes the result, also in another process.
    ///
    /// # Errors
    /// [`GpuError::Rows`] for a batch of 0, [`GpuError::Feature`] where there is neither a timestamp query nor another clock, and
    /// what [`Engine::load`] returns.
    pub async fn tune(&self, program: &Program, rows: usize) -> Result<TuningTable, GpuError> {
        tune::tune(self, program, rows).await
    }

    /// What the driver has compiled so far, for [`Options::pipeline_cache`] of a later engine on the same adapter; `None` without
    /// `Features::PIPELINE_CACHE`.
    #[must_use]
    pub fn pipeline_cache_data(&self) -> Option<Vec<u8>> {
        self.shared.pipelines.cache.as_ref()?.get_data()
    }

    /// Tells the engine that its device was lost; call it from the device-lost callback, which belongs to the application.
    /// Models and runs of this engine return [`GpuError::DeviceLost`] from now on; a new engine on a new device continues with the
    /// same [`Program`].
    ///
    /// Without it, they ask the device whenever they are called, but for [`Run::record_in`](super::Run::record_in), which costs no
    /// more than its commands, and in a browser, where the answer comes later.
    ///
    /// The callback belongs to the device and an engine keeps its device, so that a callback which owns a clone of the engine makes
    /// a circle that is never freed. Let it hold a [`Weak`](std::sync::Weak) of an `Arc<Engine>`, as `examples/embed` does:
    ///
    /// ```no_run
    /// # use std::sync::Arc;
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
        self.shared.lost.store(true, Ordering::Relaxed);
    }

    /// The tile shape for a linear layer of `matrix_rows` rows and `n` output columns on this device, tuning aside.
    #[must_use]
    pub fn tile(&self, matrix_rows: usize, n: usize) -> TileShape {
        self.choice.candidates[pick(self.choice.candidates.iter(), matrix_rows as u64, n)].tile
    }

    /// Whether matrix units are used, where layers are large enough.
    #[must_use]
    pub fn uses_matrix_units(&self) -> bool {
        self.choice.coop.is_some()
    }

    /// Whether WGSL's packed dot product is used.
    #[must_use]
    pub fn uses_packed_dot(&self) -> bool {
        self.choice.packed_dot
    }

    /// The device's limits.
    #[must_use]
    pub fn limits(&self) -> &wgpu::Limits {
        &self.shared.limits
    }
}

impl Engine {
    /// The same device with another choice of kernels, and without what was tuned.
    pub(super) fn with(&self, choice: Choice) -> Self {
        let settings = Settings { tuning: TuningTable::default(), ..(*self.settings).clone() };
        Self { shared: Arc::clone(&self.shared), choice, settings: Arc::new(settings) }
    }

    /// Whether this engine may use a shape that fits its limits: a table may come from a device that was made with other features,
    /// and may have been changed.
    fn allows(&self, tile: TileShape) -> bool {
        match tile.kernel() {
            LinearKernel::Subgroup => self.shared.pipelines.subgroup_lanes().is_some_and(|most| tile.k_step() <= most),
            LinearKernel::Coop => self.choice.coop.is_some_and(|coop| coop.fits(tile, &self.shared.limits)),
            _ => true,
        }
    }

    /// The same without tuned shapes that compute wrongly on this device, like those that a choice would fall back from.
    async fn without_wrong_tuning(self) -> Result<Self, GpuError> {
        let mut wrong = Vec::new();
        for tile in self.settings.tuning.tiles() {
            let known = TileShape::new(tile.kernel(), tile.rows(), tile.k_step(), &self.shared.limits).is_ok();
            if !known || !self.allows(tile) || !known_answer::is_right(&self, tile).await? {
                wrong.push(tile);
            }
        }
        let tuning = self.settings.tuning.clone().without(&wrong);
        let settings = Arc::new(Settings { tuning, ..(*self.settings).clone() });
        Ok(Self { settings, ..self })
    }

    /// The candidates for a layer.
    pub(super) fn candidates(&self, n: usize, k: usize, bits: WeightBits) -> Vec<Candidate> {
        let limits = &self.shared.limits;
        let mut candidates = self.settings.tuning.candidates(n, k, bits, limits, |tile| self.allows(tile));
        candidates.extend(&self.choice.candidates);
        candidates
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
async fn choose(
    shared: &Arc<Shared>,
    abilities: &Abilities,
    options: &Options,
    settings: Settings,
) -> Result<Engine, GpuError> {
    let settings = Arc::new(settings);
    let mut failure = None;
    for choice in choices(abilities, options)? {
        let engine = Engine { shared: Arc::clone(shared), choice, settings: Arc::clone(&settings) };
        match known_answer::check(&engine).await {
            Ok(()) => return Ok(engine),
            Err(GpuError::DeviceLost) => return Err(GpuError::DeviceLost),
            // Wrong answers, or a driver that cannot compile a kernel: another may do.
            Err(error) => {
                log::warn!("{}: {error}", engine.choice);
                failure.get_or_insert(error);
            }
        }
    }
    // There is always a choice, so there is a failure if none was right.
    Err(failure.unwrap_or(GpuError::DeviceLost))
}

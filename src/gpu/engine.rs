//! The engine: one device, its pipelines, and the choice of kernels.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::error::GpuError;
use super::known_answer;
use super::layout::BLOCK_COLS;
use super::model::Model;
use super::pipeline::Pipelines;
use super::tile::{LinearKernel, TileShape};
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

/// How an engine computes. The bits do not depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// One tile shape for all layers and rows, instead of the engine's choice for this device.
    pub tile: Option<TileShape>,
    /// How products are summed.
    pub packed_dot: PackedDot,
}

/// Runs programs on one wgpu device. Cheap to clone; may be shared between threads where wgpu's objects may.
#[derive(Debug, Clone)]
pub struct Engine {
    pub(super) shared: Arc<Shared>,
    pub(super) choice: Choice,
}

/// What all engines, models and runs of a device share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    pub(super) limits: wgpu::Limits,
    pub(super) pipelines: Pipelines,
    lost: AtomicBool,
}

impl Shared {
    pub(super) fn check_lost(&self) -> Result<(), GpuError> {
        if self.lost.load(Ordering::Relaxed) { Err(GpuError::DeviceLost) } else { Ok(()) }
    }
}

/// Which kernels to use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Choice {
    /// Tiles, each for at most so many matrix rows, ascending; the last for any number.
    pub(super) tiles: Vec<(u64, TileShape)>,
    pub(super) packed_dot: bool,
}

impl Choice {
    /// One tile for any number of rows.
    pub(super) fn only(tile: TileShape, packed_dot: bool) -> Self {
        Self { tiles: vec![(u64::MAX, tile)], packed_dot }
    }

    /// Where in `tiles` the one for `m` matrix rows is.
    pub(super) fn index(&self, m: u64) -> usize {
        self.tiles.iter().position(|(most, _)| m <= *most).unwrap_or_default()
    }
}

/// For logs, as in `up to 1 rows linear_gemv 1 x 64, else linear_reg 32 x 64, emulated dot product`.
impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (most, tile) in &self.tiles {
            let (kernel, rows) = (tile.kernel().name(), tile.rows());
            match *most {
                u64::MAX => write!(f, "else {kernel} {rows} x {BLOCK_COLS}, ")?,
                most => write!(f, "up to {most} rows {kernel} {rows} x {BLOCK_COLS}, ")?,
            }
        }
        write!(f, "{} dot product", if self.packed_dot { "packed" } else { "emulated" })
    }
}

impl Engine {
    /// Makes an engine on the caller's device, compiles its kernels and tests them on known answers. Submits work and waits
    /// for it.
    ///
    /// # Errors
    /// [`GpuError::KnownAnswer`] if no kernel computes correctly on this device, and [`GpuError::Device`] for errors of
    /// wgpu.
    pub async fn new(device: &wgpu::Device, queue: &wgpu::Queue, options: &Options) -> Result<Self, GpuError> {
        let pipelines = Pipelines::new(device).await?;
        let shared = Arc::new(Shared {
            device: device.clone(),
            queue: queue.clone(),
            limits: device.limits(),
            pipelines,
            lost: AtomicBool::new(false),
        });
        let choice = choose(&shared, options).await?;
        let info = device.adapter_info();
        log::info!("{} [{:?}, {:?}]: {choice}", info.name, info.backend, info.device_type);
        Ok(Self { shared, choice })
    }

    /// Packs a program's weights and uploads them.
    ///
    /// # Errors
    /// [`GpuError::Limit`] for a weight that is larger than this device allows, or a step that walks through more than six axes
    /// in different orders; [`GpuError::Device`] if the device has no memory left.
    pub async fn load(&self, program: &Program) -> Result<Model, GpuError> {
        Model::load(self, program).await
    }

    /// Tells the engine that its device was lost; call it from the device-lost callback, which belongs to the application.
    /// Models and runs of this engine return [`GpuError::DeviceLost`] from now on.
    pub fn mark_lost(&self) {
        self.shared.lost.store(true, Ordering::Relaxed);
    }

    /// The tile shape for a linear layer of `matrix_rows` rows on this device.
    #[must_use]
    pub fn tile(&self, matrix_rows: usize) -> TileShape {
        self.choice.tiles[self.choice.index(matrix_rows as u64)].1
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
    /// The same device with another choice of kernels.
    pub(super) fn with(&self, choice: Choice) -> Self {
        Self { shared: Arc::clone(&self.shared), choice }
    }
}

/// The first candidate that computes correctly; if there is none, the first failure.
async fn choose(shared: &Arc<Shared>, options: &Options) -> Result<Choice, GpuError> {
    let mut failure = None;
    for choice in candidates(shared.device.adapter_info().device_type, &shared.limits, options)? {
        let engine = Engine { shared: Arc::clone(shared), choice };
        match known_answer::check(&engine).await {
            Ok(()) => return Ok(engine.choice),
            // Wrong answers, or a driver that cannot compile a kernel: another may do.
            Err(error) => {
                log::warn!("{}: {error}", engine.choice);
                failure.get_or_insert(error);
            }
        }
    }
    // There is always a candidate, so there is a failure if none was right.
    Err(failure.unwrap_or(GpuError::DeviceLost))
}

/// What to try on a device, best first.
fn candidates(
    device_type: wgpu::DeviceType,
    limits: &wgpu::Limits,
    options: &Options,
) -> Result<Vec<Choice>, GpuError> {
    let software = device_type == wgpu::DeviceType::Cpu;
    let dots: &[bool] = match options.packed_dot {
        // Drivers that run on a CPU are no faster, and SwiftShader is slower, with the packed form.
        PackedDot::Auto if software => &[false, true],
        PackedDot::Auto => &[true, false],
        PackedDot::Native => &[true],
        PackedDot::Emulated => &[false],
    };
    if let Some(tile) = options.tile {
        // The shape may have been made for other limits.
        let main = TileShape::new(tile.kernel(), tile.rows(), tile.k_step(), limits)?;
        return Ok(dots.iter().map(|&packed_dot| Choice::only(main, packed_dot)).collect());
    }
    let workgroup = TileShape::new(LinearKernel::Workgroup, 64, 4, limits);
    let register = TileShape::new(LinearKernel::Register, 32, 1, limits);
    let mains = if software { [register, workgroup] } else { [workgroup, register] };
    if let [Err(error), Err(_)] = &mains {
        return Err(error.clone());
    }
    // (Most matrix rows, rows of a workgroup, threads that share a column.) For a GPU more threads hide the latency of
    // memory, and up to 8 rows the weights' bytes decide; a processor computes from 3 rows on.
    let few: &[(u64, u32, u32)] = if software { &[(1, 1, 1), (2, 2, 1)] } else { &[(1, 1, 4), (2, 2, 4), (8, 4, 4)] };
    let few = few
        .iter()
        .map(|&(most, rows, k_step)| TileShape::new(LinearKernel::Gemv, rows, k_step, limits).map(|tile| (most, tile)));
    let few: Vec<(u64, TileShape)> = few.flatten().collect();
    let mut candidates = Vec::new();
    for &packed_dot in dots {
        for few in [few.as_slice(), &[]] {
            for &main in mains.iter().flatten() {
                candidates.push(Choice { tiles: [few, &[(u64::MAX, main)]].concat(), packed_dot });
            }
        }
    }
    Ok(candidates)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(choice: &Choice, m: u64) -> LinearKernel {
        choice.tiles[choice.index(m)].1.kernel()
    }

    #[test]
    fn candidates_fall_back_step_by_step() {
        let limits = wgpu::Limits::default();
        let all = candidates(wgpu::DeviceType::DiscreteGpu, &limits, &Options::default()).expect("fit");
        assert_eq!([1, 8, 9].map(|m| kernel(&all[0], m)), {
            [LinearKernel::Gemv, LinearKernel::Gemv, LinearKernel::Workgroup]
        });
        assert_eq!(kernel(&all[1], 9), LinearKernel::Register);
        assert_eq!([kernel(&all[2], 1), kernel(&all[3], 1)], [LinearKernel::Workgroup, LinearKernel::Register]);
        assert!(all[..4].iter().all(|c| c.packed_dot) && all[4..].iter().all(|c| !c.packed_dot));
        assert_eq!(all.len(), 8);

        let all = candidates(wgpu::DeviceType::Cpu, &limits, &Options::default()).expect("fit");
        assert_eq!(kernel(&all[0], 9), LinearKernel::Register);
        assert!(!all[0].packed_dot && all[4].packed_dot);
    }

    #[test]
    fn small_devices_get_what_fits() {
        let limits = wgpu::Limits { max_compute_workgroup_storage_size: 0, ..wgpu::Limits::default() };
        let all = candidates(wgpu::DeviceType::IntegratedGpu, &limits, &Options::default()).expect("fit");
        assert!(all.iter().all(|c| kernel(c, 1) == LinearKernel::Register));
        let limits = wgpu::Limits { max_compute_invocations_per_workgroup: 8, ..wgpu::Limits::default() };
        assert!(candidates(wgpu::DeviceType::IntegratedGpu, &limits, &Options::default()).is_err());
    }
}

//! The state of one wgpu device that all its engines, models and runs share: pipelines, known answers, and whether the device was
//! lost.

pub(crate) mod error;
pub(crate) mod pipeline;
pub(crate) mod scope;
pub(crate) mod shader;
#[cfg(feature = "coopmat-spirv")]
pub(crate) mod spirv;
pub(crate) mod transfer;
mod unchecked;
pub(crate) mod wait;

use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use error::GpuError;
use pipeline::{PipelineKey, Pipelines};
use scope::{are_one, is_lost_now};

/// A wgpu device, with what was compiled and tested on it.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) wgpu: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    pub(crate) limits: wgpu::Limits,
    pub(crate) pipelines: Pipelines,
    lost: AtomicBool,
    /// The pipelines that have given known answers.
    known: Mutex<HashSet<PipelineKey>>,
    /// The kernels whose floats agree with the right ones within rounding only.
    inexact: Mutex<BTreeSet<&'static str>>,
}

impl Device {
    /// Returns what engines of this wgpu device share: what the first of them has made, while one of them lives. Only the first uses the
    /// pipeline cache.
    pub(crate) async fn shared(
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        pipeline_cache: Option<&[u8]>,
    ) -> Result<Arc<Self>, GpuError> {
        let mut new = None;
        loop {
            let others = with_devices(|devices| equal(devices, device));
            for other in &others {
                if are_one(&other.wgpu, device).await || other.check_marked_lost().is_err() && is_lost_now(device) {
                    return Ok(Arc::clone(other));
                }
            }
            let Some(made) = new.take() else {
                new = Some(Arc::new(Self::new(device, queue, pipeline_cache).await?));
                continue;
            };
            // Unless another thread was faster: then its entry is asked too.
            let is_entered = with_devices(|devices| {
                let now = equal(devices, device);
                let none_is_new = now.iter().all(|entry| others.iter().any(|other| Arc::ptr_eq(entry, other)));
                if none_is_new {
                    devices.push(Arc::downgrade(&made));
                }
                none_is_new
            });
            if is_entered {
                return Ok(made);
            }
            new = Some(made);
        }
    }

    pub(crate) async fn new(
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        pipeline_cache: Option<&[u8]>,
    ) -> Result<Self, GpuError> {
        Ok(Self {
            wgpu: device.clone(),
            queue: queue.clone(),
            limits: device.limits(),
            pipelines: Pipelines::new(device, pipeline_cache).await?,
            lost: AtomicBool::new(false),
            known: Mutex::default(),
            inexact: Mutex::default(),
        })
    }

    /// Returns an error if somebody has noticed the loss of the device already. Costs nothing.
    pub(crate) fn check_marked_lost(&self) -> Result<(), GpuError> {
        if self.lost.load(Ordering::Relaxed) { Err(GpuError::DeviceLost) } else { Ok(()) }
    }

    /// Returns an error if the device was lost, whether or not somebody has noticed it.
    pub(crate) fn check_lost(&self) -> Result<(), GpuError> {
        self.check_marked_lost()?;
        if is_lost_now(&self.wgpu) {
            self.mark_lost();
        }
        self.check_marked_lost()
    }

    pub(crate) fn mark_lost(&self) {
        self.lost.store(true, Ordering::Relaxed);
    }

    /// Whether a pipeline has given known answers.
    pub(crate) fn is_known(&self, key: &PipelineKey) -> bool {
        self.known().contains(key)
    }

    /// Remembers that pipelines have given known answers.
    pub(crate) fn remember(&self, keys: impl IntoIterator<Item = PipelineKey>) {
        self.known().extend(keys);
    }

    /// Remembers a kernel whose floats agree within rounding only.
    pub(crate) fn remember_inexact(&self, kernel: &'static str) {
        self.inexact.lock().unwrap_or_else(PoisonError::into_inner).insert(kernel);
    }

    /// The kernels whose floats agree within rounding only, in the order of their names.
    pub(crate) fn inexact(&self) -> Vec<&'static str> {
        self.inexact.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }

    fn known(&self) -> MutexGuard<'_, HashSet<PipelineKey>> {
        // An entry is there or not, also after a panic.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The devices that have an engine. A device in a browser belongs to its thread.
type Devices = Vec<Weak<Device>>;

/// The entries whose wgpu devices are equal to one, which need not be that one; entries of devices without engines go.
fn equal(devices: &mut Devices, wgpu: &wgpu::Device) -> Vec<Arc<Device>> {
    devices.retain(|device| device.strong_count() > 0);
    devices.iter().filter_map(Weak::upgrade).filter(|device| device.wgpu == *wgpu).collect()
}

#[cfg(not(target_arch = "wasm32"))]
fn with_devices<R>(f: impl FnOnce(&mut Devices) -> R) -> R {
    static DEVICES: Mutex<Devices> = Mutex::new(Vec::new());
    f(&mut DEVICES.lock().unwrap_or_else(PoisonError::into_inner))
}

#[cfg(target_arch = "wasm32")]
fn with_devices<R>(f: impl FnOnce(&mut Devices) -> R) -> R {
    thread_local! {
        static DEVICES: std::cell::RefCell<Devices> = const { std::cell::RefCell::new(Vec::new()) };
    }
    DEVICES.with_borrow_mut(f)
}

//! The application's own device, and the engine that uses it.

use std::sync::{Arc, OnceLock};

use anyhow::{Context as _, Result, bail};
use enfold::gpu::{Engine, Options};
use pollster::block_on;
use wgpu::{DeviceType, DownlevelFlags};

/// Lists the adapters that can compute and draw and whose name contains `name`, the most capable first. The list is empty if no
/// adapter answers.
///
/// # Errors
/// If there are adapters, but none with that name.
pub(crate) fn adapters(instance: &wgpu::Instance, name: Option<&str>) -> Result<Vec<wgpu::Adapter>> {
    let needed = DownlevelFlags::COMPUTE_SHADERS | DownlevelFlags::FRAGMENT_STORAGE;
    let mut adapters = block_on(instance.enumerate_adapters(wgpu::Backends::all()));
    adapters.retain(|adapter| adapter.get_downlevel_capabilities().flags.contains(needed));
    let names: Vec<String> = adapters.iter().map(|adapter| adapter.get_info().name).collect();
    let wanted = name.unwrap_or_default().to_lowercase();
    adapters.retain(|adapter| adapter.get_info().name.to_lowercase().contains(&wanted));
    if let (Some(name), [], [_, ..]) = (name, &adapters[..], &names[..]) {
        bail!("--adapter {name}: no adapter has that name; there are: {}", names.join(", "));
    }
    adapters.sort_by_key(|adapter| match adapter.get_info().device_type {
        DeviceType::DiscreteGpu => 0,
        DeviceType::IntegratedGpu => 1,
        DeviceType::VirtualGpu => 2,
        DeviceType::Other => 3,
        DeviceType::Cpu => 4,
    });
    Ok(adapters)
}

/// The application's device with its queue, its engine, and the errors that it reported.
pub(crate) struct Gpu {
    pub(crate) adapter: wgpu::Adapter,
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    pub(crate) engine: Arc<Engine>,
    /// The first error that wgpu reported to a callback instead of to a call.
    failure: Arc<OnceLock<String>>,
}

impl Gpu {
    pub(crate) fn open(adapter: wgpu::Adapter) -> Result<Self> {
        let (info, available) = (adapter.get_info(), adapter.limits());
        println!("adapter: {} [{:?}, {:?}]", info.name, info.backend, info.device_type);
        // The features and limits that the engine asks for suit the application too: timestamps, and large buffers, since each pixel
        // has a row of features.
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("embed"),
            required_features: Engine::wanted_features(adapter.features()),
            required_limits: Engine::wanted_limits(&available).or_worse_values_from(&available),
            ..wgpu::DeviceDescriptor::default()
        };
        let (device, queue) = block_on(adapter.request_device(&descriptor)).context(info.name)?;

        let failure = Arc::new(OnceLock::new());
        let first = Arc::clone(&failure);
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| drop(first.set(error.to_string()))));

        let engine = Arc::new(block_on(Engine::new(&device, &queue, &Options::default()))?);
        // The device owns the callback and the engine holds the device: a strong reference would be a cycle that is never freed.
        let (lost, first) = (Arc::downgrade(&engine), Arc::clone(&failure));
        device.set_device_lost_callback(move |reason, message| {
            if let Some(engine) = lost.upgrade() {
                engine.mark_lost();
            }
            drop(first.set(format!("the device was lost ({reason:?}): {message}")));
        });
        Ok(Self { adapter, device, queue, engine, failure })
    }

    /// Fails if the device has reported an error to a callback.
    ///
    /// # Errors
    /// The first such error.
    pub(crate) fn check(&self) -> Result<()> {
        match self.failure.get() {
            Some(failure) => bail!("{failure}"),
            None => Ok(()),
        }
    }
}

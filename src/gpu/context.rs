//! A device for examples, tests and benches, which no application surrounds.
//!
//! An application has a device, gives it to [`Engine::new`](super::Engine::new), and does not need this module.

use super::device::error::GpuError;
use super::engine::Engine;

/// An adapter with a device and its queue.
#[derive(Debug, Clone)]
pub struct Context {
    /// The properties of the adapter.
    pub info: wgpu::AdapterInfo,
    /// The adapter.
    pub adapter: wgpu::Adapter,
    /// A device with all limits of the adapter.
    pub device: wgpu::Device,
    /// Its queue.
    pub queue: wgpu::Queue,
}

impl Context {
    /// Returns the adapters that can compute, in the order in which [`request`](Self::request) prefers them; none if the
    /// application was compiled without wgpu backends.
    pub async fn adapters() -> Vec<wgpu::Adapter> {
        if wgpu::Instance::enabled_backend_features().is_empty() {
            return Vec::new();
        }
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
        let computes = wgpu::DownlevelFlags::COMPUTE_SHADERS;
        let mut adapters = instance.enumerate_adapters(wgpu::Backends::all()).await;
        adapters.retain(|adapter| adapter.get_downlevel_capabilities().flags.contains(computes));
        adapters.sort_by_key(|adapter| preference(adapter.get_info().device_type));
        adapters
    }

    /// Opens the adapter whose name contains `name`, ignoring case; or, without a name, the most capable: a discrete GPU before an
    /// integrated one before a software adapter. `None` if there is no adapter, or if the application was compiled without wgpu
    /// backends. Enables the features of [`Engine::wanted_features`] that the adapter has.
    ///
    /// # Errors
    /// Returns [`GpuError::NoSuchAdapter`] if adapters exist but none has the name, [`GpuError::Device`] if the adapter gives no
    /// device.
    pub async fn request(name: Option<&str>) -> Result<Option<Self>, GpuError> {
        let mut adapters = Self::adapters().await;
        let available: Vec<String> = adapters.iter().map(|adapter| adapter.get_info().name).collect();
        let wanted = name.unwrap_or_default().to_lowercase();
        let chosen = available.iter().position(|name| name.to_lowercase().contains(&wanted));
        let Some(chosen) = chosen else {
            return match name {
                Some(name) => Err(GpuError::NoSuchAdapter { wanted: name.to_owned(), available }),
                None => Ok(None),
            };
        };
        let adapter = adapters.swap_remove(chosen);
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("enfold"),
            required_features: Engine::wanted_features(adapter.features()),
            required_limits: adapter.limits(),
            ..wgpu::DeviceDescriptor::default()
        };
        let info = adapter.get_info();
        let error = |e: wgpu::RequestDeviceError| GpuError::Device { what: info.name.clone(), message: e.to_string() };
        let (device, queue) = adapter.request_device(&descriptor).await.map_err(error)?;
        Ok(Some(Self { info, adapter, device, queue }))
    }

    /// Returns name, backend and device type, as in `llvmpipe (LLVM 15.0.6, 256 bits) [Vulkan, Cpu]`.
    #[must_use]
    pub fn describe(&self) -> String {
        format!("{} [{:?}, {:?}]", self.info.name, self.info.backend, self.info.device_type)
    }

    /// Whether the adapter is a software adapter, which runs on a CPU.
    #[must_use]
    pub fn is_software(&self) -> bool {
        self.info.device_type == wgpu::DeviceType::Cpu
    }
}

fn preference(device_type: wgpu::DeviceType) -> u8 {
    match device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    }
}

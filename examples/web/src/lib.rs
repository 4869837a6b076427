//! The Rust half of the page: an archive, loaded once, runs on the CPU in wasm and on WebGPU, and a painting is drawn from the output
//! buffer of its network. JavaScript gives and gets the bytes of dense, row-major tensors.

#![allow(missing_docs)]

mod error;
mod network;
mod painting;

use enfold::gpu::{Engine, Options};
use wasm_bindgen::prelude::wasm_bindgen;

use crate::error::{Result, error};

/// The page's own device, which the networks and the painting share.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Gpu {
    instance: wgpu::Instance,
    adapter: wgpu::Adapter,
    device: wgpu::Device,
    queue: wgpu::Queue,
    engine: Engine,
}

#[wasm_bindgen]
impl Gpu {
    /// Opens the browser's adapter and a device, with an engine on it.
    ///
    /// # Errors
    /// If the browser has no adapter, or gives no device.
    pub async fn open() -> Result<Gpu> {
        let descriptor = wgpu::InstanceDescriptor {
            backends: wgpu::Backends::BROWSER_WEBGPU,
            ..wgpu::InstanceDescriptor::new_without_display_handle()
        };
        let instance = wgpu::Instance::new(descriptor);
        let adapter = instance.request_adapter(&wgpu::RequestAdapterOptions::default()).await.map_err(error)?;
        let descriptor = wgpu::DeviceDescriptor {
            required_features: Engine::wanted_features(adapter.features()),
            required_limits: Engine::wanted_limits(&adapter.limits()),
            ..wgpu::DeviceDescriptor::default()
        };
        let (device, queue) = adapter.request_device(&descriptor).await.map_err(error)?;
        let engine = Engine::new(&device, &queue, &Options::default()).await.map_err(error)?;
        Ok(Gpu { instance, adapter, device, queue, engine })
    }

    /// Kernels whose floats are not the interpreter's on this device, by their names.
    #[must_use]
    pub fn inexact_kernels(&self) -> Vec<String> {
        self.engine.inexact_kernels().into_iter().map(str::to_owned).collect()
    }
}

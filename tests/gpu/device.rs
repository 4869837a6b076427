//! The one device of this process: Vulkan loaders dislike instances that come and go in parallel.

use std::sync::OnceLock;

use enfold::Tensor;
use enfold::gpu::context::Context;
use enfold::gpu::{Engine, Options};
use pollster::block_on;
use wgpu::BufferUsages;

use crate::report::report;

static CONTEXT: OnceLock<Option<Context>> = OnceLock::new();

/// The device; `None`, with a line that says so, if there is none and that is allowed.
pub(crate) fn context(test: &str) -> Option<&'static Context> {
    let context = CONTEXT.get_or_init(|| {
        let name = std::env::var("ENFOLD_ADAPTER").ok();
        let context = block_on(Context::request(name.as_deref())).expect("an adapter that gives a device");
        match &context {
            Some(context) => report(&format!("adapter: {} {}", context.describe(), context.info.driver_info)),
            None => assert!(
                std::env::var("ENFOLD_ALLOW_NO_GPU").is_ok_and(|v| v == "1"),
                "no adapter; install a Vulkan driver (mesa-vulkan-drivers) or set ENFOLD_ALLOW_NO_GPU=1"
            ),
        }
        context
    });
    if context.is_none() {
        report(&format!("skipped, no adapter: {test}"));
    }
    context.as_ref()
}

/// What `tests/run.sh` asks before it installs a driver.
#[test]
fn an_adapter_answers() {
    context("an adapter answers");
}

/// An engine with the device's own choice of kernels.
pub(crate) fn engine(test: &str) -> Option<(&'static Context, Engine)> {
    let context = context(test)?;
    let engine = block_on(Engine::new(&context.device, &context.queue, &Options::default()));
    Some((context, engine.expect("an engine")))
}

/// Another device of the same adapter, with these limits.
pub(crate) fn device_with(context: &Context, limits: wgpu::Limits) -> (wgpu::Device, wgpu::Queue) {
    let descriptor = wgpu::DeviceDescriptor { required_limits: limits, ..wgpu::DeviceDescriptor::default() };
    block_on(context.adapter.request_device(&descriptor)).expect("a device")
}

/// A buffer with contents, which a test may read back.
pub(crate) fn buffer(context: &Context, bytes: &[u8]) -> wgpu::Buffer {
    let usage = BufferUsages::STORAGE | BufferUsages::COPY_DST | BufferUsages::COPY_SRC;
    let descriptor = wgpu::util::BufferInitDescriptor { label: None, contents: bytes, usage };
    wgpu::util::DeviceExt::create_buffer_init(&context.device, &descriptor)
}

/// The bytes of a buffer, after all that was submitted.
pub(crate) fn read(context: &Context, buffer: &wgpu::Buffer) -> Vec<u8> {
    let staging = context.device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: buffer.size(),
        usage: BufferUsages::MAP_READ | BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    let mut encoder = context.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    encoder.copy_buffer_to_buffer(buffer, 0, &staging, 0, buffer.size());
    context.queue.submit([encoder.finish()]);
    staging.map_async(wgpu::MapMode::Read, .., |result| result.expect("mapped"));
    context.device.poll(wgpu::PollType::wait_indefinitely()).expect("waited");
    let bytes = staging.get_mapped_range(..).expect("mapped").to_vec();
    staging.unmap();
    bytes
}

/// The bytes of a float or int8 tensor, filled up to whole words.
pub(crate) fn bytes(tensor: &Tensor) -> Vec<u8> {
    let mut bytes: Vec<u8> = match tensor {
        Tensor::F32(a) => a.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Tensor::I8(a) => a.iter().map(|&v| v as u8).collect(),
        other => panic!("no bytes of {}", other.dtype()),
    };
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

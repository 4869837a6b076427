//! The one device of this process: Vulkan loaders dislike instances that come and go in parallel.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use enfold::Tensor;
use enfold::gpu::context::Context;
use enfold::gpu::{Engine, Options, Run};
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

/// `tests/run.sh` runs this test before it installs a driver.
#[test]
fn an_adapter_answers() {
    context("an adapter answers");
}

static ENGINE: OnceLock<Engine> = OnceLock::new();

/// The engine with the device's own choice of kernels. All tests share its pipelines.
fn shared(context: &Context) -> &'static Engine {
    let make = || block_on(Engine::new(&context.device, &context.queue, &Options::default())).expect("an engine");
    ENGINE.get_or_init(make)
}

/// The engine with the device's own choice of kernels.
pub(crate) fn engine(test: &str) -> Option<(&'static Context, Engine)> {
    let context = context(test)?;
    Some((context, shared(context).clone()))
}

/// An engine on the one device, with these options.
pub(crate) fn engine_with(context: &Context, options: &Options) -> Engine {
    if options.pipeline_cache.is_some() {
        return block_on(Engine::new(&context.device, &context.queue, options)).expect("an engine");
    }
    block_on(shared(context).with_options(options)).expect("an engine")
}

/// Another device of the same adapter, with these limits.
pub(crate) fn device_with(context: &Context, limits: wgpu::Limits) -> (wgpu::Device, wgpu::Queue) {
    device_of(context, limits, wgpu::Features::empty())
}

/// Another device of the same adapter, with these limits and features.
pub(crate) fn device_of(
    context: &Context,
    required_limits: wgpu::Limits,
    required_features: wgpu::Features,
) -> (wgpu::Device, wgpu::Queue) {
    let descriptor = wgpu::DeviceDescriptor { required_limits, required_features, ..wgpu::DeviceDescriptor::default() };
    block_on(context.adapter.request_device(&descriptor)).expect("a device")
}

/// A device of the same adapter, but of an instance of its own, which gives only this share of the device's memory, in percent.
pub(crate) fn device_of_another_instance(context: &Context, memory_percent: Option<u8>) -> (wgpu::Device, wgpu::Queue) {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle_from_env();
    descriptor.memory_budget_thresholds.for_resource_creation = memory_percent;
    let instance = wgpu::Instance::new(descriptor);
    let adapters = block_on(instance.enumerate_adapters(wgpu::Backends::all()));
    let same = adapters.into_iter().find(|adapter| adapter.get_info().name == context.info.name).expect("the adapter");
    let descriptor = wgpu::DeviceDescriptor { required_limits: same.limits(), ..wgpu::DeviceDescriptor::default() };
    block_on(same.request_device(&descriptor)).expect("a device")
}

/// Counts what reaches a device's own error handler.
pub(crate) fn watch(device: &wgpu::Device) -> Arc<AtomicUsize> {
    let errors = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&errors);
    device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
        report(&format!("uncaptured: {error}"));
        counter.fetch_add(1, Ordering::Relaxed);
    }));
    errors
}

/// A device of its own, whose error handler counts what reaches it.
pub(crate) fn watched(context: &Context, limits: wgpu::Limits) -> (wgpu::Device, wgpu::Queue, Arc<AtomicUsize>) {
    let (device, queue) = device_with(context, limits);
    let errors = watch(&device);
    (device, queue, errors)
}

/// A buffer with contents, which a test may read back.
pub(crate) fn buffer(context: &Context, bytes: &[u8]) -> wgpu::Buffer {
    buffer_on(&context.device, bytes)
}

/// The same on any device.
pub(crate) fn buffer_on(device: &wgpu::Device, bytes: &[u8]) -> wgpu::Buffer {
    let usage = BufferUsages::STORAGE | BufferUsages::COPY_DST | BufferUsages::COPY_SRC;
    let descriptor = wgpu::util::BufferInitDescriptor { label: None, contents: bytes, usage };
    wgpu::util::DeviceExt::create_buffer_init(device, &descriptor)
}

/// Records `rows` rows and submits them.
pub(crate) fn submit(device: &wgpu::Device, queue: &wgpu::Queue, run: &Run, rows: usize) {
    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    run.record(&mut encoder, rows).expect("recorded");
    queue.submit([encoder.finish()]);
}

/// The bytes of a buffer, after all that was submitted.
pub(crate) fn read(context: &Context, buffer: &wgpu::Buffer) -> Vec<u8> {
    read_on(&context.device, &context.queue, buffer)
}

/// The same on any device.
pub(crate) fn read_on(device: &wgpu::Device, queue: &wgpu::Queue, buffer: &wgpu::Buffer) -> Vec<u8> {
    let staging = device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: buffer.size(),
        usage: BufferUsages::MAP_READ | BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    encoder.copy_buffer_to_buffer(buffer, 0, &staging, 0, buffer.size());
    queue.submit([encoder.finish()]);
    staging.map_async(wgpu::MapMode::Read, .., |result| result.expect("mapped"));
    device.poll(wgpu::PollType::wait_indefinitely()).expect("waited");
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

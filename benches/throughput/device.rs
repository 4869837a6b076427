//! Creates buffers, submits commands and reads the clock of a device.

use anyhow::Result;
use enfold::gpu::context::Context;
use wgpu::util::DeviceExt;
use wgpu::{Buffer, BufferUsages, CommandEncoder, CommandEncoderDescriptor, ComputePass, ComputePassDescriptor};

/// The seconds that a measured submission should take: long compared with the cost of submitting.
const LONG_ENOUGH: f64 = 0.03;
/// A call that takes more seconds is not repeated to leave out the time of compiling.
const SLOW: f64 = 1.0;

pub(crate) fn buffer(context: &Context, contents: &[u8], usage: BufferUsages) -> Buffer {
    context.device.create_buffer_init(&wgpu::util::BufferInitDescriptor { label: None, contents, usage })
}

pub(crate) fn empty(context: &Context, label: &str, size: u64, usage: BufferUsages) -> Buffer {
    let size = size.next_multiple_of(4);
    context.device.create_buffer(&wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: false })
}

pub(crate) fn staging(context: &Context, size: u64) -> Buffer {
    empty(context, "staging", size, BufferUsages::MAP_READ | BufferUsages::COPY_DST)
}

pub(crate) fn encoder(context: &Context) -> CommandEncoder {
    context.device.create_command_encoder(&CommandEncoderDescriptor::default())
}

/// Compiles a shader module without wgpu's run-time checks, as the engine's are.
///
/// # Safety
/// No index is beyond a buffer or an array, and every loop ends.
#[allow(unsafe_code)]
pub(crate) unsafe fn trusted_module(context: &Context, wgsl: wgpu::ShaderModuleDescriptor<'_>) -> wgpu::ShaderModule {
    // SAFETY: the caller's.
    unsafe { context.device.create_shader_module_trusted(wgsl, wgpu::ShaderRuntimeChecks::unchecked()) }
}

/// Creates a pipeline whose bindings follow from its shader. As in the engine, workgroup memory does not begin as zeros.
pub(crate) fn pipeline(context: &Context, module: &wgpu::ShaderModule, entry: &str) -> wgpu::ComputePipeline {
    pipeline_of(context, module, entry, &[])
}

/// Creates a pipeline with override constants.
pub(crate) fn pipeline_of(
    context: &Context,
    module: &wgpu::ShaderModule,
    entry: &str,
    constants: &[(&str, f64)],
) -> wgpu::ComputePipeline {
    context.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some(entry),
        layout: None,
        module,
        entry_point: Some(entry),
        compilation_options: wgpu::PipelineCompilationOptions { constants, zero_initialize_workgroup_memory: false },
        cache: None,
    })
}

/// Creates bind group 0 of a pipeline, of whole buffers.
pub(crate) fn bind_group(context: &Context, pipeline: &wgpu::ComputePipeline, buffers: &[&Buffer]) -> wgpu::BindGroup {
    let entries: Vec<wgpu::BindGroupEntry<'_>> = (0u32..)
        .zip(buffers)
        .map(|(binding, b)| wgpu::BindGroupEntry { binding, resource: b.as_entire_binding() })
        .collect();
    let layout = &pipeline.get_bind_group_layout(0);
    context.device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout, entries: &entries })
}

/// Submits, waits, and reads the staging buffer.
pub(crate) fn read(context: &Context, encoder: CommandEncoder, staging: &Buffer) -> Result<Vec<u8>> {
    context.queue.submit([encoder.finish()]);
    let (sender, receiver) = std::sync::mpsc::channel();
    staging.map_async(wgpu::MapMode::Read, .., move |result| drop(sender.send(result)));
    context.device.poll(wgpu::PollType::wait_indefinitely())?;
    receiver.recv()??;
    let bytes = staging.get_mapped_range(..)?.to_vec();
    staging.unmap();
    Ok(bytes)
}

/// Submits the recorded commands, and reads a buffer after them.
pub(crate) fn download(context: &Context, mut encoder: CommandEncoder, from: &Buffer) -> Result<Vec<u8>> {
    let staging = staging(context, from.size());
    encoder.copy_buffer_to_buffer(from, 0, &staging, 0, from.size());
    read(context, encoder, &staging)
}

/// Reads the device's clock twice, by timestamp queries.
struct Clock {
    query_set: wgpu::QuerySet,
    resolved: Buffer,
    staging: Buffer,
}

impl Clock {
    fn new(context: &Context) -> Option<Self> {
        let descriptor = wgpu::QuerySetDescriptor { label: None, ty: wgpu::QueryType::Timestamp, count: 2 };
        context.device.features().contains(wgpu::Features::TIMESTAMP_QUERY).then(|| Self {
            query_set: context.device.create_query_set(&descriptor),
            resolved: empty(context, "ticks", 16, BufferUsages::QUERY_RESOLVE | BufferUsages::COPY_SRC),
            staging: staging(context, 16),
        })
    }

    /// Assigns a reading to the beginning of a pass, one to its end, or both.
    fn writes(&self, begin: Option<u32>, end: Option<u32>) -> wgpu::ComputePassTimestampWrites<'_> {
        wgpu::ComputePassTimestampWrites {
            query_set: &self.query_set,
            beginning_of_pass_write_index: begin,
            end_of_pass_write_index: end,
        }
    }

    fn seconds(&self, context: &Context, mut encoder: CommandEncoder) -> Result<f64> {
        encoder.resolve_query_set(&self.query_set, 0..2, &self.resolved, 0);
        encoder.copy_buffer_to_buffer(&self.resolved, 0, &self.staging, 0, 16);
        let bytes = read(context, encoder, &self.staging)?;
        let tick = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at * 8 + i]));
        Ok(tick(1).saturating_sub(tick(0)) as f64 * f64::from(context.queue.get_timestamp_period()) * 1e-9)
    }
}

fn wall(context: &Context, encoder: CommandEncoder) -> Result<f64> {
    let start = std::time::Instant::now();
    context.queue.submit([encoder.finish()]);
    context.device.poll(wgpu::PollType::wait_indefinitely())?;
    Ok(start.elapsed().as_secs_f64())
}

/// Returns the seconds of one of `calls` recordings in one pass of one submission. The device's own clock, where it has one, leaves
/// out the cost of submitting.
pub(crate) fn timed(
    context: &Context,
    calls: usize,
    record: impl FnOnce(&mut ComputePass<'_>) -> Result<()>,
) -> Result<f64> {
    let clock = Clock::new(context);
    let mut encoder = encoder(context);
    let timestamp_writes = clock.as_ref().map(|clock| clock.writes(Some(0), Some(1)));
    let descriptor = ComputePassDescriptor { label: None, timestamp_writes };
    record(&mut encoder.begin_compute_pass(&descriptor))?;
    let seconds = match &clock {
        Some(clock) => clock.seconds(context, encoder)?,
        None => wall(context, encoder)?,
    };
    Ok(seconds / calls as f64)
}

/// Chooses how many calls to record in one submission, so that the cost of submitting does not matter.
pub(crate) fn calls(one: impl Fn() -> Result<f64>) -> Result<usize> {
    // The first call may compile the pipeline, so it is repeated, unless it took so long that compiling does not matter.
    let first = one()?;
    let seconds = if first > SLOW { first } else { one()? };
    Ok(((LONG_ENOUGH / seconds.max(1e-7)) as usize).clamp(1, 2000))
}

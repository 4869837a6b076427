//! Recordings whose number of rows is in a buffer.

use std::num::NonZeroU64;

use wgpu::BufferUsages;

use super::device::Device;
use super::device::error::GpuError;
use super::device::pipeline::Batch;
use super::device::scope::Pending;
use super::device::shader::Digit;
use super::device::transfer::{allocate, download, upload};
use super::kernels::config::Config;
use super::kernels::grid::Grid;
use super::kernels::indirect::{
    ARGUMENTS, COUNT, DIGITS, GridRule, IndirectKernel, IndirectParams, RULES, rules_of_all_forms,
};
use super::kernels::kernel::Kernel;

/// Bytes of the arguments of a dispatch.
const ARGUMENT_BYTES: u64 = 3 * size_of::<u32>() as u64;

/// The grids of some dispatches, which the device computes.
#[derive(Debug)]
pub(super) struct Arguments {
    /// The number of rows; the caller's is copied to it.
    pub(super) count: wgpu::Buffer,
    pub(super) arguments: wgpu::Buffer,
    /// The quotient and the remainder of the number of rows by 256, which replace those of the host.
    pub(super) digits: wgpu::Buffer,
    pub(super) digit_stride: u32,
    bind_group: wgpu::BindGroup,
    pipeline: wgpu::ComputePipeline,
    grid: [u32; 3],
}

impl Arguments {
    /// Makes the buffers and the pipeline for these rules.
    pub(super) async fn new(
        batch: &mut Batch,
        device: &Device,
        config: &Config,
        rules: &[GridRule],
        max_rows: u32,
    ) -> Result<Self, GpuError> {
        let Device { wgpu, pipelines, limits, .. } = device;
        let key = IndirectKernel::GridArguments.pipeline(config.kernel_options());
        let pipeline = pipelines.get(batch, &key).await?;
        let layout = pipelines.layout(batch, &key.shader)?;
        let pending = &mut batch.pending;
        let alignment = limits.min_uniform_buffer_offset_alignment.max(4) as usize;
        let digit_stride = size_of::<Digit>().next_multiple_of(alignment) as u32;
        let limit = limits.max_compute_workgroups_per_dimension;
        let slots = rules.len() as u32;
        let params = IndirectParams { slots, max_rows, most_groups: limit, digit_stride: digit_stride / 4 };
        let params = upload(pending, "indirect", bytemuck::bytes_of(&params), BufferUsages::UNIFORM)?;
        let zero = upload(pending, "no rows", &[0; size_of::<Digit>()], BufferUsages::UNIFORM)?;
        let empty = [GridRule::default()];
        let rules = if rules.is_empty() { &empty } else { rules };
        let rules = upload(pending, "grid rules", bytemuck::cast_slice(rules), BufferUsages::STORAGE)?;
        let count = allocate(pending, "count", 4, BufferUsages::STORAGE | BufferUsages::COPY_DST)?;
        let usage = BufferUsages::STORAGE | BufferUsages::INDIRECT | BufferUsages::COPY_SRC;
        let arguments = allocate(pending, "grids", u64::from(slots.max(1)) * ARGUMENT_BYTES, usage)?;
        let usage = BufferUsages::STORAGE | BufferUsages::UNIFORM;
        let digits = allocate(pending, "rows", 2 * u64::from(digit_stride), usage)?;
        let digit = wgpu::BufferBinding { buffer: &zero, offset: 0, size: NonZeroU64::new(size_of::<Digit>() as u64) };
        let entry = |binding, resource| wgpu::BindGroupEntry { binding, resource };
        let entries = [
            entry(0, params.as_entire_binding()),
            entry(1, wgpu::BindingResource::Buffer(digit.clone())),
            entry(2, wgpu::BindingResource::Buffer(digit)),
            entry(COUNT, count.as_entire_binding()),
            entry(RULES, rules.as_entire_binding()),
            entry(ARGUMENTS, arguments.as_entire_binding()),
            entry(DIGITS, digits.as_entire_binding()),
        ];
        let descriptor =
            wgpu::BindGroupDescriptor { label: Some("indirect"), layout: &layout.bind_group, entries: &entries };
        let bind_group = pending.make("indirect", || wgpu.create_bind_group(&descriptor))?;
        let grid = Grid::threads(slots.max(1).into(), limit).check("indirect", limit)?;
        Ok(Self { count, arguments, digits, digit_stride, bind_group, pipeline, grid })
    }

    /// The bytes of its buffers.
    pub(super) fn size_bytes(&self) -> u64 {
        self.count.size() + self.arguments.size() + self.digits.size()
    }

    /// Records the computation of the grids.
    pub(super) fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        let [x, y, z] = self.grid;
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.bind_group, &[0, 0]);
        pass.dispatch_workgroups(x, y, z);
    }

    /// Records a dispatch with the grid of a slot.
    pub(super) fn dispatch(&self, pass: &mut wgpu::ComputePass<'_>, slot: usize) {
        pass.dispatch_workgroups_indirect(&self.arguments, slot as u64 * ARGUMENT_BYTES);
    }
}

/// Tests the kernel of the grids, once for a device.
///
/// # Errors
/// Returns [`GpuError::KnownAnswer`] for the first wrong number.
pub(super) async fn check(device: &Device, config: &Config) -> Result<(), GpuError> {
    let key = IndirectKernel::GridArguments.pipeline(config.kernel_options());
    if device.is_known(&key) {
        return Ok(());
    }
    let (rules, max_rows) = (rules_of_all_forms(), 70_000);
    let mut batch = Batch::new(&device.wgpu);
    let arguments = Arguments::new(&mut batch, device, config, &rules, max_rows).await?;
    device.pipelines.keep(batch).await?;
    let limit = device.limits.max_compute_workgroups_per_dimension;
    let Device { wgpu, queue, .. } = device;
    for count in [0, 1, 17, 256, 5000, max_rows, max_rows + 1, u32::MAX] {
        let mut pending = Pending::new(wgpu);
        let given = upload(&mut pending, "count", &count.to_le_bytes(), BufferUsages::COPY_SRC)?;
        let mut encoder = wgpu.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("indirect") });
        encoder.copy_buffer_to_buffer(&given, 0, &arguments.count, 0, 4);
        arguments.record(&mut encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default()));
        pending.make("indirect", || queue.submit([encoder.finish()]))?;
        pending.done().await?;
        let size = arguments.arguments.size();
        let bytes = download(wgpu, queue, config.poll, "indirect", &arguments.arguments, size).await?;
        let actual: Vec<u32> = bytemuck::pod_collect_to_vec(&bytes);
        let expected = rules.iter().flat_map(|rule| rule.grid(count.min(max_rows), limit));
        for (index, (expected, actual)) in expected.zip(actual).enumerate() {
            if actual != expected {
                let (actual, expected) = (actual.into(), expected.into());
                return Err(GpuError::KnownAnswer { kernel: key.entry.to_owned(), index, actual, expected });
            }
        }
    }
    device.remember([key]);
    Ok(())
}

//! Measures the times on a GPU: with inputs and outputs on the device, and with upload and readback.

use std::time::Instant;

use anyhow::{Context, Result};
use enfold::Tensor;
use enfold::gpu::wgpu::{self, BufferUsages};
use enfold::gpu::{Run, StepTiming};
use enfold::program::ValueId;

use super::{Times, on_device};
use crate::cli::device::OnGpu;
use crate::cli::progress::Stderr;

/// Measures a model with its inputs and outputs on the device, and from host memory to host memory; and each step, if asked to.
pub(super) fn times(
    on_gpu: &OnGpu,
    inputs: &[Tensor],
    rows: usize,
    with_steps: bool,
    stderr: &Stderr,
    mut measure: impl FnMut(&'static str, &mut dyn FnMut() -> Result<()>) -> Result<Times>,
) -> Result<(Vec<Times>, Vec<StepTiming>)> {
    let buffers = Buffers::new(on_gpu, inputs, rows)?;
    let (read, written): (Vec<&wgpu::Buffer>, Vec<&wgpu::Buffer>) =
        (buffers.inputs.iter().map(|(buffer, _)| buffer).collect(), buffers.outputs.iter().collect());
    let run = pollster::block_on(on_gpu.model.bind(&read, &written, rows))?;
    // Several short runs share a submission, so that the time of submitting does not hide theirs.
    buffers.resident(&run, 1)?;
    let started = Instant::now();
    buffers.resident(&run, 1)?;
    let together = if started.elapsed().as_millis() < 20 { 10 } else { 1 };
    let resident = measure("resident", &mut || on_device(buffers.resident(&run, together)))?.divided(together);
    let round_trip = measure("round trip", &mut || on_device(buffers.round_trip(&run)))?;
    let has_clock = on_gpu.context.device.features().contains(wgpu::Features::TIMESTAMP_QUERY);
    if with_steps && !has_clock {
        stderr.note("this GPU has no timestamps; its steps are not measured");
    }
    let steps = match with_steps && has_clock {
        true => on_device(pollster::block_on(run.timings(rows)).map_err(Into::into))?.steps,
        false => Vec::new(),
    };
    Ok((vec![resident, round_trip], steps))
}

struct Buffers<'a> {
    on_gpu: &'a OnGpu,
    rows: usize,
    /// The input buffers, with the bytes that are uploaded to them.
    inputs: Vec<(wgpu::Buffer, Vec<u8>)>,
    outputs: Vec<wgpu::Buffer>,
    staging: Vec<wgpu::Buffer>,
}

impl<'a> Buffers<'a> {
    fn new(on_gpu: &'a OnGpu, tensors: &[Tensor], rows: usize) -> Result<Self> {
        let program = on_gpu.model.program();
        let size = |id: ValueId| {
            let value = program.value(id);
            let elements = value.len(rows).with_context(|| format!("{} is too large", value.name))?;
            anyhow::Ok((elements * value.value_type.size_bytes()).next_multiple_of(4) as u64)
        };
        let buffer = |size: u64, usage: BufferUsages| {
            let descriptor = wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false };
            on_gpu.context.device.create_buffer(&descriptor)
        };
        let mut inputs = Vec::new();
        for (&id, tensor) in program.inputs().iter().zip(tensors) {
            let mut bytes = bytes(tensor);
            bytes.resize(size(id)? as usize, 0);
            inputs.push((buffer(size(id)?, BufferUsages::STORAGE | BufferUsages::COPY_DST), bytes));
        }
        let (mut outputs, mut staging) = (Vec::new(), Vec::new());
        for &id in program.outputs() {
            outputs.push(buffer(size(id)?, BufferUsages::STORAGE | BufferUsages::COPY_SRC));
            staging.push(buffer(size(id)?, BufferUsages::MAP_READ | BufferUsages::COPY_DST));
        }
        let buffers = Self { on_gpu, rows, inputs, outputs, staging };
        buffers.upload();
        Ok(buffers)
    }

    fn upload(&self) {
        self.inputs.iter().for_each(|(buffer, bytes)| self.on_gpu.context.queue.write_buffer(buffer, 0, bytes));
    }

    fn encoder(&self) -> wgpu::CommandEncoder {
        self.on_gpu.context.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default())
    }

    fn submit(&self, encoder: wgpu::CommandEncoder) -> Result<()> {
        self.on_gpu.context.queue.submit([encoder.finish()]);
        self.on_gpu.context.device.poll(wgpu::PollType::wait_indefinitely())?;
        Ok(())
    }

    fn resident(&self, run: &Run, together: usize) -> Result<()> {
        let mut encoder = self.encoder();
        (0..together).try_for_each(|_| run.record(&mut encoder, self.rows))?;
        self.submit(encoder)
    }

    fn round_trip(&self, run: &Run) -> Result<()> {
        self.upload();
        let mut encoder = self.encoder();
        run.record(&mut encoder, self.rows)?;
        for (output, staging) in self.outputs.iter().zip(&self.staging) {
            encoder.copy_buffer_to_buffer(output, 0, staging, 0, output.size());
            encoder.map_buffer_on_submit(staging, wgpu::MapMode::Read, .., |_| {});
        }
        self.submit(encoder)?;
        for staging in &self.staging {
            // An application would at least copy the bytes.
            std::hint::black_box(staging.get_mapped_range(..)?.to_vec());
            staging.unmap();
        }
        Ok(())
    }
}

fn bytes(tensor: &Tensor) -> Vec<u8> {
    match tensor {
        Tensor::F32(a) => a.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Tensor::I8(a) => a.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Tensor::I32(a) => a.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Tensor::I64(a) => a.iter().flat_map(|v| v.to_le_bytes()).collect(),
    }
}

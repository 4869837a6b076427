//! Times an engine with an application's own buffers.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use enfold::Tensor;
use enfold::gpu::Run;
use enfold::gpu::context::Context;
use wgpu::BufferUsages;

/// Scores of an image.
const CLASSES: usize = 10;

/// The median time of 15 calls, after one that is not measured.
pub(crate) fn microseconds(mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut times = Vec::new();
    run()?;
    for _ in 0..15 {
        let start = Instant::now();
        run()?;
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

/// Drives the engine with an application's own buffers.
pub(crate) struct Device<'a> {
    pub(crate) context: &'a Context,
    pub(crate) batch: &'a Tensor,
}

impl Device<'_> {
    pub(crate) fn buffers(&self) -> Result<(wgpu::Buffer, wgpu::Buffer)> {
        let input = self.buffer(self.batch.len() * 4, BufferUsages::STORAGE | BufferUsages::COPY_DST);
        let output_bytes = self.batch.shape()[0] * CLASSES;
        let output = self.buffer(output_bytes.next_multiple_of(4), BufferUsages::STORAGE | BufferUsages::COPY_SRC);
        self.context.queue.write_buffer(&input, 0, &self.bytes()?);
        Ok((input, output))
    }

    /// Microseconds of one run with input and output on the device; several recordings share a submission.
    pub(crate) fn resident(&self, run: &Run, rows: usize) -> Result<f64> {
        const CALLS: usize = 10;
        let time = microseconds(|| {
            let mut encoder = self.context.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            (0..CALLS).try_for_each(|_| run.record(&mut encoder, rows))?;
            self.submit(encoder)
        })?;
        Ok(time / CALLS as f64)
    }

    /// Microseconds to upload the input, run, and read the output back.
    pub(crate) fn round_trip(
        &self,
        run: &Run,
        rows: usize,
        input: &wgpu::Buffer,
        output: &wgpu::Buffer,
    ) -> Result<f64> {
        let size = output.size();
        let staging = self.buffer(size as usize, BufferUsages::MAP_READ | BufferUsages::COPY_DST);
        let bytes = self.bytes()?;
        microseconds(|| {
            self.context.queue.write_buffer(input, 0, &bytes);
            let mut encoder = self.context.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            run.record(&mut encoder, rows)?;
            encoder.copy_buffer_to_buffer(output, 0, &staging, 0, size);
            encoder.map_buffer_on_submit(&staging, wgpu::MapMode::Read, .., |_| {});
            self.submit(encoder)?;
            let bytes = staging.get_mapped_range(..)?.to_vec();
            staging.unmap();
            ensure!(bytes.len() as u64 == size, "{} bytes read back, expected {size}", bytes.len());
            Ok(())
        })
    }

    fn submit(&self, encoder: wgpu::CommandEncoder) -> Result<()> {
        self.context.queue.submit([encoder.finish()]);
        self.context.device.poll(wgpu::PollType::wait_indefinitely())?;
        Ok(())
    }

    fn bytes(&self) -> Result<Vec<u8>> {
        let floats = self.batch.as_f32().context("a float batch")?;
        Ok(floats.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    fn buffer(&self, size: usize, usage: BufferUsages) -> wgpu::Buffer {
        self.context.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: size as u64,
            usage,
            mapped_at_creation: false,
        })
    }
}

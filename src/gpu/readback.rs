//! Reading results on the host, without waiting where the application records.

use super::device::error::GpuError;
use super::device::scope::{Pending, scoped};
use super::device::transfer::{allocate, map, unmapped};
use super::device::wait::{Answer, Poll, answered};

/// A buffer of the host's, into which an application copies what it wants to read: a few numbers of each frame, without a stop.
///
/// ```no_run
/// # async fn classes(
/// #     run: &enfold::gpu::Run, output: &wgpu::Buffer, device: &wgpu::Device, queue: &wgpu::Queue,
/// # ) -> Result<Vec<u8>, enfold::gpu::GpuError> {
/// use enfold::gpu::Readback;
///
/// let readback = Readback::new(device, output.size()).await?; // once
/// let mut encoder = device.create_command_encoder(&Default::default());
/// run.record(&mut encoder, 1)?;
/// readback.record(&mut encoder, output, 0);
/// queue.submit([encoder.finish()]);
/// readback.read().await // wakes when the application's `device.poll` finds that the copy is done
/// # }
/// ```
///
/// It never polls and never submits. While [`read`](Self::read) waits, and until it is done, no submission may copy into it; two or three of
/// them in turn serve an application whose frames overlap.
#[derive(Debug)]
pub struct Readback {
    device: wgpu::Device,
    staging: wgpu::Buffer,
    size: u64,
}

impl Readback {
    /// Makes a buffer for `size` bytes.
    ///
    /// # Errors
    /// Returns [`GpuError::Limit`] for more than the device allows, [`GpuError::Device`] if it has no memory left.
    pub async fn new(device: &wgpu::Device, size: u64) -> Result<Self, GpuError> {
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let mut pending = Pending::new(device);
        let staging = allocate(&mut pending, "readback", size, usage)?;
        pending.done().await?;
        Ok(Self { device: device.clone(), staging, size })
    }

    /// Records a copy of as many bytes as the buffer has, from `offset` on. `source` has the usage `COPY_SRC`; offset and size are multiples
    /// of 4, as wgpu wants it.
    pub fn record(&self, encoder: &mut wgpu::CommandEncoder, source: &wgpu::Buffer, offset: u64) {
        encoder.copy_buffer_to_buffer(source, offset, &self.staging, 0, self.size);
    }

    /// Returns the bytes that the last submission has copied, once it is done. The application polls the device meanwhile, as
    /// [`Poll::Application`] describes; in a browser nobody needs to.
    ///
    /// # Errors
    /// Returns [`GpuError::DeviceLost`] for a lost device, [`GpuError::Device`] if another read is not done yet.
    pub async fn read(&self) -> Result<Vec<u8>, GpuError> {
        let (answer, receiver) = Answer::new();
        scoped(&self.device, "readback", || map(&self.staging, &answer)).await?;
        answered(&self.device, Poll::Application, "readback", None, (answer, receiver)).await?;
        let mut bytes = unmapped(&self.device, "readback", &self.staging).await?;
        bytes.truncate(usize::try_from(self.size).unwrap_or(usize::MAX));
        Ok(bytes)
    }
}

//! Transfers between host and device, timestamps, and the translation of wgpu's errors.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::error::GpuError;
use super::wait::{Answer, Poll as Polled, answered};

/// Whether a device was lost, also if no call has noticed it.
///
/// A working device refuses a buffer without usages. A lost device refuses nothing: it returns invalid objects, which later calls
/// reject. Neither allocates memory.
pub(crate) async fn is_lost(device: &wgpu::Device) -> bool {
    refusal(device).await.is_none()
}

/// [`is_lost`] without waiting; `false` in a browser, which answers later.
pub(crate) fn is_lost_now(device: &wgpu::Device) -> bool {
    let mut context = Context::from_waker(Waker::noop());
    matches!(pin!(refusal(device)).poll(&mut context), Poll::Ready(None))
}

fn refusal(device: &wgpu::Device) -> impl Future<Output = Option<wgpu::Error>> {
    let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
    let usage = wgpu::BufferUsages::empty();
    let descriptor = wgpu::BufferDescriptor { label: None, size: 4, usage, mapped_at_creation: false };
    drop(device.create_buffer(&descriptor));
    scope.pop()
}

/// Translates an error of wgpu: the loss of the device if that caused it, else [`GpuError::Device`].
pub(crate) async fn failure(device: &wgpu::Device, what: &str, message: impl ToString) -> GpuError {
    if is_lost(device).await {
        return GpuError::DeviceLost;
    }
    GpuError::Device { what: what.to_owned(), message: message.to_string() }
}

/// Runs `make` and catches wgpu's errors, so that the device's own handler, which may panic, never sees them.
pub(crate) fn scoped<T>(
    device: &wgpu::Device,
    what: &str,
    make: impl FnOnce() -> T,
) -> impl Future<Output = Result<T, GpuError>> {
    // Scopes belong to a thread, so both are closed before anything is awaited.
    let validation = device.push_error_scope(wgpu::ErrorFilter::Validation);
    let memory = device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
    let internal = device.push_error_scope(wgpu::ErrorFilter::Internal);
    let made = make();
    let (internal, memory, validation) = (internal.pop(), memory.pop(), validation.pop());
    let (device, what) = (device.clone(), what.to_owned());
    async move {
        match internal.await.or(memory.await).or(validation.await) {
            Some(error) => Err(failure(&device, &what, error).await),
            None => Ok(made),
        }
    }
}

/// Whether two handles that are equal belong to one device. wgpu compares numbers, and each `wgpu::Instance` of a process counts its
/// devices from the same one. But error scopes belong to a device: a scope that was opened last, through the one handle, catches an error
/// of the other handle only if they share the device. The handle's own scope catches it otherwise, so that no error handler sees it.
pub(crate) async fn are_one(known: &wgpu::Device, asked: &wgpu::Device) -> bool {
    // Scopes belong to a thread, so both are closed before anything is awaited.
    let own = asked.push_error_scope(wgpu::ErrorFilter::Validation);
    let last = known.push_error_scope(wgpu::ErrorFilter::Validation);
    // An error that costs nothing: a buffer without a use.
    let descriptor =
        wgpu::BufferDescriptor { label: None, size: 4, usage: wgpu::BufferUsages::empty(), mapped_at_creation: false };
    drop(asked.create_buffer(&descriptor));
    let (last, own) = (last.pop(), own.pop());
    let (last, _) = (last.await, own.await);
    last.is_some()
}

/// Creates a buffer with contents.
pub(crate) async fn upload(
    device: &wgpu::Device,
    name: &str,
    contents: &[u8],
    usage: wgpu::BufferUsages,
) -> Result<wgpu::Buffer, GpuError> {
    let size = buffer_size(device, name, contents.len() as u64)?;
    let buffer = scoped(device, name, || {
        device.create_buffer(&wgpu::BufferDescriptor { label: Some(name), size, usage, mapped_at_creation: true })
    })
    .await?;
    let mapped = buffer.get_mapped_range_mut(..).map(|mut view| {
        view.slice(..contents.len()).copy_from_slice(contents);
    });
    if let Err(error) = mapped {
        return Err(failure(device, name, error).await);
    }
    buffer.unmap();
    Ok(buffer)
}

/// Creates a buffer without contents.
pub(crate) async fn allocate(
    device: &wgpu::Device,
    name: &str,
    size: u64,
    usage: wgpu::BufferUsages,
) -> Result<wgpu::Buffer, GpuError> {
    let size = buffer_size(device, name, size)?;
    scoped(device, name, || {
        device.create_buffer(&wgpu::BufferDescriptor { label: Some(name), size, usage, mapped_at_creation: false })
    })
    .await
}

/// Rounds a size up to whole words, and compares it with the device's limit.
fn buffer_size(device: &wgpu::Device, name: &str, size: u64) -> Result<u64, GpuError> {
    let size = size.next_multiple_of(wgpu::COPY_BUFFER_ALIGNMENT).max(wgpu::COPY_BUFFER_ALIGNMENT);
    let limit = device.limits().max_buffer_size;
    if size > limit {
        return Err(GpuError::Limit { name: name.to_owned(), what: "bytes of a buffer", actual: size, limit });
    }
    Ok(size)
}

/// Submits a copy of the first `size` bytes of `buffer`, and waits for them.
pub(crate) async fn download(
    device: &wgpu::Device,
    queue: &wgpu::Queue,
    polled: Polled,
    name: &str,
    buffer: &wgpu::Buffer,
    size: u64,
) -> Result<Vec<u8>, GpuError> {
    let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
    let staging = allocate(device, name, size, usage).await?;
    let (answer, receiver) = Answer::new();
    let submission = scoped(device, name, || {
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some(name) });
        encoder.copy_buffer_to_buffer(buffer, 0, &staging, 0, staging.size());
        let submission = queue.submit([encoder.finish()]);
        map(&staging, &answer);
        submission
    })
    .await?;
    answered(device, polled, name, Some(submission), (answer, receiver)).await?;
    let bytes = unmapped(device, name, &staging).await?;
    Ok(bytes.into_iter().take(size as usize).collect())
}

/// Asks for the contents of a buffer.
pub(crate) fn map(staging: &wgpu::Buffer, answer: &Answer<()>) {
    let answer = answer.clone();
    staging.map_async(wgpu::MapMode::Read, .., move |result| answer.give(result.map_err(|error| error.to_string())));
}

/// The contents of a buffer that is mapped, and is not any more.
pub(crate) async fn unmapped(device: &wgpu::Device, name: &str, staging: &wgpu::Buffer) -> Result<Vec<u8>, GpuError> {
    let bytes = match staging.get_mapped_range(..) {
        Ok(view) => view.to_vec(),
        Err(error) => return Err(failure(device, name, error).await),
    };
    staging.unmap();
    Ok(bytes)
}

/// Measures each of `passes` compute passes by the device's clock. Submits them together and waits for them.
pub(crate) async fn timed_passes(
    device: &wgpu::Device,
    queue: &wgpu::Queue,
    polled: Polled,
    passes: usize,
    mut record: impl FnMut(usize, &mut wgpu::ComputePass<'_>) -> Result<(), GpuError>,
) -> Result<Vec<Duration>, GpuError> {
    let needed = wgpu::Features::TIMESTAMP_QUERY;
    if !device.features().contains(needed) {
        return Err(GpuError::Feature { what: "timing by the device", needed });
    }
    // A query set holds so many.
    let most = wgpu::QUERY_SET_MAX_QUERIES as usize / 2;
    let mut durations = Vec::with_capacity(passes);
    for first in (0..passes).step_by(most) {
        let here = most.min(passes - first);
        let count = 2 * here as u32;
        let size = u64::from(count) * u64::from(wgpu::QUERY_SIZE);
        let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        let resolved = allocate(device, "timestamps", size, usage).await?;
        let descriptor = wgpu::QuerySetDescriptor { label: Some("enfold"), ty: wgpu::QueryType::Timestamp, count };
        let query_set = scoped(device, "timestamps", || device.create_query_set(&descriptor)).await?;
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("enfold") });
        for at in 0..here {
            let timestamp_writes = Some(wgpu::ComputePassTimestampWrites {
                query_set: &query_set,
                beginning_of_pass_write_index: Some(2 * at as u32),
                end_of_pass_write_index: Some(2 * at as u32 + 1),
            });
            let descriptor = wgpu::ComputePassDescriptor { label: Some("enfold"), timestamp_writes };
            record(first + at, &mut encoder.begin_compute_pass(&descriptor))?;
        }
        encoder.resolve_query_set(&query_set, 0..count, &resolved, 0);
        queue.submit([encoder.finish()]);
        let ticks: Vec<u64> =
            bytemuck::pod_collect_to_vec(&download(device, queue, polled, "timestamps", &resolved, size).await?);
        let nanoseconds = |ticks: u64| ticks as f64 * f64::from(queue.get_timestamp_period());
        let duration = |pair: &[u64]| Duration::from_secs_f64(nanoseconds(pair[1].saturating_sub(pair[0])) * 1e-9);
        durations.extend(ticks.chunks_exact(2).map(duration));
    }
    Ok(durations)
}

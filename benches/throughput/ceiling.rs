//! Measures the ceilings of an adapter: packed dot products on registers alone, a copy of a buffer, and reading one. The series of the
//! same run are compared with them.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use enfold::gpu::context::Context;
use wgpu::{BufferUsages, ComputePass, ComputePassDescriptor};

use crate::device::{
    bind_group, buffer, calls, download, empty, encoder, pipeline, read, staging, timed, trusted_module,
};
use crate::median;

const ROUNDS: usize = 5;
/// An idle GPU has a fraction of its clock. It is kept busy for so long before each ceiling is measured.
const WARM_UP: Duration = Duration::from_millis(500);
/// The size of the buffers that are copied and read, if the device has buffers of this size.
const BUFFER_BYTES: u64 = 256 << 20;
const WORKGROUP_SIZE: u32 = 256;
/// The number of dot products that a thread computes in one iteration.
const DOTS: u32 = 256;
/// Operations of a dot product: four multiplications and four additions.
const OPERATIONS: f64 = 8.0;

#[derive(Clone, Copy)]
pub(crate) struct Ceilings {
    /// Packed dot products on registers, in 10¹² operations a second.
    pub(crate) dot_tops: f64,
    /// A copy from buffer to buffer by a kernel, in 10⁹ bytes read and written a second.
    pub(crate) copy_gigabytes: f64,
    /// The size of the copied buffer in bytes.
    pub(crate) copy_bytes: u64,
    /// Reading a buffer, in 10⁹ bytes a second.
    pub(crate) read_gigabytes: f64,
    /// The size of the buffer that is read, in bytes.
    pub(crate) read_bytes: u64,
}

impl Ceilings {
    /// The larger of each: a device may have had a lower clock at one of the two times.
    pub(crate) fn larger(self, other: Self) -> Self {
        Self {
            dot_tops: self.dot_tops.max(other.dot_tops),
            copy_gigabytes: self.copy_gigabytes.max(other.copy_gigabytes),
            read_gigabytes: self.read_gigabytes.max(other.read_gigabytes),
            ..self
        }
    }
}

/// Measures all ceilings; `when` is printed.
pub(crate) fn measure(context: &Context, when: &str) -> Result<Ceilings> {
    let dot_tops = dots(context)?;
    let ([copy_gigabytes, read_gigabytes], bytes) = memory(context)?;
    println!(
        "ceilings {when}: packed dot products {dot_tops:.4} TOPS; copying {} MiB {copy_gigabytes:.1} GB/s read and written; \
         reading {} MiB {read_gigabytes:.1} GB/s",
        bytes >> 20,
        bytes >> 20
    );
    Ok(Ceilings { dot_tops, copy_gigabytes, copy_bytes: bytes, read_gigabytes, read_bytes: bytes })
}

/// Returns the seconds of a call on a device that has been busy, from a function that makes so many calls.
fn warm(run: impl Fn(usize) -> Result<f64>) -> Result<f64> {
    let start = Instant::now();
    let mut at_once = calls(|| run(1))?;
    while start.elapsed() < WARM_UP {
        run(at_once)?;
    }
    at_once = calls(|| run(1))?;
    Ok(median((0..ROUNDS).map(|_| run(at_once)).collect::<Result<_>>()?))
}

fn dots(context: &Context) -> Result<f64> {
    // A GPU gets more threads than any holds at once. A CPU needs few.
    let (groups, iterations) = if context.is_software() { (64u32, 8u32) } else { (4096, 32) };
    // SAFETY: the grid has one thread for each element of y.
    #[allow(unsafe_code)]
    let module = unsafe { trusted_module(context, wgpu::include_wgsl!("../ceiling.wgsl")) };
    let pipeline = pipeline(context, &module, "dot_ceiling");
    let uniform: Vec<u8> = [iterations, 0, 0, 0].into_iter().flat_map(u32::to_le_bytes).collect();
    let uniform = buffer(context, &uniform, BufferUsages::UNIFORM);
    let threads = groups * WORKGROUP_SIZE;
    let y = empty(context, "y", u64::from(threads) * 4, BufferUsages::STORAGE | BufferUsages::COPY_SRC);
    let bind_group = bind_group(context, &pipeline, &[&uniform, &y]);
    let record = |pass: &mut ComputePass<'_>, calls: usize| {
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, &bind_group, &[]);
        (0..calls).for_each(|_| pass.dispatch_workgroups(groups, 1, 1));
    };
    let mut encoder = encoder(context);
    record(&mut encoder.begin_compute_pass(&ComputePassDescriptor::default()), 1);
    let sums = download(context, encoder, &y)?;
    for id in [0, 1, threads / 2, threads - 1] {
        let at = id as usize * 4;
        let got = i32::from_le_bytes([sums[at], sums[at + 1], sums[at + 2], sums[at + 3]]);
        let expected = expected(id, iterations);
        ensure!(got == expected, "the ceiling of dot products: thread {id} has {got}, expected {expected}");
    }
    let run = |calls: usize| {
        timed(context, calls, |pass| {
            record(pass, calls);
            Ok(())
        })
    };
    Ok(f64::from(threads) * f64::from(iterations * DOTS) * OPERATIONS / warm(run)? * 1e-12)
}

/// Computes the number that a thread of `ceiling.wgsl` stores.
fn expected(id: u32, iterations: u32) -> i32 {
    let seed = id.wrapping_mul(0x9E37_79B9);
    let w = (seed ^ 0x5A3C_96E1).to_le_bytes();
    let after = |start: u32| {
        (0..iterations * DOTS / 16).fold(start as i32, |sum, _| {
            let products = sum.to_le_bytes().into_iter().zip(w).map(|(x, w)| i32::from(x as i8) * i32::from(w as i8));
            sum.wrapping_add(products.sum())
        })
    };
    // The shader's vector `a` begins at the seed, and `b`, `c` and `d` at 4, 8 and 12 more.
    (0..16).fold(0, |sum: i32, at| sum.wrapping_add(after(seed.wrapping_add(at))))
}

/// The seconds of one call of a kernel of `read.wgsl`, which has these buffers, and these groups.
fn kernel_seconds(
    context: &Context,
    pipeline: &wgpu::ComputePipeline,
    buffers: &[&wgpu::Buffer],
    groups: u32,
) -> Result<f64> {
    let bound = bind_group(context, pipeline, buffers);
    warm(|calls| {
        timed(context, calls, |pass| {
            pass.set_pipeline(pipeline);
            pass.set_bind_group(0, &bound, &[]);
            (0..calls).for_each(|_| pass.dispatch_workgroups(groups, 1, 1));
            Ok(())
        })
    })
}

/// Measures copying and reading a buffer: gigabytes a second of each, and the buffer's size.
fn memory(context: &Context) -> Result<([f64; 2], u64)> {
    // A thread reads four vectors of 16 bytes at a time.
    let groups: u32 = if context.is_software() { 64 } else { 2048 };
    let threads = groups * WORKGROUP_SIZE;
    let at_a_time = u64::from(threads) * 64;
    let limits = context.device.limits();
    let size = BUFFER_BYTES.min(limits.max_buffer_size).min(limits.max_storage_buffer_binding_size);
    let size = size / at_a_time * at_a_time;
    ensure!(size > 0, "this device's largest buffer has less than {at_a_time} bytes");
    let vectors = (size / 16) as u32;
    // SAFETY: the loops end at the last vector, whose number is a multiple of what all threads read in an iteration; there is a sum for each
    // thread, and a copy of each vector.
    #[allow(unsafe_code)]
    let module = unsafe { trusted_module(context, wgpu::include_wgsl!("../read.wgsl")) };
    let [fill, read_once, copy] =
        ["fill_once", "read_once", "copy_once"].map(|entry| pipeline(context, &module, entry));
    let params = buffer(context, bytemuck::cast_slice(&[vectors, threads]), BufferUsages::UNIFORM);
    let x = empty(context, "x", size, BufferUsages::STORAGE);
    let y = empty(context, "y", size, BufferUsages::STORAGE | BufferUsages::COPY_SRC);
    let sums = empty(context, "sums", u64::from(threads) * 4, BufferUsages::STORAGE | BufferUsages::COPY_SRC);
    let mut commands = encoder(context);
    {
        let mut pass = commands.begin_compute_pass(&ComputePassDescriptor::default());
        for (pipeline, buffers) in [(&fill, &[&params, &x][..]), (&read_once, &[&params, &x, &sums])] {
            pass.set_pipeline(pipeline);
            pass.set_bind_group(0, &bind_group(context, pipeline, buffers), &[]);
            pass.dispatch_workgroups(groups, 1, 1);
        }
    }
    let of_threads: Vec<u32> = bytemuck::pod_collect_to_vec(&download(context, commands, &sums)?);
    let got = of_threads.into_iter().fold(0, u32::wrapping_add);
    // Word i is i times a number, so the sum of all words is n (n - 1) / 2 times that number.
    let words = size / 4;
    let expected = ((words * (words - 1) / 2) as u32).wrapping_mul(0x9E37_79B9);
    ensure!(got == expected, "the ceiling of reading: the sum is {got}, expected {expected}");
    let reading = kernel_seconds(context, &read_once, &[&params, &x, &sums], groups)?;
    let copying = kernel_seconds(context, &copy, &[&params, &x, &y], groups)?;
    let end = staging(context, 4);
    let mut commands = encoder(context);
    commands.copy_buffer_to_buffer(&y, size - 4, &end, 0, 4);
    let last = ((words - 1) as u32).wrapping_mul(0x9E37_79B9);
    ensure!(read(context, commands, &end)? == last.to_le_bytes(), "the copy lacks the end of its source");
    Ok(([2e-9 * size as f64 / copying, 1e-9 * size as f64 / reading], size))
}

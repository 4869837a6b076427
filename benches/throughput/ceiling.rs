//! Measures the ceilings of an adapter: packed dot products on registers alone, and a copy of a buffer. The series of the same run
//! are compared with them.

use anyhow::{Result, ensure};
use enfold::gpu::context::Context;
use wgpu::BufferUsages;

use crate::device::{
    bind_group, buffer, calls, download, empty, encoder, pipeline, read, staging, timed, timed_commands,
};
use crate::median;

const ROUNDS: usize = 5;
const COPY_BYTES: u64 = 256 << 20;
const WORKGROUP_SIZE: u32 = 256;
/// The number of dot products that a thread computes in one iteration.
const DOTS: u32 = 256;
/// Operations of a dot product: four multiplications and four additions.
const OPERATIONS: f64 = 8.0;

#[derive(Clone, Copy)]
pub(crate) struct Ceilings {
    /// Packed dot products on registers, in 10¹² operations a second.
    pub(crate) dot_tops: f64,
    /// A copy from buffer to buffer, in 10⁹ bytes read and written a second.
    pub(crate) copy_gigabytes: f64,
    /// The size of the copied buffer in bytes.
    pub(crate) copy_bytes: u64,
}

pub(crate) fn measure(context: &Context) -> Result<Ceilings> {
    let dot_tops = dots(context)?;
    let (copy_gigabytes, copy_bytes) = copy(context)?;
    println!(
        "ceilings: packed dot products {dot_tops:.4} TOPS; copying {} MiB {copy_gigabytes:.1} GB/s read and written",
        copy_bytes >> 20
    );
    Ok(Ceilings { dot_tops, copy_gigabytes, copy_bytes })
}

fn dots(context: &Context) -> Result<f64> {
    // A GPU gets more threads than any holds at once. A CPU needs few.
    let (groups, iterations) = if context.is_software() { (64u32, 8u32) } else { (4096, 32) };
    let module = context.device.create_shader_module(wgpu::include_wgsl!("../ceiling.wgsl"));
    let pipeline = pipeline(context, &module, "dot_ceiling");
    let uniform: Vec<u8> = [iterations, 0, 0, 0].into_iter().flat_map(u32::to_le_bytes).collect();
    let uniform = buffer(context, &uniform, BufferUsages::UNIFORM);
    let threads = groups * WORKGROUP_SIZE;
    let y = empty(context, "y", u64::from(threads) * 4, BufferUsages::STORAGE | BufferUsages::COPY_SRC);
    let bind_group = bind_group(context, &pipeline, &[&uniform, &y]);
    let record = |pass: &mut wgpu::ComputePass<'_>, calls: usize| {
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, &bind_group, &[]);
        (0..calls).for_each(|_| pass.dispatch_workgroups(groups, 1, 1));
    };
    let mut encoder = encoder(context);
    record(&mut encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default()), 1);
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
    let calls = calls(|| run(1))?;
    let seconds = median((0..ROUNDS).map(|_| run(calls)).collect::<Result<_>>()?);
    Ok(f64::from(threads) * f64::from(iterations * DOTS) * OPERATIONS / seconds * 1e-12)
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

fn copy(context: &Context) -> Result<(f64, u64)> {
    let size = COPY_BYTES.min(context.device.limits().max_buffer_size) / 4 * 4;
    let usage = BufferUsages::COPY_SRC | BufferUsages::COPY_DST;
    let (from, to) = (empty(context, "from", size, usage), empty(context, "to", size, usage));
    let mark = *b"the end of it...";
    context.queue.write_buffer(&from, size - mark.len() as u64, &mark);
    let run = |calls: usize| {
        timed_commands(context, calls, |encoder| {
            (0..calls).for_each(|_| encoder.copy_buffer_to_buffer(&from, 0, &to, 0, size));
        })
    };
    let calls = calls(|| run(1))?;
    let staging = staging(context, mark.len() as u64);
    let mut encoder = encoder(context);
    encoder.copy_buffer_to_buffer(&to, size - staging.size(), &staging, 0, staging.size());
    ensure!(read(context, encoder, &staging)? == mark, "the copy lacks the end of its source");
    let seconds = median((0..ROUNDS).map(|_| run(calls)).collect::<Result<_>>()?);
    Ok((2e-9 * size as f64 / seconds, size))
}

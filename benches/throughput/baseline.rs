//! The bench's own kernels, to compare the engine with: a naive int8 kernel, and a float kernel with the engine's tile.

use anyhow::{Context as _, Result};
use enfold::Tensor;
use enfold::gpu::context::Context;
use wgpu::{BufferUsages, ComputePass, ComputePassDescriptor};

use crate::device::{bind_group, buffer, calls, download, empty, encoder, pipeline, timed, trusted_module};
use crate::gpu::{LeftOut, copies};
use crate::layer::{Layer, Sample, ZERO_POINT};
use crate::{Prepared, Runner, Series};

/// A kernel with one bind group for each copy of its weights.
struct Kernel {
    pipeline: wgpu::ComputePipeline,
    bind_groups: Vec<wgpu::BindGroup>,
    grid: [u32; 2],
}

impl Kernel {
    fn record(&self, pass: &mut ComputePass<'_>, at: usize) {
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.bind_groups[at % self.bind_groups.len()], &[]);
        pass.dispatch_workgroups(self.grid[0], self.grid[1], 1);
    }

    /// Runs once, and returns the bytes of `y`.
    fn output(&self, context: &Context, y: &wgpu::Buffer) -> Result<Vec<u8>> {
        let mut encoder = encoder(context);
        self.record(&mut encoder.begin_compute_pass(&ComputePassDescriptor::default()), 0);
        download(context, encoder, y)
    }

    fn runner(self, context: &Context) -> Result<Runner> {
        let context = context.clone();
        let run = move |calls: usize| {
            timed(&context, calls, |pass| {
                (0..calls).for_each(|i| self.record(pass, i));
                Ok(())
            })
        };
        let calls = calls(|| run(1))?;
        Ok(Box::new(move || run(calls)))
    }
}

/// Prepares `naive.wgsl`, in a shader module with wgpu's run-time checks.
pub(crate) fn naive(context: &Context, layer: &Layer) -> Result<Prepared> {
    let (m, k, n) = (layer.rows, layer.k, layer.n);
    let k_words = k.div_ceil(4);
    if let Some(left_out) = LeftOut::too_large(context, [n * k_words * 4, m * k_words * 4, m * n * 4]) {
        return Ok(left_out.into());
    }
    let module = context.device.create_shader_module(wgpu::include_wgsl!("../naive.wgsl"));
    let pipeline = pipeline(context, &module, "naive");
    let padded = |tensor: &Tensor| -> Result<Vec<u8>> {
        let mut bytes = vec![0; tensor.len() / k * k_words * 4];
        let rows = tensor.as_i8().context("int8 values")?.chunks(k);
        for (padded, row) in bytes.chunks_exact_mut(k_words * 4).zip(rows) {
            padded[..k].copy_from_slice(bytemuck::cast_slice(row));
        }
        Ok(bytes)
    };
    let params = [m as i32, n as i32, k_words as i32, ZERO_POINT];
    let params = buffer(context, bytemuck::cast_slice(&params), BufferUsages::UNIFORM);
    let x = buffer(context, &padded(&layer.x)?, BufferUsages::STORAGE);
    let bias = buffer(context, bytemuck::cast_slice(&layer.bias), BufferUsages::STORAGE);
    let multiplier = buffer(context, bytemuck::cast_slice(&layer.multiplier), BufferUsages::STORAGE);
    let weights = padded(&layer.w)?;
    let y = empty(context, "y", (m * n * 4) as u64, BufferUsages::STORAGE | BufferUsages::COPY_SRC);
    let bind = |_| {
        let w = buffer(context, &weights, BufferUsages::STORAGE);
        bind_group(context, &pipeline, &[&params, &x, &w, &bias, &multiplier, &y])
    };
    let bind_groups = (0..copies(context, weights.len())).map(bind).collect();
    let kernel = Kernel { pipeline, bind_groups, grid: [n.div_ceil(8) as u32, m.div_ceil(8) as u32] };

    let outputs: Vec<i32> = bytemuck::pod_collect_to_vec(&kernel.output(context, &y)?);
    let outputs: Vec<i8> = outputs.into_iter().map(|value| value as i8).collect();
    let compared = layer.check("gpu naive", &outputs)?;
    let bytes = n * k + m * k + m * n;
    Ok(Series { run: kernel.runner(context)?, bytes, compared, kernel: None }.into())
}

const TILE: usize = 64;
const K_STEP: usize = 16;

/// Prepares `matmul_f32.wgsl`, in a shader module without run-time checks, as the engine's kernels are.
pub(crate) fn float(context: &Context, layer: &Layer) -> Result<Prepared> {
    let (m, k, n) = (layer.rows, layer.k, layer.n);
    let (m_whole, k_whole, n_whole) = (m.next_multiple_of(TILE), k.next_multiple_of(K_STEP), n.next_multiple_of(TILE));
    let sizes = [n_whole * k_whole * 4, m_whole * k_whole * 4, m_whole * n_whole * 4];
    if let Some(left_out) = LeftOut::too_large(context, sizes) {
        return Ok(left_out.into());
    }
    let descriptor = wgpu::include_wgsl!("../matmul_f32.wgsl");
    // SAFETY: every buffer holds whole tiles, and the grid has one workgroup for each; constants bound the indices within a tile.
    #[allow(unsafe_code)]
    let module = unsafe { trusted_module(context, descriptor) };
    let pipeline = pipeline(context, &module, "matmul_f32");
    // The inputs are whole numbers of four bits, so that all sums are exact in float, in whatever order.
    let number = |value: i8| f32::from(value >> 4);
    let x_values = layer.x.as_i8().context("int8 values")?;
    let w_values = layer.w.as_i8().context("int8 values")?;
    let mut x = vec![0f32; m_whole * k_whole];
    for (padded, row) in x.chunks_exact_mut(k_whole).zip(x_values.chunks_exact(k)) {
        padded.iter_mut().zip(row).for_each(|(to, &value)| *to = number(value));
    }
    let mut w = vec![0f32; k_whole * n_whole];
    for (at_k, row) in w.chunks_exact_mut(n_whole).take(k).enumerate() {
        row[..n].iter_mut().enumerate().for_each(|(column, to)| *to = number(w_values[column * k + at_k]));
    }
    let params = [n_whole as u32 / 4, k_whole as u32 / 4, 0, 0];
    let params = buffer(context, bytemuck::cast_slice(&params), BufferUsages::UNIFORM);
    let x = buffer(context, bytemuck::cast_slice(&x), BufferUsages::STORAGE);
    let y = empty(context, "y", (m_whole * n_whole * 4) as u64, BufferUsages::STORAGE | BufferUsages::COPY_SRC);
    let bind = |_| {
        let w = buffer(context, bytemuck::cast_slice(&w), BufferUsages::STORAGE);
        bind_group(context, &pipeline, &[&params, &x, &w, &y])
    };
    let bind_groups = (0..copies(context, w.len() * 4)).map(bind).collect();
    let kernel = Kernel { pipeline, bind_groups, grid: [(n_whole / TILE) as u32, (m_whole / TILE) as u32] };

    let got: Vec<f32> = bytemuck::pod_collect_to_vec(&kernel.output(context, &y)?);
    let sample = Sample::small([m, n]);
    for (row, column) in sample.elements() {
        let factors = x_values[row * k..][..k].iter().zip(&w_values[column * k..][..k]);
        let expected: i32 = factors.map(|(&x, &w)| i32::from(x >> 4) * i32::from(w >> 4)).sum();
        let got = got[row * n_whole + column];
        anyhow::ensure!(got == expected as f32, "gpu f32: row {row}, column {column} is {got}, expected {expected}");
    }
    let (bytes, compared) = (4 * (n * k + m * k + m * n), sample.len());
    Ok(Series { run: kernel.runner(context)?, bytes, compared, kernel: None }.into())
}

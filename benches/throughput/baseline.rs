//! Kernels of the bench's own, to compare with: what one writes first, and the same tile in float.

use anyhow::Result;
use enfold::Tensor;
use enfold::gpu::context::Context;
use wgpu::{BufferUsages, ComputePass, ComputePassDescriptor};

use crate::device::{bind_group, buffer, calls, download, empty, encoder, pipeline, timed};
use crate::gpu::{LeftOut, copies};
use crate::layer::{Layer, Sample, ZERO_POINT};
use crate::{Prepared, Runner, Series};

/// A kernel with its weights, as often as they are rotated.
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

    /// What one run writes to `y`.
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

/// `naive.wgsl`, in a checked module.
pub(crate) fn naive(context: &Context, layer: &Layer) -> Result<Prepared> {
    let (m, k, n) = (layer.rows, layer.k, layer.n);
    let k_words = k.div_ceil(4);
    if let Some(left_out) = LeftOut::too_large(context, [n * k_words * 4, m * k_words * 4, m * n * 4]) {
        return Ok(left_out.into());
    }
    let module = context.device.create_shader_module(wgpu::include_wgsl!("../naive.wgsl"));
    let pipeline = pipeline(context, &module, "naive");
    let padded = |codes: &Tensor| -> Vec<u8> {
        let mut bytes = vec![0; codes.len() / k * k_words * 4];
        let rows = codes.as_i8().unwrap_or_default().chunks(k);
        for (padded, row) in bytes.chunks_exact_mut(k_words * 4).zip(rows) {
            padded[..k].copy_from_slice(bytemuck::cast_slice(row));
        }
        bytes
    };
    let params = [m as i32, n as i32, k_words as i32, ZERO_POINT];
    let params = buffer(context, bytemuck::cast_slice(&params), BufferUsages::UNIFORM);
    let x = buffer(context, &padded(&layer.x), BufferUsages::STORAGE);
    let bias = buffer(context, bytemuck::cast_slice(&layer.bias), BufferUsages::STORAGE);
    let multiplier = buffer(context, bytemuck::cast_slice(&layer.multiplier), BufferUsages::STORAGE);
    let weights = padded(&layer.w);
    let y = empty(context, "y", (m * n * 4) as u64, BufferUsages::STORAGE | BufferUsages::COPY_SRC);
    let of_copy = |_| {
        let w = buffer(context, &weights, BufferUsages::STORAGE);
        bind_group(context, &pipeline, &[&params, &x, &w, &bias, &multiplier, &y])
    };
    let bind_groups = (0..copies(context, weights.len())).map(of_copy).collect();
    let kernel = Kernel { pipeline, bind_groups, grid: [n.div_ceil(8) as u32, m.div_ceil(8) as u32] };

    let codes: Vec<i32> = bytemuck::pod_collect_to_vec(&kernel.output(context, &y)?);
    let codes: Vec<i8> = codes.into_iter().map(|code| code as i8).collect();
    let compared = layer.check("gpu naive", &codes)?;
    let bytes = n * k + m * k + m * n;
    Ok(Series { run: kernel.runner(context)?, bytes, compared, kernel: None }.into())
}

const TILE: usize = 64;
const K_STEP: usize = 16;

/// `matmul_f32.wgsl`, in a trusted module, as the engine's kernels are.
pub(crate) fn float(context: &Context, layer: &Layer) -> Result<Prepared> {
    let (m, k, n) = (layer.rows, layer.k, layer.n);
    let (m_whole, k_whole, n_whole) = (m.next_multiple_of(TILE), k.next_multiple_of(K_STEP), n.next_multiple_of(TILE));
    let sizes = [n_whole * k_whole * 4, m_whole * k_whole * 4, m_whole * n_whole * 4];
    if let Some(left_out) = LeftOut::too_large(context, sizes) {
        return Ok(left_out.into());
    }
    let descriptor = wgpu::include_wgsl!("../matmul_f32.wgsl");
    // SAFETY: every buffer is of whole tiles, and the grid has as many; indices within a tile follow from constants.
    #[allow(unsafe_code)]
    let module =
        unsafe { context.device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) };
    let pipeline = pipeline(context, &module, "matmul_f32");
    // Numbers of four bits: then all sums are exact in float, in whatever order.
    let number = |code: i8| f32::from(code >> 4);
    let (codes_x, codes_w) = (layer.x.as_i8().unwrap_or_default(), layer.w.as_i8().unwrap_or_default());
    let mut x = vec![0f32; m_whole * k_whole];
    for (padded, row) in x.chunks_exact_mut(k_whole).zip(codes_x.chunks_exact(k)) {
        padded.iter_mut().zip(row).for_each(|(to, &code)| *to = number(code));
    }
    let mut w = vec![0f32; k_whole * n_whole];
    for (at_k, row) in w.chunks_exact_mut(n_whole).take(k).enumerate() {
        row[..n].iter_mut().enumerate().for_each(|(column, to)| *to = number(codes_w[column * k + at_k]));
    }
    let params = [n_whole as u32 / 4, k_whole as u32 / 4, 0, 0];
    let params = buffer(context, bytemuck::cast_slice(&params), BufferUsages::UNIFORM);
    let x = buffer(context, bytemuck::cast_slice(&x), BufferUsages::STORAGE);
    let y = empty(context, "y", (m_whole * n_whole * 4) as u64, BufferUsages::STORAGE | BufferUsages::COPY_SRC);
    let of_copy = |_| {
        let w = buffer(context, bytemuck::cast_slice(&w), BufferUsages::STORAGE);
        bind_group(context, &pipeline, &[&params, &x, &w, &y])
    };
    let bind_groups = (0..copies(context, w.len() * 4)).map(of_copy).collect();
    let kernel = Kernel { pipeline, bind_groups, grid: [(n_whole / TILE) as u32, (m_whole / TILE) as u32] };

    let got: Vec<f32> = bytemuck::pod_collect_to_vec(&kernel.output(context, &y)?);
    let sample = Sample::small([m, n]);
    for (row, column) in sample.elements() {
        let factors = codes_x[row * k..][..k].iter().zip(&codes_w[column * k..][..k]);
        let expected: i32 = factors.map(|(&x, &w)| i32::from(x >> 4) * i32::from(w >> 4)).sum();
        let got = got[row * n_whole + column];
        anyhow::ensure!(got == expected as f32, "gpu f32: row {row}, column {column} is {got}, expected {expected}");
    }
    let (bytes, compared) = (4 * (n * k + m * k + m * n), sample.len());
    Ok(Series { run: kernel.runner(context)?, bytes, compared, kernel: None }.into())
}

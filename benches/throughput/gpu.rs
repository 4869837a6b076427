//! Series on the GPU.

use anyhow::{Context as _, Result, bail};
use enfold::Tensor;
use enfold::gpu::context::Context;
use enfold::gpu::{Engine, LinearKernel, Model, Options, Run, TileShape};
use pollster::block_on;
use wgpu::util::DeviceExt;
use wgpu::{BufferUsages, CommandEncoder, ComputePass};

use crate::layer::{Layer, ZERO_POINT};
use crate::{Runner, time};

pub(crate) const SERIES: [&str; 3] = ["gpu naive", "gpu resident", "gpu round trip"];

/// Weights of hardware GPUs are rotated, so that they come from memory as in a network, not from a cache.
const LAST_LEVEL_CACHE: usize = 128 << 20;

/// A tile shape to use instead of the engine's choice.
type Tile = Option<(LinearKernel, u32, u32)>;

fn engine(context: &Context, tile: Tile) -> Result<Engine> {
    let shape = |(kernel, rows, k_step)| TileShape::new(kernel, rows, k_step, &context.device.limits());
    let options = Options { tile: tile.map(shape).transpose()?, ..Options::default() };
    Ok(block_on(Engine::new(&context.device, &context.queue, &options))?)
}

pub(crate) fn runner(series: &str, context: &Context, layer: &Layer, tile: Tile) -> Result<Runner> {
    Ok(match series {
        "gpu naive" => naive(context, layer)?,
        "gpu resident" => resident(context, layer, tile)?,
        "gpu round trip" => round_trip(context, layer, tile)?,
        other => bail!("no series {other}"),
    })
}

fn copies(context: &Context, layer: &Layer) -> usize {
    if context.is_software() { 1 } else { LAST_LEVEL_CACHE.div_ceil(layer.n * layer.k).clamp(1, 128) }
}

/// Seconds of one of `calls` recordings in one pass of one submission: by the device's own clock where it has one, which
/// leaves out what submitting costs.
fn timed(context: &Context, calls: usize, record: impl FnOnce(&mut ComputePass<'_>) -> Result<()>) -> Result<f64> {
    let device = &context.device;
    let clock = device.features().contains(wgpu::Features::TIMESTAMP_QUERY).then(|| {
        let descriptor = wgpu::QuerySetDescriptor { label: None, ty: wgpu::QueryType::Timestamp, count: 2 };
        device.create_query_set(&descriptor)
    });
    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    let timestamp_writes = clock.as_ref().map(|query_set| wgpu::ComputePassTimestampWrites {
        query_set,
        beginning_of_pass_write_index: Some(0),
        end_of_pass_write_index: Some(1),
    });
    let descriptor = wgpu::ComputePassDescriptor { label: None, timestamp_writes };
    record(&mut encoder.begin_compute_pass(&descriptor))?;
    let ticks = buffer(context, &[0; 16], BufferUsages::QUERY_RESOLVE | BufferUsages::COPY_SRC);
    let ticks_staging = staging(context, 16);
    if let Some(clock) = &clock {
        encoder.resolve_query_set(clock, 0..2, &ticks, 0);
        encoder.copy_buffer_to_buffer(&ticks, 0, &ticks_staging, 0, 16);
    }
    let start = std::time::Instant::now();
    let ticks = read(context, encoder, &ticks_staging)?;
    let wall = start.elapsed().as_secs_f64();
    let tick = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| ticks[at * 8 + i]));
    let seconds = match clock {
        Some(_) => (tick(1) - tick(0)) as f64 * f64::from(context.queue.get_timestamp_period()) * 1e-9,
        None => wall,
    };
    Ok(seconds / calls as f64)
}

/// As many calls in one submission as take long against the submission itself.
fn calls(context: &Context, one: impl Fn(&mut ComputePass<'_>) -> Result<()>) -> Result<usize> {
    // The first use of a pipeline may compile.
    timed(context, 1, &one)?;
    let seconds = timed(context, 1, &one)?;
    Ok(((0.03 / seconds.max(1e-7)) as usize).clamp(1, 2000))
}

fn resident(context: &Context, layer: &Layer, tile: Tile) -> Result<Runner> {
    let engine = engine(context, tile)?;
    let model = block_on(engine.load(&layer.program))?;
    let got = block_on(model.run(&[&layer.x]))?;
    layer.check("gpu resident", got[0].as_i8().unwrap_or_default())?;
    let context = context.clone();
    let rows = layer.rows;
    let mut runs: Vec<(Model, Run)> = Vec::new();
    for _ in 0..copies(&context, layer) {
        let model = block_on(engine.load(&layer.program))?;
        let (input, output) = buffers(&context, layer);
        let run = block_on(model.bind(&[&input], &[&output], rows))?;
        runs.push((model, run));
    }
    let calls = calls(&context, |pass| Ok(runs[0].1.record_in(pass, rows)?))?;
    Ok(Box::new(move || {
        timed(&context, calls, |pass| (0..calls).try_for_each(|i| Ok(runs[i % runs.len()].1.record_in(pass, rows)?)))
    }))
}

fn buffers(context: &Context, layer: &Layer) -> (wgpu::Buffer, wgpu::Buffer) {
    let x = words(layer.x.as_i8().unwrap_or_default());
    let input = buffer(context, &x, BufferUsages::STORAGE | BufferUsages::COPY_DST);
    let output = context.device.create_buffer(&wgpu::BufferDescriptor {
        label: Some("y"),
        size: ((layer.rows * layer.n) as u64).next_multiple_of(4),
        usage: BufferUsages::STORAGE | BufferUsages::COPY_SRC,
        mapped_at_creation: false,
    });
    (input, output)
}

fn buffer(context: &Context, contents: &[u8], usage: BufferUsages) -> wgpu::Buffer {
    context.device.create_buffer_init(&wgpu::util::BufferInitDescriptor { label: None, contents, usage })
}

/// Codes as bytes, filled up to whole words.
fn words(codes: &[i8]) -> Vec<u8> {
    let mut bytes: Vec<u8> = codes.iter().map(|&c| c as u8).collect();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// Upload, run, read back; buffers are used again.
fn round_trip(context: &Context, layer: &Layer, tile: Tile) -> Result<Runner> {
    let engine = engine(context, tile)?;
    let model = block_on(engine.load(&layer.program))?;
    let (input, output) = buffers(context, layer);
    let run = block_on(model.bind(&[&input], &[&output], layer.rows))?;
    let x = words(layer.x.as_i8().unwrap_or_default());
    let (context, rows, codes) = (context.clone(), layer.rows, layer.rows * layer.n);
    let staging = staging(&context, output.size());
    let trip = move || -> Result<Vec<u8>> {
        context.queue.write_buffer(&input, 0, &x);
        let mut encoder = context.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        run.record(&mut encoder, rows)?;
        encoder.copy_buffer_to_buffer(&output, 0, &staging, 0, output.size());
        read(&context, encoder, &staging)
    };
    let got: Vec<i8> = trip()?[..codes].iter().map(|&b| b as i8).collect();
    layer.check("gpu round trip", &got)?;
    // The model owns the weights.
    Ok(Box::new(move || {
        let _ = &model;
        time(|| trip().map(drop))
    }))
}

fn staging(context: &Context, size: u64) -> wgpu::Buffer {
    context.device.create_buffer(&wgpu::BufferDescriptor {
        label: Some("staging"),
        size,
        usage: BufferUsages::MAP_READ | BufferUsages::COPY_DST,
        mapped_at_creation: false,
    })
}

/// Submits, waits, and reads the staging buffer.
fn read(context: &Context, encoder: CommandEncoder, staging: &wgpu::Buffer) -> Result<Vec<u8>> {
    context.queue.submit([encoder.finish()]);
    let (sender, receiver) = std::sync::mpsc::channel();
    staging.map_async(wgpu::MapMode::Read, .., move |result| drop(sender.send(result)));
    context.device.poll(wgpu::PollType::wait_indefinitely())?;
    receiver.recv()??;
    let bytes = staging.get_mapped_range(..)?.to_vec();
    staging.unmap();
    Ok(bytes)
}

/// `naive.wgsl`, in a checked module.
fn naive(context: &Context, layer: &Layer) -> Result<Runner> {
    let device = &context.device;
    let module = device.create_shader_module(wgpu::include_wgsl!("../naive.wgsl"));
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some("naive"),
        layout: None,
        module: &module,
        entry_point: Some("naive"),
        compilation_options: wgpu::PipelineCompilationOptions::default(),
        cache: None,
    });
    let (m, k, n) = (layer.rows, layer.k, layer.n);
    let k_words = k.div_ceil(4);
    let padded = |codes: &Tensor| -> Vec<u8> {
        let rows = codes.as_i8().unwrap_or_default().chunks(k);
        let pad = |row: &[i8]| (0..k_words * 4).map(|at| row.get(at).map_or(0, |&c| c as u8)).collect::<Vec<u8>>();
        rows.flat_map(pad).collect()
    };
    let params: Vec<u8> =
        [m as i32, n as i32, k_words as i32, ZERO_POINT].into_iter().flat_map(i32::to_le_bytes).collect();
    let params = buffer(context, &params, BufferUsages::UNIFORM);
    let x = buffer(context, &padded(&layer.x), BufferUsages::STORAGE);
    let bias: Vec<u8> = layer.bias.iter().flat_map(|b| b.to_le_bytes()).collect();
    let bias = buffer(context, &bias, BufferUsages::STORAGE);
    let multiplier: Vec<u8> = layer.multiplier.iter().flat_map(|m| m.to_le_bytes()).collect();
    let multiplier = buffer(context, &multiplier, BufferUsages::STORAGE);
    let weights = padded(&layer.w);
    let size = (m * n * 4) as u64;
    let usage = BufferUsages::STORAGE | BufferUsages::COPY_SRC;
    let descriptor = wgpu::BufferDescriptor { label: Some("y"), size, usage, mapped_at_creation: false };
    let y = device.create_buffer(&descriptor);
    let bind_group = |_| {
        let w = buffer(context, &weights, BufferUsages::STORAGE);
        let buffers = [&params, &x, &w, &bias, &multiplier, &y];
        let entries: Vec<wgpu::BindGroupEntry<'_>> = (0u32..)
            .zip(buffers)
            .map(|(binding, b)| wgpu::BindGroupEntry { binding, resource: b.as_entire_binding() })
            .collect();
        let layout = &pipeline.get_bind_group_layout(0);
        device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout, entries: &entries })
    };
    let bind_groups: Vec<wgpu::BindGroup> = (0..copies(context, layer)).map(bind_group).collect();
    let record = move |pass: &mut ComputePass<'_>, at: usize| {
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, &bind_groups[at % bind_groups.len()], &[]);
        pass.dispatch_workgroups(n.div_ceil(8) as u32, m.div_ceil(8) as u32, 1);
    };

    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    record(&mut encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default()), 0);
    let staging = staging(context, size);
    encoder.copy_buffer_to_buffer(&y, 0, &staging, 0, size);
    let bytes = read(context, encoder, &staging).context("gpu naive")?;
    let codes: Vec<i8> = bytes.chunks_exact(4).map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]]) as i8).collect();
    layer.check("gpu naive", &codes)?;

    let context = context.clone();
    let calls = calls(&context, |pass| {
        record(pass, 0);
        Ok(())
    })?;
    Ok(Box::new(move || {
        timed(&context, calls, |pass| {
            (0..calls).for_each(|i| record(pass, i));
            Ok(())
        })
    }))
}

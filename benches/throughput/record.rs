//! Measures the cost of recording on the host: a frame of many small layers, and the same number of bare wgpu commands; and what those
//! cost with more bindings, and with buffers that need barriers.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use enfold::Tensor;
use enfold::gpu::Run;
use enfold::interp::Interpreter;
use enfold::lower::lower;
use pollster::block_on;
use wgpu::{BufferUsages, CommandEncoder};

use crate::chain::{network, weights};
use crate::device::{buffer, empty, encoder};
use crate::gpu::Gpu;
use crate::median;
use crate::random::Random;
use crate::report::Measured;

pub(crate) const SERIES: [&str; 1] = ["record"];

const LAYERS: usize = 12;
const WIDTH: usize = 64;
const WARM_UP: usize = 200;
const RECORDINGS: usize = 3000;

pub(crate) fn measure(gpu: &Gpu<'_>) -> Result<Vec<Measured>> {
    let mut random = Random::new(12);
    let graph = network(&weights(&mut random, LAYERS, WIDTH)?, WIDTH)?;
    let program = lower(&graph)?;
    let model = block_on(gpu.engine()?.load(&program))?;
    let x = Tensor::from_i8(&[1, WIDTH], random.codes(WIDTH))?;
    let expected = Interpreter::new(&graph).run(&[&x])?;
    ensure!(block_on(model.run(&[&x]))? == expected, "record: the network differs from the interpreter");
    let bytes: &[u8] = bytemuck::cast_slice(x.as_i8().context("int8 values")?);
    let input = buffer(gpu.context, bytes, BufferUsages::STORAGE);
    let output = empty(gpu.context, "y", WIDTH as u64, BufferUsages::STORAGE);
    let run = block_on(model.bind(&[&input], &[&output], 1))?;
    let dispatches = run.dispatches();
    let bare = Bare::new(gpu, dispatches, Bindings { storage: 1, buffers: Buffers::Own });
    let others = OTHERS.map(|bindings| (bindings, Bare::new(gpu, dispatches, bindings)));

    let mut seconds: [Vec<f64>; 4] = Default::default();
    let mut of_others = OTHERS.map(|_| Vec::new());
    for at in 0..WARM_UP + RECORDINGS {
        let engine_seconds = recorded(gpu, |encoder| record(&run, encoder))?;
        let bare_seconds = recorded(gpu, |encoder| bare.record(encoder))?;
        let mut finish = [0.0; OTHERS.len()];
        for (seconds, (_, other)) in finish.iter_mut().zip(&others) {
            *seconds = recorded(gpu, |encoder| other.record(encoder))?[1];
        }
        if at >= WARM_UP {
            let both = [engine_seconds[0], bare_seconds[0], engine_seconds[1], bare_seconds[1]];
            seconds.iter_mut().zip(both).for_each(|(all, one)| all.push(one));
            of_others.iter_mut().zip(finish).for_each(|(all, one)| all.push(one));
        }
    }
    // Submitting both once shows that they are valid commands.
    for all in
        [&|encoder: &mut CommandEncoder| record(&run, encoder), &|encoder: &mut CommandEncoder| bare.record(encoder)]
            as [&dyn Fn(&mut CommandEncoder) -> Result<()>; 2]
    {
        let mut encoder = encoder(gpu.context);
        all(&mut encoder)?;
        gpu.context.queue.submit([encoder.finish()]);
        gpu.context.device.poll(wgpu::PollType::wait_indefinitely())?;
    }
    println!("\nrecording {LAYERS} layers of {WIDTH} x {WIDTH} at 1 row, {dispatches} dispatches, on the host");
    let mut results = Vec::new();
    for (series, all) in ["record", "record bare", "finish", "finish bare"].into_iter().zip(seconds) {
        let least = all.iter().copied().fold(f64::INFINITY, f64::min);
        let middle = median(all);
        println!("  {series:<16} median {:>8.2} us, least {:>8.2} us", middle * 1e6, least * 1e6);
        results.push(Measured {
            series: series.to_owned(),
            shape: [1, WIDTH, WIDTH],
            seconds: middle,
            least_seconds: Some(least),
            rounds: RECORDINGS,
            ..Measured::default()
        });
    }
    let times = |at: usize| results[at].seconds / results[at + 1].seconds;
    println!("  record takes {:.2} times record bare, and finish {:.2} times finish bare", times(0), times(2));
    // Layers read one another, and so do the first of the other bare commands: each dispatch waits for the one before it.
    let waiting = median(of_others[0].clone());
    println!(
        "  finish takes {:.2} times that of bare commands that wait for one another",
        results[2].seconds / waiting
    );
    for ((bindings, _), all) in others.iter().zip(of_others) {
        let (Bindings { storage, buffers }, times) = (bindings, median(all) / results[3].seconds);
        println!("  finish of bare commands with {storage} storage bindings, {buffers:?} buffers: {times:.2} times");
    }
    Ok(results)
}

fn record(run: &Run, encoder: &mut CommandEncoder) -> Result<()> {
    Ok(run.record(encoder, 1)?)
}

/// Returns the seconds of recording alone, and of finishing the encoder, where wgpu hands its commands to the driver. Submits nothing.
fn recorded(gpu: &Gpu<'_>, record: impl Fn(&mut CommandEncoder) -> Result<()>) -> Result<[f64; 2]> {
    let mut encoder = encoder(gpu.context);
    let start = Instant::now();
    record(&mut encoder)?;
    let recorded = start.elapsed().as_secs_f64();
    let commands = encoder.finish();
    let finished = start.elapsed().as_secs_f64() - recorded;
    drop(commands);
    Ok([recorded, finished])
}

/// The buffers of the storage bindings of a dispatch.
#[derive(Debug, Clone, Copy)]
enum Buffers {
    /// Each dispatch has its own.
    Own,
    /// All bind ranges of one, so that each dispatch waits for the one before it.
    Shared,
    /// All bind ranges of one, and each has one more range of a buffer that is only read.
    SharedAndRead,
}

/// What a dispatch binds besides two uniform buffers.
#[derive(Debug, Clone, Copy)]
struct Bindings {
    storage: u32,
    buffers: Buffers,
}

const OTHERS: [Bindings; 6] = [
    Bindings { storage: 1, buffers: Buffers::Shared },
    Bindings { storage: 3, buffers: Buffers::Own },
    Bindings { storage: 3, buffers: Buffers::Shared },
    Bindings { storage: 6, buffers: Buffers::Own },
    Bindings { storage: 6, buffers: Buffers::Shared },
    Bindings { storage: 6, buffers: Buffers::SharedAndRead },
];

/// Bare wgpu commands: dispatches of a shader that does next to nothing, with one pipeline, a bind group each and two dynamic offsets.
struct Bare {
    pipeline: wgpu::ComputePipeline,
    bind_groups: Vec<wgpu::BindGroup>,
    offset: u32,
}

impl Bare {
    fn new(gpu: &Gpu<'_>, dispatches: usize, bindings: Bindings) -> Self {
        let Bindings { storage, buffers } = bindings;
        let device = &gpu.context.device;
        let reads = |binding: u32| matches!(buffers, Buffers::SharedAndRead) && binding == 1 + storage;
        let module = device.create_shader_module(wgpu::include_wgsl!("../trivial.wgsl"));
        let entry = |binding: u32| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer {
                ty: match binding {
                    0 | 1 => wgpu::BufferBindingType::Uniform,
                    _ => wgpu::BufferBindingType::Storage { read_only: reads(binding) },
                },
                has_dynamic_offset: binding < 2,
                min_binding_size: None,
            },
            count: None,
        };
        let entries: Vec<wgpu::BindGroupLayoutEntry> = (0..2 + storage).map(entry).collect();
        let layout =
            device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries });
        let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: None,
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some("trivial"),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some("trivial"),
            compilation_options: wgpu::PipelineCompilationOptions::default(),
            cache: None,
        });
        let offset = device.limits().min_uniform_buffer_offset_alignment.max(4);
        let digits = buffer(gpu.context, &vec![0; 2 * offset as usize], BufferUsages::UNIFORM);
        let digit = wgpu::BufferBinding { buffer: &digits, offset: 0, size: wgpu::BufferSize::new(4) };
        let shared = [(); 2].map(|()| empty(gpu.context, "y", 256 * 8, BufferUsages::STORAGE));
        let bind_group = |_| {
            let own: Vec<_> = (0..storage).map(|_| empty(gpu.context, "y", 256, BufferUsages::STORAGE)).collect();
            let part = |at: u32| wgpu::BufferBinding {
                buffer: match buffers {
                    Buffers::Own => &own[at as usize],
                    _ => &shared[usize::from(reads(2 + at))],
                },
                offset: if matches!(buffers, Buffers::Own) { 0 } else { u64::from(at) * 256 },
                size: wgpu::BufferSize::new(256),
            };
            let parts = [digit.clone(), digit.clone()].into_iter().chain((0..storage).map(part));
            let entries: Vec<wgpu::BindGroupEntry<'_>> = (0u32..)
                .zip(parts.map(wgpu::BindingResource::Buffer))
                .map(|(binding, resource)| wgpu::BindGroupEntry { binding, resource })
                .collect();
            device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout: &layout, entries: &entries })
        };
        Self { pipeline, bind_groups: (0..dispatches).map(bind_group).collect(), offset }
    }

    fn record(&self, encoder: &mut CommandEncoder) -> Result<()> {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        for bind_group in &self.bind_groups {
            pass.set_pipeline(&self.pipeline);
            pass.set_bind_group(0, bind_group, &[0, self.offset]);
            pass.dispatch_workgroups(1, 1, 1);
        }
        Ok(())
    }
}

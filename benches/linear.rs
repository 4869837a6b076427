//! Measures one int8 linear layer with criterion, to see how a change affects the CPU engine and the GPU engine. The bench
//! `throughput` prints tables and ratios within one run.

#![allow(missing_docs)]

#[path = "throughput/layer.rs"]
mod layer;
#[path = "../tests/common/random.rs"]
mod random;

use anyhow::{Context as _, Result};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use enfold::gpu::context::Context;
use enfold::{cpu, gpu};
use pollster::block_on;
use wgpu::BufferUsages;
use wgpu::util::DeviceExt;

use layer::Layer;

const SHAPES: [[usize; 3]; 4] = [[1, 1024, 1024], [32, 1024, 1024], [512, 1024, 1024], [17, 777, 1000]];

fn linear(criterion: &mut Criterion) {
    measure(criterion).expect("every shape computes what the interpreter does");
}

fn measure(criterion: &mut Criterion) -> Result<()> {
    let context = block_on(Context::request(None))?;
    let mut group = criterion.benchmark_group("linear");
    for shape @ [rows, k, n] in SHAPES {
        let layer = Layer::new(shape)?;
        let name = format!("{rows}x{k}x{n}");
        group.throughput(Throughput::Elements((2 * rows * k * n) as u64));

        let engine = cpu::Engine::new(&layer.program)?;
        layer.check("cpu", engine.run(&[&layer.x])?[0].as_i8().context("an int8 output")?)?;
        group.bench_function(BenchmarkId::new("cpu", &name), |b| b.iter(|| engine.run(&[&layer.x])));

        let Some(context) = &context else { continue };
        let (device, queue) = (&context.device, &context.queue);
        let engine = block_on(gpu::Engine::new(device, queue, &gpu::Options::default()))?;
        let model = block_on(engine.load(&layer.program))?;
        layer.check("gpu", block_on(model.run(&[&layer.x]))?[0].as_i8().context("an int8 output")?)?;
        let mut contents: Vec<u8> = layer.x.as_i8().context("int8 values")?.iter().map(|&value| value as u8).collect();
        contents.resize(contents.len().next_multiple_of(4), 0);
        let usage = BufferUsages::STORAGE;
        let descriptor = wgpu::util::BufferInitDescriptor { label: Some("x"), contents: &contents, usage };
        let input = device.create_buffer_init(&descriptor);
        let size = ((rows * n) as u64).next_multiple_of(4);
        let descriptor = wgpu::BufferDescriptor { label: Some("y"), size, usage, mapped_at_creation: false };
        let output = device.create_buffer(&descriptor);
        let run = block_on(model.bind(&[&input], &[&output], rows))?;
        group.bench_function(BenchmarkId::new("gpu", &name), |b| {
            b.iter(|| {
                let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
                run.record(&mut encoder, rows).expect("recorded");
                queue.submit([encoder.finish()]);
                device.poll(wgpu::PollType::wait_indefinitely())
            });
        });
    }
    group.finish();
    Ok(())
}

criterion_group!(benches, linear);
criterion_main!(benches);

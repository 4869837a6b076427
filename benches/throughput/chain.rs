//! Measures chains, in which each layer reads what the one before it has written, against the same layers on inputs of their own: what it
//! costs to fill and drain the device at each layer. Bare dispatches in both orders show what part of it the device takes by itself.

use anyhow::{Result, ensure};
use enfold::interp::Interpreter;
use enfold::lower::lower;
use enfold::ops::{IntegerLinear, Op, Requantize};
use enfold::values::{DType, QParams};
use enfold::{Graph, GraphBuilder, Shape, Tensor};
use wgpu::{BufferUsages, ComputePass, ComputePassDescriptor};

use crate::bound::{BoundProgram, runner};
use crate::device::{bind_group, buffer, download, encoder, pipeline, trusted_module};
use crate::gpu::Gpu;
use crate::random::Random;
use crate::report::Measured;
use crate::{Series, compare};

pub(crate) const SERIES: [&str; 1] = ["chain"];

const LAYERS: usize = 16;
const WIDTH: usize = 512;
const ROWS: [usize; 2] = [1, 128];

pub(crate) fn measure(gpu: &Gpu<'_>) -> Result<Vec<Measured>> {
    let mut results = Vec::new();
    for rows in ROWS {
        results.extend(layers(gpu, rows)?);
    }
    results.extend(bare(gpu)?);
    Ok(results)
}

fn layers(gpu: &Gpu<'_>, rows: usize) -> Result<Vec<Measured>> {
    let mut random = Random::new(rows as u64);
    let weights = weights(&mut random, LAYERS, WIDTH)?;
    let x = Tensor::from_i8(&[rows, WIDTH], random.codes(rows * WIDTH))?;
    let bound = |name: &str, weights: &[Tensor]| -> Result<BoundProgram> {
        let graph = network(weights, WIDTH)?;
        let expected = Interpreter::new(&graph).run(&[&x])?;
        BoundProgram::new(gpu.context, gpu.engine()?, (name, &lower(&graph)?), &[&x], &expected, 0.0)
    };
    let chain = bound("chain", &weights)?;
    let alone: Vec<BoundProgram> =
        weights.chunks(1).map(|weight| bound("chain, layers alone", weight)).collect::<Result<_>>()?;
    println!("\n{LAYERS} layers of {WIDTH} x {WIDTH} at {rows} rows, {} dispatches", chain.dispatches());
    let series =
        |compared, run| Series { run, bytes: LAYERS * (WIDTH * WIDTH + 2 * rows * WIDTH), compared, kernel: None };
    let compared = [chain.compared, alone.iter().map(|layer| layer.compared).sum()];
    let all = vec![
        ("chain", series(compared[0], runner(gpu.context, move |pass| chain.record(pass))?)),
        (
            "chain independent",
            series(
                compared[1],
                runner(gpu.context, move |pass| alone.iter().try_for_each(|layer| layer.record(pass)))?,
            ),
        ),
    ];
    compare([rows, WIDTH, WIDTH], (2 * LAYERS * rows * WIDTH * WIDTH) as f64, all)
}

/// Dispatches that add 1 to the numbers of one buffer in turn, or each to those of a buffer of its own.
fn bare(gpu: &Gpu<'_>) -> Result<Vec<Measured>> {
    const GROUPS: u32 = 8;
    const NUMBERS: usize = 64 * GROUPS as usize;
    let context = gpu.context;
    // SAFETY: the grid has one thread for each number of a buffer.
    #[allow(unsafe_code)]
    let module = unsafe { trusted_module(context, wgpu::include_wgsl!("../count.wgsl")) };
    let pipeline = pipeline(context, &module, "count");
    println!("\n{LAYERS} dispatches that add 1 to {NUMBERS} numbers");
    let mut all = Vec::new();
    for (name, buffers) in [("dispatches", 1), ("dispatches independent", LAYERS)] {
        let usage = BufferUsages::STORAGE | BufferUsages::COPY_SRC;
        let buffers: Vec<_> = (0..buffers).map(|_| buffer(context, &[0; NUMBERS * 4], usage)).collect();
        let bind_groups: Vec<_> = buffers.iter().map(|y| bind_group(context, &pipeline, &[y])).collect();
        let pipeline = pipeline.clone();
        let record = move |pass: &mut ComputePass<'_>| {
            pass.set_pipeline(&pipeline);
            for at in 0..LAYERS {
                pass.set_bind_group(0, &bind_groups[at % bind_groups.len()], &[]);
                pass.dispatch_workgroups(GROUPS, 1, 1);
            }
            Ok(())
        };
        let mut encoder = encoder(context);
        record(&mut encoder.begin_compute_pass(&ComputePassDescriptor::default()))?;
        context.queue.submit([encoder.finish()]);
        let expected = (LAYERS / buffers.len()) as u32;
        for y in &buffers {
            let encoder = crate::device::encoder(context);
            let numbers: Vec<u32> = bytemuck::pod_collect_to_vec(&download(context, encoder, y)?);
            ensure!(numbers.iter().all(|&number| number == expected), "{name}: a number is not {expected}");
        }
        let compared = buffers.len() * NUMBERS;
        let run = runner(context, record)?;
        all.push((name, Series { run, bytes: LAYERS * NUMBERS * 8, compared, kernel: None }));
    }
    compare([NUMBERS, 1, 1], 0.0, all)
}

/// Random weights of square layers.
pub(crate) fn weights(random: &mut Random, layers: usize, width: usize) -> Result<Vec<Tensor>> {
    (0..layers).map(|_| Ok(Tensor::from_i8(&[width, width], random.codes(width * width))?)).collect()
}

/// Builds a network of layers with int8 inputs and outputs, one dispatch each.
pub(crate) fn network(weights: &[Tensor], width: usize) -> Result<Graph> {
    // Sums of products of random int8 values have a standard deviation of 74² · √K. Few outputs saturate.
    let multiplier = 40.0 / (74.0 * 74.0 * (width as f32).sqrt());
    let mut g = GraphBuilder::new();
    let mut h = g.typed_input("x", Shape::rows(width), DType::I8)?;
    for (at, weight) in weights.iter().enumerate() {
        let weight = g.constant(&format!("w{at}"), weight.clone())?;
        let bias = g.constant(&format!("b{at}"), Tensor::from_i32(&[width], vec![17; width])?)?;
        let factors = g.constant(&format!("m{at}"), Tensor::from_f32(&[width], vec![multiplier; width])?)?;
        let acc =
            g.node(&format!("fc{at}"), Op::IntegerLinear(IntegerLinear { fraction_bits: 0 }), &[h, weight, bias])?;
        let qparams = QParams::new(0.05, 3)?;
        h = g.node(
            &format!("h{at}"),
            Op::Requantize(Requantize { qparams, lo: -128, hi: 127, ch_axis: None }),
            &[acc, factors],
        )?;
    }
    Ok(g.finish([h])?)
}

//! Imports a sentence-embedding encoder from an ONNX file, quantizes it to int8, and runs it on the CPU and the GPU.
//!
//! `cargo run --release --features onnx --example encoder -- [MODEL.onnx] [--batch N] [--seq N] [--adapter NAME] [--help]`
//!
//! The model takes token ids and a mask `[batch, seq]`, as encoders exported from PyTorch do, and returns one row for each sentence.

#![allow(clippy::print_stdout)]

use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use enfold::compare::cosine;
use enfold::gpu::context::Context;
use enfold::gpu::{self, Run};
use enfold::interp::Interpreter;
use enfold::lower::lower;
use enfold::onnx::{self, ImportOptions};
use enfold::ops::Op;
use enfold::program::{Program, StepOp, ValueId};
use enfold::quantize::{ConvertOptions, QuantizationConfig, WgpuQuantizer, convert, prepare, to_integer};
use enfold::values::DType;
use enfold::{Graph, Tensor, cpu};
use pollster::block_on;
use wgpu::BufferUsages;

const CALIBRATION_BATCHES: u64 = 16;

/// Imports a sentence encoder, quantizes it to int8 twice (dynamically per token, and statically with random calibration batches),
/// and compares its embeddings on the CPU and the GPU with those of the float model.
#[derive(Parser)]
#[command(name = "encoder")]
struct Arguments {
    /// The encoder [default: a small one that comes with the crate].
    #[arg(
        value_name = "MODEL.onnx",
        default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/onnx/tiny_bert.onnx"),
        hide_default_value = true
    )]
    model: String,
    /// Sentences in a batch.
    #[arg(long, value_name = "N", default_value_t = 8)]
    batch: usize,
    /// Tokens in a sentence, padding included.
    #[arg(long, value_name = "N", default_value_t = 32)]
    seq: usize,
    /// The adapter whose name contains NAME [default: the most capable].
    #[arg(long, value_name = "NAME")]
    adapter: Option<String>,
}

fn main() -> Result<()> {
    env_logger::init();
    let arguments = Arguments::parse();
    let context = block_on(Context::request(arguments.adapter.as_deref()))?;
    match &context {
        Some(context) => println!("adapter: {}", context.describe()),
        None => println!("adapter: none; running on the CPU"),
    }

    let start = Instant::now();
    let options = ImportOptions::with_dims([("batch", arguments.batch), ("seq", arguments.seq)]);
    let float = onnx::load(&arguments.model, &options)?;
    println!("imported {} in {:.0} ms: {} nodes", arguments.model, milliseconds(start), float.nodes().len());

    let sentences = inputs(&float, 0)?;
    let expected = Interpreter::new(&float).run(&sentences)?.swap_remove(0);
    let float_engine = cpu::Engine::new(&lower(&float)?)?;
    let float_time = median(|| Ok(float_engine.run(&sentences).map(drop)?))?;
    println!("time per batch: cpu float {float_time:.1} ms");

    let symmetric = || QuantizationConfig::symmetric().per_channel();
    // Activations that only a layer norm or a softmax reads stay float.
    for (name, config) in
        [("dynamic, per token", symmetric().dynamic_per_token()), ("static, per channel", symmetric().float_output())]
    {
        let is_static = !config.is_dynamic();
        let start = Instant::now();
        let quantizer = WgpuQuantizer::new().set_global(config).float_islands(true);
        let mut prepared = prepare(&float, &quantizer)?;
        if is_static {
            for batch in 1..=CALIBRATION_BATCHES {
                prepared.observe(&inputs(&float, batch)?)?;
            }
        }
        let quantized = convert(&prepared, &ConvertOptions::default())?;
        let program = lower(&to_integer(&quantized)?)?;
        println!("\n{name}: {} int8 layers, quantized in {:.0} ms", int8_layers(&program), milliseconds(start));

        let cpu = cpu::Engine::new(&program)?;
        report("cpu", &cpu.run(&sentences)?[0], &expected)?;
        let time = median(|| Ok(cpu.run(&sentences).map(drop)?))?;
        println!("  time per batch: cpu int8 {time:.1} ms");
        if let Some(context) = &context {
            let engine = block_on(gpu::Engine::new(&context.device, &context.queue, &gpu::Options::default()))?;
            let model = block_on(engine.load(&program))?;
            report("gpu", &block_on(model.run(&sentences))?[0], &expected)?;
            let resident = resident(context, &model, &program, &sentences)?;
            let round_trip = median(|| Ok(block_on(model.run(&sentences)).map(drop)?))?;
            println!("  time per batch: gpu int8 resident {resident:.1} ms, round trip {round_trip:.1} ms");
        }
    }
    Ok(())
}

/// Makes random sentences of random lengths, padded: token ids that the embedding table has, a mask, and segment ids of zero.
fn inputs(graph: &Graph, seed: u64) -> Result<Vec<Tensor>> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut lengths = Vec::new();
    let mut tensors = Vec::new();
    for &id in graph.inputs() {
        let node = graph.node(id);
        let [batch, seq] = node.shape.fixed_dims()[..] else {
            bail!("input {} has shape {}, expected [batch, seq]", node.name, node.shape)
        };
        ensure!(node.dtype == DType::I32, "input {} is {}, expected token ids or a mask", node.name, node.dtype);
        if lengths.is_empty() {
            lengths = (0..batch).map(|_| random.usize(seq.div_ceil(2)..=seq)).collect();
        }
        let table = graph.iter().find(|(_, n)| matches!(n.op, Op::Embedding(_)) && n.inputs[0] == id);
        let words = table.map(|(_, n)| graph.node(n.inputs[1]).shape.fixed_dims()[0] as i32);
        let mut value = |sentence: usize, token: usize| match words {
            _ if node.name.contains("type") => 0,
            Some(words) if token < lengths[sentence] => random.i32(1..words),
            Some(_) => 0,
            None => i32::from(token < lengths[sentence]),
        };
        let data = (0..batch * seq).map(|at| value(at / seq, at % seq)).collect();
        tensors.push(Tensor::from_i32(&[batch, seq], data)?);
    }
    Ok(tensors)
}

fn int8_layers(program: &Program) -> usize {
    program.steps().iter().filter(|step| matches!(step.op, StepOp::QLinear(_))).count()
}

/// Prints how near each row comes to the float model's, as a cosine.
fn report(device: &str, actual: &Tensor, expected: &Tensor) -> Result<()> {
    let width = expected.shape().last().copied().unwrap_or(1);
    let (actual, expected) = (actual.as_f32().context("floats")?, expected.as_f32().context("floats")?);
    let rows = actual.chunks(width).zip(expected.chunks(width));
    let cosines = rows.map(|(a, b)| cosine(b, a)).collect::<Result<Vec<f64>, _>>()?;
    let mean = cosines.iter().sum::<f64>() / cosines.len() as f64;
    // NaN counts as the worst cosine.
    let worst = cosines.iter().map(|c| if c.is_nan() { -1.0 } else { *c }).fold(1.0, f64::min);
    println!("  cosine to float, {device} int8: worst {worst:.6}, mean {mean:.6} of {} sentences", cosines.len());
    Ok(())
}

/// Milliseconds of one run, with inputs and outputs in buffers on the device.
fn resident(context: &Context, model: &gpu::Model, program: &Program, inputs: &[Tensor]) -> Result<f64> {
    let buffer = |size: usize| {
        let usage = BufferUsages::STORAGE | BufferUsages::COPY_DST;
        let size = size as u64;
        context.device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
    };
    let buffers: Vec<wgpu::Buffer> = inputs.iter().map(|tensor| buffer(tensor.len() * 4)).collect();
    for (buffer, tensor) in buffers.iter().zip(inputs) {
        let ids = tensor.as_i32().context("ids")?;
        let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        context.queue.write_buffer(buffer, 0, &bytes);
    }
    let bytes = |&id: &ValueId| Ok(program.value(id).len(1).context("an output is too large")? * 4);
    let outputs = program.outputs().iter().map(bytes).collect::<Result<Vec<usize>>>()?;
    let outputs: Vec<wgpu::Buffer> = outputs.into_iter().map(buffer).collect();
    let run: Run = block_on(model.bind(&buffers.iter().collect::<Vec<_>>(), &outputs.iter().collect::<Vec<_>>(), 1))?;
    median(|| {
        let mut encoder = context.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        run.record(&mut encoder, 1)?;
        context.queue.submit([encoder.finish()]);
        context.device.poll(wgpu::PollType::wait_indefinitely())?;
        Ok(())
    })
}

/// The median time of nine calls in milliseconds, after one that is not measured.
fn median(mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut times = Vec::new();
    run()?;
    for _ in 0..9 {
        let start = Instant::now();
        run()?;
        times.push(milliseconds(start));
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

//! Quantizes a float network for handwritten digits to int8 and runs it on the GPU: from loading the weights to accuracy and time.
//!
//! `cargo run --release --example linear_gpu -- [--rows N] [--adapter NAME] [--help]`

#![allow(clippy::print_stdout)]

#[path = "common/digits.rs"]
mod digits;
#[path = "common/timing.rs"]
mod timing;

use enfold::ops::Constant;

use anyhow::{Result, ensure};
use clap::Parser;
use enfold::gpu;
use enfold::gpu::context::Context;
use enfold::interp::Interpreter;
use enfold::lower::{LowerOptions, lower_with};
use enfold::program::{Program, Step, StepOp};
use enfold::quantize::{ConvertOptions, ObserverKind, QuantizationConfig, WgpuQuantizer, convert, prepare, to_integer};
use enfold::{Graph, cpu};
use pollster::block_on;

use digits::{Digits, PIXELS, collect, float_graph, images, mismatching};
use timing::{Device, microseconds};

const CALIBRATION_IMAGES: usize = 512;

/// Quantizes a float MLP for handwritten digits to int8 and runs it on the GPU.
#[derive(Parser)]
#[command(name = "linear_gpu")]
struct Arguments {
    /// Images in a batch [default: all 360 test images].
    #[arg(long, value_name = "N")]
    rows: Option<usize>,
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

    let digits = Digits::load()?;
    let float = float_graph()?;
    let quantized = quantize(&float, &digits)?;
    // The integer form, and the program that both engines execute.
    let integers = to_integer(&quantized)?;
    log::info!("{}", integers.summary());
    let program = lower_with(&integers, &LowerOptions { int8_outputs: true, ..LowerOptions::default() })?;

    let rows = arguments.rows.unwrap_or(digits.labels.len());
    ensure!((1..=digits.labels.len()).contains(&rows), "--rows {rows}: there are {} test images", digits.labels.len());
    let batches = digits.batches(rows)?;

    let interpret = |graph: &Graph| {
        let interpreter = Interpreter::new(graph);
        collect(&batches, |batch| Ok(interpreter.run(&[batch])?.swap_remove(0)))
    };
    println!("float accuracy: {:.4}", digits.accuracy(&interpret(&float)?)?);
    println!("q/dq accuracy: {:.4}", digits.accuracy(&interpret(&quantized)?)?);

    // The interpreter's int8 values before the last dequantize node: every engine must compute exactly these.
    let interpreter = Interpreter::new(&integers);
    let (input, last) = (integers.inputs()[0], integers.node(integers.outputs()[0]).inputs[0]);
    let expected = collect(&batches, |batch| Ok(interpreter.run_nodes(&[(input, batch)], &[last])?.swap_remove(0)))?;

    let cpu = cpu::Engine::new(&program)?;
    let cpu_outputs = collect(&batches, |batch| Ok(cpu.run(&[batch])?.swap_remove(0)))?;
    println!("int8 cpu accuracy: {:.4}", digits.accuracy(&cpu_outputs)?);
    let cpu_time = microseconds(|| Ok(cpu.run(&[&batches[0]]).map(drop)?))?;

    let float_bytes: usize = float.iter().map(|(_, node)| constant_bytes(node)).sum();
    let mut mismatches = mismatching("cpu", &cpu_outputs, &expected)?;
    if let Some(context) = &context {
        let device = Device { context, batch: &batches[0] };
        let engine = block_on(gpu::Engine::new(&context.device, &context.queue, &gpu::Options::default()))?;
        let model = block_on(engine.load(&program))?;
        let gpu_outputs = collect(&batches, |batch| Ok(block_on(model.run(&[batch]))?.swap_remove(0)))?;
        println!("int8 gpu accuracy: {:.4}", digits.accuracy(&gpu_outputs)?);
        mismatches += mismatching("gpu", &gpu_outputs, &expected)?;
        println!("weights: {float_bytes} bytes float, {} bytes int8", model.size_bytes());
        let (input, output) = device.buffers()?;
        let run = block_on(model.bind(&[&input], &[&output], rows))?;
        println!("device memory: {}", run.memory());
        println!(
            "time per batch of {rows}: cpu int8 {cpu_time:.0} us, gpu int8 resident {:.0} us, gpu int8 round trip {:.0} us",
            device.resident(&run, rows)?,
            device.round_trip(&run, rows, &input, &output)?,
        );
    } else {
        println!("weights: {float_bytes} bytes float, {} bytes int8", int8_bytes(&program));
        println!("time per batch of {rows}: cpu int8 {cpu_time:.0} us");
    }
    ensure!(mismatches == 0, "{mismatches} codes differ from the reference");
    Ok(())
}

/// Calibrates on training images, and returns the graph in quantize/dequantize form.
fn quantize(float: &Graph, digits: &Digits) -> Result<Graph> {
    // A histogram observer clips rare large values as outliers. In 512 images every value counts, so use min/max.
    let config = QuantizationConfig::symmetric().per_channel().activation_observer(ObserverKind::MinMax);
    let mut prepared = prepare(float, &WgpuQuantizer::new().set_global(config))?;
    for batch in digits.train[..CALIBRATION_IMAGES * PIXELS].chunks(64 * PIXELS) {
        prepared.observe(&[images(batch)?])?;
    }
    Ok(convert(&prepared, &ConvertOptions::default())?)
}

fn constant_bytes(node: &enfold::graph::Node) -> usize {
    match &node.op {
        enfold::ops::Op::Constant(Constant { tensor, .. }) => tensor.len() * 4,
        _ => 0,
    }
}

/// The bytes of int8 weights, with a bias and a multiplier of 4 bytes for each output channel.
fn int8_bytes(program: &Program) -> usize {
    let bytes = |step: &Step| match &step.op {
        StepOp::QLinear(l) => l.weight.len() + 8 * l.n,
        _ => 0,
    };
    program.steps().iter().map(bytes).sum()
}

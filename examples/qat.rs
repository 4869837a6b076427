//! Compares post-training quantization with quantization-aware training: handwritten digits with weights of 2, 3, 4 and 8 bits.
//! The better network of each pair then runs on the GPU.
//!
//! `cargo run --release --example qat -- [--epochs N] [--adapter NAME] [--help]`

#![allow(clippy::print_stdout)]

#[path = "common/digits.rs"]
mod digits;

use anyhow::{Result, ensure};
use clap::Parser;
use enfold::gpu::context::Context;
use enfold::gpu::{Engine, Options};
use enfold::interp::Interpreter;
use enfold::lower::{LowerOptions, lower_with};
use enfold::qat::{Loss, Optimizer, Schedule, Trainer, prepare_qat};
use enfold::quantize::accuracy::{GptqOptions, Hessians, clip_weights, gptq};
use enfold::quantize::{ConvertOptions, ObserverKind, QuantizationConfig, WgpuQuantizer, convert, prepare, to_integer};
use enfold::values::QuantRange;
use enfold::{Graph, Tensor};
use indicatif::{ProgressBar, ProgressStyle};
use pollster::block_on;

use digits::{Digits, PIXELS, collect, float_graph, images, mismatching};

/// Continues the training of a float MLP for handwritten digits with quantized weights, and compares.
#[derive(Parser)]
#[command(name = "qat")]
struct Arguments {
    /// Passes over the training images for each number of bits.
    #[arg(long, value_name = "N", default_value_t = 20)]
    epochs: usize,
    /// The adapter whose name contains NAME [default: the most capable].
    #[arg(long, value_name = "NAME")]
    adapter: Option<String>,
}

fn main() -> Result<()> {
    env_logger::init();
    let arguments = Arguments::parse();
    let digits = Digits::load()?;
    let float = float_graph()?;
    println!("accuracy float: {:.4}", accuracy(&digits, &float)?);

    let mut winners = Vec::new();
    for bits in [2u32, 3, 4, 8] {
        let largest = (1 << (bits - 1)) - 1;
        let config = QuantizationConfig::symmetric().per_channel().weight_range(QuantRange::new(-largest, largest)?);
        let calibrated = calibrate(&digits, &float, config.clone(), Weights::Nearest)?;
        let clipped = calibrate(&digits, &float, config.clone(), Weights::Clipped)?;
        let rounded = calibrate(&digits, &float, config.clone(), Weights::Gptq)?;
        let trained = train(&digits, &float, config, bits, arguments.epochs)?;
        let [ptq, qat] = [accuracy(&digits, &calibrated)?, accuracy(&digits, &trained)?];
        println!("accuracy ptq w{bits}a8: {ptq:.4}");
        println!("accuracy ptq, clipped w{bits}a8: {:.4}", accuracy(&digits, &clipped)?);
        println!("accuracy ptq, clipped, gptq w{bits}a8: {:.4}", accuracy(&digits, &rounded)?);
        println!("accuracy qat w{bits}a8: {qat:.4}");
        winners.push(if qat >= ptq {
            (format!("qat w{bits}a8"), trained)
        } else {
            (format!("ptq w{bits}a8"), calibrated)
        });
    }

    let Some(context) = block_on(Context::request(arguments.adapter.as_deref()))? else {
        println!("adapter: none; nothing runs on a GPU");
        return Ok(());
    };
    let engine = block_on(Engine::new(&context.device, &context.queue, &Options::default()))?;
    let mut mismatches = 0;
    for (name, quantized) in winners {
        mismatches += on_gpu(&digits, &engine, &name, &quantized)?;
    }
    ensure!(mismatches == 0, "{mismatches} codes differ from the reference");
    Ok(())
}

/// How weights are rounded after training.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Weights {
    /// To nearest, in the range of all values.
    Nearest,
    /// To nearest, in the range with the least squared error.
    Clipped,
    /// In that range, so that the errors of a layer's outputs on the training images cancel out.
    Gptq,
}

/// Quantizes after training: passes over the training images once, to find the ranges of activations.
fn calibrate(digits: &Digits, float: &Graph, config: QuantizationConfig, weights: Weights) -> Result<Graph> {
    let quantizer = WgpuQuantizer::new().set_global(config.activation_observer(ObserverKind::MinMax));
    let mut prepared = prepare(float, &quantizer)?;
    for batch in digits.train.chunks(64 * PIXELS) {
        prepared.observe(&[images(batch)?])?;
    }
    if weights != Weights::Nearest {
        clip_weights(&mut prepared)?;
    }
    if weights == Weights::Gptq {
        let mut hessians = Hessians::new(&prepared);
        hessians.observe(&[images(&digits.train)?])?;
        gptq(&mut prepared, &hessians, &GptqOptions::default())?;
    }
    Ok(convert(&prepared, &ConvertOptions::default())?)
}

/// Continues the training with fake quantization.
fn train(digits: &Digits, float: &Graph, config: QuantizationConfig, bits: u32, epochs: usize) -> Result<Graph> {
    let mut model = prepare_qat(float, &WgpuQuantizer::new().set_global(config.qat()))?;
    let labels: Vec<i32> = digits.train_labels.iter().map(|&label| label.into()).collect();
    let labels = Tensor::from_i32(&[labels.len()], labels)?;
    let mut trainer = Trainer::new(Loss::CrossEntropy, Optimizer::adam(1e-3)?);
    trainer.epochs = epochs;
    trainer.schedule = Schedule::Cosine { warmup: 0, least: 0.01 };
    // The scales are frozen for the last fifth of the epochs.
    trainer.settled_epochs = epochs / 5;
    let bar = ProgressBar::new(0);
    bar.set_style(ProgressStyle::with_template("{prefix} {bar:40} {pos}/{len} {msg}")?);
    bar.set_prefix(format!("w{bits}a8"));
    trainer.fit(&mut model, &[&images(&digits.train)?], &labels, |progress| {
        bar.set_length(progress.steps);
        bar.set_position(progress.step);
        bar.set_message(format!("loss {:.4}", progress.loss));
    })?;
    bar.finish_and_clear();
    Ok(convert(&model.prepared()?, &ConvertOptions::default())?)
}

fn accuracy(digits: &Digits, graph: &Graph) -> Result<f64> {
    let interpreter = Interpreter::new(graph);
    let run = |batch: &Tensor| Ok(interpreter.run(&[batch])?.swap_remove(0));
    digits.accuracy(&collect(&digits.batches(digits.labels.len())?, run)?)
}

/// Runs the integer form on the GPU, and returns how many quantized values differ from the interpreter's.
fn on_gpu(digits: &Digits, engine: &Engine, name: &str, quantized: &Graph) -> Result<usize> {
    let integers = to_integer(quantized)?;
    let program = lower_with(&integers, &LowerOptions { int8_outputs: true, ..LowerOptions::default() })?;
    let batches = digits.batches(digits.labels.len())?;
    let interpreter = Interpreter::new(&integers);
    let (input, last) = (integers.inputs()[0], integers.node(integers.outputs()[0]).inputs[0]);
    let expected = collect(&batches, |batch| Ok(interpreter.run_nodes(&[(input, batch)], &[last])?.swap_remove(0)))?;
    let model = block_on(engine.load(&program))?;
    let outputs = collect(&batches, |batch| Ok(block_on(model.run(&[batch]))?.swap_remove(0)))?;
    println!("accuracy gpu {name}: {:.4}", digits.accuracy(&outputs)?);
    mismatching("gpu", &outputs, &expected)
}

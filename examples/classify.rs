//! Trains a small convolutional network for handwritten digits, quantizes it to int8 after training and in training, and runs it on the
//! GPU.
//!
//! `cargo run --release --example classify -- [--epochs N] [--adapter NAME] [--save FILE] [--help]`

#![allow(clippy::print_stdout)]

#[path = "common/digits.rs"]
mod digits;
#[path = "common/timing.rs"]
mod timing;

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use enfold::gpu::context::Context;
use enfold::gpu::{Engine, Options};
use enfold::graph::NodeId;
use enfold::interp::Interpreter;
use enfold::lower::{LowerOptions, lower_with};
use enfold::ops::{AveragePool, Conv, Window};
use enfold::qat::{Loss, Optimizer, Schedule, TrainableGraph, Trainer, prepare_qat};
use enfold::quantize::{ConvertOptions, ObserverKind, QuantizationConfig, WgpuQuantizer, convert, prepare, to_integer};
use enfold::{Graph, GraphBuilder, Shape, Tensor, cpu};
use pollster::block_on;

use digits::{CLASSES, Digits, PIXELS, collect, images, mismatching};
use timing::{Device, microseconds};

/// Trains a convolutional network for handwritten digits, and quantizes it.
#[derive(Parser)]
#[command(name = "classify")]
struct Arguments {
    /// Passes over the training images in float; a third as many follow with fake quantization.
    #[arg(long, value_name = "N", default_value_t = 12)]
    epochs: usize,
    /// The adapter whose name contains NAME [default: the most capable].
    #[arg(long, value_name = "NAME")]
    adapter: Option<String>,
    /// Also saves the integer form as an archive.
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
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
    let mut model = TrainableGraph::new(&network(&mut Parameters::random())?)?;
    train(&digits, &mut model, arguments.epochs, 5e-3)?;
    let parameters = model.parameters().map(|(name, value, _)| (name, value));
    let trained = parameters.chain(model.buffers()).map(|(name, value)| (name.to_owned(), value.clone())).collect();
    let float = network(&mut Parameters { trained, ..Parameters::random() })?;
    println!("float accuracy: {:.4}", accuracy(&digits, &float)?);

    // After training: the ranges of activations come from some images.
    let config = QuantizationConfig::symmetric().per_channel();
    let observed = config.clone().activation_observer(ObserverKind::MinMax);
    let mut prepared = prepare(&float, &WgpuQuantizer::new().set_global(observed))?;
    for batch in digits.train[..512 * PIXELS].chunks(64 * PIXELS) {
        prepared.observe(&[image_batch(images(batch)?)?])?;
    }
    let calibrated = convert(&prepared, &ConvertOptions::default())?;
    println!("ptq accuracy: {:.4}", accuracy(&digits, &calibrated)?);

    // In training: weights and activations are rounded as they will be.
    let mut model = prepare_qat(&float, &WgpuQuantizer::new().set_global(config.qat()))?;
    train(&digits, &mut model, arguments.epochs.div_ceil(3), 1e-3)?;
    let quantized = convert(&model.prepared()?, &ConvertOptions::default())?;
    println!("qat accuracy: {:.4}", accuracy(&digits, &quantized)?);

    let integers = to_integer(&quantized)?;
    let summary = integers.summary();
    ensure!(summary.float.is_empty(), "{summary}");
    println!("integer nodes: {}, float nodes: 0", summary.integer.len());
    if let Some(path) = &arguments.save {
        enfold::archive::save(&integers, path)?;
    }
    run(&digits, &integers, context.as_ref())
}

/// The parameters of the network: those that were trained, and random ones.
struct Parameters {
    trained: HashMap<String, Tensor>,
    random: fastrand::Rng,
}

impl Parameters {
    fn random() -> Self {
        Self { trained: HashMap::new(), random: fastrand::Rng::with_seed(7) }
    }

    /// Normal numbers with the variance `2 / inputs` (He et al. 2015).
    fn weight(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let inputs: usize = shape[1..].iter().product();
        let deviation = (2.0 / inputs as f32).sqrt();
        // The sum of twelve uniform numbers is nearly normal.
        let mut normal = || (0..12).map(|_| self.random.f32()).sum::<f32>() - 6.0;
        let data = (0..shape.iter().product()).map(|_| normal() * deviation).collect();
        self.get(name, Tensor::from_f32(shape, data)?)
    }

    fn vector(&mut self, name: &str, length: usize, value: f32) -> Result<Tensor> {
        self.get(name, Tensor::from_f32(&[length], vec![value; length])?)
    }

    fn get(&mut self, name: &str, other: Tensor) -> Result<Tensor> {
        Ok(self.trained.remove(name).unwrap_or(other))
    }
}

/// `[rows, 1, 8, 8]` pixels to `[rows, 10]` scores: a convolution, a separable one that halves the image, one with a residual sum, the mean of
/// all pixels, and a linear layer.
fn network(parameters: &mut Parameters) -> Result<Graph> {
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::batched(&[1, 8, 8]))?;
    let three = || Window::new(&[3, 3]).with_padding(&[1, 1]);
    let h = layer(&mut g, parameters, "stem", x, [16, 1], Conv::new(three()))?;
    let h = g.relu("stem.relu", h)?;
    let depthwise = Conv::new(three().with_stride(&[2, 2])).with_groups(16);
    let h = layer(&mut g, parameters, "depthwise", h, [16, 1], depthwise)?;
    let h = g.clamp("depthwise.relu6", h, 0.0, 6.0)?;
    let h = layer(&mut g, parameters, "pointwise", h, [32, 16], Conv::new(Window::new(&[1, 1])))?;
    let h = g.relu("pointwise.relu", h)?;
    let r = layer(&mut g, parameters, "residual", h, [32, 32], Conv::new(three()))?;
    let h = g.add("sum", h, r)?;
    let h = g.relu("sum.relu", h)?;
    let h = g.average_pool("mean", h, AveragePool::adaptive(&[1, 1]))?;
    let h = g.flatten("flat", h, 1)?;
    let (w, b) = (parameters.weight("fc.weight", &[CLASSES, 32])?, parameters.vector("fc.bias", CLASSES, 0.0)?);
    let y = g.linear("fc", h, w, Some(b))?;
    Ok(g.finish([y])?)
}

/// A convolution with `n` outputs, `c` input channels in a group and no bias, and a batch norm.
fn layer(
    g: &mut GraphBuilder,
    parameters: &mut Parameters,
    name: &str,
    x: NodeId,
    [n, c]: [usize; 2],
    conv: Conv,
) -> Result<NodeId> {
    let shape = [&[n, c], &conv.window.size()[..]].concat();
    let weight = parameters.weight(&format!("{name}.weight"), &shape)?;
    let h = g.conv(name, x, weight, None, conv)?;
    let norm = format!("{name}.norm");
    let mut vector = |part: &str, value| parameters.vector(&format!("{norm}.{part}"), n, value);
    let statistics =
        [vector("running_mean", 0.0)?, vector("running_var", 1.0)?, vector("weight", 1.0)?, vector("bias", 0.0)?];
    Ok(g.batch_norm(&norm, h, statistics, 1e-5)?)
}

fn train(digits: &Digits, model: &mut TrainableGraph, epochs: usize, rate: f32) -> Result<()> {
    let labels: Vec<i32> = digits.train_labels.iter().map(|&label| label.into()).collect();
    let labels = Tensor::from_i32(&[labels.len()], labels)?;
    let mut trainer = Trainer::new(Loss::CrossEntropy, Optimizer::adam(rate)?);
    trainer.epochs = epochs;
    trainer.schedule = Schedule::Cosine { warmup: 0, least: 0.01 };
    // Scales and running statistics are frozen for the last fifth of the epochs.
    trainer.settled_epochs = epochs / 5;
    let start = Instant::now();
    trainer.fit(model, &[&image_batch(images(&digits.train)?)?], &labels, |progress| log::info!("{progress}"))?;
    log::info!("{epochs} epochs in {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// Gives a batch `[n, 64]` the shape of images.
fn image_batch(batch: Tensor) -> Result<Tensor> {
    let pixels = batch.as_f32().context("pixels are floats")?;
    Ok(Tensor::from_f32(&[batch.shape()[0], 1, 8, 8], pixels.to_vec())?)
}

fn test_images(digits: &Digits) -> Result<Vec<Tensor>> {
    digits.batches(digits.labels.len())?.into_iter().map(image_batch).collect()
}

fn accuracy(digits: &Digits, graph: &Graph) -> Result<f64> {
    let interpreter = Interpreter::new(graph);
    digits.accuracy(&collect(&test_images(digits)?, |batch| Ok(interpreter.run(&[batch])?.swap_remove(0)))?)
}

/// Runs the integer form on both engines, and compares each quantized value with the interpreter's.
fn run(digits: &Digits, integers: &Graph, context: Option<&Context>) -> Result<()> {
    let program = lower_with(integers, &LowerOptions { int8_outputs: true, ..LowerOptions::default() })?;
    let batches = test_images(digits)?;
    let interpreter = Interpreter::new(integers);
    let (input, last) = (integers.inputs()[0], integers.node(integers.outputs()[0]).inputs[0]);
    let expected = collect(&batches, |batch| Ok(interpreter.run_nodes(&[(input, batch)], &[last])?.swap_remove(0)))?;

    let cpu = cpu::Engine::new(&program)?;
    let outputs = collect(&batches, |batch| Ok(cpu.run(&[batch])?.swap_remove(0)))?;
    println!("int8 cpu accuracy: {:.4}", digits.accuracy(&outputs)?);
    let mut mismatches = mismatching("cpu", &outputs, &expected)?;
    let cpu_time = microseconds(|| Ok(cpu.run(&[&batches[0]]).map(drop)?))?;
    if let Some(context) = context {
        let engine = block_on(Engine::new(&context.device, &context.queue, &Options::default()))?;
        let model = block_on(engine.load(&program))?;
        let outputs = collect(&batches, |batch| Ok(block_on(model.run(&[batch]))?.swap_remove(0)))?;
        println!("int8 gpu accuracy: {:.4}", digits.accuracy(&outputs)?);
        mismatches += mismatching("gpu", &outputs, &expected)?;
        println!("weights: {} bytes int8", model.size_bytes());
        let device = Device { context, batch: &batches[0] };
        let (rows, (input, output)) = (batches[0].shape()[0], device.buffers()?);
        let run = block_on(model.bind(&[&input], &[&output], rows))?;
        println!("device memory: {}", run.memory());
        println!(
            "time per batch of {rows}: cpu int8 {cpu_time:.0} us, gpu int8 resident {:.0} us, gpu int8 round trip {:.0} us",
            device.resident(&run, rows)?,
            device.round_trip(&run, rows, &input, &output)?,
        );
    } else {
        println!("time per batch of {}: cpu int8 {cpu_time:.0} us", batches[0].shape()[0]);
    }
    ensure!(mismatches == 0, "{mismatches} codes differ from the reference");
    Ok(())
}

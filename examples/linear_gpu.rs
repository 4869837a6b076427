//! A float network goes in, int8 on the GPU comes out: handwritten digits, from loading the weights to accuracy and time.
//!
//! `cargo run --release --example linear_gpu -- [--rows N] [--adapter NAME] [--help]`

#![allow(clippy::print_stdout)]

use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use enfold::gpu::context::Context;
use enfold::gpu::{self, Run};
use enfold::interp::Interpreter;
use enfold::lower::{LowerOptions, lower_with};
use enfold::quantize::{ConvertOptions, ObserverKind, QuantizationConfig, WgpuQuantizer, convert, prepare, reference};
use enfold::{Graph, GraphBuilder, Shape, Tensor, cpu};
use pollster::block_on;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use wgpu::BufferUsages;

const PIXELS: usize = 64;
const CLASSES: usize = 10;
const CALIBRATION_IMAGES: usize = 512;
const HELP: &str = "\
Quantizes a float MLP for handwritten digits to int8 and runs it on the GPU.

  --rows N        images in a batch (default: all 360 test images)
  --adapter NAME  the adapter whose name contains NAME (default: the most capable)
  --help          this text";

fn main() -> Result<()> {
    env_logger::init();
    let Some(arguments) = Arguments::parse()? else {
        println!("{HELP}");
        return Ok(());
    };

    let context = block_on(Context::request(arguments.adapter.as_deref()))?;
    match &context {
        Some(context) => println!("adapter: {}", context.describe()),
        None => println!("adapter: none; running on the CPU"),
    }

    // Quantize: float graph, observers, calibration, quantize/dequantize form.
    let digits = Digits::load()?;
    let float = float_graph()?;
    // A histogram clips outliers once it has seen enough of them; 512 images have none to spare.
    let config = QuantizationConfig::symmetric().per_channel().activation_observer(ObserverKind::MinMax);
    let quantizer = WgpuQuantizer::new().set_global(config);
    let mut prepared = prepare(&float, &quantizer)?;
    for batch in digits.train.chunks(64 * PIXELS) {
        prepared.observe(&[Tensor::from_f32(&[batch.len() / PIXELS, PIXELS], batch.to_vec())?])?;
    }
    let quantized = convert(&prepared, &ConvertOptions::default())?;

    // Integers: the reference form, and the program that both engines execute.
    let integers = reference(&quantized)?;
    log::info!("{}", integers.summary());
    let program = lower_with(&integers, &LowerOptions { int8_outputs: true, ..LowerOptions::default() })?;

    let rows = arguments.rows.unwrap_or(digits.labels.len());
    ensure!((1..=digits.labels.len()).contains(&rows), "--rows {rows}: there are {} test images", digits.labels.len());
    let batches = digits.batches(rows)?;

    let of_graph = |graph: &Graph| {
        let interpreter = Interpreter::new(graph);
        collect(&batches, |batch| Ok(interpreter.run(&[batch])?.swap_remove(0)))
    };
    println!("float accuracy: {:.4}", digits.accuracy(&of_graph(&float)?)?);
    println!("q/dq accuracy: {:.4}", digits.accuracy(&of_graph(&quantized)?)?);

    // The codes before the last dequantize node, by the interpreter: what every engine must equal.
    let interpreter = Interpreter::new(&integers);
    let (input, last) = (integers.inputs()[0], integers.node(integers.outputs()[0]).inputs[0]);
    let expected = collect(&batches, |batch| Ok(interpreter.run_nodes(&[(input, batch)], &[last])?.swap_remove(0)))?;

    let cpu = cpu::Engine::new(&program)?;
    let cpu_codes = collect(&batches, |batch| Ok(cpu.run(&[batch])?.swap_remove(0)))?;
    println!("int8 cpu accuracy: {:.4}", digits.accuracy(&cpu_codes)?);
    let cpu_time = microseconds(|| Ok(cpu.run(&[&batches[0]]).map(drop)?))?;

    let float_bytes: usize = float.iter().map(|(_, node)| constant_bytes(node)).sum();
    let mut mismatches = mismatching("cpu", &cpu_codes, &expected)?;
    if let Some(context) = &context {
        let device = Device { context, batch: &batches[0] };
        let engine = block_on(gpu::Engine::new(&context.device, &context.queue, &gpu::Options::default()))?;
        let model = block_on(engine.load(&program))?;
        let codes = collect(&batches, |batch| Ok(block_on(model.run(&[batch]))?.swap_remove(0)))?;
        println!("int8 gpu accuracy: {:.4}", digits.accuracy(&codes)?);
        mismatches += mismatching("gpu", &codes, &expected)?;
        println!("weights: {float_bytes} bytes float, {} bytes int8", model.size_bytes());
        let (input, output) = device.buffers()?;
        let run = block_on(model.bind(&[&input], &[&output], rows))?;
        println!(
            "time per batch of {rows}: cpu int8 {cpu_time:.0} us, gpu int8 resident {:.0} us, gpu int8 round trip {:.0} us",
            device.resident(&run, rows)?,
            device.round_trip(&run, rows, &input, &output)?,
        );
    } else {
        let steps = program.steps().iter();
        let linear_bytes = |step: &enfold::program::Step| match &step.op {
            enfold::program::StepOp::Linear(l) => l.weight.len() + 8 * l.n,
            _ => 0,
        };
        println!("weights: {float_bytes} bytes float, {} bytes int8", steps.map(linear_bytes).sum::<usize>());
        println!("time per batch of {rows}: cpu int8 {cpu_time:.0} us");
    }
    ensure!(mismatches == 0, "{mismatches} codes differ from the reference");
    Ok(())
}

struct Arguments {
    rows: Option<usize>,
    adapter: Option<String>,
}

impl Arguments {
    /// `None` if the user asks for help.
    fn parse() -> Result<Option<Self>> {
        let mut arguments = Self { rows: None, adapter: None };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut value = || words.next().with_context(|| format!("{word} needs a value"));
            match word.as_str() {
                "--rows" => {
                    let text = value()?;
                    arguments.rows = Some(text.parse().with_context(|| format!("--rows {text}"))?);
                }
                "--adapter" => arguments.adapter = Some(value()?),
                "--help" | "-h" => return Ok(None),
                other => bail!("unknown argument {other}\n\n{HELP}"),
            }
        }
        Ok(Some(arguments))
    }
}

/// The images, pixels divided by 16, and the test labels.
struct Digits {
    train: Vec<f32>,
    test: Vec<f32>,
    labels: Vec<u8>,
}

impl Digits {
    fn load() -> Result<Self> {
        let bytes = read("digits.safetensors")?;
        let file = SafeTensors::deserialize(&bytes).context("digits.safetensors")?;
        let pixels = |name: &str| -> Result<Vec<f32>> {
            Ok(data(&file, name, Dtype::U8)?.data().iter().map(|&pixel| f32::from(pixel) / 16.0).collect())
        };
        let mut train = pixels("train.images")?;
        train.truncate(CALIBRATION_IMAGES * PIXELS);
        let labels = data(&file, "test.labels", Dtype::U8)?.data().to_vec();
        Ok(Self { train, test: pixels("test.images")?, labels })
    }

    fn batches(&self, rows: usize) -> Result<Vec<Tensor>> {
        let batch = |pixels: &[f32]| Ok(Tensor::from_f32(&[pixels.len() / PIXELS, PIXELS], pixels.to_vec())?);
        self.test.chunks(rows * PIXELS).map(batch).collect()
    }

    /// The share of images whose largest of ten outputs, floats or codes, is that of the label.
    fn accuracy(&self, outputs: &[f32]) -> Result<f64> {
        ensure!(outputs.len() == self.labels.len() * CLASSES, "{} outputs", outputs.len());
        let right = outputs.chunks_exact(CLASSES).zip(&self.labels).filter(|(scores, label)| {
            let best = (0..CLASSES).fold(0, |best, class| if scores[class] > scores[best] { class } else { best });
            best == usize::from(**label)
        });
        Ok(right.count() as f64 / self.labels.len() as f64)
    }
}

fn float_graph() -> Result<Graph> {
    let bytes = read("mlp.safetensors")?;
    let file = SafeTensors::deserialize(&bytes).context("mlp.safetensors")?;
    let tensor = |name: &str| -> Result<Tensor> {
        let view = data(&file, name, Dtype::F32)?;
        let floats = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        Ok(Tensor::from_f32(view.shape(), floats.collect())?)
    };
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::rows(PIXELS))?;
    let h = g.linear("fc1", x, tensor("0.weight")?, Some(tensor("0.bias")?))?;
    let h = g.relu("relu1", h)?;
    let h = g.linear("fc2", h, tensor("2.weight")?, Some(tensor("2.bias")?))?;
    let h = g.relu("relu2", h)?;
    let y = g.linear("fc3", h, tensor("4.weight")?, Some(tensor("4.bias")?))?;
    Ok(g.finish([y])?)
}

fn read(name: &str) -> Result<Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/digits").join(name);
    std::fs::read(&path).with_context(|| path.display().to_string())
}

/// A tensor of the expected type.
fn data<'f>(file: &SafeTensors<'f>, name: &str, expected: Dtype) -> Result<TensorView<'f>> {
    let view = file.tensor(name).with_context(|| name.to_owned())?;
    ensure!(view.dtype() == expected, "{name} is {:?}, expected {expected:?}", view.dtype());
    Ok(view)
}

/// The outputs of all batches, codes as floats.
fn collect(batches: &[Tensor], run: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Vec<f32>> {
    let mut outputs = Vec::new();
    for batch in batches {
        match run(batch)? {
            Tensor::I8(codes) => outputs.extend(codes.iter().map(|&code| f32::from(code))),
            Tensor::F32(floats) => outputs.extend(floats.iter().copied()),
            other => bail!("an output of {}", other.dtype()),
        }
    }
    Ok(outputs)
}

fn mismatching(engine: &str, codes: &[f32], expected: &[f32]) -> Result<usize> {
    ensure!(codes.len() == expected.len(), "{} codes from {engine}, expected {}", codes.len(), expected.len());
    let count = codes.iter().zip(expected).filter(|(a, b)| a != b).count();
    println!("mismatching codes {engine} vs reference: {count} of {}", expected.len());
    Ok(count)
}

fn constant_bytes(node: &enfold::graph::Node) -> usize {
    match &node.op {
        enfold::graph::Op::Constant(tensor) => tensor.len() * 4,
        _ => 0,
    }
}

/// The median of some calls after the first.
fn microseconds(mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut times = Vec::new();
    run()?;
    for _ in 0..15 {
        let start = Instant::now();
        run()?;
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

/// How an application drives the engine with buffers of its own.
struct Device<'a> {
    context: &'a Context,
    batch: &'a Tensor,
}

impl Device<'_> {
    fn buffers(&self) -> Result<(wgpu::Buffer, wgpu::Buffer)> {
        let input = self.buffer(self.batch.len() * 4, BufferUsages::STORAGE | BufferUsages::COPY_DST);
        let codes = self.batch.shape()[0] * CLASSES;
        let output = self.buffer(codes.next_multiple_of(4), BufferUsages::STORAGE | BufferUsages::COPY_SRC);
        self.context.queue.write_buffer(&input, 0, &self.bytes()?);
        Ok((input, output))
    }

    /// Input and output stay on the device; several recordings share a submission.
    fn resident(&self, run: &Run, rows: usize) -> Result<f64> {
        const CALLS: usize = 10;
        let time = microseconds(|| {
            let mut encoder = self.context.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            (0..CALLS).try_for_each(|_| run.record(&mut encoder, rows))?;
            self.submit(encoder)
        })?;
        Ok(time / CALLS as f64)
    }

    /// Upload, run, read back.
    fn round_trip(&self, run: &Run, rows: usize, input: &wgpu::Buffer, output: &wgpu::Buffer) -> Result<f64> {
        let size = output.size();
        let staging = self.buffer(size as usize, BufferUsages::MAP_READ | BufferUsages::COPY_DST);
        let bytes = self.bytes()?;
        microseconds(|| {
            self.context.queue.write_buffer(input, 0, &bytes);
            let mut encoder = self.context.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            run.record(&mut encoder, rows)?;
            encoder.copy_buffer_to_buffer(output, 0, &staging, 0, size);
            encoder.map_buffer_on_submit(&staging, wgpu::MapMode::Read, .., |_| {});
            self.submit(encoder)?;
            let codes = staging.get_mapped_range(..)?.to_vec();
            staging.unmap();
            ensure!(codes.len() as u64 == size, "{} bytes read back, expected {size}", codes.len());
            Ok(())
        })
    }

    fn submit(&self, encoder: wgpu::CommandEncoder) -> Result<()> {
        self.context.queue.submit([encoder.finish()]);
        self.context.device.poll(wgpu::PollType::wait_indefinitely())?;
        Ok(())
    }

    fn bytes(&self) -> Result<Vec<u8>> {
        let floats = self.batch.as_f32().context("a float batch")?;
        Ok(floats.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    fn buffer(&self, size: usize, usage: BufferUsages) -> wgpu::Buffer {
        self.context.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: size as u64,
            usage,
            mapped_at_creation: false,
        })
    }
}

//! Measures int8 convolutions against the linear layer of the same product: as many rows as output pixels, as many features as elements
//! under the window. The difference is what it costs to find the elements. `benches/onnxruntime_conv.py` compares the CPU engine with ONNX
//! Runtime on the same layers.

use std::hint::black_box;

use anyhow::Result;
use enfold::interp::Interpreter;
use enfold::lower::lower;
use enfold::ops::{ImageLayout, IntegerConv, IntegerLinear, Op, Requantize, Window};
use enfold::program::Program;
use enfold::values::{DType, QParams};
use enfold::{Graph, GraphBuilder, Shape, Tensor, cpu};

use crate::bound::{BoundProgram, runner};
use crate::gpu::Gpu;
use crate::random::Random;
use crate::report::Measured;
use crate::{Series, compare, time};

pub(crate) const SERIES: [&str; 1] = ["conv"];

/// A convolution with square images and windows.
struct Case {
    name: &'static str,
    channels: usize,
    n: usize,
    /// Height and width of an image.
    size: usize,
    window: usize,
    stride: usize,
    groups: usize,
}

const fn case(name: &'static str, sizes: [usize; 6]) -> Case {
    let [channels, n, size, window, stride, groups] = sizes;
    Case { name, channels, n, size, window, stride, groups }
}

/// Layers of ResNet-50 and MobileNetV2 at images of 224 by 224.
const CASES: [Case; 7] = [
    case("ResNet stem, 7x7", [3, 64, 224, 7, 2, 1]),
    case("ResNet stage 1, 3x3", [64, 64, 56, 3, 1, 1]),
    case("ResNet stage 2, 3x3", [128, 128, 28, 3, 1, 1]),
    case("ResNet stage 4, 3x3", [512, 512, 7, 3, 1, 1]),
    case("ResNet stage 2, 1x1", [512, 128, 28, 1, 1, 1]),
    case("MobileNet, depthwise 3x3", [96, 96, 112, 3, 2, 96]),
    case("MobileNet, depthwise 3x3", [384, 384, 14, 3, 1, 384]),
];

/// The convolution of a case, which reads and writes images with the channels last, as inside of a network, and the linear layer of the
/// same product; both read and write int8.
struct Pair {
    conv: Graph,
    linear: Graph,
    x: Tensor,
    patches: Tensor,
    /// Output pixels, and products of each output.
    m: usize,
    k: usize,
}

impl Pair {
    fn new(case: &Case, batch: usize) -> Result<Self> {
        let (c, n, side) = (case.channels, case.n, case.window);
        let (group, padding) = (c / case.groups, case.window / 2);
        let window = Window::new(&[side, side]).with_stride(&[case.stride; 2]).with_padding(&[padding; 2]);
        let output = (case.size + 2 * padding - side) / case.stride + 1;
        let (m, k) = (batch * output * output, group * side * side);
        let mut random = Random::new((c + n + case.size) as u64);
        let weight = random.codes(n * k);
        let multiplier = 40.0 / (74.0 * 74.0 * (k as f32).sqrt());
        let layer = |g: &mut GraphBuilder, shape: &[usize]| -> Result<[_; 3]> {
            let weight = g.constant("w", Tensor::from_i8(shape, weight.clone())?)?;
            let bias = g.constant("b", Tensor::from_i32(&[n], vec![17; n])?)?;
            Ok([weight, bias, g.constant("m", Tensor::from_f32(&[n], vec![multiplier; n])?)?])
        };
        let requantize = || Op::Requantize(Requantize { qparams: qparams(), lo: -128, hi: 127, ch_axis: None });
        let mut g = GraphBuilder::new();
        let x = g.typed_input("x", Shape::batched(&[case.size, case.size, c]), DType::I8)?;
        let [w, b, factors] = layer(&mut g, &[n, group, side, side])?;
        let op = IntegerConv {
            window,
            groups: case.groups,
            zero_point: 3,
            fraction_bits: 0,
            layout: ImageLayout::ChannelsLast,
        };
        let acc = g.node("conv", op, &[x, w, b])?;
        let y = g.node("y", requantize(), &[acc, factors])?;
        let conv = g.finish([y])?;
        let mut g = GraphBuilder::new();
        let x = g.typed_input("x", Shape::rows(k), DType::I8)?;
        let [w, b, factors] = layer(&mut g, &[n, k])?;
        let acc = g.node("fc", IntegerLinear { fraction_bits: 0 }, &[x, w, b])?;
        let y = g.node("y", requantize(), &[acc, factors])?;
        let linear = g.finish([y])?;
        let image = [batch, case.size, case.size, c];
        let x = Tensor::from_i8(&image, random.codes(image.iter().product()))?;
        // A layer of each group for itself would be as many small layers; depthwise ones are not compared.
        let patches = Tensor::from_i8(&[m, k], random.codes(m * k))?;
        Ok(Self { conv, linear, x, patches, m, k })
    }

    fn operations(&self, n: usize) -> f64 {
        2.0 * (self.m * self.k * n) as f64
    }
}

fn qparams() -> QParams {
    QParams::new(0.05, 3).unwrap_or_else(|_| unreachable!("a scale and a zero point of int8"))
}

/// Measures the CPU engine, and the GPU's if there is a GPU.
pub(crate) fn measure(gpu: Option<&Gpu<'_>>) -> Result<Vec<Measured>> {
    let mut results = Vec::new();
    for case in &CASES {
        for batch in [1, 8] {
            let pair = Pair::new(case, batch)?;
            println!(
                "\n{} of {} channels at {}x{}, {} outputs, batch {batch}: rows {}, K {}",
                case.name, case.channels, case.size, case.size, case.n, pair.m, pair.k
            );
            let shape = [pair.m, pair.k, case.n];
            let mut on_gpu = Vec::new();
            let mut on_cpu = Vec::new();
            let linear = (case.groups == 1).then_some(("linear of the same product", &pair.linear, &pair.patches));
            for (name, graph, x) in [("conv", &pair.conv, &pair.x)].into_iter().chain(linear) {
                let program = lower(graph)?;
                let expected = Interpreter::new(graph).run(&[x])?;
                let bytes = x.len() + case.n * pair.k + expected[0].len();
                if let Some(gpu) = gpu {
                    let bound = BoundProgram::new(gpu.context, gpu.engine()?, (name, &program), &[x], &expected, 0.0)?;
                    let compared = bound.compared;
                    let run = runner(gpu.context, move |pass| bound.record(pass))?;
                    on_gpu.push((name, Series { run, bytes, compared, kernel: None }));
                }
                on_cpu.push((
                    if name == "conv" { "conv cpu" } else { "linear cpu" },
                    cpu_series(&program, x, &expected[0], bytes)?,
                ));
            }
            for series in [on_gpu, on_cpu] {
                results.extend(compare(shape, pair.operations(case.n), series)?);
            }
        }
    }
    Ok(results)
}

fn cpu_series(program: &Program, x: &Tensor, expected: &Tensor, bytes: usize) -> Result<Series> {
    let engine = cpu::Engine::new(program)?;
    let got = engine.run(&[x])?;
    anyhow::ensure!(got[0] == *expected, "the CPU engine differs from the interpreter");
    let x = x.clone();
    let run = move || {
        black_box(engine.run(&[&x])?);
        Ok(())
    };
    Ok(Series { run: Box::new(move || time(&run)), bytes, compared: expected.len(), kernel: None })
}

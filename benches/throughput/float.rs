//! Measures what it costs that floats have the same bits on every device: the time of the engine's float kernels, against kernels of the
//! same design that use WGSL's built-in functions.

use anyhow::{Context as _, Result, bail};
use enfold::gpu::{Engine, Options};
use enfold::interp::Interpreter;
use enfold::lower::lower;
use enfold::{Graph, GraphBuilder, Shape, Tensor};
use wgpu::{BufferUsages, ComputePass, ComputePassDescriptor};

use crate::bound::{BoundProgram, near, runner};
use crate::device::{bind_group, buffer, download, empty, encoder, pipeline_of, trusted_module};
use crate::gpu::Gpu;
use crate::random::Random;
use crate::report::Measured;
use crate::{Series, compare};

pub(crate) const SERIES: [&str; 1] = ["float"];

/// Lines of all kernels: as many as 32 sequences of 128 tokens have.
const LINES: usize = 4096;
const LINES_ON_CPU: usize = 1024;
/// The largest permitted difference of the engine's outputs from the interpreter's, relative to the largest output, on a device whose
/// compiler breaks the rules that give equal bits.
const TOLERANCE: f32 = 1e-5;
/// That of the built-in functions, of which WGSL promises little.
const BUILTIN_TOLERANCE: f32 = 2e-3;
const EPS: f32 = 1e-5;

/// A kernel: its name, the length of its lines, its entry point in `float.wgsl`, and the lines of a workgroup, or none for kernels of four
/// elements a thread.
type Kernel = (&'static str, usize, &'static str, Option<usize>);

const KERNELS: [Kernel; 9] = [
    ("softmax", 128, "softmax_short", Some(8)),
    ("softmax", 512, "softmax", Some(1)),
    ("layer norm", 384, "norm", Some(1)),
    ("rms norm", 384, "norm", Some(1)),
    ("gelu", 384, "gelu", None),
    ("gelu tanh", 384, "gelu_tanh", None),
    ("tanh", 384, "tanh_of", None),
    ("exp", 384, "exp_of", None),
    ("division", 384, "divide", None),
];

pub(crate) fn measure(gpu: &Gpu<'_>) -> Result<Vec<Measured>> {
    // The built-in kernels have no subgroup operations.
    let engine = gpu.new_engine(Options { without_subgroups: true, ..Options::default() })?;
    let lines = if gpu.context.is_software() { LINES_ON_CPU } else { LINES };
    let mut results = Vec::new();
    for kernel in KERNELS {
        results.extend(measure_kernel(gpu, &engine, lines, kernel)?);
    }
    Ok(results)
}

/// The inputs and parameters of a kernel: two operands, a weight and a bias.
struct Data {
    a: Tensor,
    b: Tensor,
    weight: Tensor,
    bias: Tensor,
}

impl Data {
    fn new(lines: usize, length: usize) -> Result<Self> {
        let mut random = Random::new((lines + length) as u64);
        let divisors = random.normals(lines * length, 1.0).into_iter().map(|v| 0.5 + v.abs()).collect();
        Ok(Self {
            a: Tensor::from_f32(&[lines, length], random.normals(lines * length, 2.0))?,
            b: Tensor::from_f32(&[lines, length], divisors)?,
            weight: Tensor::from_f32(&[length], random.normals(length, 1.0))?,
            bias: Tensor::from_f32(&[length], random.normals(length, 1.0))?,
        })
    }

    fn graph(&self, name: &str) -> Result<Graph> {
        let length = self.weight.len();
        let mut g = GraphBuilder::new();
        let a = g.input("a", Shape::rows(length))?;
        let y = match name {
            "softmax" => g.softmax("y", a, 1)?,
            "layer norm" => g.layer_norm("y", a, self.weight.clone(), self.bias.clone(), EPS)?,
            "rms norm" => g.rms_norm("y", a, self.weight.clone(), EPS)?,
            "gelu" => g.gelu("y", a)?,
            "gelu tanh" => g.gelu_tanh("y", a)?,
            "tanh" => g.tanh("y", a)?,
            "exp" => g.unary("y", enfold::numerics::UnaryOp::Exp, a)?,
            "division" => {
                let b = g.input("b", Shape::rows(length))?;
                g.div("y", a, b)?
            }
            other => bail!("no kernel {other}"),
        };
        Ok(g.finish([y])?)
    }
}

fn measure_kernel(gpu: &Gpu<'_>, engine: &Engine, lines: usize, kernel: Kernel) -> Result<Vec<Measured>> {
    let (name, length, entry, lines_of_group) = kernel;
    let context = gpu.context;
    let data = Data::new(lines, length)?;
    let inputs = if name == "division" { vec![&data.a, &data.b] } else { vec![&data.a] };
    let graph = data.graph(name)?;
    let expected = Interpreter::new(&graph).run(&inputs)?;
    let bound = BoundProgram::new(context, engine, (name, &lower(&graph)?), &inputs, &expected, TOLERANCE)?;
    println!("\n{name} of {lines} x {length} floats");

    // SAFETY: the grid has a workgroup for each line, or for eight of which those beyond the last are left out; lines fit into workgroup
    // memory; and threads beyond the last vector do nothing.
    #[allow(unsafe_code)]
    let module = unsafe { trusted_module(context, wgpu::include_wgsl!("../float.wgsl")) };
    let constants =
        if entry == "norm" { vec![("CENTER", f64::from(u8::from(name == "layer norm")))] } else { Vec::new() };
    let pipeline = pipeline_of(context, &module, entry, &constants);
    let vectors = lines * length / 4;
    let params = [lines as u32, length as u32, vectors as u32, EPS.to_bits()];
    let params = buffer(context, bytemuck::cast_slice(&params), BufferUsages::UNIFORM);
    let storage = |tensor: &Tensor| -> Result<wgpu::Buffer> {
        let values = tensor.as_f32().context("floats")?;
        Ok(buffer(context, bytemuck::cast_slice(values), BufferUsages::STORAGE))
    };
    let (a, b, weight, bias) = (storage(&data.a)?, storage(&data.b)?, storage(&data.weight)?, storage(&data.bias)?);
    let y = empty(context, "y", (lines * length * 4) as u64, BufferUsages::STORAGE | BufferUsages::COPY_SRC);
    let mut buffers = vec![&params, &a, &y];
    match name {
        "layer norm" | "rms norm" => buffers.extend([&weight, &bias]),
        "division" => buffers.push(&b),
        _ => {}
    }
    let bind_group = bind_group(context, &pipeline, &buffers);
    let groups = match lines_of_group {
        Some(lines_of_group) => lines.div_ceil(lines_of_group),
        None => vectors.div_ceil(64),
    } as u32;
    let record = move |pass: &mut ComputePass<'_>| {
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, &bind_group, &[]);
        pass.dispatch_workgroups(groups, 1, 1);
        Ok(())
    };
    let mut encoder = encoder(context);
    record(&mut encoder.begin_compute_pass(&ComputePassDescriptor::default()))?;
    let got: Vec<f32> = bytemuck::pod_collect_to_vec(&download(context, encoder, &y)?);
    let expected = expected[0].as_f32().context("floats")?;
    near(&format!("{name} builtin"), &got, expected, BUILTIN_TOLERANCE)?;

    let (compared, bytes) = (expected.len(), 4 * lines * length * (inputs.len() + 1));
    let own = Series { run: runner(context, move |pass| bound.record(pass))?, bytes, compared, kernel: None };
    let builtin = Series { run: runner(context, record)?, bytes, compared, kernel: None };
    let names = [format!("float {name}"), format!("float {name} builtin")];
    compare([lines, length, length], 0.0, vec![(&names[0], own), (&names[1], builtin)])
}

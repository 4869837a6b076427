//! `enfold bench` measures the time of a model, after comparing its outputs with the interpreter's.

mod inputs;
mod on_gpu;

use std::fmt::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use enfold::compare::cosine;
use enfold::gpu::StepTiming;
use enfold::graph::Graph;
use enfold::interp::Interpreter;
use enfold::lower::lower;
use enfold::ops::Op;
use enfold::{Tensor, cpu};

use super::arrays::{Arrays, floats};
use super::device::{Device, DeviceArgs, OnGpu, time};
use super::failure::usage;
use super::feed::{Remainder, feed};
use super::model::{Dims, Model, Products};
use super::output::{self, count, printable, table};
use super::progress::Stderr;

#[derive(Debug, clap::Args)]
pub(super) struct Bench {
    /// The model: .onnx, or an archive. A float model is measured in float.
    model: PathBuf,
    /// The device to measure [default: gpu if an adapter answers, and cpu].
    #[arg(long, value_enum)]
    device: Option<Device>,
    /// The GPU adapter whose name contains NAME, in upper or lower case; see `enfold adapters`.
    #[arg(long, value_name = "NAME")]
    adapter: Option<String>,
    /// Rows of one batch, if the model leaves its batch to run time [default: 32].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rows: Option<u32>,
    /// Data to run on, by input name [default: random numbers].
    #[arg(long, value_name = "DATA", conflicts_with = "rows")]
    input: Option<PathBuf>,
    /// Measurements of each time.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    #[command(flatten)]
    dims: Dims,
    #[command(flatten)]
    products: Products,
    /// Lists the steps of each engine with their times: on the GPU by its clock, on the CPU the medians of the runs.
    #[arg(long)]
    steps: bool,
    /// Prints the result as JSON, with times in microseconds.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, serde::Serialize)]
struct Report {
    model: String,
    stage: String,
    /// The rows of one batch, if the model leaves its batch to run time.
    rows: Option<usize>,
    /// The names and shapes of the inputs.
    inputs: Vec<String>,
    threads: usize,
    /// The measurements, one entry for each device.
    devices: Vec<Measured>,
}

#[derive(Debug, serde::Serialize)]
struct Measured {
    device: &'static str,
    /// The name of the adapter, or of an engine without one.
    name: String,
    check: Check,
    times: Vec<Times>,
    /// The steps of the engine, in order, if they were asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    steps: Vec<StepTime>,
}

/// The time of one step, measured once on the GPU. On the CPU, the kernel is the operator, and the time is a median.
#[derive(Debug, serde::Serialize)]
struct StepTime {
    name: String,
    kernels: String,
    us: f64,
}

/// A comparison of the outputs with the interpreter's.
#[derive(Debug, Clone, serde::Serialize)]
struct Check {
    /// Whether all outputs have the interpreter's bits.
    equal: bool,
    /// The largest difference, relative to the largest value of its output.
    largest_error: f64,
    /// The smallest cosine of an output. Outputs whose values are all 0 have none.
    cosine: f64,
}

/// The largest error of an output, relative to its largest value. Float steps round differently on other devices, so values that are
/// quantized at run time may differ by a step.
const MAX_ERROR: f64 = 0.05;
/// The smallest cosine between an output and the interpreter's.
const MIN_COSINE: f64 = 0.999;

/// Several measurements of one call.
#[derive(Debug, serde::Serialize)]
pub(super) struct Times {
    /// The name of the measured call.
    what: &'static str,
    runs: usize,
    median_us: f64,
    min_us: f64,
    max_us: f64,
}

impl Bench {
    pub(super) fn run(&self, stderr: &Stderr) -> Result<()> {
        let choice = DeviceArgs { device: self.device, adapter: self.adapter.clone() };
        choice.check()?;
        if self.steps && self.device == Some(Device::Reference) {
            return Err(usage(
                "--steps: the interpreter's are not measured; use it with --device gpu or cpu".to_owned(),
            ));
        }
        let model = Model::load(&self.model, &self.dims)?;
        let graph = model.executable(self.products.kind())?;
        let inputs = self.inputs(&graph, stderr)?;
        let batched = graph.inputs().iter().position(|&id| graph.node(id).shape.is_batched());
        let rows = batched.map(|at| inputs[at].shape()[0]);

        let reference = Interpreter::new(&graph);
        let expected = stderr.wait_for("running the reference", || reference.run(&inputs))?;
        let mut devices = Vec::new();
        if self.device == Some(Device::Reference) {
            let check = Check { equal: true, largest_error: 0.0, cosine: 1.0 };
            let times = self.times("run", stderr, || reference.run(&inputs).map(drop).map_err(Into::into))?;
            devices.push(Measured {
                device: "reference",
                name: "the interpreter".to_owned(),
                check,
                times: vec![times],
                steps: Vec::new(),
            });
        }
        if matches!(self.device, None | Some(Device::Cpu)) {
            let engine = cpu::Engine::new(&lower(&graph)?)?;
            let check = Check::of(&graph, &expected, engine.run(&inputs)?, "the CPU engine")?;
            let times = self.times("run", stderr, || engine.run(&inputs).map(drop).map_err(Into::into))?;
            let steps = if self.steps { self.cpu_steps(&engine, &inputs)? } else { Vec::new() };
            let (name, times) = ("the CPU engine".to_owned(), vec![times]);
            devices.push(Measured { device: "cpu", name, check, times, steps });
        }
        if matches!(self.device, None | Some(Device::Gpu)) {
            match OnGpu::new(&graph, self.adapter.as_deref())? {
                Some(on_gpu) => {
                    let name = on_gpu.context.describe();
                    let outputs = pollster::block_on(on_gpu.model.run(&inputs))?;
                    let check = Check::of(&graph, &expected, outputs, &name)?;
                    let rows = rows.unwrap_or(1);
                    let (times, steps) = on_gpu::times(&on_gpu, &inputs, rows, self.steps, stderr, |what, each| {
                        self.times(what, stderr, each)
                    })?;
                    let step = |StepTiming { name, kernels, duration }| StepTime {
                        name,
                        kernels,
                        us: duration.as_secs_f64() * 1e6,
                    };
                    let steps = steps.into_iter().map(step).collect();
                    devices.push(Measured { device: "gpu", name, check, times, steps });
                }
                None if self.device.is_none() => stderr.note("no GPU adapter answers; only the CPU is measured"),
                None => bail!("no GPU adapter answers; install a Vulkan driver, or use --device cpu"),
            }
        }
        let (stage, threads) = (model.stage.to_string(), rayon::current_num_threads());
        let described = graph.inputs().iter().zip(&inputs);
        let described = described.map(|(&id, input)| format!("{} {:?}", graph.node(id).name, input.shape())).collect();
        let model = model.path.display().to_string();
        let report = Report { model, stage, rows, inputs: described, threads, devices };
        if self.json { output::print_json(&report) } else { output::print(&report.text()) }
    }

    fn inputs(&self, graph: &Graph, stderr: &Stderr) -> Result<Vec<Tensor>> {
        let batched = graph.inputs().iter().any(|&id| graph.node(id).shape.is_batched());
        if let Some(rows) = self.rows.filter(|_| !batched) {
            return Err(usage(format!("--rows {rows}: the model's dimensions are all fixed; leave --rows out")));
        }
        match &self.input {
            None => inputs::random(graph, self.rows.unwrap_or(32) as usize),
            Some(path) => {
                let mut feed = feed(graph, &mut Arrays::load(path)?, None, Remainder::Note, stderr)?;
                if feed.batches.len() > 1 {
                    stderr.note(&format!("measured on the first of {}", count(feed.batches.len(), "batch")));
                }
                Ok(feed.batches.swap_remove(0))
            }
        }
    }

    /// Measures the steps of the CPU engine.
    fn cpu_steps(&self, engine: &cpu::Engine, inputs: &[Tensor]) -> Result<Vec<StepTime>> {
        let runs = (0..self.runs).map(|_| engine.timings(inputs)).collect::<Result<Vec<_>, _>>()?;
        let median =
            |at: usize| Times::of("step", runs.iter().map(|run| run[at].as_secs_f64() * 1e6).collect()).median_us;
        let steps = engine.program().steps().iter().enumerate();
        Ok(steps
            .map(|(at, step)| StepTime { name: step.name.clone(), kernels: step.op.name().to_owned(), us: median(at) })
            .collect())
    }

    /// Measures calls, after calls of 200 ms that are not counted.
    fn times(&self, what: &'static str, stderr: &Stderr, mut call: impl FnMut() -> Result<()>) -> Result<Times> {
        let started = Instant::now();
        while started.elapsed() < Duration::from_millis(200) {
            call()?;
        }
        let bar = stderr.bar(what, self.runs as usize);
        let mut times = Vec::new();
        for _ in 0..self.runs {
            let started = Instant::now();
            call()?;
            times.push(started.elapsed().as_secs_f64() * 1e6);
            bar.step();
        }
        Ok(Times::of(what, times))
    }
}

impl Times {
    fn of(what: &'static str, mut us: Vec<f64>) -> Self {
        us.sort_by(f64::total_cmp);
        let at = |i: usize| us.get(i).copied().unwrap_or(f64::NAN);
        let (runs, middle) = (us.len(), us.len() / 2);
        let median = if runs % 2 == 0 { (at(middle.saturating_sub(1)) + at(middle)) / 2.0 } else { at(middle) };
        Self { what, runs, median_us: median, min_us: at(0), max_us: at(runs.saturating_sub(1)) }
    }

    /// Divides the times by the number of calls that were measured together.
    fn divided(self, calls: usize) -> Self {
        let each = |us: f64| us / calls as f64;
        Self { median_us: each(self.median_us), min_us: each(self.min_us), max_us: each(self.max_us), ..self }
    }
}

impl Check {
    /// Compares outputs with the interpreter's, and refuses wrong ones. The outputs of a graph of integers must be equal, others close.
    fn of(graph: &Graph, expected: &[Tensor], outputs: Vec<Tensor>, device: &str) -> Result<Self> {
        let mut check = Self { equal: true, largest_error: 0.0, cosine: 1.0 };
        if outputs.len() != expected.len() {
            bail!("{device} computes {} outputs, expected {}; do not use it", outputs.len(), expected.len());
        }
        for ((expected, got), name) in expected.iter().zip(outputs).zip(graph.output_names().iter()) {
            let (expected, got) = (floats(expected.clone()), floats(got));
            let (y, x) = (expected.as_slice().context("row-major")?, got.as_slice().context("row-major")?);
            let same_kind = |(x, y): (&f32, &f32)| match y.is_finite() {
                true => x.is_finite(),
                false => x == y || x.is_nan() && y.is_nan(),
            };
            if expected.shape() != got.shape() || !x.iter().zip(y).all(same_kind) {
                bail!("{device} computes {name} wrongly: not the reference's shape, or not finite; do not use it");
            }
            check.equal &= x.iter().zip(y).all(|(x, y)| x.to_bits() == y.to_bits());
            let (x, y): (Vec<f32>, Vec<f32>) = x.iter().zip(y).filter(|(_, y)| y.is_finite()).unzip();
            let largest = y.iter().fold(f32::MIN_POSITIVE, |most, v| most.max(v.abs()));
            let errors = x.iter().zip(&y).map(|(x, y)| (f64::from(*x) - f64::from(*y)).abs());
            check.largest_error = check.largest_error.max(errors.fold(0.0, f64::max) / f64::from(largest));
            // The cosine of an output of zeros is NaN. The largest error covers that case.
            let angle = cosine(&y, &x)?;
            check.cosine = if angle < check.cosine { angle } else { check.cosine };
        }
        let dynamic = |op: &Op| matches!(op, Op::ChooseQParams(_));
        let exact = graph.summary().float.is_empty() && !graph.nodes().iter().any(|node| dynamic(&node.op));
        if exact && !check.equal || check.cosine < MIN_COSINE || check.largest_error > MAX_ERROR {
            bail!(
                "{device} computes other outputs than the reference: cosine {:.6}, largest error {:.1e} of the largest value; \
                 times of wrong results are not worth having",
                check.cosine,
                check.largest_error
            );
        }
        Ok(check)
    }
}

impl Report {
    fn text(&self) -> String {
        let (inputs, threads) = (self.inputs.join(", "), count(self.threads, "CPU thread"));
        let inputs = printable(&inputs);
        let mut text = format!("{}: {}; {inputs}; {threads}\n", self.model, self.stage);
        let mut lines = vec![["device", "measured", "median", "min", "max", "runs"].map(str::to_owned).to_vec()];
        for measured in &self.devices {
            let check = &measured.check;
            let _ = match check.equal {
                true => writeln!(text, "{}: outputs equal the reference's bits", measured.name),
                false => writeln!(
                    text,
                    "{}: outputs within {:.1e} of the reference's largest, cosine {:.6}",
                    measured.name, check.largest_error, check.cosine
                ),
            };
            for times in &measured.times {
                let [median, min, max] =
                    [times.median_us, times.min_us, times.max_us].map(|us| time(Duration::from_secs_f64(us / 1e6)));
                let what = times.what.to_owned();
                lines.push(vec![measured.device.to_owned(), what, median, min, max, times.runs.to_string()]);
            }
        }
        text += &table(&lines);
        for measured in self.devices.iter().filter(|measured| !measured.steps.is_empty()) {
            let mut lines = vec![["step", "kernel", "time"].map(str::to_owned).to_vec()];
            lines.extend(measured.steps.iter().map(|StepTime { name, kernels, us }| {
                vec![printable(name).to_string(), kernels.clone(), time(Duration::from_secs_f64(us / 1e6))]
            }));
            text = text + "\n" + &table(&lines);
        }
        text
    }
}

/// Adds to an error that it happened while measuring on the GPU.
fn on_device<T>(result: Result<T>) -> Result<T> {
    result.context("measuring on the GPU")
}

#[cfg(test)]
mod tests {
    use enfold::quantize::{ConvertOptions, QuantizationConfig, WgpuQuantizer, convert, prepare, to_integer};
    use enfold::{GraphBuilder, Shape};

    use super::*;

    #[test]
    fn wrong_results_are_not_measured() {
        let tensor = |shape: &[usize], values: &[f32]| Tensor::from_f32(shape, values.to_vec()).expect("lengths fit");
        let mut g = GraphBuilder::new();
        let x = g.input("x", Shape::rows(2)).expect("an input");
        let y = g.linear("y", x, tensor(&[2, 2], &[0.5, -0.25, 0.1, 0.9]), None).expect("a layer");
        let float = g.finish([y]).expect("a graph");
        let quantizer = WgpuQuantizer::new().set_global(QuantizationConfig::symmetric());
        let mut prepared = prepare(&float, &quantizer).expect("prepared");
        prepared.observe(&[tensor(&[1, 2], &[1.0, -1.0])]).expect("observed");
        let integers =
            to_integer(&convert(&prepared, &ConvertOptions::default()).expect("converted")).expect("integers");

        let expected = [tensor(&[1, 2], &[1.0, -2.0])];
        let check = |graph: &Graph, y: &[f32]| Check::of(graph, &expected, vec![tensor(&[1, 2], y)], "it");
        assert!(check(&integers, &[1.0, -2.0]).expect("equal").equal);
        let near = check(&float, &[1.0, -1.999]).expect("near enough for floats");
        assert!(!near.equal && (4e-4..6e-4).contains(&near.largest_error), "{near:?}");
        let error = check(&integers, &[1.0, -1.999]).expect_err("integers are exact").to_string();
        assert!(error.starts_with("it computes other outputs") && error.contains("5.0e-4"), "{error}");
        assert!(check(&float, &[1.0, 2.0]).is_err() && check(&float, &[1.0, f32::NAN]).is_err());
        // Zeros stand for a kernel that writes nothing. One wrong element must be noticed, even if the cosine is near 1.
        let nothing = check(&float, &[0.0, 0.0]).expect_err("zeros are no result").to_string();
        assert!(nothing.contains("largest error 1.0e0"), "{nothing}");
        let of = |expected: &[f32], y: &[f32]| {
            let length = [1, y.len()];
            Check::of(&float, &[tensor(&length, expected)], vec![tensor(&length, y)], "it")
        };
        let zeros = of(&[0.0, -0.0], &[0.0, 0.0]).expect("zeros where zeros belong");
        assert!(!zeros.equal && zeros.largest_error == 0.0, "{zeros:?}");
        assert!(of(&[0.0, 0.0], &[0.0, 1e-3]).is_err(), "something where zeros belong");
        let mut off = vec![1.0; 1000];
        off[7] = 1.06;
        let error = of(&[1.0; 1000], &off).expect_err("6 % off").to_string();
        assert!(error.contains("cosine 0.99999") && error.contains("6.0e-2"), "{error}");
        let infinite = [1.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
        assert!(of(&infinite, &infinite).is_ok(), "the same infinities");
        assert!(of(&infinite, &[1.0, f32::INFINITY, f32::INFINITY, f32::NAN]).is_err(), "another sign");
        assert!(Check::of(&float, &expected, Vec::new(), "it").is_err(), "no output at all");
    }

    #[test]
    fn medians() {
        let times = Times::of("run", vec![4.0, 1.0, 3.0, 2.0]);
        assert_eq!((times.median_us, times.min_us, times.max_us, times.runs), (2.5, 1.0, 4.0, 4));
        assert_eq!(Times::of("run", vec![5.0, 1.0, 3.0]).divided(2).median_us, 1.5);
    }
}

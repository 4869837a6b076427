//! Throughput of one int8 linear layer on every engine, and the costs of calibrating, converting and training: a
//! table, and JSON.
//!
//! `cargo bench --bench throughput -- [--shape R,K,N]… [--series NAME]… [--json FILE] [--adapter NAME]
//! [--tile KERNEL,ROWS,K_STEP]`
//!
//! Each series first checks its output against the interpreter. The series of a shape take turns in several rounds and the
//! median is reported, so that ratios within one run mean something on a noisy machine.

#![allow(clippy::print_stdout, missing_docs)]

#[path = "throughput/cpu.rs"]
mod cpu;
#[path = "throughput/flow.rs"]
mod flow;
#[path = "throughput/gpu.rs"]
mod gpu;
#[path = "throughput/layer.rs"]
mod layer;
#[path = "throughput/qat.rs"]
mod qat;
#[path = "../tests/common/random.rs"]
mod random;

use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use enfold::gpu::LinearKernel;
use enfold::gpu::context::Context;

use layer::Layer;

/// (rows, K, N)
const SHAPES: [[usize; 3]; 6] =
    [[1, 1024, 1024], [1, 4096, 4096], [32, 1024, 1024], [512, 1024, 1024], [1024, 4096, 1024], [17, 777, 1000]];
const ROUNDS: usize = 9;

/// What runs once and says how many seconds it took.
pub(crate) type Runner = Box<dyn FnMut() -> Result<f64>>;

/// One line of the table.
pub(crate) struct Measured {
    series: String,
    shape: [usize; 3],
    seconds: f64,
    gops: f64,
}

#[derive(Default)]
struct Arguments {
    shapes: Vec<[usize; 3]>,
    series: Vec<String>,
    json: Option<String>,
    adapter: Option<String>,
    tile: Option<(LinearKernel, u32, u32)>,
}

impl Arguments {
    fn parse() -> Result<Self> {
        let mut arguments = Self::default();
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut value = || words.next().with_context(|| format!("{word} needs a value"));
            match word.as_str() {
                "--shape" => {
                    let text = value()?;
                    let numbers: Vec<usize> = text.split(',').map(str::parse).collect::<Result<_, _>>()?;
                    let shape = <[usize; 3]>::try_from(numbers);
                    let shape = shape.ok().filter(|s| !s.contains(&0));
                    arguments
                        .shapes
                        .push(shape.with_context(|| format!("--shape {text}: expected R,K,N, each at least 1"))?);
                }
                "--series" => arguments.series.push(value()?),
                "--json" => arguments.json = Some(value()?),
                "--adapter" => arguments.adapter = Some(value()?),
                "--tile" => arguments.tile = Some(tile(&value()?)?),
                // Cargo's own.
                "--bench" => {}
                "--help" => {
                    println!("--shape R,K,N (repeatable)  --series NAME (repeatable)  --json FILE  --adapter NAME");
                    println!("--tile KERNEL,ROWS,K_STEP, as in linear_reg,32,1");
                    println!("series: {}", [&layer_series()[..], &flow::SERIES, &qat::SERIES].concat().join(", "));
                    std::process::exit(0);
                }
                other => bail!("unknown argument {other}; see --help"),
            }
        }
        let known = [&layer_series()[..], &flow::SERIES, &qat::SERIES].concat();
        if let Some(unknown) = arguments.series.iter().find(|s| !known.contains(&s.as_str())) {
            bail!("no series {unknown}; there are: {}", known.join(", "));
        }
        Ok(arguments)
    }

    fn wants(&self, series: &str) -> bool {
        self.series.is_empty() || self.series.iter().any(|s| s == series)
    }
}

fn tile(text: &str) -> Result<(LinearKernel, u32, u32)> {
    let [kernel, rows, k_step] = text.split(',').collect::<Vec<_>>()[..] else {
        bail!("--tile {text}: expected KERNEL,ROWS,K_STEP");
    };
    let kernel = LinearKernel::ALL.into_iter().find(|k| k.name() == kernel);
    Ok((kernel.with_context(|| format!("--tile {text}: no such kernel"))?, rows.parse()?, k_step.parse()?))
}

fn layer_series() -> Vec<&'static str> {
    [&cpu::SERIES[..], &gpu::SERIES].concat()
}

fn main() -> Result<()> {
    let arguments = Arguments::parse()?;
    let context = pollster::block_on(Context::request(arguments.adapter.as_deref()))?;
    match &context {
        Some(context) => {
            let kind = if context.is_software() { "software" } else { "hardware" };
            println!(
                "adapter: {}, driver {} {}, {kind}",
                context.describe(),
                context.info.driver,
                context.info.driver_info
            );
        }
        None => println!("adapter: none; GPU series are left out"),
    }
    println!("cpu: {} threads", rayon::current_num_threads());

    let mut results = Vec::new();
    let shapes = if arguments.shapes.is_empty() { SHAPES.to_vec() } else { arguments.shapes.clone() };
    for shape in shapes {
        results.extend(measure_shape(&arguments, context.as_ref(), shape)?);
    }
    if flow::SERIES.iter().any(|series| arguments.wants(series)) {
        results.extend(flow::measure()?);
    }
    if qat::SERIES.iter().any(|series| arguments.wants(series)) {
        results.extend(qat::measure()?);
    }
    if let Some(path) = &arguments.json {
        write_json(path, context.as_ref(), &results)?;
    }
    Ok(())
}

fn measure_shape(arguments: &Arguments, context: Option<&Context>, shape: [usize; 3]) -> Result<Vec<Measured>> {
    let wanted: Vec<&str> = layer_series().into_iter().filter(|series| arguments.wants(series)).collect();
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let layer = Layer::new(shape)?;
    let mut runners: Vec<(&str, Runner, Vec<f64>)> = Vec::new();
    for series in wanted {
        let runner = if cpu::SERIES.contains(&series) {
            Some(cpu::runner(series, &layer)?)
        } else {
            context.map(|context| gpu::runner(series, context, &layer, arguments.tile)).transpose()?
        };
        if let Some(runner) = runner {
            runners.push((series, runner, Vec::new()));
        }
    }
    for _ in 0..ROUNDS {
        for (_, runner, seconds) in &mut runners {
            seconds.push(runner()?);
        }
    }
    let [rows, k, n] = shape;
    println!("\nrows {rows}, K {k}, N {n}");
    let mut results = Vec::new();
    for (series, _, seconds) in runners {
        let seconds = median(seconds);
        let gops = 2e-9 * (rows * k * n) as f64 / seconds;
        let gigabytes = 1e-9 * (n * k + rows * k + rows * n) as f64 / seconds;
        println!("  {series:<16} {:>12.1} us {gops:>9.1} GOPS {gigabytes:>8.2} GB/s", seconds * 1e6);
        results.push(Measured { series: series.to_owned(), shape, seconds, gops });
    }
    for (series, base) in [("cpu engine", "rten-gemm bare"), ("gpu resident", "gpu naive")] {
        let of = |name| results.iter().find(|m| m.series == name).map(|m| m.seconds);
        if let (Some(series_seconds), Some(base_seconds)) = (of(series), of(base)) {
            println!("  {series} takes {:.3} times {base}", series_seconds / base_seconds);
        }
    }
    Ok(results)
}

pub(crate) fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

/// Seconds of one call, averaged over enough calls to be measurable.
pub(crate) fn time(mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    const LONG_ENOUGH: f64 = 0.02;
    let mut calls = 1u32;
    loop {
        let start = Instant::now();
        for _ in 0..calls {
            run()?;
        }
        let seconds = start.elapsed().as_secs_f64();
        if seconds > LONG_ENOUGH {
            return Ok(seconds / f64::from(calls));
        }
        calls *= 2;
    }
}

fn write_json(path: &str, context: Option<&Context>, results: &[Measured]) -> Result<()> {
    let results: Vec<serde_json::Value> = results
        .iter()
        .map(|m| {
            let [rows, k, n] = m.shape;
            serde_json::json!({
                "series": m.series, "rows": rows, "k": k, "n": n, "seconds": m.seconds, "gops": m.gops,
            })
        })
        .collect();
    let info = context.map(|context| &context.info);
    let json = serde_json::json!({
        "adapter": info.map(|i| i.name.clone()),
        "driver": info.map(|i| format!("{} {}", i.driver, i.driver_info)),
        "software": context.is_some_and(Context::is_software),
        "results": results,
    });
    std::fs::write(path, serde_json::to_string_pretty(&json)? + "\n").with_context(|| path.to_owned())
}

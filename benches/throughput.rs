//! Measures the throughput of one int8 linear layer on every engine, and the costs of recording, calibrating, converting and
//! training. Prints a table, and writes JSON.
//!
//! `cargo bench --bench throughput -- [--shape R,K,N]… [--full] [--series NAME]… [--json [FILE]] [--adapter NAME]
//! [--no-gpu] [--tile KERNEL,ROWS,K_STEP]…`
//!
//! Each series first checks its output against the interpreter. The series of a shape take turns in several rounds, and the table
//! has the medians, so that ratios within one run mean something on a noisy machine. The same run measures the ceilings, at its beginning
//! and at its end: the highest throughput that the adapter reaches.

#![allow(clippy::print_stdout, missing_docs)]

#[path = "throughput/arguments.rs"]
mod arguments;
#[path = "throughput/attention.rs"]
mod attention;
#[path = "throughput/baseline.rs"]
mod baseline;
#[path = "throughput/bound.rs"]
mod bound;
#[path = "throughput/ceiling.rs"]
mod ceiling;
#[path = "throughput/chain.rs"]
mod chain;
#[path = "throughput/conv.rs"]
mod conv;
#[path = "throughput/cooperative_matrix.rs"]
mod cooperative_matrix;
#[path = "throughput/cpu.rs"]
mod cpu;
#[path = "throughput/device.rs"]
mod device;
#[path = "throughput/dynamic.rs"]
mod dynamic;
#[path = "throughput/float.rs"]
mod float;
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
#[path = "throughput/record.rs"]
mod record;
#[path = "throughput/report.rs"]
mod report;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Parser;
use enfold::gpu::context::Context;

use arguments::{Arguments, layer_series};
use ceiling::Ceilings;
use gpu::{Gpu, LeftOut};
use layer::Layer;
use report::{Measured, print_ratios, write_json};

const ROUNDS: usize = 9;
/// The least number of rounds of a shape that takes long.
const MIN_ROUNDS: usize = 3;
/// The seconds after which a shape has no more rounds than [`MIN_ROUNDS`].
const SECONDS_A_SHAPE: f64 = 6.0;

/// How long series run before they are measured.
const WARM_UP: Duration = Duration::from_millis(300);

/// Runs a series once, and returns how many seconds it took.
pub(crate) type Runner = Box<dyn FnMut() -> Result<f64>>;

/// A series at one shape, whose output was checked.
pub(crate) struct Series {
    run: Runner,
    /// Bytes of weights and activations that one run reads and writes.
    bytes: usize,
    /// The number of output elements that were compared.
    compared: usize,
    kernel: Option<String>,
}

pub(crate) enum Prepared {
    Series(Series),
    LeftOut(LeftOut),
}

impl From<Series> for Prepared {
    fn from(series: Series) -> Self {
        Self::Series(series)
    }
}

impl From<LeftOut> for Prepared {
    fn from(left_out: LeftOut) -> Self {
        Self::LeftOut(left_out)
    }
}

fn main() -> Result<()> {
    let start = Instant::now();
    let arguments = Arguments::parse();
    let context = match arguments.no_gpu {
        true => None,
        false => pollster::block_on(Context::request(arguments.adapter.as_deref()))?,
    };
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
    let of_tiles = |context| arguments.tiles().into_iter().map(move |tile| Gpu::new(context, tile));
    let gpus: Vec<Gpu<'_>> = context.iter().flat_map(of_tiles).collect();
    let needs_gpu = gpu::SERIES.iter().any(|series| arguments.wants(series));
    let measured = context.as_ref().filter(|_| needs_gpu);
    let mut ceilings = measured.map(|context| ceiling::measure(context, "at the beginning")).transpose()?;

    // A run that is stopped leaves what it has measured.
    let save = |ceilings: Option<&Ceilings>, results: &[Measured]| {
        let write = |file: &Option<PathBuf>| write_json(file.as_deref(), context.as_ref(), ceilings, ROUNDS, results);
        arguments.json.as_ref().map(write).transpose()
    };
    let mut results = Vec::new();
    let shapes = arguments.shapes(context.as_ref().is_some_and(|context| !context.is_software()));
    for (at, &shape) in shapes.iter().enumerate() {
        eprintln!("shape {} of {}, after {:.0} s", at + 1, shapes.len(), start.elapsed().as_secs_f64());
        results.extend(measure_shape(&arguments, &gpus, ceilings.as_ref(), shape)?);
        save(ceilings.as_ref(), &results)?;
    }
    if arguments.wants(conv::SERIES[0]) {
        results.extend(conv::measure(gpus.first())?);
        save(ceilings.as_ref(), &results)?;
    }
    type Measure = fn(&Gpu<'_>) -> Result<Vec<Measured>>;
    let on_gpu: [(&str, Measure); 4] = [
        (record::SERIES[0], record::measure),
        (chain::SERIES[0], chain::measure),
        (float::SERIES[0], float::measure),
        (attention::SERIES[0], attention::measure),
    ];
    for (_, measure) in on_gpu.into_iter().filter(|(series, _)| arguments.wants(series)) {
        results.extend(gpus.first().map_or(Ok(Vec::new()), measure)?);
        save(ceilings.as_ref(), &results)?;
    }
    if flow::SERIES.iter().any(|series| arguments.wants(series)) {
        results.extend(flow::measure()?);
    }
    if qat::SERIES.iter().any(|series| arguments.wants(series)) {
        results.extend(qat::measure()?);
    }
    if let (Some(context), Some(first)) = (measured, ceilings) {
        println!();
        let larger = first.larger(ceiling::measure(context, "at the end")?);
        for result in results.iter_mut().filter(|result| result.of_ceilings.is_some()) {
            *result = std::mem::take(result).compared_with(&larger);
        }
        ceilings = Some(larger);
    }
    if let Some(path) = save(ceilings.as_ref(), &results)? {
        println!("\nwritten: {}", path.display());
    }
    println!("all in {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}

fn measure_shape(
    arguments: &Arguments,
    gpus: &[Gpu<'_>],
    ceilings: Option<&Ceilings>,
    shape: [usize; 3],
) -> Result<Vec<Measured>> {
    let wanted: Vec<&str> = layer_series().into_iter().filter(|series| arguments.wants(series)).collect();
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let [rows, k, n] = shape;
    println!("\nrows {rows}, K {k}, N {n}");
    let layer = Layer::new(shape)?;
    let mut all: Vec<(&str, Series, Vec<f64>)> = Vec::new();
    for series in wanted {
        let prepared: Vec<Prepared> = if cpu::SERIES.contains(&series) {
            vec![cpu::prepare(series, &layer)?]
        } else {
            let tiles = if gpu::OF_TILES.contains(&series) { gpus.len() } else { 1 };
            gpus.iter().take(tiles).map(|gpu| gpu.prepare(series, &layer)).collect::<Result<_>>()?
        };
        for prepared in prepared {
            match prepared {
                Prepared::Series(prepared) => all.push((series, prepared, Vec::new())),
                Prepared::LeftOut(LeftOut(reason)) => println!("  {series:<24} left out: {reason}"),
            }
        }
    }
    drop(layer);
    let rounds = take_turns(&mut all)?;
    let mut results = Vec::new();
    let mut compared: Vec<(usize, Vec<&str>)> = Vec::new();
    for (name, series, seconds) in all {
        let seconds = median(seconds);
        match compared.iter_mut().find(|(elements, _)| *elements == series.compared) {
            Some((_, names)) => names.push(name),
            None => compared.push((series.compared, vec![name])),
        }
        let mut measured = Measured {
            series: name.to_owned(),
            shape,
            seconds,
            gops: 2e-9 * rows as f64 * k as f64 * n as f64 / seconds,
            rounds,
            bytes: Some(series.bytes),
            compared: Some(series.compared),
            kernel: series.kernel,
            ..Measured::default()
        };
        if let Some(ceilings) = ceilings.filter(|_| gpu::SERIES.contains(&name)) {
            measured = measured.compared_with(ceilings);
        }
        measured.print();
        results.push(measured);
    }
    for (elements, names) in compared {
        println!("  compared {elements} of {} elements: {}", rows * n, names.join(", "));
    }
    if rounds < ROUNDS {
        println!("  {rounds} rounds instead of {ROUNDS}: they take long");
    }
    // Tiles of the user's are compared by their times.
    if gpus.len() < 2 {
        print_ratios(&results);
    }
    Ok(results)
}

/// Measures series in turn that compute the same by `operations` operations, or by a number that says nothing if it is 0, and compares the
/// first with each of the others.
pub(crate) fn compare(shape: [usize; 3], operations: f64, all: Vec<(&str, Series)>) -> Result<Vec<Measured>> {
    let mut all: Vec<(&str, Series, Vec<f64>)> = all.into_iter().map(|(name, s)| (name, s, Vec::new())).collect();
    let rounds = take_turns(&mut all)?;
    let measured = |(name, series, seconds): (&str, Series, Vec<f64>)| {
        let least_seconds = seconds.iter().copied().reduce(f64::min);
        let seconds = median(seconds);
        Measured {
            series: name.to_owned(),
            shape,
            seconds,
            least_seconds,
            gops: 1e-9 * operations / seconds,
            rounds,
            bytes: Some(series.bytes),
            compared: Some(series.compared),
            kernel: series.kernel,
            ..Measured::default()
        }
    };
    let mut results: Vec<Measured> = all.into_iter().map(measured).collect();
    results.iter().for_each(Measured::print);
    if let Some((first, others)) = results.split_first_mut() {
        for other in others {
            let ratio = first.seconds / other.seconds;
            println!("  {} takes {ratio:.3} times {}", first.series, other.series);
            first.ratios.push((other.series.clone(), ratio));
        }
    }
    Ok(results)
}

/// Runs all series in turn, and returns how many rounds there were.
fn take_turns(all: &mut [(&str, Series, Vec<f64>)]) -> Result<usize> {
    // Preparing them left the device idle, and an idle GPU has a fraction of its clock.
    let start = Instant::now();
    while start.elapsed() < WARM_UP && !all.is_empty() {
        for (_, series, _) in &mut *all {
            (series.run)()?;
        }
    }
    let start = Instant::now();
    let mut rounds = 0;
    while rounds < MIN_ROUNDS || (rounds < ROUNDS && start.elapsed().as_secs_f64() < SECONDS_A_SHAPE) {
        for (_, series, seconds) in &mut *all {
            seconds.push((series.run)()?);
        }
        rounds += 1;
    }
    Ok(rounds)
}

pub(crate) fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

/// Returns the seconds of one call, averaged over enough calls to be measurable.
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

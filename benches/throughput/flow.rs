//! Measures the costs of quantizing: calibration compared with plain forward passes, the search for a histogram's range, conversion,
//! the interpreter compared with its bare products, and files compared with copies in memory.

use std::hint::black_box;
use std::time::Instant;

use anyhow::{Result, bail};
use enfold::archive;
use enfold::interp::Interpreter;
use enfold::quantize::{
    ConvertOptions, ObservedSpec, Observer, ObserverKind, QuantizationConfig, WgpuQuantizer, convert, prepare,
};
use enfold::values::{QScheme, QuantRange};
use enfold::{Graph, GraphBuilder, Shape, Tensor};
use rten_gemm::{GemmExecutor, GemmInputA, GemmInputB, GemmOptions};
use rten_tensor::NdTensorView;

use crate::random::Random;
use crate::report::Measured;
use crate::{ROUNDS, median, time};

pub(crate) const SERIES: [&str; 6] =
    ["interpreter forward", "calibrate", "convert", "histogram search", "archive save", "archive load"];

const DIMS: [usize; 4] = [1024, 4096, 4096, 1024];
const ROWS: usize = 128;
const BATCHES: usize = 16;
/// The number of rounds of a series that passes over all batches.
const FEW_ROUNDS: usize = 3;

pub(crate) fn measure() -> Result<Vec<Measured>> {
    let mut random = Random::new(7);
    let graph = mlp(&mut random)?;
    let input = |random: &mut Random| Tensor::from_f32(&[ROWS, DIMS[0]], random.normals(ROWS * DIMS[0], 1.0));
    let batches: Vec<Tensor> = (0..BATCHES).map(|_| input(&mut random)).collect::<Result<_, _>>()?;
    let interpreter = Interpreter::new(&graph);
    interpreter.run(&[&batches[0]])?; // The first run packs the weights.
    let mut bare = bare_products(&graph)?;

    let (mut products, mut forward, mut calibrate, mut converts) = (vec![], vec![], vec![], vec![]);
    for _ in 0..ROUNDS {
        let start = Instant::now();
        bare()?;
        products.push(start.elapsed().as_secs_f64());
        let start = Instant::now();
        black_box(interpreter.run(&[&batches[0]])?);
        forward.push(start.elapsed().as_secs_f64());
    }
    let mut plain = vec![];
    for _ in 0..FEW_ROUNDS {
        let start = Instant::now();
        for batch in &batches {
            black_box(interpreter.run(&[batch])?);
        }
        plain.push(start.elapsed().as_secs_f64());
        let quantizer = WgpuQuantizer::new().set_global(QuantizationConfig::symmetric().per_channel());
        let mut prepared = prepare(&graph, &quantizer)?;
        // The first run packs the weights, which is not calibration.
        prepared.observe(&[&batches[0]])?;
        let start = Instant::now();
        for batch in &batches {
            prepared.observe(&[batch])?;
        }
        calibrate.push(start.elapsed().as_secs_f64());
        let start = Instant::now();
        black_box(convert(&prepared, &ConvertOptions::default())?);
        converts.push(start.elapsed().as_secs_f64());
    }
    let [products, forward, plain, calibrate, converts] = [products, forward, plain, calibrate, converts].map(median);
    println!("\nMLP 1024-4096-4096-1024 at {ROWS} rows");
    println!("  interpreter forward {:.1} ms, {:.3} times its bare f32 products", forward * 1e3, forward / products);
    println!(
        "  calibrating {BATCHES} batches (histogram) {:.1} ms, {:.3} times the plain forward passes",
        calibrate * 1e3,
        calibrate / plain
    );
    println!("  converting {:.1} ms", converts * 1e3);
    let search = searches(&mut random)?;
    let [save, load] = archive_speed(&graph)?;

    let operations: usize = DIMS.windows(2).map(|d| 2 * ROWS * d[0] * d[1]).sum();
    let measured = |series: &str, seconds: f64, passes: usize, rounds: usize| Measured {
        series: series.to_owned(),
        shape: [ROWS, DIMS[0], DIMS[3]],
        seconds,
        gops: 1e-9 * (operations * passes) as f64 / seconds,
        rounds,
        ..Measured::default()
    };
    Ok(vec![
        measured(SERIES[0], forward, 1, ROUNDS),
        measured("bare f32 products", products, 1, ROUNDS),
        measured(SERIES[1], calibrate, BATCHES, FEW_ROUNDS),
        measured("plain forward passes", plain, BATCHES, FEW_ROUNDS),
        measured(SERIES[2], converts, 0, FEW_ROUNDS),
        measured(SERIES[3], search, 0, 1),
        measured(SERIES[4], save, 0, ROUNDS),
        measured(SERIES[5], load, 0, ROUNDS),
    ])
}

/// Returns the seconds of the range search of one histogram observer. Prints those of the other observers too.
fn searches(random: &mut Random) -> Result<f64> {
    let mut all = Vec::new();
    for observer in [ObserverKind::Histogram, ObserverKind::Percentile { fraction: 0.9999 }, ObserverKind::Mse] {
        let (range, qscheme) = (QuantRange::INT8, QScheme::per_tensor_affine());
        let mut observers = Observer::new(ObservedSpec { range, qscheme, observer, eps: enfold::numerics::EPS })?;
        for _ in 0..4 {
            observers.observe(&Tensor::from_f32(&[ROWS, 4096], random.normals(ROWS * 4096, 1.0))?)?;
        }
        let seconds = time(|| {
            black_box(observers.calculate_qparams()?);
            Ok(())
        })?;
        println!("  parameters of one {observer} observer {:.2} ms", seconds * 1e3);
        all.push(seconds);
    }
    Ok(all[0])
}

/// Returns the seconds to save the float graph to a file and to load it. Prints the speed of copying as many bytes in memory too.
fn archive_speed(graph: &Graph) -> Result<[f64; 2]> {
    let path = std::env::temp_dir().join(format!("enfold-throughput-{}.safetensors", std::process::id()));
    let (mut save, mut load, mut copy) = (vec![], vec![], vec![]);
    let mut bytes = 0;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        archive::save(graph, &path)?;
        save.push(start.elapsed().as_secs_f64());
        let start = Instant::now();
        let loaded = archive::load(&path)?;
        load.push(start.elapsed().as_secs_f64());
        if loaded != *graph {
            bail!("the loaded graph differs from the saved one");
        }
        let file = std::fs::read(&path)?;
        bytes = file.len();
        let start = Instant::now();
        black_box(file.clone());
        copy.push(start.elapsed().as_secs_f64());
    }
    std::fs::remove_file(&path)?;
    let [save, load, copy] = [save, load, copy].map(median);
    let speed = |seconds: f64| bytes as f64 / seconds / 1e6;
    println!(
        "  a file of {:.0} MB: saved at {:.0} MB/s, loaded at {:.0} MB/s (copied in memory at {:.0} MB/s)",
        bytes as f64 / 1e6,
        speed(save),
        speed(load),
        speed(copy)
    );
    Ok([save, load])
}

fn mlp(random: &mut Random) -> Result<Graph> {
    let mut g = GraphBuilder::new();
    let mut h = g.input("x", Shape::rows(DIMS[0]))?;
    for (i, dims) in DIMS.windows(2).enumerate() {
        let scale = 1.0 / (dims[0] as f32).sqrt();
        let weight = Tensor::from_f32(&[dims[1], dims[0]], random.normals(dims[0] * dims[1], scale))?;
        let bias = Tensor::from_f32(&[dims[1]], random.normals(dims[1], 0.1))?;
        h = g.linear(&format!("fc{i}"), h, weight, Some(bias))?;
        if i + 2 < DIMS.len() {
            h = g.relu(&format!("relu{i}"), h)?;
        }
    }
    Ok(g.finish([h])?)
}

/// Prepares the f32 products of the MLP by the library alone, with prepacked weights, from and to buffers that are reused.
fn bare_products(graph: &Graph) -> Result<impl FnMut() -> Result<()> + use<>> {
    let executor = GemmExecutor::<f32>::new();
    let mut layers = Vec::new();
    for (i, dims) in DIMS.windows(2).enumerate() {
        let Some(id) = graph.find(&format!("fc{i}.weight")) else { bail!("no weight of fc{i}") };
        let weight = Interpreter::new(graph).constant_value(id)?;
        let Some(weight) = weight.as_ref().and_then(|w| w.as_f32()) else { bail!("fc{i} has no f32 weight") };
        let view = NdTensorView::from_data([dims[1], dims[0]], weight);
        let (x, y) = (vec![0.5f32; ROWS * dims[0]], vec![0f32; ROWS * dims[1]]);
        layers.push((executor.prepack_b(view.transposed()), dims[0], x, y));
    }
    Ok(move || {
        for (packed, k, x, y) in &mut layers {
            let a = GemmInputA::Unpacked(NdTensorView::from_data([ROWS, *k], x.as_slice()));
            if let Err(error) = executor.gemm(y, a, GemmInputB::Packed(packed), GemmOptions::default()) {
                bail!("{error:?}");
            }
            black_box(&y);
        }
        Ok(())
    })
}

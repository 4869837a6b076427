//! The command line.

use std::path::PathBuf;

use clap::Parser;
use clap::builder::PossibleValuesParser;
use enfold::gpu::LinearKernel;

use crate::gpu::Tile;
use crate::{attention, chain, conv, cpu, float, flow, gpu, qat, record};

/// The shapes `[rows, K, N]` that are measured on a software adapter.
const SHORT: [[usize; 3]; 7] = [
    [1, 1024, 1024],
    [1, 4096, 4096],
    [32, 1024, 1024],
    [512, 512, 512],
    [512, 1024, 1024],
    [1024, 4096, 1024],
    [17, 777, 1000],
];
/// K and N of the square layers of the long list.
const LONG_WIDTH: usize = 4096;
const LONG_ROWS: [usize; 13] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096];
/// K and N of the largest layers of the long list.
const LARGE_WIDTH: usize = 16384;
const LARGE_ROWS: [usize; 4] = [1, 8, 64, 4096];

/// Measures the throughput of int8 linear layers, and the costs of recording, calibrating, converting and training.
#[derive(Parser)]
#[command(name = "throughput")]
pub(crate) struct Arguments {
    /// Rows, features and columns of a layer; may be repeated [default: a short list on software adapters, a long one on hardware].
    #[arg(long = "shape", value_name = "R,K,N", value_parser = shape)]
    shapes: Vec<[usize; 3]>,
    /// Measures the long list on software adapters too.
    #[arg(long)]
    full: bool,
    /// A series to measure; may be repeated [default: all].
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(series()))]
    series: Vec<String>,
    /// Writes the results to FILE [default: benches/results/<adapter>.json under the working directory].
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<Option<PathBuf>>,
    /// The adapter whose name contains NAME [default: the most capable].
    #[arg(long, value_name = "NAME")]
    pub(crate) adapter: Option<String>,
    /// Leaves out the GPU.
    #[arg(long, conflicts_with = "adapter")]
    pub(crate) no_gpu: bool,
    /// Uses this tile instead of the engine's choice, as in linear_reg,32,1; may be repeated to compare several.
    #[arg(long = "tile", value_name = "KERNEL,ROWS,K_STEP", value_parser = tile)]
    tiles: Vec<Tile>,
    /// Cargo passes this to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Arguments {
    pub(crate) fn wants(&self, series: &str) -> bool {
        self.series.is_empty() || self.series.iter().any(|s| s == series)
    }

    /// Returns the tiles to measure; `None` is the engine's choice.
    pub(crate) fn tiles(&self) -> Vec<Option<Tile>> {
        if self.tiles.is_empty() { vec![None] } else { self.tiles.iter().copied().map(Some).collect() }
    }

    /// Returns the shapes to measure: those of `--shape`, or one of the two lists.
    pub(crate) fn shapes(&self, hardware: bool) -> Vec<[usize; 3]> {
        if !self.shapes.is_empty() {
            return self.shapes.clone();
        }
        if !(hardware || self.full) {
            return SHORT.to_vec();
        }
        let mut shapes = LONG_ROWS.map(|rows| [rows, LONG_WIDTH, LONG_WIDTH]).to_vec();
        shapes.extend(LARGE_ROWS.map(|rows| [rows, LARGE_WIDTH, LARGE_WIDTH]));
        shapes.extend(SHORT.iter().filter(|shape| !shapes.contains(shape)).copied().collect::<Vec<_>>());
        shapes
    }
}

fn shape(text: &str) -> Result<[usize; 3], String> {
    let numbers: Option<Vec<usize>> = text.split(',').map(|number| number.parse().ok()).collect();
    let shape = numbers.and_then(|numbers| <[usize; 3]>::try_from(numbers).ok());
    shape.filter(|shape| !shape.contains(&0)).ok_or_else(|| "expected R,K,N, each at least 1".to_owned())
}

fn tile(text: &str) -> Result<Tile, String> {
    let [kernel, rows, k_step] = text.split(',').collect::<Vec<_>>()[..] else {
        return Err("expected KERNEL,ROWS,K_STEP".to_owned());
    };
    let number = |text: &str| text.parse().map_err(|_| format!("{text:?} is no number"));
    let kernel = LinearKernel::ALL.into_iter().find(|k| k.name() == kernel);
    Ok((kernel.ok_or("no such kernel")?, number(rows)?, number(k_step)?))
}

/// The series that give one number for each shape of a layer.
pub(crate) fn layer_series() -> Vec<&'static str> {
    [&cpu::SERIES[..], &gpu::SERIES].concat()
}

fn series() -> Vec<&'static str> {
    let others = [record::SERIES, conv::SERIES, chain::SERIES, float::SERIES, attention::SERIES].concat();
    [&layer_series()[..], &others, &flow::SERIES, &qat::SERIES].concat()
}

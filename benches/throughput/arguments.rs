//! The command line.

use anyhow::{Context as _, Result, bail};
use enfold::gpu::LinearKernel;

use crate::gpu::Tile;
use crate::{cpu, flow, gpu, qat, record};

const HELP: &str = "\
--shape R,K,N    rows, features and columns (repeatable); default: a short list on software adapters, a long one on hardware
--full           the long list on software adapters too
--series NAME    repeatable; default: all
--json [FILE]    writes the results, by default to benches/results/<adapter>.json under the working directory
--adapter NAME   the adapter whose name contains NAME; default: the most capable
--tile KERNEL,ROWS,K_STEP   instead of the engine's choice, as in linear_reg,32,1";

/// (rows, K, N)
const SHORT: [[usize; 3]; 7] = [
    [1, 1024, 1024],
    [1, 4096, 4096],
    [32, 1024, 1024],
    [512, 512, 512],
    [512, 1024, 1024],
    [1024, 4096, 1024],
    [17, 777, 1000],
];
/// Of square layers, rows of which are many.
const LONG_WIDTH: usize = 4096;
const LONG_ROWS: [usize; 13] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096];
const LARGE_WIDTH: usize = 16384;
const LARGE_ROWS: [usize; 4] = [1, 8, 64, 4096];

/// Where the results are written.
pub(crate) enum Json {
    /// By the adapter's name.
    ByAdapter,
    File(String),
}

#[derive(Default)]
pub(crate) struct Arguments {
    pub(crate) shapes: Vec<[usize; 3]>,
    pub(crate) full: bool,
    series: Vec<String>,
    pub(crate) json: Option<Json>,
    pub(crate) adapter: Option<String>,
    pub(crate) tile: Tile,
}

impl Arguments {
    pub(crate) fn parse() -> Result<Self> {
        let mut arguments = Self::default();
        let mut words = std::env::args().skip(1).peekable();
        let known = series();
        while let Some(word) = words.next() {
            if word == "--json" {
                let file = words.next_if(|next| !next.starts_with("--"));
                arguments.json = Some(file.map_or(Json::ByAdapter, Json::File));
                continue;
            }
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
                "--full" => arguments.full = true,
                "--series" => arguments.series.push(value()?),
                "--adapter" => arguments.adapter = Some(value()?),
                "--tile" => arguments.tile = Some(tile(&value()?)?),
                // Cargo's own.
                "--bench" => {}
                "--help" => {
                    println!("{HELP}\nseries: {}", known.join(", "));
                    std::process::exit(0);
                }
                other => bail!("unknown argument {other}; see --help"),
            }
        }
        if let Some(unknown) = arguments.series.iter().find(|s| !known.contains(&s.as_str())) {
            bail!("no series {unknown}; there are: {}", known.join(", "));
        }
        Ok(arguments)
    }

    pub(crate) fn wants(&self, series: &str) -> bool {
        self.series.is_empty() || self.series.iter().any(|s| s == series)
    }

    /// What is measured where no shape is given.
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

fn tile(text: &str) -> Result<(LinearKernel, u32, u32)> {
    let [kernel, rows, k_step] = text.split(',').collect::<Vec<_>>()[..] else {
        bail!("--tile {text}: expected KERNEL,ROWS,K_STEP");
    };
    let kernel = LinearKernel::ALL.into_iter().find(|k| k.name() == kernel);
    Ok((kernel.with_context(|| format!("--tile {text}: no such kernel"))?, rows.parse()?, k_step.parse()?))
}

/// Of a layer, one number for each shape.
pub(crate) fn layer_series() -> Vec<&'static str> {
    [&cpu::SERIES[..], &gpu::SERIES].concat()
}

fn series() -> Vec<&'static str> {
    [&layer_series()[..], &record::SERIES, &flow::SERIES, &qat::SERIES].concat()
}

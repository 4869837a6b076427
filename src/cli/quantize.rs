//! `enfold quantize` quantizes a float model, and `enfold merge` merges the calibration of shards.

mod accuracy;
mod summary;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use enfold::archive;
use enfold::onnx::{self, ExportOptions};
use enfold::ops::Op;
use enfold::quantize::{
    ConvertOptions, ObserverKind, PrepareError, PreparedGraph, QuantizationConfig, WgpuQuantizer, convert, prepare,
    quantize_embeddings,
};
use enfold::values::QuantRange;
use enfold::{Graph, Tensor};

use self::accuracy::Passes;
use self::summary::Summary;
use super::arrays::Arrays;
use super::failure::usage;
use super::feed::{Feed, Remainder, feed};
use super::model::{Dims, Model, Stage};
use super::output::{self, check_output, count, extension};
use super::progress::Stderr;

#[derive(Debug, clap::Args)]
pub(super) struct Quantize {
    /// The float model: .onnx, or an archive.
    model: PathBuf,
    /// Data for calibration, by input name.
    #[arg(long, value_name = "DATA")]
    calibrate: Option<PathBuf>,
    /// The archive to write, or .onnx.
    #[arg(long, value_name = "OUT")]
    output: Option<PathBuf>,
    #[command(flatten)]
    scheme: Scheme,
    #[command(flatten)]
    passes: Passes,
    /// Stores embedding tables in int8, with a scale for each row. Otherwise they stay float.
    #[arg(long, value_enum, value_name = "TYPE")]
    embeddings: Option<Embeddings>,
    #[command(flatten)]
    dims: Dims,
    /// Rows of one calibration batch, if the model leaves its batch to run time [default: 32].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    batch_size: Option<u32>,
    /// Calibrates with part I of N of the batches, and writes --state instead of --output.
    #[arg(long, value_name = "I/N", value_parser = shard)]
    shard: Option<(usize, usize)>,
    /// The file for the state of a shard, which `enfold merge` reads.
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    #[command(flatten)]
    summary: SummaryArgs,
}

/// The arguments for the summary of the result.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct SummaryArgs {
    /// Lists every node that computes in integers, and every node that stays in float.
    #[arg(long, short)]
    verbose: bool,
    /// Prints the summary as JSON.
    #[arg(long)]
    json: bool,
}

/// The arguments for which nodes are quantized, and how.
#[derive(Debug, clap::Args)]
struct Scheme {
    /// Gives each output channel of a weight a scale; the default.
    #[arg(long)]
    per_channel: bool,
    /// Gives each weight one scale.
    #[arg(long)]
    per_tensor: bool,
    /// Computes the scales of activations at run time, without calibration.
    #[arg(long)]
    dynamic: bool,
    /// With --dynamic, computes a scale for each row along the last axis.
    #[arg(long)]
    per_token: bool,
    /// Uses zero points of 0 for activations too, as TensorRT needs.
    #[arg(long)]
    symmetric: bool,
    /// The observer that finds the range of an activation in calibration [default: histogram].
    #[arg(long, value_enum)]
    observer: Option<Observer>,
    /// The share of the values of an activation that --observer percentile keeps, in percent [default: 99.999].
    #[arg(long, value_name = "P")]
    percentile: Option<f64>,
    /// The bits of a weight's quantized values [default: 8].
    #[arg(long, value_name = "BITS", value_parser = clap::value_parser!(u32).range(2..=8))]
    weight_bits: Option<u32>,
    /// Leaves a node in float, or a module and all nodes in it: `encoder.0` covers `encoder.0.fc1`. May be repeated.
    #[arg(long, value_name = "NAME", num_args = 1..)]
    leave_float: Vec<String>,
    /// Quantizes products of two activations too, such as those of attention. Otherwise they stay in float.
    #[arg(long)]
    attention: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Embeddings {
    Int8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Observer {
    /// Collects a histogram, and clips it where the quantization error is smallest.
    Histogram,
    /// Takes the smallest and the largest value.
    Minmax,
    /// Collects a histogram, and leaves out the outermost values; see --percentile.
    Percentile,
    /// Collects a histogram, and clips it to the range with the least squared error in a grid.
    Mse,
}

fn shard(text: &str) -> Result<(usize, usize), String> {
    let parse = || {
        let (part, parts) = text.split_once('/')?;
        let (part, parts) = (part.parse().ok()?, parts.parse().ok()?);
        (1 <= part && part <= parts).then_some((part, parts))
    };
    parse().ok_or_else(|| "expected I/N with 1 <= I <= N, as in 2/8".to_owned())
}

impl Scheme {
    fn check(&self) -> Result<()> {
        if self.per_channel && self.per_tensor {
            return Err(usage("--per-channel and --per-tensor contradict each other; give one of them"));
        }
        if self.per_token && !self.dynamic {
            return Err(usage("--per-token is for dynamic quantization; add --dynamic, or leave --per-token out"));
        }
        if self.per_token && self.symmetric {
            return Err(usage(
                "--symmetric gives one scale for the tensor, --per-token one for each row; leave one out",
            ));
        }
        if self.dynamic && self.observer.is_some() {
            return Err(usage("--observer is for calibration, which --dynamic has none of; leave one of them out"));
        }
        if let Some(percentile) = self.percentile {
            if !(50.0..=100.0).contains(&percentile) {
                return Err(usage(format!("--percentile {percentile}: must be in 50..=100, as in --percentile 99.99")));
            }
            if self.dynamic || self.observer.is_some_and(|observer| observer != Observer::Percentile) {
                return Err(usage("--percentile is for --observer percentile; leave one of them out"));
            }
        }
        Ok(())
    }

    fn observer(&self) -> Observer {
        let default = if self.percentile.is_some() { Observer::Percentile } else { Observer::Histogram };
        self.observer.unwrap_or(default)
    }

    fn quantizer(&self, in_float: &[String]) -> Result<WgpuQuantizer> {
        let mut config = QuantizationConfig::symmetric();
        if let Some(bits) = self.weight_bits {
            let largest = (1 << (bits - 1)) - 1;
            config = config.weight_range(QuantRange::new(-largest, largest)?);
        }
        if !self.per_tensor {
            config = config.per_channel();
        }
        config = match (self.dynamic, self.per_token) {
            (true, true) => config.dynamic_per_token(),
            (true, false) => config.dynamic(),
            _ => config.activation_observer(match self.observer() {
                Observer::Histogram => ObserverKind::Histogram,
                Observer::Minmax => ObserverKind::MinMax,
                Observer::Percentile => {
                    ObserverKind::Percentile { fraction: (self.percentile.unwrap_or(99.999) / 100.0) as f32 }
                }
                Observer::Mse => ObserverKind::Mse,
            }),
        };
        if self.symmetric {
            config = config.symmetric_activations();
        }
        // Activations that only float nodes read stay float. No integer step is lost, and transformers lose much accuracy otherwise.
        let quantizer = WgpuQuantizer::new().set_global(config).quantize_matmul(self.attention).float_islands(true);
        let names = self.leave_float.iter().chain(in_float);
        Ok(names.fold(quantizer, |quantizer, name| quantizer.set_module_name(name, None)))
    }

    /// Prepares a graph, with these nodes in float too.
    fn prepare(&self, model: &Model, graph: &Graph, in_float: &[String]) -> Result<PreparedGraph> {
        prepare(graph, &self.quantizer(in_float)?).map_err(|error| match error {
            PrepareError::NoMatch { filter, near_names } => {
                let name = self.leave_float.iter().find(|name| filter.contains(&format!("{name:?}")));
                let (name, near) = (name.unwrap_or(&filter), near_names.join(", "));
                usage(format!("--leave-float {name}: the model has no such node or module; near are: {near}"))
            }
            error => anyhow::Error::new(error).context(model.name()),
        })
    }
}

impl Quantize {
    /// Refuses arguments that contradict each other. Returns the file to write.
    fn check(&self) -> Result<&Path> {
        self.scheme.check()?;
        self.passes.check()?;
        let needs_data = self.passes.needs_data();
        if let (Some(pass), true) = (needs_data, self.shard.is_some()) {
            return Err(usage(format!("{pass} needs all data at once; leave --shard out")));
        }
        if let (Some(pass), None) = (needs_data, &self.calibrate) {
            return Err(usage(format!("{pass} needs data: add --calibrate DATA")));
        }
        if self.scheme.dynamic && needs_data.is_none() {
            if self.calibrate.is_some() {
                return Err(usage(
                    "--calibrate makes no sense with --dynamic, which finds scales at run time; leave one out",
                ));
            }
            if self.shard.is_some() || self.state.is_some() || self.batch_size.is_some() {
                return Err(usage(
                    "--shard, --state and --batch-size are for calibration, which --dynamic has none of",
                ));
            }
        } else if self.calibrate.is_none() {
            return Err(usage("static quantization needs data: add --calibrate DATA, or --dynamic"));
        }
        let target = match (self.shard, &self.state, &self.output) {
            (None, None, Some(output)) => output,
            (Some(_), Some(state), None) => state,
            (None, Some(_), _) => return Err(usage("--state is for shards; add --shard I/N, or leave --state out")),
            (Some(_), None, _) => return Err(usage("--shard needs --state FILE, for what its part has calibrated")),
            (Some(_), Some(_), Some(_)) => {
                return Err(usage("--shard writes --state only; leave --output to enfold merge"));
            }
            (None, None, None) => return Err(usage("--output OUT is missing")),
        };
        let calibrate = self.calibrate.as_deref().unwrap_or(&self.model);
        check_output(target, &[&self.model, calibrate])?;
        Ok(target)
    }

    pub(super) fn run(&self, stderr: &Stderr) -> Result<()> {
        let target = self.check()?;
        let model = Model::load(&self.model, &self.dims)?;
        model.check_output(target)?;
        let name = self.model.display();
        match model.stage {
            Stage::Float => {}
            Stage::Prepared => return Err(model.unconverted()),
            stage => bail!("{name} is {stage} already; give the float model"),
        }
        // Wrong arguments are found before data are read.
        let mut prepared = self.scheme.prepare(&model, &model.graph, &[])?;
        let data = self.calibrate.as_deref();
        let batches = match data {
            Some(data) => self.batches(&model, data, stderr)?,
            None => Vec::new(),
        };
        if let Some(data) = data
            && let Some((graph, in_float)) =
                self.passes.smooth(&model.graph, &batches, data, self.scheme.dynamic, stderr)?
        {
            prepared = self.scheme.prepare(&model, &graph, &in_float)?;
        }
        if let (Some(calibrate), false) = (data, self.scheme.dynamic) {
            let bar = stderr.bar("calibrating", batches.len());
            for batch in &batches {
                prepared.observe(batch).with_context(|| calibrate.display().to_string())?;
                bar.step();
            }
        }
        self.passes.edit_weights(&mut prepared, &batches, data, stderr)?;
        if let Some((part, parts)) = self.shard {
            output::write(target, &archive::prepared_to_bytes(&prepared)?)?;
            let batches = count(prepared.batches() as usize, "batch");
            return output::print(&format!("{}: part {part} of {parts}, {batches}\n", target.display()));
        }
        finish(&prepared, target, Some(model.size_bytes), self.embeddings, self.summary, stderr)
    }

    /// Reads the calibration data, and returns the batches of this shard, or all batches.
    fn batches(&self, model: &Model, calibrate: &Path, stderr: &Stderr) -> Result<Vec<Vec<Tensor>>> {
        let mut data = Arrays::load(calibrate)?;
        let size = self.batch_size.map(|n| n as usize);
        let batched = model.graph.inputs().iter().any(|&id| model.graph.node(id).shape.is_batched());
        let size = if batched { size.or(Some(32)) } else { size };
        let Feed { mut batches, .. } = feed(&model.graph, &mut data, size, Remainder::Note, stderr)?;
        let Some((part, parts)) = self.shard else { return Ok(batches) };
        let all = batches.len();
        if parts > all {
            let there = count(all, "batch");
            return Err(usage(format!("--shard {part}/{parts}: the data has {there}; use at most as many parts")));
        }
        Ok(batches.drain((part - 1) * all / parts..part * all / parts).collect())
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct Merge {
    /// The states that `enfold quantize --shard` has written for all parts, in order.
    #[arg(required = true)]
    state: Vec<PathBuf>,
    /// The archive to write, or .onnx.
    #[arg(long, value_name = "OUT")]
    output: PathBuf,
    /// Stores embedding tables in int8, with a scale for each row. Otherwise they stay float.
    #[arg(long, value_enum, value_name = "TYPE")]
    embeddings: Option<Embeddings>,
    #[command(flatten)]
    summary: SummaryArgs,
}

impl Merge {
    pub(super) fn run(&self, stderr: &Stderr) -> Result<()> {
        let inputs: Vec<&Path> = self.state.iter().map(PathBuf::as_path).collect();
        check_output(&self.output, &inputs)?;
        for (at, path) in inputs.iter().enumerate() {
            if inputs[..at].iter().any(|other| std::fs::canonicalize(other).ok() == std::fs::canonicalize(path).ok()) {
                return Err(usage(format!("{} is given twice; each part counts once", path.display())));
            }
        }
        let mut merged: Option<PreparedGraph> = None;
        let mut seen = Vec::new();
        for path in inputs {
            let model = Model::load(path, &Dims::none())?;
            let stage = model.stage;
            let Some(state) = model.prepared else {
                bail!("{} is {stage}; merge takes what enfold quantize --shard has written", path.display());
            };
            // A copy would count the batches of its original twice.
            let is_copy = |(_, observers): &&(&Path, Vec<_>)| state.batches() > 0 && observers == state.observers();
            if let Some((original, _)) = seen.iter().find(is_copy) {
                let (path, original) = (path.display(), original.display());
                let message = format!("{path} holds the same as {original}; each part counts once, so leave one out");
                return Err(usage(message));
            }
            seen.push((path, state.observers().to_vec()));
            match &mut merged {
                None => merged = Some(state),
                Some(merged) => merged.merge(&state).map_err(|error| {
                    let (path, first) = (path.display(), self.state[0].display());
                    let context = match error {
                        PrepareError::Batches { .. } => format!("{path} cannot be added"),
                        _ => format!("{path} does not belong to {first}"),
                    };
                    anyhow::Error::new(error).context(context)
                })?,
            }
        }
        let merged = merged.context("no state to merge")?;
        finish(&merged, &self.output, None, self.embeddings, self.summary, stderr)
    }
}

/// Converts a prepared graph, writes the file, and prints the summary.
fn finish(
    prepared: &PreparedGraph,
    target: &Path,
    bytes_before: Option<u64>,
    embeddings: Option<Embeddings>,
    arguments: SummaryArgs,
    stderr: &Stderr,
) -> Result<()> {
    let mut quantized = stderr.wait_for("converting", || convert(prepared, &ConvertOptions::default()))?;
    if let Some(Embeddings::Int8) = embeddings {
        let tables = quantize_embeddings(&quantized)?;
        for (table, reason) in &tables.float {
            stderr.note(&format!("the table {table} stays float: {reason}"));
        }
        if tables.quantized.is_empty() && tables.float.is_empty() {
            stderr.note("--embeddings int8: the model has no embedding tables");
        }
        quantized = tables.graph;
    }
    let bytes = match extension(target).as_str() {
        "onnx" => onnx::export(&quantized, &ExportOptions::default())?,
        _ => archive::to_bytes(&quantized)?,
    };
    if !quantized.nodes().iter().any(|node| matches!(node.op, Op::Quantize(_) | Op::QuantizeDynamic(_))) {
        stderr.note("nothing in the model is quantized: enfold inspect says why of each node");
    }
    output::write(target, &bytes)?;
    let summary = Summary::new(target, prepared, &quantized, bytes_before, bytes.len() as u64)?;
    if arguments.json { output::print_json(&summary) } else { output::print(&summary.text(arguments.verbose)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards() {
        assert_eq!((shard("1/1"), shard("2/8")), (Ok((1, 1)), Ok((2, 8))));
        for wrong in ["", "1", "0/2", "3/2", "1/0", "a/b", "-1/2"] {
            assert!(shard(wrong).is_err(), "{wrong}");
        }
    }
}

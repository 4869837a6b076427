//! `enfold quantize` quantizes a float model, and `enfold merge` merges the calibration of shards.

mod accuracy;
mod merge;
mod plan;
mod scheme;
mod summary;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use enfold::Tensor;
use enfold::archive;
use enfold::onnx::{self, ExportOptions};
use enfold::ops::Op;
use enfold::quantize::accuracy::Plan;
use enfold::quantize::{ConvertOptions, PreparedGraph, convert, quantize_embeddings};

pub(super) use self::merge::Merge;

use self::accuracy::Passes;
use self::plan::Choices;
use self::scheme::Scheme;
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
    #[command(flatten)]
    choices: Choices,
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Embeddings {
    Int8,
}

fn shard(text: &str) -> Result<(usize, usize), String> {
    let parse = || {
        let (part, parts) = text.split_once('/')?;
        let (part, parts) = (part.parse().ok()?, parts.parse().ok()?);
        (1 <= part && part <= parts).then_some((part, parts))
    };
    parse().ok_or_else(|| "expected I/N with 1 <= I <= N, as in 2/8".to_owned())
}

impl Quantize {
    /// Refuses arguments that contradict each other. Returns the file to write.
    fn check(&self) -> Result<&Path> {
        self.scheme.check()?;
        self.passes.check()?;
        let needs_data = self.passes.needs_data().or(self.choices.needs_data());
        if self.scheme.dynamic && self.passes.edits().fits_ranges() {
            return Err(usage("--fit-ranges is for ranges of calibration, which --dynamic has none of; leave one out"));
        }
        if let (Some(choices), true) = (self.choices.needs_data(), self.shard.is_some()) {
            return Err(usage(format!(
                "{choices} tries choices of layers on whole batches, which a shard has not; leave --shard out"
            )));
        }
        if self.shard.is_some() && self.passes.smooths() && self.passes.rounds() {
            return Err(usage(
                "shards smooth in a round of their own: leave --gptq out, and give it to the shards of the model that \
                enfold merge smooths",
            ));
        }
        if let (Some(pass), true) = (self.passes.edits().given(), self.shard.is_some()) {
            return Err(usage(format!(
                "{pass} comes after all shards: give it to enfold merge, and leave it out here"
            )));
        }
        if let (Some(pass), None) = (needs_data, &self.calibrate) {
            return Err(usage(format!("{pass} needs data: add --calibrate DATA")));
        }
        if let (Some(choices), Some(argument)) = (self.choices.needs_data(), self.scheme.overridden()) {
            return Err(usage(format!(
                "{choices} and {argument} both choose how layers are quantized; leave {argument} out"
            )));
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
            Stage::Prepared | Stage::Statistics => return Err(model.unconverted()),
            stage => bail!("{name} is {stage} already; give the float model"),
        }
        let plan = self.choices.read()?;
        // Wrong arguments are found before data are read.
        let prepared = self.scheme.prepare(&model, &model.graph, plan.as_ref())?;
        let data = self.calibrate.as_deref();
        let batches = match data {
            Some(data) => self.batches(&model, data, stderr)?,
            None => Vec::new(),
        };
        let statistics = match data {
            Some(data) => self.passes.statistics(&model.graph, &batches, data, &self.scheme, stderr)?,
            None => None,
        };
        if let (Some((part, parts)), Some((statistics, options))) = (self.shard, &statistics) {
            output::write(target, &archive::statistics_to_bytes(statistics, *options)?)?;
            let (target, batches) = (target.display(), count(batches.len(), "batch"));
            return output::print(&format!("{target}: channel statistics of part {part} of {parts}, {batches}\n"));
        }
        let smoothed = match statistics {
            Some((statistics, options)) => {
                let (graph, note) = accuracy::smoothed(&statistics, &options, stderr)?;
                stderr.note(&note);
                Some(graph)
            }
            None => None,
        };
        let calibrate = |mut prepared: PreparedGraph, plan: Option<&Plan>| -> Result<PreparedGraph> {
            if let (Some(data), true) = (data, plan.is_some() || !self.scheme.dynamic) {
                let bar = stderr.bar("calibrating", batches.len());
                for batch in &batches {
                    prepared.observe(batch).with_context(|| data.display().to_string())?;
                    bar.step();
                }
            }
            if self.shard.is_none() {
                self.passes.edit_weights(&mut prepared, &batches, data, plan, stderr)?;
            }
            Ok(prepared)
        };
        let graph = smoothed.as_ref().unwrap_or(&model.graph);
        let prepare = |plan: Option<&Plan>| self.scheme.prepare(&model, graph, plan);
        let prepared = match self.choices.target()? {
            Some(target) => self
                .choices
                .reach(target, &model, graph, &batches, stderr, |plan| calibrate(prepare(Some(plan))?, Some(plan)))?,
            None if smoothed.is_some() => calibrate(prepare(plan.as_ref())?, plan.as_ref())?,
            None => calibrate(prepared, plan.as_ref())?,
        };
        if let Some((part, parts)) = self.shard {
            let bytes = match data.filter(|_| self.passes.rounds()) {
                Some(data) => {
                    let hessians = Passes::hessians(&prepared, &batches, data, stderr)?;
                    archive::calibration_to_bytes(&prepared, &hessians)?
                }
                None => archive::prepared_to_bytes(&prepared)?,
            };
            output::write(target, &bytes)?;
            let batches = count(batches.len(), "batch");
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

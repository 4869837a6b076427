//! `enfold merge` merges the calibration of shards.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use enfold::archive;
use enfold::quantize::accuracy::{ChannelStatistics, Hessians, SmoothOptions};
use enfold::quantize::{Observer, PrepareError, PreparedGraph};

use super::accuracy::{Edits, round_weights, smoothed};
use super::{Embeddings, SummaryArgs, finish};
use crate::cli::failure::usage;
use crate::cli::model::{Dims, Model};
use crate::cli::output::{self, check_output, count, extension};
use crate::cli::progress::Stderr;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Merge {
    /// The states that `enfold quantize --shard` has written for all parts, in order.
    #[arg(required = true)]
    state: Vec<PathBuf>,
    /// The archive to write, or .onnx. States of `--smooth` make a smoothed float model, which is quantized next.
    #[arg(long, value_name = "OUT")]
    output: PathBuf,
    #[command(flatten)]
    edits: Edits,
    /// Rounds the weights of linear layers and convolutions by the second moments that `enfold quantize --shard --gptq` has collected.
    #[arg(long)]
    gptq: bool,
    /// Stores embedding tables in int8, with a scale for each row. Otherwise they stay float.
    #[arg(long, value_enum, value_name = "TYPE")]
    embeddings: Option<Embeddings>,
    #[command(flatten)]
    summary: SummaryArgs,
}

/// The state of one shard, or the sum of several.
enum State {
    /// For smoothing.
    Statistics(ChannelStatistics, SmoothOptions),
    Calibration(Box<PreparedGraph>, Option<Hessians>),
}

type Fingerprint = (u64, Vec<Observer>, u64, Option<SmoothOptions>);

impl State {
    fn load(path: &Path) -> Result<Self> {
        let model = Model::load(path, &Dims::none())?;
        match (model.statistics, model.prepared) {
            (Some((statistics, options)), _) => Ok(Self::Statistics(statistics, options)),
            (None, Some(prepared)) => Ok(Self::Calibration(Box::new(prepared), model.hessians)),
            (None, None) => {
                let (path, stage) = (path.display(), model.stage);
                bail!("{path} is {stage}; merge takes what enfold quantize --shard has written")
            }
        }
    }

    /// What a copy has in common with its original: batches, observers, and a fingerprint of the sums, which take much memory.
    fn fingerprint(&self) -> Fingerprint {
        match self {
            Self::Statistics(statistics, options) => {
                (statistics.batches(), Vec::new(), statistics.fingerprint(), Some(*options))
            }
            Self::Calibration(prepared, hessians) => {
                let moments = hessians.as_ref().map_or((0, 0), |sums| (sums.batches(), sums.fingerprint()));
                (prepared.batches().max(moments.0), prepared.observers().to_vec(), moments.1, None)
            }
        }
    }

    /// Adds the state of the next part. `names` are those of this state and of the other.
    fn merge(&mut self, other: Self, [first, next]: [&Path; 2]) -> Result<()> {
        let (first, next) = (first.display(), next.display());
        let foreign = || format!("{next} does not belong to {first}");
        match (self, other) {
            (Self::Statistics(mine, options), Self::Statistics(theirs, their_options)) => {
                if *options != their_options {
                    let [mine, theirs] = [*options, their_options].map(described);
                    return Err(usage(format!(
                        "{first} is for {mine}, but {next} for {theirs}; give all shards the same"
                    )));
                }
                mine.merge(&theirs).with_context(foreign)
            }
            (Self::Calibration(mine, sums), Self::Calibration(theirs, their_sums)) => {
                mine.merge(&theirs).map_err(|error| {
                    let context = match error {
                        PrepareError::Batches { .. } => format!("{next} cannot be added"),
                        _ => foreign(),
                    };
                    anyhow::Error::new(error).context(context)
                })?;
                match (sums, their_sums) {
                    (Some(sums), Some(theirs)) => sums.merge(&theirs).with_context(foreign),
                    (None, None) => Ok(()),
                    (Some(_), None) => Err(lacks_moments(&next.to_string())),
                    (None, Some(_)) => Err(lacks_moments(&first.to_string())),
                }
            }
            (Self::Statistics(..), Self::Calibration(..)) => Err(usage(format!(
                "{first} has channel statistics of --smooth, but {next} has a calibration; merge them apart"
            ))),
            (Self::Calibration(..), Self::Statistics(..)) => Err(usage(format!(
                "{first} has a calibration, but {next} has channel statistics of --smooth; merge them apart"
            ))),
        }
    }
}

fn described(options: SmoothOptions) -> String {
    let search = if options.search { "--smooth-search".to_owned() } else { format!("--smooth={}", options.alpha) };
    let dynamic = match (options.dynamic, options.per_token) {
        (_, true) => " --dynamic --per-token",
        (true, false) => " --dynamic",
        (false, false) => "",
    };
    search + dynamic
}

fn lacks_moments(path: &str) -> anyhow::Error {
    usage(format!("{path} has no second moments; give --gptq to enfold quantize --shard, for every part"))
}

impl Merge {
    pub(in crate::cli) fn run(&self, stderr: &Stderr) -> Result<()> {
        let inputs: Vec<&Path> = self.state.iter().map(PathBuf::as_path).collect();
        check_output(&self.output, &inputs)?;
        for (at, path) in inputs.iter().enumerate() {
            if inputs[..at].iter().any(|other| std::fs::canonicalize(other).ok() == std::fs::canonicalize(path).ok()) {
                return Err(usage(format!("{} is given twice; each part counts once", path.display())));
            }
        }
        let mut merged: Option<State> = None;
        let mut seen: Vec<(&Path, _)> = Vec::new();
        for path in inputs {
            let state = State::load(path)?;
            // A copy would count the batches of its original twice.
            let fingerprint = state.fingerprint();
            if let Some((original, _)) = seen.iter().find(|(_, other)| fingerprint.0 > 0 && *other == fingerprint) {
                let (path, original) = (path.display(), original.display());
                let message = format!("{path} holds the same as {original}; each part counts once, so leave one out");
                return Err(usage(message));
            }
            seen.push((path, fingerprint));
            match &mut merged {
                None => merged = Some(state),
                Some(merged) => merged.merge(state, [&self.state[0], path])?,
            }
        }
        match merged.context("no state to merge")? {
            State::Statistics(statistics, options) => self.write_smoothed(&statistics, &options, stderr),
            State::Calibration(mut prepared, hessians) => {
                self.edits.apply(&mut prepared, stderr)?;
                match (&hessians, self.gptq) {
                    (Some(hessians), true) => round_weights(&mut prepared, hessians, stderr)?,
                    (None, true) => return Err(lacks_moments(&self.state[0].display().to_string())),
                    (Some(_), false) => {
                        stderr.note("the states have second moments; add --gptq to round weights by them")
                    }
                    (None, false) => {}
                }
                finish(&prepared, &self.output, None, self.embeddings, self.summary, stderr)
            }
        }
    }

    /// Smooths the float model, and writes it.
    fn write_smoothed(&self, statistics: &ChannelStatistics, options: &SmoothOptions, stderr: &Stderr) -> Result<()> {
        let later = self.edits.given().or(self.gptq.then_some("--gptq")).or(self.embeddings.map(|_| "--embeddings"));
        if let Some(argument) = later {
            return Err(usage(format!(
                "{argument} comes later: these states make a smoothed float model; leave it out, and quantize that model"
            )));
        }
        let path = self.output.display();
        if extension(&self.output) == "onnx" {
            return Err(usage(format!("{path}: a smoothed float model is an archive; leave the extension out")));
        }
        let (graph, note) = smoothed(statistics, options, stderr)?;
        output::write(&self.output, &archive::to_bytes(&graph)?)?;
        let batches = count(statistics.batches() as usize, "batch");
        output::print(&format!("{path}: a float model, {note} by {batches}; quantize it without --smooth\n"))
    }
}

//! `enfold merge` merges the calibration of shards.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use enfold::quantize::{PrepareError, PreparedGraph};

use super::accuracy::Edits;
use super::{Embeddings, SummaryArgs, finish};
use crate::cli::failure::usage;
use crate::cli::model::{Dims, Model};
use crate::cli::output::check_output;
use crate::cli::progress::Stderr;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Merge {
    /// The states that `enfold quantize --shard` has written for all parts, in order.
    #[arg(required = true)]
    state: Vec<PathBuf>,
    /// The archive to write, or .onnx.
    #[arg(long, value_name = "OUT")]
    output: PathBuf,
    #[command(flatten)]
    edits: Edits,
    /// Stores embedding tables in int8, with a scale for each row. Otherwise they stay float.
    #[arg(long, value_enum, value_name = "TYPE")]
    embeddings: Option<Embeddings>,
    #[command(flatten)]
    summary: SummaryArgs,
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
        let mut merged = merged.context("no state to merge")?;
        self.edits.apply(&mut merged, stderr)?;
        finish(&merged, &self.output, None, self.embeddings, self.summary, stderr)
    }
}

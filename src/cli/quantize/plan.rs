//! A choice for each layer: read from a file, or found for a target.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use enfold::compare::sqnr_db;
use enfold::interp::Interpreter;
use enfold::quantize::accuracy::{Plan, Target};
use enfold::quantize::{ConvertOptions, PreparedGraph, convert};
use enfold::{Graph, Tensor};

use crate::cli::failure::usage;
use crate::cli::model::Model;
use crate::cli::progress::Stderr;
use crate::cli::sensitivity::{Targets, measure};

/// The number of times that a target is raised by what the last choices fell short of it.
const ATTEMPTS: usize = 4;

#[derive(Debug, clap::Args)]
pub(super) struct Choices {
    /// Quantizes each layer as the file says, which `enfold sensitivity --plan` writes.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["target_sqnr", "target_cosine", "max_size"])]
    plan: Option<PathBuf>,
    #[command(flatten)]
    targets: Targets,
}

impl Choices {
    /// The first argument that needs calibration data.
    pub(super) fn needs_data(&self) -> Option<&'static str> {
        match (&self.plan, self.targets.target()) {
            (Some(_), _) => Some("--plan"),
            (None, Ok(Some(_))) => Some("a target"),
            _ => None,
        }
    }

    pub(super) fn target(&self) -> Result<Option<Target>> {
        self.targets.target()
    }

    /// Reads the plan; `None` if none is given.
    pub(super) fn read(&self) -> Result<Option<Plan>> {
        let Some(path) = &self.plan else { return Ok(None) };
        let name = path.display();
        let bytes = std::fs::read(path).with_context(|| format!("{name}: the plan cannot be read"))?;
        let plan: Plan = serde_json::from_slice(&bytes)
            .map_err(|error| usage(format!("{name} is no plan of enfold sensitivity: {error}")))?;
        Ok(Some(plan))
    }

    /// Chooses for a target, and measures what was chosen on the first batch. While the outputs fall short of the target, it is raised by
    /// the difference.
    pub(super) fn reach(
        &self,
        target: Target,
        model: &Model,
        graph: &Graph,
        batches: &[Vec<Tensor>],
        stderr: &Stderr,
        prepared: impl Fn(&Plan) -> Result<PreparedGraph>,
    ) -> Result<PreparedGraph> {
        let batch = batches.first().context("the calibration data have no rows")?;
        let found = measure(model, graph, batch, stderr)?;
        let Target::Sqnr(wanted) = target else { return prepared(&Plan::choose(&found, target)?) };
        let own = Interpreter::new(graph).run(batch)?;
        let mut asked = wanted;
        let mut best: Option<(f64, PreparedGraph)> = None;
        for _ in 0..ATTEMPTS {
            let result = prepared(&Plan::choose(&found, Target::Sqnr(asked.min(200.0)))?)?;
            let quantized = convert(&result, &ConvertOptions::default())?;
            let outputs = Interpreter::new(&quantized).run(batch)?;
            let of_output = |(own, found): (&Tensor, &Tensor)| match (own.as_f32(), found.as_f32()) {
                (Some(own), Some(found)) => sqnr_db(own, found).unwrap_or(f64::NEG_INFINITY),
                _ => f64::INFINITY,
            };
            let reached = own.iter().zip(&outputs).map(of_output).fold(f64::INFINITY, f64::min);
            if best.as_ref().is_none_or(|(db, _)| reached > *db) {
                best = Some((reached, result));
            }
            if reached >= wanted || asked >= 200.0 {
                break;
            }
            asked += (wanted - reached).max(0.5);
        }
        let (reached, result) = best.context("no choice was tried")?;
        if reached < wanted {
            bail!(
                "the choices reach {reached:.1} dB on the first batch; the target is {wanted:.1} dB: lower it, or leave more in float"
            );
        }
        let reached =
            if reached.is_finite() { format!("{reached:.1} dB") } else { "no error, all in float,".to_owned() };
        stderr.note(&format!("the choices reach {reached} on the first batch; the target is {wanted:.1} dB"));
        Ok(result)
    }
}

//! The passes of `enfold quantize` that raise accuracy: smoothing before prepare, clipping and GPTQ after calibration.

use std::path::Path;

use anyhow::{Context, Result};
use enfold::quantize::PreparedGraph;
use enfold::quantize::accuracy::{
    ChannelStatistics, GptqOptions, Hessians, LayerChoice, Plan, RoundedWeight, SmoothOptions, clip_weights,
    fit_ranges, gptq, gptq_skips, smooth,
};
use enfold::{Graph, Tensor};

use super::scheme::Scheme;
use crate::cli::failure::usage;
use crate::cli::output::count;
use crate::cli::progress::Stderr;

/// Bytes of second moments that are in memory at a time, if one layer takes no more.
const HESSIAN_BYTES: usize = 256 << 20;

#[derive(Debug, clap::Args)]
pub(super) struct Passes {
    /// Moves outliers of activations into weights before quantization (SmoothQuant), by the calibration data. ALPHA in 0..=1 says how
    /// much [default: 0.8].
    #[arg(long, value_name = "ALPHA", num_args = 0..=1, require_equals = true, default_missing_value = "0.8")]
    smooth: Option<f32>,
    /// Smooths with the best of several ALPHA for each value, by the error of the layers that read it.
    #[arg(long, conflicts_with = "smooth")]
    smooth_search: bool,
    #[command(flatten)]
    edits: Edits,
    /// Rounds the weights of linear layers and convolutions so that the errors of their outputs on the calibration data cancel out (GPTQ).
    #[arg(long)]
    gptq: bool,
}

/// The passes that need a calibrated graph, but no data.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct Edits {
    /// Narrows the ranges of weights to where their mean squared error is least.
    #[arg(long, value_enum, value_name = "RULE")]
    clip: Option<Clip>,
    /// Sets the range of a value that only functions read, such as a GELU, by the error behind them.
    #[arg(long)]
    fit_ranges: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Clip {
    Mse,
}

impl Edits {
    /// The first argument that is given.
    pub(super) fn given(self) -> Option<&'static str> {
        self.clip.map(|_| "--clip").or(self.fit_ranges.then_some("--fit-ranges"))
    }

    pub(super) fn fits_ranges(self) -> bool {
        self.fit_ranges
    }

    /// Edits a calibrated graph.
    pub(super) fn apply(self, prepared: &mut PreparedGraph, stderr: &Stderr) -> Result<()> {
        if self.clip == Some(Clip::Mse) {
            let clipped = stderr.wait_for("clipping weights", || clip_weights(prepared))?;
            let mean = clipped.iter().map(|weight| weight.error).sum::<f64>() / clipped.len().max(1) as f64;
            let weights = count(clipped.len(), "weight");
            stderr.note(&format!("clipped {weights}: {mean:.2} of the squared error on average"));
        }
        if self.fit_ranges {
            let fitted = stderr.wait_for("fitting ranges", || fit_ranges(prepared))?;
            stderr.note(&format!("fitted the ranges of {}", count(fitted.len(), "value")));
        }
        Ok(())
    }
}

impl Passes {
    pub(super) fn edits(&self) -> Edits {
        self.edits
    }

    /// The first argument that needs calibration data.
    pub(super) fn needs_data(&self) -> Option<&'static str> {
        match self {
            Self { smooth: Some(_), .. } => Some("--smooth"),
            Self { smooth_search: true, .. } => Some("--smooth-search"),
            Self { gptq: true, .. } => Some("--gptq"),
            _ => None,
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        match self.smooth {
            Some(alpha) if !(0.0..=1.0).contains(&alpha) => {
                Err(usage(format!("--smooth {alpha}: ALPHA must be in 0..=1, as in --smooth=0.8")))
            }
            _ => Ok(()),
        }
    }

    /// How a float graph is to be smoothed, if it is.
    fn smoothing(&self) -> Option<SmoothOptions> {
        match self.smooth {
            Some(alpha) => Some(SmoothOptions::default().with_alpha(alpha)),
            None => self.smooth_search.then(|| SmoothOptions::default().with_search(true)),
        }
    }

    /// Whether a float graph is to be smoothed.
    pub(super) fn smooths(&self) -> bool {
        self.smoothing().is_some()
    }

    /// Whether weights are to be rounded by second moments.
    pub(super) fn rounds(&self) -> bool {
        self.gptq
    }

    /// Collects the statistics for smoothing. Returns them with the options of smoothing; `None` if the graph is not to be smoothed.
    pub(super) fn statistics(
        &self,
        graph: &Graph,
        batches: &[Vec<Tensor>],
        data: &Path,
        scheme: &Scheme,
        stderr: &Stderr,
    ) -> Result<Option<(ChannelStatistics, SmoothOptions)>> {
        let Some(options) = self.smoothing() else { return Ok(None) };
        let options = options.with_dynamic(scheme.dynamic).with_per_token(scheme.per_token);
        let mut statistics = ChannelStatistics::new(graph);
        let bar = stderr.bar("collecting channel statistics", batches.len());
        for batch in batches {
            statistics.observe(batch).with_context(|| data.display().to_string())?;
            bar.step();
        }
        Ok(Some((statistics, options)))
    }

    /// Collects all second moments of the inputs of a prepared graph's layers.
    pub(super) fn hessians(
        prepared: &PreparedGraph,
        batches: &[Vec<Tensor>],
        data: &Path,
        stderr: &Stderr,
    ) -> Result<Hessians> {
        let mut hessians = Hessians::new(prepared);
        let bar = stderr.bar("collecting second moments", batches.len());
        for batch in batches {
            hessians.observe(batch).with_context(|| data.display().to_string())?;
            bar.step();
        }
        Ok(hessians)
    }

    /// Edits the weights of a calibrated graph.
    pub(super) fn edit_weights(
        &self,
        prepared: &mut PreparedGraph,
        batches: &[Vec<Tensor>],
        data: Option<&Path>,
        plan: Option<&Plan>,
        stderr: &Stderr,
    ) -> Result<()> {
        // The choices of a plan were measured with clipped weights of few bits.
        let few_bits = |plan: &Plan| plan.layers.values().any(|choice| *choice == LayerChoice::Int4PerToken);
        let clip = if plan.is_some_and(few_bits) { Some(Clip::Mse) } else { self.edits.clip };
        Edits { clip, ..self.edits }.apply(prepared, stderr)?;
        if !self.gptq {
            return Ok(());
        }
        let parts = Hessians::in_parts(prepared, HESSIAN_BYTES);
        let bar = stderr.bar("rounding weights", parts.len() * (batches.len() + 1));
        let mut rounded = Vec::new();
        for mut hessians in parts {
            for batch in batches {
                let place = || data.map_or_else(String::new, |data| data.display().to_string());
                hessians.observe(batch).with_context(place)?;
                bar.step();
            }
            rounded.extend(gptq(prepared, &hessians, &GptqOptions::default())?);
            bar.step();
        }
        drop(bar);
        tell_rounded(prepared, &rounded, stderr)
    }
}

/// Smooths a graph by its statistics. Returns it with a note of what was done.
pub(super) fn smoothed(
    statistics: &ChannelStatistics,
    options: &SmoothOptions,
    stderr: &Stderr,
) -> Result<(Graph, String)> {
    let smoothed = stderr.wait_for("smoothing", || smooth(statistics.graph(), statistics, options))?;
    let done = smoothed.values.iter().filter(|value| value.alpha.is_some()).count();
    smoothed.values.iter().for_each(|value| log::debug!("{value}"));
    let note = format!("smoothed {done} of {}", count(smoothed.values.len(), "value"));
    Ok((smoothed.graph, note))
}

/// Rounds the weights of a calibrated graph by second moments.
pub(super) fn round_weights(prepared: &mut PreparedGraph, hessians: &Hessians, stderr: &Stderr) -> Result<()> {
    let rounded = stderr.wait_for("rounding weights", || gptq(prepared, hessians, &GptqOptions::default()))?;
    tell_rounded(prepared, &rounded, stderr)
}

fn tell_rounded(prepared: &PreparedGraph, rounded: &[RoundedWeight], stderr: &Stderr) -> Result<()> {
    let mean = rounded.iter().map(|weight| weight.error).sum::<f64>() / rounded.len().max(1) as f64;
    let sum = |of: fn(&RoundedWeight) -> usize| rounded.iter().map(of).sum::<usize>();
    let (rows, nearest) = (sum(|weight| weight.rows), sum(|weight| weight.nearest_rows));
    let nearest = if nearest == 0 {
        String::new()
    } else {
        format!("; {nearest} of {rows} output channels are as good to nearest")
    };
    let weights = count(rounded.len(), "weight");
    stderr.note(&format!("rounded {weights}: {mean:.2} of the squared output error on average{nearest}"));
    for (weight, reason) in gptq_skips(prepared)? {
        stderr.note(&format!("{weight} is rounded to nearest: {reason}"));
    }
    Ok(())
}

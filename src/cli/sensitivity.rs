//! `enfold sensitivity` measures what each choice for each layer costs, and chooses.

mod page;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use enfold::quantize::accuracy::{
    ChoiceError, LayerChoice, LayerSensitivities, LayerSensitivity, Plan, Target, layer_sensitivities,
};
use enfold::{Graph, Tensor};

use super::arrays::Arrays;
use super::failure::usage;
use super::feed::{Remainder, feed};
use super::model::{Dims, Model, Stage};
use super::output::{self, check_output, printable, size};
use super::progress::Stderr;

#[derive(Debug, clap::Args)]
pub(super) struct Sensitivity {
    /// The float model: .onnx, or an archive.
    model: PathBuf,
    /// Data like those that the model will see, by input name. The first rows are used.
    #[arg(long, value_name = "DATA")]
    calibrate: PathBuf,
    #[command(flatten)]
    dims: Dims,
    /// Rows to measure on, if the model leaves its batch to run time [default: 8].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rows: Option<u32>,
    #[command(flatten)]
    target: Targets,
    /// Writes the choices for --target-sqnr, --target-cosine or --max-size to a file for `enfold quantize --plan`.
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// Also writes an HTML page with bars by layer, which is one file and loads nothing else.
    #[arg(long, value_name = "REPORT")]
    html: Option<PathBuf>,
    /// Prints the result as JSON, with null for an infinite ratio.
    #[arg(long)]
    json: bool,
}

/// What the choices have to reach.
#[derive(Debug, Clone, Copy, clap::Args)]
#[group(multiple = false)]
pub(super) struct Targets {
    /// Chooses for each layer among int8 (static or per token), 4-bit weights and float, so that the worst output reaches a ratio of
    /// signal to quantization noise of DB decibels at the least size.
    #[arg(long, value_name = "DB")]
    target_sqnr: Option<f64>,
    /// The same for a cosine with the float model's outputs.
    #[arg(long, value_name = "COSINE")]
    target_cosine: Option<f64>,
    /// Chooses for the least noise with weights of at most BYTES bytes in all.
    #[arg(long, value_name = "BYTES")]
    max_size: Option<usize>,
}

impl Targets {
    /// The target; `None` if none is given.
    pub(super) fn target(self) -> Result<Option<Target>> {
        let target = match (self.target_sqnr, self.target_cosine) {
            (Some(db), _) if !(-20.0..=200.0).contains(&db) => {
                return Err(usage(format!("--target-sqnr {db}: must be in -20..=200, as in --target-sqnr 40")));
            }
            (Some(db), _) => Some(Target::Sqnr(db)),
            (None, Some(cosine)) => {
                let target = Target::cosine(cosine);
                Some(target.map_err(|error| usage(format!("--target-cosine {cosine}: {error}")))?)
            }
            (None, None) => self.max_size.map(Target::Bytes),
        };
        Ok(target)
    }
}

/// The rows that layers are measured on if none are asked for.
pub(super) const ROWS: usize = 8;

/// Measures each choice for each layer, with a progress bar.
pub(super) fn measure(model: &Model, graph: &Graph, batch: &[Tensor], stderr: &Stderr) -> Result<LayerSensitivities> {
    let mut bar = None;
    let found = layer_sensitivities(graph, batch, |_, all| {
        bar.get_or_insert_with(|| stderr.bar("measuring layers", all)).step();
    })?;
    if found.layers.is_empty() {
        bail!("{}: the model has no linear layer or convolution with a known weight", model.name());
    }
    Ok(found)
}

#[derive(serde::Serialize)]
struct Report<'a> {
    rows: usize,
    layers: Vec<Layer<'a>>,
    /// The sum of the errors of the choices, if there is a target.
    predicted_sqnr_db: Option<f64>,
    bytes: Option<usize>,
}

#[derive(serde::Serialize)]
struct Layer<'a> {
    name: &'a str,
    elements: usize,
    choice: Option<LayerChoice>,
    errors: Vec<Error>,
}

#[derive(serde::Serialize)]
struct Error {
    choice: LayerChoice,
    bytes: usize,
    layer_sqnr_db: f64,
    output_sqnr_db: f64,
}

impl Sensitivity {
    pub(super) fn run(&self, stderr: &Stderr) -> Result<()> {
        let target = self.target.target()?;
        if self.plan.is_some() && target.is_none() {
            return Err(usage(
                "--plan needs a target: add --target-sqnr DB, --target-cosine COSINE or --max-size BYTES",
            ));
        }
        for output in [&self.plan, &self.html].into_iter().flatten() {
            check_output(output, &[&self.model, &self.calibrate])?;
        }
        let model = Model::load(&self.model, &self.dims)?;
        if model.stage != Stage::Float {
            bail!("{} is {}; give the float model", self.model.display(), model.stage);
        }
        let batch = first_batch(&model, &self.calibrate, self.rows.map(|n| n as usize), stderr)?;
        let rows = batch.first().and_then(|tensor| tensor.shape().first().copied()).unwrap_or(0);
        let found = measure(&model, &model.graph, &batch, stderr)?;
        let plan = target.map(|target| Plan::choose(&found, target)).transpose()?;
        if let (Some(path), Some(plan)) = (&self.plan, &plan) {
            let mut json = serde_json::to_vec_pretty(plan)?;
            json.push(b'\n');
            output::write(path, &json)?;
        }
        if let Some(path) = &self.html {
            let page = page::html(&model.name(), rows, &found, plan.as_ref());
            output::write(path, page.as_bytes())?;
        }
        if self.json {
            return output::print_json(&report(rows, &found, plan.as_ref()));
        }
        output::print(&text(&found, plan.as_ref()))
    }
}

/// The first rows of the data, as one batch.
fn first_batch(model: &Model, path: &std::path::Path, rows: Option<usize>, stderr: &Stderr) -> Result<Vec<Tensor>> {
    let mut data = Arrays::load(path)?;
    let batched = model.graph.inputs().iter().any(|&id| model.graph.node(id).shape.is_batched());
    let size = if batched { rows.or(Some(ROWS)) } else { rows };
    let batches = feed(&model.graph, &mut data, size, Remainder::Note, stderr)?.batches;
    batches.into_iter().next().with_context(|| format!("{} has no rows", path.display()))
}

/// The noise that the choices of a plan add up to, and the bytes of their weights.
fn total(found: &LayerSensitivities, plan: &Plan) -> (f64, usize) {
    let of_layer = |layer: &LayerSensitivity| {
        let choice = plan.layers.get(&layer.name)?;
        let error = layer.errors.iter().find(|error| error.choice == *choice)?;
        Some((error.output_noise, choice.bytes(layer.elements)))
    };
    found.layers.iter().filter_map(of_layer).fold((0.0, 0), |sum, (noise, bytes)| (sum.0 + noise, sum.1 + bytes))
}

fn report<'a>(rows: usize, found: &'a LayerSensitivities, plan: Option<&Plan>) -> Report<'a> {
    let total = plan.map(|plan| total(found, plan));
    let of_layer = |layer: &'a LayerSensitivity| Layer {
        name: &layer.name,
        elements: layer.elements,
        choice: plan.and_then(|plan| plan.layers.get(&layer.name).copied()),
        errors: layer.errors.iter().map(|error| of_choice(layer, error)).collect(),
    };
    Report {
        rows,
        layers: found.layers.iter().map(of_layer).collect(),
        predicted_sqnr_db: total.map(|(noise, _)| ChoiceError::to_db(noise)),
        bytes: total.map(|(_, bytes)| bytes),
    }
}

fn of_choice(layer: &LayerSensitivity, error: &ChoiceError) -> Error {
    Error {
        choice: error.choice,
        bytes: error.choice.bytes(layer.elements),
        layer_sqnr_db: ChoiceError::to_db(error.layer_noise),
        output_sqnr_db: ChoiceError::to_db(error.output_noise),
    }
}

/// The choices that are measured, without float, which has no error.
const SHOWN: [LayerChoice; 3] = [LayerChoice::Int4PerToken, LayerChoice::Int8, LayerChoice::Int8PerToken];

/// A line for each layer: the ratio at the output, in dB, if this layer alone has a choice.
fn text(found: &LayerSensitivities, plan: Option<&Plan>) -> String {
    let mut header = vec!["layer".to_owned(), "weights".to_owned()];
    header.extend(SHOWN.iter().map(|choice| format!("{choice} (dB)")));
    header.extend(plan.map(|_| "choice".to_owned()));
    let mut rows = vec![header];
    for layer in &found.layers {
        let ratio = |choice: &LayerChoice| {
            let error = layer.errors.iter().find(|error| error.choice == *choice);
            error.map_or_else(|| "-".to_owned(), |error| format!("{:.1}", ChoiceError::to_db(error.output_noise)))
        };
        let mut row = vec![printable(&layer.name).into_owned(), size(layer.elements as u64 * 4)];
        row.extend(SHOWN.iter().map(ratio));
        row.extend(plan.and_then(|plan| plan.layers.get(&layer.name)).map(ToString::to_string));
        rows.push(row);
    }
    let mut text = output::table(&rows);
    if let Some(plan) = plan {
        let (noise, bytes) = total(found, plan);
        let float: usize = found.layers.iter().map(|layer| LayerChoice::Float.bytes(layer.elements)).sum();
        let (bytes, float) = (size(bytes as u64), size(float as u64));
        text += &format!("predicted: {:.1} dB, weights {bytes} of {float} in float\n", ChoiceError::to_db(noise));
    }
    text
}

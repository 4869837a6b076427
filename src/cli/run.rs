//! `enfold run` runs a model on data.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use enfold::Tensor;
use enfold::graph::Graph;
use ndarray::{ArrayView, Axis, IxDyn, concatenate};

use super::arrays::{self, Arrays};
use super::device::{DeviceArgs, Runner, time};
use super::feed::{Remainder, feed};
use super::model::{Dims, Model, Products};
use super::output::{self, check_output, count, printable};
use super::progress::Stderr;
use super::values;

#[derive(Debug, clap::Args)]
pub(super) struct Run {
    /// The model: .onnx, or an archive. A float model runs in float.
    model: PathBuf,
    /// Data with the inputs, by name.
    #[arg(long, value_name = "DATA")]
    input: PathBuf,
    /// The file for the outputs, by name: floats as f32, integers as integers.
    #[arg(long, value_name = "DATA")]
    output: PathBuf,
    #[command(flatten)]
    choice: DeviceArgs,
    /// Rows of one run, if the model leaves its batch to run time [default: all].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    batch_size: Option<u32>,
    #[command(flatten)]
    dims: Dims,
    #[command(flatten)]
    products: Products,
    /// Prints the outputs' names and shapes, the device and the time as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(serde::Serialize)]
struct Report<'a> {
    output: String,
    device: String,
    rows: usize,
    batches: usize,
    seconds: f64,
    outputs: Vec<OutputReport<'a>>,
}

#[derive(serde::Serialize)]
struct OutputReport<'a> {
    name: &'a str,
    shape: &'a [usize],
}

impl Run {
    pub(super) fn run(&self, stderr: &Stderr) -> Result<()> {
        self.choice.check()?;
        check_output(&self.output, &[&self.model, &self.input])?;
        let model = Model::load(&self.model, &self.dims)?;
        model.check_output(&self.output)?;
        let graph = model.executable(self.products.kind())?;
        let names = graph.output_names().to_vec();
        arrays::check_format(&self.output, names.len())?;
        let mut data = Arrays::load(&self.input)?;
        let feed = feed(&graph, &mut data, self.batch_size.map(|n| n as usize), Remainder::Refuse, stderr)?;
        let runner = stderr.wait_for("loading", || Runner::new(&graph, &self.choice, stderr))?;

        let bar = stderr.bar("running", feed.batches.len());
        let started = Instant::now();
        let mut outputs: Vec<Vec<Tensor>> = vec![Vec::new(); names.len()];
        for batch in &feed.batches {
            values::check(&graph, batch).with_context(|| model.name())?;
            let results = runner.run(batch).with_context(|| model.name())?;
            outputs.iter_mut().zip(results).for_each(|(all, one)| all.push(one));
            bar.step();
        }
        drop(bar);
        let seconds = started.elapsed();
        let whole = |(name, parts): (&String, _)| Ok((name.clone(), concatenated(name, &graph, parts)?));
        let outputs: Vec<(String, Tensor)> = names.iter().zip(outputs).map(whole).collect::<Result<_>>()?;
        arrays::save(&self.output, &outputs)?;

        if self.json {
            let outputs = outputs.iter().map(|(name, array)| OutputReport { name, shape: array.shape() }).collect();
            return output::print_json(&Report {
                output: self.output.display().to_string(),
                device: runner.describe(),
                rows: feed.rows,
                batches: feed.batches.len(),
                seconds: seconds.as_secs_f64(),
                outputs,
            });
        }
        let list: Vec<String> =
            outputs.iter().map(|(name, array)| format!("{} {:?}", printable(name), array.shape())).collect();
        output::print(&format!(
            "{}: {} ({}, {} on {})\n",
            self.output.display(),
            list.join(", "),
            count(feed.rows, "row"),
            time(seconds),
            runner.describe()
        ))
    }
}

/// Concatenates the outputs of all batches.
fn concatenated(name: &str, graph: &Graph, mut parts: Vec<Tensor>) -> Result<Tensor> {
    fn join<'t, T: Clone + 't>(
        parts: &'t [Tensor],
        view: impl Fn(&'t Tensor) -> Option<ArrayView<'t, T, IxDyn>>,
    ) -> Result<Tensor>
    where
        Tensor: From<ndarray::ArrayD<T>>,
    {
        let views: Vec<_> = parts.iter().filter_map(view).collect();
        Ok(Tensor::from(concatenate(Axis(0), &views)?))
    }
    if parts.len() == 1 {
        return Ok(parts.swap_remove(0));
    }
    if parts.iter().any(|part| part.shape().is_empty()) {
        bail!(
            "{name} is one number a batch, of {} batches of {} inputs; run one batch at a time",
            parts.len(),
            graph.inputs().len()
        );
    }
    match &parts[0] {
        Tensor::F32(_) => join(&parts, |part| if let Tensor::F32(a) = part { Some(a.into()) } else { None }),
        Tensor::I8(_) => join(&parts, |part| if let Tensor::I8(a) = part { Some(a.into()) } else { None }),
        Tensor::I32(_) => join(&parts, |part| if let Tensor::I32(a) = part { Some(a.into()) } else { None }),
        Tensor::I64(_) => join(&parts, |part| if let Tensor::I64(a) = part { Some(a.into()) } else { None }),
    }
}

//! `enfold compare` compares a quantized model with its float model.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use enfold::compare::{Comparison, compare, distributions};
use enfold::graph::Graph;
use enfold::numerics::FloatProducts;
use enfold::ops::Op;

use super::arrays::Arrays;
use super::failure::usage;
use super::feed::{Remainder, feed};
use super::model::{Dims, Model, Stage, file_name};
use super::output::{self, check_output, count, printable};
use super::progress::Stderr;
use super::report::{self, Page, Side};

/// The number of bins of a histogram. Finer bins would show noise.
const BINS: usize = 64;

#[derive(Debug, clap::Args)]
pub(super) struct Compare {
    /// The float model: .onnx, or an archive.
    float: PathBuf,
    /// The quantized model: .onnx, or an archive.
    quantized: PathBuf,
    /// Data to run both models on, by input name.
    #[arg(long, value_name = "DATA")]
    input: PathBuf,
    /// Also writes an HTML page with plots, which is one file and loads nothing else.
    #[arg(long, value_name = "REPORT")]
    html: Option<PathBuf>,
    /// Rows to compare, from the first row of the data, if the model leaves its batch to run time [default: all].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rows: Option<u32>,
    #[command(flatten)]
    dims: Dims,
    /// Prints the comparison as JSON, with null for an infinite ratio.
    #[arg(long)]
    json: bool,
}

#[derive(serde::Serialize)]
struct Report<'a> {
    output_sqnr_db: f64,
    output_cosine: f64,
    rows: usize,
    /// The compared nodes, the worst first.
    nodes: Vec<Node<'a>>,
}

#[derive(serde::Serialize)]
struct Node<'a> {
    name: &'a str,
    op: &'a str,
    isolated_sqnr_db: f64,
    sqnr_db: f64,
    weight_sqnr_db: Option<f64>,
    mse: f64,
    cosine: f64,
    saturated: Option<f64>,
}

impl Compare {
    pub(super) fn run(&self, stderr: &Stderr) -> Result<()> {
        if let Some(html) = &self.html {
            check_output(html, &[&self.float, &self.quantized, &self.input])?;
        }
        let float = Model::load(&self.float, &self.dims)?;
        // The dimensions of an archive are fixed, so --dim is for ONNX files only.
        let is_onnx = super::output::extension(&self.quantized) == "onnx";
        let dims = if is_onnx { self.dims.clone() } else { Dims::none() };
        let quantized = Model::load(&self.quantized, &dims)?;
        if let Some(html) = &self.html {
            float.check_output(html)?;
            quantized.check_output(html)?;
        }
        check_stages(&float, &quantized)?;
        check_inputs(&float, &quantized)?;
        let mut data = Arrays::load(&self.input)?;
        let batched = float.graph.inputs().iter().any(|&id| float.graph.node(id).shape.is_batched());
        if let (Some(rows), false) = (self.rows, batched) {
            return Err(usage(format!("--rows {rows}: the model's batch is fixed; leave it out")));
        }
        let asked = self.rows.map(|n| n as usize);
        let mut feed = feed(&float.graph, &mut data, asked, Remainder::Note, stderr)?;
        let batches = feed.batches.len();
        if batches > 1 && asked.is_none() {
            stderr.note(&format!("compared on the first of {}, {} rows in all", count(batches, "batch"), feed.rows));
        }
        let inputs = feed.batches.swap_remove(0);
        let rows = inputs.first().and_then(|input| input.shape().first()).copied().unwrap_or(1);

        let comparison = stderr.wait_for("comparing", || compare(&float.graph, &quantized.graph, &inputs));
        let comparison = comparison.with_context(|| format!("{} and {}", float.name(), quantized.name()))?;
        if let Some(html) = &self.html {
            let distributions =
                stderr.wait_for("counting", || distributions(&float.graph, &quantized.graph, &inputs, BINS))?;
            let page = Page {
                float: side(&float)?,
                quantized: side(&quantized)?,
                data: file_name(&data.path),
                rows,
                comparison: &comparison,
                distributions: &distributions,
            };
            output::write(html, report::html(&page)?.as_bytes())?;
        }
        if self.json {
            return output::print_json(&Report::new(&comparison, rows));
        }
        let mut lines = comparison.clone();
        lines.nodes.iter_mut().for_each(|node| node.origin = printable(&node.origin).into_owned());
        output::print(&lines.to_string())?;
        self.html.as_ref().map_or(Ok(()), |html| output::print(&format!("report: {}\n", html.display())))
    }
}

fn check_stages(float: &Model, quantized: &Model) -> Result<()> {
    for model in [float, quantized] {
        if matches!(model.stage, Stage::Prepared | Stage::Statistics) {
            return Err(model.unconverted());
        }
    }
    let (reference, actual) = (self::name(float), self::name(quantized));
    match (float.stage, quantized.stage) {
        (Stage::Qdq | Stage::Integer, Stage::Float) => {
            bail!("{reference} is quantized and {actual} is float; the float model comes first")
        }
        (Stage::Float, Stage::Float) => {
            bail!(
                "{actual} is {}: nothing in it is quantized; enfold quantize makes models to compare",
                quantized.stage
            )
        }
        _ => Ok(()),
    }
}

fn name(model: &Model) -> String {
    model.path.display().to_string()
}

/// Refuses models with different inputs: both run on the same tensors.
fn check_inputs(float: &Model, quantized: &Model) -> Result<()> {
    let list = |graph: &Graph| -> Vec<String> {
        let input = |&id: &enfold::graph::NodeId| {
            let node = graph.node(id);
            format!("{} {} {}", node.name, node.dtype, node.shape)
        };
        graph.inputs().iter().map(input).collect()
    };
    let (expected, actual) = (list(&float.graph), list(&quantized.graph));
    if expected != actual {
        bail!(
            "the inputs differ: {} takes {}, {} takes {}; give models of one network, with the same --dim",
            name(float),
            expected.join(", "),
            name(quantized),
            actual.join(", ")
        );
    }
    Ok(())
}

fn side(model: &Model) -> Result<Side> {
    let graph = model.executable(FloatProducts::default())?;
    let all = |is: &dyn Fn(&Op) -> bool| graph.nodes().iter().filter(|node| is(&node.op)).count();
    Ok(Side {
        name: model.name(),
        stage: model.stage.to_string().trim_start_matches("a ").to_owned(),
        file_bytes: model.size_bytes,
        constant_bytes: model.constant_bytes(),
        layers: all(&Op::is_layer),
        int8_layers: all(&|op| op.is_layer() && op.is_integer()),
    })
}

impl<'a> Report<'a> {
    fn new(comparison: &'a Comparison, rows: usize) -> Self {
        let node = |n: &'a enfold::compare::NodeComparison| Node {
            name: &n.origin,
            op: n.op,
            isolated_sqnr_db: n.isolated_sqnr_db,
            sqnr_db: n.sqnr_db,
            weight_sqnr_db: n.weight_sqnr_db,
            mse: n.mse,
            cosine: n.cosine,
            saturated: n.saturated,
        };
        let nodes = comparison.ranked().into_iter().map(node).collect();
        let (output_sqnr_db, output_cosine) = (comparison.output_sqnr_db, comparison.output_cosine);
        Self { output_sqnr_db, output_cosine, rows, nodes }
    }
}

//! `enfold inspect` lists what a model consists of.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write;
use std::path::PathBuf;

use anyhow::Result;
use enfold::graph::Graph;
use enfold::numerics::FloatProducts;
use enfold::ops::{Constant, Input, Op};
use enfold::quantize::{QuantizationConfig, QuantizationSummary, WgpuQuantizer, prepare};

use super::coverage;
use super::model::{Dims, Model, Stage};
use super::output::{self, count, printable, size, table};

/// The most inputs of a node that are listed. A concatenation may have thousands.
const MAX_READS: usize = 8;

#[derive(Debug, clap::Args)]
pub(super) struct Inspect {
    /// The model: .onnx, or an archive of any stage.
    model: PathBuf,
    #[command(flatten)]
    dims: Dims,
    /// Prints everything as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(serde::Serialize)]
struct Report {
    model: String,
    format: &'static str,
    stage: String,
    file_bytes: u64,
    /// The nodes of an ONNX file by operator.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    file_operators: BTreeMap<String, usize>,
    parameters: u64,
    constant_bytes: u64,
    inputs: Vec<Value>,
    outputs: Vec<Value>,
    ops: BTreeMap<&'static str, usize>,
    nodes: Vec<NodeReport>,
    /// The nodes of a float or prepared model that are quantized, and the reasons why the others are not.
    #[serde(skip_serializing_if = "Option::is_none")]
    quantization: Option<QuantizationSummary>,
    /// The nodes of a quantized model that compute in integers, and the reasons why the others do not.
    #[serde(skip_serializing_if = "Option::is_none")]
    integer_form: Option<IntegerForm>,
}

#[derive(serde::Serialize)]
struct IntegerForm {
    integer: Vec<String>,
    float: Vec<String>,
}

#[derive(serde::Serialize)]
struct Value {
    name: String,
    dtype: String,
    shape: String,
}

#[derive(serde::Serialize)]
struct NodeReport {
    name: String,
    op: &'static str,
    dtype: String,
    shape: String,
    inputs: Vec<String>,
    parameters: u64,
}

impl Inspect {
    pub(super) fn run(&self) -> Result<()> {
        let model = Model::load(&self.model, &self.dims)?;
        let report = Report::new(&model)?;
        if self.json { output::print_json(&report) } else { output::print(&report.text(&model.graph)) }
    }
}

impl Report {
    fn new(model: &Model) -> Result<Self> {
        let graph = &model.graph;
        let value = |name: &str, id| {
            let node = graph.node(id);
            Value { name: name.to_owned(), dtype: node.dtype.to_string(), shape: node.shape.to_string() }
        };
        let mut ops = BTreeMap::new();
        let computes = |op: &Op| !matches!(op, Op::Input(Input) | Op::Constant(_));
        for node in graph.nodes().iter().filter(|node| computes(&node.op)) {
            *ops.entry(node.op.name()).or_default() += 1;
        }
        let elements = |op: &Op| match op {
            Op::Constant(Constant { tensor, .. }) => tensor.len() as u64,
            _ => 0,
        };
        let node = |node: &enfold::graph::Node| NodeReport {
            name: node.name.clone(),
            op: node.op.name(),
            dtype: node.dtype.to_string(),
            shape: node.shape.to_string(),
            inputs: node.inputs.iter().map(|&id| graph.node(id).name.clone()).collect(),
            parameters: node.inputs.iter().map(|&id| elements(&graph.node(id).op)).sum(),
        };
        let quantization = match (&model.prepared, model.stage) {
            (Some(prepared), _) => Some(prepared.summary().clone()),
            (None, Stage::Float) => {
                // The summary needs no calibration: it does not depend on the observers.
                let config = QuantizationConfig::symmetric().per_channel();
                Some(prepare(graph, &WgpuQuantizer::new().set_global(config).float_islands(true))?.summary().clone())
            }
            _ => None,
        };
        let integer_form = match model.stage {
            Stage::Qdq | Stage::Integer => {
                let summary = model.executable(FloatProducts::default())?.summary();
                let float = summary.float.iter().map(ToString::to_string).collect();
                Some(IntegerForm { integer: summary.integer, float })
            }
            Stage::Float | Stage::Prepared | Stage::Statistics => None,
        };
        let names = graph.output_names();
        Ok(Self {
            model: model.path.display().to_string(),
            format: model.format,
            stage: model.stage.to_string(),
            file_bytes: model.size_bytes,
            file_operators: model.operators.clone(),
            parameters: graph.nodes().iter().map(|node| elements(&node.op)).sum(),
            constant_bytes: model.constant_bytes(),
            inputs: graph.inputs().iter().map(|&id| value(&graph.node(id).name, id)).collect(),
            outputs: graph.outputs().iter().zip(names.iter()).map(|(&id, name)| value(name, id)).collect(),
            ops,
            nodes: graph.nodes().iter().filter(|node| computes(&node.op)).map(node).collect(),
            quantization,
            integer_form,
        })
    }

    fn text(&self, graph: &Graph) -> String {
        let mut text = format!("{}: {}, {} of {}\n", self.model, self.stage, self.format, size(self.file_bytes));
        if !self.file_operators.is_empty() {
            let _ = writeln!(text, "{}", printable(&coverage::share(&self.file_operators, &[])));
        }
        let parameters = size(self.constant_bytes);
        let _ = writeln!(
            text,
            "{} parameters, {parameters}; {} of {}",
            self.parameters,
            count(self.nodes.len(), "node"),
            count(self.ops.len(), "kind")
        );
        for (what, values) in [("input", &self.inputs), ("output", &self.outputs)] {
            for Value { name, dtype, shape } in values {
                let _ = writeln!(text, "{what:<6}  {}  {dtype} {shape}", printable(name));
            }
        }
        let ops: Vec<String> = self.ops.iter().map(|(op, nodes)| format!("{nodes} {op}")).collect();
        let _ = writeln!(text, "\n{}\n", ops.join(", "));
        let mut rows = vec![["node", "op", "result", "parameters", "reads"].map(str::to_owned).to_vec()];
        let constants: HashSet<&str> =
            graph.nodes().iter().filter(|n| matches!(n.op, Op::Constant(_))).map(|n| n.name.as_str()).collect();
        for node in &self.nodes {
            let parameters = if node.parameters > 0 { node.parameters.to_string() } else { String::new() };
            let reads: Vec<&str> =
                node.inputs.iter().map(String::as_str).filter(|name| !constants.contains(name)).collect();
            let more = reads.len().saturating_sub(MAX_READS);
            let mut reads = reads[..reads.len() - more].join(", ");
            if more > 0 {
                let _ = write!(reads, " and {more} more");
            }
            let result = format!("{} {}", node.dtype, node.shape);
            rows.push(vec![node.name.clone(), node.op.to_owned(), result, parameters, reads]);
        }
        text.push_str(&table(&rows));
        if let Some(summary) = &self.quantization {
            self.plan(&mut text, summary);
        }
        if let Some(form) = &self.integer_form {
            let _ = writeln!(text, "\nin integers: {}", count(form.integer.len(), "node"));
            form.integer.iter().for_each(|line| text.push_str(&format!("  {}\n", printable(line))));
            let _ = writeln!(text, "in float: {}", count(form.float.len(), "node"));
            form.float.iter().for_each(|line| text.push_str(&format!("  {}\n", printable(line))));
        }
        text
    }

    fn plan(&self, text: &mut String, summary: &QuantizationSummary) {
        let _ =
            writeln!(text, "\nwould be quantized (static, per channel): {}", count(summary.quantized.len(), "node"));
        for node in &summary.quantized {
            let points: Vec<String> = node.points.iter().map(|p| format!("{} {}", p.name, p.spec)).collect();
            let line = format!("{} ({}): {}", node.name, node.op, points.join("; "));
            let _ = writeln!(text, "  {}", printable(&line));
        }
        let _ = writeln!(text, "would stay in float: {}", count(summary.float.len(), "node"));
        for node in &summary.float {
            let line = format!("{} ({}): {}", node.name, node.op, node.reason);
            let _ = writeln!(text, "  {}", printable(&line));
        }
    }
}

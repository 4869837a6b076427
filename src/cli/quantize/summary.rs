//! Summarizes a quantized model.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use anyhow::Result;
use enfold::graph::Graph;
use enfold::ops::Op;
use enfold::quantize::{PreparedGraph, to_integer};

use crate::cli::model::constant_bytes;
use crate::cli::output::{count, printable, size};

/// The counts and sizes of a quantized model, and its nodes.
#[derive(Debug, serde::Serialize)]
pub(super) struct Summary {
    output: String,
    calibration_batches: u64,
    /// The number of linear layers and products of two activations.
    layers: usize,
    /// The number of those that compute in integers.
    int8_layers: usize,
    /// The number of nodes that stay in float for each reason.
    float_reasons: BTreeMap<String, usize>,
    file_bytes_before: Option<u64>,
    file_bytes_after: u64,
    constant_bytes_before: u64,
    constant_bytes_after: u64,
    integer: Vec<String>,
    float: Vec<FloatNode>,
}

#[derive(Debug, serde::Serialize)]
struct FloatNode {
    name: String,
    op: String,
    reason: String,
}

impl Summary {
    pub(super) fn new(
        path: &Path,
        prepared: &PreparedGraph,
        quantized: &Graph,
        file_bytes_before: Option<u64>,
        file_bytes_after: u64,
    ) -> Result<Self> {
        let integers = to_integer(quantized)?;
        let summary = integers.summary();
        let all = |is: fn(&Op) -> bool| integers.nodes().iter().filter(|node| is(&node.op)).count();
        let int8_layers = all(|op| op.is_layer() && op.is_integer());
        let mut float_reasons = BTreeMap::new();
        for node in &summary.float {
            *float_reasons.entry(node.reason.clone()).or_default() += 1;
        }
        let float = |n: enfold::graph::FloatNode| FloatNode { name: n.name, op: n.op.to_owned(), reason: n.reason };
        Ok(Self {
            output: path.display().to_string(),
            calibration_batches: prepared.batches(),
            layers: all(Op::is_layer),
            int8_layers,
            float_reasons,
            file_bytes_before,
            file_bytes_after,
            constant_bytes_before: constant_bytes(prepared.graph()),
            constant_bytes_after: constant_bytes(quantized),
            integer: summary.integer,
            float: summary.float.into_iter().map(float).collect(),
        })
    }

    pub(super) fn text(&self, verbose: bool) -> String {
        let mut text = format!("{}: {} of {} in int8", self.output, self.int8_layers, count(self.layers, "layer"));
        if self.calibration_batches > 0 {
            let _ = write!(text, ", calibrated with {}", count(self.calibration_batches as usize, "batch"));
        }
        let _ = writeln!(text);
        let (before, after) = (size(self.constant_bytes_before), size(self.constant_bytes_after));
        let _ = write!(text, "parameters: {before} before, {after} after");
        let files = size(self.file_bytes_after);
        let _ = match self.file_bytes_before {
            Some(before) => writeln!(text, "; file: {} before, {files} after", size(before)),
            None => writeln!(text, "; file: {files}"),
        };
        let (integer, float) = (count(self.integer.len(), "node"), count(self.float.len(), "node"));
        let _ =
            writeln!(text, "{integer} in integers, {float} in float{}", if float.starts_with("0 ") { "" } else { ":" });
        if verbose {
            self.float.iter().for_each(|n| {
                let _ = writeln!(text, "  {}", printable(&format!("{} ({}): {}", n.name, n.op, n.reason)));
            });
            let _ = writeln!(text, "in integers:");
            self.integer.iter().for_each(|line| {
                let _ = writeln!(text, "  {}", printable(line));
            });
            return text;
        }
        let mut reasons: Vec<_> = self.float_reasons.iter().collect();
        reasons.sort_by_key(|(_, nodes)| std::cmp::Reverse(**nodes));
        for (reason, nodes) in reasons {
            let _ = writeln!(text, "  {nodes:>4} {}", printable(reason));
        }
        text
    }
}

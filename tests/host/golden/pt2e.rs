//! The whole flow: prepare, calibrate, convert; then the graphs are walked side by side from their outputs.

use std::collections::BTreeMap;

use enfold::Graph;
use enfold::graph::NodeId;
use enfold::interp::Interpreter;
use enfold::ops::{
    Add, ChooseQParams, Constant, Dequantize, DequantizeDynamic, Input, Mul, Op, Quantize, QuantizeDynamic,
};
use enfold::values::{QuantRange, TensorQParams};
use serde_json::Value;

use super::file::Golden;
use super::models::{float_graph, quantized_graph};
use super::observers::close;

pub(super) fn compare(golden: &Golden) -> Result<(), String> {
    let float = float_graph(golden)?;
    let quantized = quantized_graph(golden, &float)?;
    let walk = Walk { golden, upstream: upstream(golden)?, graph: &quantized };
    walk.counts()?;
    walk.output()?;
    outputs(golden, &float, &quantized)
}

/// The structure, the numbers and the output of a quantize/dequantize graph.
pub(super) fn compare_quantized(golden: &Golden, quantized: &Graph) -> Result<(), String> {
    let walk = Walk { golden, upstream: upstream(golden)?, graph: quantized };
    walk.counts()?;
    walk.output()?;
    let y = Interpreter::new(quantized).run(&[golden.tensor("in.x")?]).map_err(|e| e.to_string())?;
    quantized_output(golden, quantized, &y[0])
}

/// `out.float_y` to rounding, `out.y` to one output step, and that on at most one element or one in a hundred.
fn outputs(golden: &Golden, float: &Graph, quantized: &Graph) -> Result<(), String> {
    let run = |graph: &Graph| Interpreter::new(graph).run(&[golden.tensor("in.x")?]).map_err(|e| e.to_string());
    let (float_y, y) = (run(float)?, run(quantized)?);
    for (name, got) in [("out.float_y", &float_y[0]), ("out.y", &y[0])] {
        if got.shape() != golden.tensor(name)?.shape() {
            return Err(format!("{name}: shape {:?}, expected {:?}", got.shape(), golden.tensor(name)?.shape()));
        }
    }
    let expected = golden.f32s("out.float_y")?;
    let largest = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
    for (at, (got, expected)) in float_y[0].as_f32().unwrap_or_default().iter().zip(expected).enumerate() {
        if (got - expected).abs() > 1e-5 * largest {
            return Err(format!("out.float_y: element {at} is {got}, expected {expected}"));
        }
    }

    quantized_output(golden, quantized, &y[0])
}

/// `out.y` to one output step.
fn quantized_output(golden: &Golden, quantized: &Graph, y: &enfold::Tensor) -> Result<(), String> {
    let (y, expected) = (y.as_f32().unwrap_or_default(), golden.f32s("out.y")?);
    match &quantized.node(quantized.outputs()[0]).op {
        Op::Dequantize(Dequantize { qparams: TensorQParams::PerTensor(step) }) => {
            within_a_step(y, expected, step.scale())
        }
        // Float sums have another order, which changes single quantized values.
        _ => within(y, expected, 1e-5),
    }
}

fn within_a_step(y: &[f32], expected: &[f32], step: f32) -> Result<(), String> {
    let mut apart = 0;
    for (at, (got, expected)) in y.iter().zip(expected).enumerate() {
        let steps = ((got - expected) / step).round();
        if steps.abs() > 1.0 {
            return Err(format!("out.y: element {at} is {got}, expected {expected}: {steps} steps apart"));
        }
        apart += usize::from(steps != 0.0);
    }
    if apart > 1 && apart * 100 > expected.len() {
        return Err(format!("out.y: {apart} of {} elements are one step apart", expected.len()));
    }
    Ok(())
}

/// All elements within `tolerance` of the largest.
pub(crate) fn within(y: &[f32], expected: &[f32], tolerance: f32) -> Result<(), String> {
    let largest = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
    for (at, (got, expected)) in y.iter().zip(expected).enumerate() {
        if (got - expected).abs() > tolerance * largest {
            return Err(format!("out.y: element {at} is {got}, expected {expected}, of at most {largest}"));
        }
    }
    Ok(())
}

/// One node of torch's listing.
struct Upstream<'g> {
    op: &'g str,
    args: &'g [Value],
}

type Listing<'g> = (BTreeMap<&'g str, Upstream<'g>>, &'g str);

/// The nodes by name, and the name of the one that is returned: the last before `output`.
fn upstream(golden: &Golden) -> Result<Listing<'_>, String> {
    let nodes = golden.case["nodes"].as_array().ok_or("no nodes in the case")?;
    let mut by_name = BTreeMap::new();
    let mut returned = "";
    for node in nodes {
        let name = node["name"].as_str().ok_or("a node without a name")?;
        let op = node["op"].as_str().ok_or("a node without an op")?;
        if op == "output" {
            continue;
        }
        returned = name;
        by_name.insert(name, Upstream { op, args: node["args"].as_array().map_or(&[], Vec::as_slice) });
    }
    Ok((by_name, returned))
}

struct Walk<'g> {
    golden: &'g Golden,
    upstream: Listing<'g>,
    graph: &'g Graph,
}

impl Walk<'_> {
    /// The numbers of quantize and dequantize nodes of each kind.
    fn counts(&self) -> Result<(), String> {
        for (kind, theirs) in [
            ("quantize_per_tensor", "quantize_per_tensor.default"),
            ("quantize_per_channel", "quantize_per_channel.default"),
            ("dequantize_per_tensor", "dequantize_per_tensor.default"),
            ("dequantize_per_channel", "dequantize_per_channel.default"),
            ("choose_qparams", "choose_qparams.tensor"),
            ("quantize_dynamic", "quantize_per_tensor.tensor"),
            ("dequantize_dynamic", "dequantize_per_tensor.tensor"),
        ] {
            let op = format!("quantized_decomposed.{theirs}");
            let expected = self.upstream.0.values().filter(|n| n.op == op).count();
            let got = self.graph.nodes().iter().filter(|n| n.op.name() == kind).count();
            if got != expected {
                return Err(format!("{got} nodes {kind}, expected {expected}"));
            }
        }
        Ok(())
    }

    fn output(&self) -> Result<(), String> {
        self.node(self.graph.outputs()[0], self.upstream.1)
    }

    /// Compares a node with one of torch, and then their inputs.
    fn node(&self, id: NodeId, name: &str) -> Result<(), String> {
        let ours = self.graph.node(id);
        let theirs = self.upstream.0.get(name).ok_or_else(|| format!("no node {name}"))?;
        let expected = match theirs.op {
            "aten.linear.default" => "linear",
            "aten.relu.default" => "relu",
            "aten.sigmoid.default" => "sigmoid",
            "aten.gelu.default" => "gelu",
            "aten.add.Tensor" => "add",
            "aten.mul.Tensor" => "mul",
            "aten.cat.default" => "concat",
            "aten.conv1d.default" | "aten.conv2d.default" => "conv",
            "aten.conv_transpose2d.input" => "conv_transpose",
            "aten.hardtanh.default" => "clamp",
            "aten.max_pool2d.default" => "max_pool",
            "aten.adaptive_avg_pool2d.default" => "adaptive_average_pool",
            "aten.flatten.using_ints" => "flatten",
            "aten.layer_norm.default" => "layer_norm",
            "placeholder" => "input",
            "get_attr" => "constant",
            "quantized_decomposed.choose_qparams.tensor" => "choose_qparams",
            "quantized_decomposed.quantize_per_tensor.tensor" => "quantize_dynamic",
            "quantized_decomposed.dequantize_per_tensor.tensor" => "dequantize_dynamic",
            op => op.trim_start_matches("quantized_decomposed.").trim_end_matches(".default"),
        };
        if ours.op.name() != expected {
            return Err(format!("{name} is fed by {}, expected {expected}: {}", ours.op.name(), ours.name));
        }
        let numbers: Vec<f64> = theirs.args.iter().filter_map(Value::as_f64).collect();
        match &ours.op {
            Op::Input(Input) => return Ok(()),
            Op::Constant(_) => return self.constant(id, name),
            Op::Quantize(Quantize { qparams: TensorQParams::PerTensor(q), range, .. }) => {
                self.per_tensor(name, q.scale(), q.zero_point(), theirs)?;
                self.codes(name, *range, &numbers[2..])?;
            }
            Op::Dequantize(Dequantize { qparams: TensorQParams::PerTensor(q) }) => {
                self.per_tensor(name, q.scale(), q.zero_point(), theirs)?;
            }
            Op::Dequantize(Dequantize { qparams: TensorQParams::PerChannel { channels, ch_axis } }) => {
                let attr = |at: usize| format!("out.attr.{}", theirs.args[at].as_str().unwrap_or_default());
                let scales: Vec<f32> = channels.iter().map(|q| q.scale()).collect();
                close(&format!("{name}: scale"), &scales, self.golden.f32s(&attr(1))?)?;
                let zero_points: Vec<i32> = channels.iter().map(|q| q.zero_point()).collect();
                if zero_points != self.golden.i32s(&attr(2))? || theirs.args[3].as_u64() != Some(*ch_axis as u64) {
                    return Err(format!("{name}: zero points {zero_points:?} on axis {ch_axis}"));
                }
                // Scales and zero points are nodes in torch, but not here.
                return self.node(ours.inputs[0], theirs.args[0].as_str().unwrap_or_default());
            }
            Op::ChooseQParams(ChooseQParams { range, eps, .. }) => {
                self.codes(name, *range, &numbers)?;
                close(&format!("{name}: eps"), &[*eps], &[numbers[2] as f32])?;
            }
            Op::QuantizeDynamic(QuantizeDynamic { range }) => self.codes(name, *range, &numbers)?,
            Op::Linear(_) | Op::Add(Add) | Op::Mul(Mul) | Op::Unary(_) | Op::Concat(_) | Op::Flatten(_) => {}
            Op::Conv(_) | Op::ConvTranspose(_) | Op::Clamp(_) | Op::MaxPool(_) | Op::AveragePool(_) => {}
            Op::LayerNorm(_) | Op::DequantizeDynamic(DequantizeDynamic) => {}
            op => return Err(format!("{name}: no comparison for {}", op.name())),
        }
        let feeds = self.feeds(theirs);
        if feeds.len() != ours.inputs.len() {
            return Err(format!("{name}: {} inputs, expected {feeds:?}", ours.inputs.len()));
        }
        ours.inputs.iter().zip(feeds).try_for_each(|(input, feed)| self.node(*input, feed))
    }

    /// The inputs of a node of torch. The two results of choose_qparams are one node here.
    fn feeds(&self, theirs: &Upstream<'_>) -> Vec<&str> {
        let names = theirs.args.iter().filter_map(Value::as_str);
        let names = names.flat_map(|arg| arg.trim_matches(['[', ']']).split(", "));
        let mut feeds: Vec<&str> = Vec::new();
        for name in names {
            let Some((name, node)) = self.upstream.0.get_key_value(name) else { continue };
            let source = if node.op.contains("getitem") { node.args[0].as_str().unwrap_or_default() } else { name };
            if node.op.contains("getitem") && feeds.last() == Some(&source) {
                continue;
            }
            feeds.push(source);
        }
        feeds
    }

    fn codes(&self, name: &str, range: QuantRange, expected: &[f64]) -> Result<(), String> {
        let ours = [f64::from(range.quant_min()), f64::from(range.quant_max())];
        if expected.get(..2) == Some(ours.as_slice()) {
            return Ok(());
        }
        Err(format!("{name}: codes {range}, expected {expected:?}"))
    }

    fn per_tensor(&self, name: &str, scale: f32, zero_point: i32, theirs: &Upstream<'_>) -> Result<(), String> {
        let expected = theirs.args[1].as_f64().ok_or_else(|| format!("{name}: no scale"))? as f32;
        close(&format!("{name}: scale"), &[scale], &[expected])?;
        if theirs.args[2].as_i64() != Some(zero_point.into()) {
            return Err(format!("{name}: zero point {zero_point}, expected {}", theirs.args[2]));
        }
        Ok(())
    }

    /// Quantized weights and biases are equal.
    fn constant(&self, id: NodeId, name: &str) -> Result<(), String> {
        let Op::Constant(Constant { tensor: ours, .. }) = &self.graph.node(id).op else {
            return Err(format!("{name} is not a constant"));
        };
        let theirs = self.golden.tensor(&format!("out.attr.{name}"))?;
        if **ours == *theirs {
            return Ok(());
        }
        // Training has changed a bias, in sums of another order.
        if let (true, Some(ours), Some(theirs)) = (self.golden.kind == "conv_qat", ours.as_f32(), theirs.as_f32()) {
            return within(ours, theirs, 1e-5);
        }
        Err(format!("{name}: the weight or bias {} differs from {theirs:?}", self.graph.node(id).name))
    }
}

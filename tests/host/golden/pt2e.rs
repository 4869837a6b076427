//! The whole flow: prepare, calibrate, convert; then the graphs are walked side by side from their outputs.

use std::collections::BTreeMap;

use enfold::graph::{NodeId, Op, UnaryOp};
use enfold::interp::Interpreter;
use enfold::qparams::TensorQParams;
use enfold::quantize::{ConvertOptions, QuantizationConfig, WgpuQuantizer, convert, prepare};
use enfold::{Graph, GraphBuilder, Shape};
use serde_json::Value;

use super::file::Golden;
use super::observers::close;

pub(super) fn compare(golden: &Golden) -> Result<(), String> {
    let float = float_graph(golden)?;
    let quantized = quantized_graph(golden, &float)?;
    let walk = Walk { golden, upstream: upstream(golden)?, graph: &quantized };
    walk.counts()?;
    walk.output()?;
    outputs(golden, &float, &quantized)
}

/// The float network of a case: linear layers with a ReLU between any two, and behind the last if the case says so.
pub(crate) fn float_graph(golden: &Golden) -> Result<Graph, String> {
    let layers = golden.int("layers")?;
    let mut g = GraphBuilder::new();
    let x = golden.tensor("in.x")?;
    let mut h = g.input("x", Shape::batched(&x.shape()[1..])).map_err(|e| e.to_string())?;
    for i in 0..layers {
        let weight = golden.tensor(&format!("param.fc.{i}.weight"))?.clone();
        let bias = golden.tensor(&format!("param.fc.{i}.bias")).ok().cloned();
        h = g.linear(&format!("fc.{i}"), h, weight, bias).map_err(|e| e.to_string())?;
        if i + 1 < layers || golden.flag("last_relu")? {
            h = g.relu(&format!("relu.{i}"), h).map_err(|e| e.to_string())?;
        }
    }
    g.finish([h]).map_err(|e| e.to_string())
}

/// The quantize/dequantize form, calibrated on the batches of the case.
pub(crate) fn quantized_graph(golden: &Golden, float: &Graph) -> Result<Graph, String> {
    let symmetric = QuantizationConfig::symmetric();
    let config = if golden.flag("per_channel")? { symmetric.per_channel() } else { symmetric };
    let quantizer = WgpuQuantizer::new().set_global(config);
    let mut prepared = prepare(float, &quantizer).map_err(|e| e.to_string())?;
    for batch in 0..golden.int("calib")? {
        prepared.observe(&[golden.tensor(&format!("in.calib{batch}"))?]).map_err(|e| e.to_string())?;
    }
    convert(&prepared, &ConvertOptions::default()).map_err(|e| e.to_string())
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

    let last = quantized.node(quantized.outputs()[0]);
    let Op::Dequantize { qparams: TensorQParams::PerTensor(step) } = &last.op else {
        return Err(format!("the output is {}, expected a dequantize", last.op.name()));
    };
    let expected = golden.f32s("out.y")?;
    let mut apart = 0;
    for (at, (got, expected)) in y[0].as_f32().unwrap_or_default().iter().zip(expected).enumerate() {
        let steps = ((got - expected) / step.scale()).round();
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
        for kind in ["quantize_per_tensor", "quantize_per_channel", "dequantize_per_tensor", "dequantize_per_channel"] {
            let op = format!("quantized_decomposed.{kind}.default");
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

    /// Compares a node of ours with one of torch's, and then what feeds them.
    fn node(&self, id: NodeId, name: &str) -> Result<(), String> {
        let ours = self.graph.node(id);
        let theirs = self.upstream.0.get(name).ok_or_else(|| format!("no node {name}"))?;
        let expected = match theirs.op {
            "aten.linear.default" => "linear",
            "aten.relu.default" => "relu",
            "placeholder" => "input",
            "get_attr" => "constant",
            op => op.trim_start_matches("quantized_decomposed.").trim_end_matches(".default"),
        };
        if ours.op.name() != expected {
            return Err(format!("{name} is fed by {}, expected {expected}: {}", ours.op.name(), ours.name));
        }
        let inputs = match &ours.op {
            Op::Input => 0,
            Op::Constant(_) => {
                return self.constant(id, name);
            }
            Op::Linear => ours.inputs.len(),
            Op::Unary(UnaryOp::Relu) => 1,
            Op::Quantize { qparams: TensorQParams::PerTensor(q), range } => {
                self.per_tensor(name, q.scale(), q.zero_point(), theirs)?;
                let (lo, hi) = (theirs.args[3].as_i64(), theirs.args[4].as_i64());
                if (lo, hi) != (Some(range.quant_min().into()), Some(range.quant_max().into())) {
                    return Err(format!("{name}: codes {range}, expected {lo:?}..={hi:?}"));
                }
                1
            }
            Op::Dequantize { qparams: TensorQParams::PerTensor(q) } => {
                self.per_tensor(name, q.scale(), q.zero_point(), theirs)?;
                1
            }
            Op::Dequantize { qparams: TensorQParams::PerChannel { channels, ch_axis } } => {
                let attr = |at: usize| format!("out.attr.{}", theirs.args[at].as_str().unwrap_or_default());
                let scales: Vec<f32> = channels.iter().map(|q| q.scale()).collect();
                close(&format!("{name}: scale"), &scales, self.golden.f32s(&attr(1))?)?;
                let zero_points: Vec<i32> = channels.iter().map(|q| q.zero_point()).collect();
                if zero_points != self.golden.i32s(&attr(2))? || theirs.args[3].as_u64() != Some(*ch_axis as u64) {
                    return Err(format!("{name}: zero points {zero_points:?} on axis {ch_axis}"));
                }
                1
            }
            op => return Err(format!("{name}: no comparison for {}", op.name())),
        };
        if matches!(ours.op, Op::Linear) && theirs.args.iter().filter(|a| a.is_string()).count() != inputs {
            return Err(format!("{name}: {inputs} inputs, expected {:?}", theirs.args));
        }
        for (at, input) in ours.inputs[..inputs].iter().enumerate() {
            let feeds = theirs.args.get(at).and_then(Value::as_str).ok_or_else(|| format!("{name}: no input {at}"))?;
            self.node(*input, feeds)?;
        }
        Ok(())
    }

    fn per_tensor(&self, name: &str, scale: f32, zero_point: i32, theirs: &Upstream<'_>) -> Result<(), String> {
        let expected = theirs.args[1].as_f64().ok_or_else(|| format!("{name}: no scale"))? as f32;
        close(&format!("{name}: scale"), &[scale], &[expected])?;
        if theirs.args[2].as_i64() != Some(zero_point.into()) {
            return Err(format!("{name}: zero point {zero_point}, expected {}", theirs.args[2]));
        }
        Ok(())
    }

    /// Weight codes and biases are equal.
    fn constant(&self, id: NodeId, name: &str) -> Result<(), String> {
        let Op::Constant(ours) = &self.graph.node(id).op else { return Err(format!("{name} is not a constant")) };
        let theirs = self.golden.tensor(&format!("out.attr.{name}"))?;
        if **ours == *theirs {
            return Ok(());
        }
        Err(format!("{name}: the weight or bias {} differs from {theirs:?}", self.graph.node(id).name))
    }
}

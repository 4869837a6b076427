//! The numeric debugger, node by node.

use enfold::compare::compare as compare_graphs;
use enfold::quantize::to_integer;
use serde_json::Value;

use super::file::Golden;
use super::models::{float_graph, quantized_graph};

/// SQNR within 0.2 dB of torchao's for each node that it lists, in its order, and the mean squared error that goes with it.
pub(super) fn compare(golden: &Golden) -> Result<(), String> {
    let float = float_graph(golden)?;
    let quantized = quantized_graph(golden, &float)?;
    let comparison = compare_graphs(&float, &quantized, &[golden.tensor("in.x")?]).map_err(|e| e.to_string())?;
    let listed = golden.case["comparison"].as_array().ok_or("no comparison in the case")?;
    if listed.len() != comparison.nodes.len() {
        return Err(format!("{} nodes, expected {}", comparison.nodes.len(), listed.len()));
    }
    for (node, expected) in comparison.nodes.iter().zip(listed) {
        let op = expected["reference"].as_str().unwrap_or_default().split('_').next().unwrap_or_default();
        let number = |field: &str| expected[field].as_f64().ok_or_else(|| format!("{expected} has no {field}"));
        if node.op != op || (node.sqnr_db - number("sqnr")?).abs() > 0.2 {
            return Err(format!("{} ({}): {:.3} dB, expected {expected}", node.origin, node.op, node.sqnr_db));
        }
        if (node.mse / number("mse")?).ln().abs() > 0.05 {
            return Err(format!("{}: mean squared error {:e}, expected {expected}", node.origin, node.mse));
        }
        // A linear layer's own error is part of what accumulates.
        if node.op == "linear" && node.weight_sqnr_db.is_none() {
            return Err(format!("{} has no weight error", node.origin));
        }
    }
    // Node identity survives the integer form: its values are the same but for a flipped code.
    let integers = to_integer(&quantized).map_err(|e| e.to_string())?;
    let of_integers = compare_graphs(&float, &integers, &[golden.tensor("in.x")?]).map_err(|e| e.to_string())?;
    for node in of_integers.nodes {
        let before = comparison.get(&node.origin).ok_or_else(|| format!("{} is new", node.origin))?;
        if (node.sqnr_db - before.sqnr_db).abs() > 0.5 {
            return Err(format!("{}: {:.3} dB in integers, {:.3} before", node.origin, node.sqnr_db, before.sqnr_db));
        }
    }
    Ok(())
}

/// A comparison that is off by half a decibel.
pub(super) fn spoil(golden: &mut Golden) {
    let node = &mut golden.case["comparison"][1];
    node["sqnr"] = Value::from(node["sqnr"].as_f64().unwrap_or_default() + 0.5);
}

//! Operators as formats 1 to 3 wrote them, rewritten to the form that is derived from their types.

use serde_json::{Value, json};

use super::ArchiveError;
use super::record::NodeRecord;
use super::tensors::Reader;

pub(super) fn upgrade(node: &mut NodeRecord, reader: &Reader<'_>) -> Result<(), ArchiveError> {
    let broken = |problem: String| ArchiveError::Node { node: node.name.clone(), problem };
    let (tag, old) = match node.op.take() {
        Value::String(tag) => (tag, Value::Null),
        Value::Object(one) if one.len() == 1 => one.into_iter().next().unwrap_or_default(),
        other => return Err(broken(format!("{other} is not an operator"))),
    };
    let one = |field: &str| json!({ field: old });
    let (name, op) = match tag.as_str() {
        "input" => {
            node.declared = Some(old);
            ("input", Value::Null)
        }
        "constant" => {
            let tensor = old.as_str().ok_or_else(|| broken(format!("{old} is not the name of a tensor")))?;
            node.tensor = Some(tensor.to_owned());
            ("constant", json!({}))
        }
        "matmul" => ("mat_mul", old),
        "add_scalar" | "mul_scalar" => (tag.as_str(), one("value")),
        "unary" | "binary" => (tag.as_str(), one("op")),
        "to_integer" => ("to_integer", one("to")),
        "reshape" => ("reshape", one("dims")),
        "flatten" => ("flatten", one("start_axis")),
        "transpose" => ("transpose", one("perm")),
        "concat" | "max" | "softmax" => (tag.as_str(), one("axis")),
        "sum" => ("sum", json!({ "axis": old, "checked": false })),
        "sum_checked" => ("sum", json!({ "axis": old, "checked": true })),
        "layer_norm" | "batch_norm" => (tag.as_str(), one("eps")),
        "observe" => ("observe", one("observer")),
        "quantize" => {
            let qparams = qparams(&old["qparams"], reader, &broken)?;
            ("quantize", json!({ "qparams": qparams, "range": old["range"] }))
        }
        "dequantize" => ("dequantize", json!({ "qparams": qparams(&old, reader, &broken)? })),
        "choose_qparams" => {
            let (qscheme, range, eps) = (scheme(&old["qscheme"]), &old["range"], &old["eps"]);
            ("choose_q_params", json!({ "qscheme": qscheme, "range": range, "eps": eps }))
        }
        "quantize_dynamic" => ("quantize_dynamic", one("range")),
        "integer_linear" => ("integer_linear", one("fraction_bits")),
        "requantize" => ("requantize", with_range(json!({}), &old)),
        "integer_add" => {
            let [a, b] = [&old["multipliers"][0], &old["multipliers"][1]];
            let multipliers = json!({ "a": a, "b": b, "shift": old["shift"] });
            let op = with_zero_points(json!({ "multipliers": multipliers }), &old["zero_points"]);
            ("integer_add", with_range(op, &old["codes"]))
        }
        "integer_mul" => {
            let op = with_zero_points(json!({ "multiplier": old["multiplier"] }), &old["zero_points"]);
            ("integer_mul", with_range(op, &old["codes"]))
        }
        "integer_matmul" => ("integer_mat_mul", with_zero_points(json!({}), &old["zero_points"])),
        "integer_matmul_dynamic" => ("integer_mat_mul_dynamic", old),
        "table" => ("lut", json!({ "qparams": old })),
        _ => (tag.as_str(), old),
    };
    node.op = json!({ name: op });
    Ok(())
}

/// Adds two zero points.
fn with_zero_points(mut op: Value, zero_points: &Value) -> Value {
    op["a_zero_point"] = zero_points[0].clone();
    op["b_zero_point"] = zero_points[1].clone();
    op
}

/// Adds scale and zero point of a result, and its smallest and largest quantized value.
fn with_range(mut op: Value, codes: &Value) -> Value {
    op["qparams"] = json!({ "scale": codes["scale"], "zero_point": codes["zero_point"] });
    op["lo"] = codes["lo"].clone();
    op["hi"] = codes["hi"].clone();
    op
}

fn scheme(old: &Value) -> Value {
    match (old.as_str(), old) {
        (Some("TensorAffine"), _) => json!("per_tensor_affine"),
        (Some("TensorSymmetric"), _) => json!("per_tensor_symmetric"),
        (Some("TokenAffine"), _) => json!("per_token_affine"),
        (_, other) => other.clone(),
    }
}

/// Scales and zero points of channels, which were tensors of the file.
fn qparams(old: &Value, reader: &Reader<'_>, broken: &impl Fn(String) -> ArchiveError) -> Result<Value, ArchiveError> {
    if let Some(one) = old.get("PerTensor") {
        return Ok(json!({ "per_tensor": one }));
    }
    let channels = &old["PerChannel"];
    let name = |field: &str| {
        channels[field].as_str().ok_or_else(|| broken(format!("{} is not the name of a tensor", channels[field])))
    };
    let (scales, zero_points) = (reader.floats(name("scales")?)?, reader.integers(name("zero_points")?)?);
    Ok(json!({ "per_channel": { "scales": scales, "zero_points": zero_points, "ch_axis": channels["ch_axis"] } }))
}

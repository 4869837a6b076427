//! Rewrites the operators and observers of formats 1 to 3, which were written by hand, to the form that serde derives from their types.

use serde::Deserialize;
use serde_json::{Value, json};

use super::error::ArchiveError;
#[cfg(feature = "flow")]
use super::observers::ObserverRecord;
use super::record::NodeRecord;
use super::tensors::Reader;
use crate::files::json::Raw;
use crate::values::{QuantRange, Tensor, check_bits};

pub(super) fn upgrade_node(node: &mut NodeRecord, reader: &Reader<'_>) -> Result<(), ArchiveError> {
    let broken = |problem: String| ArchiveError::Node { node: node.name.clone(), problem };
    let (tag, old) = match parsed(&node.op).map_err(|e| broken(e.to_string()))? {
        Value::String(tag) => (tag, Value::Null),
        Value::Object(fields) => match <[(String, Value); 1]>::try_from(Vec::from_iter(fields)) {
            Ok([only]) => only,
            Err(fields) => return Err(broken(format!("an object of {} fields is not an operator", fields.len()))),
        },
        other => return Err(broken(format!("{other} is not an operator"))),
    };
    let one = |field: &str| json!({ field: old });
    let (name, op) = match tag.as_str() {
        "input" => {
            node.declared = Some(Raw::of(&old).map_err(|e| broken(e.to_string()))?);
            ("input", Value::Null)
        }
        "constant" => {
            let tensor = old.as_str().ok_or_else(|| broken(format!("{old} is not the name of a tensor")))?;
            node.tensor = Some(tensor.to_owned());
            let bits = few_bits(&*reader.shared(tensor)?);
            ("constant", bits.map_or(json!({}), |bits| json!({ "bits": bits })))
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
            let (qscheme, range, eps) = (scheme(&old["qscheme"], &old["range"]), &old["range"], &old["eps"]);
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
    node.op = Raw::of(&json!({ name: op })).map_err(|e| broken(e.to_string()))?;
    Ok(())
}

fn parsed(json: &Raw) -> serde_json::Result<Value> {
    serde_json::from_str(json.get())
}

/// The smallest number of bits that holds all values of an int8 tensor, if it is at most 4. Old files do not record the bits of a
/// weight, so its values are the only source.
fn few_bits(tensor: &Tensor) -> Option<u32> {
    (2..=4).find(|&bits| check_bits(tensor, bits).is_ok())
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

/// A scheme was one word, or one word and the channel axis. Its bits are those of the range.
fn scheme(old: &Value, range: &Value) -> Value {
    let (granularity, symmetry) = match old.as_str() {
        Some("TensorAffine") => (json!("tensor"), "affine"),
        Some("TensorSymmetric") => (json!("tensor"), "symmetric"),
        Some("TokenAffine") => (json!("token"), "affine"),
        _ => match (old.get("ChannelAffine"), old.get("ChannelSymmetric")) {
            (Some(axis), _) => (json!({ "channel": { "axis": axis } }), "affine"),
            (_, Some(axis)) => (json!({ "channel": { "axis": axis } }), "symmetric"),
            _ => return old.clone(),
        },
    };
    let bits = QuantRange::deserialize(range).map_or(8, |range| range.bits());
    json!({ "granularity": granularity, "symmetry": symmetry, "bits": bits })
}

#[cfg(feature = "flow")]
pub(super) fn upgrade_observer(
    at: usize,
    record: &mut ObserverRecord,
    reader: &Reader<'_>,
) -> Result<(), ArchiveError> {
    let broken = |problem: String| ArchiveError::Node { node: format!("observer {at}"), problem };
    let json = |e: serde_json::Error| broken(e.to_string());
    let old = parsed(&record.spec).map_err(json)?;
    let spec = if let Some(spec) = old.get("Observed") {
        let (qscheme, observer) = (scheme(&spec["qscheme"], &spec["range"]), observer_kind(&spec["observer"]));
        json!({ "observed": { "range": spec["range"], "qscheme": qscheme, "observer": observer, "eps": spec["eps"] } })
    } else if let Some(spec) = old.get("Fixed") {
        let qparams = json!({ "scale": spec["scale"], "zero_point": spec["zero_point"] });
        json!({ "fixed_qparams": { "qparams": qparams, "range": spec["range"] } })
    } else if let Some(spec) = old.get("BiasScale") {
        let points: Vec<Value> = spec["derived_from"].as_array().into_iter().flatten().map(edge_or_node).collect();
        json!({ "derived": { "derived_from": points, "rule": "bias_scale", "range": spec["range"] } })
    } else {
        return Err(broken(format!("{old} is not a spec")));
    };
    let old = parsed(&record.state).map_err(json)?;
    let state = match (old.as_str(), old.get("Known")) {
        (Some("Nothing"), _) => json!("nothing"),
        (_, Some(known)) => json!({ "known": qparams(known, reader, &broken)? }),
        _ => match (old.get("Ranges"), old.get("Histograms")) {
            (Some(ranges), _) => json!({ "ranges": ranges }),
            (_, Some(histograms)) => json!({ "histograms": histograms }),
            _ => return Err(broken(format!("{old} is not the state of an observer"))),
        },
    };
    record.spec = Raw::of(&spec).map_err(json)?;
    record.state = Raw::of(&state).map_err(json)?;
    Ok(())
}

fn observer_kind(old: &Value) -> Value {
    match old.as_str() {
        Some("MinMax") => json!("min_max"),
        Some("Histogram") => json!("histogram"),
        Some("Mse") => json!("mse"),
        Some("Placeholder") => json!("placeholder"),
        _ => match (old.get("MovingAverage"), old.get("Percentile")) {
            (Some(constant), _) => json!({ "moving_average_min_max": { "averaging_constant": constant } }),
            (_, Some(fraction)) => json!({ "percentile": { "fraction": fraction } }),
            _ => old.clone(),
        },
    }
}

fn edge_or_node(old: &Value) -> Value {
    match (old.get("Edge"), old.get("Node")) {
        (Some(edge), _) => json!({ "edge": { "producer": edge[0], "consumer": edge[1] } }),
        (_, Some(node)) => json!({ "node": node }),
        _ => old.clone(),
    }
}

/// Quantization parameters. The scales and zero points of channels were tensors of the file.
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::graph::NodeId;
    use crate::quantize::{
        DerivedRule, DerivedSpec, EdgeOrNode, FixedQParamsSpec, ObservedSpec, Observer, ObserverKind, QuantizationSpec,
    };
    use crate::values::{QParams, QScheme};

    /// Observers as format 3 wrote them.
    #[test]
    fn observers_of_old_formats_are_read() {
        let bytes = safetensors::serialize(
            [("none", safetensors::tensor::TensorView::new(safetensors::Dtype::U8, vec![0], &[]).expect("empty"))],
            None,
        )
        .expect("bytes");
        let (data, header) = crate::files::safetensors::header(&bytes).expect("a file");
        let reader = Reader::new(header, &bytes[data..], BTreeMap::new());
        let observer = |spec: &str, state: &str| {
            let value = |text: &str| crate::files::json::from_str::<Raw>(text).expect("JSON");
            let mut record = ObserverRecord { spec: value(spec), state: value(state) };
            upgrade_observer(0, &mut record, &reader).and_then(|()| record.observer(0, &reader))
        };
        let observed = |range: QuantRange, qscheme, observer| ObservedSpec { range, qscheme, observer, eps: 0.25 };
        for (text, expected) in [
            (
                r#"{"Observed":{"range":[-128,127],"qscheme":"TokenAffine","observer":"Placeholder","eps":0.25}}"#,
                observed(QuantRange::INT8, QScheme::per_token_affine(), ObserverKind::Placeholder),
            ),
            (
                r#"{"Observed":{"range":[-128,127],"qscheme":"TensorAffine","observer":{"Percentile":0.5},"eps":0.25}}"#,
                observed(QuantRange::INT8, QScheme::per_tensor_affine(), ObserverKind::Percentile { fraction: 0.5 }),
            ),
        ] {
            let new = Observer::new(expected).expect("valid");
            let state = if expected.is_dynamic() { r#""Nothing""# } else { r#"{"Histograms":[]}"# };
            assert_eq!(observer(text, state).expect("read"), new);
        }
        let known = r#"{"Known":{"PerTensor":{"scale":0.5,"zero_point":3}}}"#;
        let text =
            r#"{"Observed":{"range":[-7,7],"qscheme":"TensorAffine","observer":{"MovingAverage":0.5},"eps":0.25}}"#;
        let read = observer(text, known).expect("read");
        let (range, qscheme) = (QuantRange::new(-7, 7).expect("valid"), QScheme::per_tensor_affine().with_bits(4));
        let moving = ObserverKind::MovingAverageMinMax { averaging_constant: 0.5 };
        assert_eq!(read.spec(), &observed(range, qscheme, moving).into());
        assert_eq!(read.calculate_qparams(), Ok(QParams::new(0.5, 3).expect("valid").into()));
        let channels = json!({ "ChannelSymmetric": 1 });
        let new = QScheme::deserialize(scheme(&channels, &json!([-127, 127]))).expect("a scheme");
        assert_eq!(new, QScheme::per_channel_symmetric(1));
        let fixed = observer(r#"{"Fixed":{"scale":0.5,"zero_point":-3,"range":[-128,127]}}"#, r#""Nothing""#);
        let qparams = QParams::new(0.5, -3).expect("valid");
        let expected = Observer::fixed(FixedQParamsSpec { qparams, range: QuantRange::INT8 });
        assert_eq!(fixed.expect("read"), expected);
        let derived = r#"{"BiasScale":{"derived_from":[{"Edge":[0,3]},{"Node":2}],"range":[-2147483648,2147483647]}}"#;
        let (producer, consumer) = (NodeId::new(0), NodeId::new(3));
        let derived_from = vec![EdgeOrNode::Edge { producer, consumer }, EdgeOrNode::Node(NodeId::new(2))];
        let spec = DerivedSpec { derived_from, rule: DerivedRule::BiasScale, range: QuantRange::INT32 };
        let read = observer(derived, r#""Nothing""#).expect("read");
        assert_eq!(read.spec(), &QuantizationSpec::Derived(spec));
        for (spec, state) in [("7", r#""Nothing""#), (text, "[]")] {
            assert!(observer(spec, state).expect_err("not read").to_string().starts_with("observer 0: "));
        }
    }
}

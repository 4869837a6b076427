//! Comparison with results of torchao, file by file.
//!
//! `tests/golden` holds safetensors files: `in.*` and `param.*` are inputs, `out.*` torchao's results, and the metadata's
//! `case` describes the case in JSON. `ENFOLD_GOLDEN_DIR` names another directory. Each file belongs to a kind, each kind
//! to a test below; anything else is a failure.

mod debugger;
mod file;
mod images;
mod int4;
mod models;
mod observers;
mod pt2e;
mod qat;
mod qdq;

use file::Golden;

use crate::report::report;

/// The kinds that the tests below compare. The kinds of integer forms are compared in [`accuracy`](crate::accuracy).
const COVERED: [&str; 22] = [
    "quantize_per_tensor",
    "quantize_per_channel",
    "choose_qparams",
    "choose_qparams_per_token_asymmetric",
    "observer/minmax",
    "observer/per_channel_minmax",
    "observer/moving_average_minmax",
    "observer/moving_average_per_channel_minmax",
    "observer/histogram",
    "pt2e/static",
    "pt2e/dynamic",
    "pt2e/static/reference",
    "pt2e/dynamic/reference",
    "conv",
    "settings",
    "numeric_debugger",
    "fake_quantize_per_tensor",
    "fake_quantize_per_channel",
    "fused_moving_avg_obs_fake_quant",
    "qat",
    "conv_qat",
    "int4_group",
];

/// The quantized networks of some kinds, each with its name and a batch.
pub(crate) fn quantized_networks(kinds: &[&str]) -> Vec<(String, enfold::Graph, enfold::Tensor)> {
    let files = file::all(&file::directory()).into_iter().filter(|f| kinds.contains(&f.kind.as_str()));
    let network = |golden: Golden| {
        let float = models::float_graph(&golden).expect("a float graph");
        let quantized = models::quantized_graph(&golden, &float).expect("a quantized graph");
        let x = golden.tensor("in.x").expect("a batch").clone();
        (golden.name, quantized, x)
    };
    files.map(network).collect()
}

/// Compares every file of a kind, prints how many, and reports all that differ.
fn compare_all(kind: &str, compare: impl Fn(&Golden) -> Result<(), String>) {
    assert!(COVERED.contains(&kind), "{kind} is not listed as covered");
    let files: Vec<Golden> = file::all(&file::directory()).into_iter().filter(|f| f.kind == kind).collect();
    let failures: Vec<String> =
        files.iter().filter_map(|f| compare(f).err().map(|e| format!("{}: {e}", f.name))).collect();
    report(&format!("golden {kind}: {} files compared, {} differ", files.len(), failures.len()));
    assert!(failures.is_empty(), "{} of {} files differ:\n{}", failures.len(), files.len(), failures.join("\n"));
    // Another directory may hold only some kinds; the one of this repository holds all.
    assert!(!files.is_empty() || file::replaced(), "no file of kind {kind}");
}

#[test]
fn every_file_is_of_a_known_kind() {
    let files = file::all(&file::directory());
    assert!(!files.is_empty(), "no golden files in {}", file::directory().display());
    let unknown: Vec<String> = files
        .iter()
        .filter(|f| !COVERED.contains(&f.kind.as_str()))
        .map(|f| format!("{}: {}", f.name, f.kind))
        .collect();
    assert!(unknown.is_empty(), "files of unknown kind:\n{}", unknown.join("\n"));
    report(&format!("golden: {} files, each of a kind that is compared", files.len()));
}

#[test]
fn quantize_per_tensor() {
    compare_all("quantize_per_tensor", qdq::compare);
}

#[test]
fn quantize_per_channel() {
    compare_all("quantize_per_channel", qdq::compare);
}

#[test]
fn minmax_observer() {
    compare_all("observer/minmax", observers::compare);
}

#[test]
fn per_channel_minmax_observer() {
    compare_all("observer/per_channel_minmax", observers::compare);
}

#[test]
fn histogram_observer() {
    compare_all("observer/histogram", observers::compare);
}

#[test]
fn moving_average_observers() {
    compare_all("observer/moving_average_minmax", observers::compare);
    compare_all("observer/moving_average_per_channel_minmax", observers::compare);
}

#[test]
fn choose_qparams() {
    compare_all("choose_qparams", qdq::compare_dynamic);
    compare_all("choose_qparams_per_token_asymmetric", qdq::compare_dynamic);
}

#[test]
fn int4_groups() {
    compare_all("int4_group", int4::compare);
}

#[test]
fn pt2e_static() {
    compare_all("pt2e/static", pt2e::compare);
}

#[test]
fn pt2e_dynamic() {
    compare_all("pt2e/dynamic", pt2e::compare);
}

#[test]
fn convolutions() {
    compare_all("conv", pt2e::compare);
}

#[test]
fn settings() {
    compare_all("settings", pt2e::compare);
}

#[test]
fn numeric_debugger() {
    compare_all("numeric_debugger", debugger::compare);
}

#[test]
fn fake_quantize() {
    compare_all("fake_quantize_per_tensor", qat::compare_fake_quantize);
    compare_all("fake_quantize_per_channel", qat::compare_fake_quantize);
    compare_all("fused_moving_avg_obs_fake_quant", qat::compare_fused);
}

#[test]
fn quantization_aware_training() {
    compare_all("qat", qat::compare);
    compare_all("conv_qat", qat::compare_conv);
}

/// Every harness must notice one changed number on one side.
mod negative_controls {
    use super::*;

    fn first(kind: &str) -> Golden {
        file::all(&file::ours())
            .into_iter()
            .find(|f| f.kind == kind)
            .unwrap_or_else(|| panic!("no file of kind {kind}"))
    }

    #[test]
    fn a_changed_code_is_named() {
        for kind in ["quantize_per_tensor", "quantize_per_channel"] {
            let mut golden = first(kind);
            golden.i8_mut("out.q")[5] ^= 1;
            let error = qdq::compare(&golden).expect_err("one code differs");
            assert!(error.contains("element 5"), "{error}");
        }
    }

    #[test]
    fn a_changed_gradient_loss_or_trained_weight_shows() {
        for kind in ["fake_quantize_per_tensor", "fake_quantize_per_channel"] {
            let mut golden = first(kind);
            golden.f32_mut("out.grad")[7] += 1.0;
            assert!(qat::compare_fake_quantize(&golden).is_err_and(|e| e.contains("out.grad: element 7")), "{kind}");
        }
        let mut golden = first("fused_moving_avg_obs_fake_quant");
        golden.f32_mut("out.scale1")[0] *= 1.0 + 3e-7;
        assert!(qat::compare_fused(&golden).is_err_and(|e| e.contains("scale: element 0")));
        for (tensor, name) in
            [("out.losses", "losses"), ("out.grad0.fc.0.weight", "fc.0.weight"), ("out.trained.fc.0.bias", "fc.0.bias")]
        {
            let mut golden = first("qat");
            let largest = golden.f32s(tensor).expect(tensor).iter().fold(0f32, |m, v| m.max(v.abs()));
            golden.f32_mut(tensor)[1] += 3e-5 * largest;
            assert!(qat::compare(&golden).is_err_and(|e| e.contains(&format!("{name}: element 1"))), "{tensor}");
        }
    }

    #[test]
    fn half_a_decibel_shows() {
        let mut golden = first("numeric_debugger");
        debugger::spoil(&mut golden);
        assert!(debugger::compare(&golden).is_err_and(|e| e.contains("dB, expected")));
    }

    #[test]
    fn a_changed_scale_zero_point_or_count_shows() {
        for kind in ["observer/minmax", "observer/per_channel_minmax", "observer/histogram"] {
            let mut golden = first(kind);
            golden.f32_mut("out.scale")[0] *= 1.0 + 3e-6;
            assert!(observers::compare(&golden).is_err_and(|e| e.contains("scale")), "{kind}");
            let mut golden = first(kind);
            golden.i32_mut("out.zero_point")[0] += 1;
            assert!(observers::compare(&golden).is_err_and(|e| e.contains("zero point")), "{kind}");
        }
        let mut golden = first("observer/histogram");
        golden.f32_mut("out.histogram")[77] += 0.3;
        assert!(observers::compare(&golden).is_err_and(|e| e.contains("bin 77")));
    }

    #[test]
    fn a_changed_weight_output_or_wiring_shows() {
        let kind = "pt2e/static";
        let mut golden = first(kind);
        golden.f32_mut("out.y")[1] += 1e3;
        assert!(pt2e::compare(&golden).is_err_and(|e| e.contains("out.y")));

        let mut golden = first(kind);
        let weight =
            golden.names().find(|n| n.starts_with("out.attr.quantize_per")).expect("a folded weight").to_owned();
        golden.i8_mut(&weight)[0] ^= 1;
        assert!(pt2e::compare(&golden).is_err_and(|e| e.contains("weight")));

        let mut golden = first(kind);
        let nodes = golden.case["nodes"].as_array_mut().expect("nodes");
        let linear = nodes.iter_mut().find(|n| n["op"] == "aten.linear.default").expect("a linear node");
        linear["args"][0] = "x".into();
        assert!(pt2e::compare(&golden).is_err_and(|e| e.contains("fed by")));
    }
}

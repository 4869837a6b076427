//! Tests of `quantize`, of shards and `merge`, and of `inspect`.

use enfold::archive;
use enfold::ops::{Dequantize, Op, Quantize};
use enfold::quantize::{ConvertOptions, ObserverKind, QuantizationConfig, WgpuQuantizer, convert, prepare};
use enfold::values::TensorQParams;

use crate::models::{encoder, mlp};
use crate::space::Space;

/// Returns every scale and zero point of a quantized archive, by node.
fn qparams(space: &Space, name: &str) -> Vec<(String, TensorQParams)> {
    let graph = archive::load(space.path(name)).unwrap();
    let read = |node: &enfold::graph::Node| match &node.op {
        Op::Quantize(Quantize { qparams, .. }) | Op::Dequantize(Dequantize { qparams }) => {
            Some((node.name.clone(), qparams.clone()))
        }
        _ => None,
    };
    graph.nodes().iter().filter_map(read).collect()
}

#[test]
fn quantize_is_the_librarys_flow() {
    let space = Space::new("quantize_is_the_librarys_flow");
    space.save("mlp.enfold", &mlp());
    let x = space.mlp_data("x.safetensors", 64);
    let out = space.ok("quantize mlp.enfold --calibrate x.safetensors --output q.enfold --batch-size 64");
    assert!(out.starts_with("q.enfold: 3 of 3 layers in int8, calibrated with 1 batch\n"), "{out}");
    let config = QuantizationConfig::symmetric().per_channel().activation_observer(ObserverKind::PERCENTILE);
    let mut prepared = prepare(&mlp(), &WgpuQuantizer::new().set_global(config)).unwrap();
    prepared.observe(&[x]).unwrap();
    let expected = convert(&prepared, &ConvertOptions::default()).unwrap();
    assert_eq!(archive::load(space.path("q.enfold")).unwrap(), expected);
    assert_eq!(space.files(), ["mlp.enfold", "q.enfold", "x.safetensors"]);
}

#[test]
fn schemes_and_observers_are_what_they_are_called() {
    let space = Space::new("schemes_and_observers_are_what_they_are_called");
    space.save("mlp.enfold", &mlp());
    let x = space.mlp_data("x.safetensors", 4000);
    let symmetric = QuantizationConfig::symmetric;
    let percentile = |fraction| ObserverKind::Percentile { fraction };
    let cases = [
        ("--per-tensor --observer histogram", symmetric()),
        ("--per-tensor", symmetric().activation_observer(ObserverKind::PERCENTILE)),
        ("--observer minmax", symmetric().per_channel().activation_observer(ObserverKind::MinMax)),
        ("--observer percentile --percentile 99", symmetric().per_channel().activation_observer(percentile(0.99))),
        ("--percentile 99.9", symmetric().per_channel().activation_observer(percentile(0.999))),
        ("--observer mse --per-tensor", symmetric().activation_observer(ObserverKind::Mse)),
        ("--dynamic", symmetric().per_channel().dynamic()),
        ("--dynamic --per-token --per-tensor", symmetric().dynamic_per_token()),
    ];
    let mut seen = Vec::new();
    for (flags, config) in cases {
        let data = if config.is_dynamic() { "" } else { "--calibrate x.safetensors --batch-size 4000" };
        space.ok(&format!("quantize mlp.enfold {data} --output q.enfold {flags}"));
        let is_dynamic = config.is_dynamic();
        let mut prepared = prepare(&mlp(), &WgpuQuantizer::new().set_global(config)).unwrap();
        if !is_dynamic {
            prepared.observe(&[&x]).unwrap();
        }
        let graph = archive::load(space.path("q.enfold")).unwrap();
        assert_eq!(graph, convert(&prepared, &ConvertOptions::default()).unwrap(), "{flags}");
        assert!(!seen.contains(&graph), "{flags} changes nothing");
        seen.push(graph);
    }
}

#[test]
fn layers_and_modules_stay_in_float() {
    let space = Space::new("layers_and_modules_stay_in_float");
    space.save("mlp.enfold", &mlp());
    space.mlp_data("x.safetensors", 64);
    let quantize = "quantize mlp.enfold --calibrate x.safetensors --output q.enfold --json";
    let int8 = |flags: &str| {
        let json = space.json(&format!("{quantize} {flags}"));
        assert_eq!(json["layers"].as_u64(), Some(3));
        json["int8_layers"].as_u64().unwrap()
    };
    assert_eq!((int8(""), int8("--leave-float block.fc1"), int8("--leave-float block <head>&co --quiet")), (3, 2, 0));
    let verbose = "quantize mlp.enfold --calibrate x.safetensors --output q.enfold --leave-float block -v";
    let out = space.ok(verbose);
    assert!(out.contains("1 of 3 layers in int8") && out.contains("\n  block.fc2 (linear): "), "{out}");
    let wrong = "quantize mlp.enfold --dynamic --output no.enfold --leave-float block.fc3";
    space.fails(2, wrong, &["--leave-float block.fc3", "block.fc1", "block.fc2"]);
}

#[test]
fn products_of_two_activations_are_asked_for() {
    let space = Space::new("products_of_two_activations_are_asked_for");
    space.save("encoder.enfold", &encoder());
    space.encoder_data("data.safetensors", 40);
    let quantize = "quantize encoder.enfold --calibrate data.safetensors --output q.enfold --json";
    let json = space.json(quantize);
    assert_eq!((json["layers"].as_u64(), json["int8_layers"].as_u64()), (Some(4), Some(2)), "two linear layers");
    assert_eq!(json["calibration_batches"].as_u64(), Some(10), "40 rows in batches of 4");
    assert_eq!(space.json(&format!("{quantize} --attention"))["int8_layers"].as_u64(), Some(4));
}

#[test]
fn rows_without_a_batch_are_told() {
    let space = Space::new("rows_without_a_batch_are_told");
    space.save("encoder.enfold", &encoder());
    space.encoder_data("data.safetensors", 11);
    let quantize = "quantize encoder.enfold --calibrate data.safetensors --output q.enfold";
    let ran = space.enfold(quantize);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.err.contains("note: ids: the last 3 of 11 rows fill no batch of 4, and are left out"), "{ran:?}");
    assert_eq!(ran.err.lines().count(), 1, "one note: {ran:?}");
    assert!(ran.out.contains("calibrated with 2 batches"), "{ran:?}");
    assert_eq!(space.enfold(&format!("{quantize} --quiet")).err, "");
}

#[test]
fn shards_merge_to_what_one_run_gives() {
    let space = Space::new("shards_merge_to_what_one_run_gives");
    space.save("mlp.enfold", &mlp());
    space.mlp_data("x.safetensors", 50);
    let quantize = "quantize mlp.enfold --calibrate x.safetensors --batch-size 8 --observer minmax";
    space.ok(&format!("{quantize} --output whole.enfold"));
    let mut batches = 0;
    for part in 1..=3 {
        let out = space.ok(&format!("{quantize} --shard {part}/3 --state {part}.state"));
        batches += out.trim_end().rsplit(", ").next().unwrap().split(' ').next().unwrap().parse::<usize>().unwrap();
    }
    assert_eq!(batches, 7, "50 rows in batches of 8");
    let out = space.ok("merge 1.state 2.state 3.state --output merged.enfold");
    assert!(out.contains("calibrated with 7 batches"), "{out}");
    assert_eq!(qparams(&space, "merged.enfold"), qparams(&space, "whole.enfold"));
    // One part alone has observed fewer batches.
    space.ok("merge 1.state --output one.enfold");
    assert_ne!(qparams(&space, "one.enfold"), qparams(&space, "whole.enfold"));

    space.fails(2, "merge 1.state 1.state --output no.enfold", &["1.state is given twice"]);
    std::fs::copy(space.path("2.state"), space.path("copy.state")).unwrap();
    space.fails(
        2,
        "merge 1.state 2.state copy.state --output no.enfold",
        &["copy.state", "2.state", "each part counts once"],
    );
    space.fails(1, "merge 1.state mlp.enfold --output no.enfold", &["mlp.enfold is a float model", "--shard"]);
    space.fails(1, "quantize 1.state --dynamic --output no.enfold", &["prepared", "enfold merge 1.state"]);
    space.fails(1, "run 1.state --input x.safetensors --output no.npz", &["enfold merge 1.state"]);
    space.save("encoder.enfold", &encoder());
    space.encoder_data("data.safetensors", 8);
    space.ok("quantize encoder.enfold --calibrate data.safetensors --shard 1/2 --state other.state");
    space.fails(1, "merge 1.state other.state --output no.enfold", &["other.state does not belong to 1.state"]);
    let many = "quantize encoder.enfold --calibrate data.safetensors --shard 3/3 --state no.state";
    space.fails(2, many, &["--shard 3/3", "2 batches"]);
}

#[test]
fn inspect_tells_what_would_be_quantized() {
    let space = Space::new("inspect_tells_what_would_be_quantized");
    space.save("encoder.enfold", &encoder());
    let json = space.json("inspect encoder.enfold --json");
    let parameters = 20 * 8 + 2 * 8 * 8;
    assert_eq!(json["parameters"].as_u64(), Some(parameters));
    assert_eq!(json["constant_bytes"].as_u64(), Some(4 * parameters));
    let float: Vec<&str> =
        json["quantization"]["float"].as_array().unwrap().iter().map(|n| n["name"].as_str().unwrap()).collect();
    assert!(float.contains(&"attention.softmax") && !float.contains(&"attention.q"), "{float:?}");
    assert_eq!(json["inputs"][0]["dtype"], "i32");
    assert_eq!(json["outputs"][1]["name"], "attention.softmax");
    let out = space.ok("inspect encoder.enfold");
    for part in ["a float model", "288 parameters", "would be quantized", "softmax)"] {
        assert!(out.contains(part), "{part:?} is not in\n{out}");
    }
    let line = out.lines().find(|line| line.starts_with("attention.q ")).unwrap();
    assert_eq!(
        line.split_whitespace().collect::<Vec<_>>(),
        ["attention.q", "linear", "f32", "[4,", "6,", "8]", "64", "sum"]
    );
    // The listing of a quantized model has its integer form.
    space.encoder_data("data.safetensors", 8);
    space.ok("quantize encoder.enfold --calibrate data.safetensors --output q.enfold");
    let out = space.ok("inspect q.enfold");
    assert!(out.contains("a quantized model") && out.contains("in integers: "), "{out}");
}

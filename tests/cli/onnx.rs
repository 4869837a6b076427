//! Tests of ONNX files: float models and quantized ones, compared with the outputs of ONNX Runtime, and exports.

use enfold::compare::cosine;

use crate::space::Space;

/// Runs a model, and compares its outputs with the expected ones. The tolerance is relative to the largest value.
fn check(space: &Space, model: &str, data: &str, dims: &str, tolerance: f32) {
    space.copy(data);
    space.ok(&format!("run {model} --input {data} --output y.safetensors --device cpu {dims}"));
    let expected = space.arrays_of(data, "out.");
    let got = space.arrays("y.safetensors");
    assert_eq!(got.len(), expected.len());
    for (got, expected) in got.iter().zip(&expected) {
        assert_eq!(got.1, expected.1, "{model}");
        let largest = expected.2.iter().fold(0f32, |most, v| most.max(v.abs()));
        let error = got.2.iter().zip(&expected.2).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
        assert!(error <= tolerance * largest, "{model}: {error} of {largest}");
    }
}

#[test]
fn float_models_give_what_onnx_runtime_gives() {
    let space = Space::new("float_models_give_what_onnx_runtime_gives");
    for (name, dims) in [("digits_mlp", ""), ("gated_ffn", "--dim seq=7"), ("tiny_bert", "--dim batch=3,seq=16")] {
        space.copy(&format!("{name}.onnx"));
        check(&space, &format!("{name}.onnx"), &format!("{name}.safetensors"), dims, 1e-4);
    }
    assert_eq!(space.arrays("y.safetensors")[0].0, "embedding", "the output's name in the file");
    space.fails(1, "inspect tiny_bert.onnx", &["seq", "as in --dim seq=8"]);
}

#[test]
fn an_encoder_in_int8() {
    let space = Space::new("an_encoder_in_int8");
    space.copy("tiny_bert.onnx");
    space.copy("tiny_bert.safetensors");
    let (data, dims) = ("tiny_bert.safetensors", "--dim batch=3 --dim seq=16");
    space.ok(&format!("quantize tiny_bert.onnx --dynamic --per-token --output q.enfold {dims}"));
    space.ok(&format!("run q.enfold --input {data} --output y.safetensors --device cpu"));
    let (got, expected) = (space.arrays("y.safetensors"), space.arrays_of(data, "out."));
    for (row, expected) in got[0].2.chunks(64).zip(expected[0].2.chunks(64)) {
        assert!((0.9995..0.999_999_9).contains(&cosine(row, expected)), "{}", cosine(row, expected));
    }
    let json = space.json("inspect q.enfold --json");
    assert!(json["integer_form"]["integer"].as_array().unwrap().len() >= 8, "{json}");
    let compare = format!("compare tiny_bert.onnx q.enfold --input {data} --html r.html {dims}");
    space.ok(&compare);
    assert!(space.read("r.html").contains("tiny_bert.onnx"));
}

#[test]
fn exported_files_are_read_again() {
    let space = Space::new("exported_files_are_read_again");
    space.copy("digits_mlp.onnx");
    space.copy("digits_mlp.safetensors");
    let data = "digits_mlp.safetensors";
    space.ok(&format!("quantize digits_mlp.onnx --calibrate {data} --output q.enfold"));
    space.ok("export q.enfold --onnx q.onnx");
    space.ok(&format!("quantize digits_mlp.onnx --calibrate {data} --output direct.onnx"));
    assert_eq!(std::fs::read(space.path("q.onnx")).unwrap(), std::fs::read(space.path("direct.onnx")).unwrap());
    for model in ["q.enfold", "q.onnx"] {
        space.ok(&format!("run {model} --input {data} --output {model}.safetensors --device cpu"));
    }
    let (ours, again) = (space.arrays("q.enfold.safetensors"), space.arrays("q.onnx.safetensors"));
    assert_eq!(ours[0].0, again[0].0);
    assert!(cosine(&ours[0].2, &again[0].2) > 0.9999);
    let out = space.ok("inspect q.onnx");
    assert!(out.contains("a quantized model (quantize/dequantize form), ONNX of"), "{out}");
    // TensorRT supports only zero points of 0.
    space.fails(1, "export q.enfold --onnx t.onnx --preset tensorrt", &["q.enfold", "zero point"]);
    space.ok(&format!("quantize digits_mlp.onnx --calibrate {data} --output s.enfold --symmetric"));
    space.ok("export s.enfold --onnx t.onnx --preset tensorrt");
}

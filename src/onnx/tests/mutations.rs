//! Real models with a few things changed, message by message. Bit flips rarely make such changes.

use prost::Message;

use super::super::proto::{GraphProto, ModelProto, NodeProto};
use super::super::{ImportOptions, import};

/// Numbers that are likely to overflow, or to be an axis.
const NUMBERS: [i64; 14] = [0, 1, -1, 2, -2, 3, 16, 64, 1 << 20, 1 << 31, 1 << 40, i64::MAX, i64::MIN, i64::MIN + 1];

fn number(random: &mut fastrand::Rng) -> i64 {
    NUMBERS[random.usize(0..NUMBERS.len())]
}

fn change(graph: &mut GraphProto, random: &mut fastrand::Rng) {
    let nodes = graph.node.len();
    let at = random.usize(0..nodes);
    let other = graph.node[random.usize(0..nodes)].clone();
    let known = super::super::import::names();
    match random.u8(0..9) {
        0 => known[random.usize(0..known.len())].clone_into(&mut graph.node[at].op_type),
        1 => graph.node[at].attribute = other.attribute,
        2 => {
            if let Some(input) = graph.node[at].input.first_mut() {
                *input = other.output.first().cloned().unwrap_or_default();
            }
        }
        3 => drop(graph.node[at].input.pop()),
        4 => {
            if let Some(dim) = random.choice(&mut graph.initializer).and_then(|t| t.dims.first_mut()) {
                *dim = number(random);
            }
        }
        5 => {
            // Shapes, axes and indices are small integers.
            let tensors = graph.initializer.iter_mut();
            let constants = graph.node.iter_mut().flat_map(|node| &mut node.attribute).filter_map(|a| a.t.as_mut());
            let mut shapes: Vec<_> =
                tensors.chain(constants).filter(|t| t.data_type == 7 && t.raw_data.len() < 512).collect();
            if let Some(tensor) = random.choice(&mut shapes) {
                let mut raw = tensor.raw_data.to_vec();
                if let Some(place) = raw.get_mut(..8) {
                    place.copy_from_slice(&number(random).to_le_bytes());
                }
                tensor.raw_data = raw.into();
            }
        }
        6 => {
            let mut all: Vec<_> = graph.node.iter_mut().flat_map(|node: &mut NodeProto| &mut node.attribute).collect();
            if let Some(attribute) = random.choice(&mut all) {
                attribute.i = number(random);
                if let Some(value) = attribute.ints.first_mut() {
                    *value = number(random);
                }
            }
        }
        7 => {
            if let Some(tensor) = random.choice(&mut graph.initializer) {
                tensor.data_type = random.i32(0..24);
            }
        }
        _ => graph.node.swap(at, nodes - 1),
    }
}

#[test]
fn changed_models_are_refused_or_read() {
    let mut random = fastrand::Rng::with_seed(11);
    let (mut read, mut refused) = (0, 0);
    for (name, dims) in [
        ("digits_mlp", &[][..]),
        ("digits_mlp.qdq", &[]),
        ("gated_ffn", &[("seq", 7)]),
        ("tiny_bert", &[("batch", 3), ("seq", 16)]),
        ("tiny_bert", &[("seq", 16)]),
    ] {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/onnx/{name}.onnx"));
        let model = ModelProto::decode(&std::fs::read(path).expect("a model")[..]).expect("a sound model");
        let options = ImportOptions::with_dims(dims.iter().copied());
        for _ in 0..1000 {
            let mut model = model.clone();
            for _ in 0..random.usize(1..4) {
                change(model.graph.get_or_insert_default(), &mut random);
            }
            match import(model.encode_to_vec(), None, &options) {
                Ok(graph) => {
                    assert_eq!(graph.verify(), Ok(()));
                    read += 1;
                }
                Err(e) => {
                    assert!(!e.to_string().is_empty());
                    refused += 1;
                }
            }
        }
    }
    // Both happen, or the changes are too few or too many.
    assert!(read > 200 && refused > 200, "{read} read, {refused} refused");
}

/// The attributes that operators read.
const INTS: [&str; 51] = [
    "num_heads",
    "kv_num_heads",
    "q_num_heads",
    "K",
    "N",
    "bits",
    "block_size",
    "axis",
    "axes",
    "keepdims",
    "transA",
    "transB",
    "unidirectional",
    "is_causal",
    "do_rotary",
    "interleaved",
    "rotary_embedding_dim",
    "local_window_size",
    "qk_matmul_output_mode",
    "kernel_shape",
    "pads",
    "strides",
    "dilations",
    "group",
    "perm",
    "to",
    "start",
    "end",
    "num_outputs",
    "blocksize",
    "size",
    "ceil_mode",
    "channels_last",
    "qkv_hidden_sizes",
    "batch_dims",
    "k",
    "largest",
    "opset",
    "is_inner_broadcast",
    "num_groups",
    "hidden_size",
    "layout",
    "linear_before_reset",
    "input_forget",
    "num_scan_inputs",
    "scan_input_axes",
    "noop_with_empty_axes",
    "align_corners",
    "antialias",
    "exclude_outside",
    "ignore_index",
];
const FLOATS: [&str; 6] = ["alpha", "beta", "epsilon", "scale", "softcap", "mask_filter_value"];
const TEXTS: [(&str, &str); 19] = [
    ("equation", "bij,jk->bik"),
    ("equation", "ij,ji"),
    ("equation", ",->"),
    ("activation", "Relu"),
    ("activation", "Clip"),
    ("mode", "linear"),
    ("mode", "reflect"),
    ("mode", "cubic"),
    ("mode", "nearest"),
    ("padding_mode", "border"),
    ("padding_mode", "reflection"),
    ("coordinate_transformation_mode", "align_corners"),
    ("approximate", "tanh"),
    ("auto_pad", "SAME_UPPER"),
    ("direction", "bidirectional"),
    ("direction", "reverse"),
    ("reduction", "add"),
    ("reduction", "max"),
    ("reduction", "sum"),
];

/// Nodes of every operator with any inputs and attributes.
#[test]
fn nodes_with_any_inputs_and_attributes() {
    use super::super::proto::data_type as ty;
    use crate::onnx::build::{Build, floats, ints, small, value};

    let mut random = fastrand::Rng::with_seed(13);
    let tensors = || {
        let wide: Vec<f32> = (0..72).map(|i| i as f32 * 0.1 - 3.0).collect();
        let bytes: Vec<i32> = (0..72).map(|i| i * 37 % 120).collect();
        vec![
            floats("w", &[6, 12], &wide),
            floats("v", &[6], &wide[..6]),
            floats("f", &[], &[0.5]),
            floats("r", &[4, 3], &wide[..12]),
            floats("c", &[6, 1, 3, 4], &wide),
            ints("i", &[2], &[1, 2]),
            ints("j", &[1], &[-1]),
            ints("n", &[], &[3]),
            small("u", ty::UINT8, &[12, 6], &bytes),
            small("s", ty::INT8, &[6, 12], &bytes),
            small("z", ty::UINT8, &[], &[128]),
            small("b", ty::INT32, &[6], &bytes[..6]),
            small("t", ty::BOOL, &[], &[1]),
        ]
    };
    let values = ["", "x", "x", "x", "m", "q", "w", "v", "f", "r", "c", "i", "j", "n", "u", "s", "z", "b", "t"];
    let tries = if std::env::var_os("ENFOLD_LONG").is_some() { 4000 } else { 100 };
    let (mut read, mut refused) = (0, 0);
    let names = super::super::import::names();
    for (name, domain) in names.iter().flat_map(|name| [(name, ""), (name, "com.microsoft")]) {
        for _ in 0..tries {
            let inputs: Vec<&str> = (0..random.usize(1..9)).map(|_| values[random.usize(0..values.len())]).collect();
            let inputs: Vec<String> =
                inputs.iter().map(|name| if name.is_empty() { "_" } else { name }.to_owned()).collect();
            let opset = random.i64(7..27);
            let mut build =
                Build::new(opset).input("x", &["batch", "4", "6"]).node(name, &inputs.join(" "), "y y1 y2 y3");
            build.graph().input.push(value("m", ty::INT32, &["batch", "4"]));
            build.graph().input.push(value("q", ty::FLOAT, &["batch", "3", "4", "6"]));
            build.graph().initializer = tensors();
            build.graph().node[0].domain = domain.to_owned();
            for _ in 0..random.usize(0..6) {
                let at = INTS[random.usize(0..INTS.len())];
                build = match random.u8(0..5) {
                    0 => build.int(at, number(&mut random)),
                    1 => build.int(at, random.i64(-1..7)),
                    2 => {
                        let list: Vec<i64> = (0..random.usize(0..5)).map(|_| random.i64(-1..4)).collect();
                        build.list(at, &list)
                    }
                    3 => build.float(FLOATS[random.usize(0..FLOATS.len())], random.f32() * 4.0 - 2.0),
                    _ => {
                        let (name, text) = TEXTS[random.usize(0..TEXTS.len())];
                        build.text(name, text)
                    }
                };
            }
            let outputs = ["y", "y", "y", "y1", "y2", "y3"];
            match build.output(outputs[random.usize(0..outputs.len())]).import(&[]) {
                Ok(graph) => {
                    assert_eq!(graph.verify(), Ok(()));
                    read += 1;
                }
                Err(e) => {
                    assert!(!e.to_string().is_empty());
                    refused += 1;
                }
            }
        }
    }
    assert!(read > 300 && refused > 300, "{read} read, {refused} refused");
}

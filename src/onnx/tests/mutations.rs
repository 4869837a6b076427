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

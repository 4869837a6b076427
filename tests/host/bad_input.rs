//! Bad input of every kind: an error that names the thing and gives both numbers, never a panic. Every error variant of the
//! stages that need no GPU is reached here.

/// Asserts that every pattern is met by some error of the table.
macro_rules! covers {
    ($table:expr, $($pattern:pat),+ $(,)?) => {
        $(assert!(
            $table.iter().any(|(_, result, _)| matches!(result, Err($pattern))),
            "no row reaches {}", stringify!($pattern)
        );)+
    };
}

mod blocks;
mod flow;
mod graphs;
mod images;
mod integers;
mod programs;
mod quantizers;
mod transformers;

use enfold::graph::{GraphError, NodeId};
use enfold::quantize::{ConvertOptions, PreparedGraph, QuantizationConfig, WgpuQuantizer, convert, prepare};
use enfold::{Error, Graph, GraphBuilder, Shape, Tensor};
use safetensors::SafeTensors;

use crate::report::report;

fn f32s(shape: &[usize], value: f32) -> Tensor {
    Tensor::from_f32(shape, vec![value; shape.iter().product()]).expect("lengths fit")
}

/// x `[rows, 4]` → fc `[3, 4]`.
fn net() -> Graph {
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::rows(4)).expect("an input");
    let y = g.linear("fc", x, f32s(&[3, 4], 0.5), Some(f32s(&[3], 0.1))).expect("a layer");
    g.finish([y]).expect("a graph")
}

fn prepared(graph: &Graph) -> PreparedGraph {
    prepare(graph, &WgpuQuantizer::new().set_global(QuantizationConfig::symmetric())).expect("prepared")
}

fn quantized() -> Graph {
    let mut prepared = prepared(&net());
    prepared.observe(&[f32s(&[2, 4], 1.0)]).expect("observed");
    convert(&prepared, &ConvertOptions::default()).expect("converted")
}

/// One kind of bad input: its description, its result, and the parts that the message must contain.
type Row = (&'static str, Result<(), Error>, Vec<&'static str>);

fn row<T, E: Into<Error>>(what: &'static str, result: Result<T, E>, contains: &[&'static str]) -> Row {
    (what, result.map(drop).map_err(Into::into), contains.to_vec())
}

fn check(table: Vec<Row>) {
    let mut wrong = Vec::new();
    for (what, result, contains) in &table {
        match result {
            Ok(()) => wrong.push(format!("{what}: accepted")),
            Err(error) => {
                let message = error.to_string();
                let missing = contains.iter().filter(|part| !message.contains(**part));
                wrong.extend(missing.map(|part| format!("{what}: {part:?} is not in {message:?}")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    report(&format!("bad input: {} kinds refused", table.len()));
}

fn built(build: impl FnOnce(&mut GraphBuilder) -> Result<NodeId, GraphError>) -> Result<Graph, GraphError> {
    let mut g = GraphBuilder::new();
    let y = build(&mut g)?;
    g.finish([y])
}

/// Users read weights with `safetensors`, which refuses a damaged file; the crate refuses tensors that do not fit.
#[test]
fn damaged_files() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/digits/mlp.safetensors");
    let bytes = std::fs::read(path).expect("the digits' weights");
    let load = |bytes: &[u8]| -> anyhow::Result<Graph> {
        let file = SafeTensors::deserialize(bytes)?;
        let tensor = |name: &str| -> anyhow::Result<Tensor> {
            let view = file.tensor(name)?;
            let floats = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
            Ok(Tensor::from_f32(view.shape(), floats.collect())?)
        };
        let mut g = GraphBuilder::new();
        let x = g.input("x", Shape::rows(64))?;
        let y = g.linear("fc1", x, tensor("0.weight")?, Some(tensor("0.bias")?))?;
        Ok(g.finish([y])?)
    };
    assert!(load(&bytes).is_ok());
    for length in [0, 1, 7, 8, 100, bytes.len() / 2, bytes.len() - 1] {
        assert!(load(&bytes[..length]).is_err(), "truncated to {length} bytes");
    }
    let mut corrupt = bytes.clone();
    corrupt[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(load(&corrupt).is_err(), "a header of 2^64 bytes");
    for at in 8..400 {
        // A flipped bit in the header never causes a panic.
        let mut corrupt = bytes.clone();
        corrupt[at] ^= 0x40;
        let _ = load(&corrupt);
    }
    let mut infinite = bytes.clone();
    let last = infinite.len() - 4;
    infinite[last..].copy_from_slice(&f32::INFINITY.to_le_bytes());
    let loaded = load(&infinite);
    let named = loaded.as_ref().is_err_and(|e| e.to_string().contains("inf"));
    assert!(
        named || loaded.is_ok_and(|g| g.nodes().len() == 4),
        "an infinite weight of fc1 is named; others are not read"
    );
}

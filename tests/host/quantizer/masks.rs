//! Masks and the scores of a softmax stay in float.

use enfold::graph::NodeId;
use enfold::interp::Interpreter;
use enfold::quantize::{ConvertOptions, WgpuQuantizer, convert, prepare};
use enfold::values::DType;
use enfold::{Graph, GraphBuilder, Shape, Tensor};

use super::{symmetric, tensor};

const TOKENS: usize = 4;

fn layer(g: &mut GraphBuilder, name: &str, seed: u64, x: NodeId) -> NodeId {
    g.linear(name, x, tensor(seed, &[6, 6]), None).expect("a layer")
}

/// One head with a mask as exporters write it, `(1 − mask) · −10⁹`, and the mean over tokens that are not masked.
fn encoder() -> Graph {
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::batched(&[TOKENS, 6])).expect("an input");
    let ids = g.typed_input("mask", Shape::rows(TOKENS), DType::I32).expect("an input");
    let mask = g.to_float("float", ids).expect("floats");
    let hidden = g.mul_scalar("negated", mask, -1.0).expect("a product");
    let hidden = g.add_scalar("hidden", hidden, 1.0).expect("a sum");
    let hidden = g.mul_scalar("far", hidden, -1e9).expect("a product");
    let hidden = g.reshape("of_columns", hidden, &[1, TOKENS]).expect("moved");
    let [q, k, v] = [("q", 1), ("k", 2), ("v", 3)].map(|(name, seed)| layer(&mut g, name, seed, x));
    let keys = g.transpose("keys", k, &[0, 2, 1]).expect("a transpose");
    let scores = g.matmul("scores", q, keys).expect("a product");
    let scores = g.mul_scalar("scaled", scores, 0.4).expect("a product");
    let scores = g.add("masked", scores, hidden).expect("a sum");
    let weights = g.softmax("weights", scores, 2).expect("softmax");
    let context = g.matmul("context", weights, v).expect("a product");
    let out = layer(&mut g, "out", 4, context);
    let h = g.add("residual", x, out).expect("a sum");
    let column = g.reshape("of_rows", mask, &[TOKENS, 1]).expect("moved");
    let h = g.mul("kept", h, column).expect("a product");
    let y = g.sum("pooled", h, 1).expect("a sum");
    g.finish([y]).expect("a graph")
}

fn batch() -> [Tensor; 2] {
    let mask = [1, 1, 1, 0, 1, 1, 0, 0, 1, 1, 1, 1].to_vec();
    [tensor(99, &[3, TOKENS, 6]), Tensor::from_i32(&[3, TOKENS], mask).expect("lengths fit")]
}

#[test]
fn sums_and_products_with_masks_stay_in_float_and_say_so() {
    let graph = encoder();
    let mut prepared =
        prepare(&graph, &WgpuQuantizer::new().set_global(symmetric()).quantize_matmul(true)).expect("prepared");
    let summary = prepared.summary();
    let reason = |name: &str| summary.float.iter().find(|n| n.name == name).map(|n| n.reason.clone());
    for (name, mask) in
        [("negated", "float"), ("hidden", "negated"), ("far", "hidden"), ("masked", "of_columns"), ("kept", "of_rows")]
    {
        let expected = format!("its input {mask} is computed from integers: a mask");
        assert_eq!(reason(name), Some(expected), "{name}: {summary}");
    }
    assert_eq!(reason("scaled").as_deref(), Some("it makes the scores of a softmax"), "{summary}");
    // All other sums are quantized.
    for name in ["q", "scores", "context", "out", "residual"] {
        assert!(summary.quantized.iter().any(|n| n.name == name), "{name} is not quantized: {summary}");
    }
    // Integers are not listed as nodes left in float.
    assert_eq!(reason("mask"), None);
    prepared.observe(&batch()).expect("observed");
    let quantized = convert(&prepared, &ConvertOptions::default()).expect("converted");
    let comparison = enfold::compare::compare(&graph, &quantized, &batch()).expect("comparable");
    assert!(comparison.output_sqnr_db > 25.0, "{comparison}");
    // A masked token has no influence.
    let mut other = batch();
    other[0] = {
        let mut data = other[0].as_f32().expect("floats").to_vec();
        data[3 * 6..4 * 6].fill(0.25);
        Tensor::from_f32(&[3, TOKENS, 6], data).expect("lengths fit")
    };
    let run = |inputs: &[Tensor]| Interpreter::new(&quantized).run(inputs).expect("run").swap_remove(0);
    assert_eq!(run(&batch()), run(&other));
}

/// Rows of an embedding are no mask, although ids select them. A value of which only some readers compute scores is quantized.
#[test]
fn what_ids_choose_is_no_mask() {
    let mut g = GraphBuilder::new();
    let ids = g.typed_input("ids", Shape::rows(2), DType::I32).expect("an input");
    let x = g.input("x", Shape::batched(&[2, 6])).expect("an input");
    let rows = g.embedding("rows", ids, tensor(1, &[9, 6])).expect("rows");
    let h = g.add("sum", x, rows).expect("a sum");
    let s = g.mul("product", h, x).expect("a product");
    let weights = g.softmax("weights", s, 2).expect("softmax");
    let only = g.add_scalar("only", weights, 0.5).expect("a sum");
    let only = g.transpose("turned", only, &[0, 2, 1]).expect("moved");
    let only = g.softmax("again", only, 1).expect("softmax");
    let graph = g.finish([s, only]).expect("a graph");
    let prepared = prepare(&graph, &WgpuQuantizer::new().set_global(symmetric())).expect("prepared");
    let quantized: Vec<&str> = prepared.summary().quantized.iter().map(|n| n.name.as_str()).collect();
    // The product is an output too; the sum after the first softmax computes the scores of the second.
    assert_eq!(quantized, ["sum", "product"], "{}", prepared.summary());
}

/// A mask may also be applied by Where, before the softmax or after a sum; other uses of Where are quantized.
#[test]
fn choices_before_a_softmax_make_scores() {
    let mut g = GraphBuilder::new();
    let mask = g.typed_input("mask", Shape::rows(6), DType::I32).expect("an input");
    let x = g.input("x", Shape::rows(6)).expect("an input");
    let mask = g.to_float("float", mask).expect("floats");
    let far = g.constant("far", tensor(1, &[6])).expect("a constant");
    let s = g.add("scores", x, x).expect("a sum");
    let s = g.where_("chosen", mask, s, far).expect("a choice");
    let y = g.softmax("softmax", s, 1).expect("softmax");
    let h = g.add("plain", x, x).expect("a sum");
    let h = g.where_("other", mask, h, far).expect("a choice");
    let graph = g.finish([y, h]).expect("a graph");
    let prepared = prepare(&graph, &WgpuQuantizer::new().set_global(symmetric())).expect("prepared");
    let summary = prepared.summary();
    let reason = |name: &str| summary.float.iter().find(|n| n.name == name).map(|n| n.reason.as_str());
    assert_eq!(reason("scores"), Some("it makes the scores of a softmax"), "{summary}");
    assert_eq!(reason("chosen"), Some("there is no pattern for where"), "{summary}");
    let quantized: Vec<&str> = summary.quantized.iter().map(|n| n.name.as_str()).collect();
    assert_eq!(quantized, ["plain"], "{summary}");
}

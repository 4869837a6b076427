//! Products of two activations that are quantized dynamically: equation 9d, and how the flow comes to it.

use enfold::graph::NodeId;
use enfold::interp::Interpreter;
use enfold::lower::lower;
use enfold::numerics::{EPS, FloatProducts, MAX_MATMUL_K};
use enfold::ops::{ChooseQParams, Dequantize, DequantizeDynamic, IntegerMatMulDynamic, Op, Quantize, QuantizeDynamic};
use enfold::quantize::{
    ConvertOptions, PreparedGraph, QuantizationConfig, ToIntegerOptions, WgpuQuantizer, convert, prepare, to_integer,
    to_integer_with_options,
};
use enfold::values::{DType, QParams, QScheme, QuantRange, TensorQParams};
use enfold::{Graph, GraphBuilder, Shape, Tensor, cpu};

use crate::cases::difference;
use crate::oracle::compare_ops;
use crate::random::Random;
use crate::report::report;

fn f32s(shape: &[usize], data: Vec<f32>) -> Tensor {
    Tensor::from_f32(shape, data).expect("lengths fit")
}

fn i8s(shape: &[usize], data: Vec<i8>) -> Tensor {
    Tensor::from_i8(shape, data).expect("lengths fit")
}

fn normals(seed: u64, shape: &[usize]) -> Tensor {
    f32s(shape, Random::new(seed).normals(shape.iter().product(), 0.5))
}

/// A product with given quantized values and dynamic qparams: a `[rows, …, M, K]`, b `[…, K, N]` with or without rows.
struct Product {
    graph: Graph,
    inputs: Vec<Tensor>,
    relu: bool,
}

impl Product {
    /// Creates a product. `shapes` are those of a, b, and the qparams of a; the first axis of each is `rows` if `batched` says so.
    fn new(
        shapes: [&[usize]; 3],
        batched: [bool; 3],
        data: (Vec<i8>, Vec<i8>, Vec<f32>, [f32; 2]),
        relu: bool,
    ) -> Self {
        let mut g = GraphBuilder::new();
        let declared = |at: usize| match batched[at] {
            true => Shape::batched(&shapes[at][1..]),
            false => Shape::fixed(shapes[at]),
        };
        let a = g.typed_input("a", declared(0), DType::I8).expect("a");
        let b = g.typed_input("b", declared(1), DType::I8).expect("b");
        let a_pairs = g.input("a.pairs", declared(2)).expect("pairs");
        let b_pairs = g.input("b.pairs", Shape::fixed(&[2])).expect("pairs");
        let y = g
            .node("y", Op::IntegerMatMulDynamic(IntegerMatMulDynamic { relu }), &[a, b, a_pairs, b_pairs])
            .expect("a product");
        let inputs =
            vec![i8s(shapes[0], data.0), i8s(shapes[1], data.1), f32s(shapes[2], data.2), f32s(&[2], data.3.to_vec())];
        Self { graph: g.finish([y]).expect("a graph"), inputs, relu }
    }

    /// Any shapes, with zero points at the ends more often than not.
    fn random(random: &mut Random) -> Self {
        let rows = 1 + random.below(3);
        let [m, n] = [0; 2].map(|_| 1 + random.below(9));
        let k = [1, 2, 3, 4, 5, 7, 16, 31, 33, 64, 65, 100][random.below(12)];
        let stack: Vec<usize> = (0..random.below(3)).map(|_| 1 + random.below(3)).collect();
        let mut own = |batched: bool, matrix: [usize; 2]| {
            let axis = |&length: &usize| if random.below(3) == 0 { 1 } else { length };
            let axes: Vec<usize> = stack.iter().map(axis).collect();
            [if batched { vec![rows] } else { vec![] }, axes, matrix.to_vec()].concat()
        };
        let a = own(true, [m, k]);
        let mut b = own(true, [k, n]);
        let b_batched = random.below(2) == 0;
        if !b_batched {
            b.drain(..1 + random.below(stack.len() + 1));
        }
        let per_token = random.below(3) > 0;
        let pairs = if per_token { [&a[..a.len() - 1], &[2]].concat() } else { vec![2] };
        let mut pair = || {
            let zero_point = [-128, 127, 0, random.between(-128, 127)][random.below(4)];
            [(random.normal() * 2.0).exp(), zero_point as f32]
        };
        let a_pairs = (0..pairs.iter().product::<usize>() / 2).flat_map(|_| pair()).collect();
        let b_pairs = pair();
        let extremes = random.below(3) == 0;
        let mut codes = |shape: &[usize]| -> Vec<i8> {
            let codes = random.codes(shape.iter().product());
            codes.into_iter().map(|c| if extremes { if c < 0 { -128 } else { 127 } } else { c }).collect()
        };
        let data = (codes(&a), codes(&b), a_pairs, b_pairs);
        Self::new([&a, &b, &pairs], [true, b_batched, per_token], data, random.below(3) == 0)
    }

    /// Equation 9d as it is written, with sums that cannot overflow.
    fn expected(&self) -> Vec<f32> {
        let [a, b, a_pairs, b_pairs] = [0, 1, 2, 3].map(|at| &self.inputs[at]);
        let (a_shape, b_shape) = (a.shape(), b.shape());
        let y_shape = self.graph.node(self.graph.outputs()[0]).shape.with_rows(a_shape[0]);
        let rank = y_shape.len();
        let (n, k) = (b_shape[b_shape.len() - 1], a_shape[a_shape.len() - 1]);
        // Row-major position of an index of the result's stack in a stack that broadcasts to it.
        let position = |index: &[usize], own: &[usize]| {
            let skip = index.len() - own.len();
            own.iter().zip(&index[skip..]).fold(0, |at, (&length, &i)| at * length + if length == 1 { 0 } else { i })
        };
        let (a_codes, b_codes) = (a.as_i8().expect("codes"), b.as_i8().expect("codes"));
        let (a_pairs, b_pairs) = (a_pairs.as_f32().expect("floats"), b_pairs.as_f32().expect("floats"));
        let element = |at: usize| {
            let mut index = vec![0; rank];
            let mut rest = at;
            for axis in (0..rank).rev() {
                index[axis] = rest % y_shape[axis];
                rest /= y_shape[axis];
            }
            let (stack, row, col) = (&index[..rank - 2], index[rank - 2], index[rank - 1]);
            let a_row = position(stack, &a_shape[..a_shape.len() - 2]) * a_shape[a_shape.len() - 2] + row;
            let b_first = position(stack, &b_shape[..b_shape.len() - 2]) * k;
            let pair = if a_pairs.len() == 2 { a_pairs } else { &a_pairs[2 * a_row..] };
            let sum: i64 = (0..k)
                .map(|p| {
                    let a = i64::from(a_codes[a_row * k + p]) - pair[1] as i64;
                    a * (i64::from(b_codes[(b_first + p) * n + col]) - b_pairs[1] as i64)
                })
                .sum();
            let y = (i32::try_from(sum).expect("inside the bound of equation 9") as f32 * pair[0]) * b_pairs[0];
            if self.relu { y.max(0.0) } else { y }
        };
        (0..y_shape.iter().product()).map(element).collect()
    }

    fn run(&self) -> Tensor {
        let by_interpreter = Interpreter::new(&self.graph).run(&self.inputs).expect("interpreted").swap_remove(0);
        let engine = cpu::Engine::new(&lower(&self.graph).expect("lowered")).expect("an engine");
        assert_eq!(difference(&engine.run(&self.inputs).expect("run")[0], &by_interpreter), None);
        by_interpreter
    }
}

#[test]
fn products_equal_the_equation() {
    let mut random = Random::new(71);
    for case in 0..600 {
        let product = Product::random(&mut random);
        let (got, expected) = (product.run(), product.expected());
        for (at, (got, expected)) in got.as_f32().expect("floats").iter().zip(&expected).enumerate() {
            // Equal numbers: a zero of either sign is one.
            assert_eq!(got, expected, "case {case}, element {at}\n{}", product.graph);
        }
    }
    report("dynamic products: 600 of any shapes equal equation 9d");
}

/// The longest sum of the largest products, of both signs, is inside `i32`; one more product is refused, by both numbers.
#[test]
fn the_longest_sum_fits() {
    let k = MAX_MATMUL_K;
    for (code, zero_point) in [(127, -128.0), (-128, 127.0)] {
        let data = (vec![127; k], vec![code; k], vec![1.0, -128.0], [1.0, zero_point]);
        let product = Product::new([&[1, 1, k], &[k, 1], &[2]], [true, false, false], data, false);
        let expected = 255 * 255 * k as i64 * if code > 0 { 1 } else { -1 };
        assert_eq!(product.run().as_f32().expect("floats"), [expected as f32]);
        assert_eq!(product.expected(), [expected as f32]);
    }
}

/// The comparison finds a change on one side, and its place: one quantized value, and the scale and zero point of one row.
#[test]
fn a_changed_code_or_zero_point_is_named() {
    let mut random = Random::new(72);
    let mut product = Product::new(
        [&[2, 3, 5], &[5, 4], &[2, 3, 2]],
        [true, false, true],
        (random.codes(30), vec![1; 20], [0.5, 3.0].repeat(6), [0.25, -1.0]),
        false,
    );
    let before = product.run();
    let row = |difference: Option<String>| -> Option<usize> {
        difference?.split(' ').nth(1).and_then(|at| at.parse::<usize>().ok()).map(|at| at / 4)
    };
    let original = product.inputs.clone();
    let mut codes = original[0].as_i8().expect("codes").to_vec();
    codes[4 * 5 + 2] ^= 1;
    product.inputs[0] = i8s(&[2, 3, 5], codes);
    assert_eq!(row(difference(&product.run(), &before)), Some(4));
    product.inputs.clone_from(&original);
    let mut pairs = original[2].as_f32().expect("floats").to_vec();
    pairs[2 * 3 + 1] += 1.0;
    product.inputs[2] = f32s(&[2, 3, 2], pairs);
    assert_eq!(row(difference(&product.run(), &before)), Some(3));
    product.inputs = original;
    assert_eq!(difference(&product.run(), &before), None);
}

/// Scores and context of one head, with what is around them.
fn attention() -> Graph {
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::batched(&[5, 6])).expect("an input");
    let mut layer = |name, seed, input| g.linear(name, input, normals(seed, &[6, 6]), None).expect("a layer");
    let [q, k, v] = [("q", 1), ("k", 2), ("v", 3)].map(|(name, seed)| layer(name, seed, x));
    let keys = g.transpose("keys", k, &[0, 2, 1]).expect("a transpose");
    let scores = g.matmul("scores", q, keys).expect("a product");
    let weights = g.softmax("weights", scores, 2).expect("softmax");
    let context = g.matmul("context", weights, v).expect("a product");
    let y = g.linear("out", context, normals(4, &[6, 6]), None).expect("a layer");
    g.finish([y]).expect("a graph")
}

fn prepared(graph: &Graph, config: QuantizationConfig, matmul: bool) -> PreparedGraph {
    prepare(graph, &WgpuQuantizer::new().set_global(config).quantize_matmul(matmul)).expect("prepared")
}

fn quantized(graph: &Graph, config: QuantizationConfig) -> Graph {
    convert(&prepared(graph, config, true), &ConvertOptions::default()).expect("converted")
}

/// The scheme by which the input of a product is quantized.
fn scheme(graph: &Graph, product: &str, input: usize) -> QScheme {
    let read = graph.node(graph.find(product).expect(product)).inputs[input];
    match graph.node(graph.node(read).inputs[1]).op {
        Op::ChooseQParams(ChooseQParams { qscheme, .. }) => qscheme,
        ref other => panic!("{product} reads {other:?}"),
    }
}

fn is_dynamic(graph: &Graph, name: &str) -> bool {
    matches!(graph.node(graph.find(name).expect(name)).op, Op::IntegerMatMulDynamic(_))
}

/// The integer form of a graph gives what its quantize/dequantize form does, on both interpreters of it.
fn check(quantized: &Graph, integers: &Graph, inputs: &[&Tensor]) {
    let codes = compare_ops(quantized, integers, inputs).unwrap_or_else(|e| panic!("{e}\n{integers}"));
    assert!(codes.floats > 0, "nothing was compared");
    let got = Interpreter::new(integers).run(inputs).expect("run");
    let engine = cpu::Engine::new(&lower(integers).expect("lowered")).expect("an engine");
    assert_eq!(difference(&engine.run(inputs).expect("run")[0], &got[0]), None);
    let expected = Interpreter::new(quantized).run(inputs).expect("run");
    let (got, expected) = (got[0].as_f32().expect("floats"), expected[0].as_f32().expect("floats"));
    let largest = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
    for (got, expected) in got.iter().zip(expected) {
        // A quantized value after a sum in another order may differ by one.
        assert!((got - expected).abs() <= 0.02 * largest, "{got}, expected {expected} of at most {largest}");
    }
}

#[test]
fn attention_multiplies_codes() {
    let graph = attention();
    let symmetric = || QuantizationConfig::symmetric().per_channel();
    let (tensor, token) = (QScheme::per_tensor_affine(), QScheme::per_token_affine());
    for (config, of_a) in [(symmetric().dynamic(), tensor), (symmetric().dynamic_per_token(), token)] {
        let quantized = quantized(&graph, config);
        let integers = to_integer(&quantized).expect("rewritten");
        for product in ["scores", "context"] {
            assert_eq!([0, 1].map(|at| scheme(&quantized, product, at)), [of_a, tensor], "{product}");
            assert!(is_dynamic(&integers, product), "{integers}");
        }
        let summary = integers.summary();
        let float: Vec<&str> = summary.float.iter().map(|node| node.name.as_str()).collect();
        assert_eq!(float, ["keys", "weights"], "{summary}");
        let listed = summary.integer.iter().filter(|line| line.contains("matmul") && line.contains("dynamically"));
        assert_eq!(listed.count(), 2, "{summary}");
        check(&quantized, &integers, &[&normals(5, &[3, 5, 6])]);
    }
}

/// Products are quantized on request, and the layers' configuration says how.
#[test]
fn products_that_nobody_asked_for_stay_float() {
    for config in [QuantizationConfig::symmetric().dynamic(), QuantizationConfig::symmetric()] {
        let prepared = prepared(&attention(), config, false);
        let float = &prepared.summary().float;
        for product in ["scores", "context"] {
            let reason = &float.iter().find(|node| node.name == product).expect("listed").reason;
            assert_eq!(reason, "products of two activations are quantized only if asked for");
        }
    }
}

/// A value that is both factors has one scale, and so does a constant.
#[test]
fn squares_and_constants() {
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::batched(&[4, 4])).expect("an input");
    let square = g.matmul("square", x, x).expect("a product");
    let constant = g.constant("c", normals(6, &[4, 3])).expect("a constant");
    let y = g.matmul("by constant", square, constant).expect("a product");
    let graph = g.finish([y]).expect("a graph");
    for config in [QuantizationConfig::symmetric().dynamic(), QuantizationConfig::symmetric().dynamic_per_token()] {
        let quantized = quantized(&graph, config);
        let integers = to_integer(&quantized).expect("rewritten");
        assert!(is_dynamic(&integers, "square") && is_dynamic(&integers, "by constant"), "{integers}");
        assert!(integers.summary().float.is_empty(), "{}", integers.summary());
        check(&quantized, &integers, &[&normals(7, &[2, 4, 4])]);
    }
}

/// A ReLU is taken in where nothing else reads the product.
#[test]
fn a_relu_is_taken_in() {
    for outputs in 1..3 {
        let mut g = GraphBuilder::new();
        let x = g.input("x", Shape::batched(&[4, 4])).expect("an input");
        let product = g.matmul("product", x, x).expect("a product");
        let y = g.relu("relu", product).expect("a relu");
        let graph = g.finish([y, product].into_iter().take(outputs)).expect("a graph");
        let quantized = quantized(&graph, QuantizationConfig::symmetric().dynamic_per_token());
        let integers = to_integer(&quantized).expect("rewritten");
        let op = &integers.node(integers.find("product").expect("the product")).op;
        assert_eq!(*op, Op::IntegerMatMulDynamic(IntegerMatMulDynamic { relu: outputs == 1 }), "{integers}");
        assert_eq!(integers.summary().float.len(), outputs - 1, "{}", integers.summary());
        check(&quantized, &integers, &[&normals(8, &[2, 4, 4])]);
    }
}

/// Quantizes and dequantizes an input: by a scheme at run time, or by known parameters.
fn quantize(g: &mut GraphBuilder, name: &str, x: NodeId, qscheme: Option<QScheme>) -> NodeId {
    let range = QuantRange::INT8;
    let mut node = |suffix: &str, op, inputs: &[NodeId]| g.node(&format!("{name}.{suffix}"), op, inputs).expect(name);
    match qscheme {
        Some(qscheme) => {
            let pairs = node("choose_qparams", Op::ChooseQParams(ChooseQParams { qscheme, range, eps: EPS }), &[x]);
            let codes = node("quantize", Op::QuantizeDynamic(QuantizeDynamic { range }), &[x, pairs]);
            node("dequantize", Op::DequantizeDynamic(DequantizeDynamic), &[codes, pairs])
        }
        None => {
            let qparams = TensorQParams::PerTensor(QParams::new(0.05, 3).expect("valid"));
            let codes = node("quantize", Op::Quantize(Quantize::new(qparams.clone(), range)), &[x]);
            node("dequantize", Op::Dequantize(Dequantize { qparams }), &[codes])
        }
    }
}

/// A product without an integer form runs in float, and the summary gives the reason with all numbers.
#[test]
fn products_without_an_integer_form_say_why() {
    let (tensor, token) = (Some(QScheme::per_tensor_affine()), Some(QScheme::per_token_affine()));
    let symmetric = Some(QScheme::per_tensor_symmetric());
    let long = MAX_MATMUL_K + 1;
    type Case<'c> = ([Option<QScheme>; 2], usize, &'c [&'c str]);
    let cases: [Case<'_>; 8] = [
        ([tensor, tensor], 4, &[]),
        ([token, symmetric], 4, &[]),
        ([token, tensor], MAX_MATMUL_K, &[]),
        ([token, token], 4, &["right factor", "[rows, 4, 2]", "expected [2]", "9d"]),
        ([tensor, None], 4, &["left factor is quantized dynamically", "right one is not"]),
        ([None, tensor], 4, &["right factor is quantized dynamically", "left one is not"]),
        ([token, tensor], long, &["33026", "33025", "equation 9"]),
        ([None, None], long, &["33026", "33025", "equation 9"]),
    ];
    for ([of_a, of_b], k, reason) in cases {
        let mut g = GraphBuilder::new();
        let a = g.input("a", Shape::batched(&[3, k])).expect("an input");
        let b = g.input("b", Shape::batched(&[k, 2])).expect("an input");
        let (a, b) = (quantize(&mut g, "a", a, of_a), quantize(&mut g, "b", b, of_b));
        let y = g.matmul("product", a, b).expect("a product");
        let graph = g.finish([y]).expect("a graph");
        let full = ToIntegerOptions { float_products: FloatProducts::Full };
        let integers = to_integer_with_options(&graph, &full).expect("rewritten");
        let (a, b) = (normals(9, &[2, 3, k]), normals(10, &[2, k, 2]));
        let listed: Vec<String> = integers.summary().float.iter().map(ToString::to_string).collect();
        if reason.is_empty() {
            assert!(is_dynamic(&integers, "product") && listed.is_empty(), "{listed:?}");
            check(&graph, &integers, &[&a, &b]);
            continue;
        }
        assert!(listed.len() == 1 && listed[0].starts_with("product (matmul)"), "{listed:?}");
        assert!(reason.iter().all(|part| listed[0].contains(part)), "{reason:?} are not in {listed:?}");
        let run = |graph: &Graph| Interpreter::new(graph).run(&[&a, &b]).expect("run");
        assert_eq!(run(&integers), run(&graph));
        let engine = cpu::Engine::new(&lower(&integers).expect("lowered")).expect("an engine");
        assert_eq!(engine.run(&[&a, &b]).expect("run"), run(&graph));
    }
}

//! Tests of the CPU engine's views and fused steps: whole programs on one to three threads against the interpreter, which computes each node by
//! itself.

use crate::cpu::Engine;
use crate::graph::{Graph, GraphBuilder, NodeId};
use crate::interp::Interpreter;
use crate::lower::lower;
use crate::numerics::FloatProducts;
use crate::ops::{Conv, Linear, MatMul, MaxPool, Op, Window};
use crate::quantize::{ConvertOptions, QuantizationConfig, WgpuQuantizer, convert, prepare, to_integer};
use crate::values::{Shape, Tensor};

fn floats(dims: &[usize], seed: u32) -> Tensor {
    let value = |at: usize| (at as u32 ^ seed).wrapping_mul(0x9e37_79b9).rotate_left(13).wrapping_mul(0x85eb_ca6b);
    let length = dims.iter().product();
    // Some are −0.
    let float = |at: usize| if at % 97 == 5 { -0.0 } else { value(at) as i32 as f32 * 5e-10 };
    Tensor::from_f32(dims, (0..length).map(float).collect()).expect("fits")
}

fn bits(outputs: &[Tensor]) -> Vec<Vec<u32>> {
    let bits = |y: &Tensor| y.as_f32().expect("floats").iter().map(|v| v.to_bits()).collect();
    outputs.iter().map(bits).collect()
}

/// Asserts that the engine has the interpreter's bits, and returns the numbers of views and of fused steps.
fn agree(graph: &Graph, inputs: &[&Tensor]) -> [usize; 2] {
    let expected = bits(&Interpreter::new(graph).run(inputs).expect("interpreted"));
    let engine = Engine::new(&lower(graph).expect("lowered")).expect("an engine");
    for threads in [1, 2, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        // The second run finds the buffers of the first.
        for run in 0..2 {
            let got = bits(&pool.install(|| engine.run(inputs)).expect("run"));
            for (output, (got, expected)) in got.iter().zip(&expected).enumerate() {
                let differs = got.iter().zip(expected).position(|(got, expected)| got != expected);
                assert_eq!(differs, None, "{threads} threads, run {run}, output {output} of\n{graph}");
            }
        }
    }
    engine.views_and_fused()
}

fn matmul(g: &mut GraphBuilder, name: &str, products: FloatProducts, a: NodeId, b: NodeId) -> NodeId {
    g.node(name, Op::MatMul(MatMul { products }), &[a, b]).expect("a product")
}

/// Attention of `heads`, keys transposed twice, with a mask for each row of the batch, which all heads share.
fn attention(products: FloatProducts, [length, heads, size]: [usize; 3], scale: f32) -> Graph {
    let mut g = GraphBuilder::new();
    let head = |g: &mut GraphBuilder, name: &str| {
        let x = g.input(name, Shape::batched(&[length, heads, size])).expect("an input");
        g.transpose(&format!("{name}.heads"), x, &[0, 2, 1, 3]).expect("transposed")
    };
    let [q, k, v] = ["q", "k", "v"].map(|name| head(&mut g, name));
    let mask = g.input("mask", Shape::batched(&[1, length, length])).expect("an input");
    let k = g.transpose("keys", k, &[0, 1, 3, 2]).expect("transposed");
    let scores = matmul(&mut g, "scores", products, q, k);
    let scores = g.mul_scalar("scaled", scores, scale).expect("scaled");
    let scores = g.add("masked", mask, scores).expect("masked");
    let weights = g.softmax("softmax", scores, 3).expect("a softmax");
    let y = matmul(&mut g, "context", products, weights, v);
    let y = g.transpose("context.rows", y, &[0, 2, 1, 3]).expect("transposed");
    g.finish([y]).expect("a graph")
}

#[test]
fn attention_reads_views_and_fuses() {
    for products in [FloatProducts::Reproducible, FloatProducts::Full] {
        for (rows, dims) in [(1, [72, 2, 64]), (3, [5, 2, 8]), (2, [33, 3, 16]), (1, [520, 1, 64])] {
            let [length, heads, size] = dims;
            let graph = attention(products, dims, 0.125);
            let x = [1, 2, 3].map(|seed| floats(&[rows, length, heads, size], seed));
            let mask = floats(&[rows, 1, length, length], 4);
            let inputs = [&x[0], &x[1], &x[2], &mask];
            assert_eq!(agree(&graph, &inputs), [4, 3], "{graph}");
            let changed = attention(products, dims, 0.126);
            let run = |graph: &Graph| bits(&Interpreter::new(graph).run(&inputs).expect("interpreted"));
            assert_ne!(run(&graph), run(&changed), "the comparison notices a changed scale");
        }
    }
}

/// A transposed left factor, one value as both, a root that a step would overwrite, and one that is an output.
#[test]
fn views_keep_their_roots() {
    for products in [FloatProducts::Reproducible, FloatProducts::Full] {
        for is_output in [false, true] {
            let mut g = GraphBuilder::new();
            let x = g.input("x", Shape::batched(&[40, 24])).expect("an input");
            let root = g.gelu("root", x).expect("gelu");
            let left = g.transpose("left", root, &[0, 2, 1]).expect("transposed");
            let gram = matmul(&mut g, "gram", products, left, root);
            let again = matmul(&mut g, "again", products, root, left);
            let again = g.transpose("again.transposed", again, &[0, 2, 1]).expect("transposed");
            let twice = matmul(&mut g, "twice", products, left, again);
            let relu = g.relu("relu", root).expect("relu");
            let mut outputs = vec![gram, twice, relu];
            outputs.extend(is_output.then_some(root));
            let graph = g.finish(outputs).expect("a graph");
            let [views, _] = agree(&graph, &[&floats(&[2, 40, 24], 7)]);
            assert_eq!(views, 2, "{graph}");
        }
    }
}

/// Convolutions of floats collect their patches block by block: several blocks, one, and images that are inputs or read once more.
#[test]
fn float_convolutions_collect_their_patches() {
    for ([rows, channels, size, outputs], stride) in [([2, 16, 40, 24], 1), ([1, 3, 9, 5], 2), ([3, 64, 7, 8], 1)] {
        let mut g = GraphBuilder::new();
        let window = Window::new(&[3, 3]).with_padding(&[1, 1]);
        let conv = |g: &mut GraphBuilder, name: &str, x: NodeId, [inputs, outputs]: [usize; 2], stride: usize| {
            let window = window.clone().with_stride(&[stride, stride]);
            let conv = Conv { window, groups: 1, products: FloatProducts::Reproducible };
            let bias = (stride == 1).then(|| floats(&[outputs], 3));
            g.conv(name, x, floats(&[outputs, inputs, 3, 3], 5), bias, conv).expect("a convolution")
        };
        let x = g.input("x", Shape::batched(&[channels, size, size])).expect("an input");
        let root = g.gelu("root", x).expect("gelu");
        let first = conv(&mut g, "first", root, [channels, outputs], stride);
        let second = conv(&mut g, "second", first, [outputs, channels], 1);
        let y = if stride == 1 { g.add("residual", second, root).expect("a sum") } else { second };
        let of_input = conv(&mut g, "of_input", x, [channels, outputs], 2);
        let graph = g.finish([y, of_input]).expect("a graph");
        let x = floats(&[rows, channels, size, size], 9);
        assert_eq!(agree(&graph, &[&x])[1], if stride == 1 { 4 } else { 3 }, "{graph}");
    }
}

/// Products of all bits have one order of sums, whatever the blocks and the images: on one to three threads the bits are the same, and near the
/// interpreter's, with what follows on each part.
#[test]
fn convolutions_of_all_bits_do_not_depend_on_threads() {
    for [channels, size, outputs] in [[32, 40, 24], [3, 90, 7], [40, 9, 130]] {
        let mut g = GraphBuilder::new();
        let x = g.input("x", Shape::batched(&[channels, size, size])).expect("an input");
        let window = Window::new(&[3, 3]).with_padding(&[1, 1]);
        let op = Conv { window, groups: 1, products: FloatProducts::Full };
        let pointwise = Conv { window: Window::new(&[1, 1]), groups: 1, products: FloatProducts::Full };
        let weight = floats(&[outputs, channels, 1, 1], 4);
        let other = g.conv("shortcut", x, weight, None, pointwise).expect("a convolution");
        let y = g.conv("conv", x, floats(&[outputs, channels, 3, 3], 5), None, op).expect("a convolution");
        let scale = g.constant("scale", floats(&[outputs, 1, 1], 6)).expect("a constant");
        let y = g.mul("scaled", y, scale).expect("scaled");
        let y = g.add("residual", y, other).expect("a sum");
        let graph = g.finish([y]).expect("a graph");
        let inputs = [floats(&[3, channels, size, size], 9)];
        let expected = Interpreter::new(&graph).run(&inputs).expect("interpreted");
        let engine = Engine::new(&lower(&graph).expect("lowered")).expect("an engine");
        assert_eq!(engine.views_and_fused()[1], 3);
        let runs = [1, 2, 3].map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
            pool.install(|| engine.run(&inputs)).expect("run")
        });
        assert!(runs.iter().all(|run| bits(run) == bits(&runs[0])));
        let (got, expected) = (runs[0][0].as_f32().expect("floats"), expected[0].as_f32().expect("floats"));
        let largest = expected.iter().fold(0f32, |most, v| most.max(v.abs()));
        for (at, (got, expected)) in got.iter().zip(expected).enumerate() {
            assert!((got - expected).abs() <= 1e-5 * largest, "element {at} is {got}, expected {expected}");
        }
    }
}

/// What follows a float layer element by element runs on each part of its result: one row, few rows of a large weight, whose channels threads
/// divide, and many.
#[test]
fn float_layers_fuse_in_any_division() {
    for products in [FloatProducts::Full, FloatProducts::Reproducible] {
        for [rows, n, k] in [[1, 1100, 520], [3, 20, 33], [17, 600, 500], [300, 70, 260], [5, 4, 1]] {
            let mut g = GraphBuilder::new();
            let [x, other] =
                [k, n].map(|length| g.input(&format!("x{length}"), Shape::batched(&[length])).expect("an input"));
            let (weight, bias) = (floats(&[n, k], 3), floats(&[n], 4));
            let [weight, bias] =
                [("weight", weight), ("bias", bias)].map(|(name, v)| g.constant(name, v).expect("a constant"));
            let y = g.node("layer", Op::Linear(Linear { products }), &[x, weight, bias]).expect("a layer");
            let scale = g.constant("scale", floats(&[n], 5)).expect("a constant");
            let y = g.mul("scaled", y, scale).expect("scaled");
            let y = g.relu("relu", y).expect("a relu");
            let y = g.add("residual", other, y).expect("a sum");
            let graph = g.finish([y]).expect("a graph");
            assert_eq!(agree(&graph, &[&floats(&[rows, k], 1), &floats(&[rows, n], 2)]), [0, 3], "{graph}");
        }
    }
    // What needs whole rows, and what follows a product without parts.
    for is_constant in [true, false] {
        let mut g = GraphBuilder::new();
        let x = g.input("x", Shape::batched(&[300])).expect("an input");
        let weight = match is_constant {
            true => g.constant("weight", floats(&[500, 300], 3)).expect("a constant"),
            false => g.input("weight", Shape::fixed(&[500, 300])).expect("an input"),
        };
        let y = g.node("layer", Op::Linear(Linear { products: FloatProducts::Full }), &[x, weight]).expect("a layer");
        let y = if is_constant { g.softmax("softmax", y, 1) } else { g.gelu("gelu", y) };
        let graph = g.finish([y.expect("a node")]).expect("a graph");
        let inputs = [floats(&[20, 300], 1), floats(&[500, 300], 2)];
        let inputs: Vec<&Tensor> = inputs.iter().take(if is_constant { 1 } else { 2 }).collect();
        assert_eq!(agree(&graph, &inputs), [0, 0], "{graph}");
    }
}

/// A max pool takes over the buffer of a value that is larger than its own.
#[test]
fn max_pools_read_nothing_of_earlier_values() {
    // The second has channels that stay in registers, and a rest.
    for channels in [8, 70] {
        let mut g = GraphBuilder::new();
        let x = g.input("x", Shape::batched(&[channels, 12, 12])).expect("an input");
        let large = g.gelu("gelu", x).expect("gelu");
        let large = g.add_scalar("large", large, 50.0).expect("a sum");
        let sums = g.sum("sums", large, 3).expect("sums");
        let small = g.mul_scalar("small", x, -0.5).expect("scaled");
        let window = Window::new(&[3, 3]).with_padding(&[1, 1]);
        let y = g.max_pool("pool", small, MaxPool::new(window)).expect("a pool");
        let graph = g.finish([sums, y]).expect("a graph");
        agree(&graph, &[&floats(&[2, channels, 12, 12], 9)]);
    }
}

/// Norms over the last axis run with the product.
#[test]
fn norms_of_rows_fuse() {
    for is_rms in [false, true] {
        let mut g = GraphBuilder::new();
        let x = g.input("x", Shape::batched(&[72, 72])).expect("an input");
        let product = matmul(&mut g, "product", FloatProducts::Reproducible, x, x);
        let (weight, bias) = (floats(&[72], 1), floats(&[72], 2));
        let y = match is_rms {
            false => g.layer_norm("norm", product, weight, bias, 1e-5).expect("a norm"),
            true => g.rms_norm("norm", product, weight, 1e-5).expect("a norm"),
        };
        let graph = g.finish([y]).expect("a graph");
        assert_eq!(agree(&graph, &[&floats(&[2, 72, 72], 9)])[1], 1, "{graph}");
    }
}

/// Steps that must not run with the product: another reader, an output, an operand that is made later, a view, norms over two axes, and
/// a softmax along another axis than the last.
#[test]
fn what_cannot_be_fused_is_not() {
    let products = FloatProducts::Reproducible;
    for case in 0..7 {
        let mut g = GraphBuilder::new();
        let x = g.input("x", Shape::batched(&[12, 12])).expect("an input");
        let product = matmul(&mut g, "product", products, x, x);
        let mut outputs = Vec::new();
        let y = match case {
            0 => {
                outputs.push(g.sigmoid("reader", product).expect("sigmoid"));
                g.relu("relu", product).expect("relu")
            }
            1 => {
                outputs.push(product);
                g.relu("relu", product).expect("relu")
            }
            2 => {
                let later = g.gelu("later", x).expect("gelu");
                g.add("sum", later, product).expect("a sum")
            }
            4 => g.layer_norm("norm", product, floats(&[12, 12], 1), floats(&[12, 12], 2), 1e-5).expect("a norm"),
            5 => g.rms_norm("norm", product, floats(&[12, 12], 1), 1e-5).expect("a norm"),
            6 => g.softmax("softmax", product, 1).expect("a softmax"),
            _ => {
                let view = g.transpose("view", x, &[0, 2, 1]).expect("transposed");
                outputs.push(matmul(&mut g, "other", products, x, view));
                g.add("sum", product, view).expect("a sum")
            }
        };
        outputs.push(y);
        let graph = g.finish(outputs).expect("a graph");
        let [_, fused] = agree(&graph, &[&floats(&[3, 12, 12], 9)]);
        assert_eq!(fused, 0, "case {case}: {graph}");
    }
}

fn quantized(graph: &Graph, inputs: &[&Tensor], config: QuantizationConfig) -> Graph {
    let mut prepared =
        prepare(graph, &WgpuQuantizer::new().set_global(config).quantize_matmul(true)).expect("prepared");
    prepared.observe(inputs).expect("observed");
    to_integer(&convert(&prepared, &ConvertOptions::default()).expect("converted")).expect("integers")
}

/// Few rows divide the channels among threads, many rows divide the rows.
#[test]
fn int8_layers_fuse_in_any_division() {
    for (rows, n, k) in [(1, 4099, 1024), (3, 4099, 1024), (40, 130, 600), (700, 70, 40), (700, 200, 300)] {
        let mut g = GraphBuilder::new();
        let x = g.input("x", Shape::rows(k)).expect("an input");
        let residual = g.input("residual", Shape::rows(n)).expect("an input");
        let y = g.linear("fc", x, floats(&[n, k], 1), Some(floats(&[n], 2))).expect("a layer");
        let y = g.add("residual.add", residual, y).expect("a sum");
        let offset = g.constant("offset", floats(&[n], 3)).expect("a constant");
        let y = g.add("offset.add", y, offset).expect("a sum");
        let y = g.gelu("gelu", y).expect("gelu");
        let graph = g.finish([y]).expect("a graph");
        let inputs = [&floats(&[rows, k], 4), &floats(&[rows, n], 5)];
        for config in [QuantizationConfig::symmetric().dynamic(), QuantizationConfig::symmetric().dynamic_per_token()] {
            let integers = quantized(&graph, &inputs, config.per_channel());
            // The layer quantizes its rows, too.
            assert_eq!(agree(&integers, &inputs)[1], 4, "{integers}");
        }
    }
}

/// A quantized value that two layers read is computed by a step of its own. Its float may have other readers: the caller, or a residual.
#[test]
fn layers_quantize_what_nothing_else_reads() {
    for (case, expected) in [(0, 0), (1, 1), (2, 3)] {
        let mut g = GraphBuilder::new();
        let x = g.input("x", Shape::rows(40)).expect("an input");
        let x = g.relu("x.relu", x).expect("relu");
        let mut layer = |name: &str, x| g.linear(name, x, floats(&[40, 40], 1), None).expect("a layer");
        let outputs = match case {
            0 => vec![layer("a", x), layer("b", x)],
            1 => vec![layer("a", x), x],
            _ => {
                let a = layer("a", x);
                let sum = g.add("sum", x, a).expect("a sum");
                vec![g.relu("relu", sum).expect("relu")]
            }
        };
        let graph = g.finish(outputs).expect("a graph");
        let inputs = [&floats(&[300, 40], 4)];
        let integers = quantized(&graph, &inputs, QuantizationConfig::symmetric().dynamic().per_channel());
        let [_, fused] = agree(&integers, &inputs);
        assert_eq!(fused, expected, "case {case}: {integers}");
    }
}

/// Products of integers whose rows are divided, with a zero point for each row.
#[test]
fn dynamic_products_fuse_in_any_division() {
    let mut g = GraphBuilder::new();
    let a = g.input("a", Shape::batched(&[40, 300])).expect("an input");
    let b = g.input("b", Shape::batched(&[128, 300])).expect("an input");
    let b = g.transpose("b.transposed", b, &[0, 2, 1]).expect("transposed");
    let y = g.matmul("product", a, b).expect("a product");
    let offset = g.constant("offset", floats(&[40, 128], 3)).expect("a constant");
    let y = g.add("sum", y, offset).expect("a sum");
    let y = g.softmax("softmax", y, 2).expect("a softmax");
    let graph = g.finish([y]).expect("a graph");
    for rows in [1, 2] {
        let inputs = [&floats(&[rows, 40, 300], 4), &floats(&[rows, 128, 300], 5)];
        let integers = quantized(&graph, &inputs, QuantizationConfig::symmetric().dynamic_per_token());
        let product = &integers.node(integers.find("product").expect("the product")).op;
        assert!(matches!(product, Op::IntegerMatMulDynamic(_)), "{integers}");
        assert_eq!(agree(&integers, &inputs)[1], 2, "{integers}");
    }
}

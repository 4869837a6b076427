//! The gradient of every operator against central differences in `f64`.

use std::collections::{BTreeSet, HashMap};

use enfold::graph::{GraphError, NodeId};
use enfold::ops::{
    AveragePool, AverageWindows, BinaryOp, Conv, ConvTranspose, MaxPool, OpKind, Pad, ResizeCoordinates, ResizeLinear,
    UnaryOp, Window,
};
use enfold::qat::TrainableGraph;
use enfold::values::DType;
use enfold::{Graph, GraphBuilder, Shape, Tensor};
use ndarray::IxDyn;
use strum::IntoEnumIterator;

use super::wide::{Array, Norms, evaluate};
use crate::random::Random;
use crate::report::report;

/// A value of shape `[rows, dims…]` that is a parameter: rows of an embedding table, one for each id.
fn value(
    g: &mut GraphBuilder,
    random: &mut Random,
    ids: NodeId,
    name: &str,
    dims: &[usize],
) -> Result<NodeId, GraphError> {
    let width: usize = dims.iter().product();
    let table = Tensor::from_f32(&[ROWS, width], random.normals(ROWS * width, 1.0)).expect("fits");
    let flat = g.embedding(&format!("{name}.rows"), ids, table)?;
    g.reshape(name, flat, dims)
}

const ROWS: usize = 3;

type Build = fn(&mut GraphBuilder, &mut Random, NodeId) -> Result<NodeId, GraphError>;

fn normals(random: &mut Random, shape: &[usize]) -> Tensor {
    Tensor::from_f32(shape, random.normals(shape.iter().product(), 1.0)).expect("fits")
}

/// A window of taps, strides, dilations and paddings that fit an image of 4 elements along each axis.
fn window(random: &mut Random, axes: usize) -> Window {
    let mut all = |from: usize, below: usize| -> Vec<usize> { (0..axes).map(|_| from + random.below(below)).collect() };
    let (size, stride, dilation, before, after) = (all(1, 3), all(1, 2), all(1, 2), all(1, 2), all(0, 3));
    Window::new(&size).with_stride(&stride).with_dilation(&dilation).with_uneven_padding(&before, &after)
}

/// A small graph for each operator, with random lengths, some of them 1.
fn cases() -> Vec<(&'static str, Build)> {
    fn d(random: &mut Random) -> usize {
        1 + random.below(4)
    }
    vec![
        ("linear", |g, r, ids| {
            let (k, n) = (d(r), d(r));
            let x = value(g, r, ids, "x", &[k])?;
            let (w, b) = (normals(r, &[n, k]), normals(r, &[n]));
            g.linear("y", x, w, Some(b))
        }),
        ("linear of rank 3 without bias", |g, r, ids| {
            let (t, k, n) = (d(r), d(r), d(r));
            let x = value(g, r, ids, "x", &[t, k])?;
            let w = normals(r, &[n, k]);
            g.linear("y", x, w, None)
        }),
        ("matmul", |g, r, ids| {
            let (m, k, n) = (d(r), d(r), d(r));
            let (a, b) = (value(g, r, ids, "a", &[m, k])?, value(g, r, ids, "b", &[k, n])?);
            g.matmul("y", a, b)
        }),
        ("matmul, broadcast", |g, r, ids| {
            let (s, m, k, n) = (d(r), d(r), d(r), d(r));
            let (a, b) = (value(g, r, ids, "a", &[s, m, k])?, value(g, r, ids, "b", &[1, k, n])?);
            g.matmul("y", a, b)
        }),
        ("add", |g, r, ids| {
            let k = d(r);
            let (a, b) = (value(g, r, ids, "a", &[k])?, value(g, r, ids, "b", &[k])?);
            g.add("y", a, b)
        }),
        ("add, broadcast", |g, r, ids| {
            let (t, k) = (d(r), d(r));
            let (a, b) = (value(g, r, ids, "a", &[t, k])?, value(g, r, ids, "b", &[t, 1])?);
            g.add("y", a, b)
        }),
        ("mul, broadcast", |g, r, ids| {
            let (t, k) = (d(r), d(r));
            let (a, b) = (value(g, r, ids, "a", &[1, k])?, value(g, r, ids, "b", &[t, k])?);
            g.mul("y", a, b)
        }),
        ("a square", |g, r, ids| {
            let k = d(r);
            let a = value(g, r, ids, "a", &[k])?;
            g.mul("y", a, a)
        }),
        ("scalars", |g, r, ids| {
            let k = d(r);
            let x = value(g, r, ids, "x", &[k])?;
            let x = g.add_scalar("a", x, 0.75)?;
            g.mul_scalar("y", x, -1.5)
        }),
        ("relu", |g, r, ids| unary(g, r, ids, UnaryOp::Relu)),
        ("sigmoid", |g, r, ids| unary(g, r, ids, UnaryOp::Sigmoid)),
        ("tanh", |g, r, ids| unary(g, r, ids, UnaryOp::Tanh)),
        ("gelu", |g, r, ids| unary(g, r, ids, UnaryOp::Gelu)),
        ("gelu_tanh", |g, r, ids| unary(g, r, ids, UnaryOp::GeluTanh)),
        ("silu", |g, r, ids| unary(g, r, ids, UnaryOp::Silu)),
        ("softmax", |g, r, ids| {
            let (t, k) = (d(r), d(r));
            let x = value(g, r, ids, "x", &[t, k])?;
            g.softmax("y", x, 1 + r.below(2))
        }),
        ("layer norm", |g, r, ids| {
            let (t, k) = (d(r), 1 + d(r));
            let x = value(g, r, ids, "x", &[t, k])?;
            let (w, b) = (normals(r, &[k]), normals(r, &[k]));
            g.layer_norm("y", x, w, b, 1e-3)
        }),
        ("pad", |g, r, ids| {
            let (t, k) = (d(r), d(r));
            let x = value(g, r, ids, "x", &[t, k])?;
            // The value is a parameter too.
            let one = g.constant("one", Tensor::from_f32(&[1, 1], vec![1.0]).expect("fits"))?;
            let fill = g.linear("fill", one, normals(r, &[1, 1]), None)?;
            let fill = g.reshape("fill.scalar", fill, &[])?;
            g.node("y", Pad { before: vec![0, r.below(3), 1], after: vec![0, 1, r.below(3)] }, &[x, fill])
        }),
        ("rms norm", |g, r, ids| {
            let (t, k) = (d(r), 1 + d(r));
            let x = value(g, r, ids, "x", &[t, k])?;
            let w = normals(r, &[k]);
            g.rms_norm("y", x, w, 1e-3)
        }),
        ("layer norm over two axes", |g, r, ids| {
            let (t, k) = (1 + d(r), d(r));
            let x = value(g, r, ids, "x", &[t, k])?;
            let (w, b) = (normals(r, &[t, k]), normals(r, &[t, k]));
            g.layer_norm("y", x, w, b, 1e-3)
        }),
        ("batch norm", |g, r, ids| {
            let (c, k) = (d(r), d(r));
            let x = value(g, r, ids, "x", &[c, k])?;
            batch_norm(g, r, x, c)
        }),
        ("batch norm behind a layer", |g, r, ids| {
            let (k, n) = (d(r), d(r));
            let x = value(g, r, ids, "x", &[k])?;
            let (w, b) = (normals(r, &[n, k]), normals(r, &[n]));
            let h = g.linear("fc", x, w, Some(b))?;
            batch_norm(g, r, h, n)
        }),
        ("batch norm behind a layer without bias and a transpose", |g, r, ids| {
            let (t, k, n) = (d(r), d(r), d(r));
            let x = value(g, r, ids, "x", &[t, k])?;
            let w = normals(r, &[n, k]);
            let h = g.linear("fc", x, w, None)?;
            let h = g.transpose("turn", h, &[0, 2, 1])?;
            batch_norm(g, r, h, n)
        }),
        ("reshape, flatten and transpose", |g, r, ids| {
            let (a, b, c) = (d(r), d(r), d(r));
            let x = value(g, r, ids, "x", &[a, b, c])?;
            let x = g.transpose("t", x, &[0, 3, 1, 2])?;
            let x = g.reshape("r", x, &[c * a, b])?;
            let x = g.tanh("tanh", x)?;
            g.flatten("y", x, 1)
        }),
        ("concat", |g, r, ids| {
            let (t, k, n) = (d(r), d(r), d(r));
            let (a, b) = (value(g, r, ids, "a", &[t, k])?, value(g, r, ids, "b", &[t, n])?);
            let y = g.concat("c", &[a, b, a], 2)?;
            g.tanh("y", y)
        }),
        ("max", |g, r, ids| {
            let (t, k) = (d(r), d(r));
            let x = value(g, r, ids, "x", &[t, k])?;
            g.max("y", x, 1 + r.below(2))
        }),
        ("div", |g, r, ids| {
            let (t, k) = (d(r), d(r));
            let (a, b) = (value(g, r, ids, "a", &[t, k])?, positive(g, r, ids, "b", &[t, k])?);
            g.div("y", a, b)
        }),
        ("div, broadcast", |g, r, ids| {
            let (t, k) = (d(r), d(r));
            let (a, b) = (value(g, r, ids, "a", &[1, k])?, positive(g, r, ids, "b", &[t, 1])?);
            g.div("y", a, b)
        }),
        ("where, broadcast", |g, r, ids| {
            let (t, k) = (d(r), d(r));
            let (c, a) = (value(g, r, ids, "c", &[t, 1])?, value(g, r, ids, "a", &[1, k])?);
            let b = value(g, r, ids, "b", &[t, k])?;
            let c = g.unary("step", UnaryOp::Step, c)?;
            let y = g.where_("first", c, a, b)?;
            g.where_("y", c, y, a)
        }),
        ("maximum and minimum, broadcast", |g, r, ids| {
            let (t, k) = (d(r), d(r));
            let (a, b) = (value(g, r, ids, "a", &[t, 1])?, value(g, r, ids, "b", &[t, k])?);
            let c = value(g, r, ids, "c", &[1, k])?;
            let y = g.binary("larger", BinaryOp::Maximum, a, b)?;
            g.binary("y", BinaryOp::Minimum, y, c)
        }),
        ("a comparison, beside what it gates", |g, r, ids| {
            let k = d(r);
            let (a, b) = (value(g, r, ids, "a", &[k])?, value(g, r, ids, "b", &[k])?);
            let gate = g.binary("gate", BinaryOp::Less, a, b)?;
            g.mul("y", gate, a)
        }),
        ("a value over its norm", |g, r, ids| {
            // One element divided by its norm is 1 for every value.
            let (t, k) = (d(r), 1 + d(r));
            let x = value(g, r, ids, "x", &[t, k])?;
            let square = g.mul("square", x, x)?;
            let sum = g.sum("sum", square, 2)?;
            let norm = g.unary("norm", UnaryOp::Sqrt, sum)?;
            let norm = g.clamp("some", norm, 0.25, f32::INFINITY)?;
            let norm = g.reshape("column", norm, &[t, 1])?;
            g.div("y", x, norm)
        }),
        ("sum", |g, r, ids| {
            let (t, k) = (d(r), d(r));
            let x = value(g, r, ids, "x", &[t, k])?;
            let x = g.tanh("tanh", x)?;
            g.sum("y", x, 1 + r.below(2))
        }),
        ("clamp", |g, r, ids| {
            let k = d(r);
            let x = value(g, r, ids, "x", &[k])?;
            let (low, high) = [(-0.5, 0.7), (f32::NEG_INFINITY, 0.3), (-0.2, f32::INFINITY)][r.below(3)];
            g.clamp("y", x, low, high)
        }),
        ("slice", |g, r, ids| {
            let (t, k) = (1 + d(r), 1 + d(r));
            let x = value(g, r, ids, "x", &[t, k])?;
            let x = g.tanh("tanh", x)?;
            let axis = 1 + r.below(2);
            let length = [t, k][axis - 1];
            let start = r.below(length);
            g.slice("y", x, axis, start..start + 1 + r.below(length - start))
        }),
        ("conv", |g, r, ids| {
            let (groups, c, n) = (1 + r.below(2), d(r), d(r));
            let dims = [groups * c, 3 + d(r), 3 + d(r)];
            let x = value(g, r, ids, "x", &dims)?;
            let conv = Conv::new(window(r, 2)).with_groups(groups);
            let shape = [groups * n, c, conv.window.axes[0].size, conv.window.axes[1].size];
            let (w, b) = (normals(r, &shape), normals(r, &[groups * n]));
            g.conv("y", x, w, Some(b), conv)
        }),
        ("conv of one axis without bias", |g, r, ids| {
            let (c, n) = (d(r), d(r));
            let dims = [c, 3 + d(r)];
            let x = value(g, r, ids, "x", &dims)?;
            let conv = Conv::new(window(r, 1));
            let w = normals(r, &[n, c, conv.window.axes[0].size]);
            g.conv("y", x, w, None, conv)
        }),
        ("transposed conv", |g, r, ids| {
            let (groups, c, n) = (1 + r.below(2), d(r), d(r));
            let dims = [groups * c, 2 + d(r), 2 + d(r)];
            let x = value(g, r, ids, "x", &dims)?;
            let window = Window::new(&[3, 1 + r.below(3)]).with_stride(&[2, 1]).with_padding(&[1, 0]);
            let conv = ConvTranspose::new(window).with_groups(groups).with_output_padding(&[r.below(2), 0]);
            let shape = [groups * c, n, conv.window.axes[0].size, conv.window.axes[1].size];
            let (w, b) = (normals(r, &shape), normals(r, &[groups * n]));
            g.conv_transpose("y", x, w, Some(b), conv)
        }),
        ("max pool", |g, r, ids| {
            let dims = [d(r), 3 + d(r), 3 + d(r)];
            let x = value(g, r, ids, "x", &dims)?;
            let window = Window::new(&[2, 3]).with_stride(&[1 + r.below(2), 2]).with_padding(&[1, 1]);
            g.max_pool("y", x, MaxPool::new(window).with_ceil_mode(r.below(2) == 0))
        }),
        ("average pool", |g, r, ids| {
            let dims = [d(r), 3 + d(r), 3 + d(r)];
            let x = value(g, r, ids, "x", &dims)?;
            let window = Window::new(&[2, 3]).with_stride(&[1 + r.below(2), 2]).with_padding(&[1, 1]);
            let (ceil_mode, count_include_pad) = (r.below(2) == 0, r.below(2) == 0);
            g.average_pool("y", x, AverageWindows::Sliding { window, ceil_mode, count_include_pad }.into())
        }),
        ("adaptive average pool", |g, r, ids| {
            let dims = [d(r), 3 + d(r), 3 + d(r)];
            let x = value(g, r, ids, "x", &dims)?;
            g.average_pool("y", x, {
                let output = [d(r), d(r)];
                AveragePool::adaptive(&output)
            })
        }),
        ("linear resize", |g, r, ids| {
            let dims = [d(r), 1 + d(r), 1 + d(r)];
            let x = value(g, r, ids, "x", &dims)?;
            let coordinates = COORDINATES[r.below(COORDINATES.len())];
            let resize = ResizeLinear::new(&[1 + r.below(7), 1 + r.below(7)]);
            g.resize_linear("y", x, resize.with_coordinates(coordinates))
        }),
        ("index select", |g, r, ids| {
            let (t, k) = (d(r), d(r));
            let x = value(g, r, ids, "x", &[t, k])?;
            let axis = 1 + r.below(2);
            let indices: Vec<u32> = (0..d(r)).map(|_| r.below([t, k][axis - 1]) as u32).collect();
            g.index_select("y", x, axis, &indices)
        }),
        ("slices of one value that overlap", |g, r, ids| {
            let k = 3 + d(r);
            let x = value(g, r, ids, "x", &[k])?;
            let (a, b) = (g.slice("a", x, 1, 0..2)?, g.slice("b", x, 1, 1..3)?);
            g.mul("y", a, b)
        }),
        ("a mask of integers", |g, r, ids| {
            let k = d(r);
            let x = value(g, r, ids, "x", &[k])?;
            let mask = g.to_float("mask", ids)?;
            let mask = g.reshape("column", mask, &[1])?;
            g.mul("y", x, mask)
        }),
        ("sqrt", |g, r, ids| of_positive(g, r, ids, UnaryOp::Sqrt)),
        ("exp", |g, r, ids| unary(g, r, ids, UnaryOp::Exp)),
        ("log", |g, r, ids| of_positive(g, r, ids, UnaryOp::Log)),
        ("erf", |g, r, ids| unary(g, r, ids, UnaryOp::Erf)),
        ("abs", |g, r, ids| unary(g, r, ids, UnaryOp::Abs)),
        ("step, beside what it gates", |g, r, ids| {
            let k = d(r);
            let x = value(g, r, ids, "x", &[k])?;
            let gate = g.unary("gate", UnaryOp::Step, x)?;
            g.mul("y", gate, x)
        }),
        ("a value that is read three times", |g, r, ids| {
            let k = d(r);
            let x = value(g, r, ids, "x", &[k])?;
            let w = normals(r, &[k, k]);
            let h = g.linear("fc", x, w, None)?;
            let h = g.add("sum", h, x)?;
            g.mul("y", h, x)
        }),
    ]
}

/// The same as [`value`], with numbers of at least 0.3.
fn positive(
    g: &mut GraphBuilder,
    r: &mut Random,
    ids: NodeId,
    name: &str,
    dims: &[usize],
) -> Result<NodeId, GraphError> {
    let x = value(g, r, ids, name, dims)?;
    let x = g.unary(&format!("{name}.abs"), UnaryOp::Abs, x)?;
    g.add_scalar(&format!("{name}.positive"), x, 0.3)
}

fn of_positive(g: &mut GraphBuilder, r: &mut Random, ids: NodeId, op: UnaryOp) -> Result<NodeId, GraphError> {
    let k = 1 + r.below(4);
    let x = positive(g, r, ids, "x", &[k])?;
    g.unary("y", op, x)
}

fn unary(g: &mut GraphBuilder, r: &mut Random, ids: NodeId, op: UnaryOp) -> Result<NodeId, GraphError> {
    let k = 1 + r.below(4);
    let x = value(g, r, ids, "x", &[k])?;
    g.unary("y", op, x)
}

fn batch_norm(g: &mut GraphBuilder, r: &mut Random, x: NodeId, c: usize) -> Result<NodeId, GraphError> {
    let positive = |r: &mut Random| {
        let data = r.normals(c, 1.0).into_iter().map(|v| 0.5 + v.abs()).collect();
        Tensor::from_f32(&[c], data).expect("fits")
    };
    let statistics = [normals(r, &[c]), positive(r), positive(r), normals(r, &[c])];
    g.batch_norm("bn", x, statistics, 1e-3)
}

fn wide(tensor: &Tensor) -> Array {
    let data = tensor.as_f32().expect("floats").iter().map(|&v| f64::from(v)).collect();
    Array::from_shape_vec(IxDyn(tensor.shape()), data).expect("fits")
}

/// The largest difference between the gradients of all parameters and their central differences, over the largest gradient.
fn worst(graph: &Graph, random: &mut Random, norms: Norms, wrong: bool) -> f64 {
    let mut model = TrainableGraph::new(graph).expect("trainable");
    model.freeze_norms(norms == Norms::Running);
    let ids = Tensor::from_i32(&[ROWS], (0..ROWS as i32).collect()).expect("fits");
    let y = model.forward(&[&ids]).expect("forward").swap_remove(0);
    let weights = random.normals(y.len(), 1.0);
    model.backward(&[Tensor::from_f32(y.shape(), weights.clone()).expect("fits")]).expect("backward");
    let weights: Vec<f64> = weights.into_iter().map(f64::from).collect();

    // The graph to evaluate is the one from before folding. Scalars are constants in both.
    let plain = TrainableGraph::new(graph).expect("trainable");
    let reference = if plain.graph().nodes().len() < graph.nodes().len() { graph } else { plain.graph() };
    let mut values: HashMap<String, Array> = model.parameters().map(|(n, v, _)| (n.to_owned(), wide(v))).collect();
    values.insert("ids".to_owned(), Array::from_shape_fn(IxDyn(&[ROWS]), |at| at[0] as f64));
    let loss = |values: &HashMap<String, Array>| -> f64 {
        evaluate(reference, values, norms).iter().zip(&weights).map(|(y, w)| y * w).sum()
    };
    // The forward passes agree.
    let expected = evaluate(reference, &values, norms);
    for (a, b) in y.as_f32().expect("floats").iter().zip(&expected) {
        assert!((f64::from(*a) - b).abs() < 1e-4 * (1.0 + b.abs()), "{a} and {b}");
    }
    let (mut worst, mut largest) = (0f64, 1e-3f64);
    let parameters: Vec<(String, Vec<f32>)> = model.parameters().map(|(n, _, g)| (n.to_owned(), g.to_vec())).collect();
    for (name, gradient) in parameters {
        assert_eq!(gradient.len(), values[&name].len(), "{name}");
        for (at, &gradient) in gradient.iter().enumerate() {
            let moved = |by: f64| {
                let mut values = values.clone();
                values.get_mut(&name).expect("a parameter").as_slice_mut().expect("dense")[at] += by;
                loss(&values)
            };
            const STEP: f64 = 1e-5;
            let difference = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
            let gradient = f64::from(gradient) * if wrong { 1.001 } else { 1.0 };
            worst = worst.max((gradient - difference).abs());
            largest = largest.max(difference.abs());
        }
    }
    worst / largest
}

#[test]
fn every_gradient_equals_its_differences() {
    let mut compared = 0;
    for (name, build) in cases() {
        for seed in 0..12 {
            let mut random = Random::new(seed);
            let mut g = GraphBuilder::new();
            let ids = g.typed_input("ids", Shape::batched(&[]), DType::I32).expect("ids");
            let y = build(&mut g, &mut random, ids).unwrap_or_else(|e| panic!("{name}: {e}"));
            let graph = g.finish([y]).expect("a graph");
            for norms in [Norms::Batch, Norms::Running] {
                let worst = worst(&graph, &mut random.clone(), norms, false);
                // f32 sums, of which the largest is 1 here.
                assert!(worst < 2e-5, "{name}, seed {seed}: off by {worst:e} of the largest gradient");
                compared += 1;
            }
        }
    }
    report(&format!("gradients: {compared} graphs of {} kinds equal central differences in f64", cases().len()));
}

/// An error of a thousandth in a gradient is noticed.
#[test]
fn a_wrong_gradient_is_caught() {
    let mut g = GraphBuilder::new();
    let mut random = Random::new(1);
    let ids = g.typed_input("ids", Shape::batched(&[]), DType::I32).expect("ids");
    let y = cases()[0].1(&mut g, &mut random, ids).expect("a graph");
    let graph = g.finish([y]).expect("a graph");
    assert!(worst(&graph, &mut random, Norms::Batch, true) > 2e-4);
}

/// Axes of length 0 have no gradients, and do no harm.
#[test]
fn axes_of_length_zero() {
    for (features, width) in [(0, 2), (2, 0), (0, 0)] {
        let mut g = GraphBuilder::new();
        let x = g.input("x", Shape::rows(features)).expect("an input");
        let w = Tensor::from_f32(&[width, features], vec![0.0; width * features]).expect("fits");
        let b = Tensor::from_f32(&[width], vec![0.5; width]).expect("fits");
        let h = g.linear("fc", x, w, Some(b)).expect("a layer");
        let h = g.unary("silu", UnaryOp::Silu, h).expect("silu");
        let h = g.concat("cat", &[h, x], 1).expect("joined");
        let h = g.softmax("softmax", h, 1).expect("softmax");
        let y = g.transpose("t", h, &[0, 1]).expect("moved");
        let mut model = TrainableGraph::new(&g.finish([y]).expect("a graph")).expect("trainable");
        let x = Tensor::from_f32(&[2, features], vec![1.0; 2 * features]).expect("fits");
        let y = model.forward(&[&x]).expect("forward").swap_remove(0);
        model.backward(&[y]).expect("backward");
        for (name, value, gradient) in model.parameters() {
            assert_eq!(gradient.len(), value.len(), "{name} of {features} x {width}");
        }
    }
}

const COORDINATES: [ResizeCoordinates; 3] =
    [ResizeCoordinates::HalfPixel, ResizeCoordinates::AlignCorners, ResizeCoordinates::Asymmetric];

/// Operators that no gradient passes: those of integers, and those that only later stages of the flow have.
const REFUSED: [OpKind; 24] = [
    OpKind::Mask,
    OpKind::ToInteger,
    OpKind::Int32,
    OpKind::Unfold,
    OpKind::GatherNd,
    OpKind::ScatterNd,
    OpKind::Quantize,
    OpKind::Dequantize,
    OpKind::ChooseQParams,
    OpKind::QuantizeDynamic,
    OpKind::DequantizeDynamic,
    OpKind::IntegerLinear,
    OpKind::IntegerLinearGroups,
    OpKind::IntegerConv,
    OpKind::IntegerAveragePool,
    OpKind::IntegerResizeLinear,
    OpKind::Requantize,
    OpKind::ScaleAccumulator,
    OpKind::ScaleAccumulatorDynamic,
    OpKind::IntegerAdd,
    OpKind::IntegerMul,
    OpKind::IntegerMatMul,
    OpKind::IntegerMatMulDynamic,
    OpKind::Lut,
];

#[test]
fn every_operator_has_a_gradient_or_is_refused() {
    let mut with_gradient: BTreeSet<OpKind> = BTreeSet::new();
    for (name, build) in cases() {
        let mut g = GraphBuilder::new();
        let ids = g.typed_input("ids", Shape::batched(&[]), DType::I32).expect("ids");
        let y = build(&mut g, &mut Random::new(1), ids).unwrap_or_else(|e| panic!("{name}: {e}"));
        with_gradient.extend(g.finish([y]).expect("a graph").nodes().iter().map(|node| node.op.kind()));
    }
    // Fake quantization, whose gradient the tests of training compare.
    with_gradient.insert(OpKind::Observe);
    let others: Vec<OpKind> = OpKind::iter().filter(|kind| !with_gradient.contains(kind)).collect();
    assert_eq!(others, REFUSED);
}

//! Operations on images that the builder makes of several operators, against their definitions.

use enfold::graph::{GraphError, NodeId};
use enfold::interp::Interpreter;
use enfold::{GraphBuilder, Shape, Tensor};

/// The elements of an image of one row, in the order of its axes.
fn image(dims: [usize; 3], value: impl Fn([usize; 3]) -> f32) -> Tensor {
    let [channels, height, width] = dims;
    let at = |i: usize| [i / (height * width), i / width % height, i % width];
    let data = (0..channels * height * width).map(|i| value(at(i))).collect();
    Tensor::from_f32(&[1, channels, height, width], data).expect("lengths fit")
}

fn run(
    x: &Tensor,
    build: impl FnOnce(&mut GraphBuilder, NodeId) -> Result<NodeId, GraphError>,
) -> (Vec<usize>, Vec<f32>) {
    let mut g = GraphBuilder::new();
    let input = g.input("x", Shape::batched(&x.shape()[1..])).expect("an input");
    let y = build(&mut g, input).expect("a graph");
    let graph = g.finish([y]).expect("a graph");
    let y = Interpreter::new(&graph).run(&[x]).expect("run").swap_remove(0);
    (y.shape()[1..].to_vec(), y.as_f32().expect("floats").to_vec())
}

/// An element that no other has, and no order but its place explains.
fn noise([c, y, x]: [usize; 3]) -> f32 {
    ((c * 71 + y * 29 + x * 13) * 37 % 101) as f32 - 50.0
}

fn check(
    name: &str,
    x: &Tensor,
    build: impl FnOnce(&mut GraphBuilder, NodeId) -> Result<NodeId, GraphError>,
    dims: [usize; 3],
    value: impl Fn([usize; 3]) -> f32,
) {
    let (shape, y) = run(x, build);
    assert_eq!(shape, dims, "{name}");
    assert_eq!(y, image(dims, value).as_f32().expect("floats"), "{name}");
}

#[test]
fn elements_that_are_moved_or_compared() {
    let dims = [4, 5, 6];
    let x = image(dims, noise);
    for output in [[1, 1], [2, 3], [3, 4], [5, 6], [7, 11]] {
        let span = |i: usize, n: usize, out: usize| i * n / out..((i + 1) * n).div_ceil(out);
        let largest = |[c, y, x]: [usize; 3]| {
            let rows = span(y, 5, output[0]);
            let pixels = rows.flat_map(|y| span(x, 6, output[1]).map(move |x| noise([c, y, x])));
            pixels.fold(f32::NEG_INFINITY, f32::max)
        };
        let [height, width] = output;
        check("adaptive max", &x, |g, x| g.adaptive_max_pool("y", x, &output), [4, height, width], largest);
        let nearest = |[c, y, x]: [usize; 3]| noise([c, y * 5 / height, x * 6 / width]);
        check("nearest", &x, |g, x| g.resize_nearest("y", x, &output), [4, height, width], nearest);
    }
    let shuffled = |[c, y, x]: [usize; 3]| noise([c * 4 + y % 2 * 2 + x % 2, y / 2, x / 2]);
    check("shuffle", &x, |g, x| g.pixel_shuffle("y", x, 2), [1, 10, 12], shuffled);
    let back = |g: &mut GraphBuilder, x| {
        let y = g.pixel_shuffle("shuffled", x, 2)?;
        g.pixel_unshuffle("y", y, 2)
    };
    check("unshuffle", &x, back, dims, noise);
    let (before, after) = ([0, 0, 2, 4], [0, 1, 0, 5]);
    let padded = [5, 7, 15];
    let near = |at: usize, before: usize, length: usize| at.saturating_sub(before).min(length - 1);
    let edge = |[c, y, x]: [usize; 3]| noise([near(c, 0, 4), near(y, 2, 5), near(x, 4, 6)]);
    check("replication", &x, |g, x| g.replication_pad("y", x, &before, &after), padded, edge);
    // Columns 4 3 2 1 0 1 … 5 4 3 2 1 0.
    let columns = [4, 3, 2, 1, 0, 1, 2, 3, 4, 5, 4, 3, 2, 1, 0];
    let mirrored = |[c, y, x]: [usize; 3]| noise([[0, 1, 2, 3, 2][c], [2, 1, 0, 1, 2, 3, 4][y], columns[x]]);
    check("reflection", &x, |g, x| g.reflection_pad("y", x, &before, &after), padded, mirrored);
}

#[test]
fn normalized_groups() {
    let x = image([4, 3, 5], noise);
    let weight = [1.0f32, -2.0, 0.5, 3.0];
    let bias = [0.0f32, 1.0, -1.0, 2.0];
    for groups in [1, 2, 4] {
        let tensor = |v: [f32; 4]| Tensor::from_f32(&[4], v.to_vec()).expect("lengths fit");
        let (shape, y) = run(&x, |g, x| g.group_norm("y", x, groups, [tensor(weight), tensor(bias)], 1e-3));
        assert_eq!(shape, [4, 3, 5]);
        let x: Vec<f64> = x.as_f32().expect("floats").iter().map(|&v| v.into()).collect();
        let size = 60 / groups;
        for (at, &y) in y.iter().enumerate() {
            let group = &x[at / size * size..][..size];
            let mean = group.iter().sum::<f64>() / size as f64;
            let variance = group.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / size as f64;
            let expected =
                (x[at] - mean) / (variance + 1e-3).sqrt() * f64::from(weight[at / 15]) + f64::from(bias[at / 15]);
            assert!((f64::from(y) - expected).abs() < 1e-5, "{groups} groups, element {at}: {y}, not {expected}");
        }
    }
}

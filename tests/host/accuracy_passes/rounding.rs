//! Which weights GPTQ rounds and how, beside linear layers of ordinary numbers.

use enfold::ops::{Conv, ConvTranspose, Window};
use enfold::quantize::accuracy::{GptqOptions, Hessians, RoundedWeight, clip_weights, gptq, gptq_skips};
use enfold::quantize::{PreparedGraph, QuantizationConfig, WgpuQuantizer, prepare};
use enfold::values::QuantRange;
use enfold::{Graph, GraphBuilder, Shape, Tensor};

use super::{floats, weight};
use crate::random::Random;
use crate::report::report;

fn tensor(shape: &[usize], values: Vec<f32>) -> Tensor {
    Tensor::from_f32(shape, values).expect("as many")
}

/// Prepares for weights in -largest..=largest with a scale for each channel.
fn prepared(graph: &Graph, largest: i32) -> PreparedGraph {
    let range = QuantRange::new(-largest, largest).expect("a range");
    let config = QuantizationConfig::symmetric().per_channel().weight_range(range);
    prepare(graph, &WgpuQuantizer::new().set_global(config)).expect("prepared")
}

fn linear(weight: &Tensor) -> Graph {
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::rows(weight.shape()[1])).expect("an input");
    let y = g.linear("fc", x, weight.clone(), None).expect("a layer");
    g.finish([y]).expect("a graph")
}

/// Rounds the weights of a graph by the moments of some batches.
fn rounded(graph: &Graph, largest: i32, batches: &[Tensor], name: &str) -> (Tensor, Vec<RoundedWeight>) {
    let mut prepared = prepared(graph, largest);
    let mut hessians = Hessians::new(&prepared);
    batches.iter().for_each(|batch| hessians.observe(&[batch]).expect("observed"));
    let report = gptq(&mut prepared, &hessians, &GptqOptions::default()).expect("rounded");
    (weight(&prepared, name), report)
}

/// The convolution of each group is a linear layer of the elements under its window.
#[test]
fn convolutions_round_as_linear_layers_of_their_windows_do() {
    let mut random = Random::new(41);
    let (channels, groups, side, filters) = (6, 2, 7, 8);
    for (kernel, stride, padding, groups) in [(1, 1, 0, 1), (3, 2, 1, groups), (3, 1, 0, 1)] {
        let (c, k) = (channels / groups, channels / groups * kernel * kernel);
        let original = tensor(&[filters, c, kernel, kernel], random.normals(filters * k, 0.3));
        let x = random.normals(4 * channels * side * side, 1.0);
        // Neighbouring pixels are alike, so that the elements under a window depend on one another.
        let x: Vec<f32> = (0..x.len()).map(|at| x[at] + 0.7 * x[at.saturating_sub(1)]).collect();
        let mut g = GraphBuilder::new();
        let input = g.input("x", Shape::batched(&[channels, side, side])).expect("an input");
        let window = Window::new(&[kernel; 2]).with_stride(&[stride; 2]).with_padding(&[padding; 2]);
        let y = g.conv("conv", input, original.clone(), None, Conv::new(window).with_groups(groups)).expect("a layer");
        let graph = g.finish([y]).expect("a graph");
        let batches: Vec<Tensor> =
            x.chunks(x.len() / 2).map(|half| tensor(&[2, channels, side, side], half.to_vec())).collect();
        let (found, report) = rounded(&graph, 3, &batches, "conv.weight");
        assert!(report.len() == 1 && report[0].rows == filters && report[0].error < 1.0, "{report:?}");
        let outputs = (side + 2 * padding - kernel) / stride + 1;
        let rows = filters / groups;
        for group in 0..groups {
            let mut patches = Vec::new();
            for image in x.chunks(channels * side * side) {
                for (oy, ox) in (0..outputs).flat_map(|y| (0..outputs).map(move |x| (y, x))) {
                    for channel in group * c..(group + 1) * c {
                        for (dy, dx) in (0..kernel).flat_map(|y| (0..kernel).map(move |x| (y, x))) {
                            let at = |o: usize, d: usize| (o * stride + d).checked_sub(padding).filter(|at| *at < side);
                            let pixel = at(oy, dy).zip(at(ox, dx)).map(|(y, x)| (channel * side + y) * side + x);
                            patches.push(pixel.map_or(0.0, |pixel| image[pixel]));
                        }
                    }
                }
            }
            let of_group =
                |weight: &Tensor| tensor(&[rows, k], floats(weight)[group * rows * k..][..rows * k].to_vec());
            let tokens = tensor(&[patches.len() / k, k], patches);
            let (expected, _) = rounded(&linear(&of_group(&original)), 3, &[tokens], "fc.weight");
            assert_eq!(of_group(&found), expected, "kernel {kernel}, group {group}");
            // Other tokens have another result.
            let others = tensor(&[20, k], random.normals(20 * k, 1.0));
            let (other, _) = rounded(&linear(&of_group(&original)), 3, &[others], "fc.weight");
            assert_ne!(other, expected, "kernel {kernel}, group {group}");
        }
    }
}

/// The squared errors of the outputs of each row on tokens.
fn errors(original: &Tensor, rounded: &Tensor, tokens: &Tensor) -> Vec<f64> {
    let k = original.shape()[1];
    let rows = floats(original).chunks(k).zip(floats(rounded).chunks(k));
    rows.map(|(w, q)| {
        let token = |x: &[f32]| {
            let of_feature = |((w, q), x): ((&f32, &f32), &f32)| (f64::from(*w) - f64::from(*q)) * f64::from(*x);
            w.iter().zip(q).zip(x).map(of_feature).sum::<f64>().powi(2)
        };
        floats(tokens).chunks(k).map(token).sum()
    })
    .collect()
}

/// Where a narrow range cuts off what was subtracted, GPTQ has larger errors than rounding to nearest, and is not used.
#[test]
fn no_channel_is_worse_than_rounded_to_nearest() {
    let (rows, k) = (64, 24);
    let mut random = Random::new(5);
    let original = tensor(&[rows, k], random.normals(rows * k, 0.3));
    let common = random.normals(200, 1.0);
    let values = random.normals(200 * k, 0.4);
    let tokens = tensor(&[200, k], (0..200 * k).map(|at| values[at] + common[at / k]).collect());
    let graph = linear(&original);
    let mut prepared = prepared(&graph, 1);
    prepared.observe(&[&tokens]).expect("observed");
    clip_weights(&mut prepared).expect("clipped");
    let mut hessians = Hessians::new(&prepared);
    hessians.observe(&[&tokens]).expect("observed");
    let nearest = {
        // Convert rounds to nearest.
        let quantized = enfold::quantize::convert(&prepared, &Default::default()).expect("converted");
        let node = quantized
            .nodes()
            .iter()
            .find(|node| node.op.name() == "dequantize_per_channel" && node.shape.fixed_dims() == [rows, k]);
        let id = quantized.find(&node.expect("a weight").name).expect("a node");
        enfold::interp::Interpreter::new(&quantized).constant_value(id).expect("known").expect("a constant")
    };
    let report = gptq(&mut prepared, &hessians, &GptqOptions::default()).expect("rounded").swap_remove(0);
    let [before, after] = [&*nearest, &weight(&prepared, "fc.weight")].map(|weight| errors(&original, weight, &tokens));
    let worse = before.iter().zip(&after).filter(|(before, after)| **after > *before * (1.0 + 1e-6)).count();
    let same = before.iter().zip(&after).filter(|(before, after)| (*after - *before).abs() <= 1e-6 * *before).count();
    let ratio = after.iter().sum::<f64>() / before.iter().sum::<f64>();
    crate::report::report(&format!(
        "GPTQ in clipped ranges of 2 bits: {same} of {rows} channels to nearest, {ratio:.2} of the error"
    ));
    assert_eq!(worse, 0, "of {rows}");
    assert!(report.rows == rows && report.nearest_rows == same && same > 0 && same < rows / 2, "{report:?}, {same}");
    approx::assert_relative_eq!(report.error, ratio, max_relative = 1e-4);
}

/// Squares of the inputs beyond the range of f32: the scale of all inputs makes no difference, that of one does.
#[test]
fn moments_beyond_f32_round_like_others() {
    let (rows, k) = (8, 12);
    let mut random = Random::new(6);
    let original = tensor(&[rows, k], random.normals(rows * k, 0.3));
    let values = random.normals(60 * k, 1.0);
    let tokens: Vec<f32> = (0..60 * k).map(|at| values[at] + 0.8 * values[at.saturating_sub(1)]).collect();
    let scaled = |factor: f32, of_first: f32| {
        let scale = |at: usize| if at.is_multiple_of(k) { of_first } else { factor };
        tensor(&[60, k], tokens.iter().enumerate().map(|(at, v)| v * scale(at)).collect())
    };
    let round = |batch: Tensor| rounded(&linear(&original), 3, &[batch], "fc.weight").0;
    let expected = round(scaled(1.0, 1.0));
    for exponent in [70, 100, -80, -110] {
        let factor = 2f32.powi(exponent);
        assert_eq!(round(scaled(factor, factor)), expected, "times 2^{exponent}");
        assert_ne!(round(scaled(factor, factor * 8.0)), expected, "times 2^{exponent}, the first feature times 8 more");
    }
}

#[test]
fn weights_that_stay_as_they_are_have_a_reason() {
    let mut random = Random::new(7);
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::batched(&[4, 5, 5])).expect("an input");
    let weight = tensor(&[4, 4, 3, 3], random.normals(144, 0.3));
    let x = g.conv("conv", x, weight.clone(), None, Conv::new(Window::new(&[3, 3]))).expect("a layer");
    let up = ConvTranspose::new(Window::new(&[3, 3]));
    let x = g.conv_transpose("up", x, weight, None, up).expect("a layer");
    let graph = g.finish([x]).expect("a graph");
    let mut prepared = prepared(&graph, 7);
    let skips = gptq_skips(&prepared).expect("names");
    assert!(skips.len() == 1 && skips[0].0 == "up.weight" && skips[0].1.contains("transposed"), "{skips:?}");
    let mut hessians = Hessians::new(&prepared);
    hessians.observe(&[tensor(&[2, 4, 5, 5], random.normals(200, 1.0))]).expect("observed");
    let before = super::weight(&prepared, "up.weight");
    let rounded = gptq(&mut prepared, &hessians, &GptqOptions::default()).expect("rounded");
    assert!(rounded.len() == 1 && rounded[0].name == "conv.weight", "{rounded:?}");
    assert_eq!(super::weight(&prepared, "up.weight"), before);
    report("GPTQ: the weight of a transposed convolution is rounded to nearest, and named");
}

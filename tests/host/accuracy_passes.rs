//! The passes for accuracy: smoothing, clipping and GPTQ.

use std::collections::HashMap;

use enfold::graph::{GraphError, NodeId};
use enfold::interp::Interpreter;
use enfold::ops::{Constant, Conv, MaxPool, Op, Window};
use enfold::quantize::accuracy::{
    AccuracyError, ChannelStatistics, GptqOptions, Hessians, SmoothOptions, Smoothed, SmoothingPlace, clip_weights,
    gptq, smooth,
};
use enfold::quantize::{
    ConvertOptions, PreparedGraph, QuantizationConfig, WgpuQuantizer, convert, prepare, to_integer,
};
use enfold::values::QuantRange;
use enfold::{Graph, GraphBuilder, Shape, Tensor, cpu, lower::lower};

use crate::random::Random;
use crate::report::report;

const TOKENS: usize = 12;
const HIDDEN: usize = 128;

/// Draws the parameters of a network.
struct Draw {
    g: GraphBuilder,
    random: Random,
    /// Channels of each norm whose weight is 15 to 25 times as large as the others.
    outliers: usize,
}

impl Draw {
    fn new(outliers: usize) -> Self {
        Self { g: GraphBuilder::new(), random: Random::new(17), outliers }
    }

    fn tensor(&mut self, shape: &[usize], scale: f32) -> Tensor {
        let values = self.random.normals(shape.iter().product(), scale);
        Tensor::from_f32(shape, values).expect("as many")
    }

    fn linear(&mut self, name: &str, x: NodeId, [n, k]: [usize; 2]) -> Result<NodeId, GraphError> {
        let (weight, bias) = (self.tensor(&[n, k], 0.05), self.tensor(&[n], 0.05));
        self.g.linear(name, x, weight, Some(bias))
    }

    fn norm(&mut self, name: &str, x: NodeId, width: usize) -> Result<NodeId, GraphError> {
        let mut weight: Vec<f32> = self.random.normals(width, 0.1).into_iter().map(|v| v + 1.0).collect();
        for _ in 0..self.outliers {
            weight[self.random.below(width)] *= 15.0 + 10.0 * self.random.uniform() as f32;
        }
        let weight = Tensor::from_f32(&[width], weight).expect("as many");
        let bias = self.tensor(&[width], 0.1);
        self.g.layer_norm(name, x, weight, bias, 1e-5)
    }

    /// Attention of four heads. The channels of the values are those of the result.
    fn attention(&mut self, of: &dyn Fn(&str) -> String, x: NodeId) -> Result<NodeId, GraphError> {
        let mut head = |name: &str, perm: &[usize]| {
            let h = self.linear(&of(name), x, [HIDDEN, HIDDEN])?;
            let h = self.g.reshape(&of(&format!("{name}.heads")), h, &[TOKENS, 4, HIDDEN / 4])?;
            self.g.transpose(&of(&format!("{name}.turned")), h, perm)
        };
        let [q, k, v] = [head("q", &[0, 2, 1, 3])?, head("k", &[0, 2, 3, 1])?, head("v", &[0, 2, 1, 3])?];
        let scores = self.g.matmul(&of("scores"), q, k)?;
        let scale = self.g.constant(&of("scale"), Tensor::from_f32(&[], vec![0.25]).expect("a number"))?;
        let scores = self.g.mul(&of("scaled"), scores, scale)?;
        let weights = self.g.softmax(&of("weights"), scores, 3)?;
        let mixed = self.g.matmul(&of("mixed"), weights, v)?;
        let joined = self.g.transpose(&of("joined"), mixed, &[0, 2, 1, 3])?;
        let joined = self.g.reshape(&of("tokens"), joined, &[TOKENS, HIDDEN])?;
        self.linear(&of("out"), joined, [HIDDEN, HIDDEN])
    }
}

/// An encoder as BERT has it, whose norms have outlier channels as trained ones do.
fn encoder(layers: usize, outliers: usize) -> Result<Graph, GraphError> {
    let mut d = Draw::new(outliers);
    let x = d.g.input("x", Shape::batched(&[TOKENS, HIDDEN]))?;
    let mut x = d.norm("embeddings.norm", x, HIDDEN)?;
    for layer in 0..layers {
        let of = |name: &str| format!("{layer}.{name}");
        let y = d.attention(&of, x)?;
        let sum = d.g.add(&of("residual"), y, x)?;
        x = d.norm(&of("norm"), sum, HIDDEN)?;
        let h = d.linear(&of("up"), x, [2 * HIDDEN, HIDDEN])?;
        let h = d.g.gelu(&of("gelu"), h)?;
        let y = d.linear(&of("down"), h, [HIDDEN, 2 * HIDDEN])?;
        let sum = d.g.add(&of("second residual"), y, x)?;
        x = d.norm(&of("second norm"), sum, HIDDEN)?;
    }
    d.g.finish([x])
}

/// A block whose norms come first, with a gated feed-forward network, and two layers with a ReLU between.
fn gated() -> Result<Graph, GraphError> {
    let mut d = Draw::new(3);
    let x = d.g.input("x", Shape::batched(&[TOKENS, HIDDEN]))?;
    let norm = d.norm("norm", x, HIDDEN)?;
    let gate = d.linear("gate", norm, [HIDDEN, HIDDEN])?;
    let gate = d.g.silu("silu", gate)?;
    let up = d.linear("up", norm, [HIDDEN, HIDDEN])?;
    let product = d.g.mul("product", gate, up)?;
    let h = d.linear("down", product, [HIDDEN, HIDDEN])?;
    let h = d.linear("first", h, [HIDDEN, HIDDEN])?;
    let h = d.g.relu("relu", h)?;
    let y = d.linear("second", h, [8, HIDDEN])?;
    d.g.finish([y])
}

/// Convolutions with a batch norm, a ReLU and a pool between, whose channels have very different ranges.
fn images() -> Result<Graph, GraphError> {
    let mut d = Draw::new(0);
    let x = d.g.input("x", Shape::batched(&[3, 9, 9]))?;
    let window = Window::new(&[3, 3]).with_padding(&[1, 1]);
    let weight = d.tensor(&[8, 3, 3, 3], 0.3);
    let x = d.g.conv("first", x, weight, None, Conv::new(window.clone()))?;
    let ones = |scale: f32| Tensor::from_f32(&[8], (0..8).map(|c| scale * (1.0 + c as f32)).collect()).expect("eight");
    let x = d.g.batch_norm("norm", x, [ones(0.01), ones(0.5), ones(3.0), ones(0.1)], 1e-5)?;
    let x = d.g.relu("relu", x)?;
    let x = d.g.max_pool("pool", x, MaxPool::new(Window::new(&[2, 2]).with_stride(&[2, 2])))?;
    let weight = d.tensor(&[6, 8, 3, 3], 0.2);
    let x = d.g.conv("second", x, weight, None, Conv::new(window))?;
    d.g.finish([x])
}

/// Tokens near one of 64, as words are, or random pixels.
fn batch(graph: &Graph, rows: usize, seed: u64) -> Tensor {
    let shape = graph.node(graph.inputs()[0]).shape.with_rows(rows);
    let mut random = Random::new(seed);
    let mut values = random.normals(shape.iter().product(), 0.2);
    let words = Random::new(1234).normals(64 * HIDDEN, 1.0);
    for token in values.chunks_exact_mut(HIDDEN) {
        let word = &words[random.below(64) * HIDDEN..][..HIDDEN];
        token.iter_mut().zip(word).for_each(|(v, w)| *v += w);
    }
    Tensor::from_f32(&shape, values).expect("as many")
}

fn statistics(graph: &Graph) -> ChannelStatistics {
    let mut statistics = ChannelStatistics::new(graph);
    for seed in 0..4 {
        statistics.observe(&[batch(graph, 8, seed)]).expect("observed");
    }
    statistics
}

fn smoothed(graph: &Graph, options: &SmoothOptions) -> Smoothed {
    smooth(graph, &statistics(graph), options).expect("smoothed")
}

fn floats(tensor: &Tensor) -> &[f32] {
    tensor.as_f32().expect("floats")
}

/// The largest difference, as a share of the largest magnitude.
fn difference(a: &Graph, b: &Graph, x: &Tensor) -> f32 {
    let [a, b] = [a, b].map(|graph| Interpreter::new(graph).run(&[x]).expect("run").swap_remove(0));
    let largest = floats(&a).iter().fold(0f32, |max, v| max.max(v.abs()));
    floats(&a).iter().zip(floats(&b)).fold(0f32, |max, (a, b)| max.max((a - b).abs())) / largest
}

/// A graph with one element of a constant changed.
fn changed(graph: &Graph, name: &str) -> Graph {
    let mut rewriter = enfold::graph::Rewriter::new(graph);
    for (id, node) in graph.iter() {
        match &node.op {
            Op::Constant(Constant { tensor, .. }) if node.name == name => {
                let mut values = floats(tensor).to_vec();
                values[1] += 0.5;
                let tensor = Tensor::from_f32(tensor.shape(), values).expect("as many");
                let new = rewriter.add(name, Constant::new(tensor), Vec::new(), name).expect("a constant");
                rewriter.replace(id, new);
            }
            _ => {
                rewriter.copy(id).expect("a copy");
            }
        }
    }
    rewriter.finish().expect("a graph")
}

/// A network, the name of a weight, and the places where values are smoothed.
type Case = (&'static str, Graph, &'static str, Vec<(&'static str, SmoothingPlace)>);

#[test]
fn smoothing_changes_no_output_of_the_float_network() {
    use SmoothingPlace::{Layer, Norm, NormCopy, Product};
    let name = |name: &str| name.to_owned();
    let cases: [Case; 3] = [
        (
            "encoder",
            encoder(1, 3).expect("an encoder"),
            "0.v.weight",
            vec![
                ("embeddings.norm", NormCopy(name("embeddings.norm"))),
                ("0.tokens", Layer(name("0.v"))),
                ("0.norm", NormCopy(name("0.norm"))),
                ("0.gelu", Product),
            ],
        ),
        (
            "gated",
            gated().expect("a network"),
            "up.weight",
            vec![
                ("norm", Norm(name("norm"))),
                ("product", Layer(name("up"))),
                ("down", Layer(name("down"))),
                ("relu", Layer(name("first"))),
            ],
        ),
        ("images", images().expect("a network"), "second.weight", vec![("x", Product), ("pool", Norm(name("norm")))]),
    ];
    for (case, graph, weight, places) in cases {
        for search in [false, true] {
            let smoothed = smoothed(&graph, &SmoothOptions::default().with_search(search));
            let found: Vec<_> = smoothed.values.iter().map(|v| (v.name.as_str(), v.place.clone())).collect();
            assert_eq!(found, places, "{case}\n{smoothed}");
            assert!(smoothed.values.iter().filter(|v| v.alpha.is_some()).count() >= 1, "{case}\n{smoothed}");
            assert!(smoothed.values.iter().all(|v| v.error <= 1.0), "{case}\n{smoothed}");
            let x = batch(&graph, 5, 99);
            let apart = difference(&graph, &smoothed.graph, &x);
            assert!(apart < 2e-6, "{case}: {apart:e}\n{smoothed}");
            let wrong = difference(&graph, &changed(&smoothed.graph, weight), &x);
            assert!(wrong > 1e-5, "{case}: one changed element of {weight} changes the output by {wrong:e} only");
        }
    }
}

/// One minus the mean cosine of the tokens of two outputs.
fn loss(float: &Graph, quantized: &Graph, width: usize) -> f64 {
    let x = batch(float, 16, 1000);
    let [a, b] = [float, quantized].map(|graph| Interpreter::new(graph).run(&[&x]).expect("run").swap_remove(0));
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let tokens = floats(&a).chunks(width).zip(floats(&b).chunks(width));
    let cosines: Vec<f64> = tokens.map(|(a, b)| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()).collect();
    1.0 - cosines.iter().sum::<f64>() / cosines.len() as f64
}

fn calibrated(graph: &Graph, config: QuantizationConfig, in_float: &[String]) -> PreparedGraph {
    let quantizer = WgpuQuantizer::new().set_global(config).float_islands(true);
    let quantizer = in_float.iter().fold(quantizer, |quantizer, name| quantizer.set_module_name(name, None));
    let mut prepared = prepare(graph, &quantizer).expect("prepared");
    for seed in 0..4 {
        prepared.observe(&[batch(graph, 8, seed)]).expect("observed");
    }
    prepared
}

fn converted(prepared: &PreparedGraph) -> Graph {
    convert(prepared, &ConvertOptions::default()).expect("converted")
}

/// The loss of an encoder with outlier channels shrinks to 0.35 of what it is without smoothing. An encoder without them loses no more than
/// before.
#[test]
fn smoothing_takes_most_of_the_loss_of_outlier_channels() {
    let config = || QuantizationConfig::symmetric().per_channel();
    for (name, config) in [("static", config()), ("dynamic", config().dynamic())] {
        for (outliers, bar) in [(2, 0.35), (3, 0.35), (0, 1.1)] {
            let float = encoder(3, outliers).expect("an encoder");
            let before = loss(&float, &converted(&calibrated(&float, config.clone(), &[])), HIDDEN);
            let smoothed = smoothed(&float, &SmoothOptions::default().with_dynamic(name == "dynamic"));
            let quantized = converted(&calibrated(&smoothed.graph, config.clone(), &smoothed.float));
            let after = loss(&float, &quantized, HIDDEN);
            report(&format!("smoothing, {name}, {outliers} outliers: loss {before:.6} before, {after:.6} after"));
            assert!(after <= bar * before, "{name}, {outliers} outliers: {after} after, {before} before");
            // The engines run a smoothed network as they run every other.
            let x = batch(&float, 3, 5);
            let integers = to_integer(&quantized).expect("integers");
            let expected = Interpreter::new(&integers).run(&[&x]).expect("run");
            let engine = cpu::Engine::new(&lower(&integers).expect("lowered")).expect("an engine");
            assert_eq!(engine.run(&[&x]).expect("run"), expected, "{name}");
        }
    }
}

/// The results of `tests/accuracy/reference.py`, by name.
fn reference() -> HashMap<String, Tensor> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/accuracy/reference.safetensors");
    let bytes = std::fs::read(path).expect("a file of the tests");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    let tensor = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        let values = view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        (name, Tensor::from_f32(view.shape(), values).expect("as many"))
    };
    file.tensors().into_iter().map(|(name, view)| (name.to_owned(), view)).map(tensor).collect()
}

/// The weight of a layer in a prepared graph.
fn weight(prepared: &PreparedGraph, name: &str) -> Tensor {
    let node = prepared.graph().node(prepared.graph().find(name).expect("a weight"));
    let Op::Constant(Constant { tensor, .. }) = &node.op else { panic!("{name} is no constant") };
    (**tensor).clone()
}

#[test]
fn gptq_equals_the_textbook() {
    let reference = reference();
    let mut compared = 0;
    for (name, largest) in [("small", 7), ("blocks", 7), ("wide", 1)] {
        let of = |what: &str| &reference[&format!("{name}.{what}")];
        let (inputs, original) = (of("inputs"), of("weight"));
        let k = original.shape()[1];
        for (order, by_moments) in [("plain", false), ("ordered", true)] {
            let mut g = GraphBuilder::new();
            let x = g.input("x", Shape::rows(k)).expect("an input");
            let y = g.linear("fc", x, original.clone(), None).expect("a layer");
            let graph = g.finish([y]).expect("a graph");
            let range = QuantRange::new(-largest, largest).expect("a range");
            let config = QuantizationConfig::symmetric().per_channel().weight_range(range).dynamic();
            let quantizer = WgpuQuantizer::new().set_global(config);
            let mut prepared = prepare(&graph, &quantizer).expect("prepared");
            let mut hessians = Hessians::new(&prepared);
            // In two batches, one of them by another copy.
            let rows = inputs.shape()[0] / 2;
            let half = |values: &[f32]| Tensor::from_f32(&[values.len() / k, k], values.to_vec()).expect("rows");
            hessians.observe(&[half(&floats(inputs)[..rows * k])]).expect("observed");
            let mut other = Hessians::new(&prepared);
            other.observe(&[half(&floats(inputs)[rows * k..])]).expect("observed");
            hessians.merge(&other).expect("merged");
            let options = GptqOptions::default().with_activation_order(by_moments);
            let rounded = gptq(&mut prepared, &hessians, &options).expect("rounded");
            assert_eq!(rounded.len(), 1, "{name}");
            let found = weight(&prepared, "fc.weight");
            // The squared error of the outputs on the inputs.
            let error = |rounded: &[f32]| {
                let rows = floats(original).chunks(k).zip(rounded.chunks(k));
                let of_row = |(w, q): (&[f32], &[f32])| -> f64 {
                    let errors: Vec<f64> = w.iter().zip(q).map(|(w, q)| f64::from(*w) - f64::from(*q)).collect();
                    let token = |x: &[f32]| x.iter().zip(&errors).map(|(x, e)| f64::from(*x) * e).sum::<f64>().powi(2);
                    floats(inputs).chunks(k).map(token).sum()
                };
                rows.map(of_row).sum::<f64>()
            };
            let expected = of(&format!("rounded.{order}"));
            let [ours, textbook] = [floats(&found), floats(expected)].map(error);
            assert!((ours - textbook).abs() <= 1e-6 * textbook, "{name} {order}: {ours}, expected {textbook}");
            let apart = floats(&found).iter().zip(floats(expected)).filter(|(a, b)| (*a - *b).abs() > 1e-6).count();
            assert_eq!(apart, 0, "{name} {order}: {apart} weights differ");
            // The other order has another result, so the comparison sees the difference.
            let other = of(&format!("rounded.{}", if by_moments { "plain" } else { "ordered" }));
            assert!((error(floats(other)) - textbook).abs() > 1e-3 * textbook, "{name}");
            // Convert keeps each rounded weight.
            let quantized = converted(&prepared);
            let dequantized =
                quantized.nodes().iter().find(|node| matches!(node.op, Op::Dequantize(_))).expect("a weight");
            let id = quantized.find(&dequantized.name).expect("a node");
            let kept = Interpreter::new(&quantized).constant_value(id).expect("known").expect("constant");
            for (a, b) in floats(&kept).iter().zip(floats(&found)) {
                approx::assert_relative_eq!(*a, *b, max_relative = 1e-6);
            }
            compared += found.len();
        }
    }
    report(&format!("GPTQ against a textbook implementation: {compared} weights compared, 0 differ"));
}

#[test]
fn fewer_bits_lose_less_with_clipping_and_gptq() {
    let float = encoder(2, 0).expect("an encoder");
    let range = QuantRange::new(-7, 7).expect("a range");
    let config = QuantizationConfig::symmetric().per_channel().weight_range(range).dynamic_per_token();
    let nearest = calibrated(&float, config.clone(), &[]);
    let mut clipped = calibrated(&float, config.clone(), &[]);
    let weights = clip_weights(&mut clipped).expect("clipped");
    assert!(weights.len() == 12 && weights.iter().all(|w| w.error < 1.0 && w.error > 0.3), "{weights:?}");
    let mut rounded = calibrated(&float, config, &[]);
    clip_weights(&mut rounded).expect("clipped");
    // Parts of one value each.
    for mut hessians in Hessians::in_parts(&rounded, 1) {
        for seed in 0..4 {
            hessians.observe(&[batch(&float, 8, seed)]).expect("observed");
        }
        let report = gptq(&mut rounded, &hessians, &GptqOptions::default()).expect("rounded");
        assert!(!report.is_empty() && report.iter().all(|w| w.error < 1.0), "{report:?}");
    }
    let [nearest, clipped, rounded] = [&nearest, &clipped, &rounded].map(|p| loss(&float, &converted(p), HIDDEN));
    report(&format!("4-bit weights: loss {nearest:.5} to nearest, {clipped:.5} clipped, {rounded:.5} with GPTQ"));
    assert!(clipped < nearest && rounded < 0.7 * clipped, "{nearest} {clipped} {rounded}");
}

#[test]
fn wrong_arguments_of_passes_are_named() {
    let graph = gated().expect("a network");
    let nothing = ChannelStatistics::new(&graph);
    assert_eq!(smooth(&graph, &nothing, &SmoothOptions::default()).map(drop), Err(AccuracyError::NoData));
    let observed = statistics(&graph);
    for alpha in [-0.1, 1.5, f32::NAN] {
        let error = smooth(&graph, &observed, &SmoothOptions::default().with_alpha(alpha)).expect_err("refused");
        assert!(error.to_string().contains("alpha is") && error.to_string().contains("0..=1"), "{error}");
    }
    let other = encoder(1, 0).expect("an encoder");
    let error = smooth(&other, &observed, &SmoothOptions::default()).expect_err("another graph");
    assert!(error.to_string().contains("of another graph"), "{error}");
    let mut merged = statistics(&graph);
    assert!(merged.merge(&statistics(&other)).is_err() && merged.merge(&observed).is_ok() && merged.batches() == 8);

    let mut values = floats(&batch(&graph, 2, 0)).to_vec();
    values[7] = f32::NAN;
    let shape = graph.node(graph.inputs()[0]).shape.with_rows(2);
    let nan = Tensor::from_f32(&shape, values).expect("as many");
    let error = statistics(&graph).observe(&[&nan]).expect_err("a NaN");
    assert!(error.to_string().contains("norm") && error.to_string().contains("NaN"), "{error}");

    let config = QuantizationConfig::symmetric().per_channel().dynamic_per_token();
    let mut prepared = calibrated(&graph, config.clone(), &[]);
    let mut hessians = Hessians::new(&prepared);
    assert_eq!(gptq(&mut prepared, &hessians, &GptqOptions::default()), Err(AccuracyError::NoData));
    let error = hessians.observe(&[&nan]).expect_err("a NaN");
    assert!(error.to_string().contains("NaN"), "{error}");
    hessians.observe(&[batch(&graph, 2, 0)]).expect("observed");
    let error = gptq(&mut prepared, &hessians, &GptqOptions::default().with_damping(-1.0)).expect_err("refused");
    assert!(error.to_string().contains("damping is -1"), "{error}");
    let mut of_other = calibrated(&other, config, &[]);
    assert!(gptq(&mut of_other, &hessians, &GptqOptions::default()).is_err());
    // Fewer tokens than features: the moments have no inverse, and damping helps.
    let mut few = Hessians::new(&prepared);
    few.observe(&[batch(&graph, 1, 0)]).expect("observed");
    assert!(gptq(&mut prepared, &few, &GptqOptions::default()).is_ok());
    let none = gptq(&mut prepared, &few, &GptqOptions::default().with_damping(0.0));
    assert!(matches!(none, Ok(_) | Err(AccuracyError::Singular { .. })), "{none:?}");
}

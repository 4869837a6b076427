//! Steps that share a dispatch, in networks as the quantizer leaves them.

use enfold::gpu::Options;
use enfold::graph::{GraphError, NodeId};
use enfold::interp::Interpreter;
use enfold::lower::lower;
use enfold::numerics::UnaryOp;
use enfold::quantize::{ConvertOptions, QuantizationConfig, WgpuQuantizer, convert, prepare, to_integer};
use enfold::values::DType;
use enfold::{Graph, GraphBuilder, Shape, Tensor};
use pollster::block_on;

use crate::cases::difference;
use crate::configs;
use crate::device::{buffer, bytes, engine, engine_with};
use crate::layers::f32s;
use crate::long::count;
use crate::operators::has_full_products;
use crate::random::Random;
use crate::report::report;

/// A network, and the number of dispatches that its fused steps save.
struct Pattern {
    name: &'static str,
    graph: Graph,
    x: Tensor,
    saved: usize,
}

/// Tensors from a seed.
struct Draw(Random);

impl Draw {
    fn tensor(&mut self, shape: &[usize], scale: f32) -> Tensor {
        Tensor::from_f32(shape, self.0.normals(shape.iter().product(), scale)).expect("lengths fit")
    }

    fn linear(
        &mut self,
        g: &mut GraphBuilder,
        name: &str,
        x: NodeId,
        [n, k]: [usize; 2],
    ) -> Result<NodeId, GraphError> {
        g.linear(name, x, self.tensor(&[n, k], 0.2), Some(self.tensor(&[n], 0.1)))
    }

    fn norm(&mut self, g: &mut GraphBuilder, name: &str, x: NodeId, width: usize) -> Result<NodeId, GraphError> {
        g.layer_norm(name, x, self.tensor(&[width], 1.0), self.tensor(&[width], 0.1), 1e-5)
    }
}

fn per_channel() -> QuantizationConfig {
    QuantizationConfig::symmetric().per_channel()
}

fn all_static() -> WgpuQuantizer {
    WgpuQuantizer::new().set_global(per_channel())
}

fn dynamic() -> WgpuQuantizer {
    WgpuQuantizer::new().set_global(per_channel().dynamic_per_token())
}

const WIDTH: usize = 20;
/// As many as attention in one dispatch needs.
const TOKENS: usize = 17;

fn pattern(
    name: &'static str,
    dims: &[usize],
    quantizer: WgpuQuantizer,
    saved: usize,
    build: impl FnOnce(&mut GraphBuilder, &mut Draw, NodeId) -> Result<Vec<NodeId>, GraphError>,
) -> Pattern {
    let mut draw = Draw(Random::new(name.len() as u64));
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::batched(dims)).expect("an input");
    let outputs = build(&mut g, &mut draw, x).unwrap_or_else(|e| panic!("{name}: {e}"));
    let float = g.finish(outputs).unwrap_or_else(|e| panic!("{name}: {e}"));
    let x = draw.tensor(&[&[7], dims].concat(), 1.0);
    let mut prepared = prepare(&float, &quantizer).unwrap_or_else(|e| panic!("{name}: {e}"));
    prepared.observe(&[&x]).unwrap_or_else(|e| panic!("{name}: {e}"));
    let quantized = convert(&prepared, &ConvertOptions::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
    let graph = to_integer(&quantized).unwrap_or_else(|e| panic!("{name}: {e}"));
    Pattern { name, graph, x, saved }
}

/// Networks that the patterns of `paths.rs` do not cover: a step that two dispatches want, a value that is read between the steps of one
/// dispatch, and attention.
fn patterns() -> Vec<Pattern> {
    let square = [WIDTH, WIDTH];
    vec![
        pattern("linear and table, and linear and sum of two layers", &[WIDTH], all_static(), 2, |g, d, x| {
            let (a, b) = (d.linear(g, "a", x, square)?, d.linear(g, "b", x, square)?);
            let b = g.silu("act", b)?;
            let c = d.linear(g, "c", b, square)?;
            let sum = g.add("sum", c, a)?;
            Ok(vec![d.linear(g, "d", sum, square)?])
        }),
        pattern("linear and sum with ReLU, as the second", &[3, WIDTH], all_static(), 1, |g, d, x| {
            let a = d.linear(g, "a", x, square)?;
            let b = d.linear(g, "b", a, square)?;
            let c = d.linear(g, "c", b, square)?;
            let sum = g.add("sum", a, c)?;
            let sum = g.relu("relu", sum)?;
            Ok(vec![d.linear(g, "d", sum, square)?])
        }),
        pattern(
            "a sum that is read between its norm and the codes",
            &[WIDTH],
            all_static().set_operator_type("add", None),
            1,
            |g, d, x| {
                let a = g.sigmoid("a", x)?;
                let sum = g.add("sum", a, x)?;
                let norm = d.norm(g, "norm", sum, WIDTH)?;
                let side = d.linear(g, "side", sum, square)?;
                Ok(vec![d.linear(g, "b", norm, square)?, side])
            },
        ),
        pattern("two norms of a sum", &[WIDTH], all_static().set_operator_type("add", None), 2, |g, d, x| {
            let a = g.sigmoid("a", x)?;
            let sum = g.add("sum", a, x)?;
            let (first, second) = (d.norm(g, "first", sum, WIDTH)?, d.norm(g, "second", sum, WIDTH)?);
            Ok(vec![d.linear(g, "b", first, square)?, d.linear(g, "c", second, square)?])
        }),
        pattern("attention of codes", &[TOKENS, WIDTH], all_static().quantize_matmul(true), 3, attention),
        pattern("attention of dynamic codes", &[TOKENS, WIDTH], dynamic().quantize_matmul(true), 11, attention),
        pattern("attention of floats", &[TOKENS, WIDTH], WgpuQuantizer::new(), 8, attention),
        pattern("whole attention of codes", &[TOKENS, WIDTH], all_static().quantize_matmul(true), 4, whole_attention),
        pattern("whole attention of floats", &[TOKENS, WIDTH], WgpuQuantizer::new(), 10, whole_attention),
        pattern(
            "attention of scaled and masked scores",
            &[37, WIDTH],
            WgpuQuantizer::new(),
            9,
            scaled_attention(false),
        ),
        pattern("wide attention of static layers", &[TOKENS, 64], all_static().float_islands(true), 13, wide_attention),
        pattern("wide attention of dynamic layers", &[TOKENS, 64], dynamic(), 16, wide_attention),
        pattern("a norm whose floats are read too", &[3, WIDTH], floats_are_read(all_static()), 3, kept_norm),
        pattern("a norm of tokens whose floats are read too", &[3, WIDTH], floats_are_read(dynamic()), 7, kept_norm),
        pattern("chains of elementwise steps", &[3, WIDTH], WgpuQuantizer::new(), 11, chains),
        pattern("sums of products", &[3, WIDTH], WgpuQuantizer::new(), 3, sums_of_products),
        pattern("means with weights", &[3, WIDTH], WgpuQuantizer::new(), 13, weighted_means),
        // Two copies instead of one, and a dispatch instead of three.
        pattern("attention of a matrix with itself", &[WIDTH, WIDTH], WgpuQuantizer::new(), 1, |g, _, x| {
            let scores = g.matmul("scores", x, x)?;
            let weights = g.softmax("weights", scores, 2)?;
            Ok(vec![g.matmul("mixed", weights, x)?])
        }),
        pattern("attention of few tokens", &[5, WIDTH], WgpuQuantizer::new(), 0, |g, _, x| {
            let turned = g.transpose("turned", x, &[0, 2, 1])?;
            let scores = g.matmul("scores", x, turned)?;
            let weights = g.softmax("weights", scores, 2)?;
            Ok(vec![g.matmul("mixed", weights, x)?])
        }),
        pattern(
            "attention whose weights are read too",
            &[TOKENS, WIDTH],
            WgpuQuantizer::new(),
            8,
            scaled_attention(true),
        ),
        pattern("scaled and masked scores", &[TOKENS, WIDTH], WgpuQuantizer::new(), 5, masked_attention(3, TOKENS)),
        pattern(
            "scaled and masked scores, of columns",
            &[TOKENS, WIDTH],
            WgpuQuantizer::new(),
            4,
            masked_attention(2, TOKENS),
        ),
    ]
}

/// Two heads of ten features.
fn attention(g: &mut GraphBuilder, d: &mut Draw, x: NodeId) -> Result<Vec<NodeId>, GraphError> {
    let mut head = |name: &str, perm: &[usize]| {
        let h = d.linear(g, name, x, [WIDTH, WIDTH])?;
        let h = g.reshape(&format!("{name}.heads"), h, &[TOKENS, 2, WIDTH / 2])?;
        g.transpose(&format!("{name}.turned"), h, perm)
    };
    let q = head("q", &[0, 2, 1, 3])?;
    let k = head("k", &[0, 2, 3, 1])?;
    let v = head("v", &[0, 2, 1, 3])?;
    let scores = g.matmul("scores", q, k)?;
    let weights = g.softmax("weights", scores, 3)?;
    Ok(vec![g.matmul("mixed", weights, v)?])
}

/// Attention whose heads are joined again, and a layer.
fn whole_attention(g: &mut GraphBuilder, d: &mut Draw, x: NodeId) -> Result<Vec<NodeId>, GraphError> {
    let mixed = attention(g, d, x)?[0];
    let joined = g.transpose("joined", mixed, &[0, 2, 1, 3])?;
    let joined = g.reshape("tokens", joined, &[TOKENS, WIDTH])?;
    Ok(vec![d.linear(g, "out", joined, [WIDTH, WIDTH])?])
}

/// Two heads of 32 features, whose queries, keys and values are one product, and whose result is quantized.
fn wide_attention(g: &mut GraphBuilder, d: &mut Draw, x: NodeId) -> Result<Vec<NodeId>, GraphError> {
    Ok(vec![attention_of(g, d, x, None, "")?])
}

/// With a mask, its scores are scaled too.
fn attention_of(
    g: &mut GraphBuilder,
    d: &mut Draw,
    x: NodeId,
    mask: Option<NodeId>,
    prefix: &str,
) -> Result<NodeId, GraphError> {
    let of = |name: &str| format!("{prefix}{name}");
    let mut head = |name: &str, perm: &[usize]| {
        let h = d.linear(g, &of(name), x, [64, 64])?;
        let h = g.reshape(&of(&format!("{name}.heads")), h, &[TOKENS, 2, 32])?;
        g.transpose(&of(&format!("{name}.turned")), h, perm)
    };
    let q = head("q", &[0, 2, 1, 3])?;
    let k = head("k", &[0, 2, 3, 1])?;
    let v = head("v", &[0, 2, 1, 3])?;
    let mut scores = g.matmul(&of("scores"), q, k)?;
    if let Some(mask) = mask {
        let scale = g.constant(&of("scale"), f32s(&[], vec![0.18]))?;
        scores = g.mul(&of("scaled"), scores, scale)?;
        scores = g.add(&of("masked"), scores, mask)?;
    }
    let weights = g.softmax(&of("weights"), scores, 3)?;
    let mixed = g.matmul(&of("mixed"), weights, v)?;
    let joined = g.transpose(&of("joined"), mixed, &[0, 2, 1, 3])?;
    let joined = g.reshape(&of("tokens"), joined, &[TOKENS, 64])?;
    d.linear(g, &of("out"), joined, [64, 64])
}

/// Layers of an encoder as BERT has them: attention and a feed-forward network, each with a residual sum and a norm.
fn encoder(layers: usize) -> impl FnOnce(&mut GraphBuilder, &mut Draw, NodeId) -> Result<Vec<NodeId>, GraphError> {
    move |g, d, x| {
        let x = d.norm(g, "norm", x, 64)?;
        Ok(vec![encoder_layers(g, d, x, None, layers)?])
    }
}

fn encoder_layers(
    g: &mut GraphBuilder,
    d: &mut Draw,
    x: NodeId,
    mask: Option<NodeId>,
    layers: usize,
) -> Result<NodeId, GraphError> {
    let mut x = x;
    for layer in 0..layers {
        let of = |name: &str| format!("{layer}.{name}");
        let y = attention_of(g, d, x, mask, &of(""))?;
        let sum = g.add(&of("residual"), y, x)?;
        x = d.norm(g, &of("norm"), sum, 64)?;
        let h = d.linear(g, &of("up"), x, [128, 64])?;
        let h = g.gelu(&of("gelu"), h)?;
        let y = d.linear(g, &of("down"), h, [64, 128])?;
        let sum = g.add(&of("second residual"), y, x)?;
        x = d.norm(g, &of("second norm"), sum, 64)?;
    }
    Ok(x)
}

/// A sentence encoder from its ids and mask to embeddings of length 1, as `tests/onnx/encoder.py` writes it.
fn sentence_encoder(layers: usize) -> Result<Graph, GraphError> {
    let mut d = Draw(Random::new(7));
    let mut g = GraphBuilder::new();
    let ids = g.typed_input("ids", Shape::batched(&[TOKENS]), DType::I32)?;
    let attended = g.typed_input("attended", Shape::batched(&[TOKENS]), DType::I32)?;
    let number = |g: &mut GraphBuilder, name: &str, value| g.constant(name, f32s(&[], vec![value]));
    let (one, masked) = (number(&mut g, "one", 1.0)?, number(&mut g, "masked", -10_000.0)?);
    // What is added to the scores of keys that are not attended to.
    let mask = g.reshape("mask.shape", attended, &[1, 1, TOKENS])?;
    let mask = g.to_float("mask.cast", mask)?;
    let minus = number(&mut g, "minus", -1.0)?;
    let mask = g.mul("mask.negative", mask, minus)?;
    let mask = g.add("mask.inverted", one, mask)?;
    let mask = g.mul("mask", mask, masked)?;
    let words = g.embedding("words", ids, d.tensor(&[50, 64], 0.5))?;
    let types = g.constant("types", d.tensor(&[TOKENS, 64], 0.5))?;
    let x = g.add("words and types", words, types)?;
    let positions = g.constant("positions", d.tensor(&[TOKENS, 64], 0.5))?;
    let x = g.add("embeddings", x, positions)?;
    let x = d.norm(&mut g, "norm", x, 64)?;
    let x = encoder_layers(&mut g, &mut d, x, Some(mask), layers)?;
    // The mean of the tokens that are attended to, divided by its length.
    let attended = g.reshape("pooled.shape", attended, &[TOKENS, 1])?;
    let attended = g.to_float("pooled.cast", attended)?;
    let tokens = g.mul("pooled.tokens", x, attended)?;
    let total = g.sum("total", tokens, 1)?;
    let count = g.sum("count", attended, 1)?;
    let count = g.clamp("at least", count, 1e-9, f32::INFINITY)?;
    let mean = g.div("mean", total, count)?;
    let squares = g.mul("squares", mean, mean)?;
    let length = g.sum("length.squares", squares, 1)?;
    let length = g.unary("length", UnaryOp::Sqrt, length)?;
    let length = g.reshape("length.shape", length, &[1])?;
    let length = g.clamp("not zero", length, 1e-12, f32::INFINITY)?;
    let embedding = g.div("embedding", mean, length)?;
    g.finish([embedding])
}

#[test]
fn a_whole_encoder_of_two_layers_has_at_most_20_dispatches() {
    let Some((context, engine)) = engine("dispatches of a whole encoder") else { return };
    const ROWS: usize = 5;
    let float = sentence_encoder(2).expect("an encoder");
    let mut random = Random::new(3);
    let mut ints = |f: &mut dyn FnMut(&mut Random, usize) -> i32| {
        let values = (0..ROWS * TOKENS).map(|at| f(&mut random, at)).collect();
        Tensor::from_i32(&[ROWS, TOKENS], values).expect("as many")
    };
    let ids = ints(&mut |random, _| random.between(0, 49));
    let attended = ints(&mut |_, at| i32::from(at % TOKENS <= at / TOKENS * 4));
    for (name, quantizer, most) in [("static", all_static().float_islands(true), 20), ("per token", dynamic(), 24)] {
        let mut prepared = prepare(&float, &quantizer).expect("prepared");
        prepared.observe(&[&ids, &attended]).expect("observed");
        let quantized = convert(&prepared, &ConvertOptions::default()).expect("converted");
        let graph = to_integer(&quantized).expect("integers");
        let model = block_on(engine.load(&lower(&graph).expect("lowered"))).expect("loaded");
        let expected = Interpreter::new(&graph).run(&[&ids, &attended]).expect("interpreted");
        let got = block_on(model.run(&[&ids, &attended])).expect("run");
        assert_eq!(difference(&got[0], &expected[0]), None, "{name}");
        let inputs = [0, 1].map(|_| buffer(context, &[0; ROWS * TOKENS * 4]));
        let output = buffer(context, &vec![0; ROWS * 64 * 4]);
        let run = block_on(model.bind(&[&inputs[0], &inputs[1]], &[&output], ROWS)).expect("bound");
        assert!(run.dispatches() <= most, "{name}: {} dispatches\n{}", run.dispatches(), run.describe());
    }
}

#[test]
fn a_layer_of_an_encoder_is_seven_dispatches() {
    let Some((context, engine)) = engine("dispatches of an encoder") else { return };
    // With dynamic qparams, the result of attention and of the function in the feed-forward network are quantized in dispatches of their own.
    for (name, quantizer, of_layer) in [("static", all_static().float_islands(true), 7), ("per token", dynamic(), 9)] {
        let dispatches = [1, 2, 3].map(|layers| {
            let Pattern { graph, x, .. } = pattern(name, &[TOKENS, 64], quantizer.clone(), 0, encoder(layers));
            let model = block_on(engine.load(&lower(&graph).expect("lowered"))).expect("loaded");
            let output = buffer(context, &vec![0; 7 * TOKENS * 64 * 4]);
            let run = block_on(model.bind(&[&buffer(context, &bytes(&x))], &[&output], 7)).expect("bound");
            let expected = Interpreter::new(&graph).run(&[&x]).expect("interpreted");
            let got = block_on(model.run(&[&x])).expect("run");
            assert_eq!(difference(&got[0], &expected[0]), None, "{name}, {layers} layers");
            run.dispatches()
        });
        assert_eq!(
            [dispatches[1] - dispatches[0], dispatches[2] - dispatches[1]],
            [of_layer; 2],
            "{name}: {dispatches:?}"
        );
    }
}

/// A quantizer that leaves sums in float.
fn floats_are_read(quantizer: WgpuQuantizer) -> WgpuQuantizer {
    quantizer.set_operator_type("add", None)
}

/// A block whose norm comes first, and whose residual is the result of the norm.
fn kept_norm(g: &mut GraphBuilder, d: &mut Draw, x: NodeId) -> Result<Vec<NodeId>, GraphError> {
    let norm = d.norm(g, "norm", x, WIDTH)?;
    let a = d.linear(g, "a", norm, [WIDTH, WIDTH])?;
    let sum = g.add("sum", a, norm)?;
    let norm = d.norm(g, "second norm", sum, WIDTH)?;
    let b = d.linear(g, "b", norm, [WIDTH, WIDTH])?;
    Ok(vec![g.add("second sum", b, norm)?])
}

/// A chain of many steps, one whose first results are broadcast, one that begins with a sum of two values, and a square.
fn chains(g: &mut GraphBuilder, d: &mut Draw, x: NodeId) -> Result<Vec<NodeId>, GraphError> {
    let number = g.constant("number", f32s(&[], vec![0.73]))?;
    let column = g.constant("column", d.tensor(&[3, 1], 1.0))?;
    let row = g.constant("row", d.tensor(&[WIDTH], 1.0))?;
    let mut y = g.mul("long.0", x, number)?;
    for at in 1..11 {
        y = match at % 4 {
            0 => g.mul(&format!("long.{at}"), row, y)?,
            1 => g.div(&format!("long.{at}"), column, y)?,
            2 => g.clamp(&format!("long.{at}"), y, -3.0, 2.5)?,
            _ => g.add(&format!("long.{at}"), y, x)?,
        };
    }
    let bounded = g.clamp("bounded", column, 0.1, 9.0)?;
    let broadcast = g.div("broadcast", y, bounded)?;
    let square = g.mul("square", broadcast, broadcast)?;
    let largest = g.max("largest", square, 2)?;
    Ok(vec![square, largest])
}

/// Sums along both axes: of the products with a column, of squares, and of products that are read elsewhere too.
fn sums_of_products(g: &mut GraphBuilder, d: &mut Draw, x: NodeId) -> Result<Vec<NodeId>, GraphError> {
    let column = g.constant("column", d.tensor(&[3, 1], 1.0))?;
    let weighted = g.mul("weighted", x, column)?;
    let pooled = g.sum("pooled", weighted, 1)?;
    let square = g.mul("square", x, x)?;
    let squares = g.sum("squares", square, 2)?;
    let read = g.mul("read", column, x)?;
    let sum = g.sum("sum", read, 2)?;
    Ok(vec![pooled, squares, sum, read])
}

/// Means along an axis: with a limit of the weights' sum, and without one and with the weights first. Three that are none: one whose sum of
/// weights is read too, one of other weights, and one that divides the other way round.
fn weighted_means(g: &mut GraphBuilder, _: &mut Draw, x: NodeId) -> Result<Vec<NodeId>, GraphError> {
    let weights = g.max("weights", x, 2)?;
    let weights = g.reshape("column", weights, &[3, 1])?;
    // The sum of products, and a sum.
    let sums = |g: &mut GraphBuilder, name: &str, factors: [NodeId; 2], summed: NodeId| {
        let products = g.mul(&format!("{name}.products"), factors[0], factors[1])?;
        Ok::<_, GraphError>([g.sum(&format!("{name}.sum"), products, 1)?, g.sum(&format!("{name}.total"), summed, 1)?])
    };
    let [sum, total] = sums(g, "limited", [x, weights], weights)?;
    let limit = g.clamp("limit", total, 0.25, 1.5)?;
    let limited = g.div("limited.mean", sum, limit)?;
    let [sum, total] = sums(g, "first", [weights, x], weights)?;
    let first = g.div("first.mean", sum, total)?;
    let [sum, total] = sums(g, "read", [x, weights], weights)?;
    let read = g.div("read.mean", sum, total)?;
    let squares = g.mul("squares", weights, weights)?;
    let [sum, of_squares] = sums(g, "other", [x, weights], squares)?;
    let other = g.div("other.mean", sum, of_squares)?;
    let [sum, weight] = sums(g, "turned", [x, weights], weights)?;
    let turned = g.div("turned.mean", weight, sum)?;
    Ok(vec![limited, first, read, total, other, turned])
}

/// Attention whose scores are scaled and masked, to the tokens before each, before the softmax of rows, or along another axis.
fn masked_attention(
    axis: usize,
    tokens: usize,
) -> impl FnOnce(&mut GraphBuilder, &mut Draw, NodeId) -> Result<Vec<NodeId>, GraphError> {
    move |g, _, x| {
        let head = |g: &mut GraphBuilder, name: &str, perm: &[usize]| {
            let split = g.reshape(&format!("{name}.split"), x, &[tokens, 4, WIDTH / 4])?;
            g.transpose(&format!("{name}.heads"), split, perm)
        };
        let (q, k) = (head(g, "q", &[0, 2, 1, 3])?, head(g, "k", &[0, 2, 3, 1])?);
        let scores = g.matmul("scores", q, k)?;
        let scale = g.constant("scale", f32s(&[], vec![0.37]))?;
        let scores = g.mul("scaled", scale, scores)?;
        let later = |at: usize| if at % tokens > at / tokens { f32::NEG_INFINITY } else { at as f32 * 0.01 };
        let mask = g.constant("mask", f32s(&[tokens, tokens], (0..tokens * tokens).map(later).collect()))?;
        let scores = g.add("masked", mask, scores)?;
        Ok(vec![g.softmax("weights", scores, axis)?])
    }
}

/// Heads whose scores are scaled and masked, to the tokens before each; if the weights are read too, they are an output.
fn scaled_attention(
    weights_are_read: bool,
) -> impl FnOnce(&mut GraphBuilder, &mut Draw, NodeId) -> Result<Vec<NodeId>, GraphError> {
    move |g, d, x| {
        let tokens = if weights_are_read { TOKENS } else { 37 };
        let scores = masked_attention(3, tokens);
        let weights = scores(g, d, x)?[0];
        let v = g.reshape("v.split", x, &[tokens, 4, WIDTH / 4])?;
        let v = g.transpose("v.heads", v, &[0, 2, 1, 3])?;
        let mixed = g.matmul("mixed", weights, v)?;
        let joined = g.transpose("joined", mixed, &[0, 2, 1, 3])?;
        Ok(if weights_are_read { vec![joined, weights] } else { vec![joined] })
    }
}

#[test]
fn fused_and_single_steps_give_the_interpreters_results() {
    let Some((context, fused)) = engine("fused steps of networks") else { return };
    let options = Options { unfused: true, ..Options::default() };
    let single = engine_with(context, &options);
    let divided = |macs| engine_with(context, &Options { macs_per_dispatch: Some(macs), ..Options::default() });
    let (divided, less_divided) = (divided(2000), divided(100_000));
    let mut saved = Vec::new();
    let mut wanted = Vec::new();
    for Pattern { name, graph, x, saved: of_pattern } in patterns() {
        assert!(!has_full_products(&graph), "{name} promises its bits");
        let program = lower(&graph).unwrap_or_else(|e| panic!("{name}: {e}"));
        let expected = Interpreter::new(&graph).run(&[&x]).expect("interpreted");
        let mut dispatches = Vec::new();
        for engine in [&fused, &single, &divided, &less_divided] {
            let model = block_on(engine.load(&program)).unwrap_or_else(|e| panic!("{name}: {e}"));
            let got = block_on(model.run(&[&x])).unwrap_or_else(|e| panic!("{name}: {e}"));
            for (got, expected) in got.iter().zip(&expected) {
                assert_eq!(difference(got, expected), None, "{name}:\n{program}");
            }
            let outputs: Vec<wgpu::Buffer> = expected.iter().map(|y| buffer(context, &vec![0; y.len() * 4])).collect();
            let outputs: Vec<&wgpu::Buffer> = outputs.iter().collect();
            let run = block_on(model.bind(&[&buffer(context, &bytes(&x))], &outputs, 7)).expect("bound");
            dispatches.push(run.dispatches());
        }
        // The products of most patterns are divided, those of attention by blocks of rows.
        if name == "attention of scaled and masked scores" {
            assert!(dispatches[2] > dispatches[3] && dispatches[3] > dispatches[0], "{dispatches:?}");
        }
        saved.push((name, dispatches[1] - dispatches[0]));
        wanted.push((name, of_pattern));
    }
    assert_eq!(saved, wanted, "dispatches saved");
}

/// Networks of any patterns by single steps give what they give by fused steps.
#[test]
fn fusion_changes_no_network() {
    let Some((context, fused)) = engine("fused steps") else { return };
    let options = Options { unfused: true, ..Options::default() };
    let single = engine_with(context, &options);
    let mut saved = 0;
    let number = count(150, 40);
    for seed in 20_000..20_000 + number {
        let configs::Quantized { integers, batch, .. } = configs::quantized(seed, seed % 3 == 0);
        let program = lower(&integers).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        let mut results = Vec::new();
        let mut dispatches = Vec::new();
        for engine in [&fused, &single] {
            let model = block_on(engine.load(&program)).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
            results.push(block_on(model.run(&[&batch])).unwrap_or_else(|e| panic!("seed {seed}: {e}")).swap_remove(0));
            let output = buffer(context, &vec![0; results[0].len() * 4]);
            let input = buffer(context, &bytes(&batch));
            let run = block_on(model.bind(&[&input], &[&output], batch.shape()[0])).expect("bound");
            dispatches.push(run.dispatches());
        }
        assert_eq!(difference(&results[0], &results[1]), None, "seed {seed}:\n{program}");
        saved += dispatches[1] - dispatches[0];
    }
    report(&format!("{number} networks by fused and by single steps agree; {saved} dispatches saved"));
    assert!(saved as u64 > number / 3, "{saved}");
}

//! Every way through the engine gives the same bytes, and the patterns of fusion are fused.

use enfold::gpu::{Engine, LinearKernel, Options, PackedDot, SplitK, TileShape};
use enfold::graph::NodeId;
use enfold::lower::{LowerOptions, lower_with};
use enfold::numerics::QuantizeRule;
use enfold::ops::{Op, Quantize};
use enfold::program::Program;
use enfold::values::{QParams, QScheme, QuantRange};
use enfold::{Graph, Tensor};
use pollster::block_on;

use crate::device::{buffer, context, engine_with};
use crate::layers::{Layers, batch, expected, rounded_to_f16};
use crate::operators;
use crate::report::report;

/// One pattern: its network, the number of dispatches that fusion saves, and whether its outputs are f16.
struct Pattern {
    name: &'static str,
    graph: Graph,
    saved: usize,
    f16: bool,
}

fn pattern(name: &'static str, saved: usize, build: impl Fn(&mut Layers) -> Vec<NodeId>) -> Pattern {
    let mut l = Layers::new(name.len() as u64);
    let outputs = build(&mut l);
    Pattern { name, graph: l.finish(&outputs), saved, f16: false }
}

fn with_f16(pattern: Pattern) -> Pattern {
    Pattern { f16: true, ..pattern }
}

/// Each row of the table in `fuse.rs` but attention, in all its forms.
fn fused_patterns() -> Vec<Pattern> {
    let linear_and_sum = |name, first: bool, relu| {
        pattern(name, 1, move |l| {
            let (x, other) = (l.int8(&[33]), l.int8(&[20]));
            let y = l.linear(x, 20, 33);
            vec![if first { l.sum(y, other, relu) } else { l.sum(other, y, relu) }]
        })
    };
    // The flags say whether it is a layer norm or an RMS norm, whether a sum precedes it, whether others read that, and whether a
    // quantization follows.
    let norm = |name, saved, center: bool, sum: bool, kept: bool, quantized: bool| {
        pattern(name, saved, move |l| {
            let (a, b) = (l.floats(&[3, 37]), l.floats(&[3, 37]));
            let sum = if sum { l.add(a, b) } else { a };
            let mut outputs = vec![if center { l.layer_norm(sum, 37) } else { l.rms_norm(sum, 37) }];
            if quantized {
                outputs[0] = l.quantize(outputs[0]);
            }
            if kept {
                outputs.push(l.gelu(sum));
            }
            outputs
        })
    };
    vec![
        pattern("linear, table", 1, |l| {
            let x = l.int8(&[33]);
            let y = l.linear(x, 20, 33);
            vec![l.lut(y)]
        }),
        linear_and_sum("linear, sum", true, false),
        linear_and_sum("sum of another and linear", false, false),
        linear_and_sum("linear, sum, relu", true, true),
        linear_and_sum("sum of another and linear, relu", false, true),
        pattern("linear to floats, gelu", 1, |l| {
            let x = l.int8(&[33]);
            let y = l.linear_to_floats(x, 20, 33);
            vec![l.gelu(y)]
        }),
        pattern("dynamic linear, gelu", 3, |l| {
            let x = l.floats(&[33]);
            let y = l.dynamic(x, 20, 33);
            vec![l.gelu(y)]
        }),
        with_f16(pattern("linear to f16", 1, |l| {
            let x = l.int8(&[33]);
            vec![l.linear_to_floats(x, 20, 33)]
        })),
        with_f16(pattern("linear to floats, gelu, f16", 2, |l| {
            let x = l.int8(&[33]);
            let y = l.linear_to_floats(x, 20, 33);
            vec![l.gelu(y)]
        })),
        pattern("float linear, gelu", 1, |l| {
            let x = l.floats(&[33]);
            let y = l.float_linear(x, 21, 33);
            vec![l.gelu(y)]
        }),
        norm("sum, norm", 1, true, true, false, false),
        norm("sum, norm, and a later reader", 1, true, true, true, false),
        norm("RMS norm", 0, false, false, false, false),
        norm("sum, RMS norm, quantize, and a later reader", 2, false, true, true, true),
        norm("norm, quantize", 1, true, false, false, true),
        norm("sum, norm, quantize", 2, true, true, false, true),
        norm("sum, norm, quantize, and a later reader", 2, true, true, true, true),
        // One dispatch instead of two for the qparams and one for the quantized values.
        pattern("quantized tokens, read twice", 4, |l| {
            let x = l.floats(&[3, 37]);
            let [qparams, quantized] = l.per_token(x);
            let y = l.after_tokens(qparams, quantized, 20, 37);
            let z = l.after_tokens(qparams, quantized, 9, 37);
            let (y, z) = (l.gelu(y), l.gelu(z));
            vec![y, z]
        }),
        // Two dispatches instead of two for the qparams and one for the quantized values.
        pattern("values of one scale, read twice", 3, |l| {
            let x = l.floats(&[3, 37]);
            let [qparams, quantized] = l.chosen(x, QScheme::per_tensor_affine());
            let y = l.after_tokens(qparams, quantized, 20, 37);
            let z = l.after_tokens(qparams, quantized, 9, 37);
            let (y, z) = (l.gelu(y), l.gelu(z));
            vec![y, z]
        }),
        // More rows than workgroups that find ranges or quantize.
        pattern("many rows of one scale", 1, |l| {
            let x = l.floats(&[1500, 8]);
            let [qparams, quantized] = l.chosen(x, QScheme::per_tensor_symmetric());
            vec![l.after_tokens(qparams, quantized, 4, 8)]
        }),
        pattern("transpose of b, int8 product", 1, |l| {
            let (a, b) = (l.int8(&[4, 5, 20]), l.int8(&[4, 9, 20]));
            let t = l.transpose(b, &[0, 1, 3, 2]);
            vec![l.integer_matmul(a, t, 9, 20)]
        }),
        pattern("transposes of heads, int8 product", 2, |l| {
            let (a, b) = (l.int8(&[5, 4, 20]), l.int8(&[9, 4, 20]));
            let (a, b) = (l.transpose(a, &[0, 2, 1, 3]), l.transpose(b, &[0, 2, 3, 1]));
            vec![l.integer_matmul(a, b, 9, 20)]
        }),
        pattern("transposes of heads, product of floats", 2, |l| {
            let (a, b) = (l.floats(&[5, 4, 20]), l.floats(&[9, 4, 20]));
            let (a, b) = (l.transpose(a, &[0, 2, 1, 3]), l.transpose(b, &[0, 2, 3, 1]));
            vec![l.matmul(a, b)]
        }),
    ]
}

/// Patterns that look like those of the list and must not be fused.
fn apart() -> Vec<Pattern> {
    let linear = |l: &mut Layers| {
        let x = l.int8(&[3, 33]);
        l.linear(x, 20, 33)
    };
    vec![
        pattern("a table behind an output", 0, move |l| {
            let y = linear(l);
            vec![y, l.lut(y)]
        }),
        pattern("two tables behind a layer", 0, move |l| {
            let y = linear(l);
            vec![l.lut(y), l.lut(y)]
        }),
        pattern("a sum of a layer with itself", 0, move |l| {
            let y = linear(l);
            vec![l.sum(y, y, false)]
        }),
        pattern("a sum that repeats a row", 0, move |l| {
            let (y, row) = (linear(l), l.int8(&[1, 20]));
            vec![l.sum(y, row, false)]
        }),
        pattern("a layer that is repeated in a sum", 0, |l| {
            let (x, other) = (l.int8(&[1, 33]), l.int8(&[3, 20]));
            let y = l.linear(x, 20, 33);
            vec![l.sum(y, other, false)]
        }),
        pattern("a sum with the layer's own input", 0, |l| {
            let x = l.int8(&[20]);
            let y = l.linear(x, 20, 20);
            vec![l.sum(y, x, false)]
        }),
        with_f16(pattern("f16 of odd rows", 0, |l| {
            let x = l.int8(&[33]);
            vec![l.linear_to_floats(x, 7, 33)]
        })),
        pattern("a function behind floats that are an output", 0, |l| {
            let x = l.int8(&[33]);
            let y = l.linear_to_floats(x, 20, 33);
            vec![y, l.gelu(y)]
        }),
        pattern("a norm behind a sum that repeats a row", 0, |l| {
            let (a, b) = (l.floats(&[3, 37]), l.floats(&[1, 37]));
            let sum = l.add(a, b);
            vec![l.layer_norm(sum, 37)]
        }),
        pattern("a norm behind a sum that another reads first", 0, |l| {
            let (a, b) = (l.floats(&[3, 37]), l.floats(&[3, 37]));
            let sum = l.add(a, b);
            let first = l.gelu(sum);
            vec![first, l.layer_norm(sum, 37)]
        }),
        pattern("a norm that is an output, and its quantization", 1, |l| {
            let x = l.floats(&[3, 37]);
            let y = l.layer_norm(x, 37);
            vec![y, l.quantize(y)]
        }),
        pattern("a norm and its quantization by division, as in ONNX files", 1, |l| {
            let x = l.floats(&[3, 37]);
            let y = l.layer_norm(x, 37);
            let qparams = QParams::new(0.03, 5).expect("valid");
            let quantize = Quantize { rule: QuantizeRule::Divide, ..Quantize::new(qparams, QuantRange::INT8) };
            vec![l.node("divided", Op::Quantize(quantize), &[y])]
        }),
        pattern("a norm that is an output, its qparams of each row and its quantization", 3, |l| {
            let x = l.floats(&[3, 37]);
            let y = l.layer_norm(x, 37);
            let [_, quantized] = l.per_token(y);
            vec![y, quantized]
        }),
        pattern("a norm that is read before its quantization", 0, |l| {
            let x = l.floats(&[3, 37]);
            let y = l.layer_norm(x, 37);
            vec![l.gelu(y), l.quantize(y)]
        }),
        pattern("a product with the transpose of its own operand", 0, |l| {
            let a = l.int8(&[5, 20]);
            let t = l.transpose(a, &[0, 2, 1]);
            vec![l.integer_matmul(a, t, 5, 20)]
        }),
        pattern("a transpose that two products read", 0, |l| {
            let (a, b, c) = (l.int8(&[5, 20]), l.int8(&[6, 20]), l.int8(&[9, 20]));
            let t = l.transpose(c, &[0, 2, 1]);
            vec![l.integer_matmul(a, t, 9, 20), l.integer_matmul(b, t, 9, 20)]
        }),
    ]
}

const ROWS: usize = 7;

impl Pattern {
    fn program(&self) -> Program {
        lower_with(&self.graph, &LowerOptions { f16_outputs: self.f16, ..LowerOptions::default() }).expect("lowered")
    }

    fn batch(&self) -> Vec<Tensor> {
        batch(&self.graph, ROWS, 4)
    }

    fn expected(&self, batch: &[Tensor]) -> Vec<Tensor> {
        let rounded = |tensor: Tensor| if self.f16 { rounded_to_f16(&tensor) } else { tensor };
        expected(&self.graph, batch).into_iter().map(rounded).collect()
    }

    /// The first difference.
    fn wrong(&self, got: &[Tensor], right: &[Tensor]) -> Option<String> {
        got.iter().zip(right).find_map(|(got, right)| operators::wrong(&self.graph, got, right, 1e-6))
    }
}

/// Dispatches of a batch.
fn dispatches(engine: &Engine, program: &Program) -> usize {
    let context = context("dispatches").expect("an adapter");
    let model = block_on(engine.load(program)).expect("loaded");
    let buffers = |ids: &[enfold::program::ValueId]| -> Vec<wgpu::Buffer> {
        let len = |id| program.value(id).len(ROWS).expect("small");
        ids.iter().map(|&id| buffer(context, &vec![0; len(id) * 4])).collect()
    };
    let (inputs, outputs) = (buffers(program.inputs()), buffers(program.outputs()));
    let (inputs, outputs): (Vec<_>, Vec<_>) = (inputs.iter().collect(), outputs.iter().collect());
    block_on(model.bind(&inputs, &outputs, ROWS)).expect("bound").dispatches()
}

#[test]
fn every_pattern_is_joined_and_no_other() {
    let Some(context) = context("fused patterns") else { return };
    let (fused, unfused) = (Options::default(), Options { unfused: true, ..Options::default() });
    let [fused, unfused] = [fused, unfused].map(|options| engine_with(context, &options));
    let (patterns, apart) = (fused_patterns(), apart());
    for pattern in patterns.iter().chain(&apart) {
        let program = pattern.program();
        let [less, more] = [&fused, &unfused].map(|engine| dispatches(engine, &program));
        assert_eq!(more - less, pattern.saved, "{}: {less} dispatches, {more} apart:\n{program}", pattern.name);
    }
    report(&format!("{} patterns are fused, {} are not", patterns.len(), apart.len()));
}

#[test]
fn every_path_gives_the_same_bytes() {
    let Some(context) = context("paths") else { return };
    let register = TileShape::new(LinearKernel::Register, 32, 1, &context.device.limits()).expect("fits");
    let d = Options::default;
    let mut paths = vec![
        ("default", d()),
        ("checked", Options { checked: true, ..d() }),
        ("unfused", Options { unfused: true, ..d() }),
        ("without subgroups", Options { without_subgroups: true, ..d() }),
        ("unpacked weights", Options { unpacked_weights: true, ..d() }),
        ("native", Options { packed_dot: PackedDot::Native, ..d() }),
        ("emulated", Options { packed_dot: PackedDot::Emulated, tile: Some(register), ..d() }),
        ("K divided", Options { split_k: SplitK::Always, macs_per_dispatch: Some(2000), ..d() }),
    ];
    let all: Vec<Pattern> = fused_patterns().into_iter().chain(apart()).collect();
    let made: Vec<(Program, Vec<Tensor>, Vec<Tensor>)> = all
        .iter()
        .map(|pattern| {
            let batch = pattern.batch();
            let right = pattern.expected(&batch);
            (pattern.program(), batch, right)
        })
        .collect();
    let count = paths.len();
    for (path, options) in paths.drain(..) {
        let engine = engine_with(context, &options);
        for (pattern, (program, batch, right)) in all.iter().zip(&made) {
            let got = block_on(block_on(engine.load(program)).expect("loaded").run(batch)).expect("run");
            assert_eq!(pattern.wrong(&got, right), None, "{}, {path}:\n{program}", pattern.name);
            // Another batch is another result, of all but a constant.
            let other = pattern.expected(&crate::layers::batch(&pattern.graph, ROWS, 5));
            assert!(pattern.wrong(&got, &other).is_some(), "{}: the comparison cannot fail", pattern.name);
        }
    }
    report(&format!("{} programs give the same on {count} paths", all.len()));
}

//! Measures attention in one dispatch against the same attention in three, and against a dispatch for each step.

use anyhow::Result;
use enfold::gpu::{Engine, Options};
use enfold::interp::Interpreter;
use enfold::lower::lower;
use enfold::numerics::FloatProducts;
use enfold::ops::{Add, MatMul, Mul, Softmax, Transpose};
use enfold::{Graph, GraphBuilder, Shape, Tensor};

use crate::bound::{BoundProgram, runner};
use crate::gpu::{Gpu, LeftOut};
use crate::random::Random;
use crate::report::Measured;
use crate::{Series, compare};

pub(crate) const SERIES: [&str; 1] = ["attention"];

const TOKENS: [usize; 4] = [64, 128, 256, 384];
const HEADS: usize = 12;
const DEPTH: usize = 32;
/// Sequences of a batch. A software adapter takes long for more than one.
const BATCHES: [usize; 2] = [1, 8];
const TOLERANCE: f32 = 1e-5;

pub(crate) fn measure(gpu: &Gpu<'_>) -> Result<Vec<Measured>> {
    let unfused = gpu.new_engine(Options { unfused: true, ..Options::default() })?;
    let batches = if gpu.context.is_software() { &BATCHES[..1] } else { &BATCHES[..] };
    let mut results = Vec::new();
    for &batch in batches {
        for tokens in TOKENS {
            println!("\nattention of {batch} x {tokens} tokens, {HEADS} heads of {DEPTH}");
            match LeftOut::too_large(gpu.context, [4 * batch * HEADS * tokens * tokens]) {
                Some(LeftOut(reason)) => println!("  left out: {reason}"),
                None => results.extend(attention(gpu, &unfused, batch, tokens)?),
            }
        }
    }
    Ok(results)
}

fn attention(gpu: &Gpu<'_>, unfused: &Engine, batch: usize, tokens: usize) -> Result<Vec<Measured>> {
    let mut random = Random::new((batch * tokens) as u64);
    let width = HEADS * DEPTH;
    let mut operand = || Tensor::from_f32(&[batch, tokens, HEADS, DEPTH], random.normals(batch * tokens * width, 1.0));
    let (q, k, v) = (operand()?, operand()?, operand()?);
    // The last quarter of the second and every other sequence is padding; of a batch of one, that of the first.
    let padding = |at: usize| (batch == 1 || at / tokens % 2 == 1) && at % tokens >= tokens - tokens / 4;
    let mask = (0..batch * tokens).map(|at| if padding(at) { -10000.0 } else { 0.0 }).collect();
    let mask = Tensor::from_f32(&[batch, 1, 1, tokens], mask)?;
    let inputs = [&q, &k, &v, &mask];
    let (whole, kept) = (graph(tokens, false)?, graph(tokens, true)?);
    let (expected, expected_kept) = (Interpreter::new(&whole).run(&inputs)?, Interpreter::new(&kept).run(&inputs)?);

    let bytes = 4 * (4 * batch * tokens * width + batch * tokens);
    let mut all = Vec::new();
    for (name, engine, graph, expected) in [
        ("attention", gpu.engine()?, &whole, &expected),
        ("attention in parts", gpu.engine()?, &kept, &expected_kept),
        ("attention unfused", unfused, &whole, &expected),
    ] {
        let bound = BoundProgram::new(gpu.context, engine, (name, &lower(graph)?), &inputs, expected, TOLERANCE)?;
        let (compared, kernel) = (bound.compared, Some(format!("{} dispatches", bound.dispatches())));
        let run = runner(gpu.context, move |pass| bound.record(pass))?;
        all.push((name, Series { run, bytes, compared, kernel }));
    }
    compare([batch * tokens, tokens, width], (4 * batch * tokens * tokens * width) as f64, all)
}

/// Attention as an encoder has it, from `[batch, tokens, heads, depth]` to the same shape. If the scores are kept, they are an output too,
/// so that they must be in memory: the engine then fuses the scale, the mask and the softmax only.
fn graph(tokens: usize, keep_scores: bool) -> Result<Graph> {
    let mut g = GraphBuilder::new();
    let products = MatMul { products: FloatProducts::Reproducible };
    let shape = Shape::batched(&[tokens, HEADS, DEPTH]);
    let [q, k, v] = [g.input("q", shape.clone())?, g.input("k", shape.clone())?, g.input("v", shape)?];
    let mask = g.input("mask", Shape::batched(&[1, 1, tokens]))?;
    let perm = |perm: [usize; 4]| Transpose { perm: perm.to_vec() };
    let q = g.node("q heads", perm([0, 2, 1, 3]), &[q])?;
    let k = g.node("k heads", perm([0, 2, 3, 1]), &[k])?;
    let v = g.node("v heads", perm([0, 2, 1, 3]), &[v])?;
    let scores = g.node("scores", products, &[q, k])?;
    let scale = g.constant("scale", Tensor::from_f32(&[], vec![1.0 / (DEPTH as f32).sqrt()])?)?;
    let scaled = g.node("scaled", Mul, &[scores, scale])?;
    let masked = g.node("masked", Add, &[scaled, mask])?;
    let weights = g.node("weights", Softmax { axis: 3 }, &[masked])?;
    let heads = g.node("heads", products, &[weights, v])?;
    let y = g.node("y", perm([0, 2, 1, 3]), &[heads])?;
    Ok(if keep_scores { g.finish([y, scores])? } else { g.finish([y])? })
}

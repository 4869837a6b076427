//! Random networks of every pattern, through the whole flow: ten thousand in the long run.

use enfold::interp::Interpreter;
use enfold::lower::lower;
use enfold::ops::Op;
use enfold::{Graph, Tensor, cpu};
use rayon::prelude::*;

use crate::cases::difference;
use crate::configs::{self, Quantized};
use crate::long::count;
use crate::oracle::{Codes, compare_ops};
use crate::report::report;

#[derive(Debug, Default, Clone, Copy)]
struct Totals {
    codes: Codes,
    /// The number of networks whose outputs are quantized values. The next field counts those in which one differs.
    ends: usize,
    differ: usize,
    integer_only: usize,
    ops: [usize; 12],
}

impl Totals {
    fn add(mut self, other: Self) -> Self {
        self.codes.add(other.codes);
        self.ends += other.ends;
        self.differ += other.differ;
        self.integer_only += other.integer_only;
        self.ops.iter_mut().zip(other.ops).for_each(|(a, b)| *a += b);
        self
    }
}

/// Counts the nodes of each integer pattern.
fn ops(graph: &Graph) -> [usize; 12] {
    let count = |is: fn(&Op) -> bool| graph.nodes().iter().filter(|node| is(&node.op)).count();
    [
        count(|op| matches!(op, Op::IntegerLinear(_) | Op::IntegerLinearGroups(_))),
        count(|op| matches!(op, Op::IntegerMatMul(_))),
        count(|op| matches!(op, Op::IntegerAdd(_))),
        count(|op| matches!(op, Op::IntegerMul(_))),
        count(|op| matches!(op, Op::Lut(_))),
        count(|op| matches!(op, Op::Concat(_))),
        count(|op| matches!(op, Op::ScaleAccumulatorDynamic(_))),
        count(|op| matches!(op, Op::IntegerMatMulDynamic(_))),
        count(|op| matches!(op, Op::IntegerConv(_))),
        count(|op| matches!(op, Op::IntegerAveragePool(_))),
        count(|op| matches!(op, Op::MaxPool(_))),
        count(|op| matches!(op, Op::IntegerResizeLinear(_))),
    ]
}

/// The quantized values of the output, if the graph ends in a dequantize.
fn final_codes(graph: &Graph, x: &Tensor) -> Option<Tensor> {
    let output = graph.node(graph.outputs()[0]);
    let Op::Dequantize(_) = output.op else { return None };
    let feeds = [(graph.inputs()[0], x)];
    Some(Interpreter::new(graph).run_nodes(&feeds, &[output.inputs[0]]).expect("run").swap_remove(0))
}

/// Makes the quantized network of a seed.
type Generator = fn(u64, bool) -> Quantized;

fn network(generator: Generator, seed: u64, few_bits: bool) -> Result<Totals, String> {
    let Quantized { quantized, integers, batch, .. } = generator(seed, few_bits);
    let codes = compare_ops(&quantized, &integers, &[&batch]).map_err(|e| format!("seed {seed}: {e}"))?;
    let mut totals = Totals { codes, ops: ops(&integers), ..Totals::default() };
    totals.integer_only = usize::from(integers.summary().float.is_empty());
    if let (Some(a), Some(b)) = (final_codes(&quantized, &batch), final_codes(&integers, &batch)) {
        totals.ends = 1;
        totals.differ = usize::from(difference(&a, &b).is_some());
    }
    let program = lower(&integers).map_err(|e| format!("seed {seed}: {e}"))?;
    let got = cpu::Engine::new(&program).and_then(|engine| engine.run(&[&batch])).map_err(|e| e.to_string())?;
    let expected = Interpreter::new(&integers).run(&[&batch]).map_err(|e| e.to_string())?;
    match difference(&got[0], &expected[0]) {
        Some(difference) => Err(format!("seed {seed}: the CPU engine: {difference}\n{program}")),
        None => Ok(totals),
    }
}

fn networks(generator: Generator, count: u64, few_bits: bool) -> Totals {
    let all: Vec<Result<Totals, String>> =
        (0..count).into_par_iter().map(|seed| network(generator, seed, few_bits)).collect();
    let failures: Vec<&String> = all.iter().filter_map(|result| result.as_ref().err()).collect();
    assert!(failures.is_empty(), "{} networks fail, the first:\n{}", failures.len(), failures[0]);
    all.into_iter().flatten().fold(Totals::default(), Totals::add)
}

/// Weights of few bits make sums that are ties far more often, so only the ops have a limit, not the networks.
#[test]
fn weights_of_few_bits() {
    let number = count(2_000, 400);
    let Totals { codes, ends, differ, .. } = networks(configs::quantized, number, true);
    report(&format!(
        "integer ops of {number} random networks with weights of 2 to 4 bits: {} of {} codes one step apart; {differ} of \
         {ends} networks differ in a final code",
        codes.apart, codes.compared
    ));
    assert!(codes.within_bar(), "{codes:?}");
}

#[test]
fn networks_of_every_pattern() {
    let number = count(10_000, 800);
    let totals = networks(configs::quantized, number, false);
    let Totals { codes, ends, differ, integer_only, ops } = totals;
    let [linear, matmul, add, mul, table, concat, dynamic, dynamic_matmul, ..] = ops;
    report(&format!(
        "{number} random networks, {integer_only} without a float node: {linear} linear layers ({dynamic} dynamic), \
         {matmul} matmul and {dynamic_matmul} dynamic ones, {add} add, {mul} mul, {table} tables, {concat} concat"
    ));
    report(&format!(
        "integer ops of {number} random networks: {} of {} codes one step apart; {} floats within 1e-3",
        codes.apart, codes.compared, codes.floats
    ));
    report(&format!("end to end: {differ} of {ends} networks differ in a final code, and the CPU engine in none"));
    assert!(codes.within_bar(), "{codes:?}");
    assert!(differ * 200 <= ends, "{differ} of {ends} networks differ in a final code");
    // A generator that stopped making a pattern would pass everything above.
    assert!(ops[..8].iter().all(|&of_op| of_op as u64 > number / 100), "{ops:?}");
}

/// Convolutions, pools, residual sums and concatenations of images.
#[test]
fn networks_of_images() {
    let number = count(5_000, 1_000);
    let totals = networks(configs::quantized_images, number, false);
    let Totals { codes, ends, differ, integer_only, ops } = totals;
    let [linear, _, add, _, _, concat, .., conv, mean, max] = ops;
    report(&format!(
        "{number} random networks of images, {integer_only} without a float node: {conv} convolutions, {mean} means, {max} pools of \
         maxima, {add} add, {concat} concat, {linear} linear layers; {} of {} codes one step apart, {} floats; {differ} of {ends} \
         networks differ in a final code, and the CPU engine in none",
        codes.apart, codes.compared, codes.floats
    ));
    assert!(codes.within_bar(), "{codes:?}");
    assert!([linear, add, concat, conv, mean, max].iter().all(|&of_op| of_op as u64 > number / 100), "{ops:?}");
}

#[test]
fn images_with_weights_of_few_bits() {
    let number = count(1_000, 200);
    let Totals { codes, .. } = networks(configs::quantized_images, number, true);
    report(&format!(
        "{number} random networks of images with weights of 2 to 4 bits: {} of {} codes one step apart",
        codes.apart, codes.compared
    ));
    assert!(codes.within_bar(), "{codes:?}");
}

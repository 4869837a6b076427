//! Fusion: what follows a product element by element or row by row runs on each part of its result while that is in cache.

use super::broadcast::position;
use super::task_size::task_len;
use crate::numerics::float::{self, rows};
use crate::numerics::{UnaryOp, vectorized};
use crate::ops::{Clamp, LayerNorm, Op, RmsNorm, Softmax, Unary};
use crate::parallel::*;
use crate::program::{Epilogue, Program, QLinear, Step, StepOp, ValueId};
use crate::values::Tensor;
use crate::values::slices::f32s;

/// Which steps run with a product before them.
#[derive(Debug)]
pub(super) struct Fusions {
    /// For each step, the steps that run with it, in order.
    pub(super) after: Vec<Vec<usize>>,
    /// For each step, whether it runs with another one.
    pub(super) is_fused: Vec<bool>,
}

impl Fusions {
    /// Finds the chains of a program: each step is the only reader of the one before it, and its other operands are there when the product
    /// runs. Values of `is_view` are not.
    pub(super) fn of(program: &Program, is_view: impl Fn(ValueId) -> bool) -> Self {
        let steps = program.steps();
        let mut readers = vec![Vec::new(); program.values().len()];
        let mut made_at = vec![None; program.values().len()];
        for (at, step) in steps.iter().enumerate() {
            step.inputs.iter().for_each(|id| readers[id.index()].push(at));
            made_at[step.output.index()] = Some(at);
        }
        program.outputs().iter().for_each(|id| readers[id.index()].push(steps.len()));
        let (mut after, mut is_fused) = (vec![Vec::new(); steps.len()], vec![false; steps.len()]);
        for (at, product) in steps.iter().enumerate() {
            let Some(whole_rows) = gives_whole_rows(&product.op) else { continue };
            let shape = &program.value(product.output).shape;
            let mut last = product.output;
            while let [next] = readers[last.index()][..]
                && let Some(step) = steps.get(next)
                && can_follow(step, last, whole_rows, shape.rank())
                && program.value(step.output).shape == *shape
                && step
                    .inputs
                    .iter()
                    .all(|&id| id == last || made_at[id.index()].is_none_or(|made_at| made_at < at) && !is_view(id))
            {
                after[at].push(next);
                is_fused[next] = true;
                last = step.output;
            }
        }
        Self { after, is_fused }
    }
}

/// Whether a step hands over whole rows of floats when others run with it, or only parts of rows; `None` if none does.
fn gives_whole_rows(op: &StepOp) -> Option<bool> {
    match op {
        StepOp::QLinear(QLinear { epilogue: Epilogue::Scale { .. } | Epilogue::Dynamic { .. }, .. }) => Some(false),
        StepOp::Op(Op::MatMul(_) | Op::IntegerMatMulDynamic(_)) => Some(true),
        _ => None,
    }
}

/// Whether a step can run on parts of a value of rank `rank`.
fn can_follow(step: &Step, value: ValueId, whole_rows: bool, rank: usize) -> bool {
    let StepOp::Op(op) = &step.op else { return false };
    let reads = step.inputs.iter().filter(|&&id| id == value).count();
    match op {
        Op::Add(_) | Op::Mul(_) => reads == 1,
        Op::Unary(_) | Op::Clamp(_) => true,
        Op::Softmax(Softmax { axis }) => whole_rows && axis + 1 == rank,
        Op::LayerNorm(_) | Op::RmsNorm(_) => whole_rows && reads == 1 && step.inputs[0] == value,
        _ => false,
    }
}

/// A step that runs on parts of the result of a product.
pub(super) enum Fused<'r> {
    Add(Operand<'r>),
    Mul(Operand<'r>),
    Unary(UnaryOp),
    Clamp(f32, f32),
    Softmax,
    LayerNorm(&'r [f32], &'r [f32], f32),
    RmsNorm(&'r [f32], f32),
}

impl<'r> Fused<'r> {
    /// Makes what a step does to a value of a shape. `others` are its other operands.
    pub(super) fn new(step: &Step, shape: &[usize], others: &[&'r Tensor]) -> Self {
        let StepOp::Op(op) = &step.op else { unreachable!("it can follow a product") };
        match *op {
            Op::Add(_) => Self::Add(Operand::new(others[0], shape)),
            Op::Mul(_) => Self::Mul(Operand::new(others[0], shape)),
            Op::Unary(Unary { op }) => Self::Unary(op),
            Op::Clamp(Clamp { min, max }) => Self::Clamp(min, max),
            Op::Softmax(_) => Self::Softmax,
            Op::LayerNorm(LayerNorm { eps }) => Self::LayerNorm(f32s(others[0]), f32s(others[1]), eps),
            Op::RmsNorm(RmsNorm { eps }) => Self::RmsNorm(f32s(others[0]), eps),
            _ => unreachable!("it can follow a product"),
        }
    }

    /// Runs on the elements of `y` from `first` on, in place. `n` is the length of a row.
    #[expect(
        clippy::redundant_closure,
        reason = "a function that is passed by its name may not be inlined, and has no vectors then"
    )]
    fn apply(&self, y: &mut [f32], first: usize, n: usize) {
        match *self {
            Self::Add(ref other) => other.zip(y, first, float::add),
            Self::Mul(ref other) => other.zip(y, first, float::mul),
            Self::Unary(op) => op.apply(y),
            Self::Clamp(min, max) => vectorized(
                #[inline(always)]
                || {
                    for y in y {
                        *y = y.clamp(min, max);
                    }
                },
            ),
            Self::Softmax => rows_of(
                y,
                n,
                #[inline(always)]
                |row| rows::softmax(row),
            ),
            Self::LayerNorm(weight, bias, eps) => rows_of(
                y,
                n,
                #[inline(always)]
                |row| rows::layer_norm(row, weight, bias, eps),
            ),
            Self::RmsNorm(weight, eps) => rows_of(
                y,
                n,
                #[inline(always)]
                |row| rows::rms_norm(row, weight, eps),
            ),
        }
    }
}

/// Runs steps on the elements of `y` from `first` on, in place. `n` is the length of a row.
pub(super) fn apply(fused: &[Fused<'_>], y: &mut [f32], first: usize, n: usize) {
    for fused in fused {
        fused.apply(y, first, n);
    }
}

/// Runs steps on a whole value, in parts.
pub(super) fn apply_to_all(fused: &[Fused<'_>], y: &mut [f32], n: usize) {
    if !fused.is_empty() && !y.is_empty() {
        let task = task_len(y.len(), n);
        y.par_chunks_mut(task).enumerate().for_each(|(at, y)| apply(fused, y, at * task, n));
    }
}

#[inline(always)]
fn rows_of(y: &mut [f32], n: usize, run: impl Fn(&mut [f32])) {
    vectorized(
        #[inline(always)]
        || {
            for row in y.chunks_exact_mut(n.max(1)) {
                run(row);
            }
        },
    );
}

/// An operand that broadcasts to a value. Elements of the value, in row-major order: `run` of them have as many of the operand, the same ones
/// again `repeat` times, and so for each place of the axes before those.
pub(super) struct Operand<'r> {
    data: &'r [f32],
    run: usize,
    repeat: usize,
    /// The axes before, of the value and of the operand.
    outer: Vec<usize>,
    own: Vec<usize>,
}

impl<'r> Operand<'r> {
    fn new(operand: &'r Tensor, shape: &[usize]) -> Self {
        let lacking = shape.len() - operand.shape().len();
        let own = |axis: usize| axis.checked_sub(lacking).map_or(1, |axis| operand.shape()[axis]);
        let (mut run, mut repeat, mut axis) = (1, 1, shape.len());
        while axis > 0 && own(axis - 1) == shape[axis - 1] {
            axis -= 1;
            run *= shape[axis];
        }
        while axis > 0 && own(axis - 1) == 1 {
            axis -= 1;
            repeat *= shape[axis];
        }
        Self { data: f32s(operand), run, repeat, outer: shape[..axis].to_vec(), own: (0..axis).map(own).collect() }
    }

    /// Sets each element of `y`, from `first` on of the value, to `f` of it and the operand.
    fn zip(&self, y: &mut [f32], first: usize, f: impl Fn(f32, f32) -> f32) {
        let Self { data, run, repeat, ref outer, ref own } = *self;
        vectorized(
            #[inline(always)]
            || {
                let (mut rest, mut at) = (y, first);
                let mut last = None;
                while !rest.is_empty() {
                    let group = at / (run * repeat);
                    let offset = match last {
                        Some((of, offset)) if of == group => offset,
                        _ => position(group, outer, own) * run,
                    };
                    last = Some((group, offset));
                    // One element of the operand may serve many of the value.
                    let (length, within) = if run == 1 { (repeat, at % repeat) } else { (run, at % run) };
                    let (y, left) = rest.split_at_mut((length - within).min(rest.len()));
                    at += y.len();
                    if run == 1 {
                        let b = data[offset];
                        for y in y {
                            *y = f(*y, b);
                        }
                    } else {
                        for (y, &b) in y.iter_mut().zip(&data[offset + within..]) {
                            *y = f(*y, b);
                        }
                    }
                    rest = left;
                }
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each way of broadcasting, in parts that begin and end anywhere.
    #[test]
    fn operands_broadcast() {
        let shape = [2, 3, 4, 5];
        let value = |at: usize| (at * 7 % 31) as f32;
        for own in [
            &[2, 3, 4, 5][..],
            &[1],
            &[5],
            &[1, 5],
            &[4, 5],
            &[4, 1],
            &[3, 1, 5],
            &[3, 4, 1],
            &[2, 1, 1, 5],
            &[2, 1, 4, 5],
            &[2, 1, 4, 1],
            &[2, 3, 1, 1],
            &[2, 1, 1, 1],
            &[],
        ] {
            let length = own.iter().product::<usize>();
            let other = Tensor::from_f32(own, (0..length).map(value).collect()).expect("fits");
            let operand = Operand::new(&other, &shape);
            for part in [1, 3, 5, 7, 20, 33, 120] {
                let mut y = vec![100.0; 120];
                for (at, y) in y.chunks_mut(part).enumerate() {
                    operand.zip(y, at * part, |a, b| a + b);
                }
                for (at, &y) in y.iter().enumerate() {
                    assert_eq!(y, 100.0 + value(position(at, &shape, own)), "{own:?} in parts of {part}, element {at}");
                }
            }
        }
    }

    /// Whole programs on one to three threads against the interpreter, which computes each node by itself.
    #[cfg(all(feature = "flow", feature = "threads"))]
    mod programs {
        use crate::cpu::Engine;
        use crate::graph::NodeId;
        use crate::interp::Interpreter;
        use crate::lower::lower;
        use crate::numerics::FloatProducts;
        use crate::ops::{MatMul, Op};
        use crate::quantize::{ConvertOptions, QuantizationConfig, WgpuQuantizer, convert, prepare, to_integer};
        use crate::{Graph, GraphBuilder, Shape, Tensor};

        fn floats(dims: &[usize], seed: u32) -> Tensor {
            let value =
                |at: usize| (at as u32 ^ seed).wrapping_mul(0x9e37_79b9).rotate_left(13).wrapping_mul(0x85eb_ca6b);
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
            let fused = engine.fusions.is_fused.iter().filter(|is_fused| **is_fused).count();
            [engine.views.iter().flatten().count(), fused]
        }

        fn matmul(g: &mut GraphBuilder, name: &str, products: FloatProducts, a: NodeId, b: NodeId) -> NodeId {
            g.node(name, Op::MatMul(MatMul { products }), &[a, b]).expect("a product")
        }

        /// Attention of `heads`, keys transposed twice, with a mask for each row of the batch.
        fn attention(products: FloatProducts, [length, heads, size]: [usize; 3], scale: f32) -> Graph {
            let mut g = GraphBuilder::new();
            let head = |g: &mut GraphBuilder, name: &str| {
                let x = g.input(name, Shape::batched(&[length, heads, size])).expect("an input");
                g.transpose(&format!("{name}.heads"), x, &[0, 2, 1, 3]).expect("transposed")
            };
            let [q, k, v] = ["q", "k", "v"].map(|name| head(&mut g, name));
            let mask = g.input("mask", Shape::batched(&[1, 1, length])).expect("an input");
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
                    let mask = floats(&[rows, 1, 1, length], 4);
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

        /// Steps that must not run with the product: another reader, an output, an operand that is made later, and a view.
        #[test]
        fn what_cannot_be_fused_is_not() {
            let products = FloatProducts::Reproducible;
            for case in 0..4 {
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
            for (rows, n, k) in [(1, 4099, 1024), (3, 4099, 1024), (40, 130, 600), (700, 70, 40)] {
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
                for config in
                    [QuantizationConfig::symmetric().dynamic(), QuantizationConfig::symmetric().dynamic_per_token()]
                {
                    let integers = quantized(&graph, &inputs, config.per_channel());
                    assert_eq!(agree(&integers, &inputs)[1], 3, "{integers}");
                }
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
    }
}

//! Graphs, scales and runs.

use enfold::graph::GraphError;
use enfold::interp::{InterpError, Interpreter};
use enfold::ops::{Add, Embedding, IntegerLinear, LayerNorm, MatMul, Op, OpError, Quantize};
use enfold::values::{DType, QParams, QParamsError, QuantRange, TensorError, TensorQParams};
use enfold::{Error, Graph, GraphBuilder, Shape, Tensor, cpu};

use super::{built, check, f32s, net, quantized, row};

#[test]
fn graphs() {
    let rows = |g: &mut GraphBuilder, k| g.input("x", Shape::rows(k)).expect("an input");
    let long = |g: &mut GraphBuilder| {
        // A node of a longer graph.
        let other = &mut GraphBuilder::new();
        let mut last = rows(other, 1);
        for i in 0..9 {
            last = other.relu(&format!("r{i}"), last)?;
        }
        rows(g, 1);
        g.relu("r", last)
    };
    let table = vec![
        row(
            "duplicate names",
            built(|g| {
                rows(g, 4);
                g.input("x", Shape::rows(2))
            }),
            &["x"],
        ),
        row("a node of another graph", built(long), &["r:", "9", "1"]),
        row(
            "wrong feature count",
            built(|g| {
                let x = rows(g, 5);
                g.linear("fc1", x, f32s(&[3, 4], 0.5), None)
            }),
            &["fc1", "5", "4"],
        ),
        row(
            "wrong bias length",
            built(|g| {
                let x = rows(g, 4);
                g.linear("fc1", x, f32s(&[3, 4], 0.5), Some(f32s(&[2], 0.0)))
            }),
            &["fc1", "2", "3"],
        ),
        row(
            "a NaN weight",
            built(|g| {
                let x = rows(g, 4);
                g.linear("fc1", x, f32s(&[3, 4], f32::NAN), None)
            }),
            &["fc1.weight", "element 0", "NaN"],
        ),
        row(
            "an infinite bias",
            built(|g| {
                let x = rows(g, 4);
                g.linear("fc1", x, f32s(&[3, 4], 1.0), Some(f32s(&[3], f32::INFINITY)))
            }),
            &["fc1.bias", "inf"],
        ),
        row(
            "a weight that is no matrix",
            built(|g| {
                let x = rows(g, 4);
                g.linear("fc1", x, f32s(&[4], 0.5), None)
            }),
            &["fc1", "weight", "1", "2"],
        ),
        row(
            "too few inputs",
            built(|g| {
                let x = rows(g, 4);
                g.node("sum", Op::Add(Add), &[x])
            }),
            &["sum", "1", "2"],
        ),
        row(
            "codes where floats belong",
            built(|g| {
                let x = g.typed_input("x", Shape::rows(4), DType::I8)?;
                g.relu("r", x)
            }),
            &["r:", "i8", "f32"],
        ),
        row(
            "shapes that do not broadcast",
            built(|g| {
                let x = rows(g, 4);
                let y = g.input("y", Shape::rows(3))?;
                g.add("sum", x, y)
            }),
            &["sum", "[rows, 4]", "[rows, 3]"],
        ),
        row(
            "a transpose that moves the batch",
            built(|g| {
                let x = rows(g, 4);
                g.transpose("t", x, &[1, 0])
            }),
            &["t:", "batch"],
        ),
        row(
            "a transpose that is no permutation",
            built(|g| {
                let x = rows(g, 4);
                g.transpose("t", x, &[0, 0])
            }),
            &["t:", "[0, 0]"],
        ),
        row(
            "softmax over an axis that is not there",
            built(|g| {
                let x = rows(g, 4);
                g.softmax("s", x, 2)
            }),
            &["s:", "axis 2"],
        ),
        row(
            "a reshape to another size",
            built(|g| {
                let x = rows(g, 4);
                g.reshape("r", x, &[3])
            }),
            &["r:", "3", "4"],
        ),
        row(
            "a quantize node whose zero point is no code",
            built(|g| {
                let x = rows(g, 4);
                let qparams = TensorQParams::PerTensor(QParams::new(1.0, -128).expect("valid"));
                g.node("q", Op::Quantize(Quantize::new(qparams, QuantRange::INT8_NARROW)), &[x])
            }),
            &["q:", "-128", "-127"],
        ),
        row(
            "too many fraction bits",
            built(|g| {
                let x = g.typed_input("x", Shape::rows(1), DType::I8)?;
                let w = g.constant("w", Tensor::from_i8(&[1, 1], vec![1]).expect("fits"))?;
                let b = g.constant("b", Tensor::from_i32(&[1], vec![1]).expect("fits"))?;
                g.node("fc", Op::IntegerLinear(IntegerLinear { fraction_bits: 13 }), &[x, w, b])
            }),
            &["fc:", "13", "12"],
        ),
        row("no output", GraphBuilder::new().finish([]), &["output"]),
        row(
            "an output twice",
            {
                let mut g = GraphBuilder::new();
                let x = rows(&mut g, 4);
                g.finish([x, x])
            },
            &["x:", "twice"],
        ),
        row("a tensor of the wrong length", Tensor::from_f32(&[2, 3], vec![0.0; 5]), &["5", "6"]),
    ];
    covers!(
        table,
        Error::Graph(GraphError::DuplicateName { .. }),
        Error::Graph(GraphError::Order { .. }),
        Error::Graph(GraphError::Op { source: OpError::Arity { .. }, .. }),
        Error::Graph(GraphError::Op { source: OpError::DType { .. }, .. }),
        Error::Graph(GraphError::Op { source: OpError::Size { .. }, .. }),
        Error::Graph(GraphError::Op { source: OpError::Rank { .. }, .. }),
        Error::Graph(GraphError::Op { source: OpError::Broadcast { .. }, .. }),
        Error::Graph(GraphError::Op { source: OpError::Batch { .. }, .. }),
        Error::Graph(GraphError::Op { source: OpError::Parameter { .. }, .. }),
        Error::Graph(GraphError::NonFinite { .. }),
        Error::Graph(GraphError::Op { source: OpError::QParams(_), .. }),
        Error::Graph(GraphError::Output { .. }),
        Error::Tensor(TensorError { .. }),
    );
    check(table);
}

#[test]
fn scales_and_ranges() {
    let table = vec![
        row("a scale of zero", QParams::new(0.0, 0), &["scale 0e0"]),
        row("a subnormal scale", QParams::new(1e-40, 0), &["scale 1e-40"]),
        row("an infinite scale", QParams::new(f32::INFINITY, 0), &["scale inf"]),
        row("a scale that is NaN", QParams::new(f32::NAN, 0), &["scale NaN"]),
        row("a negative scale", QParams::new(-1.0, 0), &["scale -1"]),
        row("a zero point beyond int8", QParams::new(1.0, 128), &["128", "-128..=127"]),
        row("a range beyond int8", QuantRange::new(-129, 127), &["-129..=127"]),
        row("one scale too many", TensorQParams::per_channel(&[1.0, 1.0], &[0], 0), &["2 scales", "1 zero point"]),
    ];
    covers!(
        table,
        Error::QParams(QParamsError::Scale { .. }),
        Error::QParams(QParamsError::ZeroPoint { .. }),
        Error::QParams(QParamsError::Range { .. }),
        Error::QParams(QParamsError::ChannelCount { .. }),
    );
    check(table);
}

/// With overflow checks or without: a shape holds no more elements than can be counted, so no size that is derived from one wraps.
#[test]
fn lengths_that_overflow() {
    let half = 1usize << 63;
    let input = |g: &mut GraphBuilder, dims: &[usize]| g.input("x", Shape::batched(dims));
    let parts = |g: &mut GraphBuilder, dims: &[usize]| -> Result<Vec<_>, GraphError> {
        (0..64).map(|at| g.input(&format!("x{at}"), Shape::batched(dims))).collect()
    };
    let outer = |op: Op| {
        built(move |g| {
            let a = g.input("a", Shape::fixed(&[1 << 40, 1]))?;
            let b = g.input("b", Shape::fixed(&[1, 1 << 40]))?;
            g.node("y", op, &[a, b])
        })
    };
    let table = vec![
        row("an input", built(|g| input(g, &[half, 2])), &["x:", "9223372036854775808"]),
        row("an input that wraps around to 6", built(|g| input(g, &[half, 2, 6])), &["x:", "9223372036854775808"]),
        row("an input without elements", built(|g| input(g, &[0, half, 2])), &["x:", "9223372036854775808"]),
        row(
            "a reshape to what wraps around to as many elements",
            built(|g| {
                let x = input(g, &[6])?;
                g.reshape("r", x, &[(1 << 63) + 3, 2])
            }),
            &["r:", "6"],
        ),
        row(
            "a reshape of nothing",
            built(|g| {
                let x = input(g, &[0])?;
                g.reshape("r", x, &[half, 0, 2])
            }),
            &["r:", "9223372036854775808"],
        ),
        row(
            "parts whose lengths wrap around to 0",
            built(|g| {
                let parts = parts(g, &[1 << 58])?;
                g.concat("c", &parts, 1)
            }),
            &["c:", "576460752303423487"],
        ),
        row(
            "a layer norm over more than there is",
            built(|g| {
                let x = input(g, &[half, 2])?;
                let w = g.input("w", Shape::fixed(&[half, 2]))?;
                g.node("n", Op::LayerNorm(LayerNorm { eps: 1e-5 }), &[x, w, w])
            }),
            &["x:", "9223372036854775808"],
        ),
        row("a sum of a column and a row", outer(Op::Add(Add)), &["y:", "1099511627776"]),
        row("a product of a column and a row", outer(Op::MatMul(MatMul::default())), &["y:", "1099511627776"]),
    ];
    covers!(
        table,
        Error::Graph(GraphError::Op { source: OpError::Elements { .. }, .. }),
        Error::Graph(GraphError::Op { source: OpError::Size { .. }, .. })
    );
    check(table);
    // Rows without elements take no memory, and what is computed of them would.
    let sum = built(|g| {
        let x = g.input("x", Shape::rows(0))?;
        g.sum("s", x, 1)
    });
    let many = Tensor::from_f32(&[1 << 61, 0], Vec::new()).expect("no elements");
    let run = Interpreter::new(&sum.expect("a graph")).run(&[many]);
    check(vec![row("rows beyond memory", run, &["s:", "2305843009213693952 rows"])]);
}

#[test]
fn runs() {
    let two_inputs = {
        let mut g = GraphBuilder::new();
        let (a, b) = (g.input("a", Shape::rows(2)).expect("a"), g.input("b", Shape::rows(2)).expect("b"));
        let y = g.add("sum", a, b).expect("sum");
        g.finish([y]).expect("a graph")
    };
    let embedding = {
        let mut g = GraphBuilder::new();
        let ids = g.typed_input("ids", Shape::batched(&[]), DType::I32).expect("ids");
        let y = g.embedding("table", ids, f32s(&[3, 2], 1.0)).expect("rows");
        g.finish([y]).expect("a graph")
    };
    let from_end = {
        let mut g = GraphBuilder::new();
        let ids = g.typed_input("ids", Shape::batched(&[]), DType::I32).expect("ids");
        let table = g.constant("weight", f32s(&[3, 2], 1.0)).expect("a constant");
        let y = g.node("table", Embedding { from_end: true }, &[ids, table]).expect("rows");
        g.finish([y]).expect("a graph")
    };
    let on_cpu = |graph: &Graph, inputs: &[Tensor]| {
        let program = enfold::lower(graph).expect("a program");
        cpu::Engine::new(&program).expect("an engine").run(inputs)
    };
    let ids = |id| Tensor::from_i32(&[2], vec![0, id]).expect("fits");
    let (net, quantized) = (net(), quantized());
    let run = |graph: &Graph, inputs: &[Tensor]| Interpreter::new(graph).run(inputs);
    let foreign = quantized.iter().last().expect("nodes").0;
    let mut nan = f32s(&[2, 4], 0.5);
    if let Tensor::F32(a) = &mut nan {
        a[[1, 2]] = f32::NAN;
    }
    let table = vec![
        row("no input", run(&net, &[]), &["0 inputs", "1"]),
        row("wrong features", run(&net, &[f32s(&[2, 5], 1.0)]), &["x:", "[2, 5]", "[rows, 4]"]),
        row("wrong rank", run(&net, &[f32s(&[4], 1.0)]), &["x:", "[4]"]),
        row("wrong type", run(&net, &[Tensor::from_i8(&[1, 4], vec![0; 4]).expect("fits")]), &["x:", "i8", "f32"]),
        row("zero rows", run(&net, &[f32s(&[0, 4], 1.0)]), &["x:", "0 rows", "1"]),
        row(
            "batches of two sizes",
            run(&two_inputs, &[f32s(&[2, 2], 1.0), f32s(&[3, 2], 1.0)]),
            &["b:", "3", "a", "2"],
        ),
        row(
            "an input that is not given",
            Interpreter::new(&two_inputs)
                .run_nodes(&[(two_inputs.inputs()[0], &f32s(&[1, 2], 0.0))], two_inputs.outputs()),
            &["b:"],
        ),
        row("a node of another graph", Interpreter::new(&net).run_nodes(&[], &[foreign]), &["node", "the graph has 4"]),
        row("a NaN to quantize", run(&quantized, &[nan]), &["x.quantize", "element 6"]),
        row("an id beyond the table", run(&embedding, &[ids(3)]), &["table", "id 3", "element 1", "3 rows"]),
        row("a negative id", run(&embedding, &[ids(-1)]), &["table", "id -1"]),
        row("a negative id on the CPU", on_cpu(&embedding, &[ids(-1)]), &["table", "id -1"]),
        row("an id before the table", run(&from_end, &[ids(-4)]), &["table", "id -4", "element 1", "3 rows"]),
        row("an id before the table on the CPU", on_cpu(&from_end, &[ids(-4)]), &["table", "id -4", "rows 0 to 2"]),
        row(
            "the least id on the CPU",
            on_cpu(&from_end, &[ids(i32::MIN)]),
            &["table", "id -2147483648", "rows 0 to 2"],
        ),
    ];
    covers!(
        table,
        Error::Interp(InterpError::InputCount { .. }),
        Error::Interp(InterpError::Shape { .. }),
        Error::Interp(InterpError::DType { .. }),
        Error::Interp(InterpError::NoRows { .. }),
        Error::Interp(InterpError::Rows { .. }),
        Error::Interp(InterpError::NotFed { .. }),
        Error::Interp(InterpError::UnknownNode { .. }),
        Error::Interp(InterpError::NotANumber { .. }),
        Error::Interp(InterpError::Id { .. }),
        Error::Cpu(cpu::CpuError::Id { .. }),
    );
    check(table);
}

//! Bad input of every kind: an error that names the thing and gives both numbers, never a panic. Every error variant of the
//! stages that need no GPU is reached here.

use enfold::cpu::{self, CpuError};
use enfold::graph::{GraphError, NodeId, Op};
use enfold::interp::{InterpError, Interpreter};
use enfold::lower::{LowerError, lower};
use enfold::program::{Epilogue, Program, ProgramError, QLinear, Step, StepOp, Value, ValueId, ValueType};
use enfold::qparams::{QParams, QParamsError, QScheme, QuantRange, TensorQParams};
use enfold::quantize::{
    Annotations, ConvertError, ConvertOptions, EdgeOrNode, ObservedSpec, Observer, ObserverError, ObserverKind,
    PrepareError, PreparedGraph, QuantizationAnnotation, QuantizationConfig, QuantizationSpec, Quantizer,
    WgpuQuantizer, convert, prepare, reference,
};
use enfold::tensor::{DType, TensorError};
use enfold::{Error, Graph, GraphBuilder, Shape, Tensor};
use safetensors::SafeTensors;

use crate::report::report;

fn f32s(shape: &[usize], value: f32) -> Tensor {
    Tensor::from_f32(shape, vec![value; shape.iter().product()]).expect("lengths fit")
}

/// x `[rows, 4]` → fc `[3, 4]`.
fn net() -> Graph {
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::rows(4)).expect("an input");
    let y = g.linear("fc", x, f32s(&[3, 4], 0.5), Some(f32s(&[3], 0.1))).expect("a layer");
    g.finish([y]).expect("a graph")
}

fn prepared(graph: &Graph) -> PreparedGraph {
    prepare(graph, &WgpuQuantizer::new().set_global(QuantizationConfig::symmetric())).expect("prepared")
}

fn quantized() -> Graph {
    let mut prepared = prepared(&net());
    prepared.observe(&[f32s(&[2, 4], 1.0)]).expect("observed");
    convert(&prepared, &ConvertOptions::default()).expect("converted")
}

/// One kind of bad input: what it is, how it ends, and what the message must contain.
type Row = (&'static str, Result<(), Error>, Vec<&'static str>);

fn row<T, E: Into<Error>>(what: &'static str, result: Result<T, E>, contains: &[&'static str]) -> Row {
    (what, result.map(drop).map_err(Into::into), contains.to_vec())
}

fn check(table: Vec<Row>) {
    for (what, result, contains) in &table {
        let message = match result {
            Ok(()) => panic!("{what}: accepted"),
            Err(error) => error.to_string(),
        };
        for part in contains {
            assert!(message.contains(part), "{what}: {part:?} is not in {message:?}");
        }
    }
    report(&format!("bad input: {} kinds refused", table.len()));
}

/// Asserts that every pattern is met by some error of the table.
macro_rules! covers {
    ($table:expr, $($pattern:pat),+ $(,)?) => {
        $(assert!(
            $table.iter().any(|(_, result, _)| matches!(result, Err($pattern))),
            "no row reaches {}", stringify!($pattern)
        );)+
    };
}

fn built(build: impl FnOnce(&mut GraphBuilder) -> Result<NodeId, GraphError>) -> Result<Graph, GraphError> {
    let mut g = GraphBuilder::new();
    let y = build(&mut g)?;
    g.finish([y])
}

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
                g.node("sum", Op::Add, &[x])
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
                g.node("q", Op::Quantize { qparams, range: QuantRange::INT8_NARROW }, &[x])
            }),
            &["q:", "-128", "-127"],
        ),
        row(
            "too many fraction bits",
            built(|g| {
                let x = g.typed_input("x", Shape::rows(1), DType::I8)?;
                let w = g.constant("w", Tensor::from_i8(&[1, 1], vec![1]).expect("fits"))?;
                let b = g.constant("b", Tensor::from_i32(&[1], vec![1]).expect("fits"))?;
                g.node("fc", Op::IntegerLinear { fraction_bits: 9 }, &[x, w, b])
            }),
            &["fc:", "9", "8"],
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
        Error::Graph(GraphError::Arity { .. }),
        Error::Graph(GraphError::DType { .. }),
        Error::Graph(GraphError::Size { .. }),
        Error::Graph(GraphError::Rank { .. }),
        Error::Graph(GraphError::Broadcast { .. }),
        Error::Graph(GraphError::Batch { .. }),
        Error::Graph(GraphError::Parameter { .. }),
        Error::Graph(GraphError::NonFinite { .. }),
        Error::Graph(GraphError::QParams { .. }),
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
    );
    check(table);
}

/// A quantizer that says one thing of one node.
struct Says {
    node: &'static str,
    inputs: Vec<(&'static str, QuantizationSpec)>,
    output: Option<QuantizationSpec>,
}

impl Quantizer for Says {
    fn annotate(&self, graph: &Graph) -> Result<Annotations, PrepareError> {
        let id = |name: &str| graph.find(name).expect("a node");
        let input_qspec_map = self.inputs.iter().map(|(name, spec)| (id(name), Some(spec.clone()))).collect();
        let mut annotations = Annotations::new(graph);
        let output_qspec = self.output.clone();
        annotations.set(id(self.node), QuantizationAnnotation { input_qspec_map, output_qspec, ..Default::default() });
        Ok(annotations)
    }
}

fn spec(observer: ObserverKind, qscheme: QScheme) -> QuantizationSpec {
    ObservedSpec { range: QuantRange::INT8, qscheme, observer, eps: 1e-6 }.into()
}

/// x → embedding of constant ids, which reads a row that the table lacks.
fn broken_constant() -> Graph {
    built(|g| {
        let x = g.input("x", Shape::rows(2))?;
        let ids = g.constant("ids", Tensor::from_i32(&[1], vec![7]).expect("fits"))?;
        let row = g.embedding("table", ids, f32s(&[3, 2], 1.0))?;
        let row = g.reshape("row", row, &[2])?;
        g.add("sum", x, row)
    })
    .expect("a graph")
}

#[test]
fn the_flow() {
    let net = net();
    let minmax = spec(ObserverKind::MinMax, QScheme::PerTensorAffine);
    let id = |name: &str| net.find(name).expect("a node");
    let says = |inputs: &[(&'static str, QuantizationSpec)], output| {
        let inputs = inputs.to_vec();
        prepare(&net, &Says { node: "fc", inputs, output })
    };
    let observe = |value: f32, shape: &[usize]| {
        let mut prepared = prepared(&net);
        let before: Vec<Observer> = prepared.observers().to_vec();
        let result = prepared.observe(&[f32s(shape, value)]);
        assert!(result.is_err() && prepared.observers() == before && prepared.batches() == 0, "something was lost");
        result
    };
    let cycle = [
        ("x", QuantizationSpec::Shared(EdgeOrNode::Edge { producer: id("fc.weight"), consumer: id("fc") })),
        ("fc.weight", QuantizationSpec::Shared(EdgeOrNode::Edge { producer: id("x"), consumer: id("fc") })),
    ];
    let ids = built(|g| {
        let ids = g.typed_input("ids", Shape::batched(&[]), DType::I32)?;
        g.embedding("table", ids, f32s(&[3, 2], 1.0))
    })
    .expect("a graph");
    let per_row = spec(ObserverKind::MinMax, QScheme::PerChannelAffine { ch_axis: 0 });
    let along_the_batch = says(&[("x", per_row)], None).map(|mut prepared| {
        prepared.observe(&[f32s(&[2, 4], 1.0)]).expect("observed");
        convert(&prepared, &ConvertOptions::default())
    });
    let broken = {
        let mut prepared = prepare(&broken_constant(), &WgpuQuantizer::new()).expect("nothing to quantize");
        assert!(prepared.observe(&[f32s(&[1, 2], 1.0)]).is_err());
        convert(&prepared, &ConvertOptions { use_reference_representation: true, ..ConvertOptions::default() })
    };
    let infinite_scale = says(&[("x", minmax.clone())], None).map(|mut prepared| {
        prepared.observe(&[Tensor::from_f32(&[1, 4], vec![-3e38, 0.0, 0.0, 3e38]).expect("fits")]).expect("observed");
        convert(&prepared, &ConvertOptions::default())
    });
    let table = vec![
        row(
            "sharing with nothing",
            says(&[("x", QuantizationSpec::Shared(EdgeOrNode::Node(id("x"))))], None),
            &["x -> fc", "shares", "x, which is not annotated"],
        ),
        row("sharing in a circle", says(&cycle, None), &["x -> fc", "fc.weight -> fc"]),
        row("an input that the node does not read", says(&[("fc", minmax.clone())], None), &["fc", "does not read"]),
        row(
            "a histogram per channel",
            says(&[("x", spec(ObserverKind::Histogram, QScheme::PerChannelAffine { ch_axis: 1 }))], None),
            &["x:", "MinMax"],
        ),
        row(
            "an axis that the weight does not have",
            says(&[("fc.weight", spec(ObserverKind::MinMax, QScheme::PerChannelSymmetric { ch_axis: 2 }))], None),
            &["fc.weight", "axis 2"],
        ),
        row(
            "ids that cannot be observed",
            prepare(&ids, &Says { node: "table", inputs: vec![("ids", minmax)], output: None }),
            &["i32", "f32"],
        ),
        row("a NaN while calibrating", observe(f32::NAN, &[2, 4]), &["x:", "element 0", "NaN"]),
        row("an infinite value while calibrating", observe(f32::NEG_INFINITY, &[2, 4]), &["x:", "element 0", "-inf"]),
        row("zero rows while calibrating", observe(1.0, &[0, 4]), &["x:", "0 rows"]),
        row("wrong features while calibrating", observe(1.0, &[2, 5]), &["x:", "[2, 5]", "[rows, 4]"]),
        row("no inputs while calibrating", prepared(&net).observe::<Tensor>(&[]), &["0 inputs", "1"]),
        row(
            "convert without calibration",
            convert(&prepared(&net), &ConvertOptions::default()),
            &["x:", "nothing has been observed", "0 batches"],
        ),
        row("a scale per row of the batch", along_the_batch.expect("prepared"), &["x.quantize", "batch"]),
        row("an infinite scale", infinite_scale.expect("prepared"), &["x:", "scale inf"]),
        row("a constant that cannot be evaluated", reference(&broken_constant()), &["table", "id 7", "3 rows"]),
        row("the same while converting", broken, &["table", "id 7", "3 rows"]),
    ];
    covers!(
        table,
        Error::Prepare(PrepareError::SharedWithNothing { .. }),
        Error::Prepare(PrepareError::SharedCycle { .. }),
        Error::Prepare(PrepareError::NoSuchInput { .. }),
        Error::Prepare(PrepareError::Observer { source: ObserverError::PerChannelHistogram, .. }),
        Error::Prepare(PrepareError::Observer { source: ObserverError::Channels { .. }, .. }),
        Error::Prepare(PrepareError::Observer { source: ObserverError::NonFinite { .. }, .. }),
        Error::Prepare(PrepareError::Graph(_)),
        Error::Prepare(PrepareError::Interp(_)),
        Error::Convert(ConvertError::Observer { source: ObserverError::Uncalibrated, .. }),
        Error::Convert(ConvertError::Observer { source: ObserverError::QParams { .. }, .. }),
        Error::Convert(ConvertError::Graph(_)),
        Error::Convert(ConvertError::Reference(_)),
        Error::Reference(_),
    );
    check(table);
}

#[test]
fn observers_take_floats() {
    let QuantizationSpec::Observed(spec) = spec(ObserverKind::MinMax, QScheme::PerTensorAffine) else {
        panic!("not an observed spec")
    };
    let mut observer = Observer::new(spec).expect("valid");
    let codes = Tensor::from_i8(&[1], vec![1]).expect("fits");
    let table = vec![row("codes to observe", observer.observe(&codes), &["i8", "f32"])];
    covers!(table, Error::Observer(ObserverError::DType { actual: DType::I8 }));
    check(table);
}

/// An integer layer whose weights are all −128, with K features.
fn long_layer(k: usize, bias: i32) -> Graph {
    built(|g| {
        let x = g.typed_input("x", Shape::rows(k), DType::I8)?;
        let w = g.constant("w", Tensor::from_i8(&[1, k], vec![-128; k]).expect("fits"))?;
        let b = g.constant("b", Tensor::from_i32(&[1], vec![bias]).expect("fits"))?;
        let s = g.constant("s", f32s(&[1], 1.0))?;
        let acc = g.node("fc", Op::IntegerLinear { fraction_bits: 0 }, &[x, w, b])?;
        g.node("y", Op::ScaleAccumulator { relu: false }, &[acc, s])
    })
    .expect("a graph")
}

/// The largest K that equation 4 admits at full weights, and one more.
#[test]
fn k_too_large_for_the_accumulator() {
    let most = i32::MAX as usize / (128 * 128);
    assert!(lower(&long_layer(most, 0)).is_ok());
    check(vec![row("K too large", lower(&long_layer(most + 1, 0)), &["fc", "channel 0", "2147483648", "2147483647"])]);

    // Through the flow: the layer stays float, with the reason.
    let k = most + 2000;
    let graph = built(|g| {
        let x = g.input("x", Shape::rows(k))?;
        g.linear("wide", x, f32s(&[1, k], 1.0), None)
    });
    let mut prepared = prepared(&graph.expect("a graph"));
    prepared.observe(&[f32s(&[1, k], 1.0)]).expect("observed");
    let integers = reference(&convert(&prepared, &ConvertOptions::default()).expect("converted")).expect("rewritten");
    let summary = integers.summary();
    assert_eq!(summary.float.len(), 1, "{summary}");
    let reason = &summary.float[0].to_string();
    assert!(["wide", "channel 0", "2147483647"].iter().all(|part| reason.contains(part)), "{reason}");
    assert!(lower(&integers).is_ok(), "as a float layer it runs");
}

#[test]
fn lowering_lists_every_node() {
    let graph = built(|g| {
        let x = g.input("x", Shape::rows(4))?;
        let h = g.linear("fc1", x, f32s(&[4, 4], 0.5), None)?;
        g.linear("fc2", h, f32s(&[4, 4], 0.5), None)
    })
    .expect("a graph");
    let calibrating = prepared(&graph);
    let error = lower(calibrating.graph()).expect_err("observers");
    let LowerError::Unsupported { nodes, .. } = &error else { panic!("{error}") };
    let names: Vec<&str> = nodes.iter().map(|n| n.name.as_str()).collect();
    assert_eq!(names, ["x.observe", "fc1.observe", "fc2.observe"]);
    let wide = built(|g| {
        let x = g.typed_input("ids", Shape::rows(4), DType::I64)?;
        g.reshape("moved", x, &[2, 2])
    });
    let missing = built(|g| {
        let ids = g.constant("ids", Tensor::from_i32(&[1], vec![7]).expect("fits"))?;
        g.embedding("table", ids, f32s(&[3, 2], 1.0))
    });
    let table = vec![
        row("observers", lower(calibrating.graph()), &["x.observe", "calibrated", "3 of"]),
        row("ids of 64 bits", lower(&wide.expect("a graph")), &["ids", "i64"]),
        row("a constant that cannot be computed", lower(&missing.expect("a graph")), &["table", "id 7", "3 rows"]),
        row("a broken integer layer", lower(&long_layer(2, i32::MAX)), &["fc", "2147483647"]),
    ];
    covers!(
        table,
        Error::Lower(LowerError::Unsupported { .. }),
        Error::Lower(LowerError::Constant(_)),
        Error::Lower(LowerError::Program(_))
    );
    check(table);
}

/// x → one layer → y, with a chance to break it.
fn program(change: impl FnOnce(&mut Vec<Value>, &mut QLinear)) -> Result<Program, ProgramError> {
    wired(change, 0, 1)
}

/// The same, with other values read and written.
fn wired(
    change: impl FnOnce(&mut Vec<Value>, &mut QLinear),
    input: usize,
    output: usize,
) -> Result<Program, ProgramError> {
    let qparams = QParams::new(0.1, 0).expect("valid");
    let value = |name: &str, cols| Value {
        name: name.to_owned(),
        value_type: ValueType::I8,
        shape: Shape::rows(cols),
        qparams: Some(qparams),
    };
    let mut values = vec![value("x", 2), value("y", 3)];
    let mut linear = QLinear {
        weight: vec![1; 6].into(),
        n: 3,
        k: 2,
        bias: vec![0; 3].into(),
        fraction_bits: 0,
        epilogue: Epilogue::Requantize { multiplier: vec![0.1; 3].into(), zero_point: 0, lo: -128, hi: 127 },
    };
    change(&mut values, &mut linear);
    step(values, StepOp::Linear(linear), &[input], output)
}

/// A program of one step, from value 0 to value 1.
fn step(values: Vec<Value>, op: StepOp, inputs: &[usize], output: usize) -> Result<Program, ProgramError> {
    let inputs = inputs.iter().map(|&input| ValueId::new(input)).collect();
    let step = Step { name: "fc".to_owned(), op, inputs, output: ValueId::new(output) };
    Program::new(values, Vec::new(), vec![ValueId::new(0)], vec![ValueId::new(1)], vec![step])
}

#[test]
fn programs() {
    assert!(program(|_, _| {}).is_ok());
    let epilogue = |multiplier: f32, zero_point, lo| Epilogue::Requantize {
        multiplier: vec![0.1, multiplier, 0.1].into(),
        zero_point,
        lo,
        hi: 127,
    };
    let constant = {
        let good = program(|_, _| {}).expect("valid");
        let constants = vec![(ValueId::new(0), std::sync::Arc::new(f32s(&[2], 1.0)))];
        Program::new(good.values().to_vec(), constants, Vec::new(), good.outputs().to_vec(), good.steps().to_vec())
    };
    let table = vec![
        row("a value that does not exist", wired(|_, _| {}, 0, 9), &["fc", "9", "2"]),
        row("a value that is read before it is written", wired(|_, _| {}, 1, 1), &["y", "read before"]),
        row("an output that nothing writes", wired(|_, _| {}, 0, 0), &["x", "written twice"]),
        row("a value with 0 columns", program(|v, _| v[0].shape = Shape::rows(0)), &["x", "[0]"]),
        row("wrong features", program(|v, _| v[0].shape = Shape::rows(5)), &["fc", "input columns", "5", "2"]),
        row(
            "wrong inner dimensions",
            program(|v, _| v[0].shape = Shape::batched(&[4, 2])),
            &["fc", "[rows, 4, 2]", "[rows, 3]"],
        ),
        row(
            "a result that loses the batch",
            program(|v, _| v[1].shape = Shape::fixed(&[3])),
            &["fc", "[rows, 2]", "[3]"],
        ),
        row("a constant of another shape", constant, &["x", "f32[2]", "i8[rows, 2]"]),
        row("too few weights", program(|_, l| l.weight = vec![1; 5].into()), &["fc", "weight length", "5", "6"]),
        row("too few biases", program(|_, l| l.bias = vec![1; 2].into()), &["fc", "bias length", "2", "3"]),
        row("too many fraction bits", program(|_, l| l.fraction_bits = 32), &["fc", "fraction bits", "32", "8"]),
        row("floats where codes belong", program(|v, _| v[0].value_type = ValueType::F32), &["fc", "x", "F32", "I8"]),
        row(
            "a subnormal multiplier",
            program(|_, l| l.epilogue = epilogue(1e-40, 0, -128)),
            &["fc", "channel 1", "1e-40"],
        ),
        row("an infinite multiplier", program(|_, l| l.epilogue = epilogue(f32::INFINITY, 0, -128)), &["fc", "inf"]),
        row("a negative multiplier", program(|_, l| l.epilogue = epilogue(-0.5, 0, -128)), &["fc", "-5e-1"]),
        row("codes beyond int8", program(|_, l| l.epilogue = epilogue(0.1, 0, -129)), &["fc", "-129"]),
        row("a zero point beyond int8", program(|_, l| l.epilogue = epilogue(0.1, 200, -128)), &["fc", "200"]),
        row(
            "a bias beyond the accumulator",
            program(|_, l| l.bias = vec![0, i32::MIN, 0].into()),
            &["fc", "channel 1", "2147483648", "256"],
        ),
    ];
    covers!(
        table,
        Error::Program(ProgramError::UnknownValue { .. }),
        Error::Program(ProgramError::Order { .. }),
        Error::Program(ProgramError::Dims { .. }),
        Error::Program(ProgramError::Shapes { .. }),
        Error::Program(ProgramError::Constant { .. }),
        Error::Program(ProgramError::Size { .. }),
        Error::Program(ProgramError::Type { .. }),
        Error::Program(ProgramError::Factor { .. }),
        Error::Program(ProgramError::Codes { .. }),
        Error::Program(ProgramError::Accumulator { .. }),
    );
    check(table);
}

#[test]
fn the_cpu_engine() {
    let program = lower(&reference(&quantized()).expect("rewritten")).expect("lowered");
    let engine = cpu::Engine::new(&program).expect("an engine");
    let long = lower(&long_layer(70_000, 0)).expect("lowered");
    let library = cpu::Options { product: cpu::Product::Library };
    let two_inputs = {
        let qparams = QParams::new(0.1, 0).expect("valid");
        let value = |name: &str, value_type, qparams| Value {
            name: name.to_owned(),
            value_type,
            shape: Shape::rows(2),
            qparams,
        };
        let values = vec![
            value("a", ValueType::F32, None),
            value("b", ValueType::F32, None),
            value("qa", ValueType::I8, Some(qparams)),
            value("qb", ValueType::I8, Some(qparams)),
        ];
        let quantize = |name: &str, at| {
            let op = StepOp::Quantize { qparams, range: QuantRange::INT8 };
            Step { name: name.to_owned(), op, inputs: vec![ValueId::new(at)], output: ValueId::new(at + 2) }
        };
        let ids = |a, b| vec![ValueId::new(a), ValueId::new(b)];
        Program::new(values, Vec::new(), ids(0, 1), ids(2, 3), vec![quantize("qa", 0), quantize("qb", 1)])
            .expect("valid")
    };
    let two = cpu::Engine::new(&two_inputs).expect("an engine");
    let table = vec![
        row("no input", engine.run::<Tensor>(&[]), &["0 inputs", "1"]),
        row("wrong features", engine.run(&[f32s(&[2, 5], 1.0)]), &["x", "[2, 5]", "[rows, 4]"]),
        row("wrong type", engine.run(&[Tensor::from_i8(&[1, 4], vec![0; 4]).expect("fits")]), &["x", "i8", "f32"]),
        row("zero rows", engine.run(&[f32s(&[0, 4], 1.0)]), &["x", "0 rows"]),
        row("a NaN", engine.run(&[f32s(&[2, 4], f32::NAN)]), &["x.quantize", "element 0"]),
        row("batches of two sizes", two.run(&[f32s(&[2, 2], 1.0), f32s(&[3, 2], 1.0)]), &["b", "3", "2"]),
        row("the library's product beyond its K", cpu::Engine::with_options(&long, &library), &["fc", "70000"]),
    ];
    covers!(
        table,
        Error::Cpu(CpuError::InputCount { .. }),
        Error::Cpu(CpuError::Shape { .. }),
        Error::Cpu(CpuError::DType { .. }),
        Error::Cpu(CpuError::NoRows { .. }),
        Error::Cpu(CpuError::NotANumber { .. }),
        Error::Cpu(CpuError::Rows { .. }),
        Error::Cpu(CpuError::Inexact { .. }),
    );
    check(table);
}

/// Users read weights with `safetensors`; what it makes of a damaged file is an error, and so is what we make of tensors that
/// do not fit.
#[test]
fn damaged_files() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/digits/mlp.safetensors");
    let bytes = std::fs::read(path).expect("the digits' weights");
    let load = |bytes: &[u8]| -> anyhow::Result<Graph> {
        let file = SafeTensors::deserialize(bytes)?;
        let tensor = |name: &str| -> anyhow::Result<Tensor> {
            let view = file.tensor(name)?;
            let floats = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
            Ok(Tensor::from_f32(view.shape(), floats.collect())?)
        };
        let mut g = GraphBuilder::new();
        let x = g.input("x", Shape::rows(64))?;
        let y = g.linear("fc1", x, tensor("0.weight")?, Some(tensor("0.bias")?))?;
        Ok(g.finish([y])?)
    };
    assert!(load(&bytes).is_ok());
    for length in [0, 1, 7, 8, 100, bytes.len() / 2, bytes.len() - 1] {
        assert!(load(&bytes[..length]).is_err(), "truncated to {length} bytes");
    }
    let mut corrupt = bytes.clone();
    corrupt[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(load(&corrupt).is_err(), "a header of 2^64 bytes");
    for at in 8..400 {
        // Whatever a flipped bit in the header makes of it, nothing panics.
        let mut corrupt = bytes.clone();
        corrupt[at] ^= 0x40;
        let _ = load(&corrupt);
    }
    let mut infinite = bytes.clone();
    let last = infinite.len() - 4;
    infinite[last..].copy_from_slice(&f32::INFINITY.to_le_bytes());
    let loaded = load(&infinite);
    let named = loaded.as_ref().is_err_and(|e| e.to_string().contains("inf"));
    assert!(
        named || loaded.is_ok_and(|g| g.nodes().len() == 4),
        "an infinite weight of fc1 is named; others are not read"
    );
}

//! Preparing, calibrating, converting and lowering.

use enfold::lower::{LowerError, lower};
use enfold::ops::{IntegerLinear, Op, ScaleAccumulator};
use enfold::quantize::{
    Annotations, ConvertError, ConvertOptions, EdgeOrNode, ObservedSpec, Observer, ObserverError, ObserverKind,
    PrepareError, QuantizationAnnotation, QuantizationConfig, QuantizationSpec, Quantizer, WgpuQuantizer, convert,
    prepare, to_integer,
};
use enfold::values::{DType, QScheme, QuantRange};
use enfold::{Error, Graph, Shape, Tensor};

use super::{built, check, f32s, net, prepared, row};

/// A quantizer that annotates one node.
pub(super) struct Says {
    pub(super) node: &'static str,
    pub(super) inputs: Vec<(&'static str, QuantizationSpec)>,
    pub(super) output: Option<QuantizationSpec>,
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

pub(super) fn spec(observer: ObserverKind, qscheme: QScheme) -> QuantizationSpec {
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
    let minmax = spec(ObserverKind::MinMax, QScheme::per_tensor_affine());
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
    let per_row = spec(ObserverKind::MinMax, QScheme::per_channel_affine(0));
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
            says(&[("x", spec(ObserverKind::Histogram, QScheme::per_channel_affine(1)))], None),
            &["x:", "MinMax"],
        ),
        row(
            "an axis that the weight does not have",
            says(&[("fc.weight", spec(ObserverKind::MinMax, QScheme::per_channel_symmetric(2)))], None),
            &["fc.weight", "axis 2"],
        ),
        row(
            "ids that cannot be observed",
            prepare(&ids, &Says { node: "table", inputs: vec![("ids", minmax)], output: None }),
            &["ids -> table", "i32", "f32"],
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
        row("a constant that cannot be evaluated", to_integer(&broken_constant()), &["table", "id 7", "3 rows"]),
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
        Error::Prepare(PrepareError::NotFloat { .. }),
        Error::Prepare(PrepareError::Interp(_)),
        Error::Convert(ConvertError::Observer { source: ObserverError::Uncalibrated, .. }),
        Error::Convert(ConvertError::Observer { source: ObserverError::QParams { .. }, .. }),
        Error::Convert(ConvertError::Graph(_)),
        Error::Convert(ConvertError::ToInteger(_)),
        Error::ToInteger(_),
    );
    check(table);
}

#[test]
fn observers_take_floats() {
    let QuantizationSpec::Observed(spec) = spec(ObserverKind::MinMax, QScheme::per_tensor_affine()) else {
        panic!("not an observed spec")
    };
    let mut observer = Observer::new(spec).expect("valid");
    let codes = Tensor::from_i8(&[1], vec![1]).expect("fits");
    let table = vec![row("codes to observe", observer.observe(&codes), &["i8", "f32"])];
    covers!(table, Error::Observer(ObserverError::DType { actual: DType::I8 }));
    check(table);
}

/// An integer layer whose weights are all −128, with K features.
pub(super) fn long_layer(k: usize, bias: i32) -> Graph {
    built(|g| {
        let x = g.typed_input("x", Shape::rows(k), DType::I8)?;
        let w = g.constant("w", Tensor::from_i8(&[1, k], vec![-128; k]).expect("fits"))?;
        let b = g.constant("b", Tensor::from_i32(&[1], vec![bias]).expect("fits"))?;
        let s = g.constant("s", f32s(&[1], 1.0))?;
        let acc = g.node("fc", Op::IntegerLinear(IntegerLinear { fraction_bits: 0 }), &[x, w, b])?;
        g.node("y", Op::ScaleAccumulator(ScaleAccumulator { relu: false, ch_axis: None }), &[acc, s])
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
    let integers = to_integer(&convert(&prepared, &ConvertOptions::default()).expect("converted")).expect("rewritten");
    let summary = integers.summary();
    assert_eq!(summary.float.len(), 1, "{summary}");
    let reason = &summary.float[0].to_string();
    assert!(["wide", "channel 0", "2147483647"].iter().all(|part| reason.contains(part)), "{reason}");
    assert!(lower(&integers).is_ok(), "as a float layer it runs");

    // Dynamic inputs differ from their zero point by up to 255, so half as many features fit.
    for (k, float) in [(i32::MAX as usize / (127 * 255), 0), (i32::MAX as usize / (127 * 255) + 1, 1)] {
        let graph = built(|g| {
            let x = g.input("x", Shape::rows(k))?;
            g.linear("wide", x, f32s(&[1, k], 1.0), None)
        });
        let quantizer = WgpuQuantizer::new().set_global(QuantizationConfig::symmetric().dynamic());
        let prepared = prepare(&graph.expect("a graph"), &quantizer).expect("prepared");
        let quantized = convert(&prepared, &ConvertOptions::default()).expect("converted");
        let integers = to_integer(&quantized).expect("rewritten");
        assert_eq!(integers.summary().float.len(), float, "{k}: {}", integers.summary());
        let engine = enfold::cpu::Engine::new(&lower(&integers).expect("lowered")).expect("an engine");
        // One row far on either side of its zero point: the largest sums there are.
        for value in [1.0, -1.0] {
            let x = f32s(&[1, k], value);
            let expected = enfold::interp::Interpreter::new(&quantized).run(&[&x]).expect("run");
            let got = engine.run(&[&x]).expect("run");
            let (a, b) = (got[0].as_f32().expect("reals")[0], expected[0].as_f32().expect("reals")[0]);
            assert!((a - b).abs() <= 1e-4 * b.abs(), "{k}: {a} and {b}");
        }
    }
}

/// The longest sums that equation 9 admits, and one more, which stays float and says so.
#[test]
fn k_too_large_for_a_product_of_activations() {
    for (k, float) in [(33_025, 0), (33_026, 1)] {
        let graph = built(|g| {
            let x = g.input("x", Shape::batched(&[1, k]))?;
            let y = g.transpose("turned", x, &[0, 2, 1])?;
            g.matmul("product", x, y)
        });
        let quantizer = WgpuQuantizer::new().set_global(QuantizationConfig::symmetric()).quantize_matmul(true);
        let mut prepared = prepare(&graph.expect("a graph"), &quantizer).expect("prepared");
        prepared.observe(&[f32s(&[1, 1, k], 1.0)]).expect("observed");
        let quantized = convert(&prepared, &ConvertOptions::default()).expect("converted");
        let integers = to_integer(&quantized).expect("rewritten");
        let summary = integers.summary();
        let reason = summary.float.iter().find(|n| n.name == "product").map(ToString::to_string);
        assert_eq!(reason.is_some(), float == 1, "{k}: {summary}");
        if let Some(reason) = reason {
            assert!(reason.contains("33026") && reason.contains("33025"), "{reason}");
        }
        assert!(lower(&integers).is_ok());
    }
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

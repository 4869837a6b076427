//! Quantizers whose configurations contradict themselves or match nothing, specs that no observer can serve, and values that
//! dynamic quantization cannot represent.

use std::sync::Arc;

use enfold::archive;
use enfold::cpu::{self, CpuError};
use enfold::interp::{InterpError, Interpreter};
use enfold::lower::lower;
use enfold::quantize::{
    ConvertError, ConvertOptions, DerivedRule, DerivedSpec, EdgeOrNode, FixedQParamsSpec, ObservedSpec, Observer,
    ObserverError, ObserverKind, PrepareError, PreparedGraph, QuantizationConfig, QuantizationSpec, Quantizer,
    WgpuQuantizer, convert, prepare, to_integer,
};
use enfold::values::{DType, QParams, QScheme, QuantRange};
use enfold::{Error, Graph, GraphBuilder, Shape, Tensor};

use super::flow::{Says, spec};
use super::{built, check, f32s, net, row};

fn symmetric() -> QuantizationConfig {
    QuantizationConfig::symmetric()
}

/// Two layers below "blocks.0", a head, and an activation.
fn blocks() -> Graph {
    let mut g = GraphBuilder::new();
    g.module("blocks.0", "Block");
    let x = g.input("x", Shape::rows(4)).expect("an input");
    let h = g.linear("blocks.0.fc1", x, f32s(&[4, 4], 0.5), None).expect("a layer");
    let h = g.relu("blocks.0.relu", h).expect("a relu");
    let h = g.linear("blocks.0.fc2", h, f32s(&[4, 4], 0.5), None).expect("a layer");
    let y = g.linear("head", h, f32s(&[2, 4], 0.5), None).expect("a layer");
    g.finish([y]).expect("a graph")
}

#[test]
fn scopes_that_match_nothing_or_contradict() {
    let graph = blocks();
    let prepare = |quantizer: WgpuQuantizer| prepare(&graph, &quantizer);
    let new = WgpuQuantizer::new;
    let table = vec![
        row(
            "a name with a typing error",
            prepare(new().set_module_name("block.0.fc1", symmetric())),
            &["module name \"block.0.fc1\"", "matches no node", "blocks.0.fc1"],
        ),
        row(
            "a part of a name",
            prepare(new().set_module_name("blocks.0.fc", None)),
            &["\"blocks.0.fc\"", "matches no"],
        ),
        row(
            "an unknown type",
            prepare(new().set_module_type("linear", symmetric())),
            &["module type \"linear\"", "there are: Linear", "Block"],
        ),
        row(
            "an unknown operator",
            prepare(new().set_operator_type("relus", symmetric())),
            &["operator type \"relus\"", "there are: relu"],
        ),
        row(
            "a filter that nothing passes",
            prepare(new().set_global(symmetric()).set_filter_function(|node| node.name == "nobody")),
            &["filter function", "matches no node"],
        ),
        row(
            "one scope with two configurations",
            prepare(new().set_module_name("head", symmetric()).set_module_name("head", None)),
            &["module name \"head\"", "two different configurations"],
        ),
    ];
    covers!(table, Error::Prepare(PrepareError::NoMatch { .. }), Error::Prepare(PrepareError::Config { .. }),);
    // Near names come nearest first, and are five at most.
    let Err(Error::Prepare(PrepareError::NoMatch { near_names, .. })) = &table[0].1 else { panic!("no match") };
    assert_eq!((near_names[0].as_str(), near_names.len()), ("blocks.0.fc1", 5));
    check(table);
    let same = prepare(new().set_module_name("head", symmetric()).set_module_name("head", symmetric()));
    assert!(same.is_ok(), "the same twice contradicts nothing");
}

#[test]
fn configurations_that_contradict_themselves() {
    let net = net();
    let prepare = |config| prepare(&net, &WgpuQuantizer::new().set_module_name("fc", config));
    let weight = |observer, qscheme| {
        let mut config = symmetric();
        config.weight = Some(spec(observer, qscheme));
        prepare(config)
    };
    let activation = |observer, qscheme| {
        let mut config = symmetric();
        config.input_activation = Some(spec(observer, qscheme));
        prepare(config)
    };
    let one_sided = |change: fn(&mut QuantizationConfig)| {
        let mut config = symmetric();
        change(&mut config);
        prepare(config)
    };
    let minmax = ObserverKind::MinMax;
    let table = vec![
        row(
            "dynamic inputs and quantized outputs",
            activation(ObserverKind::Placeholder, QScheme::per_tensor_affine()),
            &["\"fc\"", "inputs are dynamic", "outputs"],
        ),
        row(
            "dynamic outputs",
            one_sided(|c| c.output_activation = Some(spec(ObserverKind::Placeholder, QScheme::per_tensor_affine()))),
            &["\"fc\"", "outputs cannot be dynamic"],
        ),
        row("inputs without weights", one_sided(|c| c.weight = None), &["\"fc\"", "both quantized or both float"]),
        row("weights without inputs", one_sided(|c| c.input_activation = None), &["\"fc\"", "both"]),
        row("activations per channel", activation(minmax, QScheme::per_channel_affine(1)), &["\"fc\"", "one scale"]),
        row("affine weights", weight(minmax, QScheme::per_tensor_affine()), &["\"fc\"", "symmetric"]),
        row(
            "dynamic weights",
            weight(ObserverKind::Placeholder, QScheme::per_tensor_symmetric()),
            &["\"fc\"", "not dynamic"],
        ),
        row(
            "weights with channels on the other axis",
            weight(minmax, QScheme::per_channel_symmetric(1)),
            &["\"fc\"", "axis 0"],
        ),
    ];
    covers!(table, Error::Prepare(PrepareError::Config { .. }));
    check(table);
}

#[test]
fn specs_that_no_observer_serves() {
    let observer = |observer, qscheme, range, eps| Observer::new(ObservedSpec { range, qscheme, observer, eps });
    let of = |kind, qscheme| observer(kind, qscheme, QuantRange::INT8, 1e-6);
    let affine = QScheme::per_tensor_affine();
    let average = |averaging_constant| of(ObserverKind::MovingAverageMinMax { averaging_constant }, affine);
    let fixed = FixedQParamsSpec { qparams: QParams::new(0.1, 0).expect("valid"), range: QuantRange::INT8 };
    let derived = DerivedSpec { derived_from: Vec::new(), rule: DerivedRule::BiasScale, range: QuantRange::INT32 };
    let merged = |a: Result<Observer, ObserverError>, b: Result<Observer, ObserverError>| {
        a.expect("valid").merge(&b.expect("valid"))
    };
    let table = vec![
        row("per token, but static", of(ObserverKind::MinMax, QScheme::per_token_affine()), &["per token", "min/max"]),
        row(
            "per channel, but dynamic",
            of(ObserverKind::Placeholder, QScheme::per_channel_symmetric(0)),
            &["per channel", "dynamic"],
        ),
        row(
            "codes of 32 bits to observe",
            observer(ObserverKind::MinMax, affine, QuantRange::INT32, 1e-6),
            &["per tensor", "min/max"],
        ),
        row(
            "a fraction above 1",
            of(ObserverKind::Percentile { fraction: 1.5 }, affine),
            &["fraction", "1.5", "0 to 1"],
        ),
        row(
            "a fraction that is NaN",
            of(ObserverKind::Percentile { fraction: f32::NAN }, affine),
            &["fraction", "NaN"],
        ),
        row("a negative constant", average(-0.1), &["averaging constant", "-0.1", "0 to 1"]),
        row("an eps of 0", observer(ObserverKind::MinMax, affine, QuantRange::INT8, 0.0), &["eps is 0"]),
        row(
            "parameters of a dynamic value",
            of(ObserverKind::Placeholder, affine).map(|o| o.calculate_qparams()).expect("valid"),
            &["dynamically"],
        ),
        row("parameters that others decide", Observer::derived(derived).calculate_qparams(), &["derived"]),
        row(
            "merging two kinds",
            merged(of(ObserverKind::MinMax, affine), Ok(Observer::fixed(fixed))),
            &["min/max", "fixed scale 1e-1"],
        ),
        row("merging moving averages", merged(average(0.1), average(0.1)), &["order of the batches"]),
    ];
    covers!(
        table,
        Error::Observer(ObserverError::Scheme { .. }),
        Error::Observer(ObserverError::Parameter { .. }),
        Error::Observer(ObserverError::Dynamic),
        Error::Observer(ObserverError::Derived),
        Error::Observer(ObserverError::MergeSpecs { .. }),
        Error::Observer(ObserverError::MergeMovingAverage),
    );
    check(table);
}

#[test]
fn derivations_that_lead_nowhere() {
    let net = net();
    let id = |name: &str| net.find(name).expect("a node");
    let edge = |name: &str| EdgeOrNode::Edge { producer: id(name), consumer: id("fc") };
    let derived = |from: &[&str], rule| -> QuantizationSpec {
        let derived_from = from.iter().map(|name| edge(name)).collect();
        DerivedSpec { derived_from, rule, range: QuantRange::INT32 }.into()
    };
    let says =
        |inputs: Vec<(&'static str, QuantizationSpec)>| prepare(&net, &Says { node: "fc", inputs, output: None });
    let minmax = || spec(ObserverKind::MinMax, QScheme::per_tensor_affine());
    let by = |from: &[&str], rule| says(vec![("x", minmax()), ("fc.bias", derived(from, rule))]);
    let converted = |prepared: Result<PreparedGraph, PrepareError>| {
        let mut prepared = prepared.expect("prepared");
        prepared.observe(&[f32s(&[2, 4], 1.0)]).expect("observed");
        convert(&prepared, &ConvertOptions::default())
    };
    let refuses = DerivedRule::Custom(Arc::new(|_| Err("the moon is full".to_owned())));
    let circle = || {
        vec![
            ("fc.weight", derived(&["fc.bias"], DerivedRule::BiasScale)),
            ("fc.bias", derived(&["fc.weight"], DerivedRule::BiasScale)),
        ]
    };
    let table = vec![
        row(
            "derived from what stays float",
            by(&["x", "fc.weight"], DerivedRule::BiasScale),
            &["fc.bias -> fc", "fc.weight -> fc", "not quantized"],
        ),
        row("derived in a circle", says(circle()), &["fc.weight -> fc", "fc.bias -> fc", "derived from it"]),
        row("a rule that takes two", converted(by(&["x"], DerivedRule::BiasScale)), &["fc.bias", "1"]),
        row("a rule that refuses", converted(by(&["x"], refuses)), &["fc.bias", "the moon is full"]),
    ];
    covers!(
        table,
        Error::Prepare(PrepareError::DerivedFromNothing { .. }),
        Error::Prepare(PrepareError::DerivedCycle { .. }),
        Error::Convert(ConvertError::Observer { source: ObserverError::Rule { .. }, .. }),
    );
    check(table);
}

/// Two prepared graphs that have not the same nodes.
#[test]
fn observers_of_another_graph() {
    let quantizer = WgpuQuantizer::new().set_global(symmetric());
    let of = |graph: &Graph, quantizer: &dyn Quantizer| prepare(graph, quantizer).expect("prepared");
    let wide = built(|g| {
        let x = g.input("x", Shape::rows(5))?;
        g.linear("fc", x, f32s(&[3, 5], 0.5), Some(f32s(&[3], 0.1)))
    });
    let mut calibrated = of(&net(), &quantizer);
    calibrated.observe(&[f32s(&[2, 4], 1.0)]).expect("observed");
    let before = calibrated.observers().to_vec();
    let per_channel = WgpuQuantizer::new().set_global(symmetric().per_channel());
    let table = vec![
        row("another graph", calibrated.merge(&of(&blocks(), &quantizer)), &["another graph"]),
        row("other features", calibrated.merge(&of(&wide.expect("a graph"), &quantizer)), &["another graph", "x"]),
        row("other specs", calibrated.merge(&of(&net(), &per_channel)), &["fc.weight"]),
    ];
    assert_eq!(
        (calibrated.observers(), calibrated.batches()),
        (&before[..], 1),
        "a merge that is refused changes nothing"
    );
    covers!(table, Error::Prepare(PrepareError::OtherGraph { .. }));
    check(table);
    let again = prepare(calibrated.graph(), &quantizer);
    let table = vec![row("a graph that is prepared already", again, &["observe", "already"])];
    covers!(table, Error::Prepare(PrepareError::Prepared { .. }));
    check(table);
}

/// A file may say that it has seen any number of batches.
#[test]
fn batches_beyond_counting() {
    let mut calibrated = prepare(&net(), &WgpuQuantizer::new().set_global(symmetric())).expect("prepared");
    let batch = [f32s(&[2, 4], 1.0)];
    calibrated.observe(&batch).expect("observed");
    let bytes = archive::prepared_to_bytes(&calibrated).expect("saved");
    let [from, to] = [1, u64::MAX].map(|batches| format!("\\\"batches\\\":{batches},"));
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let header = std::str::from_utf8(&bytes[8..8 + length]).expect("text");
    let changed = header.replacen(&from, &to, 1);
    assert_ne!(header, changed);
    let file = [&(changed.len() as u64).to_le_bytes()[..], changed.as_bytes(), &bytes[8 + length..]].concat();
    let mut full = archive::prepared_from_bytes(&file).expect("loaded");
    assert_eq!(full.batches(), u64::MAX);
    let table = vec![
        row("a merge", calibrated.merge(&full), &["1 batches", "18446744073709551615"]),
        row("one more batch", full.observe(&batch), &["18446744073709551615 batches", "1 more"]),
    ];
    covers!(table, Error::Prepare(PrepareError::Batches { .. }));
    check(table);
    assert_eq!(calibrated.batches(), 1, "a merge that is refused changes nothing");
}

/// A dynamic layer after an embedding.
fn dynamic(config: QuantizationConfig) -> Graph {
    let graph = built(|g| {
        let x = g.input("x", Shape::rows(2))?;
        let ids = g.typed_input("ids", Shape::batched(&[]), DType::I32)?;
        let row = g.embedding("table", ids, f32s(&[3, 2], 1.0))?;
        let sum = g.add("sum", x, row)?;
        g.linear("fc", sum, f32s(&[3, 2], 0.5), None)
    });
    let prepared = prepare(&graph.expect("a graph"), &WgpuQuantizer::new().set_global(config)).expect("prepared");
    to_integer(&convert(&prepared, &ConvertOptions::default()).expect("converted")).expect("rewritten")
}

#[test]
fn values_without_dynamic_codes() {
    let mut table = Vec::new();
    for config in [symmetric().dynamic(), symmetric().dynamic_per_token()] {
        let integers = dynamic(config);
        let engine = cpu::Engine::new(&lower(&integers).expect("lowered")).expect("an engine");
        let interpreter = Interpreter::new(&integers);
        let ids = |id| Tensor::from_i32(&[2], vec![0, id]).expect("fits");
        let x = |last| Tensor::from_f32(&[2, 2], vec![0.5, -0.5, -3e38, last]).expect("fits");
        for (value, text) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (3e38, "300000000")] {
            let inputs = [x(value), ids(1)];
            table.push(row("no range", interpreter.run(&inputs), &["sum.choose_qparams", "element", text]));
            table.push(row("no range on the CPU", engine.run(&inputs), &["sum.choose_qparams", "element", text]));
        }
        let beyond = [x(1.0), ids(3)];
        table.push(row("no row", interpreter.run(&beyond), &["table", "element 1", "id 3"]));
        table.push(row("no row on the CPU", engine.run(&beyond), &["table", "element 1", "id 3", "0 to 2"]));
    }
    covers!(
        table,
        Error::Interp(InterpError::Range { .. }),
        Error::Interp(InterpError::Id { .. }),
        Error::Cpu(CpuError::Range { .. }),
        Error::Cpu(CpuError::Id { .. }),
    );
    check(table);
}

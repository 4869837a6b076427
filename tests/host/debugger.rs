//! What the numeric debugger reports, and the remedy that follows from it.

use enfold::compare::{CompareError, compare, remedy};
use enfold::quantize::{
    Annotations, ConvertOptions, FixedQParamsSpec, ObserverKind, PrepareError, QuantizationAnnotation,
    QuantizationConfig, Quantizer, WgpuQuantizer, convert, prepare, to_integer,
};
use enfold::values::{QParams, QuantRange};
use enfold::{Error, Graph, GraphBuilder, Shape, Tensor};

use crate::random::Random;

const WIDTH: usize = 16;

/// Four layers, of which the third has one weight that is so large that its others are lost at one scale.
fn network() -> (Graph, Tensor) {
    let mut random = Random::new(21);
    let mut g = GraphBuilder::new();
    let mut h = g.input("x", Shape::rows(WIDTH)).expect("an input");
    for i in 0..4 {
        let mut weight = random.normals(WIDTH * WIDTH, 0.25);
        if i == 2 {
            weight[5] = 60.0;
        }
        let weight = Tensor::from_f32(&[WIDTH, WIDTH], weight).expect("fits");
        h = g.linear(&format!("fc.{i}"), h, weight, None).expect("a layer");
        if i < 3 {
            h = g.tanh(&format!("tanh.{i}"), h).expect("a function");
        }
    }
    let graph = g.finish([h]).expect("a graph");
    (graph, Tensor::from_f32(&[64, WIDTH], random.normals(64 * WIDTH, 1.0)).expect("fits"))
}

fn quantized(graph: &Graph, x: &Tensor, left: &[String], config: QuantizationConfig) -> Result<Graph, Error> {
    let quantizer = WgpuQuantizer::new().set_global(config);
    let quantizer = left.iter().fold(quantizer, |quantizer, name| quantizer.set_module_name(name, None));
    let mut prepared = prepare(graph, &quantizer)?;
    prepared.observe(&[x])?;
    Ok(convert(&prepared, &ConvertOptions::default())?)
}

fn minmax() -> QuantizationConfig {
    QuantizationConfig::symmetric().activation_observer(ObserverKind::MinMax)
}

#[test]
fn the_worst_layer_is_ranked_first_and_stands_out_only_alone() {
    let (graph, x) = network();
    let quantized = quantized(&graph, &x, &[], minmax()).expect("converted");
    let comparison = compare(&graph, &quantized, &[&x]).expect("comparable");
    // First the function whose input that layer makes so coarse, then the layer.
    let ranked = comparison.ranked();
    assert_eq!((ranked[0].origin.as_str(), ranked[1].origin.as_str()), ("tanh.2", "fc.2"), "{comparison}");
    assert!(ranked[1].isolated_sqnr_db + 10.0 < ranked[2].isolated_sqnr_db, "{comparison}");
    // So far, its error is in every node behind it; in isolation, it is not.
    let last = comparison.get("fc.3").expect("compared");
    assert!(last.sqnr_db < 25.0 && last.isolated_sqnr_db > 30.0, "{comparison}");
    let weight = |i| comparison.get(&format!("fc.{i}")).and_then(|n| n.weight_sqnr_db).expect("a weight");
    assert!((0..4).filter(|i| *i != 2).all(|i| weight(i) > weight(2) + 10.0), "{comparison}");
    assert_eq!(comparison.get("tanh.0").expect("compared").weight_sqnr_db, None);
    let text = comparison.to_string();
    assert_eq!(text.lines().count(), comparison.nodes.len() + 2, "{text}");
    assert!(text.lines().nth(1).is_some_and(|line| line.starts_with("tanh.2 ")), "{text}");

    // One scale a channel is the cure for this one.
    let cured = self::quantized(&graph, &x, &[], minmax().per_channel()).expect("converted");
    let after = compare(&graph, &cured, &[&x]).expect("comparable");
    assert!(after.output_sqnr_db > comparison.output_sqnr_db + 5.0, "{after}");
}

#[test]
fn every_stage_can_be_compared_with_any_other() {
    let (graph, x) = network();
    for config in [minmax(), minmax().per_channel(), minmax().dynamic(), minmax().dynamic_per_token().per_channel()] {
        let dynamic = config.is_dynamic();
        let quantized = quantized(&graph, &x, &[], config).expect("converted");
        let integers = to_integer(&quantized).expect("rewritten");
        let of_quantized = compare(&graph, &quantized, &[&x]).expect("comparable");
        let of_integers = compare(&graph, &integers, &[&x]).expect("comparable");
        assert!(of_integers.nodes.len() >= 4, "{of_integers}");
        for node in &of_integers.nodes {
            let before = of_quantized.get(&node.origin).expect("the same node");
            // The codes of a dynamic value mean something only with its scale, so there only layers are the same nodes.
            if dynamic && node.op != "linear" {
                continue;
            }
            assert!((node.sqnr_db - before.sqnr_db).abs() < 0.5, "{}: {of_integers}{of_quantized}", node.origin);
            assert!(
                (node.isolated_sqnr_db - before.isolated_sqnr_db).abs() < 0.5,
                "{}: {of_integers}{of_quantized}",
                node.origin
            );
            match (node.weight_sqnr_db, before.weight_sqnr_db) {
                (Some(a), Some(b)) => assert!((a - b).abs() < 0.01, "{}: {a} and {b}", node.origin),
                (a, b) => assert_eq!(a, b, "{}", node.origin),
            }
        }
        let between = compare(&quantized, &integers, &[&x]).expect("comparable");
        assert!(between.output_sqnr_db > 45.0, "{between}");
        let itself = compare(&graph, &graph, &[&x]).expect("comparable");
        assert!(
            itself.nodes.iter().all(|n| n.sqnr_db == f64::INFINITY && n.isolated_sqnr_db == f64::INFINITY),
            "{itself}"
        );
    }
}

/// Values beyond the range that calibration saw are counted.
#[test]
fn saturation_is_counted() {
    let (graph, x) = network();
    let half =
        Tensor::from_f32(x.shape(), x.as_f32().expect("floats").iter().map(|v| v * 0.5).collect()).expect("fits");
    let saturated = |calibration: &Tensor| {
        let quantized = quantized(&graph, calibration, &[], minmax()).expect("converted");
        compare(&graph, &quantized, &[&x])
            .expect("comparable")
            .get("fc.0")
            .and_then(|n| n.saturated)
            .expect("quantized")
    };
    assert_eq!(saturated(&x), 0.0);
    let beyond = saturated(&half);
    assert!(beyond > 0.02 && beyond < 0.3, "{beyond}");
}

/// The list that the debugger proposes, given back to the quantizer, reaches the target; without need it is empty.
/// Fixed parameters for the output of one node.
struct Fixes;

impl Quantizer for Fixes {
    fn annotate(&self, graph: &Graph) -> Result<Annotations, PrepareError> {
        let mut annotations = Annotations::new(graph);
        let (qparams, range) = (QParams::new(0.1, 0).expect("valid"), QuantRange::INT8);
        let output_qspec = Some(FixedQParamsSpec { qparams, range }.into());
        let annotation = QuantizationAnnotation { output_qspec, ..Default::default() };
        annotations.set(graph.find("relu").expect("the node"), annotation);
        Ok(annotations)
    }
}

/// A value is saturated if it lies beyond the last code by more than half a step: 12.7 is the last here.
#[test]
fn half_a_step_beyond_the_last_code_is_not_yet_saturated() {
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::rows(4)).expect("an input");
    let y = g.relu("relu", x).expect("a relu");
    let graph = g.finish([y]).expect("a graph");
    let prepared = prepare(&graph, &Fixes).expect("prepared");
    let quantized = convert(&prepared, &ConvertOptions::default()).expect("converted");
    let x = Tensor::from_f32(&[1, 4], vec![1.0, 12.74, 12.76, 13.9]).expect("fits");
    let comparison = compare(&graph, &quantized, &[&x]).expect("comparable");
    assert_eq!(comparison.get("relu").expect("compared").saturated, Some(0.5), "{comparison}");
}

/// A quantizer that does not leave out what it is told to: the remedy ends, with every layer once.
#[test]
fn a_target_out_of_reach_ends() {
    let (graph, x) = network();
    let quantize = |_: &[String]| quantized(&graph, &x, &[], minmax());
    let remedy = remedy(&graph, std::slice::from_ref(&x), 200.0, quantize).expect("compared");
    let mut layers = remedy.layers.clone();
    layers.sort_unstable();
    assert!(!remedy.reached && layers == ["fc.0", "fc.1", "fc.2", "fc.3"], "{remedy:?}");
}

#[test]
fn the_remedy_reaches_its_target() {
    let (graph, x) = network();
    let quantize = |left: &[String]| quantized(&graph, &x, left, minmax());
    let easy = remedy::<Error>(&graph, std::slice::from_ref(&x), 5.0, quantize).expect("compared");
    assert!(easy.layers.is_empty() && easy.reached, "{easy:?}");
    let found = remedy::<Error>(&graph, std::slice::from_ref(&x), 28.0, quantize).expect("compared");
    assert_eq!((found.layers.as_slice(), found.reached), (&["fc.2".to_owned()][..], true), "{found:?}");
    let check = compare(&graph, &quantize(&found.layers).expect("converted"), &[&x]).expect("comparable");
    assert_eq!(check.output_sqnr_db, found.output_sqnr_db);
    // With everything in float there is no noise left.
    let all = remedy::<Error>(&graph, std::slice::from_ref(&x), 500.0, quantize).expect("compared");
    assert!(all.layers.len() == 4 && all.reached && all.output_sqnr_db == f64::INFINITY, "{all:?}");
}

#[test]
fn graphs_that_do_not_match_are_refused_by_name() {
    let (graph, x) = network();
    let mut g = GraphBuilder::new();
    let input = g.input("x", Shape::rows(WIDTH)).expect("an input");
    let other = g.relu("other", input).expect("a relu");
    let narrow = g.linear("fc.0", input, Tensor::from_f32(&[2, WIDTH], vec![0.1; 2 * WIDTH]).expect("fits"), None);
    let narrow = narrow.expect("a layer");
    let two = g.finish([other, narrow]).expect("a graph");
    let mut g = GraphBuilder::new();
    let input = g.input("x", Shape::rows(WIDTH)).expect("an input");
    let alone = g.relu("alone", input).expect("a relu");
    let alone = g.finish([alone]).expect("a graph");
    let mut g = GraphBuilder::new();
    let input = g.input("x", Shape::rows(WIDTH)).expect("an input");
    let layer = g.linear("fc.0", input, Tensor::from_f32(&[2, WIDTH], vec![0.1; 2 * WIDTH]).expect("fits"), None);
    let shape = g.finish([layer.expect("a layer")]).expect("a graph");
    for (actual, parts) in
        [(&two, vec!["2 outputs", "1"]), (&alone, vec!["alone", "fc.3"]), (&shape, vec!["fc.0", "[64, 2]", "[64, 16]"])]
    {
        let error: CompareError = compare(&graph, actual, &[&x]).expect_err("they differ");
        assert!(parts.iter().all(|part| error.to_string().contains(part)), "{error}");
    }
    // Codes of the same shape, whose scale nobody knows.
    let mut g = GraphBuilder::new();
    let input = g.input("x", Shape::rows(WIDTH)).expect("an input");
    let zeros = g.constant("codes", Tensor::from_i8(&[WIDTH], vec![0; WIDTH]).expect("fits")).expect("a constant");
    let real = g.relu("tanh.0", input).expect("a relu");
    let codes = g.finish([real, zeros]).expect("a graph");
    let mut g = GraphBuilder::new();
    let input = g.input("x", Shape::rows(WIDTH)).expect("an input");
    let real = g.relu("tanh.0", input).expect("a relu");
    let more = g.relu("more", input).expect("a relu");
    let reals = g.finish([real, more]).expect("a graph");
    let error = compare(&reals, &codes, &[&x]).expect_err("codes");
    assert!(
        matches!(&error, CompareError::NotReal { .. }) && error.to_string().contains("codes: its values are i8"),
        "{error}"
    );
    // Outputs that stand for different nodes, of different shapes.
    let flat = {
        let mut g = GraphBuilder::new();
        let input = g.input("x", Shape::rows(WIDTH)).expect("an input");
        let real = g.relu("tanh.0", input).expect("a relu");
        let other = g.reshape("pairs", real, &[WIDTH / 2, 2]).expect("moved");
        g.finish([real, other]).expect("a graph")
    };
    let error = compare(&reals, &flat, &[&x]).expect_err("two shapes").to_string();
    assert!(error.contains("pairs") && error.contains("[64, 8, 2]") && error.contains("[64, 16]"), "{error}");
    assert!(matches!(compare::<Tensor>(&graph, &graph, &[]), Err(CompareError::Interp(_))));
}

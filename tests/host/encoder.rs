//! An encoder's int8 forms stay near the float model, in the interpreter and on the CPU engine.

use enfold::interp::Interpreter;
use enfold::lower::lower;
use enfold::ops::{Constant, Op};
use enfold::program::StepOp;
use enfold::quantize::accuracy::{ChannelStatistics, SmoothOptions, smooth};
use enfold::quantize::{ConvertOptions, QuantizationConfig, WgpuQuantizer, convert, prepare, to_integer};
use enfold::{Tensor, cpu};

use crate::encoder_model::{batches, float, forms, worst_cosine};
use crate::report::report;

#[test]
fn int8_encoders_stay_near_float() {
    let float = float();
    for form in forms(&float) {
        let integers = to_integer(&form.graph).expect("integers");
        let program = lower(&integers).expect("a program");
        let layers = program.steps().iter().filter(|step| matches!(step.op, StepOp::QLinear(_))).count();
        assert_eq!(layers, 12, "{}: int8 layers\n{}", form.name, integers.summary());
        let engine = cpu::Engine::new(&program).expect("an engine");
        let mut worst = [1f64; 3];
        for seed in 0..8 {
            let inputs = batches(&float, seed);
            let expected = Interpreter::new(&float).run(&inputs).expect("float").swap_remove(0);
            let by_graph = |graph| Interpreter::new(graph).run(&inputs).expect("a run").swap_remove(0);
            let outputs =
                [by_graph(&form.graph), by_graph(&integers), engine.run(&inputs).expect("a run").swap_remove(0)];
            for (worst, output) in worst.iter_mut().zip(&outputs) {
                *worst = worst.min(worst_cosine(output, &expected));
            }
        }
        let [oracle, interpreter, cpu] = worst;
        let name = form.name;
        report(&format!("encoder, {name}: cosine at least {oracle:.5} q/dq, {interpreter:.5} integers, {cpu:.5} cpu"));
        assert!(worst.iter().all(|&cosine| cosine >= form.bound), "{name}: {worst:?}, expected {}", form.bound);
    }
}

fn mean_cosine(actual: &Tensor, expected: &Tensor) -> f64 {
    let width = expected.shape()[expected.shape().len() - 1];
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let [a, b] = [actual, expected].map(|tensor| tensor.as_f32().expect("floats").chunks(width));
    let cosines: Vec<f64> = a.zip(b).map(|(a, b)| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()).collect();
    cosines.iter().sum::<f64>() / cosines.len() as f64
}

/// Smoothing costs nothing on an encoder without outlier channels, and changes its outputs by no more than rounding does. Between any two
/// networks that compute the same, rounding differs by a tenth of the loss, so that the losses of several calibrations are added up. Each has 256
/// rows: with 64, new rows leave the ranges of calibration, which costs more if all channels have the same.
#[test]
fn smoothing_is_no_worse() {
    const CALIBRATIONS: u64 = 4;
    let float = float();
    let calibration = |at: u64| (0..64).map(move |batch| 1000 * (at + 1) + batch);
    // One minus the cosine of a row, on average.
    let inputs: Vec<_> = (0..48).map(|seed| batches(&float, seed + 10_000)).collect();
    let outputs = |graph: &enfold::Graph| -> Vec<Tensor> {
        let interpreter = Interpreter::new(graph);
        inputs.iter().map(|inputs| interpreter.run(inputs).expect("a run").swap_remove(0)).collect()
    };
    let expected = outputs(&float);
    let loss = |graph: &enfold::Graph| {
        let outputs = outputs(graph);
        let cosines = outputs.iter().zip(&expected).map(|(output, expected)| mean_cosine(output, expected));
        1.0 - cosines.sum::<f64>() / inputs.len() as f64
    };
    let config = || QuantizationConfig::symmetric().per_channel();
    let (dynamic, per_token) = (config().dynamic(), config().dynamic_per_token());
    for (name, config) in [("static", config()), ("dynamic", dynamic), ("per token", per_token)] {
        let quantized = |graph: &enfold::Graph, at: u64| {
            let quantizer = WgpuQuantizer::new().set_global(config.clone()).float_islands(true);
            let mut prepared = prepare(graph, &quantizer).expect("prepared");
            calibration(at).for_each(|seed| drop(prepared.observe(&batches(&float, seed)).expect("observed")));
            convert(&prepared, &ConvertOptions::default()).expect("converted")
        };
        let options = SmoothOptions::default().with_dynamic(name == "dynamic").with_per_token(name == "per token");
        let (mut before, mut after) = (0.0, [0.0; 2]);
        for at in 0..CALIBRATIONS {
            before += loss(&quantized(&float, at));
            let mut statistics = ChannelStatistics::new(&float);
            calibration(at).for_each(|seed| statistics.observe(&batches(&float, seed)).expect("observed"));
            for (after, search) in after.iter_mut().zip([false, true]) {
                let smoothed = smooth(&float, &statistics, &options.with_search(search)).expect("smoothed");
                assert!(loss(&smoothed.graph) < 1e-6, "{smoothed}");
                *after += loss(&quantized(&smoothed.graph, at));
            }
        }
        let [plain, smoothed, searched] = [before, after[0], after[1]].map(|sum| sum / CALIBRATIONS as f64);
        report(&format!("loss of an encoder, {name}: {plain:.3e}, smoothed {smoothed:.3e}, searched {searched:.3e}"));
        assert!(smoothed <= plain && searched <= plain, "{name}: {smoothed:e} and {searched:e}, before {plain:e}");
        // The comparison notices outliers that smoothing would have taken away.
        let mut rough = enfold::graph::Rewriter::new(&float);
        for (id, node) in float.iter() {
            match &node.op {
                Op::Constant(Constant { tensor, .. }) if node.name.ends_with("LayerNorm.weight") => {
                    let mut values = tensor.as_f32().expect("floats").to_vec();
                    values[3] *= 40.0;
                    let tensor = Tensor::from_f32(tensor.shape(), values).expect("as many");
                    let new = rough.add(&node.name, Constant::new(tensor), Vec::new(), &node.name).expect("a node");
                    rough.replace(id, new);
                }
                _ => drop(rough.copy(id).expect("a copy")),
            }
        }
        assert!(loss(&quantized(&rough.finish().expect("a graph"), 0)) > 2.0 * plain, "{name}");
    }
}

/// The comparison notices one broken layer, and outputs that are no numbers.
#[test]
fn a_broken_layer_is_noticed() {
    let float = float();
    let inputs = batches(&float, 0);
    let expected = Interpreter::new(&float).run(&inputs).expect("float").swap_remove(0);
    let mut form = forms(&float).swap_remove(0);
    let layer = |(id, node): (_, &enfold::graph::Node)| {
        matches!(&node.op, Op::Constant(Constant { tensor: w, .. }) if w.as_i8().is_some()).then_some(id)
    };
    let weight = form.graph.iter().find_map(layer).expect("an int8 weight");
    let bytes = enfold::archive::to_bytes(&form.graph).expect("bytes");
    let Op::Constant(Constant { tensor: codes, .. }) = &form.graph.node(weight).op else {
        unreachable!("found as one")
    };
    let codes = codes.as_i8().expect("codes");
    // The file holds the quantized values as they are.
    let needle: Vec<u8> = codes.iter().map(|&code| code as u8).collect();
    let at = bytes.windows(needle.len()).position(|window| window == needle).expect("the codes in the file");
    let mut broken = bytes;
    broken[at..at + needle.len()].reverse();
    form.graph = enfold::archive::from_bytes(&broken).expect("a graph");
    let output = Interpreter::new(&form.graph).run(&inputs).expect("a run").swap_remove(0);
    assert!(worst_cosine(&output, &expected) < form.bound);
    let nan = Tensor::from_f32(expected.shape(), vec![f32::NAN; expected.len()]).expect("as many");
    assert!(worst_cosine(&nan, &expected) < form.bound);
}

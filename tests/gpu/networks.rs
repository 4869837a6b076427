//! Whole networks against the interpreter.

use enfold::gpu::{Engine, Model, Options, Run};
use enfold::interp::Interpreter;
use enfold::lower::{LowerOptions, lower_with};
use enfold::quantize::{ConvertOptions, QuantizationConfig, WgpuQuantizer, convert, prepare, reference};
use enfold::{Graph, Tensor};
use pollster::block_on;

use crate::cases::difference;
use crate::device::{device_with, engine};
use crate::nets::Net;
use crate::random::Random;
use crate::report::report;

fn integers(net: &Net, random: &mut Random) -> Graph {
    let quantizer = WgpuQuantizer::new().set_global(QuantizationConfig::symmetric().per_channel());
    let mut prepared = prepare(&net.graph, &quantizer).expect("prepared");
    prepared.observe(&[net.batch(random)]).expect("observed");
    reference(&convert(&prepared, &ConvertOptions::default()).expect("converted")).expect("rewritten")
}

/// The program with int8 or float ends, and what it should make of a batch.
fn program(graph: &Graph, x: &Tensor, int8: bool) -> (enfold::program::Program, Tensor, Tensor) {
    let options = LowerOptions { int8_inputs: int8, int8_outputs: int8 };
    let program = lower_with(graph, &options).expect("lowered");
    let [input, output] = [graph.inputs()[0], graph.outputs()[0]];
    let quantize = graph.iter().find(|(_, n)| n.inputs == [input]).expect("a quantize node").0;
    let wanted = if int8 { [quantize, graph.node(output).inputs[0]] } else { [input, output] };
    let mut values = Interpreter::new(graph).run_nodes(&[(input, x)], &wanted).expect("interpreted");
    let expected = values.swap_remove(1);
    (program, values.swap_remove(0), expected)
}

#[test]
fn networks_of_any_rank_equal_the_interpreter() {
    let Some((_, engine)) = engine("networks") else { return };
    let mut random = Random::new(31);
    for at in 0..40 {
        let net = Net::random(&mut random);
        let graph = integers(&net, &mut random);
        for int8 in [false, true] {
            let x = net.batch(&mut random);
            let (program, input, expected) = program(&graph, &x, int8);
            let model = block_on(engine.load(&program)).expect("loaded");
            let got = block_on(model.run(&[&input])).expect("run");
            assert_eq!(difference(&got[0], &expected), None, "network {at}, int8 {int8}:\n{program}");
        }
    }
    report("40 networks with float and with int8 ends equal the interpreter");
}

/// An application that asks for no more than WebGPU guarantees.
#[test]
fn default_limits_suffice() {
    let Some((context, _)) = engine("default limits") else { return };
    let (device, queue) = device_with(context, wgpu::Limits::default());
    let engine = block_on(Engine::new(&device, &queue, &Options::default())).expect("an engine");
    let mut random = Random::new(32);
    let net = Net::random(&mut random);
    let graph = integers(&net, &mut random);
    let (program, input, expected) = program(&graph, &net.batch(&mut random), false);
    let got = block_on(block_on(engine.load(&program)).expect("loaded").run(&[&input])).expect("run");
    assert_eq!(difference(&got[0], &expected), None);
}

/// Two programs on one engine, each with several runs, from several threads.
#[test]
fn engines_and_models_are_shared() {
    fn shared<T: Send + Sync>() {}
    shared::<Engine>();
    shared::<Model>();
    shared::<Run>();
    let Some((_, engine)) = engine("sharing") else { return };
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let engine = engine.clone();
            scope.spawn(move || {
                let mut random = Random::new(40 + seed);
                let net = Net::random(&mut random);
                let graph = integers(&net, &mut random);
                let x = net.batch(&mut random);
                let (program, input, expected) = program(&graph, &x, false);
                let model = block_on(engine.load(&program)).expect("loaded");
                for _ in 0..3 {
                    let got = block_on(model.run(&[&input])).expect("run");
                    assert_eq!(difference(&got[0], &expected), None, "seed {seed}");
                }
            });
        }
    });
}

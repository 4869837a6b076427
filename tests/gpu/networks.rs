//! Whole networks against the interpreter.

use std::sync::atomic::Ordering;

use enfold::gpu::{Engine, Model, Options, Run};
use enfold::interp::Interpreter;
use enfold::lower::{LowerOptions, lower, lower_with};
use enfold::ops::{ChooseQParams, IntegerLinear, Op, QuantizeDynamic, ScaleAccumulatorDynamic};
use enfold::quantize::{ConvertOptions, QuantizationConfig, WgpuQuantizer, convert, prepare, to_integer};
use enfold::values::{QScheme, QuantRange};
use enfold::{Graph, GraphBuilder, Shape, Tensor, cpu};
use pollster::block_on;
use rayon::prelude::*;

use crate::cases::difference;
use crate::configs::{self, Quantized};
use crate::device::{
    buffer, buffer_on, bytes, context, device_of_another_instance, device_with, engine, read, read_on, submit, watch,
};
use crate::layers::{batch, expected, mlp};
use crate::long::count;
use crate::nets::Net;
use crate::random::Random;
use crate::report::report;

fn integers(net: &Net, random: &mut Random) -> Graph {
    let quantizer = WgpuQuantizer::new().set_global(QuantizationConfig::symmetric().per_channel());
    let mut prepared = prepare(&net.graph, &quantizer).expect("prepared");
    prepared.observe(&[net.batch(random)]).expect("observed");
    to_integer(&convert(&prepared, &ConvertOptions::default()).expect("converted")).expect("rewritten")
}

/// The program with int8 or float inputs and outputs, a batch, and the right outputs.
fn program(graph: &Graph, x: &Tensor, int8: bool) -> (enfold::program::Program, Tensor, Tensor) {
    let options = LowerOptions { int8_inputs: int8, int8_outputs: int8, ..LowerOptions::default() };
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
    report("40 networks with float and with int8 inputs and outputs equal the interpreter");
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

/// Devices of two instances can have equal numbers, by which wgpu compares them.
#[test]
fn devices_of_two_instances_are_told_apart() {
    let Some(context) = context("two instances") else { return };
    let others: Vec<_> = (0..2).map(|_| device_of_another_instance(context, None)).collect();
    let [(first, first_queue), (second, second_queue)] = &others[..] else { panic!("two devices") };
    assert!(first == second, "wgpu tells the devices of two instances apart: the engine need not");
    let (graph, program) = mlp(3, 40, 91);
    let batch = batch(&graph, 5, 1);
    let right = bytes(&expected(&graph, &batch)[0]);
    let mut engines = Vec::new();
    for (device, queue) in [(first, first_queue), (second, second_queue), (first, first_queue)] {
        let errors = watch(device);
        let engine = block_on(Engine::new(device, queue, &Options::default())).expect("an engine");
        // The caller's buffers are this instance's.
        let (input, output) = (buffer_on(device, &bytes(&batch[0])), buffer_on(device, &vec![0; right.len()]));
        let model = block_on(engine.load(&program)).expect("loaded");
        let run = block_on(model.bind(&[&input], &[&output], 5)).expect("bound");
        submit(device, queue, &run, 5);
        assert!(read_on(device, queue, &output) == right, "other bytes");
        assert_eq!(errors.load(Ordering::Relaxed), 0, "errors reached the application's handler");
        // Engines keep what their device shares.
        engines.push(engine);
    }
}

/// Networks of every pattern agree bit for bit, those with float steps too. An eighth have weights of few bits, some of them in groups.
#[test]
fn networks_of_every_pattern_equal_the_interpreter() {
    let Some((_, engine)) = engine("patterns") else { return };
    let number = count(10_000, 1_200);
    // The number of networks with float steps to run.
    let others = (number / 4).max(1_000);
    let all: Vec<Quantized> = (0..number).into_par_iter().map(|seed| configs::quantized(seed, seed % 8 == 7)).collect();
    let (mut exact, mut islands) = (0, 0);
    for (seed, Quantized { integers, batch, dynamic, .. }) in all.iter().enumerate() {
        let integer = integers.summary().float.is_empty() && !dynamic;
        // All that compute in integers, and some of the others.
        if !integer && islands == others {
            continue;
        }
        let program = lower(integers).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        let expected = Interpreter::new(integers).run(&[batch]).expect("interpreted");
        let model = block_on(engine.load(&program)).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        let got = block_on(model.run(&[batch])).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        assert_eq!(difference(&got[0], &expected[0]), None, "seed {seed}:\n{program}");
        if integer { exact += 1 } else { islands += 1 }
    }
    report(&format!(
        "of {number} networks of every pattern, {exact} equal the interpreter, and {islands} with float steps"
    ));
    assert!(exact > number / 10 && islands == others, "{exact} and {islands}");
}

/// Networks of images agree bit for bit: convolutions, pools, and what stays float.
#[test]
fn networks_of_images_equal_the_interpreter() {
    let Some((_, engine)) = engine("images") else { return };
    let number = count(5_000, 200);
    let all: Vec<Quantized> = (0..number).into_par_iter().map(|seed| configs::quantized_images(seed, false)).collect();
    let (mut convs, mut floats, mut int8) = (0, 0, 0);
    for (seed, Quantized { integers, batch, .. }) in all.iter().enumerate() {
        let program = lower(integers).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        let expected = Interpreter::new(integers).run(&[batch]).expect("interpreted");
        let model = block_on(engine.load(&program)).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        let got = block_on(model.run(&[batch])).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        assert_eq!(difference(&got[0], &expected[0]), None, "seed {seed}:\n{program}");
        let output = integers.node(integers.outputs()[0]);
        if matches!(output.op, Op::Dequantize(_)) {
            let options = LowerOptions { int8_outputs: true, ..LowerOptions::default() };
            let program = lower_with(integers, &options).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
            let feeds = [(integers.inputs()[0], batch)];
            let expected = Interpreter::new(integers).run_nodes(&feeds, &[output.inputs[0]]).expect("interpreted");
            let model = block_on(engine.load(&program)).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
            let got = block_on(model.run(&[batch])).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
            assert_eq!(difference(&got[0], &expected[0]), None, "seed {seed}, int8:\n{program}");
            int8 += 1;
        }
        convs += integers.nodes().iter().filter(|node| matches!(node.op, Op::IntegerConv(_))).count();
        floats += integers.nodes().iter().filter(|node| matches!(node.op, Op::Conv(_))).count();
    }
    report(&format!(
        "{number} random networks of images equal the interpreter: {convs} integer convolutions, {floats} float ones; {int8} \
         also with int8 results"
    ));
    assert!(
        convs > number as usize / 2 && floats > number as usize / 20 && int8 > number as usize / 5,
        "{convs} {floats}"
    );
}

/// Scales, zero points, quantized values and outputs of dynamic layers are the same bits.
#[test]
fn dynamic_layers_have_the_same_codes() {
    let Some((_, engine)) = engine("dynamic layers") else { return };
    let mut compared = 0;
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let (rows, k, n) = (1 + random.below(130), 1 + random.below(200), 1 + random.below(90));
        let qscheme = [QScheme::per_tensor_affine(), QScheme::per_token_affine(), QScheme::per_tensor_symmetric()]
            [seed as usize % 3];
        let range = [QuantRange::INT8, QuantRange::INT8_NARROW][seed as usize / 3 % 2];
        let graph = dynamic_layer(&mut random, k, n, qscheme, range);
        let scale = (random.normal() * 4.0).exp();
        let mut x = random.normals(rows * k, scale);
        match seed % 7 {
            // Rows of zeros, of one sign, of subnormals, of extremes, and with equal values.
            0 => x.iter_mut().for_each(|v| *v = 0.0),
            1 => x.iter_mut().for_each(|v| *v = v.abs()),
            2 => x.iter_mut().for_each(|v| *v *= 1e-38),
            3 => x.iter_mut().for_each(|v| *v *= 1e30),
            4 => x[..k].fill(-1.25),
            _ => {}
        }
        let x = Tensor::from_f32(&[rows, k], x).expect("lengths fit");
        let program = lower(&graph).expect("lowered");
        let expected = Interpreter::new(&graph).run(&[&x]).expect("interpreted");
        let got = block_on(block_on(engine.load(&program)).expect("loaded").run(&[&x])).expect("run");
        let by_cpu = cpu::Engine::new(&program).expect("an engine").run(&[&x]).expect("run");
        for (at, what) in ["scales and zero points", "quantized values", "outputs"].into_iter().enumerate() {
            assert_eq!(difference(&got[at], &expected[at]), None, "seed {seed}: {what} ({qscheme}, {rows} x {k})");
            assert_eq!(difference(&by_cpu[at], &expected[at]), None, "seed {seed}: {what} on the CPU");
            compared += got[at].len();
        }
    }
    report(&format!(
        "dynamic layers: {compared} scales, zero points, quantized values and outputs equal the interpreter"
    ));
}

/// Errors on the CPU have documented results here: NaN becomes the zero point, an unknown id gives the nearest row.
#[test]
fn nans_are_zero_and_unknown_ids_the_nearest() {
    let Some((_, engine)) = engine("NaN") else { return };
    let run = |graph: &Graph, x: &Tensor| {
        let program = lower(graph).expect("lowered");
        block_on(block_on(engine.load(&program)).expect("loaded").run(&[x])).expect("run")
    };
    for qscheme in [QScheme::per_tensor_affine(), QScheme::per_token_affine()] {
        let mut random = Random::new(5);
        let graph = dynamic_layer(&mut random, 9, 4, qscheme, QuantRange::INT8);
        let mut data = random.normals(27, 1.0);
        for at in [0, 13, 26] {
            data[at] = 0.0;
        }
        let zeros = Tensor::from_f32(&[3, 9], data.clone()).expect("fits");
        for at in [0, 13, 26] {
            data[at] = f32::NAN;
        }
        let nans = Tensor::from_f32(&[3, 9], data).expect("fits");
        let (got, expected) = (run(&graph, &nans), run(&graph, &zeros));
        for (got, expected) in got.iter().zip(&expected) {
            assert_eq!(difference(got, expected), None, "{qscheme}");
        }
    }
    let mut g = GraphBuilder::new();
    let ids = g.typed_input("ids", Shape::batched(&[]), enfold::values::DType::I32).expect("ids");
    let table = Tensor::from_f32(&[3, 2], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).expect("fits");
    let y = g.embedding("table", ids, table).expect("rows");
    let graph = g.finish([y]).expect("a graph");
    let ids = Tensor::from_i32(&[4], vec![-7, 1, 99, i32::MIN]).expect("fits");
    let expected = Tensor::from_f32(&[4, 2], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 1.0, 2.0]).expect("fits");
    assert_eq!(difference(&run(&graph, &ids)[0], &expected), None);
}

/// One layer whose dynamic qparams, quantized values and output all leave the graph.
fn dynamic_layer(random: &mut Random, k: usize, n: usize, qscheme: QScheme, range: QuantRange) -> Graph {
    let mut g = GraphBuilder::new();
    let mut build = || {
        let x = g.input("x", Shape::rows(k))?;
        let qparams =
            g.node("qparams", Op::ChooseQParams(ChooseQParams { qscheme, range, eps: 1.0 / 4096.0 }), &[x])?;
        let q = g.node("q", Op::QuantizeDynamic(QuantizeDynamic { range }), &[x, qparams])?;
        let weight = random.codes(n * k);
        let sums = weight.chunks(k).map(|row| row.iter().map(|&w| i32::from(w)).sum()).collect();
        let w = g.constant("w", Tensor::from_i8(&[n, k], weight).expect("fits"))?;
        let zeros = g.constant("zeros", Tensor::from_i32(&[n], vec![0; n]).expect("fits"))?;
        let acc = g.node("acc", Op::IntegerLinear(IntegerLinear { fraction_bits: 0 }), &[q, w, zeros])?;
        let sums = g.constant("sums", Tensor::from_i32(&[n], sums).expect("fits"))?;
        let scales = (0..n).map(|_| (random.uniform() * 0.01 + 1e-4) as f32).collect();
        let scales = g.constant("scales", Tensor::from_f32(&[n], scales).expect("fits"))?;
        let bias = g.constant("bias", Tensor::from_f32(&[n], random.normals(n, 0.1)).expect("fits"))?;
        let relu = random.below(2) == 0;
        let y = g.node(
            "y",
            Op::ScaleAccumulatorDynamic(ScaleAccumulatorDynamic { relu }),
            &[acc, qparams, sums, scales, bias],
        )?;
        Ok::<_, enfold::graph::GraphError>([qparams, q, y])
    };
    let outputs = build().expect("a layer");
    g.finish(outputs).expect("a graph")
}

/// A transformer's feed-forward block: one recording, no readback between its float and its integer parts.
#[test]
fn a_feed_forward_block_is_one_recording() {
    let Some((context, engine)) = engine("feed-forward block") else { return };
    let mut random = Random::new(77);
    let (width, hidden, tokens, rows) = (48, 96, 5, 3);
    let mut tensor = |shape: &[usize], scale| {
        Tensor::from_f32(shape, random.normals(shape.iter().product(), scale)).expect("lengths fit")
    };
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::batched(&[tokens, width])).expect("an input");
    let norm = g.layer_norm("norm", x, tensor(&[width], 1.0), tensor(&[width], 0.1), 1e-5).expect("a norm");
    let up = g.linear("up", norm, tensor(&[hidden, width], 0.1), Some(tensor(&[hidden], 0.1))).expect("a layer");
    let act = g.gelu("gelu", up).expect("a function");
    let down = g.linear("down", act, tensor(&[width, hidden], 0.1), Some(tensor(&[width], 0.1))).expect("a layer");
    let y = g.add("residual", x, down).expect("a sum");
    let float = g.finish([y]).expect("a graph");
    let batch = tensor(&[rows, tokens, width], 1.0);
    let symmetric = || QuantizationConfig::symmetric().per_channel();
    for (name, quantizer) in [
        ("static", WgpuQuantizer::new().set_global(symmetric())),
        ("dynamic", WgpuQuantizer::new().set_global(symmetric().dynamic_per_token())),
        ("down in float", WgpuQuantizer::new().set_global(symmetric()).set_module_name("down", None)),
        ("all in float", WgpuQuantizer::new()),
    ] {
        let mut prepared = prepare(&float, &quantizer).expect("prepared");
        prepared.observe(&[&batch]).expect("observed");
        let integers =
            to_integer(&convert(&prepared, &ConvertOptions::default()).expect("converted")).expect("rewritten");
        let program = lower(&integers).expect("lowered");
        let model = block_on(engine.load(&program)).expect("loaded");
        let (input, output) = (buffer(context, &bytes(&batch)), buffer(context, &vec![0; batch.len() * 4]));
        let run = block_on(model.bind(&[&input], &[&output], rows)).expect("bound");
        let mut encoder = context.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        run.record(&mut encoder, rows).expect("recorded");
        context.queue.submit([encoder.finish()]);
        let got = Tensor::from_f32(batch.shape(), bytemuck::pod_collect_to_vec(&read(context, &output))).expect("fits");
        let expected = Interpreter::new(&integers).run(&[&batch]).expect("interpreted");
        assert_eq!(difference(&got, &expected[0]), None, "{name}:\n{program}");
        let by_cpu = cpu::Engine::new(&program).expect("an engine").run(&[&batch]).expect("run");
        assert_eq!(difference(&by_cpu[0], &expected[0]), None, "{name}");
    }
}

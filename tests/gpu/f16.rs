//! Outputs as 16-bit floats: the rounded f32 outputs of the same engine, two bytes each.

use enfold::gpu::context::Context;
use enfold::gpu::{Engine, Options, SplitK};
use enfold::lower::{LowerOptions, lower, lower_with};
use enfold::{Graph, Tensor};
use half::f16;
use pollster::block_on;

use crate::cases::difference;
use crate::device::{buffer, bytes, engine, engine_with, read, submit};
use crate::layers::{Layers, batch, expected, f32s};
use crate::report::report;

/// Returns the f16 outputs of a graph as they lie in the caller's buffers, and its f32 outputs.
fn both(context: &Context, engine: &Engine, graph: &Graph, batch: &[Tensor]) -> (Vec<Vec<u16>>, Vec<Tensor>) {
    let rows = batch[0].shape()[0];
    let floats = block_on(block_on(engine.load(&lower(graph).expect("lowered"))).expect("loaded").run(batch));
    let program = lower_with(graph, &LowerOptions { f16_outputs: true, ..LowerOptions::default() }).expect("lowered");
    let model = block_on(engine.load(&program)).expect("loaded");
    let inputs: Vec<wgpu::Buffer> = batch.iter().map(|input| buffer(context, &bytes(input))).collect();
    let lengths: Vec<usize> = program.outputs().iter().map(|&id| program.value(id).len(rows).expect("small")).collect();
    // Two bytes each, and a guard.
    let outputs: Vec<wgpu::Buffer> =
        lengths.iter().map(|len| buffer(context, &vec![0x5A; (len * 2).next_multiple_of(4) + 64])).collect();
    let inputs: Vec<&wgpu::Buffer> = inputs.iter().collect();
    let run = block_on(model.bind(&inputs, &outputs.iter().collect::<Vec<_>>(), rows)).expect("bound");
    submit(&context.device, &context.queue, &run, rows);
    let halves = outputs.iter().zip(lengths).map(|(output, len)| {
        let got = read(context, output);
        assert!(got[(len * 2).next_multiple_of(4)..].iter().all(|&byte| byte == 0x5A), "written beyond the halves");
        bytemuck::pod_collect_to_vec(&got[..len * 2])
    });
    (halves.collect(), floats.expect("run"))
}

/// Describes the first f16 element that is not the rounded float.
fn wrong(halves: &[u16], floats: &Tensor) -> Option<String> {
    let floats = floats.as_f32().expect("floats");
    assert_eq!(halves.len(), floats.len());
    let right = |at: usize| f16::from_f32(floats[at]).to_bits();
    let at = (0..halves.len()).find(|&at| halves[at] != right(at))?;
    Some(format!("element {at} is {:#06x}, expected {:#06x} for {:e}", halves[at], right(at), floats[at]))
}

/// Lists floats around every boundary of f16.
fn edges() -> Vec<f32> {
    let mut edges = vec![0.0, -0.0, 1.0, f32::INFINITY, f32::NEG_INFINITY, 1e-30, f32::MIN_POSITIVE, 1e-45, 1e30];
    // Every exponent, with a tail at, below and above a tie of an even and of an odd half.
    for exponent in -26..=16 {
        for mantissa in [0, 1, 2, 3, 1022, 1023] {
            for tail in [0, 1, 0x0fff, 0x1000, 0x1001, 0x1fff] {
                let bits = ((exponent + 127) as u32) << 23 | mantissa << 13 | tail;
                edges.extend([f32::from_bits(bits), -f32::from_bits(bits)]);
            }
        }
    }
    edges.resize(edges.len().next_multiple_of(6), 65_520.0);
    edges
}

#[test]
fn every_edge_of_halves_is_rounded_to_even() {
    let Some((context, engine)) = engine("edges of halves") else { return };
    let edges = edges();
    let mut compared = 0;
    for cols in [1, 2, 3, 6] {
        let mut l = Layers::new(81);
        let x = l.floats(&[cols]);
        // Moves bits as they are; a reshape is an output of its own.
        let y = l.g.reshape("y", x, &[1, cols]).expect("moved");
        let graph = l.finish(&[y]);
        let x = f32s(&[edges.len() / cols, cols], edges.clone());
        let (halves, floats) = both(context, &engine, &graph, &[x]);
        // Drivers may flush subnormal floats in copies by no rule: the words are what counts.
        assert_eq!(wrong(&halves[0], &floats[0]), None, "{cols} columns");
        compared += halves[0].len();
        let mut changed = halves[0].clone();
        changed[7] ^= 1;
        let named = wrong(&changed, &floats[0]).expect("a difference");
        assert!(named.starts_with("element 7 is"), "{named}");
    }
    report(&format!("{compared} halves at the edges are rounded to nearest, ties to even"));
}

/// Static layers agree bit for bit, dynamic ones too since both have the same sums; widths are even and odd, steps fused and not.
#[test]
fn halves_are_the_rounded_outputs() {
    let Some((context, default)) = engine("halves") else { return };
    let with = |name, options: Options| (name, engine_with(context, &options));
    let engines = [
        ("default", default),
        with("unfused", Options { unfused: true, ..Options::default() }),
        // Five rows in two dispatches, of the smallest layers in one.
        with(
            "divided",
            Options { split_k: SplitK::Always, macs_per_dispatch: Some(3 * 66 * 300), ..Options::default() },
        ),
    ];
    let mut compared = 0;
    for (n, k) in [(1, 5), (7, 33), (66, 300)] {
        let mut l = Layers::new(n as u64);
        let (x, t) = (l.int8(&[k]), l.floats(&[k]));
        let y = l.linear_to_floats(x, n, k);
        let z = l.linear_to_floats(x, n, k);
        let z = l.gelu(z);
        let d = l.dynamic(t, n, k);
        let f = l.float_linear(t, n, k);
        let graph = l.finish(&[y, z, d, f]);
        let batch = batch(&graph, 5, 3);
        let static_floats = &expected(&graph, &batch)[0];
        for (how, engine) in &engines {
            let (halves, floats) = both(context, engine, &graph, &batch);
            assert_eq!(wrong(&halves[0], static_floats), None, "static, {n} x {k}");
            for ((halves, floats), what) in halves.iter().zip(&floats).zip(["static", "gelu", "dynamic", "float"]) {
                assert_eq!(wrong(halves, floats), None, "{what}, {n} x {k}, {how}");
                compared += halves.len();
            }
        }
    }
    report(&format!("{compared} halves are the rounded outputs"));
}

/// A network with 16-bit inputs gives the bits of one whose inputs hold the same numbers as f32; also at an odd number of elements, where
/// inputs share a buffer, and on the CPU.
#[test]
fn halves_as_inputs_are_the_numbers_that_they_hold() {
    let Some((context, engine)) = engine("halves as inputs") else { return };
    let mut compared = 0;
    for (n, k) in [(1, 5), (7, 33), (66, 300)] {
        let mut l = Layers::new(n as u64);
        let (x, t) = (l.floats(&[k]), l.floats(&[k]));
        let d = l.dynamic(x, n, k);
        let f = l.float_linear(t, n, k);
        let graph = l.finish(&[d, f]);
        let round = |tensor: &Tensor| match tensor.as_f32() {
            Some(x) => f32s(tensor.shape(), x.iter().map(|&x| f16::from_f32(x).to_f32()).collect()),
            None => tensor.clone(),
        };
        let given = batch(&graph, 5, 3);
        let rounded: Vec<Tensor> = given.iter().map(round).collect();
        let options = LowerOptions { f16_inputs: true, ..LowerOptions::default() };
        let program = lower_with(&graph, &options).expect("lowered");
        let plain = lower(&graph).expect("lowered");
        let right = block_on(block_on(engine.load(&plain)).expect("loaded").run(&rounded)).expect("run");
        let model = block_on(engine.load(&program)).expect("loaded");
        let on_cpu = enfold::cpu::Engine::new(&plain).expect("an engine").run(&rounded).expect("run");
        // The host's numbers are rounded first.
        for given in [&given, &rounded] {
            let got = block_on(model.run(given)).expect("run");
            let cpu = enfold::cpu::Engine::new(&program).expect("an engine").run(given).expect("run");
            for at in 0..2 {
                assert_eq!(difference(&got[at], &right[at]), None, "{n} x {k}, output {at}");
                assert_eq!(difference(&cpu[at], &on_cpu[at]), None, "{n} x {k}, output {at} on the CPU");
                compared += got[at].len();
            }
        }
        // The first input's buffer is the second's too.
        let bits: Vec<u8> =
            rounded[0].as_f32().expect("floats").iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect();
        let mut bits = bits;
        bits.resize(bits.len().next_multiple_of(4), 0xFF);
        let input = buffer(context, &bits);
        let outputs = [0, 1].map(|_| buffer(context, &vec![0; 5 * n * 4]));
        let run = block_on(model.bind(&[&input, &input], &outputs.each_ref(), 5)).expect("bound");
        submit(&context.device, &context.queue, &run, 5);
        let both = block_on(model.run(&[&rounded[0], &rounded[0]])).expect("run");
        for (output, right) in outputs.iter().zip(&both) {
            assert!(read(context, output) == bytes(right), "{n} x {k}: inputs that share a buffer");
        }
        // The control: another f16.
        let mut changed = rounded.clone();
        if let Tensor::F32(a) = &mut changed[0] {
            a.elements_mut()[0] += 1.0;
        }
        assert!(difference(&block_on(model.run(&changed)).expect("run")[0], &right[0]).is_some());
    }
    report(&format!("{compared} results of 16-bit inputs equal those of the same numbers as f32"));
}

//! Other weights for models that are bound.

use enfold::gpu::{GpuError, Options, SplitK};
use enfold::lower::lower;
use enfold::ops::Window;
use enfold::{Graph, Tensor};
use pollster::block_on;

use crate::cases::difference;
use crate::device::{buffer, bytes, engine, engine_with, read, submit};
use crate::layers::{Layers, batch, expected, mlp};
use crate::report::report;

/// Layers of every kind with weights, from this seed on.
fn network(seed: u64) -> Graph {
    let mut l = Layers::new(seed);
    let (x, t) = (l.int8(&[40]), l.floats(&[20]));
    let h = l.linear(x, 70, 40);
    let y = l.linear_to_floats(h, 33, 70);
    let d = l.dynamic(t, 9, 20);
    let image = l.int8(&[8, 7, 5]);
    let window = Window::new(&[3, 3]).with_padding(&[1, 1]);
    let c = l.conv(image, [12, 8], &window, 1);
    let c = l.conv(c, [12, 12], &window, 4);
    l.finish(&[y, d, c])
}

#[test]
fn bound_runs_compute_with_other_weights() {
    let Some((context, default)) = engine("other weights") else { return };
    let divided = Options { split_k: SplitK::Always, macs_per_dispatch: Some(100_000), ..Options::default() };
    let engines = [
        default,
        engine_with(context, &divided),
        engine_with(context, &Options { unfused: true, ..Options::default() }),
    ];
    let graphs = [network(1), network(2), network(3)];
    let inputs = batch(&graphs[0], 20, 5);
    let right: Vec<Vec<Tensor>> = graphs.iter().map(|graph| expected(graph, &inputs)).collect();
    assert!((0..3).all(|at| difference(&right[0][at], &right[1][at]).is_some()), "the weights matter");
    let mut swapped = 0;
    for engine in &engines {
        let mut model = block_on(engine.load(&lower(&graphs[0]).expect("lowered"))).expect("loaded");
        let given: Vec<wgpu::Buffer> = inputs.iter().map(|input| buffer(context, &bytes(input))).collect();
        let outputs: Vec<wgpu::Buffer> = right[0].iter().map(|y| buffer(context, &vec![0; bytes(y).len()])).collect();
        let (given, outputs): (Vec<_>, Vec<_>) = (given.iter().collect(), outputs.iter().collect());
        let runs = [20, 32].map(|rows| match rows {
            20 => block_on(model.bind(&given, &outputs, rows)).expect("bound"),
            _ => block_on(model.bind_indirect(&given, &outputs, 20)).expect("bound"),
        });
        let check = |at: usize, what: &str| {
            for run in &runs {
                submit(&context.device, &context.queue, run, 20);
                for (output, right) in outputs.iter().zip(&right[at]) {
                    assert!(read(context, output) == bytes(right), "{what}");
                }
            }
        };
        check(0, "before");
        for at in [1, 2, 0] {
            block_on(model.replace_weights(&lower(&graphs[at]).expect("lowered"))).expect("replaced");
            check(at, "after");
            swapped += 1;
        }
        // What was recorded before and is submitted after computes with the new weights.
        let mut encoder = context.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        runs[0].record(&mut encoder, 20).expect("recorded");
        block_on(model.replace_weights(&lower(&graphs[1]).expect("lowered"))).expect("replaced");
        context.queue.submit([encoder.finish()]);
        assert!(read(context, outputs[0]) == bytes(&right[1][0]), "recorded before");
        assert_eq!(model.program(), &lower(&graphs[1]).expect("lowered"));
    }
    report(&format!("{swapped} models got other weights without a new bind"));
}

#[test]
fn another_network_is_refused_and_changes_nothing() {
    let Some((context, engine)) = engine("refused weights") else { return };
    let (graph, program) = mlp(2, 24, 1);
    let mut model = block_on(engine.load(&program)).expect("loaded");
    let wider = |k: usize, n: usize| {
        let mut l = Layers::new(9);
        let x = l.int8(&[k]);
        let h = l.linear(x, n, k);
        let y = l.linear(h, 24, n);
        lower(&l.finish(&[y])).expect("lowered")
    };
    for (other, texts) in [
        (wider(24, 25), vec!["weight [25, 24]", "the model on the device has [24, 24]"]),
        (wider(23, 24), vec!["weight [24, 23]", "has [24, 24]"]),
        (mlp(3, 24, 1).1, vec!["program: steps: 3", "has 2"]),
    ] {
        let error = block_on(model.replace_weights(&other)).expect_err("another network");
        assert!(matches!(error, GpuError::OtherNetwork { .. }), "{error}");
        let text = error.to_string();
        assert!(texts.iter().all(|part| text.contains(part)), "{text}");
        if texts[0].starts_with("weight") {
            assert!(text.starts_with(&program.steps()[0].name), "{text} names the layer");
        }
    }
    let inputs = batch(&graph, 3, 1);
    let got = block_on(model.run(&inputs)).expect("run");
    assert_eq!(difference(&got[0], &expected(&graph, &inputs)[0]), None);
    let _ = context;
}

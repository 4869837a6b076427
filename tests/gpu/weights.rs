//! Weights of 2 to 4 bits against the same codes stored as int8.

use enfold::gpu::{LinearKernel, Options, SplitK, TileShape};
use enfold::lower::lower;
use pollster::block_on;

use crate::cases::difference;
use crate::device::{context, engine_with};
use crate::layers::{Layers, batch, expected};
use crate::report::report;

/// Columns and features at the borders of words and tiles.
const SIZES: [(usize, usize); 6] = [(1, 1), (15, 17), (63, 16), (64, 31), (65, 64), (130, 300)];

#[test]
fn few_bits_give_the_bits_of_int8() {
    let Some(context) = context("few bits") else { return };
    let limits = context.device.limits();
    let (mut compared, mut ratios) = (0, Vec::new());
    for (kernel, rows, k_step) in [
        (LinearKernel::Workgroup, 64, 4),
        (LinearKernel::Large, 128, 2),
        (LinearKernel::Register, 32, 1),
        (LinearKernel::Subgroup, 16, 8),
        (LinearKernel::Gemv, 8, 4),
    ] {
        let Ok(tile) = TileShape::new(kernel, rows, k_step, &limits) else { continue };
        let features = context.device.features();
        if kernel == LinearKernel::Subgroup
            && (!features.contains(wgpu::Features::SUBGROUP) || context.info.subgroup_min_size < k_step)
        {
            continue;
        }
        let split_k = if kernel == LinearKernel::Register { SplitK::Always } else { SplitK::Never };
        let with = |unpacked_weights, split_k| {
            engine_with(context, &Options { tile: Some(tile), unpacked_weights, split_k, ..Options::default() })
        };
        let engines = [with(false, split_k), with(true, SplitK::Never)];
        for (turn, (n, k)) in SIZES.into_iter().enumerate() {
            for most in [1, 7, 8] {
                let mut l = Layers::new((turn * 8) as u64);
                // All codes from -most - 1 to most: -2 to 1, -8 to 7, and too many for four bits.
                l.most = most;
                let x = l.codes(&[k]);
                let (y, z) = (l.linear(x, n, k), l.linear_to_floats(x, n, k));
                let graph = l.finish(&[y, z]);
                let batch = batch(&graph, [1, 2, 9, 70][turn % 4], 1);
                let expected = expected(&graph, &batch);
                let program = lower(&graph).expect("lowered");
                let sizes = engines.each_ref().map(|engine| {
                    let model = block_on(engine.load(&program)).expect("loaded");
                    let got = block_on(model.run(&batch)).expect("run");
                    for (got, expected) in got.iter().zip(&expected) {
                        assert_eq!(difference(got, expected), None, "{tile:?}, {n} x {k}, codes to {most}");
                        compared += got.len();
                    }
                    model.size_bytes()
                });
                if k == 300 && kernel == LinearKernel::Register {
                    ratios.push(sizes[0] as f64 / sizes[1] as f64);
                }
            }
        }
    }
    report(&format!("few bits: {compared} results equal; of the bytes of int8 they take {ratios:.2?}"));
    // Biases and factors are as large as ever.
    assert!(ratios[0] < 0.35 && ratios[1] < 0.6 && ratios[2] == 1.0, "{ratios:?}");
}

/// One weight's code changed by one in the packed form only.
#[test]
fn other_packed_weights_are_noticed() {
    let Some(context) = context("few bits changed") else { return };
    let engine = engine_with(context, &Options::default());
    for most in [1, 7] {
        let graph = |seed: u64, change: bool| {
            let mut l = Layers::new(seed);
            l.most = most;
            let x = l.codes(&[40]);
            if change {
                // One more draw: all later weights differ.
                l.random.bits();
            }
            let y = l.linear_to_floats(x, 20, 40);
            l.finish(&[y])
        };
        let batch = batch(&graph(5, false), 4, 1);
        let program = lower(&graph(5, true)).expect("lowered");
        let got = block_on(block_on(engine.load(&program)).expect("loaded").run(&batch)).expect("run");
        assert!(difference(&got[0], &expected(&graph(5, false), &batch)[0]).is_some());
    }
}

//! Group-wise weights on every kernel and tile that serves them, against the interpreter.

use enfold::gpu::{LinearKernel, Options, PackedDot, SplitK, TileShape};
use enfold::interp::Interpreter;
use pollster::block_on;

use crate::cases::difference;
use crate::device::{context, engine_with};
use crate::groups_cases::{GroupCase, GroupEnds, all};
use crate::long;
use crate::report::report;

/// Every group size and number of bits, on tiles of every kernel; kinds of dot product, divided features and unpacked weights take turns.
#[test]
fn every_kernel_equals_the_interpreter() {
    let Some(context) = context("groups") else { return };
    let (limits, features) = (context.device.limits(), context.device.features());
    let cases = all(&[1, 9, 2, 70, 8]);
    let expected: Vec<_> =
        cases.iter().map(|case| Interpreter::new(&case.graph()).run(&[case.input()]).expect("interpreted")).collect();
    let (mut compared, mut tiles) = (0, 0);
    for (turn, (kernel, rows, k_step)) in [
        (LinearKernel::Workgroup, 64, 4),
        (LinearKernel::Workgroup, 16, 3),
        (LinearKernel::Large, 128, 2),
        (LinearKernel::Register, 32, 1),
        (LinearKernel::Register, 8, 1),
        (LinearKernel::Row, 1, 1),
        (LinearKernel::Row, 4, 1),
        (LinearKernel::Subgroup, 16, 8),
        (LinearKernel::Subgroup, 8, 4),
        (LinearKernel::Gemv, 1, 1),
        (LinearKernel::Gemv, 2, 16),
        (LinearKernel::Gemv, 4, 8),
        (LinearKernel::Gemv, 8, 4),
    ]
    .into_iter()
    .enumerate()
    {
        let Ok(tile) = TileShape::new(kernel, rows, k_step, &limits) else { continue };
        let has_subgroups = features.contains(wgpu::Features::SUBGROUP) && context.info.subgroup_min_size >= k_step;
        if kernel == LinearKernel::Subgroup && !has_subgroups {
            continue;
        }
        tiles += 1;
        let other = turn % 2 == 1;
        let packed_dot = if other { PackedDot::Native } else { PackedDot::Emulated };
        let split_k = if turn % 3 == 1 { SplitK::Always } else { SplitK::Never };
        let options =
            Options { tile: Some(tile), packed_dot, split_k, unpacked_weights: turn == 3, ..Options::default() };
        let engine = engine_with(context, &options);
        // Each tile has a share of the cases; compiling all kernels for all takes minutes.
        let share = long::count(1, 4) as usize;
        let cases =
            cases.iter().zip(&expected).enumerate().filter(|(at, _)| (at + at / share + turn).is_multiple_of(share));
        for (_, (case, expected)) in cases {
            let model = block_on(engine.load(&case.program())).expect("loaded");
            let got = block_on(model.run(&[case.input()])).expect("run");
            assert_eq!(difference(&got[0], &expected[0]), None, "{tile:?}: {}", case.name);
            compared += got[0].len();
        }
    }
    report(&format!("group-wise layers: {compared} results of {tiles} tile shapes equal the interpreter"));
    assert!(tiles >= 7, "{tiles} tile shapes");
}

/// A comparison that cannot fail proves nothing: one weight, one integer scale or one zero point is changed by one, on the device only.
#[test]
fn changes_are_named() {
    let Some(context) = context("groups changed") else { return };
    let engine = engine_with(context, &Options::default());
    for (rows, size, bits) in [(1, 32, 4), (5, 16, 2), (40, 64, 8), (3, 12, 4)] {
        let case = GroupCase::new([rows, 65, 70], size, (bits, true), GroupEnds::FloatOut, false, 3);
        let expected = Interpreter::new(&case.graph()).run(&[case.input()]).expect("interpreted");
        let run = |case: &GroupCase| {
            let model = block_on(engine.load(&case.program())).expect("loaded");
            block_on(model.run(&[case.input()])).expect("run").swap_remove(0)
        };
        assert_eq!(difference(&run(&case), &expected[0]), None, "{}", case.name);
        for (what, changed) in case.changed() {
            let named = difference(&run(&changed), &expected[0]).expect(what);
            assert!(named.starts_with("element 64 is"), "{rows} rows, {what}: {named}");
        }
    }
}

/// Weights of 4 and 2 bits take half and a quarter of the bytes, and what belongs to their groups little.
#[test]
fn packed_groups_are_small() {
    let Some(context) = context("groups packed") else { return };
    let bytes = |bits, unpacked_weights| {
        let engine = engine_with(context, &Options { unpacked_weights, ..Options::default() });
        let case = GroupCase::new([2, 256, 512], 32, (bits, true), GroupEnds::FloatOut, false, 1);
        block_on(engine.load(&case.program())).expect("loaded").size_bytes()
    };
    let [two, four, eight] = [bytes(2, false), bytes(4, false), bytes(4, true)];
    let ratios = [two as f64 / eight as f64, four as f64 / eight as f64];
    report(&format!("weights of 2 and 4 bits in groups of 32 take {ratios:.2?} of the bytes of 8 bits"));
    assert!(ratios[0] < 0.36 && ratios[1] < 0.6, "{ratios:?}");
}

//! Weights of 2 to 4 bits against the same values stored as int8.

use enfold::gpu::{LinearKernel, Options, SplitK, TileShape};
use enfold::interp::Interpreter;
use enfold::lower::lower;
use enfold::ops::{Constant, IntegerLinear, Op, Requantize, ScaleAccumulator};
use enfold::values::{DType, QParams};
use enfold::{GraphBuilder, Shape, Tensor};
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
        (LinearKernel::Workgroup, 16, 2),
        (LinearKernel::Large, 128, 2),
        (LinearKernel::Register, 32, 1),
        (LinearKernel::Row, 4, 1),
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
        let divided = kernel == LinearKernel::Register || rows == 16;
        let split_k = if divided { SplitK::Always } else { SplitK::Never };
        let with = |unpacked_weights, split_k| {
            engine_with(context, &Options { tile: Some(tile), unpacked_weights, split_k, ..Options::default() })
        };
        let engines = [with(false, split_k), with(true, SplitK::Never)];
        for (turn, (n, k)) in SIZES.into_iter().enumerate() {
            for most in [1, 7, 8] {
                let mut l = Layers::new((turn * 8) as u64);
                // All values from -most - 1 to most: -2 to 1, -8 to 7, and too many for four bits.
                l.most = most;
                let x = l.int8(&[k]);
                let (y, z) = (l.linear(x, n, k), l.linear_to_floats(x, n, k));
                let graph = l.finish(&[y, z]);
                let batch = batch(&graph, [1, 2, 9, 70][turn % 4], 1);
                let expected = expected(&graph, &batch);
                let program = lower(&graph).expect("lowered");
                let sizes = engines.each_ref().map(|engine| {
                    let model = block_on(engine.load(&program)).expect("loaded");
                    let got = block_on(model.run(&batch)).expect("run");
                    for (got, expected) in got.iter().zip(&expected) {
                        assert_eq!(difference(got, expected), None, "{tile:?}, {n} x {k}, values to {most}");
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

/// Layers that read one weight: its bytes are on the device once.
#[test]
fn shared_weights_are_uploaded_once() {
    let Some(context) = context("shared weights") else { return };
    let engine = engine_with(context, &Options::default());
    let model = |shared: bool| {
        let mut g = GraphBuilder::new();
        let mut x = g.typed_input("x", Shape::rows(256), DType::I8).expect("an input");
        for at in 0..4 {
            let seed = if shared { 0 } else { at };
            let mut constant = |what: &str, tensor| g.constant(&format!("{what}{at}"), tensor).expect("a constant");
            let values = (0..256 * 256).map(|i| ((i + seed) * 37 % 101) as i8).collect();
            let w = constant("w", Tensor::from_i8(&[256, 256], values).expect("fits"));
            let bias = constant("bias", Tensor::from_i32(&[256], vec![at; 256]).expect("fits"));
            let factors = constant("factors", Tensor::from_f32(&[256], vec![1e-4; 256]).expect("fits"));
            let acc = g
                .node(&format!("fc{at}"), Op::IntegerLinear(IntegerLinear { fraction_bits: 0 }), &[x, w, bias])
                .expect("sums");
            let op = Op::Requantize(Requantize {
                qparams: QParams::new(1.0, 0).expect("valid"),
                lo: -128,
                hi: 127,
                ch_axis: None,
            });
            x = g.node(&format!("y{at}"), op, &[acc, factors]).expect("int8 values");
        }
        let graph = g.finish([x]).expect("a graph");
        let input = Tensor::from_i8(&[3, 256], (0..3 * 256).map(|i| (i % 97) as i8).collect()).expect("fits");
        let expected = Interpreter::new(&graph).run(&[&input]).expect("interpreted");
        let model = block_on(engine.load(&lower(&graph).expect("lowered"))).expect("loaded");
        assert_eq!(block_on(model.run(&[&input])).expect("run"), expected, "shared: {shared}");
        model.size_bytes()
    };
    let (once, four_times) = (model(true), model(false));
    assert_eq!(four_times - once, 3 * 256 * 256);
}

/// Kernels multiply by 16 times the values of four bits, so that layers of very many features would exceed 32 bits: their weights are stored
/// as int8.
#[test]
fn sums_of_very_many_features_do_not_overflow() {
    let Some(context) = context("many features") else { return };
    let engine = engine_with(context, &Options::default());
    let (n, most) = (4, 131_071);
    let bytes = [most, most + 65].map(|k| {
        let mut g = GraphBuilder::new();
        let x = g.typed_input("x", Shape::rows(k), DType::I8).expect("an input");
        let w = Tensor::from_i8(&[n, k], vec![-8; n * k]).expect("fits");
        let w = g.node("w", Constant { bits: Some(4), ..Constant::new(w) }, &[]).expect("a constant");
        let bias = g.constant("bias", Tensor::from_i32(&[n], vec![0; n]).expect("fits")).expect("a constant");
        let factors = g.constant("factors", Tensor::from_f32(&[n], vec![1.0; n]).expect("fits")).expect("a constant");
        let op = Op::IntegerLinear(IntegerLinear { fraction_bits: 0 });
        let acc = g.node("sums", op, &[x, w, bias]).expect("sums");
        let y = g
            .node("y", Op::ScaleAccumulator(ScaleAccumulator { relu: false, ch_axis: None }), &[acc, factors])
            .expect("floats");
        let graph = g.finish([y]).expect("a graph");
        // The sums exceed 2^27 with more features than fit.
        let input = Tensor::from_i8(&[1, k], vec![-128; k]).expect("fits");
        let model = block_on(engine.load(&lower(&graph).expect("lowered"))).expect("loaded");
        let expected = Tensor::from_f32(&[1, n], vec![1024.0 * k as f32; n]).expect("fits");
        assert_eq!(block_on(model.run(&[&input])).expect("run"), [expected], "{k} features");
        model.size_bytes()
    });
    assert!(bytes[1] > bytes[0] * 9 / 5, "{bytes:?}");
}

/// One weight is changed by one, in the packed form only.
#[test]
fn other_packed_weights_are_noticed() {
    let Some(context) = context("few bits changed") else { return };
    let engine = engine_with(context, &Options::default());
    for most in [1, 7] {
        let graph = |seed: u64, change: bool| {
            let mut l = Layers::new(seed);
            l.most = most;
            let x = l.int8(&[40]);
            if change {
                // An additional draw makes all later weights differ.
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

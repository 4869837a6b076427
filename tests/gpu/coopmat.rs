//! The kernel for cooperative matrices: on an adapter that has them, and emulated on any other.

use enfold::gpu::{Engine, Fragment, GpuError, LinearKernel, Model, Options, SplitK, TileShape};
use enfold::interp::Interpreter;
use enfold::lower::lower;
use pollster::block_on;

use crate::cases::{Case, Data, Ends, difference};
use crate::device::{context, engine_with};
use crate::layers::{Layers, batch, expected};
use crate::report::report;

fn load(engine: &Engine, case: &Case) -> Model {
    block_on(engine.load(&case.program())).unwrap_or_else(|e| panic!("{}: {e}", case.name))
}

/// Weights of 2 and 4 bits, which kernels read as multiples of their values.
#[test]
fn emulated_matrices_take_weights_of_few_bits() {
    let Some(context) = context("cooperative matrices of few bits") else { return };
    if context.info.subgroup_min_size < 8 || !context.device.features().contains(wgpu::Features::SUBGROUP) {
        return;
    }
    let tile = TileShape::new(LinearKernel::Coopmat, 64, 2, &context.device.limits()).expect("fits");
    for split_k in [SplitK::Never, SplitK::Always] {
        let options = Options { tile: Some(tile), fragment: Some(Fragment::Emulated), split_k, ..Options::default() };
        let engine = engine_with(context, &options);
        for most in [1, 7] {
            let mut l = Layers::new(most as u64);
            l.most = most;
            let x = l.int8(&[1100]);
            let y = l.linear_to_floats(x, 67, 1100);
            let graph = l.finish(&[y]);
            let batch = batch(&graph, 65, 1);
            let model = block_on(engine.load(&lower(&graph).expect("lowered"))).expect("loaded");
            let got = block_on(model.run(&batch)).expect("run");
            assert_eq!(difference(&got[0], &expected(&graph, &batch)[0]), None, "values to {most}, {split_k:?}");
        }
    }
}

/// The kernel without the matrices themselves: chunks, staging, flushing, epilogues.
#[test]
fn emulated_matrices_are_the_same() {
    let Some(context) = context("cooperative matrices") else { return };
    let limits = context.device.limits();
    if context.info.subgroup_min_size < 8 || !context.device.features().contains(wgpu::Features::SUBGROUP) {
        let tile = TileShape::new(LinearKernel::Coopmat, 64, 2, &limits).expect("fits");
        let options = Options { tile: Some(tile), fragment: Some(Fragment::Emulated), ..Options::default() };
        let error = block_on(Engine::new(&context.device, &context.queue, &options)).expect_err("lanes are too few");
        assert!(matches!(error, GpuError::Feature { .. }), "{error}");
        report("cooperative matrices: subgroups of fewer than 8 lanes are refused");
        return;
    }
    let mut compared = 0;
    for (rows, k_step, split_k) in [(64, 2, SplitK::Never), (64, 2, SplitK::Always)] {
        let tile = TileShape::new(LinearKernel::Coopmat, rows, k_step, &limits).expect("fits");
        let options = Options { tile: Some(tile), fragment: Some(Fragment::Emulated), split_k, ..Options::default() };
        let engine = engine_with(context, &options);
        assert!(engine.uses_coopmat());
        for (at, data) in [Data::Random, Data::Extremes, Data::Ties].into_iter().enumerate() {
            for (m, n, k) in [(1, 1, 1), (65, 67, 130), (17, 64, 1100)] {
                let case = Case::new(m, n, k, data, Ends::ALL[(at + m) % 3], (m + n) as u64);
                let got = block_on(load(&engine, &case).run(&[case.input()])).unwrap_or_else(|e| panic!("{e}"));
                let expected = Interpreter::new(&case.graph()).run(&[case.input()]).expect("interpreted");
                assert_eq!(difference(&got[0], &expected[0]), None, "{}", case.name);
                compared += 1;
            }
        }
    }
    report(&format!("cooperative matrices, emulated: {compared} cases equal the interpreter"));
}

/// Weights that let chunks be longer than those of any weights, but not where a part of K begins in their midst: its sum would pass
/// 2^24.
#[test]
fn chunks_keep_to_the_parts_of_divided_layers() {
    let Some(context) = context("chunks") else { return };
    if context.info.subgroup_min_size < 8 || !context.device.features().contains(wgpu::Features::SUBGROUP) {
        return;
    }
    let tile = TileShape::new(LinearKernel::Coopmat, 64, 2, &context.device.limits()).expect("fits");
    let options =
        |split_k| Options { tile: Some(tile), fragment: Some(Fragment::Emulated), split_k, ..Options::default() };
    // 688 vectors of 16 features in parts of 88. The second part lies across two chunks of 128.
    let mut case = Case::new(2, 3, 11_008, Data::Random, Ends::FloatOut, 1);
    let heavy = |at: usize| (88 * 16..176 * 16).contains(&(at % case.k));
    case.w = (0..case.n * case.k).map(|at| if heavy(at) { -127 } else { 0 }).collect();
    case.x.iter_mut().for_each(|x| *x = -127 + (*x & 1));
    case.bias.fill(0);
    case.factors.fill(1.0);
    case.fraction_bits = 0;
    let expected = Interpreter::new(&case.graph()).run(&[case.input()]).expect("interpreted");
    for split_k in [SplitK::Never, SplitK::Always] {
        let got = block_on(load(&engine_with(context, &options(split_k)), &case).run(&[case.input()])).expect("run");
        assert_eq!(difference(&got[0], &expected[0]), None, "{split_k:?}");
    }
}

/// The matrices themselves, on an adapter that has them.
#[test]
fn cooperative_matrices_are_the_same() {
    let Some(context) = context("cooperative matrices") else { return };
    let Some(fragment) = Fragment::of(&context.adapter) else {
        report("cooperative matrices: this adapter has none");
        return;
    };
    let descriptor = wgpu::DeviceDescriptor {
        required_features: Fragment::FEATURES,
        required_limits: context.adapter.limits(),
        // SAFETY: a test, whose shaders load and store fragments within their own workgroup arrays.
        experimental_features: {
            #[allow(unsafe_code)]
            unsafe {
                wgpu::ExperimentalFeatures::enabled()
            }
        },
        ..wgpu::DeviceDescriptor::default()
    };
    let (device, queue) = block_on(context.adapter.request_device(&descriptor)).expect("a device");
    let tile = TileShape::new(LinearKernel::Coopmat, 64, 2, &device.limits()).expect("fits");
    let options = Options { tile: Some(tile), fragment: Some(fragment), ..Options::default() };
    let engine = match block_on(Engine::new(&device, &queue, &options)) {
        Ok(engine) => engine,
        Err(error) => {
            report(&format!("cooperative matrices: not exact on this adapter, and not used: {error}"));
            return;
        }
    };
    let mut compared = 0;
    for (at, data) in [Data::Random, Data::Extremes, Data::Ties].into_iter().enumerate() {
        for (m, n, k) in [(1, 1, 1), (65, 67, 130), (17, 64, 1100), (130, 130, 4096)] {
            let case = Case::new(m, n, k, data, Ends::ALL[(at + m) % 3], (m + n) as u64);
            let got = block_on(load(&engine, &case).run(&[case.input()])).unwrap_or_else(|e| panic!("{e}"));
            let expected = Interpreter::new(&case.graph()).run(&[case.input()]).expect("interpreted");
            assert_eq!(difference(&got[0], &expected[0]), None, "{}", case.name);
            compared += 1;
        }
    }
    report(&format!("cooperative matrices: {compared} cases equal the interpreter"));
}

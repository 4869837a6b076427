//! The kernel for cooperative matrices: on an adapter that has them, and emulated on any other.

use enfold::gpu::context::Context;
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

/// Compares weights of 2 and 4 bits, which kernels read as multiples of their values. Returns the number of comparisons.
fn few_bits(engine: &Engine, what: &str) -> usize {
    let all = [1, 7];
    for most in all {
        let mut l = Layers::new(most as u64);
        l.most = most;
        let x = l.int8(&[1100]);
        let y = l.linear_to_floats(x, 67, 1100);
        let graph = l.finish(&[y]);
        let batch = batch(&graph, 65, 1);
        let model = block_on(engine.load(&lower(&graph).expect("lowered"))).expect("loaded");
        let got = block_on(model.run(&batch)).expect("run");
        assert_eq!(difference(&got[0], &expected(&graph, &batch)[0]), None, "{what}: values to {most}");
    }
    all.len()
}

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
        few_bits(&engine, &format!("{split_k:?}"));
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
    match Fragment::of(&context.adapter) {
        Some(fragment) => are_the_same(context, fragment, Fragment::FEATURES, &[(LinearKernel::Coopmat, 64, 2)]),
        None => report("cooperative matrices: this adapter has none"),
    }
}

#[cfg(feature = "coopmat-spirv")]
#[test]
fn cooperative_matrices_of_int8_values_are_the_same() {
    let Some(context) = context("cooperative matrices of int8 values") else { return };
    let tiles = [(128, 4), (128, 2), (64, 4), (64, 2)].map(|(rows, k_step)| (LinearKernel::CoopmatInt8, rows, k_step));
    match Fragment::int8_of(&context.adapter) {
        Some(fragment) => are_the_same(context, fragment, Fragment::INT8_FEATURES, &tiles),
        None => report("cooperative matrices of int8 values: this adapter has none"),
    }
}

/// Compares layers on each tile, whole and with K divided, and weights of few bits.
fn are_the_same(context: &Context, fragment: Fragment, features: wgpu::Features, tiles: &[(LinearKernel, u32, u32)]) {
    let descriptor = wgpu::DeviceDescriptor {
        required_features: features,
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
    let (mut compared, mut used, mut noticed) = (0, 0, 0);
    for &(kernel, rows, k_step) in tiles {
        let tile = TileShape::new(kernel, rows, k_step, &device.limits()).expect("a shape");
        for split_k in [SplitK::Never, SplitK::Always] {
            let options = Options { tile: Some(tile), fragment: Some(fragment), split_k, ..Options::default() };
            let engine = match block_on(Engine::new(&device, &queue, &options)) {
                Ok(engine) => engine,
                // The device has the features, but the tile may be too large for its workgroups.
                Err(error @ GpuError::Feature { .. }) => {
                    report(&format!("{tile:?} is not used on this adapter: {error}"));
                    continue;
                }
                Err(error) => panic!("{tile:?}: {error}"),
            };
            used += 1;
            for (at, data) in [Data::Random, Data::Extremes, Data::Ties].into_iter().enumerate() {
                for (m, n, k) in [(1, 1, 1), (65, 67, 130), (17, 64, 1100), (130, 130, 4096), (257, 300, 48)] {
                    let case = Case::new(m, n, k, data, Ends::ALL[(at + m) % 3], (m + n) as u64);
                    let got = block_on(load(&engine, &case).run(&[case.input()])).unwrap_or_else(|e| panic!("{e}"));
                    let expected = Interpreter::new(&case.graph()).run(&[case.input()]).expect("interpreted");
                    assert_eq!(difference(&got[0], &expected[0]), None, "{tile:?}, {split_k:?}: {}", case.name);
                    // One weight less by one: the comparison notices it.
                    let mut other = case.clone();
                    other.w[0] = if other.w[0] > -128 { other.w[0] - 1 } else { -127 };
                    let other = Interpreter::new(&other.graph()).run(&[case.input()]).expect("interpreted");
                    compared += 1;
                    let differs = other[0] != expected[0];
                    assert_eq!(difference(&got[0], &other[0]).is_some(), differs, "{}", case.name);
                    noticed += usize::from(differs);
                }
            }
            compared += few_bits(&engine, &format!("{tile:?}, {split_k:?}"));
        }
    }
    assert!(used > 0 && noticed > 0, "{used} engines, {noticed} changed weights were noticed");
    report(&format!("cooperative matrices of {fragment:?}: {used} engines, {compared} cases equal the interpreter"));
}

//! Every kernel and tile shape against the interpreter, bit for bit.

use enfold::gpu::{Engine, LinearKernel, Options, PackedDot, TileShape};
use enfold::interp::Interpreter;
use pollster::block_on;

use crate::cases::{self, Case, difference};
use crate::device::context;
use crate::report::report;

fn engine(options: &Options) -> Option<Engine> {
    let context = context("kernels")?;
    Some(block_on(Engine::new(&context.device, &context.queue, options)).expect("an engine"))
}

/// Every shape that the device can hold.
fn tiles(kernel: LinearKernel, limits: &wgpu::Limits) -> Vec<TileShape> {
    let (rows, k_steps): (&[u32], &[u32]) = match kernel {
        LinearKernel::Workgroup => (&[4, 16, 32, 64], &[1, 2, 4, 8]),
        LinearKernel::Register => (&[8, 16, 32, 64, 128], &[1]),
        LinearKernel::Gemv => (&[1, 2, 4], &[1, 2, 4, 8]),
    };
    let shapes = rows.iter().flat_map(|&rows| k_steps.iter().map(move |&k_step| (rows, k_step)));
    shapes.filter_map(|(rows, k_step)| TileShape::new(kernel, rows, k_step, limits).ok()).collect()
}

fn compare(engine: &Engine, case: &Case) -> Option<String> {
    let expected = Interpreter::new(&case.graph()).run(&[case.input()]).expect("interpreted");
    let model = block_on(engine.load(&case.program())).expect("loaded");
    let got = block_on(model.run(&[case.input()])).expect("run");
    difference(&got[0], &expected[0]).map(|d| format!("{}: {d}", case.name))
}

fn all_shapes(kernel: LinearKernel) {
    let Some(default) = engine(&Options::default()) else { return };
    let cases = cases::all();
    let tiles = tiles(kernel, default.limits());
    assert!(!tiles.is_empty());
    let mut compared = 0;
    for (turn, &tile) in tiles.iter().enumerate() {
        let packed_dot = [PackedDot::Native, PackedDot::Emulated][turn % 2];
        let engine = engine(&Options { tile: Some(tile), packed_dot }).expect("an adapter");
        // The first two shapes run every case, one with each kind of dot product; the others each a different share.
        let share = cases.iter().enumerate().filter(|(i, _)| turn < 2 || i % tiles.len() == turn);
        for (_, case) in share {
            if let Some(difference) = compare(&engine, case) {
                panic!("{tile:?}: {difference}");
            }
            compared += 1;
        }
    }
    report(&format!("{}: {} tile shapes, {compared} cases equal the interpreter", kernel.name(), tiles.len()));
}

#[test]
fn linear_equals_the_interpreter() {
    all_shapes(LinearKernel::Workgroup);
}

#[test]
fn linear_reg_equals_the_interpreter() {
    all_shapes(LinearKernel::Register);
}

#[test]
fn linear_gemv_equals_the_interpreter() {
    all_shapes(LinearKernel::Gemv);
}

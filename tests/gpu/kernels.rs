//! Every kernel and tile shape against the interpreter, bit for bit.

use enfold::gpu::{Engine, LinearKernel, Options, PackedDot, TileShape};
use enfold::interp::Interpreter;
use pollster::block_on;

use crate::cases::{self, Case, Data, Ends, difference};
use crate::device::{context, engine_with};
use crate::long;
use crate::report::report;

fn engine(options: &Options) -> Option<Engine> {
    let context = context("kernels")?;
    Some(engine_with(context, options))
}

/// Every shape that the device can hold.
fn tiles(kernel: LinearKernel, limits: &wgpu::Limits, subgroup: u32) -> Vec<TileShape> {
    let (rows, k_steps): (&[u32], &[u32]) = match kernel {
        LinearKernel::Workgroup => (&[4, 16, 64], &[1, 3, 4, 8]),
        LinearKernel::Large => (&[128], &[2]),
        LinearKernel::Register => (&[8, 16, 32, 64, 128], &[1]),
        LinearKernel::Row => (&[1, 2, 16, 64], &[1]),
        LinearKernel::Subgroup => (&[8, 16], &[4, 8]),
        LinearKernel::Gemv => (&[1, 2, 4, 8], &[1, 4, 8, 16]),
        other => panic!("{other:?} is not tested"),
    };
    // Every subgroup has as many lanes as share their loads.
    let k_steps = k_steps.iter().filter(|&&k_step| kernel != LinearKernel::Subgroup || k_step <= subgroup);
    let shapes = k_steps.flat_map(|&k_step| rows.iter().map(move |&rows| (rows, k_step)));
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
    let subgroup = context("kernels").map_or(0, |context| context.info.subgroup_min_size);
    let tiles = tiles(kernel, default.limits(), subgroup);
    assert!(!tiles.is_empty());
    let mut compared = 0;
    for (turn, &tile) in tiles.iter().enumerate() {
        let packed_dot = [PackedDot::Native, PackedDot::Emulated][turn % 2];
        let engine = engine(&Options { tile: Some(tile), packed_dot, ..Options::default() }).expect("an adapter");
        // The first two shapes, which have different kinds of dot product, run every case, or one half each; the others each a
        // different share.
        let parts = if turn < 2 { long::count(1, 2) as usize } else { tiles.len() };
        let share = cases.iter().enumerate().filter(|(i, _)| i % parts == turn % parts);
        for (_, case) in share {
            if let Some(difference) = compare(&engine, case) {
                panic!("{tile:?}: {difference}");
            }
            compared += 1;
        }
    }
    report(&format!("{}: {} tile shapes, {compared} cases equal the interpreter", kernel.name(), tiles.len()));
}

/// A comparison that cannot fail proves nothing: one weight changed by one, on the device only.
#[test]
fn one_weight_changed_by_one_is_named() {
    let Some(engine) = engine(&Options::default()) else { return };
    for rows in [1, 2, 5, 40] {
        let mut case = Case::new(rows, 65, 70, Data::Random, Ends::FloatOut, 3);
        case.x.iter_mut().for_each(|x| *x |= 1);
        let mut changed = case.clone();
        changed.w[64 * 70 + 69] ^= 1;
        let expected = Interpreter::new(&case.graph()).run(&[case.input()]).expect("interpreted");
        let run = |case: &Case| {
            let model = block_on(engine.load(&case.program())).expect("loaded");
            block_on(model.run(&[case.input()])).expect("run").swap_remove(0)
        };
        assert_eq!(difference(&run(&case), &expected[0]), None);
        let named = difference(&run(&changed), &expected[0]).expect("a difference");
        assert!(named.starts_with("element 64 is"), "{rows} rows: {named}");
    }
}

/// Grids have more than 65535 groups along one dimension, and numbers of rows have a quotient by 256 above 255.
#[test]
fn very_many_rows() {
    let Some(default) = engine(&Options::default()) else { return };
    let limits = default.limits();
    let tile = TileShape::new(LinearKernel::Gemv, 1, 1, limits).expect("fits");
    let gemv =
        engine(&Options { tile: Some(tile), packed_dot: PackedDot::Native, ..Options::default() }).expect("an adapter");
    // 70,001 workgroups along the rows; 4,400,000 words, 68,750 workgroups, to quantize.
    for (engine, rows, ends) in [(gemv, 70_001, Ends::Codes), (default, 1_100_000, Ends::Floats)] {
        let case = Case::new(rows, 1, 1, Data::Random, ends, 2);
        if let Some(difference) = compare(&engine, &case) {
            panic!("{difference}");
        }
    }
}

#[test]
fn linear_equals_the_interpreter() {
    all_shapes(LinearKernel::Workgroup);
}

#[test]
fn linear_large_equals_the_interpreter() {
    all_shapes(LinearKernel::Large);
}

#[test]
fn linear_sub_equals_the_interpreter() {
    all_shapes(LinearKernel::Subgroup);
}

#[test]
fn linear_reg_equals_the_interpreter() {
    all_shapes(LinearKernel::Register);
}

#[test]
fn linear_row_equals_the_interpreter() {
    all_shapes(LinearKernel::Row);
}

#[test]
fn linear_gemv_equals_the_interpreter() {
    all_shapes(LinearKernel::Gemv);
}

//! Operators on quantized values, inputs and outputs that are quantized values, and quantized values of 16 bits.

use super::super::build::{small, value};
use super::super::proto::data_type as ty;
use super::*;

/// Quantized values `q` of `x`, in steps of 0.5 with zero point 3 (131 for `uint8`).
fn base(of: i32) -> Build {
    let zero = if of == ty::UINT8 { 131 } else { 3 };
    Build::new(17).input("x", &["batch", "4"]).floats("s", &[], &[0.5]).store(small("z", of, &[], &[zero])).node(
        "QuantizeLinear",
        "x s z",
        "q",
    )
}

fn with_type(build: Build, name: &str, of: i32, dims: &[&str]) -> Build {
    let mut build = build;
    build.graph().input.push(value(name, of, dims));
    build
}

const X: [f32; 4] = [-2.0, -0.5, 0.5, 3.0];

#[track_caller]
fn check(build: Build, wanted: &[&str], expected: &[f32]) {
    let graph = build.node("DequantizeLinear", "c s z", "y").output("y").done(&[]);
    assert_eq!(ops(&graph), wanted, "{graph}");
    assert_values(&run(&graph, &[tensor(&[1, 4], &X)]), &[1, 4], expected);
}

#[track_caller]
fn assert_refused(build: Build, expected: &str) {
    let e = build.import(&[]).map_or_else(|e| e.to_string(), |graph| panic!("imported as\n{graph}"));
    assert!(e.contains(expected), "{e}");
}

#[test]
fn clamps_of_quantized_values() {
    let narrow = ["quantize_per_tensor", "dequantize_per_tensor"];
    for (of, shift) in [(ty::INT8, 0), (ty::UINT8, 128)] {
        let new = || {
            let bounds = |name: &str, v: i32| small(name, of, &[], &[v + shift]);
            base(of).store(bounds("lo", 0)).store(bounds("hi", 5))
        };
        // Values −1, 2, 4 and 9 between 0 and 5, which stand for −1.5 and 1.
        check(new().node("Clip", "q lo hi", "c"), &narrow, &[-1.5, -0.5, 0.5, 1.0]);
        check(new().node("Clip", "q lo", "c"), &narrow, &[-1.5, -0.5, 0.5, 3.0]);
        check(new().node("Clip", "q _ hi", "c"), &narrow, &[-2.0, -0.5, 0.5, 1.0]);
        // If the bounds cross, the result is the upper one, and no range holds only that.
        let codes =
            ["quantize_per_tensor", "dequantize_per_tensor", "clamp", "quantize_per_tensor", "dequantize_per_tensor"];
        check(new().node("Clip", "q hi lo", "c"), &codes, &[-1.5; 4]);
        check(new().node("Max", "q lo", "c"), &codes, &[-1.5, -0.5, 0.5, 3.0]);
        check(new().node("Min", "hi q", "c"), &codes, &[-2.0, -0.5, 0.5, 1.0]);
        check(new().node("Max", "q q", "c"), &narrow, &X);
    }
    // The value 0 stands for −1.5.
    check(base(ty::INT8).node("Relu", "q", "c"), &narrow, &[-1.5, -0.5, 0.5, 3.0]);
    // The values of others are clamped too.
    let moved = base(ty::INT8).store(small("lo", ty::INT8, &[], &[1])).node("Identity", "q", "i");
    let moved = moved.ints("dims", &[2], &[0, 4]).node("Concat", "i i", "d").int("axis", 1).node("Clip", "d lo", "c");
    let graph = moved.node("DequantizeLinear", "c s z", "y").output("y").done(&[]);
    let y = run(&graph, &[tensor(&[1, 4], &X)]);
    assert_values(&y, &[1, 8], &[-1.0, -0.5, 0.5, 3.0, -1.0, -0.5, 0.5, 3.0]);
}

#[test]
fn choices_between_quantized_values() {
    let two = |of: i32| {
        let mut build = base(of);
        build.graph().input.push(value("m", ty::BOOL, &["batch", "4"]));
        build.node("Neg", "x", "n").node("QuantizeLinear", "n s z", "p")
    };
    let mask = Tensor::from_i32(&[1, 4], vec![1, 0, 0, 1]).expect("lengths fit");
    for of in [ty::INT8, ty::UINT8] {
        let y = |build: Build| {
            let graph = build.node("DequantizeLinear", "c s z", "y").output("y").done(&[]);
            run(&graph, &[tensor(&[1, 4], &X), mask.clone()])
        };
        assert_values(&y(two(of).node("Max", "q p", "c")), &[1, 4], &[2.0, 0.5, 0.5, 3.0]);
        assert_values(&y(two(of).node("Min", "q p", "c")), &[1, 4], &[-2.0, -0.5, -0.5, -3.0]);
        assert_values(&y(two(of).node("Where", "m q p", "c")), &[1, 4], &[-2.0, 0.5, -0.5, 3.0]);
        let wide = two(of).ints("d", &[3], &[1, 2, 4]).ints("a", &[1], &[1]).node("Unsqueeze", "q a", "u");
        let y = y(wide.node("Expand", "u d", "c"));
        assert_values(&y, &[1, 2, 4], &[X, X].concat());
    }
    let mixed = two(ty::INT8).store(small("other", ty::UINT8, &[], &[3])).node("QuantizeLinear", "x s other", "u");
    assert_refused(
        mixed.clone().node("Max", "q u", "c").output("c"),
        "c (Max): it computes on quantized values and on others",
    );
    assert_refused(
        mixed.clone().node("Max", "q other", "c").output("c"),
        "c (Max): it computes on quantized values and",
    );
    assert_refused(
        mixed.clone().node("Max", "q x", "c").output("c"),
        "c (Max): it computes on quantized values and on",
    );
    assert_refused(mixed.node("Add", "q q", "c").output("c"), "c (Add): it computes on quantized values");
}

#[test]
fn casts_of_quantized_values() {
    let codes = [-1.0, 2.0, 4.0, 9.0];
    for (of, shift) in [(ty::INT8, 0.0), (ty::UINT8, 128.0)] {
        let graph = base(of).node("Cast", "q", "y").int("to", 1).output("y").done(&[]);
        assert_values(&run(&graph, &[tensor(&[1, 4], &X)]), &[1, 4], &codes.map(|v| v + shift));
        let graph = base(of).node("Cast", "q", "y").int("to", 6).output("y").done(&[]);
        let wanted = codes.map(|v| (v + shift) as i32).to_vec();
        assert_eq!(run(&graph, &[tensor(&[1, 4], &X)]), Tensor::from_i32(&[1, 4], wanted).expect("lengths fit"));
    }
    assert_refused(base(ty::INT8).node("Cast", "q", "y").int("to", 9).output("y"), "it casts quantized values to bool");
}

/// Outputs of uint8 are integers, since a graph has no such type.
#[test]
fn inputs_and_outputs_of_codes() {
    assert_eq!(ops(&base(ty::INT8).output("q").done(&[])), ["quantize_per_tensor"]);
    let graph = base(ty::UINT8).output("q").done(&[]);
    assert_eq!(graph.output_names(), ["q"]);
    let wanted = Tensor::from_i32(&[1, 4], vec![127, 130, 132, 137]).expect("lengths fit");
    assert_eq!(run(&graph, &[tensor(&[1, 4], &X)]), wanted);
    // An input of uint8 is integers too, and quantized values after one step that is exact.
    let stored = |of: i32| Build::new(17).floats("s", &[2], &[0.5, 2.0]).store(small("z", of, &[2], &[3, 100]));
    let build = with_type(stored(ty::UINT8), "u", ty::UINT8, &["batch", "2"]).node("DequantizeLinear", "u s z", "y");
    let graph = build.int("axis", 1).output("y").done(&[]);
    assert_eq!(ops(&graph), ["to_float", "quantize_per_tensor", "dequantize_per_channel"], "{graph}");
    let u = Tensor::from_i32(&[2, 2], vec![0, 255, 3, 99]).expect("lengths fit");
    assert_values(&run(&graph, &[u]), &[2, 2], &[-1.5, 310.0, 0.0, -2.0]);
    let types = graph.declared_types();
    assert_eq!(types.inputs.get("u").map(String::as_str), Some("uint8"));
    // Integers of 32 and 16 bits are scaled as floats.
    for (of, zeros) in [(ty::INT32, [0, 0]), (ty::INT16, [3, 100]), (ty::UINT16, [3, 100])] {
        let build = Build::new(21).floats("s", &[2], &[0.5, 2.0]).store(small("z", of, &[2], &zeros));
        let build = with_type(build, "u", of, &["batch", "2"]).node("DequantizeLinear", "u s z", "y").int("axis", 1);
        let u = Tensor::from_i32(&[1, 2], vec![7, 30_000]).expect("lengths fit");
        let wanted = [(7 - zeros[0]) as f32 * 0.5, (30_000 - zeros[1]) as f32 * 2.0];
        assert_values(&run(&build.output("y").done(&[]), &[u]), &[1, 2], &wanted);
    }
    let build = with_type(stored(ty::INT32), "u", ty::INT32, &["batch", "2"]).node("DequantizeLinear", "u s z", "y");
    assert_refused(build.output("y"), "y (DequantizeLinear): its zero point is not 0, as those of int32 are");
}

/// Rows of a table of quantized values are dequantized rows.
#[test]
fn rows_of_quantized_tables() {
    let ids = Tensor::from_i32(&[2, 1], vec![2, 0]).expect("lengths fit");
    for (of, shift) in [(ty::INT8, 0), (ty::UINT8, 128)] {
        let table = [1, -2, 3, 4, -5, 6].map(|v| v + shift);
        let new = |scales: &[f32]| {
            let dims = if scales.len() == 1 { vec![] } else { vec![scales.len() as i64] };
            let build = Build::new(17).ids("ids", &["batch", "1"]).store(small("t", of, &[3, 2], &table));
            let build = build.floats("s", &dims, scales).store(small("z", of, &dims, &vec![shift; scales.len()]));
            build.node("Gather", "t ids", "g")
        };
        let graph = new(&[0.5]).node("DequantizeLinear", "g s z", "y").output("y").done(&[]);
        assert_eq!(ops(&graph), ["dequantize_per_tensor", "embedding"], "{graph}");
        assert_values(&run(&graph, std::slice::from_ref(&ids)), &[2, 1, 2], &[-2.5, 3.0, 0.5, -1.0]);
        let columns = new(&[0.5, 2.0]).node("DequantizeLinear", "g s z", "y").int("axis", -1).output("y").done(&[]);
        assert_values(&run(&columns, std::slice::from_ref(&ids)), &[2, 1, 2], &[-2.5, 12.0, 0.5, -4.0]);
        let rows = new(&[0.5, 2.0]).node("DequantizeLinear", "g s z", "y").int("axis", 1).output("y");
        assert_refused(rows, "y (DequantizeLinear): it has 2 scales for axis 1 of rows, which is not one of the table");
        let expected =
            "y (Relu): its input g is rows of a table of quantized values, which only DequantizeLinear reads";
        assert_refused(new(&[0.5]).node("Relu", "g", "y").output("y"), expected);
        assert_refused(new(&[0.5]).output("g"), "output g: rows of a table of quantized values");
    }
}

/// Quantized values of 16 bits are integers between float steps, which state the reason.
#[test]
fn sixteen_bits() {
    for (of, zeros, low, high) in [(ty::UINT16, [30_000, 0], 0, 65_535), (ty::INT16, [-5, 7], -32_768, 32_767)] {
        let new = || {
            let build = Build::new(21).input("x", &["batch", "2"]).floats("s", &[2], &[0.3, 0.001]);
            build.store(small("z", of, &[2], &zeros)).node("QuantizeLinear", "x s z", "q").int("axis", 1)
        };
        let x = [8.25f32, -0.0005, 1e9, -1e9, -8.25, 3.0];
        let quantized = |at: usize| {
            let steps = (x[at] / [0.3f32, 0.001][at % 2]).round_ties_even() as i64 + i64::from(zeros[at % 2]);
            steps.clamp(low, high) as i32
        };
        let wanted: Vec<i32> = (0..6).map(quantized).collect();
        let q = run(&new().output("q").done(&[]), &[tensor(&[3, 2], &x)]);
        assert_eq!(q, Tensor::from_i32(&[3, 2], wanted.clone()).expect("lengths fit"));
        let graph = new().node("DequantizeLinear", "q s z", "y").int("axis", 1).output("y").done(&[]);
        let reals: Vec<f32> =
            wanted.iter().enumerate().map(|(at, q)| (q - zeros[at % 2]) as f32 * [0.3, 0.001][at % 2]).collect();
        assert_eq!(run(&graph, &[tensor(&[3, 2], &x)]), tensor(&[3, 2], &reals));
        let name = if of == ty::UINT16 { "uint16" } else { "int16" };
        let reason = format!("quantized values of {name} have no integer form");
        let told = graph.nodes().iter().filter(|node| node.float_reason.as_ref() == Some(&reason)).count();
        assert!(told >= 5, "{graph}");
        // Weights are known reals.
        let stored = Build::new(21).input("x", &["batch", "2"]).store(small("w", of, &[2], &[9, 8]));
        let stored = stored.floats("s", &[], &[0.5]).node("DequantizeLinear", "w s", "d").node("Add", "x d", "y");
        assert_values(&run(&stored.output("y").done(&[]), &[tensor(&[1, 2], &[1.0, 2.0])]), &[1, 2], &[5.5, 6.0]);
    }
    let infinite = Build::new(21).input("x", &["batch", "2"]).floats("s", &[], &[f32::INFINITY]);
    let infinite = infinite.store(small("z", ty::INT16, &[], &[0])).node("QuantizeLinear", "x s z", "q").output("q");
    assert_refused(infinite, "q (QuantizeLinear): element 0 of its scale is inf");
}

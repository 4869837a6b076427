//! Elements at known places of values that are computed at run time, quantization that a file spells out, and functions of one element.

use super::super::proto::data_type as ty;
use super::*;
use crate::onnx::build::{small, value};

fn refused(build: Build) -> String {
    build.output("y").import(&[]).expect_err("refused").to_string()
}

#[test]
fn elements_at_known_places() {
    let x = tensor(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let new = || Build::new(18).input("x", &["2", "3"]);
    let check = |build: Build, dims: &[usize], expected: &[f32]| {
        assert_values(&run(&build.output("y").done(&[]), std::slice::from_ref(&x)), dims, expected);
    };
    let elements = new().ints("i", &[2, 2], &[0, -1, 2, 1]).node("GatherElements", "x i", "y").int("axis", 1);
    check(elements, &[2, 2], &[1.0, 3.0, 6.0, 5.0]);
    let blocks = new().ints("i", &[2, 1], &[1, 0]).node("GatherND", "x i", "y");
    check(blocks, &[2, 3], &[4.0, 5.0, 6.0, 1.0, 2.0, 3.0]);
    let updated = |build: Build| build.ints("i", &[2, 1], &[2, 0]).floats("u", &[2, 1], &[7.0, 8.0]);
    let scattered = updated(new()).node("ScatterElements", "x i u", "y").int("axis", 1);
    check(scattered.clone(), &[2, 3], &[1.0, 2.0, 7.0, 8.0, 5.0, 6.0]);
    check(scattered.clone().text("reduction", "add"), &[2, 3], &[1.0, 2.0, 10.0, 12.0, 5.0, 6.0]);
    check(scattered.clone().text("reduction", "mul"), &[2, 3], &[1.0, 2.0, 21.0, 32.0, 5.0, 6.0]);
    check(scattered.clone().text("reduction", "max"), &[2, 3], &[1.0, 2.0, 7.0, 8.0, 5.0, 6.0]);
    check(scattered.text("reduction", "min"), &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let nd = new().ints("i", &[1, 2], &[1, 0]).floats("u", &[1], &[9.0]).node("ScatterND", "x i u", "y");
    check(nd, &[2, 3], &[1.0, 2.0, 3.0, 9.0, 5.0, 6.0]);
    let text = refused(new().ints("i", &[1, 1], &[5]).node("GatherND", "x i", "y"));
    assert!(text.contains("index 5 of 2"), "{text}");
    let mut batched = Build::new(18).input("x", &["batch", "3"]).ints("i", &[1, 1], &[0]).node("GatherND", "x i", "y");
    assert!(refused(batched.clone()).contains("it works along the batch"), "{batched:?}");
    batched.graph().initializer.clear();
    batched.graph().input.push(value("i", ty::INT64, &["batch", "1"]));
    assert!(refused(batched).contains("takes blocks along the batch"));
}

/// Columns of a known table, by ids of a run.
#[test]
fn columns_of_a_table() {
    let table: Vec<f32> = (0..6).map(|i| i as f32).collect();
    let build = Build::new(18).ids("ids", &["batch", "2"]).floats("t", &[2, 3], &table);
    let build = build.node("Gather", "t ids", "g").int("axis", 1).node("Transpose", "g", "y").list("perm", &[1, 2, 0]);
    let ids = Tensor::from_i32(&[1, 2], vec![2, 0]).expect("two");
    assert_values(&run(&build.output("y").done(&[]), &[ids]), &[1, 2, 2], &[2.0, 5.0, 0.0, 3.0]);
}

/// A quotient, its rounding, its limits and the product with the scale are a quantization and a dequantization.
#[test]
fn quantization_in_floats() {
    let values: Vec<f32> = (0..40).map(|i| (i as f32 - 17.3) * 0.37).collect();
    let new = |zero: f32, low: f32, high: f32| {
        let build = Build::new(18).input("x", &["batch", "40"]).floats("s", &[], &[0.05]).floats("z", &[], &[zero]);
        let build = build.floats("low", &[], &[low]).floats("high", &[], &[high]).node("Div", "x s", "a");
        build.node("Round", "a", "b").node("Add", "b z", "c").node("Clip", "c low high", "d").node("Sub", "d z", "e")
    };
    for (zero, low, high) in
        [(0.0, -128.0, 127.0), (0.0, -127.0, 127.0), (100.0, 0.0, 255.0), (5.0, -128.0, 127.0), (0.0, -8.0, 7.0)]
    {
        let graph = new(zero, low, high).node("Mul", "e s", "y").output("y").done(&[]);
        assert_eq!(ops(&graph), ["quantize_per_tensor", "dequantize_per_tensor"], "{graph}");
        let wanted: Vec<f32> = values
            .iter()
            .map(|x| ((x / 0.05).round_ties_even() + zero).clamp(low, high))
            .map(|q| (q - zero) * 0.05)
            .collect();
        assert_values(&run(&graph, &[tensor(&[1, 40], &values)]), &[1, 40], &wanted);
    }
    // Limits that 8 bits do not hold, another scale, and a value that something else reads.
    for other in [
        new(0.0, -300.0, 300.0).node("Mul", "e s", "y"),
        new(0.0, -128.0, 127.5).node("Mul", "e s", "y"),
        new(0.0, -128.0, 127.0).floats("k", &[], &[0.06]).node("Mul", "e k", "y"),
        new(0.0, -128.0, 127.0).node("Mul", "e s", "y").output("b"),
    ] {
        let graph = other.output("y").done(&[]);
        assert!(ops(&graph).contains(&"round") && !ops(&graph).contains(&"quantize_per_tensor"), "{graph}");
    }
}

/// A clamp to what two quantized values stand for is the range of the quantize node that alone reads it.
#[test]
fn limits_before_a_quantize_node() {
    let new = |low: f32, high: f32| {
        let build = Build::new(18).input("x", &["batch", "6"]).floats("s", &[], &[0.1]).floats("low", &[], &[low]);
        let build = build.store(small("z", ty::INT8, &[], &[3])).floats("high", &[], &[high]);
        build.node("Clip", "x low high", "c").node("QuantizeLinear", "c s z", "q").node(
            "DequantizeLinear",
            "q s z",
            "y",
        )
    };
    let x = [-1e9f32, -0.64, -0.26, 0.24, 0.36, f32::INFINITY];
    for (low, high, wanted) in
        [(-6.0, 5.0, [-0.6, -0.6, -0.3, 0.2, 0.4, 0.5]), (-3.0, 3.0, [-0.3, -0.3, -0.3, 0.2, 0.3, 0.3])]
    {
        let graph = new(low * 0.1, high * 0.1).output("y").done(&[]);
        assert_eq!(ops(&graph), ["quantize_per_tensor", "dequantize_per_tensor"], "{graph}");
        assert_values(&run(&graph, &[tensor(&[1, 6], &x)]), &[1, 6], &wanted);
    }
    // Bounds between two values, values without 0, and a clamp that another node reads.
    for other in [new(-0.25, 0.5), new(-2.0 * 0.1, 5.0 * 0.1), new(-6.0 * 0.1, 5.0 * 0.1).output("c")] {
        assert!(ops(&other.output("y").done(&[])).contains(&"clamp"));
    }
}

/// Functions that are computed of others agree with those of the standard library, at run time and while importing.
#[test]
fn functions_of_one_element() {
    type Case = (&'static str, fn(f64) -> f64, f32, f32);
    let all: [Case; 9] = [
        ("Acos", f64::acos, -1.0, 1.0),
        ("Acosh", f64::acosh, 1.0, 1e6),
        ("Asin", f64::asin, -1.0, 1.0),
        ("Asinh", f64::asinh, -1e6, 1e6),
        ("Atan", f64::atan, -1e6, 1e6),
        ("Atanh", f64::atanh, -0.999, 0.999),
        ("Cosh", f64::cosh, -80.0, 80.0),
        ("Sinh", f64::sinh, -80.0, 80.0),
        ("Tan", f64::tan, -1.5, 1.5),
    ];
    for (op_type, f, low, high) in all {
        let mut x: Vec<f32> = (0..=200).map(|i| low + (high - low) * i as f32 / 200.0).collect();
        x.extend(
            [0.0, 1e-5, -1e-5, 0.1, -0.19, 0.21, -0.7, 0.99, 1.0 + 1e-6]
                .into_iter()
                .filter(|v| (low..=high).contains(v)),
        );
        let dims = [1, x.len()];
        let length = x.len().to_string();
        let graph = Build::new(18).input("x", &["batch", &length]).node(op_type, "x", "y").output("y").done(&[]);
        let y = run(&graph, &[tensor(&dims, &x)]);
        for (x, y) in x.iter().zip(y.as_f32().expect("floats")) {
            let wanted = f(f64::from(*x));
            let error = (f64::from(*y) - wanted).abs();
            assert!(error <= 3e-6 * wanted.abs().max(1e-2), "{op_type}({x}) is {y}, not {wanted}");
        }
        let known = Build::new(18).input("z", &["batch", &length]).floats("x", &[1, x.len() as i64], &x);
        let known = known.node(op_type, "x", "k").node("Mul", "z k", "y").output("y").done(&[]);
        let wanted: Vec<f32> = x.iter().map(|x| f(f64::from(*x)) as f32).collect();
        assert_values(&run(&known, &[tensor(&dims, &vec![1.0; x.len()])]), &dims, &wanted);
    }
    let nan = Build::new(18).input("x", &["batch", "2"]);
    for op_type in ["Acos", "Asin", "Acosh", "Atanh"] {
        let graph = nan.clone().node(op_type, "x", "y").output("y").done(&[]);
        let y = run(&graph, &[tensor(&[1, 2], &[-1.5, f32::NAN])]);
        assert!(y.as_f32().expect("floats").iter().all(|v| v.is_nan()), "{op_type}: {y:?}");
    }
}

#[test]
fn activations_and_reductions() {
    let x = [-3.0f32, -0.5, 0.0, 0.5, 1.5, 2.0];
    let new = || Build::new(24).input("x", &["batch", "6"]);
    let check = |build: Build, dims: &[usize], expected: &[f32]| {
        assert_values(&run(&build.output("y").done(&[]), &[tensor(&[1, 6], &x)]), dims, expected);
    };
    let each = |f: fn(f32) -> f32| x.map(f);
    check(
        new().node("Celu", "x", "y").float("alpha", 2.0),
        &[1, 6],
        &each(|v| v.max(0.0) + (2.0 * ((v / 2.0).exp() - 1.0)).min(0.0)),
    );
    check(new().node("Swish", "x", "y").float("alpha", 2.0), &[1, 6], &each(|v| v / (1.0 + (-2.0 * v).exp())));
    check(new().node("Swish", "x", "y"), &[1, 6], &each(|v| v / (1.0 + (-v).exp())));
    check(
        new().node("ThresholdedRelu", "x", "y").float("alpha", 0.5),
        &[1, 6],
        &each(|v| if v > 0.5 { v } else { 0.0 }),
    );
    check(new().node("Hardmax", "x", "y"), &[1, 6], &[0.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
    let reduced = |op_type: &str| new().ints("axes", &[1], &[1]).node(op_type, "x axes", "y").int("keepdims", 0);
    check(reduced("ReduceLogSumExp"), &[1], &[x.iter().map(|v| v.exp()).sum::<f32>().ln()]);
    check(reduced("ReduceLogSum"), &[1], &[0.5f32.ln()]);
    let shifted = new().floats("c", &[], &[1.0]).ints("axes", &[1], &[-1]).node("Add", "x c", "z");
    check(shifted.node("ReduceProd", "z axes", "y"), &[1, 1], &[-2.0 * 0.5 * 1.5 * 2.5 * 3.0]);
    // Of infinity, and of nothing but −∞.
    let graph = reduced("ReduceLogSumExp").output("y").done(&[]);
    for (of, wanted) in
        [(f32::INFINITY, f32::INFINITY), (f32::NEG_INFINITY, f32::NEG_INFINITY), (200.0, 200.0 + 6f32.ln())]
    {
        let y = run(&graph, &[tensor(&[1, 6], &[of; 6])]);
        let y = y.as_f32().expect("floats")[0];
        assert!(y == wanted || (y - wanted).abs() < 1e-4, "{y}, not {wanted}");
    }
    for (negative, positive, wanted) in
        [(1, 1, [1.0, 1.0, 0.0]), (0, 1, [1.0, 0.0, 0.0]), (1, 0, [0.0, 1.0, 0.0]), (0, 0, [0.0; 3])]
    {
        let build = Build::new(18).input("x", &["batch", "3"]).node("IsInf", "x", "b");
        let build = build.int("detect_negative", negative).int("detect_positive", positive);
        let graph = build.node("Cast", "b", "y").int("to", 1).output("y").done(&[]);
        let x = tensor(&[1, 3], &[f32::INFINITY, f32::NEG_INFINITY, f32::NAN]);
        assert_values(&run(&graph, &[x]), &[1, 3], &wanted);
    }
    let mut booleans = Build::new(18).input("x", &["batch", "1"]).node("ReduceLogSumExp", "t", "y");
    booleans.graph().initializer.push(small("t", ty::BOOL, &[1], &[1]));
    assert!(refused(booleans).contains("it is not supported for bool"));
}

//! NaN, where the operators of a file have it, computed at run time and while importing.

use super::super::build::floats;
use super::*;

const NAN: f32 = f32::NAN;
const INF: f32 = f32::INFINITY;
const A: [f32; 6] = [NAN, 1.0, -INF, 2.0, 0.0, INF];
const B: [f32; 6] = [1.0, NAN, -INF, 1.0, -0.0, 5.0];

/// `y` of a model whose values `a` and `b` are inputs or known.
fn values(a_is_known: bool, b_is_known: bool, b: &[f32], build: impl FnOnce(Build) -> Build) -> Vec<f32> {
    let mut model = Build::new(18).input("zero", &["batch", "6"]);
    let mut inputs = vec![tensor(&[1, 6], &[0.0; 6])];
    let dims: &[i64] = if b.len() == 1 { &[] } else { &[6] };
    for (name, known, dims, data) in [("a", a_is_known, &[6][..], &A[..]), ("b", b_is_known, dims, b)] {
        if known {
            model = model.store(floats(name, dims, data));
        } else {
            model = model.input(name, &["batch", "6"]);
            inputs.push(tensor(&[1, 6], data));
        }
    }
    // The sum makes a value of the batch of what is known.
    let graph = build(model).node("Cast", "r", "f").int("to", 1).node("Add", "f zero", "y").output("y").done(&[]);
    run(&graph, &inputs).as_f32().expect("floats").to_vec()
}

#[track_caller]
fn assert_same(op: &str, how: &str, got: &[f32], expected: &[f32]) {
    let same = |(g, e): (&f32, &f32)| g == e || g.is_nan() && e.is_nan();
    assert!(
        got.len() == expected.len() && got.iter().zip(expected).all(same),
        "{op}, {how}: {got:?}, not {expected:?}"
    );
}

type Pair = fn(f32, f32) -> f32;

const PAIRS: [(&str, Pair); 7] = [
    ("Equal", |a, b| f32::from(a == b)),
    ("Less", |a, b| f32::from(a < b)),
    ("LessOrEqual", |a, b| f32::from(a <= b)),
    ("Greater", |a, b| f32::from(a > b)),
    ("GreaterOrEqual", |a, b| f32::from(a >= b)),
    ("Max", |a, b| if a.is_nan() || b.is_nan() { NAN } else { a.max(b) }),
    ("Min", |a, b| if a.is_nan() || b.is_nan() { NAN } else { a.min(b) }),
];

#[test]
fn comparisons_and_extremes_of_pairs() {
    for (op, f) in PAIRS {
        for (a_is_known, b_is_known) in [(false, false), (false, true), (true, false), (true, true)] {
            let how = format!("known: {a_is_known} and {b_is_known}");
            let expected = [0, 1, 2, 3, 4, 5].map(|at| f(A[at], B[at]));
            assert_same(op, &how, &values(a_is_known, b_is_known, &B, |m| m.node(op, "a b", "r")), &expected);
            let swapped = [0, 1, 2, 3, 4, 5].map(|at| f(B[at], A[at]));
            assert_same(op, &how, &values(a_is_known, b_is_known, &B, |m| m.node(op, "b a", "r")), &swapped);
        }
        for number in [0.0, NAN, INF, -INF] {
            for a_is_known in [false, true] {
                let how = format!("with {number}, known: {a_is_known}");
                let got = values(a_is_known, true, &[number], |m| m.node(op, "a b", "r"));
                assert_same(op, &how, &got, &A.map(|v| f(v, number)));
                let got = values(a_is_known, true, &[number], |m| m.node(op, "b a", "r"));
                assert_same(op, &how, &got, &A.map(|v| f(number, v)));
            }
        }
    }
}

/// Combinations of nodes with which models look for NaN, and functions that must keep NaN.
#[test]
fn functions_and_idioms() {
    type Idiom = (&'static str, fn(Build) -> Build, fn(f32) -> f32);
    let log_sigmoid = |v: f32| v.min(0.0) - (-v.abs()).exp().ln_1p() + if v.is_nan() { NAN } else { 0.0 };
    let idioms: [Idiom; 8] = [
        (
            "x == x",
            |m| m.node("Equal", "a a", "e").node("Where", "e a zero", "r"),
            |v| if v.is_nan() { 0.0 } else { v },
        ),
        ("sign", |m| m.node("Sign", "a", "r"), |v| if v == 0.0 || v.is_nan() { v } else { v.signum() }),
        ("relu", |m| m.node("Relu", "a", "r"), |v| if v < 0.0 { 0.0 } else { v }),
        (
            "clip",
            |m| m.floats("l", &[], &[-1.0]).floats("h", &[], &[1.5]).node("Clip", "a l h", "r"),
            |v| v.clamp(-1.0, 1.5),
        ),
        ("logarithm of a sigmoid", |m| m.node("Sigmoid", "a", "s").node("Log", "s", "r"), log_sigmoid),
        ("minus softplus of minus x", |m| m.node("Neg", "a", "n").node("Softplus", "n", "s").node("Neg", "s", "r"), {
            log_sigmoid
        }),
        (
            "min(0, x) − log(1 + e^−|x|)",
            |m| {
                let m =
                    m.floats("o", &[], &[0.0]).floats("one", &[], &[1.0]).node("Min", "o a", "m").node("Abs", "a", "p");
                let m = m.node("Neg", "p", "n").node("Exp", "n", "e").node("Add", "one e", "s").node("Log", "s", "l");
                m.node("Sub", "m l", "r")
            },
            log_sigmoid,
        ),
        ("min(zeros, x)", |m| m.node("Min", "zero a", "r"), |v| if v.is_nan() { v } else { v.min(0.0) }),
    ];
    for (name, build, f) in idioms {
        assert_same(name, "at run time", &rounded(&values(false, true, &B, build)), &rounded(&A.map(f)));
        // Softplus is computed at run time only.
        if !name.contains("softplus") {
            assert_same(name, "known", &rounded(&values(true, true, &B, build)), &rounded(&A.map(f)));
        }
    }
}

/// Rounds values to five decimal places.
fn rounded(values: &[f32]) -> Vec<f32> {
    values.iter().map(|v| (v * 1e5).round_ties_even() / 1e5).collect()
}

#[test]
fn reductions_keep_it() {
    for known in [false, true] {
        for (op, expected) in [("ReduceMax", [NAN, NAN, 2.0, 7.0]), ("ReduceMin", [NAN, NAN, -INF, 7.0])] {
            let data = [1.0, NAN, 3.0, NAN, 5.0, INF, 2.0, -INF, 0.0, 7.0, 7.0, 7.0];
            let model = Build::new(13).input("zero", &["batch", "4"]);
            let zero = tensor(&[1, 4], &[0.0; 4]);
            let (model, inputs) = match known {
                true => (model.store(floats("x", &[4, 3], &data)), vec![zero]),
                false => (model.input("x", &["4", "3"]), vec![zero, tensor(&[4, 3], &data)]),
            };
            let model = model.node(op, "x", "r").list("axes", &[1]).int("keepdims", 0);
            let graph = model.node("Add", "r zero", "y").output("y").done(&[]);
            assert_same(op, &format!("known: {known}"), run(&graph, &inputs).as_f32().expect("floats"), &expected);
        }
    }
}

//! Ids of tables that are computed at run time, and what computes them: sums up to each element, remainders, choices.

use super::super::build::value;
use super::super::proto::data_type as ty;
use super::*;
use crate::interp::InterpError;

/// Rows `[0, 1]`, `[10, 11]`, … of a table of five.
fn table(build: Build) -> Build {
    let rows: Vec<f32> = (0..5).flat_map(|row| [10.0 * row as f32, 10.0 * row as f32 + 1.0]).collect();
    build.floats("t", &[5, 2], &rows)
}

fn ids(values: &[i32]) -> Tensor {
    Tensor::from_i32(&[1, values.len()], values.to_vec()).expect("as many as the shape says")
}

#[track_caller]
fn assert_rows(graph: &Graph, inputs: &[Tensor], expected: &[usize]) {
    let rows: Vec<f32> = expected.iter().flat_map(|&row| [10.0 * row as f32, 10.0 * row as f32 + 1.0]).collect();
    assert_values(&run(graph, inputs), &[1, expected.len(), 2], &rows);
}

/// Whether given or computed, ids below 0 count from the end, and ids outside are errors with both numbers.
#[test]
fn ids_below_0_count_from_the_end_of_the_table() {
    let given = table(Build::new(17).ids("i", &["batch", "4"])).node("Gather", "t i", "y").output("y").done(&[]);
    assert_eq!(ops(&given), ["embedding"]);
    assert_rows(&given, &[ids(&[-1, 0, -5, 4])], &[4, 0, 0, 4]);
    let build = table(Build::new(17).ids("i", &["batch", "4"])).ints("three", &[], &[3]);
    let computed = build.node("Sub", "i three", "k").node("Gather", "t k", "y").output("y").done(&[]);
    assert_rows(&computed, &[ids(&[2, 3, -2, 7])], &[4, 0, 0, 4]);
    for (graph, outside, id) in [(&given, 5, "5"), (&given, -6, "-6"), (&computed, 8, "5"), (&computed, -3, "-6")] {
        let inputs = [ids(&[3, 3, outside, 3])];
        let text = Interpreter::new(graph).run(&inputs).expect_err("no row").to_string();
        assert!(text.contains(&format!("id {id}")) && text.contains("5 rows") && text.contains("element 2"), "{text}");
    }
}

#[test]
fn ids_of_casts_choices_and_limits() {
    let start = |name: &str, data_type: i32| {
        let mut build = table(Build::new(17)).ints("pad", &[], &[-100]).ints("zero", &[], &[0]).ints("four", &[], &[4]);
        build.graph().input.push(value(name, data_type, &["batch", "4"]));
        build
    };
    let done = |build: Build| build.node("Gather", "t k", "y").output("y").done(&[]);
    let cast = done(start("i", ty::FLOAT).node("Cast", "i", "k").int("to", ty::INT32.into()));
    assert_rows(&cast, &[tensor(&[1, 4], &[0.9, 3.2, -0.5, -1.7])], &[0, 3, 0, 4]);
    // A float that is no integer of 32 bits is an error.
    let inputs = [tensor(&[1, 4], &[0.0, f32::NAN, 0.0, 0.0])];
    let error = Interpreter::new(&cast).run(&inputs).expect_err("no integer");
    assert!(matches!(error, InterpError::NoInteger { .. }), "{error}");
    let chosen = start("i", ty::INT64).node("Equal", "i pad", "e").node("Where", "e zero i", "k");
    assert_rows(&done(chosen), &[ids(&[1, -100, -1, 3])], &[1, 0, 4, 3]);
    let limited = start("i", ty::INT32).store(super::integers::stored("low", ty::INT32, &[], &[0]));
    let limited = limited.store(super::integers::stored("high", ty::INT32, &[], &[4])).node("Clip", "i low high", "k");
    assert_rows(&done(limited), &[ids(&[-7, 2, 9, 4])], &[0, 2, 4, 4]);
    let larger = start("i", ty::INT64).node("Max", "i zero", "m").node("Min", "m four", "k");
    assert_rows(&done(larger), &[ids(&[-7, 2, 9, 4])], &[0, 2, 4, 4]);
}

/// The sign of a remainder is that of the divisor, or of the dividend with `fmod`.
#[test]
fn remainders() {
    let five = |fmod: i64| {
        let build = table(Build::new(17).ids("i", &["batch", "4"])).ints("five", &[], &[5]).node("Mod", "i five", "k");
        build.int("fmod", fmod).node("Gather", "t k", "y").output("y").done(&[])
    };
    assert_rows(&five(0), &[ids(&[12, -1, -5, -7])], &[2, 4, 0, 3]);
    // −1 and −2 count from the end of the table too.
    assert_rows(&five(1), &[ids(&[12, -1, -5, -7])], &[2, 4, 0, 3]);
    let both = |fmod: i64| {
        let build = Build::new(17).ids("a", &["batch", "6"]).ids("b", &["batch", "6"]).node("Mod", "a b", "y");
        build.int("fmod", fmod).output("y").done(&[])
    };
    let [a, b] = [[7, -7, 7, -7, i32::MIN, -6], [3, 3, -3, -3, -1, 3]];
    for (fmod, expected) in [(0, [1, 2, -2, -1, 0, 0]), (1, [1, -1, 1, -1, 0, 0])] {
        let y = run(&both(fmod), &[ids(&a), ids(&b)]);
        assert_eq!(y.as_i32(), Some(&expected[..]), "{fmod}");
    }
    let floats = Build::new(17).input("x", &["batch"]).floats("two", &[], &[2.0]).node("Mod", "x two", "y");
    let error = floats.int("fmod", 1).output("y").import(&[]).expect_err("floats").to_string();
    assert!(error.contains("(Mod)") && error.contains("known while importing"), "{error}");
}

/// What `CumSum` gives for some elements.
fn sums(x: &[i32], exclusive: bool, reverse: bool) -> Vec<i32> {
    let sum = |at: usize| match (exclusive, reverse) {
        (false, false) => x[..=at].iter().sum(),
        (true, false) => x[..at].iter().sum(),
        (false, true) => x[at..].iter().sum(),
        (true, true) => x[at + 1..].iter().sum(),
    };
    (0..x.len()).map(sum).collect()
}

const MODES: [[bool; 2]; 4] = [[false, false], [true, false], [false, true], [true, true]];

/// At run time and while importing, of axes that are one block, several blocks and blocks of blocks.
#[test]
fn sums_up_to_each_element() {
    for length in [1usize, 6, 67, 128, 130, 64 * 66] {
        let x: Vec<i32> = (0..length as i32).map(|i| i * 7 % 11 - 4).collect();
        for [exclusive, reverse] in MODES {
            let [dim, expected] = [length.to_string(), format!("{length} {exclusive} {reverse}")];
            let attributes = |build: Build| build.int("exclusive", exclusive.into()).int("reverse", reverse.into());
            let start = || Build::new(17).ints("one", &[], &[1]).ints("axes", &[1], &[-1]);
            let build = attributes(start().ids("x", &["batch", &dim]).node("CumSum", "x one", "y"));
            let y = run(&build.output("y").done(&[]), &[ids(&x)]);
            assert_eq!(y.as_i32(), Some(&sums(&x, exclusive, reverse)[..]), "{expected}");
            let floats = attributes(start().input("x", &["batch", &dim, "2"]).node("CumSum", "x one", "y"));
            let pairs: Vec<f32> = x.iter().flat_map(|&v| [v as f32, -v as f32]).collect();
            let y = run(&floats.output("y").done(&[]), &[tensor(&[1, length, 2], &pairs)]);
            let pairs: Vec<f32> =
                sums(&x, exclusive, reverse).into_iter().flat_map(|v| [v as f32, -v as f32]).collect();
            assert_eq!(y.as_f32(), Some(&pairs[..]), "{expected}");
            let known: Vec<i64> = x.iter().map(|&v| v.into()).collect();
            let known = start().ids("i", &["batch", &dim]).ints("x", &[1, length as i64], &known);
            let known = attributes(known.node("CumSum", "x one", "s")).node("Add", "s i", "y").output("y").done(&[]);
            let y = run(&known, &[ids(&vec![0; length])]);
            assert_eq!(y.as_i32(), Some(&sums(&x, exclusive, reverse)[..]), "{expected}");
        }
    }
}

/// An infinity stays in the sums that it belongs to. A sum beyond 32 bits is an error where the type has 64, and wraps around in 32.
#[test]
fn sums_at_the_ends() {
    let build = Build::new(17).input("x", &["batch", "3"]).ints("one", &[], &[1]).node("CumSum", "x one", "y");
    let y = run(&build.output("y").done(&[]), &[tensor(&[1, 3], &[1.0, f32::INFINITY, 1.0])]);
    assert_eq!(y.as_f32(), Some(&[1.0, f32::INFINITY, f32::INFINITY][..]));
    let of = |data_type: i32| {
        let mut build = Build::new(17).ints("one", &[], &[1]).node("CumSum", "x one", "y").output("y");
        build.graph().input.push(value("x", data_type, &["batch", "2"]));
        Interpreter::new(&build.done(&[])).run(&[ids(&[i32::MAX, 1])])
    };
    assert!(matches!(of(ty::INT64), Err(InterpError::NoInteger { .. })));
    assert_eq!(of(ty::INT32).expect("sums")[0].as_i32(), Some(&[i32::MAX, i32::MIN][..]));
    let along = Build::new(17).input("x", &["batch", "2"]).ints("zero", &[], &[0]).node("CumSum", "x zero", "y");
    let error = along.output("y").import(&[]).expect_err("rows are separate").to_string();
    assert!(error.contains("(CumSum): it works along the batch"), "{error}");
}

/// Of equal elements, the first one; NaN equals +∞.
#[test]
fn places_of_the_largest() {
    let x = [1.0, 3.0, 3.0, -2.0, f32::NEG_INFINITY, 3.0, 0.0, f32::NEG_INFINITY];
    let place = |op: &str, last: bool, keep: i64| {
        let build =
            Build::new(17).input("x", &["batch", "4", "2"]).node(op, "x", "y").int("axis", 1).int("keepdims", keep);
        let y = run(&build.int("select_last_index", last.into()).output("y").done(&[]), &[tensor(&[1, 4, 2], &x)]);
        let dims: &[usize] = if keep == 1 { &[1, 1, 2] } else { &[1, 2] };
        assert_eq!(y.shape(), dims);
        y.as_i32().expect("integers").to_vec()
    };
    // Columns 1, 3, −∞, 0 and 3, −2, 3, −∞.
    assert_eq!(place("ArgMax", false, 0), [1, 0]);
    assert_eq!(place("ArgMax", true, 1), [1, 2]);
    assert_eq!(place("ArgMin", false, 1), [2, 3]);
    let nan = Build::new(17).input("x", &["batch", "4"]).node("ArgMax", "x", "y").int("axis", -1).output("y").done(&[]);
    let y = run(&nan, &[tensor(&[2, 4], &[0.0, f32::NAN, 9.0, 1.0, -0.0, 0.0, -1.0, -1.0])]);
    assert_eq!(y.as_i32(), Some(&[1, 0][..]));
}

#[test]
fn the_largest_elements_in_their_order() {
    let top = |k: i64, largest: i64, x: &[f32]| {
        let dim = x.len().to_string();
        let build = Build::new(17).input("x", &["batch", &dim]).ints("k", &[1], &[k]).node("TopK", "x k", "v i");
        let graph = build.int("largest", largest).output("v").output("i").done(&[]);
        let outputs = Interpreter::new(&graph).run(&[tensor(&[1, x.len()], x)]).expect("a run");
        assert_eq!(outputs[0].shape(), [1, k as usize]);
        (outputs[0].as_f32().expect("floats").to_vec(), outputs[1].as_i32().expect("places").to_vec())
    };
    let x = [1.0, 5.0, f32::NEG_INFINITY, 5.0, -1.0];
    assert_eq!(top(3, 1, &x), (vec![5.0, 5.0, 1.0], vec![1, 3, 0]));
    assert_eq!(top(5, 0, &x), (vec![f32::NEG_INFINITY, -1.0, 1.0, 5.0, 5.0], vec![2, 4, 0, 1, 3]));
    let (values, places) = top(2, 1, &[3.0, f32::NAN, 4.0]);
    assert!(values[0].is_nan() && values[1] == 4.0 && places == [1, 2], "{values:?} {places:?}");
    // Along an axis that is not the last one.
    let build = Build::new(17).input("x", &["batch", "3", "2"]).ints("k", &[1], &[2]).node("TopK", "x k", "v i");
    let graph = build.int("axis", 1).output("v").output("i").done(&[]);
    let outputs = Interpreter::new(&graph).run(&[tensor(&[1, 3, 2], &[1.0, 6.0, 2.0, 4.0, 3.0, 5.0])]).expect("a run");
    assert_values(&outputs[0], &[1, 2, 2], &[3.0, 6.0, 2.0, 5.0]);
    assert_eq!(outputs[1].as_i32(), Some(&[2, 0, 1, 2][..]));
    for (k, length, expected) in [(6, "5", "6 of 5 elements"), (0, "5", "0 of 5"), (2, "1025", "1025 elements")] {
        let build = Build::new(17).input("x", &["batch", length]).ints("k", &[1], &[k]).node("TopK", "x k", "v i");
        let error = build.output("v").import(&[]).expect_err("refused").to_string();
        assert!(error.contains("(TopK)") && error.contains(expected), "{error}");
    }
}

#[test]
fn one_value_at_the_place_of_an_integer() {
    let start = || Build::new(17).ids("i", &["batch", "3"]).ints("depth", &[], &[4]);
    let floats = start().floats("v", &[2], &[0.5, 2.0]).node("OneHot", "i depth v", "y").output("y").done(&[]);
    let y = run(&floats, &[ids(&[1, -1, 4])]);
    assert_values(&y, &[1, 3, 4], &[0.5, 2.0, 0.5, 0.5, 0.5, 0.5, 0.5, 2.0, 0.5, 0.5, 0.5, 0.5]);
    let integers = start().ints("v", &[2], &[-1, 7]).node("OneHot", "i depth v", "y").int("axis", 1).output("y");
    let y = run(&integers.done(&[]), &[ids(&[1, -4, 3])]);
    assert_eq!((y.shape(), y.as_i32()), (&[1, 4, 3][..], Some(&[-1, 7, -1, 7, -1, -1, -1, -1, -1, -1, -1, 7][..])));
    for (axis, depth, expected) in [(0, 4, "batch"), (-1, -3, "depth is -3"), (-1, i64::MAX, "")] {
        let build = Build::new(17).ids("i", &["batch", "3"]).ints("d", &[], &[depth]).floats("v", &[2], &[0.0, 1.0]);
        let build = build.node("OneHot", "i d v", "y").int("axis", axis).output("y");
        let error = build.import(&[]).expect_err("refused").to_string();
        assert!(error.contains("(OneHot)") && error.contains(expected), "{error}");
    }
}

#[test]
fn ones_on_a_diagonal() {
    let build = Build::new(17).input("x", &["batch", "3"]).floats("e", &[2, 3], &[9.0; 6]).node("EyeLike", "e", "d");
    let graph = build.int("k", 1).ints("zero", &[1], &[0]).node("Gather", "d zero", "row").node("Add", "x row", "y");
    assert_values(&run(&graph.output("y").done(&[]), &[tensor(&[1, 3], &[5.0; 3])]), &[1, 3], &[5.0, 6.0, 5.0]);
    let error = Build::new(17).input("x", &["batch", "3"]).node("EyeLike", "x", "y").output("y").import(&[]);
    let error = error.expect_err("rows").to_string();
    assert!(error.contains("(EyeLike)") && error.contains("[rows, 3]"), "{error}");
}

/// What has a length that depends on the elements is not supported, and named.
#[test]
fn places_of_elements_that_are_not_0() {
    let error = Build::new(17).input("x", &["batch", "3"]).node("NonZero", "x", "y").output("y").import(&[]);
    assert!(error.expect_err("refused").to_string().contains("(NonZero)"));
}

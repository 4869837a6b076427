//! Integers where 32 bits end.

use super::super::proto::data_type as ty;
use super::integers::stored;
use super::*;

/// A bound that 32 bits do not hold changes nothing on its own side, and would be all that is left on the other.
#[test]
fn clips_by_bounds_beyond_32_bits() {
    let far = 1i128 << 40;
    let clip = |low: i128, high: i128| {
        let build = Build::new(17).ids("a", &["batch", "3"]);
        let build = build.store(stored("low", ty::INT64, &[], &[low])).store(stored("high", ty::INT64, &[], &[high]));
        build.node("Clip", "a low high", "y").output("y").import(&[])
    };
    let a = Tensor::from_i32(&[1, 3], vec![i32::MIN, 0, i32::MAX]).expect("three");
    for (low, high) in [(-far, far), (i32::MIN.into(), far), (-far, i32::MAX.into())] {
        assert_eq!(run(&clip(low, high).expect("nothing is cut"), std::slice::from_ref(&a)), a, "{low} {high}");
    }
    let least_above = i128::from(i32::MAX) + 1;
    for (low, high, named) in [(least_above, far, least_above), (-far, -least_above - 1, -least_above - 1)] {
        let error = clip(low, high).expect_err("a number that i32 lacks").to_string();
        assert!(error.contains(&format!("(Clip): its bound is {named}, which does not fit 32 bits")), "{error}");
    }
}

/// A cast of a known float gives what the cast at run time gives, or is refused as that is.
#[test]
fn casts_of_known_floats() {
    let (mut cut, mut refused) = (0, 0);
    for to in [ty::INT8, ty::UINT8, ty::INT16, ty::UINT16, ty::INT32] {
        for v in [1.9, 300.7, -70_000.0, 2_147_483_520.0, -2_147_483_648.0, 2_147_483_648.0, -3e9, f32::NAN] {
            let new = || Build::new(17).input("x", &["batch", "1"]);
            let cast = |build: Build, from: &str, out: &str| {
                build.node("Cast", from, "i").int("to", to.into()).node("Cast", "i", out).int("to", 1)
            };
            let known = cast(new().floats("c", &[1], &[v]), "c", "f").node("Add", "x f", "y").output("y").import(&[]);
            let at_run_time = Interpreter::new(&cast(new(), "x", "y").output("y").done(&[]));
            match (known, at_run_time.run(&[tensor(&[1, 1], &[v])])) {
                (Ok(graph), Ok(expected)) => {
                    assert_eq!(run(&graph, &[tensor(&[1, 1], &[0.0])]), expected[0], "{v} to {to}");
                    cut += 1;
                }
                (Err(error), Err(_)) => {
                    assert!(error.to_string().contains(&format!("it casts {v} of type float32")), "{error}");
                    refused += 1;
                }
                (known, at_run_time) => panic!("{v} to {to}: {known:?}, but at run time {at_run_time:?}"),
            }
        }
    }
    assert_eq!((cut, refused), (25, 15));
    let wide = Build::new(17).input("x", &["batch", "1"]).floats("c", &[1], &[3e9]).node("Cast", "c", "i");
    let wide = wide.int("to", ty::INT64.into()).node("Cast", "i", "f").int("to", 1).node("Add", "x f", "y");
    let y = run(&wide.output("y").done(&[]), &[tensor(&[1, 1], &[0.0])]);
    assert_eq!(y.as_f32(), Some(&[3e9][..]), "64 bits hold it");
}

/// The number of rows is not known while importing, so a cast to a type that it may not fit is refused.
#[test]
fn casts_of_lengths() {
    let types = [ty::INT8, ty::UINT8, ty::INT16, ty::UINT16, ty::INT32, ty::INT64].map(|to| {
        let build = Build::new(17).input("x", &["batch", "2", "3"]).ints("zero", &[1], &[0]).ints("six", &[1], &[6]);
        let build = build.node("Shape", "x", "s").node("Gather", "s zero", "n").node("Cast", "n", "c");
        let build = build.int("to", to.into()).node("Cast", "c", "w").int("to", ty::INT64.into());
        let graph = build.node("Concat", "w six", "t").int("axis", 0).node("Reshape", "x t", "y").output("y");
        graph.import(&[]).map(|_| ()).map_err(|error| error.to_string())
    });
    let (narrow, wide) = types.split_at(4);
    for refused in narrow {
        let error = refused.as_ref().expect_err("a length in a few bits");
        assert!(
            error.contains("(Cast): its value depends on the length of the batch, which may wrap around"),
            "{error}"
        );
    }
    assert_eq!(wide, [Ok(()), Ok(())]);
}

/// Rows of a table are of floats, of integers, or of quantized values, which something must dequantize.
#[test]
fn rows_of_tables_of_integers() {
    let rows = |data_type: i32| {
        let build = Build::new(17).ids("i", &["batch"]).store(stored("t", data_type, &[3, 2], &[1, 0, 0, 1, 1, 1]));
        build.node("Gather", "t i", "y").output("y").import(&[])
    };
    let error = rows(ty::UINT8).expect_err("rows of quantized values").to_string();
    assert!(error.contains("rows of a table of quantized values, which only DequantizeLinear reads"), "{error}");
    for data_type in [ty::INT64, ty::INT32] {
        let graph = rows(data_type).expect("rows of integers");
        let ids = Tensor::from_i32(&[2], vec![-1, 0]).expect("two");
        assert_eq!(run(&graph, &[ids]).as_i32(), Some(&[1, 1, 1, 0][..]));
    }
    assert!(rows(ty::BOOL).is_ok());
}

/// Operators that select booleans give booleans: a cast of 5 to the type of the result gives 1.
#[test]
fn booleans_that_are_chosen_stay_booleans() {
    for op in ["Gather", "ReduceMax", "ReduceMin"] {
        let build = Build::new(20).ids("i", &["batch"]).input("n", &["batch", "2"]);
        let build = build.store(stored("t", ty::BOOL, &[3, 2], &[1, 0, 0, 0, 1, 1])).node("Gather", "t i", "rows");
        let build = match op {
            "Gather" => build.node("Identity", "rows", "b"),
            _ => build.ints("axes", &[1], &[1]).node("Cast", "n", "given").int("to", ty::BOOL.into()).node(
                op,
                "given axes",
                "b",
            ),
        };
        let build = build.node("CastLike", "n b", "like").node("Cast", "like", "y").int("to", 1).output("y");
        let ids = Tensor::from_i32(&[3], vec![0, 1, 2]).expect("three");
        let y = run(&build.done(&[]), &[ids, tensor(&[3, 2], &[5.0, 0.0, 5.0, 5.0, 0.0, 0.0])]);
        assert_eq!(y.as_f32(), Some(&[1.0, 0.0, 1.0, 1.0, 0.0, 0.0][..]), "{op}");
    }
}

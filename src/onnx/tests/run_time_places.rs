//! Elements and blocks at places that are computed or given at run time.

use super::super::build::value;
use super::super::export::{ExportOptions, export};
use super::super::proto::data_type as ty;
use super::*;
use crate::interp::InterpError;

fn ids(dims: &[usize], values: &[i32]) -> Tensor {
    Tensor::from_i32(dims, values.to_vec()).expect("as many as the shape says")
}

/// What the interpreter gives, which is the same after an export.
#[track_caller]
fn check(build: Build, inputs: &[Tensor], dims: &[usize], expected: &[f32]) -> Graph {
    let graph = build.output("y").done(&[]);
    assert_values(&run(&graph, inputs), dims, expected);
    if let Ok(bytes) = export(&graph, &ExportOptions::default()) {
        let again = super::super::import(bytes, None, &Default::default()).unwrap_or_else(|e| panic!("{e}\n{graph}"));
        assert_eq!(run(&again, inputs), run(&graph, inputs), "{again}");
    }
    graph
}

fn refused(build: Build) -> String {
    build.output("y").import(&[]).expect_err("refused").to_string()
}

fn six() -> Tensor {
    tensor(&[2, 3], &[0.0, 1.0, 2.0, 10.0, 11.0, 12.0])
}

/// Data `[2, 3]` and indices of a run, with and without a batch.
fn with(rows: &'static str, of_ids: &[&str]) -> Build {
    Build::new(18).input("x", &[rows, "3"]).ids("i", of_ids)
}

#[test]
fn gathered_elements() {
    let gather = |rows, of_ids: &[&str], at| with(rows, of_ids).node("GatherElements", "x i", "y").int("axis", at);
    let inputs = [six(), ids(&[2, 4], &[0, -1, 2, 1, -3, 0, 0, 0])];
    let expected = [0.0, 2.0, 2.0, 1.0, 10.0, 10.0, 10.0, 10.0];
    for rows in ["batch", "2"] {
        let graph = check(gather(rows, &[rows, "4"], 1), &inputs, &[2, 4], &expected);
        assert_eq!(ops(&graph), ["reshape", "gather_nd"], "{graph}");
    }
    // Along the first axis, with indices for fewer columns.
    let inputs = [six(), ids(&[3, 2], &[0, 1, -1, -2, 1, 1])];
    check(gather("2", &["3", "2"], 0), &inputs, &[3, 2], &[0.0, 11.0, 10.0, 1.0, 10.0, 11.0]);
    let text = refused(gather("batch", &["batch", "3"], 0));
    assert!(text.contains("it works along the batch") && text.contains("give batch a length"), "{text}");
    // A length of the batch would not help.
    let text = refused(gather("batch", &["batch", "4"], 0));
    assert!(text.ends_with("indices of shape [rows, 4] into data of shape [rows, 3]"), "{text}");
    let text = refused(gather("2", &["2", "4"], 0));
    assert!(text.contains("indices of shape [2, 4] into data of shape [2, 3]"), "{text}");
    let text = refused(gather("2", &["2"], 0));
    assert!(text.contains("indices of shape [2] into data of shape [2, 3]"), "{text}");
    let text = refused(with("2", &["2", "2"]).node("GatherElements", "x x", "y"));
    assert!(text.contains("it computes on float32 as on integers"), "{text}");
}

#[test]
fn gathered_blocks() {
    let gather =
        |rows, of_ids: &[&str], batch| with(rows, of_ids).node("GatherND", "x i", "y").int("batch_dims", batch);
    let all = [six(), ids(&[2, 1], &[-1, 0])];
    check(gather("2", &["2", "1"], 0), &all, &[2, 3], &[10.0, 11.0, 12.0, 0.0, 1.0, 2.0]);
    check(gather("2", &["batch", "1"], 0), &all, &[2, 3], &[10.0, 11.0, 12.0, 0.0, 1.0, 2.0]);
    check(gather("batch", &["batch", "1"], 1), &all, &[2], &[2.0, 10.0]);
    check(gather("2", &["1", "2"], 0), &[six(), ids(&[1, 2], &[1, -2])], &[1], &[11.0]);
    let text = refused(gather("batch", &["batch", "1"], 0));
    assert!(text.contains("batch") && text.contains("give batch a length"), "{text}");
    for (of_ids, batch, expected) in [
        (["2", "3"], 0, "must leave axes of the input for the coordinates"),
        (["2", "9"], 0, "number of coordinates 9"),
        (["2", "1"], 2, "batch_dims 2"),
        (["2", "1"], -1, "its batch_dims are -1"),
        (["2", "1"], i64::MAX, "batch_dims 9223372036854775807"),
        (["3", "1"], 1, "length of an axis that both share is 3, expected 2"),
    ] {
        let text = refused(gather("2", &of_ids, batch));
        assert!(text.contains(expected), "{text}, not {expected}");
    }
}

/// Rows of values that are computed, along any axis.
#[test]
fn gathered_rows() {
    let gather = |rows, of_ids: &[&str], at| {
        let build = with(rows, of_ids).node("Neg", "x", "m").node("Neg", "m", "n");
        build.node("Gather", "n i", "y").int("axis", at)
    };
    check(gather("2", &["2"], 0), &[six(), ids(&[2], &[1, -2])], &[2, 3], &[10.0, 11.0, 12.0, 0.0, 1.0, 2.0]);
    check(gather("2", &["batch"], 0), &[six(), ids(&[1], &[-1])], &[1, 3], &[10.0, 11.0, 12.0]);
    // Each row of the batch has the same indices.
    let inputs = [six(), ids(&[2, 2], &[2, 0, -2, 2])];
    let expected = [2.0, 0.0, 1.0, 2.0, 12.0, 10.0, 11.0, 12.0];
    for rows in ["batch", "2"] {
        check(gather(rows, &["2", "2"], 1), &inputs, &[2, 2, 2], &expected);
    }
    let text = refused(gather("batch", &["batch"], 1));
    assert!(text.contains("each row of the batch takes elements of all rows") && text.contains("a length"), "{text}");
    // Between other axes: columns of two matrices.
    let build = Build::new(18).input("x", &["2", "3", "2"]).ids("i", &["2"]).node("Gather", "x i", "y").int("axis", 1);
    let x: Vec<f32> = (0..12).map(|i| i as f32).collect();
    check(
        build,
        &[tensor(&[2, 3, 2], &x), ids(&[2], &[2, 0])],
        &[2, 2, 2],
        &[4.0, 5.0, 0.0, 1.0, 10.0, 11.0, 6.0, 7.0],
    );
}

#[test]
fn scattered_elements() {
    let scatter = |rows, of_ids: &[&str], at| {
        let build = with(rows, of_ids).input("u", of_ids);
        build.node("ScatterElements", "x i u", "y").int("axis", at)
    };
    let updates = tensor(&[2, 2], &[-1.0, -2.0, -3.0, -4.0]);
    // The last update of an element counts; the other axis has all elements, or fewer.
    let inputs = [six(), ids(&[2, 2], &[0, -1, 1, 1]), updates.clone()];
    for rows in ["batch", "2"] {
        check(scatter(rows, &[rows, "2"], 1), &inputs, &[2, 3], &[-1.0, 1.0, -2.0, 10.0, -4.0, 12.0]);
    }
    let fewer = [six(), ids(&[2, 2], &[0, -1, 1, 0]), updates.clone()];
    check(scatter("2", &["2", "2"], 0), &fewer, &[2, 3], &[-1.0, -4.0, 2.0, -3.0, -2.0, 12.0]);
    for (reduction, expected) in [
        ("add", [-1.0, 1.0, 0.0, 10.0, 4.0, 12.0]),
        ("mul", [0.0, 1.0, -4.0, 10.0, 132.0, 12.0]),
        ("max", [0.0, 1.0, 2.0, 10.0, 11.0, 12.0]),
        ("min", [-1.0, 1.0, -2.0, 10.0, -4.0, 12.0]),
    ] {
        check(scatter("batch", &["batch", "2"], 1).text("reduction", reduction), &inputs, &[2, 3], &expected);
        // The same at known places, where two updates meet.
        let known = Build::new(18).input("x", &["2", "3"]).ints("i", &[2, 2], &[0, -1, 1, 1]).input("u", &["2", "2"]);
        let known = known.node("ScatterElements", "x i u", "y").int("axis", 1).text("reduction", reduction);
        check(known, &[six(), updates.clone()], &[2, 3], &expected);
    }
    let text = refused(scatter("2", &["2", "2"], 1).text("reduction", "median"));
    assert!(text.contains("its reduction is median, which is not known"), "{text}");
    let text =
        refused(with("2", &["2", "2"]).input("u", &["2", "1"]).node("ScatterElements", "x i u", "y").int("axis", 1));
    assert!(text.contains("shapes [2, 2] and [2, 1] do not broadcast"), "{text}");
    let text = refused(with("2", &["2", "2"]).node("ScatterElements", "i i x", "y").int("axis", 1));
    assert!(text.contains("its data and updates are of different types"), "{text}");
    let integers = Build::new(18).ids("i", &["2", "2"]).node("ScatterElements", "i i i", "y").int("axis", 1);
    let text = refused(integers.text("reduction", "add"));
    assert!(text.contains("its reduction is add, which is supported for floats only"), "{text}");
}

#[test]
fn scattered_blocks() {
    let scatter =
        |of_ids: &[&str], of_updates: &[&str]| with("2", of_ids).input("u", of_updates).node("ScatterND", "x i u", "y");
    let updates = tensor(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let twice = [six(), ids(&[2, 1], &[1, -1]), updates];
    check(scatter(&["2", "1"], &["2", "3"]), &twice, &[2, 3], &[0.0, 1.0, 2.0, 4.0, 5.0, 6.0]);
    let sum = scatter(&["2", "1"], &["2", "3"]).text("reduction", "add");
    check(sum, &twice, &[2, 3], &[0.0, 1.0, 2.0, 15.0, 18.0, 21.0]);
    let one = [six(), ids(&[1, 2], &[0, -1]), tensor(&[1], &[7.0])];
    check(scatter(&["1", "2"], &["1"]), &one, &[2, 3], &[0.0, 1.0, 7.0, 10.0, 11.0, 12.0]);
    let batched = with("batch", &["1", "1"]).input("u", &["1", "3"]).node("ScatterND", "x i u", "y");
    let text = refused(batched);
    assert!(text.contains("along the batch") && text.contains("give batch a length"), "{text}");
}

/// An index outside its axis is an error with both numbers.
#[test]
fn indices_outside_their_axis() {
    let gather = Build::new(18).input("x", &["2", "3"]).ids("i", &["2", "4"]).node("GatherElements", "x i", "y");
    let scatter = Build::new(18).input("x", &["2", "3"]).ids("i", &["2", "4"]).input("u", &["2", "4"]);
    let scatter = scatter.node("ScatterElements", "x i u", "y");
    let updates = tensor(&[2, 4], &[0.0; 8]);
    for (build, inputs) in [(gather, 2), (scatter, 3)] {
        let graph = build.int("axis", 1).output("y").done(&[]);
        for id in [3, -4, i32::MIN, i32::MAX] {
            let inputs = &[six(), ids(&[2, 4], &[0, 1, 2, -3, -1, id, 0, 0]), updates.clone()][..inputs];
            let error = Interpreter::new(&graph).run(inputs).expect_err("outside");
            assert!(matches!(error, InterpError::Id { .. }), "{error}");
            let text = error.to_string();
            assert!(
                text.contains(&format!("id {id}")) && text.contains("3 rows") && text.contains("element 5"),
                "{text}"
            );
        }
    }
}

/// Integers are selected as they are.
#[test]
fn integers_are_selected() {
    let build = Build::new(18).ids("x", &["batch", "3"]).ids("i", &["batch", "2"]);
    let gathered = build.clone().node("GatherElements", "x i", "y").int("axis", 1).output("y").done(&[]);
    let inputs = [ids(&[1, 3], &[7, 16_777_217, -9]), ids(&[1, 2], &[-1, 1])];
    assert_eq!(run(&gathered, &inputs), ids(&[1, 2], &[-9, 16_777_217]));
    let scattered = build.node("ScatterElements", "x i i", "y").int("axis", 1).output("y").done(&[]);
    assert_eq!(run(&scattered, &inputs), ids(&[1, 3], &[7, 1, -1]));
    let mut quantized = Build::new(18).ids("i", &["2", "3"]).node("GatherElements", "x i", "y");
    quantized.graph().input.push(value("x", ty::INT8, &["2", "3"]));
    let text = refused(quantized);
    assert!(text.contains("it selects quantized values by indices of a run"), "{text}");
}

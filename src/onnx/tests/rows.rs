//! Rows that come only from the shape of an input.

use super::*;

/// `r` is the same for each row, `[rows, 3]`: it comes from the length of the batch. `q` has one row. `y` is the result.
fn rows(input: impl Fn(Build) -> Build, node: &str) -> Build {
    let build = input(Build::new(17)).input("q", &["1", "3"]).node("Shape", "x", "s").int("end", 1);
    let build = build.ints("three", &[1], &[3]).node("Concat", "s three", "shape").int("axis", 0);
    let build = build.floats("values", &[1, 3], &[0.5, -1.0, 2.0]).node("Expand", "values shape", "r");
    match node {
        "Expand" => build.node("Expand", "q shape", "y"),
        "Expand an integer" => {
            build.node("Cast", "q", "i").int("to", 7).node("Expand", "i shape", "j").node("Cast", "j", "y").int("to", 1)
        }
        "Where" => build.floats("zero", &[], &[0.0]).node("Less", "q zero", "c").node("Where", "c r q", "y"),
        "Concat" => build.node("Expand", "q shape", "p").node("Concat", "r p", "y").int("axis", 1),
        "Softmax" => build.node("Softmax", "r", "y"),
        "MatMul" => build.floats("w", &[3, 2], &[1.0, 0.0, 0.0, 1.0, 1.0, 1.0]).node("MatMul", "r w", "y"),
        "PRelu" => build.node("Expand", "q shape", "p").node("PRelu", "p r", "y"),
        "Greater" | "Less" | "Equal" => build.node(node, "r q", "c").node("Cast", "c", "y").int("to", 1),
        "Mask and bias" => {
            let build = build.floats("w", &[3, 3], &[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]);
            build.node("MatMul", "values w", "m").node("Softmax", "m", "bias").node("Add", "r bias", "y")
        }
        op => build.node(op, "r q", "y"),
    }
}

/// The result of each operator on `r` and `q`, in every row.
fn expected(node: &str, q: [f32; 3]) -> Vec<f32> {
    let r = [0.5f32, -1.0, 2.0];
    let zip = |f: &dyn Fn(f32, f32) -> f32| r.iter().zip(q).map(|(&r, q)| f(r, q)).collect::<Vec<f32>>();
    let bit = |b: bool| f32::from(u8::from(b));
    let sum: f32 = r.iter().map(|v| v.exp()).sum();
    match node {
        "Add" => zip(&|r, q| r + q),
        "Sub" => zip(&|r, q| r - q),
        "Mul" => zip(&|r, q| r * q),
        "Div" => zip(&|r, q| r / q),
        "Min" => zip(&f32::min),
        "Max" => zip(&f32::max),
        "Less" => zip(&|r, q| bit(r < q)),
        "Greater" => zip(&|r, q| bit(r > q)),
        "Equal" => zip(&|r, q| bit(r == q)),
        "Where" => zip(&|r, q| if q < 0.0 { r } else { q }),
        "PRelu" => zip(&|r, q| if q < 0.0 { r * q } else { q }),
        "Expand" => q.to_vec(),
        "Expand an integer" => q.map(f32::trunc).to_vec(),
        "Concat" => [r, q].concat(),
        "MatMul" => vec![r[0] + r[2], r[1] + r[2]],
        "Softmax" => r.map(|v| v.exp() / sum).to_vec(),
        _ => r.map(|v| v + v.exp() / sum).to_vec(),
    }
}

#[test]
fn values_that_are_the_same_for_every_row_keep_their_rows() {
    let q = [2.5, -1.0, -0.25];
    let nodes = [
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Min",
        "Max",
        "Less",
        "Greater",
        "Equal",
        "Where",
        "PRelu",
        "Expand",
        "Expand an integer",
        "Concat",
        "MatMul",
        "Softmax",
        "Mask and bias",
    ];
    for node in nodes {
        let expected = expected(node, q).repeat(4);
        let dims = [4, expected.len() / 4];
        // Whatever the input holds, since it gives no more than its rows.
        let floats = rows(|build| build.input("x", &["batch", "2"]), node).output("y").done(&[]);
        let x = tensor(&[4, 2], &[f32::NAN, 1.0, f32::INFINITY, 2.0, 0.0, 3.0, f32::NEG_INFINITY, 4.0]);
        assert_values(&run(&floats, &[x, tensor(&[1, 3], &q)]), &dims, &expected);
        let ids = rows(|build| build.ids("x", &["batch"]), node).output("y").done(&[]);
        let x = Tensor::from_i32(&[4], vec![0, -3, 7, i32::MAX]).expect("four");
        assert_values(&run(&ids, &[x, tensor(&[1, 3], &q)]), &dims, &expected);
    }
}

/// One row still stands for all next to a value that has rows.
#[test]
fn a_value_with_rows_needs_no_others() {
    let build = rows(|build| build.input("x", &["batch", "3"]), "Add").node("Add", "x r", "z").output("z");
    let graph = build.done(&[]);
    assert_eq!(ops(&graph), ["add"]);
    let y = run(&graph, &[tensor(&[2, 3], &[1.0; 6]), tensor(&[1, 3], &[0.0; 3])]);
    assert_values(&y, &[2, 3], &[1.5, 0.0, 3.0, 1.5, 0.0, 3.0]);
}

/// An exponent and a slope of one element still broadcast.
#[test]
fn values_of_one_element_have_axes() {
    let build = |x: &[&str]| Build::new(17).input("x", x).floats("e", &[1, 1], &[2.0]);
    for op in ["Pow", "Mul", "Add", "Sub", "Div", "Min", "Max"] {
        let y = run(&build(&["3"]).node(op, "x e", "y").output("y").done(&[]), &[tensor(&[3], &[1.0, 2.0, 3.0])]);
        assert_eq!(y.shape(), [1, 3], "{op}");
    }
    let integer = Build::new(17).ids("x", &["3"]).ints("e", &[1, 1], &[2]).node("Pow", "x e", "y").output("y");
    let y = run(&integer.done(&[]), &[Tensor::from_i32(&[3], vec![1, -2, 3]).expect("three")]);
    assert_eq!((y.shape(), y.as_i32()), (&[1, 3][..], Some(&[1, 4, 9][..])));
    let error = build(&["batch"]).node("Pow", "x e", "y").output("y").import(&[]).expect_err("the batch is moved");
    assert!(error.to_string().contains("moves the batch"), "{error}");
    let error = build(&["3"]).node("PRelu", "x e", "y").output("y").import(&[]).expect_err("a slope of two axes");
    assert!(error.to_string().contains("slope does not broadcast"), "{error}");
}

/// Heads that are merged with the batch.
#[test]
fn stacks_whose_batch_is_merged() {
    let merged = |axes: &[i64]| {
        let build = Build::new(17).input("x", &["batch", "2", "2", "3"]).ints("m", &[3], axes);
        build.node("Reshape", "x m", "q").node("Transpose", "q", "k").list("perm", &[0, 2, 1])
    };
    let graph = merged(&[-1, 2, 3]).node("MatMul", "q k", "s").ints("four", &[4], &[-1, 2, 2, 2]);
    let graph = graph.node("Reshape", "s four", "y").output("y").done(&[]);
    let x: Vec<f32> = (0..24).map(|v| v as f32).collect();
    let mut expected = Vec::new();
    for matrix in x.chunks(6) {
        let dot = |i: usize, j: usize| (0..3).map(|k| matrix[i * 3 + k] * matrix[j * 3 + k]).sum::<f32>();
        expected.extend([dot(0, 0), dot(0, 1), dot(1, 0), dot(1, 1)]);
    }
    assert_values(&run(&graph, &[tensor(&[2, 2, 2, 3], &x)]), &[2, 2, 2, 2], &expected);
    let other = merged(&[-1, 2, 3]).ints("n", &[2], &[-1, 3]).node("Reshape", "x n", "wide");
    let error = other.node("Transpose", "q", "t").list("perm", &[0, 2, 1]).node("MatMul", "wide t", "y").output("y");
    assert!(error.import(&[]).expect_err("another part of the batch").to_string().contains("batch"));
}

/// Products of known matrices are known, so that what only folds can read them.
#[test]
fn products_of_known_matrices() {
    let build = || {
        Build::new(17).input("x", &["1"]).floats("a", &[2, 2], &[1.0, 2.0, 3.0, 4.0]).floats("c", &[2], &[1.0, -1.0])
    };
    let end = |build: Build| {
        let build = build.ints("flat", &[1], &[-1]).node("Cos", "p", "z").node("Reshape", "z flat", "f");
        let graph = build.node("Add", "x f", "y").output("y").done(&[]);
        run(&graph, &[tensor(&[1], &[0.0])]).as_f32().expect("floats").to_vec()
    };
    let close = |actual: Vec<f32>, expected: [f32; 4]| {
        let expected = expected.map(f32::cos);
        assert!(actual.iter().zip(expected).all(|(a, e)| (a - e).abs() < 1e-6), "{actual:?}, not {expected:?}");
    };
    close(end(build().node("MatMul", "a a", "p")), [7.0, 10.0, 15.0, 22.0]);
    let gemm = build().node("Gemm", "a a c", "p").int("transA", 1).float("alpha", 0.5).float("beta", 2.0);
    close(end(gemm), [5.0 + 2.0, 7.0 - 2.0, 7.0 + 2.0, 10.0 - 2.0]);
    close(end(build().node("Gemm", "a a", "p").int("transB", 1)), [5.0, 11.0, 11.0, 25.0]);
    let batched = build().floats("b", &[2, 1, 2], &[1.0, 0.0, 0.0, 2.0]).node("MatMul", "b a", "p");
    close(end(batched), [1.0, 2.0, 6.0, 8.0]);
}

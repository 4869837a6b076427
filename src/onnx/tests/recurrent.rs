//! Recurrent layers, and values whose batch the model has behind another axis. `tests/onnx/recurrent.py` compares more of them with ONNX
//! Runtime.

use super::super::proto::data_type;
use super::*;
use crate::onnx::build::value;

fn refused(build: &Build) -> String {
    build.import(&[]).expect_err("refused").to_string()
}

/// `h[t] = tanh(2·x[t] + h[t − 1] / 2 + 0.25)`.
fn rnn(build: Build) -> Build {
    build.floats("w", &[1, 1, 1], &[2.0]).floats("r", &[1, 1, 1], &[0.5]).floats("b", &[1, 2], &[1.0, -0.75])
}

/// A sequence of three steps, for two rows.
fn steps() -> Tensor {
    tensor(&[2, 3, 1], &[0.1, -0.2, 0.3, 1.0, 0.0, -1.0])
}

fn expected(reverse: bool) -> Vec<f32> {
    let x = steps();
    let rows = x.as_f32().expect("floats").chunks(3).map(<[f32]>::to_vec).collect::<Vec<_>>();
    let of_row = |mut row: Vec<f32>| {
        if reverse {
            row.reverse();
        }
        let mut h = 0.0f32;
        let mut all: Vec<f32> = row
            .into_iter()
            .map(|x| {
                h = (2.0 * x + 0.5 * h + 0.25).tanh();
                h
            })
            .collect();
        if reverse {
            all.reverse();
        }
        all
    };
    rows.into_iter().flat_map(of_row).collect()
}

#[test]
fn unrolled_layers() {
    for (direction, reverse) in [("forward", false), ("reverse", true)] {
        // The batch in front, and behind the steps, where transposes put it.
        let first = rnn(Build::new(17).input("x", &["batch", "3", "1"])).node("RNN", "x w r b", "s").int("layout", 1);
        let first = first.text("direction", direction).ints("flat", &[2], &[0, 3]).node("Reshape", "s flat", "y");
        let second = rnn(Build::new(17).input("x", &["batch", "3", "1"]));
        let second = second.node("Transpose", "x", "t").list("perm", &[1, 0, 2]).node("RNN", "t w r b", "s");
        let second = second.text("direction", direction).ints("flat", &[2], &[0, 3]);
        let second = second.node("Transpose", "s", "u").list("perm", &[2, 0, 1, 3]).node("Reshape", "u flat", "y");
        for build in [first, second] {
            let graph = build.output("y").done(&[]);
            assert_values(&run(&graph, &[steps()]), &[2, 3], &expected(reverse));
            assert_eq!(ops(&graph).iter().filter(|op| **op == "linear").count(), 3, "{graph}");
        }
    }
    // The last step is the first of a reversed sequence, and the batch may be fixed, behind the steps in the file too.
    let fixed = rnn(Build::new(17).input("x", &["3", "batch", "1"])).node("RNN", "x w r b", "_ h");
    let fixed = fixed.text("direction", "reverse").ints("flat", &[1], &[2]).node("Reshape", "h flat", "y").output("y");
    let x = tensor(&[3, 2, 1], &[0.1, 1.0, -0.2, 0.0, 0.3, -1.0]);
    let last = expected(true);
    assert_values(&run(&fixed.done(&[("batch", 2)]), &[x]), &[2], &[last[0], last[3]]);
}

#[test]
fn layers_that_are_refused() {
    let new = |dims: &[&str]| rnn(Build::new(17).input("x", dims));
    let simple = |build: Build| build.node("RNN", "x w r b", "y").int("layout", 1);
    let with = |build: Build| refused(&build.output("y"));
    let usual = ["batch", "3", "1"];
    let text = with(simple(new(&["batch", "5000", "1"])));
    assert!(text.contains("its sequence has 5000 steps; supported are from 1 to 2048 for 1 directions"), "{text}");
    let text = with(simple(new(&usual)).float("clip", 3.0));
    assert!(text.contains("its clip is 3"), "{text}");
    let text = with(simple(new(&usual)).int("hidden_size", 1 << 40));
    assert!(text.contains("a hidden_size of 1099511627776"), "{text}");
    let text = with(simple(new(&usual)).text("direction", "up"));
    assert!(text.contains("its direction is \"up\""), "{text}");
    let mut lengths = new(&usual).node("RNN", "x w r b n", "y").int("layout", 1);
    lengths.graph().input.push(value("n", data_type::INT32, &["batch"]));
    let text = with(lengths);
    assert!(text.contains("its sequence_lens are computed at run time"), "{text}");
    let short = new(&usual).ints("n", &[1], &[2]).node("RNN", "x w r b n", "y").int("layout", 1);
    let text = with(short);
    assert!(text.contains("its sequence_lens have 2; supported is the length 3"), "{text}");
    // The sequence would be what varies at run time.
    let text = with(new(&["seq", "1", "1"]).node("RNN", "x w r b", "y"));
    assert!(
        text.contains("its X has shape [rows, 1, 1], and its batch is axis 1") && text.contains("give seq a length"),
        "{text}"
    );
    let text =
        with(Build::new(17).input("x", &usual).input("w", &["1", "1", "1"]).node("RNN", "x w w", "y").int("layout", 1));
    assert!(text.contains("w is computed at run time"), "{text}");
    let lstm = new(&usual).floats("v", &[1, 4, 1], &[0.5; 4]).floats("p", &[1, 3], &[0.5; 3]);
    let text = with(lstm.node("LSTM", "x v v _ _ _ _ p", "y").int("layout", 1));
    assert!(text.contains("its input P has peepholes"), "{text}");
    let mut affine = simple(new(&usual));
    let node = affine.graph().node.last_mut().expect("a node");
    node.attribute.push(super::super::proto::AttributeProto {
        name: "activations".to_owned(),
        strings: vec!["Affine".into()],
        ..Default::default()
    });
    let text = with(affine);
    assert!(text.contains("its activation is Affine; supported are Relu, Sigmoid and Tanh"), "{text}");
}

/// Operators on a value that has the batch at axis 1 compute what they compute with the batch in front.
#[test]
fn operators_on_a_batch_behind_other_axes() {
    let x = tensor(&[2, 3, 4], &(0..24).map(|i| (i as f32 - 11.0) / 8.0).collect::<Vec<_>>());
    let new = || {
        let build = Build::new(17).input("x", &["batch", "3", "4"]).floats("row", &[4], &[1.0, -2.0, 3.0, 0.5]);
        let build = build.floats("column", &[3, 1, 1], &[1.0, 2.0, 3.0]).floats("w", &[4, 2], &[1.0; 8]);
        let build =
            build.ints("one", &[], &[1]).ints("ones", &[1], &[1]).ints("two", &[1], &[2]).ints("three", &[1], &[3]);
        build.ints("zero", &[1], &[0]).ints("split", &[4], &[3, 0, 2, 2]).ints("back", &[3], &[3, 0, 4])
    };
    let behind = || new().node("Transpose", "x", "t").list("perm", &[1, 0, 2]);
    let check = |build: Build, same: Build, dims: &[usize]| {
        let wanted = run(&same.output("y").done(&[]), std::slice::from_ref(&x));
        let wanted = wanted.as_f32().expect("floats").to_vec();
        assert_values(&run(&build.output("y").done(&[]), std::slice::from_ref(&x)), dims, &wanted);
    };
    let back = |build: Build| build.node("Transpose", "u", "y").list("perm", &[1, 0, 2]);
    check(back(behind().node("Relu", "t", "u")), new().node("Relu", "x", "y"), &[2, 3, 4]);
    check(back(behind().node("Add", "t row", "u")), new().node("Add", "x row", "y"), &[2, 3, 4]);
    let same = new().floats("c", &[1, 3, 1], &[1.0, 2.0, 3.0]).node("Mul", "x c", "y");
    check(back(behind().node("Mul", "t column", "u")), same, &[2, 3, 4]);
    check(back(behind().node("Mul", "t t", "u")), new().node("Mul", "x x", "y"), &[2, 3, 4]);
    check(back(behind().node("MatMul", "t w", "u")), new().node("MatMul", "x w", "y"), &[2, 3, 2]);
    check(back(behind().node("Softmax", "t", "u")), new().node("Softmax", "x", "y"), &[2, 3, 4]);
    let axis =
        |build: Build, inputs: &str, output: &str, axis: i64| build.node("Concat", inputs, output).int("axis", axis);
    check(back(axis(behind(), "t t", "u", 0)), axis(new(), "x x", "y", 1), &[2, 6, 4]);
    check(back(axis(behind(), "t t", "u", -1)), axis(new(), "x x", "y", 2), &[2, 3, 8]);
    check(
        back(behind().node("Slice", "t ones three zero", "u")),
        new().node("Slice", "x ones three ones", "y"),
        &[2, 2, 4],
    );
    // One step, and sums over all steps, have the batch in front.
    check(behind().node("Gather", "t one", "y"), new().node("Gather", "x one", "y").int("axis", 1), &[2, 4]);
    let sum = |build: Build, input: &str, axes: &str| {
        build.node("ReduceSum", &format!("{input} {axes}"), "y").int("keepdims", 0)
    };
    check(sum(behind(), "t", "zero"), sum(new(), "x", "ones"), &[2, 4]);
    let reshaped = behind().node("Reshape", "t split", "r").node("Reshape", "r back", "u");
    check(back(reshaped), new().node("Identity", "x", "y"), &[2, 3, 4]);
    let text = refused(&behind().ints("flat", &[2], &[-1, 4]).node("Reshape", "t flat", "y").output("y"));
    assert!(text.contains("it merges the batch with another axis, from [3, rows, 4] to [3·rows, 4]"), "{text}");
    let text = refused(&behind().node("Relu", "t", "y").output("y"));
    assert!(
        text.contains("output y: a value that has the batch at axis 1") && text.contains("give batch a length"),
        "{text}"
    );
    let text = refused(&behind().node("Conv", "t w", "y").output("y"));
    assert!(text.contains("its input t is a value that has the batch at axis 1"), "{text}");
    let text = refused(&behind().node("ReduceSum", "t ones", "y").output("y"));
    assert!(text.contains("it works along the batch"), "{text}");
}

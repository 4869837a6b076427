//! Elements of images at the positions of a grid, and losses of classes.

use super::*;

/// Positions of a grid: x and y of each.
const GRID: [f32; 8] = [0.0, 0.0, -1.0, -1.0, 2.0, 1.0, 0.2, -0.2];

fn sampled(mode: &'static str, padding: &'static str, align_corners: i64, expected: &[f32; 4]) {
    let x = tensor(&[1, 2, 2, 2], &[0.0, 1.0, 10.0, 11.0, 0.0, 2.0, 20.0, 22.0]);
    let grid = tensor(&[1, 2, 2, 2], &GRID);
    let both: Vec<f32> = expected.iter().copied().chain(expected.map(|v| 2.0 * v)).collect();
    let sample = |build: Build| {
        let build = build.node("GridSample", "x g", "y").text("mode", mode).text("padding_mode", padding);
        build.int("align_corners", align_corners).output("y").done(&[])
    };
    for rows in ["batch", "1"] {
        let build = Build::new(20).input("x", &[rows, "2", "2", "2"]).input("g", &[rows, "2", "2", "2"]);
        assert_values(&run(&sample(build), &[x.clone(), grid.clone()]), &[1, 2, 2, 2], &both);
    }
    // Of a known grid, elements and weights are known.
    let known = Build::new(20).input("x", &["1", "2", "2", "2"]).floats("g", &[1, 2, 2, 2], &GRID);
    let graph = sample(known);
    assert_values(&run(&graph, &[x]), &[1, 2, 2, 2], &both);
    let arithmetic = ["floor", "to_integer", "gather_nd", "div"];
    assert!(!ops(&graph).iter().any(|op| arithmetic.contains(op)), "{graph}");
}

#[test]
fn elements_at_the_positions_of_a_grid() {
    sampled("linear", "zeros", 1, &[5.5, 0.0, 5.5, 4.6]);
    sampled("linear", "border", 1, &[5.5, 0.0, 11.0, 4.6]);
    sampled("linear", "reflection", 1, &[5.5, 0.0, 10.5, 4.6]);
    // Half of an element is outside; 2 is a whole element beyond.
    sampled("linear", "zeros", 0, &[5.5, 0.0, 0.0, 3.7]);
    sampled("linear", "border", 0, &[5.5, 0.0, 11.0, 3.7]);
    sampled("linear", "reflection", 0, &[5.5, 0.0, 10.5, 3.7]);
    sampled("nearest", "zeros", 1, &[0.0, 0.0, 0.0, 1.0]);
    sampled("nearest", "border", 1, &[0.0, 0.0, 11.0, 1.0]);
    // The numbers of ONNX Runtime.
    sampled("cubic", "zeros", 1, &[7.755_859_4, 0.0, 5.593_75, 6.277_600_3]);
    sampled("cubic", "border", 1, &[5.5, 0.0, 11.093_75, 4.491_996]);
    sampled("cubic", "reflection", 1, &[5.5, 0.0, 10.5, 4.167_998]);
    sampled("cubic", "zeros", 0, &[7.755_859_4, -0.515_625, -0.603_515_6, 4.738_514_4]);
    sampled("bicubic", "border", 0, &[5.5, -1.031_25, 11.937_5, 3.511]);
    sampled("cubic", "reflection", 0, &[5.5, -2.062_5, 12.375, 3.511]);
    let build = || Build::new(20).input("x", &["batch", "1", "2", "2"]).input("g", &["batch", "1", "2", "2"]);
    for (build, expected) in [
        (
            build().node("GridSample", "x g", "y").text("mode", "spline"),
            "its mode is spline; supported are linear, nearest and cubic",
        ),
        (
            Build::new(20)
                .input("x", &["1", "1", "4"])
                .input("g", &["1", "2", "1"])
                .node("GridSample", "x g", "y")
                .text("mode", "cubic"),
            "its mode is cubic over 1 axes, expected 2",
        ),
        (build().node("GridSample", "x g", "y").text("padding_mode", "wrap"), "its padding_mode is wrap"),
        (
            build().input("h", &["batch", "2", "3"]).node("GridSample", "x h", "y"),
            "its X has shape [rows, 1, 2, 2], and its grid [rows, 2, 3]",
        ),
        (build().floats("h", &[1, 1, 2, 2], &[0.0; 4]).node("GridSample", "x h", "y"), "and its grid [1, 1, 2, 2]"),
    ] {
        let text = build.output("y").import(&[]).expect_err(expected).to_string();
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn losses_of_classes() {
    let logs = [-1.0f32, -2.0, -4.0, -0.5, -3.0, -0.25];
    let classes = Tensor::from_i32(&[2], vec![2, 0]).expect("two");
    let build = || Build::new(13).input("x", &["2", "3"]).ids("c", &["2"]).floats("w", &[3], &[2.0, 1.0, 0.5]);
    let check = |build: Build, dims: &[usize], expected: &[f32]| {
        let graph = build.output("y").done(&[]);
        assert_values(&run(&graph, &[tensor(&[2, 3], &logs), classes.clone()]), dims, expected);
    };
    let loss = |inputs: &str| build().node("NegativeLogLikelihoodLoss", inputs, "y");
    check(loss("x c"), &[], &[2.25]);
    check(loss("x c").text("reduction", "sum"), &[], &[4.5]);
    check(loss("x c").text("reduction", "none"), &[2], &[4.0, 0.5]);
    check(loss("x c w"), &[], &[(0.5 * 4.0 + 2.0 * 0.5) / 2.5]);
    check(loss("x c w").int("ignore_index", 0), &[], &[4.0]);
    check(loss("x c").int("ignore_index", 2), &[], &[0.5]);
    check(loss("x c").int("ignore_index", 2).text("reduction", "none"), &[2], &[0.0, 0.5]);
    // The logarithm of a softmax, which is a second result.
    let softmax = |row: &[f32], class: usize| row[class] - row.iter().map(|v| v.exp()).sum::<f32>().ln();
    let own = [softmax(&logs[..3], 2), softmax(&logs[3..], 0)];
    let cross = build().node("SoftmaxCrossEntropyLoss", "x c", "y z");
    check(cross.clone(), &[], &[-(own[0] + own[1]) / 2.0]);
    let all: Vec<f32> = (0..6).map(|i| softmax(&logs[i / 3 * 3..][..3], i % 3)).collect();
    let both = cross.node("Mul", "z one", "y2").floats("one", &[], &[1.0]).output("y2").done(&[]);
    assert_values(&run(&both, &[tensor(&[2, 3], &logs), classes.clone()]), &[2, 3], &all);
    let text = loss("x c").text("reduction", "most").output("y").import(&[]).expect_err("no reduction").to_string();
    assert!(text.contains("its reduction is most; supported are none, sum and mean"), "{text}");
    let rows = Build::new(13).input("x", &["batch", "3"]).ids("c", &["batch"]);
    let text =
        rows.node("NegativeLogLikelihoodLoss", "x c", "y").output("y").import(&[]).expect_err("rows").to_string();
    assert!(text.contains("along the batch") && text.contains("give batch a length"), "{text}");
}

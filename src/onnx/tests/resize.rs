//! What selects, repeats or mixes the elements along the axes of images.

use super::super::export::{ExportOptions, export};
use super::*;

#[track_caller]
fn check(build: Build, x: &Tensor, dims: &[usize], expected: &[f32]) -> Graph {
    let graph = build.output("y").done(&[]);
    assert_values(&run(&graph, std::slice::from_ref(x)), dims, expected);
    let bytes = export(&graph, &ExportOptions::default()).unwrap_or_else(|e| panic!("{e}\n{graph}"));
    let again = super::super::import(bytes, None, &Default::default()).unwrap_or_else(|e| panic!("{e}\n{graph}"));
    assert_values(&run(&again, std::slice::from_ref(x)), dims, expected);
    assert_eq!(ops(&again), ops(&graph));
    graph
}

/// The positions 0 to 3.
fn line() -> Tensor {
    tensor(&[1, 1, 4], &[0.0, 1.0, 2.0, 3.0])
}

fn to_length(length: i64) -> Build {
    let build = Build::new(19).input("x", &["batch", "1", "4"]).ints("n", &[3], &[1, 1, length]);
    build.ints("a", &[1], &[2]).ints("l", &[1], &[length]).node("Resize", "x _ _ l", "y").list("axes", &[2])
}

/// By a factor, with the batch and the channels among the axes.
fn by_factor(scale: f32) -> Build {
    Build::new(13).input("x", &["batch", "1", "4"]).floats("s", &[3], &[1.0, 1.0, scale]).node("Resize", "x _ s", "y")
}

#[test]
fn nearest_elements() {
    let check = |build: Build, [coordinates, rounding]: [&'static str; 2], expected: &[f32]| {
        let build = build.text("coordinate_transformation_mode", coordinates).text("nearest_mode", rounding);
        let graph = check(build, &line(), &[1, 1, expected.len()], expected);
        // Neighbours are a range.
        let is_range = expected.windows(2).all(|pair| pair[1] == pair[0] + 1.0);
        assert_eq!(ops(&graph), [if is_range { "slice" } else { "index_select" }]);
    };
    // Positions 0, 0.5, 1, …, 3.5.
    check(to_length(8), ["asymmetric", "floor"], &[0., 0., 1., 1., 2., 2., 3., 3.]);
    check(to_length(8), ["asymmetric", "round_prefer_floor"], &[0., 0., 1., 1., 2., 2., 3., 3.]);
    check(to_length(8), ["asymmetric", "round_prefer_ceil"], &[0., 1., 1., 2., 2., 3., 3., 3.]);
    check(to_length(8), ["asymmetric", "ceil"], &[0., 1., 1., 2., 2., 3., 3., 3.]);
    check(by_factor(2.0), ["asymmetric", "floor"], &[0., 0., 1., 1., 2., 2., 3., 3.]);
    // −0.25, 0.25, 0.75, …, 3.25.
    check(by_factor(2.0), ["half_pixel", "round_prefer_floor"], &[0., 0., 1., 1., 2., 2., 3., 3.]);
    check(by_factor(2.0), ["half_pixel", "ceil"], &[0., 1., 1., 2., 2., 3., 3., 3.]);
    // 0.5 and 2.5.
    check(to_length(2), ["half_pixel", "round_prefer_floor"], &[0., 2.]);
    check(to_length(2), ["half_pixel", "round_prefer_ceil"], &[1., 3.]);
    check(to_length(1), ["half_pixel", "floor"], &[1.]);
    check(to_length(1), ["pytorch_half_pixel", "ceil"], &[0.]);
    // 1 / (2 / 14) is less than 7 in f32. ONNX Runtime takes element 6 too.
    let build = Build::new(19).input("x", &["batch", "1", "14"]).ints("n", &[1], &[2]);
    let build = build.node("Resize", "x _ _ n", "y").list("axes", &[2]);
    let build = build.text("coordinate_transformation_mode", "asymmetric");
    let x = tensor(&[1, 1, 14], &std::array::from_fn::<f32, 14, _>(|i| i as f32));
    super::resize::check(build.text("nearest_mode", "floor"), &x, &[1, 1, 2], &[0., 6.]);
    // 0, 0.5, …, 3.
    check(to_length(7), ["align_corners", "floor"], &[0., 0., 1., 1., 2., 2., 3.]);
    check(to_length(1), ["align_corners", "floor"], &[0.]);
    // 2.4 elements of 4, of which 2 are left: 0.33 and 2; with an offset of 2 · (1 − 2 / 2.4) = 0.33, 0.67 and 2.33.
    check(by_factor(0.6), ["half_pixel", "ceil"], &[1., 2.]);
    check(by_factor(0.6), ["half_pixel_symmetric", "ceil"], &[1., 3.]);
    // To at most 3 by 6, an image of 2 by 3 grows by 1.5; to at least that, by 2.
    for (policy, dims) in [("not_larger", [1, 1, 3, 5]), ("not_smaller", [1, 1, 4, 6])] {
        let sizes = Build::new(18).input("x", &["batch", "1", "2", "3"]).ints("n", &[2], &[3, 6]);
        let sizes = sizes.node("Resize", "x _ _ n", "y").list("axes", &[2, 3]).text("nearest_mode", "floor");
        let sizes = sizes.text("coordinate_transformation_mode", "asymmetric").text("keep_aspect_ratio_policy", policy);
        let x = tensor(&[1, 1, 2, 3], &[0.0, 1.0, 2.0, 10.0, 11.0, 12.0]);
        let scale = dims[2] as f32 / 2.0;
        let value = |i: usize| 10.0 * ((i / dims[3]) as f32 / scale).floor() + ((i % dims[3]) as f32 / scale).floor();
        let expected: Vec<f32> = (0..dims[2] * dims[3]).map(value).collect();
        super::resize::check(sizes, &x, &dims, &expected);
    }
    // A third of 3 is 1, in the floats of a file too.
    let thirds = Build::new(13).input("x", &["batch", "1", "1", "2"]).floats("s", &[4], &[1.0, 1.0, 3.0, 0.5]);
    let thirds = thirds.node("Resize", "x _ s", "y").text("coordinate_transformation_mode", "asymmetric");
    let x = tensor(&[1, 1, 1, 2], &[5.0, 7.0]);
    super::resize::check(thirds, &x, &[1, 1, 3, 1], &[5.0; 3]);
    let old = Build::new(11).input("x", &["batch", "1", "2"]).floats("s", &[3], &[1.0, 1.0, 2.0]);
    let (x, expected) = (tensor(&[1, 1, 2], &[5., 7.]), [5., 5., 7., 7.]);
    super::resize::check(old.node("Upsample", "x s", "y"), &x, &[1, 1, 4], &expected);
    // Opset 10 has the rules of `Upsample`, opset 7 the scales as an attribute.
    let ten = Build::new(10).input("x", &["batch", "1", "2"]).floats("s", &[3], &[1.0, 1.0, 2.0]);
    super::resize::check(ten.node("Resize", "x s", "y"), &x, &[1, 1, 4], &expected);
    let seven = Build::new(7).input("x", &["batch", "1", "2"]).node("Upsample", "x", "y");
    super::resize::check(seven.float_list("scales", &[1.0, 1.0, 2.0]), &x, &[1, 1, 4], &expected);
    // It takes the next element where an axis shrinks: ONNX's own example.
    let shrinks = Build::new(10).input("x", &["batch", "1", "2", "4"]).floats("s", &[4], &[1.0, 1.0, 0.6, 0.6]);
    let x = tensor(&[1, 1, 2, 4], &[1., 2., 3., 4., 5., 6., 7., 8.]);
    super::resize::check(shrinks.node("Resize", "x s", "y"), &x, &[1, 1, 1, 2], &[1., 3.]);
    // (o + 0.5) / 1.5, rounded down.
    check(to_length(6), ["tf_half_pixel_for_nn", "floor"], &[0., 1., 1., 2., 3., 3.]);
}

/// The value of an element is its position, so that a weighted sum is the position that it stands for.
#[test]
fn interpolation() {
    let check = |build: Build, coordinates: &'static str, expected: &[f32]| {
        let build = build.text("mode", "linear").text("coordinate_transformation_mode", coordinates);
        check(build, &line(), &[1, 1, expected.len()], expected)
    };
    check(to_length(8), "half_pixel", &[0.0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.0]);
    check(by_factor(2.0), "asymmetric", &[0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.0]);
    check(to_length(5), "align_corners", &[0.0, 0.75, 1.5, 2.25, 3.0]);
    check(to_length(1), "pytorch_half_pixel", &[0.0]);
    check(to_length(1), "half_pixel", &[1.5]);
    check(by_factor(0.6), "half_pixel_symmetric", &[2.0 / 3.0, 7.0 / 3.0]);
    // Whole positions need no sum.
    assert_eq!(ops(&check(to_length(2), "asymmetric", &[0.0, 2.0])), ["index_select"]);
    // In two dimensions: 10 times the row plus the column.
    let x = tensor(&[1, 1, 2, 3], &[0.0, 1.0, 2.0, 10.0, 11.0, 12.0]);
    let build = Build::new(13).input("x", &["batch", "1", "2", "3"]).ints("n", &[4], &[1, 1, 3, 2]);
    let build = build.node("Shape", "x", "s").ints("from", &[1], &[0]).ints("to", &[1], &[2]);
    // The sizes of batch and channels are those of the input.
    let build =
        build.node("Slice", "s from to", "front").ints("back", &[2], &[3, 2]).node("Concat", "front back", "sizes");
    let build = build.int("axis", 0).node("Resize", "x _ _ sizes", "y").text("mode", "linear");
    let graph = build.text("coordinate_transformation_mode", "align_corners").output("y").done(&[]);
    assert_values(&run(&graph, &[x]), &[1, 1, 3, 2], &[0.0, 2.0, 5.0, 7.0, 10.0, 12.0]);
}

/// Of ONNX's own examples, and the weights of `filter`.
#[test]
fn weighted_sums() {
    // Half a step from the last of the positions 0 to 3, which are a straight line but for its ends.
    let cubic = |build: Build| build.text("mode", "cubic").text("coordinate_transformation_mode", "asymmetric");
    let half = [-0.09375f32, 0.59375];
    let ends = half[0] * 2.0 + half[1];
    let expected = [0.0, ends, 1.0, 1.5, 2.0, 3.0 - ends, 3.0, 3.09375];
    let graph = check(cubic(by_factor(2.0)), &line(), &[1, 1, 8], &expected);
    assert_eq!(ops(&graph).iter().filter(|op| **op == "index_select").count(), 4, "{graph}");
    let x = tensor(&[1, 1, 4], &[1.0, 2.0, 3.0, 4.0]);
    let down = |build: Build| build.text("mode", "linear").int("antialias", 1);
    check(down(to_length(2)), &x, &[1, 1, 2], &[1.625, 3.375]);
    // It changes nothing where an axis grows.
    let grown = down(to_length(8)).output("y").done(&[]);
    let plain = to_length(8).text("mode", "linear").output("y").done(&[]);
    assert_eq!(run(&grown, std::slice::from_ref(&x)), run(&plain, &[x]));
}

#[test]
fn padding_in_every_mode() {
    let x = tensor(&[1, 2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let pad = |mode: &'static str, pads: &[i64; 6]| {
        let build = Build::new(19).input("x", &["batch", "2", "3"]).ints("p", &[6], pads);
        build.node("Pad", "x p", "y").text("mode", mode)
    };
    let sides = [0, 0, 2, 0, 0, 1];
    check(pad("edge", &sides), &x, &[1, 2, 6], &[1., 1., 1., 2., 3., 3., 4., 4., 4., 5., 6., 6.]);
    check(pad("reflect", &sides), &x, &[1, 2, 6], &[3., 2., 1., 2., 3., 2., 6., 5., 4., 5., 6., 5.]);
    check(pad("wrap", &sides), &x, &[1, 2, 6], &[2., 3., 1., 2., 3., 1., 5., 6., 4., 5., 6., 4.]);
    check(pad("constant", &sides), &x, &[1, 2, 6], &[0., 0., 1., 2., 3., 0., 0., 0., 4., 5., 6., 0.]);
    // Two axes, of which one loses an element first.
    check(pad("edge", &[0, 1, 0, 0, 0, -1]), &x, &[1, 3, 2], &[1., 2., 1., 2., 4., 5.]);
}

#[test]
fn blocks_and_channels() {
    let x = tensor(&[1, 8, 1, 1], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
    let blocks = |op: &str| Build::new(13).input("x", &["batch", "8", "1", "1"]).node(op, "x", "y").int("blocksize", 2);
    check(blocks("DepthToSpace"), &x, &[1, 2, 2, 2], &[0., 2., 4., 6., 1., 3., 5., 7.]);
    check(blocks("DepthToSpace").text("mode", "CRD"), &x, &[1, 2, 2, 2], &[0., 1., 2., 3., 4., 5., 6., 7.]);
    let x = tensor(&[1, 2, 2, 2], &[0., 2., 4., 6., 1., 3., 5., 7.]);
    let back = Build::new(13).input("x", &["batch", "2", "2", "2"]).node("SpaceToDepth", "x", "y").int("blocksize", 2);
    check(back, &x, &[1, 8, 1, 1], &[0., 1., 2., 3., 4., 5., 6., 7.]);
}

#[test]
fn selected_channels() {
    let x = tensor(&[1, 3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let build = Build::new(13).input("x", &["batch", "3", "2"]).ints("i", &[3], &[2, 0, -1]);
    let graph = check(build.node("Gather", "x i", "y").int("axis", 1), &x, &[1, 3, 2], &[5., 6., 1., 2., 5., 6.]);
    assert_eq!(ops(&graph), ["index_select"]);
    // Every second element from the last, and every second one from the first.
    let build = Build::new(13).input("x", &["batch", "3", "2"]).ints("from", &[2], &[-1, 0]).ints("a", &[2], &[1, 2]);
    let build = build.ints("to", &[2], &[i64::MIN, i64::MAX]).ints("by", &[2], &[-2, 2]);
    check(build.node("Slice", "x from to a by", "y"), &x, &[1, 2, 1], &[5.0, 1.0]);
    // Until opset 9, all are attributes.
    let old = Build::new(9).input("x", &["batch", "3", "2"]).node("Slice", "x", "y").list("axes", &[1, 2]);
    check(old.list("starts", &[-2, 0]).list("ends", &[9999, 1]), &x, &[1, 2, 1], &[3.0, 5.0]);
}

#[test]
fn what_is_refused() {
    let refused = |build: Build, expected: &str| {
        let e = build.named("n").output("y").import(&[]).expect_err(expected).to_string();
        assert!(e.contains("\n  n (") && e.contains(expected), "{e}, not {expected}");
    };
    refused(to_length(8).text("mode", "quintic"), "its mode is quintic; supported are nearest, linear and cubic");
    let mode = "coordinate_transformation_mode";
    refused(to_length(8).text(mode, "tf_crop_and_resize"), "its coordinate_transformation_mode is tf_crop_and_resize");
    refused(to_length(8).text("nearest_mode", "up"), "its nearest_mode is up; supported are");
    let twice = Build::new(19).input("x", &["batch", "4"]).ints("l", &[2], &[8, 8]).node("Resize", "x _ _ l", "y");
    refused(twice.list("axes", &[1, -1]), "it resizes axis 1 twice");
    refused(to_length(0), "it makes 0 of 4 elements");
    refused(to_length(-3), "it makes -3 of 4 elements");
    refused(by_factor(0.2), "its scale 0.2 makes 0 of 4 elements");
    refused(by_factor(f32::NAN), "its scale NaN makes NaN of 4 elements");
    refused(by_factor(0.6).text(mode, "align_corners"), "its scale makes 2.400 of 4 elements, of which it has 2");
    let long = Build::new(19).input("x", &["batch", "400"]).ints("l", &[1], &[4]).node("Resize", "x _ _ l", "y");
    let long = long.list("axes", &[1]).text("mode", "cubic").int("antialias", 1);
    refused(long, "its filter spans 400 elements; supported are 64");
    refused(to_length(2).text("keep_aspect_ratio_policy", "any"), "its keep_aspect_ratio_policy is any; supported are");
    let quantized =
        Build::new(13).input("x", &["batch", "4"]).floats("s", &[], &[0.5]).node("QuantizeLinear", "x s", "q");
    let padded = quantized.ints("p", &[4], &[0, 1, 0, 1]).node("Pad", "q p", "y");
    refused(padded, "it pads quantized values with a constant");
    for length in [1 << 23, 1 << 24, i64::MAX, i64::MIN] {
        // The indices would take 16 bytes each at most, or the length is none.
        let refused = ["nearest", "linear"].map(|mode| to_length(length).text("mode", mode).output("y").import(&[]));
        assert!(refused.iter().all(Result::is_err), "{length}");
    }
    let new = || Build::new(13).input("x", &["batch", "1", "4"]);
    refused(new().floats("s", &[3], &[2.0, 1.0, 1.0]).node("Resize", "x _ s", "y"), "it resizes the batch");
    refused(new().floats("s", &[2], &[1.0, 1.0]).node("Resize", "x _ s", "y"), "it has 2 scales for 3 axes");
    refused(new().node("Resize", "x", "y"), "it has not exactly one of scales and sizes");
    let pad =
        |mode: &'static str, pads: &[i64; 6]| new().ints("p", &[6], pads).node("Pad", "x p", "y").text("mode", mode);
    refused(pad("reflect", &[0, 0, 4, 0, 0, 0]), "it reflects 4 elements of an axis of 4");
    refused(pad("edge", &[0, 0, -4, 0, 0, 1]), "axis of");
    refused(pad("edge", &[1, 0, 0, 0, 0, 0]), "batch");
    refused(pad("edge", &[0, 0, i64::MAX, 0, 0, i64::MAX]), "would exceed");
    refused(pad("mirror", &[0; 6]), "its mode is mirror; supported are constant, edge, reflect and wrap");
}

//! Convolutions and pools, and what moves or normalizes the elements of images.

use super::super::build::small;
use super::super::export::{ExportOptions, export};
use super::super::proto::data_type as ty;
use super::super::{ImportOptions, import};
use super::*;

/// Small whole numbers, of which some are negative.
fn numbers(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7 + 3) % 11) as f32 - 5.0).collect()
}

fn filled(dims: &[usize]) -> Tensor {
    tensor(dims, &numbers(dims.iter().product()))
}

/// The attributes of a window over two axes; of one axis, the first is 1 long.
#[derive(Clone, Copy)]
struct Naive {
    strides: [usize; 2],
    dilations: [usize; 2],
    /// Top, left, bottom, right.
    pads: [i64; 4],
    groups: usize,
}

const PLAIN: Naive = Naive { strides: [1; 2], dilations: [1; 2], pads: [0; 4], groups: 1 };

/// A tensor of four axes as a function of its indices.
fn at(tensor: &Tensor, [a, b, c, d]: [usize; 4]) -> f32 {
    let dims = tensor.shape();
    tensor.as_f32().expect("floats")[((a * dims[1] + b) * dims[2] + c) * dims[3] + d]
}

/// A convolution by its definition, with the bias `n / 2` for output `n`.
fn convolved(x: &Tensor, w: &Tensor, naive: Naive) -> Tensor {
    let (xs, ws) = (x.shape().to_vec(), w.shape().to_vec());
    let length = |i: usize| {
        let padded = xs[2 + i] as i64 + naive.pads[i] + naive.pads[2 + i];
        ((padded - ((ws[2 + i] - 1) * naive.dilations[i]) as i64 - 1) / naive.strides[i] as i64 + 1) as usize
    };
    let dims = [xs[0], ws[0], length(0), length(1)];
    let mut y = Vec::new();
    for (row, n, i, j) in places(dims) {
        let mut sum = n as f32 / 2.0;
        for (_, c, u, v) in places([1, ws[1], ws[2], ws[3]]) {
            let r = (i * naive.strides[0] + u * naive.dilations[0]) as i64 - naive.pads[0];
            let s = (j * naive.strides[1] + v * naive.dilations[1]) as i64 - naive.pads[1];
            if (0..xs[2] as i64).contains(&r) && (0..xs[3] as i64).contains(&s) {
                let channel = n / (ws[0] / naive.groups) * ws[1] + c;
                sum += at(x, [row, channel, r as usize, s as usize]) * at(w, [n, c, u, v]);
            }
        }
        y.push(sum);
    }
    tensor(&dims, &y)
}

/// A transposed convolution by its definition, without bias: each element is added to the outputs under its window.
fn scattered(x: &Tensor, w: &Tensor, naive: Naive, output_padding: [usize; 2]) -> Tensor {
    let (xs, ws) = (x.shape().to_vec(), w.shape().to_vec());
    let length = |i: usize| {
        let whole = (xs[2 + i] - 1) * naive.strides[i] + (ws[2 + i] - 1) * naive.dilations[i] + 1 + output_padding[i];
        (whole as i64 - naive.pads[i] - naive.pads[2 + i]) as usize
    };
    let dims = [xs[0], ws[1] * naive.groups, length(0), length(1)];
    let mut y = vec![0.0; dims.iter().product()];
    for (row, c, r, s) in places([xs[0], xs[1], xs[2], xs[3]]) {
        for (_, n, u, v) in places([1, ws[1], ws[2], ws[3]]) {
            let i = (r * naive.strides[0] + u * naive.dilations[0]) as i64 - naive.pads[0];
            let j = (s * naive.strides[1] + v * naive.dilations[1]) as i64 - naive.pads[1];
            if (0..dims[2] as i64).contains(&i) && (0..dims[3] as i64).contains(&j) {
                let output = c / (xs[1] / naive.groups) * ws[1] + n;
                let place = ((row * dims[1] + output) * dims[2] + i as usize) * dims[3] + j as usize;
                y[place] += at(x, [row, c, r, s]) * at(w, [c, n, u, v]);
            }
        }
    }
    tensor(&dims, &y)
}

fn places([a, b, c, d]: [usize; 4]) -> impl Iterator<Item = (usize, usize, usize, usize)> {
    (0..a * b * c * d).map(move |i| (i / (b * c * d), i / (c * d) % b, i / d % c, i % d))
}

/// The graph, after an export and an import, too.
fn round_trip(graph: &Graph) -> Graph {
    let bytes = export(graph, &ExportOptions::default()).unwrap_or_else(|e| panic!("{e}\n{graph}"));
    import(bytes, None, &ImportOptions::default()).unwrap_or_else(|e| panic!("{e}\n{graph}"))
}

/// Checks the only output, also after an export and an import, which keep the operators.
#[track_caller]
fn check(build: Build, x: &Tensor, dims: &[usize], expected: &[f32]) -> Graph {
    let graph = build.output("y").done(&[]);
    assert_values(&run(&graph, std::slice::from_ref(x)), dims, expected);
    let again = round_trip(&graph);
    assert_values(&run(&again, std::slice::from_ref(x)), dims, expected);
    assert_eq!(ops(&again), ops(&graph));
    graph
}

#[track_caller]
fn check_same(build: Build, x: &Tensor, expected: &Tensor) -> Graph {
    check(build, x, expected.shape(), expected.as_f32().expect("floats"))
}

/// An input `x` of the shape of a tensor, whose first axis is the batch.
fn input(x: &Tensor) -> Build {
    let dims: Vec<String> = x.shape()[1..].iter().map(ToString::to_string).collect();
    let dims: Vec<&str> = std::iter::once("batch").chain(dims.iter().map(String::as_str)).collect();
    Build::new(17).input("x", &dims)
}

fn dims(tensor: &Tensor) -> Vec<i64> {
    tensor.shape().iter().map(|&d| d as i64).collect()
}

fn weighted(x: &Tensor, w: &Tensor, outputs: usize) -> Build {
    let bias: Vec<f32> = (0..outputs).map(|n| n as f32 / 2.0).collect();
    input(x).floats("m.weight", &dims(w), w.as_f32().expect("floats")).floats("m.bias", &[outputs as i64], &bias)
}

#[test]
fn convolutions_of_images() {
    let (x, w) = (filled(&[2, 4, 5, 6]), filled(&[6, 2, 2, 3]));
    let new = || weighted(&x, &w, 6).node("Conv", "x m.weight m.bias", "y").int("group", 2);
    let naive = Naive { groups: 2, ..PLAIN };
    let graph = check_same(new(), &x, &convolved(&x, &w, naive));
    assert_eq!(ops(&graph), ["conv"]);
    assert!(graph.find("m").is_some() && graph.find("m.weight").is_some() && graph.find("m.bias").is_some(), "{graph}");
    let pads = [1, 0, 2, 3];
    let uneven = Naive { strides: [2, 1], dilations: [1, 2], pads, groups: 2 };
    let build = new().list("strides", &[2, 1]).list("dilations", &[1, 2]).list("pads", &pads);
    check_same(build.list("kernel_shape", &[2, 3]), &x, &convolved(&x, &w, uneven));
    // 5 rows by steps of 2 are 3 outputs, over (3 − 1)·2 + 2 = 6; 6 columns by steps of 1 are 6, over 5 + 5 = 10.
    for (auto_pad, pads) in
        [("VALID", [0; 4]), ("SAME_UPPER", [0, 2, 1, 2]), ("SAME_LOWER", [1, 2, 0, 2]), ("NOTSET", [0; 4])]
    {
        let build = new().list("strides", &[2, 1]).list("dilations", &[1, 2]).text("auto_pad", auto_pad);
        check_same(build, &x, &convolved(&x, &w, Naive { pads, ..uneven }));
    }
}

#[test]
fn convolutions_of_lines() {
    let (x, w) = (filled(&[2, 3, 7]), filled(&[2, 3, 3]));
    let flat = |t: &Tensor| tensor(&[t.shape()[0], t.shape()[1], 1, t.shape()[2]], t.as_f32().expect("floats"));
    let build = weighted(&x, &w, 2).node("Conv", "x m.weight m.bias", "y").list("strides", &[2]).list("pads", &[2, 1]);
    let expected = convolved(&flat(&x), &flat(&w), Naive { strides: [1, 2], pads: [0, 2, 0, 1], ..PLAIN });
    check(build, &x, &[2, 2, 4], expected.as_f32().expect("floats"));
    // Without bias, and all lengths known.
    let build = Build::new(11).input("x", &["1", "1", "3"]).floats("w", &[1, 1, 2], &[1.0, -2.0]);
    check(build.node("Conv", "x w", "y"), &tensor(&[1, 1, 3], &[1.0, 2.0, 4.0]), &[1, 1, 2], &[-3.0, -6.0]);
}

#[test]
fn transposed_convolutions() {
    let (x, w) = (filled(&[2, 4, 3, 2]), filled(&[4, 3, 2, 3]));
    let new = || input(&x).floats("w", &dims(&w), w.as_f32().expect("floats")).node("ConvTranspose", "x w", "y");
    let pads = [1, 0, 0, 2];
    let naive = Naive { strides: [2, 3], dilations: [1, 2], pads, groups: 2 };
    let build = new().list("strides", &[2, 3]).list("dilations", &[1, 2]).list("pads", &pads).int("group", 2);
    let graph = check_same(build.list("output_padding", &[1, 2]), &x, &scattered(&x, &w, naive, [1, 2]));
    assert_eq!(ops(&graph), ["conv_transpose"]);
    // 1 and 2 under [1, 10, 100] by steps of 2 are [1, 10, 102, 20, 200].
    let x = tensor(&[1, 1, 2], &[1.0, 2.0]);
    let line = |b: Build| b.floats("w", &[1, 1, 3], &[1.0, 10.0, 100.0]).node("ConvTranspose", "x w", "y");
    let line = || line(input(&x)).list("strides", &[2]);
    check(line(), &x, &[1, 1, 5], &[1.0, 10.0, 102.0, 20.0, 200.0]);
    check(line().list("output_shape", &[4]), &x, &[1, 1, 4], &[10.0, 102.0, 20.0, 200.0]);
    let upper = line().text("auto_pad", "SAME_UPPER");
    check(upper.clone().list("output_shape", &[3]), &x, &[1, 1, 3], &[10.0, 102.0, 20.0]);
    check(line().list("output_shape", &[6]), &x, &[1, 1, 6], &[1.0, 10.0, 102.0, 20.0, 200.0, 0.0]);
    check(upper, &x, &[1, 1, 4], &[1.0, 10.0, 102.0, 20.0]);
    check(line().text("auto_pad", "SAME_LOWER"), &x, &[1, 1, 4], &[10.0, 102.0, 20.0, 200.0]);
    check(line().text("auto_pad", "VALID"), &x, &[1, 1, 5], &[1.0, 10.0, 102.0, 20.0, 200.0]);
}

#[test]
fn pools() {
    let x = tensor(&[1, 1, 5], &[1.0, 5.0, 2.0, 8.0, 4.0]);
    let pool = |op: &str, size: i64| input(&x).node(op, "x", "y").list("kernel_shape", &[size]);
    let max = |size| pool("MaxPool", size);
    check(max(2), &x, &[1, 1, 4], &[5.0, 5.0, 8.0, 8.0]);
    check(max(2).list("strides", &[2]), &x, &[1, 1, 2], &[5.0, 8.0]);
    check(max(2).list("strides", &[2]).int("ceil_mode", 1), &x, &[1, 1, 3], &[5.0, 8.0, 4.0]);
    check(max(2).list("dilations", &[3]), &x, &[1, 1, 2], &[8.0, 5.0]);
    check(max(3).list("pads", &[2, 0]), &x, &[1, 1, 5], &[1.0, 5.0, 5.0, 8.0, 8.0]);
    check(max(2).text("auto_pad", "SAME_UPPER"), &x, &[1, 1, 5], &[5.0, 5.0, 8.0, 8.0, 4.0]);
    check(max(2).text("auto_pad", "SAME_LOWER"), &x, &[1, 1, 5], &[1.0, 5.0, 5.0, 8.0, 8.0]);
    let mean = |size| pool("AveragePool", size);
    check(mean(2), &x, &[1, 1, 4], &[3.0, 3.5, 5.0, 6.0]);
    check(mean(2).list("pads", &[1, 1]).list("strides", &[3]), &x, &[1, 1, 2], &[1.0, 5.0]);
    let counted = mean(2).list("pads", &[1, 1]).list("strides", &[3]).int("count_include_pad", 1);
    check(counted, &x, &[1, 1, 2], &[0.5, 5.0]);
    check(mean(2).list("strides", &[2]).int("ceil_mode", 1), &x, &[1, 1, 3], &[3.0, 5.0, 4.0]);
    let image = tensor(&[1, 2, 2, 2], &[1.0, 2.0, 3.0, 4.0, -1.0, -2.0, -3.0, -6.0]);
    let global = |op: &str| input(&image).node(op, "x", "y");
    let graph = check(global("GlobalAveragePool"), &image, &[1, 2, 1, 1], &[2.5, -3.0]);
    assert_eq!(ops(&graph), ["adaptive_average_pool"]);
    check(global("GlobalMaxPool"), &image, &[1, 2, 1, 1], &[4.0, -1.0]);
    let mean = || global("ReduceMean").list("axes", &[2, 3]);
    assert_eq!(ops(&check(mean(), &image, &[1, 2, 1, 1], &[2.5, -3.0])), ["adaptive_average_pool"]);
    let graph = check(mean().int("keepdims", 0), &image, &[1, 2], &[2.5, -3.0]);
    assert_eq!(ops(&graph), ["adaptive_average_pool", "reshape"]);
    // Along one axis, and along channels too, a mean is not over an image.
    let graph = check(global("ReduceMean").list("axes", &[3]), &image, &[1, 2, 2, 1], &[1.5, 3.5, -1.5, -4.5]);
    assert_eq!(ops(&graph).iter().find(|op| **op == "adaptive_average_pool"), None);
    let graph = check(global("ReduceMean").list("axes", &[1, 2, 3]), &image, &[1, 1, 1, 1], &[-0.25]);
    assert_eq!(ops(&graph).iter().find(|op| **op == "adaptive_average_pool"), None);
    let two = global("AveragePool").list("kernel_shape", &[2, 1]);
    check(two, &image, &[1, 2, 1, 2], &[2.0, 3.0, -2.0, -4.0]);
}

/// An adaptive pool whose windows are of one size is an average pool in a file.
#[test]
fn adaptive_pools_are_exported_if_their_windows_are_of_one_size() {
    use crate::graph::GraphBuilder;
    use crate::ops::AveragePool;
    use crate::values::Shape;
    let graph = |width, output: &[usize]| {
        let mut g = GraphBuilder::new();
        let x = g.input("x", Shape::batched(&[1, 2, width])).expect("an input");
        let y = g.average_pool("y", x, AveragePool::adaptive(output)).expect("a pool");
        g.finish([y]).expect("a graph")
    };
    let even = graph(6, &[1, 3]);
    let again = round_trip(&even);
    assert_eq!(ops(&again), ["average_pool"]);
    let x = filled(&[2, 1, 2, 6]);
    assert_eq!(run(&again, std::slice::from_ref(&x)), run(&even, &[x]));
    let e = export(&graph(7, &[1, 3]), &ExportOptions::default()).expect_err("windows of 3 and of 2");
    let expected = "y (adaptive_average_pool): it averages 7 elements to 3, by windows of several lengths; in ONNX all have the \
                    same";
    assert!(e.to_string().ends_with(expected), "{e}");
}

/// The order of quantized values is that of the floats that they stand for, so that a pool may stand before the dequantization.
#[test]
fn pools_of_quantized_values() {
    for (data_type, zero_point) in [(ty::UINT8, 128), (ty::INT8, 0)] {
        let build = Build::new(17)
            .input("x", &["batch", "1", "3"])
            .floats("s", &[], &[0.5])
            .store(small("z", data_type, &[], &[zero_point]))
            .node("QuantizeLinear", "x s z", "q")
            .node("MaxPool", "q", "p")
            .list("kernel_shape", &[2])
            .node("DequantizeLinear", "p s z", "y")
            .output("y");
        let graph = build.done(&[]);
        assert_eq!(ops(&graph), ["quantize_per_tensor", "max_pool", "dequantize_per_tensor"]);
        assert_values(&run(&graph, &[tensor(&[1, 1, 3], &[-1.1, -2.0, 3.2])]), &[1, 1, 2], &[-1.0, 3.0]);
    }
}

#[test]
fn normalizations_of_images() {
    let x = filled(&[2, 4, 3, 2]);
    let (scale, bias) = ([1.0, 2.0, -1.0, 0.5], [0.0, 1.0, -2.0, 3.0]);
    // Groups of so many channels, with the scale and bias of a channel.
    let expected = |each: usize, of: &dyn Fn(usize) -> usize| {
        let group = |(at, values): (usize, &[f32])| {
            let n = values.len() as f32;
            let mean = values.iter().sum::<f32>() / n;
            let variance = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>() / n;
            let y = |(i, v): (usize, &f32)| {
                let channel = of((at * each + i / 6) % 4);
                (v - mean) / (variance + 0.5).sqrt() * scale[channel] + bias[channel]
            };
            values.iter().enumerate().map(y).collect::<Vec<f32>>()
        };
        let groups: Vec<f32> = x.as_f32().expect("floats").chunks(each * 6).enumerate().flat_map(group).collect();
        tensor(&[2, 4, 3, 2], &groups)
    };
    let new = |opset, count: usize| {
        let mut build = input(&x).floats("n.weight", &[count as i64], &scale[..count]);
        build.model.opset_import[0].version = opset;
        build.floats("n.bias", &[count as i64], &bias[..count])
    };
    let instance = new(17, 4).node("InstanceNormalization", "x n.weight n.bias", "y").float("epsilon", 0.5);
    let graph = check_same(instance, &x, &expected(1, &|channel| channel));
    assert!(graph.find("n").is_some(), "{graph}");
    let group = |opset, count| {
        let build = new(opset, count).node("GroupNormalization", "x n.weight n.bias", "y");
        build.float("epsilon", 0.5).int("num_groups", 2)
    };
    check_same(group(21, 4), &x, &expected(2, &|channel| channel));
    // In opset 18, there is a scale for each group.
    check_same(group(18, 2), &x, &expected(2, &|channel| channel / 2));
    let floats = x.as_f32().expect("floats");
    let response = |i: usize| {
        let (row, channel, pixel) = (i / 24, i / 6 % 4, i % 6);
        // Two channels: this one and the next.
        let sum: f32 = (channel..4.min(channel + 2)).map(|c| floats[row * 24 + c * 6 + pixel].powi(2)).sum();
        floats[i] / (2.0 + 0.5 / 2.0 * sum).powf(0.75)
    };
    let lrn = input(&x).node("LRN", "x", "y").int("size", 2).float("alpha", 0.5).float("bias", 2.0);
    check_same(lrn, &x, &tensor(&[2, 4, 3, 2], &(0..48).map(response).collect::<Vec<f32>>()));
    let slopes = input(&x).floats("s", &[4, 1, 1], &[0.5, 0.0, -1.0, 2.0]).node("PRelu", "x s", "y");
    let sloped = |i: usize| if floats[i] < 0.0 { floats[i] * [0.5, 0.0, -1.0, 2.0][i / 6 % 4] } else { floats[i] };
    check_same(slopes, &x, &tensor(&[2, 4, 3, 2], &(0..48).map(sloped).collect::<Vec<f32>>()));
}

/// Errors name the node, what it has, and what is expected.
#[test]
fn what_is_refused() {
    let refused = |build: Build, expected: &str| {
        let e = build.output("y").import(&[]).expect_err(expected).to_string();
        let text = e.strip_prefix("1 node cannot be imported:\n  ").unwrap_or_else(|| panic!("{e}"));
        assert!(text.starts_with("n (") && text.contains(expected), "{text}, not {expected}");
    };
    let new = || Build::new(19).input("x", &["batch", "4", "5", "6"]);
    let conv = |op: &str, dims: &[i64]| {
        new().floats("w", dims, &vec![1.0; dims.iter().product::<i64>() as usize]).node(op, "x w", "y").named("n")
    };
    let kernel = || conv("Conv", &[2, 4, 2, 3]);
    refused(conv("Conv", &[2, 4, 2, 7]), "over 7 elements, of an image of 6, 6 with padding,");
    refused(kernel().list("strides", &[0, 1]), "attribute strides is [0, 1], expected 2 numbers from 1");
    refused(kernel().list("dilations", &[1]), "attribute dilations is [1], expected 2 numbers from 1");
    refused(kernel().list("pads", &[0, -1, 0, 0]), "attribute pads is [0, -1, 0, 0], expected 4 numbers from 0");
    refused(kernel().list("kernel_shape", &[2, 2]), "its kernel_shape is [2, 2], that of its weight [2, 3]");
    refused(kernel().int("group", 3), "3 for 4 input channels");
    refused(kernel().int("group", -1), "its number of groups is -1");
    refused(kernel().text("auto_pad", "ROUND"), "its auto_pad is ROUND; supported are NOTSET");
    refused(conv("Conv", &[2, 3, 2, 3]), "4");
    refused(conv("Conv", &[2, 4, 2]), "its weight [2, 4, 2] has 3 axes, expected 4");
    let deep = Build::new(17).input("x", &["batch", "1", "2", "2", "2"]).floats("w", &[1, 1, 1, 1, 1], &[1.0]);
    refused(deep.node("Conv", "x w", "y").named("n"), "its image [rows, 1, 2, 2, 2] has 5 axes, expected 3 or 4");
    let transposed = || conv("ConvTranspose", &[4, 1, 2, 2]);
    refused(transposed().list("output_padding", &[1, 0]), "1 with stride 1 and dilation 1");
    refused(transposed().list("output_shape", &[9, 7]), "3 with stride 1 and dilation 1");
    refused(transposed().list("pads", &[9, 9, 9, 9]), "padded image");
    let pool = |op: &str| new().node(op, "x", "y").named("n").list("kernel_shape", &[2, 2]);
    refused(pool("MaxPool").int("storage_order", 1), "its storage_order is 1; supported is 0");
    refused(pool("MaxPool").list("pads", &[2, 0, 0, 0]), "2 around a window over 2");
    refused(pool("MaxPool").list("dilations", &[9, 1]), "over 10 elements, of an image of 5");
    refused(pool("AveragePool").list("dilations", &[1, 2]), "its dilations are [1, 2]; supported are dilations of 1");
    refused(new().node("MaxPool", "x", "y").named("n"), "it has no kernel_shape");
    let mut indices = pool("MaxPool");
    indices.graph().node[0].output.push("i".to_owned());
    refused(indices.output("i"), "its output i is read, and only its first 1 of 2 outputs are supported");
    let blocks = |op: &str, size| new().node(op, "x", "y").named("n").int("blocksize", size);
    refused(blocks("DepthToSpace", 3), "it makes blocks of 9 pixels of 4 channels");
    refused(blocks("SpaceToDepth", 2), "its blocks of 2 by 2 do not divide its image of 5 by 6");
    refused(blocks("SpaceToDepth", 0), "its blocksize is 0, expected from 1");
    let norm = |count: i64| {
        let n = count as usize;
        let build = new().floats("s", &[count], &vec![1.0; n]).floats("b", &[count], &vec![0.0; n]);
        build.node("GroupNormalization", "x s b", "y").named("n")
    };
    refused(norm(2).int("num_groups", 3), "its num_groups is 3, which does not divide its 4 channels");
    refused(norm(4).int("num_groups", 2), "its parameter has shape [4], expected [2]");
    refused(new().node("LRN", "x", "y").named("n").int("size", 0), "its size is 0, expected at least 1");
    refused(new().node("LRN", "x", "y").named("n").int("size", 1).float("bias", 0.0), "its bias 0; supported");
}

/// No number in an attribute makes an import panic.
#[test]
fn attributes_of_any_value_are_refused_or_read() {
    let numbers = [i64::MIN, -1, 0, 1, 2, 3, 7, 1 << 16, 1 << 24, (1 << 24) + 1, 1 << 31, 1 << 40, i64::MAX];
    let lists = ["strides", "dilations", "pads", "output_padding", "output_shape", "kernel_shape"];
    let ops = ["Conv", "ConvTranspose", "MaxPool", "AveragePool", "DepthToSpace", "SpaceToDepth", "LRN"];
    let (mut read, mut refused) = (0, 0);
    for (op, n) in ops.into_iter().flat_map(|op| numbers.map(|n| (op, n))) {
        let new = || {
            let build = Build::new(19).input("x", &["batch", "4", "5", "6"]).floats("w", &[4, 4, 2, 2], &[1.0; 64]);
            build.node(op, if op.contains("Conv") { "x w" } else { "x" }, "y").output("y")
        };
        let is_pool = op.ends_with("Pool");
        let mut builds: Vec<Build> = ["group", "blocksize", "size"].map(|name| new().int(name, n)).into();
        for (name, auto_pad) in lists.into_iter().flat_map(|name| ["NOTSET", "SAME_LOWER"].map(|pad| (name, pad))) {
            let build = new().list(name, &vec![n; if name == "pads" { 4 } else { 2 }]).text("auto_pad", auto_pad);
            builds.push(if is_pool && name != "kernel_shape" { build.list("kernel_shape", &[2, 2]) } else { build });
        }
        for build in builds {
            match build.import(&[]) {
                Ok(graph) => {
                    assert_eq!(graph.verify(), Ok(()));
                    read += 1;
                }
                Err(_) => refused += 1,
            }
        }
    }
    assert!(read > 300 && refused > 300, "{read} read, {refused} refused");
}

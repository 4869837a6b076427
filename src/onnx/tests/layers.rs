//! Layers, and the patterns that become layers.

use super::*;
use crate::ops::Unary;

#[test]
fn gemm_with_every_attribute() {
    // x · wᵀ = [1·1 + 2·2, 1·3 + 2·4] = [5, 11].
    let (w, wt) = ([1.0, 2.0, 3.0, 4.0], [1.0, 3.0, 2.0, 4.0]);
    let x = tensor(&[1, 2], &[1.0, 2.0]);
    let check = |build: Build, expected: [f32; 2], layers: &[&str]| {
        let graph = build.output("y").done(&[]);
        assert_values(&run(&graph, std::slice::from_ref(&x)), &[1, 2], &expected);
        assert_eq!(ops(&graph), layers, "{graph}");
    };
    let new = || Build::new(17).input("x", &["batch", "2"]).floats("w", &[2, 2], &w).floats("wt", &[2, 2], &wt);
    check(new().node("Gemm", "x w", "y").int("transB", 1), [5.0, 11.0], &["linear"]);
    check(new().node("Gemm", "x wt", "y"), [5.0, 11.0], &["linear"]);
    check(new().node("MatMul", "x wt", "y"), [5.0, 11.0], &["linear"]);
    let bias = |dims: &[i64], values: &[f32]| new().floats("b", dims, values);
    check(bias(&[2], &[1.0, -1.0]).node("Gemm", "x wt b", "y"), [6.0, 10.0], &["linear"]);
    check(bias(&[1, 2], &[1.0, -1.0]).node("Gemm", "x wt b", "y").float("beta", 2.0), [7.0, 9.0], &["linear"]);
    check(bias(&[], &[1.0]).node("Gemm", "x wt b", "y"), [6.0, 12.0], &["linear"]);
    let scaled = bias(&[2], &[1.0, -1.0]).node("Gemm", "x wt b", "y").float("alpha", 2.0);
    check(scaled, [11.0, 21.0], &["linear", "mul_scalar", "add"]);
    check(bias(&[2], &[1.0, -1.0]).node("MatMul", "x wt", "m").node("Add", "b m", "y"), [6.0, 10.0], &["linear"]);
    // A product that another node reads too keeps its bias apart.
    let shared = bias(&[2], &[1.0, -1.0]).node("MatMul", "x wt", "m").node("Add", "b m", "s").node("Add", "s m", "y");
    check(shared, [11.0, 21.0], &["linear", "add", "add"]);
}

#[test]
fn layers_are_called_as_their_parameters() {
    let build = Build::new(17).input("x", &["batch", "2"]).floats("onnx::MatMul_1", &[2, 2], &[1.0; 4]);
    let build = build.floats("m.query.bias", &[2], &[0.0; 2]).floats("m.out.weight", &[2, 2], &[1.0; 4]);
    let build =
        build.node("MatMul", "x onnx::MatMul_1", "a").named("/m/query/MatMul").node("Add", "a m.query.bias", "b");
    let build = build.named("/m/query/Add").node("Relu", "b", "c").named("/m/act/Relu");
    let build = build.node("Gemm", "c m.out.weight", "d").node("Gemm", "d m.out.weight", "y").output("y");
    let graph = build.done(&[]);
    let names: Vec<&str> = graph.nodes().iter().map(|node| node.name.as_str()).collect();
    let expected = ["x", "m.query.weight", "m.query.bias", "m.query", "m.act.Relu", "m.out.weight", "m.out", "m.out_1"];
    assert_eq!(names, expected);
    assert_eq!(graph.output_names(), ["y"]);
}

fn gelu_input() -> Tensor {
    tensor(&[2, 2], &[-1.5, -0.2, 0.4, 2.0])
}

#[track_caller]
fn assert_becomes(build: Build, op: Op) {
    let build = Build { model: build.output("y").model };
    let graph = build.done(&[]);
    assert_eq!(ops(&graph), [op.name()], "{graph}");
    let Op::Unary(Unary { op: f }) = op else { return };
    let expected = gelu_input().as_f32().expect("floats").iter().map(|&v| f.eval(v.into()) as f32).collect::<Vec<_>>();
    assert_values(&run(&graph, &[gelu_input()]), &[2, 2], &expected);
}

#[test]
fn gelu_in_every_spelling() {
    let erf = Op::Unary(Unary { op: UnaryOp::Gelu });
    let new = || {
        Build::new(17)
            .input("x", &["batch", "2"])
            .floats("root", &[], &[std::f32::consts::SQRT_2])
            .floats("inverse", &[], &[std::f32::consts::FRAC_1_SQRT_2])
            .floats("half", &[1], &[0.5])
            .floats("one", &[], &[1.0])
    };
    let tail = |b: Build| b.node("Erf", "a", "e").node("Add", "e one", "f");
    let divided = || tail(new().node("Div", "x root", "a"));
    assert_becomes(divided().node("Mul", "x f", "g").node("Mul", "g half", "y"), erf.clone());
    assert_becomes(divided().node("Mul", "x half", "g").node("Mul", "g f", "y"), erf.clone());
    assert_becomes(divided().node("Mul", "half f", "g").node("Mul", "g x", "y"), erf.clone());
    let times = || tail(new().node("Mul", "x inverse", "a"));
    assert_becomes(times().node("Mul", "f x", "g").node("Mul", "half g", "y"), erf.clone());
    // Another number is another function.
    let other = tail(new().node("Mul", "x half", "a")).node("Mul", "x f", "g").node("Mul", "g half", "y").output("y");
    assert!(ops(&other.done(&[])).contains(&"erf"));
}

#[test]
fn tanh_gelu_and_silu() {
    let tanh = Op::Unary(Unary { op: UnaryOp::GeluTanh });
    let new = || {
        Build::new(17)
            .input("x", &["batch", "2"])
            .floats("cube", &[], &[0.044_715])
            .floats("root", &[], &[0.797_884_6])
            .floats("half", &[], &[0.5])
            .floats("one", &[], &[1.0])
            .floats("three", &[], &[3.0])
    };
    let tail = |b: Build| {
        b.node("Tanh", "d", "e").node("Add", "e one", "f").node("Mul", "x half", "g").node("Mul", "g f", "y")
    };
    let sum = |b: Build| b.node("Mul", "p cube", "q").node("Add", "x q", "s").node("Mul", "s root", "d");
    assert_becomes(tail(sum(new().node("Pow", "x three", "p"))), tanh.clone());
    assert_becomes(tail(sum(new().node("Mul", "x x", "xx").node("Mul", "x xx", "p"))), tanh.clone());
    let factored = new().node("Mul", "x x", "xx").node("Mul", "xx cube", "q").node("Add", "q one", "s");
    assert_becomes(tail(factored.node("Mul", "x root", "xr").node("Mul", "xr s", "d")), tanh);
    assert_becomes(new().node("Sigmoid", "x", "s").node("Mul", "x s", "y"), Op::Unary(Unary { op: UnaryOp::Silu }));
}

#[test]
fn layer_norm_in_every_spelling() {
    let x = tensor(&[1, 4], &[1.0, 2.0, 3.0, 6.0]);
    // Mean 3, variance 3.5.
    let (w, b) = ([1.0, 2.0, 3.0, 4.0], [0.5, 0.0, -0.5, 1.0]);
    let root = 3.5f32.sqrt();
    let plain: Vec<f32> = [-2.0, -1.0, 0.0, 3.0].iter().map(|v| v / root).collect();
    let affine: Vec<f32> = plain.iter().zip(w).zip(b).map(|((v, w), b)| v * w + b).collect();
    let check = |build: Build, expected: &[f32]| {
        let graph = build.output("y").done(&[]);
        assert_eq!(ops(&graph), ["layer_norm"], "{graph}");
        assert_values(&run(&graph, std::slice::from_ref(&x)), &[1, 4], expected);
        graph
    };
    let new = || {
        Build::new(17)
            .input("x", &["batch", "4"])
            .floats("n.weight", &[4], &w)
            .floats("n.bias", &[4], &b)
            .floats("eps", &[], &[1e-6])
            .floats("two", &[], &[2.0])
    };
    let mean = |b: Build, x: &str, y: &str| b.node("ReduceMean", x, y).list("axes", &[-1]);
    let centred = || mean(new(), "x", "m").node("Sub", "x m", "d");
    let root = |b: Build| b.node("Add", "v eps", "ve").node("Sqrt", "ve", "r");
    let power = || root(mean(centred().node("Pow", "d two", "s"), "s", "v")).node("Div", "d r", "z");
    let tail = |b: Build| b.node("Mul", "z n.weight", "zw").node("Add", "zw n.bias", "y");
    let graph = check(tail(power()), &affine);
    assert!(graph.find("n").is_some() && graph.find("n.weight").is_some(), "{graph}");
    check(power().node("Identity", "z", "y"), &plain);
    // A difference for each use, and a reciprocal.
    let twice = centred().node("Sub", "x m", "d2").node("Mul", "d2 d2", "s");
    let twice = root(mean(twice, "s", "v")).node("Reciprocal", "r", "i").node("Mul", "d i", "z");
    check(tail(twice), &affine);
    let own = new().node("LayerNormalization", "x n.weight n.bias", "y").float("epsilon", 1e-6);
    check(own, &affine);
    check(new().node("LayerNormalization", "x n.weight", "y").float("epsilon", 0.5), &[-1.0, -1.0, 0.0, 6.0]);
}

#[test]
fn rms_norm_by_both_names() {
    for name in ["RMSNormalization", "SimplifiedLayerNormalization"] {
        let build = Build::new(21).input("x", &["batch", "2", "2"]).floats("n.weight", &[2], &[1.0, -2.0]);
        let graph = build.node(name, "x n.weight", "y").float("epsilon", 0.5).output("y").done(&[]);
        assert_eq!(ops(&graph), ["rms_norm"], "{graph}");
        assert!(graph.find("n").is_some() && graph.find("n.weight").is_some(), "{graph}");
        let x = tensor(&[1, 2, 2], &[1.0, 0.0, 1.0, 2.0]);
        let (first, second) = (1.0, 3f32.sqrt());
        assert_values(&run(&graph, &[x]), &[1, 2, 2], &[1.0 / first, 0.0, 1.0 / second, -4.0 / second]);
    }
}

/// A near miss of a pattern does not match.
#[test]
fn near_misses_are_not_layers() {
    let normalized = |divisor: f32| {
        let build = Build::new(17).input("x", &["batch", "2000"]).floats("n", &[], &[divisor]).ints("a", &[1], &[-1]);
        let build = build.floats("eps", &[], &[1e-6]).node("ReduceMean", "x", "m").list("axes", &[-1]);
        let build = build.node("Sub", "x m", "d").node("Mul", "d d", "s").node("ReduceSum", "s a", "t");
        let build = build.int("keepdims", 0).node("Div", "t n", "w").node("Unsqueeze", "w a", "v");
        let build = build.node("Add", "v eps", "ve").node("Sqrt", "ve", "r").node("Div", "d r", "y").output("y");
        ops(&build.done(&[])) == ["layer_norm"]
    };
    assert!(normalized(2000.0));
    // This is the variance of a sample.
    assert!(!normalized(1999.0));
    let gelu = |one: f32, half: f32, root: f32| {
        let build = Build::new(17).input("x", &["batch", "2"]).floats("one", &[], &[one]).floats("half", &[], &[half]);
        let build = build.floats("root", &[], &[root]).node("Div", "x root", "a").node("Erf", "a", "b");
        let build = build.node("Add", "b one", "c").node("Mul", "x c", "d").node("Mul", "d half", "y").output("y");
        ops(&build.done(&[])) == [Op::Unary(Unary { op: UnaryOp::Gelu }).name()]
    };
    assert!(gelu(1.0, 0.5, 1.414));
    assert!(!gelu(1.0005, 0.5, 1.414) && !gelu(1.0, 0.5004, 1.414) && !gelu(1.0, 0.5, 1.41));
}

/// Far below the maximum, the softmax is 0, but its logarithm is a number.
#[test]
fn log_softmax_is_finite() {
    let log = |opset: i64, dims: &[&str], axis: i64, x: &Tensor| {
        let build = Build::new(opset).input("x", dims).node("LogSoftmax", "x", "y").int("axis", axis).output("y");
        run(&build.done(&[]), std::slice::from_ref(x))
    };
    let far = tensor(&[1, 3], &[0.0, 200.0, 1.0]);
    for opset in [11, 13] {
        assert_values(&log(opset, &["batch", "3"], 1, &far), &[1, 3], &[-200.0, 0.0, -199.0]);
    }
    // The axis is not the last: opset 13 normalizes along it, opset 11 along it and all axes after it.
    let x = tensor(&[1, 3, 2], &[0.0, 1.0, 200.0, 1.0, 1.0, 1.0]);
    let third = -(3f32.ln());
    let expected = [-200.0, third, 0.0, third, -199.0, third];
    assert_values(&log(13, &["batch", "3", "2"], 1, &x), &[1, 3, 2], &expected);
    let expected = [-200.0, -199.0, 0.0, -199.0, -199.0, -199.0];
    assert_values(&log(11, &["batch", "3", "2"], 1, &x), &[1, 3, 2], &expected);
}

#[test]
fn softmax_of_old_files_flattens() {
    let x = tensor(&[1, 2, 2], &[0.0, 1.0, 2.0, 3.0]);
    let graph = |opset: i64| {
        let build = Build::new(opset).input("x", &["batch", "2", "2"]).node("Softmax", "x", "y").output("y");
        run(&build.done(&[]), std::slice::from_ref(&x))
    };
    let e = [0.0f32, 1.0, 2.0, 3.0].map(f32::exp);
    let all: f32 = e.iter().sum();
    assert_values(&graph(11), &[1, 2, 2], &e.map(|v| v / all));
    let pairs = [e[0] / (e[0] + e[1]), e[1] / (e[0] + e[1]), e[2] / (e[2] + e[3]), e[3] / (e[2] + e[3])];
    assert_values(&graph(13), &[1, 2, 2], &pairs);
}

#[test]
fn tables_and_masks() {
    let build = Build::new(17).ids("ids", &["batch", "2"]).floats("t.weight", &[3, 2], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    let graph = build.node("Gather", "t.weight ids", "y").output("y").done(&[]);
    assert_eq!(ops(&graph), ["embedding"]);
    assert!(graph.find("t").is_some());
    let ids = Tensor::from_i32(&[1, 2], vec![2, 0]).expect("two ids");
    assert_values(&run(&graph, &[ids]), &[1, 2, 2], &[4.0, 5.0, 0.0, 1.0]);
    // 1 − mask, times the least number.
    let build = Build::new(17).ids("mask", &["batch", "2"]).floats("one", &[], &[1.0]).floats("min", &[], &[f32::MIN]);
    let build =
        build.node("Cast", "mask", "m").int("to", 1).node("Sub", "one m", "o").node("Mul", "o min", "y").output("y");
    let mask = Tensor::from_i32(&[1, 2], vec![1, 0]).expect("two");
    assert_values(&run(&build.done(&[]), &[mask]), &[1, 2], &[0.0, f32::MIN]);
}

#[test]
fn quantized_weights_and_values() {
    use super::super::build::small;
    use super::super::proto::data_type as ty;
    // uint8 with zero point 128 is int8 with zero point 0.
    for (data_type, shift, name) in [(ty::UINT8, 128, "uint8"), (ty::INT8, 0, "int8")] {
        let build = Build::new(17)
            .input("x", &["batch", "2"])
            .floats("xs", &[], &[0.5])
            .store(small("xz", data_type, &[], &[shift]))
            .store(small("w", data_type, &[2, 2], &[1 + shift, 2 + shift, 3 + shift, -4 + shift]))
            .floats("ws", &[2], &[0.25, 0.5])
            .store(small("wz", data_type, &[2], &[shift, shift]))
            .node("QuantizeLinear", "x xs xz", "q")
            .node("DequantizeLinear", "q xs xz", "d")
            .node("DequantizeLinear", "w ws wz", "dw")
            .int("axis", 1)
            .node("MatMul", "d dw", "m")
            .node("QuantizeLinear", "m xs xz", "mq")
            .node("DequantizeLinear", "mq xs xz", "y")
            .output("y");
        let graph = build.done(&[]);
        let expected = [
            "quantize_per_tensor",
            "dequantize_per_tensor",
            "dequantize_per_channel",
            "linear",
            "quantize_per_tensor",
            "dequantize_per_tensor",
        ];
        assert_eq!(ops(&graph), expected, "{name}: {graph}");
        // Quantized values 2 and −4: 1·0.25 − 2·0.75 = −1.25 and 1·1 + 2·2 = 5, in steps of 0.5.
        let y = run(&graph, &[tensor(&[1, 2], &[1.1, -2.2])]);
        assert_values(&y, &[1, 2], &[-1.0, 5.0]);
    }
}

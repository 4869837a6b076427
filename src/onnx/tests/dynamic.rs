//! Dynamic quantization as ONNX Runtime's quantizer writes it.

use super::super::build::small;
use super::super::proto::data_type as ty;
use super::*;
use crate::numerics::affine_qparams;
use crate::values::MIN_SCALE;

/// The weight `[3, 2]` of int8.
const WEIGHT: [i32; 6] = [100, -50, 3, 7, -128, 127];
pub(super) const X: [f32; 6] = [1.0, -0.5, 0.25, 2.0, 0.0, -1.25];

/// A model with the weight, its zero point and its scales; `quantized`, `scale` and `zero` are those of `x`.
fn base(of: i32, weight: &[i32], zero_points: &[i32], scales: &[f32]) -> Build {
    let dims = if scales.len() == 1 { vec![] } else { vec![scales.len() as i64] };
    let zeros = if zero_points.len() == 1 { vec![] } else { vec![zero_points.len() as i64] };
    Build::new(17)
        .input("x", &["batch", "3"])
        .store(small("w", of, &[3, 2], weight))
        .store(small("wz", of, &zeros, zero_points))
        .floats("ws", &dims, scales)
        .floats("b", &[2], &[0.5, -0.25])
        .node("DynamicQuantizeLinear", "x", "quantized scale zero")
}

fn spelled(build: Build) -> Build {
    build
        .node("MatMulInteger", "quantized w zero wz", "p")
        .named("/fc/MatMul_quant")
        .node("Cast", "p", "c")
        .int("to", 1)
        .node("Mul", "scale ws", "s")
        .node("Mul", "c s", "m")
        .node("Add", "m b", "y")
        .output("y")
}

/// The sums of ONNX: those of `MatMulInteger`, scaled.
fn expected(weight: &[i32], zero_points: &[i32], scales: &[f32]) -> Vec<f32> {
    let (min, max) = X.iter().fold((0f32, 0f32), |(min, max), &v| (min.min(v), max.max(v)));
    let scale = (max - min) / 255.0;
    let zero = (0.0 - min / scale).round_ties_even().clamp(0.0, 255.0) as i32;
    let q = X.map(|v| ((v / scale).round_ties_even() as i32 + zero).clamp(0, 255));
    let at = |of: &[i32], n: usize| of[n % of.len()];
    let mut y = Vec::new();
    for row in q.chunks(3) {
        for n in 0..2 {
            let of_column = |k: usize| (row[k] - zero) * (weight[k * 2 + n] - at(zero_points, n));
            let sum: i32 = (0..3).map(of_column).sum();
            y.push(sum as f32 * (scale * scales[n % scales.len()]) + [0.5, -0.25][n]);
        }
    }
    y
}

#[track_caller]
fn assert_refused(build: Build, expected: &str) {
    let e = build.import(&[]).map_or_else(|e| e.to_string(), |graph| panic!("imported as\n{graph}"));
    assert!(e.contains(expected), "{e}");
}

#[test]
fn products_of_every_kind_of_weight() {
    let unsigned = WEIGHT.map(|v| v + 128);
    let x = tensor(&[2, 3], &X);
    let check = |of: i32, weight: &[i32], zero_points: &[i32], scales: &[f32], dequantize: &str| {
        let graph = spelled(base(of, weight, zero_points, scales)).done(&[]);
        let layer = ["choose_qparams", "quantize_dynamic", "dequantize_dynamic", dequantize, "linear"];
        assert_eq!(ops(&graph), layer, "{graph}");
        assert!(graph.find("fc.MatMul").is_some(), "{graph}");
        let y = run(&graph, std::slice::from_ref(&x));
        assert_values(&y, &[2, 2], &expected(weight, zero_points, scales));
        y
    };
    let signed = check(ty::INT8, &WEIGHT, &[0], &[0.01], "dequantize_per_tensor");
    assert_eq!(check(ty::UINT8, &unsigned, &[128], &[0.01], "dequantize_per_tensor"), signed);
    check(ty::UINT8, &unsigned, &[119], &[0.01], "dequantize_per_tensor");
    let channels = check(ty::INT8, &WEIGHT, &[0, 0], &[0.01, 0.02], "dequantize_per_channel");
    // One zero point for all channels, or one scale.
    assert_eq!(check(ty::INT8, &WEIGHT, &[0], &[0.01, 0.02], "dequantize_per_channel"), channels);
    check(ty::UINT8, &unsigned, &[128, 120], &[0.01], "dequantize_per_channel");
    // A control: one weight is changed by one, and its column differs.
    let mut changed = WEIGHT;
    changed[3] += 1;
    let other = check(ty::INT8, &changed, &[0], &[0.01], "dequantize_per_tensor");
    let differ = |at: usize| signed.as_f32().expect("floats")[at] != other.as_f32().expect("floats")[at];
    assert_eq!([0, 1, 2, 3].map(differ), [false, true, false, false]);
}

/// The order of the two products with scales does not matter, and neither does an `Identity` between them.
#[test]
fn products_are_scaled_in_any_order() {
    let product = || {
        let build = base(ty::INT8, &WEIGHT, &[0, 0], &[0.01, 0.02]);
        build.node("MatMulInteger", "quantized w zero wz", "p").node("Cast", "p", "c").int("to", 1)
    };
    let x = tensor(&[2, 3], &X);
    let expected: Vec<f32> = expected(&WEIGHT, &[0], &[0.01, 0.02]);
    let check = |build: Build, more: &[&str]| {
        let graph = build.node("Add", "m b", "y").output("y").done(&[]);
        assert_values(&run(&graph, std::slice::from_ref(&x)), &[2, 2], &expected);
        assert_eq!(ops(&graph)[4..], [&["linear"], more].concat(), "{graph}");
    };
    check(product().node("Mul", "ws c", "n").node("Identity", "scale", "i").node("Mul", "i n", "m"), &[]);
    check(product().node("Mul", "c scale", "n").node("Mul", "n ws", "m"), &["mul", "add"]);
    // A scale with more axes than the product gives the result more axes.
    let wide = product().floats("deep", &[1, 1, 1], &[0.01]).node("Mul", "scale deep", "s").node("Mul", "c s", "y");
    let graph = wide.output("y").done(&[("batch", 2)]);
    assert_eq!(run(&graph, std::slice::from_ref(&x)).shape(), [1, 2, 2]);
}

#[test]
fn the_forms_of_onnx_runtime() {
    let x = tensor(&[2, 3], &X);
    let new = |scales: &[f32]| base(ty::INT8, &WEIGHT, &[0], scales);
    for scales in [&[0.01][..], &[0.01, 0.02]] {
        let wanted = run(&spelled(new(scales)).done(&[]), std::slice::from_ref(&x));
        let whole = new(scales).node("DynamicQuantizeMatMul", "x w ws wz b", "y").domain("com.microsoft");
        let product = new(scales).node("MatMulIntegerToFloat", "quantized w scale ws zero wz b", "y");
        for build in [whole, product.domain("com.microsoft")] {
            let graph = build.output("y").done(&[]);
            assert_eq!(ops(&graph)[4..], ["linear"], "{graph}");
            assert_eq!(run(&graph, std::slice::from_ref(&x)), wanted);
        }
        // Without zero point and bias.
        let bare = new(scales).node("DynamicQuantizeMatMul", "x w ws", "y").domain("com.microsoft").output("y");
        assert_eq!(ops(&bare.done(&[]))[4..], ["linear"]);
    }
    let static_scale = Build::new(17)
        .input("x", &["batch", "3"])
        .floats("s", &[], &[0.02])
        .store(small("z", ty::UINT8, &[], &[100]))
        .store(small("w", ty::INT8, &[3, 2], &WEIGHT))
        .floats("ws", &[2], &[0.01, 0.02])
        .node("QuantizeLinear", "x s z", "q");
    let build = static_scale.clone().node("MatMulIntegerToFloat", "q w s ws z", "y").domain("com.microsoft");
    let graph = build.output("y").done(&[]);
    let layer = ["quantize_per_tensor", "dequantize_per_tensor", "dequantize_per_channel", "linear"];
    assert_eq!(ops(&graph), layer, "{graph}");
    // The same, spelled out: the scales of both factors are those of the weight.
    let build = static_scale.floats("both", &[2], &[0.02 * 0.01, 0.02 * 0.02]);
    let build = build.node("MatMulInteger", "q w z", "p").node("Cast", "p", "c").int("to", 1);
    let other = build.node("Mul", "c both", "y").output("y").done(&[]);
    assert_eq!(ops(&other), layer, "{other}");
    let [a, b] = [graph, other].map(|graph| run(&graph, std::slice::from_ref(&x)));
    assert_values(&b, &[2, 2], a.as_f32().expect("floats"));
}

/// Both factors may be quantized at run time.
#[test]
fn products_of_two_activations() {
    let build = Build::new(17)
        .input("a", &["batch", "2", "3"])
        .input("b", &["batch", "3", "2"])
        .node("DynamicQuantizeLinear", "a", "qa sa za")
        .node("DynamicQuantizeLinear", "b", "qb sb zb")
        .node("MatMulInteger", "qa qb za zb", "p")
        .node("Cast", "p", "c")
        .int("to", 1)
        .node("Mul", "sb sa", "s")
        .node("Mul", "c s", "y")
        .output("y");
    let graph = build.done(&[]);
    let count = |name: &str| ops(&graph).into_iter().filter(|op| *op == name).count();
    assert_eq!([count("dequantize_dynamic"), count("matmul")], [2, 1], "{graph}");
    let (a, b) = (tensor(&[1, 2, 3], &X), tensor(&[1, 3, 2], &X));
    let y = run(&graph, &[a, b]);
    let exact = [0.875, -1.8125, 2.0, 0.5625];
    for (y, exact) in y.as_f32().expect("floats").iter().zip(exact) {
        assert!((y - exact).abs() < 0.05, "{y} {exact}");
    }
}

#[test]
fn convolutions_are_float_convolutions() {
    let build = Build::new(17)
        .input("x", &["batch", "1", "2", "3"])
        .store(small("w", ty::INT8, &[2, 1, 1, 1], &[100, -50]))
        .floats("ws", &[2, 1, 1], &[0.01, 0.02])
        .node("DynamicQuantizeLinear", "x", "quantized scale zero")
        .node("ConvInteger", "quantized w zero", "p")
        .list("kernel_shape", &[1, 1])
        .node("Cast", "p", "c")
        .int("to", 1)
        .node("Mul", "scale ws", "s")
        .node("Mul", "c s", "y")
        .output("y");
    let graph = build.done(&[]);
    assert_eq!(ops(&graph)[2..], ["dequantize_dynamic", "dequantize_per_channel", "conv"], "{graph}");
    let y = run(&graph, &[tensor(&[1, 1, 2, 3], &X)]);
    let wanted = X.map(|v| v).into_iter().chain(X.map(|v| -v));
    for (y, wanted) in y.as_f32().expect("floats").iter().zip(wanted) {
        assert!((y - wanted).abs() <= 3.25 / 255.0, "{y} {wanted}");
    }
}

/// Equation 10 gives the scale and the zero point of ONNX.
#[test]
fn the_rule_of_onnx_is_that_of_equation_10() {
    let mut random = fastrand::Rng::with_seed(7);
    for at in 0..20_000 {
        let magnitude = 10f32.powi(random.i32(-20..20));
        let mut bound = || (random.f32() * 2.0 - 1.0) * magnitude;
        let (a, b) = (bound(), bound());
        let (min, max) = if at % 10 == 0 { (0.0, a.abs()) } else { (a.min(b), a.max(b)) };
        let scale = (max.max(0.0) - min.min(0.0)) / 255.0;
        let zero = (0.0 - min.min(0.0) / scale).clamp(0.0, 255.0).round_ties_even() as i32;
        assert_eq!(affine_qparams(min, max, -128, 127, MIN_SCALE), (scale, zero - 128), "{min:e} {max:e}");
    }
}

/// What a file gives at run time is read by those that know what to do with it, or refused by name.
#[test]
fn other_readers_are_refused_by_name() {
    let new = || base(ty::INT8, &WEIGHT, &[0], &[0.01]);
    let product = || new().node("MatMulInteger", "quantized w zero wz", "p");
    let float = || product().node("Cast", "p", "c").int("to", 1);
    let expected = "y (Relu): its input scale is a scale that is computed at run time, which only Mul with another scale or a \
                    quantized product, QuantizeLinear and DequantizeLinear read";
    assert_refused(new().node("Relu", "scale", "y").output("y"), expected);
    let expected = "y (Cast): it casts to int32 a zero point that is computed at run time, which only MatMulInteger";
    assert_refused(new().node("Cast", "zero", "y").int("to", 6).output("y"), expected);
    let expected =
        "y (Add): its input p is a product of quantized values without a scale, which only a Cast to float32 reads";
    assert_refused(product().ints("one", &[], &[1]).node("Add", "p one", "y").output("y"), expected);
    let expected =
        "y (Add): its input c is a product of quantized values without a scale, which only Mul with its scales reads";
    assert_refused(float().node("Add", "c b", "y").output("y"), expected);
    assert_refused(product().node("Mul", "p scale", "y").output("y"), "y (Mul): its factor is a product of quantized");
    assert_refused(float().node("Mul", "c c", "y").output("y"), "y (Mul): both its factors are a product");
    assert_refused(float().output("c"), "output c: a product of quantized values without a scale");
    assert_refused(new().output("scale"), "output scale: a scale that is computed at run time");
    let other = float().node("DynamicQuantizeLinear", "b", "q2 s2 z2").node("Mul", "c s2", "y").output("y");
    assert_refused(
        other,
        "y (Mul): it multiplies a product of quantized values by a scale that is not one of its factors'",
    );
    let squares = new().node("Mul", "scale scale", "s2").node("Mul", "s2 s2", "y").output("y");
    assert_refused(
        squares,
        "y (Mul): it multiplies 4 scales that are computed at run time, and a product has two factors",
    );
    assert_refused(new().node("Mul", "scale wz", "y").output("y"), "y (Mul): its scale is int8, expected float32");
    assert_refused(new().node("Mul", "scale x", "y").output("y"), "x is computed at run time");
}

#[test]
fn factors_and_their_zero_points_must_fit() {
    let new = || base(ty::INT8, &WEIGHT, &[0], &[0.01]).store(small("u", ty::UINT8, &[], &[3]));
    let product = |inputs: &str| {
        let build = new().node("MatMulInteger", inputs, "p").node("Cast", "p", "c").int("to", 1);
        build.node("Mul", "scale ws", "s").node("Mul", "c s", "y").output("y")
    };
    assert_refused(product("x w"), "p (MatMulInteger): its input 0 is float32, expected int8 or uint8");
    assert_refused(product("quantized w zero u"), "p (MatMulInteger): its input 1 is int8, its zero point uint8");
    assert_refused(
        product("w quantized zero"),
        "its input 0 is int8 that is not quantized at run time, but its zero point is",
    );
    assert_refused(product("quantized w scale"), "p (MatMulInteger): its zero point is a scale that is computed");
    assert_refused(product("quantized"), "p (MatMulInteger): input 1 is missing");
    // Without its zero point, the product has no scale of a run.
    assert_refused(product("quantized w"), "by a scale that is not one of its factors'");
    let zeros = new().store(small("z3", ty::INT8, &[3], &[1, 2, 3])).node("MatMulInteger", "quantized w zero z3", "p");
    let zeros = zeros.node("Cast", "p", "c").int("to", 1).node("Mul", "c scale", "y").output("y");
    assert_refused(zeros, "y (Mul): it has 3 scales for axis 1 of [3, 2]");
    let dequantize = |inputs: &str| new().node("DequantizeLinear", inputs, "y").output("y");
    assert_refused(
        dequantize("quantized scale"),
        "its scale and zero point are not the two of one DynamicQuantizeLinear",
    );
    assert_refused(dequantize("x scale zero"), "y (DequantizeLinear): its input is float32, its zero point uint8");
    assert_refused(dequantize("w scale zero"), "y (DequantizeLinear): its input is int8, but its scale is computed");
    assert_refused(dequantize("quantized zero zero"), "its scale is a zero point that is computed at run time");
    let contrib = |op: &str, inputs: &str| new().node(op, inputs, "y").domain("com.microsoft").output("y");
    assert_refused(
        contrib("DynamicQuantizeMatMul", "x w"),
        "y (com.microsoft.DynamicQuantizeMatMul): input 2 is missing",
    );
    assert_refused(contrib("DynamicQuantizeMatMul", "x x ws"), "its input 1 is float32, expected int8 or uint8");
    assert_refused(contrib("MatMulIntegerToFloat", "quantized w scale"), "input 3 is missing");
    assert_refused(contrib("MatMulIntegerToFloat", "quantized w scale ws"), "its scales are not those of its factors");
}

/// Values that are moved between quantization and product, and other values quantized by the same scale.
#[test]
fn quantized_values_may_be_moved() {
    let build = Build::new(17).input("x", &["batch", "2", "3"]).input("z", &["batch", "2"]);
    let build = build.node("DynamicQuantizeLinear", "x", "q s zp").node("Transpose", "q", "t").list("perm", &[0, 2, 1]);
    let build = build.node("DequantizeLinear", "t s zp", "a").node("QuantizeLinear", "z s zp", "qz");
    let graph = build.node("DequantizeLinear", "qz s zp", "d").output("a").output("d").done(&[]);
    let wanted = ["choose_qparams", "quantize_dynamic", "transpose", "dequantize_dynamic", "quantize_dynamic"];
    assert_eq!(ops(&graph)[..5], wanted, "{graph}");
}

//! One operator at a time.

use super::*;

const X: [f32; 6] = [-2.0, -0.5, 0.0, 0.25, 1.0, 3.0];

/// `op(x)` of an input `[rows, 3]`.
fn unary(build: impl FnOnce(Build) -> Build) -> Vec<f32> {
    let build = build(Build::new(21).input("x", &["batch", "3"])).output("y");
    let y = run(&build.done(&[]), &[tensor(&[2, 3], &X)]);
    y.as_f32().expect("floats").to_vec()
}

#[track_caller]
fn assert_function(actual: Vec<f32>, expected: impl Fn(f32) -> f32) {
    assert_values(&tensor(&[6], &actual), &[6], &X.map(expected));
}

#[test]
fn functions() {
    let node = |op: &'static str| move |b: Build| b.node(op, "x", "y");
    assert_function(unary(node("Relu")), |v| v.max(0.0));
    assert_function(unary(node("Neg")), |v| -v);
    assert_function(unary(node("Abs")), f32::abs);
    assert_function(unary(node("Exp")), f32::exp);
    assert_function(unary(node("Tanh")), f32::tanh);
    assert_function(unary(node("Softplus")), |v| v.exp().ln_1p());
    assert_function(unary(node("Softsign")), |v| v / (1.0 + v.abs()));
    assert_function(unary(node("Mish")), |v| v * v.exp().ln_1p().tanh());
    assert_function(unary(node("Sign")), |v| if v == 0.0 { 0.0 } else { v.signum() });
    assert_function(unary(node("HardSwish")), |v| v * (v / 6.0 + 0.5).clamp(0.0, 1.0));
    assert_function(unary(node("HardSigmoid")), |v| (0.2 * v + 0.5).clamp(0.0, 1.0));
    assert_function(unary(node("Elu")), |v| if v > 0.0 { v } else { v.exp_m1() });
    assert_function(unary(node("Selu")), |v| 1.050_701 * if v > 0.0 { v } else { 1.673_263_2 * v.exp_m1() });
    assert_function(unary(|b| b.node("LeakyRelu", "x", "y").float("alpha", 0.25)), |v| v.max(0.25 * v));
    assert_function(unary(|b| b.floats("s", &[3], &[0.5; 3]).node("PRelu", "x s", "y")), |v| v.max(0.5 * v));
    let gelu = |v: f32| UnaryOp::Gelu.eval(v.into()) as f32;
    assert_function(unary(node("Gelu")), gelu);
    let tanh = |v: f32| UnaryOp::GeluTanh.eval(v.into()) as f32;
    assert_function(unary(|b| b.node("Gelu", "x", "y").text("approximate", "tanh")), tanh);
    let clip = |b: Build| b.floats("a", &[], &[-1.0]).floats("b", &[], &[0.5]).node("Clip", "x a b", "y");
    assert_function(unary(clip), |v| v.clamp(-1.0, 0.5));
    assert_function(unary(|b| b.floats("b", &[], &[0.5]).node("Clip", "x _ b", "y")), |v| v.min(0.5));
}

#[test]
fn arithmetic_with_numbers_and_values() {
    let with = |op: &'static str, inputs: &'static str| {
        unary(move |b| b.floats("c", &[], &[4.0]).floats("row", &[3], &[4.0; 3]).node(op, inputs, "y"))
    };
    for c in ["c", "row"] {
        let inputs: &'static str = if c == "c" { "x c" } else { "x row" };
        let swapped: &'static str = if c == "c" { "c x" } else { "row x" };
        assert_function(with("Add", inputs), |v| v + 4.0);
        assert_function(with("Sub", inputs), |v| v - 4.0);
        assert_function(with("Sub", swapped), |v| 4.0 - v);
        assert_function(with("Mul", swapped), |v| v * 4.0);
        assert_function(with("Div", inputs), |v| v / 4.0);
        assert_function(with("Max", inputs), |v| v.max(4.0));
        assert_function(with("Min", swapped), |v| v.min(4.0));
    }
    let divided = |b: Build| b.floats("c", &[], &[4.0]).node("Exp", "x", "e").node("Div", "c e", "y");
    assert_function(unary(divided), |v| 4.0 / v.exp());
    assert_function(unary(|b| b.node("Relu", "x", "r").node("Sub", "x r", "y")), |v| v.min(0.0));
    assert_function(unary(|b| b.node("Neg", "x", "n").node("Max", "x n", "y")), f32::abs);
    assert_function(unary(|b| b.node("Neg", "x", "n").node("Sum", "x n x", "y")), |v| v);
    assert_function(unary(|b| b.node("Neg", "x", "n").node("Mean", "x n x", "y")), |v| v / 3.0);
    let power = |exponent: f32| unary(move |b| b.floats("p", &[], &[exponent]).node("Pow", "x p", "y"));
    assert_function(power(3.0), |v| v.powi(3));
    assert_function(power(2.0), |v| v * v);
}

#[test]
fn comparisons_and_choices() {
    let with = |op: &'static str| {
        unary(move |b| b.floats("c", &[], &[0.0]).node(op, "x c", "b").node("Cast", "b", "y").int("to", 1))
    };
    let bit = |b: bool| f32::from(u8::from(b));
    assert_function(with("Greater"), |v| bit(v > 0.0));
    assert_function(with("Less"), |v| bit(v < 0.0));
    assert_function(with("GreaterOrEqual"), |v| bit(v >= 0.0));
    assert_function(with("LessOrEqual"), |v| bit(v <= 0.0));
    assert_function(with("Equal"), |v| bit(v == 0.0));
    let logic = |op: &'static str| {
        unary(move |b| {
            b.floats("c", &[], &[0.0])
                .floats("d", &[], &[0.25])
                .node("Greater", "x c", "p")
                .node("Less", "x d", "q")
                .node(op, "p q", "r")
                .node("Not", "r", "s")
                .node("Cast", "s", "y")
                .int("to", 1)
        })
    };
    assert_function(logic("And"), |v| bit(!(v > 0.0 && v < 0.25)));
    assert_function(logic("Or"), |v| bit(!(v > 0.0 || v < 0.25)));
    assert_function(logic("Xor"), |v| bit((v > 0.0) == (v < 0.25)));
    let choose = |a: f32, b: f32| {
        unary(move |build| {
            build
                .floats("zero", &[], &[0.0])
                .floats("a", &[], &[a])
                .floats("b", &[1], &[b])
                .node("Greater", "x zero", "c")
                .node("Where", "c a b", "y")
        })
    };
    assert_eq!(choose(0.0, f32::NEG_INFINITY), X.map(|v| if v > 0.0 { 0.0 } else { f32::NEG_INFINITY }));
    assert_function(choose(2.0, -3.0), |v| if v > 0.0 { 2.0 } else { -3.0 });
    let known = |b: Build| {
        b.store(super::super::build::small("c", 9, &[3], &[1, 0, 1]))
            .floats("m", &[], &[-7.0])
            .node("Where", "c x m", "y")
    };
    assert_eq!(unary(known), [-2.0, -7.0, 0.0, 0.25, -7.0, 3.0]);
    // The logarithm has no value where it is not taken.
    let logarithm = |b: Build| {
        b.floats("zero", &[], &[0.0])
            .floats("m", &[], &[-7.0])
            .node("Greater", "x zero", "c")
            .node("Log", "x", "l")
            .node("Where", "c l m", "y")
    };
    assert_function(unary(logarithm), |v| if v > 0.0 { v.ln() } else { -7.0 });
    // Infinities where x is positive, beside numbers.
    let infinite = |op: &'static str| {
        move |b: Build| b.floats("k", &[], &[1e3]).node("Mul", "x k", "a").node("Exp", "a", "e").node(op, "e e", "q")
    };
    let compared = |op: &'static str| unary(move |b| infinite(op)(b).node("Cast", "q", "y").int("to", 1));
    for (op, expected) in [("Equal", 1.0), ("Greater", 0.0), ("Less", 0.0), ("LessOrEqual", 1.0)] {
        assert_function(compared(op), |_| expected);
    }
    let largest = unary(|b| infinite("Max")(b).node("Identity", "q", "y"));
    assert_eq!(largest[5], f32::INFINITY);
}

#[test]
fn movement() {
    // x is [2, 3] after a transpose of [3, 2], all static.
    let x = tensor(&[2, 3], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    let check = |build: Build, dims: &[usize], expected: &[f32]| {
        let graph = build.output("y").done(&[]);
        assert_values(&run(&graph, std::slice::from_ref(&x)), dims, expected);
    };
    let new = || Build::new(13).input("x", &["2", "3"]);
    check(new().node("Transpose", "x", "y"), &[3, 2], &[0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    check(new().ints("i", &[2], &[2, 0]).node("Gather", "x i", "y").int("axis", 1), &[2, 2], &[2.0, 0.0, 5.0, 3.0]);
    check(new().ints("i", &[], &[-1]).node("Gather", "x i", "y"), &[3], &[3.0, 4.0, 5.0]);
    check(new().ints("i", &[2, 1], &[0, 1]).node("Gather", "x i", "y"), &[2, 1, 3], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    let slice = new().ints("s", &[2], &[0, -2]).ints("e", &[2], &[1, 99]).node("Slice", "x s e", "y");
    check(slice, &[1, 2], &[1.0, 2.0]);
    let tile = new().ints("n", &[2], &[1, 2]).node("Tile", "x n", "y");
    check(tile, &[2, 6], &[0.0, 1.0, 2.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 3.0, 4.0, 5.0]);
    let split = new().ints("n", &[2], &[1, 2]).node("Split", "x n", "a b").int("axis", 1);
    check(split.node("Concat", "b a", "y").int("axis", 1), &[2, 3], &[1.0, 2.0, 0.0, 4.0, 5.0, 3.0]);
    check(new().node("Trilu", "x", "y").int("upper", 0), &[2, 3], &[0.0, 0.0, 0.0, 3.0, 4.0, 0.0]);
    let expand = new().ints("a", &[1], &[1]).ints("s", &[3], &[2, 2, 3]).node("Unsqueeze", "x a", "u");
    check(expand.node("Expand", "u s", "y"), &[2, 2, 3], &[0., 1., 2., 0., 1., 2., 3., 4., 5., 3., 4., 5.]);
    let old = Build::new(11).input("x", &["2", "3"]);
    let old = old.node("Unsqueeze", "x", "u").list("axes", &[0, 3]).node("Squeeze", "u", "y").list("axes", &[0]);
    check(old, &[2, 3, 1], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
}

#[test]
fn reductions() {
    let x = tensor(&[2, 3], &[1.0, -2.0, 2.0, 3.0, 0.0, -4.0]);
    let check = |op: &str, keep: i64, dims: &[usize], expected: &[f32]| {
        let build = Build::new(13).input("x", &["batch", "3"]);
        let build = if op == "ReduceSum" {
            build.ints("a", &[1], &[1]).node(op, "x a", "y")
        } else {
            build.node(op, "x", "y").list("axes", &[-1])
        };
        let graph = build.int("keepdims", keep).output("y").done(&[]);
        assert_values(&run(&graph, std::slice::from_ref(&x)), dims, expected);
    };
    check("ReduceSum", 0, &[2], &[1.0, -1.0]);
    check("ReduceMean", 1, &[2, 1], &[1.0 / 3.0, -1.0 / 3.0]);
    check("ReduceMax", 1, &[2, 1], &[2.0, 3.0]);
    check("ReduceMin", 0, &[2], &[-2.0, -4.0]);
    check("ReduceL1", 0, &[2], &[5.0, 7.0]);
    check("ReduceL2", 1, &[2, 1], &[3.0, 5.0]);
    check("ReduceSumSquare", 0, &[2], &[9.0, 25.0]);
}

#[test]
fn what_is_known_is_evaluated() {
    // y = x + c, where c comes from arithmetic on known values only.
    let check = |build: Build, expected: [f32; 3]| {
        let graph = build.node("Add", "x c", "y").output("y").done(&[]);
        assert!(ops(&graph).iter().all(|op| op.starts_with("add")), "{graph}");
        assert_values(&run(&graph, &[tensor(&[1, 3], &[0.0; 3])]), &[1, 3], &expected);
    };
    let new = || {
        Build::new(17).input("x", &["batch", "3"]).ints("three", &[], &[3]).ints("zero", &[], &[0]).ints(
            "one",
            &[],
            &[1],
        )
    };
    let float = |b: Build, name: &str| b.node("Cast", name, "c").int("to", 1);
    check(float(new().node("Range", "zero three one", "r"), "r"), [0.0, 1.0, 2.0]);
    let sum = new().node("Range", "zero three one", "r").node("CumSum", "r zero", "s");
    check(float(sum, "s"), [0.0, 1.0, 3.0]);
    let m = new().ints("m", &[2, 3], &[5, 6, 7, 1, 2, 3]);
    check(float(m.clone().node("ReduceMax", "m", "r").list("axes", &[0]).int("keepdims", 0), "r"), [5.0, 6.0, 7.0]);
    check(float(m.clone().node("ReduceMean", "m", "r").list("axes", &[0]), "r"), [3.0, 4.0, 5.0]);
    let g = m.ints("i", &[1, 3], &[1, 0, -1]).node("GatherElements", "m i", "r").int("axis", 0);
    check(float(g, "r"), [1.0, 6.0, 3.0]);
    let mixed =
        new().ints("a", &[3], &[-7, 7, 4]).ints("b", &[1], &[2]).node("Div", "a b", "d").node("Mod", "a b", "m");
    check(float(mixed.node("Sub", "d m", "r"), "r"), [-4.0, 2.0, 2.0]);
    let back = new().ints("a", &[3], &[1, 2, 3]).ints("s", &[1], &[-1]).ints("e", &[1], &[-9]).ints("st", &[1], &[-1]);
    check(float(back.node("Slice", "a s e zero1 st", "r").ints("zero1", &[1], &[0]), "r"), [3.0, 2.0, 1.0]);
    let tri = new().floats("f", &[3, 3], &[1.0; 9]).node("Trilu", "f", "t").int("upper", 0);
    check(tri.node("ReduceSum", "t one1", "c").int("keepdims", 0).ints("one1", &[1], &[1]), [1.0, 2.0, 3.0]);
    let f = Build::new(17).input("x", &["batch", "3"]).floats("f", &[3], &[0.0, 1.0, 4.0]);
    check(f.node("Sqrt", "f", "s").node("Neg", "s", "c"), [0.0, -1.0, -2.0]);
}

#[test]
fn constants_in_every_form() {
    use super::super::build::{floats, ints};
    let check = |build: Build| {
        let graph = build.node("Add", "x c", "y").output("y").done(&[]);
        assert_values(&run(&graph, &[tensor(&[1, 2], &[0.0; 2])]), &[1, 2], &[3.0, 3.0]);
    };
    let new = || Build::new(17).input("x", &["batch", "2"]);
    let cast = |b: Build| b.node("Cast", "i", "c").int("to", 1);
    check(new().node("Constant", "", "c").tensor("value", floats("", &[2], &[3.0, 3.0])));
    check(new().node("Constant", "", "c").float("value_float", 3.0));
    check(cast(new().node("Constant", "", "i").int("value_int", 3)));
    check(cast(new().node("Constant", "", "i").list("value_ints", &[3, 3])));
    let filled = new().ints("s", &[1], &[2]).node("ConstantOfShape", "s", "i").tensor("value", ints("", &[1], &[3]));
    check(cast(filled));
}

#[test]
fn every_type_is_read() {
    use super::super::build::small;
    use super::super::proto::{TensorProto, data_type as ty};
    use prost::bytes::Bytes;
    let check = |store: TensorProto| {
        let build = Build::new(21).input("x", &["batch", "2"]).store(store).node("Cast", "c", "f").int("to", 1);
        let graph = build.node("Add", "x f", "y").output("y").done(&[]);
        assert_values(&run(&graph, &[tensor(&[1, 2], &[0.0; 2])]), &[1, 2], &[1.0, 3.0]);
    };
    let raw = |data_type, bytes: &[u8]| TensorProto {
        name: "c".to_owned(),
        dims: vec![2],
        data_type,
        raw_data: Bytes::copy_from_slice(bytes),
        ..TensorProto::default()
    };
    for data_type in [ty::INT8, ty::UINT8, ty::INT16, ty::UINT16, ty::INT32] {
        check(small("c", data_type, &[2], &[1, 3]));
    }
    check(small("c", ty::FLOAT16, &[2], &[0x3c00, 0x4200]));
    check(small("c", ty::BFLOAT16, &[2], &[0x3f80, 0x4040]));
    check(small("c", ty::UINT4, &[2], &[0x31]));
    check(raw(ty::INT4, &[0x31]));
    check(raw(ty::INT8, &[1, 3]));
    check(raw(ty::UINT16, &[1, 0, 3, 0]));
    check(raw(ty::UINT32, &[1, 0, 0, 0, 3, 0, 0, 0]));
    check(raw(ty::INT64, &[1, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]));
    check(raw(ty::UINT64, &[1, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]));
    check(raw(ty::FLOAT16, &[0x00, 0x3c, 0x00, 0x42]));
    check(raw(ty::BFLOAT16, &[0x80, 0x3f, 0x40, 0x40]));
    check(raw(ty::FLOAT, &[0, 0, 0x80, 0x3f, 0, 0, 0x40, 0x40]));
    check(raw(ty::DOUBLE, &[0, 0, 0, 0, 0, 0, 0xf0, 0x3f, 0, 0, 0, 0, 0, 0, 0x08, 0x40]));
}

#[test]
fn casts_to_16_bits_round_at_run_time() {
    use super::super::build::{small, value};
    use super::super::proto::data_type as ty;
    let of_type = |data_type| {
        let mut build = Build::new(17);
        build.graph().input.push(value("x", data_type, &["batch", "4"]));
        build
    };
    let given = [70_000.0, 0.1, -65_519.0, 2049.0];
    let types = [
        (ty::FLOAT16, "round_f16", [f32::INFINITY, 0.099_975_586, -65_504.0, 2048.0]),
        (ty::BFLOAT16, "round_bf16", [70_144.0, 0.100_097_656, -65_536.0, 2048.0]),
    ];
    for (to, name, expected) in types {
        let cast = |build: Build, from: &str, output: &str| build.node("Cast", from, output).int("to", to.into());
        let check = |build: Build| {
            let graph = build.output("y").done(&[]);
            assert_eq!(ops(&graph), [name]);
            assert_eq!(run(&graph, &[tensor(&[1, 4], &given)]).as_f32(), Some(&expected[..]), "{name}");
        };
        for data_type in [ty::FLOAT, ty::DOUBLE] {
            let new = || of_type(data_type);
            check(cast(new(), "x", "y"));
            check(cast(new(), "x", "h").node("Cast", "h", "y").int("to", ty::FLOAT.into()));
            check(cast(cast(new(), "x", "h"), "h", "y"));
            check(new().store(small("like", to, &[1], &[0])).node("CastLike", "x like", "y"));
        }
        let integers = of_type(ty::INT32);
        let y = run(
            &cast(integers, "x", "y").output("y").done(&[]),
            &[Tensor::from_i32(&[1, 4], vec![70_000, 0, -65_519, 2049]).expect("lengths fit")],
        );
        assert_eq!(y.as_f32(), Some(&[expected[0], 0.0, expected[2], expected[3]][..]), "{name} of integers");
        let booleans = of_type(ty::BOOL);
        assert!(!ops(&cast(booleans, "x", "y").output("y").done(&[])).contains(&name));
    }
}

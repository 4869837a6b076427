//! Integers: every operator with every type of ONNX either computes what the type holds, or is refused by name.

use super::super::OnnxError;
use super::super::build::{small, value};
use super::super::proto::{TensorProto, data_type as ty};
use super::*;
use crate::interp::InterpError;

const TYPES: [(i32, i128, i128); 8] = [
    (ty::INT8, -128, 127),
    (ty::UINT8, 0, 255),
    (ty::INT16, -32_768, 32_767),
    (ty::UINT16, 0, 65_535),
    (ty::INT32, -2_147_483_648, 2_147_483_647),
    (ty::UINT32, 0, 4_294_967_295),
    (ty::INT64, i64::MIN as i128, i64::MAX as i128),
    (ty::UINT64, 0, u64::MAX as i128),
];

const BINARY: [&str; 14] = [
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Mod",
    "Min",
    "Max",
    "Equal",
    "Less",
    "LessOrEqual",
    "Greater",
    "GreaterOrEqual",
    "Where",
    "Pow",
];
const UNARY: [&str; 6] = ["Neg", "Abs", "Sign", "Relu", "Clip", "Cast"];
const REDUCE: [&str; 8] =
    ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceProd"];

fn wrapped(v: i128, data_type: i32) -> i128 {
    let (_, low, high) = TYPES.into_iter().find(|of| of.0 == data_type).expect("a type of integers");
    v.wrapping_sub(low).rem_euclid(high - low + 1) + low
}

/// The result of an operator on two numbers by ONNX, before it wraps around; `None` where it is not defined.
fn binary(op: &str, a: i128, b: i128) -> Option<i128> {
    Some(match op {
        "Add" => a + b,
        "Sub" => a - b,
        "Mul" => a * b,
        "Div" => a.checked_div(b)?,
        "Mod" => {
            let r = a.checked_rem(b)?;
            if r * b < 0 { r + b } else { r }
        }
        "Min" => a.min(b),
        "Max" => a.max(b),
        "Equal" => (a == b).into(),
        "Less" => (a < b).into(),
        "LessOrEqual" => (a <= b).into(),
        "Greater" => (a > b).into(),
        "GreaterOrEqual" => (a >= b).into(),
        // The condition is that b is even.
        "Where" => {
            if b % 2 == 0 {
                a
            } else {
                b
            }
        }
        // 128 bits are enough, since results wrap around.
        _ => a.wrapping_pow(3),
    })
}

fn unary(op: &str, a: i128) -> i128 {
    match op {
        "Neg" => -a,
        "Abs" => a.abs(),
        "Sign" => a.signum(),
        "Relu" => a.max(0),
        "Clip" => a.clamp(3, 100),
        _ => a,
    }
}

/// The result of a reduction of three numbers. The sum of a mean wraps around before the division.
fn reduced(op: &str, of: &[i128], data_type: i32) -> i128 {
    match op {
        "ReduceSum" => of.iter().sum(),
        "ReduceMean" => wrapped(of.iter().sum(), data_type) / of.len() as i128,
        "ReduceMax" => of.iter().copied().max().expect("three"),
        "ReduceMin" => of.iter().copied().min().expect("three"),
        "ReduceL1" => of.iter().map(|v| v.abs()).sum(),
        "ReduceL2" => of.iter().map(|v| v.unsigned_abs().pow(2)).sum::<u128>().isqrt() as i128,
        "ReduceSumSquare" => of.iter().map(|v| v.unsigned_abs().pow(2)).sum::<u128>() as i128,
        _ => of.iter().fold(1, |product, v| wrapped(product * v, data_type)),
    }
}

pub(super) fn stored(name: &str, data_type: i32, dims: &[i64], values: &[i128]) -> TensorProto {
    let bytes = match data_type {
        ty::BOOL | ty::INT8 | ty::UINT8 => 1,
        ty::INT16 | ty::UINT16 => 2,
        ty::INT32 | ty::UINT32 => 4,
        _ => 8,
    };
    let raw_data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()[..bytes].to_vec()).collect();
    TensorProto { raw_data: raw_data.into(), ..small(name, data_type, dims, &[]) }
}

const ROWS: usize = 4;
const COLS: usize = 3;

/// One operator on integers `a` and `b` of a type, both `[4, 3]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Case {
    op: &'static str,
    data_type: i32,
    /// The type that a cast converts to.
    to: i32,
}

impl Case {
    fn all() -> Vec<Self> {
        let mut cases = Vec::new();
        for (data_type, ..) in TYPES {
            let case = |op| Self { op, data_type, to: data_type };
            cases.extend([&BINARY[..], &UNARY[..5], &REDUCE[..]].concat().into_iter().map(case));
            cases.extend(TYPES.map(|(to, ..)| Self { to, ..case("Cast") }));
        }
        cases
    }

    fn is_comparison(self) -> bool {
        matches!(self.op, "Equal" | "Less" | "LessOrEqual" | "Greater" | "GreaterOrEqual")
    }

    fn result_type(self) -> i32 {
        if self.is_comparison() { ty::BOOL } else { self.to }
    }

    /// The results before they wrap around, or none if one is not defined.
    fn exact(self, a: &[i128], b: &[i128]) -> Option<Vec<i128>> {
        if self.op.starts_with("Reduce") {
            return Some(a.chunks(COLS).map(|of| reduced(self.op, of, self.data_type)).collect());
        }
        let each = |(&a, &b)| if BINARY.contains(&self.op) { binary(self.op, a, b) } else { Some(unary(self.op, a)) };
        a.iter().zip(b).map(each).collect()
    }

    fn expected(self, exact: &[i128]) -> Vec<i128> {
        let wrap = |&v: &i128| if self.is_comparison() { v } else { wrapped(v, self.result_type()) };
        exact.iter().map(wrap).collect()
    }

    /// The node `y`, and what it needs beside `a` and `b`.
    fn build(self, build: Build) -> Build {
        let number = |name: &str, v: i128| stored(name, self.data_type, &[], &[v]);
        match self.op {
            "Pow" => build.store(number("three", 3)).node("Pow", "a three", "y"),
            "Where" => {
                let build = build.store(number("two", 2)).node("Div", "b two", "half").node("Mul", "half two", "even");
                build.node("Equal", "b even", "c").node("Where", "c a b", "y")
            }
            "Clip" => build.store(number("low", 3)).store(number("high", 100)).node("Clip", "a low high", "y"),
            "Cast" => build.node("Cast", "a", "y").int("to", self.to.into()),
            op if op.starts_with("Reduce") => build.ints("axes", &[1], &[1]).node(op, "a axes", "y").int("keepdims", 0),
            op if UNARY.contains(&op) => build.node(op, "a", "y"),
            op => build.node(op, "a b", "y"),
        }
    }

    /// The results at run time.
    fn run(self, a: &[i128], b: &[i128]) -> Result<Result<Vec<i128>, InterpError>, OnnxError> {
        let mut build = Build::new(21);
        // Inputs of int8 are quantized values, so that int64 is cast to int8 instead.
        let given = if self.data_type == ty::INT8 { ty::INT64 } else { self.data_type };
        for name in ["a", "b"] {
            if given == self.data_type {
                build.graph().input.push(value(name, given, &["4", "3"]));
            } else {
                let given_name = format!("{name}.given");
                build.graph().input.push(value(&given_name, given, &["4", "3"]));
                build = build.node("Cast", &given_name, name).int("to", self.data_type.into());
            }
        }
        let graph = self.build(build).output("y").import(&[])?;
        let tensor = |values: &[i128]| {
            let values = values.iter().map(|&v| i32::try_from(v).expect("of 32 bits")).collect();
            Tensor::from_i32(&[ROWS, COLS], values).expect("as many as the shape says")
        };
        Ok(Interpreter::new(&graph).run(&[tensor(a), tensor(b)]).map(|outputs| match &outputs[0] {
            Tensor::I32(y) => y.iter().map(|&v| v.into()).collect(),
            y => y.as_f32().expect("booleans").iter().map(|&v| v as i128).collect(),
        }))
    }

    /// Whether the results that are computed while importing are these.
    fn folds_to(self, a: &[i128], b: &[i128], expected: &[i128]) -> Result<bool, OnnxError> {
        let dims: &[i64] = if self.op.starts_with("Reduce") { &[ROWS as i64] } else { &[ROWS as i64, COLS as i64] };
        let build = Build::new(21).input("x", &["1"]);
        let build = [("a", a), ("b", b)].into_iter().fold(build, |build, (name, values)| {
            build.store(stored(name, self.data_type, &[ROWS as i64, COLS as i64], values))
        });
        let build = self.build(build).store(stored("e", self.result_type(), dims, expected));
        let build = build.node("Equal", "y e", "same").node("Cast", "same", "out").int("to", 1);
        let y = run(&build.output("out").import(&[])?, &[tensor(&[1], &[0.0])]);
        Ok(y.as_f32().expect("floats").iter().all(|&v| v == 1.0))
    }
}

/// Operands between two bounds, some of them next to these.
fn operands(seed: &mut u64, low: i128, high: i128, nonzero: bool) -> Vec<i128> {
    let mut random = || {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        i128::from(*seed >> 33)
    };
    let mut operand = |at: usize| match (random() % 4, at) {
        (0, _) => low,
        (1, _) => high,
        _ => low + (random() << 32 | random()) % (high - low + 1),
    };
    let values = (0..ROWS * COLS).map(&mut operand);
    values.map(|v| if nonzero && v == 0 { 1 } else { v }).collect()
}

/// No value here is beyond what arithmetic in 32 bits holds, so that nothing may be refused while running.
#[test]
fn integers_are_exact_or_refused_by_name() {
    let (mut seed, mut refused) = (1, Vec::new());
    for case in Case::all() {
        let (_, low, high) = TYPES.into_iter().find(|of| of.0 == case.data_type).expect("listed");
        let [low, high] = [low.max(-1000), high.min(1000)];
        for _ in 0..4 {
            let (a, b) = (operands(&mut seed, low, high, false), operands(&mut seed, low, high, true));
            let expected = case.expected(&case.exact(&a, &b).expect("defined"));
            match case.folds_to(&a, &b, &expected) {
                Ok(same) => assert!(same, "{case:?} {a:?} {b:?}"),
                // Numbers are kept in i64.
                Err(error) => assert!(expected.iter().any(|v| i64::try_from(*v).is_err()), "{case:?}: {error}"),
            }
            match case.run(&a, &b) {
                Ok(y) => assert_eq!(y.as_ref(), Ok(&expected), "{case:?} {a:?} {b:?}"),
                Err(error) => {
                    let (op, text) = (case.op, error.to_string());
                    assert!(text.contains(&format!("({op})")), "{case:?}: {text}");
                    refused.push(case);
                    break;
                }
            }
        }
    }
    let is_refused = |case: &Case| match case.op {
        "ReduceProd" | "ReduceL2" => true,
        "Sub" | "Neg" => matches!(case.data_type, ty::UINT32 | ty::UINT64),
        "Cast" => {
            let from_signed = matches!(case.data_type, ty::INT8 | ty::INT16 | ty::INT32 | ty::INT64);
            from_signed && matches!(case.to, ty::UINT32 | ty::UINT64)
        }
        _ => false,
    };
    assert_eq!(refused, Case::all().into_iter().filter(is_refused).collect::<Vec<_>>());
}

/// At the ends of a type, arithmetic wraps around where 32 bits hold the type, and is refused where they do not.
#[test]
fn integers_at_the_ends_of_their_types() {
    let (mut seed, mut wrapped_around) = (2, 0);
    for case in Case::all() {
        let (_, low, high) = TYPES.into_iter().find(|of| of.0 == case.data_type).expect("listed");
        let wide = matches!(case.data_type, ty::UINT32 | ty::INT64 | ty::UINT64);
        for _ in 0..4 {
            // Known numbers beyond what i64 holds cannot be there.
            let [a, b] = [(); 2].map(|()| operands(&mut seed, low, high.min(i64::MAX.into()), false));
            match case.exact(&a, &b) {
                Some(exact) => {
                    let expected = case.expected(&exact);
                    match case.folds_to(&a, &b, &expected) {
                        Ok(same) => assert!(same, "{case:?} {a:?} {b:?}"),
                        // 64 bits do not wrap around, and products may need more than twice as many.
                        Err(error) => assert!(
                            matches!(case.result_type(), ty::INT64 | ty::UINT64) || case.op == "ReduceProd" || wide,
                            "{case:?} {a:?} {b:?}: {error}"
                        ),
                    }
                }
                None => assert!(case.folds_to(&a, &b, &[0; ROWS * COLS]).is_err(), "{case:?} {a:?} {b:?}"),
            }
            let [low, high] = [low.max(i32::MIN.into()), high.min(i32::MAX.into())];
            let [a, b] = [(); 2].map(|()| operands(&mut seed, low, high, false));
            let Ok(y) = case.run(&a, &b) else { continue };
            let exact = case.exact(&a, &b);
            match (y, exact) {
                (Ok(y), Some(exact)) => {
                    assert_eq!(y, case.expected(&exact), "{case:?} {a:?} {b:?}");
                    wrapped_around += usize::from(y != exact);
                }
                (Ok(y), None) => panic!("{case:?} {a:?} {b:?}: {y:?} of a division by 0"),
                (Err(InterpError::NoInteger { .. }), None) => {}
                (Err(InterpError::NoInteger { .. }), Some(_)) => {
                    // A mask of the choice is made by a product.
                    assert!(wide, "{case:?} {a:?} {b:?}");
                }
                (Err(error), _) => panic!("{case:?}: {error}"),
            }
        }
    }
    assert!(wrapped_around > 20, "{wrapped_around}");
}

/// Roots are off by one in floats.
#[test]
fn roots_of_integers() {
    let build = Build::new(17).floats("half", &[], &[0.5]).ids("a", &["batch", "8"]).node("Pow", "a half", "y");
    let graph = build.output("y").done(&[]);
    let squares = [46_339, 46_340, 1, 4096, 4097];
    let around: Vec<i32> = squares.iter().flat_map(|s: &i32| [s * s - 1, s * s, s * s + 1]).chain([i32::MAX]).collect();
    let y = run(&graph, &[Tensor::from_i32(&[2, 8], around.clone()).expect("sixteen")]);
    let expected: Vec<i32> = around.iter().map(|v| v.isqrt()).collect();
    assert_eq!(y.as_i32(), Some(&expected[..]));
}

/// Floats become integers without their fraction; anything but 0 is true.
#[test]
fn casts_of_floats() {
    let cast = |to: i32| Build::new(17).input("x", &["batch", "4"]).node("Cast", "x", "y").int("to", to.into());
    let x = tensor(&[1, 4], &[1.9, -1.9, 300.7, 0.0]);
    for (to, expected) in [(ty::INT64, [1, -1, 300, 0]), (ty::UINT8, [1, 255, 44, 0]), (ty::INT8, [1, -1, 44, 0])] {
        let y = run(&cast(to).output("y").done(&[]), std::slice::from_ref(&x));
        assert_eq!(y.as_i32(), Some(&expected[..]), "{to}");
    }
    let graph = cast(ty::INT64).output("y").done(&[]);
    for beyond in [3e9, f32::NAN, f32::NEG_INFINITY] {
        let error = Interpreter::new(&graph).run(&[tensor(&[1, 4], &[0.0, beyond, 0.0, 0.0])]).expect_err("no integer");
        assert_eq!(error, InterpError::NoInteger { node: "y".to_owned(), index: 1 }, "{beyond}");
    }
    let y = run(&cast(ty::BOOL).output("y").done(&[]), &[tensor(&[1, 4], &[f32::NAN, f32::from_bits(1), -0.0, -2.0])]);
    assert_eq!(y.as_f32(), Some(&[1.0, 1.0, 0.0, 1.0][..]));
}

/// Types of floats that are kept in 32 bits.
#[test]
fn floats_of_other_widths() {
    let known = |c: TensorProto| Build::new(17).input("x", &["3"]).store(c);
    let wide = |values: &[f64]| {
        let (dims, double_data) = (vec![values.len() as i64], values.to_vec());
        TensorProto { dims, double_data, name: "c".to_owned(), data_type: ty::DOUBLE, ..TensorProto::default() }
    };
    let error =
        known(wide(&[1.0, -1e300, 2.0])).node("Add", "x c", "y").output("y").import(&[]).expect_err("too large");
    assert!(error.to_string().contains("element 1 is -1e300, which does not fit f32"), "{error}");
    let product = known(wide(&[1e30, 1.0, 2.0])).node("Mul", "c c", "d").node("Add", "x d", "y").output("y");
    assert!(product.import(&[]).expect_err("too large").to_string().contains("too large for 32"));
    let infinite = known(wide(&[f64::INFINITY, 1.0, 2.0])).node("Mul", "c c", "d").node("Add", "x d", "y").output("y");
    assert_eq!(run(&infinite.done(&[]), &[tensor(&[3], &[0.0; 3])]).as_f32(), Some(&[f32::INFINITY, 1.0, 4.0][..]));
    let c = super::super::build::floats("c", &[3], &[0.1, 70_000.0, -65_519.0]);
    for (to, expected) in
        [(ty::FLOAT16, [0.099_975_586, f32::INFINITY, -65_504.0]), (ty::BFLOAT16, [0.100_097_656, 70_144.0, -65_536.0])]
    {
        let build = known(c.clone()).node("Cast", "c", "h").int("to", to.into()).node("Cast", "h", "d").int("to", 1);
        let y = run(&build.node("Add", "x d", "y").output("y").done(&[]), &[tensor(&[3], &[0.0; 3])]);
        assert_eq!(y.as_f32(), Some(&expected[..]), "{to}");
    }
}

/// Known inputs are evaluated only for attributes that the evaluation supports.
#[test]
fn known_values_that_are_not_folded() {
    let known = || Build::new(17).input("x", &["3"]).floats("c", &[3], &[5.0, -5.0, 7.0]).floats("d", &[], &[3.0]);
    let add = |build: Build| build.node("Add", "x e", "y").output("y");
    let training = |on: i32| {
        let flag = small("t", ty::BOOL, &[], &[on]);
        add(known().store(flag).floats("ratio", &[], &[0.5]).node("Dropout", "c ratio t", "e"))
    };
    assert!(training(1).import(&[]).expect_err("random").to_string().contains("in training"));
    assert!(training(0).import(&[]).is_ok());
    let error = add(known().node("Mod", "c d", "e")).import(&[]).expect_err("a remainder");
    assert!(error.to_string().contains("fmod 0"), "{error}");
    let fmod = add(known().node("Mod", "c d", "e").int("fmod", 1)).done(&[]);
    assert_eq!(run(&fmod, &[tensor(&[3], &[0.0; 3])]).as_f32(), Some(&[2.0, -2.0, 1.0][..]));
    for (opset, fits) in [(11, false), (13, false), (18, true)] {
        let split = |from: &str| {
            let build = Build::new(opset).input("x", &["3"]).floats("c", &[3], &[5.0, -5.0, 7.0]);
            build.node("Split", from, "p q").node("Relu", "p", "y").output("y").import(&[])
        };
        assert_eq!([split("x").is_ok(), split("c").is_ok()], [fits; 2], "{opset}");
    }
}

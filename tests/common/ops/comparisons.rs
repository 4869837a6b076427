//! Examples of functions of two floats, and of the sign.

use enfold::Shape;
use enfold::ops::{BinaryOp, Mask, UnaryOp};

use super::{OpCase, case, f32s};

/// Rows of [`table`](super::table).
pub(super) fn table() -> Vec<OpCase> {
    let (nan, infinity, subnormal) = (f32::NAN, f32::INFINITY, f32::from_bits(1));
    let a = [1.0, nan, -0.0, infinity, -2.0, subnormal, 3.0, 3.0];
    let b = [2.0, 0.0, 0.0, infinity, -3.0, 0.0, nan, 3.0];
    let vectors = |name, op, expected: [f32; 8]| {
        case(
            name,
            |g| {
                let [a, b] = ["a", "b"].map(|name| g.input(name, Shape::rows(4)).expect("an input"));
                g.binary("y", op, a, b)
            },
            vec![f32s(&[2, 4], &a), f32s(&[2, 4], &b)],
            f32s(&[2, 4], &expected),
            true,
        )
    };
    let mask = |name, inverted, expected: [f32; 8]| {
        case(
            name,
            |g| {
                let [x, mask] = ["x", "mask"].map(|name| g.input(name, Shape::rows(4)).expect("an input"));
                g.node("y", Mask { inverted }, &[x, mask])
            },
            vec![f32s(&[2, 4], &a), f32s(&[2, 4], &[1.0, 0.0, nan, 0.0, -0.0, subnormal, -2.0, 0.0])],
            f32s(&[2, 4], &expected),
            true,
        )
    };
    vec![
        mask("mask", false, [1.0, -0.0, -0.0, -0.0, -0.0, subnormal, 3.0, -0.0]),
        mask("mask, inverted", true, [-0.0, nan, -0.0, infinity, -2.0, -0.0, -0.0, 3.0]),
        vectors("equal", BinaryOp::Equal, [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0]),
        vectors("less", BinaryOp::Less, [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]),
        vectors("less_or_equal", BinaryOp::LessOrEqual, [1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0]),
        vectors("maximum", BinaryOp::Maximum, [2.0, nan, -0.0, infinity, -2.0, subnormal, nan, 3.0]),
        vectors("minimum", BinaryOp::Minimum, [1.0, nan, -0.0, infinity, -3.0, 0.0, nan, 3.0]),
        case(
            "maximum, a column with a row",
            |g| {
                let a = g.input("a", Shape::batched(&[2, 1]))?;
                let b = g.constant("b", f32s(&[3], &[-1.0, 0.5, 7.0]))?;
                g.binary("y", BinaryOp::Maximum, a, b)
            },
            vec![f32s(&[1, 2, 1], &[0.5, -3.0])],
            f32s(&[1, 2, 3], &[0.5, 0.5, 7.0, -1.0, 0.5, 7.0]),
            true,
        ),
        case(
            "sign",
            |g| {
                let x = g.input("x", Shape::rows(4))?;
                g.unary("y", UnaryOp::Sign, x)
            },
            vec![f32s(&[2, 4], &[-subnormal, subnormal, -0.0, nan, 5.0, -infinity, 0.0, infinity])],
            f32s(&[2, 4], &[-1.0, 1.0, -0.0, nan, 1.0, -1.0, 0.0, 1.0]),
            true,
        ),
    ]
}

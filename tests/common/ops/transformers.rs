//! Examples of what transformers need beside products and norms: masks, pooling, slices, and functions that their exports are
//! made of.

use enfold::ops::{Pad, UnaryOp};
use enfold::values::DType;
use enfold::{GraphBuilder, Shape, Tensor};

use super::{OpCase, case, f32s};

/// Rows of [`table`](super::table).
pub(super) fn table() -> Vec<OpCase> {
    [functions(), arithmetic(), choices(), slices()].into_iter().flatten().collect()
}

fn x(g: &mut GraphBuilder, dims: &[usize]) -> enfold::graph::NodeId {
    g.input("x", Shape::batched(dims)).expect("an input")
}

/// One function on a row that fills whole vectors of the device, and on one that does not.
fn function(name: [&'static str; 2], op: UnaryOp, x_values: [f32; 4], y_values: [f32; 4], exact: bool) -> [OpCase; 2] {
    [4, 3].map(|n| {
        case(
            name[4 - n],
            |g| {
                let x = x(g, &[n]);
                g.unary("y", op, x)
            },
            vec![f32s(&[1, n], &x_values[..n])],
            f32s(&[1, n], &y_values[..n]),
            exact,
        )
    })
}

/// Lists cases of functions of one element. Python's `math` computed the results, which are rounded.
fn functions() -> Vec<OpCase> {
    let infinity = f32::INFINITY;
    // A driver may take it for 0.
    let subnormal = f32::from_bits(1);
    [
        function(
            ["sqrt", "sqrt of three"],
            UnaryOp::Sqrt,
            [2.0, 0.0, 1e-6, 9.0],
            [std::f32::consts::SQRT_2, 0.0, 1e-3, 3.0],
            false,
        ),
        function(
            ["exp", "exp of three"],
            UnaryOp::Exp,
            [1.0, -2.5, -1e4, 0.0],
            [std::f32::consts::E, 0.082_085, 0.0, 1.0],
            false,
        ),
        function(
            ["log", "log of three"],
            UnaryOp::Log,
            [2.0, 0.01, 1.0, 3e4],
            [std::f32::consts::LN_2, -4.605_170_2, 0.0, 10.308_952],
            false,
        ),
        function(
            ["erf", "erf of three"],
            UnaryOp::Erf,
            [0.5, -infinity, -1.25, 0.0],
            [0.520_499_9, -1.0, -0.922_900_13, 0.0],
            false,
        ),
        function(
            ["abs", "abs of three"],
            UnaryOp::Abs,
            [-1.5, -infinity, -0.0, -subnormal],
            [1.5, infinity, 0.0, subnormal],
            true,
        ),
        function(
            ["step", "step of three"],
            UnaryOp::Step,
            [subnormal, -0.0, -3.0, infinity],
            [1.0, 0.0, 0.0, 1.0],
            true,
        ),
        function(
            ["step of what is no number", "step of what is no number, of three"],
            UnaryOp::Step,
            [f32::NAN, -f32::NAN, f32::from_bits(0x7f80_0001), -subnormal],
            [0.0, 0.0, 0.0, 0.0],
            true,
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn arithmetic() -> Vec<OpCase> {
    let infinity = f32::INFINITY;
    let clamp = |name, min, max, expected: &[f32]| {
        let n = expected.len();
        let x_values = [-2.0, 0.5, 3.0, -0.0];
        case(
            name,
            |g| {
                let x = x(g, &[n]);
                g.clamp("y", x, min, max)
            },
            vec![f32s(&[1, n], &x_values[..n])],
            f32s(&[1, n], expected),
            true,
        )
    };
    let sum = |name, axis, shape: &[usize], expected: &[f32]| {
        case(
            name,
            |g| {
                let x = x(g, &[2, 3]);
                g.sum("y", x, axis)
            },
            vec![f32s(&[2, 2, 3], &[1.0, -2.0, 3.0, 0.5, 5.0, -6.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0])],
            f32s(shape, expected),
            false,
        )
    };
    vec![
        case(
            "div of two",
            |g| {
                let a = x(g, &[4]);
                let b = g.input("b", Shape::rows(4))?;
                g.div("y", a, b)
            },
            vec![f32s(&[1, 4], &[1.0, -2.0, 3.0, 0.0]), f32s(&[1, 4], &[4.0, 0.5, -3.0, 7.0])],
            f32s(&[1, 4], &[0.25, -4.0, -1.0, 0.0]),
            false,
        ),
        case(
            "div, a row by a column",
            |g| {
                let a = x(g, &[2, 3]);
                let b = g.input("b", Shape::batched(&[2, 1]))?;
                g.div("y", a, b)
            },
            vec![f32s(&[1, 2, 3], &[1.0, -2.0, 3.0, 0.5, 5.0, -6.0]), f32s(&[1, 2, 1], &[2.0, -0.5])],
            f32s(&[1, 2, 3], &[0.5, -1.0, 1.5, -1.0, -10.0, 12.0]),
            false,
        ),
        case(
            "div of a constant by a column",
            |g| {
                let a = g.constant("a", f32s(&[1, 2], &[1.0, 3.0]))?;
                let b = x(g, &[1]);
                g.div("y", a, b)
            },
            vec![f32s(&[2, 1], &[4.0, -0.5])],
            f32s(&[2, 2], &[0.25, 0.75, -2.0, -6.0]),
            false,
        ),
        clamp("clamp", -1.0, 2.0, &[-1.0, 0.5, 2.0, -0.0]),
        clamp("clamp of three", 0.0, 0.25, &[0.0, 0.25, 0.25]),
        clamp("clamp from below only", 0.75, infinity, &[0.75, 0.75, 3.0, 0.75]),
        clamp("clamp from above only", -infinity, -0.0, &[-2.0, -0.0, -0.0]),
        clamp("clamp that changes nothing", -infinity, infinity, &[-2.0, 0.5, 3.0, -0.0]),
        sum("sum over an inner axis", 1, &[2, 3], &[1.5, 3.0, -3.0, 3.0, 3.0, 3.0]),
        sum("sum over the last axis", 2, &[2, 2], &[2.0, -0.5, 3.0, 6.0]),
        case(
            "sum of more than a block, to a column",
            |g| {
                let x = x(g, &[100]);
                g.sum("y", x, 1)
            },
            vec![f32s(&[2, 100], &(0..200u8).map(|i| f32::from(i) - 60.5).collect::<Vec<_>>())],
            f32s(&[2], &[-1100.0, 8900.0]),
            false,
        ),
        to_float("to_float", &[3], &[-5, 0, 7, 1, -1, 3], &[-5.0, 0.0, 7.0, 1.0, -1.0, 3.0]),
        // Halfway between two floats, to the even one: above 2^24 every second, above 2^25 every fourth integer is a float.
        to_float(
            "to_float of integers that no float holds",
            &[4],
            &[
                (1 << 24) + 1,
                (1 << 24) + 3,
                -(1 << 24) - 1,
                (1 << 25) + 2,
                (1 << 25) + 3,
                (1 << 25) + 6,
                i32::MAX,
                i32::MIN,
                (1 << 25) - 1,
                i32::MAX - 64,
                i32::MAX - 63,
                -i32::MAX,
            ],
            &[
                16_777_216.0,
                16_777_220.0,
                -16_777_216.0,
                33_554_432.0,
                33_554_436.0,
                33_554_440.0,
                2_147_483_648.0,
                -2_147_483_648.0,
                33_554_432.0,
                2_147_483_520.0,
                2_147_483_648.0,
                -2_147_483_648.0,
            ],
        ),
        case(
            "a mask over the tokens of a mean",
            |g| {
                let h = x(g, &[3, 2]);
                let mask = g.typed_input("mask", Shape::batched(&[3]), DType::I32)?;
                let mask = g.to_float("float", mask)?;
                let counts = g.sum("count", mask, 1)?;
                let counts = g.clamp("some", counts, 1e-9, f32::INFINITY)?;
                let counts = g.reshape("counts", counts, &[1])?;
                let mask = g.reshape("column", mask, &[3, 1])?;
                let h = g.mul("masked", h, mask)?;
                let h = g.sum("sums", h, 1)?;
                g.div("y", h, counts)
            },
            vec![
                f32s(&[2, 3, 2], &[1.0, 2.0, 3.0, 5.0, 100.0, -100.0, 7.0, 8.0, 9.0, 9.0, 9.0, 9.0]),
                Tensor::from_i32(&[2, 3], vec![1, 1, 0, 0, 0, 0]).expect("lengths fit"),
            ],
            f32s(&[2, 2], &[2.0, 3.5, 0.0, 0.0]),
            false,
        ),
    ]
}

/// Lists cases of `Where`. Elements that it does not select are NaN or infinite where they can be.
fn choices() -> Vec<OpCase> {
    let (nan, infinity, subnormal) = (f32::NAN, f32::INFINITY, f32::from_bits(1));
    let given = |name, dims: [&[usize]; 3], values: [Tensor; 3], expected: Tensor| {
        case(
            name,
            |g| {
                let [c, a, b] = [("c", dims[0]), ("a", dims[1]), ("b", dims[2])]
                    .map(|(name, dims)| g.input(name, Shape::batched(dims)).expect("an input"));
                g.where_("y", c, a, b)
            },
            values.into(),
            expected,
            true,
        )
    };
    vec![
        given(
            "where of vectors",
            [&[4], &[4], &[4]],
            [
                f32s(&[2, 4], &[1.0, 0.0, -0.0, nan, subnormal, -infinity, 0.0, 1.0]),
                f32s(&[2, 4], &[-0.0, nan, infinity, 2.0, 3.0, 1e38, nan, -infinity]),
                f32s(&[2, 4], &[nan, -0.0, 5.0, infinity, nan, -infinity, -infinity, infinity]),
            ],
            f32s(&[2, 4], &[-0.0, -0.0, 5.0, 2.0, 3.0, 1e38, -infinity, -infinity]),
        ),
        given(
            "where of three",
            [&[3], &[3], &[3]],
            [f32s(&[1, 3], &[1.0, 0.0, 0.5]), f32s(&[1, 3], &[0.0, nan, -2.0]), f32s(&[1, 3], &[nan, 0.0, nan])],
            f32s(&[1, 3], &[0.0, 0.0, -2.0]),
        ),
        given(
            "where, a column chooses rows",
            [&[2, 1], &[1, 4], &[2, 4]],
            [
                f32s(&[1, 2, 1], &[1.0, 0.0]),
                f32s(&[1, 1, 4], &[1.0, 2.0, infinity, -0.0]),
                f32s(&[1, 2, 4], &[nan, nan, infinity, infinity, 5.0, 6.0, -infinity, 8.0]),
            ],
            f32s(&[1, 2, 4], &[1.0, 2.0, infinity, -0.0, 5.0, 6.0, -infinity, 8.0]),
        ),
        given(
            "where, a row chooses between columns",
            [&[1, 3], &[2, 1], &[2, 1]],
            [
                f32s(&[2, 1, 3], &[1.0, 0.0, 2.0, 0.0, 0.0, 1.0]),
                f32s(&[2, 2, 1], &[1.0, 2.0, 3.0, infinity]),
                f32s(&[2, 2, 1], &[-1.0, -infinity, -3.0, -4.0]),
            ],
            f32s(&[2, 2, 3], &[1.0, -1.0, 1.0, 2.0, -infinity, 2.0, -3.0, -3.0, 3.0, -4.0, -4.0, infinity]),
        ),
        case(
            "where, a known triangle, with a number elsewhere",
            |g| {
                let c = g.constant("c", f32s(&[2, 2], &[1.0, 0.0, 1.0, 1.0]))?;
                let a = x(g, &[2, 2]);
                let b = g.constant("b", f32s(&[], &[-infinity]))?;
                g.where_("y", c, a, b)
            },
            vec![f32s(&[2, 2, 2], &[1.0, nan, 3.0, 4.0, 5.0, infinity, -7.0, -0.0])],
            f32s(&[2, 2, 2], &[1.0, -infinity, 3.0, 4.0, 5.0, -infinity, -7.0, -0.0]),
            true,
        ),
        case(
            "where, a condition and what it takes both known",
            |g| {
                let c = g.constant("c", f32s(&[3], &[1.0, 0.0, 0.0]))?;
                let a = g.constant("a", f32s(&[3], &[7.0, nan, infinity]))?;
                let b = x(g, &[2, 3]);
                g.where_("y", c, a, b)
            },
            vec![f32s(&[1, 2, 3], &[nan, 2.0, 3.0, infinity, 5.0, -0.0])],
            f32s(&[1, 2, 3], &[7.0, 2.0, 3.0, 7.0, 5.0, -0.0]),
            true,
        ),
        case(
            "where, one number or another",
            |g| {
                let c = x(g, &[4]);
                let [a, b] = [("a", 0.0), ("b", -infinity)].map(|(name, v)| g.constant(name, f32s(&[], &[v])));
                g.where_("y", c, a?, b?)
            },
            vec![f32s(&[1, 4], &[1.0, 0.0, -1.0, nan])],
            f32s(&[1, 4], &[0.0, -infinity, 0.0, 0.0]),
            true,
        ),
        case(
            "where, on a value without a batch",
            |g| {
                let c = g.input("c", Shape::fixed(&[2, 1]))?;
                let a = g.input("a", Shape::fixed(&[3]))?;
                let b = g.input("b", Shape::batched(&[2, 1]))?;
                g.where_("y", c, a, b)
            },
            vec![f32s(&[2, 1], &[0.0, 3.0]), f32s(&[3], &[1.0, -2.0, 3.0]), f32s(&[2, 2, 1], &[5.0, nan, -6.0, nan])],
            f32s(&[2, 2, 3], &[5.0, 5.0, 5.0, 1.0, -2.0, 3.0, -6.0, -6.0, -6.0, 1.0, -2.0, 3.0]),
            true,
        ),
    ]
}

fn to_float(name: &'static str, dims: &[usize], ids: &[i32], expected: &[f32]) -> OpCase {
    let shape: Vec<usize> = [ids.len() / dims[0]].into_iter().chain(dims.iter().copied()).collect();
    case(
        name,
        |g| {
            let x = g.typed_input("x", Shape::batched(dims), DType::I32)?;
            g.to_float("y", x)
        },
        vec![Tensor::from_i32(&shape, ids.to_vec()).expect("lengths fit")],
        f32s(&shape, expected),
        true,
    )
}

fn slices() -> Vec<OpCase> {
    // The quantized values are in rows of 21, which are 32 bytes on the device, and slices of them begin and end within words.
    let codes: Vec<i8> = (0..84).map(|i| (i * 3 % 251 - 125) as i8).collect();
    let picked = |rows: std::ops::Range<usize>, cols: std::ops::Range<usize>| -> Vec<i8> {
        let row = |row: usize| cols.clone().map(move |col| row * 21 + col);
        rows.flat_map(row).map(|at| codes[at]).collect()
    };
    let of_codes = |name, axis, range: std::ops::Range<usize>, shape: &[usize], expected: Vec<i8>| {
        case(
            name,
            |g| {
                let x = g.typed_input("x", Shape::batched(&[2, 21]), DType::I8)?;
                g.slice("y", x, axis, range)
            },
            vec![Tensor::from_i8(&[2, 2, 21], codes.clone()).expect("lengths fit")],
            Tensor::from_i8(shape, expected).expect("lengths fit"),
            true,
        )
    };
    let second_of_two = [picked(1..2, 0..21), picked(3..4, 0..21)].concat();
    vec![
        of_codes("slice of codes along the last axis", 2, 3..20, &[2, 2, 17], picked(0..4, 3..20)),
        of_codes("slice of codes, one column", 2, 18..19, &[2, 2, 1], picked(0..4, 18..19)),
        of_codes("slice of codes along an inner axis", 1, 1..2, &[2, 1, 21], second_of_two),
        of_codes("slice of all codes", 2, 0..21, &[2, 2, 21], codes.clone()),
        case(
            "slice along the last axis",
            |g| {
                let x = x(g, &[2, 3]);
                g.slice("y", x, 2, 1..3)
            },
            vec![f32s(&[2, 2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, f32::INFINITY, -0.0, 12.0])],
            f32s(&[2, 2, 2], &[2.0, 3.0, 5.0, 6.0, 8.0, 9.0, -0.0, 12.0]),
            true,
        ),
        case(
            "pad of floats",
            |g| {
                let x = x(g, &[2, 2]);
                g.pad("y", x, &[0, 1, 0], &[0, 0, 2], f32::NEG_INFINITY)
            },
            vec![f32s(&[1, 2, 2], &[1.0, -0.0, 3.0, 4.0])],
            {
                let w = f32::NEG_INFINITY;
                f32s(&[1, 3, 4], &[w, w, w, w, 1.0, -0.0, w, w, 3.0, 4.0, w, w])
            },
            true,
        ),
        case(
            "pad of quantized values, within words",
            |g| {
                let x = g.typed_input("x", Shape::batched(&[1, 5]), DType::I8)?;
                let value = g.constant("value", Tensor::from(ndarray::arr0(-3i8)))?;
                g.node("y", Pad { before: vec![0, 1, 3], after: vec![0, 0, 1] }, &[x, value])
            },
            vec![Tensor::from_i8(&[2, 1, 5], (1..=10).collect()).expect("lengths fit")],
            Tensor::from_i8(
                &[2, 2, 9],
                [&[-3; 12][..], &[1, 2, 3, 4, 5], &[-3; 13], &[6, 7, 8, 9, 10], &[-3]].concat(),
            )
            .expect("lengths fit"),
            true,
        ),
        case(
            "pad of integers",
            |g| {
                let x = g.typed_input("x", Shape::rows(2), DType::I32)?;
                let value = g.constant("value", Tensor::from(ndarray::arr0(i32::MIN)))?;
                g.node("y", Pad { before: vec![0, 1], after: vec![0, 0] }, &[x, value])
            },
            vec![Tensor::from_i32(&[2, 2], vec![1, 2, 3, 4]).expect("lengths fit")],
            Tensor::from_i32(&[2, 3], vec![i32::MIN, 1, 2, i32::MIN, 3, 4]).expect("lengths fit"),
            true,
        ),
        case(
            "slice along an inner axis",
            |g| {
                let x = x(g, &[3, 2]);
                g.slice("y", x, 1, 1..3)
            },
            vec![f32s(&[2, 3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0])],
            f32s(&[2, 2, 2], &[3.0, 4.0, 5.0, 6.0, 9.0, 10.0, 11.0, 12.0]),
            true,
        ),
        case(
            "slice of a value without a batch",
            |g| {
                let x = g.input("x", Shape::fixed(&[3, 2]))?;
                g.slice("y", x, 0, 1..2)
            },
            vec![f32s(&[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])],
            f32s(&[1, 2], &[3.0, 4.0]),
            true,
        ),
        case(
            "slice of ids",
            |g| {
                let x = g.typed_input("x", Shape::rows(4), DType::I32)?;
                g.slice("y", x, 1, 2..3)
            },
            vec![Tensor::from_i32(&[2, 4], vec![1, 2, 3, 4, 5, 6, i32::MIN, 8]).expect("lengths fit")],
            Tensor::from_i32(&[2, 1], vec![3, i32::MIN]).expect("lengths fit"),
            true,
        ),
        case(
            "slice of a slice, beside what it was cut from",
            |g| {
                let x = g.typed_input("x", Shape::rows(9), DType::I8)?;
                let inner = g.slice("inner", x, 1, 2..8)?;
                let end = g.slice("end", inner, 1, 3..6)?;
                g.concat("y", &[end, x], 1)
            },
            vec![Tensor::from_i8(&[1, 9], (1..=9).collect()).expect("lengths fit")],
            Tensor::from_i8(&[1, 12], vec![6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8, 9]).expect("lengths fit"),
            true,
        ),
    ]
}

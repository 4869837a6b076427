//! Plain integers: arithmetic, casts and reductions in `i32`.

use enfold::ops::{Int32, Int32Op, IntegerType, Max, Op, Sum, ToInteger};
use enfold::values::DType;
use enfold::{Shape, Tensor};

use super::{OpCase, case, f32s};

fn i32s(shape: &[usize], data: &[i32]) -> Tensor {
    Tensor::from_i32(shape, data.to_vec()).expect("lengths fit")
}

/// Rows of [`table`](super::table).
pub(super) fn table() -> Vec<OpCase> {
    let (low, high) = (i32::MIN, i32::MAX);
    let mut rows = vec![
        int32("add of integers", Int32Op::Add, &[high, low, 16_777_217], &[1, -1, 3], &[low, high, 16_777_220]),
        int32("sub of integers", Int32Op::Sub, &[low, 5, 16_777_217], &[1, 10, 16_777_216], &[high, -5, 1]),
        int32(
            "mul of integers",
            Int32Op::Mul,
            &[65_536, -7, 46_341],
            &[65_537, 3, 46_341],
            &[65_536, -21, -2_147_479_015],
        ),
        int32("div of integers", Int32Op::Div, &[-7, 7, low], &[2, -2, -1], &[-3, -3, low]),
        int32("min of integers", Int32Op::Min, &[low, 3, 16_777_217], &[high, 4, 16_777_216], &[low, 3, 16_777_216]),
        int32("max of integers", Int32Op::Max, &[low, 3, 16_777_217], &[high, 4, 16_777_216], &[high, 4, 16_777_217]),
        int32("equal of integers", Int32Op::Equal, &[16_777_217, 0, low], &[16_777_216, 0, low], &[0, 1, 1]),
        int32("less of integers", Int32Op::Less, &[16_777_216, 0, low], &[16_777_217, 0, high], &[1, 0, 1]),
        case(
            "integers that broadcast",
            |g| {
                let a = g.typed_input("a", Shape::batched(&[2]), DType::I32)?;
                let b = g.constant("b", i32s(&[2, 1, 2], &[10, 20, 30, 40]))?;
                let a = g.reshape("rows", a, &[1, 1, 2])?;
                g.node("y", Op::Int32(Int32 { op: Int32Op::Sub, checked: true }), &[a, b])
            },
            vec![i32s(&[2, 2], &[1, 2, 3, 4])],
            i32s(&[2, 2, 1, 2], &[-9, -18, -29, -38, -7, -16, -27, -36]),
            true,
        ),
        of_floats("floats cut off", IntegerType::I32, &[1.9, -1.9, 2_147_483_520.0], &[1, -1, 2_147_483_520]),
        of_floats("floats cut off to u8", IntegerType::U8, &[300.5, -1.5, 0.5], &[44, 255, 0]),
        reduced("sum of integers", Op::Sum(Sum { axis: 2, checked: true }), &[33_554_433, 19, -9]),
        case(
            "sum of integers that wraps around",
            |g| {
                let x = g.typed_input("x", Shape::batched(&[3, 2]), DType::I32)?;
                g.node("y", Op::Sum(Sum { axis: 2, checked: false }), &[x])
            },
            vec![i32s(&[1, 3, 2], &[high, 1, low, -1, high, high])],
            i32s(&[1, 3], &[low, high, -2]),
            true,
        ),
        reduced("max of integers along an axis", Op::Max(Max { axis: 2 }), &[16_777_217, 10, -4]),
    ];
    let wide = [200, -200, 70_000];
    for (name, to, expected) in [
        ("integers cut to i8", IntegerType::I8, [-56, 56, 112]),
        ("integers cut to u8", IntegerType::U8, [200, 56, 112]),
        ("integers cut to i16", IntegerType::I16, [200, -200, 4464]),
        ("integers cut to u16", IntegerType::U16, [200, 65_336, 4464]),
    ] {
        rows.push(case(
            name,
            |g| {
                let x = g.typed_input("x", Shape::batched(&[3]), DType::I32)?;
                g.node("y", Op::ToInteger(ToInteger { to }), &[x])
            },
            vec![i32s(&[1, 3], &wide)],
            i32s(&[1, 3], &expected),
            true,
        ));
    }
    rows
}

fn int32(name: &'static str, op: Int32Op, a: &[i32; 3], b: &[i32; 3], expected: &[i32; 3]) -> OpCase {
    case(
        name,
        |g| {
            let [a, b] = ["a", "b"].map(|name| g.typed_input(name, Shape::batched(&[3]), DType::I32));
            g.node("y", Op::Int32(Int32 { op, checked: false }), &[a?, b?])
        },
        vec![i32s(&[1, 3], a), i32s(&[1, 3], b)],
        i32s(&[1, 3], expected),
        true,
    )
}

fn of_floats(name: &'static str, to: IntegerType, x: &[f32; 3], expected: &[i32; 3]) -> OpCase {
    case(
        name,
        |g| {
            let x = g.input("x", Shape::batched(&[3]))?;
            g.node("y", Op::ToInteger(ToInteger { to }), &[x])
        },
        vec![f32s(&[1, 3], x)],
        i32s(&[1, 3], expected),
        true,
    )
}

fn reduced(name: &'static str, op: Op, expected: &[i32; 3]) -> OpCase {
    case(
        name,
        |g| {
            let x = g.typed_input("x", Shape::batched(&[3, 2]), DType::I32)?;
            g.node("y", op, &[x])
        },
        vec![i32s(&[1, 3, 2], &[16_777_217, 16_777_216, 9, 10, -5, -4])],
        i32s(&[1, 3], expected),
        true,
    )
}

//! Blocks of tensors at coordinates that are computed at run time.

use enfold::ops::{GatherNd, ScatterNd, ScatterReduction};
use enfold::values::DType;
use enfold::{Shape, Tensor};

use super::{OpCase, case, f32s};

fn i32s(shape: &[usize], data: &[i32]) -> Tensor {
    Tensor::from_i32(shape, data.to_vec()).expect("lengths fit")
}

/// Updates of a row of four elements: the last one of them twice, from both ends.
fn updated(name: &'static str, reduction: ScatterReduction, expected: [f32; 4]) -> OpCase {
    case(
        name,
        |g| {
            let x = g.input("x", Shape::rows(4))?;
            let ids = g.typed_input("ids", Shape::batched(&[3, 1]), DType::I32)?;
            let updates = g.input("updates", Shape::rows(3))?;
            g.node("y", ScatterNd { batch_dims: 1, reduction }, &[x, ids, updates])
        },
        vec![f32s(&[1, 4], &[1.0, 2.0, 3.0, 4.0]), i32s(&[1, 3, 1], &[3, 0, -1]), f32s(&[1, 3], &[10.0, -1.0, -2.0])],
        f32s(&[1, 4], &expected),
        true,
    )
}

/// The examples, with results worked out by hand.
pub(super) fn table() -> Vec<OpCase> {
    vec![
        case(
            "blocks of a table, by two coordinates",
            |g| {
                let ids = g.typed_input("ids", Shape::batched(&[2, 2]), DType::I32)?;
                let x: Vec<f32> = (0..12).map(|i| i as f32).collect();
                let x = g.constant("x", f32s(&[2, 3, 2], &x))?;
                g.node("y", GatherNd { batch_dims: 0 }, &[x, ids])
            },
            vec![i32s(&[2, 2, 2], &[1, 0, 0, -1, -2, 1, -1, 2])],
            f32s(&[2, 2, 2], &[6.0, 7.0, 4.0, 5.0, 2.0, 3.0, 10.0, 11.0]),
            true,
        ),
        case(
            "elements of each row of the batch",
            |g| {
                let x = g.input("x", Shape::batched(&[2, 3]))?;
                let ids = g.typed_input("ids", Shape::batched(&[2, 4, 1]), DType::I32)?;
                g.node("y", GatherNd { batch_dims: 2 }, &[x, ids])
            },
            vec![
                f32s(&[2, 2, 3], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0]),
                i32s(&[2, 2, 4, 1], &[0, -1, 2, 1, -3, 0, 0, 0, 2, 2, 2, -2, 1, 0, -1, 2]),
            ],
            f32s(&[2, 2, 4], &[0.0, 2.0, 2.0, 1.0, 3.0, 3.0, 3.0, 3.0, 8.0, 8.0, 8.0, 7.0, 10.0, 9.0, 11.0, 11.0]),
            true,
        ),
        case(
            "blocks of integers",
            |g| {
                let x = g.typed_input("x", Shape::batched(&[3, 2]), DType::I32)?;
                let ids = g.typed_input("ids", Shape::batched(&[2, 1]), DType::I32)?;
                g.node("y", GatherNd { batch_dims: 1 }, &[x, ids])
            },
            vec![i32s(&[1, 3, 2], &[1, 2, 3, 4, 2_000_000_001, 6]), i32s(&[1, 2, 1], &[-1, 0])],
            i32s(&[1, 2, 2], &[2_000_000_001, 6, 1, 2]),
            true,
        ),
        case(
            "updates of integers",
            |g| {
                let x = g.typed_input("x", Shape::batched(&[3, 2]), DType::I32)?;
                let ids = g.typed_input("ids", Shape::batched(&[2, 1]), DType::I32)?;
                let updates = g.typed_input("updates", Shape::batched(&[2, 2]), DType::I32)?;
                let replace = ScatterNd { batch_dims: 1, reduction: ScatterReduction::Replace };
                g.node("y", replace, &[x, ids, updates])
            },
            vec![
                i32s(&[1, 3, 2], &[1, 2, 3, 4, 5, 6]),
                i32s(&[1, 2, 1], &[-1, 0]),
                i32s(&[1, 2, 2], &[-2_000_000_001, 8, 9, 10]),
            ],
            i32s(&[1, 3, 2], &[9, 10, 3, 4, -2_000_000_001, 8]),
            true,
        ),
        case(
            "updates of a table, by two coordinates",
            |g| {
                let x = g.constant("x", f32s(&[2, 2], &[1.0, 2.0, 3.0, 4.0]))?;
                let ids = g.constant("ids", i32s(&[2, 2], &[1, 0, 0, -1]))?;
                let updates = g.typed_input("updates", Shape::fixed(&[2]), DType::F32)?;
                let replace = ScatterNd { batch_dims: 0, reduction: ScatterReduction::Replace };
                g.node("y", replace, &[x, ids, updates])
            },
            vec![f32s(&[2], &[7.0, 8.0])],
            f32s(&[2, 2], &[1.0, 8.0, 7.0, 4.0]),
            true,
        ),
        updated("the last update", ScatterReduction::Replace, [-1.0, 2.0, 3.0, -2.0]),
        updated("the sum of updates", ScatterReduction::Add, [0.0, 2.0, 3.0, 12.0]),
        updated("the product of updates", ScatterReduction::Mul, [-1.0, 2.0, 3.0, -80.0]),
        updated("the largest update", ScatterReduction::Maximum, [1.0, 2.0, 3.0, 10.0]),
        updated("the smallest update", ScatterReduction::Minimum, [-1.0, 2.0, 3.0, -2.0]),
    ]
}

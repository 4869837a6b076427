//! Convolutions, pools, and what moves the elements of images.

use enfold::ops::{
    AveragePool, AverageWindows, Conv, ConvTranspose, ImageLayout, IndexSelect, IntegerAveragePool, IntegerConv,
    IntegerResizeLinear, MaxPool, Op, Requantize, ResizeCoordinates, ResizeGrid, ResizeLinear, ScaleAccumulator,
    Unfold, Window,
};
use enfold::values::{DType, QParams};
use enfold::{Shape, Tensor};

use super::{OpCase, case, f32s};

/// The examples, with results worked out by hand.
pub(super) fn rows() -> Vec<OpCase> {
    let i8s = |shape: &[usize], data: &[i8]| Tensor::from_i8(shape, data.to_vec()).expect("lengths fit");
    let i32s = |shape: &[usize], data: &[i32]| Tensor::from_i32(shape, data.to_vec()).expect("lengths fit");
    let image = || f32s(&[1, 1, 3, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]);
    let line = || f32s(&[1, 1, 3], &[2.0, 4.0, 6.0]);
    let window = |size: &[usize], stride: &[usize], padding: &[usize]| {
        Window::new(size).with_stride(stride).with_padding(padding)
    };
    let sliding = |count_include_pad| AverageWindows::Sliding {
        window: window(&[2], &[2], &[1]),
        ceil_mode: false,
        count_include_pad,
    };
    let qparams = |scale, z| QParams::new(scale, z).expect("valid");
    let integer_conv = move |window, groups, zero_point, fraction_bits| IntegerConv {
        window,
        groups,
        zero_point,
        fraction_bits,
        layout: ImageLayout::ChannelsFirst,
    };
    vec![
        case(
            "conv with stride and padding",
            |g| {
                let x = g.input("x", Shape::batched(&[1, 3, 3]))?;
                let conv = Conv::new(window(&[2, 2], &[2, 2], &[1, 1]));
                g.conv("y", x, f32s(&[1, 1, 2, 2], &[1.0, 0.0, 0.0, -1.0]), Some(f32s(&[1], &[0.5])), conv)
            },
            vec![image()],
            f32s(&[1, 1, 2, 2], &[-0.5, -2.5, -6.5, -3.5]),
            false,
        ),
        case(
            "conv of one tap",
            |g| {
                let x = g.input("x", Shape::batched(&[2, 1, 2]))?;
                g.conv("y", x, f32s(&[1, 2, 1, 1], &[1.0, 10.0]), None, Conv::new(Window::new(&[1, 1])))
            },
            vec![f32s(&[1, 2, 1, 2], &[1.0, 2.0, 3.0, 4.0])],
            f32s(&[1, 1, 1, 2], &[31.0, 42.0]),
            false,
        ),
        case(
            "conv of one axis and two groups",
            |g| {
                let x = g.input("x", Shape::batched(&[2, 3]))?;
                let conv = Conv::new(Window::new(&[2])).with_groups(2);
                g.conv("y", x, f32s(&[2, 1, 2], &[1.0, 1.0, 1.0, -1.0]), Some(f32s(&[2], &[0.0, 1.0])), conv)
            },
            vec![f32s(&[1, 2, 3], &[1.0, 2.0, 3.0, 10.0, 20.0, 30.0])],
            f32s(&[1, 2, 2], &[3.0, 5.0, -9.0, -9.0]),
            false,
        ),
        case(
            "conv of two groups of two channels",
            |g| {
                let x = g.input("x", Shape::batched(&[4, 1]))?;
                let conv = Conv::new(Window::new(&[1])).with_groups(2);
                g.conv("y", x, f32s(&[2, 2, 1], &[1.0, 2.0, 3.0, 1.0]), None, conv)
            },
            vec![f32s(&[2, 4, 1], &[1.0, 2.0, 3.0, 4.0, 1.0, 0.0, 0.0, 1.0])],
            f32s(&[2, 2, 1], &[5.0, 13.0, 1.0, 1.0]),
            false,
        ),
        case(
            "transposed conv with output padding",
            |g| {
                let x = g.input("x", Shape::batched(&[1, 2]))?;
                let conv = ConvTranspose::new(window(&[3], &[2], &[1])).with_output_padding(&[1]);
                g.conv_transpose("y", x, f32s(&[1, 1, 3], &[1.0, 10.0, 100.0]), None, conv)
            },
            vec![f32s(&[1, 1, 2], &[1.0, 2.0])],
            f32s(&[1, 1, 4], &[10.0, 102.0, 20.0, 200.0]),
            false,
        ),
        case(
            "max pool in ceil mode",
            |g| {
                let x = g.input("x", Shape::batched(&[1, 3, 3]))?;
                g.max_pool("y", x, MaxPool::new(window(&[2, 2], &[2, 2], &[0, 0])).with_ceil_mode(true))
            },
            vec![image()],
            f32s(&[1, 1, 2, 2], &[5.0, 6.0, 8.0, 9.0]),
            true,
        ),
        case(
            "max pool, whose padding never is the largest",
            |g| {
                let x = g.input("x", Shape::batched(&[1, 3]))?;
                g.max_pool("y", x, MaxPool::new(window(&[2], &[2], &[1])))
            },
            vec![f32s(&[1, 1, 3], &[-1.0, -2.0, -3.0])],
            f32s(&[1, 1, 2], &[-1.0, -2.0]),
            true,
        ),
        case(
            "max pool of int8",
            |g| {
                let x = g.typed_input("x", Shape::batched(&[2, 2, 1]), DType::I8)?;
                g.max_pool("y", x, MaxPool::new(Window::new(&[2, 1])))
            },
            vec![i8s(&[1, 2, 2, 1], &[-128, -127, 5, 4])],
            i8s(&[1, 2, 1, 1], &[-127, 5]),
            true,
        ),
        case(
            "average pool that counts padding",
            |g| {
                let x = g.input("x", Shape::batched(&[1, 3]))?;
                g.average_pool("y", x, sliding(true).into())
            },
            vec![line()],
            f32s(&[1, 1, 2], &[1.0, 5.0]),
            true,
        ),
        case(
            "average pool that does not count padding",
            |g| {
                let x = g.input("x", Shape::batched(&[1, 3]))?;
                g.average_pool("y", x, sliding(false).into())
            },
            vec![line()],
            f32s(&[1, 1, 2], &[2.0, 5.0]),
            true,
        ),
        case(
            "adaptive average pool",
            |g| {
                let x = g.input("x", Shape::batched(&[1, 3]))?;
                g.average_pool("y", x, AveragePool::adaptive(&[2]))
            },
            vec![line()],
            f32s(&[1, 1, 2], &[3.0, 5.0]),
            true,
        ),
        case(
            "index select",
            |g| {
                let x = g.input("x", Shape::batched(&[1, 3]))?;
                g.node("y", IndexSelect { axis: 2, indices: vec![2, 0, 0, 1] }, &[x])
            },
            vec![line()],
            f32s(&[1, 1, 4], &[6.0, 2.0, 2.0, 4.0]),
            true,
        ),
        case(
            "index select of channels of int8",
            |g| {
                let x = g.typed_input("x", Shape::batched(&[3, 2]), DType::I8)?;
                g.node("y", IndexSelect { axis: 1, indices: vec![2, 1] }, &[x])
            },
            vec![i8s(&[1, 3, 2], &[1, 2, 3, 4, 5, 6])],
            i8s(&[1, 2, 2], &[5, 6, 3, 4]),
            true,
        ),
        case(
            "unfold",
            |g| {
                let x = g.input("x", Shape::batched(&[3, 2]))?;
                let padding = g.constant("padding", ndarray::arr0(0.5f32))?;
                let window = Window::new(&[2]).with_uneven_padding(&[1], &[0]);
                g.node("y", Unfold { window }, &[x, padding])
            },
            vec![f32s(&[1, 3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])],
            f32s(&[1, 3, 4], &[0.5, 0.5, 1.0, 2.0, 1.0, 2.0, 3.0, 4.0, 3.0, 4.0, 5.0, 6.0]),
            true,
        ),
        case(
            "unfold of int8",
            |g| {
                let x = g.typed_input("x", Shape::batched(&[2, 1]), DType::I8)?;
                let padding = g.constant("padding", Tensor::from(ndarray::arr0(-7i8)))?;
                g.node("y", Unfold { window: window(&[3], &[1], &[1]) }, &[x, padding])
            },
            vec![i8s(&[1, 2, 1], &[1, 2])],
            i8s(&[1, 2, 3], &[-7, 1, 2, 1, 2, -7]),
            true,
        ),
        // A tap outside the image counts as the zero point.
        case(
            "int8 conv",
            |g| {
                let x = g.typed_input("x", Shape::batched(&[1, 3]), DType::I8)?;
                let w = g.constant("w", i8s(&[1, 1, 2], &[2, -1]))?;
                let b = g.constant("b", i32s(&[1], &[3]))?;
                let acc = g.node("acc", integer_conv(window(&[2], &[1], &[1]), 1, 1, 1), &[x, w, b])?;
                let multiplier = g.constant("multiplier", f32s(&[1], &[0.5]))?;
                let requantize = Requantize { qparams: qparams(1.0, 0), lo: -128, hi: 127, ch_axis: Some(1) };
                g.node("y", Op::Requantize(requantize), &[acc, multiplier])
            },
            vec![i8s(&[1, 1, 3], &[1, 2, 3])],
            i8s(&[1, 1, 4], &[2, 2, 2, 6]),
            true,
        ),
        case(
            "int8 depthwise conv to float",
            |g| {
                let x = g.typed_input("x", Shape::batched(&[2, 2, 2]), DType::I8)?;
                let w = g.constant("w", i8s(&[2, 1, 2, 2], &[1, 2, 3, 4, 0, 0, 0, -1]))?;
                let b = g.constant("b", i32s(&[2], &[0, 5]))?;
                let acc = g.node("acc", integer_conv(Window::new(&[2, 2]), 2, 0, 0), &[x, w, b])?;
                let scale = g.constant("scale", f32s(&[2], &[0.5, 2.0]))?;
                g.node("y", Op::ScaleAccumulator(ScaleAccumulator { relu: true, ch_axis: Some(1) }), &[acc, scale])
            },
            vec![i8s(&[1, 2, 2, 2], &[1, 1, 1, 1, 9, 9, 9, 7])],
            f32s(&[1, 2, 1, 1], &[5.0, 0.0]),
            true,
        ),
        case(
            "int8 average pool",
            |g| {
                let x = g.typed_input("x", Shape::batched(&[1, 3]), DType::I8)?;
                let windows =
                    AverageWindows::Sliding { window: Window::new(&[2]), ceil_mode: false, count_include_pad: false };
                let (x_qparams, y) = (qparams(1.0, 1), qparams(0.5, -1));
                let layout = ImageLayout::ChannelsFirst;
                g.node("y", IntegerAveragePool { windows, x: x_qparams, y, lo: -128, hi: 127, layout }, &[x])
            },
            vec![i8s(&[1, 1, 3], &[1, 3, 8])],
            i8s(&[1, 1, 2], &[1, 8]),
            true,
        ),
        case(
            "linear resize of a line",
            |g| {
                let x = g.input("x", Shape::batched(&[1, 3]))?;
                g.resize_linear("y", x, ResizeLinear::new(&[6]))
            },
            vec![line()],
            f32s(&[1, 1, 6], &[2.0, 2.5, 3.5, 4.5, 5.5, 6.0]),
            true,
        ),
        case(
            "linear resize that keeps the corners",
            |g| {
                let x = g.input("x", Shape::batched(&[1, 3, 3]))?;
                g.resize_linear("y", x, ResizeLinear::new(&[2, 5]).with_coordinates(ResizeCoordinates::AlignCorners))
            },
            vec![image()],
            f32s(&[1, 1, 2, 5], &[1.0, 1.5, 2.0, 2.5, 3.0, 7.0, 7.5, 8.0, 8.5, 9.0]),
            true,
        ),
        // At 0, 2/3 and, outside the line, 1: the sums are 0, 2 · 90 and 3 · 90, and the multiplier is 0.5 / 3.
        case(
            "int8 linear resize",
            |g| {
                let x = g.typed_input("x", Shape::batched(&[1, 2]), DType::I8)?;
                let grid = ResizeGrid { output: vec![3], coordinates: ResizeCoordinates::Asymmetric };
                let (x_qparams, y) = (qparams(0.5, 10), qparams(1.0, -1));
                let layout = ImageLayout::ChannelsFirst;
                g.node("y", IntegerResizeLinear { grid, x: x_qparams, y, lo: -128, hi: 40, layout }, &[x])
            },
            vec![i8s(&[1, 1, 2], &[10, 100])],
            i8s(&[1, 1, 3], &[-1, 29, 40]),
            true,
        ),
    ]
}

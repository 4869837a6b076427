//! Convolutions, pools and index selects that do not fit their images.

use enfold::graph::{GraphError, NodeId};
use enfold::ops::{
    AveragePool, AverageWindows, Conv, ConvTranspose, ImageLayout, IndexSelect, IntegerAveragePool, IntegerConv,
    IntegerResizeLinear, MaxPool, Op, Requantize, ResizeCoordinates, ResizeGrid, ResizeLinear, Unfold, Window,
};
use enfold::values::{DType, QParams};
use enfold::{GraphBuilder, Shape, Tensor, cpu};

use super::{Row, built, check, f32s, row};

fn image(g: &mut GraphBuilder, dims: &[usize]) -> NodeId {
    g.input("x", Shape::batched(dims)).expect("an input")
}

/// A convolution of `[rows, 4, 5, 5]` with a weight of a shape.
fn conv(shape: &[usize], conv: Conv) -> Result<enfold::Graph, GraphError> {
    built(|g| {
        let x = image(g, &[4, 5, 5]);
        g.conv("y", x, f32s(shape, 0.5), None, conv)
    })
}

fn three() -> Window {
    Window::new(&[3, 3])
}

#[test]
fn convolutions() {
    let negative = || {
        let mut window = three();
        window.axes[1].before = -1;
        window
    };
    let dilated = || {
        let mut window = three();
        window.axes[0].input_dilation = 2;
        window
    };
    let table: Vec<Row> = vec![
        row("a kernel larger than the image", conv(&[2, 4, 7, 3], Conv::new(Window::new(&[7, 3]))), &["y:", "7", "5"]),
        row(
            "a dilated kernel larger than the image",
            conv(&[2, 4, 3, 3], Conv::new(three().with_dilation(&[1, 3]).with_padding(&[0, 0]))),
            &["y:", "7", "5"],
        ),
        row(
            "a kernel of no size",
            conv(&[2, 4, 0, 3], Conv::new(Window::new(&[0, 3]))),
            &["y:", "window size", "0", "1"],
        ),
        row("a stride of 0", conv(&[2, 4, 3, 3], Conv::new(three().with_stride(&[0, 1]))), &["y:", "stride", "0", "1"]),
        row("a dilation of 0", conv(&[2, 4, 3, 3], Conv::new(three().with_dilation(&[1, 0]))), &["dilation", "0", "1"]),
        row("one stride for two axes", conv(&[2, 4, 3, 3], Conv::new(three().with_stride(&[2]))), &["y:", "0"]),
        row("negative padding", conv(&[2, 4, 3, 3], Conv::new(negative())), &["y:", "padding", "-1", "negative"]),
        row("an input dilation", conv(&[2, 4, 3, 3], Conv::new(dilated())), &["y:", "input dilation", "2", "1"]),
        row(
            "a huge stride",
            conv(&[2, 4, 3, 3], Conv::new(three().with_stride(&[usize::MAX, 1]))),
            &["y:", "16777216"],
        ),
        row(
            "a huge padding",
            conv(&[2, 4, 3, 3], Conv::new(three().with_padding(&[usize::MAX, 1]))),
            &["y:", "padding", "16777216"],
        ),
        row("groups that do not divide", conv(&[2, 1, 3, 3], Conv::new(three()).with_groups(3)), &["y:", "3", "4"]),
        row("no groups", conv(&[2, 4, 3, 3], Conv::new(three()).with_groups(0)), &["y:", "groups", "0", "4"]),
        row(
            "groups that do not divide the outputs",
            conv(&[3, 2, 3, 3], Conv::new(three()).with_groups(2)),
            &["y:", "2", "3 output channels"],
        ),
        row("other input channels", conv(&[2, 3, 3, 3], Conv::new(three())), &["y:", "4", "3"]),
        row("a weight of another size", conv(&[2, 4, 3, 2], Conv::new(three())), &["y:", "2", "3"]),
        row("a weight of another rank", conv(&[2, 4, 3], Conv::new(three())), &["y:", "weight", "3", "4"]),
        row("a window of three axes", conv(&[2, 4, 3, 3], Conv::new(Window::new(&[3, 3, 3]))), &["y:", "3", "2"]),
        row("a window of one axis over two", conv(&[2, 4, 3], Conv::new(Window::new(&[3]))), &["y:", "4", "3"]),
        row(
            "a bias of another length",
            built(|g| {
                let x = image(g, &[4, 5, 5]);
                g.conv("y", x, f32s(&[2, 4, 3, 3], 0.5), Some(f32s(&[3], 0.0)), Conv::new(three()))
            }),
            &["y:", "bias length", "3", "2"],
        ),
        row(
            "more elements than there is memory for",
            built(|g| {
                let x = image(g, &[1, 1 << 23, 1 << 23]);
                let window = Window::new(&[1, 1]);
                g.conv("y", x, f32s(&[1 << 16, 1, 1, 1], 0.5), None, Conv::new(window))
            }),
            &["y:", "more than"],
        ),
        row(
            "a weight that is not finite",
            built(|g| {
                let x = image(g, &[4, 5, 5]);
                g.conv("y", x, f32s(&[2, 4, 3, 3], f32::NAN), None, Conv::new(three()))
            }),
            &["y.weight", "NaN"],
        ),
        row(
            "an image without height",
            built(|g| {
                let x = image(g, &[4, 0, 5]);
                g.conv("y", x, f32s(&[2, 4, 1, 1], 0.5), None, Conv::new(Window::new(&[1, 1])))
            }),
            &["y:", "0 elements", "1"],
        ),
        row(
            "a transposed convolution of which padding leaves nothing",
            built(|g| {
                let x = image(g, &[4, 1, 1]);
                let conv = ConvTranspose::new(three().with_padding(&[2, 2]));
                g.conv_transpose("y", x, f32s(&[4, 2, 3, 3], 0.5), None, conv)
            }),
            &["y:", "3", "1"],
        ),
        row(
            "a transposed convolution with a stride of 0",
            built(|g| {
                let x = image(g, &[4, 5, 5]);
                let conv = ConvTranspose::new(three().with_stride(&[1, 0]));
                g.conv_transpose("y", x, f32s(&[4, 2, 3, 3], 0.5), None, conv)
            }),
            &["y:", "stride", "0", "1"],
        ),
        row(
            "a huge output padding",
            built(|g| {
                let x = image(g, &[4, 5, 5]);
                let conv = ConvTranspose::new(three().with_stride(&[usize::MAX; 2]));
                g.conv_transpose(
                    "y",
                    x,
                    f32s(&[4, 2, 3, 3], 0.5),
                    None,
                    conv.with_output_padding(&[i64::MAX as usize, 0]),
                )
            }),
            &["y:", "stride", "16777216"],
        ),
        row(
            "output padding as large as the stride",
            built(|g| {
                let x = image(g, &[4, 5, 5]);
                let conv = ConvTranspose::new(three().with_stride(&[2, 2])).with_output_padding(&[0, 2]);
                g.conv_transpose("y", x, f32s(&[4, 2, 3, 3], 0.5), None, conv)
            }),
            &["y:", "output padding", "2"],
        ),
    ];
    check(table);
}

#[test]
fn pools() {
    let pool = |op: Op| {
        built(|g| {
            let x = image(g, &[4, 5, 5]);
            g.node("y", op, &[x])
        })
    };
    let max = |window| pool(MaxPool::new(window).into());
    let average = |window| pool(AveragePool::new(window).into());
    let table: Vec<Row> = vec![
        row("a pool larger than the image", max(Window::new(&[6, 2])), &["y:", "6", "5"]),
        row("padding as large as the window", max(Window::new(&[2, 2]).with_padding(&[2, 0])), &["y:", "padding", "2"]),
        row("a pool over one axis of two", max(Window::new(&[2])), &["y:", "4", "3"]),
        row("a dilated mean", average(Window::new(&[2, 2]).with_dilation(&[2, 1])), &["y:", "dilation", "2", "1"]),
        row("a mean of no size", pool(AveragePool::adaptive(&[0, 1]).into()), &["y:", "0 of 5", "1"]),
        row(
            "a mean to more elements than memory",
            pool(AveragePool::adaptive(&[1 << 30, 1]).into()),
            &["y:", "16777216"],
        ),
        row("a resize to no size", pool(ResizeLinear::new(&[0, 1]).into()), &["y:", "0 of 5", "1"]),
        row("a resize beyond memory", pool(ResizeLinear::new(&[1 << 30, 1]).into()), &["y:", "16777216"]),
        row("a resize of one axis of two", pool(ResizeLinear::new(&[1]).into()), &["y:", "4"]),
        row("a mean to one axis of two", pool(AveragePool::adaptive(&[1]).into()), &["y:", "4"]),
        row(
            "a pool of integers",
            {
                let mut g = GraphBuilder::new();
                let x = g.typed_input("x", Shape::batched(&[4, 5, 5]), DType::I32).expect("an input");
                g.node("y", MaxPool::new(Window::new(&[2, 2])), &[x])
            },
            &["y:", "i32", "f32"],
        ),
        row("an index beyond the axis", pool(IndexSelect { axis: 2, indices: vec![0, 5] }.into()), &["y:", "5 of 5"]),
        row("an index along the batch", pool(IndexSelect { axis: 0, indices: vec![0] }.into()), &["y:", "batch"]),
        row("an unfold without padding value", pool(Unfold { window: three() }.into()), &["y:", "1 inputs", "2"]),
    ];
    check(table);
}

/// What the builder makes of several operators.
#[test]
fn composed() {
    let image = || {
        let mut g = GraphBuilder::new();
        let x = g.input("x", Shape::batched(&[6, 4, 5])).expect("an input");
        (g, x)
    };
    let refused =
        |name: &str, build: &dyn Fn(&mut GraphBuilder, NodeId) -> Result<NodeId, GraphError>, parts: &[&str]| {
            let (mut g, x) = image();
            let error = build(&mut g, x).expect_err(name).to_string();
            assert!(parts.iter().all(|part| error.contains(part)), "{name}: {error}");
        };
    let ones = |n: usize| f32s(&[n], 1.0);
    refused("adaptive max", &|g, x| g.adaptive_max_pool("y", x, &[0, 2]), &["y:", "0", "16777216"]);
    refused("adaptive max of one axis", &|g, x| g.adaptive_max_pool("y", x, &[2]), &["y:", "[6, 4, 5]"]);
    refused("nearest", &|g, x| g.resize_nearest("y", x, &[1 << 25, 2]), &["y:", "33554432", "16777216"]);
    refused("shuffle", &|g, x| g.pixel_shuffle("y", x, 2), &["y:", "2 of 6"]);
    refused("shuffle by 0", &|g, x| g.pixel_shuffle("y", x, 0), &["y:", "0 of 6"]);
    refused("shuffle by much", &|g, x| g.pixel_shuffle("y", x, usize::MAX), &["y:", "of 6"]);
    refused("unshuffle", &|g, x| g.pixel_unshuffle("y", x, 2), &["y:", "2 of 4 by 5"]);
    refused("groups", &|g, x| g.group_norm("y", x, 4, [ones(6), ones(6)], 1e-5), &["y:", "4 of 6"]);
    refused("no groups", &|g, x| g.group_norm("y", x, 0, [ones(6), ones(6)], 1e-5), &["y:", "0 of 6"]);
    refused("a weight", &|g, x| g.group_norm("y", x, 3, [ones(5), ones(6)], 1e-5), &["y.weight", "5", "6"]);
    refused("reflection", &|g, x| g.reflection_pad("y", x, &[0, 0, 4, 0], &[0; 4]), &["y:", "4 and 0", "axis 2"]);
    refused("padding of 3 axes", &|g, x| g.replication_pad("y", x, &[1; 3], &[0; 3]), &["y:", "4 axes"]);
    refused("padding of the batch", &|g, x| g.replication_pad("y", x, &[1, 0, 0, 0], &[0; 4]), &["y:", "axis 0"]);
    refused("no padding", &|g, x| g.replication_pad("y", x, &[0; 4], &[0; 4]), &["y:", "padding"]);
}

#[test]
fn integers() {
    let qparams = |scale, z| QParams::new(scale, z).expect("valid");
    let conv = |zero_point, fraction_bits, weight: i8| {
        built(|g| {
            let x = g.typed_input("x", Shape::batched(&[1, 1, 1]), DType::I8)?;
            let w = g.constant("w", Tensor::from_i8(&[1, 1, 1, 1], vec![weight]).expect("fits"))?;
            let b = g.constant("b", Tensor::from_i32(&[1], vec![0]).expect("fits"))?;
            let op = IntegerConv {
                window: Window::new(&[1, 1]),
                groups: 1,
                zero_point,
                fraction_bits,
                layout: ImageLayout::ChannelsFirst,
            };
            g.node("acc", op, &[x, w, b])
        })
    };
    let mean = |x: QParams, y: QParams, output: usize, size: usize| {
        built(|g| {
            let image = g.typed_input("x", Shape::batched(&[1, size, size]), DType::I8)?;
            let windows = AverageWindows::Adaptive { output: vec![output, output] };
            let layout = ImageLayout::ChannelsFirst;
            g.node("y", IntegerAveragePool { windows, x, y, lo: -128, hi: 127, layout }, &[image])
        })
    };
    // A layer whose sums do not fit: K · 128 · 127 · 2^12.
    let too_large = || {
        let mut g = GraphBuilder::new();
        let x = g.typed_input("x", Shape::batched(&[64, 3, 3]), DType::I8).expect("an input");
        let w = g.constant("w", Tensor::from_i8(&[1, 64, 3, 3], vec![127; 576]).expect("fits")).expect("a constant");
        let b = g.constant("b", Tensor::from_i32(&[1], vec![0]).expect("fits")).expect("a constant");
        let op = IntegerConv {
            window: three(),
            groups: 1,
            zero_point: 0,
            fraction_bits: 12,
            layout: ImageLayout::ChannelsFirst,
        };
        let acc = g.node("acc", op, &[x, w, b]).expect("a conv");
        let m = g.constant("m", f32s(&[1], 0.5)).expect("a constant");
        let requantize = Requantize { qparams: qparams(1.0, 0), lo: -128, hi: 127, ch_axis: Some(1) };
        let y = g.node("y", Op::Requantize(requantize), &[acc, m]).expect("a node");
        enfold::lower::lower(&g.finish([y]).expect("a graph"))
    };
    let table: Vec<Row> = vec![
        row("a zero point beyond int8", conv(200, 0, 1), &["acc:", "200"]),
        row("too many fraction bits", conv(0, 13, 1), &["acc:", "13", "12"]),
        row("sums beyond the accumulator", too_large(), &["acc", "38352715776", "2147483647"]),
        row(
            "a mean of too many elements",
            mean(qparams(1.0, 0), qparams(1.0, 0), 1, 4096),
            &["y:", "16777216", "8388608"],
        ),
        // Lengths without a common factor: the denominators are 4,001 and 4,003.
        row(
            "a resize with too large denominators",
            built(|g| {
                let x = g.typed_input("x", Shape::batched(&[1, 3, 5]), DType::I8)?;
                let grid = ResizeGrid { output: vec![4001, 4003], coordinates: ResizeCoordinates::HalfPixel };
                let (x_qparams, y, layout) = (qparams(1.0, 0), qparams(1.0, 0), ImageLayout::ChannelsFirst);
                g.node("y", IntegerResizeLinear { grid, x: x_qparams, y, lo: -128, hi: 127, layout }, &[x])
            }),
            &["y:", "4001", "4003", "8388608"],
        ),
        row(
            "a multiplier that is not normal",
            mean(qparams(1e-30, 0), qparams(1e30, 0), 1, 4),
            &["y:", "multiplier", "1e-30"],
        ),
    ];
    check(table);
}

/// Images of another size than the graph's are refused by name, with both shapes.
#[test]
fn images_of_another_size() {
    let graph = conv(&[2, 4, 3, 3], Conv::new(three())).expect("a graph");
    let program = enfold::lower::lower(&graph).expect("lowered");
    let engine = cpu::Engine::new(&program).expect("an engine");
    for shape in [[1, 4, 5, 6], [1, 3, 5, 5]] {
        let error = engine.run(&[f32s(&shape, 1.0)]).expect_err("another size").to_string();
        let own = error.contains(&format!("{shape:?}")) && error.contains("[rows, 4, 5, 5]");
        assert!(own, "{error}");
    }
}

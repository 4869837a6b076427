//! Pools over images, and images of another size.

use super::conv::{dilations, sliding};
use super::exporter::Exporter;
use super::writer::int;
use crate::graph::{Graph, Node, NodeId};
use crate::onnx::attributes::{int_attribute, ints_attribute, string_attribute};
use crate::ops::{AveragePool, AverageWindows, ImageLayout, MaxPool, Op, ResizeCoordinates, ResizeLinear};
use crate::values::Shape;

pub(super) fn write(exporter: &mut Exporter<'_>, id: NodeId) -> bool {
    let node = exporter.graph.node(id);
    match &node.op {
        Op::MaxPool(MaxPool { window, ceil_mode, .. }) => {
            let mut attributes = sliding(window);
            attributes.extend([dilations(window), int_attribute("ceil_mode", (*ceil_mode).into())]);
            exporter.plain(id, "MaxPool", attributes);
        }
        Op::AveragePool(AveragePool { windows, .. }) => match windows {
            AverageWindows::Sliding { window, ceil_mode, count_include_pad } => {
                let flags = [("ceil_mode", *ceil_mode), ("count_include_pad", *count_include_pad)];
                let mut attributes = sliding(window);
                attributes.extend(flags.map(|(name, flag)| int_attribute(name, flag.into())));
                exporter.plain(id, "AveragePool", attributes);
            }
            AverageWindows::Adaptive { output } if output.iter().all(|&length| length == 1) => {
                exporter.plain(id, "GlobalAveragePool", Vec::new());
            }
            AverageWindows::Adaptive { .. } => {
                let sizes: Vec<i64> =
                    lengths(exporter.graph, node, windows).iter().map(|&[of, to]| int(of / to)).collect();
                let attributes = ["kernel_shape", "strides"].map(|name| ints_attribute(name, sizes.clone()));
                exporter.plain(id, "AveragePool", attributes.to_vec());
            }
        },
        Op::ResizeLinear(resize) => exporter.resize_linear(id, resize),
        _ => return false,
    }
    true
}

impl Exporter<'_> {
    fn resize_linear(&mut self, id: NodeId, resize: &ResizeLinear) {
        let input = &self.graph.node(self.graph.node(id).inputs[0]).shape;
        let scales = scales(input, &resize.grid.output);
        let coordinates = match resize.grid.coordinates {
            ResizeCoordinates::HalfPixel => "half_pixel",
            ResizeCoordinates::AlignCorners => "align_corners",
            ResizeCoordinates::Asymmetric => "asymmetric",
        };
        let ([x], mut parts) = self.start(id);
        let scales = parts.floats("scales", &scales);
        let attributes = [("mode", "linear"), ("coordinate_transformation_mode", coordinates)]
            .map(|(name, text)| string_attribute(name, text))
            .to_vec();
        parts.last_with("Resize", &[x, String::new(), scales], attributes);
    }
}

/// The factor of each axis, of which the length of the batch need not be known. A length times its factor, rounded down, is the
/// length of the output.
fn scales(input: &Shape, output: &[usize]) -> Vec<f32> {
    let resized = input.fixed_dims().into_iter().rev().zip(output.iter().rev()).map(|(length, &output)| {
        let scale = output as f32 / length as f32;
        if scale * length as f32 >= output as f32 { scale } else { scale.next_up() }
    });
    let mut scales = vec![1.0; input.rank()];
    scales.iter_mut().rev().zip(resized).for_each(|(scale, resized)| *scale = resized);
    scales
}

/// The lengths of the axes that an adaptive pool shortens, before and after.
fn lengths(graph: &Graph, node: &Node, windows: &AverageWindows) -> Vec<[usize; 2]> {
    let AverageWindows::Adaptive { output } = windows else { return Vec::new() };
    let first = ImageLayout::ChannelsFirst.first_axis();
    let input = &graph.node(node.inputs[0]).shape;
    output.iter().enumerate().filter_map(|(at, &to)| Some([input.axis(first + at)?, to])).collect()
}

/// The reason why a pool or a resize has no form in ONNX.
pub(super) fn refusal(graph: &Graph, node: &Node) -> Option<String> {
    let layout = match &node.op {
        Op::MaxPool(pool) => pool.layout,
        Op::AveragePool(pool) => pool.layout,
        Op::ResizeLinear(resize) => resize.layout,
        _ => return None,
    };
    if layout != ImageLayout::ChannelsFirst {
        return Some("its channels are the last axis of the image; in ONNX they are the second".to_owned());
    }
    let Op::AveragePool(AveragePool { windows, .. }) = &node.op else { return None };
    let [of, to] = *lengths(graph, node, windows).iter().find(|[of, to]| of % to != 0)?;
    Some(format!("it averages {of} elements to {to}, by windows of several lengths; in ONNX all have the same"))
}

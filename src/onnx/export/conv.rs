//! Convolutions, and the windows that convolutions and pools slide over images.

use super::exporter::Exporter;
use super::writer::int;
use crate::graph::NodeId;
use crate::onnx::attributes::{int_attribute, ints_attribute};
use crate::onnx::proto::AttributeProto;
use crate::ops::{Conv, ConvTranspose, Op, Window, WindowAxis};

pub(super) fn write(exporter: &mut Exporter<'_>, id: NodeId) -> bool {
    let (op_type, window, groups) = match &exporter.graph.node(id).op {
        Op::Conv(Conv { window, groups, .. }) => ("Conv", window, *groups),
        Op::ConvTranspose(ConvTranspose { window, groups, .. }) => ("ConvTranspose", window, *groups),
        _ => return false,
    };
    let mut attributes = sliding(window);
    attributes.push(dilations(window));
    attributes.push(int_attribute("group", int(groups)));
    if let Op::ConvTranspose(ConvTranspose { output_padding, .. }) = &exporter.graph.node(id).op {
        attributes.push(ints_attribute("output_padding", output_padding.iter().map(|&n| int(n)).collect()));
    }
    exporter.convolution(id, op_type, attributes);
    true
}

/// The attributes of a window that all operators with windows have.
pub(super) fn sliding(window: &Window) -> Vec<AttributeProto> {
    let ints = |of: fn(&WindowAxis) -> i64| window.axes.iter().map(of).collect::<Vec<i64>>();
    let pads = [ints(|axis| axis.before), ints(|axis| axis.after)].concat();
    vec![
        ints_attribute("kernel_shape", ints(|axis| int(axis.size))),
        ints_attribute("strides", ints(|axis| int(axis.stride))),
        ints_attribute("pads", pads),
    ]
}

pub(super) fn dilations(window: &Window) -> AttributeProto {
    ints_attribute("dilations", window.axes.iter().map(|axis| int(axis.dilation)).collect())
}

impl Exporter<'_> {
    /// A convolution reads its weight as it is, unlike most linear layers.
    fn convolution(&mut self, id: NodeId, op_type: &str, attributes: Vec<AttributeProto>) {
        let node = self.graph.node(id);
        let (x, weight) = (self.value(node.inputs[0]), self.factor(node.inputs[1]));
        let inputs: Vec<String> = [x, weight].into_iter().chain(self.bias(id)).collect();
        self.parts(id).last_with(op_type, &inputs, attributes);
    }
}

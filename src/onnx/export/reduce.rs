//! Reductions along an axis.

use super::exporter::Exporter;
use super::writer::int;
use crate::graph::NodeId;
use crate::onnx::attributes::{int_attribute, ints_attribute};
use crate::ops::{Max, Op, Sum};

pub(super) fn write(exporter: &mut Exporter<'_>, id: NodeId) -> bool {
    let keep = int_attribute("keepdims", 0);
    match exporter.graph.node(id).op {
        // The axes of these two are an attribute and an input in opset 17.
        Op::Max(Max { axis }) => exporter.plain(id, "ReduceMax", vec![ints_attribute("axes", vec![int(axis)]), keep]),
        Op::Sum(Sum { axis, .. }) => {
            let ([x], mut parts) = exporter.start(id);
            let axes = parts.int64s("axes", &[int(axis)]);
            parts.last_with("ReduceSum", &[x, axes], vec![keep]);
        }
        _ => return false,
    }
    true
}

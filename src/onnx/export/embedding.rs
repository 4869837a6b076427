//! Rows of embedding tables.

use super::exporter::Exporter;
use crate::graph::NodeId;
use crate::onnx::attributes::int_attribute;
use crate::ops::Op;

pub(super) fn write(exporter: &mut Exporter<'_>, id: NodeId) -> bool {
    let Op::Embedding(_) = exporter.graph.node(id).op else { return false };
    let inputs = exporter.inputs(id);
    exporter.parts(id).last_with("Gather", &[&inputs[1], &inputs[0]], vec![int_attribute("axis", 0)]);
    true
}

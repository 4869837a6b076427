//! Products of two tensors.

use super::exporter::Exporter;
use crate::graph::NodeId;
use crate::ops::Op;

pub(super) fn write(exporter: &mut Exporter<'_>, id: NodeId) -> bool {
    let Op::MatMul(_) = exporter.graph.node(id).op else { return false };
    if let Some(product) = exporter.integer_product(id) {
        exporter.write_integer_product(id, &product, None);
        return true;
    }
    let inputs: Vec<String> = exporter.graph.node(id).inputs.iter().map(|&input| exporter.factor(input)).collect();
    exporter.parts(id).last("MatMul", &inputs);
    true
}

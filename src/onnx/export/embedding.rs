//! Rows of embedding tables.

use super::exporter::Exporter;
use crate::graph::NodeId;
use crate::onnx::attributes::int_attribute;
use crate::onnx::exported_functions as functions;
use crate::ops::{Dequantize, Op};
use crate::values::{DType, TensorQParams};

pub(super) fn write(exporter: &mut Exporter<'_>, id: NodeId) -> bool {
    let Op::Embedding(_) = exporter.graph.node(id).op else { return false };
    if exporter.quantized_rows(id) {
        return true;
    }
    let inputs = exporter.inputs(id);
    exporter.parts(id).last_with("Gather", &[&inputs[1], &inputs[0]], vec![int_attribute("axis", 0)]);
    true
}

impl Exporter<'_> {
    /// Rows of a table of int8 with a scale for each, by a function that dequantizes the rows that are looked up; `false` for another table.
    fn quantized_rows(&mut self, id: NodeId) -> bool {
        let &[ids, table] = &self.graph.node(id).inputs[..] else { return false };
        let Op::Dequantize(Dequantize { qparams: TensorQParams::PerChannel { channels, ch_axis: 0 } }) =
            &self.graph.node(table).op
        else {
            return false;
        };
        let values = self.graph.node(table).inputs[0];
        let is_symmetric = channels.iter().all(|q| q.zero_point() == 0);
        if !is_symmetric || self.graph.node(values).dtype != DType::I8 || !self.is_constant(values) {
            return false;
        }
        let scales: Vec<f32> = channels.iter().map(|q| q.scale()).collect();
        let (name, output) = (self.graph.node(id).name.clone(), self.name(id).to_owned());
        let scales = self.writer.column(&format!("{output}.scales"), &scales);
        let inputs = [self.value(values), scales, self.value(ids)];
        self.call(functions::ROWS, &name, &inputs, &output);
        true
    }
}

//! Rows of embedding tables, and blocks at coordinates.

use super::exporter::Exporter;
use super::writer::int;
use crate::graph::NodeId;
use crate::onnx::attributes::{int_attribute, string_attribute};
use crate::onnx::exported_functions as functions;
use crate::onnx::proto::data_type as ty;
use crate::ops::{Dequantize, GatherNd, Op, ScatterNd, ScatterReduction};
use crate::values::{DType, TensorQParams};

pub(super) fn write(exporter: &mut Exporter<'_>, id: NodeId) -> bool {
    match exporter.graph.node(id).op {
        Op::Embedding(_) => {}
        Op::GatherNd(GatherNd { batch_dims }) => {
            exporter.gather_nd(id, batch_dims);
            return true;
        }
        Op::ScatterNd(scatter) => return exporter.scatter_nd(id, scatter),
        _ => return false,
    }
    if exporter.quantized_rows(id) {
        return true;
    }
    let inputs = exporter.inputs(id);
    exporter.parts(id).last_with("Gather", &[&inputs[1], &inputs[0]], vec![int_attribute("axis", 0)]);
    true
}

impl Exporter<'_> {
    /// Blocks by their coordinates, which are `int64` in ONNX.
    fn gather_nd(&mut self, id: NodeId, batch_dims: usize) {
        let ([x, ids], mut parts) = self.start(id);
        let ids = parts.op_with("Cast", "indices", &[ids], vec![int_attribute("to", ty::INT64.into())]);
        parts.last_with("GatherND", &[x, ids], vec![int_attribute("batch_dims", int(batch_dims))]);
    }

    /// Updates of blocks. Those of a batch are updates along the last axis; `false` if blocks of a batch have axes of their own, or for a
    /// reduction that the opset lacks.
    fn scatter_nd(&mut self, id: NodeId, ScatterNd { batch_dims, reduction }: ScatterNd) -> bool {
        let reduction = match reduction {
            ScatterReduction::Replace => "none",
            ScatterReduction::Add => "add",
            ScatterReduction::Mul => "mul",
            ScatterReduction::Maximum | ScatterReduction::Minimum => return false,
        };
        let inputs = &self.graph.node(id).inputs;
        let [x, ids] = [0, 1].map(|at| &self.graph.node(inputs[at]).shape);
        let along_last = ids.last() == Some(1) && x.rank() == batch_dims + 1 && ids.rank() == batch_dims + 2;
        if batch_dims > 0 && !along_last {
            return false;
        }
        let last = int(ids.rank()) - 1;
        let reduction = string_attribute("reduction", reduction);
        let ([x, ids, updates], mut parts) = self.start(id);
        let ids = parts.op_with("Cast", "indices", &[ids], vec![int_attribute("to", ty::INT64.into())]);
        if batch_dims == 0 {
            parts.last_with("ScatterND", &[x, ids, updates], vec![reduction]);
            return true;
        }
        let axes = parts.int64s("axes", &[last]);
        let ids = parts.op("Squeeze", "elements", &[ids, axes]);
        parts.last_with("ScatterElements", &[x, ids, updates], vec![int_attribute("axis", int(batch_dims)), reduction]);
        true
    }

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

//! Operators that move elements.

use super::exporter::Exporter;
use super::writer::int;
use crate::graph::NodeId;
use crate::onnx::attributes::{int_attribute, ints_attribute};
use crate::ops::{Concat, IndexSelect, Op, Pad, Slice, Transpose};

pub(super) fn write(exporter: &mut Exporter<'_>, id: NodeId) -> bool {
    match &exporter.graph.node(id).op {
        Op::Reshape(_) | Op::Flatten(_) => exporter.reshape(id),
        Op::Transpose(Transpose { perm }) => {
            let perm = perm.iter().map(|&axis| int(axis)).collect();
            exporter.plain(id, "Transpose", vec![ints_attribute("perm", perm)]);
        }
        Op::Concat(Concat { axis }) => exporter.plain(id, "Concat", vec![int_attribute("axis", int(*axis))]),
        Op::Slice(slice) => exporter.slice(id, *slice),
        Op::IndexSelect(IndexSelect { axis, indices }) => {
            let indices: Vec<i64> = indices.iter().map(|&index| index.into()).collect();
            let ([x], mut parts) = exporter.start(id);
            let indices = parts.int64s("indices", &indices);
            parts.last_with("Gather", &[x, indices], vec![int_attribute("axis", int(*axis))]);
        }
        Op::Pad(Pad { before, after }) => {
            let pads: Vec<i64> = before.iter().chain(after).map(|&n| int(n)).collect();
            let ([x, value], mut parts) = exporter.start(id);
            let pads = parts.int64s("pads", &pads);
            parts.last("Pad", &[x, pads, value]);
        }
        _ => return false,
    }
    true
}

impl Exporter<'_> {
    /// A length of 0 stands for that of the input, which also has `rows` in front.
    fn reshape(&mut self, id: NodeId) {
        let node = self.graph.node(id);
        let rows = node.shape.is_batched().then_some(0);
        let dims: Vec<i64> = rows.into_iter().chain(node.shape.fixed_dims().iter().map(|&d| int(d))).collect();
        let ([x], mut parts) = self.start(id);
        let dims = parts.int64s("shape", &dims);
        parts.last("Reshape", &[x, dims]);
    }

    fn slice(&mut self, id: NodeId, Slice { axis, start, end }: Slice) {
        let ([x], mut parts) = self.start(id);
        let [start, end, axis] =
            [("start", start), ("end", end), ("axis", axis)].map(|(part, n)| parts.int64s(part, &[int(n)]));
        parts.last("Slice", &[x, start, end, axis]);
    }
}

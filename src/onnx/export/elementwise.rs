//! Operators on the elements of two or three tensors.

use super::exporter::Exporter;
use crate::graph::NodeId;
use crate::onnx::attributes::int_attribute;
use crate::onnx::proto::data_type;
use crate::ops::{Add, AddScalar, Binary, BinaryOp, Div, Mask, Mul, MulScalar, Op, Where};

pub(super) fn write(exporter: &mut Exporter<'_>, id: NodeId) -> bool {
    match exporter.graph.node(id).op {
        Op::Add(Add) => exporter.plain(id, "Add", Vec::new()),
        Op::Mul(Mul) => exporter.plain(id, "Mul", Vec::new()),
        Op::Div(Div) => exporter.plain(id, "Div", Vec::new()),
        Op::AddScalar(AddScalar { value }) => exporter.with_scalar(id, "Add", value),
        Op::MulScalar(MulScalar { value }) => exporter.with_scalar(id, "Mul", value),
        Op::Where(Where) => exporter.choose(id),
        Op::Mask(Mask { inverted }) => exporter.mask(id, inverted),
        Op::Binary(Binary { op: BinaryOp::Maximum }) => exporter.plain(id, "Max", Vec::new()),
        Op::Binary(Binary { op: BinaryOp::Minimum }) => exporter.plain(id, "Min", Vec::new()),
        Op::Binary(Binary { op: BinaryOp::Equal }) => exporter.comparison(id, "Equal"),
        Op::Binary(Binary { op: BinaryOp::Less }) => exporter.comparison(id, "Less"),
        Op::Binary(Binary { op: BinaryOp::LessOrEqual }) => exporter.comparison(id, "LessOrEqual"),
        _ => return false,
    }
    true
}

impl Exporter<'_> {
    fn with_scalar(&mut self, id: NodeId, op_type: &str, value: f32) {
        let ([x], mut parts) = self.start(id);
        let value = parts.scalar("scalar", value);
        parts.last(op_type, &[x, value]);
    }

    /// The condition of a `Where` is a float in a graph and a boolean in ONNX.
    fn choose(&mut self, id: NodeId) {
        let ([condition, a, b], mut parts) = self.start(id);
        let zero = parts.scalar("zero", 0.0);
        let is_zero = parts.op("Equal", "is_zero", &[condition, zero]);
        parts.last("Where", &[is_zero, b, a]);
    }

    /// A mask selects between `x` and −0.
    fn mask(&mut self, id: NodeId, inverted: bool) {
        let ([x, mask], mut parts) = self.start(id);
        let zero = parts.scalar("zero", 0.0);
        let is_zero = parts.op("Equal", "is_zero", &[mask, zero]);
        let nothing = parts.scalar("nothing", -0.0);
        let [then, otherwise] = if inverted { [x, nothing] } else { [nothing, x] };
        parts.last("Where", &[is_zero, then, otherwise]);
    }

    /// A comparison gives floats in a graph and booleans in ONNX.
    fn comparison(&mut self, id: NodeId, op_type: &str) {
        let (inputs, mut parts) = self.start::<2>(id);
        let holds = parts.op(op_type, "holds", &inputs);
        parts.last_with("Cast", &[holds], vec![int_attribute("to", data_type::FLOAT.into())]);
    }
}

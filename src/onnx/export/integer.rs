//! Plain integers. Every `i32` of a graph is an `int32` of ONNX, whose arithmetic wraps around too.

use super::exporter::Exporter;
use crate::graph::NodeId;
use crate::onnx::attributes::int_attribute;
use crate::onnx::proto::{AttributeProto, data_type as ty};
use crate::ops::{Int32, Int32Op, IntegerType, Op, ToFloat, ToInteger};
use crate::values::DType;

pub(super) fn write(exporter: &mut Exporter<'_>, id: NodeId) -> bool {
    match exporter.graph.node(id).op {
        Op::ToFloat(ToFloat) => exporter.plain(id, "Cast", to(ty::FLOAT)),
        Op::ToInteger(ToInteger { to }) => exporter.cast(id, to),
        Op::Int32(Int32 { op, .. }) => match op {
            Int32Op::Add => exporter.plain(id, "Add", Vec::new()),
            Int32Op::Sub => exporter.plain(id, "Sub", Vec::new()),
            Int32Op::Mul => exporter.plain(id, "Mul", Vec::new()),
            Int32Op::Div => exporter.plain(id, "Div", Vec::new()),
            Int32Op::Min => exporter.plain(id, "Min", Vec::new()),
            Int32Op::Max => exporter.plain(id, "Max", Vec::new()),
            Int32Op::Equal => exporter.integer_comparison(id, "Equal"),
            Int32Op::Less => exporter.integer_comparison(id, "Less"),
        },
        _ => return false,
    }
    true
}

/// The attribute that names the type of a cast.
fn to(data_type: i32) -> Vec<AttributeProto> {
    vec![int_attribute("to", data_type.into())]
}

impl Exporter<'_> {
    /// A comparison gives integers in a graph and booleans in ONNX.
    fn integer_comparison(&mut self, id: NodeId, op_type: &str) {
        let (inputs, mut parts) = self.start::<2>(id);
        let answer = parts.op(op_type, "answer", &inputs);
        parts.last_with("Cast", &[answer], to(ty::INT32));
    }

    /// A cast to the type and back to int32. Floats are cast to int32 first, since a cast of a float that the type does not hold is
    /// not defined.
    fn cast(&mut self, id: NodeId, narrow: IntegerType) {
        let is_float = self.graph.node(self.graph.node(id).inputs[0]).dtype == DType::F32;
        let ([mut x], mut parts) = self.start(id);
        let narrow = match narrow {
            IntegerType::I8 => ty::INT8,
            IntegerType::U8 => ty::UINT8,
            IntegerType::I16 => ty::INT16,
            IntegerType::U16 => ty::UINT16,
            IntegerType::I32 => return parts.last_with("Cast", &[x], to(ty::INT32)),
        };
        if is_float {
            x = parts.op_with("Cast", "whole", &[x], to(ty::INT32));
        }
        let cut = parts.op_with("Cast", "cut", &[x], to(narrow));
        parts.last_with("Cast", &[cut], to(ty::INT32));
    }
}

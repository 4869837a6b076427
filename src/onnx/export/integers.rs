//! Plain integers: every `i32` of a graph is an int32 of ONNX, where arithmetic wraps around as ours does.

use super::ops::Exporter;
use super::writer::int_attribute;
use crate::graph::Node;
use crate::onnx::proto::data_type as ty;
use crate::ops::{Int32Op, IntegerType};
use crate::values::DType;

impl Exporter<'_> {
    pub(super) fn int32(&mut self, op: Int32Op, name: &str, inputs: &[&str], output: &str) {
        let (op_type, compares) = match op {
            Int32Op::Add => ("Add", false),
            Int32Op::Sub => ("Sub", false),
            Int32Op::Mul => ("Mul", false),
            Int32Op::Div => ("Div", false),
            Int32Op::Min => ("Min", false),
            Int32Op::Max => ("Max", false),
            Int32Op::Equal => ("Equal", true),
            Int32Op::Less => ("Less", true),
        };
        if compares {
            let answer = self.writer.part(op_type, &format!("{output}.answer"), inputs, Vec::new());
            self.cast(name, &answer, ty::INT32, output);
        } else {
            self.writer.node(op_type, name, inputs, output, Vec::new());
        }
    }

    /// A cast to the type and back to int32; floats are made int32 first, since a cast from what a type does not hold is undefined.
    pub(super) fn cast_to(&mut self, node: &Node, to: IntegerType, x: &str, output: &str) {
        let narrow = match to {
            IntegerType::I8 => ty::INT8,
            IntegerType::U8 => ty::UINT8,
            IntegerType::I16 => ty::INT16,
            IntegerType::U16 => ty::UINT16,
            IntegerType::I32 => return self.cast(&node.name, x, ty::INT32, output),
        };
        let mut whole = x.to_owned();
        if self.graph.node(node.inputs[0]).dtype == DType::F32 {
            let to = vec![int_attribute("to", ty::INT32.into())];
            whole = self.writer.part("Cast", &format!("{output}.whole"), &[x], to);
        }
        let to = vec![int_attribute("to", narrow.into())];
        let cut = self.writer.part("Cast", &format!("{output}.cut"), &[&whole], to);
        self.cast(&node.name, &cut, ty::INT32, output);
    }

    fn cast(&mut self, name: &str, x: &str, to: i32, output: &str) {
        self.writer.node("Cast", name, &[x], output, vec![int_attribute("to", to.into())]);
    }
}

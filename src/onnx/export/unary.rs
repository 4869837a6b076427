//! Functions of one element.

use super::exporter::Exporter;
use super::writer::Writer;
use crate::graph::NodeId;
use crate::onnx::attributes::int_attribute;
use crate::onnx::functions;
use crate::onnx::proto::data_type;
use crate::ops::{Clamp, Op, Unary, UnaryOp};

pub(super) fn write(exporter: &mut Exporter<'_>, id: NodeId) -> bool {
    match exporter.graph.node(id).op {
        Op::Clamp(Clamp { min, max }) => {
            let x = exporter.value(exporter.graph.node(id).inputs[0]);
            let output = exporter.name(id).to_owned();
            clip(&mut exporter.writer, &exporter.graph.node(id).name, &x, [min, max], &output);
        }
        Op::Unary(Unary { op }) => match functions::op_type(op) {
            Some(op_type) => exporter.plain(id, op_type, Vec::new()),
            None => return exporter.decomposed(id, op),
        },
        _ => return false,
    }
    true
}

/// Writes a `Clip`. An infinite bound is left out.
pub(super) fn clip(writer: &mut Writer, name: &str, x: &str, [min, max]: [f32; 2], output: &str) {
    let mut inputs = vec![x.to_owned()];
    for (part, bound) in [("min", min), ("max", max)] {
        let wish = format!("{output}.{part}");
        inputs.push(if bound.is_finite() { writer.scalar(&wish, bound) } else { String::new() });
    }
    while inputs.last().is_some_and(String::is_empty) {
        inputs.pop();
    }
    writer.node("Clip", name, &inputs, output, Vec::new());
}

impl Exporter<'_> {
    /// Writes a function that is no operator of ONNX as several nodes; `false` if the function has no such form.
    fn decomposed(&mut self, id: NodeId, op: UnaryOp) -> bool {
        match op {
            UnaryOp::Gelu => self.gelu(id),
            UnaryOp::GeluTanh => self.gelu_tanh(id),
            UnaryOp::Silu => self.silu(id),
            UnaryOp::Step => self.step(id),
            UnaryOp::IsNan => self.is_nan(id),
            UnaryOp::RoundF16 => self.rounding(id, data_type::FLOAT16),
            UnaryOp::RoundBf16 => self.rounding(id, data_type::BFLOAT16),
            _ => return false,
        }
        true
    }

    fn silu(&mut self, id: NodeId) {
        let ([x], mut parts) = self.start(id);
        let sigmoid = parts.op("Sigmoid", "sigmoid", &[&x]);
        parts.last("Mul", &[x, sigmoid]);
    }

    fn step(&mut self, id: NodeId) {
        let ([x], mut parts) = self.start(id);
        let zero = parts.scalar("zero", 0.0);
        let greater = parts.op("Greater", "greater", &[x, zero]);
        parts.last_with("Cast", &[greater], vec![int_attribute("to", data_type::FLOAT.into())]);
    }

    fn is_nan(&mut self, id: NodeId) {
        let ([x], mut parts) = self.start(id);
        let is_nan = parts.op("IsNaN", "is_nan", &[x]);
        parts.last_with("Cast", &[is_nan], vec![int_attribute("to", data_type::FLOAT.into())]);
    }

    /// A cast to a narrower type, and a cast back.
    fn rounding(&mut self, id: NodeId, narrow: i32) {
        let ([x], mut parts) = self.start(id);
        let to = |data_type: i32| vec![int_attribute("to", data_type.into())];
        let rounded = parts.op_with("Cast", "rounded", &[x], to(narrow));
        parts.last_with("Cast", &[rounded], to(data_type::FLOAT));
    }

    /// `(x · (1 + erf(x / √2))) · 0.5`, in the order that ONNX Runtime looks for.
    fn gelu(&mut self, id: NodeId) {
        let ([x], mut parts) = self.start(id);
        let scalars = [("sqrt_2", std::f32::consts::SQRT_2), ("one", 1.0), ("half", 0.5)];
        let [root, one, half] = scalars.map(|(part, value)| parts.scalar(part, value));
        let divided = parts.op("Div", "divided", &[&x, &root]);
        let erf = parts.op("Erf", "erf", &[divided]);
        let sum = parts.op("Add", "sum", &[erf, one]);
        let product = parts.op("Mul", "product", &[x, sum]);
        parts.last("Mul", &[product, half]);
    }

    /// `(x · (1 + tanh(√(2/π) · (x + 0.044715 · x³)))) · 0.5`.
    fn gelu_tanh(&mut self, id: NodeId) {
        let ([x], mut parts) = self.start(id);
        let three = parts.scalar("three", 3.0);
        let cubic = parts.scalar("cubic", 0.044_715);
        let root = parts.scalar("sqrt_2_over_pi", (2.0 / std::f64::consts::PI).sqrt() as f32);
        let one = parts.scalar("one", 1.0);
        let half = parts.scalar("half", 0.5);
        let cube = parts.op("Pow", "cube", &[&x, &three]);
        let scaled = parts.op("Mul", "scaled_cube", &[cube, cubic]);
        let inner = parts.op("Add", "inner", &[&x, &scaled]);
        let argument = parts.op("Mul", "argument", &[inner, root]);
        let tanh = parts.op("Tanh", "tanh", &[argument]);
        let sum = parts.op("Add", "sum", &[tanh, one]);
        let product = parts.op("Mul", "product", &[x, sum]);
        parts.last("Mul", &[product, half]);
    }
}

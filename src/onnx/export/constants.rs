//! Values that depend on constants only, in the form that their reader takes. They are written when they are first read, so that no
//! unread value is written.

use std::borrow::Cow;
use std::collections::HashMap;

use super::Preset;
use super::exporter::Exporter;
use crate::graph::NodeId;
use crate::onnx::attributes::ints_attribute;
use crate::onnx::tensor::{element_type, swapped_qparams};
use crate::ops::{Arguments, Constant, Dequantize, Op, Quantize, transposed};
use crate::values::{DType, QParams, Shape, Tensor, TensorQParams};

impl Exporter<'_> {
    /// Whether a node is a constant, a quantized constant, or a dequantized one.
    pub(super) fn is_constant(&self, id: NodeId) -> bool {
        match &self.graph.node(id).op {
            Op::Dequantize(_) => self.is_known(self.graph.node(id).inputs[0]),
            _ => self.is_known(id),
        }
    }

    /// Whether [`known`](Self::known) gives a value, without computing it.
    fn is_known(&self, id: NodeId) -> bool {
        let node = self.graph.node(id);
        match &node.op {
            Op::Constant(_) => true,
            // The constant holds floats, since inference admits no others.
            Op::Quantize(_) => matches!(self.graph.node(node.inputs[0]).op, Op::Constant(_)),
            _ => false,
        }
    }

    /// The value of a constant, or of a constant that is quantized.
    pub(super) fn known(&self, id: NodeId) -> Option<Cow<'_, Tensor>> {
        let node = self.graph.node(id);
        match &node.op {
            Op::Constant(Constant { tensor, .. }) => Some(Cow::Borrowed(tensor)),
            Op::Quantize(quantize) => {
                let tensor = self.graph.node(node.inputs[0]).op.constant()?;
                Some(Cow::Owned(quantized(tensor, quantize)?))
            }
            _ => None,
        }
    }

    /// Writes a node that [`is_constant`](Self::is_constant).
    pub(super) fn write_constant(&mut self, id: NodeId) {
        let node = self.graph.node(id);
        let name = self.name(id).to_owned();
        if let Op::Dequantize(Dequantize { qparams }) = &node.op {
            self.write_dequantized(&node.name, &name, node.inputs[0], qparams);
        } else if let Some(value) = self.known(id).map(Cow::into_owned) {
            self.writer.named_tensor(&name, &value);
        }
    }

    /// Writes the node that dequantizes a constant. For ONNX Runtime, each such node has quantized values and a zero point of its own:
    /// with `session.x64quantprecision`, ONNX Runtime replaces both for each product that reads them, and refuses to replace one twice.
    fn write_dequantized(&mut self, name: &str, output: &str, quantized: NodeId, qparams: &TensorQParams) {
        let dtype = self.graph.node(quantized).dtype;
        let copied = self.copies_quantized() && self.is_written(quantized);
        let value = match self.known(quantized).filter(|_| copied).map(Cow::into_owned) {
            Some(value) => self.writer.tensor(&format!("{}.copy", self.name(quantized)), &value),
            None => self.value(quantized),
        };
        self.dequantize_linear(name, &value, output, qparams, dtype);
    }

    fn dequantize_linear(&mut self, name: &str, value: &str, output: &str, qparams: &TensorQParams, dtype: DType) {
        let copies = self.copies_quantized();
        let shared = if copies { std::mem::take(&mut self.writer.scalars) } else { HashMap::new() };
        self.writer.linear("DequantizeLinear", name, value, output, qparams, element_type(dtype));
        if copies {
            self.writer.scalars = shared;
        }
    }

    /// Whether no two products may read the same quantized values.
    fn copies_quantized(&self) -> bool {
        self.options.preset == Preset::OnnxRuntime
    }

    /// The name of the value that a product reads as a factor. A dequantized constant is copied for each product.
    pub(super) fn factor(&mut self, id: NodeId) -> String {
        let node = self.graph.node(id);
        match &node.op {
            Op::Dequantize(Dequantize { qparams })
                if self.copies_quantized() && self.is_written(id) && self.is_constant(id) =>
            {
                let output = self.writer.unique(&format!("{}.copy", self.name(id)));
                self.write_dequantized(&output, &output, node.inputs[0], qparams);
                output
            }
            _ => self.value(id),
        }
    }

    /// The name of a weight `[N, K]` that is written transposed, as `[K, N]`.
    pub(super) fn transposed(&mut self, id: NodeId) -> String {
        let node = self.graph.node(id);
        // Quantized values, and the node that dequantizes them, are written for each product.
        let quantized = node.dtype == DType::I8 || matches!(node.op, Op::Dequantize(_));
        let own = quantized && self.copies_quantized() && self.is_constant(id);
        if let Some(name) = self.transposed.get(&id).filter(|_| !own) {
            return name.clone();
        }
        let wish = format!("{}.transposed", self.name(id));
        let name = match &node.op {
            Op::Dequantize(Dequantize { qparams }) if self.is_constant(id) => {
                let values = self.transposed(node.inputs[0]);
                let (output, dtype) = (self.writer.unique(&wish), self.graph.node(node.inputs[0]).dtype);
                self.dequantize_linear(&output, &values, &output, &swapped_qparams(qparams), dtype);
                output
            }
            _ => match self.known(id).map(|tensor| transposed(&tensor, &[1, 0])) {
                Some(tensor) => self.writer.tensor(&wish, &tensor),
                None => {
                    let weight = self.value(id);
                    self.writer.part("Transpose", &wish, &[&weight], vec![ints_attribute("perm", vec![1, 0])])
                }
            },
        };
        self.transposed.insert(id, name.clone());
        name
    }
}

/// Scale and zero point of one channel.
pub(super) fn channel(qparams: &TensorQParams, n: usize) -> QParams {
    match qparams {
        TensorQParams::PerTensor(q) => *q,
        TensorQParams::PerChannel { channels, .. } => channels[n % channels.len()],
        // The first of the row: callers leave groups alone.
        TensorQParams::PerGroup(groups) => groups.groups()[n % groups.rows() * groups.groups_per_row()],
    }
}

/// The quantized values of a constant, by the `Quantize` operator. NaN has the quantized value of 0.
fn quantized(tensor: &Tensor, quantize: &Quantize) -> Option<Tensor> {
    let floats = tensor.as_f32()?.iter().map(|&v| if v.is_nan() { 0.0 } else { v }).collect();
    let floats = Tensor::from_f32(tensor.shape(), floats).ok()?;
    let output = Shape::fixed(tensor.shape());
    Op::from(quantize.clone()).eval(&Arguments { tensors: &[&floats], output: &output, packed: None }).ok()
}

//! Quantize and dequantize nodes, static and dynamic.

mod dynamic;

use super::Preset;
use super::exporter::Exporter;
use super::groups;
use super::unary::clip;
use crate::graph::{Graph, Node, NodeId};
use crate::onnx::proto::data_type;
use crate::onnx::tensor::element_type;
use crate::ops::{ChooseQParams, Dequantize, DequantizeDynamic, Op, Quantize, QuantizeDynamic, Unary, UnaryOp};
use crate::values::{DType, QuantRange, TensorQParams};

pub(super) fn write(exporter: &mut Exporter<'_>, id: NodeId) -> bool {
    match &exporter.graph.node(id).op {
        Op::Quantize(Quantize { qparams, range, .. }) => exporter.quantize(id, qparams, *range),
        Op::Dequantize(Dequantize { qparams }) => exporter.dequantize(id, qparams),
        // Its scale is written with the values that are quantized by it.
        Op::ChooseQParams(_) => {}
        Op::QuantizeDynamic(_) => return exporter.quantize_dynamic(id),
        Op::DequantizeDynamic(DequantizeDynamic) => exporter.dequantize_dynamic(id),
        _ => return false,
    }
    true
}

/// Whether an operator of the integer form is one of dynamic quantization, which has a form in ONNX.
pub(super) fn is_dynamic(op: &Op) -> bool {
    matches!(op, Op::ChooseQParams(_) | Op::QuantizeDynamic(_) | Op::DequantizeDynamic(_))
}

/// The reason why a node that quantizes or dequantizes has no form in ONNX. `readers` are the nodes that read its value.
pub(super) fn refusal(graph: &Graph, id: NodeId, readers: &[&Node], preset: Preset) -> Option<String> {
    let node = graph.node(id);
    match &node.op {
        Op::Observe(_) => Some("is being calibrated; convert the graph first".to_owned()),
        Op::Dequantize(Dequantize { qparams: TensorQParams::PerGroup(groups) }) => {
            groups::refusal(graph, id, groups, readers, preset)
        }
        Op::Quantize(Quantize { qparams, range, .. }) if !matches!(graph.node(node.inputs[0]).op, Op::Constant(_)) => {
            if *range == QuantRange::INT32 {
                Some("QuantizeLinear does not quantize to 32 bits, and its input is not a constant".to_owned())
            } else if *range != QuantRange::INT8 && matches!(qparams, TensorQParams::PerChannel { .. }) {
                Some(format!("Clip cannot limit each channel to quantized values of {range}"))
            } else {
                None
            }
        }
        Op::ChooseQParams(_) | Op::QuantizeDynamic(_) | Op::DequantizeDynamic(DequantizeDynamic)
            if preset == Preset::TensorRt =>
        {
            Some("its scale is found at run time; quantize statically".to_owned())
        }
        Op::ChooseQParams(_) | Op::QuantizeDynamic(_) if graph.output_flags()[id.index()] => {
            Some("dynamic qparams and values quantized with them cannot be outputs".to_owned())
        }
        Op::ChooseQParams(ChooseQParams { range, .. }) => {
            let fits = |reader: &&Node| match reader.op {
                Op::QuantizeDynamic(QuantizeDynamic { range: other }) => reader.inputs[1] == id && other == *range,
                Op::DequantizeDynamic(DequantizeDynamic) => reader.inputs[1] == id,
                _ => false,
            };
            let odd = readers.iter().find(|reader| !fits(reader))?;
            Some(format!("{} does not quantize or dequantize to its range of {range}", odd.name))
        }
        Op::QuantizeDynamic(_) => {
            let fits = |reader: &&Node| {
                reader.op == Op::DequantizeDynamic(DequantizeDynamic) && reader.inputs[1] == node.inputs[1]
            };
            let odd = readers.iter().find(|reader| !fits(reader))?;
            Some(format!("{} reads its quantized values without dequantizing them", odd.name))
        }
        Op::DequantizeDynamic(DequantizeDynamic) => {
            let quantized = graph.node(node.inputs[0]);
            let is_pair = matches!(quantized.op, Op::QuantizeDynamic(_))
                && matches!(graph.node(node.inputs[1]).op, Op::ChooseQParams(_));
            (!is_pair).then(|| format!("{} is not quantized with dynamic qparams", quantized.name))
        }
        _ => None,
    }
}

impl Exporter<'_> {
    /// A range narrower than int8 is kept by a Clip: of `uint8` values, so that ONNX Runtime may fuse the QuantizeLinear with the node
    /// before it, and else of the floats, to the reals of the smallest and largest value.
    fn quantize(&mut self, id: NodeId, qparams: &TensorQParams, range: QuantRange) {
        let node = self.graph.node(id);
        let output = self.name(id).to_owned();
        let quantized = self.quantized_type(id);
        let mut x = self.value(self.narrowed_relu(id).unwrap_or(node.inputs[0]));
        let narrow = match qparams {
            TensorQParams::PerTensor(q) if range != QuantRange::INT8 => Some(q),
            _ => None,
        };
        if let Some(q) = narrow
            && quantized == data_type::UINT8
        {
            // The quantized value of 0 is the smallest behind a ReLU.
            let is_relu = self.narrowed_relu(id).is_some();
            let lowest = if is_relu { range.quant_min().max(q.zero_point()) } else { range.quant_min() };
            let wide = self.writer.unique(&format!("{output}.wide"));
            self.writer.linear("QuantizeLinear", &wide, &x, &wide, qparams, quantized);
            let bounds = [("min", lowest), ("max", range.quant_max())];
            let [min, max] =
                bounds.map(|(part, value)| self.writer.quantized_value(&format!("{output}.{part}"), value, quantized));
            self.writer.node("Clip", &node.name, &[wide, min, max], &output, Vec::new());
            return;
        }
        if let Some(q) = narrow {
            let bounds =
                [range.quant_min(), range.quant_max()].map(|value| (value - q.zero_point()) as f32 * q.scale());
            let clipped = self.writer.unique(&format!("{output}.clip"));
            clip(&mut self.writer, &clipped, &x, bounds, &clipped);
            x = clipped;
        }
        self.writer.linear("QuantizeLinear", &node.name, &x, &output, qparams, quantized);
    }

    /// The input of a ReLU that a node with a range narrower than int8 alone quantizes. The smallest quantized value takes its place: ONNX
    /// Runtime fuses a Gemm with a ReLU in float.
    fn narrowed_relu(&self, id: NodeId) -> Option<NodeId> {
        let node = self.graph.node(id);
        let Op::Quantize(Quantize { qparams: TensorQParams::PerTensor(_), range, .. }) = &node.op else { return None };
        let relu = node.inputs[0];
        let is_relu = matches!(self.graph.node(relu).op, Op::Unary(Unary { op: UnaryOp::Relu }));
        let fits = is_relu
            && *range != QuantRange::INT8
            && !self.is_output(relu)
            && self.readers(relu).all(|reader| reader == id)
            && self.quantized_type(id) == data_type::UINT8;
        fits.then(|| self.graph.node(relu).inputs[0])
    }

    /// Whether a ReLU is written as the range of the node that quantizes its values.
    pub(super) fn is_narrowed(&self, id: NodeId) -> bool {
        matches!(self.graph.node(id).op, Op::Unary(Unary { op: UnaryOp::Relu }))
            && self.readers(id).next().is_some_and(|reader| self.narrowed_relu(reader).is_some())
    }

    fn dequantize(&mut self, id: NodeId, qparams: &TensorQParams) {
        let node = self.graph.node(id);
        let (x, output) = (self.value(node.inputs[0]), self.name(id).to_owned());
        let quantized = self.quantized_type(node.inputs[0]);
        self.writer.linear("DequantizeLinear", &node.name, &x, &output, qparams, quantized);
    }

    /// The type of quantized values in the file. For ONNX Runtime, values that are only dequantized are `uint8`: its products of `uint8`
    /// and int8 are the ones that all processors have, and it makes `uint8` of int8 itself only where one node reads them.
    fn quantized_type(&self, id: NodeId) -> i32 {
        let node = self.graph.node(id);
        let is_local = matches!(node.op, Op::Quantize(_))
            && node.dtype == DType::I8
            && !self.is_constant(id)
            && !self.is_output(id)
            && self.readers(id).all(|reader| matches!(self.graph.node(reader).op, Op::Dequantize(_)));
        if is_local && self.options.preset == Preset::OnnxRuntime { data_type::UINT8 } else { element_type(node.dtype) }
    }
}

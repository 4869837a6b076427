//! Dynamic quantization: scales and zero points that are computed at run time (equation 10).

use crate::graph::NodeId;
use crate::onnx::attributes::{int_attribute, ints_attribute};
use crate::onnx::export::exporter::Exporter;
use crate::onnx::export::parameters::Parameters;
use crate::onnx::export::writer::Parts;
use crate::ops::ChooseQParams;
use crate::values::{QScheme, QuantRange};

impl Exporter<'_> {
    pub(super) fn choose_qparams(&mut self, id: NodeId, choose: ChooseQParams) {
        let x = self.graph.node(id).inputs[0];
        let parameters = if choose.qscheme == QScheme::per_tensor_affine() && choose.range == QuantRange::INT8 {
            self.choose_by_operator(id, x)
        } else {
            self.choose_by_arithmetic(id, x, choose)
        };
        self.parameters.insert(id, parameters);
    }

    fn choose_by_operator(&mut self, id: NodeId, x: NodeId) -> Parameters {
        let (name, value) = (self.name(id).to_owned(), self.value(x));
        let [quantized, scale, zero_point] =
            ["codes", "scale", "zero_point"].map(|part| self.writer.unique(&format!("{name}.{part}")));
        self.writer.node("DynamicQuantizeLinear", &name, &[&value], &quantized, Vec::new());
        if let Some(node) = self.writer.nodes.last_mut() {
            node.output.extend([scale.clone(), zero_point.clone()]);
        }
        Parameters::Operator { x, quantized, scale, zero_point }
    }

    /// The order of operations is that of [`numerics`](crate::numerics), so that scales and zero points have the same bits.
    fn choose_by_arithmetic(
        &mut self,
        id: NodeId,
        x: NodeId,
        ChooseQParams { qscheme, range, eps }: ChooseQParams,
    ) -> Parameters {
        let x = self.value(x);
        let mut parts = self.parts(id);
        let (quant_min, quant_max) = (range.quant_min() as f32, range.quant_max() as f32);
        let [zero, one, eps] = [("zero", 0.0), ("one", 1.0), ("eps", eps)].map(|(part, v)| parts.scalar(part, v));
        let [lo, hi] = [("quant_min", quant_min), ("quant_max", quant_max)].map(|(part, v)| parts.scalar(part, v));

        let per_token = qscheme.is_per_token();
        let axes = per_token.then(|| ints_attribute("axes", vec![-1]));
        let attributes: Vec<_> = axes.into_iter().chain([int_attribute("keepdims", per_token.into())]).collect();
        let smallest = parts.op_with("ReduceMin", "smallest", &[&x], attributes.clone());
        let largest = parts.op_with("ReduceMax", "largest", &[&x], attributes);
        let min = parts.op("Min", "min", &[&smallest, &zero]);
        let max = parts.op("Max", "max", &[&largest, &zero]);
        let (span, steps) = if qscheme.is_symmetric() {
            let negated = parts.op("Neg", "negated", &[&min]);
            (parts.op("Max", "magnitude", &[&negated, &max]), (quant_max - quant_min) / 2.0)
        } else {
            (parts.op("Sub", "span", &[&max, &min]), quant_max - quant_min)
        };
        let steps = parts.scalar("steps", steps);
        let step = parts.op("Div", "step", &[&span, &steps]);
        let scale = parts.op("Max", "scale", &[&step, &eps]);
        let inv_scale = parts.op("Div", "inv_scale", &[&one, &scale]);
        if qscheme.is_symmetric() {
            return Parameters::Arithmetic { scale, inv_scale, lo, hi };
        }

        let zero_point = if per_token {
            zero_point_of_token(&mut parts, [&min, &max], [&lo, &hi], &scale, &zero)
        } else {
            let low = parts.op("Div", "low", &[&min, &scale]);
            let rounded = parts.op("Round", "rounded", &[low]);
            let shifted = parts.op("Sub", "shifted", &[&lo, &rounded]);
            parts.op("Clip", "zero_point", &[&shifted, &lo, &hi])
        };
        let lo = parts.op("Sub", "lo", &[&lo, &zero_point]);
        let hi = parts.op("Sub", "hi", &[&hi, &zero_point]);
        Parameters::Arithmetic { scale, inv_scale, lo, hi }
    }

    pub(super) fn quantize_dynamic(&mut self, id: NodeId) {
        let &[x, qparams] = &self.graph.node(id).inputs[..] else { return };
        let value = self.value(x);
        let Some(parameters) = self.parameters.get(&qparams) else { return };
        match parameters.clone() {
            Parameters::Operator { x: other, quantized, .. } if other == x => self.rename(id, quantized),
            Parameters::Operator { scale, zero_point, .. } => {
                self.parts(id).last("QuantizeLinear", &[value, scale, zero_point]);
            }
            Parameters::Arithmetic { inv_scale, lo, hi, .. } => {
                let mut parts = self.parts(id);
                let steps = parts.op("Mul", "steps", &[value, inv_scale]);
                let rounded = parts.op("Round", "rounded", &[steps]);
                let raised = parts.op("Max", "raised", &[rounded, lo]);
                parts.last("Min", &[raised, hi]);
            }
        }
    }

    pub(super) fn dequantize_dynamic(&mut self, id: NodeId) {
        let &[quantized, qparams] = &self.graph.node(id).inputs[..] else { return };
        let quantized = self.value(quantized);
        let Some(parameters) = self.parameters.get(&qparams) else { return };
        match parameters.clone() {
            Parameters::Operator { scale, zero_point, .. } => {
                self.parts(id).last("DequantizeLinear", &[quantized, scale, zero_point]);
            }
            Parameters::Arithmetic { scale, .. } => self.parts(id).last("Mul", &[quantized, scale]),
        }
    }
}

/// The zero point of each token, from the end of the range whose error is smaller.
fn zero_point_of_token(
    parts: &mut Parts<'_>,
    [min, max]: [&str; 2],
    [lo, hi]: [&str; 2],
    scale: &str,
    zero: &str,
) -> String {
    let low = parts.op("Div", "low", &[min, scale]);
    let high = parts.op("Div", "high", &[max, scale]);
    let (from_lo, from_hi) = (parts.op("Sub", "from_lo", &[lo, &low]), parts.op("Sub", "from_hi", &[hi, &high]));
    let (off_lo, off_hi) = (parts.op("Add", "off_lo", &[lo, &low]), parts.op("Add", "off_hi", &[hi, &high]));
    let off = parts.op("Add", "off", &[off_lo, off_hi]);
    let from_low = parts.op("Greater", "from_low", &[&off, zero]);
    let either = parts.op("Where", "either", &[from_low, from_lo, from_hi]);
    let clipped = parts.op("Clip", "clipped", &[&either, lo, hi]);
    parts.op("Round", "zero_point", &[clipped])
}

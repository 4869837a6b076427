//! Scales and zero points that are found when the value is known (equation 10).

use super::ops::Exporter;
use super::writer::{Parts, int_attribute, ints_attribute};
use crate::graph::NodeId;
use crate::values::{QScheme, QuantRange};

/// What a choice of parameters became: names of values.
#[derive(Debug)]
pub(super) enum Parameters {
    /// DynamicQuantizeLinear, which makes the codes at once.
    Operator {
        /// What it quantizes.
        x: NodeId,
        codes: String,
        scale: String,
        zero_point: String,
    },
    /// Arithmetic. Codes are floats less their zero point, from `lo` to `hi`.
    Arithmetic { scale: String, inv_scale: String, lo: String, hi: String },
}

impl Exporter<'_> {
    pub(super) fn choose(&mut self, id: NodeId, qscheme: QScheme, range: QuantRange, eps: f32) {
        let x = self.graph.node(id).inputs[0];
        let parameters = if qscheme == QScheme::per_tensor_affine() && range == QuantRange::INT8 {
            self.choose_by_operator(id, x)
        } else {
            self.choose_by_arithmetic(id, x, qscheme, range, eps)
        };
        self.parameters.insert(id, parameters);
    }

    fn choose_by_operator(&mut self, id: NodeId, x: NodeId) -> Parameters {
        let (name, value) = (self.name(id).to_owned(), self.value(x));
        let [codes, scale, zero_point] =
            ["codes", "scale", "zero_point"].map(|part| self.writer.unique(&format!("{name}.{part}")));
        self.writer.node("DynamicQuantizeLinear", &name, &[&value], &codes, Vec::new());
        if let Some(node) = self.writer.nodes.last_mut() {
            node.output.extend([scale.clone(), zero_point.clone()]);
        }
        Parameters::Operator { x, codes, scale, zero_point }
    }

    /// In the order of operations of [`numerics`](crate::numerics), so that scales and zero points are ours to the bit.
    fn choose_by_arithmetic(
        &mut self,
        id: NodeId,
        x: NodeId,
        qscheme: QScheme,
        range: QuantRange,
        eps: f32,
    ) -> Parameters {
        let (name, x) = (self.name(id).to_owned(), self.value(x));
        let mut parts = Parts { writer: &mut self.writer, node: &name };
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

        let low = parts.op("Div", "low", &[&min, &scale]);
        let zero_point = if per_token {
            let high = parts.op("Div", "high", &[&max, &scale]);
            let (from_lo, from_hi) =
                (parts.op("Sub", "from_lo", &[&lo, &low]), parts.op("Sub", "from_hi", &[&hi, &high]));
            let (off_lo, off_hi) = (parts.op("Add", "off_lo", &[&lo, &low]), parts.op("Add", "off_hi", &[&hi, &high]));
            let off = parts.op("Add", "off", &[&off_lo, &off_hi]);
            let from_low = parts.op("Greater", "from_low", &[&off, &zero]);
            let either = parts.op("Where", "either", &[&from_low, &from_lo, &from_hi]);
            let clipped = parts.op("Clip", "clipped", &[&either, &lo, &hi]);
            parts.op("Round", "zero_point", &[&clipped])
        } else {
            let rounded = parts.op("Round", "rounded", &[&low]);
            let shifted = parts.op("Sub", "shifted", &[&lo, &rounded]);
            parts.op("Clip", "zero_point", &[&shifted, &lo, &hi])
        };
        let lo = parts.op("Sub", "lo", &[&lo, &zero_point]);
        let hi = parts.op("Sub", "hi", &[&hi, &zero_point]);
        Parameters::Arithmetic { scale, inv_scale, lo, hi }
    }

    pub(super) fn quantize_dynamic(&mut self, id: NodeId) {
        let &[x, pairs] = &self.graph.node(id).inputs[..] else { return };
        let (node, name, value) = (self.graph.node(id), self.name(id).to_owned(), self.value(x));
        match self.parameters.get(&pairs) {
            Some(Parameters::Operator { x: of, codes, .. }) if *of == x => {
                let codes = codes.clone();
                self.rename(id, codes);
            }
            Some(Parameters::Operator { scale, zero_point, .. }) => {
                self.writer.node("QuantizeLinear", &node.name, &[&value, scale, zero_point], &name, Vec::new());
            }
            Some(Parameters::Arithmetic { inv_scale, lo, hi, .. }) => {
                let mut parts = Parts { writer: &mut self.writer, node: &name };
                let steps = parts.op("Mul", "steps", &[&value, inv_scale]);
                let rounded = parts.op("Round", "rounded", &[&steps]);
                let raised = parts.op("Max", "raised", &[&rounded, lo]);
                self.writer.node("Min", &node.name, &[&raised, hi], &name, Vec::new());
            }
            None => {}
        }
    }

    pub(super) fn dequantize_dynamic(&mut self, id: NodeId) {
        let &[codes, pairs] = &self.graph.node(id).inputs[..] else { return };
        let (node, name, codes) = (self.graph.node(id), self.name(id).to_owned(), self.value(codes));
        match self.parameters.get(&pairs) {
            Some(Parameters::Operator { scale, zero_point, .. }) => {
                self.writer.node("DequantizeLinear", &node.name, &[&codes, scale, zero_point], &name, Vec::new());
            }
            Some(Parameters::Arithmetic { scale, .. }) => {
                self.writer.node("Mul", &node.name, &[&codes, scale], &name, Vec::new());
            }
            None => {}
        }
    }
}

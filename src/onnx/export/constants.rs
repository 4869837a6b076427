//! What depends on constants only: weights in the layout that their reader takes, and biases. All of it is written when it is
//! first read, so that nothing is written that nobody reads.

use std::borrow::Cow;

use ndarray::{ArrayD, Ix2};

use super::Preset;
use super::ops::Exporter;
use super::writer::ints_attribute;
use crate::graph::NodeId;
use crate::numerics;
use crate::ops::{Constant, Dequantize, Op, Quantize};
use crate::values::{DType, QParams, QuantRange, Tensor, TensorQParams};

/// Weights whose codes are all smaller than this are of few bits.
const FEW_BITS: u8 = 64;

impl Exporter<'_> {
    /// Whether a node is a constant, its codes, or what these stand for.
    pub(super) fn is_constant(&self, id: NodeId) -> bool {
        match &self.graph.node(id).op {
            Op::Dequantize(_) => self.is_known(self.graph.node(id).inputs[0]),
            _ => self.is_known(id),
        }
    }

    /// Whether [`known`](Self::known) has a value, which it need not compute.
    fn is_known(&self, id: NodeId) -> bool {
        let node = self.graph.node(id);
        match &node.op {
            Op::Constant(_) => true,
            // Inference admits floats only.
            Op::Quantize(_) => matches!(self.graph.node(node.inputs[0]).op, Op::Constant(_)),
            _ => false,
        }
    }

    /// The value of a constant, or of a constant that is quantized.
    fn known(&self, id: NodeId) -> Option<Cow<'_, Tensor>> {
        let node = self.graph.node(id);
        match &node.op {
            Op::Constant(Constant { tensor, .. }) => Some(Cow::Borrowed(tensor)),
            Op::Quantize(Quantize { qparams, range }) => match &self.graph.node(node.inputs[0]).op {
                Op::Constant(Constant { tensor, .. }) => Some(Cow::Owned(quantized(tensor, qparams, *range)?)),
                _ => None,
            },
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

    /// Writes the node that dequantizes constant codes. Each has codes of its own, and a zero point: with `session.x64quantprecision`
    /// ONNX Runtime replaces both for each product that reads them, and refuses to replace one twice.
    fn write_dequantized(&mut self, name: &str, output: &str, codes: NodeId, qparams: &TensorQParams) {
        let dtype = self.graph.node(codes).dtype;
        let copied = self.copies_codes() && self.is_written(codes);
        let value = match self.known(codes).filter(|_| copied).map(Cow::into_owned) {
            Some(value) => self.writer.tensor(&format!("{}.copy", self.name(codes)), &value),
            None => self.value(codes),
        };
        if self.copies_codes() {
            self.writer.linear_apart("DequantizeLinear", name, &value, output, qparams, dtype);
        } else {
            self.writer.linear("DequantizeLinear", name, &value, output, qparams, dtype);
        }
    }

    /// Whether no two products may read the same codes.
    fn copies_codes(&self) -> bool {
        self.options.preset == Preset::OnnxRuntime
    }

    /// The name of what a product reads: of codes that are dequantized, one of its own.
    pub(super) fn factor(&mut self, id: NodeId) -> String {
        let node = self.graph.node(id);
        match &node.op {
            Op::Dequantize(Dequantize { qparams })
                if self.copies_codes() && self.is_written(id) && self.is_constant(id) =>
            {
                let output = self.writer.unique(&format!("{}.copy", self.name(id)));
                self.write_dequantized(&output, &output, node.inputs[0], qparams);
                output
            }
            _ => self.value(id),
        }
    }

    /// The name of a weight `[N, K]` as `[K, N]`.
    pub(super) fn transposed(&mut self, id: NodeId) -> String {
        // Codes, and what dequantizes them, are written for each product.
        let codes = self.graph.node(id).dtype == DType::I8 || matches!(self.graph.node(id).op, Op::Dequantize(_));
        let own = codes && self.copies_codes() && self.is_constant(id);
        if let Some(name) = self.transposed.get(&id).filter(|_| !own) {
            return name.clone();
        }
        let node = self.graph.node(id);
        let wish = format!("{}.transposed", self.name(id));
        let name = match &node.op {
            Op::Dequantize(Dequantize { qparams }) if self.is_constant(id) => {
                let codes = self.transposed(node.inputs[0]);
                let qparams = match qparams {
                    TensorQParams::PerChannel { channels, ch_axis } => {
                        TensorQParams::PerChannel { channels: channels.clone(), ch_axis: 1 - ch_axis.min(&1) }
                    }
                    whole => whole.clone(),
                };
                let (output, dtype) = (self.writer.unique(&wish), self.graph.node(node.inputs[0]).dtype);
                if self.copies_codes() {
                    self.writer.linear_apart("DequantizeLinear", &output, &codes, &output, &qparams, dtype);
                } else {
                    self.writer.linear("DequantizeLinear", &output, &codes, &output, &qparams, dtype);
                }
                output
            }
            _ => match self.known(id).map(|tensor| transpose(&tensor)) {
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

    /// The name of the bias of linear node `id`, in the form that the preset wants.
    pub(super) fn bias(&mut self, id: NodeId) -> Option<String> {
        let &[x, w, b] = &self.graph.node(id).inputs[..] else {
            return None;
        };
        let wish = format!("{}.codes", self.name(b));
        match self.options.preset {
            Preset::OnnxRuntime => {
                if let Some((codes, qparams)) = self.bias_codes(x, w, b) {
                    let codes = self.writer.tensor(&wish, &codes);
                    let output = self.writer.unique(&format!("{}.dequantize", self.name(b)));
                    self.writer.linear("DequantizeLinear", &output, &codes, &output, &qparams, DType::I32);
                    return Some(output);
                }
            }
            Preset::TensorRt => {
                if let (Op::Dequantize(Dequantize { qparams }), true) = (&self.graph.node(b).op, self.is_constant(b))
                    && let Some(Tensor::I32(codes)) = self.known(self.graph.node(b).inputs[0]).as_deref()
                {
                    let value = |(n, code): (usize, &i32)| *code as f32 * channel(qparams, n).scale();
                    let values = ArrayD::from_shape_vec(codes.raw_dim(), codes.iter().enumerate().map(value).collect());
                    if let Ok(values) = values {
                        return Some(self.writer.tensor(&wish, &Tensor::from(values)));
                    }
                }
            }
        }
        Some(self.value(b))
    }

    /// A float bias as `i32` codes at the scale of the layer's sums, if input and weight are int8 and the sums stay in `i32`. Rounding
    /// it moves an output by at most 1/128 of what one step of an input may; weights of few bits would make that more, and stay
    /// with a float bias.
    fn bias_codes(&self, x: NodeId, w: NodeId, b: NodeId) -> Option<(Tensor, TensorQParams)> {
        let node = |id| self.graph.node(id);
        let Op::Dequantize(Dequantize { qparams: TensorQParams::PerTensor(of_x) }) = &node(x).op else { return None };
        let Op::Dequantize(Dequantize { qparams: of_w }) = &node(w).op else { return None };
        let by_row = matches!(of_w, TensorQParams::PerTensor(_) | TensorQParams::PerChannel { ch_axis: 0, .. });
        if node(node(x).inputs[0]).dtype != DType::I8 || !by_row {
            return None;
        }
        let weight = self.known(node(w).inputs[0])?;
        let bias = self.known(b)?;
        let (weight, bias) = (weight.as_i8()?, bias.as_f32()?);
        if weight.iter().all(|w| w.unsigned_abs() < FEW_BITS) {
            return None;
        }
        let k = weight.len() / bias.len().max(1);
        let mut codes = Vec::with_capacity(bias.len());
        let mut scales = Vec::with_capacity(bias.len());
        for (n, &bias) in bias.iter().enumerate() {
            let scale = f64::from(of_x.scale()) * f64::from(channel(of_w, n).scale());
            let qparams = QParams::new(scale as f32, 0).ok()?;
            let code = (f64::from(bias) / f64::from(qparams.scale())).round_ties_even();
            // Each product is at most 255 · |w|, whatever the zero point.
            let products: i64 = weight[n * k..(n + 1) * k].iter().map(|&w| i64::from(w).abs() * 255).sum();
            if code.abs() + products as f64 > f64::from(i32::MAX) {
                return None;
            }
            codes.push(code as i32);
            scales.push(qparams);
        }
        let qparams = match of_w {
            TensorQParams::PerTensor(_) => TensorQParams::PerTensor(*scales.first()?),
            TensorQParams::PerChannel { .. } => TensorQParams::PerChannel { channels: scales.into(), ch_axis: 0 },
        };
        Some((Tensor::from_i32(&[codes.len()], codes).ok()?, qparams))
    }
}

fn channel(qparams: &TensorQParams, n: usize) -> QParams {
    match qparams {
        TensorQParams::PerTensor(q) => *q,
        TensorQParams::PerChannel { channels, .. } => channels[n % channels.len()],
    }
}

/// Equation 2 of a constant.
fn quantized(tensor: &Tensor, qparams: &TensorQParams, range: QuantRange) -> Option<Tensor> {
    let x = tensor.as_f32()?;
    let inner = match qparams {
        TensorQParams::PerTensor(_) => 1,
        TensorQParams::PerChannel { ch_axis, .. } => tensor.shape().iter().skip(ch_axis + 1).product::<usize>().max(1),
    };
    let of = |at: usize| channel(qparams, at / inner);
    if range == QuantRange::INT32 {
        let code = |(at, v): (usize, &f32)| (v * of(at).inv_scale()).round_ties_even() as i32;
        return Tensor::from_i32(tensor.shape(), x.iter().enumerate().map(code).collect()).ok();
    }
    let code = |(at, v): (usize, &f32)| {
        let q = of(at);
        numerics::quantize(*v, q.inv_scale(), q.zero_point(), range.quant_min(), range.quant_max()) as i8
    };
    Tensor::from_i8(tensor.shape(), x.iter().enumerate().map(code).collect()).ok()
}

fn transpose(tensor: &Tensor) -> Tensor {
    fn swap<T: Clone>(a: &ArrayD<T>) -> ndarray::Array2<T> {
        let view = a.view().into_dimensionality::<Ix2>();
        view.expect("inference admits weights of two axes only").reversed_axes().to_owned()
    }
    match tensor {
        Tensor::F32(a) => swap(a).into(),
        Tensor::I8(a) => swap(a).into(),
        Tensor::I32(a) => swap(a).into(),
        Tensor::I64(a) => swap(a).into(),
    }
}

//! Dynamic quantization that a file spells out in floats, as this crate's exporter did where ONNX has no operator for it: with a scale for
//! each token, with zero point 0, or with a narrower range.
//!
//! The nodes are recognized before they are imported, since a scale of the tensor is a reduction along the batch.

use std::collections::HashMap;

use super::importer::Importer;
use super::operator::{Call, Operator, Values, one};
use crate::onnx::attributes::{float_attribute, int_attribute};
use crate::onnx::exported_functions::DOMAIN;
use crate::onnx::proto::{NodeProto, attribute_type};
use crate::onnx::tensor::Stored;
use crate::onnx::value::{Kind, Run};
use crate::ops::{ChooseQParams, DequantizeDynamic, QuantizeDynamic};
use crate::values::{QScheme, QuantRange};

/// The operators of that domain.
pub(super) fn operator(op_type: &str) -> Option<Operator> {
    (op_type == "FakeQuantizeDynamic").then(|| Operator::nodes(Importer::fake_quantize_dynamic))
}

impl Importer {
    fn fake_quantize_dynamic(&mut self, call: &Call<'_>) -> Values {
        let x = self.float(call, call.input(0)?)?;
        let int = |name: &str| call.node.int(name, 0);
        let whole = |name: &str| i32::try_from(int(name)?).map_err(|_| format!("its {name} does not fit 32 bits"));
        let qscheme = match (int("per_token")? != 0, int("symmetric")? != 0) {
            (false, false) => QScheme::per_tensor_affine(),
            (false, true) => QScheme::per_tensor_symmetric(),
            (true, false) => QScheme::per_token_affine(),
            (true, true) => return Err("it has a symmetric scale for each token, which is not supported".to_owned()),
        };
        let range = QuantRange::new(whole("quant_min")?, whole("quant_max")?).map_err(|e| e.to_string())?;
        let choose = ChooseQParams { qscheme, range, eps: call.node.float("eps", 0.0)? };
        let qparams = self.draft.add(&call.part("qparams"), choose, &[x.id])?;
        let values = self.draft.add(&call.part("quantize"), QuantizeDynamic { range }, &[x.id, qparams])?;
        let id = self.draft.add(&call.name, DequantizeDynamic, &[values, qparams])?;
        one(Run { id, kind: Kind::Float, ..x })
    }
}

/// Replaces the last node of each dynamic quantization that is spelled out by a node for all of it.
pub(super) fn recognize(nodes: &mut [NodeProto], stored: &[Stored]) {
    if !nodes.iter().any(|node| node.op_type == "ReduceMin") {
        return;
    }
    let found: Vec<(usize, Found)> = {
        let maker = |node: &'_ NodeProto| node.output.len() == 1 && node.is_default_domain();
        let makers = nodes.iter().filter(|node| maker(node)).map(|node| (node.output[0].as_str(), node)).collect();
        let scalars = stored.iter().filter(|tensor| tensor.len() == 1 && tensor.is_float());
        let scalars = scalars.map(|tensor| (tensor.name(), tensor)).collect();
        let graph = Spelled { makers, scalars };
        let of = |(at, node): (usize, &NodeProto)| Some((at, graph.dequantized(node)?));
        nodes.iter().enumerate().filter_map(of).collect()
    };
    for (at, Found { x, per_token, symmetric, range: [lo, hi], eps }) in found {
        let node = &mut nodes[at];
        node.input = vec![x];
        node.op_type = "FakeQuantizeDynamic".to_owned();
        node.domain = DOMAIN.to_owned();
        node.attribute = vec![
            int_attribute("per_token", per_token.into()),
            int_attribute("symmetric", symmetric.into()),
            int_attribute("quant_min", lo),
            int_attribute("quant_max", hi),
            float_attribute("eps", eps),
        ];
    }
}

/// A dynamic quantization.
struct Found {
    x: String,
    per_token: bool,
    symmetric: bool,
    range: [i64; 2],
    eps: f32,
}

/// The nodes of a file by their results, and its stored numbers.
struct Spelled<'n> {
    makers: HashMap<&'n str, &'n NodeProto>,
    scalars: HashMap<&'n str, &'n Stored>,
}

impl<'n> Spelled<'n> {
    fn inputs<const N: usize>(&self, value: &str, op_type: &str) -> Option<[&'n str; N]> {
        inputs(self.makers.get(value)?, op_type)
    }

    fn number(&self, value: &str) -> Option<f32> {
        self.scalars.get(value)?.floats().ok()?.first().copied()
    }

    fn is(&self, value: &str, number: f32) -> bool {
        self.number(value) == Some(number)
    }

    /// The quantization whose values a node dequantizes: `clamp(round(x / scale), lo − z, hi − z) · scale`.
    fn dequantized(&self, node: &'n NodeProto) -> Option<Found> {
        let [values, scale] = inputs(node, "Mul")?;
        let [raised, hi] = self.inputs(values, "Min")?;
        let [rounded, lo] = self.inputs(raised, "Max")?;
        let [steps] = self.inputs(rounded, "Round")?;
        let [x, inv_scale] = self.inputs(steps, "Mul")?;
        let [one, divisor] = self.inputs(inv_scale, "Div")?;
        let [step, eps] = self.inputs(scale, "Max")?;
        let [span, count] = self.inputs(step, "Div")?;
        let symmetric = self.inputs::<2>(span, "Sub").is_none();
        let [max, min] = if symmetric {
            let [negated, max] = self.inputs(span, "Max")?;
            let [min] = self.inputs(negated, "Neg")?;
            [max, min]
        } else {
            self.inputs(span, "Sub")?
        };
        let ([smallest, zero], [largest, other_zero]) = (self.inputs(min, "Min")?, self.inputs(max, "Max")?);
        let per_token = self.reduces_tokens(smallest, "ReduceMin", x)?;
        let fits = divisor == scale
            && self.is(one, 1.0)
            && self.is(zero, 0.0)
            && self.is(other_zero, 0.0)
            && self.reduces_tokens(largest, "ReduceMax", x)? == per_token;
        let [lo, hi] = if symmetric {
            [lo, hi]
        } else {
            let ([lo, zero_point], [hi, other]) = (self.inputs(lo, "Sub")?, self.inputs(hi, "Sub")?);
            let of_range = if per_token { self.of_token(zero_point)? } else { self.of_tensor(zero_point)? };
            if zero_point != other || of_range != [min, max, scale, lo, hi] && of_range != [min, "", scale, lo, hi] {
                return None;
            }
            [lo, hi]
        };
        let [lo, hi] = [self.number(lo)?, self.number(hi)?];
        let steps = if symmetric { (hi - lo) / 2.0 } else { hi - lo };
        let whole = [lo, hi].iter().all(|v| v.fract() == 0.0 && v.abs() <= 128.0);
        let eps = self.number(eps)?;
        (fits && whole && self.is(count, steps)).then(|| Found {
            x: x.to_owned(),
            per_token,
            symmetric,
            range: [lo as i64, hi as i64],
            eps,
        })
    }

    /// Whether a reduction of `x` is one of each token, along the last axis; false if it is one of the tensor.
    fn reduces_tokens(&self, value: &str, op_type: &str, x: &str) -> Option<bool> {
        let node = self.makers.get(value)?;
        let [of] = inputs(node, op_type)?;
        let axes = node.attribute.iter().find(|a| a.name == "axes" && a.r#type == attribute_type::INTS);
        let keeps = node.int("keepdims", 1).ok()? != 0;
        match (of == x, axes.map(|axes| axes.ints.as_slice()), keeps) {
            (true, None, false) => Some(false),
            (true, Some([-1]), true) => Some(true),
            _ => None,
        }
    }

    /// The smallest value, no largest one, the scale and the range of the zero point of a tensor.
    fn of_tensor(&self, zero_point: &str) -> Option<[&'n str; 5]> {
        let [shifted, lo, hi] = self.inputs(zero_point, "Clip")?;
        let [start, rounded] = self.inputs(shifted, "Sub")?;
        let [low] = self.inputs(rounded, "Round")?;
        let [min, scale] = self.inputs(low, "Div")?;
        (start == lo).then_some([min, "", scale, lo, hi])
    }

    /// The smallest and the largest value, the scale and the range of the zero point of a token.
    fn of_token(&self, zero_point: &str) -> Option<[&'n str; 5]> {
        let [clipped] = self.inputs(zero_point, "Round")?;
        let [either, lo, hi] = self.inputs(clipped, "Clip")?;
        let [from_low, from_lo, from_hi] = self.inputs(either, "Where")?;
        let [off, zero] = self.inputs(from_low, "Greater")?;
        let [off_lo, off_hi] = self.inputs(off, "Add")?;
        let ([lo_0, low], [hi_0, high]) = (self.inputs(from_lo, "Sub")?, self.inputs(from_hi, "Sub")?);
        let sums: [[&str; 2]; 2] = [self.inputs(off_lo, "Add")?, self.inputs(off_hi, "Add")?];
        let ([min, scale], [max, divisor]) = (self.inputs(low, "Div")?, self.inputs(high, "Div")?);
        let fits =
            [lo_0, hi_0] == [lo, hi] && sums == [[lo, low], [hi, high]] && scale == divisor && self.is(zero, 0.0);
        fits.then_some([min, max, scale, lo, hi])
    }
}

/// The inputs of a node of this operator.
fn inputs<'n, const N: usize>(node: &'n NodeProto, op_type: &str) -> Option<[&'n str; N]> {
    let fits = node.op_type == op_type && node.is_default_domain();
    let names: Vec<&str> = node.input.iter().map(String::as_str).collect();
    names.try_into().ok().filter(|_| fits)
}

//! Quantized values of 16 bits and dequantized integers of 32: float steps, which are exact, since `f32` holds integers of 24 bits.

use super::importer::Importer;
use super::operator::{Call, Values, one};
use super::quantize::Parameters;
use crate::graph::NodeId;
use crate::onnx::integers;
use crate::onnx::proto::data_type as ty;
use crate::onnx::tensor::type_name;
use crate::onnx::value::{Kind, Run};
use crate::ops::{Add, Clamp, Constant, Div, IntegerType, Mul, Op, ToFloat, ToInteger, UnaryOp};
use crate::values::Tensor;

impl Importer {
    /// `round(x / scale) + zero_point`, clamped.
    pub(super) fn quantize_wide(&mut self, call: &Call<'_>, data_type: i32, parameters: &Parameters) -> Values {
        let x = self.as_float(call, call.input(0)?)?;
        let first = self.draft.nodes.len();
        let scale = self.for_each_channel(x, &parameters.scales, parameters.axis)?;
        let steps = self.draft.add(&call.part("steps"), Div, &[x.id, scale])?;
        let rounded = self.unary(&call.part("rounded"), UnaryOp::Round, steps)?;
        let shifted = self.shifted(&call.part("shifted"), Run { id: rounded, ..x }, parameters, 1.0)?;
        let (min, max) = integers::range(data_type);
        let clamp = Clamp { min: min as f32, max: max as f32 };
        let clamped = self.draft.add(&call.part("clamped"), clamp, &[shifted])?;
        self.stay_float(first, data_type);
        let to = if data_type == ty::UINT16 { IntegerType::U16 } else { IntegerType::I16 };
        let id = self.draft.add(&call.name, ToInteger { to }, &[clamped])?;
        one(Run { id, kind: Kind::Int(data_type), ..x })
    }

    /// `(x − zero_point) · scale`.
    pub(super) fn dequantize_wide(
        &mut self,
        call: &Call<'_>,
        x: Run,
        data_type: i32,
        parameters: &Parameters,
    ) -> Values {
        if !matches!(data_type, ty::INT16 | ty::UINT16 | ty::INT32) {
            return Err(format!("its input is {}, expected quantized values", type_name(data_type)));
        }
        if data_type == ty::INT32 && parameters.zero_points.iter().any(|z| *z != 0) {
            return Err("its zero point is not 0, as those of int32 are".to_owned());
        }
        let float = self.draft.add(&call.part("float"), ToFloat, &[x.id])?;
        let first = self.draft.nodes.len();
        let centred = self.shifted(&call.part("centred"), Run { id: float, ..x }, parameters, -1.0)?;
        let scale = self.for_each_channel(x, &parameters.scales, parameters.axis)?;
        let id = self.draft.add(&call.name, Mul, &[centred, scale])?;
        self.stay_float(first, data_type);
        one(Run { id, kind: Kind::Float, ..x })
    }

    /// `x` plus `sign` times the zero points.
    fn shifted(&mut self, name: &str, x: Run, parameters: &Parameters, sign: f32) -> Result<NodeId, String> {
        if parameters.zero_points.iter().all(|z| *z == 0) {
            return Ok(x.id);
        }
        let zero_points: Vec<f32> = parameters.zero_points.iter().map(|&z| z as f32 * sign).collect();
        let zero_points = self.for_each_channel(x, &zero_points, parameters.axis)?;
        self.draft.add(name, Add, &[x.id, zero_points])
    }

    /// A constant of one number for each channel, which broadcasts with `x`.
    fn for_each_channel(&mut self, x: Run, values: &[f32], axis: Option<usize>) -> Result<NodeId, String> {
        if let Some((at, value)) = values.iter().enumerate().find(|(_, v)| !v.is_finite()) {
            return Err(format!("element {at} of its scale is {value}"));
        }
        let Some(axis) = axis else { return Ok(self.number(values[0])) };
        let rank = self.draft.shape(x.id).rank();
        let mut dims = vec![1; rank - self.inner_axis(x, axis)?];
        dims[0] = values.len();
        self.budget.take(values.len(), 4)?;
        let tensor = Tensor::from_f32(&dims, values.to_vec()).map_err(|e| e.to_string())?;
        Ok(self.draft.constant("", tensor))
    }

    /// Gives the nodes from `first` on the reason why they have no integer form.
    fn stay_float(&mut self, first: usize, data_type: i32) {
        let reason = format!("quantized values of {} have no integer form", type_name(data_type));
        let computed =
            self.draft.nodes[first..].iter_mut().filter(|node| !matches!(node.op, Op::Constant(Constant { .. })));
        computed.for_each(|node| node.float_reason = Some(reason.clone()));
    }
}

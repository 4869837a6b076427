//! ONNX Runtime's `DynamicQuantizeLSTM`: an `LSTM` of quantized weights, which multiplies quantized inputs and states. It is computed in
//! float on the dequantized weights.

use super::super::importer::Importer;
use super::super::operator::{Call, Values};
use super::Cell;
use crate::onnx::host::{Data, Host};
use crate::onnx::proto::data_type as ty;
use crate::onnx::tensor::type_name;
use crate::onnx::value::Value;
use crate::ops::Op;

/// Why its layers are float nodes.
const REASON: &str = "it is a part of a DynamicQuantizeLSTM, which is computed in float on its dequantized weights";

impl Importer {
    pub(in crate::onnx::import) fn dynamic_lstm(&mut self, call: &Call<'_>) -> Values {
        let mut inputs = call.inputs.clone();
        inputs.truncate(8);
        inputs.resize(8, None);
        inputs[1] = Some(self.dequantized_gates(call, 1, 8)?);
        inputs[2] = Some(self.dequantized_gates(call, 2, 10)?);
        let before = self.draft.nodes.len();
        let result = self.recurrent(&Call { node: call.node, inputs, name: call.name.clone() }, Cell::Lstm);
        let made = self.draft.nodes[before..].iter_mut();
        made.filter(|node| matches!(node.op, Op::Linear(_)))
            .for_each(|node| node.float_reason = Some(REASON.to_owned()));
        result
    }

    /// Weights `[directions, features, gates]` with a scale for each direction, or for each column of one, as `[directions, gates, features]`.
    fn dequantized_gates(&mut self, call: &Call<'_>, at: usize, scale_at: usize) -> Result<Value, String> {
        let (host, scale) = (self.host(call.input(at)?)?, self.host(call.input(scale_at)?)?);
        host.fixed()?;
        let (&[directions, features, gates], ty::INT8 | ty::UINT8) = (host.dims.as_slice(), host.data_type) else {
            let of = type_name(host.data_type);
            return Err(format!(
                "its input {at} is {of} of shape {:?}, expected three axes of int8 or uint8",
                host.dims
            ));
        };
        let count = host.data.len();
        let scales = scale.floats().ok_or_else(|| format!("its input {scale_at} is not made of floats"))?;
        let columns = if scale.dims == [directions] { 1 } else { gates };
        if scales.len() != directions * columns || scale.dims.first() != Some(&directions) {
            return Err(format!("its scales have shape {:?} for weights of shape {:?}", scale.dims, host.dims));
        }
        self.budget.take(count, size_of::<i64>() + size_of::<f32>())?;
        let values = host.integers()?;
        let zero_points = match call.optional(scale_at + 1) {
            None => vec![0; scales.len()],
            Some(zero_point) => self.host(zero_point)?.integers()?,
        };
        if zero_points.len() != scales.len() {
            return Err(format!("it has {} zero points for {} scales", zero_points.len(), scales.len()));
        }
        let mut floats = Vec::with_capacity(count);
        for direction in 0..directions {
            for gate in 0..gates {
                let of = direction * columns + gate % columns;
                floats.extend((0..features).map(|feature| {
                    let value = values[(direction * features + feature) * gates + gate];
                    (value - zero_points[of]) as f32 * scales[of]
                }));
            }
        }
        Ok(Value::Host(Host::new(vec![directions, gates, features], Data::F32(floats)).into()))
    }
}

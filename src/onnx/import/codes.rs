//! Operators on quantized values themselves: they compute on the floats that are the same numbers.

use super::importer::Importer;
use super::operator::{Call, Values, one};
use crate::graph::NodeId;
use crate::onnx::host::{Data, Host};
use crate::onnx::value::{Kind, Run, Value};
use crate::ops::{Dequantize, IntegerType, Op, Quantize, ToInteger};
use crate::values::{QParams, QuantRange, TensorQParams};

/// The qparams by which quantized values are the numbers that the file has.
fn same_numbers(unsigned: bool) -> Result<TensorQParams, String> {
    QParams::new(1.0, if unsigned { -128 } else { 0 }).map(TensorQParams::PerTensor).map_err(|e| e.to_string())
}

impl Importer {
    /// Quantized values as floats of the same numbers.
    pub(super) fn codes(&mut self, name: &str, x: Run) -> Result<Run, String> {
        let Kind::Quantized { unsigned } = x.kind else { return Ok(x) };
        let qparams = same_numbers(unsigned)?;
        Ok(Run { id: self.draft.add(name, Dequantize { qparams }, &[x.id])?, kind: Kind::Float, ..x })
    }

    /// Quantized values as integers of the same numbers.
    pub(in crate::onnx) fn integer_codes(&mut self, name: &str, x: Run) -> Result<Run, String> {
        let kind = Kind::Int(self.type_of(&Value::Run(x)));
        let codes = self.codes(&format!("{name}.codes"), x)?;
        Ok(Run { id: self.draft.add(name, ToInteger { to: IntegerType::I32 }, &[codes.id])?, kind, ..x })
    }

    /// Floats as quantized values of the same numbers.
    pub(super) fn quantized_codes(&mut self, name: &str, x: Run, unsigned: bool) -> Result<Run, String> {
        let quantize = Quantize::new(same_numbers(unsigned)?, QuantRange::INT8);
        Ok(Run { id: self.draft.add(name, quantize, &[x.id])?, kind: Kind::Quantized { unsigned }, ..x })
    }

    /// An operator that selects among quantized values.
    pub(super) fn on_codes(&mut self, call: &Call<'_>, unsigned: bool) -> Values {
        let op_type = call.node.op_type.as_str();
        // Other inputs are known integers and, of a `Where`, the condition.
        let mut inputs: Vec<Option<Value>> = Vec::with_capacity(call.inputs.len());
        for (at, input) in call.inputs.iter().enumerate() {
            let is_condition = op_type == "Where" && at == 0 || op_type == "Expand" && at == 1;
            inputs.push(match input {
                None => None,
                Some(value) if is_condition => Some(value.clone()),
                Some(value @ Value::Run(run)) => match run.kind {
                    Kind::Quantized { unsigned: other } if other == unsigned => Some(value.clone()),
                    _ => return Err("it computes on quantized values and on others".to_owned()),
                },
                Some(value) => {
                    let host = self.host(value)?;
                    if host.data_type != self.type_of(&quantized(unsigned)) {
                        return Err("it computes on quantized values and on others".to_owned());
                    }
                    self.budget.take(host.data.len(), 4)?;
                    let data = Data::F32(host.to_floats()?);
                    Some(Value::Host(Host { rows: host.rows, ..Host::new(host.dims.clone(), data) }.into()))
                }
            });
        }
        if matches!(op_type, "Max" | "Min") {
            let same = |value: &Option<Value>| match value {
                Some(Value::Run(run)) => Some(run.id),
                _ => None,
            };
            inputs.dedup_by(|a, b| same(a).is_some() && same(a) == same(b));
            if let [Some(only)] = &inputs[..] {
                return Ok(vec![only.clone()]);
            }
        }
        if let Some(narrow) = self.narrowed(call, &inputs, unsigned)? {
            return one(narrow);
        }
        for (at, input) in inputs.iter_mut().enumerate() {
            if let Some(Value::Run(run)) = input
                && matches!(run.kind, Kind::Quantized { .. })
            {
                *run = self.codes(&call.part(&format!("codes{at}")), *run)?;
            }
        }
        let y = self.emit(&call.part("codes"), op_type, inputs, call.node.attribute.clone())?;
        let y = self.run(&y)?;
        one(self.quantized_codes(&call.name, y, unsigned)?)
    }

    /// Values that are clamped right after they were quantized: they are quantized to a narrower range.
    fn narrowed(&mut self, call: &Call<'_>, inputs: &[Option<Value>], unsigned: bool) -> Result<Option<Run>, String> {
        let Some(Some(Value::Run(x))) = inputs.first() else { return Ok(None) };
        let (low, high) = match (call.node.op_type.as_str(), &inputs[1..]) {
            ("Relu", []) => (Some(0.0), None),
            ("Clip", bounds) => {
                let mut bound = |at: usize| bounds.get(at).and_then(Option::as_ref).map(|value| self.scalar(value));
                match (bound(0), bound(1)) {
                    (Some(None), _) | (_, Some(None)) => return Ok(None),
                    (low, high) => (low.flatten(), high.flatten()),
                }
            }
            _ => return Ok(None),
        };
        let Op::Quantize(Quantize { qparams, range, rule }) = &self.draft.node(x.id).op else { return Ok(None) };
        let shift = if unsigned { 128 } else { 0 };
        let inside = |bound: f32| (bound as i32).saturating_sub(shift).clamp(-128, 127);
        let low = low.map_or(range.quant_min(), |low| inside(low).max(range.quant_min()));
        let high = high.map_or(range.quant_max(), |high| inside(high).min(range.quant_max()));
        let Ok(range) = QuantRange::new(low, high) else { return Ok(None) };
        if qparams.check_range(range).is_err() {
            return Ok(None);
        }
        let quantize = Quantize { qparams: qparams.clone(), range, rule: *rule };
        let inputs: Vec<NodeId> = self.draft.node(x.id).inputs.clone();
        Ok(Some(Run { id: self.draft.add(&call.name, quantize, &inputs)?, ..*x }))
    }
}

/// A value of quantized values, for its type.
fn quantized(unsigned: bool) -> Value {
    Value::Run(Run { id: NodeId::new(0), merged: 1, kind: Kind::Quantized { unsigned } })
}

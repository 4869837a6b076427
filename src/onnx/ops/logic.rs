//! Comparisons, logic, choices and casts: booleans are 0 and 1 in `f32`.

use super::elementwise::Join;
use super::{Call, Data, Host, Importer, Kind, Run, Value, Values, one};
use crate::graph::{Op, UnaryOp};
use crate::onnx::host::broadcast;
use crate::onnx::proto::data_type as ty;
use crate::onnx::tensor::type_name;

impl Importer {
    pub(super) fn comparison(&mut self, call: &Call<'_>) -> Values {
        let (a, b) = (call.input(0)?, call.input(1)?);
        // Each is a step of a difference, or 1 minus one.
        let (left, right, negated) = match call.node.op_type.as_str() {
            "Less" => (b, a, false),
            "Greater" | "Equal" => (a, b, false),
            "LessOrEqual" => (a, b, true),
            _ => (b, a, true),
        };
        let difference = self.join(call, &call.part("difference"), Join::Sub, left, right)?;
        let equal = call.node.op_type == "Equal";
        let mut id = difference.id;
        if equal {
            id = self.unary(&call.part("abs"), UnaryOp::Abs, id)?;
        }
        if equal || negated {
            let step = self.unary(&call.part("step"), UnaryOp::Step, id)?;
            id = self.one_minus(&call.name, step)?;
        } else {
            id = self.unary(&call.name, UnaryOp::Step, id)?;
        }
        one(Run { id, kind: Kind::Bool, ..difference })
    }

    pub(super) fn logic(&mut self, call: &Call<'_>) -> Values {
        if call.node.op_type == "Not" {
            let x = self.boolean(call, call.input(0)?)?;
            return one(Run { id: self.one_minus(&call.name, x.id)?, ..x });
        }
        let a = self.boolean_value(call, call.input(0)?)?;
        let b = self.boolean_value(call, call.input(1)?)?;
        let result = match call.node.op_type.as_str() {
            "And" => self.join(call, &call.name, Join::Mul, &a, &b)?,
            "Or" => {
                let sum = self.join(call, &call.part("sum"), Join::Add, &a, &b)?;
                Run { id: self.draft.add(&call.name, Op::Clamp { min: 0.0, max: 1.0 }, &[sum.id])?, ..sum }
            }
            _ => {
                let difference = self.join(call, &call.part("difference"), Join::Sub, &a, &b)?;
                Run { id: self.unary(&call.name, UnaryOp::Abs, difference.id)?, ..difference }
            }
        };
        one(Run { kind: Kind::Bool, ..result })
    }

    /// 0 or 1 for each element that is not known.
    fn boolean(&mut self, call: &Call<'_>, value: &Value) -> Result<Run, String> {
        let x = self.float(call, value)?;
        if x.kind == Kind::Bool {
            return Ok(x);
        }
        let abs = self.unary(&call.part("abs"), UnaryOp::Abs, x.id)?;
        Ok(Run { id: self.unary(&call.part("bool"), UnaryOp::Step, abs)?, kind: Kind::Bool, ..x })
    }

    fn boolean_value(&mut self, call: &Call<'_>, value: &Value) -> Result<Value, String> {
        match value {
            Value::Run(_) => self.boolean(call, value).map(Value::Run),
            known => Ok(known.clone()),
        }
    }

    /// `c·a + (1 − c)·b`.
    pub(super) fn choose(&mut self, call: &Call<'_>) -> Values {
        let condition = self.boolean_value(call, call.input(0)?)?;
        let (a, b) = (self.finite(call.input(1)?)?, self.finite(call.input(2)?)?);
        let lengths = broadcast(&self.logical(&condition), &broadcast(&self.logical(&a), &self.logical(&b))?)?;
        let otherwise = match &condition {
            Value::Run(run) => {
                let id = self.one_minus(&call.part("otherwise"), run.id)?;
                Value::Run(Run { id, ..*run })
            }
            known => {
                let host = self.host(known)?;
                let data = Data::F32(host.to_floats()?.into_iter().map(|v| 1.0 - v).collect());
                Value::Host(Host { data, ..(*host).clone() }.into())
            }
        };
        let zero = |importer: &mut Self, value: &Value| importer.scalar(value) == Some(0.0);
        let (no_first, no_second) = (zero(self, &a), zero(self, &b));
        let mut term = |name: &str, mask: &Value, value: &Value| -> Result<Value, String> {
            if let (Value::Host(_) | Value::Stored(_), Value::Host(_) | Value::Stored(_)) = (mask, value) {
                return self.known_product(mask, value);
            }
            self.join(call, name, Join::Mul, mask, value).map(Value::Run)
        };
        let first = (!no_first).then(|| term(&call.part("first"), &condition, &a)).transpose()?;
        let second = (!no_second).then(|| term(&call.part("second"), &otherwise, &b)).transpose()?;
        let result = match (first, second) {
            (Some(first), Some(second)) => self.join(call, &call.name, Join::Add, &first, &second)?,
            (Some(only), None) | (None, Some(only)) => self.float(call, &only)?,
            (None, None) => return Err("both of its choices are 0".to_owned()),
        };
        if self.logical(&Value::Run(result)) != lengths {
            return Err("a choice of 0 has more elements than the condition".to_owned());
        }
        let boolean = |value: &Value| match value {
            Value::Run(run) => run.kind == Kind::Bool,
            Value::Host(host) => host.data_type == ty::BOOL,
            _ => false,
        };
        let kind = if boolean(call.input(1)?) && boolean(call.input(2)?) { Kind::Bool } else { result.kind };
        one(Run { kind, ..result })
    }

    fn known_product(&mut self, mask: &Value, value: &Value) -> Result<Value, String> {
        let (mask, value) = (self.host(mask)?, self.host(value)?);
        let lengths = broadcast(&mask.logical(), &value.logical())?;
        let (rows, dims) = crate::onnx::host::kept(&lengths)?;
        self.budget.take(dims.iter().product(), 4)?;
        let (m, v) = (mask.to_floats()?, value.to_floats()?);
        let walks = crate::onnx::host::Walk::broadcast(&mask.dims, &dims)
            .zip(crate::onnx::host::Walk::broadcast(&value.dims, &dims));
        let data = Data::F32(walks.map(|(i, j)| m[i] * v[j]).collect());
        Ok(Value::Host(Host { rows, ..Host::new(dims, data) }.into()))
    }

    /// A known choice without infinities: 0 · ∞ is not 0.
    fn finite(&mut self, value: &Value) -> Result<Value, String> {
        if let Value::Run(_) | Value::Unsupported = value {
            return Ok(value.clone());
        }
        let host = self.host(value)?;
        let Some(floats) = host.floats() else { return Ok(Value::Host(host)) };
        if floats.iter().all(|v| v.is_finite()) {
            return Ok(Value::Host(host));
        }
        let data = Data::F32(floats.iter().map(|v| v.clamp(f32::MIN, f32::MAX)).collect());
        Ok(Value::Host(Host { data, ..(*host).clone() }.into()))
    }

    pub(super) fn cast(&mut self, call: &Call<'_>) -> Values {
        let to = if call.node.op_type == "CastLike" {
            match call.input(1)? {
                Value::Host(host) => host.data_type,
                Value::Stored(at) => self.stored[*at].data_type,
                Value::Run(Run { kind: Kind::Float, .. }) | Value::Quantized(_) => ty::FLOAT,
                Value::Run(Run { kind: Kind::Bool, .. }) => ty::BOOL,
                _ => ty::INT64,
            }
        } else {
            i32::try_from(call.node.int("to", 0)?).unwrap_or(0)
        };
        let x = self.run(call.input(0)?)?;
        match to {
            ty::FLOAT | ty::DOUBLE | ty::FLOAT16 | ty::BFLOAT16 => {
                let x = self.float(call, call.input(0)?)?;
                one(Run { kind: Kind::Float, ..x })
            }
            ty::BOOL => {
                let x = self.boolean(call, call.input(0)?)?;
                one(x)
            }
            ty::INT64 | ty::INT32 | ty::INT16 | ty::INT8 | ty::UINT64 | ty::UINT32 | ty::UINT16 | ty::UINT8 => {
                match x.kind {
                    Kind::Int | Kind::IntFloat => one(x),
                    Kind::Bool => one(Run { kind: Kind::IntFloat, ..x }),
                    Kind::Float => Err("it truncates floats to integers at run time".to_owned()),
                    Kind::Codes { .. } => Err("it casts codes of quantized values".to_owned()),
                }
            }
            other => Err(format!("it casts to {}", type_name(other))),
        }
    }
}

//! Comparisons, logic, choices and casts: booleans are 0 and 1 in `f32`.

use super::elementwise::Join;
use super::{Call, Importer, Kind, Run, Value, Values, one};
use crate::graph::{BinaryOp, Op, UnaryOp};
use crate::onnx::host::broadcast;
use crate::onnx::proto::data_type as ty;
use crate::onnx::tensor::type_name;

impl Importer {
    pub(super) fn comparison(&mut self, call: &Call<'_>) -> Values {
        let (a, b) = (call.input(0)?, call.input(1)?);
        let (left, right, op) = match call.node.op_type.as_str() {
            "Less" => (a, b, BinaryOp::Less),
            "Greater" => (b, a, BinaryOp::Less),
            "Equal" => (a, b, BinaryOp::Equal),
            "LessOrEqual" => (a, b, BinaryOp::LessOrEqual),
            _ => (b, a, BinaryOp::LessOrEqual),
        };
        let compared = self.join(call, &call.name, Join::Binary(op), left, right)?;
        one(Run { kind: Kind::Bool, ..compared })
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

    /// Chosen by a condition of which something is computed at run time, or between values of which something is.
    pub(super) fn choose(&mut self, call: &Call<'_>) -> Values {
        let (condition, a, b) = (call.input(0)?, call.input(1)?, call.input(2)?);
        let lengths = broadcast(&self.logical(condition), &broadcast(&self.logical(a), &self.logical(b))?)?;
        let both = self.is_boolean(a) && self.is_boolean(b);
        let kind = if both { Kind::Bool } else { self.kind(a, b)? };
        let condition = self.boolean_value(call, condition)?;
        let mut operand = |value| self.operand(call, value, &lengths);
        let (condition, a, b) = (operand(&condition)?, operand(a)?, operand(b)?);
        let id = self.draft.add(&call.name, Op::Where, &[condition.id, a.id, b.id])?;
        one(Run { id, merged: condition.merged.max(a.merged).max(b.merged), kind })
    }

    fn is_boolean(&self, value: &Value) -> bool {
        match value {
            Value::Run(run) => run.kind == Kind::Bool,
            Value::Host(host) => host.data_type == ty::BOOL,
            Value::Stored(at) => self.stored[*at].data_type == ty::BOOL,
            Value::Quantized(_) | Value::Unsupported => false,
        }
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

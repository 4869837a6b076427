//! Comparisons, logic, choices and casts: booleans are 0 and 1 in `f32`.

use super::elementwise::Join;
use super::{Call, Importer, Kind, Run, Value, Values, one};
use crate::onnx::host::broadcast;
use crate::onnx::integers::is_integer;
use crate::onnx::proto::data_type as ty;
use crate::onnx::tensor::type_name;
use crate::ops::{BinaryOp, Clamp, Op, Unary, UnaryOp, Where};

impl Importer {
    pub(super) fn comparison(&mut self, call: &Call<'_>) -> Values {
        if let Some(data_type) = self.integers(call)? {
            return self.integer_comparison(call, data_type);
        }
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
                Run { id: self.draft.add(&call.name, Op::Clamp(Clamp { min: 0.0, max: 1.0 }), &[sum.id])?, ..sum }
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
        let x = self.run(value)?;
        match x.kind {
            Kind::Bool => Ok(x),
            Kind::Int(_) => self.not_zero(call, x),
            _ => {
                // A choice takes anything but 0 for true, NaN and subnormal numbers too.
                let x = self.float(call, value)?;
                let (one, zero) = (self.number(1.0), self.number(0.0));
                Ok(Run {
                    id: self.draft.add(&call.part("bool"), Op::Where(Where), &[x.id, one, zero])?,
                    kind: Kind::Bool,
                    ..x
                })
            }
        }
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
        let types = [self.type_of(a), self.type_of(b)];
        if types[0] != types[1] && types.into_iter().any(|of| is_integer(of) || of == ty::BOOL) {
            return Err(format!("it chooses between {} and {}", type_name(types[0]), type_name(types[1])));
        }
        let condition = self.boolean_value(call, condition)?;
        let [condition, a, b] = self.operands(call, [&condition, a, b], &lengths)?;
        let id = match a.kind {
            Kind::Int(_) => self.integer_choice(call, condition, a, b)?,
            _ => self.draft.add(&call.name, Op::Where(Where), &[condition.id, a.id, b.id])?,
        };
        let merged = condition.merged.max(a.merged).max(b.merged);
        one(self.of_lengths(Run { id, merged, kind: a.kind }, &lengths)?)
    }

    pub(super) fn cast(&mut self, call: &Call<'_>) -> Values {
        let to = if call.node.op_type == "CastLike" {
            self.type_of(call.input(1)?)
        } else {
            i32::try_from(call.node.int("to", 0)?).unwrap_or(0)
        };
        match to {
            ty::FLOAT | ty::DOUBLE | ty::FLOAT16 | ty::BFLOAT16 => {
                let from = self.type_of(call.input(0)?);
                let x = self.as_float(call, call.input(0)?)?;
                let rounding = match to {
                    ty::FLOAT16 => Some(UnaryOp::RoundF16),
                    ty::BFLOAT16 => Some(UnaryOp::RoundBf16),
                    _ => None,
                };
                let id = match rounding {
                    // Bits and bytes need no rounding, nor does what is rounded already.
                    Some(op)
                        if !matches!(from, ty::BOOL | ty::INT8 | ty::UINT8)
                            && self.draft.node(x.id).op != Op::Unary(Unary { op }) =>
                    {
                        self.unary(&call.name, op, x.id)?
                    }
                    _ => x.id,
                };
                one(Run { id, kind: Kind::Float, ..x })
            }
            ty::BOOL => {
                let x = self.boolean(call, call.input(0)?)?;
                one(x)
            }
            to if is_integer(to) => self.as_integers(call, to),
            other => Err(format!("it casts to {}", type_name(other))),
        }
    }
}

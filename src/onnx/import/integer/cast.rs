//! Casts between floats, booleans, integers and quantized values.

use super::super::importer::Importer;
use super::super::operator::{Call, Values, one};
use crate::onnx::integers::{held, is_integer, range};
use crate::onnx::proto::data_type as ty;
use crate::onnx::tensor::type_name;
use crate::onnx::value::{Kind, Run, Value};
use crate::ops::{IntegerType, Op, ToInteger, Unary, UnaryOp};

impl Importer {
    /// A stored value whose floats a cast does not change: all floats are computed in `f32`.
    pub(super) fn same_floats(&self, to: i32, value: &Value) -> Option<Value> {
        let from = match value {
            Value::Stored(at) if self.stored[*at].is_float() => self.stored[*at].data_type,
            Value::Quantized(_) => ty::FLOAT,
            _ => return None,
        };
        (to == from || matches!(to, ty::FLOAT | ty::DOUBLE)).then(|| value.clone())
    }

    pub(super) fn cast(&mut self, call: &Call<'_>, to: i32) -> Values {
        if let &Value::Run(x @ Run { kind: Kind::Quantized { .. }, .. }) = call.input(0)? {
            let of = self.type_of(&Value::Run(x));
            return match to {
                to if to == of => one(x),
                // Every number of 8 bits is one of these types too.
                ty::FLOAT | ty::DOUBLE | ty::FLOAT16 | ty::BFLOAT16 => one(self.codes(&call.name, x)?),
                to if is_integer(to) => {
                    let x = Value::Run(self.integer_codes(&call.part("integers"), x)?);
                    self.as_integers(&Call { inputs: vec![Some(x)], name: call.name.clone(), ..*call }, to)
                }
                other => Err(format!("it casts quantized values to {}", type_name(other))),
            };
        }
        match to {
            ty::FLOAT | ty::DOUBLE => one(Run { kind: Kind::Float, ..self.as_float(call, call.input(0)?)? }),
            ty::FLOAT16 => self.rounded(call, UnaryOp::RoundF16),
            ty::BFLOAT16 => self.rounded(call, UnaryOp::RoundBf16),
            ty::BOOL => one(self.boolean(call, call.input(0)?)?),
            to if is_integer(to) => self.as_integers(call, to),
            other => Err(format!("it casts to {}", type_name(other))),
        }
    }

    /// A value as floats, rounded to 16 bits. Booleans and integers of 8 bits need no rounding, and neither do rounded floats.
    fn rounded(&mut self, call: &Call<'_>, op: UnaryOp) -> Values {
        let exact = matches!(self.type_of(call.input(0)?), ty::BOOL | ty::INT8 | ty::UINT8);
        let x = self.as_float(call, call.input(0)?)?;
        let is_rounded = self.draft.node(x.id).op == Op::Unary(Unary { op });
        let id = if exact || is_rounded { x.id } else { self.unary(&call.name, op, x.id)? };
        one(Run { id, kind: Kind::Float, ..x })
    }

    /// A value as integers of a type.
    fn as_integers(&mut self, call: &Call<'_>, to: i32) -> Values {
        let x = self.run(call.input(0)?)?;
        let kind = Kind::Int(to);
        let from = match x.kind {
            Kind::Quantized { .. } => return Err("it casts quantized values".to_owned()),
            Kind::Float => ty::FLOAT,
            Kind::Bool => {
                let id = self.draft.add(&call.name, ToInteger { to: IntegerType::I32 }, &[x.id])?;
                return one(Run { id, kind, ..x });
            }
            Kind::Int(from) => from,
        };
        let (low, high) = range(to);
        // All values fit `i32`, whatever their type.
        let (least, most) = range(from);
        let inside = from != ty::FLOAT && low <= least.max(i32::MIN.into()) && most.min(i32::MAX.into()) <= high;
        if inside || from == ty::BOOL {
            return one(Run { kind, ..x });
        }
        let cut = match held(to) {
            Some(to) => to,
            None if low == 0 => {
                return Err(format!("it casts {} to {} at run time", type_name(from), type_name(to)));
            }
            None => IntegerType::I32,
        };
        one(Run { id: self.draft.add(&call.name, ToInteger { to: cut }, &[x.id])?, kind, ..x })
    }
}

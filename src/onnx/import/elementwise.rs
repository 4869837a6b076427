//! Operators on the elements of two or three tensors, broadcast: arithmetic, comparisons, logic and `Where`.
//!
//! Booleans that are computed at run time are the floats 0 and 1.

use std::cmp::Ordering;

use super::importer::Importer;
use super::operator::{Call, Operator, Values, one};
use crate::graph::NodeId;
use crate::onnx::fold::Arithmetic;
use crate::onnx::host::{Data, Host, broadcast};
use crate::onnx::integers::is_integer;
use crate::onnx::proto::data_type as ty;
use crate::onnx::tensor::type_name;
use crate::onnx::value::{Kind, Run, Value};
use crate::ops::{Add, AddScalar, Binary, BinaryOp, Clamp, Div, Int32Op, Mul, MulScalar, Op, UnaryOp, Where};
use crate::values::Tensor;

/// A float operator of two tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::onnx) enum Join {
    Add,
    Sub,
    Mul,
    Div,
    Binary(BinaryOp),
}

const MIN: Join = Join::Binary(BinaryOp::Minimum);
const MAX: Join = Join::Binary(BinaryOp::Maximum);
const LESS_OR_EQUAL: BinaryOp = BinaryOp::LessOrEqual;

operators! {
    "Add" => Operator::new(|f| f.arithmetic(Arithmetic::Add), |i, c| i.arithmetic(c, Join::Add, Int32Op::Add)),
    "Sub" => Operator::new(|f| f.arithmetic(Arithmetic::Sub), |i, c| i.arithmetic(c, Join::Sub, Int32Op::Sub)),
    "Mul" => Operator::new(|f| f.arithmetic(Arithmetic::Mul), |i, c| i.arithmetic(c, Join::Mul, Int32Op::Mul))
        .deferring(Importer::scaled),
    "Div" => Operator::new(|f| f.arithmetic(Arithmetic::Div), |i, c| i.arithmetic(c, Join::Div, Int32Op::Div)),
    "Min" => Operator::new(|f| f.arithmetic(Arithmetic::Min), |i, c| i.arithmetic(c, MIN, Int32Op::Min)).on_codes(),
    "Max" => Operator::new(|f| f.arithmetic(Arithmetic::Max), |i, c| i.arithmetic(c, MAX, Int32Op::Max)).on_codes(),
    "Mod" => Operator::new(|f| f.arithmetic(Arithmetic::Mod), Importer::integer_modulo),
    "Pow" => Operator::new(|f| f.arithmetic(Arithmetic::Pow), Importer::power),
    "Sum" => Operator::new(|f| f.arithmetic(Arithmetic::Add), |i, c| one(i.float_sum(c)?)),
    "Mean" => Operator::nodes(Importer::mean),
    "Equal" => Operator::new(|f| f.comparison(Ordering::is_eq), |i, c| i.comparison(c, BinaryOp::Equal, [0, 1])),
    "Less" => Operator::new(|f| f.comparison(Ordering::is_lt), |i, c| i.comparison(c, BinaryOp::Less, [0, 1])),
    "Greater" => Operator::new(|f| f.comparison(Ordering::is_gt), |i, c| i.comparison(c, BinaryOp::Less, [1, 0])),
    "LessOrEqual" =>
        Operator::new(|f| f.comparison(Ordering::is_le), |i, c| i.comparison(c, LESS_OR_EQUAL, [0, 1])),
    "GreaterOrEqual" =>
        Operator::new(|f| f.comparison(Ordering::is_ge), |i, c| i.comparison(c, LESS_OR_EQUAL, [1, 0])),
    "And" => Operator::new(|f| f.logic(|a, b| a && b), Importer::and),
    "Or" => Operator::new(|f| f.logic(|a, b| a || b), Importer::or),
    "Xor" => Operator::new(|f| f.logic(|a, b| a != b), Importer::xor),
    "Where" => Operator::new(|f| f.choose(), Importer::choose).on_codes(),
}

impl Importer {
    /// `x + value`.
    pub(super) fn add_scalar(&mut self, name: &str, x: NodeId, value: f32) -> Result<NodeId, String> {
        if value == 0.0 {
            return Ok(x);
        }
        if value.is_finite() {
            return self.draft.add(name, AddScalar { value }, &[x]);
        }
        let constant = self.number(value);
        self.draft.add(name, Add, &[x, constant])
    }

    /// `x · value`.
    pub(super) fn mul_scalar(&mut self, name: &str, x: NodeId, value: f32) -> Result<NodeId, String> {
        if value == 1.0 {
            return Ok(x);
        }
        if value.is_finite() {
            return self.draft.add(name, MulScalar { value }, &[x]);
        }
        let constant = self.number(value);
        self.draft.add(name, Mul, &[x, constant])
    }

    /// A constant without axes, which broadcasts with every tensor.
    pub(in crate::onnx) fn number(&mut self, value: f32) -> NodeId {
        self.draft.constant("", Tensor::from(ndarray::arr0(value)))
    }

    /// `1 − x`.
    pub(super) fn one_minus(&mut self, name: &str, x: NodeId) -> Result<NodeId, String> {
        let negative = self.mul_scalar(&format!("{name}.negative"), x, -1.0)?;
        self.add_scalar(name, negative, 1.0)
    }

    fn arithmetic(&mut self, call: &Call<'_>, join: Join, integer: Int32Op) -> Values {
        match self.integers(call)? {
            Some(data_type) => self.integer_arithmetic(call, integer, data_type),
            None => one(self.float_arithmetic(call, join)?),
        }
    }

    /// The sum of all inputs, which ONNX defines for floats only.
    fn float_sum(&mut self, call: &Call<'_>) -> Result<Run, String> {
        match self.integers(call)? {
            Some(data_type) => Err(format!("it is not defined for {}", type_name(data_type))),
            None => self.float_arithmetic(call, Join::Add),
        }
    }

    fn mean(&mut self, call: &Call<'_>) -> Values {
        let sum = self.float_sum(call)?;
        let id = self.mul_scalar(&call.part("mean"), sum.id, 1.0 / call.inputs.len() as f32)?;
        one(Run { id, ..sum })
    }

    /// Combines all inputs from the first to the last.
    fn float_arithmetic(&mut self, call: &Call<'_>, join: Join) -> Result<Run, String> {
        if call.inputs.iter().flatten().any(|value| self.type_of(value) == ty::BOOL) {
            return Err("it computes on booleans as on numbers".to_owned());
        }
        let mut result = call.input(0)?.clone();
        for at in 1..call.inputs.len() {
            let name = call.step(at);
            result = Value::Run(self.join(call, &name, join, &result, call.input(at)?)?);
        }
        self.float(call, &result)
    }

    /// Combines two values of which at least one is computed at run time.
    pub(super) fn join(
        &mut self,
        call: &Call<'_>,
        name: &str,
        join: Join,
        a: &Value,
        b: &Value,
    ) -> Result<Run, String> {
        let (left, right) = (self.logical(a), self.logical(b));
        let lengths = broadcast(&left, &right)?;
        let kind = Kind::Float;
        // A number needs no constant where the other value has at least as many axes.
        if let (Value::Run(_), Some(v)) = (a, self.scalar(b).filter(|_| right.len() <= left.len())) {
            let x = self.float(call, a)?;
            return Ok(Run { id: self.join_number(name, join, x.id, v)?, kind, ..x });
        }
        if let (Some(v), Value::Run(_)) = (self.scalar(a).filter(|_| left.len() <= right.len()), b) {
            let x = self.float(call, b)?;
            let id = match join {
                Join::Sub => {
                    let negative = self.mul_scalar(&call.part("negative"), x.id, -1.0)?;
                    self.add_scalar(name, negative, v)?
                }
                Join::Div | Join::Binary(BinaryOp::Less | BinaryOp::LessOrEqual) => {
                    let number = self.number(v);
                    self.join_nodes(name, join, number, x.id)?
                }
                _ => self.join_number(name, join, x.id, v)?,
            };
            return Ok(Run { id, kind, ..x });
        }
        let [x, y] = self.operands(call, [a, b], &lengths)?;
        let right = if join == Join::Sub { self.negative(call, b, y.id)? } else { y.id };
        let id = self.join_nodes(name, join, x.id, right)?;
        self.of_lengths(Run { id, merged: x.merged.max(y.merged), kind }, &lengths)
    }

    /// Combines two nodes. A difference is a sum, for which `b` is the negative already.
    fn join_nodes(&mut self, name: &str, join: Join, a: NodeId, b: NodeId) -> Result<NodeId, String> {
        let op: Op = match join {
            Join::Add | Join::Sub => Add.into(),
            Join::Mul => Mul.into(),
            Join::Div => Div.into(),
            Join::Binary(op) => Binary { op }.into(),
        };
        self.draft.add(name, op, &[a, b])
    }

    /// Combines a node on the left with a number on the right.
    fn join_number(&mut self, name: &str, join: Join, x: NodeId, v: f32) -> Result<NodeId, String> {
        let inverse = 1.0 / v;
        match join {
            Join::Add => self.add_scalar(name, x, v),
            Join::Sub => self.add_scalar(name, x, -v),
            Join::Mul => self.mul_scalar(name, x, v),
            Join::Div if inverse.is_normal() => self.mul_scalar(name, x, inverse),
            Join::Binary(BinaryOp::Minimum) if !v.is_nan() => {
                self.draft.add(name, Clamp { min: f32::NEG_INFINITY, max: v }, &[x])
            }
            Join::Binary(BinaryOp::Maximum) if !v.is_nan() => {
                self.draft.add(name, Clamp { min: v, max: f32::INFINITY }, &[x])
            }
            _ => {
                let number = self.number(v);
                self.join_nodes(name, join, x, number)
            }
        }
    }

    /// `−y`. The negative of a constant is a constant.
    pub(super) fn negative(&mut self, call: &Call<'_>, value: &Value, y: NodeId) -> Result<NodeId, String> {
        if let (Value::Host(_) | Value::Stored(_), Op::Constant(_)) = (value, &self.draft.node(y).op) {
            let host = self.host(value)?;
            let data = Data::F32(host.to_floats()?.into_iter().map(|v| -v).collect());
            return self.host_constant(&Host { data, ..(*host).clone() });
        }
        self.mul_scalar(&call.part("negative"), y, -1.0)
    }

    fn power(&mut self, call: &Call<'_>) -> Values {
        let (base, exponent) = (call.input(0)?, call.input(1)?);
        let lengths = broadcast(&self.logical(base), &self.logical(exponent))?;
        let Some(exponent) = self.scalar(exponent) else {
            return Err("its exponent is not one known number".to_owned());
        };
        let x = self.run(base)?;
        // The exponent may have more axes, all of length 1.
        let x = self.reshaped(&call.part("base"), x, &lengths)?;
        if let Kind::Int(data_type) = x.kind {
            return one(self.integer_power(call, x, exponent, data_type)?);
        }
        let x = self.float(call, &Value::Run(x))?;
        let name = call.name.as_str();
        let id = if exponent == 0.5 {
            self.unary(name, UnaryOp::Sqrt, x.id)?
        } else if exponent == -0.5 {
            let root = self.unary(&call.part("sqrt"), UnaryOp::Sqrt, x.id)?;
            self.inverse(name, root)?
        } else if exponent == -1.0 {
            self.inverse(name, x.id)?
        } else if exponent.fract() == 0.0 && (1.0..=8.0).contains(&exponent) {
            let mut product = x.id;
            for factor in 2..=exponent as u32 {
                let step = call.power(factor, exponent);
                product = self.draft.add(&step, Mul, &[product, x.id])?;
            }
            product
        } else {
            return Err(format!("its exponent is {exponent}; supported are -1, -0.5, 0.5, and from 1 to 8"));
        };
        one(Run { id, kind: Kind::Float, ..x })
    }

    /// `1 / x`.
    pub(super) fn inverse(&mut self, name: &str, x: NodeId) -> Result<NodeId, String> {
        let number = self.number(1.0);
        self.draft.add(name, Div, &[number, x])
    }

    /// A comparison of two inputs; `a` and `b` are their positions. For integers, `a ≤ b` is `not (b < a)`.
    fn comparison(&mut self, call: &Call<'_>, op: BinaryOp, [a, b]: [usize; 2]) -> Values {
        let (a, b) = (call.input(a)?, call.input(b)?);
        let Some(data_type) = self.integers(call)? else {
            let compared = self.join(call, &call.name, Join::Binary(op), a, b)?;
            return one(Run { kind: Kind::Bool, ..compared });
        };
        match op {
            BinaryOp::Equal => self.integer_comparison(call, Int32Op::Equal, data_type, [a, b], false),
            BinaryOp::Less => self.integer_comparison(call, Int32Op::Less, data_type, [a, b], false),
            _ => self.integer_comparison(call, Int32Op::Less, data_type, [b, a], true),
        }
    }

    fn and(&mut self, call: &Call<'_>) -> Values {
        let [a, b] = self.booleans(call)?;
        one(Run { kind: Kind::Bool, ..self.join(call, &call.name, Join::Mul, &a, &b)? })
    }

    fn or(&mut self, call: &Call<'_>) -> Values {
        let [a, b] = self.booleans(call)?;
        let sum = self.join(call, &call.part("sum"), Join::Add, &a, &b)?;
        let id = self.draft.add(&call.name, Clamp { min: 0.0, max: 1.0 }, &[sum.id])?;
        one(Run { id, kind: Kind::Bool, ..sum })
    }

    fn xor(&mut self, call: &Call<'_>) -> Values {
        let [a, b] = self.booleans(call)?;
        let difference = self.join(call, &call.part("difference"), Join::Sub, &a, &b)?;
        let id = self.unary(&call.name, UnaryOp::Abs, difference.id)?;
        one(Run { id, kind: Kind::Bool, ..difference })
    }

    fn booleans(&mut self, call: &Call<'_>) -> Result<[Value; 2], String> {
        let a = self.boolean_value(call, call.input(0)?)?;
        Ok([a, self.boolean_value(call, call.input(1)?)?])
    }

    /// The float 0 or 1 for each element of a value that is computed at run time.
    pub(super) fn boolean(&mut self, call: &Call<'_>, value: &Value) -> Result<Run, String> {
        let x = self.run(value)?;
        match x.kind {
            Kind::Bool => Ok(x),
            Kind::Int(_) => self.not_zero(call, x),
            _ => {
                // `Where` takes every number but 0 for true, NaN and subnormal numbers included.
                let x = self.float(call, value)?;
                let (one, zero) = (self.number(1.0), self.number(0.0));
                Ok(Run { id: self.draft.add(&call.part("bool"), Where, &[x.id, one, zero])?, kind: Kind::Bool, ..x })
            }
        }
    }

    fn boolean_value(&mut self, call: &Call<'_>, value: &Value) -> Result<Value, String> {
        match value {
            Value::Run(_) => self.boolean(call, value).map(Value::Run),
            known => Ok(known.clone()),
        }
    }

    fn choose(&mut self, call: &Call<'_>) -> Values {
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
            _ => self.draft.add(&call.name, Where, &[condition.id, a.id, b.id])?,
        };
        let merged = condition.merged.max(a.merged).max(b.merged);
        one(self.of_lengths(Run { id, merged, kind: a.kind }, &lengths)?)
    }
}

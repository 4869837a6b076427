//! Arithmetic and functions of each element.

use super::{Call, Importer, Kind, Run, Value, Values, one};
use crate::graph::NodeId;
use crate::onnx::host::{Host, broadcast};
use crate::onnx::proto::data_type as ty;
use crate::ops::{Add, AddScalar, Binary, BinaryOp, Clamp, Div, Mul, MulScalar, Op, Unary, UnaryOp};
use crate::values::Tensor;

/// What joins two values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::onnx) enum Join {
    Add,
    Sub,
    Mul,
    Div,
    Binary(BinaryOp),
}

impl Importer {
    /// `x + value`.
    pub(super) fn add_scalar(&mut self, name: &str, x: NodeId, value: f32) -> Result<NodeId, String> {
        if value == 0.0 {
            return Ok(x);
        }
        if value.is_finite() {
            return self.draft.add(name, Op::AddScalar(AddScalar { value }), &[x]);
        }
        let constant = self.number(value);
        self.draft.add(name, Op::Add(Add), &[x, constant])
    }

    /// `x · value`.
    pub(super) fn mul_scalar(&mut self, name: &str, x: NodeId, value: f32) -> Result<NodeId, String> {
        if value == 1.0 {
            return Ok(x);
        }
        if value.is_finite() {
            return self.draft.add(name, Op::MulScalar(MulScalar { value }), &[x]);
        }
        let constant = self.number(value);
        self.draft.add(name, Op::Mul(Mul), &[x, constant])
    }

    /// A constant that broadcasts with everything.
    pub(in crate::onnx) fn number(&mut self, value: f32) -> NodeId {
        self.draft.constant("", Tensor::from(ndarray::arr0(value)))
    }

    /// `1 − x`.
    pub(super) fn one_minus(&mut self, name: &str, x: NodeId) -> Result<NodeId, String> {
        let negative = self.mul_scalar(&format!("{name}.negative"), x, -1.0)?;
        self.add_scalar(name, negative, 1.0)
    }

    pub(super) fn unary(&mut self, name: &str, op: UnaryOp, x: NodeId) -> Result<NodeId, String> {
        self.draft.add(name, Op::Unary(Unary { op }), &[x])
    }

    pub(super) fn arithmetic(&mut self, call: &Call<'_>) -> Values {
        let join = match call.node.op_type.as_str() {
            "Add" | "Sum" | "Mean" => Join::Add,
            "Sub" => Join::Sub,
            "Mul" => Join::Mul,
            "Div" => Join::Div,
            "Min" => Join::Binary(BinaryOp::Minimum),
            _ => Join::Binary(BinaryOp::Maximum),
        };
        if let Some(data_type) = self.integers(call)? {
            return self.integer_arithmetic(call, join, data_type);
        }
        if call.inputs.iter().flatten().any(|value| self.type_of(value) == ty::BOOL) {
            return Err("it computes on booleans as on numbers".to_owned());
        }
        let count = call.inputs.len();
        let mut result = call.input(0)?.clone();
        for at in 1..count {
            // The last step bears the name.
            let name = if at + 1 == count { call.name.clone() } else { call.part(&format!("step{at}")) };
            result = Value::Run(self.join(call, &name, join, &result, call.input(at)?)?);
        }
        let mut result = self.float(call, &result)?;
        if call.node.op_type == "Mean" {
            result.id = self.mul_scalar(&call.part("mean"), result.id, 1.0 / count as f32)?;
        }
        one(result)
    }

    /// Two values of which at least one is computed at run time.
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
        // A number joins the other value as it is.
        if let (Value::Run(_), Some(v)) = (a, self.scalar(b).filter(|_| right.len() <= left.len())) {
            let x = self.float(call, a)?;
            return Ok(Run { id: self.with_number(name, join, x.id, v)?, kind, ..x });
        }
        if let (Some(v), Value::Run(_)) = (self.scalar(a).filter(|_| left.len() <= right.len()), b) {
            let x = self.float(call, b)?;
            let id = match join {
                Join::Sub => {
                    let negative = self.mul_scalar(&call.part("negative"), x.id, -1.0)?;
                    self.add_scalar(name, negative, v)?
                }
                Join::Div => {
                    let number = self.number(v);
                    self.draft.add(name, Op::Div(Div), &[number, x.id])?
                }
                Join::Binary(op @ (BinaryOp::Less | BinaryOp::LessOrEqual)) => {
                    let number = self.number(v);
                    self.draft.add(name, Op::Binary(Binary { op }), &[number, x.id])?
                }
                _ => self.with_number(name, join, x.id, v)?,
            };
            return Ok(Run { id, kind, ..x });
        }
        let [x, y] = self.operands(call, [a, b], &lengths)?;
        let merged = x.merged.max(y.merged);
        let id = match join {
            Join::Add => self.draft.add(name, Op::Add(Add), &[x.id, y.id])?,
            Join::Sub => {
                let negative = self.negative(call, b, y.id)?;
                self.draft.add(name, Op::Add(Add), &[x.id, negative])?
            }
            Join::Mul => self.draft.add(name, Op::Mul(Mul), &[x.id, y.id])?,
            Join::Div => self.draft.add(name, Op::Div(Div), &[x.id, y.id])?,
            Join::Binary(op) => self.draft.add(name, Op::Binary(Binary { op }), &[x.id, y.id])?,
        };
        self.of_lengths(Run { id, merged, kind }, &lengths)
    }

    fn with_number(&mut self, name: &str, join: Join, x: NodeId, v: f32) -> Result<NodeId, String> {
        let inverse = 1.0 / v;
        match join {
            Join::Add => self.add_scalar(name, x, v),
            Join::Sub => self.add_scalar(name, x, -v),
            Join::Mul => self.mul_scalar(name, x, v),
            Join::Div if inverse.is_normal() => self.mul_scalar(name, x, inverse),
            Join::Div => {
                let number = self.number(v);
                self.draft.add(name, Op::Div(Div), &[x, number])
            }
            Join::Binary(BinaryOp::Minimum) if !v.is_nan() => {
                self.draft.add(name, Op::Clamp(Clamp { min: f32::NEG_INFINITY, max: v }), &[x])
            }
            Join::Binary(BinaryOp::Maximum) if !v.is_nan() => {
                self.draft.add(name, Op::Clamp(Clamp { min: v, max: f32::INFINITY }), &[x])
            }
            Join::Binary(op) => {
                let number = self.number(v);
                self.draft.add(name, Op::Binary(Binary { op }), &[x, number])
            }
        }
    }

    /// `−y`; of a constant, another constant.
    fn negative(&mut self, call: &Call<'_>, value: &Value, y: NodeId) -> Result<NodeId, String> {
        if let (Value::Host(_) | Value::Stored(_), Op::Constant(_)) = (value, &self.draft.node(y).op) {
            let host = self.host(value)?;
            let data = super::Data::F32(host.to_floats()?.into_iter().map(|v| -v).collect());
            return self.host_constant(&Host { data, ..(*host).clone() });
        }
        self.mul_scalar(&call.part("negative"), y, -1.0)
    }

    pub(super) fn power(&mut self, call: &Call<'_>) -> Values {
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
            let number = self.number(1.0);
            self.draft.add(name, Op::Div(Div), &[number, root])?
        } else if exponent == -1.0 {
            let number = self.number(1.0);
            self.draft.add(name, Op::Div(Div), &[number, x.id])?
        } else if exponent.fract() == 0.0 && (1.0..=8.0).contains(&exponent) {
            let mut product = x.id;
            for factor in 2..=exponent as u32 {
                let step =
                    if factor == exponent as u32 { name.to_owned() } else { call.part(&format!("power{factor}")) };
                product = self.draft.add(&step, Op::Mul(Mul), &[product, x.id])?;
            }
            product
        } else {
            return Err(format!("its exponent is {exponent}; supported are -1, -0.5, 0.5, and from 1 to 8"));
        };
        one(Run { id, kind: Kind::Float, ..x })
    }

    pub(super) fn scaled(&mut self, call: &Call<'_>, value: f32) -> Values {
        if let Some(data_type) = self.integers(call)? {
            return self.integer_function(call, data_type);
        }
        let x = self.float(call, call.input(0)?)?;
        one(Run { id: self.mul_scalar(&call.name, x.id, value)?, kind: Kind::Float, ..x })
    }

    /// A node of one input.
    pub(super) fn function(&mut self, call: &Call<'_>, op: Op) -> Values {
        if let Some(data_type) = self.integers(call)? {
            return self.integer_function(call, data_type);
        }
        let x = self.float(call, call.input(0)?)?;
        one(Run { id: self.draft.add(&call.name, op, &[x.id])?, kind: Kind::Float, ..x })
    }

    pub(super) fn activation(&mut self, call: &Call<'_>) -> Values {
        if let Some(data_type) = self.integers(call)? {
            return self.integer_function(call, data_type);
        }
        let node = call.node;
        let x = self.float(call, call.input(0)?)?;
        let name = call.name.as_str();
        let part = |part: &str| call.part(part);
        let kind = Kind::Float;
        let clamp = |min: f32, max: f32| Op::Clamp(Clamp { min, max });
        let id = match node.op_type.as_str() {
            "Gelu" => match node.string("approximate", "none")? {
                "none" => self.unary(name, UnaryOp::Gelu, x.id)?,
                "tanh" => self.unary(name, UnaryOp::GeluTanh, x.id)?,
                other => return Err(format!("approximation {other:?} is not known")),
            },
            "Clip" => {
                let mut bound = |at: usize, attribute: &str, default: f32| match call.optional(at) {
                    None => node.float(attribute, default),
                    Some(value) => self.scalar(value).ok_or_else(|| "its bounds are not known numbers".to_owned()),
                };
                let (min, max) = (bound(1, "min", f32::NEG_INFINITY)?, bound(2, "max", f32::INFINITY)?);
                // Where the bounds cross, the upper one wins.
                self.draft.add(name, clamp(min.min(max), max), &[x.id])?
            }
            "LeakyRelu" | "PRelu" => {
                // relu(x) − slope · relu(−x).
                let positive = self.unary(&part("positive"), UnaryOp::Relu, x.id)?;
                let negative = self.mul_scalar(&part("negative"), x.id, -1.0)?;
                let negative = self.unary(&part("negative.relu"), UnaryOp::Relu, negative)?;
                let lengths = self.logical(call.input(0)?);
                let slope = match call.optional(1) {
                    None => Some(node.float("alpha", 0.01)?),
                    // Also of one element, if that has more axes.
                    Some(slope) if broadcast(&lengths, &self.logical(slope))? != lengths => {
                        return Err("its slope does not broadcast to its input".to_owned());
                    }
                    Some(slope) => self.scalar(slope),
                };
                let below = match (slope, call.optional(1)) {
                    (None, Some(slope)) => {
                        let [_, slope] = self.operands(call, [&Value::Run(x), slope], &lengths)?;
                        let minus = self.mul_scalar(&part("slope"), slope.id, -1.0)?;
                        self.draft.add(&part("below"), Op::Mul(Mul), &[negative, minus])?
                    }
                    (slope, _) => self.mul_scalar(&part("below"), negative, -slope.unwrap_or(0.01))?,
                };
                self.draft.add(name, Op::Add(Add), &[positive, below])?
            }
            "HardSigmoid" | "HardSwish" => {
                let swish = node.op_type == "HardSwish";
                let (alpha, beta) =
                    if swish { (1.0 / 6.0, 0.5) } else { (node.float("alpha", 0.2)?, node.float("beta", 0.5)?) };
                let scaled = self.mul_scalar(&part("scaled"), x.id, alpha)?;
                let moved = self.add_scalar(&part("moved"), scaled, beta)?;
                if swish {
                    let gate = self.draft.add(&part("gate"), clamp(0.0, 1.0), &[moved])?;
                    self.draft.add(name, Op::Mul(Mul), &[x.id, gate])?
                } else {
                    self.draft.add(name, clamp(0.0, 1.0), &[moved])?
                }
            }
            "Elu" | "Selu" => {
                // γ · (relu(x) + α · (e^min(x, 0) − 1)).
                let selu = node.op_type == "Selu";
                let alpha = node.float("alpha", if selu { 1.673_263_2 } else { 1.0 })?;
                let gamma = if selu { node.float("gamma", 1.050_701)? } else { 1.0 };
                let positive = self.unary(&part("positive"), UnaryOp::Relu, x.id)?;
                let below = self.draft.add(&part("negative"), clamp(f32::NEG_INFINITY, 0.0), &[x.id])?;
                let exp = self.unary(&part("exp"), UnaryOp::Exp, below)?;
                let less = self.add_scalar(&part("minus_one"), exp, -1.0)?;
                let below = self.mul_scalar(&part("below"), less, alpha)?;
                let sum = self.draft.add(if selu { "sum" } else { name }, Op::Add(Add), &[positive, below])?;
                self.mul_scalar(name, sum, gamma)?
            }
            "Softplus" | "Mish" => {
                let mish = node.op_type == "Mish";
                let softplus = self.softplus(call, if mish { part("softplus") } else { name.to_owned() }, x.id)?;
                if mish {
                    let tanh = self.unary(&part("tanh"), UnaryOp::Tanh, softplus)?;
                    self.draft.add(name, Op::Mul(Mul), &[x.id, tanh])?
                } else {
                    softplus
                }
            }
            "Softsign" => {
                let abs = self.unary(&part("abs"), UnaryOp::Abs, x.id)?;
                let below = self.add_scalar(&part("plus_one"), abs, 1.0)?;
                self.draft.add(name, Op::Div(Div), &[x.id, below])?
            }
            "Reciprocal" => {
                let number = self.number(1.0);
                self.draft.add(name, Op::Div(Div), &[number, x.id])?
            }
            _ => self.unary(name, UnaryOp::Sign, x.id)?,
        };
        one(Run { id, kind, ..x })
    }

    /// `log(1 + e^x)` as `relu(x) + log(1 + e^−|x|)`, which does not overflow.
    fn softplus(&mut self, call: &Call<'_>, name: String, x: NodeId) -> Result<NodeId, String> {
        let part = |part: &str| call.part(part);
        let positive = self.unary(&part("positive"), UnaryOp::Relu, x)?;
        let abs = self.unary(&part("abs"), UnaryOp::Abs, x)?;
        let negative = self.mul_scalar(&part("negative"), abs, -1.0)?;
        let exp = self.unary(&part("exp"), UnaryOp::Exp, negative)?;
        let sum = self.add_scalar(&part("plus_one"), exp, 1.0)?;
        let log = self.unary(&part("log"), UnaryOp::Log, sum)?;
        self.draft.add(&name, Op::Add(Add), &[positive, log])
    }
}

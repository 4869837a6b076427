//! Functions of one element. Activations without an operator of their own become several nodes.

use super::operator::{Call, Operator, Values, one};
use super::{Importer, Kind, Run, Value};
use crate::graph::NodeId;
use crate::onnx::functions;
use crate::onnx::host::broadcast;
use crate::onnx::tensor::type_name;
use crate::ops::{Add, Clamp, Div, Mul, Unary, UnaryOp};

pub(super) fn operator(op_type: &str) -> Option<Operator> {
    if functions::function(op_type).is_some() {
        return Some(Operator::new(|f| f.function(), Importer::function));
    }
    Some(match op_type {
        "Ceil" => Operator::known(|f| f.floats(f64::ceil)),
        "Clip" => Operator::nodes(Importer::clip),
        "Cos" => Operator::known(|f| f.floats(libm::cos)),
        "Elu" => Operator::nodes(Importer::elu),
        "Floor" => Operator::known(|f| f.floats(f64::floor)),
        "Gelu" => Operator::nodes(Importer::gelu),
        "HardSigmoid" => Operator::nodes(Importer::hard_sigmoid),
        "HardSwish" => Operator::nodes(Importer::hard_swish),
        "LeakyRelu" | "PRelu" => Operator::nodes(Importer::leaky_relu),
        "Mish" => Operator::nodes(Importer::mish),
        "Neg" => Operator::new(|f| f.negative(), Importer::neg),
        "Not" => Operator::new(|f| f.not(), Importer::not),
        "Reciprocal" => Operator::new(|f| f.floats(|v| 1.0 / v), Importer::reciprocal),
        "Round" => Operator::known(|f| f.floats(f64::round_ties_even)),
        "Selu" => Operator::nodes(Importer::selu),
        "Sin" => Operator::known(|f| f.floats(libm::sin)),
        "Softplus" => Operator::nodes(Importer::softplus),
        "Softsign" => Operator::nodes(Importer::softsign),
        _ => return None,
    })
}

impl Importer {
    pub(super) fn unary(&mut self, name: &str, op: UnaryOp, x: NodeId) -> Result<NodeId, String> {
        self.draft.add(name, Unary { op }, &[x])
    }

    fn clamp(&mut self, name: &str, [min, max]: [f32; 2], x: NodeId) -> Result<NodeId, String> {
        self.draft.add(name, Clamp { min, max }, &[x])
    }

    /// The first input of an operator that is defined for floats only, as floats.
    fn float_input(&mut self, call: &Call<'_>) -> Result<Run, String> {
        if let Some(data_type) = self.integers(call)? {
            self.integer(call.input(0)?)?;
            return Err(format!("it is not supported for {} at run time", type_name(data_type)));
        }
        Ok(Run { kind: Kind::Float, ..self.float(call, call.input(0)?)? })
    }

    /// One of the functions that ONNX and the graph have in common.
    fn function(&mut self, call: &Call<'_>) -> Values {
        let op = functions::function(&call.node.op_type).ok_or("it is not a function of one element")?;
        if let Some(data_type) = self.integers(call)? {
            return self.integer_function(call, op, data_type);
        }
        let x = self.float_input(call)?;
        one(Run { id: self.unary(&call.name, op, x.id)?, ..x })
    }

    fn neg(&mut self, call: &Call<'_>) -> Values {
        if let Some(data_type) = self.integers(call)? {
            return self.integer_negative(call, data_type);
        }
        let x = self.float_input(call)?;
        one(Run { id: self.mul_scalar(&call.name, x.id, -1.0)?, ..x })
    }

    fn not(&mut self, call: &Call<'_>) -> Values {
        let x = self.boolean(call, call.input(0)?)?;
        one(Run { id: self.one_minus(&call.name, x.id)?, ..x })
    }

    fn reciprocal(&mut self, call: &Call<'_>) -> Values {
        let x = self.float_input(call)?;
        one(Run { id: self.inverse(&call.name, x.id)?, ..x })
    }

    fn gelu(&mut self, call: &Call<'_>) -> Values {
        let x = self.float_input(call)?;
        let op = match call.node.string("approximate", "none")? {
            "none" => UnaryOp::Gelu,
            "tanh" => UnaryOp::GeluTanh,
            other => return Err(format!("approximation {other:?} is not known")),
        };
        one(Run { id: self.unary(&call.name, op, x.id)?, ..x })
    }

    fn clip(&mut self, call: &Call<'_>) -> Values {
        if self.integers(call)?.is_some() {
            return self.integer_clip(call);
        }
        let x = self.float_input(call)?;
        let mut bound = |at: usize, attribute: &str, default: f32| match call.optional(at) {
            None => call.node.float(attribute, default),
            Some(value) => self.scalar(value).ok_or_else(|| "its bounds are not known numbers".to_owned()),
        };
        let (min, max) = (bound(1, "min", f32::NEG_INFINITY)?, bound(2, "max", f32::INFINITY)?);
        // If the bounds cross, ONNX gives the upper bound.
        one(Run { id: self.clamp(&call.name, [min.min(max), max], x.id)?, ..x })
    }

    /// `relu(x) − slope · relu(−x)`. The slope is an attribute or the second input.
    fn leaky_relu(&mut self, call: &Call<'_>) -> Values {
        let x = self.float_input(call)?;
        let positive = self.unary(&call.part("positive"), UnaryOp::Relu, x.id)?;
        let negative = self.mul_scalar(&call.part("negative"), x.id, -1.0)?;
        let negative = self.unary(&call.part("negative.relu"), UnaryOp::Relu, negative)?;
        let below = match call.optional(1) {
            None => {
                let slope = call.node.float("alpha", 0.01)?;
                self.mul_scalar(&call.part("below"), negative, -slope)?
            }
            Some(slope) => {
                let lengths = self.logical(call.input(0)?);
                // A slope of one element is refused too if it has more axes than the input.
                if broadcast(&lengths, &self.logical(slope))? != lengths {
                    return Err("its slope does not broadcast to its input".to_owned());
                }
                if let Some(slope) = self.scalar(slope) {
                    self.mul_scalar(&call.part("below"), negative, -slope)?
                } else {
                    let [_, slope] = self.operands(call, [&Value::Run(x), slope], &lengths)?;
                    let minus = self.mul_scalar(&call.part("slope"), slope.id, -1.0)?;
                    self.draft.add(&call.part("below"), Mul, &[negative, minus])?
                }
            }
        };
        one(Run { id: self.draft.add(&call.name, Add, &[positive, below])?, ..x })
    }

    /// `clamp(alpha · x + beta, 0, 1)`.
    fn hard_sigmoid(&mut self, call: &Call<'_>) -> Values {
        let x = self.float_input(call)?;
        let (alpha, beta) = (call.node.float("alpha", 0.2)?, call.node.float("beta", 0.5)?);
        let id = self.clamped_line(call, &call.name, x.id, alpha, beta)?;
        one(Run { id, ..x })
    }

    /// `x · clamp(x / 6 + 0.5, 0, 1)`.
    fn hard_swish(&mut self, call: &Call<'_>) -> Values {
        let x = self.float_input(call)?;
        let gate = self.clamped_line(call, &call.part("gate"), x.id, 1.0 / 6.0, 0.5)?;
        one(Run { id: self.draft.add(&call.name, Mul, &[x.id, gate])?, ..x })
    }

    fn clamped_line(
        &mut self,
        call: &Call<'_>,
        name: &str,
        x: NodeId,
        alpha: f32,
        beta: f32,
    ) -> Result<NodeId, String> {
        let scaled = self.mul_scalar(&call.part("scaled"), x, alpha)?;
        let moved = self.add_scalar(&call.part("moved"), scaled, beta)?;
        self.clamp(name, [0.0, 1.0], moved)
    }

    fn elu(&mut self, call: &Call<'_>) -> Values {
        let x = self.float_input(call)?;
        let alpha = call.node.float("alpha", 1.0)?;
        one(Run { id: self.exponential(call, &call.name, x.id, alpha)?, ..x })
    }

    fn selu(&mut self, call: &Call<'_>) -> Values {
        let x = self.float_input(call)?;
        let (alpha, gamma) = (call.node.float("alpha", 1.673_263_2)?, call.node.float("gamma", 1.050_701)?);
        let sum = self.exponential(call, "sum", x.id, alpha)?;
        one(Run { id: self.mul_scalar(&call.name, sum, gamma)?, ..x })
    }

    /// `relu(x) + alpha · (e^min(x, 0) − 1)`.
    fn exponential(&mut self, call: &Call<'_>, name: &str, x: NodeId, alpha: f32) -> Result<NodeId, String> {
        let positive = self.unary(&call.part("positive"), UnaryOp::Relu, x)?;
        let below = self.clamp(&call.part("negative"), [f32::NEG_INFINITY, 0.0], x)?;
        let exp = self.unary(&call.part("exp"), UnaryOp::Exp, below)?;
        let less = self.add_scalar(&call.part("minus_one"), exp, -1.0)?;
        let below = self.mul_scalar(&call.part("below"), less, alpha)?;
        self.draft.add(name, Add, &[positive, below])
    }

    fn softplus(&mut self, call: &Call<'_>) -> Values {
        let x = self.float_input(call)?;
        one(Run { id: self.softplus_of(call, &call.name, x.id)?, ..x })
    }

    /// `x · tanh(softplus(x))`.
    fn mish(&mut self, call: &Call<'_>) -> Values {
        let x = self.float_input(call)?;
        let softplus = self.softplus_of(call, &call.part("softplus"), x.id)?;
        let tanh = self.unary(&call.part("tanh"), UnaryOp::Tanh, softplus)?;
        one(Run { id: self.draft.add(&call.name, Mul, &[x.id, tanh])?, ..x })
    }

    /// `log(1 + e^x)` as `relu(x) + log(1 + e^−|x|)`, which does not overflow.
    fn softplus_of(&mut self, call: &Call<'_>, name: &str, x: NodeId) -> Result<NodeId, String> {
        let positive = self.unary(&call.part("positive"), UnaryOp::Relu, x)?;
        let abs = self.unary(&call.part("abs"), UnaryOp::Abs, x)?;
        let negative = self.mul_scalar(&call.part("negative"), abs, -1.0)?;
        let exp = self.unary(&call.part("exp"), UnaryOp::Exp, negative)?;
        let sum = self.add_scalar(&call.part("plus_one"), exp, 1.0)?;
        let log = self.unary(&call.part("log"), UnaryOp::Log, sum)?;
        self.draft.add(name, Add, &[positive, log])
    }

    /// `x / (1 + |x|)`.
    fn softsign(&mut self, call: &Call<'_>) -> Values {
        let x = self.float_input(call)?;
        let abs = self.unary(&call.part("abs"), UnaryOp::Abs, x.id)?;
        let below = self.add_scalar(&call.part("plus_one"), abs, 1.0)?;
        one(Run { id: self.draft.add(&call.name, Div, &[x.id, below])?, ..x })
    }
}

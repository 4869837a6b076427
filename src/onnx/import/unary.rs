//! Functions of one element. Activations without an operator of their own become several nodes.

use super::importer::Importer;
use super::operator::{Call, Operator, Values, one};
use crate::graph::NodeId;
use crate::onnx::functions;
use crate::onnx::host::broadcast;
use crate::onnx::tensor::type_name;
use crate::onnx::value::{Kind, Run};
use crate::ops::{Add, Binary, BinaryOp, Clamp, Div, Mul, Unary, UnaryOp, Where};

/// A function that is one of the table of functions.
pub(super) fn function(op_type: &str) -> Option<Operator> {
    functions::function(op_type).map(|op| match op {
        UnaryOp::Relu => Operator::new(|f| f.function(), Importer::function).on_codes(),
        _ => Operator::new(|f| f.function(), Importer::function),
    })
}

operators! {
    "Celu" => Operator::nodes(|i, c| i.on_floats(c, Importer::celu)),
    "Clip" => Operator::nodes(Importer::clip).on_codes(),
    "Elu" => Operator::nodes(|i, c| i.on_floats(c, Importer::elu)),
    "Gelu" => Operator::nodes(|i, c| i.on_floats(c, Importer::gelu)),
    "HardSigmoid" => Operator::nodes(|i, c| i.on_floats(c, Importer::hard_sigmoid)),
    "HardSwish" => Operator::nodes(|i, c| i.on_floats(c, Importer::hard_swish)),
    "IsInf" => Operator::nodes(Importer::is_infinite),
    "IsNaN" => Operator::nodes(Importer::is_nan),
    "LeakyRelu" | "PRelu" => Operator::nodes(|i, c| i.on_floats(c, Importer::leaky_relu)),
    "Mish" => Operator::nodes(|i, c| i.on_floats(c, Importer::mish)),
    "Neg" => Operator::new(|f| f.negative(), Importer::neg),
    "Not" => Operator::new(|f| f.not(), Importer::not),
    "Reciprocal" =>
        Operator::new(|f| f.floats(|v| 1.0 / v), |i, c| i.on_floats(c, |i, c, x| i.inverse(&c.name, x))),
    "Selu" => Operator::nodes(|i, c| i.on_floats(c, Importer::selu)),
    "Softplus" => Operator::nodes(|i, c| i.on_floats(c, Importer::softplus)),
    "Softsign" => Operator::nodes(|i, c| i.on_floats(c, Importer::softsign)),
    "Swish" => Operator::nodes(|i, c| i.on_floats(c, Importer::swish)),
    "ThresholdedRelu" => Operator::nodes(|i, c| i.on_floats(c, Importer::thresholded_relu)),
}

impl Importer {
    pub(super) fn unary(&mut self, name: &str, op: UnaryOp, x: NodeId) -> Result<NodeId, String> {
        self.draft.add(name, Unary { op }, &[x])
    }

    fn clamp(&mut self, name: &str, [min, max]: [f32; 2], x: NodeId) -> Result<NodeId, String> {
        self.draft.add(name, Clamp { min, max }, &[x])
    }

    /// An operator that is supported for floats only; `f` makes its nodes.
    pub(super) fn on_floats(
        &mut self,
        call: &Call<'_>,
        f: fn(&mut Self, &Call<'_>, NodeId) -> Result<NodeId, String>,
    ) -> Values {
        if let Some(data_type) = self.integers(call)? {
            self.integer(call.input(0)?)?;
            return Err(format!("it is not supported for {} at run time", type_name(data_type)));
        }
        let x = self.float(call, call.input(0)?)?;
        one(Run { id: f(self, call, x.id)?, kind: Kind::Float, ..x })
    }

    /// One of the functions that ONNX and the graph have in common.
    fn function(&mut self, call: &Call<'_>) -> Values {
        let op = functions::function(&call.node.op_type).ok_or("it is not a function of one element")?;
        if let Some(data_type) = self.integers(call)? {
            return self.integer_function(call, op, data_type);
        }
        let x = self.float(call, call.input(0)?)?;
        one(Run { id: self.unary(&call.name, op, x.id)?, kind: Kind::Float, ..x })
    }

    fn is_nan(&mut self, call: &Call<'_>) -> Values {
        let x = self.float(call, call.input(0)?)?;
        one(Run { id: self.unary(&call.name, UnaryOp::IsNan, x.id)?, kind: Kind::Bool, ..x })
    }

    /// Whether an element is infinite, of both signs or of one.
    fn is_infinite(&mut self, call: &Call<'_>) -> Values {
        let signs = ["detect_negative", "detect_positive"].map(|name| call.node.int(name, 1).map(|v| v != 0));
        let [negative, positive] = signs;
        let x = self.float(call, call.input(0)?)?;
        let (x, limit) = match (negative?, positive?) {
            (true, true) => {
                let abs = self.unary(&call.part("abs"), UnaryOp::Abs, x.id)?;
                (Run { id: abs, ..x }, f32::INFINITY)
            }
            (false, true) => (x, f32::INFINITY),
            (true, false) => (x, f32::NEG_INFINITY),
            // Nothing equals NaN.
            (false, false) => (x, f32::NAN),
        };
        let limit = self.number(limit);
        let id = self.draft.add(&call.name, Binary { op: BinaryOp::Equal }, &[x.id, limit])?;
        one(Run { id, kind: Kind::Bool, ..x })
    }

    fn neg(&mut self, call: &Call<'_>) -> Values {
        match self.integers(call)? {
            Some(data_type) => self.integer_negative(call, data_type),
            None => self.on_floats(call, |i, c, x| i.mul_scalar(&c.name, x, -1.0)),
        }
    }

    fn not(&mut self, call: &Call<'_>) -> Values {
        let x = self.boolean(call, call.input(0)?)?;
        one(Run { id: self.one_minus(&call.name, x.id)?, ..x })
    }

    fn gelu(&mut self, call: &Call<'_>, x: NodeId) -> Result<NodeId, String> {
        let op = match call.node.string("approximate", "none")? {
            "none" => UnaryOp::Gelu,
            "tanh" => UnaryOp::GeluTanh,
            other => return Err(format!("approximation {other:?} is not known")),
        };
        self.unary(&call.name, op, x)
    }

    fn clip(&mut self, call: &Call<'_>) -> Values {
        match self.integers(call)? {
            Some(_) => self.integer_clip(call),
            None => self.on_floats(call, Self::float_clip),
        }
    }

    fn float_clip(&mut self, call: &Call<'_>, x: NodeId) -> Result<NodeId, String> {
        let mut bound = |at: usize, attribute: &str, default: f32| match call.optional(at) {
            None => call.node.float(attribute, default),
            Some(value) => self.scalar(value).ok_or_else(|| "its bounds are not known numbers".to_owned()),
        };
        let (min, max) = (bound(1, "min", f32::NEG_INFINITY)?, bound(2, "max", f32::INFINITY)?);
        // If the bounds cross, ONNX gives the upper bound.
        self.clamp(&call.name, [min.min(max), max], x)
    }

    /// `relu(x) − slope · relu(−x)`. The slope is an attribute or the second input.
    fn leaky_relu(&mut self, call: &Call<'_>, x: NodeId) -> Result<NodeId, String> {
        let positive = self.unary(&call.part("positive"), UnaryOp::Relu, x)?;
        let negative = self.mul_scalar(&call.part("negative"), x, -1.0)?;
        let negative = self.unary(&call.part("negative.relu"), UnaryOp::Relu, negative)?;
        let below = &call.part("below");
        let lengths = self.logical(call.input(0)?);
        let below = match call.optional(1) {
            None => self.mul_scalar(below, negative, -call.node.float("alpha", 0.01)?)?,
            // A slope of one element is refused too if it has more axes than the input.
            Some(slope) if broadcast(&lengths, &self.logical(slope))? != lengths => {
                return Err("its slope does not broadcast to its input".to_owned());
            }
            Some(slope) => match self.scalar(slope) {
                Some(slope) => self.mul_scalar(below, negative, -slope)?,
                None => {
                    let [_, run] = self.operands(call, [call.input(0)?, slope], &lengths)?;
                    let minus = self.negative(call, slope, run.id)?;
                    self.draft.add(below, Mul, &[negative, minus])?
                }
            },
        };
        self.draft.add(&call.name, Add, &[positive, below])
    }

    fn hard_sigmoid(&mut self, call: &Call<'_>, x: NodeId) -> Result<NodeId, String> {
        let (alpha, beta) = (call.node.float("alpha", 0.2)?, call.node.float("beta", 0.5)?);
        self.clamped_line(call, &call.name, x, [alpha, beta])
    }

    /// `x · clamp(x / 6 + 0.5, 0, 1)`.
    fn hard_swish(&mut self, call: &Call<'_>, x: NodeId) -> Result<NodeId, String> {
        let gate = self.clamped_line(call, &call.part("gate"), x, [1.0 / 6.0, 0.5])?;
        self.draft.add(&call.name, Mul, &[x, gate])
    }

    /// `clamp(alpha · x + beta, 0, 1)`.
    fn clamped_line(&mut self, call: &Call<'_>, name: &str, x: NodeId, [a, b]: [f32; 2]) -> Result<NodeId, String> {
        let scaled = self.mul_scalar(&call.part("scaled"), x, a)?;
        let moved = self.add_scalar(&call.part("moved"), scaled, b)?;
        self.clamp(name, [0.0, 1.0], moved)
    }

    fn elu(&mut self, call: &Call<'_>, x: NodeId) -> Result<NodeId, String> {
        let alpha = call.node.float("alpha", 1.0)?;
        self.exponential(call, &call.name, x, alpha)
    }

    /// `relu(x) + alpha · (e^(min(x, 0) / alpha) − 1)`.
    fn celu(&mut self, call: &Call<'_>, x: NodeId) -> Result<NodeId, String> {
        let alpha = call.node.float("alpha", 1.0)?;
        if !(alpha.is_normal() && alpha > 0.0) {
            return Err(format!("its alpha is {alpha}, expected a number above 0"));
        }
        let positive = self.unary(&call.part("positive"), UnaryOp::Relu, x)?;
        let below = self.clamp(&call.part("negative"), [f32::NEG_INFINITY, 0.0], x)?;
        let scaled = self.mul_scalar(&call.part("scaled"), below, 1.0 / alpha)?;
        let exp = self.unary(&call.part("exp"), UnaryOp::Exp, scaled)?;
        let less = self.add_scalar(&call.part("minus_one"), exp, -1.0)?;
        let below = self.mul_scalar(&call.part("below"), less, alpha)?;
        self.draft.add(&call.name, Add, &[positive, below])
    }

    /// `x · sigmoid(alpha · x)`.
    fn swish(&mut self, call: &Call<'_>, x: NodeId) -> Result<NodeId, String> {
        let scaled = self.mul_scalar(&call.part("scaled"), x, call.node.float("alpha", 1.0)?)?;
        if scaled == x {
            return self.unary(&call.name, UnaryOp::Silu, x);
        }
        let gate = self.unary(&call.part("gate"), UnaryOp::Sigmoid, scaled)?;
        self.draft.add(&call.name, Mul, &[x, gate])
    }

    /// `x` where it is above alpha, and 0 elsewhere.
    fn thresholded_relu(&mut self, call: &Call<'_>, x: NodeId) -> Result<NodeId, String> {
        let (alpha, zero) = (call.node.float("alpha", 1.0)?, self.number(0.0));
        let alpha = self.number(alpha);
        let is_above = self.draft.add(&call.part("above"), Binary { op: BinaryOp::Less }, &[alpha, x])?;
        self.draft.add(&call.name, Where, &[is_above, x, zero])
    }

    fn selu(&mut self, call: &Call<'_>, x: NodeId) -> Result<NodeId, String> {
        let (alpha, gamma) = (call.node.float("alpha", 1.673_263_2)?, call.node.float("gamma", 1.050_701)?);
        let sum = self.exponential(call, "sum", x, alpha)?;
        self.mul_scalar(&call.name, sum, gamma)
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

    fn softplus(&mut self, call: &Call<'_>, x: NodeId) -> Result<NodeId, String> {
        self.softplus_named(call, &call.name, x)
    }

    /// `x · tanh(softplus(x))`.
    fn mish(&mut self, call: &Call<'_>, x: NodeId) -> Result<NodeId, String> {
        let softplus = self.softplus_named(call, &call.part("softplus"), x)?;
        let tanh = self.unary(&call.part("tanh"), UnaryOp::Tanh, softplus)?;
        self.draft.add(&call.name, Mul, &[x, tanh])
    }

    /// `log(1 + e^x)` as `relu(x) + log(1 + e^−|x|)`, which does not overflow.
    fn softplus_named(&mut self, call: &Call<'_>, name: &str, x: NodeId) -> Result<NodeId, String> {
        let positive = self.unary(&call.part("positive"), UnaryOp::Relu, x)?;
        let abs = self.unary(&call.part("abs"), UnaryOp::Abs, x)?;
        let negative = self.mul_scalar(&call.part("negative"), abs, -1.0)?;
        let exp = self.unary(&call.part("exp"), UnaryOp::Exp, negative)?;
        let sum = self.add_scalar(&call.part("plus_one"), exp, 1.0)?;
        let log = self.unary(&call.part("log"), UnaryOp::Log, sum)?;
        self.draft.add(name, Add, &[positive, log])
    }

    /// `x / (1 + |x|)`.
    fn softsign(&mut self, call: &Call<'_>, x: NodeId) -> Result<NodeId, String> {
        let abs = self.unary(&call.part("abs"), UnaryOp::Abs, x)?;
        let below = self.add_scalar(&call.part("plus_one"), abs, 1.0)?;
        self.draft.add(&call.name, Div, &[x, below])
    }
}

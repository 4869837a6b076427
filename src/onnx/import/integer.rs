//! Casts, and integers that are computed at run time: in `i32`, never as floats.
//!
//! Types of up to 32 bits wrap around, as ONNX demands. Values of wider types and of `uint32` must fit `i32`: a result that does not
//! is an error on the host, and so is such an input.

mod cast;
mod one_hot;

use super::importer::Importer;
use super::operator::{Call, ONLY_KNOWN, Operator, Values, one};
use crate::graph::NodeId;
use crate::onnx::fold::Reduction;
use crate::onnx::host::{Data, broadcast};
use crate::onnx::integers::{held, is_integer, range};
use crate::onnx::proto::{NodeProto, data_type as ty};
use crate::onnx::tensor::type_name;
use crate::onnx::value::{Kind, Run, Value};
use crate::ops::{Int32, Int32Op, IntegerType, ToFloat, ToInteger, UnaryOp};
use crate::values::Tensor;

operators! {
    "Cast" => Operator::new(|f| f.cast(), |i, c| i.cast(c, cast_type(c.node)?))
        .deferring(|i, c| i.cast_product(c, cast_type(c.node)?))
        .sharing(|i, n, v| Ok(i.same_floats(cast_type(n)?, v)))
        .behind(Importer::elements_behind),
    "OneHot" => Operator::nodes(Importer::one_hot),
    "CastLike" => Operator::new(|f| f.cast_like(), |i, c| i.cast(c, i.type_of(c.input(1)?))),
}

/// The type that a `Cast` names; 0, which is no type, for a number that is none.
fn cast_type(node: &NodeProto) -> Result<i32, String> {
    Ok(i32::try_from(node.int("to", 0)?).unwrap_or(0))
}

/// The largest exponent of a power that becomes products.
const MAX_POWER: u32 = 8;

impl Importer {
    /// The ONNX type of a value.
    pub(super) fn type_of(&self, value: &Value) -> i32 {
        match value {
            Value::Run(run) => match run.kind {
                Kind::Float => ty::FLOAT,
                Kind::Int(data_type) => data_type,
                Kind::Bool => ty::BOOL,
                Kind::Quantized { unsigned: true } => ty::UINT8,
                Kind::Quantized { unsigned: false } => ty::INT8,
            },
            Value::Stored(at) => self.stored[*at].data_type,
            Value::Host(host) => host.data_type,
            Value::Deferred(deferred) => self.type_of_deferred(deferred),
            Value::Quantized(_) | Value::Unsupported => ty::FLOAT,
        }
    }

    /// The type of the inputs if they are integers, which must all be of one type; `None` if no input is an integer.
    pub(super) fn integers(&self, call: &Call<'_>) -> Result<Option<i32>, String> {
        let mut types = call.inputs.iter().flatten().map(|value| self.type_of(value));
        let Some(first) = types.next() else { return Ok(None) };
        match types.find(|&other| other != first && (is_integer(first) || is_integer(other))) {
            Some(other) => Err(format!("its inputs are {} and {}", type_name(first), type_name(other))),
            None => Ok(is_integer(first).then_some(first)),
        }
    }

    /// A value as integers in `i32`.
    pub(super) fn integer(&mut self, value: &Value) -> Result<Run, String> {
        let run = self.run(value)?;
        match run.kind {
            Kind::Int(_) => Ok(run),
            Kind::Quantized { .. } => Err("it computes on quantized values".to_owned()),
            Kind::Float | Kind::Bool => {
                Err(format!("it computes on {} as on integers", type_name(self.type_of(&Value::Run(run)))))
            }
        }
    }

    /// A constant that broadcasts with everything.
    pub(super) fn whole(&mut self, value: i32) -> NodeId {
        self.draft.constant("", Tensor::from(ndarray::arr0(value).into_dyn()))
    }

    /// Arithmetic that wraps around in `i32`.
    fn wrapping(&mut self, name: &str, op: Int32Op, a: NodeId, b: NodeId) -> Result<NodeId, String> {
        self.draft.add(name, Int32 { op, checked: false }, &[a, b])
    }

    /// Arithmetic in a type of ONNX.
    fn typed(&mut self, name: &str, op: Int32Op, data_type: i32, a: NodeId, b: NodeId) -> Result<NodeId, String> {
        if matches!((op, data_type), (Int32Op::Sub, ty::UINT32 | ty::UINT64)) {
            return Err(format!("it subtracts {}, which could wrap around beyond 32 bits", type_name(data_type)));
        }
        let to = held(data_type);
        let stays = matches!(op, Int32Op::Min | Int32Op::Max | Int32Op::Equal | Int32Op::Less);
        match to {
            Some(to) if to != IntegerType::I32 && !stays => {
                let wide = self.wrapping(&format!("{name}.wide"), op, a, b)?;
                self.draft.add(name, ToInteger { to }, &[wide])
            }
            _ => self.draft.add(name, Int32 { op, checked: to.is_none() && !stays }, &[a, b]),
        }
    }

    /// Applies an operator to two integers of one type, broadcast.
    pub(super) fn integer_join(
        &mut self,
        call: &Call<'_>,
        name: &str,
        op: Int32Op,
        data_type: i32,
        [a, b]: [&Value; 2],
    ) -> Result<Run, String> {
        let lengths = broadcast(&self.logical(a), &self.logical(b))?;
        let [a, b] = self.operands(call, [a, b], &lengths)?;
        let (a, b) = (self.integer(&Value::Run(a))?, self.integer(&Value::Run(b))?);
        let id = self.typed(name, op, data_type, a.id, b.id)?;
        self.of_lengths(Run { id, merged: a.merged.max(b.merged), kind: Kind::Int(data_type) }, &lengths)
    }

    pub(super) fn integer_arithmetic(&mut self, call: &Call<'_>, op: Int32Op, data_type: i32) -> Values {
        let count = call.inputs.len();
        let mut result = Value::Run(self.integer(call.input(0)?)?);
        if count > 1 {
            result = call.input(0)?.clone();
        }
        for at in 1..count {
            let name = call.step(at);
            result = Value::Run(self.integer_join(call, &name, op, data_type, [&result, call.input(at)?])?);
        }
        one(self.integer(&result)?)
    }

    /// `a − trunc(a / b) · b`, plus `b` where its sign is not that of `b`, unless the node asks for the sign of `a`.
    pub(super) fn integer_modulo(&mut self, call: &Call<'_>) -> Values {
        let Some(data_type) = self.integers(call)? else { return Err(ONLY_KNOWN.to_owned()) };
        let (a, b) = (call.input(0)?, call.input(1)?);
        let is_positive = self.scalar(b).is_some_and(|b| b > 0.0);
        let lengths = broadcast(&self.logical(a), &self.logical(b))?;
        let [a, b] = self.operands(call, [a, b], &lengths)?;
        let (a, b) = (self.integer(&Value::Run(a))?, self.integer(&Value::Run(b))?);
        let quotient = self.wrapping(&call.part("quotient"), Int32Op::Div, a.id, b.id)?;
        let product = self.wrapping(&call.part("product"), Int32Op::Mul, quotient, b.id)?;
        let truncates = call.node.int("fmod", 0)? != 0 || range(data_type).0 == 0;
        let name = if truncates { call.name.clone() } else { call.part("remainder") };
        let mut id = self.wrapping(&name, Int32Op::Sub, a.id, product)?;
        if !truncates {
            let zero = self.whole(0);
            let negative = self.wrapping(&call.part("negative"), Int32Op::Less, id, zero)?;
            let moves = if is_positive {
                negative
            } else {
                let below = self.wrapping(&call.part("below"), Int32Op::Less, b.id, zero)?;
                let same = self.wrapping(&call.part("same"), Int32Op::Equal, negative, below)?;
                let none = self.wrapping(&call.part("none"), Int32Op::Equal, id, zero)?;
                let stays = self.wrapping(&call.part("stays"), Int32Op::Max, same, none)?;
                self.wrapping(&call.part("moves"), Int32Op::Equal, stays, zero)?
            };
            let moved = self.wrapping(&call.part("moved"), Int32Op::Mul, moves, b.id)?;
            id = self.wrapping(&call.name, Int32Op::Add, id, moved)?;
        }
        let run = Run { id, merged: a.merged.max(b.merged), kind: Kind::Int(data_type) };
        one(self.of_lengths(run, &lengths)?)
    }

    /// The booleans that a comparison of two integers gives, or their negations.
    pub(super) fn integer_comparison(
        &mut self,
        call: &Call<'_>,
        op: Int32Op,
        data_type: i32,
        inputs: [&Value; 2],
        negated: bool,
    ) -> Values {
        let answer = self.integer_join(call, &call.part("answer"), op, data_type, inputs)?;
        one(self.answer(call, answer, negated)?)
    }

    /// Converts the integers 1 and 0 to booleans, which are floats in a graph.
    fn answer(&mut self, call: &Call<'_>, answer: Run, negated: bool) -> Result<Run, String> {
        let name = if negated { call.part("bool") } else { call.name.clone() };
        let mut id = self.draft.add(&name, ToFloat, &[answer.id])?;
        if negated {
            id = self.one_minus(&call.name, id)?;
        }
        Ok(Run { id, kind: Kind::Bool, ..answer })
    }

    /// The booleans that say whether integers are not 0.
    pub(super) fn not_zero(&mut self, call: &Call<'_>, x: Run) -> Result<Run, String> {
        let zero = self.whole(0);
        let id = self.wrapping(&call.part("zero"), Int32Op::Equal, x.id, zero)?;
        self.answer(call, Run { id, ..x }, true)
    }

    /// Selects one of two integers by `b + c · (a − b)`, which is exact, since `i32` wraps around.
    pub(super) fn integer_choice(&mut self, call: &Call<'_>, condition: Run, a: Run, b: Run) -> Result<NodeId, String> {
        let to = IntegerType::I32;
        let condition = self.draft.add(&call.part("condition"), ToInteger { to }, &[condition.id])?;
        let difference = self.wrapping(&call.part("difference"), Int32Op::Sub, a.id, b.id)?;
        let chosen = self.wrapping(&call.part("chosen"), Int32Op::Mul, condition, difference)?;
        self.wrapping(&call.name, Int32Op::Add, b.id, chosen)
    }

    /// A function of one element, of integers.
    pub(super) fn integer_function(&mut self, call: &Call<'_>, op: UnaryOp, data_type: i32) -> Values {
        let x = self.integer(call.input(0)?)?;
        let name = call.name.as_str();
        let id = match op {
            UnaryOp::Abs if range(data_type).0 == 0 => return one(x),
            UnaryOp::Abs => self.integer_abs(call, name, data_type, x.id)?,
            UnaryOp::Relu => {
                let zero = self.whole(0);
                self.wrapping(name, Int32Op::Max, x.id, zero)?
            }
            UnaryOp::Sign => {
                let (low, high) = (self.whole(-1), self.whole(1));
                let raised = self.wrapping(&call.part("raised"), Int32Op::Max, x.id, low)?;
                self.wrapping(name, Int32Op::Min, raised, high)?
            }
            _ => return Err(format!("it is not supported for {} at run time", type_name(data_type))),
        };
        one(Run { id, ..x })
    }

    pub(super) fn integer_negative(&mut self, call: &Call<'_>, data_type: i32) -> Values {
        let x = self.integer(call.input(0)?)?;
        let zero = self.whole(0);
        one(Run { id: self.typed(&call.name, Int32Op::Sub, data_type, zero, x.id)?, ..x })
    }

    pub(super) fn integer_clip(&mut self, call: &Call<'_>) -> Values {
        let x = self.integer(call.input(0)?)?;
        let mut id = x.id;
        for (at, op, part) in [(1, Int32Op::Max, "raised"), (2, Int32Op::Min, "lowered")] {
            let Some(bound) = call.optional(at) else { continue };
            let bound = self.host(bound)?;
            let Data::I64(bound) = &bound.data else { return Err("its bounds are not integers".to_owned()) };
            let &[bound] = bound.as_slice() else { return Err("its bounds are not known numbers".to_owned()) };
            // All values fit `i32`. A bound beyond `i32` changes none of them, or replaces all of them, which is refused.
            let near = bound.clamp(i32::MIN.into(), i32::MAX.into()) as i32;
            if (op == Int32Op::Max && bound > near.into()) || (op == Int32Op::Min && bound < near.into()) {
                return Err(format!("its bound is {bound}, which does not fit 32 bits"));
            }
            let bound = self.whole(near);
            id = self.wrapping(&call.part(part), op, id, bound)?;
        }
        if id == x.id {
            return one(x);
        }
        call.name.clone_into(&mut self.draft.nodes[id.index()].name);
        one(Run { id, ..x })
    }

    fn integer_abs(&mut self, call: &Call<'_>, name: &str, data_type: i32, x: NodeId) -> Result<NodeId, String> {
        let zero = self.whole(0);
        let negative = self.typed(&call.part("negative"), Int32Op::Sub, data_type, zero, x)?;
        self.wrapping(name, Int32Op::Max, x, negative)
    }

    /// An integer to the power of a known number: 0.5 or an integer.
    pub(super) fn integer_power(
        &mut self,
        call: &Call<'_>,
        x: Run,
        exponent: f32,
        data_type: i32,
    ) -> Result<Run, String> {
        let id = if exponent == 0.5 {
            self.integer_root(call, x.id)?
        } else if exponent.fract() == 0.0 && (1.0..=MAX_POWER as f32).contains(&exponent) {
            let mut product = x.id;
            for factor in 2..=exponent as u32 {
                product = self.typed(&call.power(factor, exponent), Int32Op::Mul, data_type, product, x.id)?;
            }
            product
        } else {
            return Err(format!(
                "its exponent is {exponent}; supported for integers are 0.5, and from 1 to {MAX_POWER}"
            ));
        };
        Ok(Run { id, ..x })
    }

    /// The square root without its fraction. The root of the float is off by 1 at most, which two divisions correct: r is too large
    /// where x / r < r, and too small where r + 1 ≤ x / (r + 1). The root of a negative number is an error on the host.
    fn integer_root(&mut self, call: &Call<'_>, x: NodeId) -> Result<NodeId, String> {
        let float = self.draft.add(&call.part("float"), ToFloat, &[x])?;
        let root = self.unary(&call.part("root"), UnaryOp::Sqrt, float)?;
        let root = self.draft.add(&call.part("near"), ToInteger { to: IntegerType::I32 }, &[root])?;
        let one = self.whole(1);
        let root = self.wrapping(&call.part("positive"), Int32Op::Max, root, one)?;
        let quotient = self.wrapping(&call.part("quotient"), Int32Op::Div, x, root)?;
        let above = self.wrapping(&call.part("above"), Int32Op::Less, quotient, root)?;
        let root = self.wrapping(&call.part("lowered"), Int32Op::Sub, root, above)?;
        let next = self.wrapping(&call.part("next"), Int32Op::Add, root, one)?;
        let quotient = self.wrapping(&call.part("next.quotient"), Int32Op::Div, x, next)?;
        let stays = self.wrapping(&call.part("stays"), Int32Op::Less, quotient, next)?;
        self.wrapping(&call.name, Int32Op::Sub, next, stays)
    }

    /// The integers whose sum or largest one a reduction of `x` computes.
    pub(super) fn before_reduction(
        &mut self,
        call: &Call<'_>,
        reduction: Reduction,
        data_type: i32,
        x: NodeId,
    ) -> Result<NodeId, String> {
        match reduction {
            Reduction::Sum | Reduction::Mean | Reduction::Max => Ok(x),
            Reduction::L1 if range(data_type).0 == 0 => Ok(x),
            Reduction::L1 => self.integer_abs(call, &call.part("abs"), data_type, x),
            Reduction::SumSquare => self.typed(&call.part("square"), Int32Op::Mul, data_type, x, x),
            // −1 − x reverses the order and never overflows.
            Reduction::Min => {
                let all = self.whole(-1);
                self.wrapping(&call.part("negative"), Int32Op::Sub, all, x)
            }
            Reduction::L2 | Reduction::Prod | Reduction::LogSum => {
                Err(format!("it is not supported for {} at run time", type_name(data_type)))
            }
        }
    }

    /// The result of a reduction, from the sum or the largest one of `count` integers.
    pub(super) fn after_reduction(
        &mut self,
        call: &Call<'_>,
        reduction: Reduction,
        data_type: i32,
        count: f64,
        mut y: NodeId,
    ) -> Result<NodeId, String> {
        let name = call.part("reduced");
        if reduction == Reduction::Max {
            return Ok(y);
        }
        if reduction == Reduction::Min {
            let all = self.whole(-1);
            return self.wrapping(&name, Int32Op::Sub, all, y);
        }
        if let Some(to) = held(data_type).filter(|to| *to != IntegerType::I32) {
            y = self.draft.add(&call.part("sum.cut"), ToInteger { to }, &[y])?;
        }
        if reduction != Reduction::Mean || count == 1.0 {
            return Ok(y);
        }
        let count = self.whole(count as i32);
        self.wrapping(&name, Int32Op::Div, y, count)
    }
}

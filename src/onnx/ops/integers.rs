//! Integers that are computed at run time: in `i32`, never as floats.
//!
//! Types of up to 32 bits wrap around as ONNX wants it. Of wider ones and `uint32`, only values that `i32` holds can be there; what
//! becomes larger is an error on the host, as an input that does not fit is.

use super::elementwise::Join;
use super::{Call, Importer, Kind, Run, Value, Values, one};
use crate::graph::NodeId;
use crate::onnx::host::{Data, broadcast};
use crate::onnx::integers::{held, is_integer, range};
use crate::onnx::proto::data_type as ty;
use crate::onnx::tensor::type_name;
use crate::ops::{BinaryOp, Int32, Int32Op, IntegerType, Op, ToFloat, ToInteger, UnaryOp};
use crate::values::Tensor;

/// The largest power that is written out.
const MAX_POWER: u32 = 8;

impl Importer {
    /// The ONNX type of a value.
    pub(super) fn type_of(&self, value: &Value) -> i32 {
        match value {
            Value::Run(run) => match run.kind {
                Kind::Float => ty::FLOAT,
                Kind::Int(data_type) => data_type,
                Kind::Bool => ty::BOOL,
                Kind::Codes { unsigned: true } => ty::UINT8,
                Kind::Codes { unsigned: false } => ty::INT8,
            },
            Value::Stored(at) => self.stored[*at].data_type,
            Value::Host(host) => host.data_type,
            Value::Quantized(_) | Value::Unsupported => ty::FLOAT,
        }
    }

    /// The type of inputs that are integers, which must all be of one; `None` if none is an integer.
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
            Kind::Codes { .. } => Err("it computes on codes of quantized values".to_owned()),
            Kind::Float | Kind::Bool => {
                Err(format!("it computes on {} as on integers", type_name(self.type_of(&Value::Run(run)))))
            }
        }
    }

    /// A constant that broadcasts with everything.
    fn whole(&mut self, value: i32) -> NodeId {
        self.draft.constant("", Tensor::from(ndarray::arr0(value).into_dyn()))
    }

    /// Arithmetic that wraps around in `i32`.
    fn wrapping(&mut self, name: &str, op: Int32Op, a: NodeId, b: NodeId) -> Result<NodeId, String> {
        self.draft.add(name, Op::Int32(Int32 { op, checked: false }), &[a, b])
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
                self.draft.add(name, Op::ToInteger(ToInteger { to }), &[wide])
            }
            _ => self.draft.add(name, Op::Int32(Int32 { op, checked: to.is_none() && !stays }), &[a, b]),
        }
    }

    /// Two integers of one type, joined.
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

    pub(super) fn integer_arithmetic(&mut self, call: &Call<'_>, join: Join, data_type: i32) -> Values {
        let op = match join {
            Join::Add => Int32Op::Add,
            Join::Sub => Int32Op::Sub,
            Join::Mul => Int32Op::Mul,
            Join::Div => Int32Op::Div,
            Join::Binary(BinaryOp::Minimum) => Int32Op::Min,
            Join::Binary(BinaryOp::Maximum) => Int32Op::Max,
            Join::Binary(other) => return Err(format!("{other:?} is no arithmetic of integers")),
        };
        if let "Sum" | "Mean" = call.node.op_type.as_str() {
            return Err(format!("it is not defined for {}", type_name(data_type)));
        }
        let count = call.inputs.len();
        let mut result = Value::Run(self.integer(call.input(0)?)?);
        if count > 1 {
            result = call.input(0)?.clone();
        }
        for at in 1..count {
            // The last step bears the name.
            let name = if at + 1 == count { call.name.clone() } else { call.part(&format!("step{at}")) };
            result = Value::Run(self.integer_join(call, &name, op, data_type, [&result, call.input(at)?])?);
        }
        one(self.integer(&result)?)
    }

    /// 1 or 0, as a boolean, by the comparison that the operator is.
    pub(super) fn integer_comparison(&mut self, call: &Call<'_>, data_type: i32) -> Values {
        let (a, b) = (call.input(0)?, call.input(1)?);
        let (op, pair, negated) = match call.node.op_type.as_str() {
            "Equal" => (Int32Op::Equal, [a, b], false),
            "Less" => (Int32Op::Less, [a, b], false),
            "Greater" => (Int32Op::Less, [b, a], false),
            "LessOrEqual" => (Int32Op::Less, [b, a], true),
            _ => (Int32Op::Less, [a, b], true),
        };
        let answer = self.integer_join(call, &call.part("answer"), op, data_type, pair)?;
        one(self.answer(call, answer, negated)?)
    }

    /// 1 and 0 as booleans, which are floats in a graph.
    fn answer(&mut self, call: &Call<'_>, answer: Run, negated: bool) -> Result<Run, String> {
        let name = if negated { call.part("bool") } else { call.name.clone() };
        let mut id = self.draft.add(&name, Op::ToFloat(ToFloat), &[answer.id])?;
        if negated {
            id = self.one_minus(&call.name, id)?;
        }
        Ok(Run { id, kind: Kind::Bool, ..answer })
    }

    /// Whether integers are not 0.
    pub(super) fn not_zero(&mut self, call: &Call<'_>, x: Run) -> Result<Run, String> {
        let zero = self.whole(0);
        let id = self.wrapping(&call.part("zero"), Int32Op::Equal, x.id, zero)?;
        self.answer(call, Run { id, ..x }, true)
    }

    /// One of two integers: `b + c · (a − b)`, which is exact, since it wraps around.
    pub(super) fn integer_choice(&mut self, call: &Call<'_>, condition: Run, a: Run, b: Run) -> Result<NodeId, String> {
        let to = IntegerType::I32;
        let condition = self.draft.add(&call.part("condition"), Op::ToInteger(ToInteger { to }), &[condition.id])?;
        let difference = self.wrapping(&call.part("difference"), Int32Op::Sub, a.id, b.id)?;
        let chosen = self.wrapping(&call.part("chosen"), Int32Op::Mul, condition, difference)?;
        self.wrapping(&call.name, Int32Op::Add, b.id, chosen)
    }

    /// What an operator of one input makes of integers.
    pub(super) fn integer_function(&mut self, call: &Call<'_>, data_type: i32) -> Values {
        let x = self.integer(call.input(0)?)?;
        let name = call.name.as_str();
        let id = match call.node.op_type.as_str() {
            "Neg" => {
                let zero = self.whole(0);
                self.typed(name, Int32Op::Sub, data_type, zero, x.id)?
            }
            "Abs" if range(data_type).0 == 0 => return one(x),
            "Abs" => self.integer_abs(call, name, data_type, x.id)?,
            "Relu" => {
                let zero = self.whole(0);
                self.wrapping(name, Int32Op::Max, x.id, zero)?
            }
            "Sign" => {
                let (low, high) = (self.whole(-1), self.whole(1));
                let raised = self.wrapping(&call.part("raised"), Int32Op::Max, x.id, low)?;
                self.wrapping(name, Int32Op::Min, raised, high)?
            }
            "Clip" => {
                let mut id = x.id;
                for (at, op, part) in [(1, Int32Op::Max, "raised"), (2, Int32Op::Min, "lowered")] {
                    let Some(bound) = call.optional(at) else { continue };
                    let bound = self.host(bound)?;
                    let Data::I64(bound) = &bound.data else { return Err("its bounds are not integers".to_owned()) };
                    let &[bound] = bound.as_slice() else { return Err("its bounds are not known numbers".to_owned()) };
                    // What is there fits `i32`: a bound beyond changes nothing on its own side, and is all that is left on the other.
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
                name.clone_into(&mut self.draft.nodes[id.index()].name);
                id
            }
            _ => return Err(format!("it is not supported for {} at run time", type_name(data_type))),
        };
        one(Run { id, ..x })
    }

    fn integer_abs(&mut self, call: &Call<'_>, name: &str, data_type: i32, x: NodeId) -> Result<NodeId, String> {
        let zero = self.whole(0);
        let negative = self.typed(&call.part("negative"), Int32Op::Sub, data_type, zero, x)?;
        self.wrapping(name, Int32Op::Max, x, negative)
    }

    /// An integer to a power that is a known number: a whole one, or a half.
    pub(super) fn integer_power(
        &mut self,
        call: &Call<'_>,
        x: Run,
        exponent: f32,
        data_type: i32,
    ) -> Result<Run, String> {
        let name = call.name.as_str();
        let id = if exponent == 0.5 {
            self.integer_root(call, x.id)?
        } else if exponent.fract() == 0.0 && (1.0..=MAX_POWER as f32).contains(&exponent) {
            let mut product = x.id;
            for factor in 2..=exponent as u32 {
                let step =
                    if factor == exponent as u32 { name.to_owned() } else { call.part(&format!("power{factor}")) };
                product = self.typed(&step, Int32Op::Mul, data_type, product, x.id)?;
            }
            product
        } else {
            return Err(format!(
                "its exponent is {exponent}; supported for integers are 0.5, and from 1 to {MAX_POWER}"
            ));
        };
        Ok(Run { id, ..x })
    }

    /// The root without its fraction. That of a float is off by 1 at most, which two divisions put right: r is too large where
    /// x / r < r, and too small where r + 1 ≤ x / (r + 1). Of a negative number it is an error on the host.
    fn integer_root(&mut self, call: &Call<'_>, x: NodeId) -> Result<NodeId, String> {
        let float = self.draft.add(&call.part("float"), Op::ToFloat(ToFloat), &[x])?;
        let root = self.unary(&call.part("root"), UnaryOp::Sqrt, float)?;
        let root = self.draft.add(&call.part("near"), Op::ToInteger(ToInteger { to: IntegerType::I32 }), &[root])?;
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

    /// What comes before the integers along some axes are put together, and what after.
    pub(super) fn before_reduction(&mut self, call: &Call<'_>, data_type: i32, x: NodeId) -> Result<NodeId, String> {
        let unsigned = range(data_type).0 == 0;
        match call.node.op_type.as_str() {
            "ReduceSum" | "ReduceMean" | "ReduceMax" => Ok(x),
            "ReduceL1" if unsigned => Ok(x),
            "ReduceL1" => self.integer_abs(call, &call.part("abs"), data_type, x),
            "ReduceSumSquare" => self.typed(&call.part("square"), Int32Op::Mul, data_type, x, x),
            // −1 − x turns the order round, and never overflows.
            "ReduceMin" => {
                let all = self.whole(-1);
                self.wrapping(&call.part("negative"), Int32Op::Sub, all, x)
            }
            _ => Err(format!("it is not supported for {} at run time", type_name(data_type))),
        }
    }

    pub(super) fn after_reduction(
        &mut self,
        call: &Call<'_>,
        data_type: i32,
        count: f64,
        y: NodeId,
    ) -> Result<NodeId, String> {
        let name = call.part("reduced");
        match call.node.op_type.as_str() {
            "ReduceMax" => Ok(y),
            "ReduceMin" => {
                let all = self.whole(-1);
                self.wrapping(&name, Int32Op::Sub, all, y)
            }
            kind => {
                let mut y = y;
                if let Some(to) = held(data_type).filter(|to| *to != IntegerType::I32) {
                    y = self.draft.add(&call.part("sum.cut"), Op::ToInteger(ToInteger { to }), &[y])?;
                }
                if kind != "ReduceMean" || count == 1.0 {
                    return Ok(y);
                }
                let count = self.whole(count as i32);
                self.wrapping(&name, Int32Op::Div, y, count)
            }
        }
    }

    /// A value as integers of a type.
    pub(super) fn as_integers(&mut self, call: &Call<'_>, to: i32) -> Values {
        let x = self.run(call.input(0)?)?;
        let kind = Kind::Int(to);
        let from = match x.kind {
            Kind::Codes { .. } => return Err("it casts codes of quantized values".to_owned()),
            Kind::Float => ty::FLOAT,
            Kind::Bool => {
                let id = self.draft.add(&call.name, Op::ToInteger(ToInteger { to: IntegerType::I32 }), &[x.id])?;
                return one(Run { id, kind, ..x });
            }
            Kind::Int(from) => from,
        };
        let (low, high) = range(to);
        // What is there fits `i32`, whatever its type.
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
        one(Run { id: self.draft.add(&call.name, Op::ToInteger(ToInteger { to: cut }), &[x.id])?, kind, ..x })
    }
}

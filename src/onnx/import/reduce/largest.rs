//! `ArgMax`, `ArgMin` and `TopK`: the places of the largest elements of an axis.
//!
//! NaN is larger than all numbers but +∞, which it equals. Places are integers, so that no quantizer touches them.

use super::super::importer::Importer;
use super::super::operator::{Call, Values, one};
use crate::graph::NodeId;
use crate::onnx::host::{self, Data, Host, Length};
use crate::onnx::proto::data_type as ty;
use crate::onnx::value::{Kind, Run, Value};
use crate::ops::{
    Binary, BinaryOp, Int32, Int32Op, IntegerType, Max, Reshape, Sum, ToFloat, ToInteger, UnaryOp, Where,
};

/// The longest axis in which elements are ranked: each is compared with all others.
const MAX_RANKED: usize = 1024;

/// Arithmetic of places, which are far from the ends of `i32`.
fn int32(op: Int32Op) -> Int32 {
    Int32 { op, checked: false }
}

/// An axis of a node, split from those before and after it.
#[derive(Debug)]
struct Split {
    axis: usize,
    length: usize,
    before: Vec<usize>,
    after: Vec<usize>,
}

impl Split {
    /// The shape, without the batch, with these lengths instead of the axis.
    fn with(&self, parts: &[usize]) -> Vec<usize> {
        [&self.before, parts, &self.after].concat()
    }

    /// The shape of a constant for the axis.
    fn constant(&self, parts: &[usize]) -> Vec<usize> {
        [parts, &vec![1; self.after.len()]].concat()
    }
}

impl Importer {
    fn split_at(&self, x: Run, at: usize) -> Result<Split, String> {
        let axis = self.inner_axis(x, at)?;
        let shape = self.draft.shape(x.id);
        let (dims, inner) = (shape.fixed_dims(), axis - usize::from(shape.is_batched()));
        Ok(Split { axis, length: dims[inner], before: dims[..inner].to_vec(), after: dims[inner + 1..].to_vec() })
    }

    /// Floats that are the larger, the larger (or the smaller) `x` is, without NaN.
    fn keys(&mut self, call: &Call<'_>, x: NodeId, largest: bool) -> Result<NodeId, String> {
        let is_nan = self.unary(&call.part("nan"), UnaryOp::IsNan, x)?;
        let infinity = self.number(f32::INFINITY);
        let keys = self.draft.add(&call.part("numbers"), Where, &[is_nan, infinity, x])?;
        if largest { Ok(keys) } else { self.mul_scalar(&call.part("negative"), keys, -1.0) }
    }

    /// A constant of places.
    fn numbered(&mut self, dims: Vec<usize>, number: impl Fn(usize) -> i64) -> Result<NodeId, String> {
        let count = dims.iter().product();
        self.budget.take(count, size_of::<i64>())?;
        self.integer_constant(&Host::new(dims, Data::I64((0..count).map(number).collect())))
    }

    /// Floats 0 and 1 as integers.
    fn as_counts(&mut self, name: &str, x: NodeId) -> Result<NodeId, String> {
        self.draft.add(name, ToInteger { to: IntegerType::I32 }, &[x])
    }

    /// The place of the largest (or smallest) element: the first one, or the last one if the node asks for it.
    pub(super) fn place_of_largest(&mut self, call: &Call<'_>, largest: bool) -> Values {
        let mut lengths = self.logical(call.input(0)?);
        let at = host::axis(call.node.int("axis", 0)?, lengths.len())?;
        let x = self.float(call, call.input(0)?)?;
        let split = self.split_at(x, at)?;
        let last = call.node.int("select_last_index", 0)? != 0;
        let keys = self.keys(call, x.id, largest)?;
        let most = self.draft.add(&call.part("max"), Max { axis: split.axis }, &[keys])?;
        let most = self.draft.add(&call.part("most"), Reshape { dims: split.with(&[1]) }, &[most])?;
        let is_most = self.draft.add(&call.part("equal"), Binary { op: BinaryOp::Equal }, &[keys, most])?;
        let is_most = self.as_counts(&call.part("is_most"), is_most)?;
        // The first place has the largest number, or the last one.
        let length = split.length as i64;
        let numbers = split.constant(&[split.length]);
        let numbers = self.numbered(numbers, |place| if last { place as i64 + 1 } else { length - place as i64 })?;
        let found = self.draft.add(&call.part("numbered"), int32(Int32Op::Mul), &[is_most, numbers])?;
        let found = self.draft.add(&call.part("found"), Max { axis: split.axis }, &[found])?;
        let other = self.whole(if last { 1 } else { i32::try_from(length).map_err(|e| e.to_string())? });
        let operands = if last { [found, other] } else { [other, found] };
        let id = self.draft.add(&call.part("place"), int32(Int32Op::Sub), &operands)?;
        if call.node.int("keepdims", 1)? != 0 {
            lengths[at] = Length::Known(1);
        } else {
            lengths.remove(at);
        }
        let places = self.reshaped(&call.name, Run { id, kind: Kind::Int(ty::INT64), ..x }, &lengths)?;
        call.name.clone_into(&mut self.draft.nodes[places.id.index()].name);
        one(places)
    }

    /// The k largest (or smallest) elements in their order, and their places; of equal ones, the first ones. The rank of an element is the
    /// number of those that come before it in that order.
    pub(super) fn largest(&mut self, call: &Call<'_>) -> Values {
        let lengths = self.logical(call.input(0)?);
        let at = host::axis(call.node.int("axis", -1)?, lengths.len())?;
        let k = match call.optional(1) {
            Some(k) => self.host(k)?.integers()?.first().copied().ok_or("its count is empty")?,
            None => call.node.int("k", 0)?,
        };
        let x = self.float(call, call.input(0)?)?;
        let split = self.split_at(x, at)?;
        let length = split.length;
        let count = usize::try_from(k).ok().filter(|k| (1..=length).contains(k));
        let count = count.ok_or_else(|| format!("it selects {k} of {length} elements"))?;
        if length > MAX_RANKED {
            return Err(format!("it selects of {length} elements; supported are up to {MAX_RANKED}"));
        }
        let keys = self.keys(call, x.id, call.node.int("largest", 1)? != 0)?;
        let [each, others] = [[length, 1], [1, length]];
        let each = self.draft.add(&call.part("each"), Reshape { dims: split.with(&each) }, &[keys])?;
        let others = self.draft.add(&call.part("others"), Reshape { dims: split.with(&others) }, &[keys])?;
        // Of equal ones, those before an element come first.
        let less = self.draft.add(&call.part("less"), Binary { op: BinaryOp::Less }, &[each, others])?;
        let at_most = self.draft.add(&call.part("at_most"), Binary { op: BinaryOp::LessOrEqual }, &[each, others])?;
        self.budget.take(length * length, size_of::<f32>())?;
        let is_before = |place: usize| f32::from(u8::from(place % length < place / length));
        let is_before = Data::F32((0..length * length).map(is_before).collect());
        let is_before = self.host_constant(&Host::new(split.constant(&[length, length]), is_before))?;
        let precedes = self.draft.add(&call.part("precedes"), Where, &[is_before, at_most, less])?;
        let precedes = self.as_counts(&call.part("counted"), precedes)?;
        let ranks = Sum { axis: split.axis + 1, checked: false };
        let ranks = self.draft.add(&call.part("ranks"), ranks, &[precedes])?;
        let row = split.with(&[1, length]);
        let ranks = self.draft.add(&call.part("ranked"), Reshape { dims: row.clone() }, &[ranks])?;
        let wanted = self.numbered(split.constant(&[count, 1]), |rank| rank as i64)?;
        let chosen = self.draft.add(&call.part("chosen"), int32(Int32Op::Equal), &[ranks, wanted])?;
        let places = self.numbered(split.constant(&[length]), |place| place as i64)?;
        let places = self.draft.add(&call.part("places"), int32(Int32Op::Mul), &[chosen, places])?;
        let indices = Sum { axis: split.axis + 1, checked: false };
        let indices = self.draft.add(&call.part("indices"), indices, &[places])?;
        let values = self.draft.add(&call.part("row"), Reshape { dims: row }, &[x.id])?;
        let chosen = self.draft.add(&call.part("condition"), ToFloat, &[chosen])?;
        let least = self.number(f32::NEG_INFINITY);
        let values = self.draft.add(&call.part("selected"), Where, &[chosen, values, least])?;
        let values = self.draft.add(&call.name, Max { axis: split.axis + 1 }, &[values])?;
        let indices = Run { id: indices, kind: Kind::Int(ty::INT64), ..x };
        Ok(vec![Value::Run(Run { id: values, kind: Kind::Float, ..x }), Value::Run(indices)])
    }
}

//! `CumSum`: sums of the elements up to each one.

use super::super::importer::Importer;
use super::super::operator::{Call, Values, one};
use crate::graph::NodeId;
use crate::onnx::host::{self, Data, Host};
use crate::onnx::integers::{held, is_integer};
use crate::onnx::value::{Kind, Run, Value};
use crate::ops::{Add, Int32, Int32Op, IntegerType, Op, Reshape, Sum, ToInteger, Where};

/// The longest axis whose elements are all masked for each sum. A longer one is cut into blocks.
const MAX_BLOCK: usize = 64;

/// What the sums of an axis are of.
#[derive(Debug, Clone, Copy)]
struct Sums {
    /// Whether they are without the element itself.
    exclusive: bool,
    /// Whether they are of the elements that follow.
    reverse: bool,
    integers: bool,
    /// Whether a sum beyond `i32` is an error on the host.
    checked: bool,
}

impl Importer {
    pub(super) fn cumulative_sum(&mut self, call: &Call<'_>) -> Values {
        let lengths = self.logical(call.input(0)?);
        let at = self.host(call.input(1)?)?.integers()?.first().copied().ok_or("its axis is empty")?;
        let at = host::axis(at, lengths.len())?;
        let x = self.run(call.input(0)?)?;
        let integers = match x.kind {
            Kind::Int(data_type) if is_integer(data_type) => Some(data_type),
            _ => None,
        };
        let x = if integers.is_some() { x } else { Run { kind: Kind::Float, ..self.float(call, &Value::Run(x))? } };
        let axis = self.inner_axis(x, at)?;
        let sums = Sums {
            exclusive: call.node.int("exclusive", 0)? != 0,
            reverse: call.node.int("reverse", 0)? != 0,
            integers: integers.is_some(),
            checked: integers.is_some_and(|data_type| held(data_type).is_none()),
        };
        let mut id = self.sums(call, x.id, axis, sums)?;
        if let Some(to) = integers.and_then(held).filter(|to| *to != IntegerType::I32) {
            id = self.draft.add(&call.part("cut"), ToInteger { to }, &[id])?;
        }
        if id != x.id {
            call.name.clone_into(&mut self.draft.nodes[id.index()].name);
        }
        one(Run { id, ..x })
    }

    /// The sums along an axis. Those of a long axis are sums inside blocks, plus sums of the blocks before.
    fn sums(&mut self, call: &Call<'_>, x: NodeId, axis: usize, sums: Sums) -> Result<NodeId, String> {
        let length = self.draft.shape(x).axis(axis).ok_or("it works along the batch")?;
        if length == 0 {
            return Ok(x);
        }
        let block = (2..=MAX_BLOCK).rev().find(|block| length.is_multiple_of(*block));
        let Some(block) = block.filter(|_| length > MAX_BLOCK) else {
            return self.masked_sums(call, x, axis, sums);
        };
        let shape = self.draft.shape(x);
        let (dims, inner) = (shape.fixed_dims().to_vec(), axis - usize::from(shape.is_batched()));
        let split = |parts: &[usize]| [&dims[..inner], parts, &dims[inner + 1..]].concat();
        let blocks = Reshape { dims: split(&[length / block, block]) };
        let blocks = self.draft.add(&call.part("blocks"), blocks, &[x])?;
        let inside = self.masked_sums(call, blocks, axis + 1, sums)?;
        let totals = Sum { axis: axis + 1, checked: sums.checked };
        let totals = self.draft.add(&call.part("totals"), totals, &[blocks])?;
        let before = self.sums(call, totals, axis, Sums { exclusive: true, ..sums })?;
        let before = self.draft.add(&call.part("before"), Reshape { dims: split(&[length / block, 1]) }, &[before])?;
        let add: Op = match sums.integers {
            true => Int32 { op: Int32Op::Add, checked: sums.checked }.into(),
            false => Add.into(),
        };
        let all = self.draft.add(&call.part("all"), add, &[inside, before])?;
        self.draft.add(&call.part("sums"), Reshape { dims }, &[all])
    }

    /// The sums along an axis, each of all elements, of which those that do not belong to it are 0.
    fn masked_sums(&mut self, call: &Call<'_>, x: NodeId, axis: usize, sums: Sums) -> Result<NodeId, String> {
        let shape = self.draft.shape(x);
        let (mut dims, inner) = (shape.fixed_dims().to_vec(), axis - usize::from(shape.is_batched()));
        let length = dims[inner];
        let count = length.saturating_mul(length);
        self.budget.take(count, size_of::<i64>())?;
        let mut mask = vec![length, length];
        mask.resize(2 + dims.len() - (inner + 1), 1);
        dims.insert(inner, 1);
        let belongs = |place: usize| {
            let (of, element) = (place / length, place % length);
            let [of, element] = if sums.reverse { [element, of] } else { [of, element] };
            element < of || element == of && !sums.exclusive
        };
        let mask = Host::new(mask, Data::I64((0..count).map(|place| belongs(place).into()).collect()));
        let each = self.draft.add(&call.part("each"), Reshape { dims }, &[x])?;
        let part = call.part("masked");
        let masked = if sums.integers {
            let mask = self.integer_constant(&mask)?;
            self.draft.add(&part, Int32 { op: Int32Op::Mul, checked: false }, &[each, mask])?
        } else {
            // A product would make NaN of an infinity that does not belong to the sum.
            let (mask, zero) = (self.host_constant(&mask)?, self.number(0.0));
            self.draft.add(&part, Where, &[mask, each, zero])?
        };
        self.draft.add(&call.part("sum"), Sum { axis: axis + 1, checked: sums.checked }, &[masked])
    }
}

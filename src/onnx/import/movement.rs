//! Operators that move or repeat elements.

mod blocks;
mod pad;
mod places;
mod resize;

use super::importer::Importer;
use super::operator::{Call, Operator, Values, one};
use crate::graph::NodeId;
use crate::onnx::dims::elements;
use crate::onnx::host::{self, Data, Host, Length, broadcast, kept};
use crate::onnx::proto::NodeProto;
use crate::onnx::slices::{self, Part, Target};
use crate::onnx::tensor::type_name;
use crate::onnx::value::{Kind, Run, Value};
use crate::ops::{Concat, IndexSelect, Int32, Int32Op, Mul, Op, Reshape, Slice, Transpose, Where};
use crate::values::Tensor;

/// The most pieces that one node is cut into. Indices that are not consecutive are a piece each.
const MAX_PIECES: usize = 4096;

operators! {
    "Concat" => Operator::new(|f| f.concat(), Importer::concat).behind(|i, c, o| i.axis_behind(c, o, 0)),
    "DepthToSpace" => Operator::nodes(Importer::depth_to_space),
    "Dropout" => Operator::new(|f| f.dropout(), Importer::dropout).behind(Importer::elements_behind),
    "Expand" => Operator::new(|f| f.expand(), Importer::expand)
        .behind(|i, c, _| i.expand_behind(c))
        .decoding(|i, inputs| !i.is_shape_behind(inputs.get(1).and_then(Option::as_ref)))
        .on_codes(),
    "Flatten" => Operator::new(|f| f.reshape(slices::FLATTEN), |i, c| i.reshape(c, slices::FLATTEN)),
    "Identity" => Operator::stored(|_, c| Ok(vec![c.optional(0).cloned().ok_or("it has no input")?]))
        .deferring(|_, c| Ok(vec![c.input(0)?.clone()])),
    "Pad" => Operator::nodes(Importer::pad),
    "Reshape" => Operator::new(|f| f.reshape(slices::RESHAPE), |i, c| i.reshape(c, slices::RESHAPE))
        .behind(|i, c, _| i.reshape_behind(c, slices::RESHAPE)),
    "Resize" | "Upsample" => Operator::nodes(Importer::resize),
    "Slice" => Operator::new(|f| f.slice(), Importer::slice).behind(Importer::slice_behind),
    "SpaceToDepth" => Operator::nodes(Importer::space_to_depth),
    "Split" => Operator::new(|f| f.split(), Importer::split).behind(|i, c, o| i.axis_behind(c, o, 0)),
    "Squeeze" => Operator::new(|f| f.reshape(slices::SQUEEZE), |i, c| i.reshape(c, slices::SQUEEZE))
        .behind(|i, c, _| i.reshape_behind(c, slices::SQUEEZE)),
    "Tile" => Operator::new(|f| f.tile(), Importer::tile),
    "Transpose" => Operator::new(|f| f.transpose(), Importer::transpose)
        .sharing(Importer::swapped)
        .behind(|i, c, _| i.transpose_behind(c))
        .decoding(|_, inputs| match inputs {
            [Some(Value::Quantized(_))] => false,
            [Some(Value::Host(host))] => host.rows.is_none(),
            _ => true,
        }),
    "Trilu" => Operator::new(|f| f.trilu(), Importer::trilu),
    "Unsqueeze" => Operator::new(|f| f.reshape(slices::UNSQUEEZE), |i, c| i.reshape(c, slices::UNSQUEEZE))
        .behind(|i, c, _| i.reshape_behind(c, slices::UNSQUEEZE)),
}

impl Importer {
    fn reshape(&mut self, call: &Call<'_>, target: Target) -> Values {
        let second = call.optional(1).map(|value| self.host(value)).transpose()?;
        let to = target(call.node, &self.logical(call.input(0)?), second.as_deref())?;
        if to.iter().skip(1).any(|length| matches!(length, Length::Rows(_))) {
            return self.reshape_behind(call, target);
        }
        let x = self.run(call.input(0)?)?;
        one(self.reshaped(&call.name, x, &to)?)
    }

    /// `x` in the shape `target`, of as many elements.
    pub(super) fn reshaped(&mut self, name: &str, x: Run, target: &[Length]) -> Result<Run, String> {
        let (rows, mut dims) = kept(target)?;
        match rows {
            None => {}
            Some(1) => drop(dims.remove(0)),
            Some(merged) => dims[0] = merged,
        }
        let merged = rows.unwrap_or(1);
        if self.draft.shape(x.id).fixed_dims() == dims && self.draft.shape(x.id).is_batched() == rows.is_some() {
            return Ok(Run { merged, ..x });
        }
        let id = self.draft.add(name, Reshape { dims }, &[x.id])?;
        Ok(Run { id, merged, ..x })
    }

    /// A list of integers that is an attribute in old opsets and an input in new ones.
    pub(super) fn list(&mut self, call: &Call<'_>, attribute: &str, at: usize) -> Result<Option<Vec<i64>>, String> {
        let value = call.optional(at).filter(|_| !call.node.has(attribute));
        let input = value.map(|value| self.host(value)).transpose()?;
        slices::list(call.node, attribute, input.as_deref())
    }

    /// The length of an axis that is not the batch.
    fn axis_length(&self, x: Run, axis: usize) -> Result<usize, String> {
        self.draft.shape(x.id).axis(axis).ok_or_else(|| "it works along the batch".to_owned())
    }

    /// A stored matrix of floats with its axes swapped. It shares the data of the original.
    fn swapped(&mut self, node: &NodeProto, value: &Value) -> Result<Option<Value>, String> {
        let &Value::Stored(at) = value else { return Ok(None) };
        if !self.stored[at].is_float() || self.stored[at].dims.len() != 2 {
            return Ok(None);
        }
        if slices::perm(node.ints("perm")?, 2)? != [1, 0] {
            return Ok(Some(value.clone()));
        }
        if let Some(other) = self.stored[at].swap_of.or_else(|| self.swaps.get(&at).copied()) {
            return Ok(Some(Value::Stored(other)));
        }
        let Some(swapped) = self.stored[at].swapped(at) else { return Ok(None) };
        self.swaps.insert(at, self.stored.len());
        self.stored.push(swapped);
        Ok(Some(Value::Stored(self.stored.len() - 1)))
    }

    fn transpose(&mut self, call: &Call<'_>) -> Values {
        let value = call.input(0)?;
        let perm = slices::perm(call.node.ints("perm")?, self.logical(value).len())?;
        if let Value::Quantized(quantized) = value
            && perm == [1, 0]
        {
            return Ok(vec![Value::Quantized(quantized.transposed()?.into())]);
        }
        if self.logical(value).first() == Some(&Length::Rows(1)) && perm.first() != Some(&0) {
            return self.transpose_behind(call);
        }
        let x = self.run(value)?;
        one(self.transposed(&call.name, x, &perm)?)
    }

    pub(super) fn transposed(&mut self, name: &str, x: Run, perm: &[usize]) -> Result<Run, String> {
        if perm.iter().enumerate().all(|(at, &axis)| at == axis) {
            return Ok(x);
        }
        let batched = self.draft.shape(x.id).is_batched();
        if batched && perm.first() != Some(&0) {
            return Err("it moves the batch away from the front".to_owned());
        }
        let perm: Vec<usize> = if x.merged > 1 {
            // A merged batch is two axes of the node.
            [0, 1].into_iter().chain(perm[1..].iter().map(|axis| axis + 1)).collect()
        } else {
            perm.to_vec()
        };
        Ok(Run { id: self.draft.add(name, Transpose { perm }, &[x.id])?, ..x })
    }

    fn concat(&mut self, call: &Call<'_>) -> Values {
        let first = self.logical(call.input(0)?);
        let at = host::axis(call.node.int("axis", 0)?, first.len())?;
        let mut runs = Vec::with_capacity(call.inputs.len());
        for position in 0..call.inputs.len() {
            let value = call.input(position)?;
            // Parts of length 0 add no elements.
            if self.logical(value).get(at) == Some(&Length::Known(0)) {
                continue;
            }
            runs.push(self.run(value)?);
        }
        let Some(&one_of) = runs.first() else { return Err("it joins nothing".to_owned()) };
        if let Some(other) = runs.iter().find(|run| run.kind != one_of.kind) {
            let types = [one_of, *other].map(|run| type_name(self.type_of(&Value::Run(run))));
            if types[0] != types[1] {
                return Err(format!("it joins {} and {}", types[0], types[1]));
            }
            // Booleans that are an input are integers in the graph, computed booleans are floats.
            for run in &mut runs {
                *run = self.float(call, &Value::Run(*run))?;
            }
        }
        let one_of = runs[0];
        let batched = |run: &Run| self.draft.shape(run.id).is_batched();
        if let Some(other) = runs.iter().find(|run| batched(run) != batched(&one_of) || run.merged != one_of.merged) {
            let (a, b) = (self.draft.shape(one_of.id), self.draft.shape(other.id));
            return Err(format!("it joins {a} and {b}, of which one has the batch in front"));
        }
        let axis = self.inner_axis(one_of, at)?;
        let ids: Vec<NodeId> = runs.iter().map(|run| run.id).collect();
        let id = self.joined(&call.name, &ids, axis)?;
        one(Run { id, ..one_of })
    }

    pub(super) fn joined(&mut self, name: &str, ids: &[NodeId], axis: usize) -> Result<NodeId, String> {
        match ids {
            [only] => Ok(*only),
            ids => self.draft.add(name, Concat { axis }, ids),
        }
    }

    /// The range `start..start + length` of an axis; the node itself if the range is the whole axis.
    pub(super) fn cut(
        &mut self,
        name: &str,
        x: NodeId,
        axis: usize,
        start: usize,
        length: usize,
    ) -> Result<NodeId, String> {
        if start == 0 && self.draft.shape(x).axis(axis) == Some(length) {
            return Ok(x);
        }
        self.draft.add(name, Slice { axis, start, end: start + length }, &[x])
    }

    /// The elements of an axis at some indices, of which there is at least one.
    fn selected(&mut self, name: &str, x: NodeId, axis: usize, indices: Vec<u32>) -> Result<NodeId, String> {
        if indices.windows(2).all(|pair| pair[1].checked_sub(1) == Some(pair[0])) {
            return self.cut(name, x, axis, indices[0] as usize, indices.len());
        }
        self.draft.add(name, IndexSelect { axis, indices }, &[x])
    }

    fn slice(&mut self, call: &Call<'_>) -> Values {
        let lengths = self.logical(call.input(0)?);
        // The batch has no length. The longest length stands for it, so that a slice of the whole batch is recognized.
        let long = i64::from(i32::MAX);
        let known = |length: &Length| match length {
            Length::Known(n) => *n as usize,
            Length::Rows(_) => long as usize,
        };
        let dims: Vec<usize> = lengths.iter().map(known).collect();
        let starts = self.list(call, "starts", 1)?.ok_or("it has no starts")?;
        let ends = match (call.optional(2), call.node.ints("ends")?) {
            (Some(ends), _) => self.host(ends)?.shape()?,
            // An attribute until opset 9.
            (None, Some(ends)) => ends.iter().map(|&end| Length::Known(end)).collect(),
            (None, None) => return Err("it has no ends".to_owned()),
        };
        let ends: Vec<i64> = ends.iter().map(|end| if let Length::Known(n) = end { *n } else { long }).collect();
        let (axes, steps) = (self.list(call, "axes", 3)?, self.list(call, "steps", 4)?);
        let parts = slices::parts(&dims, &starts, &ends, axes.as_deref(), steps.as_deref())?;
        let mut x = self.run(call.input(0)?)?;
        for Part { axis, start, length, step } in parts {
            if axis == 0 && matches!(lengths[0], Length::Rows(_)) {
                if (start, length as i64) != (0, long) {
                    return Err("it takes a part of the batch".to_owned());
                }
                continue;
            }
            let axis = self.inner_axis(x, axis)?;
            if step == 1 || length <= 1 {
                x.id = self.cut(&call.name, x.id, axis, start, length)?;
                continue;
            }
            if let Kind::Int(_) = x.kind {
                return Err(format!("it takes steps of {step} along axis {axis} of integers; supported is 1"));
            }
            self.budget.take(length, size_of::<u32>())?;
            let place = |at: usize| (start as i64 + at as i64 * step) as u32;
            x.id = self.selected(&call.name, x.id, axis, (0..length).map(place).collect())?;
        }
        one(x)
    }

    fn split(&mut self, call: &Call<'_>) -> Values {
        let x = self.run(call.input(0)?)?;
        let lengths = self.logical(call.input(0)?);
        let at = host::axis(call.node.int("axis", 0)?, lengths.len())?;
        let axis = self.inner_axis(x, at)?;
        let length = self.axis_length(x, axis)?;
        let list = self.list(call, "split", 1)?;
        let mut start = 0;
        let mut parts = Vec::new();
        for (at, length) in
            slices::split(length, call.node.output.len(), list.as_deref(), self.opset)?.into_iter().enumerate()
        {
            let id = self.cut(&call.part(&at.to_string()), x.id, axis, start, length)?;
            parts.push(Value::Run(Run { id, ..x }));
            start += length;
        }
        Ok(parts)
    }

    fn expand(&mut self, call: &Call<'_>) -> Values {
        if self.is_shape_behind(call.optional(1)) {
            return self.expand_behind(call);
        }
        let lengths = self.logical(call.input(0)?);
        let target = broadcast(&lengths, &self.host(call.input(1)?)?.shape()?)?;
        if lengths == target {
            return one(self.run(call.input(0)?)?);
        }
        let mut x = self.run(call.input(0)?)?;
        let (_, mut ones) = kept(&target)?;
        let extra = target.len() - lengths.len();
        if let Some(&Length::Rows(merged)) = target.first()
            && lengths.first() != target.first()
        {
            if merged != 1 {
                return Err("it repeats a value along the batch, which is merged with another axis".to_owned());
            }
            x = self.along_rows(&call.part("rows"), x, target.len() - 1)?;
            ones[0] = 1;
        }
        for (at, length) in ones.iter_mut().enumerate() {
            if at >= extra && lengths[at - extra] == target[at] {
                *length = 1;
            }
        }
        let first = ones.iter().position(|&n| n != 1).unwrap_or(ones.len());
        let ones = if extra == 0 { &ones[first..] } else { &ones[..] };
        let count = elements(ones).ok_or("the result is too large")?;
        self.budget.take(count, 4)?;
        // A product with a constant of ones repeats the elements.
        let (op, ones): (Op, _) = match x.kind {
            Kind::Quantized { .. } => return Err("it computes on quantized values".to_owned()),
            Kind::Int(_) => (Int32 { op: Int32Op::Mul, checked: false }.into(), Tensor::from_i32(ones, vec![1; count])),
            Kind::Float | Kind::Bool => (Mul.into(), Tensor::from_f32(ones, vec![1.0; count])),
        };
        let ones = self.draft.constant("", ones.map_err(|e| e.to_string())?);
        let run = Run { id: self.draft.add(&call.name, op, &[x.id, ones])?, ..x };
        one(self.of_lengths(run, &target)?)
    }

    fn tile(&mut self, call: &Call<'_>) -> Values {
        let mut x = self.run(call.input(0)?)?;
        let repeats = self.host(call.input(1)?)?.integers()?;
        let rank = self.logical(call.input(0)?).len();
        if repeats.len() != rank {
            return Err(format!("{} repeats for {rank} axes", repeats.len()));
        }
        for (at, repeats) in repeats.into_iter().enumerate().filter(|(_, repeats)| *repeats != 1) {
            let axis = self.inner_axis(x, at)?;
            let repeats = usize::try_from(repeats).ok().filter(|n| (1..=MAX_PIECES).contains(n));
            let repeats =
                repeats.ok_or_else(|| format!("axis {at} is repeated less than once or over {MAX_PIECES} times"))?;
            self.budget.take(repeats, size_of::<NodeId>())?;
            x.id = self.joined(&call.name, &vec![x.id; repeats], axis)?;
        }
        one(x)
    }

    fn trilu(&mut self, call: &Call<'_>) -> Values {
        let lengths = self.logical(call.input(0)?);
        let &[.., Length::Known(rows), Length::Known(cols)] = lengths.as_slice() else {
            return Err("it works along the batch".to_owned());
        };
        let k = match call.optional(1) {
            Some(k) => self.host(k)?.integers()?.first().copied().unwrap_or(0),
            None => 0,
        };
        let upper = call.node.int("upper", 1)? != 0;
        let x = self.run(call.input(0)?)?;
        let (rows, cols) = (rows as usize, cols as usize);
        self.budget.take(rows.saturating_mul(cols), 4)?;
        let keep = |i: usize| {
            let diagonal = ((i % cols) as i64 - (i / cols) as i64).cmp(&k);
            f32::from(u8::from(if upper { diagonal.is_ge() } else { diagonal.is_le() }))
        };
        let mask = Host::new(vec![rows, cols], Data::F32((0..rows * cols).map(keep).collect()));
        if let Kind::Int(_) = x.kind {
            let data = Data::I64(mask.to_floats()?.into_iter().map(|v| v as i64).collect());
            let mask = self.integer_constant(&Host { data, ..mask })?;
            let op = Int32 { op: Int32Op::Mul, checked: false };
            return one(Run { id: self.draft.add(&call.name, op, &[x.id, mask])?, ..x });
        }
        let x = self.float(call, &Value::Run(x))?;
        let mask = self.host_constant(&mask)?;
        let zero = self.number(0.0);
        one(Run { id: self.draft.add(&call.name, Where, &[mask, x.id, zero])?, ..x })
    }

    fn dropout(&mut self, call: &Call<'_>) -> Values {
        if let Some(training) = call.optional(2)
            && self.scalar(training) != Some(0.0)
        {
            return Err("it drops elements, as in training".to_owned());
        }
        one(self.run(call.input(0)?)?)
    }
}

//! Values whose batch the model has behind another axis, as `[sequence, batch, features]`. A graph has the batch in front, so that such a
//! value is a node of `[batch, sequence, features]`, and the axes of the operators that read it are those of the node.

use super::importer::Importer;
use super::operator::{Call, Operator, Values, is_behind};
use crate::onnx::attributes::{int_attribute, ints_attribute};
use crate::onnx::fold::reduced_axes;
use crate::onnx::host::{self, Data, Host, Length, broadcast, kept, show};
use crate::onnx::proto::NodeProto;
use crate::onnx::slices::{self, Target};
use crate::onnx::value::{Deferred, Value};

/// A value with the batch in front, and the axis where the model has it.
fn parts(value: &Value) -> Option<(Value, usize)> {
    match value {
        Value::Deferred(deferred) => match &**deferred {
            Deferred::Behind { value, axis } => Some((value.clone(), *axis)),
            _ => None,
        },
        _ => None,
    }
}

/// The axis of the node for an axis of the model. An error says that it is the batch.
fn of_node(axis: usize, batch: usize) -> Result<usize, String> {
    match axis.cmp(&batch) {
        std::cmp::Ordering::Less => Ok(axis + 1),
        std::cmp::Ordering::Equal => Err("it works along the batch".to_owned()),
        std::cmp::Ordering::Greater => Ok(axis),
    }
}

/// A node with another value of an attribute.
fn with_int(node: &NodeProto, name: &str, i: usize) -> NodeProto {
    let mut node = node.clone();
    node.attribute.retain(|attribute| attribute.name != name);
    node.attribute.push(int_attribute(name, i as i64));
    node
}

fn integers(values: Vec<i64>) -> Value {
    Value::Host(Host::new(vec![values.len()], Data::I64(values)).into())
}

impl Importer {
    /// A value with an axis of the model moved to the front. If a value has rows, only that axis may be in front.
    pub(super) fn with_axis_in_front(
        &mut self,
        call: &Call<'_>,
        part: &str,
        value: &Value,
        axis: usize,
    ) -> Result<Value, String> {
        let lengths = self.logical(value);
        if axis >= lengths.len() {
            return Err(format!("its {part} has shape {}, expected more than {axis} axes", show(&lengths)));
        }
        match parts(value) {
            Some((value, own)) if own == axis => return Ok(value),
            None if axis == 0 => return Ok(value.clone()),
            None if !lengths.iter().any(|length| matches!(length, Length::Rows(_))) => {}
            _ => {
                return Err(format!(
                    "its {part} has shape {}, and its batch is axis {axis}, so that the leading dimension must be known",
                    show(&lengths)
                ));
            }
        }
        let mut perm: Vec<i64> = (0..lengths.len() as i64).collect();
        perm[..=axis].rotate_right(1);
        self.moved(call, part, value, &perm)
    }

    /// A value whose axis in front the model has behind others.
    pub(super) fn with_front_at(
        &mut self,
        call: &Call<'_>,
        part: &str,
        value: Value,
        axis: usize,
    ) -> Result<Value, String> {
        let lengths = self.logical(&value);
        match lengths.first() {
            _ if axis == 0 => Ok(value),
            Some(Length::Rows(1)) => Ok(Value::Deferred(Deferred::Behind { value, axis }.into())),
            Some(Length::Rows(_)) => Err("it moves a batch that is merged with another axis".to_owned()),
            _ => {
                let mut perm: Vec<i64> = (0..lengths.len() as i64).collect();
                perm[..=axis].rotate_left(1);
                self.moved(call, part, &value, &perm)
            }
        }
    }

    /// The node for values with the batch in front. Its results have the batch at `axis`.
    fn in_front(
        &mut self,
        call: &Call<'_>,
        operator: Operator,
        node: &NodeProto,
        inputs: Vec<Option<Value>>,
        axis: usize,
    ) -> Values {
        let results = self.evaluate(node, operator, inputs)?;
        let mut moved = Vec::with_capacity(results.len());
        for result in results {
            moved.push(match result {
                Value::Unsupported => Value::Unsupported,
                result => self.with_front_at(call, "moved", result, axis)?,
            });
        }
        Ok(moved)
    }

    /// An operator on elements at the same place, broadcast.
    pub(super) fn elements_behind(&mut self, call: &Call<'_>, operator: Operator) -> Values {
        let rank = call.inputs.iter().flatten().map(|value| self.logical(value).len()).max().unwrap_or(0);
        // The number of axes from the batch to the last one is that of all values.
        let mut from_end = None;
        for value in call.inputs.iter().flatten() {
            let Some((_, axis)) = parts(value) else { continue };
            let own = self.logical(value).len() - axis;
            if *from_end.get_or_insert(own) != own {
                return Err("the batch is at different axes of its inputs".to_owned());
            }
        }
        let batch = rank - from_end.unwrap_or(rank);
        let mut inputs = Vec::with_capacity(call.inputs.len());
        for (at, value) in call.inputs.iter().enumerate() {
            let Some(value) = value else {
                inputs.push(None);
                continue;
            };
            let lengths = self.logical(value);
            // A number, and axes that all stand behind the batch, broadcast as they are.
            let number = lengths.iter().all(|length| *length == Length::Known(1)) && !matches!(value, Value::Run(_));
            if !is_behind(value) && (number && lengths.len() <= rank || lengths.len() < rank - batch) {
                inputs.push(Some(value.clone()));
                continue;
            }
            let part = format!("input{at}");
            let missing: Vec<i64> = (0..(rank - lengths.len()) as i64).collect();
            inputs.push(Some(if let Some((front, _)) = parts(value) {
                let axes: Vec<i64> = missing.iter().map(|axis| axis + 1).collect();
                if axes.is_empty() { front } else { self.with_axes(call, &part, &front, &axes)? }
            } else if lengths.len() == rank - batch && matches!(lengths[0], Length::Rows(_)) {
                let axes: Vec<i64> = missing.iter().map(|axis| axis + 1).collect();
                self.with_axes(call, &part, value, &axes)?
            } else {
                let full =
                    if missing.is_empty() { value.clone() } else { self.with_axes(call, &part, value, &missing)? };
                self.with_axis_in_front(call, &part, &full, batch)?
            }));
        }
        self.in_front(call, operator, call.node, inputs, batch)
    }

    /// An operator along the axis that its attribute `axis` names.
    pub(super) fn axis_behind(&mut self, call: &Call<'_>, operator: Operator, default: i64) -> Values {
        let mut batch = None;
        let mut inputs = Vec::with_capacity(call.inputs.len());
        for value in &call.inputs {
            inputs.push(match value.as_ref().map(|value| (value, parts(value))) {
                Some((_, Some((front, axis)))) if *batch.get_or_insert(axis) == axis => Some(front),
                // Parameters, such as the lengths of parts, have no batch.
                Some((value, None)) if !self.logical(value).iter().any(|n| matches!(n, Length::Rows(_))) => {
                    Some(value.clone())
                }
                None => None,
                _ => return Err("the batch is at different axes of its inputs".to_owned()),
            });
        }
        let batch = batch.ok_or("its inputs have no batch")?;
        let rank = self.logical(call.input(0)?).len();
        let axis = of_node(host::axis(call.node.int("axis", default)?, rank)?, batch)?;
        self.in_front(call, operator, &with_int(call.node, "axis", axis), inputs, batch)
    }

    /// An operator along the last axis, or along all axes from one behind the batch.
    pub(super) fn last_behind(&mut self, call: &Call<'_>, operator: Operator, default: i64) -> Values {
        let (front, batch) = parts(call.input(0)?).ok_or("only its first input may have a batch")?;
        let axis = host::axis(call.node.int("axis", default)?, self.logical(&front).len())?;
        if axis <= batch {
            return Err(format!(
                "it works along axis {axis}, and the batch is axis {batch}; supported are axes behind it"
            ));
        }
        let mut inputs = call.inputs.clone();
        inputs[0] = Some(front);
        self.in_front(call, operator, &with_int(call.node, "axis", axis), inputs, batch)
    }

    /// A product with a known matrix.
    pub(super) fn product_behind(&mut self, call: &Call<'_>, operator: Operator) -> Values {
        let (front, batch) =
            parts(call.input(0)?).ok_or("only its left factor may have the batch behind another axis")?;
        let (left, right) = (self.logical(&front), self.logical(call.input(1)?));
        if right.len() != 2 || matches!(call.input(1)?, Value::Run(_)) || batch + 1 == left.len() {
            return Err(format!(
                "it multiplies values that have the batch at axis {batch}; supported is a product with a known matrix"
            ));
        }
        let inputs = vec![Some(front), call.optional(1).cloned()];
        self.in_front(call, operator, call.node, inputs, batch)
    }

    /// A reshape: the elements before the batch stay before it, and those behind it behind it.
    pub(super) fn reshape_behind(&mut self, call: &Call<'_>, target: Target) -> Values {
        let second = call.optional(1).map(|value| self.host(value)).transpose()?;
        let lengths = self.logical(call.input(0)?);
        let target = target(call.node, &lengths, second.as_deref())?;
        let value = call.input(0)?;
        let (front, batch) = parts(value).unwrap_or((value.clone(), 0));
        let refuse = || {
            let [from, to] = [&lengths, &target].map(|lengths| show(lengths));
            format!("it merges the batch with another axis, from {from} to {to}")
        };
        let product = |lengths: &[Length]| {
            lengths.iter().try_fold(1i64, |n, length| match length {
                Length::Known(k) => n.checked_mul(*k),
                Length::Rows(_) => None,
            })
        };
        let at = target.iter().position(|length| *length == Length::Rows(1)).ok_or_else(refuse)?;
        if product(&target[..at]).is_none() || product(&target[..at]) != product(&lengths[..batch]) {
            return Err(refuse());
        }
        let mut dims: Vec<i64> = vec![0];
        for length in target.iter().enumerate().filter(|(axis, _)| *axis != at).map(|(_, length)| length) {
            dims.push(match length {
                Length::Known(n @ 1..) => *n,
                _ => return Err(refuse()),
            });
        }
        let reshaped = self.emit(&call.name, "Reshape", vec![Some(front), Some(integers(dims))], Vec::new())?;
        Ok(vec![self.with_front_at(call, "moved", reshaped, at)?])
    }

    /// A transpose to or from an order of axes with the batch in front, or between two others.
    pub(super) fn transpose_behind(&mut self, call: &Call<'_>) -> Values {
        let value = call.input(0)?;
        let (front, batch) = parts(value).unwrap_or((value.clone(), 0));
        let perm = slices::perm(call.node.ints("perm")?, self.logical(value).len())?;
        let at = perm.iter().position(|&axis| axis == batch).ok_or("it has no axis of the batch")?;
        let mut inner = vec![0];
        for &axis in perm.iter().filter(|&&axis| axis != batch) {
            inner.push(of_node(axis, batch)? as i64);
        }
        let attribute = ints_attribute("perm", inner);
        let moved = self.emit(&call.name, "Transpose", vec![Some(front)], vec![attribute])?;
        Ok(vec![self.with_front_at(call, "moved", moved, at)?])
    }

    /// A `Slice`.
    pub(super) fn slice_behind(&mut self, call: &Call<'_>, operator: Operator) -> Values {
        let (front, batch) = parts(call.input(0)?).ok_or("its bounds have a batch")?;
        let rank = self.logical(&front).len();
        let count = self.list(call, "starts", 1)?.ok_or("it has no starts")?.len();
        let axes = self.list(call, "axes", 3)?.unwrap_or_else(|| (0..count.min(rank) as i64).collect());
        let mut inner = Vec::with_capacity(axes.len());
        for axis in axes {
            let axis = host::axis(axis, rank)?;
            // A slice of the whole batch is recognized where the batch is in front.
            inner.push(of_node(axis, batch).unwrap_or(0) as i64);
        }
        let mut node = call.node.clone();
        let mut inputs = call.inputs.clone();
        inputs[0] = Some(front);
        if node.has("starts") {
            node.attribute.retain(|attribute| attribute.name != "axes");
            node.attribute.push(ints_attribute("axes", inner));
        } else {
            inputs.resize(inputs.len().max(4), None);
            inputs[3] = Some(integers(inner));
        }
        self.in_front(call, operator, &node, inputs, batch)
    }

    /// A `Gather` at known indices.
    pub(super) fn gather_behind(&mut self, call: &Call<'_>, operator: Operator) -> Values {
        let (front, batch) = parts(call.input(0)?).ok_or("its indices have a batch behind another axis")?;
        let axis = host::axis(call.node.int("axis", 0)?, self.logical(&front).len())?;
        let indices = self.logical(call.input(1)?);
        if indices.iter().any(|length| matches!(length, Length::Rows(_))) {
            return Err("its indices have a batch of their own".to_owned());
        }
        let after = if axis < batch { batch - 1 + indices.len() } else { batch };
        let node = with_int(call.node, "axis", of_node(axis, batch)?);
        self.in_front(call, operator, &node, vec![Some(front), call.optional(1).cloned()], after)
    }

    /// A reduction.
    pub(super) fn reduction_behind(&mut self, call: &Call<'_>) -> Values {
        let (front, batch) = parts(call.input(0)?).ok_or("its axes have a batch")?;
        let rank = self.logical(&front).len();
        let noop = call.node.int("noop_with_empty_axes", 0)? != 0;
        let reduced = reduced_axes(self.list(call, "axes", 1)?.as_deref(), rank, noop)?;
        let keep = call.node.int("keepdims", 1)?;
        let mut axes = Vec::new();
        for axis in (0..rank).filter(|&axis| reduced[axis]) {
            axes.push(of_node(axis, batch)? as i64);
        }
        if axes.is_empty() {
            return Ok(vec![call.input(0)?.clone()]);
        }
        let before = if keep == 0 { (0..batch).filter(|&axis| reduced[axis]).count() } else { 0 };
        let inputs = vec![Some(front), Some(integers(axes))];
        let result = self.emit(&call.name, &call.node.op_type, inputs, vec![int_attribute("keepdims", keep)])?;
        Ok(vec![self.with_front_at(call, "moved", result, batch - before)?])
    }

    /// An `Expand` to a shape that has the batch behind another axis.
    pub(super) fn expand_behind(&mut self, call: &Call<'_>) -> Values {
        let value = call.input(0)?;
        let lengths = self.logical(value);
        let mut target = broadcast(&lengths, &self.host(call.input(1)?)?.shape()?)?;
        let batch = target.iter().position(|length| *length == Length::Rows(1)).ok_or("its shape has no batch")?;
        let missing: Vec<i64> = (0..(target.len() - lengths.len()) as i64).collect();
        let full = match parts(value) {
            Some(_) if !missing.is_empty() => return Err("it adds axes before the batch".to_owned()),
            None if !missing.is_empty() => self.with_axes(call, "axes", value, &missing)?,
            _ => value.clone(),
        };
        let front = self.with_axis_in_front(call, "front", &full, batch)?;
        target[..=batch].rotate_right(1);
        let shape = Value::Host(Host::vector(target).into());
        let expanded = self.emit(&call.name, "Expand", vec![Some(front), Some(shape)], Vec::new())?;
        Ok(vec![self.with_front_at(call, "moved", expanded, batch)?])
    }

    /// Whether a known shape has the batch behind another axis.
    pub(super) fn is_shape_behind(&self, shape: Option<&Value>) -> bool {
        let Some(Value::Host(shape)) = shape else { return false };
        matches!(&shape.data, Data::Lengths(lengths) if !matches!(lengths.first(), Some(Length::Rows(_))))
    }

    /// A `ConstantOfShape` of a shape that has the batch behind another axis.
    pub(super) fn constant_behind(&mut self, node: &NodeProto, shape: &Value) -> Result<Option<Value>, String> {
        if !self.is_shape_behind(Some(shape)) {
            return Ok(None);
        }
        let mut lengths = self.host(shape)?.shape()?;
        let Some(batch) = lengths.iter().position(|length| *length == Length::Rows(1)) else { return Ok(None) };
        lengths[..=batch].rotate_right(1);
        kept(&lengths)?;
        let shape = Value::Host(Host::vector(lengths).into());
        let front = self.emit(node.title(), "ConstantOfShape", vec![Some(shape)], node.attribute.clone())?;
        Ok(Some(Value::Deferred(Deferred::Behind { value: front, axis: batch }.into())))
    }
}

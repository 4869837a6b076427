//! `Loop` and `Scan`, unrolled: their nodes are imported once for each iteration, of which the number must be known.

use super::importer::Importer;
use super::operator::{Call, Values};
use super::scope::graph;
use crate::onnx::attributes::int_attribute;
use crate::onnx::host::{self, Data, Host, Length, show};
use crate::onnx::names::clean;
use crate::onnx::proto::{GraphProto, NodeProto};
use crate::onnx::value::Value;

/// The most iterations of one loop.
const MAX_ITERATIONS: usize = 1024;

fn number(value: i64) -> Value {
    Value::Host(Host::new(Vec::new(), Data::I64(vec![value])).into())
}

/// A list of axes or directions, one for each of `count` values; 0 without the attribute.
fn list(node: &NodeProto, name: &str, count: usize) -> Result<Vec<i64>, String> {
    match node.ints(name)? {
        None => Ok(vec![0; count]),
        Some(list) if list.len() == count => Ok(list.to_vec()),
        Some(list) => Err(format!("its {name} are {}, expected {count}", list.len())),
    }
}

impl Importer {
    /// The results of one iteration; `None` if a node in it is not supported, which is listed then.
    fn iteration(
        &mut self,
        node: &NodeProto,
        body: &GraphProto,
        at: usize,
        inputs: Vec<Value>,
    ) -> Result<Option<Vec<Value>>, String> {
        let listed = self.unsupported.len();
        for (input, value) in body.input.iter().zip(inputs) {
            self.values.insert(input.name.clone(), value);
        }
        let results = self.inside(&format!("{}/{at}", node.title()), body);
        for input in &body.input {
            self.values.remove(&input.name);
        }
        let results = results?;
        let is_whole = listed == self.unsupported.len() && !results.iter().any(|v| matches!(v, Value::Unsupported));
        Ok(is_whole.then_some(results))
    }

    /// The body of a loop. Its inputs must not hide values from around it.
    fn body<'n>(&self, node: &'n NodeProto) -> Result<&'n GraphProto, String> {
        let body = graph(node, "body")?;
        match body.input.iter().find(|input| self.values.contains_key(&input.name)) {
            Some(input) => Err(format!("its body has an input {}, which is the name of a value around it", input.name)),
            None => Ok(body),
        }
    }

    /// The values of all iterations along a new axis.
    fn stacked(&mut self, call: &Call<'_>, part: &str, values: &[Value], axis: i64) -> Result<Value, String> {
        let rank = values.first().map_or(0, |value| self.logical(value).len());
        let axis = host::axis(axis, rank + 1)? as i64;
        let mut rows = Vec::with_capacity(values.len());
        for (at, value) in values.iter().enumerate() {
            rows.push(self.with_axes(call, &format!("{part}.{at}"), value, &[axis])?);
        }
        let rows: Vec<&Value> = rows.iter().collect();
        self.emitted(call, part, "Concat", &rows, &[int_attribute("axis", axis)])
    }

    /// The results of a `Loop`, whose inputs are the number of iterations, the condition, and values that each iteration changes.
    pub(super) fn repeated(&mut self, node: &NodeProto, inputs: Vec<Option<Value>>) -> Values {
        let body = self.body(node)?;
        let known = |i: &mut Self, at: usize, what: &str| match inputs.get(at) {
            Some(Some(value @ (Value::Run(_) | Value::Deferred(_)))) => {
                Err(format!("its {what} {} is computed at run time", show(&i.logical(value))))
            }
            Some(Some(value)) => {
                let host = i.host(value)?;
                host.integers()?.first().copied().map(Some).ok_or_else(|| format!("its {what} is empty"))
            }
            _ => Ok(None),
        };
        let most = known(self, 0, "number of iterations")?;
        let mut holds = known(self, 1, "condition")?.is_none_or(|v| v != 0);
        let mut carried =
            inputs.into_iter().skip(2).collect::<Option<Vec<Value>>>().ok_or("one of its initial values is missing")?;
        let count = carried.len();
        let Some(scanned) = body.output.len().checked_sub(count + 1) else {
            return Err(format!(
                "its body has {} outputs for {count} values that iterations change",
                body.output.len()
            ));
        };
        if body.input.len() != count + 2 {
            return Err(format!("its body has {} inputs, expected {}", body.input.len(), count + 2));
        }
        let own = self.tensors_inside(body)?;
        let mut lists = vec![Vec::new(); scanned];
        let mut at = 0;
        while holds && most.is_none_or(|most| (at as i64) < most) {
            if at == MAX_ITERATIONS {
                let all = most.map_or_else(|| "an unknown number of".to_owned(), |most| most.to_string());
                return Err(format!("it has {all} iterations; at most {MAX_ITERATIONS} are supported"));
            }
            let condition = Value::Host(Host::new(Vec::new(), Data::Bool(vec![true])).into());
            let mut given = vec![number(at as i64), condition];
            given.append(&mut carried);
            let Some(mut results) = self.iteration(node, body, at, given)? else {
                return Ok(vec![Value::Unsupported; node.output.len()]);
            };
            for (list, value) in lists.iter_mut().zip(results.split_off(count + 1)) {
                list.push(value);
            }
            let next = results.remove(0);
            if let Value::Run(_) | Value::Deferred(_) = next {
                return Err(format!("the condition of its iteration {at} is computed at run time"));
            }
            holds = self.scalar(&next).ok_or("its condition is not one value")? != 0.0;
            carried = results;
            at += 1;
        }
        own.into_iter().for_each(|name| drop(self.values.remove(name)));
        let call = Call { node, inputs: Vec::new(), name: clean(node.title()) };
        for (scanned, list) in lists.into_iter().enumerate() {
            // Without an iteration, there is no value that has a shape.
            carried.push(if list.is_empty() {
                Value::Unsupported
            } else {
                self.stacked(&call, &format!("scanned{scanned}"), &list, 0)?
            });
        }
        Ok(carried)
    }

    /// The results of a `Scan`, whose inputs are values that each iteration changes, and values of which each iteration reads a part.
    pub(super) fn scanned(&mut self, node: &NodeProto, inputs: Vec<Option<Value>>) -> Values {
        if self.opset < 9 {
            return Err(format!("its form of opset {} is not supported; since opset 9 it has no batch", self.opset));
        }
        let body = self.body(node)?;
        let inputs = inputs.into_iter().collect::<Option<Vec<Value>>>().ok_or("one of its inputs is missing")?;
        let parts = node.int("num_scan_inputs", 0)?;
        let count = usize::try_from(parts).ok().filter(|n| *n >= 1).and_then(|n| inputs.len().checked_sub(n));
        let count = count.ok_or_else(|| format!("it scans {parts} of {} inputs", inputs.len()))?;
        let Some(results) = body.output.len().checked_sub(count) else {
            return Err(format!(
                "its body has {} outputs for {count} values that iterations change",
                body.output.len()
            ));
        };
        if body.input.len() != inputs.len() {
            return Err(format!("its body has {} inputs, expected {}", body.input.len(), inputs.len()));
        }
        let (mut carried, scanned) = (inputs[..count].to_vec(), &inputs[count..]);
        let [axes, reversed] = ["scan_input_axes", "scan_input_directions"].map(|name| list(node, name, scanned.len()));
        let (axes, reversed) = (axes?, reversed?);
        let (mut places, mut length) = (Vec::with_capacity(scanned.len()), None);
        for (value, axis) in scanned.iter().zip(axes) {
            let lengths = self.logical(value);
            let axis = host::axis(axis, lengths.len())?;
            let Length::Known(n) = lengths[axis] else {
                return Err("it works along the batch, the leading dimension of what it scans".to_owned());
            };
            if *length.get_or_insert(n) != n {
                return Err(format!("it scans axes of lengths {} and {n}", length.unwrap_or(0)));
            }
            places.push(axis as i64);
        }
        let length = length.unwrap_or(0);
        let iterations = usize::try_from(length).unwrap_or(0);
        if !(1..=MAX_ITERATIONS).contains(&iterations) {
            return Err(format!("it has {length} iterations; supported are from 1 to {MAX_ITERATIONS}"));
        }
        let [output_axes, output_reversed] =
            ["scan_output_axes", "scan_output_directions"].map(|name| list(node, name, results));
        let (output_axes, output_reversed) = (output_axes?, output_reversed?);
        let own = self.tensors_inside(body)?;
        let call = Call { node, inputs: Vec::new(), name: clean(node.title()) };
        let mut lists = vec![Vec::new(); results];
        for at in 0..iterations {
            let mut given = carried;
            for (input, (value, (&axis, &reversed))) in scanned.iter().zip(places.iter().zip(&reversed)).enumerate() {
                let place = number(if reversed == 0 { at } else { iterations - 1 - at } as i64);
                let part = format!("{at}.part{input}");
                given.push(self.emitted(&call, &part, "Gather", &[value, &place], &[int_attribute("axis", axis)])?);
            }
            let Some(mut results) = self.iteration(node, body, at, given)? else {
                return Ok(vec![Value::Unsupported; node.output.len()]);
            };
            for (list, value) in lists.iter_mut().zip(results.split_off(count)) {
                list.push(value);
            }
            carried = results;
        }
        own.into_iter().for_each(|name| drop(self.values.remove(name)));
        for (at, mut list) in lists.into_iter().enumerate() {
            if output_reversed[at] != 0 {
                list.reverse();
            }
            carried.push(self.stacked(&call, &format!("scanned{at}"), &list, output_axes[at])?);
        }
        Ok(carried)
    }
}

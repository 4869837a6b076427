//! Converts arrays to the inputs of a graph, in batches.

use std::fmt::Write;

use anyhow::{Result, anyhow, bail};
use enfold::graph::{Graph, Node};
use enfold::values::DType;
use enfold::{Shape, Tensor};

use super::arrays::{ArrayType, Arrays};
use super::elements::ElementError;
use super::failure::usage;
use super::progress::Stderr;

/// The treatment of the rows after the last full batch, if the model's batch is fixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Remainder {
    /// They are an error, since each row of the data must have a row in the result.
    Refuse,
    /// They are left out, with a note.
    Note,
}

/// The inputs of one run or more.
#[derive(Debug)]
pub(super) struct Feed {
    pub(super) batches: Vec<Vec<Tensor>>,
    /// The number of rows of all batches; 0 for a model without inputs.
    pub(super) rows: usize,
}

/// One input of a graph, with its array.
struct Input<'a> {
    name: &'a str,
    shape: &'a Shape,
    dtype: DType,
    array: ArrayType,
    elements: Vec<u8>,
}

/// Cuts a file's arrays into batches for a graph. If the model leaves its batch to run time, a batch has `batch_size` rows or all rows;
/// otherwise it has the rows that the model has fixed.
pub(super) fn feed(
    graph: &Graph,
    arrays: &mut Arrays,
    batch_size: Option<usize>,
    remainder: Remainder,
    stderr: &Stderr,
) -> Result<Feed> {
    let inputs = matched(graph, arrays, stderr)?;
    let batched = inputs.iter().any(|input| input.shape.is_batched());
    if batched { variable_batches(inputs, batch_size) } else { fixed_batches(inputs, batch_size, remainder, stderr) }
}

/// The most arrays that a message lists. A file may have thousands.
const MAX_LISTED: usize = 16;

/// Finds the array for every input. Reports all that does not fit in one error.
fn matched<'a>(graph: &'a Graph, arrays: &mut Arrays, stderr: &Stderr) -> Result<Vec<Input<'a>>> {
    let nodes: Vec<_> = graph.inputs().iter().map(|&id| graph.node(id)).collect();
    let names: Option<Vec<String>> = arrays.names().map(|names| names.into_iter().map(str::to_owned).collect());
    let (mut found, mut problems) = (Vec::new(), Vec::new());
    for &node in &nodes {
        let name = &node.name;
        let key = match &names {
            None => Some(name.clone()).filter(|_| nodes.len() == 1),
            Some(names) => {
                [name.clone(), format!("in.{name}")].into_iter().find(|key| names.binary_search(key).is_ok())
            }
        };
        let Some(key) = key else {
            problems.push(format!("{name} is missing"));
            continue;
        };
        let array = arrays.array_type(&key)?;
        if array.element.is_float() != (node.dtype == DType::F32) {
            problems.push(format!("{name} is {}, expected {}", array.element.name(), node.dtype));
        }
        if !fits(&node.shape, &array.shape) {
            problems.push(format!("{name} has shape {:?}, expected {}", array.shape, node.shape));
        }
        found.push((node, key, array));
    }
    let mut rows = found.iter().filter(|(node, _, array)| node.shape.is_batched() && !array.shape.is_empty());
    if let Some((first, _, array)) = rows.next() {
        let a = array.shape[0];
        for (other, _, array) in rows.filter(|(_, _, array)| array.shape[0] != a) {
            problems.push(format!("{} has {} rows, but {} has {a}", other.name, array.shape[0], first.name));
        }
    }
    if !problems.is_empty() {
        let expected: Vec<_> =
            nodes.iter().map(|node| format!("{} {} {}", node.name, node.dtype, node.shape)).collect();
        let mut message = format!(
            "{} does not fit the model: {}; expected {}",
            arrays.path.display(),
            problems.join(", "),
            expected.join(", ")
        );
        let there = match &names {
            None => format!("one array without a name, {}", arrays.array_type("")?),
            Some(names) if names.is_empty() => "nothing".to_owned(),
            Some(names) => listed(names, |name| match arrays.array_type(name) {
                Ok(array) => format!("{name} {array}"),
                Err(_) => format!("{name}, which cannot be read"),
            }),
        };
        let _ = write!(message, "; there is {there}");
        if names.is_none() && nodes.len() != 1 {
            message.push_str("; use .npz or .safetensors, which have names");
        }
        bail!(message);
    }
    let unused = |name: &&String| !name.starts_with("out.") && !found.iter().any(|(_, key, _)| key == *name);
    let unused: Vec<String> = names.iter().flatten().filter(unused).cloned().collect();
    if !unused.is_empty() {
        let unused = listed(&unused, str::to_owned);
        stderr.note(&format!("{}: no input of the model is called {unused}", arrays.path.display()));
    }
    let input = |(node, key, array): (&'a Node, String, ArrayType)| {
        let elements = arrays.elements(&key)?;
        Ok(Input { name: &node.name, shape: &node.shape, dtype: node.dtype, array, elements })
    };
    found.into_iter().map(input).collect()
}

/// Lists the first names of many.
fn listed(names: &[String], describe: impl FnMut(&str) -> String) -> String {
    let first: Vec<String> = names.iter().take(MAX_LISTED).map(String::as_str).map(describe).collect();
    let more = names.len() - first.len();
    let first = first.join(", ");
    if more > 0 { format!("{first} and {more} more") } else { first }
}

/// Whether an array holds one batch or more of a shape.
fn fits(shape: &Shape, actual: &[usize]) -> bool {
    match (shape.is_batched(), shape.fixed_dims().split_first()) {
        (true, _) => shape.admits(actual) && actual[0] > 0,
        (false, None) => actual.is_empty(),
        (false, Some((&first, rest))) => {
            actual.len() == shape.rank() && actual[1..] == *rest && first > 0 && actual[0] >= first
        }
    }
}

fn variable_batches(inputs: Vec<Input<'_>>, batch_size: Option<usize>) -> Result<Feed> {
    let rows = inputs.iter().find(|input| input.shape.is_batched()).map_or(0, |input| input.array.shape[0]);
    if let Some(fixed) = inputs.iter().find(|i| !i.shape.is_batched() && i.array.shape != i.shape.fixed_dims()) {
        bail!("{} has shape {:?}, expected {}", fixed.name, fixed.array.shape, fixed.shape);
    }
    let size = batch_size.unwrap_or(rows).max(1);
    let firsts: Vec<usize> = (0..rows).step_by(size).collect();
    let batches = cut(inputs, &firsts, |input, first| match input.shape.is_batched() {
        true => (first, (first + size).min(rows)),
        false => (0, input.array.shape.first().copied().unwrap_or(1)),
    })?;
    Ok(Feed { batches, rows })
}

fn fixed_batches(
    inputs: Vec<Input<'_>>,
    batch_size: Option<usize>,
    remainder: Remainder,
    stderr: &Stderr,
) -> Result<Feed> {
    // `lead` is the number of rows in one batch of an input, `batches` the number of its full batches.
    let lead = |input: &Input<'_>| input.shape.fixed_dims().first().copied();
    let batches = |input: &Input<'_>| lead(input).map_or(1, |lead| input.array.shape[0] / lead);
    let Some(first) = inputs.first() else { return Ok(Feed { batches: vec![Vec::new()], rows: 0 }) };
    let count = batches(first);
    if let Some(other) = inputs.iter().find(|input| batches(input) != count) {
        bail!("{} has {} batches, but {} has {count}", other.name, batches(other), first.name);
    }
    let fixed = lead(first).unwrap_or(1);
    if let Some(asked) = batch_size.filter(|&asked| asked != fixed) {
        return Err(usage(format!(
            "--batch-size {asked}: the model's batch is fixed at {fixed}; leave --batch-size out"
        )));
    }
    for input in &inputs {
        let Some(lead) = lead(input) else { continue };
        let (there, over) = (input.array.shape[0], input.array.shape[0] % lead);
        match remainder {
            _ if over == 0 => {}
            Remainder::Note => {
                let what = format!("the last {over} of {there} rows fill no batch of {lead}, and are left out");
                stderr.note(&format!("{}: {what}", input.name));
                // The other inputs have as many batches, so one note suffices.
                break;
            }
            Remainder::Refuse => bail!(
                "{}: the last {over} of {there} rows fill no batch of {lead}, which the model has fixed; add or remove rows",
                input.name
            ),
        }
    }
    let numbers: Vec<usize> = (0..count).collect();
    let batches = cut(inputs, &numbers, |input, at| {
        let lead = lead(input).unwrap_or(1);
        (at * lead, (at + 1) * lead)
    })?;
    Ok(Feed { batches, rows: count * fixed })
}

/// Cuts each input into batches. Frees the elements of an input before it converts those of the next.
fn cut(
    inputs: Vec<Input<'_>>,
    batches: &[usize],
    rows: impl Fn(&Input<'_>, usize) -> (usize, usize),
) -> Result<Vec<Vec<Tensor>>> {
    let mut cut: Vec<Vec<Tensor>> = vec![Vec::new(); batches.len()];
    for input in inputs {
        for (tensors, &batch) in cut.iter_mut().zip(batches) {
            let (first, end) = rows(&input, batch);
            tensors.push(input.tensor(first, end)?);
        }
    }
    Ok(cut)
}

impl Input<'_> {
    /// Converts the rows from `first` up to `end` to the type of the input.
    fn tensor(&self, first: usize, end: usize) -> Result<Tensor> {
        let shape = &self.array.shape;
        let row: usize = shape.iter().skip(1).product();
        let mut dims = shape.clone();
        if let Some(rows) = dims.first_mut() {
            *rows = end - first;
        }
        let (element, size) = (self.array.element, row * self.array.element.size_bytes());
        let bytes = &self.elements[first * size..end * size];
        let fit = |ElementError { at, value, expected }| {
            anyhow!("{}: element {} is {value}, which does not fit {expected}", self.name, first * row + at)
        };
        Ok(match self.dtype {
            DType::F32 => Tensor::from_f32(&dims, element.floats(bytes).map_err(fit)?)?,
            DType::I8 => Tensor::from_i8(&dims, element.integers(bytes).map_err(fit)?)?,
            DType::I32 => Tensor::from_i32(&dims, element.integers(bytes).map_err(fit)?)?,
            DType::I64 => Tensor::from_i64(&dims, element.integers(bytes).map_err(fit)?)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_of_one_batch_or_more() {
        assert!(fits(&Shape::rows(4), &[1, 4]) && !fits(&Shape::rows(4), &[0, 4]) && !fits(&Shape::rows(4), &[4]));
        assert!(fits(&Shape::fixed(&[8, 4]), &[20, 4]) && !fits(&Shape::fixed(&[8, 4]), &[7, 4]));
        assert!(fits(&Shape::fixed(&[]), &[]) && !fits(&Shape::fixed(&[]), &[1]));
    }
}

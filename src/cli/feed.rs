//! Arrays become the inputs of a graph, in batches.

use std::fmt::Write;

use anyhow::{Result, bail};
use enfold::graph::Graph;
use enfold::tensor::DType;
use enfold::{Shape, Tensor};

use super::arrays::{Array, Arrays, Named, Values};
use super::failure::usage;
use super::progress::Stderr;

/// What to do with rows that fill no batch of a model whose batch is fixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    /// An error: each row of the data has a row in the result.
    Refuse,
    /// A note: the other rows suffice.
    Note,
}

/// The inputs of some runs.
#[derive(Debug)]
pub(super) struct Feed {
    pub(super) batches: Vec<Vec<Tensor>>,
    /// Rows in all batches; none for a model without a batch dimension.
    pub(super) rows: usize,
}

/// One input of a graph with the array for it.
struct Input<'a> {
    name: &'a str,
    shape: &'a Shape,
    dtype: DType,
    array: &'a Array,
}

/// Cuts a file's arrays into batches of a graph: of `batch_size` rows, or all, if the batch is left to run time, else of the
/// model's own batch.
pub(super) fn feed(
    graph: &Graph,
    arrays: &Arrays,
    batch_size: Option<usize>,
    rest: Rest,
    stderr: &Stderr,
) -> Result<Feed> {
    let inputs = matched(graph, arrays, stderr)?;
    let batched = inputs.iter().any(|input| input.shape.is_batched());
    if batched { at_run_time(&inputs, batch_size) } else { of_fixed_batch(&inputs, batch_size, rest, stderr) }
}

/// The array for every input, or one error that says all that does not fit.
fn matched<'a>(graph: &'a Graph, arrays: &'a Arrays, stderr: &Stderr) -> Result<Vec<Input<'a>>> {
    let (mut inputs, mut problems, mut used) = (Vec::new(), Vec::new(), Vec::new());
    let nodes: Vec<_> = graph.inputs().iter().map(|&id| graph.node(id)).collect();
    for node in &nodes {
        let name = &node.name;
        let array = match &arrays.by_name {
            Named::Only(array) if nodes.len() == 1 => Some(array),
            Named::Only(_) => None,
            Named::Many(by_name) => [name.clone(), format!("in.{name}")].iter().find_map(|key| {
                let found = by_name.get_key_value(key)?;
                used.push(found.0);
                Some(found.1)
            }),
        };
        let Some(array) = array else {
            problems.push(format!("{name} is missing"));
            continue;
        };
        if !takes(node.dtype, &array.values) {
            problems.push(format!("{name} is {}, expected {}", array.dtype, node.dtype));
        }
        if !fits(&node.shape, &array.shape) {
            problems.push(format!("{name} has shape {:?}, expected {}", array.shape, node.shape));
        }
        inputs.push(Input { name, shape: &node.shape, dtype: node.dtype, array });
    }
    let rows = |input: &&Input<'_>| input.shape.is_batched() && !input.array.shape.is_empty();
    if let Some(first) = inputs.iter().find(rows) {
        for other in inputs.iter().filter(rows).filter(|input| input.array.shape[0] != first.array.shape[0]) {
            let (a, b) = (first.array.shape[0], other.array.shape[0]);
            problems.push(format!("{} has {b} rows, but {} has {a}", other.name, first.name));
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
        let there = match &arrays.by_name {
            Named::Only(array) => format!("one array without a name, {} {:?}", array.dtype, array.shape),
            Named::Many(by_name) if by_name.is_empty() => "nothing".to_owned(),
            Named::Many(by_name) => {
                let array = |(name, array): (&String, &Array)| format!("{name} {} {:?}", array.dtype, array.shape);
                by_name.iter().map(array).collect::<Vec<_>>().join(", ")
            }
        };
        let _ = write!(message, "; there is {there}");
        if matches!(arrays.by_name, Named::Only(_)) && nodes.len() != 1 {
            message.push_str("; use .npz or .safetensors, which have names");
        }
        bail!(message);
    }
    if let Named::Many(by_name) = &arrays.by_name {
        let unused = by_name.keys().filter(|key| !used.contains(key) && !key.starts_with("out."));
        let unused: Vec<&str> = unused.map(String::as_str).collect();
        if !unused.is_empty() {
            stderr.note(&format!("{}: no input of the model is called {}", arrays.path.display(), unused.join(", ")));
        }
    }
    Ok(inputs)
}

fn takes(dtype: DType, values: &Values) -> bool {
    match values {
        Values::F32(_) => dtype == DType::F32,
        Values::Integers(_) => dtype != DType::F32,
    }
}

/// Whether an array is one batch or more of a shape.
fn fits(shape: &Shape, actual: &[usize]) -> bool {
    match (shape.is_batched(), shape.dims().split_first()) {
        (true, _) => shape.admits(actual) && actual[0] > 0,
        (false, None) => actual.is_empty(),
        (false, Some((&first, rest))) => {
            actual.len() == shape.rank() && actual[1..] == *rest && first > 0 && actual[0] >= first
        }
    }
}

fn at_run_time(inputs: &[Input<'_>], batch_size: Option<usize>) -> Result<Feed> {
    let rows = inputs.iter().find(|input| input.shape.is_batched()).map_or(0, |input| input.array.shape[0]);
    if let Some(fixed) = inputs.iter().find(|i| !i.shape.is_batched() && i.array.shape != i.shape.dims()) {
        bail!("{} has shape {:?}, expected {}", fixed.name, fixed.array.shape, fixed.shape);
    }
    let size = batch_size.unwrap_or(rows).max(1);
    let batch = |first: usize| {
        let cut = |input: &Input<'_>| match input.shape.is_batched() {
            true => input.tensor(first, (first + size).min(rows)),
            false => input.tensor(0, input.array.shape.first().copied().unwrap_or(1)),
        };
        inputs.iter().map(cut).collect::<Result<Vec<_>>>()
    };
    let batches = (0..rows).step_by(size).map(batch).collect::<Result<_>>()?;
    Ok(Feed { batches, rows })
}

fn of_fixed_batch(inputs: &[Input<'_>], batch_size: Option<usize>, rest: Rest, stderr: &Stderr) -> Result<Feed> {
    // Of each input, the rows of one batch, and of how many batches there are rows.
    let lead = |input: &Input<'_>| input.shape.dims().first().copied();
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
    for input in inputs {
        let Some(lead) = lead(input) else { continue };
        let (there, over) = (input.array.shape[0], input.array.shape[0] % lead);
        match rest {
            _ if over == 0 => {}
            Rest::Note => {
                let what = format!("the last {over} of {there} rows fill no batch of {lead}, and are left out");
                stderr.note(&format!("{}: {what}", input.name));
                // The other inputs have as many batches, and it is said once.
                break;
            }
            Rest::Refuse => bail!(
                "{}: the last {over} of {there} rows fill no batch of {lead}, which the model has fixed; add or remove rows",
                input.name
            ),
        }
    }
    let batch = |at: usize| {
        let cut = |input: &Input<'_>| {
            let lead = lead(input).unwrap_or(1);
            input.tensor(at * lead, (at + 1) * lead)
        };
        inputs.iter().map(cut).collect::<Result<Vec<_>>>()
    };
    Ok(Feed { batches: (0..count).map(batch).collect::<Result<_>>()?, rows: count * fixed })
}

impl Input<'_> {
    /// The rows from `first` up to `end`, in the type of the input.
    fn tensor(&self, first: usize, end: usize) -> Result<Tensor> {
        let shape = &self.array.shape;
        let row: usize = shape.iter().skip(1).product();
        let (range, mut dims) = (first * row..end * row, shape.clone());
        if let Some(rows) = dims.first_mut() {
            *rows = end - first;
        }
        let fit = |kind: &str, at: usize, v: i64| {
            anyhow::anyhow!("{}: element {} is {v}, which does not fit {kind}", self.name, first * row + at)
        };
        Ok(match (&self.array.values, self.dtype) {
            (Values::F32(values), _) => Tensor::from_f32(&dims, values[range].to_vec())?,
            (Values::Integers(values), DType::I8) => {
                let narrow = |(at, &v): (usize, &i64)| i8::try_from(v).map_err(|_| fit("i8", at, v));
                Tensor::from_i8(&dims, values[range].iter().enumerate().map(narrow).collect::<Result<_>>()?)?
            }
            (Values::Integers(values), DType::I64) => Tensor::from_i64(&dims, values[range].to_vec())?,
            (Values::Integers(values), _) => {
                let narrow = |(at, &v): (usize, &i64)| i32::try_from(v).map_err(|_| fit("i32", at, v));
                Tensor::from_i32(&dims, values[range].iter().enumerate().map(narrow).collect::<Result<_>>()?)?
            }
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

//! The lengths of the axes of inputs: known in the file, given by the caller, or the batch.

use std::collections::{BTreeMap, BTreeSet};

use super::error::{MissingDim, OnnxError};
use super::proto::{TensorShapeProto, ValueInfoProto};
use crate::values::Shape;

/// The largest length of an axis.
pub(super) const MAX_LENGTH: i64 = i32::MAX as i64;
/// The most elements of one value for one row, so that 32 bits hold every index.
pub(super) const MAX_ELEMENTS: usize = 1 << 32;
/// The most axes of a value.
pub(super) const MAX_RANK: usize = 32;

/// The shapes of inputs, and the name of the dimension that is the batch.
#[derive(Debug, Default)]
pub(super) struct Dims {
    pub(super) shapes: Vec<Shape>,
    pub(super) batch: Option<String>,
}

enum Length {
    Known(usize),
    Symbol(String),
}

/// Resolves the shapes of all inputs.
pub(super) fn resolve(inputs: &[&ValueInfoProto], given: &BTreeMap<String, usize>) -> Result<Dims, OnnxError> {
    let mut lengths = Vec::with_capacity(inputs.len());
    for input in inputs {
        lengths.push(lengths_of(input, given)?);
    }
    let mut readers: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut leading = BTreeSet::new();
    let mut inner = BTreeSet::new();
    for (input, lengths) in inputs.iter().zip(&lengths) {
        for (axis, length) in lengths.iter().enumerate() {
            let Length::Symbol(symbol) = length else { continue };
            let list = readers.entry(symbol).or_default();
            if list.last() != Some(&input.name.as_str()) {
                list.push(&input.name);
            }
            if !given.contains_key(symbol) {
                if axis == 0 { &mut leading } else { &mut inner }.insert(symbol.as_str());
            }
        }
    }
    if let Some(name) = given.keys().find(|name| !readers.contains_key(name.as_str())) {
        let known = readers.keys().map(|&known| known.to_owned()).collect();
        return Err(OnnxError::UnknownDim { name: name.clone(), known });
    }
    for (name, &length) in given {
        let length = i64::try_from(length).unwrap_or(i64::MAX);
        if !(1..=MAX_LENGTH).contains(&length) {
            return Err(OnnxError::DimLength { name: name.clone(), length });
        }
    }
    // Several dimensions in front could have different lengths, so that none of them can be `rows`.
    let batch = match leading.iter().copied().collect::<Vec<_>>().as_slice() {
        [one] if !inner.contains(one) => Some((*one).to_owned()),
        [] => None,
        _ => {
            inner.extend(&leading);
            None
        }
    };
    if !inner.is_empty() {
        let missing = |name: &&str| {
            let inputs = readers.get(name).into_iter().flatten().map(|&input| input.to_owned()).collect();
            MissingDim { name: (*name).to_owned(), inputs }
        };
        return Err(OnnxError::MissingDims(inner.iter().map(missing).collect()));
    }
    let shape = |(input, lengths): (&&ValueInfoProto, Vec<Length>)| {
        let mut batched = false;
        let mut dims = Vec::with_capacity(lengths.len());
        for length in lengths {
            match length {
                Length::Known(length) => dims.push(length),
                Length::Symbol(symbol) => match given.get(&symbol) {
                    Some(&length) => dims.push(length),
                    None => batched = true,
                },
            }
        }
        if elements(&dims).is_none() {
            return Err(refuse(input, format!("shape {dims:?} has more than {MAX_ELEMENTS} elements")));
        }
        Ok(if batched { Shape::batched(&dims) } else { Shape::fixed(&dims) })
    };
    let shapes = inputs.iter().zip(lengths).map(shape).collect::<Result<_, _>>()?;
    Ok(Dims { shapes, batch })
}

/// The number of elements of a shape; `None` beyond [`MAX_ELEMENTS`]. Axes of length 0 count as 1 for this limit, so that the product
/// of any axes stays below it.
pub(super) fn elements(dims: &[usize]) -> Option<usize> {
    let most = dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d.max(1))).filter(|n| *n <= MAX_ELEMENTS)?;
    Some(if dims.contains(&0) { 0 } else { most })
}

fn lengths_of(input: &ValueInfoProto, given: &BTreeMap<String, usize>) -> Result<Vec<Length>, OnnxError> {
    let tensor = input.r#type.as_ref().and_then(|t| t.tensor_type.as_ref());
    let tensor = tensor.ok_or_else(|| refuse(input, "is not a tensor".to_owned()))?;
    let Some(TensorShapeProto { dim }) = &tensor.shape else {
        return Err(refuse(input, "has no shape, not even a number of axes".to_owned()));
    };
    if dim.len() > MAX_RANK {
        return Err(refuse(input, format!("has {} axes, expected up to {MAX_RANK}", dim.len())));
    }
    let length = |(axis, dim): (usize, &super::proto::DimensionProto)| match (&dim.dim_value, &dim.dim_param) {
        (Some(length), _) if (1..=MAX_LENGTH).contains(length) => Ok(Length::Known(*length as usize)),
        // Old exporters write −1 for an unknown length.
        (Some(-1), _) => Ok(Length::Symbol(format!("{}.{axis}", input.name))),
        (Some(0), _) => {
            let name = format!("{}.{axis}", input.name);
            if given.contains_key(&name) {
                return Ok(Length::Symbol(name));
            }
            Err(refuse(
                input,
                format!(
                    "axis {axis} has length 0, so that it holds nothing; if that stands for any length, give the dimension \
                     {name} one"
                ),
            ))
        }
        (Some(length), _) => {
            Err(refuse(input, format!("axis {axis} has length {length}, expected from 1 to {MAX_LENGTH}")))
        }
        (None, Some(symbol)) if is_name(symbol) => Ok(Length::Symbol(symbol.clone())),
        _ => Ok(Length::Symbol(format!("{}.{axis}", input.name))),
    };
    dim.iter().enumerate().map(length).collect()
}

/// Whether a symbol names one length. Some exporters write the same sign for all unknown lengths.
fn is_name(symbol: &str) -> bool {
    symbol.chars().any(char::is_alphanumeric) && !["-1", "None"].contains(&symbol)
}

fn refuse(input: &ValueInfoProto, problem: String) -> OnnxError {
    OnnxError::Input { input: input.name.clone(), problem }
}

//! The rules of ONNX for axes, ranges and indices, which import and evaluation share.

use super::dims::MAX_RANK;
use super::host::{Host, Length, axis, show};
use super::proto::NodeProto;

/// A range along one axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) axis: usize,
    pub(super) start: usize,
    pub(super) length: usize,
    pub(super) step: i64,
}

/// The ranges of a `Slice`, with ONNX's rules for negative and excessive bounds.
pub(super) fn parts(
    dims: &[usize],
    starts: &[i64],
    ends: &[i64],
    axes: Option<&[i64]>,
    steps: Option<&[i64]>,
) -> Result<Vec<Part>, String> {
    let n = starts.len();
    let fits = |list: Option<&[i64]>| list.is_none_or(|list| list.len() == n);
    if ends.len() != n || !fits(axes) || !fits(steps) || (axes.is_none() && n > dims.len()) {
        return Err("starts, ends, axes and steps differ in length".to_owned());
    }
    let mut parts: Vec<Part> = Vec::with_capacity(n);
    for i in 0..n {
        let at = axis(axes.map_or(i as i64, |axes| axes[i]), dims.len())?;
        if parts.iter().any(|part| part.axis == at) {
            return Err(format!("axis {at} is cut twice"));
        }
        let step = steps.map_or(1, |steps| steps[i]);
        let length = dims[at] as i64;
        let from_end = |v: i64| if v < 0 { v.saturating_add(length) } else { v };
        let (start, count) = if step > 0 {
            let (start, end) = (from_end(starts[i]).clamp(0, length), from_end(ends[i]).clamp(0, length));
            (start, (end - start).max(0).unsigned_abs().div_ceil(step.unsigned_abs()))
        } else if step < 0 {
            let (start, end) = (from_end(starts[i]).clamp(-1, length - 1), from_end(ends[i]).clamp(-1, length - 1));
            (start, (start - end).max(0).unsigned_abs().div_ceil(step.unsigned_abs()))
        } else {
            return Err("a step of 0".to_owned());
        };
        parts.push(Part { axis: at, start: start.max(0) as usize, length: count as usize, step });
    }
    Ok(parts)
}

/// The lengths of the parts of a `Split`.
pub(super) fn split(length: usize, outputs: usize, list: Option<&[i64]>, opset: i64) -> Result<Vec<usize>, String> {
    if let Some(list) = list {
        let lengths = list.iter().map(|&n| usize::try_from(n)).collect::<Result<Vec<_>, _>>();
        let lengths = lengths.map_err(|_| "a part of negative length")?;
        let sum = lengths.iter().try_fold(0usize, |sum, &n| sum.checked_add(n));
        if lengths.len() != outputs || sum != Some(length) {
            return Err(format!("parts of lengths {list:?} for {outputs} outputs and an axis of length {length}"));
        }
        return Ok(lengths);
    }
    if outputs == 0 {
        return Err("it has no outputs".to_owned());
    }
    if opset < 18 && !length.is_multiple_of(outputs) {
        return Err(format!("{outputs} parts of equal length of an axis of {length}"));
    }
    // Since opset 18, the last part may be shorter.
    let part = length.div_ceil(outputs);
    let lengths: Vec<usize> = (0..outputs).map(|i| part.min(length.saturating_sub(i * part))).collect();
    Ok(lengths)
}

/// Indices counted from the front.
pub(super) fn indices(indices: &[i64], length: usize) -> Result<Vec<usize>, String> {
    let place = |&i: &i64| {
        let from_front = if i < 0 { i.saturating_add(length as i64) } else { i };
        match usize::try_from(from_front) {
            Ok(place) if place < length => Ok(place),
            _ => Err(format!("index {i} of {length}")),
        }
    };
    indices.iter().map(place).collect()
}

/// A permutation of all axes; without one, they are reversed.
pub(super) fn perm(given: Option<&[i64]>, rank: usize) -> Result<Vec<usize>, String> {
    let Some(given) = given else { return Ok((0..rank).rev().collect()) };
    let perm = given.iter().map(|&a| axis(a, rank)).collect::<Result<Vec<_>, _>>()?;
    let mut sorted = perm.clone();
    sorted.sort_unstable();
    if sorted != (0..rank).collect::<Vec<_>>() {
        return Err(format!("perm {given:?} is not a permutation of {rank} axes"));
    }
    Ok(perm)
}

/// The list of integers of a node that is an attribute in old opsets and an input in new ones.
pub(super) fn list(node: &NodeProto, attribute: &str, input: Option<&Host>) -> Result<Option<Vec<i64>>, String> {
    match (node.ints(attribute)?, input) {
        (Some(list), _) => Ok(Some(list.to_vec())),
        (None, input) => input.map(Host::integers).transpose(),
    }
}

/// The shape that an operator which keeps all elements in order gives a value of shape `from`. The second input is known if there is one.
pub(super) type Target = fn(node: &NodeProto, from: &[Length], second: Option<&Host>) -> Result<Vec<Length>, String>;

pub(super) const RESHAPE: Target = |node, from, second| {
    let target = second.ok_or("input 1 is missing")?.shape()?;
    reshape(from, &target, node.int("allowzero", 0)? != 0)
};

pub(super) const FLATTEN: Target = |node, from, _| flatten(from, node.int("axis", 1)?);

pub(super) const SQUEEZE: Target = |node, from, second| squeeze(from, list(node, "axes", second)?.as_deref());

pub(super) const UNSQUEEZE: Target =
    |node, from, second| unsqueeze(from, &list(node, "axes", second)?.ok_or("it has no axes")?);

/// The shape that a reshape to `target` gives, with the lengths 0 and −1 resolved by the rules of ONNX.
fn reshape(from: &[Length], target: &[Length], allow_zero: bool) -> Result<Vec<Length>, String> {
    let refuse = || format!("shape {} does not reshape to {}", show(from), show(target));
    let total = |lengths: &[Length]| {
        let mut known = 1i64;
        let mut rows = 0;
        for length in lengths {
            let (Length::Known(n) | Length::Rows(n)) = *length;
            known = known.checked_mul(n)?;
            rows += usize::from(matches!(length, Length::Rows(_)));
        }
        (rows <= 1).then_some((known, rows))
    };
    let (all, batches) = total(from).ok_or_else(refuse)?;
    let mut result = target.to_vec();
    let mut open = None;
    for (axis, length) in result.iter_mut().enumerate() {
        match *length {
            Length::Known(0) if !allow_zero => *length = *from.get(axis).ok_or_else(refuse)?,
            Length::Known(-1) if open.is_none() => open = Some(axis),
            Length::Known(n) if n < 0 => return Err(refuse()),
            _ => {}
        }
    }
    if let Some(axis) = open {
        result[axis] = Length::Known(1);
        let (rest, rest_batches) = total(&result).ok_or_else(refuse)?;
        if rest == 0 || all % rest != 0 || rest_batches > batches {
            return Err(refuse());
        }
        result[axis] = if batches > rest_batches { Length::Rows(all / rest) } else { Length::Known(all / rest) };
    }
    if total(&result) != Some((all, batches)) {
        return Err(refuse());
    }
    Ok(result)
}

/// The two lengths of a `Flatten`: the product of the lengths before axis `at`, and that of the others.
pub(super) fn flatten(lengths: &[Length], at: i64) -> Result<Vec<Length>, String> {
    let rank = lengths.len();
    let at = if at == rank as i64 { rank } else { axis(at, rank)? };
    let product = |lengths: &[Length]| {
        let mut rows = false;
        let mut n = 1i64;
        for length in lengths {
            let (Length::Known(k) | Length::Rows(k)) = *length;
            rows |= matches!(length, Length::Rows(_));
            n = n.checked_mul(k).ok_or("an axis that is too long")?;
        }
        Ok::<_, String>(if rows { Length::Rows(n) } else { Length::Known(n) })
    };
    Ok(vec![product(&lengths[..at])?, product(&lengths[at..])?])
}

/// The lengths of a `Squeeze`, which drops the listed axes of length 1, or all such axes without a list.
fn squeeze(lengths: &[Length], axes: Option<&[i64]>) -> Result<Vec<Length>, String> {
    let mut drop = vec![false; lengths.len()];
    match axes {
        None => drop = lengths.iter().map(|l| *l == Length::Known(1)).collect(),
        Some(axes) => {
            for &a in axes {
                let at = axis(a, lengths.len())?;
                if lengths[at] != Length::Known(1) {
                    return Err(format!("axis {a}, which it drops, has not length 1"));
                }
                drop[at] = true;
            }
        }
    }
    Ok(lengths.iter().zip(drop).filter(|(_, drop)| !drop).map(|(&length, _)| length).collect())
}

/// The lengths of an `Unsqueeze`, which adds axes of length 1. `axes` are positions in the result.
fn unsqueeze(lengths: &[Length], axes: &[i64]) -> Result<Vec<Length>, String> {
    let rank = lengths.len() + axes.len();
    if rank > MAX_RANK {
        return Err(format!("{rank} axes, expected up to {MAX_RANK}"));
    }
    let mut new = vec![false; rank];
    for &a in axes {
        if std::mem::replace(&mut new[axis(a, rank)?], true) {
            return Err(format!("axis {a} is added twice"));
        }
    }
    let mut old = lengths.iter().copied();
    Ok(new.into_iter().filter_map(|new| if new { Some(Length::Known(1)) } else { old.next() }).collect())
}

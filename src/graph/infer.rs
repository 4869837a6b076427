//! Shape and type of every op's result.

mod check;
mod integer;

use self::check::Check;
use super::{GraphError, Node, Op};
use crate::tensor::{DType, Shape};

/// The result of `op` on `inputs`, or why it has none. `name` is for messages.
pub(crate) fn infer(name: &str, op: &Op, inputs: &[&Node]) -> Result<(Shape, DType), GraphError> {
    let (shape, dtype) = of_op(name, op, inputs)?;
    check_elements(name, &shape)?;
    Ok((shape, dtype))
}

/// Refuses a shape whose number of elements overflows, so that nothing which is derived from a shape does.
pub(super) fn check_elements(name: &str, shape: &Shape) -> Result<(), GraphError> {
    match shape.elements() {
        Some(_) => Ok(()),
        None => Err(GraphError::Elements { node: name.to_owned(), shape: shape.clone() }),
    }
}

fn of_op(name: &str, op: &Op, inputs: &[&Node]) -> Result<(Shape, DType), GraphError> {
    let check = Check { name, inputs };
    match op {
        Op::Input => Err(check.parameter("input", "no shape", "an input is declared, not inferred")),
        Op::Constant(tensor) => {
            check.arity(0)?;
            Ok((Shape::fixed(tensor.shape()), tensor.dtype()))
        }
        Op::Linear => linear(&check),
        Op::MatMul => {
            check.floats(2)?;
            Ok((matmul(&check)?, DType::F32))
        }
        Op::Add | Op::Mul | Op::Div | Op::Binary(_) => {
            check.floats(2)?;
            Ok((broadcast(&check, check.shape(0), check.shape(1))?, DType::F32))
        }
        Op::Where => {
            check.floats(3)?;
            // Each choice meets the condition before it meets the other, as in lowering.
            let [a, b] = [1, 2].map(|at| broadcast(&check, check.shape(at), check.shape(0)));
            Ok((broadcast(&check, &a?, &b?)?, DType::F32))
        }
        Op::Unary(_) => {
            check.floats(1)?;
            Ok((check.shape(0).clone(), DType::F32))
        }
        Op::Clamp { min, max } => {
            check.floats(1)?;
            if min.is_nan() || max.is_nan() || min > max {
                return Err(check.parameter("bounds", format!("{min}..={max}"), "numbers, the smaller one first"));
            }
            Ok((check.shape(0).clone(), DType::F32))
        }
        Op::ToFloat => {
            check.arity(1)?;
            check.dtype(0, DType::I32)?;
            Ok((check.shape(0).clone(), DType::F32))
        }
        Op::ToInteger { .. } => {
            check.arity(1)?;
            if check.inputs[0].dtype != DType::I32 {
                check.dtype(0, DType::F32)?;
            }
            Ok((check.shape(0).clone(), DType::I32))
        }
        Op::Int32 { .. } => {
            check.arity(2)?;
            check.dtype(0, DType::I32)?;
            check.dtype(1, DType::I32)?;
            Ok((broadcast(&check, check.shape(0), check.shape(1))?, DType::I32))
        }
        Op::Reshape { dims } => reshape(&check, dims),
        Op::Flatten { start_axis } => flatten(&check, *start_axis),
        Op::Transpose { perm } => transpose(&check, perm),
        Op::Concat { axis } => concat(&check, *axis),
        Op::Slice { axis, start, end } => slice(&check, *axis, *start, *end),
        Op::Max { axis } => max(&check, *axis),
        Op::Sum { axis, .. } => {
            check.arity(1)?;
            let (x, dtype) = (check.shape(0), check.inputs[0].dtype);
            if dtype != DType::I32 {
                check.dtype(0, DType::F32)?;
            }
            check.inner_axis(x, *axis)?;
            let mut dims = x.dims().to_vec();
            dims.remove(axis - usize::from(x.is_batched()));
            Ok((make(x.is_batched(), &dims), dtype))
        }
        Op::Softmax { axis } => {
            check.floats(1)?;
            check.inner_axis(check.shape(0), *axis)?;
            Ok((check.shape(0).clone(), DType::F32))
        }
        Op::LayerNorm { eps } => layer_norm(&check, *eps),
        Op::BatchNorm { eps } => batch_norm(&check, *eps),
        Op::Embedding => embedding(&check),
        Op::Observe { .. } => {
            check.floats(1)?;
            Ok((check.shape(0).clone(), DType::F32))
        }
        Op::Quantize { qparams, range } => {
            check.floats(1)?;
            check.channels(qparams)?;
            qparams.check_range(*range).map_err(|source| check.qparams(source))?;
            Ok((check.shape(0).clone(), range.dtype()))
        }
        Op::Dequantize { qparams } => {
            check.arity(1)?;
            check.codes(0)?;
            check.channels(qparams)?;
            Ok((check.shape(0).clone(), DType::F32))
        }
        Op::AddScalar { value } | Op::MulScalar { value } => {
            check.floats(1)?;
            if !value.is_finite() {
                return Err(check.parameter("scalar", value, "must be finite"));
            }
            Ok((check.shape(0).clone(), DType::F32))
        }
        _ => integer::infer(&check, op),
    }
}

fn linear(check: &Check<'_>) -> Result<(Shape, DType), GraphError> {
    check.floats(if check.inputs.len() == 3 { 3 } else { 2 })?;
    Ok((linear_shape(check)?, DType::F32))
}

/// `[…, K]` and `[N, K]` and, if given, `[N]` → `[…, N]`.
fn linear_shape(check: &Check<'_>) -> Result<Shape, GraphError> {
    let (x, w) = (check.shape(0), check.shape(1));
    check.fixed_rank(1, "weight", 2, "2")?;
    let (n, k) = (w.dims()[0], w.dims()[1]);
    let features = x.last().ok_or_else(|| check.rank("input", x, "a last axis of static length"))?;
    check.size("input features", features, k)?;
    if check.inputs.len() == 3 {
        check.fixed_rank(2, "bias", 1, "1")?;
        check.size("bias length", check.shape(2).dims()[0], n)?;
    }
    Ok(with_last(x, n))
}

fn matmul(check: &Check<'_>) -> Result<Shape, GraphError> {
    let (a, b) = (check.shape(0), check.shape(1));
    for shape in [a, b] {
        if shape.rank() < 2 {
            return Err(check.rank("input", shape, "2 or more"));
        }
    }
    // `rows` may be M of a matrix on the left or a leading axis of a stack; it may not be summed over, nor be N.
    if b.is_batched() && b.rank() == 2 {
        return Err(check.batch("sums over the batch"));
    }
    if a.is_batched() && a.rank() == 2 && b.rank() > 2 {
        return Err(check.batch("moves the batch behind the leading axes of the right factor"));
    }
    let (a_dims, b_dims) = (a.dims(), b.dims());
    let (k_left, k_right) = (a_dims[a_dims.len() - 1], b_dims[b_dims.len() - 2]);
    check.size("inner dimension", k_right, k_left)?;
    let n = b_dims[b_dims.len() - 1];
    if a.rank() == 2 && b.rank() == 2 {
        return Ok(with_last(a, n));
    }
    let stack = |s: &Shape| make(s.is_batched(), &s.dims()[..s.dims().len() - 2]);
    let m = a_dims[a_dims.len().wrapping_sub(2)];
    let leading = broadcast(check, &stack(a), &stack(b))?;
    let mut dims = leading.dims().to_vec();
    dims.extend([m, n]);
    Ok(make(leading.is_batched(), &dims))
}

/// NumPy's rule: align the last axes; equal lengths or 1.
fn broadcast(check: &Check<'_>, a: &Shape, b: &Shape) -> Result<Shape, GraphError> {
    let refuse = || GraphError::Broadcast { node: check.name.to_owned(), left: a.clone(), right: b.clone() };
    let (long, short) = if a.rank() >= b.rank() { (a, b) } else { (b, a) };
    if short.is_batched() && short.rank() < long.rank() {
        return Err(check.batch("aligns the batch with another axis"));
    }
    let mut dims = Vec::with_capacity(long.rank());
    for axis in 0..long.rank() {
        let right = (axis + short.rank()).checked_sub(long.rank()).map(|axis| (axis, short.axis(axis)));
        dims.push(match (long.axis(axis), right) {
            (left, None) => left,
            (None, Some((_, None))) => None,
            (None, Some((_, Some(1)))) | (Some(1), Some((_, None))) => None,
            (None, Some(_)) | (Some(_), Some((_, None))) => return Err(refuse()),
            (Some(left), Some((_, Some(right)))) if left == right || right == 1 => Some(left),
            (Some(1), Some((_, Some(right)))) => Some(right),
            _ => return Err(refuse()),
        });
    }
    let batched = matches!(dims.first(), Some(None));
    Ok(make(batched, &dims.into_iter().flatten().collect::<Vec<_>>()))
}

fn reshape(check: &Check<'_>, dims: &[usize]) -> Result<(Shape, DType), GraphError> {
    check.arity(1)?;
    let x = check.shape(0);
    check.size("elements of the new shape", elements(dims), elements(x.dims()))?;
    Ok((make(x.is_batched(), dims), check.inputs[0].dtype))
}

fn flatten(check: &Check<'_>, start_axis: usize) -> Result<(Shape, DType), GraphError> {
    check.arity(1)?;
    let x = check.shape(0);
    check.inner_axis(x, start_axis)?;
    let start = start_axis - usize::from(x.is_batched());
    let mut dims = x.dims()[..start].to_vec();
    dims.push(elements(&x.dims()[start..]));
    Ok((make(x.is_batched(), &dims), check.inputs[0].dtype))
}

fn transpose(check: &Check<'_>, perm: &[usize]) -> Result<(Shape, DType), GraphError> {
    check.arity(1)?;
    let x = check.shape(0);
    let mut sorted = perm.to_vec();
    sorted.sort_unstable();
    if sorted != (0..x.rank()).collect::<Vec<_>>() {
        return Err(check.parameter("perm", format!("{perm:?}"), "a permutation of all axes of the input"));
    }
    if x.is_batched() && perm[0] != 0 {
        return Err(check.batch("moves the batch"));
    }
    let dims: Vec<usize> = perm.iter().filter_map(|&axis| x.axis(axis)).collect();
    Ok((make(x.is_batched(), &dims), check.inputs[0].dtype))
}

fn concat(check: &Check<'_>, axis: usize) -> Result<(Shape, DType), GraphError> {
    if check.inputs.len() < 2 {
        return Err(GraphError::Arity { node: check.name.to_owned(), actual: check.inputs.len(), expected: 2 });
    }
    let first = check.shape(0);
    check.inner_axis(first, axis)?;
    let at = axis - usize::from(first.is_batched());
    let mut dims = first.dims().to_vec();
    for i in 1..check.inputs.len() {
        check.dtype(i, check.inputs[0].dtype)?;
        let other = check.shape(i);
        if other.is_batched() != first.is_batched() || other.rank() != first.rank() {
            let (left, right) = (first.clone(), other.clone());
            return Err(GraphError::Broadcast { node: check.name.to_owned(), left, right });
        }
        for (d, (&actual, &expected)) in other.dims().iter().zip(first.dims()).enumerate() {
            if d != at {
                check.size("length of an axis that is not joined", actual, expected)?;
            }
        }
        // What saturates holds too many elements, which is refused behind.
        dims[at] = dims[at].saturating_add(other.dims()[at]);
    }
    Ok((make(first.is_batched(), &dims), check.inputs[0].dtype))
}

fn slice(check: &Check<'_>, axis: usize, start: usize, end: usize) -> Result<(Shape, DType), GraphError> {
    check.arity(1)?;
    let x = check.shape(0);
    let length = check.inner_axis(x, axis)?;
    if start > end || end > length {
        return Err(check.parameter("range", format!("{start}..{end} of {length}"), "must lie within the axis"));
    }
    let mut dims = x.dims().to_vec();
    dims[axis - usize::from(x.is_batched())] = end - start;
    Ok((make(x.is_batched(), &dims), check.inputs[0].dtype))
}

fn max(check: &Check<'_>, axis: usize) -> Result<(Shape, DType), GraphError> {
    check.arity(1)?;
    let (x, dtype) = (check.shape(0), check.inputs[0].dtype);
    if !matches!(dtype, DType::I8 | DType::I32) {
        check.dtype(0, DType::F32)?;
    }
    check.inner_axis(x, axis)?;
    let mut dims = x.dims().to_vec();
    if dims.remove(axis - usize::from(x.is_batched())) == 0 {
        return Err(check.parameter("length of the axis", 0, "must be at least 1: nothing has no largest element"));
    }
    Ok((make(x.is_batched(), &dims), dtype))
}

fn layer_norm(check: &Check<'_>, eps: f32) -> Result<(Shape, DType), GraphError> {
    check.floats(3)?;
    check.eps(eps)?;
    let (x, weight, bias) = (check.shape(0), check.shape(1), check.shape(2));
    let normalized = weight.dims();
    if weight.is_batched() || normalized.is_empty() || normalized.len() > x.dims().len() {
        return Err(check.rank("weight", weight, "from 1 to the static axes of the input, none of them the batch"));
    }
    if bias != weight {
        let (left, right) = (weight.clone(), bias.clone());
        return Err(GraphError::Broadcast { node: check.name.to_owned(), left, right });
    }
    for (&actual, &expected) in normalized.iter().zip(&x.dims()[x.dims().len() - normalized.len()..]) {
        check.size("normalized length", actual, expected)?;
    }
    Ok((x.clone(), DType::F32))
}

fn batch_norm(check: &Check<'_>, eps: f32) -> Result<(Shape, DType), GraphError> {
    check.floats(5)?;
    check.eps(eps)?;
    let x = check.shape(0);
    let channels = x.axis(1).ok_or_else(|| check.rank("input", x, "2 or more"))?;
    for i in 1..5 {
        check.fixed_rank(i, "statistics", 1, "1")?;
        check.size("channels", check.shape(i).dims()[0], channels)?;
    }
    Ok((x.clone(), DType::F32))
}

fn embedding(check: &Check<'_>) -> Result<(Shape, DType), GraphError> {
    check.arity(2)?;
    check.dtype(0, DType::I32)?;
    check.dtype(1, DType::F32)?;
    check.fixed_rank(1, "table", 2, "2")?;
    let (ids, table) = (check.shape(0), check.shape(1));
    let mut dims = ids.dims().to_vec();
    dims.push(table.dims()[1]);
    Ok((make(ids.is_batched(), &dims), DType::F32))
}

fn elements(dims: &[usize]) -> usize {
    dims.iter().fold(1, |n, &d| n.saturating_mul(d))
}

fn make(batched: bool, dims: &[usize]) -> Shape {
    if batched { Shape::batched(dims) } else { Shape::fixed(dims) }
}

fn with_last(shape: &Shape, n: usize) -> Shape {
    let mut dims = shape.dims().to_vec();
    if let Some(last) = dims.last_mut() {
        *last = n;
    }
    make(shape.is_batched(), &dims)
}

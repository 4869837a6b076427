//! Operators on the elements of two or three tensors, broadcast.

use std::cmp::Ordering;
use std::sync::Arc;

use super::integer::{integers, power};
use super::{Fold, Folded, one};
use crate::onnx::host::{Data, Host, Length, NEEDS_ROWS, Walk, broadcast, kept};
use crate::onnx::proto::data_type as ty;
use crate::onnx::tensor::type_name;
use crate::ops::{Add, Binary, BinaryOp, Div, Mul, Op};

/// An arithmetic operator of two tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::onnx) enum Arithmetic {
    Add,
    Sub,
    Mul,
    Div,
    Mod,
    Pow,
    Min,
    Max,
}

impl Arithmetic {
    /// The operator of a graph that computes the same of floats.
    fn operator(self) -> Option<Op> {
        Some(match self {
            Self::Add => Add.into(),
            Self::Mul => Mul.into(),
            Self::Div => Div.into(),
            Self::Min => Binary { op: BinaryOp::Minimum }.into(),
            Self::Max => Binary { op: BinaryOp::Maximum }.into(),
            Self::Sub | Self::Mod | Self::Pow => return None,
        })
    }

    /// The function of two floats for which a graph has no operator.
    fn of_floats(self, a: f32, b: f32) -> Result<f32, String> {
        match self {
            Self::Sub => Ok(a - b),
            Self::Mod => Ok(a % b),
            Self::Pow => Ok(libm::pow(a.into(), b.into()) as f32),
            other => Err(format!("{other:?} of floats is an operator")),
        }
    }
}

/// The shape of a result: the dims that a [`Host`] keeps, and the number of `rows` that its leading axis stands for.
struct Operands {
    rows: Option<usize>,
    dims: Vec<usize>,
}

impl Fold<'_> {
    pub(in crate::onnx) fn arithmetic(&mut self, op: Arithmetic) -> Folded {
        let mut result = self.input(0)?;
        for at in 1..self.inputs.len() {
            let other = self.input(at)?;
            result = Arc::new(self.join(op, &result, &other)?);
        }
        one((*result).clone())
    }

    fn operands(&mut self, a: &Host, b: &Host, size: usize) -> Result<Operands, String> {
        let (rows, dims) = kept(&broadcast(&a.logical(), &b.logical())?)?;
        self.budget.take(dims.iter().product(), size)?;
        Ok(Operands { rows, dims })
    }

    fn join(&mut self, op: Arithmetic, a: &Host, b: &Host) -> Result<Host, String> {
        let to = self.operands(a, b, a.data.size().max(b.data.size()))?;
        let data = match (&a.data, &b.data) {
            (Data::F32(_), Data::F32(_)) if op == Arithmetic::Mod && self.node.int("fmod", 0)? == 0 => {
                return Err("it takes a remainder of floats with fmod 0".to_owned());
            }
            (Data::F32(x), Data::F32(y)) => match op.operator() {
                Some(op) => Host::evaluated(&op, &[&a.float_tensor()?, &b.float_tensor()?])?.data,
                None => Data::F32(to.zip(a, x, b, y, |x, y| op.of_floats(x, y))?),
            },
            // An exponent may be of another type than its base.
            (Data::F32(x), Data::I64(y)) if op == Arithmetic::Pow => {
                Data::F32(to.zip(a, x, b, y, |x, y| op.of_floats(x, y as f32))?)
            }
            (Data::I64(x), Data::I64(y)) => {
                let fmod = self.node.int("fmod", 0)? != 0;
                Data::I64(to.zip(a, x, b, y, |x, y| integers(op, x, y, fmod, a.data_type))?)
            }
            (Data::I64(x), Data::F32(y)) if op == Arithmetic::Pow => {
                Data::I64(to.zip(a, x, b, y, |x, y| power(x, y, a.data_type))?)
            }
            _ => {
                let (x, y) = (a.shape_like()?, b.shape_like()?);
                Data::lengths(to.zip(a, &x, b, &y, |x, y| lengths(op, x, y))?)
            }
        };
        Ok(to.host(data).typed(a.data_type))
    }

    /// The booleans that say whether `holds` is true of the order of two elements. A NaN has no order, and nothing holds of it.
    pub(in crate::onnx) fn comparison(&mut self, holds: fn(Ordering) -> bool) -> Folded {
        let (a, b) = (self.input(0)?, self.input(1)?);
        let to = self.operands(&a, &b, 1)?;
        let data = match (&a.data, &b.data) {
            (Data::F32(x), Data::F32(y)) => to.zip(&a, x, &b, y, |x, y| Ok(x.partial_cmp(&y).is_some_and(holds)))?,
            (Data::I64(x), Data::I64(y)) => to.zip(&a, x, &b, y, |x, y| Ok(holds(x.cmp(&y))))?,
            (Data::Bool(x), Data::Bool(y)) => to.zip(&a, x, &b, y, |x, y| Ok(holds(x.cmp(&y))))?,
            _ => {
                let (x, y) = (a.shape_like()?, b.shape_like()?);
                to.zip(&a, &x, &b, &y, |x, y| compare(x, y).map(holds).ok_or_else(|| NEEDS_ROWS.to_owned()))?
            }
        };
        one(to.host(Data::Bool(data)))
    }

    pub(in crate::onnx) fn logic(&mut self, f: fn(bool, bool) -> bool) -> Folded {
        let (a, b) = (self.input(0)?, self.input(1)?);
        let to = self.operands(&a, &b, 1)?;
        let (Data::Bool(x), Data::Bool(y)) = (&a.data, &b.data) else {
            return Err(format!("its inputs are {} and {}", type_name(a.data_type), type_name(b.data_type)));
        };
        one(to.host(Data::Bool(to.zip(&a, x, &b, y, |x, y| Ok(f(x, y)))?)))
    }

    pub(in crate::onnx) fn choose(&mut self) -> Folded {
        let (c, a, b) = (self.input(0)?, self.input(1)?, self.input(2)?);
        let Data::Bool(condition) = &c.data else { return Err("its condition is not boolean".to_owned()) };
        let lengths = broadcast(&c.logical(), &broadcast(&a.logical(), &b.logical())?)?;
        let (rows, dims) = kept(&lengths)?;
        self.budget.take(dims.iter().product(), a.data.size().max(b.data.size()))?;
        let to = Operands { rows, dims };
        macro_rules! choose {
            ($x:expr, $y:expr) => {{
                let walks = Walk::broadcast(&c.dims, &to.dims)
                    .zip(Walk::broadcast(&a.dims, &to.dims).zip(Walk::broadcast(&b.dims, &to.dims)));
                walks.map(|(i, (x, y))| if condition[i] { $x[x] } else { $y[y] }).collect()
            }};
        }
        let data = match (&a.data, &b.data) {
            (Data::F32(x), Data::F32(y)) => Data::F32(choose!(x, y)),
            (Data::I64(x), Data::I64(y)) => Data::I64(choose!(x, y)),
            (Data::Bool(x), Data::Bool(y)) => Data::Bool(choose!(x, y)),
            _ => {
                let (x, y) = (a.shape_like()?, b.shape_like()?);
                Data::lengths(choose!(x, y))
            }
        };
        one(to.host(data).typed(a.data_type))
    }
}

impl Operands {
    fn host(&self, data: Data) -> Host {
        Host { rows: self.rows, ..Host::new(self.dims.clone(), data) }
    }

    fn zip<A: Copy, B: Copy, R>(
        &self,
        a: &Host,
        x: &[A],
        b: &Host,
        y: &[B],
        f: impl Fn(A, B) -> Result<R, String>,
    ) -> Result<Vec<R>, String> {
        Walk::broadcast(&a.dims, &self.dims)
            .zip(Walk::broadcast(&b.dims, &self.dims))
            .map(|(i, j)| f(x[i], y[j]))
            .collect()
    }
}

impl Host {
    /// The elements as integers that may depend on the batch.
    fn shape_like(&self) -> Result<Vec<Length>, String> {
        self.data.to_lengths().ok_or_else(|| "its inputs are of types that do not go together".to_owned())
    }
}

/// The order of two lengths if it is the same for every batch of at least one row.
fn compare(a: Length, b: Length) -> Option<Ordering> {
    match (a, b) {
        (Length::Known(a), Length::Known(b)) | (Length::Rows(a), Length::Rows(b)) => Some(a.cmp(&b)),
        (Length::Rows(a), Length::Known(b)) if b < a => Some(Ordering::Greater),
        (Length::Known(a), Length::Rows(b)) if a < b => Some(Ordering::Less),
        _ => None,
    }
}

/// Arithmetic of lengths, where the result is known or a multiple of the batch for every batch.
fn lengths(op: Arithmetic, a: Length, b: Length) -> Result<Length, String> {
    use Length::{Known, Rows};
    let rows = |k: i64| match k {
        0 => Some(Known(0)),
        1.. => Some(Rows(k)),
        _ => None,
    };
    let result = match (op, a, b) {
        (_, Known(a), Known(b)) => return integers(op, a, b, false, ty::INT64).map(Known),
        (Arithmetic::Add, Rows(a), Rows(b)) => a.checked_add(b).and_then(rows),
        (Arithmetic::Sub, Rows(a), Rows(b)) => rows(a - b),
        (Arithmetic::Add, Rows(a), Known(0)) | (Arithmetic::Add, Known(0), Rows(a)) => rows(a),
        (Arithmetic::Sub, Rows(a), Known(0)) => rows(a),
        (Arithmetic::Mul, Rows(a), Known(b)) | (Arithmetic::Mul, Known(a), Rows(b)) => a.checked_mul(b).and_then(rows),
        (Arithmetic::Div, Rows(a), Known(b)) if b > 0 && a % b == 0 => rows(a / b),
        (Arithmetic::Div, Rows(a), Rows(b)) if a % b == 0 => Some(Known(a / b)),
        (Arithmetic::Max, Rows(a), Known(b)) | (Arithmetic::Max, Known(b), Rows(a)) if b <= a => Some(Rows(a)),
        (Arithmetic::Min, Rows(a), Known(b)) | (Arithmetic::Min, Known(b), Rows(a)) if b <= a => Some(Known(b)),
        _ => None,
    };
    result.ok_or_else(|| NEEDS_ROWS.to_owned())
}

//! What computes each element by itself.

use std::sync::Arc;

use half::{bf16, f16};

use super::Fold;
use super::integers::{integers, is_narrow, power, whole};
use crate::onnx::host::{Data, Host, Length, NEEDS_ROWS, Walk, broadcast, kept};
use crate::onnx::integers::wrap;
use crate::onnx::proto::data_type as ty;
use crate::onnx::tensor::{is_float, type_name};
use crate::ops::{BinaryOp, UnaryOp};

/// An arithmetic operator of two tensors.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Arithmetic {
    Add,
    Sub,
    Mul,
    Div,
    Mod,
    Pow,
    Min,
    Max,
}

/// What a comparison asks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// A tensor's elements where another shape needs them, batch aside.
struct Operands {
    rows: Option<usize>,
    dims: Vec<usize>,
}

impl Fold<'_> {
    pub(super) fn elementwise(&mut self) -> Result<Option<Host>, String> {
        let node = self.node;
        let op = node.op_type.as_str();
        let arithmetic = match op {
            "Add" | "Sum" => Some(Arithmetic::Add),
            "Sub" => Some(Arithmetic::Sub),
            "Mul" => Some(Arithmetic::Mul),
            "Div" => Some(Arithmetic::Div),
            "Mod" => Some(Arithmetic::Mod),
            "Pow" => Some(Arithmetic::Pow),
            "Min" => Some(Arithmetic::Min),
            "Max" => Some(Arithmetic::Max),
            _ => None,
        };
        if let Some(arithmetic) = arithmetic {
            let mut result = self.input(0)?;
            for at in 1..self.inputs.len() {
                let other = self.input(at)?;
                result = Arc::new(self.arithmetic(arithmetic, &result, &other)?);
            }
            return Ok(Some((*result).clone()));
        }
        let comparison = match op {
            "Equal" => Some(Comparison::Equal),
            "Less" => Some(Comparison::Less),
            "LessOrEqual" => Some(Comparison::LessOrEqual),
            "Greater" => Some(Comparison::Greater),
            "GreaterOrEqual" => Some(Comparison::GreaterOrEqual),
            _ => None,
        };
        if let Some(comparison) = comparison {
            return self.comparison(comparison).map(Some);
        }
        match op {
            "And" => self.logic(|a, b| a && b).map(Some),
            "Or" => self.logic(|a, b| a || b).map(Some),
            "Xor" => self.logic(|a, b| a != b).map(Some),
            "Where" => self.choose().map(Some),
            "Cast" => self.cast().map(Some),
            "CastLike" => {
                let data_type = self.input(1)?.data_type;
                self.cast_to(data_type).map(Some)
            }
            "CumSum" => self.running_sum().map(Some),
            _ => self.unary(),
        }
    }

    fn operands(&mut self, a: &Host, b: &Host, size: usize) -> Result<Operands, String> {
        let (rows, dims) = kept(&broadcast(&a.logical(), &b.logical())?)?;
        self.budget.take(dims.iter().product(), size)?;
        Ok(Operands { rows, dims })
    }

    fn arithmetic(&mut self, op: Arithmetic, a: &Host, b: &Host) -> Result<Host, String> {
        let to = self.operands(a, b, a.data.size().max(b.data.size()))?;
        let data = match (&a.data, &b.data) {
            (Data::F32(_), Data::F32(_)) if op == Arithmetic::Mod && self.node.int("fmod", 0)? == 0 => {
                return Err("it takes a remainder of floats with fmod 0".to_owned());
            }
            (Data::F32(x), Data::F32(y)) => Data::F32(to.zip(a, x, b, y, |x, y| Ok(floats(op, x, y)))?),
            // An exponent may be of another type than its base.
            (Data::F32(x), Data::I64(y)) if op == Arithmetic::Pow => {
                Data::F32(to.zip(a, x, b, y, |x, y| Ok(floats(op, x, y as f32)))?)
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

    fn comparison(&mut self, op: Comparison) -> Result<Host, String> {
        let (a, b) = (self.input(0)?, self.input(1)?);
        let to = self.operands(&a, &b, 1)?;
        let data = match (&a.data, &b.data) {
            (Data::F32(x), Data::F32(y)) => to.zip(&a, x, &b, y, |x, y| Ok(op.holds(x.partial_cmp(&y))))?,
            (Data::I64(x), Data::I64(y)) => to.zip(&a, x, &b, y, |x, y| Ok(op.holds(Some(x.cmp(&y)))))?,
            (Data::Bool(x), Data::Bool(y)) => to.zip(&a, x, &b, y, |x, y| Ok(op.holds(Some(x.cmp(&y)))))?,
            _ => {
                let (x, y) = (a.shape_like()?, b.shape_like()?);
                to.zip(&a, &x, &b, &y, |x, y| op.of_lengths(x, y).ok_or_else(|| NEEDS_ROWS.to_owned()))?
            }
        };
        Ok(to.host(Data::Bool(data)))
    }

    fn logic(&mut self, f: fn(bool, bool) -> bool) -> Result<Host, String> {
        let (a, b) = (self.input(0)?, self.input(1)?);
        let to = self.operands(&a, &b, 1)?;
        let (Data::Bool(x), Data::Bool(y)) = (&a.data, &b.data) else { return Err(wrong(&a, &b)) };
        Ok(to.host(Data::Bool(to.zip(&a, x, &b, y, |x, y| Ok(f(x, y)))?)))
    }

    fn choose(&mut self) -> Result<Host, String> {
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
        Ok(to.host(data).typed(a.data_type))
    }

    fn cast(&mut self) -> Result<Host, String> {
        let to = i32::try_from(self.node.int("to", 0)?).unwrap_or(0);
        self.cast_to(to)
    }

    fn cast_to(&mut self, data_type: i32) -> Result<Host, String> {
        let x = self.input(0)?;
        let size = match data_type {
            _ if is_float(data_type) => 4,
            ty::BOOL => 1,
            _ => x.data.size().max(8),
        };
        self.budget.take(x.data.len(), size)?;
        let data = match data_type {
            ty::FLOAT | ty::DOUBLE => Data::F32(x.to_floats()?),
            ty::FLOAT16 => Data::F32(x.to_floats()?.into_iter().map(|v| f16::from_f32(v).to_f32()).collect()),
            ty::BFLOAT16 => Data::F32(x.to_floats()?.into_iter().map(|v| bf16::from_f32(v).to_f32()).collect()),
            ty::BOOL => Data::Bool(match &x.data {
                Data::F32(v) => v.iter().map(|&v| v != 0.0).collect(),
                Data::I64(v) => v.iter().map(|&v| v != 0).collect(),
                Data::Bool(v) => v.clone(),
                // At least one row.
                Data::Lengths(v) => v.iter().map(|v| *v != Length::Known(0)).collect(),
            }),
            ty::INT64 | ty::INT32 | ty::INT16 | ty::INT8 | ty::UINT64 | ty::UINT32 | ty::UINT16 | ty::UINT8 => {
                let cut = |v: i128| wrap(v, data_type);
                match &x.data {
                    Data::F32(v) => {
                        let cut = |&v: &f32| cut(whole(v, x.data_type, data_type)?);
                        Data::I64(v.iter().map(cut).collect::<Result<_, _>>()?)
                    }
                    Data::Bool(v) => Data::I64(v.iter().map(|&v| v.into()).collect()),
                    Data::I64(v) => Data::I64(v.iter().map(|&v| cut(v.into())).collect::<Result<_, _>>()?),
                    Data::Lengths(_) if is_narrow(data_type) => {
                        return Err(format!("{NEEDS_ROWS}, which may wrap around as {}", type_name(data_type)));
                    }
                    Data::Lengths(v) => Data::Lengths(v.clone()),
                }
            }
            other => return Err(format!("it casts to {}", type_name(other))),
        };
        Ok(Host { data, data_type, ..(*x).clone() })
    }

    fn running_sum(&mut self) -> Result<Host, String> {
        let (x, at) = (self.input(0)?, self.input(1)?);
        x.fixed()?;
        let at = at.integers()?.first().copied().ok_or("its axis is empty")?;
        let at = super::super::host::axis(at, x.dims.len())?;
        if self.node.int("exclusive", 0)? != 0 || self.node.int("reverse", 0)? != 0 {
            return Err("exclusive and reverse sums are not supported".to_owned());
        }
        self.budget.take(x.data.len(), x.data.size())?;
        let inner: usize = x.dims[at + 1..].iter().product();
        let mut result = (*x).clone();
        let starts = |i: usize| (i / inner.max(1)).is_multiple_of(x.dims[at]);
        match &mut result.data {
            Data::F32(v) => (0..v.len()).filter(|&i| !starts(i)).for_each(|i| v[i] += v[i - inner]),
            Data::I64(v) => {
                for i in (0..v.len()).filter(|&i| !starts(i)) {
                    v[i] = wrap(i128::from(v[i]) + i128::from(v[i - inner]), x.data_type)?;
                }
            }
            _ => return Err("it sums neither floats nor integers".to_owned()),
        }
        Ok(result)
    }

    fn unary(&mut self) -> Result<Option<Host>, String> {
        let node = self.node;
        let float: fn(f64) -> f64 = match node.op_type.as_str() {
            "Neg" => |v| -v,
            "Abs" => f64::abs,
            "Sqrt" => |v| UnaryOp::Sqrt.eval(v),
            "Exp" => |v| UnaryOp::Exp.eval(v),
            "Log" => |v| UnaryOp::Log.eval(v),
            "Erf" => |v| UnaryOp::Erf.eval(v),
            "Tanh" => |v| UnaryOp::Tanh.eval(v),
            "Sigmoid" => |v| UnaryOp::Sigmoid.eval(v),
            "Relu" => |v| UnaryOp::Relu.eval(v),
            "Sin" => libm::sin,
            "Cos" => libm::cos,
            "Reciprocal" => |v| 1.0 / v,
            "Floor" => f64::floor,
            "Ceil" => f64::ceil,
            "Round" => f64::round_ties_even,
            "Sign" => |v| UnaryOp::Sign.eval(v),
            "Not" => {
                let x = self.input(0)?;
                let Data::Bool(v) = &x.data else { return Err("its input is not boolean".to_owned()) };
                let data = Data::Bool(v.iter().map(|&v| !v).collect());
                return Ok(Some(Host { data, ..(*x).clone() }));
            }
            _ => return Ok(None),
        };
        let x = self.input(0)?;
        self.budget.take(x.data.len(), x.data.size())?;
        let data = match &x.data {
            Data::F32(v) => Data::F32(v.iter().map(|&v| float(v.into()) as f32).collect()),
            Data::I64(v) => {
                let each: fn(i128) -> i128 = match node.op_type.as_str() {
                    "Neg" => |v| -v,
                    "Abs" => i128::abs,
                    "Sign" => i128::signum,
                    "Relu" => |v| v.max(0),
                    _ => return Err("it is not defined for integers".to_owned()),
                };
                let each = |&v: &i64| wrap(each(v.into()), x.data_type);
                Data::I64(v.iter().map(each).collect::<Result<_, _>>()?)
            }
            _ => return Err(NEEDS_ROWS.to_owned()),
        };
        Ok(Some(Host { data, name: None, ..(*x).clone() }))
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
    /// Integers of any number, of which some may depend on the batch.
    fn shape_like(&self) -> Result<Vec<Length>, String> {
        match &self.data {
            Data::I64(v) => Ok(v.iter().map(|&v| Length::Known(v)).collect()),
            Data::Lengths(v) => Ok(v.clone()),
            _ => Err("its inputs are of types that do not go together".to_owned()),
        }
    }
}

impl Comparison {
    fn holds(self, order: Option<std::cmp::Ordering>) -> bool {
        let Some(order) = order else { return false };
        match self {
            Self::Equal => order.is_eq(),
            Self::Less => order.is_lt(),
            Self::LessOrEqual => order.is_le(),
            Self::Greater => order.is_gt(),
            Self::GreaterOrEqual => order.is_ge(),
        }
    }

    /// The answer where it is the same for every batch of at least one row.
    fn of_lengths(self, a: Length, b: Length) -> Option<bool> {
        let order = match (a, b) {
            (Length::Known(a), Length::Known(b)) | (Length::Rows(a), Length::Rows(b)) => a.cmp(&b),
            (Length::Rows(a), Length::Known(b)) if b < a => std::cmp::Ordering::Greater,
            (Length::Known(a), Length::Rows(b)) if a < b => std::cmp::Ordering::Less,
            _ => return None,
        };
        Some(self.holds(Some(order)))
    }
}

fn floats(op: Arithmetic, a: f32, b: f32) -> f32 {
    match op {
        Arithmetic::Add => a + b,
        Arithmetic::Sub => a - b,
        Arithmetic::Mul => a * b,
        Arithmetic::Div => a / b,
        Arithmetic::Mod => a % b,
        Arithmetic::Pow => libm::pow(a.into(), b.into()) as f32,
        Arithmetic::Min => BinaryOp::Minimum.eval(a, b),
        Arithmetic::Max => BinaryOp::Maximum.eval(a, b),
    }
}

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

fn wrong(a: &Host, b: &Host) -> String {
    format!("its inputs are {} and {}", type_name(a.data_type), type_name(b.data_type))
}

//! Functions of one element.

use super::{Fold, Folded, one};
use crate::onnx::functions;
use crate::onnx::host::{Data, Host, NEEDS_ROWS};
use crate::onnx::integers::wrap;
use crate::ops::{Unary, UnaryOp};

impl Fold<'_> {
    /// One of the functions that ONNX and the graph have in common.
    pub(in crate::onnx) fn function(&mut self) -> Folded {
        let op = functions::function(&self.node.op_type).ok_or("it is not a function of one element")?;
        let integer: Option<fn(i128) -> i128> = match op {
            UnaryOp::Abs => Some(i128::abs),
            UnaryOp::Relu => Some(|v| v.max(0)),
            UnaryOp::Sign => Some(i128::signum),
            _ => None,
        };
        self.each(|x| Ok(Host::evaluated(&Unary { op }.into(), &[&x.float_tensor()?])?.data), integer)
    }

    pub(in crate::onnx) fn negative(&mut self) -> Folded {
        self.each(|x| Ok(Data::F32(x.to_floats()?.into_iter().map(|v| -v).collect())), Some(|v| -v))
    }

    /// A function for which a graph has no operator, computed in `f64`.
    pub(in crate::onnx) fn floats(&mut self, f: fn(f64) -> f64) -> Folded {
        self.each(|x| Ok(Data::F32(x.to_floats()?.into_iter().map(|v| f(v.into()) as f32).collect())), None)
    }

    /// The result of `floats` for floats and that of `integer` for integers, if there is such a function.
    fn each(
        &mut self,
        floats: impl FnOnce(&Host) -> Result<Data, String>,
        integer: Option<fn(i128) -> i128>,
    ) -> Folded {
        let x = self.input(0)?;
        self.budget.take(x.data.len(), x.data.size())?;
        let data = match &x.data {
            Data::F32(_) => floats(&x)?,
            Data::I64(v) => {
                let integer = integer.ok_or("it is not defined for integers")?;
                Data::I64(v.iter().map(|&v| wrap(integer(v.into()), x.data_type)).collect::<Result<_, _>>()?)
            }
            _ => return Err(NEEDS_ROWS.to_owned()),
        };
        one(Host { data, name: None, ..(*x).clone() })
    }

    pub(in crate::onnx) fn not(&mut self) -> Folded {
        let x = self.input(0)?;
        let Data::Bool(v) = &x.data else { return Err("its input is not boolean".to_owned()) };
        let data = Data::Bool(v.iter().map(|&v| !v).collect());
        one(Host { data, ..(*x).clone() })
    }
}

//! Reductions at run time.

use super::{Call, Importer, Kind, Run, Value, Values, one};
use crate::graph::NodeId;
use crate::onnx::fold::reduced_axes;
use crate::onnx::host::Length;
use crate::onnx::integers::{held, is_integer};
use crate::ops::{Max, Mul, Op, Sum, UnaryOp};

impl Importer {
    pub(super) fn reduce(&mut self, call: &Call<'_>) -> Values {
        let node = call.node;
        let lengths = self.logical(call.input(0)?);
        let axes = self.list(call, "axes", 1)?;
        let reduced = reduced_axes(axes.as_deref(), lengths.len(), node.int("noop_with_empty_axes", 0)? != 0)?;
        let keep = node.int("keepdims", 1)? != 0;
        let x = self.run(call.input(0)?)?;
        let integers = match x.kind {
            Kind::Int(data_type) if is_integer(data_type) => Some(data_type),
            _ => None,
        };
        let x = if integers.is_some() { x } else { self.float(call, &Value::Run(x))? };
        let kind = node.op_type.as_str();
        let name = call.name.as_str();
        let mut id = match (kind, integers) {
            (_, Some(data_type)) => self.before_reduction(call, data_type, x.id)?,
            ("ReduceSum" | "ReduceMean" | "ReduceMax", None) => x.id,
            ("ReduceMin", None) => self.mul_scalar(&call.part("negative"), x.id, -1.0)?,
            ("ReduceL1", None) => self.unary(&call.part("abs"), UnaryOp::Abs, x.id)?,
            ("ReduceL2" | "ReduceSumSquare", None) => {
                self.draft.add(&call.part("square"), Op::Mul(Mul), &[x.id, x.id])?
            }
            _ => return Err("it is supported only where its inputs are known while importing".to_owned()),
        };
        let max = matches!(kind, "ReduceMax" | "ReduceMin");
        let checked = integers.is_some_and(|data_type| held(data_type).is_none());
        let mut count = 1.0f64;
        let mut target = Vec::with_capacity(lengths.len());
        for at in (0..lengths.len()).rev() {
            if !reduced[at] {
                target.push(lengths[at]);
                continue;
            }
            let axis = self.inner_axis(x, at)?;
            if let Length::Known(n) = lengths[at] {
                count *= n as f64;
            }
            id = self.draft.add(
                &call.part(if max { "max" } else { "sum" }),
                if max { Op::Max(Max { axis }) } else { Op::Sum(Sum { axis, checked }) },
                &[id],
            )?;
            if keep {
                target.push(Length::Known(1));
            }
        }
        target.reverse();
        let end = &call.part("reduced");
        id = match (kind, integers) {
            (_, Some(data_type)) => self.after_reduction(call, data_type, count, id)?,
            ("ReduceMean", None) => self.mul_scalar(end, id, (1.0 / count) as f32)?,
            ("ReduceMin", None) => self.mul_scalar(end, id, -1.0)?,
            ("ReduceL2", None) => self.unary(end, UnaryOp::Sqrt, id)?,
            _ => id,
        };
        let kind = match integers {
            Some(data_type) => Kind::Int(data_type),
            // One of them, as none of the others is.
            None if max => x.kind,
            None => Kind::Float,
        };
        let run = Run { id, kind, ..x };
        let result = self.reshaped(name, run, &target)?;
        if result.id != x.id {
            // The last step bears the name.
            name.clone_into(&mut self.draft.nodes[result.id.index()].name);
        }
        one(result)
    }

    /// A node by itself, for families that have no logic of their own.
    pub(super) fn op(&mut self, name: &str, op: Op, x: NodeId) -> Result<NodeId, String> {
        self.draft.add(name, op, &[x])
    }
}

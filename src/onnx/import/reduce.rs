//! Reductions along axes.

mod cumulative;
mod largest;

use super::importer::Importer;
use super::operator::{Call, ONLY_KNOWN, Operator, Values, one};
use crate::graph::NodeId;
use crate::onnx::fold::{Reduction, reduced_axes};
use crate::onnx::host::Length;
use crate::onnx::integers::{held, is_integer};
use crate::onnx::value::{Kind, Run, Value};
use crate::ops::{AveragePool, Max, Mul, Op, Sum, UnaryOp};

macro_rules! reduction {
    ($name:ident) => {
        Operator::new(|f| f.reduce(Reduction::$name), |i, c| i.reduce(c, Reduction::$name))
            .behind(|i, c, _| i.reduction_behind(c))
    };
}

operators! {
    "ArgMax" => Operator::nodes(|i, c| i.place_of_largest(c, true)),
    "ArgMin" => Operator::nodes(|i, c| i.place_of_largest(c, false)),
    "CumSum" => Operator::new(|f| f.cumulative_sum(), Importer::cumulative_sum),
    "ReduceL1" => reduction!(L1),
    "ReduceL2" => reduction!(L2),
    "ReduceMax" => reduction!(Max),
    "ReduceMean" => reduction!(Mean),
    "ReduceMin" => reduction!(Min),
    "ReduceProd" => reduction!(Prod),
    "ReduceSum" => reduction!(Sum),
    "ReduceSumSquare" => reduction!(SumSquare),
    "TopK" => Operator::nodes(Importer::largest),
}

impl Importer {
    fn reduce(&mut self, call: &Call<'_>, reduction: Reduction) -> Values {
        let lengths = self.logical(call.input(0)?);
        let axes = self.list(call, "axes", 1)?;
        let noop = call.node.int("noop_with_empty_axes", 0)? != 0;
        let reduced = reduced_axes(axes.as_deref(), lengths.len(), noop)?;
        let keep = call.node.int("keepdims", 1)? != 0;
        let x = self.run(call.input(0)?)?;
        let integers = match x.kind {
            Kind::Int(data_type) if is_integer(data_type) => Some(data_type),
            _ => None,
        };
        let x = if integers.is_some() { x } else { self.float(call, &Value::Run(x))? };
        let is_mean = integers.is_none() && reduction == Reduction::Mean;
        if is_mean && reduced == [false, false, true, true] && self.image(x).is_ok_and(|image| !image.contains(&0)) {
            return self.image_mean(call, x, &lengths[..2], keep);
        }
        let mut id = match integers {
            Some(data_type) => self.before_reduction(call, reduction, data_type, x.id)?,
            None => self.before_float_reduction(call, reduction, x.id)?,
        };
        let max = matches!(reduction, Reduction::Max | Reduction::Min);
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
            let (part, op): (_, Op) =
                if max { ("max", Max { axis }.into()) } else { ("sum", Sum { axis, checked }.into()) };
            id = self.draft.add(&call.part(part), op, &[id])?;
            if keep {
                target.push(Length::Known(1));
            }
        }
        target.reverse();
        id = match integers {
            Some(data_type) => self.after_reduction(call, reduction, data_type, count, id)?,
            None => self.after_float_reduction(call, reduction, count, id)?,
        };
        let kind = match integers {
            Some(data_type) => Kind::Int(data_type),
            // The largest of some booleans is a boolean; their sum is not.
            None if max => x.kind,
            None => Kind::Float,
        };
        let result = self.reshaped(&call.name, Run { id, kind, ..x }, &target)?;
        if result.id != x.id {
            call.name.clone_into(&mut self.draft.nodes[result.id.index()].name);
        }
        one(result)
    }

    /// The mean over height and width, which is an average pool in integers too.
    fn image_mean(&mut self, call: &Call<'_>, x: Run, lead: &[Length], keep: bool) -> Values {
        let ones = if keep { vec![Length::Known(1); 2] } else { Vec::new() };
        let id = self.draft.add(&call.part("mean"), AveragePool::adaptive(&[1, 1]), &[x.id])?;
        let mean = self.reshaped(&call.name, Run { id, kind: Kind::Float, ..x }, &[lead, &ones].concat())?;
        call.name.clone_into(&mut self.draft.nodes[mean.id.index()].name);
        one(mean)
    }

    /// The floats whose sum or largest one a reduction of `x` computes.
    fn before_float_reduction(&mut self, call: &Call<'_>, reduction: Reduction, x: NodeId) -> Result<NodeId, String> {
        match reduction {
            Reduction::Sum | Reduction::Mean | Reduction::Max => Ok(x),
            Reduction::Min => self.mul_scalar(&call.part("negative"), x, -1.0),
            Reduction::L1 => self.unary(&call.part("abs"), UnaryOp::Abs, x),
            Reduction::L2 | Reduction::SumSquare => self.draft.add(&call.part("square"), Mul, &[x, x]),
            Reduction::Prod => Err(ONLY_KNOWN.to_owned()),
        }
    }

    /// The result of a reduction, from the sum or the largest one of `count` floats.
    fn after_float_reduction(
        &mut self,
        call: &Call<'_>,
        reduction: Reduction,
        count: f64,
        y: NodeId,
    ) -> Result<NodeId, String> {
        let name = &call.part("reduced");
        match reduction {
            Reduction::Mean => self.mul_scalar(name, y, (1.0 / count) as f32),
            Reduction::Min => self.mul_scalar(name, y, -1.0),
            Reduction::L2 => self.unary(name, UnaryOp::Sqrt, y),
            _ => Ok(y),
        }
    }
}

//! Reductions along axes.

mod cumulative;
mod largest;

use super::importer::Importer;
use super::operator::{Call, Operator, Values, one};
use crate::graph::NodeId;
use crate::onnx::attributes::int_attribute;
use crate::onnx::fold::{Reduction, reduced_axes};
use crate::onnx::host::{Data, Host, Length};
use crate::onnx::integers::{held, is_integer};
use crate::onnx::proto::data_type as ty;
use crate::onnx::tensor::type_name;
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
    "ReduceLogSum" => reduction!(LogSum),
    "ReduceLogSumExp" => Operator::nodes(Importer::log_sum_exp).behind(|i, c, _| i.reduction_behind(c)),
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
            if reduction == Reduction::Prod {
                id = self.product_along(call, id, axis)?;
                if keep {
                    target.push(Length::Known(1));
                }
                continue;
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

    /// The product along an axis, which the result lacks: of its halves, of their halves, and so on.
    fn product_along(&mut self, call: &Call<'_>, x: NodeId, axis: usize) -> Result<NodeId, String> {
        let name = call.part("product");
        let (mut product, mut odd) = (x, None);
        let mut length = self.draft.shape(x).axis(axis).filter(|n| *n > 0).ok_or("it reduces no elements")?;
        while length > 1 {
            if !length.is_multiple_of(2) {
                let last = self.cut(&name, product, axis, length - 1, 1)?;
                odd = Some(match odd {
                    Some(odd) => self.draft.add(&name, Mul, &[odd, last])?,
                    None => last,
                });
            }
            length /= 2;
            let (a, b) = (self.cut(&name, product, axis, 0, length)?, self.cut(&name, product, axis, length, length)?);
            product = self.draft.add(&name, Mul, &[a, b])?;
        }
        if let Some(odd) = odd {
            product = self.draft.add(&name, Mul, &[product, odd])?;
        }
        // The sum of one element is the element.
        self.draft.add(&name, Sum { axis, checked: false }, &[product])
    }

    /// `m + log(Σ e^(x − m))`, where `m` is the largest element, or the largest float in place of infinity.
    fn log_sum_exp(&mut self, call: &Call<'_>) -> Values {
        let x = call.input(0)?;
        if !matches!(self.type_of(x), ty::FLOAT | ty::FLOAT16 | ty::BFLOAT16 | ty::DOUBLE) {
            return Err(format!("it is not supported for {}", type_name(self.type_of(x))));
        }
        let axes = self.list(call, "axes", 1)?;
        let noop = call.node.int("noop_with_empty_axes", 0)? != 0;
        let reduced = reduced_axes(axes.as_deref(), self.logical(x).len(), noop)?;
        let axes: Vec<i64> = (0..reduced.len()).filter(|&at| reduced[at]).map(|at| at as i64).collect();
        if axes.is_empty() {
            return Ok(vec![x.clone()]);
        }
        let axes = Value::Host(Host::new(vec![axes.len()], Data::I64(axes)).into());
        let keep = call.node.int("keepdims", 1)?;
        let most = self.emitted(call, "most", "ReduceMax", &[x, &axes], &[int_attribute("keepdims", 1)])?;
        let [low, high] = [f32::MIN, f32::MAX].map(|value| self.number_value(value));
        let most = self.emitted(call, "most.finite", "Clip", &[&most, &low, &high], &[])?;
        let less = self.emitted(call, "less", "Sub", &[x, &most], &[])?;
        let exp = self.emitted(call, "exp", "Exp", &[&less], &[])?;
        let sum = self.emitted(call, "sum", "ReduceSum", &[&exp, &axes], &[int_attribute("keepdims", keep)])?;
        let log = self.emitted(call, "log", "Log", &[&sum], &[])?;
        let most = if keep == 0 { self.emitted(call, "most.of", "Squeeze", &[&most, &axes], &[])? } else { most };
        self.result(call, "Add", &[&log, &most], &[])
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
            Reduction::Sum | Reduction::Mean | Reduction::Max | Reduction::LogSum | Reduction::Prod => Ok(x),
            Reduction::Min => self.mul_scalar(&call.part("negative"), x, -1.0),
            Reduction::L1 => self.unary(&call.part("abs"), UnaryOp::Abs, x),
            Reduction::L2 | Reduction::SumSquare => self.draft.add(&call.part("square"), Mul, &[x, x]),
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
            Reduction::LogSum => self.unary(name, UnaryOp::Log, y),
            _ => Ok(y),
        }
    }
}

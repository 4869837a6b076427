//! Losses of classes: `NegativeLogLikelihoodLoss` and `SoftmaxCrossEntropyLoss`, as a gather of the given classes and reductions.

use super::importer::Importer;
use super::operator::{Call, Operator};
use crate::onnx::attributes::int_attribute;
use crate::onnx::host::{Data, Host};
use crate::onnx::value::Value;

operators! {
    "NegativeLogLikelihoodLoss" => Operator::nodes(|i, c| {
        let loss = i.loss(c, c.input(0)?)?;
        Ok(vec![loss])
    }),
    "SoftmaxCrossEntropyLoss" => Operator::nodes(|i, c| {
        let log = i.emitted(c, "log_prob", "LogSoftmax", &[c.input(0)?], &[int_attribute("axis", 1)])?;
        let loss = i.loss(c, &log)?;
        Ok(vec![loss, log])
    }),
}

impl Importer {
    /// The loss of logarithms of probabilities `[batch, classes, …]` for the classes `[batch, …]`.
    fn loss(&mut self, call: &Call<'_>, logs: &Value) -> Result<Value, String> {
        let (classes, weights) = (call.input(1)?, call.optional(2));
        let op =
            |i: &mut Self, part: &str, op_type: &str, inputs: &[&Value]| i.emitted(call, part, op_type, inputs, &[]);
        let of = self.type_of(classes);
        let integer = |n: i64| Value::Host(Host::new(Vec::new(), Data::I64(vec![n])).typed(of).into());
        let one = |n: i64| Value::Host(Host::new(vec![1], Data::I64(vec![n])).into());
        // Where a class is ignored, any class stands for it, with a weight of 0.
        let (mut own, mut is_ignored) = (classes.clone(), None);
        if call.node.has("ignore_index") {
            let index = integer(call.node.int("ignore_index", 0)?);
            let equal = op(self, "is_ignored", "Equal", &[classes, &index])?;
            own = op(self, "classes", "Where", &[&equal, &integer(0), classes])?;
            is_ignored = Some(equal);
        }
        let at = op(self, "index", "Unsqueeze", &[&own, &one(1)])?;
        let picked = self.emitted(call, "picked", "GatherElements", &[logs, &at], &[int_attribute("axis", 1)])?;
        let picked = op(self, "of_class", "Squeeze", &[&picked, &one(1)])?;
        let mut loss = op(self, "negative", "Neg", &[&picked])?;
        let mut shares = weights.map(|weights| op(self, "weights", "Gather", &[weights, &own])).transpose()?;
        if let Some(is_ignored) = is_ignored {
            let [zero, ones] = [0.0, 1.0].map(|number| self.number_value(number));
            let given = shares.unwrap_or(ones);
            shares = Some(op(self, "shares", "Where", &[&is_ignored, &zero, &given])?);
        }
        if let Some(shares) = &shares {
            loss = op(self, "weighted", "Mul", &[&loss, shares])?;
        }
        let sum = |i: &mut Self, part: &str, op_type: &str, x: &Value| {
            i.emitted(call, part, op_type, &[x], &[int_attribute("keepdims", 0)])
        };
        match (call.node.string("reduction", "mean")?, shares) {
            ("none", _) => Ok(loss),
            ("sum", _) => sum(self, "sum", "ReduceSum", &loss),
            ("mean", None) => sum(self, "mean", "ReduceMean", &loss),
            ("mean", Some(shares)) => {
                let (total, all) =
                    (sum(self, "sum", "ReduceSum", &loss)?, sum(self, "all_shares", "ReduceSum", &shares)?);
                op(self, "mean", "Div", &[&total, &all])
            }
            (other, _) => Err(format!("its reduction is {other}; supported are none, sum and mean")),
        }
    }
}

//! `MatMul`. A product with a known matrix is a linear layer.

use super::importer::Importer;
use super::operator::{Call, Operator, Values, one};
use crate::onnx::fold::MAX_FACTOR;
use crate::onnx::host::{Length, broadcast};
use crate::onnx::value::{Kind, Run, Value};
use crate::ops::{Linear, MatMul};

operators! {
    "MatMul" => Operator::new(|f| f.matmul(), Importer::matmul)
        .behind(Importer::product_behind)
        .decoding(Importer::is_small_product),
}

impl Importer {
    /// Whether all factors are known and small enough to be multiplied while importing. The factors of a larger product are weights,
    /// which stay as they are stored.
    pub(super) fn is_small_product(&self, inputs: &[Option<Value>]) -> bool {
        let elements = |value: &Value| match value {
            Value::Stored(at) => self.stored[*at].len(),
            Value::Host(host) => host.data.len(),
            Value::Quantized(quantized) => quantized.values.len(),
            Value::Run(_) | Value::Deferred(_) | Value::Unsupported => usize::MAX,
        };
        inputs.iter().flatten().all(|value| elements(value) <= MAX_FACTOR)
    }

    fn matmul(&mut self, call: &Call<'_>) -> Values {
        let (a, b) = (call.input(0)?, call.input(1)?);
        let (left, right) = (self.logical(a), self.logical(b));
        if left.is_empty() || right.is_empty() {
            return Err("it multiplies a number without axes".to_owned());
        }
        if let (Value::Stored(_) | Value::Host(_) | Value::Quantized(_), [_, _]) = (b, right.as_slice()) {
            let x = self.float(call, a)?;
            let weight = self.weight(b, true)?;
            let x = self.input_of_groups(call, x, weight)?;
            let id = self.draft.add(&call.name, Linear::default(), &[x.id, weight])?;
            self.name_after(id, self.module(b));
            return one(Run { id, kind: Kind::Float, ..x });
        }
        let (mut x, mut y) = (self.float(call, a)?, self.float(call, b)?);
        // A merged batch is two axes of the node. Both inputs must have these two in front, or one input must have no batch.
        let merged = x.merged.max(y.merged);
        let in_both = x.merged == y.merged || [x, y].iter().any(|run| !self.draft.shape(run.id).is_batched());
        if merged > 1 && (!in_both || left.len() < 2 || right.len() < 2 || matches!(right[..], [Length::Rows(_), _])) {
            return Err("it multiplies stacks of matrices with the batch merged into another axis".to_owned());
        }
        // A vector counts as a matrix of one row or one column, which is dropped from the result.
        if left.len() == 1 {
            x = self.reshaped(&call.part("left"), x, &[Length::Known(1), left[0]])?;
        }
        if right.len() == 1 {
            y = self.reshaped(&call.part("right"), y, &[right[0], Length::Known(1)])?;
        }
        let id = self.draft.add(&call.name, MatMul::default(), &[x.id, y.id])?;
        let result = Run { id, merged, kind: Kind::Float };
        if merged > 1 {
            let mut lengths = broadcast(&left[..left.len() - 2], &right[..right.len() - 2])?;
            lengths.extend([left[left.len() - 2], right[right.len() - 1]]);
            return one(self.of_lengths(result, &lengths)?);
        }
        let mut target = self.logical(&Value::Run(result));
        if right.len() == 1 {
            target.pop();
        }
        if left.len() == 1 {
            target.remove(target.len() + usize::from(right.len() == 1) - 2);
        }
        one(self.reshaped(&call.name, result, &target)?)
    }
}

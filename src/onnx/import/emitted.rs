//! Operators of ONNX as parts of a node that stands for several.

use super::importer::Importer;
use super::operator::{Call, Values};
use crate::onnx::attributes::ints_attribute;
use crate::onnx::host::{Data, Host};
use crate::onnx::proto::AttributeProto;
use crate::onnx::value::Value;

impl Importer {
    /// An operator of ONNX, as a part of a node.
    pub(super) fn emitted(
        &mut self,
        call: &Call<'_>,
        part: &str,
        op_type: &str,
        inputs: &[&Value],
        attributes: &[AttributeProto],
    ) -> Result<Value, String> {
        let inputs = inputs.iter().map(|&value| Some(value.clone())).collect();
        self.emit(&call.part(part), op_type, inputs, attributes.to_vec())
    }

    /// The operator of ONNX that gives the result of a node.
    pub(super) fn result(
        &mut self,
        call: &Call<'_>,
        op_type: &str,
        inputs: &[&Value],
        attributes: &[AttributeProto],
    ) -> Values {
        let inputs = inputs.iter().map(|&value| Some(value.clone())).collect();
        Ok(vec![self.emit(&call.name, op_type, inputs, attributes.to_vec())?])
    }

    /// A constant number.
    pub(super) fn number_value(&mut self, value: f32) -> Value {
        Value::Host(Host::new(Vec::new(), Data::F32(vec![value])).into())
    }

    /// A value with its last two axes swapped.
    pub(super) fn last_axes_swapped(&mut self, call: &Call<'_>, part: &str, x: &Value) -> Result<Value, String> {
        let rank = self.logical(x).len();
        if rank < 2 {
            return Err(format!("it swaps the last two axes of a value with {rank}"));
        }
        let mut perm: Vec<i64> = (0..rank as i64).collect();
        perm.swap(rank - 2, rank - 1);
        self.emitted(call, part, "Transpose", &[x], &[ints_attribute("perm", perm)])
    }

    /// A value in another shape; 0 stands for the length that an axis has.
    pub(super) fn in_shape(&mut self, call: &Call<'_>, part: &str, x: &Value, dims: &[usize]) -> Result<Value, String> {
        let shape = Data::I64(dims.iter().map(|&d| d as i64).collect());
        let shape = Value::Host(Host::new(vec![dims.len()], shape).into());
        self.emitted(call, part, "Reshape", &[x, &shape], &[])
    }

    pub(super) fn moved(&mut self, call: &Call<'_>, part: &str, x: &Value, perm: &[i64]) -> Result<Value, String> {
        self.emitted(call, part, "Transpose", &[x], &[ints_attribute("perm", perm.to_vec())])
    }

    /// A value with new axes of length 1.
    pub(super) fn with_axes(&mut self, call: &Call<'_>, part: &str, x: &Value, axes: &[i64]) -> Result<Value, String> {
        let axes = Value::Host(Host::new(vec![axes.len()], Data::I64(axes.to_vec())).into());
        self.emitted(call, part, "Unsqueeze", &[x, &axes], &[])
    }

    /// The elements `range` along an axis.
    pub(super) fn part_of(
        &mut self,
        call: &Call<'_>,
        part: &str,
        x: &Value,
        axis: usize,
        range: [usize; 2],
    ) -> Result<Value, String> {
        let one = |n: usize| Value::Host(Host::new(vec![1], Data::I64(vec![n as i64])).into());
        self.emitted(call, part, "Slice", &[x, &one(range[0]), &one(range[1]), &one(axis)], &[])
    }
}

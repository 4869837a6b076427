//! Normalizations and softmax.

use super::importer::Importer;
use super::operator::{Call, Operator, Values, one};
use crate::graph::NodeId;
use crate::onnx::host::{Data, Host, Length, Walk, axis, broadcast, kept};
use crate::onnx::slices;
use crate::onnx::value::{Kind, Run, Value};
use crate::ops::{Add, BatchNorm, LayerNorm, Max, RmsNorm, Softmax, Sum, UnaryOp};

operators! {
    "BatchNormalization" => Operator::nodes(Importer::batch_norm),
    "LayerNormalization" => Operator::nodes(Importer::layer_norm),
    "LogSoftmax" => Operator::nodes(|i, c| i.softmax_along(c, Importer::log_softmax)),
    "RMSNormalization" => Operator::nodes(Importer::rms_norm),
    // ONNX Runtime writes its own name for it into the default domain.
    "SimplifiedLayerNormalization" => Operator::nodes(Importer::rms_norm),
    "Softmax" => Operator::nodes(|i, c| i.softmax_along(c, Importer::softmax)),
}

impl Importer {
    fn layer_norm(&mut self, call: &Call<'_>) -> Values {
        let (x, lengths, eps) = self.normalized(call)?;
        let weight = self.affine(call, 1, &lengths, 1.0)?;
        let bias = self.affine(call, 2, &lengths, 0.0)?;
        let id = self.draft.add(&call.name, LayerNorm { eps }, &[x.id, weight, bias])?;
        self.norm(call, x, id)
    }

    fn rms_norm(&mut self, call: &Call<'_>) -> Values {
        let (x, lengths, eps) = self.normalized(call)?;
        let weight = self.affine(call, 1, &lengths, 1.0)?;
        let id = self.draft.add(&call.name, RmsNorm { eps }, &[x.id, weight])?;
        self.norm(call, x, id)
    }

    /// The input of a normalization over the last axes, the lengths of these axes, and the number added to the variance.
    fn normalized(&mut self, call: &Call<'_>) -> Result<(Run, Vec<Length>, f32), String> {
        let x = self.float(call, call.input(0)?)?;
        let mut lengths = self.logical(call.input(0)?);
        let at = axis(call.node.int("axis", -1)?, lengths.len())?;
        self.inner_axis(x, at)?;
        Ok((x, lengths.split_off(at), call.node.float("epsilon", 1e-5)?))
    }

    /// The value of a normalization, which is named after the module of its parameters.
    fn norm(&mut self, call: &Call<'_>, x: Run, id: NodeId) -> Values {
        let module = call.optional(1).and_then(|w| self.module(w)).or_else(|| self.module(call.optional(2)?));
        self.name_after(id, module);
        one(Run { id, kind: Kind::Float, ..x })
    }

    /// A known parameter of a layer normalization, expanded to the shape of the normalized axes; `default` if the node has none.
    fn affine(&mut self, call: &Call<'_>, at: usize, lengths: &[Length], default: f32) -> Result<NodeId, String> {
        let (_, dims) = kept(lengths)?;
        let count: usize = dims.iter().product();
        let Some(value) = call.optional(at) else {
            self.budget.take(count, 4)?;
            return self.host_constant(&Host::new(dims, Data::F32(vec![default; count])));
        };
        if let Value::Run(_) = value {
            return Err("its weight and bias must be known".to_owned());
        }
        if let Value::Quantized(_) | Value::Stored(_) = value
            && self.logical(value) == lengths
        {
            return Ok(self.run(value)?.id);
        }
        let host = self.host(value)?;
        if broadcast(&host.logical(), lengths)? != lengths {
            return Err(format!("its parameter has shape {:?}, expected {dims:?}", host.dims));
        }
        self.budget.take(count, 4)?;
        let floats = host.to_floats()?;
        let places = Walk::broadcast(&host.dims, &dims);
        let data = Data::F32(places.map(|i| floats[i]).collect());
        self.host_constant(&Host { dims, data, ..(*host).clone() })
    }

    fn batch_norm(&mut self, call: &Call<'_>) -> Values {
        if call.node.int("training_mode", 0)? != 0 {
            return Err("it is in training mode".to_owned());
        }
        let x = self.float(call, call.input(0)?)?;
        if x.merged > 1 {
            return Err("it normalizes with the batch merged into another axis".to_owned());
        }
        let eps = call.node.float("epsilon", 1e-5)?;
        let mut inputs = vec![x.id];
        // The inputs of the graph's operator are mean, variance, weight and bias.
        for at in [3, 4, 1, 2] {
            let value = call.input(at)?;
            if let Value::Run(_) = value {
                return Err("its statistics must be known".to_owned());
            }
            inputs.push(self.run(value)?.id);
        }
        let id = self.draft.add(&call.name, BatchNorm { eps }, &inputs)?;
        self.name_after(id, self.module(call.input(1)?));
        one(Run { id, kind: Kind::Float, ..x })
    }

    /// A softmax or its logarithm; `along` adds the nodes for a value and the axis of it.
    fn softmax_along(
        &mut self,
        call: &Call<'_>,
        along: fn(&mut Self, &Call<'_>, Run, usize) -> Result<NodeId, String>,
    ) -> Values {
        let old = self.opset < 13;
        let x = self.float(call, call.input(0)?)?;
        let lengths = self.logical(call.input(0)?);
        let at = axis(call.node.int("axis", if old { 1 } else { -1 })?, lengths.len())?;
        // Before opset 13, all axes from this one on count as one.
        let flat = old && lengths[at + 1..].iter().any(|length| *length != Length::Known(1));
        let mut result = x;
        if flat {
            result = self.reshaped(&call.part("flat"), x, &slices::flatten(&lengths, at as i64)?)?;
        }
        let axis = self.inner_axis(result, if flat { 1 } else { at })?;
        result.id = along(self, call, result, axis)?;
        if flat {
            result = self.reshaped(&call.name, result, &lengths)?;
        }
        one(Run { kind: Kind::Float, ..result })
    }

    fn softmax(&mut self, call: &Call<'_>, x: Run, axis: usize) -> Result<NodeId, String> {
        self.draft.add(&call.name, Softmax { axis }, &[x.id])
    }

    /// `x − max − log Σ exp(x − max)` along an axis. The logarithm of a softmax would be −∞ where the softmax rounds to 0.
    fn log_softmax(&mut self, call: &Call<'_>, x: Run, axis: usize) -> Result<NodeId, String> {
        let mut kept = self.logical(&Value::Run(x));
        kept[axis - usize::from(x.merged > 1)] = Length::Known(1);
        let max = self.draft.add(&call.part("max"), Max { axis }, &[x.id])?;
        let max = self.reshaped(&call.part("max.kept"), Run { id: max, ..x }, &kept)?;
        let negative = self.mul_scalar(&call.part("max.negative"), max.id, -1.0)?;
        let shifted = self.draft.add(&call.part("shifted"), Add, &[x.id, negative])?;
        let exp = self.unary(&call.part("exp"), UnaryOp::Exp, shifted)?;
        let sum = self.draft.add(&call.part("sum"), Sum { axis, checked: false }, &[exp])?;
        let log = self.unary(&call.part("log"), UnaryOp::Log, sum)?;
        let log = self.reshaped(&call.part("log.kept"), Run { id: log, ..x }, &kept)?;
        let negative = self.mul_scalar(&call.part("log.negative"), log.id, -1.0)?;
        self.draft.add(&call.name, Add, &[shifted, negative])
    }
}

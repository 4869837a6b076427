//! Normalizations and softmax.

use super::importer::Importer;
use super::operator::{Call, Operator, Values, one};
use crate::graph::NodeId;
use crate::onnx::attributes::int_attribute;
use crate::onnx::host::{Data, Host, Length, Walk, axis, broadcast, kept, show};
use crate::onnx::slices;
use crate::onnx::value::{Kind, Run, Value};
use crate::ops::{Add, AveragePool, BatchNorm, LayerNorm, Max, Mul, RmsNorm, Softmax, Sum, UnaryOp, Window};

operators! {
    "BatchNormalization" => Operator::nodes(Importer::batch_norm),
    "GroupNormalization" => Operator::nodes(Importer::group_norm),
    "Hardmax" => Operator::nodes(Importer::hardmax).behind(|i, c, o| i.last_behind(c, o, if i.opset < 13 { 1 } else { -1 })),
    "InstanceNormalization" => Operator::nodes(Importer::instance_norm),
    "LayerNormalization" => Operator::nodes(Importer::layer_norm).behind(|i, c, o| i.last_behind(c, o, -1)),
    "LogSoftmax" => Operator::nodes(|i, c| i.softmax_along(c, Importer::log_softmax))
        .behind(|i, c, o| i.last_behind(c, o, if i.opset < 13 { 1 } else { -1 })),
    "LRN" => Operator::nodes(Importer::local_response_norm),
    "RMSNormalization" => Operator::nodes(Importer::rms_norm).behind(|i, c, o| i.last_behind(c, o, -1)),
    // ONNX Runtime writes its own name for it into the default domain.
    "SimplifiedLayerNormalization" => Operator::nodes(Importer::rms_norm).behind(|i, c, o| i.last_behind(c, o, -1)),
    "Softmax" => Operator::nodes(|i, c| i.softmax_along(c, Importer::softmax))
        .behind(|i, c, o| i.last_behind(c, o, if i.opset < 13 { 1 } else { -1 })),
}

impl Importer {
    /// 1 for the first of the largest elements of an axis, and 0 for the others.
    fn hardmax(&mut self, call: &Call<'_>) -> Values {
        let lengths = self.logical(call.input(0)?);
        let at = axis(call.node.int("axis", if self.opset < 13 { 1 } else { -1 })?, lengths.len())?;
        // Until opset 13, all axes from this one are one.
        if self.opset < 13 && at + 1 != lengths.len() {
            return Err(format!("it works along axis {at} and those behind it; supported is the last axis"));
        }
        let Length::Known(depth) = lengths[at] else { return Err("it works along the batch".to_owned()) };
        let attributes = [int_attribute("axis", at as i64), int_attribute("keepdims", 0)];
        let largest = self.emitted(call, "largest", "ArgMax", &[call.input(0)?], &attributes)?;
        let depth = Value::Host(Host::new(Vec::new(), Data::I64(vec![depth])).into());
        let values = Value::Host(Host::new(vec![2], Data::F32(vec![0.0, 1.0])).into());
        self.result(call, "OneHot", &[&largest, &depth, &values], &[int_attribute("axis", at as i64)])
    }

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
        // An attribute of opset 7: with 0, every element of a row has statistics of its own.
        if call.node.int("spatial", 1)? != 1 {
            return Err("its spatial is 0; supported is 1".to_owned());
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

    fn instance_norm(&mut self, call: &Call<'_>) -> Values {
        let x = self.float(call, call.input(0)?)?;
        let (lengths, channels) = self.channels(x)?;
        self.grouped(call, x, &lengths, channels, channels)
    }

    fn group_norm(&mut self, call: &Call<'_>) -> Values {
        let x = self.float(call, call.input(0)?)?;
        let (lengths, channels) = self.channels(x)?;
        let groups = call.node.int("num_groups", 0)?;
        match usize::try_from(groups) {
            Ok(groups @ 1..) if channels.is_multiple_of(groups) => self.grouped(call, x, &lengths, channels, groups),
            _ => Err(format!("its num_groups is {groups}, which does not divide its {channels} channels")),
        }
    }

    /// The shape of a value with channels on axis 1, and their number.
    fn channels(&self, x: Run) -> Result<(Vec<Length>, usize), String> {
        let lengths = self.logical(&Value::Run(x));
        match lengths[..] {
            [_, Length::Known(channels @ 1..), ..] => Ok((lengths, channels as usize)),
            _ => Err(format!("its input {} has no channels on axis 1", show(&lengths))),
        }
    }

    /// A normalization over groups of channels and all axes behind them: a layer normalization of the flat groups, times a scale and
    /// plus a bias for each channel.
    fn grouped(&mut self, call: &Call<'_>, x: Run, lengths: &[Length], channels: usize, groups: usize) -> Values {
        let eps = call.node.float("epsilon", 1e-5)?;
        let flat = slices::flatten(lengths, 1)?[1];
        let Length::Known(elements) = flat else { return Err("it normalizes along the batch".to_owned()) };
        let size = elements as usize / groups;
        let rows = [lengths[0], Length::Known(groups as i64), Length::Known(size as i64)];
        self.budget.take(size, 8)?;
        let [weight, bias] = [1.0, 0.0].map(|value| Host::new(vec![size], Data::F32(vec![value; size])));
        let (weight, bias) = (self.host_constant(&weight)?, self.host_constant(&bias)?);
        let rows = self.reshaped(&call.part("groups"), x, &rows)?;
        let id = self.draft.add(&call.part("normalized"), LayerNorm { eps }, &[rows.id, weight, bias])?;
        let y = self.reshaped(&call.part("channels"), Run { id, kind: Kind::Float, ..rows }, lengths)?;
        // Until opset 20, a group normalization has a scale for each group.
        let of_groups = self.opset < 21 && call.node.op_type == "GroupNormalization";
        let expected = if of_groups { groups } else { channels };
        let mut dims = vec![1; lengths.len() - 1];
        dims[0] = channels;
        let scale = self.for_channels(call.input(1)?, expected, &dims)?;
        let bias = self.for_channels(call.input(2)?, expected, &dims)?;
        let scaled = self.draft.add(&call.part("scaled"), Mul, &[y.id, scale])?;
        let id = self.draft.add(&call.name, Add, &[scaled, bias])?;
        self.norm(call, y, id)
    }

    /// A known vector of `expected` numbers, each of them for as many of the `dims[0]` channels, as a constant of shape `dims`.
    fn for_channels(&mut self, value: &Value, expected: usize, dims: &[usize]) -> Result<NodeId, String> {
        let host = self.host(value)?;
        if host.rows.is_some() || host.dims != [expected] {
            return Err(format!("its parameter has shape {}, expected [{expected}]", show(&host.logical())));
        }
        let each = dims[0] / expected;
        let floats = host.to_floats()?.into_iter().flat_map(|v| std::iter::repeat_n(v, each)).collect();
        self.host_constant(&Host { dims: dims.to_vec(), data: Data::F32(floats), ..(*host).clone() })
    }

    /// `x · (bias + alpha · mean)^−beta`, where the mean is that of the squares of `size` neighbouring channels, with zeros beside the
    /// first and the last one.
    fn local_response_norm(&mut self, call: &Call<'_>) -> Values {
        let node = call.node;
        let (alpha, beta) = (node.float("alpha", 1e-4)?, node.float("beta", 0.75)?);
        let bias = node.float("bias", 1.0)?;
        if !(alpha >= 0.0 && bias > 0.0) {
            return Err(format!("its alpha is {alpha} and its bias {bias}; supported are 0 or more, and more than 0"));
        }
        let size = match node.int("size", 0)? {
            size @ 1.. => size as usize,
            size => return Err(format!("its size is {size}, expected at least 1")),
        };
        let x = self.float(call, call.input(0)?)?;
        let (lengths, channels) = self.channels(x)?;
        let squares = self.draft.add(&call.part("squares"), Mul, &[x.id, x.id])?;
        let pixels = slices::flatten(&lengths, 2)?[1];
        let image = [lengths[0], Length::Known(1), Length::Known(channels as i64), pixels];
        let image = self.reshaped(&call.part("image"), Run { id: squares, kind: Kind::Float, ..x }, &image)?;
        self.image(image)?;
        let window = Window::new(&[size, 1]).with_uneven_padding(&[(size - 1) / 2, 0], &[size / 2, 0]);
        let mean = self.draft.add(&call.part("mean"), AveragePool::new(window), &[image.id])?;
        let mean = self.reshaped(&call.part("channels"), Run { id: mean, ..image }, &lengths)?;
        let scaled = self.mul_scalar(&call.part("scaled"), mean.id, alpha)?;
        let sum = self.add_scalar(&call.part("sum"), scaled, bias)?;
        let log = self.unary(&call.part("log"), UnaryOp::Log, sum)?;
        let exponent = self.mul_scalar(&call.part("exponent"), log, -beta)?;
        let factor = self.unary(&call.part("factor"), UnaryOp::Exp, exponent)?;
        one(Run { id: self.draft.add(&call.name, Mul, &[x.id, factor])?, kind: Kind::Float, ..x })
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

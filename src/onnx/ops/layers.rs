//! Layers: products, normalizations, softmax and tables.

use std::collections::BTreeSet;

use super::{Call, Data, Host, Importer, Kind, Quantized, Run, Value, Values, one};
use crate::graph::NodeId;
use crate::onnx::fold::reduced_axes;
use crate::onnx::host::{Length, axis, broadcast, show};
use crate::onnx::integers::is_integer;
use crate::onnx::slices;
use crate::onnx::tensor::{transposed, type_name};
use crate::ops::{Add, BatchNorm, Embedding, Input, LayerNorm, Linear, MatMul, Max, Op, Softmax, Sum, UnaryOp};
use crate::values::Tensor;

impl Importer {
    pub(super) fn matmul(&mut self, call: &Call<'_>) -> Values {
        let (a, b) = (call.input(0)?, call.input(1)?);
        let (left, right) = (self.logical(a), self.logical(b));
        if left.is_empty() || right.is_empty() {
            return Err("it multiplies a number without axes".to_owned());
        }
        if let (Value::Stored(_) | Value::Host(_) | Value::Quantized(_), [_, _]) = (b, right.as_slice()) {
            let x = self.float(call, a)?;
            let weight = self.weight(b, true)?;
            let id = self.draft.add(&call.name, Op::Linear(Linear), &[x.id, weight])?;
            self.name_after(id, self.module(b));
            return one(Run { id, kind: Kind::Float, ..x });
        }
        // A vector is a matrix of one row or column, which the result then lacks.
        let (mut x, mut y) = (self.float(call, a)?, self.float(call, b)?);
        // The node has two axes for a batch that is merged with another; the same two lead both stacks, or one alone.
        let merged = x.merged.max(y.merged);
        let in_both = x.merged == y.merged || [x, y].iter().any(|run| !self.draft.shape(run.id).is_batched());
        if merged > 1 && (!in_both || left.len() < 2 || right.len() < 2 || matches!(right[..], [Length::Rows(_), _])) {
            return Err("it multiplies stacks of matrices with the batch merged into another axis".to_owned());
        }
        if left.len() == 1 {
            x = self.reshaped(&call.part("left"), x, &[Length::Known(1), left[0]])?;
        }
        if right.len() == 1 {
            y = self.reshaped(&call.part("right"), y, &[right[0], Length::Known(1)])?;
        }
        let id = self.draft.add(&call.name, Op::MatMul(MatMul), &[x.id, y.id])?;
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

    /// A known matrix as the weight `[N, K]` of a linear layer; `transpose` if it is `[K, N]`.
    fn weight(&mut self, value: &Value, transpose: bool) -> Result<NodeId, String> {
        match value {
            // Swapped twice, it is as it is stored.
            Value::Stored(at) if self.stored[*at].swap_of.is_some() => {
                let original = Value::Stored(self.stored[*at].swap_of.unwrap_or(*at));
                self.weight(&original, !transpose)
            }
            Value::Stored(at) if !transpose => self.stored_constant(*at),
            Value::Stored(at) => {
                if let Some(&id) = self.constants.get(&(*at, true)) {
                    return Ok(id);
                }
                let stored = &self.stored[*at];
                let (&[k, n], true) = (stored.dims.as_slice(), stored.is_float()) else {
                    return Err("its weight is not a matrix of floats".to_owned());
                };
                let tensor = transposed(&stored.floats()?, k, n);
                let tensor = Tensor::from_f32(&[n, k], tensor).map_err(|e| e.to_string())?;
                let id = self.draft.constant(stored.name(), tensor);
                self.constants.insert((*at, true), id);
                Ok(id)
            }
            Value::Quantized(quantized) if transpose => {
                // Only the constant stays, which counts itself.
                let quantized = quantized.transposed()?;
                self.quantized_constant(&quantized)
            }
            Value::Quantized(quantized) => self.quantized_constant(quantized),
            _ => {
                let host = self.host(value)?;
                host.fixed()?;
                let (&[k, n], Some(floats)) = (host.dims.as_slice(), host.floats()) else {
                    return Err("its weight is not a matrix of floats".to_owned());
                };
                if !transpose {
                    return self.host_constant(&host);
                }
                self.budget.take(floats.len(), 4)?;
                let tensor = Tensor::from_f32(&[n, k], transposed(floats, k, n)).map_err(|e| e.to_string())?;
                Ok(self.draft.constant(host.name.as_deref().unwrap_or_default(), tensor))
            }
        }
    }

    pub(super) fn gemm(&mut self, call: &Call<'_>) -> Values {
        let node = call.node;
        let (alpha, beta) = (node.float("alpha", 1.0)?, node.float("beta", 1.0)?);
        let (a, b) = (call.input(0)?, call.input(1)?);
        if self.logical(a).len() != 2 || self.logical(b).len() != 2 {
            return Err(format!("it multiplies {} and {}", show(&self.logical(a)), show(&self.logical(b))));
        }
        let mut x = self.float(call, a)?;
        if node.int("transA", 0)? != 0 {
            x = self.transposed(&call.part("left"), x, &[1, 0])?;
        }
        let trans_b = node.int("transB", 0)? != 0;
        let n = self.logical(b)[usize::from(!trans_b)];
        let linear = !matches!(b, Value::Run(_));
        let bias = call.optional(2).filter(|_| beta != 0.0);
        // A bias that is one row belongs to the layer, if nothing stands between them.
        let own_bias = match bias {
            Some(bias) if linear && alpha == 1.0 => self.bias(bias, beta, n)?,
            _ => None,
        };
        let name = if alpha == 1.0 && (bias.is_none() || own_bias.is_some()) {
            call.name.clone()
        } else {
            call.part("product")
        };
        let mut result = if linear {
            let weight = self.weight(b, !trans_b)?;
            let inputs: Vec<NodeId> = [x.id, weight].into_iter().chain(own_bias).collect();
            let id = self.draft.add(&name, Op::Linear(Linear), &inputs)?;
            let module = self.module(b).or_else(|| own_bias.and_then(|_| self.module(bias?)));
            self.name_after(id, module);
            Run { id, kind: Kind::Float, ..x }
        } else {
            let mut y = self.float(call, b)?;
            if trans_b {
                y = self.transposed(&call.part("right"), y, &[1, 0])?;
            }
            if x.merged > 1 || y.merged > 1 {
                return Err("it multiplies matrices with the batch merged into another axis".to_owned());
            }
            Run { id: self.draft.add(&name, Op::MatMul(MatMul), &[x.id, y.id])?, merged: 1, kind: Kind::Float }
        };
        result.id = self.mul_scalar(&call.part("alpha"), result.id, alpha)?;
        if let (Some(bias), None) = (bias, own_bias) {
            let bias = if beta == 1.0 {
                bias.clone()
            } else if let Value::Run(_) = bias {
                let run = self.float(call, bias)?;
                Value::Run(Run { id: self.mul_scalar(&call.part("beta"), run.id, beta)?, ..run })
            } else {
                let host = self.host(bias)?;
                let data = Data::F32(host.to_floats()?.into_iter().map(|v| v * beta).collect());
                Value::Host(Host { data, ..(*host).clone() }.into())
            };
            let product = Value::Run(result);
            if broadcast(&self.logical(&product), &self.logical(&bias))? != self.logical(&product) {
                return Err("its bias has more elements than its product".to_owned());
            }
            result = self.join(call, &call.name, super::elementwise::Join::Add, &product, &bias)?;
        }
        one(result)
    }

    /// A known bias `[N]` of a layer with `n` outputs, if it is one row.
    fn bias(&mut self, value: &Value, beta: f32, n: Length) -> Result<Option<NodeId>, String> {
        let Length::Known(n) = n else { return Ok(None) };
        let n = n as usize;
        if let Value::Run(_) = value {
            return Ok(None);
        }
        let lengths = self.logical(value);
        let row = match lengths.as_slice() {
            [] | [Length::Known(1)] | [Length::Known(1), Length::Known(1)] => false,
            [Length::Known(m)] | [Length::Known(1), Length::Known(m)] if *m as usize == n => true,
            _ => return Ok(None),
        };
        if beta == 1.0 && row && lengths.len() == 1 {
            return match value {
                Value::Quantized(quantized) => self.quantized_constant(quantized).map(Some),
                Value::Stored(at) if self.stored[*at].is_float() => self.stored_constant(*at).map(Some),
                _ => {
                    let host = self.host(value)?;
                    self.host_constant(&host).map(Some)
                }
            };
        }
        let host = self.host(value)?;
        let floats: Vec<f32> = host.to_floats()?.into_iter().map(|v| v * beta).collect();
        self.budget.take(n, 4)?;
        let floats = if row { floats } else { vec![floats.first().copied().unwrap_or(0.0); n] };
        let host = Host { data: Data::F32(floats), dims: vec![n], rows: None, ..(*host).clone() };
        self.host_constant(&host).map(Some)
    }

    pub(super) fn layer_norm(&mut self, call: &Call<'_>) -> Values {
        let node = call.node;
        let x = self.float(call, call.input(0)?)?;
        let lengths = self.logical(call.input(0)?);
        let at = axis(node.int("axis", -1)?, lengths.len())?;
        self.inner_axis(x, at)?;
        let eps = node.float("epsilon", 1e-5)?;
        let weight = self.affine(call, 1, &lengths[at..], 1.0)?;
        let bias = self.affine(call, 2, &lengths[at..], 0.0)?;
        let id = self.draft.add(&call.name, Op::LayerNorm(LayerNorm { eps }), &[x.id, weight, bias])?;
        let module = call.optional(1).and_then(|w| self.module(w)).or_else(|| self.module(call.optional(2)?));
        self.name_after(id, module);
        one(Run { id, kind: Kind::Float, ..x })
    }

    /// A known parameter of a normalization in the shape of what is normalized; `default` without it.
    fn affine(&mut self, call: &Call<'_>, at: usize, lengths: &[Length], default: f32) -> Result<NodeId, String> {
        let (_, dims) = crate::onnx::host::kept(lengths)?;
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
        let places = crate::onnx::host::Walk::broadcast(&host.dims, &dims);
        let data = Data::F32(places.map(|i| floats[i]).collect());
        self.host_constant(&Host { dims, data, ..(*host).clone() })
    }

    pub(super) fn batch_norm(&mut self, call: &Call<'_>) -> Values {
        if call.node.int("training_mode", 0)? != 0 {
            return Err("it is in training mode".to_owned());
        }
        let x = self.float(call, call.input(0)?)?;
        if x.merged > 1 {
            return Err("it normalizes with the batch merged into another axis".to_owned());
        }
        let eps = call.node.float("epsilon", 1e-5)?;
        let mut inputs = vec![x.id];
        // Ours are mean, variance, weight, bias.
        for at in [3, 4, 1, 2] {
            let value = call.input(at)?;
            if let Value::Run(_) = value {
                return Err("its statistics must be known".to_owned());
            }
            inputs.push(self.run(value)?.id);
        }
        let id = self.draft.add(&call.name, Op::BatchNorm(BatchNorm { eps }), &inputs)?;
        self.name_after(id, self.module(call.input(1)?));
        one(Run { id, kind: Kind::Float, ..x })
    }

    pub(super) fn softmax(&mut self, call: &Call<'_>) -> Values {
        let old = self.opset < 13;
        let x = self.float(call, call.input(0)?)?;
        let lengths = self.logical(call.input(0)?);
        let at = axis(call.node.int("axis", if old { 1 } else { -1 })?, lengths.len())?;
        let log = call.node.op_type == "LogSoftmax";
        // Before opset 13, all axes from this one on are one.
        let flat = old && lengths[at + 1..].iter().any(|length| *length != Length::Known(1));
        let mut result = x;
        if flat {
            result = self.reshaped(&call.part("flat"), x, &slices::flatten(&lengths, at as i64)?)?;
        }
        let axis = self.inner_axis(result, if flat { 1 } else { at })?;
        result = if log {
            self.log_softmax(call, result, axis)?
        } else {
            Run { id: self.op(&call.name, Op::Softmax(Softmax { axis }), result.id)?, ..result }
        };
        if flat {
            result = self.reshaped(&call.name, result, &lengths)?;
        }
        one(Run { kind: Kind::Float, ..result })
    }

    /// `x − max − log Σ exp(x − max)` along an axis of the node: a logarithm of a softmax would be −∞ where that rounds to 0.
    fn log_softmax(&mut self, call: &Call<'_>, x: Run, axis: usize) -> Result<Run, String> {
        let mut kept = self.logical(&Value::Run(x));
        kept[axis - usize::from(x.merged > 1)] = Length::Known(1);
        let max = self.op(&call.part("max"), Op::Max(Max { axis }), x.id)?;
        let max = self.reshaped(&call.part("max.kept"), Run { id: max, ..x }, &kept)?;
        let negative = self.mul_scalar(&call.part("max.negative"), max.id, -1.0)?;
        let shifted = self.draft.add(&call.part("shifted"), Op::Add(Add), &[x.id, negative])?;
        let exp = self.unary(&call.part("exp"), UnaryOp::Exp, shifted)?;
        let sum = self.op(&call.part("sum"), Op::Sum(Sum { axis, checked: false }), exp)?;
        let log = self.unary(&call.part("log"), UnaryOp::Log, sum)?;
        let log = self.reshaped(&call.part("log.kept"), Run { id: log, ..x }, &kept)?;
        let negative = self.mul_scalar(&call.part("log.negative"), log.id, -1.0)?;
        Ok(Run { id: self.draft.add(&call.name, Op::Add(Add), &[shifted, negative])?, ..x })
    }

    /// Whether ids are what the caller gives, moved at most: what is computed may be negative, which counts from the end.
    fn is_given(&self, ids: NodeId) -> bool {
        let (mut open, mut seen) = (vec![ids], BTreeSet::new());
        while let Some(id) = open.pop() {
            let node = self.draft.node(id);
            match node.op {
                Op::Input(Input) => {}
                Op::Reshape(_) | Op::Transpose(_) | Op::Slice(_) | Op::Concat(_) => {
                    open.extend(node.inputs.iter().filter(|&&input| seen.insert(input)));
                }
                _ => return false,
            }
        }
        true
    }

    /// Rows of a known table, by ids that are computed at run time.
    pub(super) fn embedding(&mut self, call: &Call<'_>, table: &Value, ids: &Value) -> Values {
        let ids = self.run(ids)?;
        if !matches!(ids.kind, Kind::Int(_)) || !self.is_given(ids.id) {
            return Err("its indices are computed; supported are those that are an input".to_owned());
        }
        if let Value::Run(_) = table {
            return Err("it takes rows of a value that is computed at run time".to_owned());
        }
        let of = self.type_of(table);
        if is_integer(of) {
            return Err(format!("it takes rows of a table of {} at run time", type_name(of)));
        }
        let lengths = self.logical(table);
        if reduced_axes(Some(&[call.node.int("axis", 0)?]), lengths.len(), false)?.first() != Some(&true) {
            return Err("it gathers along an axis that is not the first".to_owned());
        }
        let run = self.run(table)?;
        let flat = slices::flatten(&lengths, 1)?;
        let rows = self.reshaped(&call.part("table"), run, &flat)?;
        let id = self.draft.add(&call.name, Op::Embedding(Embedding), &[ids.id, rows.id])?;
        self.name_after(id, self.module(table));
        let mut target = self.logical(&Value::Run(ids));
        target.extend(&lengths[1..]);
        one(self.reshaped(&call.name, Run { id, kind: run.kind, ..ids }, &target)?)
    }
}

impl Quantized {
    /// With its two axes swapped.
    pub(super) fn transposed(&self) -> Result<Self, String> {
        let (&[k, n], Some(codes)) = (self.codes.shape(), self.codes.as_i8()) else {
            return Err("its weight is not a matrix of codes".to_owned());
        };
        let codes = Tensor::from_i8(&[n, k], transposed(codes, k, n)).map_err(|e| e.to_string())?;
        Ok(Self { codes, qparams: self.swapped_qparams(), name: self.name.clone() })
    }
}

//! `Gemm`, and the weights and biases of linear layers.

use super::elementwise::Join;
use super::importer::Importer;
use super::operator::{Call, Operator, Values, one};
use crate::graph::NodeId;
use crate::onnx::host::{Data, Host, Length, broadcast, show};
use crate::onnx::tensor::transposed;
use crate::onnx::value::{Kind, Run, Value};
use crate::ops::{Linear, MatMul};
use crate::values::Tensor;

operators! {
    "Gemm" => Operator::new(|f| f.gemm(), Importer::gemm).decoding(Importer::is_small_product),
}

impl Importer {
    fn gemm(&mut self, call: &Call<'_>) -> Values {
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
        let linear = !matches!(b, Value::Run(_));
        let bias = call.optional(2).filter(|_| beta != 0.0);
        // The layer takes the bias if it is one row and the product is not scaled before it is added.
        let n = self.logical(b)[usize::from(!trans_b)];
        let own_bias = match bias {
            Some(bias) if linear && alpha == 1.0 => self.bias(bias, beta, n)?,
            _ => None,
        };
        let is_last = alpha == 1.0 && (bias.is_none() || own_bias.is_some());
        let name = if is_last { call.name.clone() } else { call.part("product") };
        let mut result = if linear {
            let weight = self.weight(b, !trans_b)?;
            x = self.input_of_groups(call, x, weight)?;
            let inputs: Vec<NodeId> = [x.id, weight].into_iter().chain(own_bias).collect();
            let id = self.draft.add(&name, Linear::default(), &inputs)?;
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
            Run { id: self.draft.add(&name, MatMul::default(), &[x.id, y.id])?, merged: 1, kind: Kind::Float }
        };
        result.id = self.mul_scalar(&call.part("alpha"), result.id, alpha)?;
        if let (Some(bias), None) = (bias, own_bias) {
            let bias = self.scaled_bias(call, bias, beta)?;
            let product = Value::Run(result);
            if broadcast(&self.logical(&product), &self.logical(&bias))? != self.logical(&product) {
                return Err("its bias has more elements than its product".to_owned());
            }
            result = self.join(call, &call.name, Join::Add, &product, &bias)?;
        }
        one(result)
    }

    /// `beta` times a bias that is added to the product by a node of its own.
    fn scaled_bias(&mut self, call: &Call<'_>, bias: &Value, beta: f32) -> Result<Value, String> {
        if beta == 1.0 {
            return Ok(bias.clone());
        }
        if let Value::Run(_) = bias {
            let run = self.float(call, bias)?;
            return Ok(Value::Run(Run { id: self.mul_scalar(&call.part("beta"), run.id, beta)?, ..run }));
        }
        let host = self.host(bias)?;
        let data = Data::F32(host.to_floats()?.into_iter().map(|v| v * beta).collect());
        Ok(Value::Host(Host { data, ..(*host).clone() }.into()))
    }

    /// A known matrix as the weight `[N, K]` of a linear layer; `transpose` says that the matrix is `[K, N]`.
    pub(super) fn weight(&mut self, value: &Value, transpose: bool) -> Result<NodeId, String> {
        match value {
            // Two swaps of the axes give the tensor as it is stored.
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
                // The budget counts the constant alone, since nothing else stays in memory.
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
                if let Some(weight) = self.group_weight(&host, transpose)? {
                    return Ok(weight);
                }
                if !transpose {
                    return self.host_constant(&host);
                }
                self.budget.take(floats.len(), 4)?;
                let tensor = Tensor::from_f32(&[n, k], transposed(floats, k, n)).map_err(|e| e.to_string())?;
                Ok(self.draft.constant(host.name.as_deref().unwrap_or(""), tensor))
            }
        }
    }

    /// The bias `[N]` of a layer with `n` outputs, if it is known and the same for every row; it is multiplied by `beta`.
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
}

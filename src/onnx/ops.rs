//! Nodes that are computed at run time, by family, and what their inputs may be.

mod elementwise;
mod integers;
mod layers;
mod logic;
mod movement;
mod qdq;
mod reduce;

use std::sync::Arc;

use super::external::Folders;
use super::fold::{self, Fold};
use super::host::{Data, Host};
use super::import::Importer;
use super::names::clean;
use super::proto::{NodeProto, data_type as ty};
use super::slices;
use super::tensor::Stored;
pub(super) use super::values::{Kind, Quantized, Run, Value};
use crate::ops::{Op, Unary, UnaryOp};

/// Every operator that has a translation, at least of known inputs.
pub(super) const KNOWN: &[&str] = &[
    "Abs",
    "Add",
    "And",
    "BatchNormalization",
    "Cast",
    "CastLike",
    "Ceil",
    "Clip",
    "Concat",
    "Constant",
    "ConstantOfShape",
    "Cos",
    "CumSum",
    "DequantizeLinear",
    "Div",
    "Dropout",
    "Elu",
    "Equal",
    "Erf",
    "Exp",
    "Expand",
    "Flatten",
    "Floor",
    "Gather",
    "GatherElements",
    "Gelu",
    "Gemm",
    "Greater",
    "GreaterOrEqual",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "LayerNormalization",
    "LeakyRelu",
    "Less",
    "LessOrEqual",
    "Log",
    "LogSoftmax",
    "MatMul",
    "Max",
    "Mean",
    "Min",
    "Mish",
    "Mod",
    "Mul",
    "Neg",
    "Not",
    "Or",
    "PRelu",
    "Pow",
    "QuantizeLinear",
    "Range",
    "Reciprocal",
    "ReduceL1",
    "ReduceL2",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
    "Relu",
    "Reshape",
    "Round",
    "Selu",
    "Shape",
    "Sigmoid",
    "Sign",
    "Sin",
    "Size",
    "Slice",
    "Softmax",
    "Softplus",
    "Softsign",
    "Split",
    "Sqrt",
    "Squeeze",
    "Sub",
    "Sum",
    "Tanh",
    "Tile",
    "Transpose",
    "Trilu",
    "Unsqueeze",
    "Where",
    "Xor",
];

pub(super) type Values = Result<Vec<Value>, String>;

/// A node whose inputs are not all known.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) node: &'a NodeProto,
    pub(super) inputs: Vec<Option<Value>>,
    /// The name of what it becomes.
    pub(super) name: String,
}

impl Call<'_> {
    pub(super) fn input(&self, at: usize) -> Result<&Value, String> {
        self.optional(at).ok_or_else(|| format!("input {at} is missing"))
    }

    pub(super) fn optional(&self, at: usize) -> Option<&Value> {
        self.inputs.get(at).and_then(Option::as_ref)
    }

    /// The name of a part of it.
    pub(super) fn part(&self, part: &str) -> String {
        format!("{}.{part}", self.name)
    }
}

impl Importer {
    /// The results of a node of the default operator set.
    pub(super) fn evaluate(&mut self, node: &NodeProto, mut inputs: Vec<Option<Value>>) -> Values {
        match node.op_type.as_str() {
            "Constant" => return self.constant_node(node),
            "Identity" => {
                return inputs.into_iter().next().flatten().map(|v| vec![v]).ok_or("it has no input".to_owned());
            }
            "Shape" | "Size" => return self.shape_node(node, &inputs),
            "QuantizeLinear" | "DequantizeLinear" => {}
            // A large product of constants stays one, of weights as they are stored.
            "MatMul" | "Gemm" if !self.is_small_product(&inputs) => {}
            _ => {
                if let [Some(value)] = &inputs[..]
                    && let Some(same) = self.same_data(node, value)?
                {
                    return Ok(vec![same]);
                }
                let known = inputs.iter().flatten().all(|value| !matches!(value, Value::Run(_)));
                let transposed = node.op_type == "Transpose" && matches!(inputs[..], [Some(Value::Quantized(_))]);
                if known && !transposed {
                    let hosts = inputs
                        .iter()
                        .map(|value| value.as_ref().map(|value| self.host(value)).transpose())
                        .collect::<Result<Vec<_>, _>>()?;
                    let fold = Fold { node, inputs: &hosts, budget: &mut self.budget, opset: self.opset };
                    if let Some(results) = fold.run()? {
                        let value = |host: Host| Ok(Value::Host(Arc::new(host.in_range(&hosts)?)));
                        return results.into_iter().map(value).collect();
                    }
                    // Else it is computed like any other node, on constants.
                    inputs = hosts.into_iter().map(|host| host.map(Value::Host)).collect();
                }
            }
        }
        let call = Call { node, inputs, name: clean(node.title()) };
        self.translate(&call)
    }

    fn translate(&mut self, call: &Call<'_>) -> Values {
        let unary = |op| Op::Unary(Unary { op });
        match call.node.op_type.as_str() {
            "Add" | "Sum" | "Sub" | "Mul" | "Div" | "Min" | "Max" | "Mean" => self.arithmetic(call),
            "Pow" => self.power(call),
            "Neg" => self.scaled(call, -1.0),
            "Relu" => self.function(call, unary(UnaryOp::Relu)),
            "Sigmoid" => self.function(call, unary(UnaryOp::Sigmoid)),
            "Tanh" => self.function(call, unary(UnaryOp::Tanh)),
            "Sqrt" => self.function(call, unary(UnaryOp::Sqrt)),
            "Exp" => self.function(call, unary(UnaryOp::Exp)),
            "Log" => self.function(call, unary(UnaryOp::Log)),
            "Erf" => self.function(call, unary(UnaryOp::Erf)),
            "Abs" => self.function(call, unary(UnaryOp::Abs)),
            "Gelu" | "Clip" | "LeakyRelu" | "PRelu" | "HardSigmoid" | "HardSwish" | "Elu" | "Selu" | "Softplus"
            | "Softsign" | "Mish" | "Reciprocal" | "Sign" => self.activation(call),
            "Equal" | "Less" | "LessOrEqual" | "Greater" | "GreaterOrEqual" => self.comparison(call),
            "And" | "Or" | "Xor" | "Not" => self.logic(call),
            "Where" => self.choose(call),
            "Cast" | "CastLike" => self.cast(call),
            "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => self.reshape(call),
            "Transpose" => self.transpose(call),
            "Concat" => self.concat(call),
            "Slice" => self.slice(call),
            "Split" => self.split(call),
            "Expand" => self.expand(call),
            "Tile" => self.tile(call),
            "Gather" => self.gather(call),
            "Trilu" => self.trilu(call),
            "Dropout" => self.dropout(call),
            "MatMul" => self.matmul(call),
            "Gemm" => self.gemm(call),
            "LayerNormalization" => self.layer_norm(call),
            "BatchNormalization" => self.batch_norm(call),
            "Softmax" | "LogSoftmax" => self.softmax(call),
            "QuantizeLinear" => self.quantize_linear(call),
            "DequantizeLinear" => self.dequantize_linear(call),
            reduce if reduce.starts_with("Reduce") => self.reduce(call),
            _ => Err("it is supported only where its inputs are known while importing".to_owned()),
        }
    }

    /// What a node makes of a stored value without a copy of its data: floats of another width, or the two axes swapped.
    fn same_data(&mut self, node: &NodeProto, value: &Value) -> Result<Option<Value>, String> {
        let stored = match value {
            Value::Stored(at) if self.stored[*at].is_float() => Some(*at),
            Value::Quantized(_) => None,
            _ => return Ok(None),
        };
        match (node.op_type.as_str(), stored) {
            // All floats are computed in f32.
            ("Cast", _) => {
                let to = i32::try_from(node.int("to", 0)?).unwrap_or(0);
                let from = stored.map_or(ty::FLOAT, |at| self.stored[at].data_type);
                Ok((to == from || matches!(to, ty::FLOAT | ty::DOUBLE)).then(|| value.clone()))
            }
            ("Transpose", Some(at)) if self.stored[at].dims.len() == 2 => {
                if slices::perm(node.ints("perm")?, 2)? != [1, 0] {
                    return Ok(Some(value.clone()));
                }
                if let Some(other) = self.stored[at].swap_of.or_else(|| self.swaps.get(&at).copied()) {
                    return Ok(Some(Value::Stored(other)));
                }
                let Some(swapped) = self.stored[at].swapped(at) else { return Ok(None) };
                self.swaps.insert(at, self.stored.len());
                self.stored.push(swapped);
                Ok(self.swaps.get(&at).copied().map(Value::Stored))
            }
            _ => Ok(None),
        }
    }

    /// Whether factors are known, and not too large to be multiplied while importing.
    fn is_small_product(&self, inputs: &[Option<Value>]) -> bool {
        let elements = |value: &Value| match value {
            Value::Stored(at) => self.stored[*at].len(),
            Value::Host(host) => host.data.len(),
            Value::Quantized(quantized) => quantized.codes.len(),
            Value::Run(_) | Value::Unsupported => usize::MAX,
        };
        inputs.iter().flatten().all(|value| elements(value) <= fold::MAX_FACTOR)
    }

    fn constant_node(&mut self, node: &NodeProto) -> Values {
        let name = node.output.first().map(|name| Arc::from(name.as_str()));
        let host = if let Some(proto) = node.tensor("value")? {
            let stored = Stored::new(proto.clone(), Folders::default()).map_err(|e| e.to_string())?;
            // As an initializer: weights may stand here too.
            let stored_name = name.as_deref().unwrap_or_default();
            self.stored.push(stored.renamed(stored_name));
            return Ok(vec![Value::Stored(self.stored.len() - 1)]);
        } else if node.has("value_float") {
            Host::new(Vec::new(), Data::F32(vec![node.float("value_float", 0.0)?]))
        } else if node.has("value_int") {
            Host::new(Vec::new(), Data::I64(vec![node.int("value_int", 0)?]))
        } else if let Some(floats) = node.floats("value_floats")? {
            Host::new(vec![floats.len()], Data::F32(floats.to_vec()))
        } else if let Some(ints) = node.ints("value_ints")? {
            Host::new(vec![ints.len()], Data::I64(ints.to_vec()))
        } else {
            return Err("it has no value of numbers".to_owned());
        };
        Ok(vec![Value::Host(Arc::new(Host { name, ..host }))])
    }

    fn shape_node(&mut self, node: &NodeProto, inputs: &[Option<Value>]) -> Values {
        let value = inputs.first().and_then(Option::as_ref).ok_or("it has no input")?;
        let lengths = self.logical(value);
        let host = if node.op_type == "Size" {
            let size = slices::flatten(&lengths, 0)?.pop();
            Host::new(Vec::new(), Data::lengths(size.into_iter().collect()))
        } else {
            let rank = lengths.len() as i64;
            let bound = |v: i64| (if v < 0 { v.saturating_add(rank) } else { v }).clamp(0, rank) as usize;
            let (start, end) = (bound(node.int("start", 0)?), bound(node.int("end", rank)?));
            Host::vector(lengths.get(start..end).unwrap_or_default().to_vec())
        };
        Ok(vec![Value::Host(Arc::new(host))])
    }
}

/// One result.
pub(super) fn one(run: Run) -> Values {
    Ok(vec![Value::Run(run)])
}

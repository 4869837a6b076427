//! Nodes that are computed at run time, by family, and what their inputs may be.

mod elementwise;
mod layers;
mod logic;
mod movement;
mod qdq;
mod reduce;

use std::sync::Arc;

use super::dims::elements;
use super::fold::Fold;
use super::host::{Data, Host, Length};
use super::import::Importer;
use super::names::clean;
use super::proto::NodeProto;
use super::tensor::Stored;
use crate::graph::{NodeId, Op, UnaryOp};
use crate::qparams::TensorQParams;
use crate::tensor::{DType, Tensor};

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

/// A value while importing.
#[derive(Debug, Clone)]
pub(super) enum Value {
    /// A stored tensor, not decoded yet.
    Stored(usize),
    /// Known.
    Host(Arc<Host>),
    /// Known, as codes that are dequantized.
    Quantized(Arc<Quantized>),
    /// Computed at run time.
    Run(Run),
    /// The result of a node that is not supported.
    Unsupported,
}

/// A value that is computed at run time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) id: NodeId,
    /// If more than 1, the model's leading axis is `rows` times this, while the node has two axes for it.
    pub(super) merged: usize,
    pub(super) kind: Kind,
}

/// What the numbers of a value are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Float,
    /// Integers, in `i32`.
    Int,
    /// Integers, in `f32`.
    IntFloat,
    /// 0 and 1, in `f32`.
    Bool,
    /// int8 codes, or those of uint8 lowered by 128.
    Codes {
        unsigned: bool,
    },
}

/// A constant in codes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Quantized {
    pub(super) codes: Tensor,
    pub(super) qparams: TensorQParams,
    /// Its name in the file.
    pub(super) name: String,
}

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
            "QuantizeLinear" | "DequantizeLinear" | "MatMul" | "Gemm" => {}
            _ => {
                let known = inputs.iter().flatten().all(|value| !matches!(value, Value::Run(_)));
                let transposed = node.op_type == "Transpose" && matches!(inputs[..], [Some(Value::Quantized(_))]);
                if known && !transposed {
                    let hosts = inputs
                        .iter()
                        .map(|value| value.as_ref().map(|value| self.host(value)).transpose())
                        .collect::<Result<Vec<_>, _>>()?;
                    let fold = Fold { node, inputs: &hosts, budget: &mut self.budget };
                    if let Some(results) = fold.run()? {
                        return Ok(results.into_iter().map(|host| Value::Host(Arc::new(host))).collect());
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
        let unary = |op| Op::Unary(op);
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

    fn constant_node(&mut self, node: &NodeProto) -> Values {
        let name = node.output.first().map(|name| Arc::from(name.as_str()));
        let host = if let Some(proto) = node.tensor("value")? {
            let stored = Stored::new(proto.clone(), None).map_err(|e| e.to_string())?;
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
            let size = super::slices::flatten(&lengths, 0)?.pop();
            Host::new(Vec::new(), Data::lengths(size.into_iter().collect()))
        } else {
            let rank = lengths.len() as i64;
            let bound = |v: i64| (if v < 0 { v.saturating_add(rank) } else { v }).clamp(0, rank) as usize;
            let (start, end) = (bound(node.int("start", 0)?), bound(node.int("end", rank)?));
            Host::vector(lengths.get(start..end).unwrap_or_default().to_vec())
        };
        Ok(vec![Value::Host(Arc::new(host))])
    }

    /// The shape of a value as the model sees it.
    pub(super) fn logical(&self, value: &Value) -> Vec<Length> {
        let known = |dims: &[usize]| dims.iter().map(|&d| Length::Known(d as i64)).collect();
        match value {
            Value::Stored(at) => known(&self.stored[*at].dims),
            Value::Host(host) => host.logical(),
            Value::Quantized(quantized) => known(quantized.codes.shape()),
            Value::Unsupported => Vec::new(),
            Value::Run(run) => {
                let shape = self.draft.shape(run.id);
                if !shape.is_batched() {
                    return known(shape.dims());
                }
                let rest = &shape.dims()[usize::from(run.merged > 1)..];
                std::iter::once(Length::Rows(run.merged as i64)).chain(known(rest)).collect()
            }
        }
    }

    /// A known value, decoded.
    pub(super) fn host(&mut self, value: &Value) -> Result<Arc<Host>, String> {
        match value {
            Value::Host(host) => Ok(Arc::clone(host)),
            Value::Stored(at) => {
                if let Some(host) = self.decoded.get(at) {
                    return Ok(Arc::clone(host));
                }
                let stored = &self.stored[*at];
                self.budget.take(stored.decoded_bytes(), 1)?;
                let name = Some(Arc::from(stored.name()));
                if elements(&stored.dims).is_none() {
                    return Err(format!("shape {:?} is too large", stored.dims));
                }
                let (dims, data) = (stored.dims.clone(), stored.data()?);
                let host = Host { rows: None, dims, data, data_type: stored.data_type, name };
                let host = Arc::new(host);
                self.decoded.insert(*at, Arc::clone(&host));
                Ok(host)
            }
            Value::Quantized(quantized) => {
                self.budget.take(quantized.codes.len(), 4)?;
                Ok(Arc::new(quantized.host()))
            }
            Value::Run(_) | Value::Unsupported => Err("one of its inputs must be known while importing".to_owned()),
        }
    }

    /// A value as a node of the graph: known ones become constants.
    pub(super) fn run(&mut self, value: &Value) -> Result<Run, String> {
        let fixed = |id, kind| Ok(Run { id, merged: 1, kind });
        match value {
            Value::Run(run) => Ok(*run),
            Value::Stored(at) if self.stored[*at].is_float() => fixed(self.stored_constant(*at)?, Kind::Float),
            Value::Quantized(quantized) => fixed(self.quantized_constant(quantized)?, Kind::Float),
            Value::Host(_) | Value::Stored(_) => {
                let host = self.host(value)?;
                host.fixed()?;
                let kind = match host.data {
                    Data::F32(_) => Kind::Float,
                    Data::Bool(_) => Kind::Bool,
                    _ => Kind::IntFloat,
                };
                fixed(self.host_constant(&host)?, kind)
            }
            Value::Unsupported => Err("one of its inputs is not supported".to_owned()),
        }
    }

    /// A constant of floats, whatever the type of the value; the batch in front is 1.
    pub(super) fn host_constant(&mut self, host: &Host) -> Result<NodeId, String> {
        self.budget.take(host.data.len(), 4)?;
        let tensor = Tensor::from_f32(&host.dims, host.to_floats()?).map_err(|e| e.to_string())?;
        Ok(self.draft.constant(host.name.as_deref().unwrap_or_default(), tensor))
    }

    /// A stored tensor of floats as a constant, made once.
    pub(super) fn stored_constant(&mut self, at: usize) -> Result<NodeId, String> {
        if let Some(&id) = self.constants.get(&(at, false)) {
            return Ok(id);
        }
        let stored = &self.stored[at];
        let tensor = Tensor::from_f32(&stored.dims, stored.floats()?).map_err(|e| e.to_string())?;
        let id = self.draft.constant(stored.name(), tensor);
        self.constants.insert((at, false), id);
        Ok(id)
    }

    /// A value as floats: integers are converted.
    pub(super) fn float(&mut self, call: &Call<'_>, value: &Value) -> Result<Run, String> {
        let run = self.run(value)?;
        match run.kind {
            Kind::Float | Kind::IntFloat | Kind::Bool => Ok(run),
            Kind::Int => {
                let id = self.draft.add(&call.part("float"), Op::ToFloat, &[run.id])?;
                Ok(Run { id, kind: Kind::IntFloat, ..run })
            }
            Kind::Codes { .. } => Err("it computes on codes of quantized values".to_owned()),
        }
    }

    /// The only element of a known value, if it has one element.
    pub(super) fn scalar(&mut self, value: &Value) -> Option<f32> {
        let single = match value {
            Value::Run(_) | Value::Unsupported | Value::Quantized(_) => false,
            Value::Stored(at) => self.stored[*at].len() == 1,
            Value::Host(host) => host.data.len() == 1 && host.rows.is_none(),
        };
        if single { self.host(value).ok()?.scalar() } else { None }
    }

    /// Which axis of a node an axis of the model is; not the batch, whose axis is none of the node's.
    pub(super) fn inner_axis(&self, run: Run, axis: usize) -> Result<usize, String> {
        if axis == 0 && self.draft.shape(run.id).is_batched() {
            return Err("it works along the batch".to_owned());
        }
        Ok(axis + usize::from(run.merged > 1))
    }

    /// The name of the module that a value is a parameter of.
    pub(super) fn module(&self, value: &Value) -> Option<String> {
        let name = match value {
            Value::Stored(at) => self.stored[*at].name(),
            Value::Host(host) => host.name.as_deref()?,
            Value::Quantized(quantized) => &quantized.name,
            Value::Run(_) | Value::Unsupported => return None,
        };
        super::names::module(name)
    }

    /// Says that a node is named after a parameter of it.
    pub(super) fn name_after(&mut self, id: NodeId, module: Option<String>) {
        if let Some(module) = module {
            let node = &mut self.draft.nodes[id.index()];
            node.name.clone_from(&module);
            node.origin = module;
        }
    }

    pub(super) fn dtype(&self, run: Run) -> DType {
        self.draft.node(run.id).dtype
    }
}

/// One result.
pub(super) fn one(run: Run) -> Values {
    Ok(vec![Value::Run(run)])
}

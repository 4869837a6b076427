//! Import: from the bytes of a file to a graph.
//!
//! Each family of operators states in one file how its ONNX operators become nodes of the graph.

/// Defines the function `operator` of a family, which gives its ONNX operators by name.
macro_rules! operators {
    ($($($name:literal)|+ => $operator:expr),* $(,)?) => {
        pub(super) fn operator(op_type: &str) -> Option<Operator> {
            Some(match op_type {
                $($($name)|+ => $operator,)*
                _ => return None,
            })
        }

        /// The names of the family's operators.
        #[cfg(test)]
        pub(super) const NAMES: &[&str] = &[$($($name,)+)*];
    };
}

mod advice;
mod arithmetic;
mod attention;
mod behind;
mod blocks;
mod codes;
mod constant;
mod contrib;
mod conv;
mod deferred;
mod dispatch;
mod dynamic;
mod einsum;
mod elementwise;
mod embedding;
mod emitted;
mod finish;
mod grid_sample;
mod group_weights;
pub(super) mod importer;
mod integer;
mod linear;
mod local_functions;
mod loops;
mod loss;
mod matmul;
mod movement;
mod norm;
pub(super) mod operator;
mod order;
mod pool;
mod quantize;
mod quantized;
mod recurrent;
mod reduce;
mod rotary;
mod scatter;
mod scope;
mod trigonometry;
mod unary;
mod wide;
mod window;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use prost::Message;
use prost::bytes::Bytes;

use self::importer::Importer;
use self::local_functions::Functions;
use self::operator::Operator;
use super::dims::{self, Dims};
use super::draft::Draft;
use super::error::{EXAMPLE_LENGTH, OnnxError, UnsupportedNode};
use super::exported_functions::DOMAIN;
use super::external::{self, Folders};
use super::host::Budget;
use super::names::clean;
use super::proto::{GraphProto, ModelProto, NodeProto, SparseTensorProto, ValueInfoProto, data_type as ty};
use super::scan;
use super::tensor::{Stored, element_type, numbers, type_name};
use super::value::{Kind, Run, Value};
use super::{ImportOptions, OPSETS};
use crate::graph::{DeclaredTypes, Graph, NodeId};
use crate::ops::{Input, Op, Reshape};
use crate::values::DType;

#[cfg(test)]
pub(super) use self::dispatch::names;

/// The domain of ONNX Runtime's own operators.
const CONTRIB: &str = "com.microsoft";

/// Bytes that constants may take however small a model is.
const FLOOR: usize = 64 << 20;

pub(super) fn import(bytes: Bytes, folders: Folders<'_>, options: &ImportOptions) -> Result<Graph, OnnxError> {
    let import = |bytes: Bytes, options: &ImportOptions| import_with(bytes, folders, options, FLOOR);
    import(bytes.clone(), options).map_err(|error| {
        let again = |options: &ImportOptions| import(bytes.clone(), options);
        advice::fixed(advice::tried(error, options, again), options, again)
    })
}

/// Imports a model whose constants may take at least `floor` bytes.
pub(super) fn import_with(
    bytes: Bytes,
    folders: Folders<'_>,
    options: &ImportOptions,
    floor: usize,
) -> Result<Graph, OnnxError> {
    let file_bytes = bytes.len();
    let (opset, functions, mut graph) = decode(bytes)?;
    let stored = std::mem::take(&mut graph.initializer).into_iter().map(|proto| Stored::new(proto, folders));
    let stored = stored.collect::<Result<Vec<_>, _>>()?;
    let (referred, covered) = external::coverage(stored.iter().filter_map(|tensor| tensor.external.as_ref()));
    if referred > covered.saturating_mul(2).max(floor as u64) {
        return Err(OnnxError::Overlap { referred, covered });
    }
    if let Some(sparse) = graph.sparse_initializer.first() {
        return Err(is_sparse(sparse));
    }
    let mut values: HashMap<String, Value> = HashMap::new();
    for (at, tensor) in stored.iter().enumerate() {
        if values.insert(tensor.name().to_owned(), Value::Stored(at)).is_some() {
            return Err(OnnxError::Duplicate { name: tensor.name().to_owned() });
        }
    }
    // Old files list stored tensors among the inputs too.
    let inputs: Vec<&ValueInfoProto> = graph.input.iter().filter(|input| !values.contains_key(&input.name)).collect();
    for input in &inputs {
        // The node of the input takes the place of this value as soon as its shape is known.
        if values.insert(input.name.clone(), Value::Unsupported).is_some() {
            return Err(OnnxError::Duplicate { name: input.name.clone() });
        }
    }
    arithmetic::recognize(&mut graph.node, &stored);
    let outputs: Vec<&str> = graph.output.iter().map(|output| output.name.as_str()).collect();
    let order = order::order(&graph.node, &outputs, |name| values.contains_key(name))?;
    let dims = dims::resolve(&inputs, &options.dims).map_err(|error| match error {
        OnnxError::MissingDims(_) => unknown_operators(&graph, &order, &functions).unwrap_or(error),
        error => error,
    })?;
    let file_and_data_bytes = file_bytes.saturating_add(usize::try_from(covered).unwrap_or(usize::MAX));
    let mut importer = Importer {
        opset,
        draft: Draft::new(file_bytes),
        budget: Budget::new(file_and_data_bytes, floor),
        stored,
        swaps: HashMap::new(),
        decoded: HashMap::new(),
        unpacked: HashSet::new(),
        constants: HashMap::new(),
        dequantized: HashMap::new(),
        batch: dims.batch.clone(),
        values,
        reading: Vec::new(),
        operator: dispatch::operator,
        integer_groups: options.integer_groups,
        group_weights: HashMap::new(),
        functions,
        depth: 0,
        unsupported: Vec::new(),
    };
    let mut declared = importer.inputs(&inputs, dims)?;
    importer.nodes(&graph.node, order, &outputs, |_| true);
    if !importer.unsupported.is_empty() {
        return Err(OnnxError::Unsupported(importer.unsupported));
    }
    let outputs = importer.outputs(&graph.output)?;
    let Importer { draft, .. } = importer;
    for (output, (id, name)) in graph.output.iter().zip(&outputs) {
        if let Some(data_type) = declared_type(output, element_type(draft.node(*id).dtype)) {
            declared.outputs.insert(name.clone(), data_type);
        }
    }
    finish::finish(draft, outputs, declared)
}

/// The opset, the functions and the graph of a file.
fn decode(bytes: Bytes) -> Result<(i64, Functions, GraphProto), OnnxError> {
    scan::check(&bytes)?;
    let model = ModelProto::decode(bytes).map_err(|e| OnnxError::Decode { message: e.to_string() })?;
    let opset = model.opset_import.iter().find(|set| matches!(set.domain.as_str(), "" | "ai.onnx"));
    let version = opset.map_or(0, |set| set.version);
    let Some(graph) = model.graph else {
        return Err(OnnxError::Decode { message: "there is no graph in it".to_owned() });
    };
    let functions = Functions::new(model.functions)?;
    if OPSETS.contains(&version) { Ok((version, functions, graph)) } else { Err(OnnxError::Opset { version }) }
}

/// The number of nodes of each operator.
pub(super) fn operators(bytes: Bytes) -> Result<BTreeMap<String, usize>, OnnxError> {
    let (_, _, graph) = decode(bytes)?;
    let mut counts = BTreeMap::new();
    graph.node.iter().for_each(|node| *counts.entry(operator_name(node)).or_default() += 1);
    Ok(counts)
}

fn is_sparse(sparse: &SparseTensorProto) -> OnnxError {
    let tensor = sparse.values.as_ref().map_or_else(String::new, |values| values.name.clone());
    OnnxError::Tensor { tensor, problem: "is sparse, which is not supported".to_owned() }
}

/// The error that lists the nodes of unknown operators, if there are any. No length of a dimension helps such a model.
fn unknown_operators(graph: &GraphProto, order: &[usize], functions: &Functions) -> Option<OnnxError> {
    let nodes = order.iter().map(|&at| &graph.node[at]).filter(|node| functions.of(node).is_none());
    let unknown: Vec<_> = nodes.filter_map(|node| Some(unsupported(node, known(node).err()?, None))).collect();
    (!unknown.is_empty()).then_some(OnnxError::Unsupported(unknown))
}

/// The type that a file declares, unless an export would declare `usual` anyway.
fn declared_type(value: &ValueInfoProto, usual: i32) -> Option<String> {
    let elem_type = value.r#type.as_ref()?.tensor_type.as_ref()?.elem_type;
    (elem_type != usual && numbers().any(|(number, _)| number == elem_type)).then(|| type_name(elem_type))
}

/// The treatment of a node's operator, `None` for one that contains graphs. An error is the reason why no node of that operator can be imported.
fn known(node: &NodeProto) -> Result<Option<Operator>, String> {
    if node.domain == CONTRIB {
        let families = [contrib::operator, quantized::operator, blocks::operator];
        let own = families.iter().find_map(|family| family(&node.op_type));
        let own = own.or_else(|| dynamic::contrib(&node.op_type));
        let same = || contrib::is_same(&node.op_type).then(|| dispatch::operator(&node.op_type)).flatten();
        return own.or_else(same).map(Some).ok_or_else(|| "the operator is not supported".to_owned());
    }
    if node.domain == DOMAIN {
        return arithmetic::operator(&node.op_type).map(Some).ok_or_else(|| "the operator is not supported".to_owned());
    }
    if !node.is_default_domain() {
        return Err(format!("operators of domain {} are not supported", node.domain));
    }
    if let "If" | "Loop" | "Scan" = node.op_type.as_str() {
        return Ok(None);
    }
    if node.has_graph() {
        return Err("it contains a graph of its own".to_owned());
    }
    dispatch::operator(&node.op_type).map(Some).ok_or_else(|| "the operator is not supported".to_owned())
}

fn unsupported(node: &NodeProto, reason: String, dim: Option<String>) -> UnsupportedNode {
    let (name, op_type) = (node.title().to_owned(), operator_name(node));
    UnsupportedNode { name, op_type, reason, dim, length: EXAMPLE_LENGTH, given: None }
}

/// The name of a node's operator, with its domain unless that is the default one.
fn operator_name(node: &NodeProto) -> String {
    if node.is_default_domain() { node.op_type.clone() } else { format!("{}.{}", node.domain, node.op_type) }
}

fn input_type(input: &ValueInfoProto) -> Result<(DType, Kind), OnnxError> {
    let elem_type = input.r#type.as_ref().and_then(|t| t.tensor_type.as_ref()).map_or(0, |t| t.elem_type);
    Ok(match elem_type {
        ty::FLOAT | ty::FLOAT16 | ty::BFLOAT16 | ty::DOUBLE => (DType::F32, Kind::Float),
        ty::INT64 | ty::INT32 | ty::INT16 | ty::UINT8 | ty::UINT16 | ty::UINT32 | ty::UINT64 | ty::BOOL => {
            (DType::I32, Kind::Int(elem_type))
        }
        ty::INT8 => (DType::I8, Kind::Quantized { unsigned: false }),
        other => {
            let problem = format!("has type {}, which is not supported", type_name(other));
            return Err(OnnxError::Input { input: input.name.clone(), problem });
        }
    })
}

impl Importer {
    /// Adds the inputs of the model. The types that the file declares for them are returned.
    fn inputs(&mut self, inputs: &[&ValueInfoProto], dims: Dims) -> Result<DeclaredTypes, OnnxError> {
        let mut declared = DeclaredTypes::default();
        for (input, shape) in inputs.iter().zip(dims.shapes) {
            let (dtype, kind) = input_type(input)?;
            let id = self.draft.input(&input.name, shape, dtype);
            let usual = if dtype == DType::I32 { ty::INT64 } else { element_type(dtype) };
            if let Some(name) = declared_type(input, usual) {
                declared.inputs.insert(input.name.clone(), name);
            }
            self.values.insert(input.name.clone(), Value::Run(Run { id, merged: 1, kind }));
        }
        Ok(declared)
    }

    /// Imports nodes in this order. A value that `drops` names is dropped after its last reader, so that memory holds each tensor once.
    fn nodes(&mut self, nodes: &[NodeProto], order: Vec<usize>, outputs: &[&str], drops: impl Fn(&str) -> bool) {
        let mut readers: HashMap<&str, usize> = HashMap::new();
        let reads = order.iter().flat_map(|&at| order::reads(&nodes[at])).chain(outputs.iter().copied());
        reads.for_each(|name| *readers.entry(name).or_default() += 1);
        for at in order {
            let node = &nodes[at];
            self.node(node, |name| readers.contains_key(name));
            for input in order::reads(node) {
                if let Some(left) = readers.get_mut(input) {
                    *left -= 1;
                    if *left == 0 && drops(input) {
                        self.values.remove(input);
                    }
                }
            }
        }
    }

    /// Imports one node, or lists it as unsupported. `is_read` says whether a value is read by another node or is an output.
    fn node(&mut self, node: &NodeProto, is_read: impl Fn(&str) -> bool) {
        let inputs: Vec<Option<Value>> =
            node.input.iter().map(|name| if name.is_empty() { None } else { self.values.get(name).cloned() }).collect();
        let run = |(name, value): (&String, &Option<Value>)| match value {
            Some(Value::Run(run)) => Some((name.clone(), run.id)),
            _ => None,
        };
        self.reading = node.input.iter().zip(&inputs).filter_map(run).collect();
        let before = self.unsupported.len();
        let given_unsupported = inputs.iter().flatten().any(|value| matches!(value, Value::Unsupported));
        let exported = if self.functions.is_exported(node) { dynamic::function(&node.op_type) } else { None };
        let function = self.functions.of(node).filter(|_| exported.is_none()).cloned();
        let operator = match exported {
            Some(operator) => Ok(Some(operator)),
            None if function.is_some() => Ok(None),
            None => known(node),
        };
        let result = operator.and_then(|operator| {
            // The node that gives an unsupported value is listed already.
            if given_unsupported {
                return Ok(vec![Value::Unsupported; node.output.len()]);
            }
            match (function, operator) {
                (Some(function), _) => self.call(node, &function, inputs),
                (None, Some(operator)) => self.evaluate(node, operator, inputs),
                (None, None) => self.nested(node, inputs),
            }
        });
        let listed = self.unsupported.len();
        let result = result.and_then(|values| {
            let is_new = listed == before && !given_unsupported;
            let missing = |(output, value): &(&String, &Value)| matches!(value, Value::Unsupported) && is_read(output);
            if let Some((output, _)) = node.output.iter().zip(&values).filter(|_| is_new).find(missing) {
                return Err(format!("its output {output} is read, which is not supported"));
            }
            // A batch normalization for training has more results than the operator of a graph.
            match node.output.iter().skip(values.len()).find(|output| !output.is_empty() && is_read(output)) {
                Some(output) => Err(format!(
                    "its output {output} is read, and only its first {} of {} outputs are supported",
                    values.len(),
                    node.output.len()
                )),
                None => Ok(values),
            }
        });
        let values = result.unwrap_or_else(|reason| {
            let dim = self.missing_length(&reason);
            self.unsupported.push(unsupported(node, reason, dim));
            vec![Value::Unsupported; node.output.len()]
        });
        for (name, value) in node.output.iter().zip(values) {
            if !name.is_empty() {
                self.values.insert(name.clone(), value);
            }
        }
    }

    /// The dimension of the batch, if a reason seems to be about it: shapes in messages have `rows` for it. `advice` tries whether it helps.
    fn missing_length(&self, reason: &str) -> Option<String> {
        let batch = ["batch", "[rows", "·rows", "leading dimension"].iter().any(|word| reason.contains(word));
        // A value that is too large for one row is too large for any length.
        self.batch.clone().filter(|_| batch && !reason.ends_with("too large"))
    }

    /// A value as an output. A graph has no `uint8`, so that such values are integers.
    fn output_run(&mut self, name: &str, value: &Value) -> Result<Run, String> {
        let run = self.run(value)?;
        match run.kind {
            Kind::Quantized { unsigned: true } => self.integer_codes(&clean(name), run),
            _ => Ok(run),
        }
    }

    fn outputs(&mut self, outputs: &[ValueInfoProto]) -> Result<Vec<(NodeId, String)>, OnnxError> {
        let mut taken = BTreeSet::new();
        let mut result = Vec::with_capacity(outputs.len());
        for output in outputs {
            let refuse = |problem: String| OnnxError::Output {
                output: output.name.clone(),
                problem,
                dim: None,
                length: EXAMPLE_LENGTH,
            };
            let value = self.values.get(&output.name).cloned().unwrap_or(Value::Unsupported);
            let run = self.output_run(&output.name, &value).map_err(|problem| {
                let dim = self.missing_length(&problem);
                OnnxError::Output { output: output.name.clone(), problem, dim, length: EXAMPLE_LENGTH }
            })?;
            if run.merged > 1 {
                let problem = "it merges the batch with another axis".to_owned();
                let (output, dim) = (output.name.clone(), self.batch.clone());
                return Err(OnnxError::Output { output, problem, dim, length: EXAMPLE_LENGTH });
            }
            let mut id = run.id;
            if matches!(self.draft.node(id).op, Op::Input(Input)) || taken.contains(&id) {
                // Each output needs a node of its own.
                let dims = self.draft.shape(id).fixed_dims().to_vec();
                id = self.draft.add(&clean(&output.name), Reshape { dims }, &[id]).map_err(refuse)?;
            }
            taken.insert(id);
            result.push((id, output.name.clone()));
        }
        Ok(result)
    }
}

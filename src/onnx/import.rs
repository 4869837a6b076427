//! The driver: from a file's bytes to a graph.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use prost::Message;
use prost::bytes::Bytes;

use super::draft::Draft;
use super::error::{OnnxError, UnsupportedNode};
use super::external::{self, Folders};
use super::host::{Budget, Host};
use super::names::{Names, clean};
use super::ops::KNOWN;
use super::proto::{GraphProto, ModelProto, NodeProto, ValueInfoProto, data_type as ty};
use super::tensor::{Stored, element_type, numbers, type_name};
use super::values::{Kind, Run, Value};
use super::{ImportOptions, OPSETS, dims, patterns, scan};
use crate::graph::{DeclaredTypes, Graph, GraphBuilder, Node, NodeId};
use crate::ops::{Embedding, Input, Linear, Op, Reshape};
use crate::values::DType;

/// What is known while nodes are translated one after the other.
pub(super) struct Importer {
    pub(super) opset: i64,
    pub(super) draft: Draft,
    pub(super) budget: Budget,
    pub(super) stored: Vec<Stored>,
    /// Where in `stored` those with their axes swapped are, made once.
    pub(super) swaps: HashMap<usize, usize>,
    /// Stored tensors that were decoded for evaluation.
    pub(super) decoded: HashMap<usize, Arc<Host>>,
    /// Stored tensors that are constants of the graph: as they are, or with their axes swapped.
    pub(super) constants: HashMap<(usize, bool), NodeId>,
    batch: Option<String>,
    values: HashMap<String, Value>,
    /// What the node that is being translated reads at run time, by name.
    pub(super) reading: Vec<(String, NodeId)>,
    unsupported: Vec<UnsupportedNode>,
}

/// Bytes that constants may take however small a model is.
const FLOOR: usize = 64 << 20;

pub(super) fn import(bytes: Bytes, folders: Folders<'_>, options: &ImportOptions) -> Result<Graph, OnnxError> {
    import_with(bytes, folders, options, FLOOR)
}

/// As [`import`], with another floor.
pub(super) fn import_with(
    bytes: Bytes,
    folders: Folders<'_>,
    options: &ImportOptions,
    floor: usize,
) -> Result<Graph, OnnxError> {
    let file_bytes = bytes.len();
    scan::check(&bytes)?;
    let model = ModelProto::decode(bytes).map_err(|e| OnnxError::Decode { message: e.to_string() })?;
    let opset = model.opset_import.iter().find(|set| matches!(set.domain.as_str(), "" | "ai.onnx"));
    let opset = opset.map_or(0, |set| set.version);
    let Some(mut graph) = model.graph else {
        return Err(OnnxError::Decode { message: "there is no graph in it".to_owned() });
    };
    if !OPSETS.contains(&opset) {
        return Err(OnnxError::Opset { version: opset });
    }
    let mut stored = Vec::with_capacity(graph.initializer.len());
    for proto in std::mem::take(&mut graph.initializer) {
        stored.push(Stored::new(proto, folders)?);
    }
    let (referred, covered) = external::coverage(stored.iter().filter_map(|tensor| tensor.external.as_ref()));
    if referred > covered.saturating_mul(2).max(floor as u64) {
        return Err(OnnxError::Overlap { referred, covered });
    }
    if !graph.sparse_initializer.is_empty() {
        let name = |proto: &super::proto::SparseTensorProto| proto.values.as_ref().map(|v| v.name.clone());
        let tensor = graph.sparse_initializer.first().and_then(name).unwrap_or_default();
        return Err(OnnxError::Tensor { tensor, problem: "is sparse, which is not supported".to_owned() });
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
        // It gets its node as soon as its shape is known.
        if values.insert(input.name.clone(), Value::Unsupported).is_some() {
            return Err(OnnxError::Duplicate { name: input.name.clone() });
        }
    }
    let order = order(&graph, &values)?;
    let dims = dims::resolve(&inputs, &options.dims).map_err(|error| match error {
        // No length helps a model with operators that are unknown.
        OnnxError::MissingDims(_) => {
            let nodes = order.iter().map(|&at| &graph.node[at]);
            let unknown: Vec<_> = nodes.filter_map(|node| Some(unsupported(node, unknown(node)?, None))).collect();
            if unknown.is_empty() { error } else { OnnxError::Unsupported(unknown) }
        }
        error => error,
    })?;
    let mut draft = Draft::new(file_bytes);
    let mut declared = DeclaredTypes::default();
    for (input, shape) in inputs.iter().zip(dims.shapes) {
        let (dtype, kind) = input_type(input)?;
        let id = draft.input(&input.name, shape, dtype);
        let usual = if dtype == DType::I32 { ty::INT64 } else { element_type(dtype) };
        if let Some(name) = declared_type(input, usual) {
            declared.inputs.insert(input.name.clone(), name);
        }
        values.insert(input.name.clone(), Value::Run(Run { id, merged: 1, kind }));
    }
    let mut importer = Importer {
        opset,
        draft,
        budget: Budget::new(file_bytes.saturating_add(usize::try_from(covered).unwrap_or(usize::MAX)), floor),
        stored,
        swaps: HashMap::new(),
        decoded: HashMap::new(),
        constants: HashMap::new(),
        batch: dims.batch,
        values,
        reading: Vec::new(),
        unsupported: Vec::new(),
    };
    let mut readers: HashMap<&str, usize> = HashMap::new();
    let reads = order.iter().flat_map(|&at| &graph.node[at].input).chain(graph.output.iter().map(|o| &o.name));
    reads.for_each(|name| *readers.entry(name).or_default() += 1);
    for at in order {
        let node = &graph.node[at];
        importer.node(node, |name| readers.contains_key(name));
        // What nobody reads any more is dropped, so that memory holds a tensor once.
        for input in &node.input {
            if let Some(left) = readers.get_mut(input.as_str()) {
                *left -= 1;
                if *left == 0 {
                    importer.values.remove(input);
                }
            }
        }
    }
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
    finish(draft, outputs, declared)
}

/// The type that a file declares, if an export would not declare that anyway.
fn declared_type(value: &ValueInfoProto, usual: i32) -> Option<String> {
    let elem_type = value.r#type.as_ref()?.tensor_type.as_ref()?.elem_type;
    (elem_type != usual && numbers().any(|(number, _)| number == elem_type)).then(|| type_name(elem_type))
}

/// Why no node of an operator can be imported, whatever it reads.
fn unknown(node: &NodeProto) -> Option<String> {
    if !node.is_default_domain() {
        Some(format!("operators of domain {} are not supported", node.domain))
    } else if node.has_graph() {
        Some("it contains a graph of its own".to_owned())
    } else if !KNOWN.contains(&node.op_type.as_str()) {
        Some("the operator is not supported".to_owned())
    } else {
        None
    }
}

fn unsupported(node: &NodeProto, reason: String, dim: Option<String>) -> UnsupportedNode {
    let domain = if node.is_default_domain() { String::new() } else { format!("{}.", node.domain) };
    UnsupportedNode { name: node.title().to_owned(), op_type: format!("{domain}{}", node.op_type), reason, dim }
}

fn input_type(input: &ValueInfoProto) -> Result<(DType, Kind), OnnxError> {
    let elem_type = input.r#type.as_ref().and_then(|t| t.tensor_type.as_ref()).map_or(0, |t| t.elem_type);
    Ok(match elem_type {
        ty::FLOAT | ty::FLOAT16 | ty::BFLOAT16 | ty::DOUBLE => (DType::F32, Kind::Float),
        ty::INT64 | ty::INT32 | ty::INT16 | ty::UINT8 | ty::UINT16 | ty::UINT32 | ty::UINT64 | ty::BOOL => {
            (DType::I32, Kind::Int(elem_type))
        }
        ty::INT8 => (DType::I8, Kind::Codes { unsigned: false }),
        other => {
            let problem = format!("has type {}, which is not supported", type_name(other));
            return Err(OnnxError::Input { input: input.name.clone(), problem });
        }
    })
}

/// The nodes that outputs need, each behind those that it reads, otherwise as in the file.
fn order(graph: &GraphProto, known: &HashMap<String, Value>) -> Result<Vec<usize>, OnnxError> {
    let mut writers: HashMap<&str, usize> = HashMap::new();
    for (at, node) in graph.node.iter().enumerate() {
        for output in node.output.iter().filter(|output| !output.is_empty()) {
            if known.contains_key(output) || writers.insert(output, at).is_some() {
                return Err(OnnxError::Duplicate { name: output.clone() });
            }
        }
    }
    let writer = |reader: &str, value: &str| match writers.get(value) {
        Some(&at) => Ok(Some(at)),
        None if known.contains_key(value) => Ok(None),
        None => Err(OnnxError::NoSuchValue { node: reader.to_owned(), value: value.to_owned() }),
    };
    let mut needed = vec![false; graph.node.len()];
    let mut open = Vec::new();
    for output in &graph.output {
        open.extend(writer("outputs", &output.name)?);
    }
    let mut waiting = vec![0usize; graph.node.len()];
    let mut readers: Vec<Vec<usize>> = vec![Vec::new(); graph.node.len()];
    while let Some(at) = open.pop() {
        if std::mem::replace(&mut needed[at], true) {
            continue;
        }
        let node = &graph.node[at];
        for input in node.input.iter().filter(|input| !input.is_empty()) {
            if let Some(before) = writer(node.title(), input)? {
                waiting[at] += 1;
                readers[before].push(at);
                open.push(before);
            }
        }
    }
    let mut ready: BTreeSet<usize> = (0..graph.node.len()).filter(|&at| needed[at] && waiting[at] == 0).collect();
    let mut order = Vec::new();
    while let Some(at) = ready.pop_first() {
        needed[at] = false;
        order.push(at);
        for &reader in &readers[at] {
            waiting[reader] -= 1;
            if waiting[reader] == 0 {
                ready.insert(reader);
            }
        }
    }
    match needed.iter().position(|&needed| needed) {
        Some(at) => Err(OnnxError::Cycle { node: graph.node[at].title().to_owned() }),
        None => Ok(order),
    }
}

impl Importer {
    /// Translates one node, or notes why not. Others read only some of its results.
    fn node(&mut self, node: &NodeProto, is_read: impl Fn(&str) -> bool) {
        let inputs: Vec<Option<Value>> =
            node.input.iter().map(|name| if name.is_empty() { None } else { self.values.get(name).cloned() }).collect();
        let run = |(name, value): (&String, &Option<Value>)| match value {
            Some(Value::Run(run)) => Some((name.clone(), run.id)),
            _ => None,
        };
        self.reading = node.input.iter().zip(&inputs).filter_map(run).collect();
        let result = match unknown(node) {
            Some(reason) => Err(reason),
            // What it reads is listed already.
            None if inputs.iter().flatten().any(|value| matches!(value, Value::Unsupported)) => {
                Ok(vec![Value::Unsupported; node.output.len()])
            }
            None => self.evaluate(node, inputs),
        };
        let result = result.and_then(|values| {
            // A batch norm for training gives more than a graph has.
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

    /// The batch, where it is in the way: shapes say `rows` for it.
    fn missing_length(&self, reason: &str) -> Option<String> {
        let batch = ["batch", "[rows", "·rows", "leading dimension"].iter().any(|word| reason.contains(word));
        // One that is too large for one row is so for any.
        self.batch.clone().filter(|_| batch && !reason.ends_with("too large"))
    }

    fn outputs(&mut self, outputs: &[ValueInfoProto]) -> Result<Vec<(NodeId, String)>, OnnxError> {
        let mut taken = BTreeSet::new();
        let mut result = Vec::with_capacity(outputs.len());
        for output in outputs {
            let refuse = |problem: String| OnnxError::Output { output: output.name.clone(), problem, dim: None };
            let value = self.values.get(&output.name).cloned().unwrap_or(Value::Unsupported);
            let run = self.run(&value).map_err(|problem| {
                let dim = self.missing_length(&problem);
                OnnxError::Output { output: output.name.clone(), problem, dim }
            })?;
            if run.merged > 1 {
                let problem = "it merges the batch with another axis".to_owned();
                return Err(OnnxError::Output { output: output.name.clone(), problem, dim: self.batch.clone() });
            }
            if matches!(run.kind, Kind::Codes { unsigned: true }) {
                let problem = "its values are uint8 codes, which a graph has 128 lower; they must be dequantized first";
                return Err(refuse(problem.to_owned()));
            }
            let mut id = run.id;
            if matches!(self.draft.node(id).op, Op::Input(Input)) || taken.contains(&id) {
                // An output needs a node of its own.
                let dims = self.draft.shape(id).fixed_dims().to_vec();
                id = self.draft.add(&clean(&output.name), Op::Reshape(Reshape { dims }), &[id]).map_err(refuse)?;
            }
            taken.insert(id);
            result.push((id, output.name.clone()));
        }
        Ok(result)
    }
}

/// The graph of a draft: patterns become layers, names unique, and what no output needs is left out.
fn finish(mut draft: Draft, mut outputs: Vec<(NodeId, String)>, declared: DeclaredTypes) -> Result<Graph, OnnxError> {
    let ids: BTreeSet<NodeId> = outputs.iter().map(|(id, _)| *id).collect();
    patterns::apply(&mut draft, &ids);
    let nodes = draft.nodes;
    let mut live = vec![false; nodes.len()];
    outputs.iter().for_each(|(id, _)| live[id.index()] = true);
    for (at, node) in nodes.iter().enumerate().rev() {
        if live[at] {
            node.inputs.iter().for_each(|input| live[input.index()] = true);
        }
        live[at] |= matches!(node.op, Op::Input(Input));
    }
    let named = name(&nodes, &live);
    let mut builder = GraphBuilder::new();
    builder.declare(declared);
    let mut map: Vec<Option<NodeId>> = vec![None; nodes.len()];
    // Constants stand before the first node that reads them; those that only the caller reads come last.
    let (constants, others): (Vec<usize>, Vec<usize>) =
        (0..nodes.len()).filter(|&at| live[at]).partition(|&at| matches!(nodes[at].op, Op::Constant(_)));
    let mut nodes: Vec<Option<Node>> = nodes.into_iter().map(Some).collect();
    for at in others.into_iter().chain(constants) {
        let constants: Vec<usize> = nodes[at].iter().flat_map(|node| &node.inputs).map(|id| id.index()).collect();
        for at in constants.into_iter().chain([at]) {
            let Some(node) = nodes[at].take() else { continue };
            let inputs: Vec<NodeId> = node.inputs.iter().filter_map(|id| map[id.index()]).collect();
            map[at] = Some(match node.op {
                Op::Input(Input) => builder.typed_input(&named[at], node.shape, node.dtype)?,
                op => builder.node(&named[at], op, &inputs)?,
            });
        }
    }
    for (id, _) in &mut outputs {
        if let Some(new) = map[id.index()] {
            *id = new;
        }
    }
    Ok(builder.finish_named(outputs)?)
}

/// Unique names: inputs keep theirs, constants are called after the first node that reads them.
fn name(nodes: &[Node], live: &[bool]) -> Vec<String> {
    let mut names = Names::default();
    let mut result = vec![String::new(); nodes.len()];
    for (at, node) in nodes.iter().enumerate() {
        if matches!(node.op, Op::Input(Input)) {
            result[at] = names.unique(&node.name);
        }
    }
    for (at, node) in nodes.iter().enumerate() {
        if live[at] && !matches!(node.op, Op::Input(Input) | Op::Constant(_) | Op::Dequantize(_)) {
            result[at] = names.unique(&node.name);
        }
    }
    // A dequantized constant is named as its parameter is.
    let is_constant = |at: usize| matches!(nodes[at].op, Op::Constant(_));
    let dequantized = |at: usize| matches!(nodes[at].op, Op::Dequantize(_)) && is_constant(nodes[at].inputs[0].index());
    for (at, node) in nodes.iter().enumerate() {
        if !live[at] || matches!(node.op, Op::Constant(_)) {
            continue;
        }
        if matches!(node.op, Op::Dequantize(_)) {
            if !dequantized(at) && result[at].is_empty() {
                result[at] = names.unique(&node.name);
            }
            continue;
        }
        let roles: &[&str] = match node.op {
            Op::Linear(Linear) | Op::LayerNorm(_) => &["", "weight", "bias"],
            Op::Embedding(Embedding) => &["", "weight"],
            Op::BatchNorm(_) => &["", "running_mean", "running_var", "weight", "bias"],
            _ => &[],
        };
        for (position, input) in node.inputs.iter().enumerate() {
            let input = input.index();
            if !result[input].is_empty() || !(is_constant(input) || dequantized(input)) {
                continue;
            }
            let parameter = &nodes[input].origin;
            let wanted = match roles.get(position) {
                Some(role) if !role.is_empty() => format!("{}.{role}", result[at]),
                _ if !parameter.is_empty() => clean(parameter),
                _ => format!("{}.constant", result[at]),
            };
            if dequantized(input) {
                result[input] = names.unique(&format!("{wanted}.dequantize"));
                let codes = nodes[input].inputs[0].index();
                if result[codes].is_empty() {
                    result[codes] = names.unique(&format!("{wanted}.quantize"));
                }
            } else {
                result[input] = names.unique(&wanted);
            }
        }
    }
    // Constants that are outputs.
    for (at, node) in nodes.iter().enumerate() {
        if live[at] && result[at].is_empty() {
            result[at] = names.unique(if node.name.is_empty() { &node.origin } else { &node.name });
        }
    }
    result
}

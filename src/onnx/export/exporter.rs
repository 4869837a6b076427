//! The nodes of a graph, one after the other, as nodes of ONNX. Each family writes its operators.

use std::collections::{BTreeSet, HashMap};

use super::dynamic_values::DynamicValues;
use super::options::{ExportOptions, Inexpressible};
use super::writer::{CONTRIB, Parts, Writer, value_info};
use crate::graph::{Graph, Node, NodeId};
use crate::onnx::attributes::int_attribute;
use crate::onnx::exported_functions;
use crate::onnx::proto::{AttributeProto, GraphProto, ModelProto, OperatorSetIdProto, data_type};
use crate::onnx::tensor::{element_type, numbers, type_name};
use crate::ops::{Input, Op};
use crate::values::DType;

/// The opset of the files.
const OPSET: i64 = 17;
/// The version of the file format, which is the first that allows this opset.
const IR_VERSION: i64 = 8;

/// Writes a node, if its family has a form for it.
pub(super) type Write = fn(&mut Exporter<'_>, NodeId) -> bool;

/// The state of an export. The graph has passed `check`.
#[derive(Debug)]
pub(super) struct Exporter<'g> {
    pub(super) graph: &'g Graph,
    pub(super) options: &'g ExportOptions,
    pub(super) writer: Writer,
    /// The name of each node's value.
    names: Vec<String>,
    /// For each node, whether its value is written. Constants are written when they are first read.
    written: Vec<bool>,
    /// The names of weights that were written transposed.
    pub(super) transposed: HashMap<NodeId, String>,
    /// For each node, those that read its value and that an output depends on.
    readers: Vec<Vec<NodeId>>,
    /// For each node that quantizes dynamically, the values that hold its results.
    pub(super) dynamic: HashMap<NodeId, DynamicValues>,
    /// The functions that nodes call.
    pub(super) functions: BTreeSet<&'static str>,
}

/// The number of a type by its name.
fn declared(name: Option<&String>) -> Option<i32> {
    numbers().find(|(_, known)| Some(known) == name).map(|(number, _)| number)
}

impl<'g> Exporter<'g> {
    pub(super) fn new(graph: &'g Graph, options: &'g ExportOptions) -> Self {
        let nodes = graph.nodes().len();
        Self {
            graph,
            options,
            writer: Writer::default(),
            names: vec![String::new(); nodes],
            written: vec![false; nodes],
            transposed: HashMap::new(),
            readers: graph.users(),
            dynamic: HashMap::new(),
            functions: BTreeSet::new(),
        }
    }

    /// Writes the nodes that are needed. An error lists the nodes that no family has a form for.
    pub(super) fn run(mut self, needed: &[bool], families: &[Write]) -> Result<ModelProto, Vec<Inexpressible>> {
        let outputs = self.assign_names();
        self.readers.iter_mut().for_each(|readers| readers.retain(|id| needed[id.index()]));
        let mut unwritten = Vec::new();
        let mut graph = GraphProto { name: "enfold".to_owned(), ..Default::default() };
        let batch = &self.options.batch;
        for &id in self.graph.inputs() {
            let node = self.graph.node(id);
            let elem_type = self.input_type(node);
            graph.input.push(value_info(&node.name, elem_type, &node.shape, batch));
        }
        for (id, node) in self.graph.iter() {
            if !needed[id.index()] || self.is_constant(id) || self.is_absorbed(id) || self.is_narrowed(id) {
                continue;
            }
            if !self.write(id, families) {
                let (name, op, reason) = (node.name.clone(), node.op.name(), "ONNX has no form of it".to_owned());
                unwritten.push(Inexpressible { node: name, op, reason });
            }
            self.written[id.index()] = true;
        }
        if !unwritten.is_empty() {
            return Err(unwritten);
        }
        let mut declared = self.output_types().into_iter();
        for (&id, output) in self.graph.outputs().iter().zip(&outputs) {
            let value = self.value(id);
            let node = self.graph.node(id);
            let elem_type = declared.next().flatten();
            if let Some(to) = elem_type {
                self.writer.node("Cast", output, &[&value], output, vec![int_attribute("to", to.into())]);
            } else if value != *output {
                self.writer.node("Identity", output, &[&value], output, Vec::new());
            }
            let elem_type = elem_type.unwrap_or_else(|| element_type(node.dtype));
            graph.output.push(value_info(output, elem_type, &node.shape, batch));
        }
        graph.node = self.writer.nodes;
        graph.initializer = self.writer.initializers;
        let functions: Vec<_> = self.functions.iter().filter_map(|name| exported_functions::function(name)).collect();
        let own = (!functions.is_empty()).then_some((exported_functions::DOMAIN, 1));
        let contrib = graph.node.iter().any(|node| node.domain == CONTRIB).then_some((CONTRIB, 1));
        let opset = |(domain, version): (&str, i64)| OperatorSetIdProto { domain: domain.to_owned(), version };
        Ok(ModelProto {
            ir_version: IR_VERSION,
            producer_name: self.options.producer.clone(),
            producer_version: env!("CARGO_PKG_VERSION").to_owned(),
            graph: Some(graph),
            opset_import: [("", OPSET)].into_iter().chain(own).chain(contrib).map(opset).collect(),
            functions,
        })
    }

    /// The type that an input is declared with: that of the file which the graph was imported from, or else the type of the node, and
    /// `int64` for `i32`, since tokenizers make ids of `int64`.
    fn input_type(&self, node: &Node) -> i32 {
        let own = if node.dtype == DType::I32 { data_type::INT64 } else { element_type(node.dtype) };
        declared(self.graph.declared_types().inputs.get(&node.name)).unwrap_or(own)
    }

    /// For each output the type that it is cast to, if the file of the graph declared one.
    fn output_types(&self) -> Vec<Option<i32>> {
        let types = &self.graph.declared_types().outputs;
        self.graph.output_names().iter().map(|name| declared(types.get(name))).collect()
    }

    /// Whether an input is declared with another type than that of its node.
    fn is_cast(&self, node: &Node) -> bool {
        node.op == Op::Input(Input) && self.input_type(node) != element_type(node.dtype)
    }

    /// Names all values: first inputs, then outputs, then all others, which get a number if their name is taken. The names of the
    /// outputs are returned.
    fn assign_names(&mut self) -> Vec<String> {
        for &id in self.graph.inputs() {
            self.writer.take(&self.graph.node(id).name);
        }
        let mut outputs = Vec::new();
        let types = self.output_types();
        for ((&id, wish), cast) in self.graph.outputs().iter().zip(self.graph.output_names()).zip(types) {
            let free = self.writer.take(wish);
            let name = if free { wish.clone() } else { self.writer.unique(&self.graph.node(id).name) };
            // A computed value has the name of the output itself; other values are copied to the output at the end.
            if cast.is_none() && !self.is_constant(id) && self.graph.node(id).op != Op::Input(Input) {
                self.names[id.index()].clone_from(&name);
            }
            outputs.push(name);
        }
        for (id, node) in self.graph.iter() {
            if !self.names[id.index()].is_empty() {
                continue;
            }
            self.names[id.index()] = match node.op {
                // The value of an input that is cast has another name than the input.
                Op::Input(Input) if self.is_cast(node) => {
                    let of = type_name(element_type(node.dtype));
                    self.writer.unique(&format!("{}.{of}", node.name))
                }
                Op::Input(Input) => node.name.clone(),
                _ => self.writer.unique(&node.name),
            };
        }
        outputs
    }

    /// The name of a node's value, which need not be written yet.
    pub(super) fn name(&self, id: NodeId) -> &str {
        &self.names[id.index()]
    }

    /// The name of a node's value. A constant is written first.
    pub(super) fn value(&mut self, id: NodeId) -> String {
        if !self.written[id.index()] && self.is_constant(id) {
            self.written[id.index()] = true;
            self.write_constant(id);
        }
        self.names[id.index()].clone()
    }

    /// The nodes that read a node's value.
    pub(super) fn readers(&self, id: NodeId) -> impl Iterator<Item = NodeId> {
        self.readers[id.index()].iter().copied()
    }

    pub(super) fn is_output(&self, id: NodeId) -> bool {
        self.graph.outputs().contains(&id)
    }

    /// Whether a node's value is written.
    pub(super) fn is_written(&self, id: NodeId) -> bool {
        self.written[id.index()]
    }

    /// Writes a node that is not a constant; `false` if no family has a form for it.
    fn write(&mut self, id: NodeId, families: &[Write]) -> bool {
        let node = self.graph.node(id);
        if node.op == Op::Input(Input) {
            if self.is_cast(node) {
                let to = int_attribute("to", element_type(node.dtype).into());
                let output = self.name(id).to_owned();
                self.writer.node("Cast", &output, &[&node.name], &output, vec![to]);
            }
            return true;
        }
        families.iter().any(|write| write(self, id))
    }

    /// The names of the values that a node reads.
    pub(super) fn inputs(&mut self, id: NodeId) -> Vec<String> {
        self.graph.node(id).inputs.iter().map(|&input| self.value(input)).collect()
    }

    /// The names of the first `N` values that a node reads, and the writer of the nodes that it becomes.
    pub(super) fn start<const N: usize>(&mut self, id: NodeId) -> ([String; N], Parts<'_>) {
        let inputs = &self.graph.node(id).inputs;
        (std::array::from_fn(|at| self.value(inputs[at])), self.parts(id))
    }

    /// The writer of the nodes that a node of the graph becomes.
    pub(super) fn parts(&mut self, id: NodeId) -> Parts<'_> {
        let output = self.name(id).to_owned();
        Parts { name: &self.graph.node(id).name, output, writer: &mut self.writer }
    }

    /// Writes a node as one node of ONNX that reads the same inputs.
    pub(super) fn plain(&mut self, id: NodeId, op_type: &str, attributes: Vec<AttributeProto>) {
        let inputs = self.inputs(id);
        self.parts(id).last_with(op_type, &inputs, attributes);
    }
}

//! Nodes that contain nodes: calls of functions that a file defines itself, branches of `If`, and what loops share with them.

use std::collections::{HashMap, HashSet};

use super::importer::Importer;
use super::local_functions::domain;
use super::operator::Values;
use super::order::order;
use crate::onnx::OPSETS;
use crate::onnx::external::Folders;
use crate::onnx::host::{Length, show};
use crate::onnx::proto::{AttributeProto, FunctionProto, GraphProto, NodeProto, TensorProto};
use crate::onnx::tensor::Stored;
use crate::onnx::value::Value;

/// How deep functions and branches may contain each other. Exporters need three or four levels.
const MAX_DEPTH: usize = 32;

/// The graph of an attribute.
pub(super) fn graph<'n>(node: &'n NodeProto, name: &str) -> Result<&'n GraphProto, String> {
    let attribute = node.attribute.iter().find(|attribute| attribute.name == name);
    attribute.and_then(|attribute| attribute.g.as_deref()).ok_or_else(|| format!("it has no {name}"))
}

impl Importer {
    /// The results of a function: its nodes with the values and attributes of a call.
    pub(super) fn call(&mut self, node: &NodeProto, function: &FunctionProto, inputs: Vec<Option<Value>>) -> Values {
        if inputs.len() > function.input.len() {
            return Err(format!("it gives {} inputs to a function of {}", inputs.len(), function.input.len()));
        }
        let own = function.opset_import.iter().find(|set| domain(&set.domain).is_empty());
        let opset = own.map_or(self.opset, |set| set.version);
        if !OPSETS.contains(&opset) {
            return Err(format!("its function is written for opset {opset}"));
        }
        let attributes = function.attribute_proto.iter().chain(&node.attribute).map(|a| (a.name.as_str(), a)).collect();
        let inner = self.inner_nodes(node.title(), &function.node, &attributes)?;
        let given = inputs.into_iter().map(Some).chain(std::iter::repeat_n(None, function.input.len()));
        let values =
            function.input.iter().zip(given).filter_map(|(name, value)| Some((name.clone(), value.flatten()?)));
        let outer = std::mem::replace(&mut self.values, values.collect());
        let opset = std::mem::replace(&mut self.opset, opset);
        let outputs: Vec<&str> = function.output.iter().map(String::as_str).collect();
        // An input that the call lacks is missing for each node that reads it.
        let is_input = |name: &str| function.input.iter().any(|input| input == name);
        let result = self.inner(&inner, &outputs, is_input);
        self.values = outer;
        self.opset = opset;
        result
    }

    /// The results of a node that contains graphs.
    pub(super) fn nested(&mut self, node: &NodeProto, inputs: Vec<Option<Value>>) -> Values {
        match (node.op_type.as_str(), inputs.first()) {
            ("Loop", _) => self.repeated(node, inputs),
            ("Scan", _) => self.scanned(node, inputs),
            (_, Some(Some(condition))) => self.branches(node, condition),
            _ => Err("it has no condition".to_owned()),
        }
    }

    /// The results of an `If`: those of the branch whose condition holds, or, if only a run can tell, elements of both,
    /// which are both computed.
    fn branches(&mut self, node: &NodeProto, condition: &Value) -> Values {
        let [yes, no] = [graph(node, "then_branch")?, graph(node, "else_branch")?];
        if !matches!(condition, Value::Run(_)) {
            let holds = self.scalar(condition).ok_or("its condition is not one value")? != 0.0;
            return self.branch(node, if holds { yes } else { no });
        }
        let lengths = self.logical(condition);
        if lengths.iter().any(|length| *length != Length::Known(1)) {
            return Err(format!("its condition has shape {}, expected one value", show(&lengths)));
        }
        let (yes, no) = (self.branch(node, yes)?, self.branch(node, no)?);
        if yes.len() != no.len() {
            return Err(format!("its branches have {} and {} results", yes.len(), no.len()));
        }
        let mut results = Vec::with_capacity(yes.len());
        for (at, (yes, no)) in yes.into_iter().zip(no).enumerate() {
            if matches!(yes, Value::Unsupported) || matches!(no, Value::Unsupported) {
                results.push(Value::Unsupported);
                continue;
            }
            let [of_yes, of_no] = [self.logical(&yes), self.logical(&no)];
            if of_yes != of_no {
                let shapes = format!("{} and {}", show(&of_yes), show(&of_no));
                return Err(format!("only a run can tell its condition, and its branches give the shapes {shapes}"));
            }
            let name = format!("{}/output{at}", node.title());
            results.push(self.emit(&name, "Where", vec![Some(condition.clone()), Some(yes), Some(no)], Vec::new())?);
        }
        Ok(results)
    }

    /// The results of one branch, whose nodes also read values from around it.
    fn branch(&mut self, node: &NodeProto, branch: &GraphProto) -> Values {
        if let Some(input) = branch.input.first() {
            return Err(format!("its branch has an input {}", input.name));
        }
        let own = self.tensors_inside(branch)?;
        let result = self.inside(node.title(), branch);
        for name in own {
            self.values.remove(name);
        }
        result
    }

    /// Adds the tensors of a graph inside of a node, and returns their names.
    pub(super) fn tensors_inside<'g>(&mut self, graph: &'g GraphProto) -> Result<Vec<&'g str>, String> {
        if !graph.sparse_initializer.is_empty() {
            return Err("its graph has a sparse tensor".to_owned());
        }
        let mut own = Vec::with_capacity(graph.initializer.len());
        for tensor in &graph.initializer {
            if self.values.contains_key(&tensor.name) {
                return Err(format!("its graph has a second tensor {}", tensor.name));
            }
            if !tensor.external_data.is_empty() {
                return Err(format!(
                    "its graph has the tensor {} in another file, which is not supported",
                    tensor.name
                ));
            }
            self.budget.take(copied(tensor), 1)?;
            let stored = Stored::new(tensor.clone(), Folders::default()).map_err(|e| e.to_string())?;
            self.stored.push(stored);
            self.values.insert(tensor.name.clone(), Value::Stored(self.stored.len() - 1));
            own.push(tensor.name.as_str());
        }
        Ok(own)
    }

    /// The results of a graph inside of a node, whose inputs and tensors are values already.
    pub(super) fn inside(&mut self, title: &str, graph: &GraphProto) -> Values {
        let inner = self.inner_nodes(title, &graph.node, &HashMap::new())?;
        let outputs: Vec<&str> = graph.output.iter().map(|output| output.name.as_str()).collect();
        let result = self.inner(&inner, &outputs, |_| false);
        for name in inner.iter().flat_map(|node| &node.output) {
            self.values.remove(name);
        }
        result
    }

    /// Nodes of a function or a branch, with names after the node that contains them, and with the attributes of a call.
    fn inner_nodes(
        &mut self,
        outer: &str,
        nodes: &[NodeProto],
        attributes: &HashMap<&str, &AttributeProto>,
    ) -> Result<Vec<NodeProto>, String> {
        if self.depth >= MAX_DEPTH {
            return Err(format!("functions and branches contain each other more than {MAX_DEPTH} deep"));
        }
        // Functions that call functions could become any number of nodes.
        let values = |a: &AttributeProto| a.t.as_ref().map_or(0, copied) + 4 * a.floats.len() + 8 * a.ints.len();
        let attributes_of = |node: &NodeProto| node.attribute.iter().map(values).sum::<usize>();
        let names = |node: &NodeProto| 2 * outer.len() + node.title().len();
        // Loops without nodes take time too.
        let empty = size_of::<NodeProto>();
        let size: usize = nodes.iter().map(|node| size_of::<NodeProto>() + names(node) + attributes_of(node)).sum();
        self.budget.take(size.saturating_add(empty), 1)?;
        let named = nodes.iter().map(|node| {
            let mut node = node.clone();
            node.name = format!("{outer}/{}", node.title());
            refer(&mut node, attributes);
            node
        });
        Ok(named.collect())
    }

    /// Imports nodes in the scope of the current values. Returns the values of the outputs.
    fn inner(&mut self, nodes: &[NodeProto], outputs: &[&str], is_missing: impl Fn(&str) -> bool) -> Values {
        let known = |name: &str| self.values.contains_key(name) || is_missing(name);
        let order = order(nodes, outputs, known).map_err(|error| error.to_string())?;
        let own: HashSet<&str> = nodes.iter().flat_map(|node| &node.output).map(String::as_str).collect();
        self.depth += 1;
        self.nodes(nodes, order, outputs, |name| own.contains(name));
        self.depth -= 1;
        let value = |name: &&str| self.values.get(*name).cloned().ok_or_else(|| format!("it has no value {name}"));
        outputs.iter().map(value).collect()
    }
}

/// The bytes of a tensor that a copy of it takes anew; raw data are shared.
fn copied(tensor: &TensorProto) -> usize {
    let TensorProto { float_data, int32_data, int64_data, double_data, uint64_data, .. } = tensor;
    4 * (float_data.len() + int32_data.len()) + 8 * (int64_data.len() + double_data.len() + uint64_data.len())
}

/// Gives the attributes of a function's node that refer to attributes of the call their values. Those that the call lacks are left
/// out.
fn refer(node: &mut NodeProto, attributes: &HashMap<&str, &AttributeProto>) {
    let resolved = |attribute: AttributeProto| {
        if attribute.ref_attr_name.is_empty() {
            return Some(attribute);
        }
        let value = attributes.get(attribute.ref_attr_name.as_str())?;
        Some(AttributeProto { name: attribute.name, ..(*value).clone() })
    };
    node.attribute = std::mem::take(&mut node.attribute).into_iter().filter_map(resolved).collect();
    for graph in node.attribute.iter_mut().filter_map(|attribute| attribute.g.as_mut()) {
        graph.node.iter_mut().for_each(|node| refer(node, attributes));
    }
}

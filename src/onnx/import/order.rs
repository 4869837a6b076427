//! The order in which the nodes of a file are imported.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::onnx::error::OnnxError;
use crate::onnx::proto::{GraphProto, NodeProto};

/// The values that a node reads: its inputs, and those that graphs in it read from around it.
pub(super) fn reads(node: &NodeProto) -> impl Iterator<Item = &str> {
    let mut around = Vec::new();
    node.attribute
        .iter()
        .filter_map(|attribute| attribute.g.as_deref())
        .for_each(|graph| read_around(graph, &mut around));
    node.input.iter().map(String::as_str).filter(|input| !input.is_empty()).chain(around)
}

/// Adds the values that a graph reads from around it.
fn read_around<'g>(graph: &'g GraphProto, around: &mut Vec<&'g str>) {
    let inputs = graph.input.iter().map(|input| &input.name);
    let tensors = graph.initializer.iter().map(|tensor| &tensor.name);
    let results = graph.node.iter().flat_map(|node| &node.output);
    let own: HashSet<&str> = inputs.chain(tensors).chain(results).map(String::as_str).collect();
    let outputs = graph.output.iter().map(|output| output.name.as_str());
    around.extend(graph.node.iter().flat_map(reads).chain(outputs).filter(|name| !own.contains(name)));
}

/// The nodes that outputs need, each after those that it reads, and otherwise in the order of the file.
pub(super) fn order(
    nodes: &[NodeProto],
    outputs: &[&str],
    known: impl Fn(&str) -> bool,
) -> Result<Vec<usize>, OnnxError> {
    let mut writers: HashMap<&str, usize> = HashMap::new();
    for (at, node) in nodes.iter().enumerate() {
        for output in node.output.iter().filter(|output| !output.is_empty()) {
            if known(output) || writers.insert(output, at).is_some() {
                return Err(OnnxError::Duplicate { name: output.clone() });
            }
        }
    }
    let writer = |reader: &str, value: &str| match writers.get(value) {
        Some(&at) => Ok(Some(at)),
        None if known(value) => Ok(None),
        None => Err(OnnxError::NoSuchValue { node: reader.to_owned(), value: value.to_owned() }),
    };
    let mut needed = vec![false; nodes.len()];
    let mut open = Vec::new();
    for output in outputs {
        open.extend(writer("outputs", output)?);
    }
    let mut waiting = vec![0usize; nodes.len()];
    let mut readers: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    while let Some(at) = open.pop() {
        if std::mem::replace(&mut needed[at], true) {
            continue;
        }
        let node = &nodes[at];
        for input in reads(node) {
            if let Some(before) = writer(node.title(), input)? {
                waiting[at] += 1;
                readers[before].push(at);
                open.push(before);
            }
        }
    }
    let mut ready: BTreeSet<usize> = (0..nodes.len()).filter(|&at| needed[at] && waiting[at] == 0).collect();
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
        Some(at) => Err(OnnxError::Cycle { node: nodes[at].title().to_owned() }),
        None => Ok(order),
    }
}

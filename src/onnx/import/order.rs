//! The order in which the nodes of a file are imported.

use std::collections::{BTreeSet, HashMap};

use crate::onnx::error::OnnxError;
use crate::onnx::proto::GraphProto;
use crate::onnx::value::Value;

/// The nodes that outputs need, each after those that it reads, and otherwise in the order of the file.
pub(super) fn order(graph: &GraphProto, known: &HashMap<String, Value>) -> Result<Vec<usize>, OnnxError> {
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

//! Archives: saves any graph of the flow as one safetensors file, with everything that a later stage needs.
//!
//! A file holds the tensors of the graph and, in its metadata, a JSON header with nodes, operators and outputs. The file
//! of a prepared graph also holds the state of its observers, so that calibration can be interrupted, or sharded and
//! merged. A loaded graph computes the same bits. Files of an older format are read (without the feature `flow`, those of formats 1 to 3
//! are not), files of a newer one are refused.
//!
//! Quantized values of 2 bits are stored four to a byte, and values of 3 or 4 bits two to a byte; in memory they are int8. A constant
//! states its bits.
//!
//! Files from untrusted sources can be loaded: every number is checked, and the memory taken is a few times the size of the file at
//! most: four times for packed values.
//!
//! ```
//! # let mut g = enfold::GraphBuilder::new();
//! # let x = g.input("x", enfold::Shape::rows(2))?;
//! # let y = g.relu("relu", x)?;
//! # let graph = g.finish([y])?;
//! let bytes = enfold::archive::to_bytes(&graph)?;
//! assert_eq!(enfold::archive::from_bytes(&bytes)?, graph);
//! # Ok::<(), enfold::Error>(())
//! ```

#[cfg(feature = "flow")]
mod calibration;
mod error;
mod format;
#[cfg(feature = "flow")]
mod legacy;
#[cfg(feature = "flow")]
mod observers;
mod packed;
#[cfg(feature = "flow")]
mod prepared;
mod record;
mod tensors;

use std::collections::BTreeMap;
use std::path::Path;

pub use self::error::ArchiveError;
pub use self::format::FORMAT;
#[cfg(feature = "flow")]
pub use self::prepared::{
    calibration_from_bytes, calibration_to_bytes, load_prepared, prepared_from_bytes, prepared_to_bytes, save_prepared,
    statistics_from_bytes, statistics_to_bytes,
};
use self::record::{Header, NodeRecord, Version};
use self::tensors::{Reader, Writer};
use crate::files::{self, json};
use crate::graph::{DeclaredTypes, Graph, GraphBuilder, NodeId};
use crate::ops::{Observe, ObserverId, Op};

/// The metadata key of the header.
const KEY: &str = "enfold";

/// The kind of a file of [`statistics_to_bytes`].
const STATISTICS: &str = "channel statistics";

/// Saves a graph.
///
/// # Errors
/// Returns [`ArchiveError::Io`] if the file cannot be written, and the errors of [`to_bytes`].
#[cfg(feature = "flow")]
pub fn save(graph: &Graph, path: impl AsRef<Path>) -> Result<(), ArchiveError> {
    write(&to_bytes(graph)?, path.as_ref())
}

/// Loads a graph that [`save`] has written.
///
/// # Errors
/// [`ArchiveError`] names what is wrong with the file.
pub fn load(path: impl AsRef<Path>) -> Result<Graph, ArchiveError> {
    from_bytes(&read(path.as_ref())?)
}

/// Returns the bytes that [`save`] writes.
///
/// # Errors
/// Returns [`ArchiveError::Format`] if the graph is larger than the format allows, [`ArchiveError::Node`] for the graph of a
/// prepared graph, whose observers only [`save_prepared`] stores.
pub fn to_bytes(graph: &Graph) -> Result<Vec<u8>, ArchiveError> {
    check_observers(graph, 0)?;
    let mut writer = Writer::default();
    let header = header(graph, &mut writer)?;
    serialize(header, writer)
}

/// Returns the graph of a file's bytes.
///
/// # Errors
/// Returns the same errors as [`load`].
pub fn from_bytes(bytes: &[u8]) -> Result<Graph, ArchiveError> {
    let (header, reader) = deserialize(bytes)?;
    let actual = match (&header.prepared, &header.statistics) {
        (None, None) => None,
        (Some(_), _) => Some("a prepared graph"),
        (None, Some(_)) => Some(STATISTICS),
    };
    if let Some(actual) = actual {
        return Err(ArchiveError::Kind { actual, expected: "a graph" });
    }
    let graph = graph(&header, &reader)?;
    check_observers(&graph, 0)?;
    Ok(graph)
}

/// Checks that every observer that a node names exists; a graph that is not prepared has none.
fn check_observers(graph: &Graph, count: usize) -> Result<(), ArchiveError> {
    let missing = graph.nodes().iter().find_map(|node| match node.op {
        Op::Observe(Observe { observer: ObserverId(at) }) if at >= count => Some((node, at)),
        _ => None,
    });
    match missing {
        None => Ok(()),
        Some((node, at)) => {
            let problem = match count {
                0 => format!("its observer is {at}, and a graph that is not prepared has none"),
                _ => format!("its observer is {at}, but there are {count}"),
            };
            Err(ArchiveError::Node { node: node.name.clone(), problem })
        }
    }
}

fn header(graph: &Graph, writer: &mut Writer) -> Result<Header, ArchiveError> {
    let nodes = graph.nodes().iter().map(|node| NodeRecord::new(node, writer)).collect::<Result<_, _>>()?;
    let outputs = graph.outputs().iter().map(|id| id.index()).collect();
    // The records of packed tensors are complete after the last tensor was added.
    let packed = BTreeMap::new();
    let origins = graph.outputs().iter().map(|&id| &graph.node(id).origin);
    let output_names = (!origins.eq(graph.output_names())).then(|| graph.output_names().to_vec());
    let declared = Some(graph.declared_types()).filter(|declared| **declared != DeclaredTypes::default()).cloned();
    let modules = graph.modules().clone();
    Ok(Header {
        format: FORMAT,
        nodes,
        outputs,
        output_names,
        modules,
        declared,
        packed,
        prepared: None,
        statistics: None,
    })
}

/// Adds the nodes one by one, so that order, names, shapes and types are checked as in any graph that is built.
fn graph(header: &Header, reader: &Reader<'_>) -> Result<Graph, ArchiveError> {
    let mut builder = GraphBuilder::new();
    for (path, module_type) in &header.modules {
        builder.module(path, module_type);
    }
    builder.declare(header.declared.clone().unwrap_or_default());
    for node in &header.nodes {
        match node.declared()? {
            Some(declared) if node.inputs.is_empty() => {
                builder.typed_input(&node.name, declared.shape(), declared.dtype)?
            }
            Some(_) => {
                let problem = format!("is an input that reads {} nodes", node.inputs.len());
                return Err(ArchiveError::Node { node: node.name.clone(), problem });
            }
            None => {
                let inputs: Vec<NodeId> = node.inputs.iter().map(|&input| NodeId::new(input)).collect();
                builder.node(&node.name, node.op(reader)?, &inputs)?
            }
        };
        builder.tell_last(&node.origin, node.float_reason.as_deref());
    }
    let outputs = header.outputs.iter().map(|&output| NodeId::new(output));
    let Some(names) = &header.output_names else { return Ok(builder.finish(outputs)?) };
    if names.len() != header.outputs.len() {
        let problem = format!("{} names for {} outputs", names.len(), header.outputs.len());
        return Err(ArchiveError::Node { node: "graph".to_owned(), problem });
    }
    Ok(builder.finish_named(outputs.zip(names.iter().cloned()))?)
}

fn serialize(mut header: Header, mut writer: Writer) -> Result<Vec<u8>, ArchiveError> {
    let format = |message: String| ArchiveError::Format { message };
    header.packed = writer.packed();
    let json = serde_json::to_string(&header).map_err(|e| format(e.to_string()))?;
    let metadata = [(KEY.to_owned(), json)].into_iter().collect();
    safetensors::serialize(writer.views(), Some(metadata)).map_err(|e| format(e.to_string()))
}

fn deserialize(bytes: &[u8]) -> Result<(Header, Reader<'_>), ArchiveError> {
    let format = |message: String| ArchiveError::Format { message };
    let (data, tensors) = files::safetensors::header(bytes).map_err(|e| format(e.to_string()))?;
    let json =
        tensors.text(KEY).ok_or_else(|| ArchiveError::Header { message: format!("there is no entry \"{KEY}\"") })?;
    let header = |e: json::Error| ArchiveError::Header { message: e.to_string() };
    // The version is read first, since the rest of a newer header may not parse.
    let version: Version = json::from_str(json).map_err(header)?;
    if version.format > FORMAT {
        return Err(ArchiveError::Newer { format: version.format });
    }
    #[cfg(not(feature = "flow"))]
    if version.format < format::DERIVED_OPERATORS {
        return Err(ArchiveError::Older { format: version.format });
    }
    let mut header: Header = json::from_str(json).map_err(header)?;
    let packed = std::mem::take(&mut header.packed);
    let reader = Reader::new(tensors, &bytes[data..], packed);
    #[cfg(feature = "flow")]
    if header.format < format::DERIVED_OPERATORS {
        header.nodes.iter_mut().try_for_each(|node| legacy::upgrade_node(node, &reader))?;
        let observers = header.prepared.iter_mut().flat_map(|prepared| prepared.observers.iter_mut().enumerate());
        observers.into_iter().try_for_each(|(at, observer)| legacy::upgrade_observer(at, observer, &reader))?;
    }
    Ok((header, reader))
}

#[cfg(feature = "flow")]
fn write(bytes: &[u8], path: &Path) -> Result<(), ArchiveError> {
    files::write(path, bytes).map_err(|e| io(path, &e))
}

fn read(path: &Path) -> Result<Vec<u8>, ArchiveError> {
    files::read(path).map_err(|e| io(path, &e))
}

fn io(path: &Path, error: &std::io::Error) -> ArchiveError {
    ArchiveError::Io { path: path.display().to_string(), message: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::Shape;

    #[test]
    fn declared_types_are_kept() {
        let mut g = GraphBuilder::new();
        let x = g.input("x", Shape::rows(2)).expect("an input");
        let y = g.relu("y", x).expect("a relu");
        let types = |name: &str, r#type: &str| BTreeMap::from([(name.to_owned(), r#type.to_owned())]);
        let declared = DeclaredTypes { inputs: types("x", "float16"), outputs: types("y", "bool") };
        g.declare(declared.clone());
        let graph = g.finish([y]).expect("a graph");
        let read = from_bytes(&to_bytes(&graph).expect("bytes")).expect("a graph");
        assert_eq!((read.declared_types(), &read), (&declared, &graph));
    }

    /// A player refuses what only the flow rewrites, and says so.
    #[cfg(not(feature = "flow"))]
    #[test]
    fn old_formats_need_the_flow() {
        let mut g = GraphBuilder::new();
        let x = g.input("x", Shape::rows(2)).expect("an input");
        let bytes = to_bytes(&g.finish([x]).expect("a graph")).expect("bytes");
        let (from, to) = (br#"\"format\":7"#, br#"\"format\":3"#);
        let at = bytes.windows(from.len()).position(|window| window == from).expect("the format");
        let old = [&bytes[..at], to, &bytes[at + to.len()..]].concat();
        assert!(from_bytes(&bytes).is_ok());
        let error = from_bytes(&old).expect_err("format 3");
        assert_eq!(error, ArchiveError::Older { format: 3 });
        assert!(error.to_string().contains("format 3") && error.to_string().contains("from 4 on"), "{error}");
    }
}

//! Files of prepared graphs: the graph, and the state of its observers.

use std::collections::HashSet;
use std::path::Path;

use super::calibration::{MomentsRecord, StatisticsRecord};
use super::error::ArchiveError;
use super::observers::{ObserverRecord, PreparedRecord};
use super::record::Header;
use super::tensors::{Reader, Writer};
use super::{STATISTICS, check_observers, deserialize, graph, header, read, serialize, write};
use crate::graph::NodeId;
use crate::ops::ObserverId;
use crate::quantize::PreparedGraph;
use crate::quantize::accuracy::{ChannelStatistics, Hessians, SmoothOptions};
use crate::quantize::archived::{Parts, in_order};

/// Saves a prepared graph with the state of its observers.
///
/// # Errors
/// Returns [`ArchiveError::Io`] if the file cannot be written, and the errors of [`prepared_to_bytes`].
pub fn save_prepared(prepared: &PreparedGraph, path: impl AsRef<Path>) -> Result<(), ArchiveError> {
    write(&prepared_to_bytes(prepared)?, path.as_ref())
}

/// Loads a prepared graph that [`save_prepared`] has written.
///
/// # Errors
/// [`ArchiveError`] names what is wrong with the file.
pub fn load_prepared(path: impl AsRef<Path>) -> Result<PreparedGraph, ArchiveError> {
    prepared_from_bytes(&read(path.as_ref())?)
}

/// Returns the bytes that [`save_prepared`] writes.
///
/// # Errors
/// Returns [`ArchiveError::CustomRule`] for a rule that only the caller has, and [`ArchiveError::Format`] if the graph is larger
/// than the format allows.
pub fn prepared_to_bytes(prepared: &PreparedGraph) -> Result<Vec<u8>, ArchiveError> {
    let mut writer = Writer::default();
    let mut header = header(prepared.graph(), &mut writer)?;
    header.prepared = Some(prepared_record(prepared, &mut writer)?);
    serialize(header, writer)
}

/// The observers of a prepared graph; their statistics go to `writer`.
fn prepared_record(prepared: &PreparedGraph, writer: &mut Writer) -> Result<PreparedRecord, ArchiveError> {
    let parts = prepared.parts();
    let mut annotated: Vec<usize> = parts.annotated.iter().map(|id| id.index()).collect();
    annotated.sort_unstable();
    let mut observers = Vec::with_capacity(prepared.observers().len());
    for (at, observer) in prepared.observers().iter().enumerate() {
        let record = ObserverRecord::new(observer, writer);
        observers.push(record.map_err(|_| ArchiveError::CustomRule {
            observer: at,
            node: prepared.observed(ObserverId(at)).to_owned(),
        })?);
    }
    let (batches, derived_from, summary) = (prepared.batches(), parts.derived_from.clone(), parts.summary.clone());
    Ok(PreparedRecord { batches, annotated, derived_from, observers, summary, moments: None })
}

/// Returns the prepared graph of a file's bytes.
///
/// # Errors
/// Returns the same errors as [`load_prepared`].
pub fn prepared_from_bytes(bytes: &[u8]) -> Result<PreparedGraph, ArchiveError> {
    let (header, reader) = deserialize(bytes)?;
    prepared_of(header, &reader)
}

fn prepared_of(mut header: Header, reader: &Reader<'_>) -> Result<PreparedGraph, ArchiveError> {
    let Some(record) = header.prepared.take() else {
        let actual = if header.statistics.is_some() { STATISTICS } else { "a graph" };
        return Err(ArchiveError::Kind { actual, expected: "a prepared graph" });
    };
    let graph = graph(&header, reader)?;
    let mut observers = Vec::with_capacity(record.observers.len());
    for (at, observer) in record.observers.iter().enumerate() {
        observers.push(observer.observer(at, reader)?);
    }
    let broken = |node: &str, problem: String| Err(ArchiveError::Node { node: node.to_owned(), problem });
    let count = observers.len();
    check_observers(&graph, count)?;
    // A derived observer has sources that exist, and is not derived from itself.
    let sources = &record.derived_from;
    if sources.len() != count {
        return broken("observers", format!("{} lists of sources, expected {count}", sources.len()));
    }
    let known: HashSet<usize> = in_order(sources).into_iter().collect();
    if let Some(at) = (0..count).find(|at| !known.contains(at)) {
        return broken(&format!("observer {at}"), format!("is derived from {:?}, which leads nowhere", sources[at]));
    }
    let nodes = graph.nodes().len();
    if let Some(id) = record.annotated.iter().find(|id| **id >= nodes) {
        return broken("annotations", format!("node {id} does not exist, there are {nodes}"));
    }
    let annotated = record.annotated.into_iter().map(NodeId::new).collect();
    let parts = Parts { graph, derived_from: record.derived_from, annotated, summary: record.summary };
    Ok(PreparedGraph::from_parts(parts, observers, record.batches))
}

/// Returns the bytes of a prepared graph with the state of its observers and the second moments of its layers' inputs.
/// [`prepared_from_bytes`] reads them too, without the moments.
///
/// # Errors
/// Returns the errors of [`prepared_to_bytes`], and [`ArchiveError::Node`] for moments of another graph, or of a
/// part of it.
pub fn calibration_to_bytes(prepared: &PreparedGraph, hessians: &Hessians) -> Result<Vec<u8>, ArchiveError> {
    let broken = |problem: &str| ArchiveError::Node { node: "second moments".to_owned(), problem: problem.to_owned() };
    if !Hessians::new(prepared).is_like(hessians) {
        return Err(broken("are of another graph, or of a part of it"));
    }
    let mut writer = Writer::default();
    let mut header = header(prepared.graph(), &mut writer)?;
    let moments = Some(MomentsRecord::new(hessians, &mut writer));
    header.prepared = Some(PreparedRecord { moments, ..prepared_record(prepared, &mut writer)? });
    serialize(header, writer)
}

/// Returns the prepared graph of a file's bytes, and the second moments if it has any.
///
/// # Errors
/// Returns the same errors as [`load_prepared`].
pub fn calibration_from_bytes(bytes: &[u8]) -> Result<(PreparedGraph, Option<Hessians>), ArchiveError> {
    let (mut header, reader) = deserialize(bytes)?;
    let moments = header.prepared.as_mut().and_then(|prepared| prepared.moments.take());
    let prepared = prepared_of(header, &reader)?;
    let hessians = moments.map(|moments| moments.hessians(&prepared, &reader)).transpose()?;
    Ok((prepared, hessians))
}

/// Returns the bytes of channel statistics with their float graph, and of the options with which it is to be smoothed.
///
/// # Errors
/// Returns the errors of [`to_bytes`](super::to_bytes).
pub fn statistics_to_bytes(statistics: &ChannelStatistics, options: SmoothOptions) -> Result<Vec<u8>, ArchiveError> {
    check_observers(statistics.graph(), 0)?;
    let mut writer = Writer::default();
    let mut header = header(statistics.graph(), &mut writer)?;
    header.statistics = Some(StatisticsRecord::new(statistics, options, &mut writer));
    serialize(header, writer)
}

/// Returns the channel statistics and the options of a file's bytes.
///
/// # Errors
/// [`ArchiveError`] names what is wrong with the file.
pub fn statistics_from_bytes(bytes: &[u8]) -> Result<(ChannelStatistics, SmoothOptions), ArchiveError> {
    let (header, reader) = deserialize(bytes)?;
    let Some(record) = &header.statistics else {
        return Err(ArchiveError::Kind { actual: "a graph", expected: "channel statistics" });
    };
    let graph = graph(&header, &reader)?;
    check_observers(&graph, 0)?;
    record.statistics(&graph, &reader)
}

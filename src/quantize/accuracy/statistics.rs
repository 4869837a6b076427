//! Statistics of the channels of activations.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};

use super::error::AccuracyError;
use super::weights::{channel_axis, known_weight};
use crate::graph::{Graph, Node, NodeId};
use crate::interp::Interpreter;
use crate::ops::Op;
use crate::values::Tensor;

/// The most tokens (or pixels) of a value that are kept as samples.
const MAX_SAMPLES: usize = 256;

/// The most samples that one batch adds, so that several batches take part.
const SAMPLES_OF_BATCH: usize = 64;

/// For each value that a layer with a known weight reads, the largest magnitude of each channel, and a sample of tokens.
///
/// Statistics of the same graph that saw other batches [`merge`](Self::merge) into one.
#[derive(Debug)]
pub struct ChannelStatistics {
    interpreter: Interpreter,
    values: Vec<Channels>,
    batches: u64,
}

/// The statistics of one value.
#[derive(Debug, Clone)]
pub(super) struct Channels {
    pub(super) id: NodeId,
    /// The axis of the channels.
    pub(super) axis: usize,
    /// The layers that read the value, with this axis as their channels.
    pub(super) readers: Vec<NodeId>,
    /// The largest magnitude of each channel; empty before the first batch.
    pub(super) maxima: Vec<f32>,
    /// Tokens `[samples, channels]`.
    pub(super) samples: Vec<f32>,
}

impl ChannelStatistics {
    /// Prepares to observe a float graph. Layers are linear layers and convolutions without groups.
    #[must_use]
    pub fn new(graph: &Graph) -> Self {
        let interpreter = Interpreter::new(graph);
        let mut readers: BTreeMap<(NodeId, usize), Vec<NodeId>> = BTreeMap::new();
        for (id, node) in graph.iter() {
            let Some(axis) = channel_axis(graph, id) else { continue };
            let input = node.inputs[0];
            let computed = |id| matches!(interpreter.constant_value(id), Ok(None));
            if computed(input) && matches!(known_weight(&interpreter, id), Ok(Some(_))) {
                readers.entry((input, axis)).or_default().push(id);
            }
        }
        let values = readers.into_iter().map(|((id, axis), readers)| {
            let (maxima, samples) = (Vec::new(), Vec::new());
            Channels { id, axis, readers, maxima, samples }
        });
        Self { values: values.collect(), interpreter, batches: 0 }
    }

    /// Returns the number of batches that have been observed.
    #[must_use]
    pub fn batches(&self) -> u64 {
        self.batches
    }

    /// Statistics from a file: for each value, the largest magnitudes of channels and the samples. An error says what is wrong.
    pub(crate) fn from_seen(graph: &Graph, seen: Vec<(Vec<f32>, Vec<f32>)>, batches: u64) -> Result<Self, String> {
        let mut statistics = Self::new(graph);
        let (found, expected) = (seen.len(), statistics.values.len());
        if found != expected {
            return Err(format!("statistics of {found} values, but layers read {expected}"));
        }
        for (value, (maxima, samples)) in statistics.values.iter_mut().zip(seen) {
            let node = graph.node(value.id);
            let channels = node.shape.axis(value.axis).unwrap_or(0);
            let problem =
                |what: &str, found: usize| Err(format!("{found} {what} of {} with {channels} channels", node.name));
            if maxima.len() != channels && !(maxima.is_empty() && batches == 0) {
                return problem("maxima", maxima.len());
            }
            if !samples.len().is_multiple_of(channels.max(1)) || samples.len() > MAX_SAMPLES * channels {
                return problem("sampled elements", samples.len());
            }
            if maxima.iter().any(|max| !max.is_finite() || *max < 0.0) || samples.iter().any(|v| !v.is_finite()) {
                return Err(format!("the statistics of {} are not finite", node.name));
            }
            (value.maxima, value.samples) = (maxima, samples);
        }
        statistics.batches = batches;
        Ok(statistics)
    }

    /// For each value, the largest magnitudes of channels and the samples.
    pub(crate) fn seen(&self) -> impl Iterator<Item = (&[f32], &[f32])> {
        self.values.iter().map(|value| (&value.maxima[..], &value.samples[..]))
    }

    /// Returns the graph.
    #[must_use]
    pub fn graph(&self) -> &Graph {
        self.interpreter.graph()
    }

    /// Returns a number that copies have in common.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        let values = self.values.iter().flat_map(|value| [&value.maxima, &value.samples]);
        values.flatten().for_each(|v| hasher.write_u32(v.to_bits()));
        hasher.finish()
    }

    pub(super) fn interpreter(&self) -> &Interpreter {
        &self.interpreter
    }

    pub(super) fn values(&self) -> &[Channels] {
        &self.values
    }

    /// Runs one batch and adds its values.
    ///
    /// # Errors
    /// Returns [`AccuracyError::Interp`] for inputs that do not fit the graph, and [`AccuracyError::NonFinite`] for a value that is NaN
    /// or infinite. The statistics are then as before the batch.
    pub fn observe<T: Borrow<Tensor>>(&mut self, inputs: &[T]) -> Result<(), AccuracyError> {
        let ids: Vec<NodeId> = self.values.iter().map(|value| value.id).collect();
        let results = finite_values(&self.interpreter, inputs, &ids)?;
        self.values.iter_mut().zip(&results).for_each(|(value, result)| value.add(result));
        self.batches += 1;
        Ok(())
    }

    /// Adds the statistics of later batches of the same graph. The first samples of both are kept, so that the statistics are those of
    /// all batches in a row.
    ///
    /// # Errors
    /// Returns [`AccuracyError::OtherGraph`] for statistics of another graph. The statistics are then as before.
    pub fn merge(&mut self, other: &Self) -> Result<(), AccuracyError> {
        if let Some(problem) = difference(self.interpreter.graph(), other.interpreter.graph()) {
            return Err(AccuracyError::OtherGraph { problem });
        }
        for (mine, theirs) in self.values.iter_mut().zip(&other.values) {
            mine.merge_maxima(&theirs.maxima);
            let channels = theirs.maxima.len().max(1);
            let free = MAX_SAMPLES.saturating_sub(mine.samples.len() / channels);
            mine.samples.extend(theirs.samples.iter().take(free * channels));
        }
        self.batches += other.batches;
        Ok(())
    }
}

/// Runs one batch, and returns the values of nodes, all of them finite.
pub(super) fn finite_values<T: Borrow<Tensor>>(
    interpreter: &Interpreter,
    inputs: &[T],
    ids: &[NodeId],
) -> Result<Vec<Tensor>, AccuracyError> {
    interpreter.check_inputs(inputs)?;
    let graph = interpreter.graph();
    let feeds: Vec<_> = graph.inputs().iter().copied().zip(inputs.iter().map(Borrow::borrow)).collect();
    let values = interpreter.run_nodes(&feeds, ids)?;
    for (&id, value) in ids.iter().zip(&values) {
        if let Some((index, number)) = value.first_non_finite() {
            return Err(AccuracyError::NonFinite { node: graph.node(id).name.clone(), index, value: number });
        }
    }
    Ok(values)
}

/// The first difference between two graphs that should be equal.
pub(super) fn difference(this: &Graph, other: &Graph) -> Option<String> {
    first_difference(this, other, |a, b| a != b)
}

/// The first difference between two graphs that should be equal except for the values of their constants.
pub(super) fn difference_of_structure(this: &Graph, other: &Graph) -> Option<String> {
    first_difference(this, other, |a, b| {
        let constants = matches!((&a.op, &b.op), (Op::Constant(_), Op::Constant(_)));
        a.name != b.name || a.inputs != b.inputs || a.shape != b.shape || !(constants || a.op == b.op)
    })
}

fn first_difference(this: &Graph, other: &Graph, differ: impl Fn(&Node, &Node) -> bool) -> Option<String> {
    let (a, b) = (this.nodes().len(), other.nodes().len());
    if a != b {
        return Some(format!("{b} nodes, expected {a}"));
    }
    let differs = |(a, b): &(&Node, &Node)| differ(a, b);
    let (a, b) = this.nodes().iter().zip(other.nodes()).find(differs)?;
    Some(if a.name == b.name { format!("{} differs", a.name) } else { format!("{}, expected {}", b.name, a.name) })
}

impl Channels {
    fn merge_maxima(&mut self, other: &[f32]) {
        if self.maxima.is_empty() {
            self.maxima = other.to_vec();
        } else {
            self.maxima.iter_mut().zip(other).for_each(|(mine, &theirs)| *mine = mine.max(theirs));
        }
    }

    fn add(&mut self, value: &Tensor) {
        let Some(values) = value.as_f32() else { return };
        let channels = value.shape()[self.axis];
        // Consecutive elements of a channel.
        let inner = value.shape()[self.axis + 1..].iter().product::<usize>();
        let mut maxima = vec![0f32; channels];
        for (run, values) in values.chunks_exact(inner.max(1)).enumerate() {
            let maximum = &mut maxima[run % channels];
            *maximum = values.iter().fold(*maximum, |max, v| max.max(v.abs()));
        }
        self.merge_maxima(&maxima);
        // Which samples a batch offers depends on nothing but the batch, so that shards add up to one run.
        let tokens = values.len() / channels.max(1);
        let offered = SAMPLES_OF_BATCH.min(tokens);
        let free = MAX_SAMPLES.saturating_sub(self.samples.len() / channels.max(1));
        for sample in 0..offered.min(free) {
            let token = sample * tokens / offered;
            let first = token / inner * channels * inner + token % inner;
            self.samples.extend(values[first..].iter().step_by(inner).take(channels));
        }
    }
}

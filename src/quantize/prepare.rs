//! Prepare: inserts observers at the points that a quantizer annotates.

pub(super) mod error;
mod insert;

use std::borrow::Borrow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use rayon::prelude::*;

use self::insert::{check_inputs, insert};
use super::batch_norm::{FoldedNorm, fold_batch_norm};
use super::observer::{Observer, ObserverError, bias_scale};
use super::quantizer::Quantizer;
use super::sharing::{self, in_order};
use super::spec::{DerivedRule, QuantizationSpec};
use super::summary::QuantizationSummary;
use crate::graph::{Graph, Node, NodeId};
use crate::interp::{InterpError, Interpreter};
use crate::ops::{Observe, ObserverId, Op};
use crate::values::{Tensor, TensorQParams};

pub use error::PrepareError;

/// Inserts an observer at every point that `quantizer` annotates. Constants are observed here; activations are observed by
/// [`PreparedGraph::observe`].
///
/// ```
/// use enfold::quantize::{ConvertOptions, QuantizationConfig, WgpuQuantizer, convert, prepare};
/// use enfold::{GraphBuilder, Shape, Tensor};
///
/// let mut g = GraphBuilder::new();
/// let x = g.input("x", Shape::rows(2))?;
/// let y = g.linear("fc", x, Tensor::from_f32(&[2, 2], vec![0.5, -0.25, 0.1, 0.9])?, None)?;
/// let graph = g.finish([y])?;
///
/// let quantizer = WgpuQuantizer::new().set_global(QuantizationConfig::symmetric());
/// let mut prepared = prepare(&graph, &quantizer)?;
/// println!("{}", prepared.summary());
/// for batch in [[1.0, -1.0], [0.3, 0.7]] {
///     prepared.observe(&[Tensor::from_f32(&[1, 2], batch.to_vec())?])?;
/// }
/// assert_eq!(prepared.batches(), 2);
/// let quantized = convert(&prepared, &ConvertOptions::default())?;
/// # Ok::<(), enfold::Error>(())
/// ```
///
/// # Errors
/// Returns [`PrepareError`], which names the node, for example for a weight that is not finite.
pub fn prepare(graph: &Graph, quantizer: &dyn Quantizer) -> Result<PreparedGraph, PrepareError> {
    prepare_with_norms(graph, quantizer).map(|(prepared, _)| prepared)
}

/// Does the same as [`prepare`], and returns the batch norms that were folded too.
pub(crate) fn prepare_with_norms(
    graph: &Graph,
    quantizer: &dyn Quantizer,
) -> Result<(PreparedGraph, Vec<FoldedNorm>), PrepareError> {
    if let Some(node) = graph.nodes().iter().find(|node| matches!(node.op, Op::Observe(_))) {
        return Err(PrepareError::Prepared { node: node.name.clone() });
    }
    let (graph, norms) = fold_batch_norm(graph)?;
    let graph = quantizer.transform_for_annotation(&graph)?;
    let annotations = quantizer.annotate(&graph)?;
    check_inputs(&graph, &annotations)?;
    quantizer.validate(&graph, &annotations)?;
    let groups = sharing::group(&graph, &annotations)?;
    let summary = QuantizationSummary::new(&graph, &annotations, &groups);
    let (prepared, annotated) = insert(&graph, &annotations, &groups)?;
    let observers = groups.specs.into_iter().map(observer);
    let parts = Parts { graph: prepared, derived_from: groups.derived_from, annotated, summary };
    Ok((PreparedGraph::new(parts, observers)?, norms))
}

fn observer(spec: QuantizationSpec) -> Result<Observer, ObserverError> {
    match spec {
        QuantizationSpec::Observed(spec) => Observer::new(spec),
        QuantizationSpec::FixedQParams(spec) => Ok(Observer::fixed(spec)),
        QuantizationSpec::Derived(spec) => Ok(Observer::derived(spec)),
        QuantizationSpec::Shared(_) => unreachable!("groups have a spec that is not shared"),
    }
}

/// A float graph with observers: run calibration batches through it, then [`convert`](super::convert()) it.
///
/// ```
/// use enfold::{QuantizationConfig, WgpuQuantizer, prepare};
/// # use enfold::{GraphBuilder, Shape, Tensor};
/// # let mut g = GraphBuilder::new();
/// # let x = g.input("x", Shape::rows(2))?;
/// # let y = g.linear("fc", x, Tensor::from_f32(&[3, 2], vec![0.5, -1.0, 0.25, 0.75, -0.5, 1.0])?, None)?;
/// # let graph = g.finish([y])?;
///
/// let quantizer = WgpuQuantizer::new().set_global(QuantizationConfig::symmetric().per_channel());
/// let prepared = prepare(&graph, &quantizer)?;
/// println!("{}", prepared.summary()); // which nodes are quantized, by which scheme; which are not, and why
/// # Ok::<(), enfold::Error>(())
/// ```
#[derive(Debug)]
pub struct PreparedGraph {
    interpreter: Interpreter,
    observers: Vec<Observer>,
    /// For each observer, the name of the first value that it observes.
    observed: Vec<String>,
    /// Observe nodes whose values their observer has already observed at another node.
    passive: HashSet<NodeId>,
    parts: Parts,
    batches: u64,
}

/// The parts of a prepared graph without its observers.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    pub(crate) graph: Graph,
    /// For each observer, the observers that it is derived from.
    pub(crate) derived_from: Vec<Vec<usize>>,
    /// Nodes that the quantizer annotated: each gets a dequantize of its own.
    pub(crate) annotated: HashSet<NodeId>,
    pub(crate) summary: QuantizationSummary,
}

impl PreparedGraph {
    fn new(
        parts: Parts,
        observers: impl ExactSizeIterator<Item = Result<Observer, ObserverError>>,
    ) -> Result<Self, PrepareError> {
        let observed = observed(&parts.graph, observers.len());
        let named = |(observer, node): (Result<Observer, ObserverError>, &String)| {
            observer.map_err(|source| PrepareError::Observer { node: node.clone(), source })
        };
        let observers = observers.zip(&observed).map(named).collect::<Result<Vec<_>, _>>()?;
        let mut prepared = Self::from_parts(parts, observers, 0);
        prepared.observe_constants()?;
        Ok(prepared)
    }

    /// A prepared graph whose observers have observed the constants already, such as one from a file.
    pub(crate) fn from_parts(parts: Parts, observers: Vec<Observer>, batches: u64) -> Self {
        let observed = observed(&parts.graph, observers.len());
        let passive = passive(&parts.graph);
        Self { interpreter: Interpreter::new(&parts.graph), observers, observed, passive, parts, batches }
    }

    /// Whether the observer of an observe node has already observed its value at another node.
    pub(crate) fn is_passive(&self, id: NodeId) -> bool {
        self.passive.contains(&id)
    }

    /// Refuses inputs that do not fit the graph.
    pub(crate) fn check_inputs<T: Borrow<Tensor>>(&self, inputs: &[T]) -> Result<(), InterpError> {
        self.interpreter.check_inputs(inputs)
    }

    /// The same prepared graph with the constants and observers of training.
    pub(crate) fn trained(&self, graph: Graph, observers: Vec<Observer>, batches: u64) -> Self {
        Self::from_parts(Parts { graph, ..self.parts.clone() }, observers, batches)
    }

    /// Replaces constants, and statistics of observers by known qparams.
    pub(super) fn edit(&mut self, constants: &HashMap<NodeId, Arc<Tensor>>, qparams: Vec<(usize, TensorQParams)>) {
        let graph = self.graph().with_constants(|id| constants.get(&id).cloned());
        let mut observers = self.observers.clone();
        for (at, qparams) in qparams {
            observers[at] = observers[at].clone().with_known(qparams);
        }
        *self = self.trained(graph, observers, self.batches);
    }

    pub(crate) fn parts(&self) -> &Parts {
        &self.parts
    }

    /// Returns the graph, with an `observe` node at every annotated point.
    #[must_use]
    pub fn graph(&self) -> &Graph {
        self.interpreter.graph()
    }

    /// Returns the observers, indexed by [`ObserverId`].
    #[must_use]
    pub fn observers(&self) -> &[Observer] {
        &self.observers
    }

    /// Returns the number of batches that have been observed.
    #[must_use]
    pub fn batches(&self) -> u64 {
        self.batches
    }

    /// Returns the nodes that are quantized, with specs and observers, and the nodes that are not, with reasons.
    #[must_use]
    pub fn summary(&self) -> &QuantizationSummary {
        &self.parts.summary
    }

    /// Runs one batch, lets every observer observe its tensors, and returns the float outputs. A value whose observer is shared is
    /// observed once, however often it is reshaped, transposed or concatenated.
    ///
    /// ```
    /// use enfold::{ConvertOptions, QuantizationConfig, WgpuQuantizer, convert, prepare};
    /// # use enfold::{GraphBuilder, Shape, Tensor};
    /// # let mut g = GraphBuilder::new();
    /// # let x = g.input("x", Shape::rows(2))?;
    /// # let y = g.linear("fc", x, Tensor::from_f32(&[3, 2], vec![0.5, -1.0, 0.25, 0.75, -0.5, 1.0])?, None)?;
    /// # let graph = g.finish([y])?;
    ///
    /// let quantizer = WgpuQuantizer::new().set_global(QuantizationConfig::symmetric().per_channel());
    /// let mut prepared = prepare(&graph, &quantizer)?;
    /// for batch in [vec![1.0, 0.2, -0.4, 0.9], vec![0.3, -1.0, 0.0, 0.5]] {
    ///     prepared.observe(&[Tensor::from_f32(&[2, 2], batch)?])?; // data like those of use
    /// }
    /// let quantized = convert(&prepared, &ConvertOptions::default())?;
    /// # let _ = quantized;
    /// # Ok::<(), enfold::Error>(())
    /// ```
    ///
    /// # Errors
    /// Returns [`PrepareError::Observer`] for a value that is NaN or infinite, naming the node, and [`PrepareError::Interp`] for
    /// inputs that do not fit the graph or hold no rows. The observers are then as before the batch.
    pub fn observe<T: Borrow<Tensor>>(&mut self, inputs: &[T]) -> Result<Vec<Tensor>, PrepareError> {
        let batches = self.batches_and(1)?;
        let mut observers = self.observers.clone();
        let mut failed = None;
        let outputs = self.interpreter.run_with(inputs, &mut |id, ObserverId(at), tensor| {
            if failed.is_none()
                && !self.passive.contains(&id)
                && let Err(source) = observers[at].observe(tensor)
            {
                failed = Some(PrepareError::Observer { node: self.observed[at].clone(), source });
            }
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        self.observers = observers;
        self.batches = batches;
        Ok(outputs)
    }

    /// Merges the statistics of another copy of this prepared graph, for calibration that is sharded over processes or machines.
    ///
    /// # Errors
    /// Returns [`PrepareError::OtherGraph`] unless `other` was prepared from the same graph in the same way,
    /// [`PrepareError::Observer`] for observers that cannot be merged, and [`PrepareError::Batches`] for more batches than u64
    /// counts. The observers are then as before.
    pub fn merge(&mut self, other: &Self) -> Result<(), PrepareError> {
        if let Some(problem) = difference(self.graph(), other.graph()) {
            return Err(PrepareError::OtherGraph { problem });
        }
        let batches = self.batches_and(other.batches)?;
        let (this, that) = (self.observers.len(), other.observers.len());
        if this != that {
            return Err(PrepareError::OtherGraph { problem: format!("{that} observers, expected {this}") });
        }
        let mut observers = self.observers.clone();
        let constants = self.constant_observers();
        for (at, (mine, theirs)) in observers.iter_mut().zip(&other.observers).enumerate() {
            // Both have observed the constants, which are not batches.
            let merged = if constants.contains(&at) { mine.check_spec(theirs) } else { mine.merge(theirs) };
            merged.map_err(|source| PrepareError::Observer { node: self.observed[at].clone(), source })?;
        }
        self.observers = observers;
        self.batches = batches;
        Ok(())
    }

    fn batches_and(&self, other: u64) -> Result<u64, PrepareError> {
        self.batches.checked_add(other).ok_or(PrepareError::Batches { this: self.batches, other })
    }

    /// The qparams of every observer; `None` for dynamic quantization. An error comes with the index of its observer.
    pub(super) fn calculate_qparams(&self) -> Result<Vec<Option<TensorQParams>>, (usize, ObserverError)> {
        // A histogram's search takes milliseconds; a network has many.
        let own: Vec<_> = self.observers.par_iter().map(Observer::calculate_qparams).collect();
        let mut all = Vec::with_capacity(own.len());
        let mut derived = HashSet::new();
        for (at, own) in own.into_iter().enumerate() {
            all.push(match own {
                Ok(qparams) => Some(qparams),
                Err(ObserverError::Dynamic) => None,
                Err(ObserverError::Derived) => {
                    derived.insert(at);
                    None
                }
                Err(error) => return Err((at, error)),
            });
        }
        // Derived qparams are computed after those that they are derived from.
        for at in in_order(&self.parts.derived_from).into_iter().filter(|at| derived.contains(at)) {
            all[at] = Some(self.derive(at, &all).map_err(|error| (at, error))?);
        }
        Ok(all)
    }

    fn derive(&self, at: usize, known: &[Option<TensorQParams>]) -> Result<TensorQParams, ObserverError> {
        let QuantizationSpec::Derived(spec) = self.observers[at].spec() else { return Err(ObserverError::Derived) };
        let mut from = Vec::new();
        for &source in &self.parts.derived_from[at] {
            from.push(known[source].clone().ok_or(ObserverError::Dynamic)?);
        }
        derived(&spec.rule, &from)
    }

    pub(super) fn is_annotated(&self, id: NodeId) -> bool {
        self.parts.annotated.contains(&id)
    }

    /// The name of an observer in messages: the first value that it observes.
    pub(crate) fn observed(&self, id: ObserverId) -> &str {
        &self.observed[id.0]
    }

    fn observe_constants(&mut self) -> Result<(), PrepareError> {
        let graph = self.interpreter.graph().clone();
        for (_, node) in graph.iter() {
            let Op::Observe(Observe { observer }) = node.op else { continue };
            if let Some(value) = self.interpreter.constant_value(node.inputs[0])? {
                let error = |source| PrepareError::Observer { node: graph.node(node.inputs[0]).name.clone(), source };
                self.observers[observer.0].observe(&value).map_err(error)?;
            }
        }
        Ok(())
    }

    /// The observers that observe constants only.
    fn constant_observers(&self) -> HashSet<usize> {
        let graph = self.graph();
        let mut constant: HashSet<usize> = (0..self.observers.len()).collect();
        for (_, node) in graph.iter() {
            if let Op::Observe(Observe { observer }) = node.op
                && !matches!(self.interpreter.constant_value(node.inputs[0]), Ok(Some(_)))
            {
                constant.remove(&observer.0);
            }
        }
        constant
    }
}

/// Derives the qparams of a point from those of other points.
pub(crate) fn derived(rule: &DerivedRule, from: &[TensorQParams]) -> Result<TensorQParams, ObserverError> {
    let derived = match rule {
        DerivedRule::BiasScale => bias_scale(from),
        DerivedRule::Custom(rule) => rule(from),
    };
    derived.map_err(|reason| ObserverError::Rule { reason })
}

/// For each observer, the name of the first value that it observes.
fn observed(graph: &Graph, observers: usize) -> Vec<String> {
    let mut observed = vec![String::new(); observers];
    for (_, node) in graph.iter() {
        if let Op::Observe(Observe { observer: ObserverId(at) }) = node.op
            && observed[at].is_empty()
        {
            observed[at].clone_from(&graph.node(node.inputs[0]).name);
        }
    }
    observed
}

/// The observer nodes that are left out: their value only permutes values that the observer sees elsewhere, and the observer would see each
/// value as often as every other, so that ranges and the shapes of histograms are the same.
fn passive(graph: &Graph) -> HashSet<NodeId> {
    let by = |id: NodeId| match graph.node(id).op {
        Op::Observe(Observe { observer }) => Some(observer),
        _ => None,
    };
    // For each observer node, the observer nodes whose values it permutes; itself if there are none.
    let mut sources: HashMap<NodeId, Vec<NodeId>> = HashMap::new();
    let mut times: HashMap<ObserverId, HashMap<NodeId, usize>> = HashMap::new();
    let mut passive = Vec::new();
    for (id, node) in graph.iter() {
        let Some(observer) = by(id) else { continue };
        let moved = graph.node(node.inputs[0]);
        // The value itself may be observed twice in a row.
        let from = if by(node.inputs[0]).is_some() { &node.inputs } else { &moved.inputs };
        let permutes = by(node.inputs[0]).is_some() || is_permutation(moved);
        let of = if permutes && !from.is_empty() && from.iter().all(|&input| by(input) == Some(observer)) {
            passive.push((id, observer));
            from.iter().flat_map(|input| sources[input].clone()).collect()
        } else {
            vec![id]
        };
        let times = times.entry(observer).or_default();
        of.iter().for_each(|&source| *times.entry(source).or_default() += 1);
        sources.insert(id, of);
    }
    let even = |observer| {
        let mut counts = times[&observer].values();
        let first = counts.next();
        counts.all(|count| Some(count) == first)
    };
    passive.into_iter().filter(|&(_, observer)| even(observer)).map(|(id, _)| id).collect()
}

/// Whether the value of a node is that of its inputs in another order: a slice, a pad or a pool has other frequencies.
fn is_permutation(node: &Node) -> bool {
    matches!(node.op, Op::Reshape(_) | Op::Flatten(_) | Op::Transpose(_) | Op::Concat(_))
}

/// The first difference between two graphs.
fn difference(a: &Graph, b: &Graph) -> Option<String> {
    if a == b {
        return None;
    }
    let differs = a.nodes().iter().zip(b.nodes()).find(|(a, b)| a != b);
    Some(match differs {
        Some((a, b)) if a.name == b.name => format!("{} is not the same node in both", a.name),
        Some((a, b)) => format!("{} stands where {} is expected", b.name, a.name),
        None => format!("{} nodes, expected {}", b.nodes().len(), a.nodes().len()),
    })
}

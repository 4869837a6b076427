//! Prepare: a quantizer's annotations become observers in the graph.

use std::borrow::Borrow;
use std::collections::{HashMap, HashSet};

use super::annotation::{Annotations, EdgeOrNode};
use super::observer::{Observer, ObserverError};
use super::quantizer::Quantizer;
use super::sharing::{self, Groups};
use super::spec::ObservedSpec;
use crate::graph::{Graph, GraphError, NodeId, ObserverId, Op, Rewriter};
use crate::interp::{InterpError, Interpreter};
use crate::tensor::Tensor;

/// Why a graph could not be prepared, or a batch not be observed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PrepareError {
    /// A spec shares the observer of a point that is not annotated.
    #[error("{point} shares the observer of {target}, which is not annotated")]
    SharedWithNothing {
        /// The point that shares.
        point: String,
        /// What it names.
        target: String,
    },
    /// Shared specs lead back to themselves.
    #[error("{point} shares an observer through {target} with itself; one point of the circle needs a spec of its own")]
    SharedCycle {
        /// The point that shares.
        point: String,
        /// Where the circle closes.
        target: String,
    },
    /// An annotation names an input that the node does not have.
    #[error("{node} is annotated for input {input}, which it does not read")]
    NoSuchInput {
        /// The annotated node.
        node: String,
        /// The producer named.
        input: String,
    },
    /// A spec or a value does not suit its observer.
    #[error("{node}: {source}")]
    Observer {
        /// The observed node.
        node: String,
        /// What is wrong.
        source: ObserverError,
    },
    /// The prepared graph is not valid.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The prepared graph could not be run.
    #[error(transparent)]
    Interp(#[from] InterpError),
}

/// Inserts an observer at every point that `quantizer` annotates. Constants are observed here, once.
///
/// # Errors
/// [`PrepareError`], naming the node; for example for a weight that is not finite.
pub fn prepare(graph: &Graph, quantizer: &dyn Quantizer) -> Result<PreparedGraph, PrepareError> {
    let graph = quantizer.transform_for_annotation(graph)?;
    let annotations = quantizer.annotate(&graph)?;
    quantizer.validate(&graph, &annotations)?;
    check_inputs(&graph, &annotations)?;
    let groups = sharing::group(&graph, &annotations)?;
    let (prepared, annotated) = insert(&graph, &annotations, &groups)?;
    PreparedGraph::new(prepared, &groups, annotated)
}

/// A float graph with observers on the way: run batches through it, then [`convert`](super::convert()) it.
#[derive(Debug)]
pub struct PreparedGraph {
    interpreter: Interpreter,
    observers: Vec<Observer>,
    /// Per observer, the name of the first value that it sees.
    observed: Vec<String>,
    /// Nodes that the quantizer annotated: each gets a dequantize of its own.
    annotated: HashSet<NodeId>,
    batches: u64,
}

impl PreparedGraph {
    fn new(graph: Graph, groups: &Groups, annotated: HashSet<NodeId>) -> Result<Self, PrepareError> {
        let mut observed = vec![String::new(); groups.specs.len()];
        for (_, node) in graph.iter() {
            if let Op::Observe { observer: ObserverId(at) } = node.op
                && observed[at].is_empty()
            {
                observed[at].clone_from(&graph.node(node.inputs[0]).name);
            }
        }
        let observer = |(spec, node): (&ObservedSpec, &String)| {
            Observer::new(*spec).map_err(|source| PrepareError::Observer { node: node.clone(), source })
        };
        let observers = groups.specs.iter().zip(&observed).map(observer).collect::<Result<Vec<_>, _>>()?;
        let interpreter = Interpreter::new(&graph);
        let mut prepared = Self { interpreter, observers, observed, annotated, batches: 0 };
        prepared.observe_constants()?;
        Ok(prepared)
    }

    /// The graph, with an `observe` node at every annotated point.
    #[must_use]
    pub fn graph(&self) -> &Graph {
        self.interpreter.graph()
    }

    /// The observers, indexed by [`ObserverId`].
    #[must_use]
    pub fn observers(&self) -> &[Observer] {
        &self.observers
    }

    /// How many batches have been observed.
    #[must_use]
    pub fn batches(&self) -> u64 {
        self.batches
    }

    /// Runs one batch, lets every observer see its tensors, and returns the float outputs.
    ///
    /// # Errors
    /// [`PrepareError::Observer`] for a value that is NaN or infinite, naming the node, and [`PrepareError::Interp`] for
    /// inputs that do not fit the graph or hold no rows. The observers are then as before the batch.
    pub fn observe<T: Borrow<Tensor>>(&mut self, inputs: &[T]) -> Result<Vec<Tensor>, PrepareError> {
        let mut observers = self.observers.clone();
        let mut failed = None;
        let outputs = self.interpreter.run_with(inputs, &mut |_, ObserverId(at), tensor| {
            if failed.is_none()
                && let Err(source) = observers[at].observe(tensor)
            {
                failed = Some(PrepareError::Observer { node: self.observed[at].clone(), source });
            }
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        self.observers = observers;
        self.batches += 1;
        Ok(outputs)
    }

    pub(super) fn is_annotated(&self, id: NodeId) -> bool {
        self.annotated.contains(&id)
    }

    /// What messages call an observer: the value that it sees.
    pub(super) fn observed(&self, id: ObserverId) -> &str {
        &self.observed[id.0]
    }

    fn observe_constants(&mut self) -> Result<(), PrepareError> {
        let graph = self.interpreter.graph().clone();
        for (_, node) in graph.iter() {
            let Op::Observe { observer } = node.op else { continue };
            if let Some(value) = self.interpreter.constant_value(node.inputs[0])? {
                let error = |source| PrepareError::Observer { node: graph.node(node.inputs[0]).name.clone(), source };
                self.observers[observer.0].observe(&value).map_err(error)?;
            }
        }
        Ok(())
    }
}

fn check_inputs(graph: &Graph, annotations: &Annotations) -> Result<(), PrepareError> {
    for (point, _) in annotations.points(graph) {
        if let EdgeOrNode::Edge { producer, consumer } = point
            && !graph.node(consumer).inputs.contains(&producer)
        {
            let node = graph.node(consumer).name.clone();
            return Err(PrepareError::NoSuchInput { node, input: EdgeOrNode::Node(producer).describe(graph) });
        }
    }
    Ok(())
}

/// The graph with `observe` nodes, and which of its nodes are annotated.
fn insert(graph: &Graph, annotations: &Annotations, groups: &Groups) -> Result<(Graph, HashSet<NodeId>), PrepareError> {
    let mut rewriter = Rewriter::new(graph);
    // What an observer has already been put behind, and the node that it made.
    let mut observed: HashMap<(NodeId, usize), NodeId> = HashMap::new();
    let mut annotated_names = HashSet::new();
    for (id, node) in graph.iter() {
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for &producer in &node.inputs {
            let current = rewriter.get(producer)?;
            let Some(group) = groups.observed(EdgeOrNode::Edge { producer, consumer: id }) else {
                inputs.push(current);
                continue;
            };
            // The producer's own observer is this one: its consumers already read it.
            if groups.observed(EdgeOrNode::Node(producer)) == Some(group) {
                inputs.push(current);
                continue;
            }
            let seen = match observed.get(&(current, group)) {
                Some(&seen) => seen,
                None => observe(&mut rewriter, current, group)?,
            };
            observed.insert((current, group), seen);
            inputs.push(seen);
        }
        let new = rewriter.copy_with(id, inputs)?;
        if annotations.get(id).is_some() {
            annotated_names.insert(node.name.clone());
        }
        if let Some(group) = groups.observed(EdgeOrNode::Node(id)) {
            let seen = observe(&mut rewriter, new, group)?;
            rewriter.replace(id, seen);
        }
    }
    let prepared = rewriter.finish()?;
    let annotated = prepared.iter().filter(|(_, n)| annotated_names.contains(&n.name)).map(|(id, _)| id).collect();
    Ok((prepared, annotated))
}

fn observe(rewriter: &mut Rewriter<'_>, value: NodeId, group: usize) -> Result<NodeId, GraphError> {
    let node = rewriter.node(value);
    let (name, origin) = (format!("{}.observe", node.name), node.origin.clone());
    rewriter.add(&name, Op::Observe { observer: ObserverId(group) }, vec![value], &origin)
}

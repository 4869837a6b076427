//! Quantization-aware training (QAT): trains a network with the rounding of int8.
//!
//! [`prepare_qat`] puts a [`FakeQuantize`] at every point that a quantizer annotates: values are quantized and dequantized, and gradients
//! pass straight through. [`Trainer::fit`] trains the parameters; [`TrainableGraph::prepared`] is what
//! [`convert`](crate::quantize::convert()) takes. With the observers off, the outputs of training and of the converted graph
//! have the same bits, since one rule computes scales and zero points for both.
//!
//! ```
//! use enfold::qat::{Loss, Optimizer, Trainer, prepare_qat};
//! use enfold::quantize::{ConvertOptions, QuantizationConfig, WgpuQuantizer, convert};
//! # use enfold::{GraphBuilder, Shape, Tensor};
//! # let mut g = GraphBuilder::new();
//! # let x = g.input("x", Shape::rows(2))?;
//! # let y = g.linear("fc", x, Tensor::from_f32(&[2, 2], vec![0.5, -0.25, 0.1, 0.9])?, None)?;
//! # let float = g.finish([y])?;
//! # let inputs = Tensor::from_f32(&[4, 2], vec![1.0, -1.0, 0.3, 0.7, -0.2, 0.4, 0.9, 0.1])?;
//! # let labels = Tensor::from_i32(&[4], vec![0, 1, 1, 0])?;
//!
//! let quantizer = WgpuQuantizer::new().set_global(QuantizationConfig::symmetric().per_channel().qat());
//! let mut model = prepare_qat(&float, &quantizer)?;
//! let mut trainer = Trainer::new(Loss::CrossEntropy, Optimizer::adam(5e-4)?);
//! (trainer.epochs, trainer.batch_rows) = (3, 2);
//! trainer.fit(&mut model, &[&inputs], &labels, |progress| println!("{progress}"))?;
//! let quantized = convert(&model.prepared()?, &ConvertOptions::default())?;
//! # Ok::<(), enfold::Error>(())
//! ```
//!
//! A float graph is trained in the same way, by [`TrainableGraph::new`]. Everything is deterministic, on any number of
//! threads.

mod buffers;
mod error;
mod gradients;
mod loss;
mod norm;
mod optimizer;
mod parameter;
mod pass;
mod trainer;
mod values;

use std::collections::HashMap;
use std::sync::Arc;

use self::buffers::GradientBuffers;
use self::norm::Batch;
use self::values::{Source, Values};
use crate::graph::{Graph, NodeId};
use crate::ops::{Observe, ObserverId, Op};
use crate::quantize::trained::prepare_with_norms;
use crate::quantize::{
    FakeQuantize, ObserverError, PreparedGraph, QParamsRule, QuantizationSpec, Quantizer, WgpuQuantizer,
};
use crate::values::Tensor;

pub use error::QatError;
pub use loss::Loss;
pub use optimizer::{Optimizer, OptimizerKind, Schedule};
pub use trainer::{Progress, Trainer};

/// Inserts a fake quantizer at every point that `quantizer` annotates, and makes the float parameters trainable: weights and
/// biases of linear layers and norms, and tables of embeddings.
///
/// Let the quantizer's configurations be those of [`QuantizationConfig::qat`](crate::quantize::QuantizationConfig::qat): observers
/// are asked at every step, and moving averages answer at once, where a histogram would search.
///
/// # Errors
/// Returns [`QatError::Prepare`] for errors of [`prepare`](crate::quantize::prepare), [`QatError::NoGradient`] for an operator
/// that gradients cannot pass, [`QatError::NoParameters`] if there is nothing to train, [`QatError::SharedWithNorm`] for
/// constants that cannot be told apart.
pub fn prepare_qat(graph: &Graph, quantizer: &dyn Quantizer) -> Result<TrainableGraph, QatError> {
    let (prepared, folded) = prepare_with_norms(graph, quantizer)?;
    let users = graph.users();
    for norm in &folded {
        for id in [norm.weight].into_iter().chain(norm.bias).chain(norm.statistics) {
            if let [first, second, ..] = users[id.index()][..] {
                let [first, second] = [first, second].map(|id| graph.node(id).name.clone());
                let other = if first == norm.layer { second } else { first };
                let (constant, layer) = (graph.node(id).name.clone(), norm.layer.clone());
                return Err(QatError::SharedWithNorm { constant, layer, other });
            }
        }
    }
    let structure = prepared.graph().clone();
    let values = Values::new(graph, &structure, folded);
    let gradients = GradientBuffers::new(structure.nodes().len());
    let fakes = prepared.observers().iter().cloned().map(FakeQuantize::new).collect();
    let mut model = TrainableGraph {
        graph: structure,
        template: Arc::new(prepared),
        fakes,
        values,
        gradients,
        batches: HashMap::new(),
        norms_frozen: false,
        forward_done: false,
        steps: 0,
    };
    model.gradients.wanted = model.wanted()?;
    Ok(model)
}

/// A graph whose parameters can be trained, with or without fake quantization.
#[derive(Debug, Clone)]
pub struct TrainableGraph {
    /// The structure; its constants are those from before training.
    graph: Graph,
    /// The prepared graph that convert starts from.
    template: Arc<PreparedGraph>,
    fakes: Vec<FakeQuantize>,
    values: Values,
    gradients: GradientBuffers,
    /// The batch statistics of the last pass, for batch norms that are not folded into a layer.
    batches: HashMap<NodeId, Batch>,
    norms_frozen: bool,
    forward_done: bool,
    steps: u64,
}

impl TrainableGraph {
    /// Makes the parameters of a float graph trainable, without any quantization.
    ///
    /// # Errors
    /// Returns the same errors as [`prepare_qat`].
    pub fn new(graph: &Graph) -> Result<Self, QatError> {
        prepare_qat(graph, &WgpuQuantizer::new())
    }

    /// For each node, whether gradients have to reach it. Refuses nodes that gradients cannot pass.
    fn wanted(&self) -> Result<Vec<bool>, QatError> {
        // `prepare` leaves no node that no output depends on.
        let nodes = self.graph.nodes();
        let mut wanted: Vec<bool> = Vec::with_capacity(nodes.len());
        for (at, node) in nodes.iter().enumerate() {
            let trained = match self.values.sources[at] {
                Source::Parameter(at) => self.values.parameters[at].trained,
                Source::FoldedWeight(norm) | Source::FoldedBias(norm) => {
                    self.values.norms[norm].is_trained(&self.values.parameters)
                }
                Source::Fixed(_) => false,
                Source::Pass => {
                    let learned =
                        matches!(node.op, Op::Observe(Observe { observer }) if self.fakes[observer.0].learns_step());
                    learned || node.inputs.iter().any(|input| wanted[input.index()])
                }
            };
            wanted.push(trained);
            let computed = matches!(self.values.sources[at], Source::Pass);
            if trained && computed && gradients::rule(&node.op).is_none() {
                return Err(QatError::NoGradient { node: node.name.clone(), op: node.op.name() });
            }
        }
        if self.graph.outputs().iter().any(|id| wanted[id.index()]) { Ok(wanted) } else { Err(QatError::NoParameters) }
    }

    /// Returns the structure: the float graph with `observe` nodes, whose constants are those from before training.
    #[must_use]
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Returns names, values and gradients of all parameters that are trained. Gradients are those of the last backward pass,
    /// empty before the first.
    pub fn parameters(&self) -> impl Iterator<Item = (&str, &Tensor, &[f32])> {
        let all = self.values.parameters.iter().enumerate().filter(|(_, parameter)| parameter.trained);
        all.map(|(at, parameter)| (parameter.name.as_str(), &parameter.value, self.gradient(at)))
    }

    /// Returns names and values of what training changes without a gradient: the running means and variances of batch norms. PyTorch
    /// calls them buffers.
    pub fn buffers(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        let all = self.values.parameters.iter().filter(|parameter| parameter.buffer);
        all.map(|parameter| (parameter.name.as_str(), &parameter.value))
    }

    fn gradient(&self, parameter: usize) -> &[f32] {
        let Values { norms, sources, .. } = &self.values;
        gradient_of(norms, sources, &self.gradients, parameter)
    }

    /// Sets the value of a parameter, in the shape that it has.
    ///
    /// # Errors
    /// Returns [`QatError::UnknownParameter`] for a name that no parameter has, [`QatError::Size`] for another shape.
    pub fn set_parameter(&mut self, name: &str, value: &Tensor) -> Result<(), QatError> {
        let at = self.find(name)?;
        let own = &mut self.values.parameters[at].value;
        if own.shape() != value.shape() || own.dtype() != value.dtype() {
            let expected = format!("{} in shape {:?}", own.len(), own.shape());
            return Err(QatError::Size { what: "number of the parameter's elements", actual: value.len(), expected });
        }
        own.clone_from(value);
        self.forward_done = false;
        Ok(())
    }

    /// Sets whether a parameter is trained; all are at first.
    ///
    /// # Errors
    /// Returns [`QatError::UnknownParameter`] for a name that no parameter has, [`QatError::NoParameters`] if none would be left.
    pub fn set_trained(&mut self, name: &str, trained: bool) -> Result<(), QatError> {
        let at = self.find(name)?;
        let before = std::mem::replace(&mut self.values.parameters[at].trained, trained);
        match self.wanted() {
            Ok(wanted) => self.gradients.wanted = wanted,
            Err(error) => {
                self.values.parameters[at].trained = before;
                return Err(error);
            }
        }
        self.forward_done = false;
        Ok(())
    }

    fn find(&self, name: &str) -> Result<usize, QatError> {
        let parameters = &self.values.parameters;
        parameters.iter().position(|parameter| parameter.name == name).ok_or_else(|| QatError::UnknownParameter {
            name: name.to_owned(),
            names: parameters.iter().map(|parameter| parameter.name.clone()).collect(),
        })
    }

    /// Switches all observers on or off. While they are off, scales and zero points do not change.
    pub fn enable_observers(&mut self, on: bool) {
        self.fakes.iter_mut().for_each(|fake| fake.enable_observer(on));
    }

    /// Switches all fake quantization on or off. While it is off, values pass unchanged.
    pub fn enable_fake_quant(&mut self, on: bool) {
        self.fakes.iter_mut().for_each(|fake| fake.enable_fake_quant(on));
        self.forward_done = false;
    }

    /// Sets whether batch norms use their running statistics, as the converted graph does, instead of those of the batch. They use those
    /// of the batch at first.
    pub fn freeze_norms(&mut self, frozen: bool) {
        self.norms_frozen = frozen;
    }

    /// Sets the rule from observed ranges to scales and zero points.
    pub fn set_rule(&mut self, rule: QParamsRule) {
        self.fakes.iter_mut().for_each(|fake| fake.set_rule(rule));
    }

    /// Makes all static scales and zero points parameters, which are trained from here on (LSQ). They start from the
    /// statistics of the observers, so run at least one batch before. With `scale_gradients`, their gradients are divided by
    /// `√(elements · quant_max)`.
    ///
    /// # Errors
    /// [`QatError::Observer`] names the first value that has not been observed; nothing has changed then.
    pub fn learn_steps(&mut self, scale_gradients: bool) -> Result<(), QatError> {
        let mut fakes = self.fakes.clone();
        for (at, fake) in fakes.iter_mut().enumerate() {
            if matches!(fake.observer().spec(), QuantizationSpec::Observed(spec) if !spec.is_dynamic()) {
                fake.learn_step(scale_gradients).map_err(|source| self.named(at, source))?;
            }
        }
        self.fakes = fakes;
        self.gradients.wanted = self.wanted()?;
        self.forward_done = false;
        Ok(())
    }

    /// Returns the fake quantizers, indexed by [`ObserverId`].
    #[must_use]
    pub fn fake_quantizers(&self) -> &[FakeQuantize] {
        &self.fakes
    }

    /// Moves every trained parameter along its gradient.
    pub fn step(&mut self, optimizer: &mut Optimizer) {
        let Self { values: Values { parameters, sources, norms, .. }, gradients, fakes, .. } = self;
        let count = parameters.len();
        let own = parameters.iter_mut().enumerate().filter(|(_, parameter)| parameter.trained);
        let own = own.map(|(at, p)| (at, p.floats_mut(), gradient_of(norms, sources, gradients, at)));
        let learned = fakes.iter_mut().enumerate().filter_map(|(at, fake)| Some((at, fake.learned_mut()?)));
        let learned = learned.flat_map(|(at, learned)| {
            let number = count + 2 * at;
            let scale = (number, &mut learned.scale[..], &learned.scale_gradient[..]);
            [scale, (number + 1, &mut learned.zero_point[..], &learned.zero_point_gradient[..])]
        });
        optimizer.step(own.chain(learned));
        self.steps += 1;
        self.forward_done = false;
    }

    /// Returns the prepared graph for [`convert`](crate::quantize::convert()): the trained parameters, batch norms folded by
    /// their running statistics, and the observers with their statistics. For a float graph, [`PreparedGraph::graph`] is the
    /// trained network.
    ///
    /// # Errors
    /// Returns [`QatError::Observer`] for learned steps that are not usable.
    pub fn prepared(&self) -> Result<PreparedGraph, QatError> {
        let values = self.values.at_rest();
        let changed = |id: NodeId| !matches!(values.sources[id.index()], Source::Fixed(_) | Source::Pass);
        let graph = self.graph.with_constants(|id| changed(id).then(|| Arc::new(values.get(id).clone())));
        let observer = |(at, fake): (usize, &FakeQuantize)| fake.to_observer().map_err(|source| self.named(at, source));
        let observers = self.fakes.iter().enumerate().map(observer).collect::<Result<_, _>>()?;
        Ok(self.template.trained(graph, observers, self.steps))
    }

    fn named(&self, observer: usize, source: ObserverError) -> QatError {
        QatError::Observer { node: self.template.observed(ObserverId(observer)).to_owned(), source }
    }

    /// The parameter with the largest element in its gradient; NaN counts as the largest.
    fn largest_gradient(&self) -> (String, f32) {
        let rank = |v: f32| if v.is_nan() { f32::INFINITY } else { v.abs() };
        let larger = |a: f32, b: f32| if rank(b) > rank(a) { b } else { a };
        let all = self.parameters().map(|(name, _, g)| (name.to_owned(), g.iter().copied().fold(0.0, larger)));
        let largest = all.reduce(|a, b| if rank(b.1) > rank(a.1) { b } else { a });
        largest.unwrap_or_else(|| ("no parameter".to_owned(), 0.0))
    }
}

fn gradient_of<'g>(
    norms: &'g [norm::NormLayer],
    sources: &[Source],
    gradients: &'g GradientBuffers,
    parameter: usize,
) -> &'g [f32] {
    let of_norm = norms.iter().find_map(|norm| norm.gradient(parameter));
    // Running statistics have no gradient.
    let node = || sources.iter().position(|source| matches!(source, Source::Parameter(at) if *at == parameter));
    of_norm.or_else(|| node().map(|node| gradients.get(NodeId::new(node)))).unwrap_or(&[])
}

//! Forward and backward through a graph.

use std::borrow::Borrow;

use super::gradients::{self, Backward};
use super::norm::Batch;
use super::values::Values;
use super::{QatError, TrainableGraph};
use crate::graph::NodeId;
use crate::interp;
use crate::numerics::gemm;
use crate::ops::{self, BatchNorm, Input, Observe, ObserverId, Op, Unary};
use crate::quantize::trained::derived;
use crate::quantize::{FakeQuantize, ObserverError, QuantizationSpec};
use crate::values::slices::{rows_before_last, tensor, with_last};
use crate::values::{Tensor, TensorQParams};

impl TrainableGraph {
    /// Runs a forward pass in training and returns the outputs: observers update, batch norms use the batch, and all values are kept for
    /// [`backward`](Self::backward).
    ///
    /// # Errors
    /// Returns [`QatError::Interp`] for inputs that do not fit, [`QatError::Observer`] for values that are not finite,
    /// [`QatError::OneRow`] for a batch that has no variance.
    pub fn forward<T: Borrow<Tensor>>(&mut self, inputs: &[T]) -> Result<Vec<Tensor>, QatError> {
        self.run(inputs, true)?;
        self.forward_done = true;
        Ok(self.outputs())
    }

    /// Runs a forward pass and returns the outputs of the converted graph, bit for bit. Nothing is updated. The values that a forward pass
    /// has kept for [`backward`](Self::backward) are lost.
    ///
    /// # Errors
    /// Returns [`QatError::Interp`] for inputs that do not fit, [`QatError::Observer`] for values that have not been observed.
    pub fn evaluate<T: Borrow<Tensor>>(&mut self, inputs: &[T]) -> Result<Vec<Tensor>, QatError> {
        self.run(inputs, false)?;
        Ok(self.outputs())
    }

    fn outputs(&self) -> Vec<Tensor> {
        self.graph.outputs().iter().map(|&id| self.values.get(id).clone()).collect()
    }

    fn run<T: Borrow<Tensor>>(&mut self, inputs: &[T], training: bool) -> Result<(), QatError> {
        self.forward_done = false;
        self.template.check_inputs(inputs)?;
        self.values.fold_norms();
        self.batches.clear();
        for (&id, input) in self.graph.inputs().iter().zip(inputs) {
            self.values.set(id, input.borrow().clone());
        }
        // A thread of the pool starts parallel loops without waking another one.
        rayon::scope(|_| {
            for at in 0..self.graph.nodes().len() {
                let id = NodeId::new(at);
                if self.values.is_pass(id) && !matches!(self.graph.node(id).op, Op::Input(Input)) {
                    let value = self.value(id, training)?;
                    self.values.set(id, value);
                }
            }
            Ok(())
        })
    }

    /// The value of a node that is computed.
    fn value(&mut self, id: NodeId, training: bool) -> Result<Tensor, QatError> {
        let node = self.graph.node(id);
        let batch_norms = training && !self.norms_frozen;
        let norm = self.values.norms.iter().position(|norm| norm.layer == id).filter(|_| batch_norms);
        match (&node.op, norm) {
            (&Op::Observe(Observe { observer: ObserverId(at) }), _) => {
                let derived = self.derived(at).map_err(|source| self.named(at, source))?;
                let observe = training && !self.template.is_passive(id);
                let buffer = self.values.buffer(id, self.values.get(node.inputs[0]).len());
                let y = self.fakes[at].forward_with(self.values.get(node.inputs[0]), observe, derived, buffer);
                y.map_err(|source| self.named(at, source))
            }
            (&Op::BatchNorm(BatchNorm { eps }), _) if batch_norms => self.batch_norm(id, eps),
            (Op::Linear(_), Some(norm)) => {
                let [x, w] = [0, 1].map(|at| self.values.get(node.inputs[at]));
                let (n, k) = (w.shape()[0], w.shape()[1]);
                let m = rows_before_last(x.shape());
                let product = gemm::linear(floats(x), [m, n, k], floats(w), None, None);
                let product = tensor(with_last(x.shape(), n), product);
                let buffer = self.values.buffer(id, product.len());
                let Values { norms, parameters, .. } = &mut self.values;
                norms[norm].forward(&node.name, product, 1, buffer, parameters)
            }
            (Op::Conv(_) | Op::ConvTranspose(_), Some(norm)) => {
                let inputs: Vec<&Tensor> = node.inputs[..2].iter().map(|&input| self.values.get(input)).collect();
                let product = interp::evaluate(node, &inputs)?;
                let inner = product.shape()[2..].iter().product();
                let buffer = self.values.buffer(id, product.len());
                let Values { norms, parameters, .. } = &mut self.values;
                norms[norm].forward(&node.name, product, inner, buffer, parameters)
            }
            // Linear layers and functions take most of the time, so they reuse the memory of the last pass.
            (Op::Linear(_), None) => {
                let shape =
                    with_last(self.values.get(node.inputs[0]).shape(), self.values.get(node.inputs[1]).shape()[0]);
                let mut y = self.values.buffer(id, shape.iter().product());
                let [x, w] = [0, 1].map(|at| self.values.get(node.inputs[at]));
                let bias = node.inputs.get(2).map(|&bias| self.values.floats(bias));
                let sizes = [rows_before_last(x.shape()), w.shape()[0], w.shape()[1]];
                gemm::linear_into(&mut y, floats(x), sizes, floats(w), None, bias, None);
                Ok(tensor(shape, y))
            }
            (&Op::Unary(Unary { op }), _) => {
                let mut y = self.values.buffer(id, self.values.get(node.inputs[0]).len());
                let x = self.values.get(node.inputs[0]);
                y.copy_from_slice(floats(x));
                ops::unary_in_place(op, &mut y);
                Ok(tensor(x.shape().to_vec(), y))
            }
            _ => {
                let inputs: Vec<&Tensor> = node.inputs.iter().map(|&input| self.values.get(input)).collect();
                Ok(interp::evaluate(node, &inputs)?)
            }
        }
    }

    /// A batch norm that is not folded into a layer, with the statistics of the batch.
    fn batch_norm(&mut self, id: NodeId, eps: f32) -> Result<Tensor, QatError> {
        let node = self.graph.node(id);
        let mut y = self.values.buffer(id, self.values.get(node.inputs[0]).len());
        let x = self.values.get(node.inputs[0]);
        let (channels, inner) = (x.shape()[1], x.shape()[2..].iter().product());
        let batch = Batch::of(floats(x), channels, inner, eps);
        if batch.count < 2 {
            return Err(QatError::OneRow { node: node.name.clone(), rows: batch.count });
        }
        let [gamma, beta] = [3, 4].map(|at| self.values.floats(node.inputs[at]));
        batch.normalize(&mut y, floats(x), inner, gamma, beta);
        let y = tensor(x.shape().to_vec(), y);
        if let [Some(mean), Some(variance)] = [1, 2].map(|at| self.values.parameter_of(node.inputs[at]))
            && let Ok([mean, variance]) = self.values.parameters.get_disjoint_mut([mean, variance])
        {
            batch.update_running(mean.floats_mut(), variance.floats_mut());
        }
        self.batches.insert(id, batch);
        Ok(y)
    }

    /// The qparams of an observer that are derived from those of others.
    fn derived(&self, at: usize) -> Result<Option<TensorQParams>, ObserverError> {
        let fake = &self.fakes[at];
        let QuantizationSpec::Derived(spec) = fake.observer().spec() else { return Ok(None) };
        if !fake.is_fake_quant_enabled() {
            return Ok(None);
        }
        let of = |&source: &usize| self.fakes[source].qparams().cloned().ok_or(ObserverError::Uncalibrated);
        let from = self.template.parts().derived_from[at].iter().map(of).collect::<Result<Vec<_>, _>>()?;
        derived(&spec.rule, &from).map(Some)
    }

    /// Runs the backward pass of the last [`forward`](Self::forward), from the gradient of each output to those of the parameters.
    ///
    /// # Errors
    /// Returns [`QatError::NoForward`] without a forward pass before it, [`QatError::Size`] for gradients that are not those of
    /// the outputs.
    pub fn backward(&mut self, gradients: &[Tensor]) -> Result<(), QatError> {
        if !self.forward_done {
            return Err(QatError::NoForward);
        }
        let outputs = self.graph.outputs();
        if gradients.len() != outputs.len() {
            let (actual, expected) = (gradients.len(), outputs.len().to_string());
            return Err(QatError::Size { what: "number of output gradients", actual, expected });
        }
        for (&id, gradient) in outputs.iter().zip(gradients) {
            let own = self.values.get(id);
            if gradient.shape() != own.shape() || gradient.as_f32().is_none() {
                let expected = format!("{} in shape {:?}", own.len(), own.shape());
                return Err(QatError::Size {
                    what: "number of a gradient's elements",
                    actual: gradient.len(),
                    expected,
                });
            }
        }
        self.gradients.start();
        self.fakes.iter_mut().for_each(FakeQuantize::start_gradients);
        for (&id, gradient) in outputs.iter().zip(gradients) {
            self.gradients.add(id, gradient.len(), |dx| dx.copy_from_slice(floats(gradient)));
        }
        rayon::scope(|_| (0..self.graph.nodes().len()).rev().for_each(|at| self.backward_node(NodeId::new(at))));
        for norm in &mut self.values.norms {
            norm.backward(&self.gradients, &self.values.parameters);
        }
        Ok(())
    }

    /// Adds to the gradients of the inputs of a node, from the gradient of its value.
    fn backward_node(&mut self, id: NodeId) {
        let Self { graph, values, gradients, fakes, batches, .. } = self;
        if !values.is_pass(id) {
            return;
        }
        let Some(mut dy) = gradients.take(id) else { return };
        let node = graph.node(id);
        let norm = values.norms.iter().position(|norm| norm.layer == id && norm.in_training());
        match node.op {
            Op::Observe(Observe { observer: ObserverId(at) }) => {
                fakes[at].backward(values.get(node.inputs[0]), &mut dy);
                dy = gradients.give(node.inputs[0], dy);
            }
            Op::BatchNorm(_) if batches.contains_key(&id) => {
                let batch = &batches[&id];
                let (x, gamma) = (values.get(node.inputs[0]), values.floats(node.inputs[3]));
                let mut of_x = gradients.buffer(x.len());
                let inner = x.shape()[2..].iter().product();
                let [of_gamma, of_beta] = batch.backward(floats(x), inner, gamma, &dy, &mut of_x);
                for (at, gradient) in [(3, of_gamma), (4, of_beta)] {
                    gradients.add(node.inputs[at], gradient.len(), |dx| dx.copy_from_slice(&gradient));
                }
                let of_x = gradients.give(node.inputs[0], of_x);
                gradients.unused(of_x);
            }
            _ => {
                if let Some(norm) = norm {
                    let mut of_product = gradients.buffer(dy.len());
                    let parameters = &values.parameters;
                    values.norms[norm].product_gradient(&dy, parameters, &mut of_product);
                    gradients.unused(std::mem::replace(&mut dy, of_product));
                }
                // The bias of a layer with a norm in training belongs to the norm.
                let inputs = if norm.is_some() { &node.inputs[..2] } else { &node.inputs[..] };
                let read: Vec<&Tensor> = inputs.iter().map(|&input| values.get(input)).collect();
                let rule = gradients::rule(&node.op).expect("operators without a gradient are refused before training");
                for (at, &input) in inputs.iter().enumerate() {
                    let step = Backward { at, inputs: &read, y: values.get(id), dy: &dy };
                    gradients.add(input, read[at].len(), |dx| rule(&step, dx));
                }
            }
        }
        gradients.put_back(id, dy);
    }
}

fn floats(tensor: &Tensor) -> &[f32] {
    tensor.as_f32().expect("gradients are of floats")
}

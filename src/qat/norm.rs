//! Batch norms in training: the statistics of the batch, and the running statistics.

use super::buffers::GradientBuffers;
use super::error::QatError;
use super::parameter::Parameter;
use crate::graph::NodeId;
use crate::quantize::trained::{FoldedNorm, factor};
use crate::values::Tensor;

/// The share of the statistics of a batch in the running statistics, as in PyTorch.
const MOMENTUM: f64 = 0.1;

/// Mean and variance of each channel of one batch, for the forward and the backward pass.
#[derive(Debug, Clone, Default)]
pub(super) struct Batch {
    mean: Vec<f64>,
    /// The sum of squares over the count.
    variance: Vec<f64>,
    /// Values per channel.
    pub(super) count: usize,
    eps: f64,
}

/// The runs of `inner` elements of `x`, of shape `[…, channels, inner]`, each with its channel.
fn runs(x: &[f32], channels: usize, inner: usize) -> impl Iterator<Item = (usize, &[f32])> {
    x.chunks_exact(inner.max(1)).enumerate().map(move |(run, x)| (run % channels, x))
}

impl Batch {
    /// The statistics of `x`, of shape `[…, channels, inner]`.
    pub(super) fn of(x: &[f32], channels: usize, inner: usize, eps: f32) -> Self {
        let count = x.len().checked_div(channels).unwrap_or(0);
        let n = count.max(1) as f64;
        let mut mean = vec![0f64; channels];
        runs(x, channels, inner).for_each(|(c, x)| mean[c] += x.iter().map(|&v| f64::from(v)).sum::<f64>());
        mean.iter_mut().for_each(|mean| *mean /= n);
        let mut variance = vec![0f64; channels];
        for (c, x) in runs(x, channels, inner) {
            variance[c] += x.iter().map(|&v| (f64::from(v) - mean[c]).powi(2)).sum::<f64>();
        }
        variance.iter_mut().for_each(|variance| *variance /= n);
        Self { mean, variance, count, eps: f64::from(eps) }
    }

    fn inv_std(&self, channel: usize) -> f64 {
        1.0 / (self.variance[channel] + self.eps).sqrt()
    }

    /// `(x − mean) / std · γ + β`.
    pub(super) fn normalize(&self, x: &[f32], inner: usize, gamma: &[f32], beta: &[f32]) -> Vec<f32> {
        let mut y = Vec::with_capacity(x.len());
        for (c, x) in runs(x, gamma.len(), inner) {
            let factor = f64::from(gamma[c]) * self.inv_std(c);
            y.extend(x.iter().map(|&v| ((f64::from(v) - self.mean[c]) * factor + f64::from(beta[c])) as f32));
        }
        y
    }

    /// Moves the running mean and variance towards those of the batch. The variance is that of a sample, over `count − 1`.
    pub(super) fn update_running(&self, mean: &mut [f32], variance: &mut [f32]) {
        let sample = self.count as f64 / (self.count as f64 - 1.0).max(1.0);
        let step = |running: &mut f32, batch: f64| {
            *running = (f64::from(*running) * (1.0 - MOMENTUM) + batch * MOMENTUM) as f32;
        };
        mean.iter_mut().zip(&self.mean).for_each(|(running, &batch)| step(running, batch));
        variance.iter_mut().zip(&self.variance).for_each(|(running, &batch)| step(running, batch * sample));
    }

    /// The gradients of `x` (written), γ and β. With `g = dy · γ` and `x̂` the normalized `x`:
    /// `dx = (g − mean(g) − x̂ · mean(g · x̂)) / std`, `dγ = Σ dy · x̂`, `dβ = Σ dy`.
    pub(super) fn backward(&self, x: &[f32], inner: usize, gamma: &[f32], dy: &[f32], dx: &mut [f32]) -> [Vec<f32>; 2] {
        let channels = gamma.len();
        let (mut of_gamma, mut of_beta) = (vec![0f64; channels], vec![0f64; channels]);
        for ((c, x), (_, dy)) in runs(x, channels, inner).zip(runs(dy, channels, inner)) {
            for (&x, &dy) in x.iter().zip(dy) {
                of_gamma[c] += f64::from(dy) * (f64::from(x) - self.mean[c]) * self.inv_std(c);
                of_beta[c] += f64::from(dy);
            }
        }
        let n = self.count.max(1) as f64;
        let both = runs(x, channels, inner).zip(runs(dy, channels, inner));
        for (dx, ((c, x), (_, dy))) in dx.chunks_exact_mut(inner.max(1)).zip(both) {
            let inv_std = self.inv_std(c);
            let factor = f64::from(gamma[c]) * inv_std;
            for ((dx, &x), &dy) in dx.iter_mut().zip(x).zip(dy) {
                let normal = (f64::from(x) - self.mean[c]) * inv_std;
                *dx = (factor * (f64::from(dy) - of_beta[c] / n - normal * of_gamma[c] / n)) as f32;
            }
        }
        [of_gamma, of_beta].map(|sums| sums.into_iter().map(|sum| sum as f32).collect())
    }
}

/// A linear layer or a convolution into which a batch norm was folded. Its weight is quantized as in the converted graph, with the running
/// statistics of the norm folded in. In training, its output is scaled back and normalized by the batch (Jacob et al. 2018, in the form in
/// which PyTorch trains convolutions).
#[derive(Debug, Clone)]
pub(super) struct NormLayer {
    /// The layer's node in the prepared graph.
    pub(super) layer: NodeId,
    /// The constants that hold the folded weight and bias.
    constants: [NodeId; 2],
    /// The folded weight and bias `[N]`.
    pub(super) weight: Tensor,
    pub(super) bias: Tensor,
    /// Parameters: weight, mean, variance, γ, β; and the layer's own bias.
    parameters: [usize; 5],
    own_bias: Option<usize>,
    folded: FoldedNorm,
    /// The values that the last pass in training has kept.
    pass: Option<Pass>,
    /// The gradients of weight, γ, β and bias.
    gradients: [Vec<f32>; 4],
}

/// The values of a pass in training, for its backward pass.
#[derive(Debug, Clone)]
struct Pass {
    /// The product, before it is scaled back.
    product: Vec<f32>,
    /// The output of the layer as if nothing were folded.
    output: Vec<f32>,
    batch: Batch,
    /// `γ / √(variance + eps)` with the running variance, for each channel.
    factor: Vec<f64>,
    /// Gradient of the factor.
    of_factor: Vec<f64>,
    /// Consecutive outputs of a channel: the pixels of an image, or 1.
    inner: usize,
}

impl NormLayer {
    pub(super) fn new(
        layer: NodeId,
        constants: [NodeId; 2],
        parameters: [usize; 5],
        own_bias: Option<usize>,
        folded: FoldedNorm,
        all: &[Parameter],
    ) -> Self {
        let empty = || Tensor::from(ndarray::arr0(0f32));
        let (weight, bias, gradients) = (empty(), empty(), [const { Vec::new() }; 4]);
        let mut norm = Self { layer, constants, weight, bias, parameters, own_bias, folded, pass: None, gradients };
        norm.fold(all);
        norm
    }

    /// Folds the current parameters, as prepare does.
    pub(super) fn fold(&mut self, all: &[Parameter]) {
        let [weight, mean, variance, gamma, beta] = self.parameters;
        let by_node = |id: NodeId| {
            let own = [self.folded.weight].into_iter().chain(self.folded.statistics).chain(self.folded.bias);
            let parameters = [weight, mean, variance, gamma, beta].into_iter().chain(self.own_bias);
            let at = own.zip(parameters).find(|(node, _)| *node == id).map_or(weight, |(_, at)| at);
            &all[at].value
        };
        let (weight, bias) = self.folded.fold(by_node);
        (self.weight, self.bias) = (weight, bias);
        self.pass = None;
    }

    pub(super) fn is_trained(&self, all: &[Parameter]) -> bool {
        let [weight, _, _, gamma, beta] = self.parameters;
        [weight, gamma, beta].into_iter().chain(self.own_bias).any(|at| all[at].trained)
    }

    /// The output from the product `[…, N]` or `[rows, N, …]` with the quantized folded weight, which has `inner` consecutive elements of
    /// a channel: the factor taken out, the bias added, and normalized by the batch. The running statistics move along.
    pub(super) fn forward(
        &mut self,
        name: &str,
        product: &Tensor,
        inner: usize,
        all: &mut [Parameter],
    ) -> Result<Tensor, QatError> {
        let [_, mean, variance, gamma, beta] = self.parameters;
        let n = all[gamma].floats().len();
        let channels = all[gamma].floats().iter().zip(all[variance].floats());
        let factor: Vec<f64> = channels.map(|(&g, &v)| factor(g, v, self.folded.eps)).collect();
        let bias = self.own_bias.map(|at| all[at].floats());
        let product_values = product.as_f32().expect("a product of floats");
        let output: Vec<f32> = product_values
            .iter()
            .enumerate()
            .map(|(at, &v)| {
                // A channel of factor 0 has no output to scale back.
                let c = at / inner % n;
                let v = if factor[c] == 0.0 { 0.0 } else { f64::from(v) / factor[c] };
                v as f32 + bias.map_or(0.0, |bias| bias[c])
            })
            .collect();
        let batch = Batch::of(&output, n, inner, self.folded.eps);
        if batch.count < 2 {
            return Err(QatError::OneRow { node: name.to_owned(), rows: batch.count });
        }
        let y = batch.normalize(&output, inner, all[gamma].floats(), all[beta].floats());
        let y = Tensor::from_f32(product.shape(), y).expect("as many values");
        let [mean, variance] = all.get_disjoint_mut([mean, variance]).expect("two parameters");
        batch.update_running(mean.floats_mut(), variance.floats_mut());
        let of_factor = vec![0.0; n];
        self.pass = Some(Pass { product: product_values.to_vec(), output, batch, factor, of_factor, inner });
        Ok(y)
    }

    pub(super) fn in_training(&self) -> bool {
        self.pass.is_some()
    }

    /// The gradient of the product, from that of the output.
    pub(super) fn product_gradient(&mut self, dy: &[f32], all: &[Parameter]) -> Vec<f32> {
        let [_, _, _, gamma, _] = self.parameters;
        let Some(pass) = &mut self.pass else { return dy.to_vec() };
        pass.of_factor.fill(0.0);
        let n = pass.factor.len();
        let mut of_output = vec![0f32; dy.len()];
        let [of_gamma, of_beta] =
            pass.batch.backward(&pass.output, pass.inner, all[gamma].floats(), dy, &mut of_output);
        let mut of_bias = vec![0f64; n];
        runs(&of_output, n, pass.inner)
            .for_each(|(c, of_output)| of_bias[c] += of_output.iter().map(|&v| f64::from(v)).sum::<f64>());
        let of_bias = of_bias.into_iter().map(|sum| sum as f32).collect();
        let mut of_product = of_output;
        for (at, (d, &z)) in of_product.iter_mut().zip(&pass.product).enumerate() {
            let c = at / pass.inner % n;
            let factor = pass.factor[c];
            if factor == 0.0 {
                *d = 0.0;
                continue;
            }
            pass.of_factor[c] -= f64::from(*d) * f64::from(z) / (factor * factor);
            *d = (f64::from(*d) / factor) as f32;
        }
        self.gradients = [Vec::new(), of_gamma, of_beta, of_bias];
        of_product
    }

    /// Computes the gradients of the parameters from those of the folded constants:
    /// `w' = w · f`, `b' = (b − mean) · f + β`, `f = γ / √(variance + eps)`.
    pub(super) fn backward(&mut self, gradients: &GradientBuffers, all: &[Parameter]) {
        let [weight, mean, variance, gamma, _] = self.parameters;
        let [of_weight, of_bias] = self.constants.map(|id| gradients.get(id));
        let (w, gamma) = (all[weight].floats(), all[gamma].floats());
        let n = gamma.len();
        let channel = self.folded.channels.of(all[weight].value.shape());
        let variance = all[variance].floats();
        let factors: Vec<f64> = gamma.iter().zip(variance).map(|(&g, &v)| factor(g, v, self.folded.eps)).collect();
        // In training, the weight was folded with the variance that was current before the pass.
        let factors = self.pass.as_ref().map_or(factors, |pass| pass.factor.clone());
        let mut of_factor = self.pass.as_ref().map_or_else(|| vec![0.0; n], |pass| pass.of_factor.clone());
        if self.pass.is_none() {
            self.gradients = [const { Vec::new() }; 4];
            self.gradients[1] = vec![0.0; n];
            self.gradients[2] = if of_bias.is_empty() { vec![0.0; n] } else { of_bias.to_vec() };
            self.gradients[3] =
                self.gradients[2].iter().zip(&factors).map(|(&g, f)| (f64::from(g) * f) as f32).collect();
            let bias = |c: usize| self.own_bias.map_or(0.0, |at| all[at].floats()[c]);
            for (c, of_factor) in of_factor.iter_mut().enumerate() {
                let centred = f64::from(bias(c)) - f64::from(all[mean].floats()[c]);
                *of_factor += f64::from(self.gradients[2][c]) * centred;
            }
        }
        let of_weight = if of_weight.is_empty() { vec![0.0; w.len()] } else { of_weight.to_vec() };
        for (at, (&g, &w)) in of_weight.iter().zip(w).enumerate() {
            of_factor[channel(at)] += f64::from(g) * f64::from(w);
        }
        self.gradients[0] =
            of_weight.iter().enumerate().map(|(at, &g)| (f64::from(g) * factors[channel(at)]) as f32).collect();
        for (c, of_gamma) in self.gradients[1].iter_mut().enumerate() {
            // f = γ · f(1), with the variance of the folding.
            let of_one = if gamma[c] == 0.0 {
                factor(1.0, variance[c], self.folded.eps)
            } else {
                factors[c] / f64::from(gamma[c])
            };
            *of_gamma += (of_factor[c] * of_one) as f32;
        }
    }

    /// The gradient of a parameter of this layer.
    pub(super) fn gradient(&self, parameter: usize) -> Option<&[f32]> {
        let [weight, _, _, gamma, beta] = self.parameters;
        let own = [Some(weight), Some(gamma), Some(beta), self.own_bias];
        own.iter().position(|at| *at == Some(parameter)).map(|at| &self.gradients[at][..])
    }
}

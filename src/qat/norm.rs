//! Batch norms in training: the statistics of the batch, and the running statistics.

use rayon::prelude::*;

use super::buffers::GradientBuffers;
use super::error::QatError;
use super::parameter::Parameter;
use crate::graph::NodeId;
use crate::numerics::vectorized;
use crate::quantize::trained::{FoldedNorm, factor};
use crate::values::Tensor;
use crate::values::slices::tensor;

/// The share of the statistics of a batch in the running statistics, as in PyTorch.
const MOMENTUM: f64 = 0.1;

/// The statistics of each channel of one batch, for the forward and the backward pass: `x̂ = (x − mean) · inv_std`.
#[derive(Debug, Clone, Default)]
pub(super) struct Batch {
    mean: Vec<f64>,
    /// The sum of squares over the count.
    variance: Vec<f64>,
    inv_std: Vec<f64>,
    /// Values per channel.
    pub(super) count: usize,
}

/// Elements of a task, at least.
const TASK: usize = 1 << 14;

/// Whole rows `[channels, inner]` of a task.
fn task(channels: usize, inner: usize) -> usize {
    let row = (channels * inner).max(1);
    row * (TASK / row).max(1)
}

/// The runs of `inner` elements of `x`, of shape `[…, channels, inner]`, each with its channel.
fn runs(x: &[f32], channels: usize, inner: usize) -> impl Iterator<Item = (usize, &[f32])> {
    x.chunks_exact(inner.max(1)).enumerate().map(move |(run, x)| (run % channels, x))
}

/// Sums two terms of each pair of elements for each channel, over the rows in their order.
fn channel_sums(
    [x, y]: [&[f32]; 2],
    channels: usize,
    inner: usize,
    terms: impl Fn(usize, f64, f64) -> [f64; 2] + Sync + Send,
) -> Vec<[f64; 2]> {
    let of_task = |(x, y): (&[f32], &[f32])| {
        vectorized(
            #[inline(always)]
            || {
                let mut sums = vec![[0f64; 2]; channels];
                for ((c, x), (_, y)) in runs(x, channels, inner).zip(runs(y, channels, inner)) {
                    let of_run = run_sums(
                        x,
                        y,
                        #[inline(always)]
                        |x, y| terms(c, x, y),
                    );
                    for (sum, v) in sums[c].iter_mut().zip(of_run) {
                        *sum += v;
                    }
                }
                sums
            },
        )
    };
    let task = task(channels, inner);
    let parts: Vec<Vec<[f64; 2]>> = x.par_chunks(task).zip(y.par_chunks(task)).map(of_task).collect();
    let mut sums = vec![[0f64; 2]; channels];
    for part in parts {
        sums.iter_mut().flatten().zip(part.iter().flatten()).for_each(|(sum, v)| *sum += v);
    }
    sums
}

/// Sums two terms of a run, in eight partial sums, so that the loop vectorizes.
#[inline(always)]
fn run_sums(x: &[f32], y: &[f32], terms: impl Fn(f64, f64) -> [f64; 2]) -> [f64; 2] {
    const LANES: usize = 8;
    let mut sums = [[0f64; LANES]; 2];
    let ((x_blocks, x_rest), (y_blocks, y_rest)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    for (x, y) in x_blocks.iter().zip(y_blocks) {
        for lane in 0..LANES {
            let [a, b] = terms(f64::from(x[lane]), f64::from(y[lane]));
            sums[0][lane] += a;
            sums[1][lane] += b;
        }
    }
    let mut sums = sums.map(|lanes| lanes.iter().sum::<f64>());
    for (&x, &y) in x_rest.iter().zip(y_rest) {
        let [a, b] = terms(f64::from(x), f64::from(y));
        sums[0] += a;
        sums[1] += b;
    }
    sums
}

/// Writes a function of each pair of elements and its channel to `to`.
fn map_channels(
    to: &mut [f32],
    [x, y]: [&[f32]; 2],
    channels: usize,
    inner: usize,
    of: impl Fn(usize, f64, f64) -> f64 + Sync + Send,
) {
    let task = task(channels, inner);
    to.par_chunks_mut(task).zip(x.par_chunks(task)).zip(y.par_chunks(task)).for_each(|((to, x), y)| {
        vectorized(
            #[inline(always)]
            || {
                let both = runs(x, channels, inner).zip(runs(y, channels, inner));
                for (to, ((c, x), (_, y))) in to.chunks_exact_mut(inner.max(1)).zip(both) {
                    for ((to, &x), &y) in to.iter_mut().zip(x).zip(y) {
                        *to = of(c, f64::from(x), f64::from(y)) as f32;
                    }
                }
            },
        );
    });
}

impl Batch {
    /// The statistics of `x`, of shape `[…, channels, inner]`.
    pub(super) fn of(x: &[f32], channels: usize, inner: usize, eps: f32) -> Self {
        let count = x.len().checked_div(channels).unwrap_or(0);
        let n = count.max(1) as f64;
        let sums = channel_sums(
            [x, x],
            channels,
            inner,
            #[inline(always)]
            |_, x, _| [x, 0.0],
        );
        let mean: Vec<f64> = sums.into_iter().map(|[sum, _]| sum / n).collect();
        let squares = channel_sums(
            [x, x],
            channels,
            inner,
            #[inline(always)]
            |c, x, _| [(x - mean[c]) * (x - mean[c]), 0.0],
        );
        let variance: Vec<f64> = squares.into_iter().map(|[sum, _]| sum / n).collect();
        let inv_std = variance.iter().map(|variance| 1.0 / (variance + f64::from(eps)).sqrt()).collect();
        Self { mean, variance, inv_std, count }
    }

    /// Writes `x̂ · γ + β`.
    pub(super) fn normalize(&self, y: &mut [f32], x: &[f32], inner: usize, gamma: &[f32], beta: &[f32]) {
        let (factor, mean) = (self.factors(gamma), &self.mean);
        map_channels(
            y,
            [x, x],
            gamma.len(),
            inner,
            #[inline(always)]
            |c, x, _| (x - mean[c]) * factor[c] + f64::from(beta[c]),
        );
    }

    /// `γ · inv_std`.
    fn factors(&self, gamma: &[f32]) -> Vec<f64> {
        gamma.iter().zip(&self.inv_std).map(|(&gamma, inv_std)| f64::from(gamma) * inv_std).collect()
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

    /// The gradients of `x` (written), γ and β: `dx = γ · inv_std · (dy − mean(dy) − x̂ · mean(dy · x̂))`, `dγ = Σ dy · x̂`, `dβ = Σ dy`.
    pub(super) fn backward(&self, x: &[f32], inner: usize, gamma: &[f32], dy: &[f32], dx: &mut [f32]) -> [Vec<f32>; 2] {
        let (channels, n) = (gamma.len(), self.count.max(1) as f64);
        let Self { mean, inv_std, .. } = self;
        let sums = channel_sums(
            [x, dy],
            channels,
            inner,
            #[inline(always)]
            |c, x, dy| [dy * ((x - mean[c]) * inv_std[c]), dy],
        );
        let factor = self.factors(gamma);
        map_channels(
            dx,
            [x, dy],
            channels,
            inner,
            #[inline(always)]
            |c, x, dy| {
                let [of_gamma, of_beta] = sums[c];
                factor[c] * ((dy - of_beta / n) - (x - mean[c]) * (inv_std[c] * of_gamma / n))
            },
        );
        [0, 1].map(|at| sums.iter().map(|sums| sums[at] as f32).collect())
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
    /// The statistics of the product. `inv_std` is that of the output of the layer as if nothing were folded, `product / factor + bias`,
    /// divided by the factor: both have the same normalized values.
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
    /// a channel: the factor taken out, the bias added, and normalized by the batch, in `buffer`, which has as many elements. The running
    /// statistics move along.
    pub(super) fn forward(
        &mut self,
        name: &str,
        product: Tensor,
        inner: usize,
        buffer: Vec<f32>,
        all: &mut [Parameter],
    ) -> Result<Tensor, QatError> {
        let [_, mean, variance, gamma, beta] = self.parameters;
        let n = all[gamma].floats().len();
        let channels = all[gamma].floats().iter().zip(all[variance].floats());
        let factor: Vec<f64> = channels.map(|(&g, &v)| factor(g, v, self.folded.eps)).collect();
        let shape = product.shape().to_vec();
        let Tensor::F32(product) = product else { unreachable!("a product of floats") };
        let product = product.into_vec();
        let mut batch = Batch::of(&product, n, inner, self.folded.eps);
        if batch.count < 2 {
            return Err(QatError::OneRow { node: name.to_owned(), rows: batch.count });
        }
        // The statistics of the output as if nothing were folded. A channel of factor 0 has no output to scale back.
        let (mut output, bias) = (batch.clone(), self.own_bias.map(|at| all[at].floats()));
        for (c, &factor) in factor.iter().enumerate() {
            let scale = if factor == 0.0 { 0.0 } else { 1.0 / factor };
            output.mean[c] = batch.mean[c] * scale + bias.map_or(0.0, |bias| f64::from(bias[c]));
            output.variance[c] = batch.variance[c] * (scale * scale);
            output.inv_std[c] = 1.0 / (output.variance[c] + f64::from(self.folded.eps)).sqrt();
            batch.inv_std[c] = output.inv_std[c] * scale;
        }
        let mut y = buffer;
        batch.normalize(&mut y, &product, inner, all[gamma].floats(), all[beta].floats());
        let [mean, variance] = all.get_disjoint_mut([mean, variance]).expect("two parameters");
        output.update_running(mean.floats_mut(), variance.floats_mut());
        let of_factor = vec![0.0; n];
        self.pass = Some(Pass { product, batch, factor, of_factor, inner });
        Ok(tensor(shape, y))
    }

    pub(super) fn in_training(&self) -> bool {
        self.pass.is_some()
    }

    /// Turns the gradient of the output into that of the product.
    pub(super) fn product_gradient(&mut self, dy: &[f32], all: &[Parameter], dx: &mut [f32]) {
        let [_, _, _, gamma, _] = self.parameters;
        let Some(Pass { product, batch, factor, of_factor, inner }) = &mut self.pass else {
            return dx.copy_from_slice(dy);
        };
        let gamma = all[gamma].floats();
        let [of_gamma, of_beta] = batch.backward(product, *inner, gamma, dy, dx);
        // The output is `product / factor + bias`, so the factor's gradient is −Σ dx · product / factor. With dx as above, Σ dx = 0 and
        // Σ dx · product = γ · dγ · (1 − variance · inv_std²); the last factor is eps / (variance + eps) of the output.
        for (c, of_factor) in of_factor.iter_mut().enumerate() {
            let rest = 1.0 - batch.variance[c] * batch.inv_std[c] * batch.inv_std[c];
            let sum = f64::from(gamma[c]) * f64::from(of_gamma[c]) * rest;
            *of_factor = if factor[c] == 0.0 { 0.0 } else { -sum / factor[c] };
        }
        // Since Σ dx = 0, the layer's own bias, which the norm takes out again, has no gradient.
        self.gradients = [Vec::new(), of_gamma, of_beta, vec![0.0; gamma.len()]];
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

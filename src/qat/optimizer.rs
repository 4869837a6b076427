//! Optimizers, which change parameters by their gradients.

use std::collections::HashMap;

use rayon::prelude::*;

use super::QatError;

/// The update rule, by the formulas of PyTorch.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum OptimizerKind {
    /// `v = momentum · v + g`, `p −= rate · v`, where `g` includes `weight_decay · p`.
    Sgd {
        /// 0 for none; 0.9 is usual.
        momentum: f32,
        /// 0 for none.
        weight_decay: f32,
    },
    /// Kingma & Ba 2015: `p −= rate · m̂ / (√v̂ + eps)`, where `g` includes `weight_decay · p`.
    Adam {
        /// The decay rates of the mean and of the mean square of the gradients; 0.9 and 0.999 are usual.
        betas: [f32; 2],
        /// 1e-8 is usual.
        eps: f32,
        /// 0 for none.
        weight_decay: f32,
    },
    /// Loshchilov & Hutter 2019: Adam, with `p −= rate · weight_decay · p` apart from the gradient.
    AdamW {
        /// The decay rates of the mean and of the mean square of the gradients; 0.9 and 0.999 are usual.
        betas: [f32; 2],
        /// 1e-8 is usual.
        eps: f32,
        /// 0.01 is usual.
        weight_decay: f32,
    },
}

/// An optimizer with the state that it keeps for each parameter.
#[derive(Debug, Clone)]
pub struct Optimizer {
    kind: OptimizerKind,
    /// The step size; a schedule changes it from step to step.
    pub learning_rate: f32,
    /// The momentum of each parameter, or its mean and mean square.
    state: HashMap<usize, [Vec<f32>; 2]>,
    steps: i32,
}

impl Optimizer {
    /// Creates an optimizer without state.
    ///
    /// # Errors
    /// Returns [`QatError::Option`] for a rate that is not positive and finite, or a factor outside of 0..1.
    pub fn new(kind: OptimizerKind, learning_rate: f32) -> Result<Self, QatError> {
        let check = |what, value: f32, fits: bool, expected| match fits {
            true => Ok(()),
            false => Err(QatError::Option { what, value: value.into(), expected }),
        };
        let rate = learning_rate > 0.0 && learning_rate.is_finite();
        check("learning rate", learning_rate, rate, "positive and finite")?;
        let fraction = |what, value: f32| check(what, value, (0.0..1.0).contains(&value), "at least 0 and below 1");
        let decay = |value: f32| check("weight decay", value, value >= 0.0 && value.is_finite(), "finite, at least 0");
        match kind {
            OptimizerKind::Sgd { momentum, weight_decay } => {
                fraction("momentum", momentum)?;
                decay(weight_decay)?;
            }
            OptimizerKind::Adam { betas, eps, weight_decay } | OptimizerKind::AdamW { betas, eps, weight_decay } => {
                betas.into_iter().try_for_each(|beta| fraction("beta", beta))?;
                check("eps", eps, eps > 0.0 && eps.is_finite(), "positive and finite")?;
                decay(weight_decay)?;
            }
        }
        Ok(Self { kind, learning_rate, state: HashMap::new(), steps: 0 })
    }

    /// Creates an Adam optimizer with the usual constants.
    ///
    /// # Errors
    /// Returns the same errors as [`Self::new`].
    pub fn adam(learning_rate: f32) -> Result<Self, QatError> {
        Self::new(OptimizerKind::Adam { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.0 }, learning_rate)
    }

    /// Makes one step. Each parameter comes with its gradient, and with a number that identifies it in all steps.
    pub(super) fn step<'p>(&mut self, parameters: impl Iterator<Item = (usize, &'p mut [f32], &'p [f32])>) {
        const TASK: usize = 1 << 14;
        self.steps += 1;
        let (rate, kind, steps) = (self.learning_rate, self.kind, self.steps);
        for (number, p, g) in parameters {
            let [first, second] = self.state.entry(number).or_default();
            // A parameter of another length belongs to another graph.
            if first.len() != p.len() {
                let of_second = if matches!(kind, OptimizerKind::Sgd { .. }) { 0 } else { p.len() };
                (*first, *second) = (vec![0.0; p.len()], vec![0.0; of_second]);
            }
            let blocks = p.par_chunks_mut(TASK).zip(g.par_chunks(TASK)).zip(first.par_chunks_mut(TASK));
            match kind {
                OptimizerKind::Sgd { momentum, weight_decay } => blocks.for_each(|((p, g), v)| {
                    for ((p, &g), v) in p.iter_mut().zip(g).zip(v) {
                        *v = momentum * *v + (g + weight_decay * *p);
                        *p -= rate * *v;
                    }
                }),
                OptimizerKind::Adam { betas, eps, weight_decay }
                | OptimizerKind::AdamW { betas, eps, weight_decay } => {
                    let apart = matches!(kind, OptimizerKind::AdamW { .. });
                    let [b1, b2] = betas;
                    let [c1, c2] = betas.map(|beta| (1.0 - f64::from(beta).powi(steps)) as f32);
                    blocks.zip(second.par_chunks_mut(TASK)).for_each(|(((p, g), m), v)| {
                        for (((p, &g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
                            let g = if apart { g } else { g + weight_decay * *p };
                            if apart {
                                *p -= rate * weight_decay * *p;
                            }
                            *m = b1 * *m + (1.0 - b1) * g;
                            *v = b2 * *v + (1.0 - b2) * g * g;
                            *p -= rate / c1 * *m / ((*v / c2).sqrt() + eps);
                        }
                    });
                }
            }
        }
    }
}

/// A schedule: the factor of the learning rate at each step.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Schedule {
    /// The factor is always 1.
    Constant,
    /// The rate is multiplied by `factor` after every `every` steps.
    Step {
        /// Steps of equal rate.
        every: u64,
        /// 0.1 is usual.
        factor: f32,
    },
    /// A linear rise over the first steps, then half a cosine down to `least`.
    Cosine {
        /// Steps of the rise.
        warmup: u64,
        /// The last factor.
        least: f32,
    },
}

impl Schedule {
    /// Returns the factor of the learning rate at step `step` of `steps`.
    #[must_use]
    pub fn factor(&self, step: u64, steps: u64) -> f32 {
        match *self {
            Self::Constant => 1.0,
            Self::Step { every, factor } => factor.powi((step / every.max(1)).min(1000) as i32),
            Self::Cosine { warmup, .. } if step < warmup => (step + 1) as f32 / warmup as f32,
            Self::Cosine { warmup, least } => {
                let rest = steps.saturating_sub(warmup).max(1);
                let done = ((step - warmup) as f64 / rest as f64).min(1.0);
                least + (1.0 - least) * (0.5 + 0.5 * libm::cos(std::f64::consts::PI * done)) as f32
            }
        }
    }
}

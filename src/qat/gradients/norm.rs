//! Gradients of softmax and of normalizations.

use super::{Lines, Rule, column_sums};
use crate::ops::{BatchNorm, LayerNorm, Op, RmsNorm, Softmax};
use crate::values::slices::f32s;

pub(super) fn rule(op: &Op) -> Option<Rule<'_>> {
    Some(match op {
        Op::Softmax(Softmax { axis }) => {
            Box::new(move |b, dx| softmax(f32s(b.y), Lines::new(b.y.shape(), *axis), b.dy, dx))
        }
        Op::LayerNorm(LayerNorm { eps }) => {
            Box::new(move |b, dx| layer_norm(b.at, f32s(b.inputs[0]), f32s(b.inputs[1]), *eps, true, b.dy, dx))
        }
        Op::RmsNorm(RmsNorm { eps }) => {
            Box::new(move |b, dx| layer_norm(b.at, f32s(b.inputs[0]), f32s(b.inputs[1]), *eps, false, b.dy, dx))
        }
        Op::BatchNorm(BatchNorm { eps }) => Box::new(move |b, dx| {
            let inner = b.y.shape()[2..].iter().product();
            let statistics = [1, 2, 3].map(|i| f32s(b.inputs[i]));
            batch_norm(b.at, f32s(b.inputs[0]), inner, statistics, *eps, b.dy, dx);
        }),
        _ => return None,
    })
}

/// `dx = y · (dy − Σ y · dy)`.
fn softmax(y: &[f32], lines: Lines, dy: &[f32], dx: &mut [f32]) {
    for start in lines.starts(y.len()) {
        let at = |i: usize| start + i * lines.inner;
        let sum: f64 = (0..lines.length).map(|i| f64::from(y[at(i)]) * f64::from(dy[at(i)])).sum();
        for i in 0..lines.length {
            dx[at(i)] = (f64::from(y[at(i)]) * (f64::from(dy[at(i)]) - sum)) as f32;
        }
    }
}

/// The gradients of a layer norm, or, if not `centered`, of an RMS norm, where both means are 0. With `x̂ = (x − mean) / std`:
/// `dx = (g − mean(g) − x̂ · mean(g · x̂)) / std` for `g = dy · w`, `dw = Σ dy · x̂`, `db = Σ dy`.
fn layer_norm(at: usize, x: &[f32], w: &[f32], eps: f32, centered: bool, dy: &[f32], dx: &mut [f32]) {
    let n = w.len();
    if at == 2 || n == 0 {
        return column_sums(dy, dx);
    }
    let mut sums = vec![0f64; if at == 1 { n } else { 0 }];
    for (row, (x, dy)) in x.chunks_exact(n).zip(dy.chunks_exact(n)).enumerate() {
        let mean = if centered { x.iter().map(|&v| f64::from(v)).sum::<f64>() / n as f64 } else { 0.0 };
        let variance = x.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n as f64;
        let inv_std = 1.0 / (variance + f64::from(eps)).sqrt();
        let normal = |i: usize| (f64::from(x[i]) - mean) * inv_std;
        if at == 1 {
            sums.iter_mut().enumerate().for_each(|(i, sum)| *sum += f64::from(dy[i]) * normal(i));
            continue;
        }
        let g = |i: usize| f64::from(dy[i]) * f64::from(w[i]);
        let mean_g = if centered { (0..n).map(g).sum::<f64>() / n as f64 } else { 0.0 };
        let mean_gx = (0..n).map(|i| g(i) * normal(i)).sum::<f64>() / n as f64;
        for (i, dx) in dx[row * n..(row + 1) * n].iter_mut().enumerate() {
            *dx = ((g(i) - mean_g - normal(i) * mean_gx) * inv_std) as f32;
        }
    }
    if at == 1 {
        dx.iter_mut().zip(sums).for_each(|(dx, sum)| *dx = sum as f32);
    }
}

/// The gradients of a batch norm with frozen statistics: `dx = dy · γ / std`, `dγ = Σ dy · (x − mean) / std`, `dβ = Σ dy`, over `x`
/// of shape `[…, channels, inner]`. The statistics themselves have no gradient.
fn batch_norm(
    at: usize,
    x: &[f32],
    inner: usize,
    [mean, variance, gamma]: [&[f32]; 3],
    eps: f32,
    dy: &[f32],
    dx: &mut [f32],
) {
    let channels = mean.len();
    let inner = inner.max(1);
    let inv_std: Vec<f64> = variance.iter().map(|&v| 1.0 / (f64::from(v) + f64::from(eps)).sqrt()).collect();
    let runs = || x.chunks_exact(inner).zip(dy.chunks_exact(inner)).enumerate().map(|(run, d)| (run % channels, d));
    let mut sums = vec![0f64; channels];
    match at {
        0 => {
            for (dx, (c, (_, dy))) in dx.chunks_exact_mut(inner).zip(runs()) {
                let factor = f64::from(gamma[c]) * inv_std[c];
                dx.iter_mut().zip(dy).for_each(|(dx, &dy)| *dx = (f64::from(dy) * factor) as f32);
            }
            return;
        }
        3 => {
            for (c, (x, dy)) in runs() {
                let normal = |x: f32| (f64::from(x) - f64::from(mean[c])) * inv_std[c];
                sums[c] += x.iter().zip(dy).map(|(&x, &dy)| f64::from(dy) * normal(x)).sum::<f64>();
            }
        }
        4 => runs().for_each(|(c, (_, dy))| sums[c] += dy.iter().map(|&dy| f64::from(dy)).sum::<f64>()),
        _ => {}
    }
    dx.iter_mut().zip(sums).for_each(|(dx, sum)| *dx = sum as f32);
}

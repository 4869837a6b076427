//! Known answers of int8 linear layers.

use super::coopmat_answer::CoopmatLayer;
use super::plan::{epilogue, pipeline_at};
use super::tile::TileShape;
use super::tuning::LayerShape;
use super::weights::WeightBits;
use super::{LinearEpilogue, LinearPipeline, LinearRows};
use crate::gpu::device::pipeline::PipelineKey;
use crate::gpu::kernels::case::{CaseBuilder, ROWS, int8, tensor};
use crate::gpu::kernels::config::Config;
use crate::gpu::kernels::dispatch::Planning;
use crate::gpu::kernels::elementwise;
use crate::gpu::kernels::fused_step::FusedStep;
use crate::gpu::kernels::kernel::Kernel;
use crate::gpu::kernels::unary;
use crate::numerics::{self, UnaryOp};
use crate::ops::Unary;
use crate::program::{Epilogue, QLinear, StepOp, ValueId, ValueType, WeightGroups};
use crate::values::Shape;

/// The pipeline that stands for a kind of layer in the known answers: that of [`SmallLayer`].
fn stand_in(config: &Config, bits: WeightBits, epilogue: LinearEpilogue) -> LinearPipeline {
    let layer = LayerShape { n: SmallLayer::N, k: SmallLayer::K, bits, rows: LinearRows::Matrix };
    pipeline_at(config, layer, ROWS as u64, epilogue)
}

/// The pipelines whose known answers a linear step needs beyond those of tile shapes, which an engine tests when a program first needs them.
pub(crate) fn needed(planning: &Planning<'_>, fused: &FusedStep, linear: &QLinear) -> Vec<PipelineKey> {
    let config = planning.config;
    let mut needed = Vec::new();
    // The tile shapes are tested with int8 and plain float results.
    let epilogue = epilogue(planning.program, fused, linear);
    if !matches!(epilogue, LinearEpilogue::ToI8 | LinearEpilogue::ToF32) {
        needed.push(stand_in(config, WeightBits::Eight, epilogue));
    }
    match config.weight_bits(linear) {
        WeightBits::Eight => {}
        bits => needed.push(stand_in(config, bits, LinearEpilogue::ToI8)),
    }
    needed.into_iter().map(|kernel| kernel.pipeline(config.kernel_options())).collect()
}

/// Fused epilogues, and weights of few bits.
pub(crate) fn known_answer(case: &mut CaseBuilder<'_>) {
    let kernel = stand_in(case.config, WeightBits::Eight, LinearEpilogue::ToI8Add);
    if case.needs(kernel) {
        let (layer, y) = SmallLayer::new(8).step(case);
        let other = case.input(tensor(&[ROWS, SmallLayer::N], |i| int8(i, 3)));
        let (op, add) = elementwise::known_add();
        let expected = tensor(&[ROWS, SmallLayer::N], |i| add(y[i], int8(i, 3)));
        case.output(kernel, op, &[layer, other], expected);
    }
    let kernel = stand_in(case.config, WeightBits::Eight, LinearEpilogue::ToI8Lut);
    if case.needs(kernel) {
        let (layer, y) = SmallLayer::new(8).step(case);
        let (op, look_up) = unary::known_lut();
        case.output(kernel, op, &[layer], tensor(&[ROWS, SmallLayer::N], |i| look_up(y[i])));
    }
    known_floats(case);
    for (bits, few, group_size) in [
        (WeightBits::Four, 4, None),
        (WeightBits::Two, 2, None),
        (WeightBits::EightGroups, 8, Some(16)),
        (WeightBits::FourGroups, 4, Some(16)),
        (WeightBits::TwoGroups, 2, Some(32)),
        (WeightBits::EightWords, 8, Some(12)),
    ] {
        let kernel = stand_in(case.config, bits, LinearEpilogue::ToI8);
        let is_stored = few == 8 || !case.config.unpacked_weights;
        if case.needs(kernel) && is_stored {
            let layer = match group_size {
                None => SmallLayer::new(few),
                Some(size) => SmallLayer::with_groups(few, size),
            };
            let (layer, y) = layer.step(case);
            case.answer(kernel, layer, tensor(&[ROWS, SmallLayer::N], |i| y[i]));
        }
    }
}

/// Float results: those of dynamic layers, and each function of both kinds.
fn known_floats(case: &mut CaseBuilder<'_>) {
    let of_functions = UnaryOp::ALL.iter().flat_map(|&op| {
        [(LinearEpilogue::ToF32Unary(op), Some(op)), (LinearEpilogue::DynamicToF32Unary(op), Some(op))]
    });
    for (epilogue, function) in [(LinearEpilogue::DynamicToF32, None)].into_iter().chain(of_functions) {
        let kernel = stand_in(case.config, WeightBits::Eight, epilogue);
        // Without a list of kernels, one function stands for all.
        let is_example = case.tests_all() && !matches!(function, None | Some(UnaryOp::Gelu));
        if is_example || !case.needs(kernel) {
            continue;
        }
        let is_dynamic = !matches!(epilogue, LinearEpilogue::ToF32Unary(_));
        let (layer, y) = SmallLayer::new(8).float_step(case, is_dynamic);
        let shape = [ROWS, SmallLayer::N];
        match function {
            None => case.answer(kernel, layer, tensor(&shape, |i| y[i])),
            Some(op) => case.output(kernel, Unary { op }, &[layer], tensor(&shape, |i| op.eval_f32(y[i]))),
        };
    }
}

/// A layer whose weights have all values of `bits` bits.
struct SmallLayer {
    bits: u32,
    weight: Vec<i8>,
    groups: Option<WeightGroups>,
    bias: Vec<i32>,
    multiplier: Vec<f32>,
}

impl SmallLayer {
    // More than one block of columns, and more than one vector of features.
    const N: usize = 70;
    const K: usize = 37;
    const ZERO_POINT: i32 = -3;

    fn new(bits: u32) -> Self {
        let weights = 1 << bits;
        let weight =
            (0..Self::N * Self::K).map(|i| (i32::from(int8(i, 6)).rem_euclid(weights) - weights / 2) as i8).collect();
        // Some results saturate, some are ties.
        let multiplier = [1e-3, 0.5, 1.0 / 3.0, 7e-3].into_iter().cycle().take(Self::N).collect();
        let bias = (0..Self::N as i32).map(|n| n * 101 - 3000).collect();
        Self { bits, weight, groups: None, bias, multiplier }
    }

    /// The layer with groups of features, whose zero points have all values of `bits` bits below 8; then they are 0.
    fn with_groups(bits: u32, size: usize) -> Self {
        let layer = Self::new(bits);
        let count = Self::N * Self::K.div_ceil(size);
        let half = 1 << (bits - 1);
        let zero_point = |at: usize| if bits == 8 { 0 } else { i32::from(int8(at, 5)).rem_euclid(2 * half) - half };
        let groups = WeightGroups {
            size,
            multipliers: (0..count).map(|at| ((at * 37 + at / 3) % 255) as u8 + 1).collect(),
            zero_points: (0..count).map(|at| zero_point(at) as i8).collect(),
        };
        let multiplier = layer.multiplier.iter().map(|m| m * 1e-2).collect();
        Self { groups: Some(groups), multiplier, ..layer }
    }

    /// Σ_k x\[row,k\] · w\[channel,k\], with the factors and zero points of groups.
    fn product(&self, row: usize, channel: usize) -> i32 {
        let weight = |i: usize| {
            let w = i32::from(self.weight[channel * Self::K + i]);
            self.groups.as_ref().map_or(w, |groups| {
                let group = channel * Self::K.div_ceil(groups.size) + i / groups.size;
                i32::from(groups.multipliers[group]) * (w - i32::from(groups.zero_points[group]))
            })
        };
        (0..Self::K).map(|i| i32::from(int8(row * Self::K + i, 9)) * weight(i)).sum()
    }

    /// Adds the layer with float results to a case, with static or dynamic qparams of its own input. Returns its output and the right
    /// values.
    fn float_step(&self, case: &mut CaseBuilder<'_>, dynamic: bool) -> (ValueId, Vec<f32>) {
        let (n, k) = (Self::N, Self::K);
        let scale = |n: usize| [1e-4, 0.37, 3.3e-5][n % 3];
        let x = case.input(tensor(&[ROWS, k], |i| int8(i, 9)));
        let weight_sum = |n: usize| self.weight[n * k..][..k].iter().map(|&w| i32::from(w)).sum::<i32>();
        let bias = |n: usize| n as f32 * 0.011 - 0.4;
        let qparams = |row: usize| (0.01 + row as f32 * 0.7, row as i32 * 9 - 11);
        let (scales, mut inputs) = ((0..n).map(scale).collect(), vec![x]);
        let epilogue = if dynamic {
            let word = |i: usize| if i.is_multiple_of(2) { qparams(i / 2).0 } else { qparams(i / 2).1 as f32 };
            inputs.push(case.input(tensor(&[ROWS, 2], word)));
            let (weight_sum, bias) = ((0..n).map(weight_sum).collect(), (0..n).map(bias).collect());
            Epilogue::Dynamic { scale: scales, weight_sum, bias, relu: false }
        } else {
            Epilogue::Scale { scale: scales, relu: false }
        };
        let bias_steps = if dynamic { vec![0; n] } else { self.bias.clone() };
        let weight = self.weight.as_slice().into();
        let op = QLinear {
            bits: self.bits,
            groups: None,
            weight,
            n,
            k,
            bias: bias_steps.as_slice().into(),
            fraction_bits: 0,
            epilogue,
        };
        let layer = case.step(StepOp::QLinear(op), &inputs, ValueType::F32, Shape::rows(n));
        let of = |at: usize| {
            let (row, channel) = (at / n, at % n);
            let acc = self.product(row, channel) + bias_steps[channel];
            if dynamic {
                let weight = (scale(channel), weight_sum(channel));
                return numerics::scale_accumulator_dynamic(acc, qparams(row), weight, bias(channel), false);
            }
            numerics::scale_accumulator(acc, scale(channel), false)
        };
        (layer, (0..ROWS * n).map(of).collect())
    }

    /// Adds the layer to a case, with an input of its own. Returns its output and the right values.
    fn step(&self, case: &mut CaseBuilder<'_>) -> (ValueId, Vec<i8>) {
        let (n, k, zero_point) = (Self::N, Self::K, Self::ZERO_POINT);
        let x = case.input(tensor(&[ROWS, k], |i| int8(i, 9)));
        let multiplier = self.multiplier.as_slice().into();
        let epilogue = Epilogue::Requantize { multiplier, zero_point, lo: -128, hi: 127 };
        let (weight, bias) = (self.weight.as_slice().into(), self.bias.as_slice().into());
        let groups = self.groups.clone();
        let op = StepOp::QLinear(QLinear { bits: self.bits, groups, weight, n, k, bias, fraction_bits: 0, epilogue });
        let layer = case.step(op, &[x], ValueType::I8, Shape::rows(n));
        let of = |at: usize| {
            let (row, channel) = (at / n, at % n);
            let acc = self.product(row, channel) + self.bias[channel];
            numerics::requantize(acc, self.multiplier[channel], zero_point, -128, 127) as i8
        };
        (layer, (0..ROWS * n).map(of).collect())
    }
}

// More than one block of columns, one part of divided features, and two workgroups of few rows.
const M: usize = 9;
const N: usize = 70;
const K: usize = 150;
const ZERO_POINT: i32 = -3;
/// The fraction bits of the layers: so many that sums exceed 2^24 and their conversion to float rounds, and that they fit `i32`.
const FRACTION_BITS: u32 = 8;

/// The pipelines that [`tile_answer`] tests for a tile shape: to int8 values, and of divided layers if `divided`.
pub(crate) fn tile_pipeline(config: &Config, tile: TileShape, divided: bool) -> PipelineKey {
    let epilogue = if divided { LinearEpilogue::Partial } else { LinearEpilogue::ToI8 };
    let coopmat = config.choice.coopmat;
    let layer = {
        let (bits, rows) = (WeightBits::Eight, LinearRows::Matrix);
        LinearPipeline::Layer { tile, bits, epilogue, to_f16: false, coopmat, rows }
    };
    layer.pipeline(config.kernel_options())
}

/// The layer that tests the tile shapes of `case.config`, to int8 and to float.
pub(crate) fn tile_answer(case: &mut CaseBuilder<'_>) {
    let layer = TileLayer::new();
    let x = case.input(tensor(&[M, K], |i| layer.x[i]));
    let multiplier = layer.multiplier.as_slice().into();
    let requantize = Epilogue::Requantize { multiplier, zero_point: ZERO_POINT, lo: -128, hi: 127 };
    let scale = Epilogue::Scale { scale: layer.scale.as_slice().into(), relu: false };
    let shape = LayerShape { n: N, k: K, bits: WeightBits::Eight, rows: LinearRows::Matrix };
    let kernel = |epilogue| pipeline_at(case.config, shape, M as u64, epilogue);
    let (to_i8, to_f32) = (kernel(LinearEpilogue::ToI8), kernel(LinearEpilogue::ToF32));
    let int8: Vec<i8> = layer.int8().collect();
    case.output(to_i8, layer.op(requantize), &[x], tensor(&[M, N], |i| int8[i]));
    let floats: Vec<f32> = layer.floats().collect();
    case.output(to_f32, layer.op(scale), &[x], tensor(&[M, N], |i| floats[i]));
}

/// The layer that tests what cooperative matrices can get wrong beyond other kernels.
pub(crate) fn coopmat_answer(case: &mut CaseBuilder<'_>, chunk_vecs: u32) {
    let layer = CoopmatLayer::new(chunk_vecs as usize);
    let op = StepOp::QLinear(QLinear {
        weight: layer.w.as_slice().into(),
        bits: 8,
        groups: None,
        n: layer.n,
        k: layer.k,
        bias: vec![0; layer.n].into(),
        fraction_bits: 0,
        epilogue: Epilogue::Scale { scale: vec![1.0; layer.n].into(), relu: false },
    });
    let shape = LayerShape { n: layer.n, k: layer.k, bits: WeightBits::Eight, rows: LinearRows::Matrix };
    let kernel = pipeline_at(case.config, shape, layer.m as u64, LinearEpilogue::ToF32);
    let x = case.input(tensor(&[layer.m, layer.k], |i| layer.x[i]));
    let sums: Vec<f32> = layer.sums().map(|sum| sum as f32).collect();
    case.output(kernel, op, &[x], tensor(&[layer.m, layer.n], |i| sums[i]));
}

/// A layer with extremes, ties, sums beyond 2^24 and saturating multipliers.
struct TileLayer {
    x: Vec<i8>,
    w: Vec<i8>,
    bias: Vec<i32>,
    multiplier: Vec<f32>,
    scale: Vec<f32>,
}

impl TileLayer {
    fn new() -> Self {
        let extremes = [-128, 127, -127, -1, 1, 0, 64];
        let pick = |i: usize, step: usize| extremes[(i * step + i / 5) % extremes.len()];
        let mut x: Vec<i8> = (0..M * K).map(|i| pick(i, 3)).collect();
        let mut w: Vec<i8> = (0..N * K).map(|i| pick(i, 5)).collect();
        // The largest sums of either sign.
        x[..K].fill(-128);
        w[N / 2 * K..][..K].fill(-128);
        w[(N / 2 + 1) * K..][..K].fill(127);
        // Channels without weights: their accumulator is the bias.
        const TIES: [i32; 8] = [1, 3, 5, -1, -3, -5, 7, 255];
        const ROUNDED: [i32; 6] = [(1 << 24) + 1, (1 << 24) + 3, -(1 << 24) - 1, (1 << 25) + 6, i32::MAX, 1 - i32::MAX];
        let mut bias: Vec<i32> = (0..N as i32).map(|i| i * 7919 - 200_000).collect();
        let mut multiplier: Vec<f32> = [3e-8f32, 1.0 / 3.0, 1e-6, 1e30, 7e-7].into_iter().cycle().take(N).collect();
        let mut scale: Vec<f32> = [1.0f32, 1e-6, 0.1].into_iter().cycle().take(N).collect();
        for (channel, &b) in TIES.iter().chain(&ROUNDED).enumerate() {
            w[channel * K..][..K].fill(0);
            bias[channel] = b;
            (multiplier[channel], scale[channel]) = if channel < TIES.len() { (0.5, 0.5) } else { (1e-7, 1.0) };
        }
        Self { x, w, bias, multiplier, scale }
    }

    fn op(&self, epilogue: Epilogue) -> StepOp {
        let (weight, bias) = (self.w.as_slice().into(), self.bias.as_slice().into());
        StepOp::QLinear(QLinear {
            bits: 8,
            groups: None,
            weight,
            n: N,
            k: K,
            bias,
            fraction_bits: FRACTION_BITS,
            epilogue,
        })
    }

    /// Equation 4, row by row.
    fn accumulators(&self) -> impl Iterator<Item = (usize, i32)> + '_ {
        (0..M * N).map(|at| {
            let (row, channel) = (&self.x[at / N * K..][..K], at % N);
            let products = row.iter().zip(&self.w[channel * K..][..K]).map(|(&x, &w)| i32::from(x) * i32::from(w));
            (channel, (products.sum::<i32>() << FRACTION_BITS) + self.bias[channel])
        })
    }

    fn int8(&self) -> impl Iterator<Item = i8> + '_ {
        let requantize = |(n, acc)| numerics::requantize(acc, self.multiplier[n], ZERO_POINT, -128, 127) as i8;
        self.accumulators().map(requantize)
    }

    fn floats(&self) -> impl Iterator<Item = f32> + '_ {
        self.accumulators().map(|(n, acc)| numerics::scale_accumulator(acc, self.scale[n], false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layer_covers_what_it_should() {
        let layer = TileLayer::new();
        let accs: Vec<i32> = layer.accumulators().map(|(_, acc)| acc).collect();
        assert!(accs.iter().any(|acc| acc.abs() > 1 << 24 && *acc as f32 as i64 != i64::from(*acc)));
        let values: Vec<i8> = layer.int8().collect();
        assert!(values.contains(&-128) && values.contains(&127));
        let inside = values.iter().filter(|c| (-127..127).contains(*c)).count();
        assert!(inside > values.len() / 4, "{inside} of {} values are not saturated", values.len());
        // Rounding half away from zero would show.
        let away = |(n, acc): (usize, i32)| {
            let v = acc as f32 * layer.multiplier[n];
            (v.abs() + 0.5).floor().copysign(v)
        };
        let even = |(n, acc): (usize, i32)| (acc as f32 * layer.multiplier[n]).round_ties_even();
        assert!(layer.accumulators().any(|a| away(a) != even(a)));
    }
}

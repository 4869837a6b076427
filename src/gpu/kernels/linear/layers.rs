//! int8 linear layers that read the same values and share a dispatch, such as the queries, keys and values of attention: one product with
//! the weights of all of them. The results lie one after the other in memory.

use std::sync::Arc;

use super::weights::{BLOCK_COLS, Channels, block_bytes};
use crate::gpu::kernels::config::Config;
use crate::gpu::kernels::dispatch::Planning;
use crate::gpu::kernels::fused_step::FusedStep;
use crate::gpu::kernels::layout::padded_bytes;
use crate::program::{Epilogue, Program, QLinear, Step, StepOp, Value, WeightGroups};

/// The most layers that share a dispatch with another: [`FusedStep::siblings`].
const MAX_SIBLINGS: usize = 3;

/// The strictest alignment that a device may ask of a binding's offset.
const ALIGNMENT: u64 = 256;

/// Bytes from the result of a layer to that of the next, at a batch of `rows`.
pub(crate) fn stride_bytes(result: &Value, rows: usize) -> u64 {
    padded_bytes(result, rows).checked_next_multiple_of(ALIGNMENT).unwrap_or(u64::MAX)
}

/// Whether a binding holds the results of all layers that share a dispatch. Otherwise each layer has its own dispatch, and its result its
/// own place.
pub(crate) fn has_shared_result(planning: &Planning<'_>, fused: &FusedStep) -> bool {
    let limits = &planning.config.limits;
    let bytes = stride_bytes(planning.output(fused), planning.max_rows).saturating_mul(fused.layers().count() as u64);
    fused.shares() && bytes <= limits.max_storage_buffer_binding_size.min(limits.max_buffer_size)
}

/// Steps between layers that share a dispatch. The results of all are in memory from the first layer on, so layers that lie far from one
/// another would take memory for long.
const MAX_DISTANCE: usize = 16;

/// Lets layers share a dispatch with the first of them, of all that have one alone.
pub(crate) fn share(all: &mut Vec<FusedStep>, program: &Program, config: &Config) {
    let mut shared = vec![false; program.steps().len()];
    for at in 0..all.len() {
        let (earlier, later) = all.split_at_mut(at + 1);
        let Some(first) = earlier.last_mut() else { continue };
        let is_layer = matches!(program.steps()[first.main].op, StepOp::QLinear(_));
        if shared[first.main] || !is_layer || !is_alone(first) {
            continue;
        }
        let near = later.iter().filter(|other| other.main <= first.main + MAX_DISTANCE);
        let others = near.filter(|other| is_alone(other)).map(|other| other.main);
        let suits = |other: &usize| !shared[*other] && can_share(program, config, first.main, *other);
        let siblings: Vec<usize> = others.filter(suits).take(MAX_SIBLINGS).collect();
        for (slot, sibling) in first.siblings.iter_mut().zip(siblings) {
            *slot = Some(sibling);
            shared[sibling] = true;
        }
    }
    all.retain(|fused| !shared[fused.main]);
}

/// Whether nothing is fused with a step.
fn is_alone(fused: &FusedStep) -> bool {
    *fused == FusedStep::single(fused.main)
}

/// Whether two layers differ in their weights, scales and biases only, and their results in nothing.
fn can_share(program: &Program, config: &Config, first: usize, other: usize) -> bool {
    let [first, other] = [first, other].map(|at| &program.steps()[at]);
    let (StepOp::QLinear(a), StepOp::QLinear(b)) = (&first.op, &other.op) else { return false };
    let same_conversion = match (&a.epilogue, &b.epilogue) {
        (
            &Epilogue::Requantize { zero_point, lo, hi, .. },
            &Epilogue::Requantize { zero_point: other_zero_point, lo: other_lo, hi: other_hi, .. },
        ) => (zero_point, lo, hi) == (other_zero_point, other_lo, other_hi),
        (Epilogue::Scale { relu, .. }, Epilogue::Scale { relu: other, .. })
        | (Epilogue::Dynamic { relu, .. }, Epilogue::Dynamic { relu: other, .. }) => relu == other,
        _ => false,
    };
    let bits = config.weight_bits(a);
    // Whole blocks of columns, all of which a binding holds, with their channels in another.
    let blocks = (a.n / BLOCK_COLS * (1 + MAX_SIBLINGS)) as u64;
    let block = block_bytes(a, bits).max(BLOCK_COLS / 4 * size_of::<Channels>()) as u64;
    let fits = blocks.saturating_mul(block)
        <= config.limits.max_storage_buffer_binding_size.min(config.limits.max_buffer_size);
    let is_output = |step: &Step| program.outputs().contains(&step.output);
    let shape = |step: &Step| &program.value(step.output).shape;
    let group_size = |layer: &QLinear| layer.groups.as_ref().map(|groups| groups.size);
    first.inputs == other.inputs
        && (a.n, a.k, a.fraction_bits, bits) == (b.n, b.k, b.fraction_bits, config.weight_bits(b))
        && group_size(a) == group_size(b)
        && a.n.is_multiple_of(BLOCK_COLS)
        && same_conversion
        && fits
        && shape(first) == shape(other)
        && !is_output(first)
        && !is_output(other)
}

fn layers<'p>(program: &'p Program, fused: &FusedStep) -> impl Iterator<Item = &'p QLinear> {
    fused.layers().filter_map(|step| match &program.steps()[step].op {
        StepOp::QLinear(linear) => Some(linear),
        _ => None,
    })
}

/// The places in the program of the weights of the layers of a dispatch, and of what belongs to their groups.
pub(crate) fn sources(program: &Program, fused: &FusedStep) -> Vec<usize> {
    let of_layer = |layer: &QLinear| {
        let of_groups = |groups: &WeightGroups| {
            [groups.multipliers.as_ptr() as usize, groups.zero_points.as_ptr() as usize, groups.size]
        };
        let groups = layer.groups.as_ref().map(of_groups);
        [layer.weight.as_ptr() as usize].into_iter().chain(groups.into_iter().flatten()).collect::<Vec<_>>()
    };
    layers(program, fused).flat_map(of_layer).collect()
}

/// The layers of a dispatch as one; `None` if there is one only.
pub(crate) fn merged(program: &Program, fused: &FusedStep) -> Option<QLinear> {
    let all: Vec<&QLinear> = layers(program, fused).collect();
    let first = *all.first().filter(|_| all.len() > 1)?;
    let epilogues: Vec<&Epilogue> = all.iter().map(|layer| &layer.epilogue).collect();
    let epilogue = match first.epilogue {
        Epilogue::Requantize { zero_point, lo, hi, .. } => {
            Epilogue::Requantize { multiplier: joined(&epilogues, Epilogue::factors), zero_point, lo, hi }
        }
        Epilogue::Scale { relu, .. } => Epilogue::Scale { scale: joined(&epilogues, Epilogue::factors), relu },
        Epilogue::Dynamic { relu, .. } => {
            let (mut weight_sums, mut biases) = (Vec::new(), Vec::new());
            for epilogue in &epilogues {
                let Epilogue::Dynamic { weight_sum, bias, .. } = epilogue else { continue };
                weight_sums.extend_from_slice(weight_sum);
                biases.extend_from_slice(bias);
            }
            let (weight_sum, bias) = (weight_sums.into(), biases.into());
            Epilogue::Dynamic { scale: joined(&epilogues, Epilogue::factors), weight_sum, bias, relu }
        }
    };
    let all_groups: Vec<&WeightGroups> = all.iter().filter_map(|layer| layer.groups.as_ref()).collect();
    let groups = all_groups.first().map(|first| WeightGroups {
        size: first.size,
        multipliers: joined(&all_groups, |groups| &groups.multipliers),
        zero_points: joined(&all_groups, |groups| &groups.zero_points),
    });
    Some(QLinear {
        weight: joined(&all, |layer| &layer.weight),
        groups,
        bits: all.iter().map(|layer| layer.bits).max().unwrap_or(first.bits),
        n: first.n * all.len(),
        bias: joined(&all, |layer| &layer.bias),
        epilogue,
        k: first.k,
        fraction_bits: first.fraction_bits,
    })
}

fn joined<L, T: Clone>(all: &[&L], part: impl Fn(&L) -> &Arc<[T]>) -> Arc<[T]> {
    all.iter().flat_map(|layer| part(layer).iter().cloned()).collect()
}

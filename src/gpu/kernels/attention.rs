//! Attention: a matmul of queries and keys, a softmax of the scores, and a matmul with the values, in one dispatch. The scores never leave
//! workgroup memory.

use strum::IntoEnumIterator;

use super::case::{CaseBuilder, ROWS, everyday, tensor};
use super::config::Config;
use super::dispatch::{Planned, PlannedDispatch, Planning};
use super::fused_step::{Attention, FusedStep};
use super::grid::{GridSize, Tiles};
use super::kernel::{Kernel, KernelOptions, flags};
use super::matmul::{is_reproducible, operand_axes, result_strides, source};
use super::norm::softmax::{masked, scaled};
use super::quantize::fused::{StaticQuantize, quantize_bits};
use super::strided::{Axis, Strided, aligned, axes, broadcast};
use super::wgsl::shader;
use crate::gpu::device::shader::{Binding, Chosen, FIRST_STORAGE, Shader, storage, wgsl_struct};
use crate::numerics::{FloatProducts, QuantizeRule};
use crate::ops::{Add, MatMul, Mul, Op, Quantize, Softmax};
use crate::program::StepOp;
use crate::values::slices::CHECKED;
use crate::values::{QParams, QuantRange};

wgsl_struct! {
    /// `AttentionParams` of `attention/params.wgsl`.
    AttentionParams {
        strided: Strided, others: Strided, m: u32, depth: u32, keys: u32, q_row: u32, y_row: u32, k_row: u32, k_col: u32,
        v_row: u32, v_col: u32, mask_row: u32, mask_col: u32, first_block: u32, scale: f32, factor: f32, zero_point: i32, lo: f32, hi: f32, zero: u32,
        unused_0: u32, unused_1: u32,
    }
}

const Q: u32 = FIRST_STORAGE;
const K: u32 = 4;
const V: u32 = 5;
const Y: u32 = 6;
const MASK: u32 = 7;

const STORAGE: &[Binding] = storage! { q: Q, k: K, v: V, y: Y, mask: MASK };

static SHADER: Shader = Shader {
    overrides: &["SCALE", "MASK", "QUANTIZE", "REPRODUCIBLE", "HELD"],
    ..shader! {
        "attention", AttentionParams, [Strided], STORAGE, [THREAD, FLOATS, FLOAT, QUANTIZE, FACTORS, EIGHT_THREADS, STRIDED],
        ["attention/params", "attention/workgroup", "attention/attention"]
    }
};

static LANES_SHADER: Shader = Shader {
    overrides: &["SCALE", "MASK", "QUANTIZE", "REPRODUCIBLE", "HELD"],
    subgroups: true,
    ..shader! {
        "attention_lanes", AttentionParams, [Strided], STORAGE,
        [THREAD, FLOATS, FLOAT, QUANTIZE, FACTORS, ROWS_OF_LANES, EIGHT_THREADS, STRIDED],
        ["attention/params", "attention/lanes", "attention/attention"]
    }
};

/// Rows of a workgroup.
const BLOCK: u32 = 16;

/// The kernels, by the number of keys whose scores workgroup memory holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::EnumIter)]
pub(crate) enum Keys {
    /// With WebGPU's default limit of 16 KiB of workgroup memory.
    To128,
    /// With 32 KiB.
    To384,
}

impl Keys {
    fn most(self) -> u32 {
        match self {
            Self::To128 => 128,
            Self::To384 => 384,
        }
    }

    /// Scores in workgroup memory.
    fn held(self) -> u32 {
        self.most() * BLOCK
    }

    /// `None` if there are too many, or not enough workgroup memory for them.
    fn of(keys: usize, config: &Config) -> Option<Self> {
        let own = Self::iter().find(|own| (1..=own.most() as usize).contains(&keys))?;
        // Those of `shared/eight_threads.wgsl`, and in `attention/workgroup.wgsl` tiles of both factors.
        let others = if config.float_lanes { 2 * 64 } else { 4 * 64 + 4 * 272 + 2 * 64 };
        ((own.held() + others) * 4 <= config.limits.max_compute_workgroup_storage_size).then_some(own)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AttentionKernel {
    keys: Keys,
    /// Whether scores are multiplied by a number, and whether a mask is added to them.
    scale: bool,
    mask: bool,
    /// How results are quantized, if they are.
    quantize: Option<QuantizeRule>,
    /// Whether factors are rounded, so that the bits are those of every engine.
    reproducible: bool,
    /// Whether lanes of a subgroup share what they load, instead of workgroup memory.
    lanes: bool,
}

impl AttentionKernel {
    /// The kernels for all numbers of keys.
    pub(crate) fn iter() -> impl Iterator<Item = Self> {
        let kernel =
            |keys, reproducible, lanes| Self { keys, scale: true, mask: true, quantize: None, reproducible, lanes };
        Keys::iter().flat_map(move |keys| {
            [(true, false), (true, true), (false, false), (false, true)].map(|(r, lanes)| kernel(keys, r, lanes))
        })
    }
}

impl Kernel for AttentionKernel {
    fn shader(self, _options: KernelOptions) -> &'static Shader {
        if self.lanes { &LANES_SHADER } else { &SHADER }
    }

    fn entry(self) -> &'static str {
        // The type of the results is an override constant.
        if self.lanes { "attention_lanes" } else { "attention" }
    }

    fn chosen(self, _options: KernelOptions) -> Chosen {
        quantize_bits(self.quantize.unwrap_or_default()).alone()
    }

    fn overrides(self, _options: KernelOptions) -> Vec<(&'static str, u32)> {
        let Self { keys, scale, mask, quantize, reproducible, .. } = self;
        let own = flags(&[
            ("SCALE", scale),
            ("MASK", mask),
            ("QUANTIZE", quantize.is_some()),
            ("REPRODUCIBLE", reproducible),
        ]);
        [vec![("HELD", keys.held())], own].concat()
    }

    fn promises_bits(self) -> bool {
        self.reproducible
    }

    fn may_be_near(self) -> bool {
        true
    }
}

/// Whether one dispatch suits matrices of `m` rows and so many keys: if workgroup memory holds the scores, and a workgroup has work. Blocks
/// of tiny matrices and of few rows would be almost empty.
pub(crate) fn suits(m: usize, keys: usize, config: &Config) -> bool {
    // On a GPU two matmuls and a softmax have more threads, which counts for more than the scores that they write to memory.
    let few = !config.wide_rows || keys <= FEW_KEYS;
    Keys::of(keys, config).is_some() && few && m >= BLOCK as usize / 2 && m * keys >= SMALL
}

/// The most keys at which one dispatch is faster on a GPU: measured on an H200, where 64 keys take 0.8 to 0.9 times as long as steps one
/// after the other, and 128 keys 1.0 to 1.3 times as long.
const FEW_KEYS: usize = 64;

/// Scores of a matrix below which steps one after the other are faster.
const SMALL: usize = 256;

/// The dispatches of attention: several where one would take too long for a driver's watchdog.
///
/// # Errors
/// Returns [`GpuError::Limit`](crate::gpu::GpuError::Limit) if the operands walk through too many axes in different orders.
pub(crate) fn plan(planning: &Planning<'_>, fused: &FusedStep) -> Planned {
    let Some(Attention { scores, softmax, transposes }) = fused.attention else { return Ok(None) };
    let program = planning.program;
    let step = fused.step(program);
    let [scores, softmax] = [scores, softmax].map(|at| &program.steps()[at]);
    let StepOp::Op(Op::MatMul(MatMul { products })) = step.op else { unreachable!("{} is no matmul", step.name) };
    let [q, k, v] = [
        operand_axes(program, scores.inputs[0], transposes[0]),
        operand_axes(program, scores.inputs[1], transposes[1]),
        operand_axes(program, step.inputs[1], fused.transposes[1]),
    ];
    let y = planning.value(step.output);
    let result = axes(y);
    let weights = axes(planning.value(softmax.output));
    let last = result.len() - 2;
    let (stack, written) = (&result[..last], result_strides(planning, fused));
    let along = |own: &[Axis]| aligned(&own[..own.len() - 2], stack);
    let ([.., q_row, depth], [.., k_row, k_col], [.., v_row, v_col]) = (&q[..], &k[..], &v[..]) else {
        unreachable!("a matrix has two axes")
    };
    let mut reads = vec![
        planning.at(Q, source(program, scores.inputs[0], transposes[0])),
        planning.at(K, source(program, scores.inputs[1], transposes[1])),
        planning.at(V, source(program, step.inputs[1], fused.transposes[1])),
    ];
    let mut mask_strides = vec![0; weights.len()];
    if let Some((_, mask)) = fused.mask.and_then(|mask| masked(program, &program.steps()[mask])) {
        mask_strides = broadcast(planning.value(mask), &weights);
        reads.push(planning.at(MASK, mask));
    }
    let scale = fused.scale.and_then(|scale| scaled(program, &program.steps()[scale])).map(|(_, scale)| scale);
    let (mut strided, mut others) = (Strided::rows(y, 0), Strided::rows(y, 0));
    strided.set_axes(&step.name, stack, [&along(&q), &along(&k), &written[..last]])?;
    others.set_axes(&step.name, stack, [&along(&v), &mask_strides[..last], &vec![0; last]])?;
    let length = |axis: &Axis| axis.length.unwrap_or(0);
    let keys = length(&weights[last + 1]);
    let mut params = AttentionParams {
        strided,
        others,
        m: length(&result[last]) as u32,
        depth: length(depth) as u32,
        keys: keys as u32,
        q_row: q_row.stride as u32,
        y_row: written[last] as u32,
        k_row: k_row.stride as u32,
        k_col: k_col.stride as u32,
        v_row: v_row.stride as u32,
        v_col: v_col.stride as u32,
        mask_row: mask_strides[last] as u32,
        mask_col: mask_strides[last + 1] as u32,
        scale: scale.unwrap_or(1.0),
        ..AttentionParams::default()
    };
    let quantize = fused.quantize.and_then(|quantize| StaticQuantize::of(&program.steps()[quantize].op));
    if let Some(own) = quantize {
        (params.factor, params.zero_point, params.lo, params.hi) = (own.factor, own.zero_point, own.lo, own.hi);
    }
    let kernel = AttentionKernel {
        keys: Keys::of(keys, planning.config).unwrap_or_else(|| unreachable!("fusion has checked {keys} keys")),
        scale: scale.is_some(),
        mask: fused.mask.is_some(),
        quantize: quantize.map(|own| own.rule),
        reproducible: is_reproducible(products),
        lanes: planning.config.float_lanes,
    };
    let block = u64::from(BLOCK);
    // An exponential takes about as long as 32 products.
    let macs = block * keys as u64 * (u64::from(params.depth) + y.cols() as u64 + 32);
    let most = (planning.config.macs_per_dispatch / macs.max(1)).max(1);
    let all = Tiles { m: params.m.into(), n: 1, tile: [block, 1], first: 0, most };
    let rows = if y.shape.is_batched() { planning.max_rows as u64 } else { 1 };
    let blocks = all.along_rows(rows.saturating_mul(y.rows_factor() as u64));
    let mut dispatches = Vec::new();
    for first in (0..blocks).step_by(usize::try_from(most).unwrap_or(usize::MAX)) {
        params.first_block = first as u32;
        let size = GridSize::Tiles(Tiles { first, ..all });
        let dispatch = PlannedDispatch::single(planning, &step.name, y, kernel, &params, size);
        let writes = [planning.at(Y, fused.last_step(program).output)];
        dispatches.push(dispatch.binding(reads.iter().copied(), writes));
    }
    Ok(Some(dispatches))
}

/// Attention of more rows than a block has, with a mask that leaves out some keys and all keys of one row.
pub(crate) fn known_answer(case: &mut CaseBuilder<'_>) {
    const HEADS: usize = 2;
    const M: usize = 19;
    const DEPTH: usize = 37;
    let lanes = case.config.float_lanes;
    let products = FloatProducts::Reproducible;
    // On a GPU more keys than `FEW_KEYS` are other kernels, whose answers would say nothing of this one.
    let numbers: &[(Keys, usize)] =
        if case.config.wide_rows { &[(Keys::To128, 61)] } else { &[(Keys::To128, 93), (Keys::To384, 326)] };
    for &(number, keys) in numbers {
        if !suits(M, keys, case.config) {
            continue;
        }
        let of_floats = [(false, false), (true, false), (false, true), (true, true)];
        let all = [(77, None), (80, Some(QuantizeRule::Multiply)), (80, Some(QuantizeRule::Divide))]
            .into_iter()
            .flat_map(|(columns, quantize)| of_floats.map(|(scale, mask)| (columns, quantize, scale, mask)));
        for (columns, quantize, scale, mask) in all {
            let kernel = AttentionKernel { keys: number, scale, mask, quantize, reproducible: true, lanes };
            // Without a list of kernels, one stands for all.
            let is_example = case.tests_all() && !(scale && mask);
            if is_example || !case.needs(kernel) {
                continue;
            }
            let small = |i: usize| everyday(i) * 0.125;
            let q = case.input(tensor(&[ROWS, HEADS, M, DEPTH], small));
            let k = case.input(tensor(&[ROWS, HEADS, DEPTH, keys], |i| small(i + 1000)));
            let v = case.input(tensor(&[ROWS, HEADS, keys, columns], |i| everyday(i + 2000)));
            let mut x = case.intermediate(MatMul { products }, &[q, k]);
            if scale {
                let number = case.constant(tensor(&[], |_| 0.37f32));
                x = case.intermediate(Mul, &[x, number]);
            }
            if mask {
                // A row without keys is NaN, which the host refuses to quantize.
                let none = |i: usize| i / keys == M - 1 && quantize.is_none() || i.is_multiple_of(5);
                let value = |i: usize| if none(i) { f32::NEG_INFINITY } else { everyday(i) };
                let mask = case.constant(tensor(&[M, keys], value));
                x = case.intermediate(Add, &[x, mask]);
            }
            let weights = case.intermediate(Softmax { axis: 3 }, &[x]);
            if let Some(rule) = quantize {
                let y = case.intermediate(MatMul { products }, &[weights, v]);
                let quantize = Quantize::new(QParams::new(0.05, 3).expect(CHECKED), QuantRange::INT8);
                case.computed(kernel, Quantize { rule, ..quantize }, &[y]);
            } else {
                case.computed(kernel, MatMul { products }, &[weights, v]);
            }
        }
    }
}

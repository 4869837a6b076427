//! Plans an int8 linear step: a dispatch for each part of its weight and of its rows.

use super::choice::{Candidate, pick};
use super::tuning::LayerShape;
use super::weights::{BLOCK_COLS, Channels, WeightPart, block_bytes, group_shift};
use super::work::{LinearTile, LinearWork};
use super::{CHANNELS, LinearEpilogue, LinearParams, LinearPipeline, OPERAND, PARTIAL, WEIGHT, X, Y, layers};
use crate::gpu::device::pipeline::PipelineKey;
use crate::gpu::kernels::config::Config;
use crate::gpu::kernels::conv;
use crate::gpu::kernels::dispatch::{Bound, Operand, PlannedDispatch, Planning, Rows, Work};
use crate::gpu::kernels::elementwise::AddParams;
use crate::gpu::kernels::fused_step::FusedStep;
use crate::gpu::kernels::kernel::Kernel;
use crate::gpu::kernels::layout::{k_vecs, matrix_rows, row_words};
use crate::gpu::kernels::quantize::qparams_stride;
use crate::ops::{IntegerAdd, Op};
use crate::program::{Epilogue, Program, QLinear, Step, StepOp, ValueId};

/// Parts into which K is divided, and the fewest vectors of 16 features in one.
const K_PARTS: u32 = 8;
const LEAST_PART_VECS: u32 = 8;
/// The rows of a dispatch that is divided are a multiple of this, if it may have that many, so that tiles stay whole.
const ROW_STEP: u64 = 128;

/// Columns of a packed weight that a dispatch computes, and where their results lie.
#[derive(Debug, Clone, Copy)]
struct Columns {
    /// The number of the weight's part, and where its columns begin in it, in bytes of weights and of channels.
    part: usize,
    offsets: [u64; 2],
    /// The columns, from `first_column` of the result on.
    weight: WeightPart,
    /// The result, or the first of several, and their number.
    result: ValueId,
    layers: usize,
}

/// More columns than any layer has: four times as many are a `u32`.
const ALL_COLUMNS: u32 = (1 << 30) - 1;

/// The dispatches of a linear step; none before its weight is packed.
pub(crate) fn plan(planning: &Planning<'_>, fused: &FusedStep, linear: &QLinear) -> Vec<PlannedDispatch> {
    let Some(weights) = planning.weights.get(fused.main) else { return Vec::new() };
    let rows = matrix_rows(planning.output(fused), planning.max_rows);
    let all: Vec<Columns> = if !fused.shares() {
        let result = fused.last_step(planning.program).output;
        let whole = |(part, &weight)| Columns { part, offsets: [0; 2], weight, result, layers: 1 };
        weights.iter().enumerate().map(whole).collect()
    } else {
        weights.first().map(|&weight| of_layers(planning, fused, linear, weight)).unwrap_or_default()
    };
    all.iter().flat_map(|columns| of_columns(planning, fused, linear, columns, rows)).collect()
}

/// All layers at once; one after the other if a binding cannot hold all results.
fn of_layers(planning: &Planning<'_>, fused: &FusedStep, linear: &QLinear, weight: WeightPart) -> Vec<Columns> {
    let results: Vec<ValueId> = fused.layers().map(|step| planning.program.steps()[step].output).collect();
    let layers = results.len();
    if layers::has_shared_result(planning, fused) {
        return vec![Columns { part: 0, offsets: [0; 2], weight, result: results[0], layers }];
    }
    // The columns of each layer are whole blocks.
    let bytes = [linear.n / BLOCK_COLS * block_bytes(linear, weight.bits), size_of::<Channels>() * linear.n / 4];
    let single = |(number, result)| {
        let offsets = bytes.map(|bytes| (bytes * number) as u64);
        let weight = WeightPart { first_column: 0, columns: linear.n, ..weight };
        Columns { part: 0, offsets, weight, result, layers: 1 }
    };
    results.into_iter().enumerate().map(single).collect()
}

fn of_columns(
    planning: &Planning<'_>,
    fused: &FusedStep,
    linear: &QLinear,
    columns: &Columns,
    rows: u64,
) -> Vec<PlannedDispatch> {
    let per_row = (linear.n * columns.layers * linear.k) as u64;
    let most = (planning.config.macs_per_dispatch / per_row.max(1)).max(1);
    let most = if most >= ROW_STEP { most / ROW_STEP * ROW_STEP } else { most };
    let Columns { weight, result, layers, .. } = *columns;
    let mut dispatches = Vec::new();
    let (tiles, finish) = tiles(planning, fused, linear, columns, rows);
    let of_layers: Vec<&Step> = fused.layers().map(|step| &planning.program.steps()[step]).collect();
    // Of several layers one after the other, each has its name.
    let own = of_layers.iter().position(|step| step.output == result).unwrap_or(0);
    let name = of_layers[own].name.clone();
    let siblings: Vec<String> = of_layers[own..].iter().take(layers).skip(1).map(|step| step.name.clone()).collect();
    for first_row in (0..rows).step_by(usize::try_from(most).unwrap_or(usize::MAX)) {
        let end_row = first_row.saturating_add(most);
        let params = params(planning, fused, linear, columns, first_row, end_row);
        let parts = params.k_vecs.div_ceil(params.part_vecs);
        let sums_of_row = u64::from(params.quads) * 4;
        let most_divided =
            if parts > 1 && finish.is_some() { planning.config.max_partial_sums / sums_of_row } else { 0 };
        let work = LinearWork {
            n: weight.columns,
            first_row,
            end_row,
            quads: params.quads.into(),
            tiles: tiles.clone(),
            finish: finish.clone(),
            parts,
            most_divided,
            partial_sums: most_divided.min(rows.min(end_row) - first_row) * sums_of_row,
        };
        let mut y = planning.at(Y, result);
        if layers > 1 {
            let stride = layers::stride_bytes(planning.value(result), planning.max_rows);
            y.bytes = Some(stride.saturating_mul(layers as u64));
        }
        dispatches.push(PlannedDispatch {
            name: name.clone(),
            fused: siblings.clone(),
            params: bytemuck::bytes_of(&params).to_vec(),
            rows: Rows::of(planning.output(fused)),
            reads: reads(planning, fused, linear, columns),
            writes: vec![y],
            work: Work::Linear(work),
        });
    }
    dispatches
}

fn reads(planning: &Planning<'_>, fused: &FusedStep, linear: &QLinear, columns: &Columns) -> Vec<Bound> {
    let step = fused.step(planning.program);
    let &Columns { part, offsets: [weight, channels], .. } = columns;
    let quads = columns.weight.columns.div_ceil(BLOCK_COLS) * BLOCK_COLS / 4;
    let bytes = [quads * 4 / BLOCK_COLS * block_bytes(linear, columns.weight.bits), quads * size_of::<Channels>()];
    let [weight_bytes, channel_bytes] = bytes.map(|bytes| Some(bytes as u64));
    let bound = |binding, operand, bytes| Bound { binding, operand, bytes };
    let mut reads = vec![
        planning.at(X, step.inputs[0]),
        bound(WEIGHT, Operand::Weight { step: fused.main, part, offset: weight }, weight_bytes),
        bound(CHANNELS, Operand::Channels { step: fused.main, part, offset: channels }, channel_bytes),
        Bound::whole(PARTIAL, Operand::PartialSums),
    ];
    reads.extend(operand(planning, fused, linear));
    reads
}

/// The operand of the epilogue.
pub(crate) fn operand(planning: &Planning<'_>, fused: &FusedStep, linear: &QLinear) -> Option<Bound> {
    let step = fused.step(planning.program);
    if let Some(lut) = fused.lut {
        Some(Bound::whole(OPERAND, Operand::StepBuffer(lut)))
    } else if let Some(add) = fused.add {
        let other = planning.program.steps()[add].inputs.iter().find(|&&input| input != step.output);
        other.map(|&other| planning.at(OPERAND, other))
    } else if let Epilogue::Dynamic { .. } = linear.epilogue {
        Some(planning.at(OPERAND, step.inputs[1]))
    } else {
        None
    }
}

/// The epilogue of a step's kernels.
pub(crate) fn epilogue(program: &Program, fused: &FusedStep, linear: &QLinear) -> LinearEpilogue {
    match (&linear.epilogue, fused.unary_op(program)) {
        (Epilogue::Requantize { .. }, _) if fused.lut.is_some() => LinearEpilogue::ToI8Lut,
        (Epilogue::Requantize { .. }, _) if fused.add.is_some() => LinearEpilogue::ToI8Add,
        (Epilogue::Requantize { .. }, _) => LinearEpilogue::ToI8,
        (Epilogue::Scale { .. }, None) => LinearEpilogue::ToF32,
        (Epilogue::Scale { .. }, Some(op)) => LinearEpilogue::ToF32Unary(op),
        (Epilogue::Dynamic { .. }, None) => LinearEpilogue::DynamicToF32,
        (Epilogue::Dynamic { .. }, Some(op)) => LinearEpilogue::DynamicToF32Unary(op),
    }
}

/// The pipelines of part of a weight: the tile shapes for up to `most_rows` rows, and what finishes divided layers.
fn tiles(
    planning: &Planning<'_>,
    fused: &FusedStep,
    linear: &QLinear,
    columns: &Columns,
    most_rows: u64,
) -> (Vec<LinearTile<PipelineKey>>, Option<PipelineKey>) {
    let (config, weight) = (planning.config, columns.weight);
    let (epilogue, to_f16) = (epilogue(planning.program, fused, linear), fused.to_f16);
    let options = config.kernel_options();
    let part_vecs = part_vecs(linear.k);
    let rows = conv::rows_of(&fused.step(planning.program).op);
    let candidates =
        config.candidates(LayerShape { n: linear.n * columns.layers, k: linear.k, bits: weight.bits, rows });
    let of_layer = reachable(candidates, most_rows, weight.columns);
    let candidates: Vec<Candidate> = of_layer.into_iter().map(|candidate| candidate.for_k(k_vecs(linear.k))).collect();
    let divides = candidates.iter().any(|candidate| candidate.split_below > 0) && part_vecs < k_vecs(linear.k) as u32;
    let tile = |candidate: Candidate| {
        let key = |epilogue| {
            let part = (epilogue == LinearEpilogue::Partial).then_some(part_vecs);
            let coopmat = config.choice.coopmat.filter(|_| candidate.tile.kernel().uses_coopmat());
            let coopmat = coopmat.map(|coopmat| coopmat.for_layer(weight.chunk_vecs, part));
            LinearPipeline::Layer { tile: candidate.tile, bits: weight.bits, epilogue, to_f16, coopmat, rows }
                .pipeline(options)
        };
        let part = (candidate.split_below > 0 && divides).then(|| key(LinearEpilogue::Partial));
        LinearTile { candidate, whole: key(epilogue), part }
    };
    let finish = divides.then(|| LinearPipeline::Finish { epilogue, to_f16 }.pipeline(options));
    (candidates.into_iter().map(tile).collect(), finish)
}

/// Vectors of 16 features in each part of K, where it is divided.
fn part_vecs(k: usize) -> u32 {
    (k_vecs(k) as u32).div_ceil(K_PARTS).max(LEAST_PART_VECS).next_multiple_of(4)
}

/// The candidates that some number of rows up to `most_rows` picks: no others are compiled.
fn reachable(candidates: Vec<Candidate>, most_rows: u64, n: usize) -> Vec<Candidate> {
    let last = candidates.last().copied();
    let mut kept = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        let workgroups = |rows| candidate.tile.grid(rows, n, u32::MAX).count();
        if workgroups(most_rows.min(candidate.most_rows)) < candidate.least_workgroups
            || most_rows < candidate.least_rows
        {
            continue;
        }
        kept.push(candidate);
        // The rest is reached by no number of rows.
        if candidate.most_rows >= most_rows && workgroups(1) >= candidate.least_workgroups && candidate.least_rows <= 1
        {
            return kept;
        }
    }
    // If none applies to the most rows, the last counts.
    match (kept.last(), last) {
        (Some(kept_last), Some(last)) if *kept_last == last => {}
        _ => kept.extend(last),
    }
    kept
}

/// The parameters of one dispatch. Sizes fit, as `bind` checks.
fn params(
    planning: &Planning<'_>,
    fused: &FusedStep,
    linear: &QLinear,
    columns: &Columns,
    first_row: u64,
    end_row: u64,
) -> LinearParams {
    let (program, y, weight) = (planning.program, planning.output(fused), columns.weight);
    let step = fused.step(program);
    let stride = layers::stride_bytes(y, planning.max_rows) / 4;
    let (layer_columns, layer_words) = match columns.layers {
        1 => (ALL_COLUMNS, 0),
        _ => (linear.n as u32, u32::try_from(stride).unwrap_or(u32::MAX)),
    };
    let (zero_point, lo, hi, relu) = match linear.epilogue {
        Epilogue::Requantize { zero_point, lo, hi, .. } => (zero_point, lo - zero_point, hi - zero_point, false),
        Epilogue::Scale { relu, .. } | Epilogue::Dynamic { relu, .. } => (0, 0, 0, relu),
    };
    let add = match fused.add.map(|add| &program.steps()[add]) {
        Some(add_step @ Step { op: StepOp::Op(Op::IntegerAdd(add)), .. }) => add_params(step, add_step, add),
        _ => AddParams::default(),
    };
    let conv::ImageParams { window, pixel_vecs, padding, group_inputs, group_outputs } =
        conv::ImageParams::of(step, program.value(step.inputs[0]));
    LinearParams {
        window,
        pixel_vecs,
        padding,
        group_inputs,
        group_outputs,
        k_vecs: k_vecs(linear.k) as u32,
        n: linear.n as u32,
        row_words: row_words(y.cols()) as u32,
        rows_factor: y.rows_factor() as u32,
        first_row: u32::try_from(first_row).unwrap_or(u32::MAX),
        end_row: u32::try_from(end_row).unwrap_or(u32::MAX),
        first_quad: (weight.first_column / 4) as u32,
        quads: (weight.columns.div_ceil(BLOCK_COLS) * BLOCK_COLS / 4) as u32,
        part_vecs: part_vecs(linear.k),
        fraction_bits: linear.fraction_bits,
        zero_point,
        lo: lo as f32,
        hi: hi as f32,
        relu: relu.into(),
        qparams_stride: step.inputs.get(1).map_or(0, |&qparams| qparams_stride(program.value(qparams))),
        layer_columns,
        layers: columns.layers as u32,
        layer_words,
        group_shift: group_shift(linear),
        add,
        zero: 0,
    }
}

/// The parameters of a dispatch of some rows and all columns of a layer whose weight has one part.
pub(crate) fn params_of_rows(
    planning: &Planning<'_>,
    fused: &FusedStep,
    linear: &QLinear,
    weight: WeightPart,
    [first_row, end_row]: [u64; 2],
) -> LinearParams {
    let result = fused.last_step(planning.program).output;
    let columns = Columns { part: 0, offsets: [0; 2], weight, result, layers: 1 };
    params(planning, fused, linear, &columns, first_row, end_row)
}

/// Equation 8, with the layer's own result as the first operand.
fn add_params(linear: &Step, add_step: &Step, add: &IntegerAdd) -> AddParams {
    let params = AddParams::of(add);
    if add_step.inputs[0] == linear.output { params } else { params.swapped() }
}

/// The pipeline that computes a layer at `m` matrix rows: its known answer stands for those of other tile shapes.
pub(crate) fn pipeline_at(config: &Config, layer: LayerShape, m: u64, epilogue: LinearEpilogue) -> LinearPipeline {
    let LayerShape { n, bits, rows, .. } = layer;
    let candidates = config.candidates(layer);
    let tile = candidates[pick(candidates.iter(), m, n)].tile;
    let coopmat = config.choice.coopmat.filter(|_| tile.kernel().uses_coopmat());
    LinearPipeline::Layer { tile, bits, epilogue, to_f16: false, coopmat, rows }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::kernels::linear::tile::{LinearKernel, TileShape};

    /// Whatever the rows, the kept candidates pick what all would.
    #[test]
    fn unreachable_candidates_are_not_compiled() {
        let limits = wgpu::Limits::default();
        let tile = |kernel, rows, k_step| TileShape::new(kernel, rows, k_step, &limits).expect("fits");
        let gemv =
            |rows: u32| Candidate { most_rows: rows.into(), ..Candidate::always(tile(LinearKernel::Gemv, rows, 4)) };
        let large =
            Candidate { least_rows: 65, least_workgroups: 128, ..Candidate::always(tile(LinearKernel::Large, 128, 2)) };
        let wide = Candidate { least_workgroups: 512, ..gemv(1) };
        let all = vec![wide, gemv(1), gemv(8), large, Candidate::always(tile(LinearKernel::Workgroup, 64, 4))];
        let expected = [(1, 64, 1), (1, 512 * 64, 1), (2, 64, 2), (9, 64, 3), (64, 128 * 128, 3), (65, 128 * 128, 4)];
        for (most_rows, n, expected) in expected.into_iter().chain([(4096, 4096, 4)]) {
            let kept = reachable(all.clone(), most_rows, n);
            assert_eq!(kept.len(), expected, "{most_rows} rows, {n} columns");
            for m in 1..=most_rows {
                let of = |candidates: &[Candidate]| candidates[pick(candidates.iter(), m, n)];
                assert_eq!(of(&kept), of(&all), "{m} of {most_rows} rows, {n} columns");
            }
        }
        assert_eq!(reachable(vec![gemv(1)], 9, 64), [gemv(1)]);
    }
}

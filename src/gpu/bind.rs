//! From a model and buffers to a run: memory, constants, bind groups and pipelines.

use std::num::NonZeroU64;
use std::sync::Arc;

use wgpu::BufferUsages;

use super::choice::Candidate;
use super::error::GpuError;
use super::general::{General, Size, TILE};
use super::layout::{Digit, LinearParams, OpParams, k_vecs};
use super::memory::{Memory, Slice, check_sizes, check_slices};
use super::model::{Model, OfStep, WeightPart};
use super::params::{linear_end, linear_params, part_vecs, tensor_params};
use super::pipeline::{Family, Key, LinearEnd, TensorKernel};
use super::plan::{Part, Plan, Planned, PlannedKernel, Slot, Terms, matrix_rows};
use super::run::{Dispatch, LinearTile, LinearWork, Run, Work};
use super::tile::LinearKernel;
use super::transfer::{allocate, scoped, upload};
use crate::program::{QLinear, StepOp};

/// Most partial sums of a divided layer, so that they stay small beside everything else: 768 KiB.
const MAX_PARTIAL_SUMS: u64 = 192 * 1024;
/// Rows of a dispatch that is divided are a multiple of this, where that many may be in one, so that tiles stay whole.
const ROW_STEP: u64 = 128;

/// What a linear kernel is bound to beside values.
const LINEAR_WEIGHT: u32 = 4;
const LINEAR_CHANNELS: u32 = 5;
const LINEAR_PARTIAL: u32 = 8;
/// Bindings of the kernels that handle one word at a time, and of the others.
const TENSOR_BINDINGS: u32 = 5;
const BINDINGS: u32 = 9;

pub(super) async fn bind(
    model: &Model,
    inputs: &[Slice<'_>],
    outputs: &[Slice<'_>],
    max_rows: usize,
) -> Result<Run, GpuError> {
    let (program, shared, settings) = (&model.program, &model.engine.shared, &model.engine.settings);
    shared.check_lost()?;
    super::run::check_rows(max_rows, max_rows)?;
    check_sizes(program, shared, max_rows)?;
    let used = check_slices(program, shared, inputs, outputs, max_rows)?;
    let copied: Vec<bool> =
        (0..inputs.len()).map(|at| used[..at].iter().any(|earlier| earlier.overlaps(&used[at]))).collect();
    let alignment = u64::from(shared.limits.min_storage_buffer_offset_alignment);
    let max_bytes = shared.limits.max_buffer_size;
    let terms = Terms { max_rows, unfused: settings.unfused, copied: &copied, alignment, max_bytes };
    let plan = Plan::new(program, terms)?;

    let mut arenas = Vec::with_capacity(plan.arenas.sizes.len());
    for &size in &plan.arenas.sizes {
        arenas.push(allocate(&shared.device, "values", size, BufferUsages::STORAGE).await?);
    }
    let mut works = Vec::with_capacity(plan.dispatches.len());
    for planned in &plan.dispatches {
        works.extend(works_of(model, planned, max_rows).await?);
    }
    let partial_sums = works.iter().map(|work| work.partial_sums).max().unwrap_or(0);
    let partial = match partial_sums {
        0 => None,
        sums => Some(allocate(&shared.device, "partial sums", sums * 4, BufferUsages::STORAGE).await?),
    };

    // A digit of the number of rows, or the constants of a dispatch, begins at every multiple of these.
    let uniform_alignment = shared.limits.min_uniform_buffer_offset_alignment.max(4) as usize;
    let digit_stride = size_of::<Digit>().next_multiple_of(uniform_alignment);
    // Where nothing has rows, their number changes nothing, however large it is.
    let batched = program.values().iter().any(|value| value.shape.is_batched());
    let rows_table = rows_table(if batched { max_rows } else { 1 }, digit_stride);
    let rows_table = upload(&shared.device, "rows", &rows_table, BufferUsages::UNIFORM).await?;
    let stride = size_of::<OpParams>().max(size_of::<LinearParams>()).next_multiple_of(uniform_alignment);
    let mut constants = vec![0; works.len() * stride];
    for (work, slot) in works.iter().zip(constants.chunks_exact_mut(stride)) {
        slot[..work.params.len()].copy_from_slice(&work.params);
    }
    let constants = upload(&shared.device, "constants", &constants, BufferUsages::UNIFORM).await?;

    let binder = Binder { model, plan: &plan, inputs, outputs, arenas: &arenas };
    let limit = shared.limits.max_compute_workgroups_per_dimension;
    let mut dispatches = Vec::with_capacity(works.len());
    for (at, work) in works.into_iter().enumerate() {
        let first = [
            part_of(&constants, (at * stride) as u64, work.params.len() as u64),
            part_of(&rows_table, 0, size_of::<Digit>() as u64),
            part_of(&rows_table, 0, size_of::<Digit>() as u64),
        ];
        let entries = binder.entries(&work, first, partial.as_ref());
        let layout = shared.pipelines.layout(work.family);
        let name = &work.planned.name;
        let descriptor = wgpu::BindGroupDescriptor { label: Some(name), layout, entries: &entries };
        let bind_group = scoped(&shared.device, name, || shared.device.create_bind_group(&descriptor)).await?;
        let Prepared { planned, work, rows_factor, batched, .. } = work;
        let dispatch = Dispatch { name: planned.name.clone(), bind_group, rows_factor, batched, work };
        // Grids grow with the rows, and those of all tiles are checked, so that what fits here fits every recording.
        dispatch.check(max_rows, limit)?;
        dispatches.push(dispatch);
    }
    let memory = Memory {
        weights: model.size_bytes(),
        values: arenas.iter().map(wgpu::Buffer::size).sum(),
        partial_sums: partial.as_ref().map_or(0, wgpu::Buffer::size),
        constants: constants.size() + rows_table.size(),
    };
    log::debug!("bound for {max_rows} rows: {memory}");
    Ok(Run::new(Arc::clone(shared), dispatches, max_rows, digit_stride as u32, memory, settings.debug_groups))
}

/// A dispatch before it has buffers.
struct Prepared<'p> {
    planned: &'p Planned,
    family: Family,
    params: Vec<u8>,
    /// The weight's part of a linear layer.
    weight: Option<&'p WeightPart>,
    work: Work,
    rows_factor: u64,
    batched: bool,
    partial_sums: u64,
}

/// The dispatches of a planned one: for each part of its weight, and for as many rows as one may have.
async fn works_of<'p>(model: &'p Model, planned: &'p Planned, max_rows: usize) -> Result<Vec<Prepared<'p>>, GpuError> {
    let shared = &model.engine.shared;
    let value = &model.program.values()[planned.value];
    let (rows_factor, batched) = (value.rows_factor() as u64, value.shape.is_batched());
    let prepared = |family, params: Vec<u8>, work| Prepared {
        planned,
        family,
        params,
        weight: None,
        work,
        rows_factor,
        batched,
        partial_sums: 0,
    };
    match &planned.kernel {
        PlannedKernel::Tensor(kernel, step) => {
            let pipeline = shared.pipelines.get(&shared.device, Key::Tensor(*kernel)).await?;
            let params = tensor_params(&model.program, value, *kernel, *step);
            let words_of_4_rows = match kernel {
                // Dense rows may share words.
                TensorKernel::Unpad => value.cols() as u64,
                _ => 4 * u64::from(params.row_words),
            };
            let params = bytemuck::bytes_of(&params).to_vec();
            Ok(vec![prepared(Family::Tensor, params, Work::Words { pipeline, words_of_4_rows })])
        }
        PlannedKernel::General(general) => {
            let mut general = (**general).clone();
            if general.kernel.entry.starts_with("matmul_i8") {
                general.kernel.packed_dot = Some(model.engine.choice.packed_dot);
            }
            let pipeline = shared.pipelines.get(&shared.device, Key::General(general.kernel)).await?;
            let of_general = |general: &General, most_groups| Prepared {
                rows_factor: general.rows_factor as u64,
                batched: general.batched,
                ..prepared(
                    Family::General,
                    bytemuck::bytes_of(&general.params).to_vec(),
                    Work::General {
                        pipeline: pipeline.clone(),
                        size: general.size,
                        first_group: general.params.first_group.into(),
                        most_groups,
                    },
                )
            };
            let Size::Tiles { n, .. } = general.size else { return Ok(vec![of_general(&general, u64::MAX)]) };
            // Tiles along the rows that one dispatch may have.
            let macs = TILE * n.max(1) * u64::from(general.params.k.max(1));
            let most = (model.engine.settings.macs_per_dispatch / macs).max(1);
            let rows = if general.batched { max_rows } else { 1 } as u64;
            let all = general.size.row_tiles(rows.saturating_mul(general.rows_factor as u64));
            let mut works = Vec::new();
            for first in (0..all).step_by(usize::try_from(most).unwrap_or(usize::MAX)) {
                general.params.first_group = first as u32;
                works.push(of_general(&general, most));
            }
            Ok(works)
        }
        PlannedKernel::Linear(group) => {
            let step = &model.program.steps()[group.main];
            let (StepOp::QLinear(linear), OfStep::Linear(weights)) = (&step.op, &model.of_steps[group.main]) else {
                unreachable!("a linear kernel executes a linear step");
            };
            let rows = matrix_rows(value, max_rows);
            let per_row = (linear.n * linear.k) as u64;
            let most = (model.engine.settings.macs_per_dispatch / per_row.max(1)).max(1);
            let most = if most >= ROW_STEP { most / ROW_STEP * ROW_STEP } else { most };
            let mut works = Vec::new();
            for weight in weights {
                let (tiles, finish) = linear_tiles(model, planned, linear, weight, rows).await?;
                for first_row in (0..rows).step_by(usize::try_from(most).unwrap_or(usize::MAX)) {
                    let end_row = first_row.saturating_add(most);
                    let params = linear_params(&model.program, planned, weight, first_row, end_row);
                    let parts = params.k_vecs.div_ceil(params.part_vecs);
                    let quads = u64::from(params.quads);
                    let sums_of_row = quads * 4;
                    let divisible = parts > 1 && finish.is_some();
                    let most_divided = if divisible { MAX_PARTIAL_SUMS / sums_of_row } else { 0 };
                    let work = Work::Linear(LinearWork {
                        n: weight.columns,
                        first_row,
                        end_row,
                        quads,
                        tiles: tiles.clone(),
                        finish: finish.clone(),
                        parts,
                        most_divided,
                    });
                    works.push(Prepared {
                        weight: Some(weight),
                        partial_sums: most_divided.min(rows.min(end_row) - first_row) * sums_of_row,
                        ..prepared(Family::Linear, bytemuck::bytes_of(&params).to_vec(), work)
                    });
                }
            }
            Ok(works)
        }
    }
}

async fn linear_tiles(
    model: &Model,
    planned: &Planned,
    linear: &QLinear,
    weight: &WeightPart,
    most_rows: u64,
) -> Result<(Vec<LinearTile>, Option<wgpu::ComputePipeline>), GpuError> {
    let (shared, packed_dot) = (&model.engine.shared, model.engine.choice.packed_dot);
    let (end, halves) = linear_end(planned, linear);
    let candidates = model.engine.candidates(linear.n, linear.k, weight.bits);
    let candidates = reachable(candidates, most_rows, weight.columns);
    let mut tiles = Vec::with_capacity(candidates.len());
    let divides =
        candidates.iter().any(|candidate| candidate.split_below > 0) && part_vecs(linear) < k_vecs(linear.k) as u32;
    for candidate in candidates {
        let key = |end| {
            let part = (end == LinearEnd::Partial).then(|| part_vecs(linear));
            let coop = model.engine.choice.coop.filter(|_| candidate.tile.kernel() == LinearKernel::Coop);
            let coop = coop.map(|coop| coop.of_layer(weight.chunk_vecs, part));
            Key::Linear { tile: candidate.tile, packed_dot, bits: weight.bits, end, halves, coop }
        };
        let whole = shared.pipelines.get(&shared.device, key(end)).await?;
        let part = match candidate.split_below > 0 && divides {
            true => Some(shared.pipelines.get(&shared.device, key(LinearEnd::Partial)).await?),
            false => None,
        };
        tiles.push(LinearTile { candidate, whole, part });
    }
    let finish = match divides {
        true => Some(shared.pipelines.get(&shared.device, Key::Finish { end, halves }).await?),
        false => None,
    };
    Ok((tiles, finish))
}

/// The candidates that some number of rows up to `most_rows` picks: no others are compiled.
fn reachable(candidates: Vec<Candidate>, most_rows: u64, n: usize) -> Vec<Candidate> {
    let last = candidates.last().copied();
    let mut kept = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        if candidate.tile.grid(most_rows, n, u32::MAX).groups() < candidate.least_groups {
            continue;
        }
        kept.push(candidate);
        if candidate.most_rows >= most_rows && candidate.least_groups == 0 {
            return kept;
        }
    }
    // None applies to most rows: the last counts then.
    match (kept.last(), last) {
        (Some(kept_last), Some(last)) if *kept_last == last => {}
        _ => kept.extend(last),
    }
    kept
}

/// What slots are, on the device.
struct Binder<'b> {
    model: &'b Model,
    plan: &'b Plan,
    inputs: &'b [Slice<'b>],
    outputs: &'b [Slice<'b>],
    arenas: &'b [wgpu::Buffer],
}

impl<'b> Binder<'b> {
    /// No more than is used: the caller's buffer may be larger than a binding can be.
    fn part(&self, (_, slot, bytes): Part) -> wgpu::BufferBinding<'b> {
        match slot {
            Slot::Input(at) => part_of(self.inputs[at].buffer, self.inputs[at].offset, bytes),
            Slot::Output(at) => part_of(self.outputs[at].buffer, self.outputs[at].offset, bytes),
            Slot::Constant(at) => part_of(&self.model.constants[at], 0, bytes),
            Slot::Scratch(at) => {
                let place = self.plan.place(at);
                part_of(&self.arenas[place.arena], place.offset, bytes)
            }
            Slot::OfStep(step) => match &self.model.of_steps[step] {
                OfStep::Buffer(buffer) => part_of(buffer, 0, buffer.size()),
                _ => unreachable!("the step has a buffer"),
            },
        }
    }

    /// One entry for each binding of the family.
    fn entries(
        &self,
        work: &Prepared<'b>,
        first: [wgpu::BufferBinding<'b>; 3],
        partial: Option<&'b wgpu::Buffer>,
    ) -> Vec<wgpu::BindGroupEntry<'b>> {
        let bindings = if work.family == Family::Tensor { TENSOR_BINDINGS } else { BINDINGS };
        let of_binding = |binding: u32| {
            if let Some(first) = first.get(binding as usize) {
                return first.clone();
            }
            if let Some(&part) = work.planned.parts.iter().find(|part| part.0 == binding) {
                return self.part(part);
            }
            match (binding, work.weight, partial) {
                (LINEAR_WEIGHT, Some(weight), _) => part_of(&weight.weight, 0, weight.weight.size()),
                (LINEAR_CHANNELS, Some(weight), _) => part_of(&weight.channels, 0, weight.channels.size()),
                (LINEAR_PARTIAL, Some(_), Some(partial)) => part_of(partial, 0, partial.size()),
                _ => self.model.engine.shared.pipelines.unused(binding),
            }
        };
        let entry =
            |binding| wgpu::BindGroupEntry { binding, resource: wgpu::BindingResource::Buffer(of_binding(binding)) };
        (0..bindings).map(entry).collect()
    }
}

fn part_of(buffer: &wgpu::Buffer, offset: u64, size: u64) -> wgpu::BufferBinding<'_> {
    wgpu::BufferBinding { buffer, offset, size: NonZeroU64::new(size) }
}

/// The digits that two dynamic offsets pick from: high and low digit, to base 256, of any number of rows.
fn rows_table(max_rows: usize, stride: usize) -> Vec<u8> {
    let digits = (max_rows / 256).max(max_rows.min(255)) + 1;
    let mut table = vec![0; digits * stride];
    for (value, entry) in (0u32..).zip(table.chunks_exact_mut(stride)) {
        entry[..size_of::<Digit>()].copy_from_slice(bytemuck::bytes_of(&Digit { value }));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::choice::pick;
    use crate::gpu::tile::TileShape;

    /// Whatever the rows, the kept candidates pick what all would.
    #[test]
    fn what_no_rows_reach_is_not_compiled() {
        let limits = wgpu::Limits::default();
        let tile = |kernel, rows, k_step| TileShape::new(kernel, rows, k_step, &limits).expect("fits");
        let gemv =
            |rows: u32| Candidate { most_rows: rows.into(), ..Candidate::always(tile(LinearKernel::Gemv, rows, 4)) };
        let large = Candidate { least_groups: 128, ..Candidate::always(tile(LinearKernel::Large, 128, 2)) };
        let all = vec![gemv(1), gemv(8), large, Candidate::always(tile(LinearKernel::Workgroup, 64, 4))];
        for (most_rows, n, expected) in [(1, 64, 1), (2, 64, 2), (9, 64, 3), (9, 128 * 128, 4), (4096, 4096, 4)] {
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

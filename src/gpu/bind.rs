//! Makes a run of a model and buffers: memory, parameters, bind groups and pipelines.

use std::num::NonZeroU64;
use std::sync::Arc;

use wgpu::BufferUsages;

use super::bound;
use super::device::error::GpuError;
use super::device::pipeline::{Batch, PipelineKey, Pipelines};
use super::device::shader::{Digit, Shader};
use super::device::transfer::{allocate, upload};
use super::indirect::{self, Arguments};
use super::kernels::dispatch::{Bound, Operand, PlannedDispatch, Work};
use super::kernels::indirect::GridRule;
use super::kernels::linear::weights::WeightPart;
use super::kernels::linear::work::{LinearTile, LinearWork};
use super::memory::{BufferRange, Memory, check_bindings, check_ranges, check_sizes};
use super::model::{Model, PartBuffers, StepData};
use super::run::{Dispatch, Indirect, Run, RunOptions, check_rows};
use super::schedule::plan::{Plan, PlanOptions};

/// Binds a model, and waits until it is known that nothing of it failed.
pub(super) async fn bind(
    model: &Model,
    inputs: &[BufferRange<'_>],
    outputs: &[BufferRange<'_>],
    max_rows: usize,
    is_indirect: bool,
) -> Result<Run, GpuError> {
    let mut batch = Batch::new(&model.device.wgpu);
    let run = bind_in(&mut batch, model, inputs, outputs, max_rows, is_indirect).await?;
    model.device.pipelines.keep(batch).await?;
    Ok(run)
}

/// Binds a model. What it makes is part of a batch.
pub(super) async fn bind_in(
    batch: &mut Batch,
    model: &Model,
    inputs: &[BufferRange<'_>],
    outputs: &[BufferRange<'_>],
    max_rows: usize,
    is_indirect: bool,
) -> Result<Run, GpuError> {
    let (program, device) = (&model.program, &model.device);
    device.check_lost()?;
    check_rows(max_rows, max_rows)?;
    check_sizes(program, &device.limits, max_rows)?;
    let used = check_ranges(program, &device.limits, inputs, outputs, max_rows)?;
    let copied: Vec<bool> =
        (0..inputs.len()).map(|at| used[..at].iter().any(|earlier| earlier.overlaps(&used[at]))).collect();
    let weights: Vec<&[WeightPart]> = model.steps.iter().map(StepData::parts).collect();
    let options = PlanOptions {
        max_rows,
        weights: &weights,
        copied: &copied,
        alignment: device.limits.min_storage_buffer_offset_alignment.into(),
        max_bytes: device.limits.max_buffer_size,
    };
    let plan = Plan::new(program, &model.config, options)?;
    check_bindings(&plan, &device.limits)?;
    let buffers = Buffers::new(batch, model, &plan, max_rows)?;
    let limit = device.limits.max_compute_workgroups_per_dimension;
    let binder = Binder { model, plan: &plan, inputs, outputs, buffers: &buffers };
    let mut dispatches = Vec::with_capacity(plan.dispatches.len());
    for (at, planned) in plan.dispatches.iter().enumerate() {
        let dispatch = binder.dispatch(batch, at, planned).await?;
        // Grids grow with the rows, and those of all tiles are checked, so what fits here fits every recording.
        dispatch.check(max_rows, limit)?;
        dispatches.push(dispatch);
    }
    let indirect = if is_indirect { Some(binder.indirect(batch, &dispatches, max_rows).await?) } else { None };
    let of_indirect = indirect.as_ref().map_or(0, |indirect| indirect.arguments.size_bytes());
    let memory = Memory {
        weights: model.size_bytes(),
        values: buffers.arenas.iter().map(wgpu::Buffer::size).sum(),
        partial_sums: buffers.partial_sums.as_ref().map_or(0, wgpu::Buffer::size),
        constants: buffers.params.size() + buffers.rows.size() + of_indirect,
    };
    log::debug!("bound for {max_rows} rows: {memory}");
    let options = RunOptions { debug_groups: model.config.debug_groups, poll: model.config.poll };
    let digit_stride = buffers.digit_stride as u32;
    let of_run = Arc::new(bound::Bound {
        params: buffers.params.clone(),
        params_stride: buffers.params_stride,
        planned: bound::without_params(&plan.dispatches),
        max_rows,
        copied,
    });
    model.remember(&of_run);
    Ok(Run { device: Arc::clone(device), bound: of_run, dispatches, indirect, max_rows, digit_stride, memory, options })
}

/// The buffers of a run.
struct Buffers {
    arenas: Vec<wgpu::Buffer>,
    /// The sums of parts of K, if a layer needs them.
    partial_sums: Option<wgpu::Buffer>,
    /// The numbers from 0 on, each at a multiple of the stride: quotients and remainders by 256 of numbers of rows.
    rows: wgpu::Buffer,
    digit_stride: usize,
    /// The parameters of the dispatches, each at a multiple of the stride.
    params: wgpu::Buffer,
    params_stride: usize,
}

impl Buffers {
    fn new(batch: &mut Batch, model: &Model, plan: &Plan, max_rows: usize) -> Result<Self, GpuError> {
        let (device, pending) = (&model.device, &mut batch.pending);
        let mut arenas = Vec::with_capacity(plan.arenas.sizes.len());
        for &size in &plan.arenas.sizes {
            arenas.push(allocate(pending, "values", size, BufferUsages::STORAGE)?);
        }
        let sums = plan.dispatches.iter().map(|planned| match &planned.work {
            Work::Linear(linear) => linear.partial_sums,
            Work::Single { .. } => 0,
        });
        let partial_sums = match sums.max().unwrap_or(0) {
            0 => None,
            sums => Some(allocate(pending, "partial sums", sums * 4, BufferUsages::STORAGE)?),
        };
        let alignment = device.limits.min_uniform_buffer_offset_alignment.max(4) as usize;
        let digit_stride = size_of::<Digit>().next_multiple_of(alignment);
        // If no value has rows, their number changes nothing, however large it is.
        let batched = model.program.values().iter().any(|value| value.shape.is_batched());
        let rows = rows_table(if batched { max_rows } else { 1 }, digit_stride);
        let rows = upload(pending, "rows", &rows, BufferUsages::UNIFORM)?;
        let largest = plan.dispatches.iter().map(|planned| planned.params.len()).max().unwrap_or(0);
        let params_stride = largest.max(1).next_multiple_of(alignment);
        let params = plan.params(params_stride);
        let params = upload(pending, "constants", &params, BufferUsages::UNIFORM | BufferUsages::COPY_DST)?;
        Ok(Self { arenas, partial_sums, rows, digit_stride, params, params_stride })
    }
}

/// Resolves operands to buffers.
struct Binder<'b> {
    model: &'b Model,
    plan: &'b Plan,
    inputs: &'b [BufferRange<'b>],
    outputs: &'b [BufferRange<'b>],
    buffers: &'b Buffers,
}

impl<'b> Binder<'b> {
    async fn dispatch(&self, batch: &mut Batch, at: usize, planned: &PlannedDispatch) -> Result<Dispatch, GpuError> {
        let device = &self.model.device;
        let (work, shader) = compile(&device.pipelines, batch, &planned.work).await?;
        let layout = device.pipelines.layout(batch, &shader)?;
        let entries = self.entries(at, planned, &shader, &self.buffers.rows);
        let name = &planned.name;
        let descriptor = wgpu::BindGroupDescriptor { label: Some(name), layout: &layout.bind_group, entries: &entries };
        let bind_group = batch.pending.make(name, || device.wgpu.create_bind_group(&descriptor))?;
        let kernels = kernels_of(&planned.work);
        let bound = planned.reads.iter().chain(&planned.writes);
        let used = bound.filter(|bound| bound.operand != Operand::PartialSums).filter_map(|bound| self.buffer(bound));
        let bytes = used.filter_map(|buffer| buffer.size).map(NonZeroU64::get).sum();
        let (fused, rows) = (planned.fused.clone(), planned.rows);
        Ok(Dispatch { name: name.clone(), kernels, fused, bytes, bind_group, rows, work })
    }

    /// What recording needs besides, if a buffer gives the number of rows.
    async fn indirect(
        &self,
        batch: &mut Batch,
        dispatches: &[Dispatch],
        max_rows: usize,
    ) -> Result<Indirect, GpuError> {
        let Model { device, config, .. } = self.model;
        indirect::check(device, config).await?;
        let batched = || dispatches.iter().enumerate().filter(|(_, dispatch)| dispatch.rows.batched);
        let rules = batched()
            .map(|(_, Dispatch { name, rows, work, .. })| GridRule::of(name, *rows, work, max_rows))
            .collect::<Result<Vec<GridRule>, GpuError>>()?;
        let most = u32::try_from(max_rows).unwrap_or(u32::MAX);
        let arguments = Arguments::new(batch, device, config, &rules, most).await?;
        let mut bind_groups = vec![None; dispatches.len()];
        for (at, dispatch) in batched() {
            let planned = &self.plan.dispatches[at];
            let shader = shader_of(&planned.work);
            let layout = device.pipelines.layout(batch, &shader)?;
            let entries = self.entries(at, planned, &shader, &arguments.digits);
            let label = Some(dispatch.name.as_str());
            let descriptor = wgpu::BindGroupDescriptor { label, layout: &layout.bind_group, entries: &entries };
            let made = batch.pending.make(&dispatch.name, || device.wgpu.create_bind_group(&descriptor))?;
            bind_groups[at] = Some(made);
        }
        Ok(Indirect { arguments, bind_groups })
    }

    /// One entry for each binding of the shader; `rows` has the digits of the number of rows.
    fn entries<'e>(
        &'e self,
        at: usize,
        planned: &PlannedDispatch,
        shader: &Shader,
        rows: &'e wgpu::Buffer,
    ) -> Vec<wgpu::BindGroupEntry<'e>> {
        let Buffers { params, params_stride, .. } = self.buffers;
        let digit = part_of(rows, 0, size_of::<Digit>() as u64);
        let params = part_of(params, (at * params_stride) as u64, planned.params.len() as u64);
        let uniforms = [params, digit.clone(), digit];
        let entry = |binding, buffer| {
            let resource = wgpu::BindingResource::Buffer(buffer);
            wgpu::BindGroupEntry { binding, resource }
        };
        let mut entries: Vec<_> = (0..).zip(uniforms).map(|(binding, buffer)| entry(binding, buffer)).collect();
        let mut numbers: Vec<u32> = shader.storage.iter().map(|binding| binding.binding).collect();
        numbers.sort_unstable();
        numbers.dedup();
        for number in numbers {
            let bound = planned.reads.iter().chain(&planned.writes).find(|bound| bound.binding == number);
            let buffer = bound.and_then(|bound| self.buffer(bound));
            entries.push(entry(number, buffer.unwrap_or_else(|| self.model.device.pipelines.unused(number))));
        }
        entries
    }

    /// The buffer of an operand, no more of it than is used: the caller's buffer may be larger than a binding can be.
    fn buffer(&self, bound: &Bound) -> Option<wgpu::BufferBinding<'b>> {
        let (buffer, offset) = match bound.operand {
            Operand::Input(at) => (self.inputs[at].buffer, self.inputs[at].offset),
            Operand::Output(at) => (self.outputs[at].buffer, self.outputs[at].offset),
            Operand::Constant(at) => (&self.model.constants[at], 0),
            Operand::Scratch { at, offset } => {
                let place = self.plan.place(at);
                (&self.buffers.arenas[place.arena], place.offset + offset)
            }
            Operand::StepBuffer(step) => match &self.model.steps[step] {
                StepData::Buffer(buffer) => (buffer, 0),
                _ => unreachable!("the step has a buffer"),
            },
            Operand::Weight { step, part, offset } => (&self.linear(step)[part].weight, offset),
            Operand::Channels { step, part, offset } => (&self.linear(step)[part].channels, offset),
            Operand::PartialSums => (self.buffers.partial_sums.as_ref()?, 0),
            Operand::Value(_) | Operand::Temporary(_) => unreachable!("the plan has placed all values"),
        };
        Some(part_of(buffer, offset, bound.bytes.unwrap_or(buffer.size())))
    }

    fn linear(&self, step: usize) -> &'b [PartBuffers] {
        match &self.model.steps[step] {
            StepData::Linear(data) => &data.buffers,
            _ => unreachable!("the step has a weight"),
        }
    }
}

/// The entry points of a dispatch.
fn kernels_of(work: &Work<PipelineKey>) -> String {
    match work {
        Work::Single { pipeline, .. } => pipeline.entry.to_owned(),
        Work::Linear(linear) => {
            let mut entries: Vec<&str> = linear.tiles.iter().map(|tile| tile.whole.entry).collect();
            entries.dedup();
            entries.join(" or ")
        }
    }
}

/// One of the shaders of a dispatch, which all have the same bindings.
fn shader_of(work: &Work<PipelineKey>) -> Shader {
    match work {
        Work::Single { pipeline, .. } => pipeline.shader,
        Work::Linear(linear) => linear.tiles[0].whole.shader,
    }
}

/// Compiles the pipelines of a dispatch; also returns one of their shaders, which all have the same bindings.
async fn compile(
    pipelines: &Pipelines,
    batch: &mut Batch,
    work: &Work<PipelineKey>,
) -> Result<(Work<wgpu::ComputePipeline>, Shader), GpuError> {
    let linear = match work {
        Work::Single { pipeline, size } => {
            let (compiled, size) = (pipelines.get(batch, pipeline).await?, *size);
            return Ok((Work::Single { pipeline: compiled, size }, shader_of(work)));
        }
        Work::Linear(linear) => linear,
    };
    let optional = async |batch: &mut Batch, key: &Option<PipelineKey>| match key {
        Some(key) => pipelines.get(batch, key).await.map(Some),
        None => Ok(None),
    };
    let mut tiles = Vec::with_capacity(linear.tiles.len());
    for LinearTile { candidate, whole, part } in &linear.tiles {
        let (whole, part) = (pipelines.get(batch, whole).await?, optional(batch, part).await?);
        tiles.push(LinearTile { candidate: *candidate, whole, part });
    }
    let LinearWork { n, first_row, end_row, quads, parts, most_divided, partial_sums, .. } = *linear;
    let finish = optional(batch, &linear.finish).await?;
    let compiled = LinearWork { n, first_row, end_row, quads, tiles, finish, parts, most_divided, partial_sums };
    Ok((Work::Linear(compiled), shader_of(work)))
}

fn part_of(buffer: &wgpu::Buffer, offset: u64, size: u64) -> wgpu::BufferBinding<'_> {
    wgpu::BufferBinding { buffer, offset, size: NonZeroU64::new(size) }
}

/// Returns the contents of the buffer from which two dynamic offsets select the quotient and the remainder by 256 of a row count.
fn rows_table(max_rows: usize, stride: usize) -> Vec<u8> {
    let digits = (max_rows / 256).max(max_rows.min(255)) + 1;
    let mut table = vec![0; digits * stride];
    for (value, entry) in (0u32..).zip(table.chunks_exact_mut(stride)) {
        entry[..size_of::<Digit>()].copy_from_slice(bytemuck::bytes_of(&Digit { value }));
    }
    table
}

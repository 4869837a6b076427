//! A model bound to buffers: what is recorded every frame.

use std::sync::Arc;

use wgpu::BufferUsages;

use super::engine::Shared;
use super::error::GpuError;
use super::general::Size;
use super::layout::{Digit, LinearParams, OpParams, TensorParams, k_vecs, row_words};
use super::model::Model;
use super::pipeline::{Family, Key, LinearEnd, TensorKernel};
use super::plan::{Plan, Planned, PlannedKernel, Slot, dense_bytes, padded_bytes};
use super::tile::{Grid, TileShape};
use super::transfer::{allocate, scoped, upload};
use crate::program::{Epilogue, Program, QLinear, StepOp, Value};
use crate::tensor::Shape;

/// A model bound to buffers. Recording it allocates nothing on the device and writes nothing from the host, so that any
/// number of recordings, with different numbers of rows, may be submitted together or apart.
#[derive(Debug)]
pub struct Run {
    shared: Arc<Shared>,
    dispatches: Vec<Dispatch>,
    max_rows: usize,
    /// Bytes from one digit of the table of rows to the next.
    digit_stride: u32,
    scratch_bytes: u64,
}

#[derive(Debug)]
struct Dispatch {
    name: String,
    bind_group: wgpu::BindGroup,
    /// Rows of work for each row of the batch, or in all.
    rows_factor: u64,
    batched: bool,
    work: Work,
}

impl Dispatch {
    /// The rows of the batch that this dispatch sees.
    fn rows(&self, rows: usize) -> usize {
        if self.batched { rows } else { 1 }
    }

    fn grid(&self, rows: usize, limit: u32) -> (&wgpu::ComputePipeline, Grid) {
        self.work.at((self.rows(rows) as u64).saturating_mul(self.rows_factor), limit)
    }
}

#[derive(Debug)]
enum Work {
    Linear {
        n: usize,
        /// Each for at most so many matrix rows; the last for any number.
        tiles: Vec<(u64, TileShape, wgpu::ComputePipeline)>,
    },
    Words {
        pipeline: wgpu::ComputePipeline,
        /// Threads for each four matrix rows, so that dense words, which rows may share, are counted too.
        words_of_4_rows: u64,
    },
    General {
        pipeline: wgpu::ComputePipeline,
        size: Size,
    },
}

impl Run {
    /// Records the program for `rows` rows, as one compute pass.
    ///
    /// # Errors
    /// [`GpuError::Rows`] unless `rows` is from 1 to what was bound, [`GpuError::DeviceLost`] after
    /// [`Engine::mark_lost`](super::Engine::mark_lost). Nothing is recorded then.
    pub fn record(&self, encoder: &mut wgpu::CommandEncoder, rows: usize) -> Result<(), GpuError> {
        self.check(rows)?;
        let descriptor = wgpu::ComputePassDescriptor { label: Some("enfold"), timestamp_writes: None };
        self.record_in(&mut encoder.begin_compute_pass(&descriptor), rows)
    }

    /// Records the program for `rows` rows in a compute pass of the caller's. Bind group 0 and the pipeline are left changed.
    ///
    /// # Errors
    /// As [`Run::record`].
    pub fn record_in(&self, pass: &mut wgpu::ComputePass<'_>, rows: usize) -> Result<(), GpuError> {
        self.check(rows)?;
        let offsets = |rows: usize| [rows / 256, rows % 256].map(|digit| digit as u32 * self.digit_stride);
        let limit = self.shared.limits.max_compute_workgroups_per_dimension;
        for dispatch in &self.dispatches {
            let (pipeline, grid) = dispatch.grid(rows, limit);
            let [x, y, z] = grid.check(&dispatch.name, limit)?;
            pass.set_pipeline(pipeline);
            pass.set_bind_group(0, &dispatch.bind_group, &offsets(dispatch.rows(rows)));
            pass.dispatch_workgroups(x, y, z);
        }
        Ok(())
    }

    /// The most rows that can be recorded.
    #[must_use]
    pub fn max_rows(&self) -> usize {
        self.max_rows
    }

    /// Bytes of device memory that intermediate values take.
    #[must_use]
    pub fn scratch_bytes(&self) -> u64 {
        self.scratch_bytes
    }

    fn check(&self, rows: usize) -> Result<(), GpuError> {
        self.shared.check_lost()?;
        check_rows(rows, self.max_rows)
    }
}

fn check_rows(actual: usize, max: usize) -> Result<(), GpuError> {
    if (1..=max).contains(&actual) { Ok(()) } else { Err(GpuError::Rows { actual, max }) }
}

impl Work {
    fn at(&self, m: u64, limit: u32) -> (&wgpu::ComputePipeline, Grid) {
        match self {
            Self::Linear { n, tiles } => {
                let at = tiles.iter().position(|(most, ..)| m <= *most).unwrap_or_default();
                let (_, tile, pipeline) = &tiles[at];
                (pipeline, tile.grid(m, *n, limit))
            }
            Self::Words { pipeline, words_of_4_rows } => {
                (pipeline, Grid::of_words(m.saturating_mul(*words_of_4_rows).div_ceil(4), limit))
            }
            Self::General { pipeline, size } => {
                let grid = match *size {
                    Size::Threads(per_row) => Grid::of_words(m.saturating_mul(per_row), limit),
                    Size::Groups => Grid::of_groups(m, limit),
                    Size::Once => Grid([1, 1, 1]),
                    Size::Tiles { m: rows, n } => {
                        // One matrix with all rows, or a stack of matrices.
                        let tiles = m.checked_div(rows).map_or(m.div_ceil(16), |stack| stack * rows.div_ceil(16));
                        let y = tiles.min(limit.into()).max(1);
                        Grid([n.div_ceil(16), y, tiles.div_ceil(y)])
                    }
                };
                (pipeline, grid)
            }
        }
    }
}

pub(super) async fn bind(
    model: &Model,
    inputs: &[&wgpu::Buffer],
    outputs: &[&wgpu::Buffer],
    max_rows: usize,
) -> Result<Run, GpuError> {
    let (program, shared) = (&model.program, &model.engine.shared);
    shared.check_lost()?;
    check_rows(max_rows, max_rows.max(1))?;
    check_sizes(program, shared, max_rows)?;
    check_buffers(program, inputs, outputs, max_rows)?;
    let device = &shared.device;
    let plan = Plan::new(program, max_rows)?;

    let mut scratch = Vec::with_capacity(plan.scratch.len());
    for &size in &plan.scratch {
        scratch.push(allocate(device, "scratch", size, BufferUsages::STORAGE).await?);
    }
    let buffer = |slot: Slot| match slot {
        Slot::Input(at) => inputs[at],
        Slot::Output(at) => outputs[at],
        Slot::Constant(at) => &model.constants[at],
        Slot::Scratch(at) => &scratch[at],
    };

    // A digit of the number of rows, or the constants of a dispatch, begins at every multiple of these.
    let alignment = shared.limits.min_uniform_buffer_offset_alignment.max(4) as usize;
    let digit_stride = size_of::<Digit>().next_multiple_of(alignment);
    let rows_table = rows_table(max_rows, digit_stride);
    let rows_table = upload(device, "rows", &rows_table, BufferUsages::UNIFORM).await?;
    let stride = size_of::<OpParams>().next_multiple_of(alignment);
    let mut constants = vec![0; plan.dispatches.len() * stride];
    for (planned, slot) in plan.dispatches.iter().zip(constants.chunks_exact_mut(stride)) {
        let bytes = params(program, planned);
        slot[..bytes.len()].copy_from_slice(&bytes);
    }
    let constants = upload(device, "constants", &constants, BufferUsages::UNIFORM).await?;

    let mut dispatches = Vec::with_capacity(plan.dispatches.len());
    for (at, planned) in plan.dispatches.iter().enumerate() {
        let value = &program.values()[planned.value];
        let work = work(model, planned, value).await?;
        // No more than is used: the caller's buffer may be larger than a binding can be.
        let part = |(slot, bytes): (Slot, u64)| binding(buffer(slot), 0, bytes as usize);
        let own = planned.step.map_or(&[][..], |step| &model.buffers[step]).iter().map(wgpu::Buffer::as_entire_binding);
        let mut sources: Vec<_> = planned.srcs.iter().copied().map(part).collect();
        let first = sources[0].clone();
        let family = match &planned.kernel {
            PlannedKernel::Tensor(_) => Family::Tensor,
            PlannedKernel::Linear => {
                // Behind the output come the pairs, which only dynamic layers read.
                sources.truncate(1);
                sources.extend(own);
                Family::Linear
            }
            PlannedKernel::General(_) => {
                sources.extend(own);
                // A matmul's factors are its third source; what a kernel does not read is bound to what it does.
                sources.resize(3, first.clone());
                Family::General
            }
        };
        let mut resources = vec![
            binding(&constants, at * stride, params(program, planned).len()),
            binding(&rows_table, 0, size_of::<Digit>()),
            binding(&rows_table, 0, size_of::<Digit>()),
        ];
        resources.extend(sources);
        resources.push(part(planned.dst));
        if family == Family::Linear {
            resources.push(planned.srcs.get(1).copied().map_or(first, part));
        }
        let entries: Vec<wgpu::BindGroupEntry<'_>> =
            (0u32..).zip(resources).map(|(binding, resource)| wgpu::BindGroupEntry { binding, resource }).collect();
        let layout = shared.pipelines.layout(family);
        let descriptor = wgpu::BindGroupDescriptor { label: Some(&value.name), layout, entries: &entries };
        let bind_group = scoped(device, &value.name, || device.create_bind_group(&descriptor)).await?;
        let (rows_factor, batched) = match &planned.kernel {
            PlannedKernel::General(general) => (general.rows_factor, general.batched),
            _ => (value.rows_factor(), value.shape.is_batched()),
        };
        let (name, rows_factor) = (value.name.clone(), rows_factor as u64);
        let dispatch = Dispatch { name, bind_group, rows_factor, batched, work };
        // Grids grow with the rows, so that what fits here fits every recording.
        let limit = shared.limits.max_compute_workgroups_per_dimension;
        dispatch.grid(max_rows, limit).1.check(&dispatch.name, limit)?;
        dispatches.push(dispatch);
    }
    let scratch_bytes = scratch.iter().map(wgpu::Buffer::size).sum();
    let digit_stride = digit_stride as u32;
    Ok(Run { shared: Arc::clone(shared), dispatches, max_rows, digit_stride, scratch_bytes })
}

fn binding(buffer: &wgpu::Buffer, offset: usize, size: usize) -> wgpu::BindingResource<'_> {
    wgpu::BindingResource::Buffer(wgpu::BufferBinding {
        buffer,
        offset: offset as u64,
        size: std::num::NonZeroU64::new(size as u64),
    })
}

/// The digits that two dynamic offsets pick from: high and low digit, to base 256, of any number of rows.
fn rows_table(max_rows: usize, stride: usize) -> Vec<u8> {
    let digits = 256.max(max_rows / 256 + 1);
    let mut table = vec![0; digits * stride];
    for (value, entry) in (0u32..).zip(table.chunks_exact_mut(stride)) {
        entry[..size_of::<Digit>()].copy_from_slice(bytemuck::bytes_of(&Digit { value }));
    }
    table
}

/// The constants of a dispatch. Sizes fit, by [`check_sizes`].
fn params(program: &Program, planned: &Planned) -> Vec<u8> {
    let value = &program.values()[planned.value];
    let words = row_words(value.cols()) as u32;
    let tensor = TensorParams {
        cols: value.cols() as u32,
        row_words: words,
        rows_factor: value.rows_factor() as u32,
        zero_point: 0,
        factor: 1.0,
        lo: 0.0,
        hi: 0.0,
    };
    let op = planned.step.map(|step| &program.steps()[step].op);
    match (&planned.kernel, op) {
        (PlannedKernel::General(general), _) => bytemuck::bytes_of(&general.params).to_vec(),
        (_, Some(StepOp::Quantize { qparams, range })) => {
            let zero_point = qparams.zero_point();
            let [lo, hi] = [range.quant_min(), range.quant_max()].map(|code| (code - zero_point) as f32);
            let params = TensorParams { zero_point, factor: qparams.inv_scale(), lo, hi, ..tensor };
            bytemuck::bytes_of(&params).to_vec()
        }
        (_, Some(StepOp::Dequantize { qparams })) => {
            let params = TensorParams { zero_point: qparams.zero_point(), factor: qparams.scale(), ..tensor };
            bytemuck::bytes_of(&params).to_vec()
        }
        (PlannedKernel::Linear, Some(StepOp::Linear(linear))) => {
            let (zero_point, lo, hi, relu) = match linear.epilogue {
                Epilogue::Requantize { zero_point, lo, hi, .. } => {
                    (zero_point, lo - zero_point, hi - zero_point, false)
                }
                Epilogue::Scale { relu, .. } | Epilogue::Dynamic { relu, .. } => (0, 0, 0, relu),
            };
            let pairs = planned.step.and_then(|step| program.steps()[step].inputs.get(1));
            let one_pair = |id| program.value(id).shape == Shape::fixed(&[2]);
            bytemuck::bytes_of(&LinearParams {
                k_vecs: k_vecs(linear.k) as u32,
                n: linear.n as u32,
                row_words: words,
                rows_factor: value.rows_factor() as u32,
                fraction_bits: linear.fraction_bits,
                zero_point,
                lo: lo as f32,
                hi: hi as f32,
                relu: relu.into(),
                pair_stride: pairs.map_or(0, |&id| if one_pair(id) { 0 } else { 2 }),
            })
            .to_vec()
        }
        _ => bytemuck::bytes_of(&tensor).to_vec(),
    }
}

async fn work(model: &Model, planned: &Planned, value: &Value) -> Result<Work, GpuError> {
    let shared = &model.engine.shared;
    let (cols, words) = (value.cols() as u64, row_words(value.cols()) as u64);
    let (kernel, words_of_4_rows) = match &planned.kernel {
        PlannedKernel::Linear => match planned.step.map(|step| &model.program.steps()[step].op) {
            Some(StepOp::Linear(linear)) => return linear_work(model, linear).await,
            _ => unreachable!("a linear kernel executes a linear step"),
        },
        PlannedKernel::General(general) => {
            let pipeline = shared.pipelines.get(&shared.device, Key::General(general.kernel)).await?;
            return Ok(Work::General { pipeline, size: general.size });
        }
        // Dense rows may share words.
        PlannedKernel::Tensor(kernel @ TensorKernel::Unpad) => (*kernel, cols),
        PlannedKernel::Tensor(kernel) => (*kernel, 4 * words),
    };
    let pipeline = shared.pipelines.get(&shared.device, Key::Tensor(kernel)).await?;
    Ok(Work::Words { pipeline, words_of_4_rows })
}

async fn linear_work(model: &Model, linear: &QLinear) -> Result<Work, GpuError> {
    let (shared, choice) = (&model.engine.shared, &model.engine.choice);
    let end = match linear.epilogue {
        Epilogue::Requantize { .. } => LinearEnd::Int8,
        Epilogue::Scale { .. } => LinearEnd::Float,
        Epilogue::Dynamic { .. } => LinearEnd::Dynamic,
    };
    let mut tiles = Vec::with_capacity(choice.tiles.len());
    for &(most, tile) in &choice.tiles {
        let key = Key::Linear { tile, packed_dot: choice.packed_dot, end };
        tiles.push((most, tile, shared.pipelines.get(&shared.device, key).await?));
    }
    Ok(Work::Linear { n: linear.n, tiles })
}

/// No value or layer is larger than the device's bindings, or than 32 bits can address.
fn check_sizes(program: &Program, shared: &Shared, max_rows: usize) -> Result<(), GpuError> {
    let limit = shared.limits.max_storage_buffer_binding_size;
    for value in program.values() {
        let actual = padded_bytes(value, max_rows);
        let name = || value.name.clone();
        if actual > limit {
            return Err(GpuError::Limit { name: name(), what: "bytes of a storage binding", actual, limit });
        }
        // Elements are counted in u32, of int8 too.
        let (actual, limit) = (padded_bytes(value, max_rows), u64::from(u32::MAX));
        if actual > limit {
            return Err(GpuError::Limit { name: name(), what: "bytes that kernels can address", actual, limit });
        }
    }
    Ok(())
}

fn check_buffers(
    program: &Program,
    inputs: &[&wgpu::Buffer],
    outputs: &[&wgpu::Buffer],
    rows: usize,
) -> Result<(), GpuError> {
    let count = |what, actual, expected| {
        if actual == expected { Ok(()) } else { Err(GpuError::Count { what, actual, expected }) }
    };
    count("input buffers", inputs.len(), program.inputs().len())?;
    count("output buffers", outputs.len(), program.outputs().len())?;
    let ids = program.inputs().iter().chain(program.outputs());
    let all: Vec<(&Value, &wgpu::Buffer)> =
        ids.map(|id| program.value(*id)).zip(inputs.iter().chain(outputs).copied()).collect();
    for (value, buffer) in &all {
        let (name, actual, needed) = (value.name.clone(), buffer.size(), dense_bytes(value, rows));
        if actual < needed {
            return Err(GpuError::BufferSize { name, actual, needed, rows });
        }
        if !buffer.usage().contains(BufferUsages::STORAGE) {
            return Err(GpuError::BufferUsage { name, actual: buffer.usage(), needed: BufferUsages::STORAGE });
        }
    }
    for (at, (value, buffer)) in all.iter().enumerate().skip(inputs.len()) {
        if let Some((other, _)) = all[..at].iter().find(|(_, other)| other == buffer) {
            return Err(GpuError::SameBuffer { name: value.name.clone(), other: other.name.clone() });
        }
    }
    Ok(())
}

//! Planned dispatches: steps before there are buffers and pipelines.

use super::config::Config;
use super::fused_step::FusedStep;
use super::grid::{Grid, GridSize};
use super::kernel::Kernel;
use super::layout::{matrix_rows, padded_bytes};
use super::linear::weights::WeightPart;
use super::linear::work::LinearWork;
use crate::gpu::device::error::GpuError;
use crate::gpu::device::pipeline::PipelineKey;
use crate::program::{Program, Value, ValueId};

/// The input of planning: a program, and how it is executed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Planning<'p> {
    pub(crate) program: &'p Program,
    pub(crate) config: &'p Config,
    pub(crate) max_rows: usize,
    /// For each step the parts of its weight; empty before the weights are packed.
    pub(crate) weights: &'p [&'p [WeightPart]],
}

impl<'p> Planning<'p> {
    pub(crate) fn value(&self, id: ValueId) -> &'p Value {
        self.program.value(id)
    }

    /// The value that input `at` of the main step is.
    pub(crate) fn input(&self, fused: &FusedStep, at: usize) -> &'p Value {
        self.value(fused.step(self.program).inputs[at])
    }

    /// The value that the dispatch writes.
    pub(crate) fn output(&self, fused: &FusedStep) -> &'p Value {
        self.value(fused.last_step(self.program).output)
    }

    /// A value at a binding.
    pub(crate) fn at(&self, binding: u32, id: ValueId) -> Bound {
        Bound { binding, operand: Operand::Value(id), bytes: Some(padded_bytes(self.value(id), self.max_rows)) }
    }
}

/// A buffer that a dispatch binds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operand {
    /// A value of the program; the plan replaces it by the place of the value.
    Value(ValueId),
    /// Memory between the dispatches of the step that writes this value; the plan replaces it by its place.
    Temporary(ValueId),
    /// An input in the caller's buffer.
    Input(usize),
    /// An output in the caller's buffer.
    Output(usize),
    /// A constant of the program.
    Constant(usize),
    /// Memory that values share over time, from an offset in bytes on.
    Scratch { at: usize, offset: u64 },
    /// The buffer of a step: a lookup table, or factors.
    StepBuffer(usize),
    /// Part of the weight of a linear step, from an offset in bytes on.
    Weight { step: usize, part: usize, offset: u64 },
    /// The channels of that part, likewise.
    Channels { step: usize, part: usize, offset: u64 },
    /// The sums of parts of K.
    PartialSums,
}

/// An operand at a binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bound {
    pub(crate) binding: u32,
    pub(crate) operand: Operand,
    /// Bytes that the dispatch uses; the whole buffer if `None`.
    pub(crate) bytes: Option<u64>,
}

impl Bound {
    /// A whole buffer at a binding.
    pub(crate) fn whole(binding: u32, operand: Operand) -> Self {
        Self { binding, operand, bytes: None }
    }
}

/// The number of matrix rows of a dispatch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rows {
    /// Matrix rows for each row of the batch, or for all of it.
    pub(crate) factor: u64,
    pub(crate) batched: bool,
}

impl Rows {
    /// The rows of a value.
    pub(crate) fn of(value: &Value) -> Self {
        Self { factor: value.rows_factor() as u64, batched: value.shape.is_batched() }
    }

    /// The rows of the batch that the dispatch sees.
    pub(crate) fn of_batch(self, rows: usize) -> usize {
        if self.batched { rows } else { 1 }
    }

    /// Matrix rows at a batch of `rows`.
    pub(crate) fn matrix(self, rows: usize) -> u64 {
        (self.of_batch(rows) as u64).saturating_mul(self.factor)
    }
}

/// The pipelines of a dispatch. `P` is a [`PipelineKey`] in a plan, and a pipeline in a run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Work<P> {
    /// Some columns and rows of an int8 linear layer.
    Linear(LinearWork<P>),
    /// One pipeline.
    Single { pipeline: P, size: GridSize },
}

/// The commands of a dispatch: a pipeline and a grid, two of them if K is divided, none if the batch has no rows for it.
pub(crate) type Recorded<'d, P> = [Option<(&'d P, Grid)>; 2];

impl<P> Work<P> {
    /// The commands for `m` matrix rows.
    pub(crate) fn at(&self, m: u64, limit: u32) -> Recorded<'_, P> {
        match self {
            Self::Linear(linear) => linear.at(m, limit),
            Self::Single { pipeline, size } => [size.grid(m, limit).map(|grid| (pipeline, grid)), None],
        }
    }

    /// The pipeline for `m` matrix rows that needs no other.
    pub(crate) fn whole_at(&self, m: u64) -> &P {
        match self {
            Self::Linear(linear) => linear.whole_at(m).1,
            Self::Single { pipeline, .. } => pipeline,
        }
    }
}

/// The dispatches of a step; `None` if its kernels belong to another family.
pub(crate) type Planned = Result<Option<Vec<PlannedDispatch>>, GpuError>;

/// One dispatch, before there are buffers and pipelines.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PlannedDispatch {
    /// The name of the node that it computes, or of the value that it moves.
    pub(crate) name: String,
    /// The names of other nodes that it computes.
    pub(crate) fused: Vec<String>,
    /// The bytes of the kernel's parameters.
    pub(crate) params: Vec<u8>,
    pub(crate) rows: Rows,
    pub(crate) reads: Vec<Bound>,
    pub(crate) writes: Vec<Bound>,
    pub(crate) work: Work<PipelineKey>,
}

impl PlannedDispatch {
    /// A dispatch of one kernel that works on the rows of `value`.
    pub(crate) fn single(
        planning: &Planning<'_>,
        name: &str,
        value: &Value,
        kernel: impl Kernel,
        params: &impl bytemuck::NoUninit,
        size: GridSize,
    ) -> Self {
        let pipeline = kernel.pipeline(planning.config.kernel_options());
        Self {
            name: name.to_owned(),
            fused: Vec::new(),
            params: bytemuck::bytes_of(params).to_vec(),
            rows: Rows::of(value),
            reads: Vec::new(),
            writes: Vec::new(),
            work: Work::Single { pipeline, size },
        }
    }

    /// The same with the buffers that it reads and writes.
    pub(crate) fn binding(
        mut self,
        reads: impl IntoIterator<Item = Bound>,
        writes: impl IntoIterator<Item = Bound>,
    ) -> Self {
        self.reads.extend(reads);
        self.writes.extend(writes);
        self
    }
}

/// Bytes of two floats for each matrix row of a value.
pub(crate) fn two_floats_a_row(value: &Value, rows: usize) -> u64 {
    matrix_rows(value, rows).saturating_mul(8)
}

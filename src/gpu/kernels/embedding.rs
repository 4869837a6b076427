//! Kernels that look up rows of an embedding table, or blocks of a tensor.

pub(crate) mod blocks;

use super::case::{CaseBuilder, ROWS, special, tensor};
use super::dispatch::{Planned, PlannedDispatch, Planning};
use super::fused_step::FusedStep;
use super::grid::GridSize;
use super::kernel::{Kernel, KernelOptions, kernels};
use super::wgsl::shader;
use crate::gpu::device::shader::{FIRST_STORAGE, Shader, storage, wgsl_struct};
use crate::ops::{Embedding, Op};
use crate::program::StepOp;

wgsl_struct! {
    /// `EmbeddingParams` of `embedding/embedding.wgsl`.
    EmbeddingParams { rows_factor: u32, cols: u32, table_rows: u32, below: u32 }
}

const IDS: u32 = FIRST_STORAGE;
const TABLE: u32 = 4;
const Y: u32 = 5;

static SHADER: Shader = shader! {
    "embedding", EmbeddingParams, [], storage! { ids: IDS, table: TABLE, y: Y },
    [THREAD, GRID],
    ["embedding/embedding"]
};

kernels! {
    EmbeddingKernel {
        Embedding = "embedding_i32_f32",
    }
}

impl Kernel for EmbeddingKernel {
    fn shader(self, _options: KernelOptions) -> &'static Shader {
        &SHADER
    }

    fn entry(self) -> &'static str {
        self.into()
    }

    fn promises_bits(self) -> bool {
        true
    }
}

/// The dispatch of an embedding.
pub(crate) fn plan(planning: &Planning<'_>, fused: &FusedStep) -> Planned {
    let step = fused.step(planning.program);
    let StepOp::Op(Op::Embedding(Embedding { from_end })) = step.op else { return Ok(None) };
    let y = planning.value(step.output);
    let table_rows = planning.input(fused, 1).shape.axis(0).unwrap_or_else(|| unreachable!("a table has rows"));
    let (rows_factor, cols, table_rows) = (y.rows_factor() as u32, y.cols() as u32, table_rows as u32);
    let below = if from_end { table_rows } else { 0 };
    let params = EmbeddingParams { rows_factor, cols, table_rows, below };
    let size = GridSize::Threads(cols.into());
    let dispatch = PlannedDispatch::single(planning, &step.name, y, EmbeddingKernel::Embedding, &params, size);
    let reads = [planning.at(IDS, step.inputs[0]), planning.at(TABLE, step.inputs[1])];
    Ok(Some(vec![dispatch.binding(reads, [planning.at(Y, step.output)])]))
}

/// Ids inside and outside the table.
pub(crate) fn known_answer(case: &mut CaseBuilder<'_>) {
    let table = case.constant(tensor(&[6, 5], special));
    // An id outside the table gives the nearest row.
    let id = |i: usize| i as i32 * 5 % 11 - 3;
    let ids = case.input(tensor(&[ROWS, 4], id));
    for (from_end, below) in [(false, 0), (true, 6)] {
        let row = |id: i32| (if id < 0 { id + below } else { id }).clamp(0, 5) as usize;
        let expected = tensor(&[ROWS, 4, 5], |i| special(row(id(i / 5)) * 5 + i % 5));
        case.output(EmbeddingKernel::Embedding, Embedding { from_end }, &[ids, table], expected);
    }
}

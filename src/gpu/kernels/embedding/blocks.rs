//! Kernels that read and write blocks of a tensor at coordinates that are computed at run time.

use crate::gpu::device::shader::{FIRST_STORAGE, Shader, storage, wgsl_struct};
use crate::gpu::kernels::case::{CaseBuilder, ROWS, special, tensor};
use crate::gpu::kernels::dispatch::{Planned, PlannedDispatch, Planning};
use crate::gpu::kernels::fused_step::FusedStep;
use crate::gpu::kernels::grid::GridSize;
use crate::gpu::kernels::kernel::{Kernel, KernelOptions, kernels};
use crate::gpu::kernels::wgsl::shader;
use crate::ops::{Blocks, GatherNd, Op, ScatterNd, ScatterReduction};
use crate::program::StepOp;

const MAX_DEPTH: usize = Blocks::MAX_DEPTH;

wgsl_struct! {
    /// `BlocksParams` of `embedding/blocks.wgsl`.
    BlocksParams {
        lengths: [[u32; 4]; MAX_DEPTH / 4], rows_factor: u32, cols: u32, depth: u32, whole: u32, of_batch: u32, block: u32,
        reduction: u32, zero: u32,
    }
}

const X: u32 = FIRST_STORAGE;
const IDS: u32 = 4;
const UPDATES: u32 = 5;
const Y: u32 = 6;

static SHADER: Shader = shader! {
    "embedding_blocks", BlocksParams, [], storage! { x: X, ids: IDS, updates: UPDATES, y: Y },
    [THREAD, GRID, FLOAT, FLOATS],
    ["embedding/blocks"]
};

kernels! {
    BlocksKernel {
        Gather = "gather_nd_f32_f32",
        Scatter = "scatter_nd_f32_f32",
    }
}

impl Kernel for BlocksKernel {
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

/// The dispatch of a step.
pub(crate) fn plan(planning: &Planning<'_>, fused: &FusedStep) -> Planned {
    let step = fused.step(planning.program);
    let (kernel, batch_dims, reduction) = match step.op {
        StepOp::Op(Op::GatherNd(GatherNd { batch_dims })) => {
            (BlocksKernel::Gather, batch_dims, ScatterReduction::Replace)
        }
        StepOp::Op(Op::ScatterNd(ScatterNd { batch_dims, reduction })) => {
            (BlocksKernel::Scatter, batch_dims, reduction)
        }
        _ => return Ok(None),
    };
    let (x, ids, y) = (planning.input(fused, 0), planning.input(fused, 1), planning.value(step.output));
    let blocks = Blocks::new(&x.shape, &ids.shape, batch_dims);
    let mut lengths = [[0; 4]; MAX_DEPTH / 4];
    for (at, &length) in blocks.indexed.iter().enumerate() {
        lengths[at / 4][at % 4] = length as u32;
    }
    // Without axes that both share, all ids are one batch.
    let all = ids.shape.elements().unwrap_or(0) / blocks.indexed.len();
    let of_batch = match (kernel, blocks.of_batch) {
        (_, Some(of_batch)) => of_batch as u32,
        (BlocksKernel::Gather, None) => u32::MAX,
        (BlocksKernel::Scatter, None) => all as u32,
    };
    let params = BlocksParams {
        lengths,
        rows_factor: y.rows_factor() as u32,
        cols: y.cols() as u32,
        depth: blocks.indexed.len() as u32,
        whole: blocks.indexed.iter().product::<usize>() as u32,
        of_batch,
        block: blocks.block as u32,
        reduction: reduction as u32,
        zero: 0,
    };
    let size = GridSize::Threads(y.cols() as u64);
    let dispatch = PlannedDispatch::single(planning, &step.name, y, kernel, &params, size);
    // A gather has no updates; its kernel does not read them.
    let updates = step.inputs.get(2).map(|&updates| planning.at(UPDATES, updates));
    let reads = [planning.at(X, step.inputs[0]), planning.at(IDS, step.inputs[1])].into_iter().chain(updates);
    Ok(Some(vec![dispatch.binding(reads, [planning.at(Y, step.output)])]))
}

/// Ids inside and outside their axes, with and without axes that data and ids share, and several updates of one block.
pub(crate) fn known_answer(case: &mut CaseBuilder<'_>) {
    let x = case.input(tensor(&[ROWS, 3, 4, 5], special));
    let id = |i: usize| i as i32 * 5 % 11 - 5;
    let ids = case.input(tensor(&[ROWS, 3, 6, 1], id));
    let place = |i: usize| (if id(i) < 0 { id(i) + 4 } else { id(i) }).clamp(0, 3) as usize;
    let expected = tensor(&[ROWS, 3, 6, 5], |i| special((i / 30 * 4 + place(i / 5)) * 5 + i % 5));
    case.output(BlocksKernel::Gather, GatherNd { batch_dims: 2 }, &[x, ids], expected);
    // Coordinates within their axes, from both ends.
    let table = case.constant(tensor(&[3, 4, 2], special));
    let inside = case.input(tensor(&[ROWS, 5, 2], |i| i as i32 * 5 % 6 - 3));
    case.computed(BlocksKernel::Gather, GatherNd { batch_dims: 0 }, &[table, inside]);
    let updates = case.input(tensor(&[ROWS, 3, 6, 5], |i| special(i + 7)));
    for &reduction in ScatterReduction::ALL {
        let some = case.input(tensor(&[ROWS, 3, 6, 1], |i| i as i32 * 5 % 7 - 3));
        case.computed(BlocksKernel::Scatter, ScatterNd { batch_dims: 2, reduction }, &[x, some, updates]);
    }
    // The last update of the nearest element.
    let mut replaced: Vec<f32> = (0..ROWS * 60).map(special).collect();
    for i in 0..ROWS * 90 {
        replaced[(i / 30 * 4 + place(i / 5)) * 5 + i % 5] = special(i + 7);
    }
    let expected = tensor(&[ROWS, 3, 4, 5], |i| replaced[i]);
    let replace = ScatterNd { batch_dims: 2, reduction: ScatterReduction::Replace };
    case.output(BlocksKernel::Scatter, replace, &[x, ids, updates], expected);
}

//! Kernels that pool and resize images.

use super::case::{CaseBuilder, ROWS, any_float, everyday, int8, tensor};
use super::conv::Window;
use super::dispatch::{Bound, Operand, Planned, PlannedDispatch, Planning};
use super::fused_step::FusedStep;
use super::grid::GridSize;
use super::kernel::{Kernel, KernelOptions, kernels};
use super::layout::row_words;
use super::wgsl::shader;
use crate::gpu::device::shader::{FIRST_STORAGE, Shader, read, read_write, wgsl_struct};
use crate::ops::{
    AveragePool, AverageWindows, ImageLayout, Images, IntegerAveragePool, IntegerResizeLinear, MaxPool, Op,
    ResizeCoordinates, ResizeGrid, ResizeLinear, ResizedAxis, Window as OpWindow,
};
use crate::program::{StepOp, Value, ValueType};
use crate::values::QParams;

wgsl_struct! {
    /// `PoolParams` of `pool/pool.wgsl`.
    PoolParams {
        window: Window, rows_factor: u32, row_threads: u32, pixel_words: u32, x_zero_point: i32, zero_point: i32, lo: f32, hi: f32,
        multiplier: f32, zero: u32,
    }
}

const A: u32 = FIRST_STORAGE;
const Y: u32 = 4;
const SPANS: u32 = 5;

static SHADER: Shader = shader! {
    "pool", PoolParams, [Window], &[read_write("a", A), read_write("y", Y), read("spans", SPANS)],
    [THREAD, GRID, WINDOW, REQUANTIZE, FLOATS, FLOAT],
    ["pool/pool", "pool/resize"]
};

kernels! {
    PoolKernel {
        MaxF32 = "max_pool_f32_f32",
        MaxI8 = "max_pool_i8_i8",
        AverageF32 = "average_pool_f32_f32",
        AverageI8 = "average_pool_i8_i8",
        ResizeF32 = "resize_linear_f32_f32",
        ResizeI8 = "resize_linear_i8_i8",
    }
}

impl Kernel for PoolKernel {
    fn shader(self, _options: KernelOptions) -> &'static Shader {
        &SHADER
    }

    fn entry(self) -> &'static str {
        self.into()
    }

    fn promises_bits(self) -> bool {
        true
    }

    fn may_be_near(self) -> bool {
        matches!(self, Self::AverageF32 | Self::ResizeF32)
    }
}

/// The dispatches of a pool or a resize.
pub(crate) fn plan(planning: &Planning<'_>, fused: &FusedStep) -> Planned {
    let step = fused.step(planning.program);
    let StepOp::Op(op) = &step.op else { return Ok(None) };
    let (x, y) = (planning.input(fused, 0), planning.value(step.output));
    let shape = x.shape.with_rows(1);
    let is_int8 = y.value_type == ValueType::I8;
    let (kernel, images) = match op {
        Op::MaxPool(pool) => (if is_int8 { PoolKernel::MaxI8 } else { PoolKernel::MaxF32 }, pool.images(&shape)),
        Op::AveragePool(AveragePool { windows, .. }) => (PoolKernel::AverageF32, sizes(&shape, windows)),
        Op::IntegerAveragePool(IntegerAveragePool { windows, .. }) => (PoolKernel::AverageI8, sizes(&shape, windows)),
        Op::ResizeLinear(ResizeLinear { grid, .. }) => (PoolKernel::ResizeF32, resized(&shape, grid)),
        Op::IntegerResizeLinear(IntegerResizeLinear { grid, .. }) => (PoolKernel::ResizeI8, resized(&shape, grid)),
        _ => return Ok(None),
    };
    let (row_threads, pixel_words) =
        if is_int8 { (y.cols().div_ceil(4), row_words(y.cols())) } else { (y.cols(), y.cols()) };
    let mut params = PoolParams {
        window: Window::of(&images),
        rows_factor: y.rows_factor() as u32,
        row_threads: row_threads as u32,
        pixel_words: pixel_words as u32,
        ..PoolParams::default()
    };
    let int8 = match op {
        Op::IntegerAveragePool(pool) => Some((pool.x, pool.y, pool.lo, pool.hi)),
        Op::IntegerResizeLinear(resize) => {
            params.multiplier = resize.multiplier(&resize.grid.axes_of(&shape, ImageLayout::ChannelsLast));
            Some((resize.x, resize.y, resize.lo, resize.hi))
        }
        _ => None,
    };
    if let Some((x, y, lo, hi)) = int8 {
        (params.x_zero_point, params.zero_point) = (x.zero_point(), y.zero_point());
        (params.lo, params.hi) = ((lo - params.zero_point) as f32, (hi - params.zero_point) as f32);
    }
    let size = GridSize::Threads(row_threads as u64);
    let dispatch = PlannedDispatch::single(planning, &step.name, y, kernel, &params, size);
    let spans = Bound::whole(SPANS, Operand::StepBuffer(fused.main));
    let has_spans = !matches!(kernel, PoolKernel::MaxF32 | PoolKernel::MaxI8);
    let reads = [planning.at(A, step.inputs[0])].into_iter().chain(has_spans.then_some(spans));
    Ok(Some(vec![dispatch.binding(reads, [planning.at(Y, step.output)])]))
}

/// The sizes of the images of an average pool. Its kernels do not use the window.
fn sizes(shape: &[usize], windows: &AverageWindows) -> Images {
    let identity = OpWindow::new(&vec![1; shape.len() - 2]);
    let [rows, columns] = windows.spans_of(shape, ImageLayout::ChannelsLast);
    Images { output: [rows.len(), columns.len()], ..Images::new(shape, &identity, ImageLayout::ChannelsLast) }
}

/// The sizes of the images of a resize. Its kernels do not use the window.
fn resized(shape: &[usize], grid: &ResizeGrid) -> Images {
    let identity = OpWindow::new(&vec![1; shape.len() - 2]);
    let output = grid.axes_of(shape, ImageLayout::ChannelsLast).map(|axis| axis.outputs.len());
    Images { output, ..Images::new(shape, &identity, ImageLayout::ChannelsLast) }
}

/// What an average pool averages or a resize mixes, as its kernels read it; `None` for other operators.
pub(crate) fn spans(op: &Op, x: &Value) -> Option<Vec<u32>> {
    let neighbours = |grid: &ResizeGrid, weights: &dyn Fn(&ResizedAxis, usize) -> [u32; 2]| {
        let axes = grid.axes_of(&x.shape.with_rows(1), ImageLayout::ChannelsLast);
        let words = |axis: &ResizedAxis| {
            let outputs = axis.outputs.iter().enumerate();
            outputs.flat_map(|(at, output)| [output.elements.map(|e| e as u32), weights(axis, at)].concat()).collect()
        };
        Some(axes.iter().map(words).collect::<Vec<Vec<u32>>>().concat())
    };
    let (windows, factor): (_, &dyn Fn(usize) -> u32) = match op {
        Op::ResizeLinear(resize) => {
            return neighbours(&resize.grid, &|axis, at| axis.floats(at).map(f32::to_bits));
        }
        Op::IntegerResizeLinear(resize) => {
            return neighbours(&resize.grid, &|axis, at| axis.integers(at).map(|weight| weight as u32));
        }
        Op::AveragePool(pool) => (&pool.windows, &|count| (count as f32).to_bits()),
        Op::IntegerAveragePool(pool) => (&pool.windows, &|count| pool.multiplier(count).to_bits()),
        _ => return None,
    };
    let [rows, columns] = windows.spans_of(&x.shape.with_rows(1), ImageLayout::ChannelsLast);
    let mut spans = Vec::with_capacity(rows.len() * columns.len() * 5);
    for row in &rows {
        for column in &columns {
            let ends = [row.start, row.end, column.start, column.end].map(|end| end as u32);
            spans.extend(ends);
            spans.push(factor(row.count * column.count));
        }
    }
    Some(spans)
}

/// Pools with each kind of window, and resizes with each kind of coordinates.
pub(crate) fn known_answer(case: &mut CaseBuilder<'_>) {
    let layout = ImageLayout::ChannelsLast;
    let window = || OpWindow::new(&[3, 2]).with_stride(&[2, 1]).with_uneven_padding(&[1, 1], &[2, 0]);
    let dilated = window().with_dilation(&[2, 1]);
    let max = |window| MaxPool { window, ceil_mode: true, layout };
    let int8s = case.input(tensor(&[ROWS, 6, 5, 21], |i| int8(i, 1)));
    let floats = case.input(tensor(&[ROWS, 6, 5, 21], any_float));
    for window in [window(), dilated] {
        case.computed(PoolKernel::MaxI8, max(window.clone()), &[int8s]);
        case.computed(PoolKernel::MaxF32, max(window), &[floats]);
    }
    let everyday = case.input(tensor(&[ROWS, 6, 5, 21], everyday));
    let qparams = |scale, zero_point| QParams::new(scale, zero_point).expect("a scale and a zero point of int8");
    for windows in [
        AverageWindows::Sliding { window: window(), ceil_mode: true, count_include_pad: true },
        AverageWindows::Sliding { window: window(), ceil_mode: false, count_include_pad: false },
        AverageWindows::Adaptive { output: vec![4, 1] },
    ] {
        for x in [floats, everyday] {
            case.computed(PoolKernel::AverageF32, AveragePool { windows: windows.clone(), layout }, &[x]);
        }
        let (x, y) = (qparams(0.5, -3), qparams(0.4, 9));
        let pool = IntegerAveragePool { windows, x, y, lo: -100, hi: 127, layout };
        case.computed(PoolKernel::AverageI8, pool, &[int8s]);
    }
    for (coordinates, output) in [
        (ResizeCoordinates::HalfPixel, [9, 3]),
        (ResizeCoordinates::AlignCorners, [4, 11]),
        (ResizeCoordinates::Asymmetric, [12, 10]),
    ] {
        let grid = ResizeGrid { output: output.to_vec(), coordinates };
        for x in [floats, everyday] {
            case.computed(PoolKernel::ResizeF32, ResizeLinear { grid: grid.clone(), layout }, &[x]);
        }
        let (x, y) = (qparams(0.5, -3), qparams(0.4, 9));
        case.computed(PoolKernel::ResizeI8, IntegerResizeLinear { grid, x, y, lo: -100, hi: 127, layout }, &[int8s]);
    }
}

//! Products of two activations, and float linear layers.

use super::case::{CaseBuilder, ROWS, everyday, int8, tensor};
use super::config::Config;
use super::dispatch::{Bound, Operand, Planned, PlannedDispatch, Planning};
use super::function::function;
use super::fused_step::FusedStep;
use super::grid::{GridSize, Tiles};
use super::kernel::{Kernel, KernelOptions, flags};
use super::quantize::qparams_stride;
use super::strided::{Axis, Strided, aligned, axes, strides, transposed};
use super::wgsl::shader;
use crate::gpu::device::error::GpuError;
use crate::gpu::device::shader::{Chosen, FIRST_STORAGE, Piece, Shader, storage, wgsl_struct};
use crate::numerics::{self, FloatProducts, UnaryOp};
use crate::ops::{IntegerMatMulDynamic, Linear, MatMul, Op, Transpose, Unary};
use crate::program::{Epilogue, Program, QMatMul, Step, StepOp, ValueId, ValueType};
use crate::values::Shape;

wgsl_struct! {
    /// `MatmulParams` of `matmul/params.wgsl`.
    MatmulParams {
        strided: Strided, k: u32, m: u32, a_row: u32, b_row: u32, y_row: u32, first_tile: u32, relu: u32,
        a_zero_point: i32, b_zero_point: i32, qparams_stride: u32, zero_point: i32, lo: f32, hi: f32,
        zero: u32, unused_0: u32, unused_1: u32,
    }
}

const A: u32 = FIRST_STORAGE;
const B: u32 = 4;
const BIAS: u32 = 5;
const FACTORS: u32 = 5;
const Y: u32 = 6;
const A_QPARAMS: u32 = 7;
const B_QPARAMS: u32 = 8;

/// A shader of float products.
macro_rules! float_shader {
    ($name:literal, [$($shared:ident),*], $file:literal, $subgroups:literal) => {
        Shader {
            overrides: &["BIAS", "REPRODUCIBLE"],
            subgroups: $subgroups,
            ..shader! {
                $name, MatmulParams, [Strided], storage! { a: A, b: B, bias: BIAS, y: Y },
                [THREAD, GRID, F16, FLOATS, FLOAT, FUNCTIONS, FACTORS, STRIDED $(, $shared)*],
                ["matmul/params", "matmul/float_operands", $file]
            }
        }
    };
}

static FLOAT_SHADER: Shader = float_shader!("matmul_float", [], "matmul/float", false);
static ELEMENTS_SHADER: Shader = float_shader!("matmul_float_elements", [], "matmul/float_elements", false);
static LANES_SHADER: Shader = float_shader!("matmul_float_lanes", [ROWS_OF_LANES], "matmul/float_lanes", true);

static INT8_SHADER: Shader = Shader {
    overrides: &["PACKED_DOT", "DYNAMIC"],
    ..shader! {
        "matmul_int8", MatmulParams, [Strided],
        storage! { a: A, b: B, factors: FACTORS, y: Y, a_qparams: A_QPARAMS, b_qparams: B_QPARAMS },
        [THREAD, BYTES, FLOAT, FLOATS, DOT, REQUANTIZE, STRIDED],
        ["matmul/params", "matmul/int8"]
    }
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MatmulKernel {
    F32 {
        bias: bool,
        /// The function that follows.
        function: Option<UnaryOp>,
        /// Whether factors are rounded, so that the bits are those of every engine.
        reproducible: bool,
        /// Whether lanes of a subgroup share what they load, instead of workgroup memory.
        lanes: bool,
    },
    /// A stack of small float products: one element a thread.
    SmallF32 {
        reproducible: bool,
    },
    I8,
    I8ToF32,
    /// An int8 product with dynamic qparams.
    DynamicI8ToF32,
}

impl MatmulKernel {
    /// All kernels, without a function that follows and with one.
    pub(crate) fn iter() -> impl Iterator<Item = Self> {
        let float = [false, true].into_iter().flat_map(|reproducible| {
            let plain = [false, true].map(|lanes| Self::F32 { bias: false, function: None, reproducible, lanes });
            let function = Some(UnaryOp::Gelu);
            let with_function = [false, true].map(|lanes| Self::F32 { bias: true, function, reproducible, lanes });
            plain.into_iter().chain(with_function).chain([Self::SmallF32 { reproducible }])
        });
        float.chain([Self::I8, Self::I8ToF32, Self::DynamicI8ToF32])
    }

    /// The kernel of float products that suits the device.
    fn float(config: &Config, bias: bool, function: Option<UnaryOp>, reproducible: bool) -> Self {
        Self::F32 { bias, function, reproducible, lanes: config.float_lanes }
    }

    /// Rows and columns of its tiles.
    fn tile(self) -> [u64; 2] {
        if matches!(self, Self::F32 { lanes: true, .. }) { [16, 32] } else { [64, 64] }
    }
}

impl Kernel for MatmulKernel {
    fn shader(self, _options: KernelOptions) -> &'static Shader {
        match self {
            Self::F32 { lanes: true, .. } => &LANES_SHADER,
            Self::F32 { .. } => &FLOAT_SHADER,
            Self::SmallF32 { .. } => &ELEMENTS_SHADER,
            _ => &INT8_SHADER,
        }
    }

    fn entry(self) -> &'static str {
        match self {
            Self::F32 { lanes: true, .. } => "matmul_lanes_f32_f32",
            Self::F32 { .. } => "matmul_f32_f32",
            Self::SmallF32 { .. } => "matmul_elements_f32_f32",
            Self::I8 => "matmul_i8_i8",
            Self::I8ToF32 | Self::DynamicI8ToF32 => "matmul_i8_f32",
        }
    }

    fn chosen(self, _options: KernelOptions) -> Chosen {
        match self {
            Self::F32 { function: op, .. } => function(op).alone(),
            Self::SmallF32 { .. } => function(None).alone(),
            _ => Piece::NONE.alone(),
        }
    }

    fn overrides(self, options: KernelOptions) -> Vec<(&'static str, u32)> {
        if let Self::F32 { bias, reproducible, .. } = self {
            return flags(&[("BIAS", bias), ("REPRODUCIBLE", reproducible)]);
        }
        if let Self::SmallF32 { reproducible } = self {
            return flags(&[("REPRODUCIBLE", reproducible)]);
        }
        vec![("PACKED_DOT", options.packed_dot.into()), ("DYNAMIC", (self == Self::DynamicI8ToF32).into())]
    }

    fn promises_bits(self) -> bool {
        !matches!(self, Self::F32 { reproducible: false, .. } | Self::SmallF32 { reproducible: false })
    }

    fn may_be_near(self) -> bool {
        matches!(self, Self::F32 { .. } | Self::SmallF32 { .. } | Self::DynamicI8ToF32)
    }
}

/// The dispatches of a matrix product: several where one would take too long for a driver's watchdog.
///
/// # Errors
/// Returns [`GpuError::Limit`] if the operands walk through too many axes in different orders.
pub(crate) fn plan(planning: &Planning<'_>, fused: &FusedStep) -> Planned {
    let program = planning.program;
    let step = fused.step(program);
    let mut params = match &step.op {
        StepOp::Op(Op::Linear(_)) => linear_params(planning, fused),
        StepOp::QMatMul(_) | StepOp::Op(Op::MatMul(_) | Op::IntegerMatMulDynamic(_)) => stack_params(planning, fused)?,
        _ => return Ok(None),
    };
    let mut reads = vec![operand(planning, fused, A, 0), operand(planning, fused, B, 1)];
    let kernel = match &step.op {
        StepOp::Op(Op::Linear(Linear { products })) => {
            let bias = step.inputs.get(2);
            reads.extend(bias.map(|&bias| planning.at(BIAS, bias)));
            let function = fused.unary_op(program);
            MatmulKernel::float(planning.config, bias.is_some(), function, is_reproducible(*products))
        }
        StepOp::Op(Op::MatMul(MatMul { products })) if is_small(&params) => {
            MatmulKernel::SmallF32 { reproducible: is_reproducible(*products) }
        }
        StepOp::Op(Op::MatMul(MatMul { products })) => {
            MatmulKernel::float(planning.config, false, None, is_reproducible(*products))
        }
        StepOp::QMatMul(matmul) => {
            reads.push(Bound::whole(FACTORS, Operand::StepBuffer(fused.main)));
            set_int8(&mut params, matmul)
        }
        StepOp::Op(Op::IntegerMatMulDynamic(IntegerMatMulDynamic { relu })) => {
            reads.extend([planning.at(A_QPARAMS, step.inputs[2]), planning.at(B_QPARAMS, step.inputs[3])]);
            (params.relu, params.qparams_stride) = ((*relu).into(), qparams_stride(planning.input(fused, 2)));
            MatmulKernel::DynamicI8ToF32
        }
        op => unreachable!("{} is no product", op.name()),
    };
    let y = planning.value(step.output);
    if matches!(kernel, MatmulKernel::SmallF32 { .. }) {
        let size = GridSize::Threads(y.cols() as u64);
        let dispatch = PlannedDispatch::single(planning, &step.name, y, kernel, &params, size);
        let writes = [planning.at(Y, fused.last_step(program).output)];
        return Ok(Some(vec![dispatch.binding(reads, writes)]));
    }
    let n = y.cols() as u64;
    // Row tiles that one dispatch may have.
    let tile = kernel.tile();
    let macs = tile[0] * n.max(1) * u64::from(params.k.max(1));
    let most = (planning.config.macs_per_dispatch / macs).max(1);
    let all = Tiles { m: params.m.into(), n, tile, first: 0, most };
    let rows = if y.shape.is_batched() { planning.max_rows as u64 } else { 1 };
    let tiles = all.along_rows(rows.saturating_mul(y.rows_factor() as u64));
    let mut dispatches = Vec::new();
    for first in (0..tiles).step_by(usize::try_from(most).unwrap_or(usize::MAX)) {
        params.first_tile = first as u32;
        let size = GridSize::Tiles(Tiles { first, ..all });
        let dispatch = PlannedDispatch::single(planning, &step.name, y, kernel, &params, size);
        let writes = [planning.at(Y, fused.last_step(program).output)];
        dispatches.push(dispatch.binding(reads.iter().copied(), writes));
    }
    Ok(Some(dispatches))
}

/// Whether the matrices of a stack fill less than a sixteenth of a tile in workgroup memory.
fn is_small(params: &MatmulParams) -> bool {
    params.m > 0 && u64::from(params.m) * u64::from(params.strided.cols) <= 64 * 64 / 16
}

pub(super) fn is_reproducible(products: FloatProducts) -> bool {
    products == FloatProducts::Reproducible
}

/// An operand, or what its fused transpose reads.
fn operand(planning: &Planning<'_>, fused: &FusedStep, binding: u32, at: usize) -> Bound {
    let program = planning.program;
    planning.at(binding, source(program, fused.step(program).inputs[at], fused.transposes[at]))
}

/// A value, or what its fused transpose reads.
pub(super) fn source(program: &Program, value: ValueId, transpose: Option<usize>) -> ValueId {
    transpose.map_or(value, |transpose| program.steps()[transpose].inputs[0])
}

/// The axes of an operand, perhaps read through a fused transpose.
pub(super) fn operand_axes(program: &Program, value: ValueId, transpose: Option<usize>) -> Vec<Axis> {
    match transpose.map(|transpose| &program.steps()[transpose]) {
        Some(Step { op: StepOp::Op(Op::Transpose(Transpose { perm })), inputs, .. }) => {
            transposed(program.value(inputs[0]), perm)
        }
        _ => axes(program.value(value)),
    }
}

fn set_int8(params: &mut MatmulParams, matmul: &QMatMul) -> MatmulKernel {
    (params.a_zero_point, params.b_zero_point) = (matmul.a_zero_point, matmul.b_zero_point);
    match matmul.epilogue {
        Epilogue::Requantize { zero_point, lo, hi, .. } => {
            params.zero_point = zero_point;
            (params.lo, params.hi) = ((lo - zero_point) as f32, (hi - zero_point) as f32);
            MatmulKernel::I8
        }
        Epilogue::Scale { relu, .. } | Epilogue::Dynamic { relu, .. } => {
            params.relu = relu.into();
            MatmulKernel::I8ToF32
        }
    }
}

/// `x[…, K] · w[N, K]ᵀ`: one matrix with all rows.
fn linear_params(planning: &Planning<'_>, fused: &FusedStep) -> MatmulParams {
    let y = planning.output(fused);
    let k = planning.input(fused, 0).cols() as u32;
    let mut strided = Strided::rows(y, 0);
    strided.b_col = k;
    MatmulParams { strided, k, a_row: k, b_row: 1, y_row: y.cols() as u32, ..MatmulParams::default() }
}

/// `a[…, M, K] · b[…, K, N]`, each perhaps read through a transpose.
fn stack_params(planning: &Planning<'_>, fused: &FusedStep) -> Result<MatmulParams, GpuError> {
    let program = planning.program;
    let step = fused.step(program);
    let [a, b] = [0, 1].map(|at| operand_axes(program, step.inputs[at], fused.transposes[at]));
    let y = planning.value(step.output);
    let result = axes(y);
    let stack = &result[..result.len() - 2];
    let [.., a_row, a_column] = a[..] else { unreachable!("a matrix has two axes") };
    let [.., b_row, b_column] = b[..] else { unreachable!("a matrix has two axes") };
    let mut strided = Strided::rows(y, 0);
    strided.b_col = b_column.stride as u32;
    // The matrices have other lengths, so the strides are those of the axes before them.
    let along = |own: &[Axis]| aligned(&own[..own.len() - 2], stack);
    let written = result_strides(planning, fused);
    strided.set_axes(&step.name, stack, [&along(&a), &along(&b), &written[..stack.len()]])?;
    Ok(MatmulParams {
        strided,
        k: a_column.length.unwrap_or(1) as u32,
        // The rows of the only matrix may be the batch.
        m: result[stack.len()].length.unwrap_or(0) as u32,
        a_row: a_row.stride as u32,
        b_row: b_row.stride as u32,
        y_row: written[stack.len()] as u32,
        ..MatmulParams::default()
    })
}

/// The strides of the result's axes where it is written: through a fused transpose, those of the transposed value.
pub(super) fn result_strides(planning: &Planning<'_>, fused: &FusedStep) -> Vec<usize> {
    let last = &planning.program.steps()[fused.result_transpose.unwrap_or(fused.main)];
    let written = axes(planning.value(last.output));
    match &last.op {
        StepOp::Op(Op::Transpose(Transpose { perm })) => {
            let mut strides = vec![0; perm.len()];
            perm.iter().zip(&written).for_each(|(&axis, own)| strides[axis] = own.stride);
            strides
        }
        _ => strides(&written),
    }
}

/// Products of `[ROWS, M, K]` and `[ROWS, K, N]`.
const M: usize = 5;
const K: usize = 37;
const N: usize = 9;

/// Element `i` of the product, where the right factor may be stored transposed.
fn products(i: usize, zero_points: [i32; 2], turned: bool) -> i32 {
    let (stack, row, column) = (i / N / M, i / N % M, i % N);
    let of = |k: usize| {
        let a = i32::from(int8((stack * M + row) * K + k, 0)) - zero_points[0];
        let at = if turned { (stack * N + column) * K + k } else { (stack * K + k) * N + column };
        a * (i32::from(int8(at, 1)) - zero_points[1])
    };
    (0..K).map(of).sum()
}

/// Reproducible products of floats, and products of int8 values.
pub(crate) fn known_answer(case: &mut CaseBuilder<'_>) {
    known_floats(case);
    let a = case.input(tensor(&[ROWS, M, K], |i| int8(i, 0)));
    let b = case.input(tensor(&[ROWS, K, N], |i| int8(i, 1)));
    let z = [11, -128];
    let shape = [ROWS, M, N];
    let op = |epilogue| StepOp::QMatMul(QMatMul { a_zero_point: z[0], b_zero_point: z[1], epilogue });
    let multipliers: Vec<f32> = (0..N).map(|n| [1e-4, 0.5, 3e-4][n % 3]).collect();
    let multiplier = multipliers.as_slice().into();
    let epilogue = Epilogue::Requantize { multiplier, zero_point: 6, lo: -120, hi: 127 };
    let to_int8 = |i: usize| numerics::requantize(products(i, z, false), multipliers[i % N], 6, -120, 127) as i8;
    case.output(MatmulKernel::I8, op(epilogue), &[a, b], tensor(&shape, to_int8));
    if case.needs(MatmulKernel::I8ToF32) {
        let turned = case.input(tensor(&[ROWS, N, K], |i| int8(i, 1)));
        let perm = Transpose { perm: vec![0, 2, 1] };
        let turned = case.step(perm, &[turned], ValueType::I8, Shape::batched(&[K, N]));
        let epilogue = Epilogue::Scale { scale: multipliers.as_slice().into(), relu: true };
        let to_float = |i: usize| numerics::scale_accumulator(products(i, z, true), multipliers[i % N], true);
        case.output(MatmulKernel::I8ToF32, op(epilogue), &[a, turned], tensor(&shape, to_float));
    }
    // Scales whose products are rounded twice: their order shows.
    let (a_scale, a_zero_point) = (|row: usize| 0.1 / (1 + row % 3) as f32, |row: usize| row as i32 * 9 - 60);
    let word = |i: usize| if i.is_multiple_of(2) { a_scale(i / 2) } else { a_zero_point(i / 2) as f32 };
    let a_qparams = case.input(tensor(&[ROWS, M, 2], word));
    let b_qparams = case.constant(tensor(&[2], |i| [0.37f32, -5.0][i]));
    case.computed(MatmulKernel::DynamicI8ToF32, IntegerMatMulDynamic { relu: true }, &[a, b, a_qparams, b_qparams]);
}

/// Reproducible products: of two stacks of everyday numbers, and layers without and with a bias and a function.
fn known_floats(case: &mut CaseBuilder<'_>) {
    let products = FloatProducts::Reproducible;
    let plain = MatmulKernel::float(case.config, false, None, true);
    let a = case.input(tensor(&[ROWS, M, K], everyday));
    let b = case.input(tensor(&[ROWS, K, N], |i| everyday(i + 1000)));
    case.computed(MatmulKernel::SmallF32 { reproducible: true }, MatMul { products }, &[a, b]);
    // Matrices that are not small.
    let a_wide = case.input(tensor(&[ROWS, 4 * M, K], |i| everyday(i + 4000)));
    let b_wide = case.input(tensor(&[ROWS, K, 3 * N], |i| everyday(i + 5000)));
    case.computed(plain, MatMul { products }, &[a_wide, b_wide]);
    let functions = UnaryOp::ALL.iter().map(|&op| Some(op));
    for (bias, function) in
        [false, true].into_iter().flat_map(|bias| functions.clone().chain([None]).map(move |f| (bias, f)))
    {
        let kernel = MatmulKernel::float(case.config, bias, function, true);
        // Without a list of kernels, one function stands for all.
        let is_example = case.tests_all() && !matches!(function, None | Some(UnaryOp::Gelu));
        if is_example || !case.needs(kernel) {
            continue;
        }
        let weight = case.constant(tensor(&[N, K], |i| everyday(i + 2000)));
        let offsets = case.constant(tensor(&[N], |i| everyday(i + 3000)));
        let inputs = if bias { vec![a, weight, offsets] } else { vec![a, weight] };
        match function {
            None => case.computed(kernel, Linear { products }, &inputs),
            Some(op) => {
                let layer = case.intermediate(Linear { products }, &inputs);
                case.computed(kernel, Unary { op }, &[layer])
            }
        };
    }
}

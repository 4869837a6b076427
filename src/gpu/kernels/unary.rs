//! Kernels that compute each element from one other: float functions, clamps, lookup tables and casts.

use std::sync::Arc;

use super::case::{CaseBuilder, ROWS, any_float, between_f16, int8, int32, special, tensor};
use super::dispatch::{Bound, Operand, Planned, PlannedDispatch, Planning};
use super::function::function;
use super::fused_step::FusedStep;
use super::grid::GridSize;
use super::kernel::{Kernel, KernelOptions};
use super::strided::{Contiguous, Strided, axes, broadcast};
use super::wgsl::shader;
use crate::gpu::device::shader::{Chosen, FIRST_STORAGE, Piece, Shader, storage, wgsl_struct};
use crate::numerics::{self, IntegerType, UnaryOp};
use crate::ops::{Clamp, Op, ToFloat, ToInteger, Unary};
use crate::program::{QLut, StepOp, ValueType};

wgsl_struct! {
    /// `UnaryParams` of `unary/params.wgsl`.
    UnaryParams {
        strided: Strided, low: f32, high: f32, from_float: u32, shift: u32, has_sign: u32,
        zero: u32, unused_0: u32, unused_1: u32,
    }
}

const A: u32 = FIRST_STORAGE;
const Y: u32 = 4;
const LUT: u32 = 5;

static FUNCTION_SHADER: Shader = shader! {
    "unary_function", UnaryParams, [Strided], storage! { a: A, a_vecs: A, y: Y, y_vecs: Y },
    [THREAD, GRID, F16, FLOATS, FLOAT, FUNCTIONS, STRIDED, ELEMENTS, VECTORS],
    ["unary/params", "unary/function"]
};

static UNARY_SHADER: Shader = shader! {
    "unary", UnaryParams, [Strided], storage! { a: A, a_vecs: A, y: Y, y_vecs: Y },
    [THREAD, GRID, F16, FLOATS, POINTWISE, STRIDED, ELEMENTS, VECTORS],
    ["unary/params", "unary/unary"]
};

static LUT_SHADER: Shader = shader! {
    "lut", UnaryParams, [Strided], storage! { a: A, a_vecs: A, y: Y, y_vecs: Y, lut: LUT },
    [THREAD, GRID, BYTES, LOOK_UP, STRIDED, WORDS, VECTORS],
    ["unary/params", "unary/lut"]
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UnaryKernel {
    Function(UnaryOp),
    FunctionVec4(UnaryOp),
    Clamp,
    ClampVec4,
    ToFloat,
    ToInteger,
    ToF16,
    FromF16,
    Lut,
    LutVec4,
}

impl UnaryKernel {
    /// All kernels, with each function.
    pub(crate) fn iter() -> impl Iterator<Item = Self> {
        use UnaryKernel as K;
        let functions = UnaryOp::ALL.iter().flat_map(|&op| [K::Function(op), K::FunctionVec4(op)]);
        functions.chain([K::Clamp, K::ClampVec4, K::ToFloat, K::ToInteger, K::ToF16, K::FromF16, K::Lut, K::LutVec4])
    }
}

impl Kernel for UnaryKernel {
    fn shader(self, _options: KernelOptions) -> &'static Shader {
        match self {
            Self::Function(_) | Self::FunctionVec4(_) => &FUNCTION_SHADER,
            Self::Lut | Self::LutVec4 => &LUT_SHADER,
            _ => &UNARY_SHADER,
        }
    }

    fn entry(self) -> &'static str {
        match self {
            Self::Function(_) => "unary_f32_f32",
            Self::FunctionVec4(_) => "unary_vec4_f32_f32",
            Self::Clamp => "clamp_f32_f32",
            Self::ClampVec4 => "clamp_vec4_f32_f32",
            Self::ToFloat => "to_float_i32_f32",
            Self::ToInteger => "to_integer",
            Self::ToF16 => "to_f16_f32_f16",
            Self::FromF16 => "from_f16_f16_f32",
            Self::Lut => "lut_i8_i8",
            Self::LutVec4 => "lut_vec4_i8_i8",
        }
    }

    fn chosen(self, _options: KernelOptions) -> Chosen {
        match self {
            Self::Function(op) | Self::FunctionVec4(op) => function(Some(op)).alone(),
            _ => Piece::NONE.alone(),
        }
    }

    fn promises_bits(self) -> bool {
        true
    }

    fn may_be_near(self) -> bool {
        matches!(self, Self::Function(_) | Self::FunctionVec4(_))
    }
}

/// The dispatch of a unary step.
///
/// # Errors
/// Returns [`GpuError::Limit`] if the operand walks through too many axes in another order.
pub(crate) fn plan(planning: &Planning<'_>, fused: &FusedStep) -> Planned {
    use UnaryKernel as K;
    let step = fused.step(planning.program);
    let (x, y) = (planning.input(fused, 0), planning.value(step.output));
    let mut params = UnaryParams::default();
    let mut reads = vec![planning.at(A, step.inputs[0])];
    let (strided_kernel, vec4_kernel) = match &step.op {
        &StepOp::Op(Op::Unary(Unary { op })) => (K::Function(op), Some(K::FunctionVec4(op))),
        &StepOp::Op(Op::Clamp(Clamp { min, max })) => {
            (params.low, params.high) = (min, max);
            (K::Clamp, Some(K::ClampVec4))
        }
        StepOp::QLut(_) => {
            reads.push(Bound::whole(LUT, Operand::StepBuffer(fused.main)));
            (K::Lut, Some(K::LutVec4))
        }
        StepOp::Op(Op::ToFloat(ToFloat)) => (K::ToFloat, None),
        StepOp::Op(Op::ToInteger(ToInteger { to })) => {
            params.from_float = (x.value_type == ValueType::F32).into();
            (params.shift, params.has_sign) = (32 - to.bits(), to.is_signed().into());
            (K::ToInteger, None)
        }
        StepOp::ToF16 => {
            // Each thread computes two elements; rows may share words.
            params.strided = Strided::rows(y, y.cols());
            (K::ToF16, None)
        }
        StepOp::FromF16 => {
            params.strided = Strided::rows(y, y.cols());
            (K::FromF16, None)
        }
        _ => return Ok(None),
    };
    let contiguous = vec4_kernel.zip(Contiguous::of(planning.program, step));
    let kernel = match contiguous {
        Some((kernel, Contiguous { strided, .. })) => {
            params.strided = strided;
            kernel
        }
        None if matches!(strided_kernel, K::ToF16 | K::FromF16) => strided_kernel,
        None => {
            params.strided = Strided::unary(step, y, &broadcast(x, &axes(y)))?;
            strided_kernel
        }
    };
    let size = GridSize::Threads(params.strided.row_threads.into());
    let dispatch = PlannedDispatch::single(planning, &step.name, y, kernel, &params, size);
    Ok(Some(vec![dispatch.binding(reads, [planning.at(Y, step.output)])]))
}

/// A lookup table, and its entries.
pub(crate) fn known_lut() -> (StepOp, impl Fn(i8) -> i8) {
    let table: Arc<[i8]> = (0..256).map(|i| int8(i, 5)).collect();
    let entries = Arc::clone(&table);
    (StepOp::QLut(QLut { table }), move |q| entries[(i32::from(q) + 128) as usize])
}

/// Lookup tables, casts, clamps and functions.
pub(crate) fn known_answer(case: &mut CaseBuilder<'_>) {
    let (op, look_up) = known_lut();
    let x = case.input(tensor(&[ROWS, 90], |i| int8(i, 0)));
    case.output(UnaryKernel::LutVec4, op, &[x], tensor(&[ROWS, 90], |i| look_up(int8(i, 0))));

    let integers = case.input(tensor(&[ROWS, 63], int32));
    let floats = case.input(tensor(&[ROWS, 63], |i| int32(i) as f32 / 4096.0));
    for &to in IntegerType::ALL {
        case.computed(UnaryKernel::ToInteger, ToInteger { to }, &[integers]);
        let expected = tensor(&[ROWS, 63], |i| to.wrap(numerics::truncate(int32(i) as f32 / 4096.0).unwrap_or(0)));
        case.output(UnaryKernel::ToInteger, ToInteger { to }, &[floats], expected);
    }
    // Integers of more than 24 bits are rounded.
    let x = case.input(tensor(&[ROWS, 50], |i| (i as i32).wrapping_mul(-1_640_531_527) >> (i % 9)));
    case.computed(UnaryKernel::ToFloat, ToFloat, &[x]);
    let x = case.input(tensor(&[ROWS, 36], between_f16));
    let expected = tensor(&[ROWS, 36], |i| half::f16::from_f32(between_f16(i)).to_f32());
    case.output(UnaryKernel::ToF16, StepOp::ToF16, &[x], expected.clone());
    // An odd number of elements, which begins in the middle of a word in every other row.
    let x = case.f16_input(tensor(&[ROWS, 35], |i| half::f16::from_f32(between_f16(i)).to_f32()));
    let expected = tensor(&[ROWS, 35], |i| half::f16::from_f32(between_f16(i)).to_f32());
    case.output(UnaryKernel::FromF16, StepOp::FromF16, &[x], expected);

    // Rows of 12 are vectors, rows of 1 are not.
    let functions: [fn(UnaryOp) -> UnaryKernel; 2] = [UnaryKernel::FunctionVec4, UnaryKernel::Function];
    let shapes = [([ROWS, 12, 12], UnaryKernel::ClampVec4), ([ROWS, 12, 1], UnaryKernel::Clamp)];
    for ((shape, clamp), function) in shapes.into_iter().zip(functions) {
        let x = case.input(tensor(&shape, special));
        case.computed(clamp, Clamp { min: -1.0, max: special(5) }, &[x]);
        let x = case.input(tensor(&shape, between_f16));
        for op in [UnaryOp::RoundF16, UnaryOp::RoundBf16] {
            case.computed(function(op), Unary { op }, &[x]);
        }
    }
    for (shape, function) in [[ROWS, 128, 4], [ROWS, 509, 1]].into_iter().zip(functions) {
        let x = case.input(tensor(&shape, any_float));
        for &op in UnaryOp::ALL {
            case.computed(function(op), Unary { op }, &[x]);
        }
    }
}

//! Kernels that combine two values element by element: float and int32 arithmetic, comparisons, masks, and int8 sums and products.

pub(crate) mod chain;

use super::case::{COLS, COLUMN, CaseBuilder, ROWS, WIDE, any_float, int8, int32, special, tensor};
use super::dispatch::{Planned, PlannedDispatch, Planning};
use super::fused_step::FusedStep;
use super::grid::GridSize;
use super::kernel::{Kernel, KernelOptions, kernels};
use super::strided::{Contiguous, Strided, axes, broadcast};
use super::wgsl::shader;
use crate::gpu::device::shader::{Binding, FIRST_STORAGE, Shader, storage, wgsl_struct};
use crate::numerics::{self, AddMultipliers, BinaryOp, Int32Op};
use crate::ops::{Add, Binary, Div, Int32, IntegerAdd, IntegerMul, Mask, Mul, Op};
use crate::program::StepOp;
use crate::values::QParams;

wgsl_struct! {
    /// `AddParams` of `shared/add.wgsl`: equation 8.
    AddParams {
        a_zero_point: i32, b_zero_point: i32, a_multiplier: i32, b_multiplier: i32, shift: u32, zero_point: i32,
        lo: i32, hi: i32,
    }
}

impl AddParams {
    pub(crate) fn of(add: &IntegerAdd) -> Self {
        Self {
            a_zero_point: add.a_zero_point,
            b_zero_point: add.b_zero_point,
            a_multiplier: add.multipliers.a,
            b_multiplier: add.multipliers.b,
            shift: add.multipliers.shift,
            zero_point: add.qparams.zero_point(),
            lo: add.lo,
            hi: add.hi,
        }
    }

    /// The same sum with its operands exchanged.
    pub(crate) fn swapped(self) -> Self {
        Self {
            a_zero_point: self.b_zero_point,
            b_zero_point: self.a_zero_point,
            a_multiplier: self.b_multiplier,
            b_multiplier: self.a_multiplier,
            ..self
        }
    }
}

wgsl_struct! {
    /// `ElementwiseParams` of `elementwise/params.wgsl`.
    ElementwiseParams {
        strided: Strided, add: AddParams, b_vecs: u32, binary_op: u32, int32_op: u32, mask_inverted: u32,
        a_zero_point: i32, b_zero_point: i32, multiplier: f32, zero_point: i32, lo: f32, hi: f32, zero: u32, unused_0: u32,
    }
}

const A: u32 = FIRST_STORAGE;
const B: u32 = 4;
const Y: u32 = 5;

const STORAGE: &[Binding] = storage! { a: A, a_vecs: A, b: B, b_vecs: B, y: Y, y_vecs: Y };

static STRIDED_SHADER: Shader = shader! {
    "elementwise_strided", ElementwiseParams, [Strided, AddParams], STORAGE,
    [THREAD, GRID, BYTES, FLOAT, FLOATS, POINTWISE, ADD, REQUANTIZE, STRIDED, ELEMENTS, WORDS],
    ["elementwise/params", "elementwise/strided"]
};

static VEC4_SHADER: Shader = shader! {
    "elementwise_vec4", ElementwiseParams, [Strided, AddParams], STORAGE,
    [THREAD, GRID, FLOAT, FLOATS, POINTWISE, ADD, REQUANTIZE, STRIDED, VECTORS],
    ["elementwise/params", "elementwise/vec4"]
};

kernels! {
    ElementwiseKernel {
        AddF32 = "add_f32_f32",
        MulF32 = "mul_f32_f32",
        DivF32 = "div_f32_f32",
        MaskF32 = "mask_f32_f32",
        BinaryF32 = "binary_f32_f32",
        Int32 = "int32_i32_i32",
        AddI8 = "add_i8_i8",
        MulI8 = "mul_i8_i8",
        AddF32Vec4 = "add_vec4_f32_f32",
        MulF32Vec4 = "mul_vec4_f32_f32",
        DivF32Vec4 = "div_vec4_f32_f32",
        MaskF32Vec4 = "mask_vec4_f32_f32",
        BinaryF32Vec4 = "binary_vec4_f32_f32",
        AddI8Vec4 = "add_vec4_i8_i8",
        MulI8Vec4 = "mul_vec4_i8_i8",
    }
}

impl Kernel for ElementwiseKernel {
    fn shader(self, _options: KernelOptions) -> &'static Shader {
        match self {
            Self::AddF32
            | Self::MulF32
            | Self::DivF32
            | Self::MaskF32
            | Self::BinaryF32
            | Self::Int32
            | Self::AddI8
            | Self::MulI8 => &STRIDED_SHADER,
            _ => &VEC4_SHADER,
        }
    }

    fn entry(self) -> &'static str {
        self.into()
    }

    fn promises_bits(self) -> bool {
        true
    }

    fn may_be_near(self) -> bool {
        use ElementwiseKernel::{AddF32, AddF32Vec4, DivF32, DivF32Vec4, MulF32, MulF32Vec4};
        matches!(self, AddF32 | MulF32 | DivF32 | AddF32Vec4 | MulF32Vec4 | DivF32Vec4)
    }
}

/// The dispatch of an elementwise step.
///
/// # Errors
/// Returns [`GpuError::Limit`] if the operands walk through too many axes in different orders.
pub(crate) fn plan(planning: &Planning<'_>, fused: &FusedStep) -> Planned {
    use ElementwiseKernel as K;
    if fused.chain[0].is_some() {
        return chain::plan(planning, fused);
    }
    let step = fused.step(planning.program);
    let mut params = ElementwiseParams::default();
    let (strided_kernel, vec4_kernel) = match &step.op {
        StepOp::Op(Op::IntegerAdd(add)) => {
            params.add = AddParams::of(add);
            (K::AddI8, Some(K::AddI8Vec4))
        }
        StepOp::Op(Op::IntegerMul(mul)) => {
            set_mul(&mut params, mul);
            (K::MulI8, Some(K::MulI8Vec4))
        }
        StepOp::Op(Op::Int32(Int32 { op, .. })) => {
            params.int32_op = *op as u32;
            (K::Int32, None)
        }
        StepOp::Op(Op::Add(Add)) => (K::AddF32, Some(K::AddF32Vec4)),
        StepOp::Op(Op::Mul(Mul)) => (K::MulF32, Some(K::MulF32Vec4)),
        StepOp::Op(Op::Div(Div)) => (K::DivF32, Some(K::DivF32Vec4)),
        &StepOp::Op(Op::Binary(Binary { op })) => {
            params.binary_op = op as u32;
            (K::BinaryF32, Some(K::BinaryF32Vec4))
        }
        &StepOp::Op(Op::Mask(Mask { inverted })) => {
            params.mask_inverted = inverted.into();
            (K::MaskF32, Some(K::MaskF32Vec4))
        }
        _ => return Ok(None),
    };
    let y = planning.value(step.output);
    let kernel = match vec4_kernel.zip(Contiguous::of(planning.program, step)) {
        Some((kernel, Contiguous { strided, b_vecs })) => {
            (params.strided, params.b_vecs) = (strided, b_vecs);
            kernel
        }
        None => {
            let strides = [0, 1].map(|at| broadcast(planning.input(fused, at), &axes(y)));
            params.strided = Strided::elementwise(&step.name, y, &strides[0], &strides[1])?;
            strided_kernel
        }
    };
    let size = GridSize::Threads(params.strided.row_threads.into());
    let dispatch = PlannedDispatch::single(planning, &step.name, y, kernel, &params, size);
    let reads = [planning.at(A, step.inputs[0]), planning.at(B, step.inputs[1])];
    Ok(Some(vec![dispatch.binding(reads, [planning.at(Y, step.output)])]))
}

fn set_mul(params: &mut ElementwiseParams, mul: &IntegerMul) {
    let zero_point = mul.qparams.zero_point();
    (params.a_zero_point, params.b_zero_point) = (mul.a_zero_point, mul.b_zero_point);
    (params.multiplier, params.zero_point) = (mul.multiplier, zero_point);
    (params.lo, params.hi) = ((mul.lo - zero_point) as f32, (mul.hi - zero_point) as f32);
}

/// A sum that saturates, and its equation.
pub(crate) fn known_add() -> (IntegerAdd, impl Fn(i8, i8) -> i8) {
    known_add_of(AddMultipliers { a: 700_001, b: 1 << 20, shift: 20 })
}

fn known_add_of(multipliers: AddMultipliers) -> (IntegerAdd, impl Fn(i8, i8) -> i8) {
    let (a_zero_point, b_zero_point, zero_point, lo, hi) = (3, -7, 5, -100, 127);
    let qparams = known_qparams(zero_point);
    let add = move |a: i8, b: i8| {
        let (a, b) = (i32::from(a) - a_zero_point, i32::from(b) - b_zero_point);
        numerics::add(a, b, multipliers, zero_point, lo, hi) as i8
    };
    (IntegerAdd { a_zero_point, b_zero_point, multipliers, qparams, lo, hi }, add)
}

/// Scale 1; kernels use only the zero point.
fn known_qparams(zero_point: i32) -> QParams {
    QParams::new(1.0, zero_point).unwrap_or_else(|_| unreachable!("zero points of int8 are valid"))
}

/// int8, int32 and float arithmetic, comparisons and masks.
pub(crate) fn known_answer(case: &mut CaseBuilder<'_>) {
    chain::known_answer(case);
    let a = case.input(tensor(&WIDE, |i| int8(i, 0)));
    let b = case.input(tensor(&WIDE, |i| int8(i, 1)));
    let column = case.input(tensor(&COLUMN, |i| int8(i, 2)));
    case.computed(ElementwiseKernel::AddI8Vec4, known_add().0, &[a, b]);
    // Sums that are ties.
    case.computed(ElementwiseKernel::AddI8, known_add_of(AddMultipliers { a: 1, b: 2, shift: 2 }).0, &[a, column]);

    let (a_zero_point, b_zero_point, lo, hi) = (-9, 4, -128, 120);
    let qparams = known_qparams(-5);
    let op = |multiplier| IntegerMul { a_zero_point, b_zero_point, multiplier, qparams, lo, hi };
    case.computed(ElementwiseKernel::MulI8Vec4, op(1.0 / 64.0), &[a, b]);
    // Odd products times 0.5 are ties.
    case.computed(ElementwiseKernel::MulI8, op(0.5), &[a, column]);

    let x = case.input(tensor(&WIDE, int32));
    let right = |i: usize| [3, -1, i32::MIN, i32::MAX][i % 4];
    let column = case.input(tensor(&COLUMN, right));
    for &op in Int32Op::ALL {
        let expected = tensor(&WIDE, |i| op.eval(int32(i), right(i / COLS), false).unwrap_or(0));
        case.output(ElementwiseKernel::Int32, Int32 { op, checked: false }, &[x, column], expected);
    }
    known_floats(case);
}

/// Each special float with each, and others.
fn known_floats(case: &mut CaseBuilder<'_>) {
    let (wide, column) = ([ROWS, 12, 12], [ROWS, 12, 1]);
    let x = case.input(tensor(&wide, special));
    let y = case.input(tensor(&column, special));
    let z = case.input(tensor(&wide, |i| special(i / 12)));
    for &op in BinaryOp::ALL {
        case.computed(ElementwiseKernel::BinaryF32Vec4, Binary { op }, &[x, z]);
        case.computed(ElementwiseKernel::BinaryF32, Binary { op }, &[x, y]);
    }
    for inverted in [false, true] {
        case.computed(ElementwiseKernel::MaskF32Vec4, Mask { inverted }, &[x, z]);
        case.computed(ElementwiseKernel::MaskF32, Mask { inverted }, &[x, y]);
    }
    let any = case.input(tensor(&[ROWS, 256, 4], any_float));
    let others = case.input(tensor(&[ROWS, 256, 4], |i| any_float(i / 4 * 7 + 1)));
    for [a, b] in [[x, z], [any, others]] {
        case.computed(ElementwiseKernel::AddF32Vec4, Add, &[a, b]);
        case.computed(ElementwiseKernel::MulF32Vec4, Mul, &[a, b]);
        case.computed(ElementwiseKernel::DivF32Vec4, Div, &[a, b]);
    }
    let column = case.input(tensor(&[ROWS, 256, 1], |i| any_float(i * 7 + 1)));
    for [a, b] in [[x, y], [any, column]] {
        case.computed(ElementwiseKernel::AddF32, Add, &[a, b]);
        case.computed(ElementwiseKernel::MulF32, Mul, &[a, b]);
        case.computed(ElementwiseKernel::DivF32, Div, &[a, b]);
    }
}

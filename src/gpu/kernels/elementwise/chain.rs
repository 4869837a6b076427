//! Chains of elementwise steps in one dispatch: each takes the result of the one before it, and only the last result is stored.

use super::super::case::{CaseBuilder, ROWS, any_float, everyday, int32, special, tensor};
use super::super::dispatch::{Planned, PlannedDispatch, Planning};
use super::super::fused_step::FusedStep;
use super::super::grid::GridSize;
use super::super::kernel::{Kernel, KernelOptions, kernels};
use super::super::strided::{Strided, axes, broadcast, strides};
use super::super::wgsl::shader;
use crate::gpu::device::shader::{FIRST_STORAGE, Shader, storage, wgsl_struct};
use crate::numerics::{BinaryOp, UnaryOp};
use crate::ops::{Add, Binary, Clamp, Div, Mask, Mul, Op, ToFloat, Unary};
use crate::program::{Program, StepOp, ValueId, ValueType};
use crate::values::Tensor;

/// The most steps of a chain.
const MAX_LINKS: usize = 8;
/// The most steps whose results are broadcast by later ones, so that they are computed more often than alone.
const MAX_REPEATED: usize = 2;

wgsl_struct! {
    /// `ChainParams` of `elementwise/chain.wgsl`.
    ChainParams {
        strided: Strided, others: Strided, links: [[u32; 4]; MAX_LINKS], count: u32, zero: u32, unused_0: u32, unused_1: u32,
    }
}

const A: u32 = FIRST_STORAGE;
const B: u32 = 4;
const C: u32 = 5;
const Y: u32 = 6;

static SHADER: Shader = shader! {
    "elementwise_chain", ChainParams, [Strided], storage! { a: A, b: B, c: C, y: Y },
    [THREAD, GRID, FLOAT, FLOATS, FUNCTIONS, F16, POINTWISE, STRIDED, ELEMENTS],
    ["elementwise/chain"]
};

kernels! {
    ChainKernel {
        Chain = "chain_f32_f32",
    }
}

impl Kernel for ChainKernel {
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
        true
    }
}

/// The operand of a step besides the result before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Other {
    /// A number, or nothing.
    Number,
    /// The result before it, once more.
    Itself,
    /// What the chain begins with.
    First,
    B,
    C,
}

/// A chain of steps, and what it reads.
#[derive(Debug, Clone)]
pub(crate) struct Chain {
    links: Vec<[u32; 4]>,
    /// What it begins with, and up to two other operands.
    operands: Vec<ValueId>,
    result: ValueId,
}

impl Chain {
    /// A chain of some steps, each of which reads what the one before it writes; `None` if it cannot have the last of them.
    pub(crate) fn of(program: &Program, steps: &[usize]) -> Option<Self> {
        let result = program.steps()[*steps.last()?].output;
        let mut chain = Self { links: Vec::new(), operands: Vec::new(), result };
        let mut before = None;
        for &step in steps {
            let step = &program.steps()[step];
            chain.link(program, &step.op, &step.inputs, before)?;
            before = Some(step.output);
        }
        // The kernel would compute few elements many times.
        let shape = |step: &usize| &program.value(program.steps()[*step].output).shape;
        let repeated = steps.iter().filter(|step| shape(step) != &program.value(result).shape).count();
        (steps.len() <= MAX_LINKS && repeated <= MAX_REPEATED).then_some(chain)
    }

    /// Adds a step that reads `before`, or whose first operand the chain begins with.
    fn link(&mut self, program: &Program, op: &StepOp, inputs: &[ValueId], before: Option<ValueId>) -> Option<()> {
        let StepOp::Op(op) = op else { return None };
        let (operation, numbers) = operation(op)?;
        let own = inputs.iter().position(|&input| before.is_none_or(|before| input == before))?;
        if before.is_none() {
            self.operands.push(inputs[own]);
        }
        let of_floats = |id: ValueId| program.value(id).value_type == ValueType::F32;
        if of_floats(inputs[own]) == matches!(op, Op::ToFloat(_)) {
            return None;
        }
        let (other, numbers) = match inputs.len() {
            1 => (Other::Number, numbers),
            _ => {
                let id = inputs[1 - own];
                if !of_floats(id) {
                    return None;
                }
                match number(program, id) {
                    Some(number) => (Other::Number, [number.to_bits(), 0]),
                    None => (self.operand(id, before)?, [0; 2]),
                }
            }
        };
        let swapped = if own == 1 { 8 } else { 0 };
        self.links.push([operation, other as u32 | swapped, numbers[0], numbers[1]]);
        Some(())
    }

    /// The place of an operand; `None` if there is none left.
    fn operand(&mut self, id: ValueId, before: Option<ValueId>) -> Option<Other> {
        if before == Some(id) || before.is_none() && self.operands.first() == Some(&id) {
            return Some(Other::Itself);
        }
        let at = self.operands.iter().position(|&operand| operand == id).unwrap_or(self.operands.len());
        let other = *[Other::First, Other::B, Other::C].get(at)?;
        if at == self.operands.len() {
            self.operands.push(id);
        }
        Some(other)
    }

    /// Whether it is worth a dispatch of this kind: several steps, or one that reads a value twice, for which another kernel needs a copy.
    pub(crate) fn is_worthwhile(&self) -> bool {
        self.links.len() > 1 || self.links.iter().any(|link| link[1] & 7 == Other::Itself as u32)
    }
}

/// The number of an operation in `elementwise/chain.wgsl`, and its numbers.
fn operation(op: &Op) -> Option<(u32, [u32; 2])> {
    let of_function = |op: UnaryOp| match op {
        UnaryOp::Relu => Some(12),
        UnaryOp::Sqrt => Some(13),
        UnaryOp::Abs => Some(14),
        UnaryOp::Round => Some(15),
        UnaryOp::Floor => Some(16),
        UnaryOp::Ceil => Some(17),
        // Long functions would make every chain's pipeline slow to compile.
        _ => None,
    };
    match *op {
        Op::Binary(Binary { op }) => Some((op as u32, [0; 2])),
        Op::Add(Add) => Some((5, [0; 2])),
        Op::Mul(Mul) => Some((6, [0; 2])),
        Op::Div(Div) => Some((7, [0; 2])),
        Op::Mask(Mask { inverted }) => Some((8 + u32::from(inverted), [0; 2])),
        Op::Clamp(Clamp { min, max }) => Some((10, [min.to_bits(), max.to_bits()])),
        Op::ToFloat(ToFloat) => Some((11, [0; 2])),
        Op::Unary(Unary { op }) => Some((of_function(op)?, [0; 2])),
        _ => None,
    }
}

/// The only element of a constant.
fn number(program: &Program, id: ValueId) -> Option<f32> {
    match program.constant(id)? {
        Tensor::F32(values) if values.len() == 1 => values.iter().next().copied(),
        _ => None,
    }
}

/// The dispatch of a chain.
///
/// # Errors
/// Returns [`GpuError::Limit`](crate::gpu::GpuError::Limit) if the operands walk through too many axes in different orders.
pub(super) fn plan(planning: &Planning<'_>, fused: &FusedStep) -> Planned {
    let program = planning.program;
    let steps: Vec<usize> = fused.chain.into_iter().flatten().collect();
    let chain = Chain::of(program, &steps).unwrap_or_else(|| unreachable!("fusion has made the chain"));
    let y = planning.value(chain.result);
    let result = axes(y);
    let strides_of = |at: usize| match chain.operands.get(at) {
        Some(&id) => broadcast(planning.value(id), &result),
        None => vec![0; result.len()],
    };
    let step = fused.last_step(program);
    let mut others = Strided::elementwise(step, y, &strides_of(2), &strides(&result))?;
    // The axes of c are merged alone: those of the others may be merged otherwise.
    others.row_threads = 0;
    let mut params = ChainParams {
        strided: Strided::elementwise(step, y, &strides_of(0), &strides_of(1))?,
        others,
        count: chain.links.len() as u32,
        ..ChainParams::default()
    };
    params.links[..chain.links.len()].copy_from_slice(&chain.links);
    let size = GridSize::Threads(params.strided.row_threads.into());
    let dispatch = PlannedDispatch::single(planning, &step.name, y, ChainKernel::Chain, &params, size);
    let reads = chain.operands.iter().zip([A, B, C]).map(|(&id, binding)| planning.at(binding, id));
    Ok(Some(vec![dispatch.binding(reads, [planning.at(Y, chain.result)])]))
}

/// Chains of all operations, with each kind of operand, of special, everyday and any numbers.
pub(super) fn known_answer(case: &mut CaseBuilder<'_>) {
    let kernel = ChainKernel::Chain;
    if !case.needs(kernel) {
        return;
    }
    let (wide, column, row) = ([ROWS, 12, 12], [ROWS, 12, 1], [12]);
    for f in [special, everyday, any_float] {
        let x = case.input(tensor(&wide, f));
        let y = case.input(tensor(&column, |i| f(i * 5 + 1)));
        let z = case.constant(tensor(&row, |i| f(i * 7 + 3)));
        let [number, zero] = [0.37f32, 0.0].map(|number| case.constant(tensor(&[], |_| number)));
        // The results of the operations before the last are those of the steps alone.
        for &op in BinaryOp::ALL {
            let sum = case.intermediate(Add, &[x, y]);
            case.computed(kernel, Binary { op }, &[z, sum]);
        }
        let quotient = case.intermediate(Div, &[x, y]);
        let scaled = case.intermediate(Mul, &[number, quotient]);
        let clamped = case.intermediate(Clamp { min: -3.0, max: f32::INFINITY }, &[scaled]);
        case.computed(kernel, Add, &[clamped, x]);
        let quotient = case.intermediate(Div, &[z, x]);
        case.computed(kernel, Mul, &[quotient, quotient]);
        for inverted in [false, true] {
            let masked = case.intermediate(Mask { inverted }, &[x, y]);
            case.computed(kernel, Mul, &[masked, z]);
            let mask = case.intermediate(Binary { op: BinaryOp::Less }, &[zero, y]);
            case.computed(kernel, Mask { inverted }, &[x, mask]);
        }
        for op in UnaryOp::ALL.iter().copied().filter(|&op| operation(&Unary { op }.into()).is_some()) {
            let product = case.intermediate(Mul, &[x, z]);
            case.computed(kernel, Unary { op }, &[product]);
        }
    }
    let x = case.input(tensor(&column, int32));
    let y = case.input(tensor(&wide, everyday));
    let cast = case.intermediate(ToFloat, &[x]);
    case.computed(kernel, Mul, &[y, cast]);
}

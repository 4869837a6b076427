//! Chains of elementwise steps in one dispatch: each takes the result of the one before it, and only the last result is stored. The first
//! may be a lookup in an embedding table.

mod link;

use std::sync::{Mutex, MutexGuard, PoisonError};

use self::link::{Link, Operation, Other};
use super::super::case::{CaseBuilder, ROWS, any_float, everyday, int32, special, tensor};
use super::super::dispatch::{Planned, PlannedDispatch, Planning};
use super::super::fused_step::FusedStep;
use super::super::grid::GridSize;
use super::super::kernel::{Kernel, KernelOptions};
use super::super::strided::{Axis, Strided, aligned, axes, broadcast, strides};
use super::super::wgsl::shader;
use crate::gpu::device::error::GpuError;
use crate::gpu::device::shader::{Chosen, FIRST_STORAGE, Piece, Shader, storage, wgsl_struct};
use crate::numerics::{BinaryOp, UnaryOp};
use crate::ops::{Clamp, Embedding, Op};
use crate::program::{Program, StepOp, ValueId, ValueType};
use crate::values::Tensor;

/// The most steps of a chain.
const MAX_LINKS: usize = 8;
/// The most steps whose results are broadcast by later ones, so that they are computed more often than alone.
const MAX_REPEATED: usize = 2;

wgsl_struct! {
    /// `ChainParams` of `elementwise/chain.wgsl`.
    ChainParams {
        strided: Strided, others: Strided, numbers: [[u32; 4]; MAX_LINKS], zero: u32, table_rows: u32, below: u32, unused: u32,
    }
}

const A: u32 = FIRST_STORAGE;
const B: u32 = 4;
const C: u32 = 5;
const Y: u32 = 6;
const TABLE: u32 = 7;

static SHADER: Shader = shader! {
    "elementwise_chain", ChainParams, [Strided], storage! { a: A, b: B, c: C, y: Y },
    [THREAD, GRID, FLOAT, FLOATS, FUNCTIONS, F16, POINTWISE, STRIDED, ELEMENTS],
    ["elementwise/chain"]
};

/// Of chains that begin with a lookup.
static TABLE_SHADER: Shader = shader! {
    "elementwise_chain_of_table", ChainParams, [Strided], storage! { a: A, b: B, c: C, y: Y, table: TABLE },
    [THREAD, GRID, FLOAT, FLOATS, FUNCTIONS, F16, POINTWISE, STRIDED, ELEMENTS],
    ["elementwise/chain", "elementwise/chain_table"]
};

/// The kernel of the chains that have the same steps: the WGSL of [`Link::wgsl`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct ChainKernel {
    piece: Piece,
    looks_up: bool,
}

impl ChainKernel {
    /// The kernel of some steps. Their WGSL is kept for as long as the process runs, once for all chains of the same operations on the same
    /// kinds of operands: some hundred bytes for each kind that any model of the process has.
    fn of(links: &[Link]) -> Self {
        let lines: String = links.iter().enumerate().map(|(at, link)| link.wgsl(at)).collect();
        let wgsl = format!(
            "fn chained(operands: Operands) -> u32 {{\n    var bits = operands.a;\n{lines}    return bits;\n}}\n"
        );
        let mut known = known_chains();
        if let Some((kernel, _)) = known.iter().find(|(kernel, _)| kernel.piece.wgsl == wgsl) {
            return *kernel;
        }
        let looks_up = links.first().is_some_and(|link| link.operation == Operation::LookUp);
        let wgsl = wgsl.leak();
        // Only its WGSL distinguishes it.
        let kernel = Self { piece: Piece { name: wgsl, wgsl }, looks_up };
        known.push((kernel, links.to_vec()));
        kernel
    }

    /// Kernels of few steps, which have all operations and operands.
    pub(crate) fn iter() -> impl Iterator<Item = Self> {
        examples().into_iter().map(|links| Self::of(&links))
    }
}

/// The kernels of this process, with the steps of each.
fn known_chains() -> MutexGuard<'static, Vec<(ChainKernel, Vec<Link>)>> {
    static KNOWN: Mutex<Vec<(ChainKernel, Vec<Link>)>> = Mutex::new(Vec::new());
    // An entry is there or not, also after a panic.
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Kernel for ChainKernel {
    fn shader(self, _options: KernelOptions) -> &'static Shader {
        if self.looks_up { &TABLE_SHADER } else { &SHADER }
    }

    fn entry(self) -> &'static str {
        "chain_f32_f32"
    }

    fn chosen(self, _options: KernelOptions) -> Chosen {
        self.piece.alone()
    }

    fn promises_bits(self) -> bool {
        true
    }

    fn may_be_near(self) -> bool {
        true
    }
}

/// A chain of steps, and what it reads.
#[derive(Debug, Clone)]
pub(crate) struct Chain {
    links: Vec<Link>,
    /// What it begins with, and up to two other operands.
    operands: Vec<ValueId>,
    /// The table in which it looks up first.
    table: Option<ValueId>,
    /// Whether ids below 0 count from the end of the table.
    from_end: bool,
    result: ValueId,
}

impl Chain {
    /// A chain of some steps, each of which reads what the one before it writes; `None` if it cannot have the last of them.
    pub(crate) fn of(program: &Program, steps: &[usize]) -> Option<Self> {
        let result = program.steps()[*steps.last()?].output;
        let mut chain = Self { links: Vec::new(), operands: Vec::new(), table: None, from_end: false, result };
        let mut before = None;
        for &step in steps {
            let step = &program.steps()[step];
            chain.link(program, &step.op, &step.inputs, before)?;
            before = Some(step.output);
        }
        // The kernel would compute few elements many times.
        let shape = |step: &usize| &program.value(program.steps()[*step].output).shape;
        let repeated =
            || steps.iter().zip(&chain.links).filter(|(step, _)| shape(step) != &program.value(result).shape);
        let is_long = repeated().any(|(_, link)| matches!(link.operation, Operation::Function(_) | Operation::LookUp));
        let suits = steps.len() <= MAX_LINKS && repeated().count() <= MAX_REPEATED && !is_long;
        // A chain may walk through more axes in different orders than each of its steps.
        (suits && chain.strided(program, "").is_ok()).then_some(chain)
    }

    /// How it walks through its operands: those of a and b, and those of c.
    fn strided(&self, program: &Program, name: &str) -> Result<[Strided; 2], GpuError> {
        let y = program.value(self.result);
        let result = axes(y);
        let of = |at: usize| match self.operands.get(at) {
            // All elements of a row have one id.
            Some(&ids) if at == 0 && self.table.is_some() => {
                let ids = program.value(ids);
                let mut own = axes(ids);
                own.truncate(ids.shape.rank());
                own.extend(result.last().map(|row| Axis { stride: 0, ..*row }));
                aligned(&own, &result)
            }
            Some(&id) => broadcast(program.value(id), &result),
            None => vec![0; result.len()],
        };
        // The axes of c are merged alone: those of the others may be merged otherwise.
        Ok([Strided::elementwise(name, y, &of(0), &of(1))?, Strided::elementwise(name, y, &of(2), &strides(&result))?])
    }

    /// Adds a step that reads `before`, or whose first operand the chain begins with.
    fn link(&mut self, program: &Program, op: &StepOp, inputs: &[ValueId], before: Option<ValueId>) -> Option<()> {
        let StepOp::Op(op) = op else { return None };
        let operation = Operation::of(op)?;
        let own = inputs.iter().position(|&input| before.is_none_or(|before| input == before))?;
        if before.is_none() {
            self.operands.push(inputs[own]);
        }
        let of_floats = |id: ValueId| program.value(id).value_type == ValueType::F32;
        if of_floats(inputs[own]) == operation.reads_integers() {
            return None;
        }
        if let Op::Embedding(Embedding { from_end }) = *op {
            (self.table, self.from_end) = (Some(inputs[1]), from_end);
        }
        let (mut other, mut numbers) = (Other::Number, [0; 2]);
        if let Op::Clamp(Clamp { min, max }) = op {
            numbers = [min.to_bits(), max.to_bits()];
        }
        if operation.has_two_operands() {
            let id = inputs[1 - own];
            match number(program, id) {
                Some(number) => numbers[0] = number.to_bits(),
                None => other = self.operand(id, before).filter(|_| of_floats(id))?,
            }
        }
        self.links.push(Link { operation, other, swapped: own == 1, numbers });
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
        self.links.len() > 1 || self.links.iter().any(|link| link.other == Other::Itself)
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
    let step = fused.last_step(program);
    let [strided, others] = chain.strided(program, &step.name)?;
    let mut params = ChainParams { strided, others, ..ChainParams::default() };
    for (slot, link) in params.numbers.iter_mut().zip(&chain.links) {
        slot[..2].copy_from_slice(&link.numbers);
    }
    if let Some(table) = chain.table {
        let rows = planning.value(table).shape.axis(0).unwrap_or_else(|| unreachable!("a table has rows"));
        params.table_rows = rows as u32;
        params.below = if chain.from_end { params.table_rows } else { 0 };
    }
    let size = GridSize::Threads(params.strided.row_threads.into());
    let dispatch = PlannedDispatch::single(planning, &step.name, y, ChainKernel::of(&chain.links), &params, size);
    let table = chain.table.map(|table| (table, TABLE));
    let operands = chain.operands.iter().copied().zip([A, B, C]).chain(table);
    let reads = operands.map(|(id, binding)| planning.at(binding, id));
    Ok(Some(vec![dispatch.binding(reads, [planning.at(Y, chain.result)])]))
}

/// Chains of two steps: each operation with one kind of operand, and each kind of operand.
fn examples() -> Vec<Vec<Link>> {
    let link = |operation, other, swapped| Link { operation, other, swapped, numbers: [0; 2] };
    // No number is less than itself: all results would be 0, as those of a kernel that does nothing.
    let others = [Other::Number, Other::Itself, Other::First, Other::B, Other::C];
    let of_two = [Operation::Add, Operation::Mul, Operation::Div]
        .into_iter()
        .chain(BinaryOp::ALL.iter().map(|&op| Operation::Binary(op)))
        .chain([false, true].map(|inverted| Operation::Mask { inverted }));
    let of_one = UnaryOp::ALL
        .iter()
        .map(|&op| Operation::Function(op))
        .chain([Operation::Clamp])
        .map(|operation| vec![link(Operation::Add, Other::B, false), link(operation, Other::Number, false)]);
    let mut examples: Vec<Vec<Link>> = of_one.collect();
    for (at, operation) in of_two.enumerate() {
        let first = link(Operation::Add, Other::B, false);
        let other = others[at % others.len()];
        examples.push(vec![first, link(operation, other, at % 3 == 1 && other != Other::Itself)]);
    }
    examples.push(vec![link(Operation::ToFloat, Other::Number, false), link(Operation::Mul, Other::B, true)]);
    examples.push(vec![link(Operation::Mul, Other::Itself, false)]);
    examples.push(vec![link(Operation::LookUp, Other::Number, false), link(Operation::Add, Other::C, true)]);
    examples
}

/// Each chain that is needed, of special, everyday and any numbers; the examples without a list of kernels.
pub(super) fn known_answer(case: &mut CaseBuilder<'_>) {
    if case.tests_all() {
        examples().iter().for_each(|links| known_chain(case, links));
        return;
    }
    let known: Vec<(ChainKernel, Vec<Link>)> = known_chains().clone();
    for (kernel, links) in known {
        if case.needs(kernel) {
            known_chain(case, &links);
        }
    }
}

fn known_chain(case: &mut CaseBuilder<'_>, links: &[Link]) {
    let kernel = ChainKernel::of(links);
    let (wide, column, row) = ([ROWS, 12, 12], [ROWS, 12, 1], [12]);
    for f in [special, everyday, any_float] {
        let first = case.input(match links.first().map(|link| link.operation) {
            Some(Operation::ToFloat) => tensor(&wide, int32),
            Some(Operation::LookUp) => tensor(&wide[..2], |i| i as i32 * 5 % 14 - 7),
            _ => tensor(&wide, f),
        });
        let b = case.input(tensor(&column, |i| f(i * 5 + 1)));
        let c = case.constant(tensor(&row, |i| f(i * 7 + 3)));
        let mut result = first;
        for (at, link) in links.iter().enumerate() {
            let op = link.operation.op([-3.0, 2.5].map(f32::to_bits));
            let mut inputs = vec![result];
            if link.operation == Operation::LookUp {
                inputs.push(case.constant(tensor(&[7, 12], |i| f(i * 3 + 5))));
            }
            if link.operation.has_two_operands() {
                inputs.push(match link.other {
                    Other::Number => case.constant(tensor(&[], |_| f(at * 11 + 4))),
                    Other::Itself => result,
                    Other::First => first,
                    Other::B => b,
                    Other::C => c,
                });
            }
            if link.swapped {
                inputs.reverse();
            }
            let is_last = at + 1 == links.len();
            result = if is_last { case.computed(kernel, op, &inputs) } else { case.intermediate(op, &inputs) };
        }
    }
}

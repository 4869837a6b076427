//! The dispatches of a program, and where its values lie between them.

use std::collections::BTreeSet;

use super::arena::{Arenas, Lifetime, Place};
use super::error::GpuError;
use super::fuse::{Group, Joined, groups};
use super::general::{General, concat, general};
use super::layout::row_words;
use super::pipeline::TensorKernel;
use crate::ops::{Concat, Op};
use crate::program::{Epilogue, Program, StepOp, Value, ValueId, ValueType};

/// Where a value lies during a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    Input(usize),
    Output(usize),
    Constant(usize),
    /// A table, or factors, that belongs to a step.
    OfStep(usize),
    Scratch(usize),
}

/// A binding's number, what is bound, and how many bytes of it a dispatch uses.
pub(super) type Part = (u32, Slot, u64);

/// One dispatch, or one for each part of a weight and of the rows, before buffers and pipelines exist.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Planned {
    /// The node that it computes, or of the value that it moves to or from the device's layout.
    pub(super) name: String,
    /// The value whose rows and columns it works on.
    pub(super) value: usize,
    pub(super) parts: Vec<Part>,
    pub(super) kernel: PlannedKernel,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum PlannedKernel {
    /// With the step whose constants it has, if there is one.
    Tensor(TensorKernel, Option<usize>),
    Linear(Group),
    General(Box<General>),
}

/// The first binding of a value, behind the constants and the rows.
const FIRST: u32 = 3;
/// Bindings of the general kernels.
const GENERAL_Y: u32 = 6;
const GENERAL_D: u32 = 7;
const GENERAL_Z: u32 = 8;
/// Bindings of the linear kernels.
const LINEAR_Y: u32 = 6;
const LINEAR_OTHER: u32 = 7;

/// Layers of codes with a table or a sum behind, in [`Plan::kernels`].
pub(super) const LINEAR_TABLE: &str = "linear with a table";
pub(super) const LINEAR_SUM: &str = "linear with a sum";
/// Products whose scales come with the operands.
pub(super) const MATMUL_DYNAMIC: &str = "matmul_dynamic_i8_f32";

/// What sums that are kept may take beyond a tenth.
const KEPT_SUM_BYTES: u64 = 256 * 1024;

/// The dispatches of a program, and the memory that its values share.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) dispatches: Vec<Planned>,
    /// The arenas, and where each scratch value lies in them.
    pub(super) arenas: Arenas,
    lives: Vec<Lifetime>,
}

/// What decides over a plan, beside the program.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms<'t> {
    pub(super) max_rows: usize,
    pub(super) unfused: bool,
    /// Inputs that share memory with an earlier one, and are copied because no dispatch may be bound to it twice.
    pub(super) copied: &'t [bool],
    /// Alignment of a binding's offset, and the most bytes of a buffer.
    pub(super) alignment: u64,
    pub(super) max_bytes: u64,
}

impl Plan {
    pub(super) fn new(program: &Program, terms: Terms<'_>) -> Result<Self, GpuError> {
        if terms.unfused {
            return Self::of(program, terms, &groups(program, Joined::Nothing));
        }
        let all = groups(program, Joined::All);
        let plan = Self::of(program, terms, &all)?;
        if !all.iter().any(|group| group.keeps_sum) {
            return Ok(plan);
        }
        // A dispatch saved is worth some memory, but not much.
        let smaller = Self::of(program, terms, &groups(program, Joined::AllButKeptSums))?;
        let allowed = smaller.arenas.bytes().saturating_mul(11) / 10;
        Ok(if plan.arenas.bytes() > allowed.saturating_add(KEPT_SUM_BYTES) { smaller } else { plan })
    }

    /// The general kernels that a program needs, by their entry points, and what is joined to its layers of codes.
    pub(super) fn kernels(program: &Program, terms: Terms<'_>) -> Result<BTreeSet<&'static str>, GpuError> {
        let joined = if terms.unfused { Joined::Nothing } else { Joined::All };
        let plan = Self::dispatched(program, terms, &groups(program, joined))?;
        let kernels = plan.dispatches.iter().filter_map(|planned| match &planned.kernel {
            PlannedKernel::General(general) if general.kernel.flags == ["DYNAMIC"] => Some(MATMUL_DYNAMIC),
            PlannedKernel::General(general) => Some(general.kernel.entry),
            PlannedKernel::Linear(group) if group.table.is_some() => Some(LINEAR_TABLE),
            PlannedKernel::Linear(group) if group.sum.is_some() => Some(LINEAR_SUM),
            PlannedKernel::Linear(_) | PlannedKernel::Tensor(..) => None,
        });
        Ok(kernels.collect())
    }

    fn of(program: &Program, terms: Terms<'_>, groups: &[Group]) -> Result<Self, GpuError> {
        let mut plan = Self::dispatched(program, terms, groups)?;
        // Whole words, so that the vectors of a value are whole too.
        plan.arenas = Arenas::plan(&plan.lives, terms.alignment.max(16), terms.max_bytes);
        Ok(plan)
    }

    /// A plan without places.
    fn dispatched(program: &Program, terms: Terms<'_>, groups: &[Group]) -> Result<Self, GpuError> {
        let values = program.values().len();
        let (slots, output_of) = (vec![None; values], vec![None; values]);
        let mut planner = Planner { program, terms, plan: Self::default(), slots, output_of };
        for (at, id) in program.outputs().iter().enumerate() {
            planner.output_of[id.index()] = Some(at);
        }
        for (at, (id, _)) in program.constants().iter().enumerate() {
            planner.slots[id.index()] = Some(Slot::Constant(at));
        }
        for (at, id) in program.inputs().iter().enumerate() {
            planner.input(at, *id);
        }
        for &group in groups {
            planner.group(group)?;
        }
        Ok(planner.plan)
    }

    pub(super) fn place(&self, scratch: usize) -> Place {
        self.arenas.places[scratch]
    }

    /// A dispatch, which lengthens the lives of what it uses.
    fn push(&mut self, planned: Planned) {
        let at = self.dispatches.len();
        for &(_, slot, bytes) in &planned.parts {
            if let Slot::Scratch(scratch) = slot {
                let life = &mut self.lives[scratch];
                life.last = at;
                life.bytes = life.bytes.max(bytes);
            }
        }
        self.dispatches.push(planned);
    }

    /// Memory that the next dispatch writes first.
    fn scratch(&mut self, bytes: u64) -> Slot {
        let at = self.dispatches.len();
        self.lives.push(Lifetime { bytes, first: at, last: at });
        Slot::Scratch(self.lives.len() - 1)
    }
}

struct Planner<'p> {
    program: &'p Program,
    terms: Terms<'p>,
    plan: Plan,
    /// Where each value lies, once it is written.
    slots: Vec<Option<Slot>>,
    /// Which output each value is, if it is one.
    output_of: Vec<Option<usize>>,
}

impl Planner<'_> {
    fn value(&self, id: ValueId) -> &Value {
        self.program.value(id)
    }

    fn padded(&self, id: ValueId) -> u64 {
        padded_bytes(self.value(id), self.terms.max_rows)
    }

    /// A dispatch that moves a value, and its new slot.
    fn moved(&mut self, id: ValueId, from: Slot, kernel: TensorKernel, bytes: [u64; 2]) -> Slot {
        let to = self.plan.scratch(bytes[1]);
        let (name, kernel) = (self.value(id).name.clone(), PlannedKernel::Tensor(kernel, None));
        let parts = vec![(FIRST, from, bytes[0]), (FIRST + 1, to, bytes[1])];
        self.plan.push(Planned { name, value: id.index(), parts, kernel });
        to
    }

    fn input(&mut self, at: usize, id: ValueId) {
        let (dense, padded) = (dense_bytes(self.value(id), self.terms.max_rows), self.padded(id));
        let mut slot = Slot::Input(at);
        if needs_padding(self.value(id)) {
            slot = self.moved(id, slot, TensorKernel::Pad, [dense, padded]);
        } else if self.terms.copied[at] {
            slot = self.copy(id, slot);
        }
        self.slots[id.index()] = Some(slot);
    }

    /// A copy of a value, for a dispatch that would else be bound to it twice.
    fn copy(&mut self, id: ValueId, from: Slot) -> Slot {
        let bytes = self.padded(id);
        self.moved(id, from, TensorKernel::Copy, [bytes, bytes])
    }

    fn slot(&self, id: ValueId) -> Slot {
        // As `Program::new` checks, and as groups are ordered. Any other slot would read what belongs to another value.
        self.slots[id.index()].unwrap_or_else(|| unreachable!("{} is read before it is written", self.value(id).name))
    }

    fn read(&self, binding: u32, id: ValueId) -> Part {
        (binding, self.slot(id), self.padded(id))
    }

    /// Where a value will be written: where the caller wants it, unless in another layout.
    fn write(&mut self, binding: u32, id: ValueId) -> Part {
        let as_output = self.output_of[id.index()];
        let bytes = self.padded(id);
        let slot = match as_output {
            Some(output) if !needs_padding(self.value(id)) => Slot::Output(output),
            _ => self.plan.scratch(bytes),
        };
        (binding, slot, bytes)
    }

    /// After a value's last dispatch: it can be read from now on, also by the caller.
    fn written(&mut self, id: ValueId, (_, slot, bytes): Part) {
        self.slots[id.index()] = Some(slot);
        let as_output = self.output_of[id.index()];
        if let (Some(output), Slot::Scratch(_)) = (as_output, slot) {
            let dense = dense_bytes(self.value(id), self.terms.max_rows);
            let (name, kernel) = (self.value(id).name.clone(), PlannedKernel::Tensor(TensorKernel::Unpad, None));
            let parts = vec![(FIRST, slot, bytes), (FIRST + 1, Slot::Output(output), dense)];
            self.plan.push(Planned { name, value: id.index(), parts, kernel });
        }
    }

    fn group(&mut self, group: Group) -> Result<(), GpuError> {
        let program = self.program;
        let (step, last) = (&program.steps()[group.main], &program.steps()[group.last]);
        let (name, value) = (step.name.clone(), last.output.index());
        match &step.op {
            StepOp::Op(Op::Quantize(_)) | StepOp::Op(Op::Dequantize(_)) => {
                let rows_are_whole = !padded_rows(self.value(step.output).cols());
                let kernel = match (&step.op, rows_are_whole) {
                    (StepOp::Op(Op::Quantize(_)), true) => TensorKernel::QuantizeFlat,
                    (StepOp::Op(Op::Quantize(_)), false) => TensorKernel::Quantize,
                    (_, true) => TensorKernel::DequantizeFlat,
                    (_, false) => TensorKernel::Dequantize,
                };
                let y = self.write(FIRST + 1, step.output);
                let parts = vec![self.read(FIRST, step.inputs[0]), y];
                let kernel = PlannedKernel::Tensor(kernel, Some(group.main));
                self.plan.push(Planned { name, value, parts, kernel });
                self.written(step.output, y);
            }
            StepOp::QLinear(linear) => {
                let y = self.write(LINEAR_Y, last.output);
                let mut parts = vec![self.read(FIRST, step.inputs[0]), y];
                if let Some(table) = group.table {
                    parts.push((LINEAR_OTHER, Slot::OfStep(table), 256));
                } else if let Some(sum) = group.sum {
                    let other = program.steps()[sum].inputs.iter().find(|&&input| input != step.output);
                    parts.extend(other.map(|&other| self.read(LINEAR_OTHER, other)));
                } else if let Epilogue::Dynamic { .. } = linear.epilogue {
                    parts.push(self.read(LINEAR_OTHER, step.inputs[1]));
                }
                self.plan.push(Planned { name, value, parts, kernel: PlannedKernel::Linear(group) });
                self.written(last.output, y);
            }
            StepOp::Op(Op::Concat(Concat { axis })) => {
                let y = self.write(GENERAL_Y, step.output);
                for (general, &input) in concat(program, step, *axis)?.into_iter().zip(&step.inputs) {
                    let kernel = PlannedKernel::General(Box::new(general));
                    let parts = vec![self.read(FIRST, input), y];
                    self.plan.push(Planned { name: name.clone(), value, parts, kernel });
                }
                self.written(step.output, y);
            }
            StepOp::Op(Op::ChooseQParams(_)) if group.quantize.is_none() => {
                let bytes = matrix_rows(self.value(step.inputs[0]), self.terms.max_rows).saturating_mul(8);
                let ranges = self.plan.scratch(bytes);
                let kernel = PlannedKernel::General(Box::new(general(program, &group, 0)?));
                let parts = vec![self.read(FIRST, step.inputs[0]), (GENERAL_Y, ranges, bytes)];
                self.plan.push(Planned { name: name.clone(), value, parts, kernel });
                let y = self.write(GENERAL_Y, step.output);
                let kernel = PlannedKernel::General(Box::new(general(program, &group, 1)?));
                let parts = vec![(FIRST, ranges, bytes), y];
                self.plan.push(Planned { name, value, parts, kernel });
                self.written(step.output, y);
            }
            _ => self.general(group)?,
        }
        Ok(())
    }

    /// One dispatch of a general kernel.
    fn general(&mut self, group: Group) -> Result<(), GpuError> {
        let program = self.program;
        let (step, last) = (&program.steps()[group.main], &program.steps()[group.last]);
        let mut inputs = step.inputs.clone();
        for (input, transpose) in inputs.iter_mut().zip(group.transposes) {
            if let Some(transpose) = transpose {
                *input = program.steps()[transpose].inputs[0];
            }
        }
        // The second result: a sum that others read too, or the scales.
        let mut second = match group.quantize {
            Some(_) if matches!(step.op, StepOp::Op(Op::ChooseQParams(_))) => Some(step.output),
            _ => None,
        };
        let mut fourth = None;
        if let Some(before) = group.before {
            let sum = &program.steps()[before];
            (inputs[0], fourth) = (sum.inputs[0], Some(sum.inputs[1]));
            if group.keeps_sum {
                second = Some(sum.output);
            }
        }
        let mut parts: Vec<Part> = Vec::with_capacity(6);
        for (binding, id) in (FIRST..).zip(inputs).chain(fourth.map(|id| (GENERAL_D, id))) {
            // Bindings of one dispatch may not overlap.
            let slot = self.slot(id);
            let slot = if parts.iter().any(|part| part.1 == slot) { self.copy(id, slot) } else { slot };
            // A matmul of dynamic codes has four operands, of which the last is behind the result.
            let binding = if binding >= GENERAL_Y && fourth.is_none() { binding + 1 } else { binding };
            parts.push((binding, slot, self.padded(id)));
        }
        match &step.op {
            StepOp::QLut(_) => parts.push((FIRST + 1, Slot::OfStep(group.main), 256)),
            StepOp::QMatMul(matmul) => {
                let bytes = matmul.epilogue.factors().len().next_multiple_of(4) as u64 * 4;
                parts.push((FIRST + 2, Slot::OfStep(group.main), bytes));
            }
            _ => {}
        }
        let y = self.write(GENERAL_Y, last.output);
        parts.push(y);
        let z = second.map(|id| self.write(GENERAL_Z, id));
        parts.extend(z);
        let kernel = PlannedKernel::General(Box::new(general(program, &group, 0)?));
        let (name, value) = (step.name.clone(), last.output.index());
        self.plan.push(Planned { name, value, parts, kernel });
        self.written(last.output, y);
        if let Some((id, z)) = second.zip(z) {
            self.written(id, z);
        }
        Ok(())
    }
}

/// Whether int8 rows have padding on the device.
fn padded_rows(cols: usize) -> bool {
    cols != row_words(cols) * 4
}

/// Whether the caller's dense int8 rows differ from the padded rows of the kernels.
fn needs_padding(value: &Value) -> bool {
    value.value_type == ValueType::I8 && padded_rows(value.cols())
}

/// Bytes of a value as the kernels lay it out. Saturates; sizes are checked against limits later.
pub(super) fn padded_bytes(value: &Value, rows: usize) -> u64 {
    match value.value_type {
        ValueType::I8 => matrix_rows(value, rows).saturating_mul(row_words(value.cols()) as u64).saturating_mul(4),
        ValueType::F16 => dense_bytes(value, rows),
        ValueType::F32 | ValueType::I32 => {
            matrix_rows(value, rows).saturating_mul(value.cols() as u64).saturating_mul(4)
        }
    }
}

/// Bytes of a value as the caller lays it out, rounded up to whole words.
pub(super) fn dense_bytes(value: &Value, rows: usize) -> u64 {
    let elements = matrix_rows(value, rows).saturating_mul(value.cols() as u64);
    elements.saturating_mul(value.value_type.size_bytes() as u64).div_ceil(4).saturating_mul(4)
}

pub(super) fn matrix_rows(value: &Value, rows: usize) -> u64 {
    let rows = if value.shape.is_batched() { rows } else { 1 };
    (rows as u64).saturating_mul(value.rows_factor() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{Dequantize, MatMul, Quantize, Transpose};
    use crate::program::Step;
    use crate::values::{QParams, QuantRange, Shape};

    /// x → q0 → f0 → q1 → f1 → …, floats and codes in turn.
    fn chain(links: usize, cols: usize) -> Program {
        let qparams = QParams::new(0.1, 0).expect("valid");
        let value = |at: usize| {
            let codes = at % 2 == 1;
            Value {
                name: format!("v{at}"),
                value_type: if codes { ValueType::I8 } else { ValueType::F32 },
                shape: Shape::rows(cols),
                qparams: codes.then_some(qparams),
            }
        };
        let step = |at: usize| {
            let (name, inputs, output) = (format!("s{at}"), vec![ValueId::new(at)], ValueId::new(at + 1));
            let op = match at % 2 {
                0 => StepOp::Op(Op::Quantize(Quantize { qparams: qparams.into(), range: QuantRange::INT8 })),
                _ => StepOp::Op(Op::Dequantize(Dequantize { qparams: qparams.into() })),
            };
            Step { name, op, inputs, output }
        };
        let values = (0..=links).map(value).collect();
        let outputs = vec![ValueId::new(links)];
        let steps = (0..links).map(step).collect();
        Program::new(values, Vec::new(), vec![ValueId::new(0)], outputs, steps).expect("valid")
    }

    fn plan(program: &Program) -> Plan {
        let terms = Terms { max_rows: 4, unfused: false, copied: &[false], alignment: 16, max_bytes: u64::MAX };
        Plan::new(program, terms).expect("fits")
    }

    #[test]
    fn values_take_turns_in_one_arena() {
        let plan = plan(&chain(10, 16));
        // Of nine values between input and output two live at a time: one of codes and one of floats.
        assert_eq!(plan.arenas.sizes, [64 + 256]);
        assert_eq!(plan.dispatches[0].parts[0].1, Slot::Input(0));
        assert_eq!(plan.dispatches[9].parts[1].1, Slot::Output(0));
        for (at, dispatch) in plan.dispatches.iter().enumerate().skip(1) {
            let (read, written) = (dispatch.parts[0].1, dispatch.parts[1].1);
            assert_ne!(read, written);
            assert_eq!(read, plan.dispatches[at - 1].parts[1].1, "each dispatch reads what the last wrote");
        }
    }

    /// 100,000 products of transposed values, each an output: looking through the steps or the outputs for each is 10¹⁰ looks, in
    /// several places, which is minutes in each.
    #[test]
    fn steps_are_found_without_a_search() {
        const PRODUCTS: usize = 100_000;
        let value = |at: usize| Value {
            name: format!("v{at}"),
            value_type: ValueType::F32,
            shape: Shape::fixed(&[4, 4]),
            qparams: None,
        };
        let [a, b] = [0, 1].map(ValueId::new);
        let steps = (0..PRODUCTS).flat_map(|at| {
            let [turned, product] = [2 + 2 * at, 3 + 2 * at].map(ValueId::new);
            let transpose = StepOp::Op(Op::Transpose(Transpose { perm: vec![1, 0] }));
            let step =
                |op, inputs: &[ValueId], output| Step { name: String::new(), op, inputs: inputs.to_vec(), output };
            [step(transpose, &[a], turned), step(StepOp::Op(Op::MatMul(MatMul)), &[b, turned], product)]
        });
        let outputs = (0..PRODUCTS).map(|at| ValueId::new(3 + 2 * at)).collect();
        let values = (0..2 + 2 * PRODUCTS).map(value).collect();
        let program = Program::new(values, Vec::new(), vec![a, b], outputs, steps.collect()).expect("valid");
        let groups = groups(&program, Joined::All);
        assert!(groups.len() == PRODUCTS && groups.iter().all(|group| group.transposes[1].is_some()));
        let terms = Terms { max_rows: 4, unfused: false, copied: &[false, false], alignment: 16, max_bytes: u64::MAX };
        let plan = Plan::dispatched(&program, terms, &groups).expect("fits");
        let written = |dispatch: &Planned| dispatch.parts.iter().find(|part| part.0 == GENERAL_Y).map(|part| part.1);
        assert!(plan.dispatches.iter().enumerate().all(|(at, dispatch)| written(dispatch) == Some(Slot::Output(at))));
    }

    #[test]
    fn int8_outputs_of_odd_width_are_unpadded() {
        let program = chain(3, 5);
        let plan = plan(&program);
        let last = plan.dispatches.last().expect("dispatches");
        assert_eq!(last.kernel, PlannedKernel::Tensor(TensorKernel::Unpad, None));
        assert_eq!(last.parts[1].1, Slot::Output(0));
        assert_eq!(plan.dispatches.len(), 4);
        let codes = program.value(program.outputs()[0]);
        assert_eq!((padded_bytes(codes, 4), dense_bytes(codes, 4), dense_bytes(codes, 3)), (64, 20, 16));
    }
}

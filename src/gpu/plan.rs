//! The dispatches of a program, and where its values lie between them.

use super::layout::row_words;
use crate::program::{Program, Value, ValueType};

/// Where a value lies during a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    Input(usize),
    Output(usize),
    Scratch(usize),
}

/// One dispatch, before buffers and pipelines exist.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Planned {
    /// The value whose rows and columns it works on.
    pub(super) value: usize,
    pub(super) src: Slot,
    pub(super) dst: Slot,
    pub(super) kernel: PlannedKernel,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum PlannedKernel {
    /// A step of the program.
    Step(usize),
    Pad,
    Unpad,
}

/// The dispatches of a program, and the sizes of the scratch buffers that its values share.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) dispatches: Vec<Planned>,
    pub(super) scratch: Vec<u64>,
    /// Scratch buffers whose value is no longer needed.
    free: Vec<usize>,
}

impl Plan {
    /// A buffer is read while another is written, never the same, since its value is freed only after the step.
    pub(super) fn new(program: &Program, max_rows: usize) -> Self {
        let mut plan = Self::default();
        let mut reads = vec![0u32; program.values().len()];
        program.steps().iter().for_each(|step| reads[step.input().index()] += 1);
        let mut slots: Vec<Option<Slot>> = vec![None; program.values().len()];
        for (at, id) in program.inputs().iter().enumerate() {
            let value = program.value(*id);
            let mut slot = Slot::Input(at);
            if needs_padding(value) {
                let dst = plan.allocate(padded_bytes(value, max_rows));
                plan.dispatches.push(Planned { value: id.index(), src: slot, dst, kernel: PlannedKernel::Pad });
                slot = dst;
            }
            slots[id.index()] = Some(slot);
        }
        for (at, step) in program.steps().iter().enumerate() {
            let (input, output) = (step.input().index(), step.output().index());
            let value = program.value(step.output());
            let as_output = program.outputs().iter().position(|id| *id == step.output());
            let dst = match as_output {
                Some(output) if !needs_padding(value) => Slot::Output(output),
                _ => plan.allocate(padded_bytes(value, max_rows)),
            };
            let src = slots[input].unwrap_or(Slot::Input(0));
            plan.dispatches.push(Planned { value: output, src, dst, kernel: PlannedKernel::Step(at) });
            if let (Some(at), Slot::Scratch(_)) = (as_output, dst) {
                let kernel = PlannedKernel::Unpad;
                plan.dispatches.push(Planned { value: output, src: dst, dst: Slot::Output(at), kernel });
            }
            slots[output] = Some(dst);
            reads[input] -= 1;
            for value in [input, output] {
                if let (0, Some(Slot::Scratch(index))) = (reads[value], slots[value]) {
                    slots[value] = None;
                    plan.free.push(index);
                }
            }
        }
        plan
    }

    fn allocate(&mut self, size: u64) -> Slot {
        let index = self.free.pop().unwrap_or_else(|| {
            self.scratch.push(0);
            self.scratch.len() - 1
        });
        self.scratch[index] = self.scratch[index].max(size);
        Slot::Scratch(index)
    }
}

/// Whether the caller's dense int8 rows differ from the padded rows of the kernels.
fn needs_padding(value: &Value) -> bool {
    value.value_type == ValueType::I8 && value.cols() / 4 != row_words(value.cols())
}

/// Bytes of a value as the kernels lay it out. Saturates; sizes are checked against limits later.
pub(super) fn padded_bytes(value: &Value, rows: usize) -> u64 {
    let row = match value.value_type {
        ValueType::I8 => row_words(value.cols()),
        ValueType::F32 => value.cols(),
    };
    matrix_rows(value, rows).saturating_mul(row as u64).saturating_mul(4)
}

/// Bytes of a value as the caller lays it out, rounded up to whole words.
pub(super) fn dense_bytes(value: &Value, rows: usize) -> u64 {
    let elements = matrix_rows(value, rows).saturating_mul(value.cols() as u64);
    elements.saturating_mul(value.value_type.size_bytes() as u64).div_ceil(4).saturating_mul(4)
}

pub(super) fn matrix_rows(value: &Value, rows: usize) -> u64 {
    (rows as u64).saturating_mul(value.rows_factor() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::{Dequantize, Quantize, Step, ValueId};
    use crate::qparams::{QParams, QuantRange};

    /// x → q0 → f0 → q1 → f1 → …, floats and codes in turn.
    fn chain(links: usize, cols: usize) -> Program {
        let qparams = QParams::new(0.1, 0).expect("valid");
        let value = |at: usize| {
            let codes = at % 2 == 1;
            Value {
                name: format!("v{at}"),
                value_type: if codes { ValueType::I8 } else { ValueType::F32 },
                dims: vec![cols],
                qparams: codes.then_some(qparams),
            }
        };
        let step = |at: usize| {
            let (name, input, output) = (format!("s{at}"), ValueId::new(at), ValueId::new(at + 1));
            match at % 2 {
                0 => Step::Quantize(Quantize { name, input, output, qparams, range: QuantRange::INT8 }),
                _ => Step::Dequantize(Dequantize { name, input, output, qparams }),
            }
        };
        let values = (0..=links).map(value).collect();
        let outputs = vec![ValueId::new(links)];
        Program::new(values, vec![ValueId::new(0)], outputs, (0..links).map(step).collect()).expect("valid")
    }

    #[test]
    fn scratch_buffers_take_turns() {
        let plan = Plan::new(&chain(10, 16), 4);
        // Nine values between input and output lie in two buffers, one for codes and one for floats, and no dispatch reads the
        // one that it writes.
        assert_eq!(plan.scratch, [64, 256]);
        assert!(plan.dispatches.iter().all(|d| d.src != d.dst));
        assert_eq!(plan.dispatches[0].src, Slot::Input(0));
        assert_eq!(plan.dispatches[9].dst, Slot::Output(0));
        for (at, dispatch) in plan.dispatches.iter().enumerate().skip(1) {
            assert_eq!(dispatch.src, plan.dispatches[at - 1].dst, "each dispatch reads what the last wrote");
        }
    }

    #[test]
    fn int8_outputs_of_odd_width_are_unpadded() {
        let plan = Plan::new(&chain(3, 5), 4);
        let last = plan.dispatches.last().expect("dispatches");
        assert_eq!((last.kernel, last.dst), (PlannedKernel::Unpad, Slot::Output(0)));
        assert_eq!(plan.dispatches.len(), 4);
        let program = chain(3, 5);
        let codes = program.value(program.outputs()[0]);
        assert_eq!((padded_bytes(codes, 4), dense_bytes(codes, 4), dense_bytes(codes, 3)), (64, 20, 16));
    }
}

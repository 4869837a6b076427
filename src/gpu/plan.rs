//! The dispatches of a program, and where its values lie between them.

use super::error::GpuError;
use super::general::{General, general};
use super::layout::row_words;
use super::pipeline::TensorKernel;
use crate::program::{Program, StepOp, Value, ValueType};

/// Where a value lies during a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    Input(usize),
    Output(usize),
    Constant(usize),
    Scratch(usize),
}

/// A slot, and how many bytes of it a dispatch uses.
pub(super) type Part = (Slot, u64);

/// One dispatch, before buffers and pipelines exist.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Planned {
    /// The step, unless it only moves a caller's value to or from the device's layout.
    pub(super) step: Option<usize>,
    /// The value whose rows and columns it works on.
    pub(super) value: usize,
    pub(super) srcs: Vec<Part>,
    pub(super) dst: Part,
    pub(super) kernel: PlannedKernel,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum PlannedKernel {
    Tensor(TensorKernel),
    Linear,
    General(Box<General>),
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
    pub(super) fn new(program: &Program, max_rows: usize) -> Result<Self, GpuError> {
        let mut plan = Self::default();
        let mut reads = vec![0u32; program.values().len()];
        program.steps().iter().flat_map(|step| &step.inputs).for_each(|input| reads[input.index()] += 1);
        let mut slots: Vec<Option<Slot>> = vec![None; program.values().len()];
        for (at, (id, _)) in program.constants().iter().enumerate() {
            slots[id.index()] = Some(Slot::Constant(at));
        }
        for (at, id) in program.inputs().iter().enumerate() {
            let value = program.value(*id);
            let mut slot = Slot::Input(at);
            if needs_padding(value) {
                let bytes = padded_bytes(value, max_rows);
                let dst = (plan.allocate(bytes), bytes);
                let srcs = vec![(slot, dense_bytes(value, max_rows))];
                let kernel = PlannedKernel::Tensor(TensorKernel::Pad);
                plan.dispatches.push(Planned { step: None, value: id.index(), srcs, dst, kernel });
                slot = dst.0;
            }
            slots[id.index()] = Some(slot);
        }
        for (at, step) in program.steps().iter().enumerate() {
            let output = step.output.index();
            let value = program.value(step.output);
            let bytes = padded_bytes(value, max_rows);
            let as_output = program.outputs().iter().position(|id| *id == step.output);
            let dst = match as_output {
                Some(output) if !needs_padding(value) => Slot::Output(output),
                _ => plan.allocate(bytes),
            };
            let part = |id: &crate::program::ValueId| {
                // Every value is an input, a constant or was written, as `Program::new` checks.
                let slot = slots[id.index()].unwrap_or(Slot::Input(0));
                (slot, padded_bytes(program.value(*id), max_rows))
            };
            let srcs: Vec<Part> = step.inputs.iter().map(part).collect();
            plan.step(program, at, srcs, (dst, bytes), max_rows)?;
            if let (Some(at), Slot::Scratch(_)) = (as_output, dst) {
                let kernel = PlannedKernel::Tensor(TensorKernel::Unpad);
                let (srcs, dst) = (vec![(dst, bytes)], (Slot::Output(at), dense_bytes(value, max_rows)));
                plan.dispatches.push(Planned { step: None, value: output, srcs, dst, kernel });
            }
            slots[output] = Some(dst);
            step.inputs.iter().for_each(|input| reads[input.index()] -= 1);
            for value in step.inputs.iter().map(|input| input.index()).chain([output]) {
                if let (0, Some(Slot::Scratch(index))) = (reads[value], slots[value]) {
                    slots[value] = None;
                    plan.free.push(index);
                }
            }
        }
        Ok(plan)
    }

    /// The dispatches of one step.
    fn step(
        &mut self,
        program: &Program,
        at: usize,
        srcs: Vec<Part>,
        dst: Part,
        max_rows: usize,
    ) -> Result<(), GpuError> {
        let step = &program.steps()[at];
        let value = step.output.index();
        let mut push = |srcs: Vec<Part>, dst: Part, kernel: PlannedKernel| {
            self.dispatches.push(Planned { step: Some(at), value, srcs, dst, kernel });
        };
        match &step.op {
            StepOp::Quantize { .. } => push(srcs, dst, PlannedKernel::Tensor(TensorKernel::Quantize)),
            StepOp::Dequantize { .. } => push(srcs, dst, PlannedKernel::Tensor(TensorKernel::Dequantize)),
            StepOp::Linear(_) => push(srcs, dst, PlannedKernel::Linear),
            StepOp::Concat { .. } => {
                for (part, src) in srcs.into_iter().enumerate() {
                    if let Some(general) = general(program, step, part)? {
                        push(vec![src], dst, PlannedKernel::General(Box::new(general)));
                    }
                }
            }
            StepOp::ChooseQParams { .. } => {
                let x = program.value(step.inputs[0]);
                let bytes = matrix_rows(x, max_rows).saturating_mul(8);
                let ranges = (self.allocate(bytes), bytes);
                for (part, (src, dst)) in [(srcs[0], ranges), (ranges, dst)].into_iter().enumerate() {
                    if let Some(general) = general(program, step, part)? {
                        let kernel = PlannedKernel::General(Box::new(general));
                        self.dispatches.push(Planned { step: Some(at), value, srcs: vec![src], dst, kernel });
                    }
                }
                if let (Slot::Scratch(index), _) = ranges {
                    self.free.push(index);
                }
            }
            _ => {
                if let Some(general) = general(program, step, 0)? {
                    push(srcs, dst, PlannedKernel::General(Box::new(general)));
                }
            }
        }
        Ok(())
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
        ValueType::F32 | ValueType::I32 => value.cols(),
    };
    matrix_rows(value, rows).saturating_mul(row as u64).saturating_mul(4)
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
    use crate::program::{Step, ValueId};
    use crate::qparams::{QParams, QuantRange};
    use crate::tensor::Shape;

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
                0 => StepOp::Quantize { qparams, range: QuantRange::INT8 },
                _ => StepOp::Dequantize { qparams },
            };
            Step { name, op, inputs, output }
        };
        let values = (0..=links).map(value).collect();
        let outputs = vec![ValueId::new(links)];
        let steps = (0..links).map(step).collect();
        Program::new(values, Vec::new(), vec![ValueId::new(0)], outputs, steps).expect("valid")
    }

    #[test]
    fn scratch_buffers_take_turns() {
        let plan = Plan::new(&chain(10, 16), 4).expect("fits");
        // Nine values between input and output lie in two buffers, one for codes and one for floats, and no dispatch reads the
        // one that it writes.
        assert_eq!(plan.scratch, [64, 256]);
        assert!(plan.dispatches.iter().all(|d| d.srcs[0].0 != d.dst.0));
        assert_eq!(plan.dispatches[0].srcs[0].0, Slot::Input(0));
        assert_eq!(plan.dispatches[9].dst.0, Slot::Output(0));
        for (at, dispatch) in plan.dispatches.iter().enumerate().skip(1) {
            assert_eq!(dispatch.srcs[0].0, plan.dispatches[at - 1].dst.0, "each dispatch reads what the last wrote");
        }
    }

    #[test]
    fn int8_outputs_of_odd_width_are_unpadded() {
        let plan = Plan::new(&chain(3, 5), 4).expect("fits");
        let last = plan.dispatches.last().expect("dispatches");
        assert_eq!(last.kernel, PlannedKernel::Tensor(TensorKernel::Unpad));
        assert_eq!(last.dst.0, Slot::Output(0));
        assert_eq!(plan.dispatches.len(), 4);
        let program = chain(3, 5);
        let codes = program.value(program.outputs()[0]);
        assert_eq!((padded_bytes(codes, 4), dense_bytes(codes, 4), dense_bytes(codes, 3)), (64, 20, 16));
    }
}

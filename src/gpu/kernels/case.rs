//! Known-answer cases: programs with inputs, and the outputs that the equations or the CPU engine give.

use std::collections::HashSet;
use std::sync::Arc;

use super::config::Config;
use super::kernel::Kernel;
use crate::cpu;
use crate::gpu::device::pipeline::PipelineKey;
use crate::ops::{Op, Operand, TensorType};
use crate::program::{Program, ProgramError, Step, StepOp, Value, ValueId, ValueType};
use crate::values::slices::CHECKED;
use crate::values::{DType, RowMajor, Shape, Tensor};

/// A program with its inputs and the right outputs, each with the pipeline that computes it.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) program: Program,
    pub(crate) inputs: Vec<Tensor>,
    pub(crate) expected: Vec<Expected>,
}

/// The right output of a pipeline.
#[derive(Debug)]
pub(crate) struct Expected {
    pub(crate) key: PipelineKey,
    pub(crate) tensor: Tensor,
    /// Whether floats may be near it instead of equal.
    pub(crate) may_be_near: bool,
}

/// What a case needs to know of a kernel. The methods of a [`CaseBuilder`] take any kernel and any operator, and leave their work to
/// functions of this, which are compiled once.
struct Tested {
    key: PipelineKey,
    may_be_near: bool,
}

/// The rows of the batch.
pub(crate) const ROWS: usize = 3;
/// int8 values `[ROWS, 3, 21]` and columns `[ROWS, 3, 1]`, whose rows have padding.
pub(crate) const COLS: usize = 21;
pub(crate) const WIDE: [usize; 3] = [ROWS, 3, COLS];
pub(crate) const COLUMN: [usize; 3] = [ROWS, 3, 1];

/// Builds a [`Case`] of the kernels that are needed.
#[derive(Debug)]
pub(crate) struct CaseBuilder<'c> {
    pub(crate) config: &'c Config,
    /// The pipelines that the case is for; all if `None`.
    needed: Option<&'c HashSet<PipelineKey>>,
    values: Vec<Value>,
    constants: Vec<(ValueId, Arc<Tensor>)>,
    inputs: Vec<ValueId>,
    outputs: Vec<ValueId>,
    steps: Vec<Step>,
    given: Vec<Tensor>,
    /// The elements of each value, where they are known.
    known: Vec<Option<Tensor>>,
    expected: Vec<Expected>,
}

impl<'c> CaseBuilder<'c> {
    pub(crate) fn new(config: &'c Config, needed: Option<&'c HashSet<PipelineKey>>) -> Self {
        let (values, constants, inputs, outputs) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self {
            config,
            needed,
            values,
            constants,
            inputs,
            outputs,
            steps: Vec::new(),
            given: Vec::new(),
            known: Vec::new(),
            expected: Vec::new(),
        }
    }

    fn tested(&self, kernel: impl Kernel) -> Tested {
        Tested { key: kernel.pipeline(self.config.kernel_options()), may_be_near: kernel.may_be_near() }
    }

    /// Whether the case is for a kernel.
    pub(crate) fn needs(&self, kernel: impl Kernel) -> bool {
        self.needs_key(&self.tested(kernel).key)
    }

    fn needs_key(&self, key: &PipelineKey) -> bool {
        self.needed.is_none_or(|needed| needed.contains(key))
    }

    /// Whether the case is for all kernels.
    pub(crate) fn tests_all(&self) -> bool {
        self.needed.is_none()
    }

    /// Adds everything that `add` adds, whether or not its kernels are needed.
    pub(crate) fn always(&mut self, add: impl FnOnce(&mut Self)) {
        let needed = self.needed.take();
        add(self);
        self.needed = needed;
    }

    fn value(&mut self, value_type: ValueType, shape: Shape) -> ValueId {
        self.known.push(None);
        self.values.push(Value { name: format!("known {}", self.values.len()), value_type, shape, qparams: None });
        ValueId::new(self.values.len() - 1)
    }

    /// An input of shape `[rows, dims…]`.
    pub(crate) fn input(&mut self, tensor: Tensor) -> ValueId {
        let id = self.value(type_of(tensor.dtype()), Shape::batched(&tensor.shape()[1..]));
        self.inputs.push(id);
        self.known[id.index()] = Some(tensor.clone());
        self.given.push(tensor);
        id
    }

    /// An input of 16-bit floats, which hold the numbers of `tensor`.
    pub(crate) fn f16_input(&mut self, tensor: Tensor) -> ValueId {
        let id = self.input(tensor);
        self.values[id.index()].value_type = ValueType::F16;
        id
    }

    pub(crate) fn constant(&mut self, tensor: Tensor) -> ValueId {
        let id = self.value(type_of(tensor.dtype()), Shape::fixed(tensor.shape()));
        self.known[id.index()] = Some(tensor.clone());
        self.constants.push((id, Arc::new(tensor)));
        id
    }

    /// A step whose result is not compared.
    pub(crate) fn step(
        &mut self,
        op: impl Into<StepOp>,
        inputs: &[ValueId],
        value_type: ValueType,
        shape: Shape,
    ) -> ValueId {
        self.step_of(op.into(), inputs, value_type, shape)
    }

    fn step_of(&mut self, op: StepOp, inputs: &[ValueId], value_type: ValueType, shape: Shape) -> ValueId {
        let output = self.value(value_type, shape);
        self.steps.push(Step { name: "known".to_owned(), op, inputs: inputs.to_vec(), output });
        output
    }

    /// A step whose result is that of the CPU engine. Adds nothing if its kernel is not needed.
    pub(crate) fn computed(&mut self, kernel: impl Kernel, op: impl Into<Op>, inputs: &[ValueId]) -> ValueId {
        let tested = self.tested(kernel);
        self.computed_of(tested, op.into(), inputs)
    }

    fn computed_of(&mut self, tested: Tested, op: Op, inputs: &[ValueId]) -> ValueId {
        if !self.needs_key(&tested.key) {
            return inputs[0];
        }
        let id = self.intermediate_of(op, inputs);
        self.known_answer_of(tested, id)
    }

    /// Compares a value with the result of the CPU engine.
    pub(crate) fn known_answer(&mut self, kernel: impl Kernel, id: ValueId) -> ValueId {
        let tested = self.tested(kernel);
        self.known_answer_of(tested, id)
    }

    fn known_answer_of(&mut self, tested: Tested, id: ValueId) -> ValueId {
        let expected = self.known[id.index()].clone().expect(CHECKED);
        self.answer_of(tested, id, expected)
    }

    /// A step whose result is that of the CPU engine, and is not compared.
    pub(crate) fn intermediate(&mut self, op: impl Into<Op>, inputs: &[ValueId]) -> ValueId {
        self.intermediate_of(op.into(), inputs)
    }

    fn intermediate_of(&mut self, op: Op, inputs: &[ValueId]) -> ValueId {
        let tensors: Vec<&Tensor> = inputs.iter().map(|id| self.known[id.index()].as_ref().expect(CHECKED)).collect();
        let shapes = inputs.iter().map(|id| &self.values[id.index()].shape);
        let operands = tensors.iter().zip(shapes).map(|(tensor, shape)| Operand { dtype: tensor.dtype(), shape });
        let TensorType { shape, dtype } = op.infer(&operands.collect::<Vec<_>>()).expect(CHECKED);
        self.run_of(op.into(), inputs, type_of(dtype), shape)
    }

    /// A step whose result is that of the CPU engine, and is not compared. The engine runs a program of this step alone: a case may have
    /// steps that the CPU refuses, such as divisions of integers by 0.
    pub(crate) fn run(
        &mut self,
        op: impl Into<StepOp>,
        inputs: &[ValueId],
        value_type: ValueType,
        shape: Shape,
    ) -> ValueId {
        self.run_of(op.into(), inputs, value_type, shape)
    }

    fn run_of(&mut self, op: StepOp, inputs: &[ValueId], value_type: ValueType, shape: Shape) -> ValueId {
        let id = self.step_of(op, inputs, value_type, shape);
        let (mut values, mut constants, mut given, mut tensors) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for input in inputs {
            let (at, tensor) = (ValueId::new(values.len()), self.known[input.index()].clone().expect(CHECKED));
            values.push(self.values[input.index()].clone());
            if self.constants.iter().any(|(constant, _)| constant == input) {
                constants.push((at, Arc::new(tensor)));
            } else {
                given.push(at);
                tensors.push(tensor);
            }
        }
        let output = ValueId::new(values.len());
        values.push(self.values[id.index()].clone());
        let inputs = (0..inputs.len()).map(ValueId::new).collect();
        let step = Step { inputs, output, ..self.steps[self.steps.len() - 1].clone() };
        let program = Program::new(values, constants, given, vec![output], vec![step]).expect(CHECKED);
        let outputs = cpu::Engine::new(&program).and_then(|engine| engine.run(&tensors)).expect(CHECKED);
        self.known[id.index()] = outputs.into_iter().next();
        id
    }

    /// A step whose result, of shape `[rows, dims…]`, is known. Adds nothing if its kernel is not needed.
    pub(crate) fn output(
        &mut self,
        kernel: impl Kernel,
        op: impl Into<StepOp>,
        inputs: &[ValueId],
        expected: Tensor,
    ) -> ValueId {
        let tested = self.tested(kernel);
        self.output_of(tested, op.into(), inputs, expected)
    }

    fn output_of(&mut self, tested: Tested, op: StepOp, inputs: &[ValueId], expected: Tensor) -> ValueId {
        if !self.needs_key(&tested.key) {
            return inputs[0];
        }
        let value_type = if matches!(op, StepOp::ToF16) { ValueType::F16 } else { type_of(expected.dtype()) };
        let id = self.step_of(op, inputs, value_type, Shape::batched(&expected.shape()[1..]));
        self.answer_of(tested, id, expected)
    }

    /// Compares a value with the right result.
    pub(crate) fn answer(&mut self, kernel: impl Kernel, id: ValueId, expected: Tensor) -> ValueId {
        let tested = self.tested(kernel);
        self.answer_of(tested, id, expected)
    }

    fn answer_of(&mut self, tested: Tested, id: ValueId, expected: Tensor) -> ValueId {
        self.outputs.push(id);
        self.known[id.index()] = Some(expected.clone());
        let Tested { key, may_be_near } = tested;
        self.expected.push(Expected { key, tensor: expected, may_be_near });
        id
    }

    /// The case; `None` if it compares nothing.
    pub(crate) fn finish(mut self) -> Result<Option<Case>, ProgramError> {
        if self.outputs.is_empty() {
            return Ok(None);
        }
        // An input that no step reads becomes a constant, which costs nothing.
        let (mut inputs, mut given) = (Vec::new(), Vec::new());
        for (id, tensor) in self.inputs.into_iter().zip(self.given) {
            if self.steps.iter().any(|step| step.inputs.contains(&id)) {
                inputs.push(id);
                given.push(tensor);
            } else {
                let value = &mut self.values[id.index()];
                (value.shape, value.value_type) = (Shape::fixed(tensor.shape()), type_of(tensor.dtype()));
                self.constants.push((id, Arc::new(tensor)));
            }
        }
        let program = Program::new(self.values, self.constants, inputs, self.outputs, self.steps)?;
        Ok(Some(Case { program, inputs: given, expected: self.expected }))
    }
}

fn type_of(dtype: DType) -> ValueType {
    match dtype {
        DType::I8 => ValueType::I8,
        DType::I32 => ValueType::I32,
        DType::F32 | DType::I64 => ValueType::F32,
    }
}

/// A tensor of which element `i` is `f(i)`.
pub(crate) fn tensor<T>(shape: &[usize], mut f: impl FnMut(usize) -> T) -> Tensor
where
    Tensor: From<RowMajor<T>>,
{
    filled(shape, &mut f)
}

/// The same, compiled once for each type of elements instead of once for each function.
fn filled<T>(shape: &[usize], f: &mut dyn FnMut(usize) -> T) -> Tensor
where
    Tensor: From<RowMajor<T>>,
{
    let elements = (0..shape.iter().product()).map(f).collect();
    Tensor::from(RowMajor::new(shape, elements).expect(CHECKED))
}

/// All int8 values, in no order.
pub(crate) fn int8(i: usize, seed: usize) -> i8 {
    (i * 97 + i / 13 * 31 + seed * 57) as u8 as i8
}

/// int32 values of all magnitudes, and the extremes.
pub(crate) fn int32(i: usize) -> i32 {
    match i % 16 {
        0 => i32::MIN,
        1 => i32::MAX,
        _ => (i as i32).wrapping_mul(-1_640_531_527) >> (i % 29),
    }
}

/// The floats that comparisons and selections can get wrong.
const SPECIAL: [u32; 12] = [
    0x7fc0_0000,
    0x7f80_0000,
    0xff80_0000,
    0,
    0x8000_0000,
    1,
    0x8000_0001,
    0x7f7f_ffff,
    0xff7f_ffff,
    0x3f80_0000,
    0xbf80_0000,
    0x0080_0000,
];

/// Returns NaN, infinities, zeros, subnormal numbers and others, in turn.
pub(crate) fn special(i: usize) -> f32 {
    f32::from_bits(SPECIAL[i % SPECIAL.len()])
}

/// Returns special numbers, everyday numbers, numbers of all exponents and random bits, in turn.
pub(crate) fn any_float(i: usize) -> f32 {
    let random = (i as u32).wrapping_mul(0x9e37_79b9) ^ (i as u32).wrapping_mul(0x85eb_ca6b).rotate_left(13);
    match i % 4 {
        0 => special(i / 4),
        1 => everyday(i),
        2 => f32::from_bits((i as u32 / 4 % 255) << 23 | random & 0x807f_ffff),
        _ => f32::from_bits(random),
    }
}

/// Returns numbers from −12 to 12.
pub(crate) fn everyday(i: usize) -> f32 {
    (i as u32).wrapping_mul(0x9e37_79b9) as i32 as f32 * (12.0 / 2_147_483_648.0)
}

/// Floats whose f16 is a tie, overflows or is subnormal.
pub(crate) fn between_f16(i: usize) -> f32 {
    match i % 3 {
        0 => special(i / 3),
        1 => f32::from_bits(0x3f80_1000 + (i as u32) * 0x1000),
        _ => (i as f32 - 20.0) * 2f32.powi(i as i32 % 50 - 30),
    }
}

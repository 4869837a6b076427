//! Known answers of the steps beside quantization and static linear layers: one case for each family of kernels whose bits are
//! promised, checked when a program is the first of its engine to need it.

mod cases;

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::gpu::layout::WeightBits;
use crate::program::{Program, ProgramError, Step, StepOp, Value, ValueId, ValueType};
use crate::values::{DType, Shape, Tensor};

/// Kernels that are tested together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Add,
    Mul,
    Table,
    MatMul,
    MatMulDynamic,
    Dynamic,
    Move,
    Max,
    Integers,
    ToFloat,
    Gather,
    Half,
    Choose,
    FourBits,
    TwoBits,
}

impl Family {
    pub(super) const ALL: [Self; 15] = [
        Self::Add,
        Self::Mul,
        Self::Table,
        Self::MatMul,
        Self::MatMulDynamic,
        Self::Dynamic,
        Self::Move,
        Self::Max,
        Self::Integers,
        Self::ToFloat,
        Self::Gather,
        Self::Half,
        Self::Choose,
        Self::FourBits,
        Self::TwoBits,
    ];

    /// Its case, of those kernels that are needed; of all, if it is not said which. `None` where none is.
    pub(super) fn case(self, needed: Option<&BTreeSet<&'static str>>) -> Result<Option<Case>, ProgramError> {
        let mut case = Maker { needed: needed.cloned(), ..Maker::default() };
        match self {
            Self::Add => cases::add(&mut case),
            Self::Mul => cases::mul(&mut case),
            Self::Table => cases::table(&mut case),
            Self::MatMul => cases::matmul(&mut case),
            Self::MatMulDynamic => cases::matmul_dynamic(&mut case),
            Self::Dynamic => cases::dynamic(&mut case),
            Self::Move => cases::moves(&mut case),
            Self::Max => cases::max(&mut case),
            Self::Integers => cases::integers(&mut case),
            Self::ToFloat => cases::to_float(&mut case),
            Self::Gather => cases::gather(&mut case),
            Self::Half => cases::half(&mut case),
            Self::Choose => cases::choose(&mut case),
            Self::FourBits => cases::few_bits(&mut case, FOUR_BITS, -8, 16),
            Self::TwoBits => cases::few_bits(&mut case, TWO_BITS, -2, 4),
        }
        case.finish()
    }
}

/// What a program needs of layers whose weights are packed into fewer bits.
pub(super) fn packed(program: &Program, packed: bool) -> BTreeSet<&'static str> {
    let bits = program.steps().iter().map(|step| match &step.op {
        StepOp::QLinear(linear) if packed => WeightBits::of(&linear.weight),
        _ => WeightBits::Eight,
    });
    let kernels = bits.filter_map(|bits| match bits {
        WeightBits::Four => Some(FOUR_BITS),
        WeightBits::Two => Some(TWO_BITS),
        WeightBits::Eight => None,
    });
    kernels.collect()
}

const FOUR_BITS: &str = "linear of 4 bits";
const TWO_BITS: &str = "linear of 2 bits";

/// A program with its inputs, and what its outputs must be, each with the kernel that makes it.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) program: Program,
    pub(super) inputs: Vec<Tensor>,
    pub(super) expected: Vec<(&'static str, Tensor)>,
}

/// Rows of the batch.
const ROWS: usize = 3;

#[derive(Debug, Default)]
struct Maker {
    /// The kernels that the case is for; all, if it is not said which.
    needed: Option<BTreeSet<&'static str>>,
    values: Vec<Value>,
    constants: Vec<(ValueId, Arc<Tensor>)>,
    inputs: Vec<ValueId>,
    outputs: Vec<ValueId>,
    steps: Vec<Step>,
    given: Vec<Tensor>,
    expected: Vec<(&'static str, Tensor)>,
}

impl Maker {
    fn needs(&self, kernel: &str) -> bool {
        self.needed.as_ref().is_none_or(|needed| needed.contains(kernel))
    }

    fn value(&mut self, value_type: ValueType, shape: Shape) -> ValueId {
        self.values.push(Value { name: format!("known {}", self.values.len()), value_type, shape, qparams: None });
        ValueId::new(self.values.len() - 1)
    }

    /// Of shape `[ROWS, dims…]`.
    fn input(&mut self, tensor: Tensor) -> ValueId {
        let id = self.value(type_of(&tensor), Shape::batched(&tensor.shape()[1..]));
        self.inputs.push(id);
        self.given.push(tensor);
        id
    }

    fn constant(&mut self, tensor: Tensor) -> ValueId {
        let id = self.value(type_of(&tensor), Shape::fixed(tensor.shape()));
        self.constants.push((id, Arc::new(tensor)));
        id
    }

    fn step(&mut self, op: StepOp, inputs: &[ValueId], value_type: ValueType, shape: Shape) -> ValueId {
        let output = self.value(value_type, shape);
        self.steps.push(Step { name: "known".to_owned(), op, inputs: inputs.to_vec(), output });
        output
    }

    /// A step whose result, of shape `[ROWS, dims…]`, is known; none if its kernel is not needed.
    fn output(&mut self, kernel: &'static str, op: StepOp, inputs: &[ValueId], expected: Tensor) -> ValueId {
        if !self.needs(kernel) {
            return inputs[0];
        }
        let value_type = if matches!(op, StepOp::ToF16) { ValueType::F16 } else { type_of(&expected) };
        let id = self.step(op, inputs, value_type, Shape::batched(&expected.shape()[1..]));
        self.answer(kernel, id, expected)
    }

    fn answer(&mut self, kernel: &'static str, id: ValueId, expected: Tensor) -> ValueId {
        self.outputs.push(id);
        self.expected.push((kernel, expected));
        id
    }

    fn finish(mut self) -> Result<Option<Case>, ProgramError> {
        if self.outputs.is_empty() {
            return Ok(None);
        }
        // What no step reads is no input: a constant that nobody reads costs nothing.
        let (mut inputs, mut given) = (Vec::new(), Vec::new());
        for (id, tensor) in self.inputs.into_iter().zip(self.given) {
            if self.steps.iter().any(|step| step.inputs.contains(&id)) {
                inputs.push(id);
                given.push(tensor);
            } else {
                self.values[id.index()].shape = Shape::fixed(tensor.shape());
                self.constants.push((id, Arc::new(tensor)));
            }
        }
        let program = Program::new(self.values, self.constants, inputs, self.outputs, self.steps)?;
        Ok(Some(Case { program, inputs: given, expected: self.expected }))
    }
}

fn type_of(tensor: &Tensor) -> ValueType {
    match tensor.dtype() {
        DType::I8 => ValueType::I8,
        DType::I32 => ValueType::I32,
        DType::F32 | DType::I64 => ValueType::F32,
    }
}

/// A tensor of which element `i` is `f(i)`.
fn tensor<T: Clone>(shape: &[usize], f: impl FnMut(usize) -> T) -> Tensor
where
    Tensor: From<ndarray::ArrayD<T>>,
{
    let mut f = f;
    let mut at = 0..;
    Tensor::from(ndarray::ArrayD::from_shape_simple_fn(ndarray::IxDyn(shape), || f(at.next().unwrap_or(0))))
}

/// All codes, in no order.
fn code(i: usize, seed: usize) -> i8 {
    (i * 97 + i / 13 * 31 + seed * 57) as u8 as i8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::shaders;

    /// What computes on floats, and is held to tolerances; and a table where operands lie apart, which no program has.
    const NO_BITS: [&str; 12] = [
        "add_f32_f32",
        "mul_f32_f32",
        "div_f32_f32",
        "sum_f32_f32",
        "add_flat_f32_f32",
        "mul_flat_f32_f32",
        "div_flat_f32_f32",
        "softmax_f32_f32",
        "layer_norm_f32_f32",
        "matmul_f32_f32",
        // Before the choice of scales, in one dispatch after the other.
        "range_f32_f32",
        "table_i8_i8",
    ];

    #[test]
    fn every_kernel_whose_bits_are_promised_has_a_case() {
        let case = |family: Family| family.case(None).expect("valid").expect("a case");
        let known: BTreeSet<&str> =
            Family::ALL.into_iter().flat_map(|family| case(family).expected).map(|(kernel, _)| kernel).collect();
        let general = [
            shaders::MAP,
            shaders::FLAT,
            shaders::DYNAMIC[0],
            shaders::NORMALIZE[0],
            shaders::MATMUL,
            shaders::MATMUL_I8,
        ];
        let entries: BTreeSet<&str> = general.iter().flat_map(|shader| shader.entries).copied().collect();
        let wanted: BTreeSet<&str> = entries.iter().filter(|entry| !NO_BITS.contains(entry)).copied().collect();
        let missing: Vec<_> = wanted.difference(&known).collect();
        assert!(missing.is_empty(), "{missing:?}");
        assert!(NO_BITS.iter().all(|entry| entries.contains(entry)));
    }

    /// A program that needs one kernel runs no other.
    #[test]
    fn a_case_is_of_what_is_needed() {
        let of = |family: Family, kernel: &'static str| family.case(Some(&BTreeSet::from([kernel]))).expect("valid");
        let case = of(Family::Add, "add_i8_i8").expect("a case");
        assert_eq!((case.program.steps().len(), case.inputs.len()), (1, 2));
        assert!(of(Family::Mul, "add_i8_i8").is_none());
        assert!(of(Family::Dynamic, "add_i8_i8").is_none());
    }
}

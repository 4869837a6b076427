//! Programs: device-neutral lists of steps, which both engines execute.
//!
//! A [`Program`] comes from [`lower`](crate::lower::lower) and knows no graph, no observer and no device. Every value is a
//! dense row-major tensor `[rows, dims…]`, where `rows` is the batch that the caller chooses for each run, or `[dims…]`.
//! Steps see it as a matrix `[rows · rows_factor, cols]`: `cols` is the last dimension and `rows_factor` the product of those
//! before it. An engine may use any layout on its device, but its inputs and outputs are dense.
//!
//! The arithmetic of each int8 step is an equation of [`numerics`](crate::numerics), so all engines give the same bits.

mod check;
mod error;
mod step;

use std::fmt;
use std::sync::Arc;

use crate::values::{DType, QParams, Shape, Tensor};

pub use error::ProgramError;
pub use step::{Epilogue, QConv, QLinear, QLut, QMatMul, Step, StepOp, WeightGroups};

/// The identifier of a value of one [`Program`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(u32);

impl ValueId {
    /// Returns the id of the value at `index` of [`Program::values`].
    #[must_use]
    pub fn new(index: usize) -> Self {
        // An overflow cannot happen: four billion values do not fit in memory.
        Self(u32::try_from(index).unwrap_or(u32::MAX))
    }

    /// Returns the index into [`Program::values`].
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// The element type of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ValueType {
    /// 32-bit float, four bytes an element.
    F32,
    /// Quantized value, one byte an element.
    I8,
    /// 32-bit integer, four bytes an element: ids.
    I32,
    /// f16, two bytes an element in a caller's buffer: the output of [`StepOp::ToF16`], and an input that [`StepOp::FromF16`] reads. Host
    /// tensors hold the same numbers as `f32`.
    F16,
}

impl ValueType {
    /// Returns the size of one element in a dense buffer, in bytes.
    #[must_use]
    pub fn size_bytes(self) -> usize {
        match self {
            Self::F32 | Self::I32 => 4,
            Self::F16 => 2,
            Self::I8 => 1,
        }
    }

    /// Returns the element type of a host tensor that holds such a value.
    #[must_use]
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 | Self::F16 => DType::F32,
            Self::I8 => DType::I8,
            Self::I32 => DType::I32,
        }
    }
}

/// The description of one tensor of a program: an input, a constant, or the result of a step.
#[derive(Debug, Clone, PartialEq)]
pub struct Value {
    /// Name of the graph node that computes it. An output has the name of the graph's output.
    pub name: String,
    /// Element type.
    pub value_type: ValueType,
    /// Shape. No length may be 0, and one row of the batch must fit in memory.
    pub shape: Shape,
    /// Scale and zero point of int8 values. `None` for other types, for dynamic qparams, and if they are not known.
    pub qparams: Option<QParams>,
}

impl Value {
    /// Returns the number of matrix rows for each row of the batch. For a value without a batch, it is the number of all matrix
    /// rows.
    #[must_use]
    pub fn rows_factor(&self) -> usize {
        let mut leading = self.shape.fixed_dims();
        leading.pop();
        leading.iter().fold(1, |n, &d| n.saturating_mul(d))
    }

    /// Returns the number of matrix columns. A value `[rows]` is a column.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.shape.last().unwrap_or(1)
    }

    /// Returns the number of elements for a batch of `rows`, or `None` if it overflows.
    #[must_use]
    pub fn len(&self, rows: usize) -> Option<usize> {
        let rows = if self.shape.is_batched() { rows } else { 1 };
        rows.checked_mul(self.rows_factor())?.checked_mul(self.cols())
    }
}

/// A network as a list of steps, ready for an engine. [`lower`](crate::lower::lower) makes it of a graph.
///
/// Steps are in execution order. Every value is an input, a constant, or written by exactly one step, before it is read. No value is
/// both an input and an output, and no value is listed twice among the outputs.
///
/// This is how to read a program:
///
/// ```
/// use enfold::lower::lower;
/// use enfold::program::{StepOp, ValueType};
/// use enfold::{GraphBuilder, Shape, Tensor};
///
/// let mut g = GraphBuilder::new();
/// let x = g.input("x", Shape::rows(2))?;
/// let h = g.linear("fc", x, Tensor::from_f32(&[3, 2], vec![0.5; 6])?, None)?;
/// let y = g.relu("y", h)?;
/// let program = lower(&g.finish([y])?)?;
///
/// println!("{program}"); // one line for each step
/// for step in program.steps() {
///     let output = program.value(step.output);
///     println!("{} writes {}: {:?} {}", step.name, output.name, output.value_type, output.shape);
///     for &input in &step.inputs {
///         // The elements of a constant are in the program; those of other values exist only while an engine runs.
///         let kind = if program.constant(input).is_some() { "constant" } else { "computed or given" };
///         println!("  reads {}, {kind}", program.value(input).name);
///     }
///     if let StepOp::QLinear(linear) = &step.op {
///         println!("  int8 weights [{}, {}]", linear.n, linear.k);
///     }
/// }
/// let names: Vec<&str> = program.steps().iter().map(|step| step.op.name()).collect();
/// assert_eq!(names, ["linear", "relu"]);
/// assert_eq!(program.value(program.inputs()[0]).value_type, ValueType::F32);
/// # Ok::<(), enfold::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Program {
    values: Vec<Value>,
    constants: Vec<(ValueId, Arc<Tensor>)>,
    inputs: Vec<ValueId>,
    outputs: Vec<ValueId>,
    steps: Vec<Step>,
    /// Index into `constants` of each value that is one.
    constant_at: Vec<Option<usize>>,
}

impl Program {
    /// Makes a program, and checks everything that the engines rely on: order, shapes, types, vector lengths, factors and the
    /// accumulator bound (equation 4).
    ///
    /// # Errors
    /// Returns [`ProgramError`], which names the first step or value that is wrong.
    pub fn new(
        values: Vec<Value>,
        constants: Vec<(ValueId, Arc<Tensor>)>,
        inputs: Vec<ValueId>,
        outputs: Vec<ValueId>,
        steps: Vec<Step>,
    ) -> Result<Self, ProgramError> {
        let mut constant_at = vec![None; values.len()];
        for (at, (id, _)) in constants.iter().enumerate() {
            // `check_values` refuses others.
            constant_at.get_mut(id.index()).into_iter().for_each(|constant| *constant = Some(at));
        }
        let program = Self { values, constants, inputs, outputs, steps, constant_at };
        program.check_values()?;
        program.check_order()?;
        program.steps.iter().try_for_each(|step| check::check_step(&program, step))?;
        let is_not_quantized = |value: &&Value| value.qparams.is_some() && value.value_type != ValueType::I8;
        if let Some(value) = program.values.iter().find(is_not_quantized) {
            let problem = "has a scale and a zero point, but its elements are not of int8";
            return Err(ProgramError::Order { value: value.name.clone(), problem });
        }
        Ok(program)
    }

    /// Returns all values, indexed by [`ValueId::index`].
    #[must_use]
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// Returns the value with this id.
    ///
    /// # Panics
    /// Panics if the program has no such value: `id` belongs to a larger program.
    #[must_use]
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.index()]
    }

    /// Returns the constants, with the values that they are.
    #[must_use]
    pub fn constants(&self) -> &[(ValueId, Arc<Tensor>)] {
        &self.constants
    }

    /// Returns the tensor of a value that is a constant, and `None` for other values.
    #[must_use]
    pub fn constant(&self, id: ValueId) -> Option<&Tensor> {
        let at = *self.constant_at.get(id.index())?;
        at.map(|at| &*self.constants[at].1)
    }

    /// Returns the values that the caller provides, in the order of the graph's inputs.
    #[must_use]
    pub fn inputs(&self) -> &[ValueId] {
        &self.inputs
    }

    /// Returns the values that the caller receives, in the order of the graph's outputs.
    #[must_use]
    pub fn outputs(&self) -> &[ValueId] {
        &self.outputs
    }

    /// Returns the steps, in execution order.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Checks shapes, and that constants have the shape and type of their values.
    fn check_values(&self) -> Result<(), ProgramError> {
        for value in &self.values {
            let (name, dims) = (|| value.name.clone(), value.shape.fixed_dims());
            if dims.contains(&0) {
                return Err(ProgramError::Dims { value: name(), dims: dims.to_vec() });
            }
            if value.shape.elements().is_none() {
                return Err(ProgramError::Elements { value: name(), dims: dims.to_vec() });
            }
        }
        for (id, tensor) in &self.constants {
            let values = self.values.len();
            let value = self.values.get(id.index()).ok_or_else(|| ProgramError::UnknownValue {
                step: "program".to_owned(),
                index: id.index(),
                values,
            })?;
            if tensor.dtype() != value.value_type.dtype() || value.shape != Shape::fixed(tensor.shape()) {
                let (value, shape) = (value.name.clone(), format!("{}{}", value.value_type.dtype(), value.shape));
                let actual = format!("{}{:?}", tensor.dtype(), tensor.shape());
                return Err(ProgramError::Constant { value, actual, shape });
            }
        }
        Ok(())
    }

    /// Checks that every value is written once, before it is read, and that outputs are written by steps.
    fn check_order(&self) -> Result<(), ProgramError> {
        for (id, _) in &self.constants {
            if let Some(value) = self.values.get(id.index()).filter(|value| value.value_type == ValueType::F16) {
                let problem = "is a constant of 16-bit floats (f16), which only inputs and outputs have";
                return Err(ProgramError::Order { value: value.name.clone(), problem });
            }
        }
        let mut written = vec![false; self.values.len()];
        let order =
            |id: ValueId, problem| Err(ProgramError::Order { value: self.values[id.index()].name.clone(), problem });
        let known = |step: &str, id: ValueId| {
            if id.index() < self.values.len() {
                return Ok(());
            }
            Err(ProgramError::UnknownValue { step: step.to_owned(), index: id.index(), values: self.values.len() })
        };
        for &id in self.inputs.iter().chain(self.constants.iter().map(|(id, _)| id)) {
            known("program", id)?;
            if std::mem::replace(&mut written[id.index()], true) {
                return order(id, "is listed twice among the inputs and constants");
            }
        }
        for step in &self.steps {
            for &input in &step.inputs {
                known(&step.name, input)?;
                if !written[input.index()] {
                    return order(input, "is read before it is written");
                }
            }
            known(&step.name, step.output)?;
            if std::mem::replace(&mut written[step.output.index()], true) {
                return order(step.output, "is written twice");
            }
        }
        if let Some(at) = written.iter().position(|written| !written) {
            return order(ValueId::new(at), "is no input and no constant, and no step writes it");
        }
        let [mut written_by_steps, mut listed] = [(); 2].map(|()| vec![false; self.values.len()]);
        self.steps.iter().for_each(|step| written_by_steps[step.output.index()] = true);
        for &id in &self.outputs {
            known("program", id)?;
            if !written_by_steps[id.index()] {
                return order(id, "is an output that no step writes");
            }
            if std::mem::replace(&mut listed[id.index()], true) {
                return order(id, "is listed twice among the outputs");
            }
        }
        Ok(())
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            let inputs: Vec<&str> = step.inputs.iter().map(|&input| self.value(input).name.as_str()).collect();
            write!(f, "{} = {}({})", self.value(step.output).name, step.op.name(), inputs.join(", "))?;
            if let Some(l) = step.op.layer() {
                write!(f, " n {} k {} fraction_bits {}", l.n, l.k, l.fraction_bits)?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

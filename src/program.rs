//! What both engines execute: a device-neutral list of integer steps.
//!
//! A [`Program`] comes from [`lower`](crate::lower::lower) and knows no graph, no observer and no device. Every value is a
//! dense row-major tensor `[rows, dims…]`, where `rows` is the batch that the caller chooses for each run. Steps see it as
//! a matrix `[rows · rows_factor, cols]`: `cols` is the last dimension and `rows_factor` the product of those before it.
//! How an engine lays a value out on its device is its own affair; what it takes and returns is dense.
//!
//! The arithmetic of each step is an equation of [`numerics`], so all engines give the same bits.

mod error;
mod step;

use std::fmt;

use crate::numerics;
use crate::qparams::QParams;

pub use error::ProgramError;
pub use step::{Dequantize, Epilogue, QLinear, Quantize, Step};

/// Names a value of one [`Program`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(u32);

impl ValueId {
    /// The value at `index` of [`Program::values`].
    #[must_use]
    pub fn new(index: usize) -> Self {
        // A program has one value a graph node, and those are counted in u32.
        Self(u32::try_from(index).unwrap_or(u32::MAX))
    }

    /// Index into [`Program::values`].
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// The element type of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ValueType {
    /// 32-bit float, four bytes an element.
    F32,
    /// int8 code, one byte an element.
    I8,
}

impl ValueType {
    /// Bytes of one element in a dense buffer.
    #[must_use]
    pub fn size_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::I8 => 1,
        }
    }
}

/// One tensor `[rows, dims…]` that flows through the program.
#[derive(Debug, Clone, PartialEq)]
pub struct Value {
    /// The name of the graph node that computes it.
    pub name: String,
    /// Element type.
    pub value_type: ValueType,
    /// The dimensions after `rows`: at least one, none of them 0.
    pub dims: Vec<usize>,
    /// What an int8 code means; `None` for a float value.
    pub qparams: Option<QParams>,
}

impl Value {
    /// Matrix rows for each batch row.
    #[must_use]
    pub fn rows_factor(&self) -> usize {
        let leading = self.dims.split_last().map_or(&[][..], |(_, leading)| leading);
        leading.iter().fold(1, |n, &d| n.saturating_mul(d))
    }

    /// Matrix columns.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.dims.last().copied().unwrap_or_default()
    }

    /// Elements at a batch of `rows`, or `None` if that number does not fit.
    #[must_use]
    pub fn len(&self, rows: usize) -> Option<usize> {
        rows.checked_mul(self.rows_factor())?.checked_mul(self.cols())
    }
}

/// A network in integers, ready for an engine.
///
/// Steps are in execution order; every value is an input or written by exactly one step, before it is read. No value is
/// both an input and an output, and no value is listed twice among the outputs.
#[derive(Debug, Clone, PartialEq)]
pub struct Program {
    values: Vec<Value>,
    inputs: Vec<ValueId>,
    outputs: Vec<ValueId>,
    steps: Vec<Step>,
}

impl Program {
    /// Checks everything that the engines rely on: order, shapes, types, vector lengths, factors and the accumulator bound.
    ///
    /// # Errors
    /// [`ProgramError`], naming the first step or value that is wrong.
    pub fn new(
        values: Vec<Value>,
        inputs: Vec<ValueId>,
        outputs: Vec<ValueId>,
        steps: Vec<Step>,
    ) -> Result<Self, ProgramError> {
        let program = Self { values, inputs, outputs, steps };
        program.check_values()?;
        program.check_order()?;
        program.steps.iter().try_for_each(|step| program.check_step(step))?;
        Ok(program)
    }

    /// All values, indexed by [`ValueId::index`].
    #[must_use]
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// What `id` names.
    ///
    /// # Panics
    /// If the program has no such value: `id` belongs to a larger program.
    #[must_use]
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.index()]
    }

    /// The values that the caller provides, in the graph's order.
    #[must_use]
    pub fn inputs(&self) -> &[ValueId] {
        &self.inputs
    }

    /// The values that the caller receives, in the graph's order.
    #[must_use]
    pub fn outputs(&self) -> &[ValueId] {
        &self.outputs
    }

    /// The steps, in execution order.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    fn check_values(&self) -> Result<(), ProgramError> {
        match self.values.iter().find(|v| v.dims.is_empty() || v.dims.contains(&0)) {
            Some(value) => Err(ProgramError::Dims { value: value.name.clone(), dims: value.dims.clone() }),
            None => Ok(()),
        }
    }

    fn check_order(&self) -> Result<(), ProgramError> {
        let mut written = vec![false; self.values.len()];
        let order =
            |id: ValueId, problem| Err(ProgramError::Order { value: self.values[id.index()].name.clone(), problem });
        let known = |step: &str, id: ValueId| {
            if id.index() < self.values.len() {
                return Ok(());
            }
            Err(ProgramError::UnknownValue { step: step.to_owned(), index: id.index(), values: self.values.len() })
        };
        for &id in &self.inputs {
            known("program", id)?;
            if std::mem::replace(&mut written[id.index()], true) {
                return order(id, "is listed twice among the inputs");
            }
        }
        for step in &self.steps {
            known(step.name(), step.input())?;
            known(step.name(), step.output())?;
            if !written[step.input().index()] {
                return order(step.input(), "is read before it is written");
            }
            if std::mem::replace(&mut written[step.output().index()], true) {
                return order(step.output(), "is written twice");
            }
        }
        for (i, &id) in self.outputs.iter().enumerate() {
            known("program", id)?;
            if !written[id.index()] {
                return order(id, "is an output that no step writes");
            }
            if self.inputs.contains(&id) {
                return order(id, "is both an input and an output");
            }
            if self.outputs[..i].contains(&id) {
                return order(id, "is listed twice among the outputs");
            }
        }
        Ok(())
    }

    fn check_step(&self, step: &Step) -> Result<(), ProgramError> {
        let name = step.name();
        let (input, output) = (self.value(step.input()), self.value(step.output()));
        let size = |what, actual, expected| {
            if actual == expected {
                return Ok(());
            }
            Err(ProgramError::Size { step: name.to_owned(), what, actual, expected })
        };
        let is = |value: &Value, expected| {
            if value.value_type == expected {
                return Ok(());
            }
            let (value, actual) = (value.name.clone(), value.value_type);
            Err(ProgramError::Type { step: name.to_owned(), value, actual, expected })
        };
        let codes = |lo: i32, hi: i32, zero_point: i32| {
            let inside = |c: i32| i8::try_from(c).is_ok();
            if inside(lo) && inside(hi) && inside(zero_point) && lo <= hi {
                return Ok(());
            }
            Err(ProgramError::Codes { step: name.to_owned(), lo, hi, zero_point })
        };
        size("output rows factor", output.rows_factor(), input.rows_factor())?;
        match step {
            Step::Quantize(q) => {
                is(input, ValueType::F32)?;
                is(output, ValueType::I8)?;
                size("output columns", output.cols(), input.cols())?;
                codes(q.range.quant_min(), q.range.quant_max(), q.qparams.zero_point())
            }
            Step::Dequantize(_) => {
                is(input, ValueType::I8)?;
                is(output, ValueType::F32)?;
                size("output columns", output.cols(), input.cols())
            }
            Step::Linear(l) => {
                is(input, ValueType::I8)?;
                size("input columns", input.cols(), l.k)?;
                size("output columns", output.cols(), l.n)?;
                size("weight length", l.weight.len(), l.n * l.k)?;
                size("bias length", l.bias.len(), l.n)?;
                let factors = match &l.epilogue {
                    Epilogue::Requantize { multiplier, zero_point, lo, hi } => {
                        is(output, ValueType::I8)?;
                        codes(*lo, *hi, *zero_point)?;
                        multiplier
                    }
                    Epilogue::Scale { scale, .. } => {
                        is(output, ValueType::F32)?;
                        scale
                    }
                };
                size("factors", factors.len(), l.n)?;
                if let Some((channel, &factor)) = factors.iter().enumerate().find(|(_, f)| !f.is_normal() || **f < 0.0)
                {
                    return Err(ProgramError::Factor { step: name.to_owned(), channel, factor });
                }
                check_accumulator(l)
            }
        }
    }
}

/// The bound of equation 4 on every channel.
fn check_accumulator(l: &QLinear) -> Result<(), ProgramError> {
    // Guards the shift below; `fraction_bits` counts as a size here.
    let (actual, expected) = (l.fraction_bits as usize, numerics::MAX_FRACTION_BITS as usize);
    if actual > expected {
        return Err(ProgramError::Size { step: l.name.clone(), what: "fraction bits", actual, expected });
    }
    if l.k == 0 || l.n == 0 {
        return Err(ProgramError::Size { step: l.name.clone(), what: "weight length", actual: 0, expected: 1 });
    }
    for (channel, (row, &bias)) in l.weight.chunks_exact(l.k).zip(l.bias.iter()).enumerate() {
        let magnitude = row.iter().map(|&w| i64::from(w.unsigned_abs())).sum();
        if !numerics::fits_accumulator(magnitude, i64::from(bias), l.fraction_bits) {
            return Err(ProgramError::Accumulator {
                step: l.name.clone(),
                channel,
                products: (magnitude * 128) << l.fraction_bits,
                bias: i64::from(bias).abs(),
                fraction_bits: l.fraction_bits,
            });
        }
    }
    Ok(())
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            let (input, output) = (self.value(step.input()), self.value(step.output()));
            let what = match step {
                Step::Quantize(_) => "quantize_f32_i8".to_owned(),
                Step::Dequantize(_) => "dequantize_i8_f32".to_owned(),
                Step::Linear(l) => {
                    let to = if matches!(l.epilogue, Epilogue::Requantize { .. }) { "i8" } else { "f32" };
                    format!("linear_i8_{to} n {} k {} fraction_bits {}", l.n, l.k, l.fraction_bits)
                }
            };
            writeln!(f, "{} = {what}({})", output.name, input.name)?;
        }
        Ok(())
    }
}

//! What engines rely on: each step's types, shapes and numbers.

use super::{Epilogue, FloatOp, Program, ProgramError, QAdd, QLinear, QMatMul, QMul, Step, StepOp, Value, ValueType};
use crate::numerics::{self, MAX_MATMUL_K};
use crate::qparams::{MAX_SCALE, MIN_SCALE, QParams, QScheme};

/// Shapes are checked at two numbers of rows that no static length has by accident, so that a shape that confuses `rows` with
/// another axis does not pass.
const ROWS: [usize; 2] = [1_000_003, 1_000_033];

pub(super) fn check_step(program: &Program, step: &Step) -> Result<(), ProgramError> {
    let check = Check { program, step };
    let expected = match &step.op {
        StepOp::Linear(QLinear { epilogue: Epilogue::Dynamic { .. }, .. }) => 2..=2,
        StepOp::Linear(_) | StepOp::Quantize { .. } | StepOp::Dequantize { .. } | StepOp::Table { .. } => 1..=1,
        StepOp::ChooseQParams { .. } | StepOp::Reshape | StepOp::Transpose { .. } => 1..=1,
        StepOp::Max { .. } | StepOp::ToHalf | StepOp::Slice { .. } | StepOp::ToFloat => 1..=1,
        StepOp::ToInteger { .. } | StepOp::SumInt32 { .. } => 1..=1,
        StepOp::Int32 { .. } => 2..=2,
        StepOp::Float(FloatOp::Unary(_) | FloatOp::Softmax { .. }) => 1..=1,
        StepOp::Float(FloatOp::Clamp { .. } | FloatOp::Sum { .. }) => 1..=1,
        StepOp::MatMul(_) | StepOp::Add(_) | StepOp::Mul(_) | StepOp::Gather => 2..=2,
        StepOp::QuantizeDynamic { .. } | StepOp::DequantizeDynamic => 2..=2,
        StepOp::Float(FloatOp::MatMul | FloatOp::Add | FloatOp::Mul | FloatOp::Div) => 2..=2,
        StepOp::Float(FloatOp::Keep { .. } | FloatOp::Binary(_)) => 2..=2,
        StepOp::Float(FloatOp::LayerNorm { .. }) => 3..=3,
        StepOp::MatMulDynamic { .. } => 4..=4,
        StepOp::Float(FloatOp::Linear) => 2..=3,
        StepOp::Concat { .. } => 2..=usize::MAX,
    };
    if !expected.contains(&step.inputs.len()) {
        return check.size("number of inputs", step.inputs.len(), *expected.start());
    }
    check.types()?;
    check.numbers()?;
    check.shapes()?;
    check.meaning()
}

struct Check<'p> {
    program: &'p Program,
    step: &'p Step,
}

impl Check<'_> {
    fn input(&self, at: usize) -> &Value {
        self.program.value(self.step.inputs[at])
    }

    fn output(&self) -> &Value {
        self.program.value(self.step.output)
    }

    fn types(&self) -> Result<(), ProgramError> {
        use ValueType::{F16, F32, I8, I32};
        let first = self.input(0).value_type;
        let epilogue = |epilogue: &Epilogue| if matches!(epilogue, Epilogue::Requantize { .. }) { I8 } else { F32 };
        let (inputs, output): (&[ValueType], ValueType) = match &self.step.op {
            StepOp::Quantize { .. } => (&[F32], I8),
            StepOp::Dequantize { .. } => (&[I8], F32),
            StepOp::Linear(l) => (&[I8, F32], epilogue(&l.epilogue)),
            StepOp::MatMul(m) => (&[I8, I8], epilogue(&m.epilogue)),
            StepOp::MatMulDynamic { .. } => (&[I8, I8, F32, F32], F32),
            StepOp::Add(_) | StepOp::Mul(_) => (&[I8, I8], I8),
            StepOp::Table { .. } => (&[I8], I8),
            StepOp::ChooseQParams { .. } => (&[F32], F32),
            StepOp::QuantizeDynamic { .. } => (&[F32, F32], I8),
            StepOp::DequantizeDynamic => (&[I8, F32], F32),
            StepOp::ToHalf => (&[F32], F16),
            StepOp::ToFloat => (&[I32], F32),
            StepOp::ToInteger { .. } if first == I32 => (&[I32], I32),
            StepOp::ToInteger { .. } => (&[F32], I32),
            StepOp::Int32 { .. } | StepOp::SumInt32 { .. } => (&[I32, I32], I32),
            StepOp::Concat { .. } | StepOp::Reshape | StepOp::Transpose { .. } | StepOp::Slice { .. } => {
                (&vec![first; self.step.inputs.len()], first)
            }
            StepOp::Max { .. } if matches!(first, I8 | I32) => (&[first], first),
            StepOp::Max { .. } => (&[F32], F32),
            StepOp::Gather => (&[I32, F32], F32),
            StepOp::Float(_) => (&[F32, F32, F32], F32),
        };
        // Only the caller reads halves.
        if let Some(half) = (0..self.step.inputs.len()).map(|at| self.input(at)).find(|v| v.value_type == F16) {
            return self.is(half, F32);
        }
        for (at, &expected) in inputs.iter().enumerate().take(self.step.inputs.len()) {
            self.is(self.input(at), expected)?;
        }
        self.is(self.output(), output)
    }

    fn numbers(&self) -> Result<(), ProgramError> {
        match &self.step.op {
            StepOp::Quantize { qparams, range } => {
                self.codes(range.quant_min(), range.quant_max(), qparams.zero_point())
            }
            StepOp::QuantizeDynamic { range } => self.codes(range.quant_min(), range.quant_max(), 0),
            StepOp::ChooseQParams { range, eps, .. } => {
                if !(MIN_SCALE..=MAX_SCALE).contains(eps) {
                    return Err(self.factor(0, *eps));
                }
                self.codes(range.quant_min(), range.quant_max(), 0)
            }
            StepOp::Linear(l) => {
                self.size("input columns", self.input(0).cols(), l.k)?;
                self.size("output columns", self.output().cols(), l.n)?;
                self.size("weight length", l.weight.len(), l.n.saturating_mul(l.k))?;
                self.size("bias length", l.bias.len(), l.n)?;
                self.epilogue(&l.epilogue, l.n)?;
                check_accumulator(&self.step.name, l)?;
                check_dynamic(&self.step.name, l)
            }
            StepOp::MatMul(m) => {
                self.zero_points([m.a_zero_point, m.b_zero_point])?;
                self.matmul_sum()?;
                if let Epilogue::Dynamic { .. } = m.epilogue {
                    return self.size("dynamic epilogues", 1, 0);
                }
                self.epilogue(&m.epilogue, self.output().cols())
            }
            StepOp::MatMulDynamic { .. } => self.matmul_sum(),
            StepOp::Add(a) => {
                self.zero_points([a.a_zero_point, a.b_zero_point])?;
                if !a.multipliers.are_usable() {
                    return Err(self.factor(0, a.multipliers.a.max(a.multipliers.b) as f32));
                }
                self.codes(a.lo, a.hi, a.zero_point)
            }
            StepOp::Mul(m) => {
                self.zero_points([m.a_zero_point, m.b_zero_point])?;
                self.factors(&[m.multiplier])?;
                self.codes(m.lo, m.hi, m.zero_point)
            }
            StepOp::Table { table } => self.size("entries of the table", table.len(), 256),
            StepOp::Float(FloatOp::LayerNorm { eps }) if !eps.is_finite() || *eps < 0.0 => Err(self.factor(0, *eps)),
            &StepOp::Float(FloatOp::Clamp { min, max }) if min.is_nan() || max.is_nan() || min > max => {
                Err(ProgramError::Bounds { step: self.step.name.clone(), min, max })
            }
            _ => Ok(()),
        }
    }

    /// A value says of its codes what the step that writes it makes of them. Steps that read it may take them otherwise.
    fn meaning(&self) -> Result<(), ProgramError> {
        let value = self.output();
        let Some(actual) = value.qparams else { return Ok(()) };
        let expected = match &self.step.op {
            StepOp::Quantize { qparams, .. } => Some(*qparams),
            StepOp::Linear(QLinear { epilogue: Epilogue::Requantize { zero_point, .. }, .. })
            | StepOp::MatMul(QMatMul { epilogue: Epilogue::Requantize { zero_point, .. }, .. })
            | StepOp::Add(QAdd { zero_point, .. })
            | StepOp::Mul(QMul { zero_point, .. }) => QParams::new(actual.scale(), *zero_point).ok(),
            StepOp::Reshape | StepOp::Transpose { .. } | StepOp::Slice { .. } | StepOp::Max { .. } => {
                self.input(0).qparams
            }
            StepOp::QuantizeDynamic { .. } => None,
            _ => return Ok(()),
        };
        if expected == Some(actual) {
            return Ok(());
        }
        let (step, value) = (self.step.name.clone(), value.name.clone());
        Err(ProgramError::Meaning { step, value, actual, expected })
    }

    fn shapes(&self) -> Result<(), ProgramError> {
        for rows in ROWS {
            let inputs: Vec<Vec<usize>> =
                (0..self.step.inputs.len()).map(|at| self.input(at).shape.with_rows(rows)).collect();
            let output = self.output().shape.with_rows(rows);
            if !self.fits(&inputs, &output) {
                let inputs = (0..inputs.len()).map(|at| self.input(at).shape.to_string()).collect();
                let (step, output) = (self.step.name.clone(), self.output().shape.to_string());
                return Err(ProgramError::Shapes { step, inputs, output });
            }
        }
        Ok(())
    }

    fn fits(&self, inputs: &[Vec<usize>], output: &[usize]) -> bool {
        let x = &inputs[0];
        let with_last = |last: usize| x.split_last().map(|(_, lead)| [lead, &[last]].concat());
        // Pairs for the tensor, or for each row.
        let pairs = |of: &[usize], pairs: &[usize]| {
            pairs == [2] || of.split_last().is_some_and(|(_, lead)| pairs == [lead, &[2]].concat())
        };
        match &self.step.op {
            StepOp::Quantize { .. } | StepOp::Dequantize { .. } | StepOp::Table { .. } => output == x,
            StepOp::Float(FloatOp::Unary(_) | FloatOp::Clamp { .. }) => output == x,
            StepOp::ToHalf | StepOp::ToFloat | StepOp::ToInteger { .. } => output == x,
            StepOp::Linear(l) => {
                let dynamic = inputs.get(1).is_none_or(|given| pairs(x, given));
                x.last() == Some(&l.k) && with_last(l.n).as_deref() == Some(output) && dynamic
            }
            StepOp::Float(FloatOp::Linear) => {
                let &[n, k] = inputs[1].as_slice() else { return false };
                let bias = inputs.get(2).is_none_or(|bias| *bias == [n]);
                x.last() == Some(&k) && with_last(n).as_deref() == Some(output) && bias
            }
            StepOp::MatMulDynamic { .. } if !pairs(x, &inputs[2]) || inputs[3] != [2] => false,
            StepOp::MatMul(_) | StepOp::MatMulDynamic { .. } | StepOp::Float(FloatOp::MatMul) => {
                let (Some((a_stack, &[m, k])), Some((b_stack, &[k_too, n]))) =
                    (x.split_last_chunk::<2>(), inputs[1].split_last_chunk::<2>())
                else {
                    return false;
                };
                let stack = broadcast(a_stack, b_stack);
                k == k_too && stack.is_some_and(|stack| output == [stack.as_slice(), &[m, n]].concat())
            }
            StepOp::Add(_)
            | StepOp::Mul(_)
            | StepOp::Int32 { .. }
            | StepOp::Float(FloatOp::Add | FloatOp::Mul | FloatOp::Div | FloatOp::Keep { .. } | FloatOp::Binary(_)) => {
                broadcast(x, &inputs[1]).as_deref() == Some(output)
            }
            StepOp::ChooseQParams { qscheme, .. } => match qscheme {
                // The batch is no axis of features.
                QScheme::PerTokenAffine if self.input(0).shape.last().is_none() => false,
                QScheme::PerTokenAffine => with_last(2).as_deref() == Some(output),
                QScheme::PerTensorAffine | QScheme::PerTensorSymmetric => output == [2],
                _ => false,
            },
            StepOp::QuantizeDynamic { .. } | StepOp::DequantizeDynamic => output == x && pairs(x, &inputs[1]),
            StepOp::Concat { axis } => {
                let others = |shape: &[usize]| {
                    let mut shape = shape.to_vec();
                    if let Some(length) = shape.get_mut(*axis) {
                        *length = 0;
                    }
                    shape
                };
                let total = inputs.iter().map(|shape| shape.get(*axis).copied().unwrap_or_default()).sum();
                let movable = *axis > 0 || !self.input(0).shape.is_batched();
                output.get(*axis) == Some(&total) && movable && inputs.iter().all(|i| others(i) == others(output))
            }
            StepOp::Reshape => {
                let (x, y) = (&self.input(0).shape, &self.output().shape);
                x.is_batched() == y.is_batched() && x.elements() == y.elements()
            }
            StepOp::Transpose { perm } => {
                let mut sorted = perm.clone();
                sorted.sort_unstable();
                let all = sorted == (0..x.len()).collect::<Vec<_>>() && self.input(0).shape.last().is_some();
                all && perm.iter().map(|&axis| x[axis]).collect::<Vec<_>>() == output
            }
            StepOp::Slice { axis, start, end } => {
                let mut shape = x.clone();
                let movable = *axis > 0 || !self.input(0).shape.is_batched();
                let Some(length) = shape.get_mut(*axis) else { return false };
                let inside = start < end && *end <= *length;
                *length = end.saturating_sub(*start);
                movable && inside && shape == output
            }
            StepOp::Max { axis } | StepOp::SumInt32 { axis, .. } | StepOp::Float(FloatOp::Sum { axis }) => {
                let mut shape = x.clone();
                let movable = *axis > 0 || !self.input(0).shape.is_batched();
                movable && *axis < x.len() && shape.remove(*axis) > 0 && shape == output
            }
            StepOp::Gather => match inputs[1].as_slice() {
                &[_, d] if !self.input(1).shape.is_batched() => output == [x.as_slice(), &[d]].concat(),
                _ => false,
            },
            StepOp::Float(FloatOp::Softmax { axis }) => {
                output == x && *axis < x.len() && (*axis > 0 || !self.input(0).shape.is_batched())
            }
            StepOp::Float(FloatOp::LayerNorm { .. }) => {
                let weight = &inputs[1];
                let batched = self.input(1).shape.is_batched() || self.input(2).shape.is_batched();
                !batched && output == x && !weight.is_empty() && x.ends_with(weight) && *weight == inputs[2]
            }
        }
    }

    fn epilogue(&self, epilogue: &Epilogue, n: usize) -> Result<(), ProgramError> {
        self.size("factors", epilogue.factors().len(), n)?;
        self.factors(epilogue.factors())?;
        match epilogue {
            Epilogue::Requantize { zero_point, lo, hi, .. } => self.codes(*lo, *hi, *zero_point),
            Epilogue::Scale { .. } => Ok(()),
            Epilogue::Dynamic { weight_sum, bias, .. } => {
                self.size("weight sums", weight_sum.len(), n)?;
                self.size("bias length", bias.len(), n)
            }
        }
    }

    /// The bound of equation 9.
    fn matmul_sum(&self) -> Result<(), ProgramError> {
        let k = self.input(0).cols();
        if k > MAX_MATMUL_K { self.size("products in a sum", k, MAX_MATMUL_K) } else { Ok(()) }
    }

    fn size(&self, what: &'static str, actual: usize, expected: usize) -> Result<(), ProgramError> {
        if actual == expected {
            return Ok(());
        }
        Err(ProgramError::Size { step: self.step.name.clone(), what, actual, expected })
    }

    fn is(&self, value: &Value, expected: ValueType) -> Result<(), ProgramError> {
        if value.value_type == expected {
            return Ok(());
        }
        let (value, actual) = (value.name.clone(), value.value_type);
        Err(ProgramError::Type { step: self.step.name.clone(), value, actual, expected })
    }

    fn codes(&self, lo: i32, hi: i32, zero_point: i32) -> Result<(), ProgramError> {
        let inside = |c: i32| i8::try_from(c).is_ok();
        if inside(lo) && inside(hi) && inside(zero_point) && lo <= hi {
            return Ok(());
        }
        Err(ProgramError::Codes { step: self.step.name.clone(), lo, hi, zero_point })
    }

    fn zero_points(&self, zero_points: [i32; 2]) -> Result<(), ProgramError> {
        zero_points.into_iter().try_for_each(|z| self.codes(-128, 127, z))
    }

    fn factors(&self, factors: &[f32]) -> Result<(), ProgramError> {
        match factors.iter().enumerate().find(|(_, f)| !f.is_normal() || **f < 0.0) {
            Some((channel, &factor)) => Err(self.factor(channel, factor)),
            None => Ok(()),
        }
    }

    fn factor(&self, channel: usize, factor: f32) -> ProgramError {
        ProgramError::Factor { step: self.step.name.clone(), channel, factor }
    }
}

/// NumPy's rule.
fn broadcast(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let (long, short) = if a.len() >= b.len() { (a, b) } else { (b, a) };
    let mut shape = long.to_vec();
    let skip = long.len() - short.len();
    for (axis, &length) in short.iter().enumerate() {
        let own = &mut shape[skip + axis];
        match (*own, length) {
            (1, _) => *own = length,
            (left, right) if left == right || right == 1 => {}
            _ => return None,
        }
    }
    Some(shape)
}

/// The bound of equation 4 on every channel; twice that of the products, where a zero point is taken off later.
fn check_accumulator(step: &str, l: &QLinear) -> Result<(), ProgramError> {
    // Guards the shift below; `fraction_bits` counts as a size here.
    let dynamic = matches!(l.epilogue, Epilogue::Dynamic { .. });
    let most = if dynamic { 0 } else { numerics::MAX_FRACTION_BITS as usize };
    if l.fraction_bits as usize > most {
        let (what, actual) = ("fraction bits", l.fraction_bits as usize);
        return Err(ProgramError::Size { step: step.to_owned(), what, actual, expected: most });
    }
    if l.k == 0 || l.n == 0 {
        return Err(ProgramError::Size { step: step.to_owned(), what: "weight length", actual: 0, expected: 1 });
    }
    for (channel, (row, &bias)) in l.weight.chunks_exact(l.k).zip(l.bias.iter()).enumerate() {
        let magnitude: i64 = row.iter().map(|&w| i64::from(w.unsigned_abs())).sum();
        let bias = i64::from(bias) + if dynamic { magnitude * 127 } else { 0 };
        if !numerics::fits_accumulator(magnitude, bias, l.fraction_bits) {
            return Err(ProgramError::Accumulator {
                step: step.to_owned(),
                channel,
                products: (magnitude * 128) << l.fraction_bits,
                bias: bias.abs(),
                fraction_bits: l.fraction_bits,
            });
        }
    }
    Ok(())
}

/// The dynamic form of equation 7 has no bias in the sum, and takes the zero point off by the sums of the weights: engines read no
/// such bias, and the bound of the accumulator holds for those sums.
fn check_dynamic(step: &str, l: &QLinear) -> Result<(), ProgramError> {
    let Epilogue::Dynamic { weight_sum, .. } = &l.epilogue else { return Ok(()) };
    for (channel, row) in l.weight.chunks_exact(l.k).enumerate() {
        let sum: i64 = row.iter().map(|&w| i64::from(w)).sum();
        let numbers = [("bias of the accumulator", l.bias[channel], 0), ("weight sum", weight_sum[channel], sum)];
        for (what, actual, expected) in numbers {
            let actual = i64::from(actual);
            if actual != expected {
                return Err(ProgramError::Channel { step: step.to_owned(), channel, what, actual, expected });
            }
        }
    }
    Ok(())
}

//! Checks of one step: the types, shapes and numbers that engines rely on.

use super::{
    Epilogue, Program, ProgramError, QConv, QLinear, QLut, QMatMul, Step, StepOp, Value, ValueType, WeightGroups,
};
use crate::numerics;
use crate::ops::{ImageLayout, IntegerConv, Op, OpError, Operand, TensorType};
use crate::values::{DType, QParams, QParamsError, QuantRange, Shape, TensorQParams, check_size, check_values};

/// Checks one step. The ids of its values exist.
pub(super) fn check_step(program: &Program, step: &Step) -> Result<(), ProgramError> {
    let check = Check { program, step };
    if step.inputs.is_empty() {
        return Err(check.refuse(OpError::Arity { actual: 0, expected: 1 }));
    }
    // Only the caller reads f16, and the step that converts it.
    let mut f16 = check.inputs().filter(|value| value.value_type == ValueType::F16);
    if let Some(value) = f16.next().filter(|_| !matches!(step.op, StepOp::FromF16)) {
        return check.has_type(value, ValueType::F32);
    }
    match &step.op {
        StepOp::Op(op) => check.operator(op)?,
        StepOp::QLinear(linear) => check.linear(linear)?,
        StepOp::QConv(conv) => check.conv(conv)?,
        StepOp::QMatMul(matmul) => check.matmul(matmul)?,
        StepOp::QLut(lut) => check.lut(lut)?,
        StepOp::ToF16 => check.converts(ValueType::F32, ValueType::F16)?,
        StepOp::FromF16 => check.converts(ValueType::F16, ValueType::F32)?,
    }
    check.output_qparams()
}

struct Check<'p> {
    program: &'p Program,
    step: &'p Step,
}

impl<'p> Check<'p> {
    fn input(&self, at: usize) -> &'p Value {
        self.program.value(self.step.inputs[at])
    }

    fn inputs(&self) -> impl Iterator<Item = &'p Value> {
        self.step.inputs.iter().map(|&input| self.program.value(input))
    }

    fn output(&self) -> &'p Value {
        self.program.value(self.step.output)
    }

    fn operator(&self, op: &Op) -> Result<(), ProgramError> {
        let problem = match op {
            Op::Quantize(quantize) if quantize.range == QuantRange::INT32 => {
                Some("quantizes to i32, which no step does")
            }
            Op::Quantize(quantize) => per_channel(&quantize.qparams),
            Op::Dequantize(dequantize) if self.input(0).value_type == ValueType::I8 => per_channel(&dequantize.qparams),
            Op::Dequantize(_) => Some("dequantizes i32, which no step does"),
            Op::Unfold(_) if self.step.inputs.get(1).is_some_and(|&id| self.program.constant(id).is_none()) => {
                Some("has a padding value that is not a constant")
            }
            op if !op.is_step() => Some("is computed by no step: `lower` fuses or decomposes it"),
            _ => None,
        };
        if let Some(problem) = problem {
            let (step, op) = (self.step.name.clone(), op.name());
            return Err(ProgramError::NoStep { step, op, problem });
        }
        let first = |layout: ImageLayout| layout == ImageLayout::ChannelsFirst;
        let is_first = match op {
            Op::MaxPool(pool) => first(pool.layout),
            Op::AveragePool(pool) => first(pool.layout),
            Op::IntegerAveragePool(pool) => first(pool.layout),
            Op::ResizeLinear(resize) => first(resize.layout),
            Op::IntegerResizeLinear(resize) => first(resize.layout),
            _ => false,
        };
        if is_first {
            let problem = "has the channels first: `lower` moves them to the last axis";
            return Err(ProgramError::NoStep { step: self.step.name.clone(), op: op.name(), problem });
        }
        // Engines rely on a last axis of fixed length.
        if matches!(op, Op::Transpose(_)) && self.input(0).shape.last().is_none() {
            return Err(self.shapes());
        }
        self.infer(op)
    }

    /// Checks that the output has the shape and type that inference gives.
    fn infer(&self, op: &Op) -> Result<(), ProgramError> {
        let TensorType { dtype, shape } = self.inferred(op)?;
        self.has_type(self.output(), value_type(dtype))?;
        self.has_shape(&shape)
    }

    fn inferred(&self, op: &Op) -> Result<TensorType, ProgramError> {
        let operand = |value: &'p Value| Operand { dtype: value.value_type.dtype(), shape: &value.shape };
        op.infer(&self.inputs().map(operand).collect::<Vec<_>>()).map_err(|source| self.refuse(source))
    }

    fn linear(&self, linear: &QLinear) -> Result<(), ProgramError> {
        let dynamic = matches!(linear.epilogue, Epilogue::Dynamic { .. });
        let x = self.input(0);
        self.size("number of inputs", self.step.inputs.len(), if dynamic { 2 } else { 1 })?;
        self.has_type(x, ValueType::I8)?;
        self.size("input columns", x.cols(), linear.k)?;
        self.size("output columns", self.output().cols(), linear.n)?;
        self.layer(linear)?;
        if dynamic {
            let qparams = self.input(1);
            self.has_type(qparams, ValueType::F32)?;
            if qparams.shape != Shape::fixed(&[2]) && qparams.shape != x.shape.with_last(2) {
                return Err(self.shapes());
            }
        }
        // An input `[rows]` has no features.
        if x.shape.last().is_none() {
            return Err(self.shapes());
        }
        self.has_shape(&x.shape.with_last(linear.n))
    }

    /// Checks the numbers of a layer.
    fn layer(&self, layer: &QLinear) -> Result<(), ProgramError> {
        self.size("weight length", layer.weight.len(), layer.n.saturating_mul(layer.k))?;
        self.size("bias length", layer.bias.len(), layer.n)?;
        self.epilogue(&layer.epilogue, layer.n)?;
        let step = || self.step.name.clone();
        if let Some(groups) = &layer.groups {
            self.groups(layer, groups)?;
        }
        check_values(&layer.weight, layer.bits).map_err(|source| ProgramError::Bits { step: step(), source })?;
        check_accumulator(&self.step.name, layer)?;
        check_dynamic(&self.step.name, layer)
    }

    /// Checks the numbers of the groups of a weight.
    fn groups(&self, layer: &QLinear, groups: &WeightGroups) -> Result<(), ProgramError> {
        let refused = |source: QParamsError| self.refuse(source.into());
        check_size(groups.size).map_err(refused)?;
        let of_row = layer.k.div_ceil(groups.size);
        let expected = layer.n.saturating_mul(of_row);
        self.size("integer scales of groups", groups.multipliers.len(), expected)?;
        self.size("zero points of groups", groups.zero_points.len(), expected)?;
        if let Some(group) = groups.multipliers.iter().position(|&m| m == 0) {
            return Err(refused(QParamsError::GroupMultiplier { group }));
        }
        for (channel, weight) in layer.weight.chunks_exact(layer.k.max(1)).enumerate() {
            let zero_points = &groups.zero_points[channel * of_row..][..of_row];
            for (w, &zero_point) in weight.chunks(groups.size).zip(zero_points) {
                let (zero_point, ends) = (i64::from(zero_point), w.iter().map(|&w| i64::from(w)));
                let widest = ends.map(|w| w - zero_point).max_by_key(|difference| difference.abs()).unwrap_or(0);
                if i8::try_from(widest).is_err() {
                    let what = "difference of a weight and its zero point, which int8 holds,";
                    let expected = i64::from(if widest < 0 { i8::MIN } else { i8::MAX });
                    return Err(ProgramError::Channel {
                        step: self.step.name.clone(),
                        channel,
                        what,
                        actual: widest,
                        expected,
                    });
                }
            }
        }
        Ok(())
    }

    fn conv(&self, conv: &QConv) -> Result<(), ProgramError> {
        self.size("number of inputs", self.step.inputs.len(), 1)?;
        let QConv { layer, window, groups, zero_point } = conv;
        let x = self.input(0);
        if let Epilogue::Dynamic { .. } = layer.epilogue {
            return self.size("dynamic epilogues", 1, 0);
        }
        self.size("groups of a convolution's features", usize::from(layer.groups.is_some()), 0)?;
        self.layer(layer)?;
        // The operator checks types, window and groups.
        let channels = x.shape.last().unwrap_or(0) / (*groups).max(1);
        let weight = [layer.n, channels].into_iter().chain(window.size()).collect::<Vec<_>>();
        let (weight, bias) = (Shape::fixed(&weight), Shape::fixed(&[layer.n]));
        let op = IntegerConv {
            window: window.clone(),
            groups: *groups,
            zero_point: *zero_point,
            fraction_bits: layer.fraction_bits,
            layout: ImageLayout::ChannelsLast,
        };
        let operands = [
            Operand { dtype: x.value_type.dtype(), shape: &x.shape },
            Operand { dtype: DType::I8, shape: &weight },
            Operand { dtype: DType::I32, shape: &bias },
        ];
        let inferred = Op::from(op).infer(&operands).map_err(|source| self.refuse(source))?;
        self.size("products of an output", layer.k, window.taps().saturating_mul(channels))?;
        self.has_shape(&inferred.shape)
    }

    fn matmul(&self, matmul: &QMatMul) -> Result<(), ProgramError> {
        let (a_zero_point, b_zero_point) = (matmul.a_zero_point, matmul.b_zero_point);
        let TensorType { shape, .. } =
            self.inferred(&crate::ops::IntegerMatMul { a_zero_point, b_zero_point }.into())?;
        if let Epilogue::Dynamic { .. } = matmul.epilogue {
            return self.size("dynamic epilogues", 1, 0);
        }
        self.epilogue(&matmul.epilogue, self.output().cols())?;
        self.has_shape(&shape)
    }

    fn lut(&self, lut: &QLut) -> Result<(), ProgramError> {
        self.size("number of inputs", self.step.inputs.len(), 1)?;
        self.size("entries of the lookup table", lut.table.len(), 256)?;
        self.has_type(self.input(0), ValueType::I8)?;
        self.has_type(self.output(), ValueType::I8)?;
        self.has_shape(&self.input(0).shape)
    }

    fn converts(&self, from: ValueType, to: ValueType) -> Result<(), ProgramError> {
        self.size("number of inputs", self.step.inputs.len(), 1)?;
        self.has_type(self.input(0), from)?;
        self.has_type(self.output(), to)?;
        self.has_shape(&self.input(0).shape)
    }

    /// Checks that the output declares the scale and zero point that the step gives it. Steps that read it may use others.
    fn output_qparams(&self) -> Result<(), ProgramError> {
        let value = self.output();
        let Some(actual) = value.qparams else { return Ok(()) };
        let same_scale = |zero_point| QParams::new(actual.scale(), zero_point).ok();
        let expected = match &self.step.op {
            StepOp::QLinear(QLinear { epilogue: Epilogue::Requantize { zero_point, .. }, .. })
            | StepOp::QConv(QConv {
                layer: QLinear { epilogue: Epilogue::Requantize { zero_point, .. }, .. }, ..
            })
            | StepOp::QMatMul(QMatMul { epilogue: Epilogue::Requantize { zero_point, .. }, .. }) => {
                same_scale(*zero_point)
            }
            StepOp::Op(Op::Quantize(quantize)) => quantize.qparams.per_tensor(),
            StepOp::Op(Op::IntegerAdd(add)) => same_scale(add.qparams.zero_point()),
            StepOp::Op(Op::IntegerMul(mul)) => same_scale(mul.qparams.zero_point()),
            StepOp::Op(Op::IntegerAveragePool(pool)) => Some(pool.y),
            StepOp::Op(Op::IntegerResizeLinear(resize)) => Some(resize.y),
            // The inputs of a concatenation may have different qparams.
            StepOp::Op(Op::Concat(_)) => return Ok(()),
            StepOp::Op(op) if op.moves_values() => self.input(0).qparams,
            StepOp::Op(Op::QuantizeDynamic(_)) => None,
            _ => return Ok(()),
        };
        if expected == Some(actual) {
            return Ok(());
        }
        let (step, value) = (self.step.name.clone(), value.name.clone());
        Err(ProgramError::QParams { step, value, actual, expected })
    }

    fn epilogue(&self, epilogue: &Epilogue, n: usize) -> Result<(), ProgramError> {
        self.size("factors", epilogue.factors().len(), n)?;
        self.factors(epilogue.factors())?;
        match epilogue {
            Epilogue::Requantize { zero_point, lo, hi, .. } => {
                self.int8_range(*lo, *hi, *zero_point)?;
                self.has_type(self.output(), ValueType::I8)
            }
            Epilogue::Scale { .. } => self.has_type(self.output(), ValueType::F32),
            Epilogue::Dynamic { weight_sum, bias, .. } => {
                self.size("weight sums", weight_sum.len(), n)?;
                self.size("bias length", bias.len(), n)?;
                self.has_type(self.output(), ValueType::F32)
            }
        }
    }

    fn size(&self, what: &'static str, actual: usize, expected: usize) -> Result<(), ProgramError> {
        if actual == expected {
            return Ok(());
        }
        Err(ProgramError::Size { step: self.step.name.clone(), what, actual, expected })
    }

    fn has_type(&self, value: &Value, expected: ValueType) -> Result<(), ProgramError> {
        if value.value_type == expected {
            return Ok(());
        }
        let (value, actual) = (value.name.clone(), value.value_type);
        Err(ProgramError::Type { step: self.step.name.clone(), value, actual, expected })
    }

    fn has_shape(&self, expected: &Shape) -> Result<(), ProgramError> {
        if self.output().shape == *expected { Ok(()) } else { Err(self.shapes()) }
    }

    fn shapes(&self) -> ProgramError {
        let (inputs, output) = self.shapes_text();
        ProgramError::Shapes { step: self.step.name.clone(), inputs, output }
    }

    fn shapes_text(&self) -> (Vec<String>, String) {
        let inputs = self.inputs().map(|value| value.shape.to_string()).collect();
        (inputs, self.output().shape.to_string())
    }

    /// Converts an error of inference, so that it names values instead of positions.
    fn refuse(&self, source: OpError) -> ProgramError {
        let step = self.step.name.clone();
        match source {
            OpError::DType { input, expected, .. } => {
                let (value, actual) = (self.input(input).name.clone(), self.input(input).value_type);
                ProgramError::Type { step, value, actual, expected: value_type(expected) }
            }
            OpError::Arity { actual, expected } => {
                ProgramError::Size { step, what: "number of inputs", actual, expected }
            }
            source => {
                let (inputs, output) = self.shapes_text();
                ProgramError::Op { step, source: Box::new(source), inputs, output }
            }
        }
    }

    fn int8_range(&self, lo: i32, hi: i32, zero_point: i32) -> Result<(), ProgramError> {
        let inside = |value: i32| i8::try_from(value).is_ok();
        if inside(lo) && inside(hi) && inside(zero_point) && lo <= hi {
            return Ok(());
        }
        Err(ProgramError::QuantizedRange { step: self.step.name.clone(), lo, hi, zero_point })
    }

    fn factors(&self, factors: &[f32]) -> Result<(), ProgramError> {
        match factors.iter().enumerate().find(|(_, f)| !f.is_normal() || **f < 0.0) {
            Some((channel, &factor)) => Err(ProgramError::Factor { step: self.step.name.clone(), channel, factor }),
            None => Ok(()),
        }
    }
}

fn value_type(dtype: DType) -> ValueType {
    match dtype {
        DType::F32 => ValueType::F32,
        DType::I8 => ValueType::I8,
        DType::I32 | DType::I64 => ValueType::I32,
    }
}

/// Returns a problem if there is a scale for each channel or group.
fn per_channel(qparams: &TensorQParams) -> Option<&'static str> {
    match qparams {
        TensorQParams::PerTensor(_) => None,
        TensorQParams::PerChannel { .. } => Some("has a scale for each channel, which no step reads"),
        TensorQParams::PerGroup(_) => Some("has a scale for each group, which no step reads"),
    }
}

/// Checks the bound of equation 4 for every channel. With dynamic qparams, the zero point is subtracted later, so the products count
/// twice.
fn check_accumulator(step: &str, l: &QLinear) -> Result<(), ProgramError> {
    // The shift below must not overflow. The error counts fraction bits as a size.
    let dynamic = matches!(l.epilogue, Epilogue::Dynamic { .. });
    let most = if dynamic { 0 } else { numerics::MAX_FRACTION_BITS as usize };
    if l.fraction_bits as usize > most {
        let (what, actual) = ("fraction bits", l.fraction_bits as usize);
        return Err(ProgramError::Size { step: step.to_owned(), what, actual, expected: most });
    }
    if l.k == 0 || l.n == 0 {
        return Err(ProgramError::Size { step: step.to_owned(), what: "weight length", actual: 0, expected: 1 });
    }
    for (channel, &bias) in l.bias.iter().enumerate() {
        let magnitude = magnitude(l, channel);
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

/// The sum of the magnitudes of what the input features are multiplied by.
fn magnitude(l: &QLinear, channel: usize) -> i64 {
    match l.groups {
        // This loop vectorizes.
        None => l.weight[channel * l.k..][..l.k].iter().map(|&w| i64::from(w.unsigned_abs())).sum(),
        Some(_) => l.factors(channel).map(|w| i64::from(w.unsigned_abs())).sum(),
    }
}

/// Checks that a layer with dynamic qparams has no bias in the sum and the true sums of the weights (equation 7, dynamic). Engines
/// ignore such a bias, and the bound of the accumulator holds for those sums.
fn check_dynamic(step: &str, l: &QLinear) -> Result<(), ProgramError> {
    let Epilogue::Dynamic { weight_sum, .. } = &l.epilogue else { return Ok(()) };
    for channel in 0..l.n {
        let sum: i64 = l.factors(channel).map(i64::from).sum();
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

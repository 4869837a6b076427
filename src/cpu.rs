//! The CPU engine: executes a [`Program`] fast, int8 steps with the bits of the interpreter.
//!
//! Rows are shared among threads; for each block, the product and its epilogue run while the sums are in cache. int8
//! products are the library's where that is exact on this processor, and our own elsewhere. Functions of floats are computed
//! in vectors, unless [`Functions::Libm`] asks for the interpreter's bits.

mod error;
mod spare;
#[cfg(test)]
mod tests;

use std::borrow::{Borrow, Cow};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex};

use self::spare::Spare;

use crate::kernels::{self, Channels, Codes, Int8Product, Int8Weight, Requantize};
use crate::numerics::gemm::{self, PackedWeight};
use crate::ops::{
    Binary, ChooseQParams, Clamp, Concat, Dequantize, Int32, IntegerMatMulDynamic, LayerNorm, Mask, Max, Op, Quantize,
    QuantizeDynamic, Slice, Softmax, Sum, ToInteger, Transpose, Unary,
};
use crate::program::{Epilogue, Program, QLinear, Step, StepOp, ValueId};
use crate::values::Tensor;
use crate::values::slices::{self, CHECKED, f32s, f32s_mut, i8s, tensor};

pub use error::CpuError;

/// Which int8 product an engine uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Product {
    /// The fastest one that is exact on this processor, chosen for each layer.
    #[default]
    Auto,
    /// The library's; an error where it is not exact.
    Library,
    /// Our own on tiles of registers; an error on processors without AVX2.
    Tiled,
    /// Our own in plain loops, which any processor runs.
    Exact,
}

/// How an engine computes softmax, GELU and the other functions of floats that are no tables of codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Functions {
    /// In vectors, within a few units of the last place of a number near 1.
    #[default]
    Vectors,
    /// By `libm`, with the bits of the interpreter, and many times slower.
    Libm,
}

/// How an engine computes. The bits of int8 steps do not depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// The int8 product.
    pub product: Product,
    /// The functions of floats.
    pub functions: Functions,
}

/// Executes one program. It may be shared between threads.
#[derive(Debug)]
pub struct Engine {
    program: Program,
    /// For each step, its weight if it has one, ready for products.
    weights: Vec<Option<Weight>>,
    /// For each value, the last step that reads it; none for outputs.
    last_read: Vec<Option<usize>>,
    functions: Functions,
    /// Buffers that the last run left, and its rows.
    spare: Mutex<Option<(usize, Spare)>>,
}

#[derive(Debug)]
enum Weight {
    Int8(Layer),
    F32(Arc<PackedWeight>),
}

#[derive(Debug)]
struct Layer {
    weight: Arc<Int8Weight>,
    /// The bias of equation 4, minus what the flipped activations add, `<< fraction_bits`.
    bias: Vec<i32>,
}

impl Engine {
    /// Packs the weights of `program`.
    ///
    /// # Errors
    /// None with [`Product::Auto`]; see [`Engine::with_options`].
    pub fn new(program: &Program) -> Result<Self, CpuError> {
        Self::with_options(program, &Options::default())
    }

    /// As [`Engine::new`], with a product of the caller's choice.
    ///
    /// # Errors
    /// [`CpuError::Inexact`] if [`Product::Library`] is asked for and may saturate or overflow; [`CpuError::Unavailable`] if
    /// [`Product::Tiled`] is, and this processor lacks its instructions.
    pub fn with_options(program: &Program, options: &Options) -> Result<Self, CpuError> {
        // What several steps read is packed once.
        let (mut int8, mut float) = (HashMap::new(), HashMap::new());
        let weights = program.steps().iter().map(|step| match &step.op {
            StepOp::QLinear(linear) => {
                let shared = int8.entry((linear.weight.as_ptr(), linear.n, linear.k));
                layer(&step.name, linear, options.product, shared).map(Weight::Int8).map(Some)
            }
            StepOp::Op(Op::Linear(_)) => Ok(program.constant(step.inputs[1]).map(|weight| {
                let (n, k) = (weight.shape()[0], weight.shape()[1]);
                let packed =
                    float.entry(step.inputs[1]).or_insert_with(|| PackedWeight::new(f32s(weight), n, k).into());
                Weight::F32(Arc::clone(packed))
            })),
            _ => Ok(None),
        });
        let weights = weights.collect::<Result<Vec<_>, _>>()?;
        let mut last_read = vec![None; program.values().len()];
        for (at, step) in program.steps().iter().enumerate() {
            step.inputs.iter().for_each(|input| last_read[input.index()] = Some(at));
        }
        program.outputs().iter().for_each(|id| last_read[id.index()] = None);
        Ok(Self { program: program.clone(), weights, last_read, functions: options.functions, spare: Mutex::default() })
    }

    /// What it executes.
    #[must_use]
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Runs the program on inputs `[rows, dims…]`, in the order of [`Program::inputs`]; all have the same number of rows, at
    /// least one.
    ///
    /// # Errors
    /// [`CpuError`] names the input that does not fit, or the step that met a NaN or an id that its table lacks.
    pub fn run<T: Borrow<Tensor>>(&self, inputs: &[T]) -> Result<Vec<Tensor>, CpuError> {
        let rows = self.rows(inputs)?;
        // Another run at the same time, or with other rows, begins with none.
        let left = self.spare.lock().ok().and_then(|mut left| left.take());
        let mut spare = left.filter(|(of_rows, _)| *of_rows == rows).map(|(_, spare)| spare).unwrap_or_default();
        let mut values: Vec<Option<Cow<'_, Tensor>>> = vec![None; self.program.values().len()];
        for (id, tensor) in self.program.inputs().iter().zip(inputs) {
            values[id.index()] = Some(Cow::Borrowed(tensor.borrow()));
        }
        for (id, tensor) in self.program.constants() {
            values[id.index()] = Some(Cow::Borrowed(tensor));
        }
        for (at, (step, weight)) in self.program.steps().iter().zip(&self.weights).enumerate() {
            let dies = |input: &ValueId| self.last_read[input.index()] == Some(at);
            let (first, rest) = step.inputs.split_first().expect(CHECKED);
            // What nothing else reads is the step's own, to work in.
            let owned = match &mut values[first.index()] {
                value @ Some(Cow::Owned(_)) if is_in_place(&step.op) && dies(first) && !rest.contains(first) => {
                    value.take()
                }
                _ => None,
            };
            let read = |id: &ValueId| values[id.index()].as_deref().expect(CHECKED);
            let x = owned.unwrap_or_else(|| Cow::Borrowed(read(first)));
            let y =
                self.step(step, weight.as_ref(), x, &rest.iter().map(read).collect::<Vec<_>>(), rows, &mut spare)?;
            for input in step.inputs.iter().filter(|input| dies(input)) {
                spare.give(values[input.index()].take());
            }
            values[step.output.index()] = Some(Cow::Owned(y));
        }
        let output = |id: &ValueId| values[id.index()].take().expect(CHECKED).into_owned();
        let outputs = self.program.outputs().iter().map(output).collect();
        if let Ok(mut left) = self.spare.lock() {
            *left = Some((rows, spare));
        }
        Ok(outputs)
    }

    fn rows<T: Borrow<Tensor>>(&self, inputs: &[T]) -> Result<usize, CpuError> {
        let (actual, expected) = (inputs.len(), self.program.inputs().len());
        if actual != expected {
            return Err(CpuError::InputCount { actual, expected });
        }
        let mut rows = None;
        for (id, tensor) in self.program.inputs().iter().zip(inputs) {
            let (value, tensor) = (self.program.value(*id), tensor.borrow());
            let input = || value.name.clone();
            let expected = value.value_type.dtype();
            if tensor.dtype() != expected {
                return Err(CpuError::DType { input: input(), actual: tensor.dtype(), expected });
            }
            if !value.shape.admits(tensor.shape()) {
                let (actual, expected) = (tensor.shape().to_vec(), value.shape.clone());
                return Err(CpuError::Shape { input: input(), actual, expected });
            }
            if !value.shape.is_batched() {
                continue;
            }
            let actual = tensor.shape()[0];
            match rows {
                _ if actual == 0 => return Err(CpuError::NoRows { input: input() }),
                Some(expected) if actual != expected => {
                    return Err(CpuError::Rows { input: input(), actual, expected });
                }
                _ => rows = Some(actual),
            }
        }
        // Without a batch, no value has rows.
        let rows = rows.unwrap_or(1);
        match self.program.values().iter().find(|value| !value.shape.fits(rows)) {
            None => Ok(rows),
            Some(value) => Err(CpuError::Elements { value: value.name.clone(), shape: value.shape.clone(), rows }),
        }
    }

    /// `own` is the first input, `rest` are the others.
    fn step(
        &self,
        step: &Step,
        weight: Option<&Weight>,
        own: Cow<'_, Tensor>,
        rest: &[&Tensor],
        rows: usize,
        spare: &mut Spare,
    ) -> Result<Tensor, CpuError> {
        let x = &*own;
        let shape = self.program.value(step.output).shape.with_rows(rows);
        Ok(match &step.op {
            StepOp::QLinear(linear) => match weight {
                Some(Weight::Int8(layer)) => layer.run(linear, i8s(x), rest.first().map(|p| f32s(p)), &shape, spare),
                _ => unreachable!("every int8 layer has a weight"),
            },
            StepOp::QMatMul(m) => {
                let acc = kernels::matmul_i8(x, rest[0], m.a_zero_point, m.b_zero_point);
                match &m.epilogue {
                    Epilogue::Requantize { multiplier, zero_point, lo, hi } => {
                        kernels::requantize(&acc, multiplier, *zero_point, *lo, *hi)
                    }
                    Epilogue::Scale { scale, relu } => kernels::scale_accumulator(&acc, scale, *relu),
                    Epilogue::Dynamic { .. } => unreachable!("{CHECKED}"),
                }
            }
            StepOp::QLut(lut) => kernels::lut(x, &lut.table),
            StepOp::ToF16 => tensor(shape, f32s(x).iter().map(|&v| half::f16::from_f32(v).to_f32()).collect()),
            StepOp::Op(op) if op.is_integer() => integer(step, op, x, rest)?,
            StepOp::Op(op) => self.operator(step, op, weight, own, rest, shape, spare)?,
        })
    }

    fn operator(
        &self,
        step: &Step,
        op: &Op,
        weight: Option<&Weight>,
        own: Cow<'_, Tensor>,
        rest: &[&Tensor],
        shape: Vec<usize>,
        spare: &mut Spare,
    ) -> Result<Tensor, CpuError> {
        let x = &*own;
        Ok(match op {
            Op::Quantize(Quantize { qparams, range }) => {
                let nan = |kernels::NotANumber(index)| CpuError::NotANumber { step: step.name.clone(), index };
                slices::codes(&shape, kernels::quantize(f32s(x), &[], qparams, *range).map_err(nan)?)
            }
            Op::Dequantize(Dequantize { qparams }) => tensor(shape, kernels::dequantize(i8s(x), &[], qparams)),
            Op::Concat(Concat { axis }) => kernels::concat(&[&[x], rest].concat(), *axis),
            Op::Reshape(_) => kernels::reshape_onto(own.into_owned(), &shape),
            Op::Transpose(Transpose { perm }) if x.as_f32().is_some() => {
                kernels::transpose_f32(x, perm, spare.take(x.len()))
            }
            Op::Transpose(Transpose { perm }) => kernels::transpose(x, perm),
            &Op::Slice(Slice { axis, start, end }) => kernels::slice(x, axis, start..end),
            Op::ToFloat(_) => tensor(shape, kernels::to_float(slices::i32s(x))),
            Op::ToInteger(ToInteger { to }) => kernels::to_integer(x, *to).map_err(no_integer(step))?,
            &Op::Int32(Int32 { op, checked }) => kernels::int32(op, checked, x, rest[0]).map_err(no_integer(step))?,
            &Op::Sum(Sum { axis, checked }) if x.as_i32().is_some() => {
                kernels::sum_i32(x, axis, checked).map_err(no_integer(step))?
            }
            Op::Max(Max { axis }) => kernels::max(x, *axis),
            Op::Embedding(_) => {
                let rows = rest[0].shape()[0];
                kernels::embedding(x, rest[0]).map_err(|kernels::NoSuchRow(index, id)| CpuError::Id {
                    step: step.name.clone(),
                    index,
                    id,
                    rows,
                })?
            }
            op => self.float(op, weight, own, rest, shape, spare),
        })
    }

    fn float(
        &self,
        op: &Op,
        weight: Option<&Weight>,
        own: Cow<'_, Tensor>,
        rest: &[&Tensor],
        shape: Vec<usize>,
        spare: &mut Spare,
    ) -> Tensor {
        match *op {
            Op::Linear(_) => {
                let (n, k) = (rest[0].shape()[0], rest[0].shape()[1]);
                let packed = match weight {
                    Some(Weight::F32(packed)) => Some(&**packed),
                    _ => None,
                };
                let m = slices::rows_before_last(own.shape());
                let bias = rest.get(1).map(|b| f32s(b));
                let mut y = spare.take(m * n);
                gemm::linear_into(&mut y, f32s(&own), [m, n, k], f32s(rest[0]), packed, bias);
                tensor(shape, y)
            }
            Op::MatMul(_) => kernels::matmul_f32_into(&own, rest[0], spare.take(shape.iter().product())),
            Op::Add(_) => kernels::zip_f32_onto(own.into_owned(), rest[0], |a, b| a + b),
            Op::Mul(_) => kernels::zip_f32_onto(own.into_owned(), rest[0], |a, b| a * b),
            Op::Div(_) => kernels::zip_f32_onto(own.into_owned(), rest[0], |a, b| a / b),
            Op::Binary(Binary { op }) => kernels::binary(op, own.into_owned(), rest[0]),
            Op::Mask(Mask { inverted }) => kernels::zip_f32_onto(own.into_owned(), rest[0], kernels::mask(inverted)),
            Op::Clamp(Clamp { min, max }) => {
                let mut y = own.into_owned();
                f32s_mut(&mut y).iter_mut().for_each(|v| *v = v.clamp(min, max));
                y
            }
            Op::Sum(Sum { axis, .. }) => kernels::sum(&own, axis),
            Op::Unary(Unary { op }) if self.functions == Functions::Libm => {
                tensor(shape, kernels::unary(op, f32s(&own)))
            }
            Op::Unary(Unary { op }) => {
                let mut y = own.into_owned();
                kernels::unary_in_place(op, f32s_mut(&mut y));
                y
            }
            Op::Softmax(Softmax { axis }) => {
                let rows = match self.functions {
                    Functions::Vectors => kernels::softmax_in_place,
                    Functions::Libm => kernels::softmax_rows,
                };
                kernels::along_axis_onto(own.into_owned(), axis, rows)
            }
            Op::LayerNorm(LayerNorm { eps }) => {
                let mut y = own.into_owned();
                kernels::layer_norm_in_place(f32s_mut(&mut y), f32s(rest[0]), f32s(rest[1]), eps);
                y
            }
            _ => unreachable!("{CHECKED}"),
        }
    }
}

/// A step that computes with quantized values.
fn integer(step: &Step, op: &Op, x: &Tensor, rest: &[&Tensor]) -> Result<Tensor, CpuError> {
    Ok(match *op {
        Op::IntegerMatMulDynamic(IntegerMatMulDynamic { relu }) => {
            kernels::matmul_dynamic_i8(x, rest[0], f32s(rest[1]), f32s(rest[2]), relu)
        }
        Op::IntegerAdd(a) => {
            let y = Codes { zero_point: a.qparams.zero_point(), lo: a.lo, hi: a.hi };
            kernels::add_i8(x, rest[0], [a.a_zero_point, a.b_zero_point], a.multipliers, y)
        }
        Op::IntegerMul(m) => {
            let y = Codes { zero_point: m.qparams.zero_point(), lo: m.lo, hi: m.hi };
            kernels::mul_i8(x, rest[0], [m.a_zero_point, m.b_zero_point], m.multiplier, y)
        }
        Op::ChooseQParams(ChooseQParams { qscheme, range, eps }) => {
            let range_error = |index: usize| {
                let value = f32s(x)[index].to_string();
                CpuError::Range { step: step.name.clone(), index, value }
            };
            kernels::choose_qparams(x, qscheme, range, eps).map_err(range_error)?
        }
        Op::QuantizeDynamic(QuantizeDynamic { range }) => kernels::quantize_dynamic(x, f32s(rest[0]), range),
        Op::DequantizeDynamic(_) => kernels::dequantize_dynamic(x, f32s(rest[0])),
        _ => unreachable!("{CHECKED}"),
    })
}

fn no_integer(step: &Step) -> impl Fn(kernels::NoInteger) -> CpuError + '_ {
    |kernels::NoInteger(index)| CpuError::NoInteger { step: step.name.clone(), index }
}

/// Whether a step can write its result in the place of its first input.
fn is_in_place(op: &StepOp) -> bool {
    match op {
        StepOp::Op(Op::Reshape(_) | Op::Softmax(_) | Op::LayerNorm(_)) => true,
        StepOp::Op(op) => op.is_pointwise() && !op.is_integer(),
        _ => false,
    }
}

/// `packed` is where the weight's place is among those that are packed.
fn layer<K>(
    step: &str,
    linear: &QLinear,
    product: Product,
    packed: Entry<'_, K, Arc<Int8Weight>>,
) -> Result<Layer, CpuError> {
    let product = match product {
        Product::Auto => Int8Product::best(linear.k),
        Product::Library => Int8Product::Library,
        Product::Tiled => Int8Product::Tiled,
        Product::Exact => Int8Product::Exact,
    };
    if !product.is_usable(linear.k) {
        let step = step.to_owned();
        return Err(match product {
            Int8Product::Library => CpuError::Inexact { step, k: linear.k },
            _ => CpuError::Unavailable { step, product: product.name() },
        });
    }
    log::info!("{step}: int8 product by {}", product.name());
    let weight = packed.or_insert_with(|| Int8Weight::new(&linear.weight, linear.n, linear.k, product).into());
    let weight = Arc::clone(weight);
    let offsets = weight.offsets().iter().map(|offset| offset << linear.fraction_bits);
    let bias = linear.bias.iter().zip(offsets).map(|(b, offset)| b.wrapping_sub(offset)).collect();
    Ok(Layer { weight, bias })
}

impl Layer {
    /// `pairs` are those of the input, if they are dynamic.
    fn run(&self, linear: &QLinear, x: &[i8], pairs: Option<&[f32]>, shape: &[usize], spare: &mut Spare) -> Tensor {
        let shift = linear.fraction_bits;
        let m = slices::rows_before_last(shape);
        let bias = &self.bias[..];
        match &linear.epilogue {
            Epilogue::Requantize { multiplier, zero_point, lo, hi } => {
                let rule = Requantize { zero_point: *zero_point, lo: *lo, hi: *hi };
                let mut y = vec![0; m * linear.n];
                self.weight.map(
                    &mut y,
                    x,
                    m,
                    #[inline(always)]
                    |_, col: usize, codes: &mut [i8], sums: &[i32]| {
                        kernels::requantize_row(codes, sums, &bias[col..], &multiplier[col..], shift, rule);
                    },
                );
                slices::codes(shape, y)
            }
            Epilogue::Scale { scale, relu } => {
                let mut y = spare.take(m * linear.n);
                self.weight.map(
                    &mut y,
                    x,
                    m,
                    #[inline(always)]
                    |_, col: usize, y: &mut [f32], sums: &[i32]| {
                        kernels::scale_row(y, sums, &bias[col..], &scale[col..], shift, *relu);
                    },
                );
                tensor(shape.to_vec(), y)
            }
            Epilogue::Dynamic { scale, weight_sum, bias: float_bias, relu } => {
                let w = Channels { weight_sums: weight_sum, scales: scale, bias: float_bias };
                let pairs = pairs.expect(CHECKED);
                let mut y = spare.take(m * linear.n);
                self.weight.map(
                    &mut y,
                    x,
                    m,
                    #[inline(always)]
                    |row: usize, col: usize, y: &mut [f32], sums: &[i32]| {
                        let pair = kernels::pair_of(pairs, row);
                        kernels::scale_dynamic_row(y, sums, &bias[col..], pair, w.from(col), *relu);
                    },
                );
                tensor(shape.to_vec(), y)
            }
        }
    }
}

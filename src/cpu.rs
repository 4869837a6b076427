//! The CPU engine: executes a [`Program`] fast, with the bits of the interpreter.
//!
//! Rows are cut into blocks; for each, the product and its epilogue run while the sums are in cache. int8 products are
//! the library's where that is exact on this processor, and our own elsewhere.

mod error;

use std::borrow::Borrow;

use rayon::prelude::*;

use crate::kernels::{self, Int8Product, Int8Weight, Requantize};
use crate::program::{Epilogue, Program, QLinear, Step, Value, ValueId, ValueType};
use crate::qparams::TensorQParams;
use crate::tensor::{DType, Tensor};

pub use error::CpuError;

/// Which int8 product an engine uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Product {
    /// The fastest one that is exact on this processor, chosen for each layer.
    #[default]
    Auto,
    /// The library's; an error where it is not exact.
    Library,
    /// Our own, which is exact everywhere.
    Exact,
}

/// How an engine computes. The bits do not depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// The int8 product.
    pub product: Product,
}

/// Executes one program. It may be shared between threads.
#[derive(Debug)]
pub struct Engine {
    program: Program,
    /// For each step, the prepared layer if it is one.
    layers: Vec<Option<Layer>>,
    /// For each value, the last step that reads it; none for outputs.
    last_read: Vec<Option<usize>>,
}

#[derive(Debug)]
struct Layer {
    weight: Int8Weight,
    /// The bias of equation 4, minus what the flipped activations add, `<< fraction_bits`.
    bias: Vec<i32>,
}

/// The elements of a value.
#[derive(Debug, Clone)]
enum Data<'t> {
    Fed(&'t Tensor),
    F32(Vec<f32>),
    I8(Vec<i8>),
}

impl Data<'_> {
    fn f32(&self) -> &[f32] {
        match self {
            Self::Fed(tensor) => tensor.as_f32().expect(CHECKED),
            Self::F32(data) => data,
            Self::I8(_) => unreachable!("{CHECKED}"),
        }
    }

    fn i8(&self) -> &[i8] {
        match self {
            Self::Fed(tensor) => tensor.as_i8().expect(CHECKED),
            Self::I8(data) => data,
            Self::F32(_) => unreachable!("{CHECKED}"),
        }
    }
}

const CHECKED: &str = "the program's types were checked when it was made";

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
    /// [`CpuError::Inexact`] if [`Product::Library`] is asked for and may saturate or overflow.
    pub fn with_options(program: &Program, options: &Options) -> Result<Self, CpuError> {
        let layers = program.steps().iter().map(|step| match step {
            Step::Linear(linear) => layer(linear, options.product).map(Some),
            _ => Ok(None),
        });
        let layers = layers.collect::<Result<Vec<_>, _>>()?;
        let mut last_read = vec![None; program.values().len()];
        for (at, step) in program.steps().iter().enumerate() {
            last_read[step.input().index()] = Some(at);
        }
        program.outputs().iter().for_each(|id| last_read[id.index()] = None);
        Ok(Self { program: program.clone(), layers, last_read })
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
    /// [`CpuError`] names the input that does not fit, or the step that met a NaN.
    pub fn run<T: Borrow<Tensor>>(&self, inputs: &[T]) -> Result<Vec<Tensor>, CpuError> {
        let rows = self.rows(inputs)?;
        let mut values: Vec<Option<Data<'_>>> = vec![None; self.program.values().len()];
        for (id, tensor) in self.program.inputs().iter().zip(inputs) {
            values[id.index()] = Some(Data::Fed(tensor.borrow()));
        }
        for (at, (step, layer)) in self.program.steps().iter().zip(&self.layers).enumerate() {
            let input = step.input().index();
            let x = values[input].as_ref().expect(CHECKED);
            let y = self.step(step, layer.as_ref(), x, rows)?;
            if self.last_read[input] == Some(at) {
                values[input] = None;
            }
            values[step.output().index()] = Some(y);
        }
        let output = |id: &ValueId| {
            let shape = shape(self.program.value(*id), rows);
            match values[id.index()].take() {
                Some(Data::F32(data)) => Tensor::from_f32(&shape, data).expect(CHECKED),
                Some(Data::I8(data)) => Tensor::from_i8(&shape, data).expect(CHECKED),
                Some(Data::Fed(_)) | None => unreachable!("{CHECKED}"),
            }
        };
        Ok(self.program.outputs().iter().map(output).collect())
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
            let expected = match value.value_type {
                ValueType::F32 => DType::F32,
                ValueType::I8 => DType::I8,
            };
            if tensor.dtype() != expected {
                return Err(CpuError::DType { input: input(), actual: tensor.dtype(), expected });
            }
            let Some((&actual, _)) = tensor.shape().split_first().filter(|(_, dims)| *dims == value.dims) else {
                let (actual, expected) = (tensor.shape().to_vec(), value.dims.clone());
                return Err(CpuError::Shape { input: input(), actual, expected });
            };
            match rows {
                _ if actual == 0 => return Err(CpuError::NoRows { input: input() }),
                Some(expected) if actual != expected => {
                    return Err(CpuError::Rows { input: input(), actual, expected });
                }
                _ => rows = Some(actual),
            }
        }
        // A program without inputs has no steps either: every value comes from an input.
        Ok(rows.unwrap_or_default())
    }

    fn step(&self, step: &Step, layer: Option<&Layer>, x: &Data<'_>, rows: usize) -> Result<Data<'static>, CpuError> {
        let input = self.program.value(step.input());
        Ok(match (step, layer) {
            (Step::Quantize(q), _) => {
                let codes = kernels::quantize(x.f32(), &[], &TensorQParams::PerTensor(q.qparams), q.range);
                let codes =
                    codes.map_err(|kernels::NotANumber(index)| CpuError::NotANumber { step: q.name.clone(), index })?;
                Data::I8(codes)
            }
            (Step::Dequantize(d), _) => {
                Data::F32(kernels::dequantize(x.i8(), &[], &TensorQParams::PerTensor(d.qparams)))
            }
            (Step::Linear(linear), Some(layer)) => layer.run(linear, x.i8(), rows * input.rows_factor()),
            (Step::Linear(_), None) => unreachable!("every linear step has a layer"),
        })
    }
}

fn shape(value: &Value, rows: usize) -> Vec<usize> {
    std::iter::once(rows).chain(value.dims.iter().copied()).collect()
}

fn layer(linear: &QLinear, product: Product) -> Result<Layer, CpuError> {
    let product = match product {
        Product::Auto => Int8Product::best(linear.k),
        Product::Library if !Int8Product::library_is_exact(linear.k) => {
            return Err(CpuError::Inexact { step: linear.name.clone(), k: linear.k });
        }
        Product::Library => Int8Product::Library,
        Product::Exact => Int8Product::Exact,
    };
    log::info!("{}: int8 product by {}", linear.name, product.name());
    let weight = Int8Weight::new(&linear.weight, linear.n, linear.k, product);
    let offsets = weight.offsets().iter().map(|offset| offset << linear.fraction_bits);
    let bias = linear.bias.iter().zip(offsets).map(|(b, offset)| b.wrapping_sub(offset)).collect();
    Ok(Layer { weight, bias })
}

impl Layer {
    fn run(&self, linear: &QLinear, x: &[i8], m: usize) -> Data<'static> {
        let (n, shift) = (linear.n, linear.fraction_bits);
        match &linear.epilogue {
            Epilogue::Requantize { multiplier, zero_point, lo, hi } => {
                let rule = Requantize { zero_point: *zero_point, lo: *lo, hi: *hi };
                Data::I8(self.blocks(x, m, n, |codes, sums| {
                    kernels::requantize_block(codes, sums, &self.bias, multiplier, shift, rule);
                }))
            }
            Epilogue::Scale { scale, relu } => Data::F32(self.blocks(x, m, n, |y, sums| {
                kernels::scale_block(y, sums, &self.bias, scale, shift, *relu);
            })),
        }
    }

    /// Runs product and `epilogue` block by block.
    fn blocks<T: Copy + Default + Send>(
        &self,
        x: &[i8],
        m: usize,
        n: usize,
        epilogue: impl Fn(&mut [T], &[i32]) + Sync,
    ) -> Vec<T> {
        let k = self.weight.k();
        let block = block_rows(m, n);
        let mut y = vec![T::default(); m * n];
        let run = |(flipped, sums): &mut (Vec<u8>, Vec<i32>), (y, x): (&mut [T], &[i8])| {
            kernels::flip_all(flipped, x);
            sums.resize(y.len(), 0);
            self.weight.flipped(sums, flipped, y.len() / n);
            epilogue(y, sums);
        };
        if m <= block {
            // The product finds its own parallelism; one more hop between threads would cost as much as a small layer.
            run(&mut Default::default(), (&mut y, x));
        } else {
            y.par_chunks_mut(block * n).zip(x.par_chunks(block * k)).for_each_init(Default::default, run);
        }
        y
    }
}

/// Rows of one block: enough that the packed weight is worth streaming once more, few enough that the sums stay in a
/// second-level cache and every core has work.
fn block_rows(m: usize, n: usize) -> usize {
    const SUMS: usize = 1 << 17;
    let per_core = m.div_ceil(rayon::current_num_threads());
    (SUMS / n.max(1)).clamp(32, 256).min(per_core.max(32))
}

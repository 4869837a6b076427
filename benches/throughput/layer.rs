//! The int8 linear layer that the series measure.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use enfold::interp::Interpreter;
use enfold::lower::lower;
use enfold::ops::{Constant, IntegerLinear, Op, Requantize};
use enfold::program::Program;
use enfold::values::{DType, QParams};
use enfold::{Graph, GraphBuilder, Shape, Tensor};

use crate::random::Random;

pub(crate) const ZERO_POINT: i32 = 3;

/// The most products of a layer whose whole output is compared. Larger layers are compared at a sample of rows and columns.
const COMPARED_WHOLE: usize = 1 << 33;
/// The number of rows, and of columns, of a sample.
const SAMPLE: usize = 64;

/// A layer with int8 inputs and outputs and without fraction bits, as the naive kernel computes it.
#[allow(dead_code)] // Each bench reads its own selection of the fields.
pub(crate) struct Layer {
    pub(crate) rows: usize,
    pub(crate) k: usize,
    pub(crate) n: usize,
    pub(crate) x: Tensor,
    pub(crate) w: Arc<Tensor>,
    pub(crate) bias: Vec<i32>,
    pub(crate) multiplier: Vec<f32>,
    pub(crate) graph: Graph,
    pub(crate) program: Program,
    pub(crate) sample: Sample,
    /// The interpreter's output for the sample.
    expected: Vec<i8>,
}

/// The rows and columns whose outputs are compared.
pub(crate) struct Sample {
    pub(crate) rows: Vec<usize>,
    pub(crate) columns: Vec<usize>,
}

impl Sample {
    /// Takes all rows and columns of a small layer, and some of a large one.
    pub(crate) fn of([rows, k, n]: [usize; 3]) -> Self {
        if rows * k * n <= COMPARED_WHOLE {
            return Self { rows: (0..rows).collect(), columns: (0..n).collect() };
        }
        Self::small([rows, n])
    }

    /// Takes the first row, the last, and rows between them at distances as even as whole numbers allow, and columns likewise.
    pub(crate) fn small([rows, n]: [usize; 2]) -> Self {
        let spread = |all: usize| match all {
            0..=SAMPLE => (0..all).collect(),
            all => (0..SAMPLE).map(|at| at * (all - 1) / (SAMPLE - 1)).collect(),
        };
        Self { rows: spread(rows), columns: spread(n) }
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len() * self.columns.len()
    }

    /// Iterates over the row and the column of each element.
    pub(crate) fn elements(&self) -> impl Iterator<Item = (usize, usize)> {
        self.rows.iter().flat_map(|&row| self.columns.iter().map(move |&column| (row, column)))
    }
}

impl Layer {
    pub(crate) fn new(shape: [usize; 3]) -> Result<Self> {
        Self::of_bits(shape, 8)
    }

    /// Makes a layer with weights of so many bits.
    pub(crate) fn of_bits(shape @ [rows, k, n]: [usize; 3], bits: u32) -> Result<Self> {
        let mut random = Random::new((rows + k + n) as u64);
        let x = Tensor::from_i8(&[rows, k], random.codes(rows * k))?;
        let weights = random.codes(n * k).into_iter().map(|value| value >> (8 - bits)).collect();
        let w = Arc::new(Tensor::from_i8(&[n, k], weights)?);
        let bias: Vec<i32> = (0..n).map(|_| random.between(-10_000, 10_000) >> (8 - bits)).collect();
        // Sums of products of random int8 values have a standard deviation of 74² · √K. This multiplier makes few outputs saturate.
        let deviation = 74.0 * 74.0 / f64::from(1 << (8 - bits)) * (k as f64).sqrt();
        let multiplier = vec![(40.0 / deviation) as f32; n];
        let graph = graph(k, n, Arc::clone(&w), bits, bias.clone(), multiplier.clone())?;
        let program = lower(&graph)?;
        let sample = Sample::of(shape);
        let expected = expected(&sample, &x, &w, &bias, &multiplier)?;
        Ok(Self { rows, k, n, x, w, bias, multiplier, graph, program, sample, expected })
    }

    /// Fails unless the outputs of a series equal the interpreter's. Returns how many elements were compared.
    pub(crate) fn check(&self, series: &str, outputs: &[i8]) -> Result<usize> {
        let all = self.rows * self.n;
        ensure!(outputs.len() == all, "{series}: {} outputs, expected {all}", outputs.len());
        for ((row, column), expected) in self.sample.elements().zip(&self.expected) {
            let output = outputs[row * self.n + column];
            ensure!(output == *expected, "{series}: row {row}, column {column} is {output}, expected {expected}");
        }
        Ok(self.sample.len())
    }
}

fn graph(k: usize, n: usize, w: Arc<Tensor>, bits: u32, bias: Vec<i32>, multiplier: Vec<f32>) -> Result<Graph> {
    let mut g = GraphBuilder::new();
    let input = g.typed_input("x", Shape::rows(k), DType::I8)?;
    let weight = g.node("w", Op::Constant(Constant { tensor: w, bits: Some(bits) }), &[])?;
    let biases = g.constant("bias", Tensor::from_i32(&[n], bias)?)?;
    let factors = g.constant("multiplier", Tensor::from_f32(&[n], multiplier)?)?;
    let acc = g.node("fc", Op::IntegerLinear(IntegerLinear { fraction_bits: 0 }), &[input, weight, biases])?;
    let qparams = QParams::new(0.05, ZERO_POINT)?;
    let y = g.node("y", Op::Requantize(Requantize { qparams, lo: -128, hi: 127, ch_axis: None }), &[acc, factors])?;
    Ok(g.finish([y])?)
}

/// Computes the sample's rows and columns by the interpreter.
fn expected(sample: &Sample, x: &Tensor, w: &Tensor, bias: &[i32], multiplier: &[f32]) -> Result<Vec<i8>> {
    let k = x.shape()[1];
    let rows_of = |tensor: &Tensor, rows: &[usize]| -> Result<Tensor> {
        let values = tensor.as_i8().context("int8 values")?;
        let picked = rows.iter().flat_map(|&row| values[row * k..][..k].iter().copied()).collect();
        Ok(Tensor::from_i8(&[rows.len(), k], picked)?)
    };
    let columns = &sample.columns;
    let (x, w) = (rows_of(x, &sample.rows)?, Arc::new(rows_of(w, columns)?));
    let bias = columns.iter().map(|&column| bias[column]).collect();
    let multiplier = columns.iter().map(|&column| multiplier[column]).collect();
    let graph = graph(k, columns.len(), w, 8, bias, multiplier)?;
    Ok(Interpreter::new(&graph).run(&[&x])?[0].as_i8().context("an int8 output")?.to_vec())
}

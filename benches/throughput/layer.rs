//! The layer that is measured.

use std::sync::Arc;

use anyhow::{Result, ensure};
use enfold::interp::Interpreter;
use enfold::lower::lower;
use enfold::ops::{Constant, IntegerLinear, Op, Requantize};
use enfold::program::Program;
use enfold::values::{DType, QParams};
use enfold::{Graph, GraphBuilder, Shape, Tensor};

use crate::random::Random;

pub(crate) const ZERO_POINT: i32 = 3;

/// Up to so many products the interpreter computes all of a layer, beyond only a sample of its rows and columns.
const CHECKED_WHOLE: usize = 1 << 33;
/// Rows, and columns, of a sample.
const SAMPLE: usize = 64;

// Each bench reads its own selection of the fields.
#[allow(dead_code)]
/// int8 codes in, int8 codes out, without fraction bits, as the naive kernel computes it.
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
    /// Of the sample, by the interpreter.
    expected: Vec<i8>,
}

/// The rows and columns that are compared: all, or some.
pub(crate) struct Sample {
    pub(crate) rows: Vec<usize>,
    pub(crate) columns: Vec<usize>,
}

impl Sample {
    pub(crate) fn of([rows, k, n]: [usize; 3]) -> Self {
        if rows * k * n <= CHECKED_WHOLE {
            return Self { rows: (0..rows).collect(), columns: (0..n).collect() };
        }
        Self::small([rows, n])
    }

    /// The first, the last, and what is as evenly between them as whole numbers allow, so that all residues occur.
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

    /// Row and column of each element.
    pub(crate) fn elements(&self) -> impl Iterator<Item = (usize, usize)> {
        self.rows.iter().flat_map(|&row| self.columns.iter().map(move |&column| (row, column)))
    }
}

impl Layer {
    pub(crate) fn new(shape: [usize; 3]) -> Result<Self> {
        Self::of_bits(shape, 8)
    }

    /// With weights whose codes are of so many bits.
    pub(crate) fn of_bits(shape @ [rows, k, n]: [usize; 3], bits: u32) -> Result<Self> {
        let mut random = Random::new((rows + k + n) as u64);
        let x = Tensor::from_i8(&[rows, k], random.codes(rows * k))?;
        let codes = random.codes(n * k).into_iter().map(|code| code >> (8 - bits)).collect();
        let w = Arc::new(Tensor::from_i8(&[n, k], codes)?);
        let bias: Vec<i32> = (0..n).map(|_| random.between(-10_000, 10_000) >> (8 - bits)).collect();
        // Sums of random codes have a deviation of 74² · √K; most codes then lie inside the range.
        let deviation = 74.0 * 74.0 / f64::from(1 << (8 - bits)) * (k as f64).sqrt();
        let multiplier = vec![(40.0 / deviation) as f32; n];
        let graph = graph(k, n, Arc::clone(&w), bias.clone(), multiplier.clone())?;
        let program = lower(&graph)?;
        let sample = Sample::of(shape);
        let expected = expected(&sample, &x, &w, &bias, &multiplier)?;
        Ok(Self { rows, k, n, x, w, bias, multiplier, graph, program, sample, expected })
    }

    /// Fails unless a series computes what the interpreter does; returns how many elements were compared.
    pub(crate) fn check(&self, series: &str, codes: &[i8]) -> Result<usize> {
        let all = self.rows * self.n;
        ensure!(codes.len() == all, "{series}: {} codes, expected {all}", codes.len());
        for ((row, column), expected) in self.sample.elements().zip(&self.expected) {
            let code = codes[row * self.n + column];
            ensure!(code == *expected, "{series}: row {row}, column {column} is {code}, expected {expected}");
        }
        Ok(self.sample.len())
    }
}

fn graph(k: usize, n: usize, w: Arc<Tensor>, bias: Vec<i32>, multiplier: Vec<f32>) -> Result<Graph> {
    let mut g = GraphBuilder::new();
    let input = g.typed_input("x", Shape::rows(k), DType::I8)?;
    let weight = g.node("w", Op::Constant(Constant::new(w)), &[])?;
    let biases = g.constant("bias", Tensor::from_i32(&[n], bias)?)?;
    let factors = g.constant("multiplier", Tensor::from_f32(&[n], multiplier)?)?;
    let acc = g.node("fc", Op::IntegerLinear(IntegerLinear { fraction_bits: 0 }), &[input, weight, biases])?;
    let qparams = QParams::new(0.05, ZERO_POINT)?;
    let y = g.node("y", Op::Requantize(Requantize { qparams, lo: -128, hi: 127 }), &[acc, factors])?;
    Ok(g.finish([y])?)
}

/// The layer of the sample's rows and columns alone, by the interpreter.
fn expected(sample: &Sample, x: &Tensor, w: &Tensor, bias: &[i32], multiplier: &[f32]) -> Result<Vec<i8>> {
    let k = x.shape()[1];
    let rows_of = |codes: &Tensor, rows: &[usize]| {
        let codes = codes.as_i8().unwrap_or_default();
        let picked = rows.iter().flat_map(|&row| codes[row * k..][..k].iter().copied()).collect();
        Tensor::from_i8(&[rows.len(), k], picked)
    };
    let columns = &sample.columns;
    let (x, w) = (rows_of(x, &sample.rows)?, Arc::new(rows_of(w, columns)?));
    let bias = columns.iter().map(|&column| bias[column]).collect();
    let multiplier = columns.iter().map(|&column| multiplier[column]).collect();
    let graph = graph(k, columns.len(), w, bias, multiplier)?;
    Ok(Interpreter::new(&graph).run(&[&x])?[0].as_i8().unwrap_or_default().to_vec())
}

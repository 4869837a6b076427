//! The layer that is measured.

use std::sync::Arc;

use anyhow::{Result, ensure};
use enfold::graph::Op;
use enfold::interp::Interpreter;
use enfold::lower::lower;
use enfold::program::Program;
use enfold::qparams::QParams;
use enfold::tensor::DType;
use enfold::{Graph, GraphBuilder, Shape, Tensor};

use crate::random::Random;

pub(crate) const ZERO_POINT: i32 = 3;

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
    /// By the interpreter.
    pub(crate) expected: Tensor,
}

impl Layer {
    pub(crate) fn new([rows, k, n]: [usize; 3]) -> Result<Self> {
        let mut random = Random::new((rows + k + n) as u64);
        let x = Tensor::from_i8(&[rows, k], random.codes(rows * k))?;
        let w = Arc::new(Tensor::from_i8(&[n, k], random.codes(n * k))?);
        let bias: Vec<i32> = (0..n).map(|_| random.between(-10_000, 10_000)).collect();
        // Sums of random codes have a deviation of 74² · √K; most codes then lie inside the range.
        let multiplier = vec![(40.0 / (74.0f64.powi(2) * (k as f64).sqrt())) as f32; n];
        let mut g = GraphBuilder::new();
        let input = g.typed_input("x", Shape::rows(k), DType::I8)?;
        let weight = g.node("w", Op::Constant(Arc::clone(&w)), &[])?;
        let biases = g.constant("bias", Tensor::from_i32(&[n], bias.clone())?)?;
        let factors = g.constant("multiplier", Tensor::from_f32(&[n], multiplier.clone())?)?;
        let acc = g.node("fc", Op::IntegerLinear { fraction_bits: 0 }, &[input, weight, biases])?;
        let qparams = QParams::new(0.05, ZERO_POINT)?;
        let y = g.node("y", Op::Requantize { qparams, lo: -128, hi: 127 }, &[acc, factors])?;
        let graph = g.finish([y])?;
        let program = lower(&graph)?;
        let expected = Interpreter::new(&graph).run(&[&x])?.swap_remove(0);
        Ok(Self { rows, k, n, x, w, bias, multiplier, graph, program, expected })
    }

    /// Fails unless a series computes what the interpreter does.
    pub(crate) fn check(&self, series: &str, codes: &[i8]) -> Result<()> {
        let expected = self.expected.as_i8().unwrap_or_default();
        ensure!(codes.len() == expected.len(), "{series}: {} codes, expected {}", codes.len(), expected.len());
        let wrong = (0..expected.len()).find(|&at| codes[at] != expected[at]);
        if let Some(at) = wrong {
            anyhow::bail!("{series}: element {at} is {}, expected {}", codes[at], expected[at]);
        }
        Ok(())
    }
}

//! The one list of cases that interpreter, CPU engine, GPU engine and bench self-checks share: single linear layers in
//! integers, below, at and above every tile and word.

use enfold::lower::{LowerOptions, lower_with};
use enfold::numerics;
use enfold::ops::{Dequantize, IntegerLinear, Op, Quantize, Requantize, ScaleAccumulator};
use enfold::program::Program;
use enfold::values::{DType, QParams, QuantRange, TensorQParams};
use enfold::{Graph, GraphBuilder, Shape, Tensor};

use crate::random::Random;

/// The behaviour that the numbers of a case provoke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Data {
    /// Any quantized values.
    Random,
    /// Only −128, 127 and similar values, so that sums are as large as they get.
    Extremes,
    /// Accumulators times multiplier that lie halfway between two quantized values.
    Ties,
    /// Multipliers so large or small that all quantized values saturate or vanish.
    Saturating,
    /// One channel with weights, the others without.
    HotChannel,
}

impl Data {
    pub(crate) const ALL: [Self; 5] = [Self::Random, Self::Extremes, Self::Ties, Self::Saturating, Self::HotChannel];
}

/// The types of the inputs and outputs of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ends {
    /// int8 in, int8 out.
    Codes,
    /// int8 in, f32 out by equation 7.
    FloatOut,
    /// f32 in through a quantize step, f32 out through a dequantize step.
    Floats,
}

impl Ends {
    pub(crate) const ALL: [Self; 3] = [Self::Codes, Self::FloatOut, Self::Floats];
}

/// One linear layer and its input.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) rows: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) ends: Ends,
    pub(crate) x: Vec<i8>,
    pub(crate) w: Vec<i8>,
    pub(crate) bias: Vec<i32>,
    pub(crate) fraction_bits: u32,
    pub(crate) factors: Vec<f32>,
    pub(crate) relu: bool,
    pub(crate) zero_point: i32,
}

/// Rows of the list.
pub(crate) const ROWS: [usize; 7] = [1, 2, 3, 8, 17, 64, 129];
/// Columns: below, at and above a word of output, a padded row, and a block of columns.
pub(crate) const COLS: [usize; 12] = [1, 3, 4, 5, 15, 16, 17, 63, 64, 65, 128, 130];
/// Numbers of features: below, at and above a word of 4 quantized values, a vector of 16, and the features that a tile stages.
pub(crate) const FEATURES: [usize; 13] = [1, 3, 4, 5, 15, 16, 17, 31, 63, 64, 65, 130, 300];

/// Every number of rows with every number of columns; features, data and ends take turns, so that each meets many of the
/// others.
pub(crate) fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut turn = 0;
    for rows in ROWS {
        for n in COLS {
            for data in Data::ALL {
                let (k, ends) = (FEATURES[turn % FEATURES.len()], Ends::ALL[turn % 3]);
                cases.push(Case::new(rows, n, k, data, ends, turn as u64));
                turn += 1;
            }
        }
    }
    // Every number of features with each kind of data, where rows and columns are odd.
    for k in FEATURES {
        for data in Data::ALL {
            cases.push(Case::new(5, 67, k, data, Ends::ALL[turn % 3], turn as u64));
            turn += 1;
        }
    }
    cases
}

impl Case {
    pub(crate) fn new(rows: usize, n: usize, k: usize, data: Data, ends: Ends, seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x5EED);
        let (mut x, mut w) = (random.codes(rows * k), random.codes(n * k));
        let mut bias: Vec<i32> = (0..n).map(|_| random.between(-100_000, 100_000)).collect();
        let mut factors: Vec<f32> = (0..n).map(|_| (random.uniform() * 2e-3 + 1e-5) as f32).collect();
        match data {
            Data::Random => {}
            Data::Extremes => {
                let extreme = |code: &mut i8| *code = [-128, 127, -127, -128][(*code & 3) as usize];
                x.iter_mut().chain(&mut w).for_each(extreme);
                // The largest sum there is, in the first element.
                x[..k].fill(-128);
                w[..k].fill(-128);
                bias.iter_mut().for_each(|b| *b *= 5_000);
                factors.iter_mut().for_each(|f| *f *= 1e-3);
            }
            Data::Ties => {
                w.iter_mut().for_each(|w| *w %= 2);
                bias.iter_mut().for_each(|b| *b = *b % 99 * 2 + 1);
                factors.iter_mut().enumerate().for_each(|(i, f)| *f = [0.5, 0.25, 0.125][i % 3]);
            }
            Data::Saturating => {
                factors.iter_mut().enumerate().for_each(|(i, f)| *f = [1e30, 3e-38, 1e10, 1e-20][i % 4]);
            }
            Data::HotChannel => {
                let hot = random.below(n);
                let cold = |(at, code): (usize, &mut i8)| {
                    if at / k != hot {
                        *code = 0;
                    }
                };
                w.iter_mut().enumerate().for_each(cold);
            }
        }
        let fits = |p: &u32| {
            w.chunks_exact(k).zip(&bias).all(|(row, &b)| {
                let magnitude = row.iter().map(|&w| i64::from(w.unsigned_abs())).sum();
                numerics::fits_accumulator(magnitude, b.into(), *p)
            })
        };
        let most = (0..=numerics::MAX_FRACTION_BITS).rev().find(fits).expect("0 fraction bits fit");
        let fraction_bits = if data == Data::Ties { 0 } else { most };
        let relu = seed.is_multiple_of(4);
        let zero_point = random.between(-128, 127);
        let name = format!("{rows} x {k} x {n} {data:?} {ends:?} seed {seed}");
        Self { name, rows, n, k, ends, x, w, bias, fraction_bits, factors, relu, zero_point }
    }

    /// The layer as an integer graph.
    pub(crate) fn graph(&self) -> Graph {
        self.try_graph().unwrap_or_else(|e| panic!("{}: {e}", self.name))
    }

    fn try_graph(&self) -> Result<Graph, enfold::graph::GraphError> {
        let (n, k) = (self.n, self.k);
        let mut g = GraphBuilder::new();
        let x = if self.ends == Ends::Floats {
            let x = g.input("x", Shape::rows(k))?;
            let qparams = TensorQParams::PerTensor(self.x_qparams());
            g.node("x.quantize", Op::Quantize(Quantize::new(qparams, QuantRange::INT8)), &[x])?
        } else {
            g.typed_input("x", Shape::rows(k), DType::I8)?
        };
        let tensor = |t: Result<Tensor, _>| t.expect("lengths fit");
        let w = g.constant("w", tensor(Tensor::from_i8(&[n, k], self.w.clone())))?;
        let bias = g.constant("bias", tensor(Tensor::from_i32(&[n], self.bias.clone())))?;
        let factors = g.constant("factors", tensor(Tensor::from_f32(&[n], self.factors.clone())))?;
        let acc =
            g.node("fc", Op::IntegerLinear(IntegerLinear { fraction_bits: self.fraction_bits }), &[x, w, bias])?;
        let qparams = QParams::new(0.037, self.zero_point).expect("valid");
        let lo = if self.relu { self.zero_point } else { -128 };
        let y = match self.ends {
            Ends::FloatOut => {
                g.node("y", Op::ScaleAccumulator(ScaleAccumulator { relu: self.relu, ch_axis: None }), &[acc, factors])?
            }
            Ends::Codes => {
                g.node("y", Op::Requantize(Requantize { qparams, lo, hi: 127, ch_axis: None }), &[acc, factors])?
            }
            Ends::Floats => {
                let q = g.node(
                    "y.quantize",
                    Op::Requantize(Requantize { qparams, lo, hi: 127, ch_axis: None }),
                    &[acc, factors],
                )?;
                g.node("y", Op::Dequantize(Dequantize { qparams: TensorQParams::PerTensor(qparams) }), &[q])?
            }
        };
        g.finish([y])
    }

    /// The layer as a program.
    pub(crate) fn program(&self) -> Program {
        lower_with(&self.graph(), &LowerOptions::default()).unwrap_or_else(|e| panic!("{}: {e}", self.name))
    }

    /// Its input.
    pub(crate) fn input(&self) -> Tensor {
        let shape = [self.rows, self.k];
        if self.ends != Ends::Floats {
            return Tensor::from_i8(&shape, self.x.clone()).expect("lengths fit");
        }
        let q = self.x_qparams();
        // Halfway points between quantized values, the quantized values themselves, and values that saturate.
        let float = |(i, &code): (usize, &i8)| {
            let steps = (i32::from(code) - q.zero_point()) as f32 + [0.0, 0.5, -0.5, 0.25][i % 4];
            if i % 97 == 0 { 1e9 } else { steps * q.scale() }
        };
        Tensor::from_f32(&shape, self.x.iter().enumerate().map(float).collect()).expect("lengths fit")
    }

    fn x_qparams(&self) -> QParams {
        // A power of two keeps halfway points exact.
        QParams::new(0.0625, -self.zero_point.max(-127)).expect("valid")
    }
}

/// Describes the first difference between two results; `None` if all bits are equal.
pub(crate) fn difference(got: &Tensor, expected: &Tensor) -> Option<String> {
    if (got.shape(), got.dtype()) != (expected.shape(), expected.dtype()) {
        return Some(format!("{}{:?}, expected {}{:?}", got.dtype(), got.shape(), expected.dtype(), expected.shape()));
    }
    let report = |at: usize, got: String, expected: String| Some(format!("element {at} is {got}, expected {expected}"));
    match (got, expected) {
        (Tensor::F32(_), Tensor::F32(_)) => {
            let (a, b) = (got.as_f32()?, expected.as_f32()?);
            let at = (0..a.len()).find(|&i| a[i].to_bits() != b[i].to_bits())?;
            report(at, format!("{:e}", a[at]), format!("{:e}", b[at]))
        }
        (Tensor::I8(_), Tensor::I8(_)) => {
            let (a, b) = (got.as_i8()?, expected.as_i8()?);
            let at = (0..a.len()).find(|&i| a[i] != b[i])?;
            report(at, a[at].to_string(), b[at].to_string())
        }
        (Tensor::I32(_), Tensor::I32(_)) => {
            let (a, b) = (got.as_i32()?, expected.as_i32()?);
            let at = (0..a.len()).find(|&i| a[i] != b[i])?;
            report(at, a[at].to_string(), b[at].to_string())
        }
        _ => Some("not a result type".to_owned()),
    }
}

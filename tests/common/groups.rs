//! Linear layers with group-wise weights in integers, for interpreter, CPU and GPU: below, at and above words, vectors, groups and tiles.

use enfold::lower::lower;
use enfold::numerics::{self, EPS};
use enfold::ops::{
    ChooseQParams, Constant, IntegerLinearGroups, Op, QuantizeDynamic, Requantize, ScaleAccumulator,
    ScaleAccumulatorDynamic,
};
use enfold::program::Program;
use enfold::values::{DType, QParams, QScheme, QuantRange};
use enfold::{Graph, GraphBuilder, Shape, Tensor};

use crate::random::Random;

/// The types of input and output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GroupEnds {
    Int8,
    FloatOut,
    PerTensor,
    PerToken,
}

/// One layer and its input.
#[derive(Debug, Clone)]
pub(crate) struct GroupCase {
    pub(crate) name: String,
    pub(crate) rows: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) size: usize,
    bits: u32,
    ends: GroupEnds,
    x: Vec<i8>,
    pub(crate) w: Vec<i8>,
    pub(crate) multipliers: Vec<i32>,
    pub(crate) zero_points: Vec<i8>,
    bias: Vec<i32>,
    factors: Vec<f32>,
    float_bias: Vec<f32>,
    fraction_bits: u32,
}

/// Group sizes: words, vectors of 16 features, powers of two and others, and larger than any K.
pub(crate) const SIZES: [usize; 8] = [32, 4, 16, 48, 64, 128, 20, 1024];
const FEATURES: [usize; 7] = [64, 37, 128, 130, 4, 300, 17];
const COLS: [usize; 6] = [64, 1, 5, 67, 130, 128];

/// Every group size with each number of bits, with and without zero points; features, columns, data and ends take turns.
pub(crate) fn all(rows: &[usize]) -> Vec<GroupCase> {
    let mut cases = Vec::new();
    for size in SIZES {
        for bits in [4, 2, 8, 3] {
            for asymmetric in [false, true] {
                let turn = cases.len();
                let ends = [GroupEnds::Int8, GroupEnds::FloatOut, GroupEnds::PerTensor, GroupEnds::PerToken];
                let (rows, n, k) = (rows[turn % rows.len()], COLS[turn % COLS.len()], FEATURES[turn % FEATURES.len()]);
                let extremes = turn.is_multiple_of(5);
                cases.push(GroupCase::new(
                    [rows, n, k],
                    size,
                    (bits, asymmetric),
                    ends[turn / 2 % 4],
                    extremes,
                    turn as u64,
                ));
            }
        }
    }
    cases
}

impl GroupCase {
    pub(crate) fn new(
        [rows, n, k]: [usize; 3],
        size: usize,
        (bits, asymmetric): (u32, bool),
        ends: GroupEnds,
        extremes: bool,
        seed: u64,
    ) -> Self {
        let mut random = Random::new(seed ^ 0x6209);
        let half = 1i32 << (bits - 1);
        // Weights of 8 bits minus their zero points must fit int8.
        let (lo, hi) = if asymmetric && bits == 8 { (-64, 63) } else { (-half, half - 1) };
        let groups = n * k.div_ceil(size);
        let pick = |random: &mut Random, lo: i32, hi: i32| {
            if extremes { [lo, hi][random.below(2)] } else { random.between(lo, hi) }
        };
        let x = (0..rows * k).map(|_| pick(&mut random, -128, 127) as i8).collect();
        let w: Vec<i8> = (0..n * k).map(|_| pick(&mut random, lo, hi) as i8).collect();
        let multipliers: Vec<i32> = (0..groups).map(|_| pick(&mut random, 1, 255)).collect();
        let zero_point = |random: &mut Random| if asymmetric { pick(random, lo.max(-63), hi) as i8 } else { 0 };
        let zero_points: Vec<i8> = (0..groups).map(|_| zero_point(&mut random)).collect();
        let bias: Vec<i32> = (0..n).map(|_| random.between(-100_000, 100_000)).collect();
        let typical = 0.3 / (128.0 * half as f32 * (k as f32).sqrt());
        let factors = (0..n).map(|_| (random.uniform() as f32 + 0.2) * typical).collect();
        let float_bias = random.normals(n, 1.0);
        let name =
            format!("{rows} x {k} x {n}, groups of {size}, {bits} bits, asymmetric {asymmetric}, {ends:?} seed {seed}");
        let mut case = Self {
            name,
            rows,
            n,
            k,
            size,
            bits,
            ends,
            x,
            w,
            multipliers,
            zero_points,
            bias,
            factors,
            float_bias,
            fraction_bits: 0,
        };
        let fits = |p: &u32| {
            let sums = case.sums();
            sums.iter().zip(&case.bias).all(|((_, magnitude), &b)| numerics::fits_accumulator(*magnitude, b.into(), *p))
        };
        case.fraction_bits = (0..=4).rev().find(fits).expect("0 fraction bits fit");
        case.factors.iter_mut().for_each(|f| *f /= (1 << case.fraction_bits) as f32);
        case
    }

    /// `Σ m·(w − z)` and the sum of the magnitudes, of each channel.
    fn sums(&self) -> Vec<(i64, i64)> {
        let of_row = self.k.div_ceil(self.size);
        let of_channel = |(channel, row): (usize, &[i8])| {
            let factor = |(at, &w): (usize, &i8)| {
                let group = channel * of_row + at / self.size;
                i64::from(self.multipliers[group]) * (i64::from(w) - i64::from(self.zero_points[group]))
            };
            let factors = row.iter().enumerate().map(factor);
            factors.fold((0, 0), |(sum, magnitude), factor| (sum + factor, magnitude + factor.abs()))
        };
        self.w.chunks(self.k).enumerate().map(of_channel).collect()
    }

    /// The layer as an integer graph.
    pub(crate) fn graph(&self) -> Graph {
        self.try_graph().unwrap_or_else(|e| panic!("{}: {e}", self.name))
    }

    fn try_graph(&self) -> Result<Graph, enfold::graph::GraphError> {
        let (n, k) = (self.n, self.k);
        let mut g = GraphBuilder::new();
        let dynamic = matches!(self.ends, GroupEnds::PerTensor | GroupEnds::PerToken);
        let (x, qparams) = if dynamic {
            let x = g.input("x", Shape::rows(k))?;
            let qscheme = match self.ends {
                GroupEnds::PerToken => QScheme::per_token_affine(),
                _ => QScheme::per_tensor_affine(),
            };
            let range = QuantRange::INT8;
            let qparams = g.node("qparams", Op::ChooseQParams(ChooseQParams { qscheme, range, eps: EPS }), &[x])?;
            (g.node("q", Op::QuantizeDynamic(QuantizeDynamic { range }), &[x, qparams])?, Some(qparams))
        } else {
            (g.typed_input("x", Shape::rows(k), DType::I8)?, None)
        };
        let i32s = |data: Vec<i32>, shape: &[usize]| Tensor::from_i32(shape, data).expect("lengths fit");
        let i8s = |data: &[i8], shape: &[usize]| Tensor::from_i8(shape, data.to_vec()).expect("lengths fit");
        let of_groups = [n, k.div_ceil(self.size)];
        let w = g.node("w", Constant { bits: Some(self.bits), ..Constant::new(i8s(&self.w, &[n, k])) }, &[])?;
        let bias = if dynamic { vec![0; n] } else { self.bias.clone() };
        let bias = g.constant("bias", i32s(bias, &[n]))?;
        let multipliers = g.constant("multipliers", i32s(self.multipliers.clone(), &of_groups))?;
        let zero_points = g.constant("zero_points", i8s(&self.zero_points, &of_groups))?;
        let fraction_bits = if dynamic { 0 } else { self.fraction_bits };
        let op = IntegerLinearGroups { fraction_bits, group_size: self.size };
        let acc = g.node("fc", op, &[x, w, bias, multipliers, zero_points])?;
        let factors = g.constant("factors", Tensor::from_f32(&[n], self.factors.clone()).expect("lengths fit"))?;
        let y = match (self.ends, qparams) {
            (_, Some(qparams)) => {
                let sums = g.constant("sums", i32s(self.sums().iter().map(|sums| sums.0 as i32).collect(), &[n]))?;
                let bias = g.constant("b", Tensor::from_f32(&[n], self.float_bias.clone()).expect("lengths fit"))?;
                let op = ScaleAccumulatorDynamic { relu: self.n.is_multiple_of(2) };
                g.node("y", op, &[acc, qparams, sums, factors, bias])?
            }
            (GroupEnds::Int8, _) => {
                let qparams = QParams::new(0.05, -3).expect("valid");
                g.node("y", Requantize { qparams, lo: -128, hi: 127, ch_axis: None }, &[acc, factors])?
            }
            _ => g.node("y", ScaleAccumulator { relu: false, ch_axis: None }, &[acc, factors])?,
        };
        g.finish([y])
    }

    /// The layer as a program.
    pub(crate) fn program(&self) -> Program {
        lower(&self.graph()).unwrap_or_else(|e| panic!("{}: {e}", self.name))
    }

    /// Its input.
    pub(crate) fn input(&self) -> Tensor {
        let shape = [self.rows, self.k];
        match self.ends {
            GroupEnds::Int8 | GroupEnds::FloatOut => Tensor::from_i8(&shape, self.x.clone()).expect("lengths fit"),
            _ => Tensor::from_f32(&shape, self.x.iter().map(|&x| f32::from(x) * 0.03 + 0.4).collect())
                .expect("lengths fit"),
        }
    }

    /// The same with the last weight, the last integer scale or the last zero point changed, by one.
    pub(crate) fn changed(&self) -> Vec<(&'static str, Self)> {
        let mut all = vec![("weight", self.clone()), ("integer scale", self.clone())];
        if let Some(w) = all[0].1.w.last_mut() {
            *w ^= 1;
        }
        if let Some(m) = all[1].1.multipliers.last_mut() {
            *m = if *m == 255 { 254 } else { *m + 1 };
        }
        if self.zero_points.iter().any(|&z| z != 0) {
            let mut case = self.clone();
            if let Some(z) = case.zero_points.last_mut() {
                *z ^= 1;
            }
            all.push(("zero point", case));
        }
        all
    }
}

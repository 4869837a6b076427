//! Float products by `rten-gemm`.

use rten_gemm::{BiasVector, GemmExecutor, GemmInputA, GemmInputB, GemmOptions, PackedAMatrix};
use rten_simd::ops::{BitOps, NumOps};
use rten_simd::{Isa, SimdOp};
use rten_tensor::{Matrix, MatrixLayout, NdTensorView};

use super::LARGE;
use super::after::After;
use super::panels::{Panels, Rows};
use super::strided::{self, Scratch, Strided};
use super::tasks::alone_now;
use crate::parallel::*;

/// The reason why a product cannot fail: `rten-gemm` refuses sizes that do not fit, and here they come from the slices.
pub(crate) const SIZES: &str = "sizes follow from the slices";

/// Up to so many rows, and multiply-adds that one thread computes, plain loops are faster: `rten-gemm` wakes other threads for any product.
const FEW_ROWS: usize = 4;
const ALONE: usize = 1 << 19;

/// Floats of the weight that are read so far ahead: it comes from memory or a cache that threads share, and only once.
const AHEAD: usize = 1 << 12;

/// Channels whose sums are computed together.
const CHANNELS: usize = 4;

/// The product `y[m, n] = x[m, k] · weight[n, k]ᵀ + bias[n]` of few rows. Each sum is spread over the lanes of a vector.
struct Dots<'a> {
    y: &'a mut [f32],
    x: &'a [f32],
    weight: &'a [f32],
    n: usize,
    k: usize,
    bias: Option<&'a [f32]>,
}

impl SimdOp for Dots<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Self { y, x, weight, n, k, bias } = self;
        for (at, weight) in weight.chunks(CHANNELS * k).enumerate() {
            for (y, x) in y.chunks_exact_mut(n).zip(x.chunks_exact(k)) {
                let y = &mut y[at * CHANNELS..];
                if let Some((y, _)) = y.split_first_chunk_mut::<CHANNELS>() {
                    *y = dots(isa, x, weight);
                } else {
                    for (y, weight) in y.iter_mut().zip(weight.chunks_exact(k)) {
                        [*y] = dots(isa, x, weight);
                    }
                }
            }
        }
        if let Some(bias) = bias {
            for y in y.chunks_exact_mut(n) {
                for (y, bias) in y.iter_mut().zip(bias) {
                    *y += bias;
                }
            }
        }
    }
}

/// Computes `Σ x[i] · w[i]` of `N` channels of `weight[N, k]`.
#[inline(always)]
fn dots<I: Isa, const N: usize>(isa: I, x: &[f32], weight: &[f32]) -> [f32; N] {
    let (ops, k) = (isa.f32(), x.len());
    let whole = k - k % ops.len();
    let mut lanes = [ops.zero(); N];
    for first in (0..whole).step_by(ops.len()) {
        let x = ops.load(&x[first..]);
        for channel in 0..N {
            let w = &weight[channel * k + first..];
            ops.prefetch(w.as_ptr().wrapping_add(AHEAD));
            let w = ops.load(w);
            lanes[channel] = ops.mul_add(x, w, lanes[channel]);
        }
    }
    let mut sums = [0f32; N];
    for channel in 0..N {
        sums[channel] = ops.sum(lanes[channel]);
        for (x, w) in x[whole..].iter().zip(&weight[channel * k + whole..]) {
            sums[channel] += x * w;
        }
    }
    sums
}

/// Computes [`Dots`] of one row on several threads, which stream their shares of the weight.
fn dots_of_row(y: &mut [f32], x: &[f32], weight: &[f32], bias: Option<&[f32]>, after: After<'_, f32>) {
    let (n, k) = (y.len(), x.len());
    let share = n.div_ceil(4 * current_num_threads()).next_multiple_of(CHANNELS);
    y.par_chunks_mut(share).zip(weight.par_chunks(share * k)).enumerate().for_each(|(at, (y, weight))| {
        let n = y.len();
        let bias = bias.map(|bias| &bias[at * share..][..n]);
        Dots { y: &mut *y, x, weight, n, k, bias }.dispatch();
        if let Some(after) = after {
            after(0, at * share, n, y);
        }
    });
}

/// A weight `[N, K]` in panels.
pub(crate) struct PackedWeight(Panels);

impl std::fmt::Debug for PackedWeight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PackedWeight{:?}", self.0.sizes())
    }
}

impl PackedWeight {
    /// Packs `weight[n, k]`, row-major.
    pub(crate) fn new(weight: &[f32], n: usize, k: usize) -> Self {
        Self(Panels::new(weight, n, k))
    }

    /// Computes `rows[m, k] · weight[n, k]ᵀ + bias[n]`. The order of a sum depends on K only.
    pub(crate) fn product(&self, y: &mut [f32], rows: Rows<'_>, m: usize, bias: Option<&[f32]>, after: After<'_, f32>) {
        self.0.product_of(y, rows, m, bias, after);
    }
}

/// The left factor of several products, in the layout of the GEMM kernel.
pub(crate) struct PackedLeft<'a> {
    matrix: Matrix<'a, f32>,
    packed: Option<PackedAMatrix<f32>>,
}

impl<'a> PackedLeft<'a> {
    /// Packs `a[m, k]`, row-major.
    pub(crate) fn new(a: &'a [f32], m: usize, k: usize) -> Self {
        Self::of(matrix(a, m, k))
    }

    /// Packs the transpose of `a[k, m]`, row-major.
    pub(crate) fn transposed(a: &'a [f32], m: usize, k: usize) -> Self {
        Self::of(transposed(a, k, m))
    }

    fn of(matrix: Matrix<'a, f32>) -> Self {
        // `rten-gemm` refuses empty matrices, and has a faster vector product for one row, which reads it unpacked.
        let pack = matrix.rows() > 1 && matrix.cols() > 0;
        Self { packed: pack.then(|| GemmExecutor::<f32>::new().prepack_a(matrix)), matrix }
    }

    /// Computes `y[m, n] = a[m, k] · b[k, n] + bias[m]`.
    pub(crate) fn product(&self, y: &mut [f32], b: &[f32], n: usize, bias: Option<&[f32]>) {
        if y.is_empty() {
            return;
        }
        let k = self.matrix.cols();
        if k == 0 {
            let rows = y.chunks_exact_mut(n).enumerate();
            return rows.for_each(|(row, y)| y.fill(bias.map_or(0.0, |bias| bias[row])));
        }
        let a = match &self.packed {
            Some(packed) => GemmInputA::Packed(packed),
            None => GemmInputA::Unpacked(self.matrix),
        };
        let options = GemmOptions { bias: bias.map(BiasVector::Column), ..GemmOptions::default() };
        GemmExecutor::<f32>::new().gemm(y, a, GemmInputB::Unpacked(matrix(b, k, n)), options).expect(SIZES);
    }
}

/// Computes `x[m, k] · weight[n, k]ᵀ + bias[n]`.
pub(crate) fn linear(
    x: &[f32],
    [m, n, k]: [usize; 3],
    weight: &[f32],
    packed: Option<&PackedWeight>,
    bias: Option<&[f32]>,
) -> Vec<f32> {
    let mut y = vec![0.0; m * n];
    linear_into(&mut y, x, [m, n, k], weight, packed, bias, None);
    y
}

/// Computes [`linear`] into a buffer `y[m, n]`, and calls `after` with each part of the result.
pub(crate) fn linear_into(
    y: &mut [f32],
    x: &[f32],
    [m, n, k]: [usize; 3],
    weight: &[f32],
    packed: Option<&PackedWeight>,
    bias: Option<&[f32]>,
    after: After<'_, f32>,
) {
    if y.is_empty() {
        return;
    }
    if k > 0 && m == 1 && n * k > alone_now(ALONE) {
        return dots_of_row(y, x, weight, bias, after);
    }
    if k == 0 {
        match bias {
            Some(bias) => y.chunks_exact_mut(n).for_each(|row| row.copy_from_slice(bias)),
            None => y.fill(0.0),
        }
    } else if m <= FEW_ROWS && m * n * k <= ALONE {
        Dots { y: &mut *y, x, weight, n, k, bias }.dispatch();
    } else if let Some(PackedWeight(panels)) = packed {
        return panels.product(y, x, m, bias, after);
    } else {
        // The library packs faster than panels are packed.
        let (a, b) = (GemmInputA::Unpacked(matrix(x, m, k)), GemmInputB::Unpacked(transposed(weight, n, k)));
        let options = GemmOptions { bias: bias.map(BiasVector::Row), ..GemmOptions::default() };
        GemmExecutor::<f32>::new().gemm(y, a, b, options).expect(SIZES);
    }
    if let Some(after) = after {
        after(0, 0, n, y);
    }
}

/// Computes [`linear_into`] for a block of rows. If the weight is packed, the order of a sum does not depend on their number.
pub(crate) fn linear_of_block(
    y: &mut [f32],
    x: &[f32],
    [m, n, k]: [usize; 3],
    weight: &[f32],
    packed: Option<&PackedWeight>,
    bias: Option<&[f32]>,
    after: After<'_, f32>,
) {
    match packed {
        Some(PackedWeight(panels)) => panels.product(y, x, m, bias, after),
        None => linear_into(y, x, [m, n, k], weight, packed, bias, after),
    }
}

/// Computes `y[m, n] = a[m, k] · b[k, n]`: up to [`LARGE`] as [`strided::product`] does.
pub(crate) fn matmul(y: &mut [f32], a: &[f32], b: &[f32], [m, n, k]: [usize; 3]) {
    if y.is_empty() || k == 0 {
        return y.fill(0.0);
    }
    if m.saturating_mul(n).saturating_mul(k) <= LARGE {
        let (a, b) = (Strided { data: a, row: k, col: 1 }, Strided { data: b, row: n, col: 1 });
        return strided::product(&mut Scratch::default(), y, [m, n, k], (a, |_, v| v), (b, |v| v), |y, sums| {
            y.copy_from_slice(sums);
        });
    }
    let (a, b) = (GemmInputA::Unpacked(matrix(a, m, k)), GemmInputB::Unpacked(matrix(b, k, n)));
    GemmExecutor::<f32>::new().gemm(y, a, b, GemmOptions::default()).expect(SIZES);
}

/// Computes `y[m, n] = a[k, m]ᵀ · b[k, n]`.
pub(crate) fn matmul_transposed(y: &mut [f32], a: &[f32], b: &[f32], [m, n, k]: [usize; 3]) {
    if y.is_empty() || k == 0 {
        return y.fill(0.0);
    }
    let (a, b) = (GemmInputA::Unpacked(transposed(a, k, m)), GemmInputB::Unpacked(matrix(b, k, n)));
    GemmExecutor::<f32>::new().gemm(y, a, b, GemmOptions::default()).expect(SIZES);
}

/// Views a slice as a row-major matrix.
pub(crate) fn matrix<T>(data: &[T], rows: usize, cols: usize) -> Matrix<'_, T> {
    NdTensorView::from_data([rows, cols], data)
}

/// Views a row-major matrix `[n, k]` as its transpose `[k, n]`.
pub(crate) fn transposed<T>(data: &[T], n: usize, k: usize) -> Matrix<'_, T> {
    matrix(data, n, k).transposed()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Products of small integers, which are exact in any order: few rows in plain loops, one row on threads, and many rows in panels if the
    /// weight is packed, else in the library.
    #[test]
    fn products_are_those_of_small_integers() {
        let value = |i: usize| ((i * 37 + i / 7) % 15) as f32 - 7.0;
        for [m, n, k] in [
            [1, 1, 1],
            [1, 4, 16],
            [1, 7, 33],
            [3, 9, 17],
            [4, 5, 64],
            [1, 1030, 600],
            [3, 600, 300],
            [9, 30, 40],
            [3, 7, 17],
            [8, 32, 64],
            [9, 33, 5],
            [64, 256, 64],
            [600, 70, 130],
            [5, 4, 5000],
            [140, 33, 257],
            [9, 40, 512],
            [20, 300, 600],
            [140, 130, 257],
        ] {
            let (x, bias): (Vec<f32>, Vec<f32>) = ((0..m * k).map(value).collect(), (0..n).map(value).collect());
            let mut weight: Vec<f32> = (0..n * k).map(|i| value(i + 3)).collect();
            let packed = PackedWeight::new(&weight, n, k);
            for bias in [None, Some(&bias[..])] {
                for packed in [None, Some(&packed)] {
                    let y = linear(&x, [m, n, k], &weight, packed, bias);
                    for (at, &y) in y.iter().enumerate() {
                        let (row, col) = (at / n, at % n);
                        let products = x[row * k..][..k].iter().zip(&weight[col * k..][..k]).map(|(x, w)| x * w);
                        let expected = products.sum::<f32>() + bias.map_or(0.0, |bias| bias[col]);
                        assert_eq!(y, expected, "{m} x {k} x {n}, element {at}");
                    }
                }
            }
            let before = linear(&x, [m, n, k], &weight, Some(&packed), None);
            weight[n * k - 1] += 1.0;
            let after = linear(&x, [m, n, k], &weight, Some(&PackedWeight::new(&weight, n, k)), None);
            for row in 0..m {
                let change = after[row * n + n - 1] - before[row * n + n - 1];
                assert_eq!(change, x[row * k + k - 1], "{m} x {k} x {n}: row {row} notices one changed weight");
            }
        }
    }
}

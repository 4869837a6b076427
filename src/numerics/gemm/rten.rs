//! Float products by `rten-gemm`.

use rten_gemm::{BiasVector, GemmExecutor, GemmInputA, GemmInputB, GemmOptions, PackedAMatrix, PackedBMatrix};
use rten_tensor::{Matrix, MatrixLayout, NdTensorView};

use crate::numerics::float::products;
use crate::numerics::float::rows::{LANES, sum_of_lanes};
use crate::numerics::vectorized;

/// The reason why a product cannot fail: `rten-gemm` refuses sizes that do not fit, and here they come from the slices.
pub(crate) const SIZES: &str = "sizes follow from the slices";

/// Up to so many rows, and so many multiply-adds, plain loops are faster: `rten-gemm` wakes other threads for any product.
const FEW_ROWS: usize = 4;
const ALONE: usize = 1 << 19;

/// Computes `y[m, n] = x[m, k] · weight[n, k]ᵀ + bias[n]` of few rows.
fn dots(y: &mut [f32], x: &[f32], weight: &[f32], [n, k]: [usize; 2], bias: Option<&[f32]>) {
    vectorized(
        #[inline(always)]
        || {
            for (y, x) in y.chunks_exact_mut(n).zip(x.chunks_exact(k)) {
                for (y, weight) in y.iter_mut().zip(weight.chunks_exact(k)) {
                    *y = dot(x, weight);
                }
                if let Some(bias) = bias {
                    for (y, bias) in y.iter_mut().zip(bias) {
                        *y += bias;
                    }
                }
            }
        },
    );
}

/// Computes `Σ x[i] · w[i]`, in partial sums that fill registers.
#[inline(always)]
fn dot(x: &[f32], w: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let ((x_blocks, x_rest), (w_blocks, w_rest)) = (x.as_chunks::<LANES>(), w.as_chunks::<LANES>());
    for (x, w) in x_blocks.iter().zip(w_blocks) {
        for lane in 0..LANES {
            lanes[lane] += x[lane] * w[lane];
        }
    }
    for ((lane, x), w) in lanes.iter_mut().zip(x_rest).zip(w_rest) {
        *lane += x * w;
    }
    sum_of_lanes(lanes)
}

/// A weight `[N, K]` in the layout of the GEMM kernel. `rten-gemm` refuses empty matrices, so those are not packed.
pub(crate) struct PackedWeight {
    packed: Option<PackedBMatrix<f32>>,
}

impl std::fmt::Debug for PackedWeight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let dims = self.packed.as_ref().map(|packed| (packed.cols(), packed.rows()));
        write!(f, "PackedWeight{dims:?}")
    }
}

impl PackedWeight {
    /// Packs `weight[n, k]`, row-major.
    pub(crate) fn new(weight: &[f32], n: usize, k: usize) -> Self {
        let pack = || GemmExecutor::<f32>::new().prepack_b(transposed(weight, n, k));
        Self { packed: (n > 0 && k > 0).then(pack) }
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
    linear_into(&mut y, x, [m, n, k], weight, packed, bias);
    y
}

/// Computes [`linear`] into a buffer `y[m, n]`.
pub(crate) fn linear_into(
    y: &mut [f32],
    x: &[f32],
    [m, n, k]: [usize; 3],
    weight: &[f32],
    packed: Option<&PackedWeight>,
    bias: Option<&[f32]>,
) {
    if y.is_empty() {
        return;
    }
    if k == 0 {
        match bias {
            Some(bias) => y.chunks_exact_mut(n).for_each(|row| row.copy_from_slice(bias)),
            None => y.fill(0.0),
        }
        return;
    }
    if m <= FEW_ROWS && m * n * k <= ALONE {
        return dots(y, x, weight, [n, k], bias);
    }
    // For one row, `rten-gemm` has a faster vector product, which reads the weight unpacked.
    let b = match packed.and_then(|packed| packed.packed.as_ref()) {
        Some(packed) if m > 1 => GemmInputB::Packed(packed),
        _ => GemmInputB::Unpacked(transposed(weight, n, k)),
    };
    let options = GemmOptions { bias: bias.map(BiasVector::Row), ..GemmOptions::default() };
    let a = GemmInputA::Unpacked(matrix(x, m, k));
    GemmExecutor::<f32>::new().gemm(y, a, b, options).expect(SIZES);
}

/// Computes `y[m, n] = a[m, k] · b[k, n]`.
pub(crate) fn matmul(y: &mut [f32], a: &[f32], b: &[f32], [m, n, k]: [usize; 3]) {
    if y.is_empty() || k == 0 {
        return y.fill(0.0);
    }
    if m <= FEW_ROWS && m * n * k <= ALONE {
        return products::product(y, a, b, [n, k], None);
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

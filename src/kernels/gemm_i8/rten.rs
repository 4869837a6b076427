//! Int8 products by `rten-gemm`, which multiplies u8 by i8.

use std::sync::Arc;

use rten_gemm::{GemmExecutor, GemmInputA, GemmInputB, GemmOptions, PackedBMatrix};

use super::{add_halves, halves};
use crate::numerics::gemm::{SIZES, matrix, transposed};
use crate::numerics::vectorized;

thread_local! {
    /// Making an executor asks for the processor's features, which takes as long as a small product.
    static EXECUTOR: GemmExecutor<u8, i8, i32> = GemmExecutor::new();
}

/// The largest K at which a sum of u8 · i8 products cannot leave i32: 255 · 128 · K ≤ i32::MAX.
const MAX_K: usize = i32::MAX as usize / (255 * 128);

/// The largest K for which `rten-gemm` is exact on this processor; 0 if it may saturate.
pub(crate) fn max_k() -> usize {
    if GemmExecutor::<u8, i8, i32>::new().may_saturate() { 0 } else { MAX_K }
}

/// The name in logs and errors, with the instruction set.
pub(super) fn name() -> String {
    format!("rten-gemm {}", GemmExecutor::<u8, i8, i32>::new().kernel_name())
}

/// A weight that is not empty: `rten-gemm` refuses empty matrices.
pub(super) enum Weight {
    Bytes {
        packed: PackedBMatrix<i8>,
        /// The caller's weight as it is, `[n, k]`: for one row, `rten-gemm` has a faster vector product that reads it.
        unpacked: Arc<[i8]>,
    },
    /// Factors of 16 bits as two int8 weights: `256 · high + low`, whose channels come one after the other, first the high ones.
    Halves {
        packed: PackedBMatrix<i8>,
        /// The same `[2 n, k]`, for one row.
        unpacked: Vec<i8>,
    },
}

impl Weight {
    pub(super) fn new(weight: &Arc<[i8]>, n: usize, k: usize) -> Self {
        let packed = GemmExecutor::<u8, i8, i32>::new().prepack_b(transposed(weight, n, k));
        Self::Bytes { packed, unpacked: Arc::clone(weight) }
    }

    pub(super) fn of_16_bits(factors: &[i16], n: usize, k: usize) -> Self {
        let halves = halves(factors);
        let packed = GemmExecutor::<u8, i8, i32>::new().prepack_b(transposed(&halves, 2 * n, k));
        Self::Halves { packed, unpacked: halves }
    }

    /// Computes `sums[m, n]` of `x[m, k]`, whose values become u8. `flipped` is scratch memory.
    pub(super) fn sums(&self, sums: &mut [i32], flipped: &mut Vec<u8>, x: &[i8], [m, n, k]: [usize; 3]) {
        flip_all(flipped, x);
        let product = |y: &mut [i32], packed, unpacked, n| {
            let b = match m {
                1 => GemmInputB::Unpacked(transposed(unpacked, n, k)),
                _ => GemmInputB::Packed(packed),
            };
            let a = GemmInputA::Unpacked(matrix(flipped, m, k));
            EXECUTOR.with(|executor| executor.gemm(y, a, b, GemmOptions::default())).expect(SIZES);
        };
        match self {
            Self::Bytes { packed, unpacked } => product(sums, packed, unpacked, n),
            Self::Halves { packed, unpacked } => {
                let mut halves = vec![0i32; 2 * sums.len()];
                product(&mut halves, packed, unpacked, 2 * n);
                add_halves(sums, &halves, n);
            }
        }
    }
}

/// Converts int8 to u8 and adds 128.
fn flip_all(flipped: &mut Vec<u8>, x: &[i8]) {
    flipped.resize(x.len(), 0);
    vectorized(
        #[inline(always)]
        || {
            for (flipped, &x) in flipped.iter_mut().zip(x) {
                *flipped = x as u8 ^ 0x80;
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::super::Int8Gemm;
    use super::MAX_K;

    #[test]
    fn long_sums_are_refused() {
        assert!(!Int8Gemm::Rten.is_usable(MAX_K + 1));
        assert_ne!(Int8Gemm::best(MAX_K + 1), Int8Gemm::Rten);
    }
}

//! Exact int8 products.
//!
//! The library multiplies u8 by i8. An int8 activation becomes u8 by flipping its top bit, which adds 128, and 128 · Σw is
//! taken back per channel. On processors without a non-saturating instruction the library's kernel may saturate its
//! intermediate 16-bit sums; there a product of our own is used.

use rayon::prelude::*;
use rten_gemm::{GemmExecutor, GemmInputA, GemmInputB, GemmOptions, PackedBMatrix};

use super::product::{SIZES, matrix, transposed};
use super::wide;

/// The largest K at which a sum of u8 · i8 products cannot leave i32: 255 · 128 · K ≤ i32::MAX.
const MAX_LIBRARY_K: usize = i32::MAX as usize / (255 * 128);

/// Which exact product to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Int8Product {
    Library,
    Exact,
}

impl Int8Product {
    /// The library's where it is exact on this processor and for this K.
    pub(crate) fn best(k: usize) -> Self {
        if Self::library_is_exact(k) { Self::Library } else { Self::Exact }
    }

    pub(crate) fn library_is_exact(k: usize) -> bool {
        k <= library_max_k()
    }

    /// What a log should call it.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Library => format!("rten-gemm {}", GemmExecutor::<u8, i8, i32>::new().kernel_name()),
            Self::Exact => "exact".to_owned(),
        }
    }
}

/// The largest K for which the library's product is exact on this processor; 0 if it may saturate.
pub(crate) fn library_max_k() -> usize {
    if GemmExecutor::<u8, i8, i32>::new().may_saturate() { 0 } else { MAX_LIBRARY_K }
}

/// An int8 weight `[n, k]`, ready for products.
pub(crate) struct Int8Weight {
    n: usize,
    k: usize,
    codes: Vec<i8>,
    /// 128 · Σ_k w per channel: what the flipped bit adds. Wrapping, as is all accumulation here.
    offsets: Vec<i32>,
    packed: Option<PackedBMatrix<i8>>,
}

impl std::fmt::Debug for Int8Weight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Int8Weight[{}, {}]", self.n, self.k)
    }
}

impl Int8Weight {
    /// `codes` is `[n, k]`, row-major.
    pub(crate) fn new(codes: &[i8], n: usize, k: usize, product: Int8Product) -> Self {
        let offset = |row: &[i8]| row.iter().fold(0i32, |sum, &w| sum.wrapping_add(i32::from(w))).wrapping_mul(128);
        let offsets = if k == 0 { vec![0; n] } else { codes.par_chunks_exact(k).map(offset).collect() };
        let packed = match product {
            // The library takes no empty matrices.
            Int8Product::Library if n > 0 && k > 0 => {
                Some(GemmExecutor::<u8, i8, i32>::new().prepack_b(transposed(codes, n, k)))
            }
            Int8Product::Library | Int8Product::Exact => None,
        };
        Self { n, k, codes: codes.to_vec(), offsets, packed }
    }

    pub(crate) fn k(&self) -> usize {
        self.k
    }

    /// What must be subtracted from a product of [`flipped`](Self::flipped) rows, per channel.
    pub(crate) fn offsets(&self) -> &[i32] {
        &self.offsets
    }

    /// `acc[m, n] = Σ_k x[m, k] · w[n, k]`, wrapping.
    pub(crate) fn product(&self, x: &[i8], m: usize) -> Vec<i32> {
        let mut acc = vec![0; m * self.n];
        let mut flipped = Vec::new();
        flip_all(&mut flipped, x);
        self.flipped(&mut acc, &flipped, m);
        if self.n > 0 {
            for row in acc.chunks_exact_mut(self.n) {
                row.iter_mut().zip(&self.offsets).for_each(|(acc, offset)| *acc = acc.wrapping_sub(*offset));
            }
        }
        acc
    }

    /// `acc[m, n] = Σ_k (x[m, k] + 128) · w[n, k]`, wrapping, for rows whose top bit was flipped.
    pub(crate) fn flipped(&self, acc: &mut [i32], x: &[u8], m: usize) {
        if acc.is_empty() {
            return;
        }
        let Some(packed) = &self.packed else {
            return self.exact(acc, x);
        };
        // One row is a vector product over the weight as it is; more rows use the packed one.
        let b = if m == 1 {
            GemmInputB::Unpacked(transposed(&self.codes, self.n, self.k))
        } else {
            GemmInputB::Packed(packed)
        };
        let a = GemmInputA::Unpacked(matrix(x, m, self.k));
        GemmExecutor::<u8, i8, i32>::new().gemm(acc, a, b, GemmOptions::default()).expect(SIZES);
    }

    fn exact(&self, acc: &mut [i32], x: &[u8]) {
        if self.k == 0 {
            return acc.fill(0);
        }
        acc.par_chunks_mut(self.n).zip(x.par_chunks_exact(self.k)).for_each(|(acc, x)| {
            // i16 holds both factors, and a sum of two i16 products is one SIMD instruction.
            let x: Vec<i16> = x.iter().map(|&x| i16::from(x)).collect();
            wide(
                #[inline(always)]
                || {
                    for (acc, w) in acc.iter_mut().zip(self.codes.chunks_exact(self.k)) {
                        let product = |(&x, &w): (&i16, &i8)| i32::from(x) * i32::from(w);
                        *acc = x.iter().zip(w).map(product).fold(0, i32::wrapping_add);
                    }
                },
            );
        });
    }
}

/// int8 to u8, plus 128.
pub(crate) fn flip_all(flipped: &mut Vec<u8>, x: &[i8]) {
    flipped.resize(x.len(), 0);
    wide(
        #[inline(always)]
        || flipped.iter_mut().zip(x).for_each(|(flipped, &x)| *flipped = x as u8 ^ 0x80),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naive(x: &[i8], w: &[i8], m: usize, n: usize, k: usize) -> Vec<i32> {
        let dot = |i: usize, j: usize| (0..k).map(|p| i32::from(x[i * k + p]) * i32::from(w[j * k + p])).sum();
        (0..m * n).map(|at| dot(at / n, at % n)).collect()
    }

    #[test]
    fn products_are_exact_at_the_extremes() {
        let extremes = [-128i8, 127, -127, 1];
        for k in [1, 2, 3, 4, 5, 15, 16, 17, 63, 64, 65, 300] {
            for m in [1, 2, 7] {
                let n = 5;
                let pick = |i: usize, salt: usize| extremes[(i * 7 + i / 3 + salt) % 4];
                for same in [false, true] {
                    let x: Vec<i8> = (0..m * k).map(|i| if same { -128 } else { pick(i, 1) }).collect();
                    let w: Vec<i8> = (0..n * k).map(|i| if same { -128 } else { pick(i, 2) }).collect();
                    let expected = naive(&x, &w, m, n, k);
                    let mut products = vec![Int8Product::Exact];
                    products.extend(Int8Product::library_is_exact(k).then_some(Int8Product::Library));
                    for product in products {
                        let weight = Int8Weight::new(&w, n, k, product);
                        assert_eq!(weight.product(&x, m), expected, "{product:?} m {m} k {k}");
                    }
                }
            }
        }
    }

    #[test]
    fn one_changed_weight_shows() {
        let (x, mut w) = (vec![3i8; 40], vec![1i8; 40]);
        let before = Int8Weight::new(&w, 1, 40, Int8Product::best(40)).product(&x, 1);
        w[17] += 1;
        assert_ne!(Int8Weight::new(&w, 1, 40, Int8Product::best(40)).product(&x, 1), before);
    }

    #[test]
    fn long_sums_are_left_to_the_exact_product() {
        assert_eq!(Int8Product::best(MAX_LIBRARY_K + 1), Int8Product::Exact);
    }
}

//! Exact int8 products.
//!
//! The library multiplies u8 by i8. An int8 activation becomes u8 by flipping its top bit, which adds 128, and 128 · Σw is
//! taken back per channel. On processors without a non-saturating instruction the library's kernel may saturate its
//! intermediate 16-bit sums; there a product of our own is used: tiles of registers on AVX2, plain loops elsewhere.

use rayon::prelude::*;
use rten_gemm::{GemmExecutor, GemmInputA, GemmInputB, GemmOptions, PackedBMatrix};

use crate::numerics::gemm::{SIZES, matrix, transposed};
use crate::numerics::wide;

#[cfg(target_arch = "x86_64")]
mod tiled;
/// Elsewhere it is never available.
#[cfg(not(target_arch = "x86_64"))]
mod tiled {
    /// Nobody has any, which only this module knows: callers would be warned that what follows is unreachable.
    pub(super) struct Panels(std::convert::Infallible);

    pub(super) fn available() -> bool {
        false
    }

    impl Panels {
        pub(super) fn new(_: &[i8], _: usize, _: usize) -> Self {
            unreachable!("tiles were not available")
        }

        pub(super) fn product<T, F>(&self, _: &mut [T], _: &[i8], _: usize, _: &F) {
            match self.0 {}
        }
    }
}

/// The largest K at which a sum of u8 · i8 products cannot leave i32: 255 · 128 · K ≤ i32::MAX.
const MAX_LIBRARY_K: usize = i32::MAX as usize / (255 * 128);

/// Which exact product to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Int8Product {
    Library,
    Tiled,
    Exact,
}

impl Int8Product {
    /// The library's where it is exact on this processor and for this K; else tiles where this processor has them.
    pub(crate) fn best(k: usize) -> Self {
        let fast = [Self::Library, Self::Tiled].into_iter().find(|product| product.is_usable(k));
        fast.unwrap_or(Self::Exact)
    }

    /// Whether this processor has it, and it is exact for this K.
    pub(crate) fn is_usable(self, k: usize) -> bool {
        match self {
            Self::Library => k <= library_max_k(),
            Self::Tiled => tiled::available(),
            Self::Exact => true,
        }
    }

    /// What a log should call it.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Library => format!("rten-gemm {}", GemmExecutor::<u8, i8, i32>::new().kernel_name()),
            Self::Tiled => "tiled, avx2".to_owned(),
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
    /// 128 · Σ_k w of each channel where rows are flipped, else 0. Wrapping, as is all accumulation here.
    offsets: Vec<i32>,
    packed: Packed,
}

enum Packed {
    Library {
        packed: PackedBMatrix<i8>,
        /// One row is a vector product over the weight as it is.
        codes: Vec<i8>,
    },
    Tiled(tiled::Panels),
    Exact(Vec<i8>),
}

impl std::fmt::Debug for Int8Weight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Int8Weight[{}, {}]", self.n, self.k)
    }
}

impl Int8Weight {
    /// `codes` is `[n, k]`, row-major; `product` must be usable.
    pub(crate) fn new(codes: &[i8], n: usize, k: usize, product: Int8Product) -> Self {
        let mut offsets = vec![0; n];
        let packed = match product {
            // The library takes no empty matrices.
            Int8Product::Library if n > 0 && k > 0 => {
                offsets.par_iter_mut().zip(codes.par_chunks_exact(k)).for_each(|(offset, row)| {
                    *offset = row.iter().fold(0i32, |sum, &w| sum.wrapping_add(i32::from(w))).wrapping_mul(128);
                });
                let packed = GemmExecutor::<u8, i8, i32>::new().prepack_b(transposed(codes, n, k));
                Packed::Library { packed, codes: codes.to_vec() }
            }
            Int8Product::Tiled => Packed::Tiled(tiled::Panels::new(codes, n, k)),
            Int8Product::Library | Int8Product::Exact => Packed::Exact(codes.to_vec()),
        };
        Self { n, k, offsets, packed }
    }

    /// What is to be subtracted from the sums that [`map`](Self::map) gives, per channel: 0 but for the library's product.
    pub(crate) fn offsets(&self) -> &[i32] {
        &self.offsets
    }

    /// `acc[m, n] = Σ_k x[m, k] · w[n, k]`, wrapping.
    #[cfg(test)]
    pub(crate) fn product(&self, x: &[i8], m: usize) -> Vec<i32> {
        let mut y = vec![0; m * self.n];
        self.map(
            &mut y,
            x,
            m,
            #[inline(always)]
            |_, col: usize, y: &mut [i32], sums: &[i32]| {
                let offsets = &self.offsets[col..];
                y.iter_mut().zip(sums).zip(offsets).for_each(|((y, &sum), &offset)| *y = sum.wrapping_sub(offset));
            },
        );
        y
    }

    /// Runs the product, and `finish` while its sums are in cache: from the sums of a run of channels of one row, less the
    /// [`offsets`](Self::offsets), it makes their part of `y[m, n]`; it is told the row and the first channel. Mark it `#[inline(always)]`: it is
    /// compiled for this processor's vector instructions.
    pub(crate) fn map<T, F>(&self, y: &mut [T], x: &[i8], m: usize, finish: F)
    where
        T: Copy + Default + Send,
        F: Fn(usize, usize, &mut [T], &[i32]) + Sync,
    {
        let (n, k) = (self.n, self.k);
        if y.is_empty() {
            return;
        }
        if let Packed::Tiled(panels) = &self.packed {
            return panels.product(y, x, m, &finish);
        }
        let block = block_rows(m, n);
        let run = |(flipped, sums): &mut (Vec<u8>, Vec<i32>), (at, y): (usize, &mut [T])| {
            let rows = y.len() / n;
            sums.resize(y.len(), 0);
            self.plain(sums, flipped, &x[at * block * k..][..rows * k], rows);
            wide(
                #[inline(always)]
                || {
                    for (row, (y, sums)) in y.chunks_exact_mut(n).zip(sums.chunks_exact(n)).enumerate() {
                        finish(at * block + row, 0, y, sums);
                    }
                },
            );
        };
        if m <= block {
            // The product finds its own parallelism; one more hop between threads would cost as much as a small layer.
            run(&mut Default::default(), (0, y));
        } else {
            y.par_chunks_mut(block * n).enumerate().for_each_init(Default::default, run);
        }
    }

    /// Sums without tiles; `flipped` is scratch.
    fn plain(&self, sums: &mut [i32], flipped: &mut Vec<u8>, x: &[i8], m: usize) {
        match &self.packed {
            Packed::Library { packed, codes } => {
                flip_all(flipped, x);
                let b = match m {
                    1 => GemmInputB::Unpacked(transposed(codes, self.n, self.k)),
                    _ => GemmInputB::Packed(packed),
                };
                let a = GemmInputA::Unpacked(matrix(flipped, m, self.k));
                GemmExecutor::<u8, i8, i32>::new().gemm(sums, a, b, GemmOptions::default()).expect(SIZES);
            }
            Packed::Exact(codes) => exact(sums, x, codes, self.n, self.k),
            Packed::Tiled(_) => unreachable!("tiles were multiplied before"),
        }
    }
}

/// Rows of one block: enough that the packed weight is worth streaming once more, few enough that the sums stay in a
/// second-level cache and every core has work.
fn block_rows(m: usize, n: usize) -> usize {
    const SUMS: usize = 1 << 17;
    let per_core = m.div_ceil(rayon::current_num_threads());
    (SUMS / n.max(1)).clamp(32, 256).min(per_core.max(32))
}

/// `acc[m, n] = Σ_k x[m, k] · w[n, k]`, by one dot product each.
fn exact(acc: &mut [i32], x: &[i8], w: &[i8], n: usize, k: usize) {
    if k == 0 {
        return acc.fill(0);
    }
    acc.par_chunks_mut(n).zip(x.par_chunks_exact(k)).for_each(|(acc, x)| {
        // i16 holds both factors, and a sum of two i16 products is one SIMD instruction.
        let x: Vec<i16> = x.iter().map(|&x| i16::from(x)).collect();
        wide(
            #[inline(always)]
            || {
                for (acc, w) in acc.iter_mut().zip(w.chunks_exact(k)) {
                    let product = |(&x, &w): (&i16, &i8)| i32::from(x) * i32::from(w);
                    *acc = x.iter().zip(w).map(product).fold(0, i32::wrapping_add);
                }
            },
        );
    });
}

/// int8 to u8, plus 128.
fn flip_all(flipped: &mut Vec<u8>, x: &[i8]) {
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

    fn usable(k: usize) -> Vec<Int8Product> {
        let mut products = vec![Int8Product::Library, Int8Product::Tiled, Int8Product::Exact];
        products.retain(|product| product.is_usable(k));
        products
    }

    #[test]
    fn products_are_exact_at_the_extremes() {
        let extremes = [-128i8, 127, -127, 1];
        // Below, at and above pairs, tiles, panels, blocks of features, and the rows of a task.
        let small = [1, 2, 3, 4, 5, 15, 16, 17, 63, 64, 65, 300].map(|k| [1, 2, 7].map(|m| [m, 5, k]));
        let blocks = [383, 384, 385, 769].map(|k| [1, 5, 6].map(|m| [m, 17, k]));
        let rows = [15, 33, 64].map(|n| [16, 17, 129, 200].map(|m| [m, n, 7]));
        // More rows than one task takes.
        let tasks = [[400, 3, 769], [1100, 2, 7]];
        let shapes = [small.as_flattened(), blocks.as_flattened(), rows.as_flattened(), &tasks].concat();
        for [m, n, k] in shapes {
            let pick = |i: usize, salt: usize| extremes[(i * 7 + i / 3 + salt) % 4];
            for same in [false, true] {
                let x: Vec<i8> = (0..m * k).map(|i| if same { -128 } else { pick(i, 1) }).collect();
                let w: Vec<i8> = (0..n * k).map(|i| if same { -128 } else { pick(i, 2) }).collect();
                let expected = naive(&x, &w, m, n, k);
                for product in usable(k) {
                    let weight = Int8Weight::new(&w, n, k, product);
                    assert_eq!(weight.product(&x, m), expected, "{product:?} m {m} n {n} k {k}");
                }
            }
        }
    }

    #[test]
    fn empty_products_are_zeros() {
        for product in usable(0) {
            assert_eq!(Int8Weight::new(&[], 17, 0, product).product(&[], 2), [0; 34], "{product:?}");
            assert_eq!(Int8Weight::new(&[], 0, 3, product).product(&[1; 6], 2), [0; 0], "{product:?}");
        }
    }

    #[test]
    fn one_changed_weight_shows() {
        let x = vec![3i8; 17 * 40];
        for product in usable(40) {
            let mut w = vec![1i8; 20 * 40];
            let before = Int8Weight::new(&w, 20, 40, product).product(&x, 17);
            w[18 * 40 + 17] += 1;
            let after = Int8Weight::new(&w, 20, 40, product).product(&x, 17);
            let changed: Vec<usize> = (0..17 * 20).filter(|&at| before[at] != after[at]).collect();
            assert_eq!(changed, (0..17).map(|row| row * 20 + 18).collect::<Vec<_>>(), "{product:?}");
        }
    }

    #[test]
    fn long_sums_are_left_to_our_own() {
        assert!(!Int8Product::Library.is_usable(MAX_LIBRARY_K + 1));
        assert_ne!(Int8Product::best(MAX_LIBRARY_K + 1), Int8Product::Library);
    }
}

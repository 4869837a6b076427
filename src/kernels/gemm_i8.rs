//! Exact int8 GEMM (matrix products of int8 with `i32` sums).
//!
//! Instructions for u8 · int8 need u8 activations: flipping the top bit of an int8 value makes it u8 and adds 128, so 128 · Σw is
//! subtracted again for each channel. Factors of 16 bits, which group-wise weights have, are two weights of 8 bits there. Processors with
//! VNNI have such an instruction that does not saturate, and a kernel of their own, which keeps weights of 4 and 2 bits in as many; AMX has
//! one for whole tiles.
//! aarch64 processors have instructions for int8 · int8, exact without a detour, and WebAssembly has a product of pairs of 16 bits.
//! Elsewhere `rten-gemm` multiplies where it is exact; where it may saturate its 16-bit sums, and without the feature `threads`, register
//! tiles on AVX2 or plain loops do.

use std::sync::Arc;

use crate::numerics::gemm::After;
use crate::numerics::vectorized;
use crate::parallel::*;

/// Multiply-adds that one thread computes sooner than it wakes another.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_feature = "simd128"))]
const ALONE: usize = 1 << 21;

mod absent;
mod activations;
#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod block;
#[cfg(target_arch = "x86_64")]
mod fields;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(any(target_arch = "x86_64", all(target_arch = "wasm32", target_feature = "simd128")))]
mod pairs;
#[cfg(target_arch = "x86_64")]
mod results;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod simd128;
#[cfg(target_arch = "x86_64")]
mod vnni;
#[cfg(not(target_arch = "x86_64"))]
use absent as avx2;
#[cfg(not(all(target_arch = "wasm32", target_feature = "simd128")))]
use absent as simd128;
#[cfg(not(target_arch = "aarch64"))]
use absent::neon;
#[cfg(not(target_arch = "x86_64"))]
use absent::vnni;

#[cfg(feature = "threads")]
mod rten;
/// Without the library, its kernel is never available.
#[cfg(not(feature = "threads"))]
mod rten {
    /// A type without values.
    pub(super) struct Weight(std::convert::Infallible);

    pub(crate) const fn max_k() -> usize {
        0
    }

    pub(super) fn name() -> String {
        unreachable!("rten-gemm is not available")
    }

    impl Weight {
        pub(super) fn new(_: &std::sync::Arc<[i8]>, _: usize, _: usize) -> Self {
            unreachable!("rten-gemm is not available")
        }

        pub(super) fn of_16_bits(_: &[i16], _: usize, _: usize) -> Self {
            unreachable!("rten-gemm is not available")
        }

        pub(super) fn sums(&self, _: &mut [i32], _: &mut Vec<u8>, _: &[i8], _: [usize; 3]) {
            match self.0 {}
        }
    }
}

pub(crate) use rten::max_k as rten_max_k;

pub(crate) use activations::Activations;
use neon::Neon;
use vnni::Vnni;

/// The kernel of an int8 product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Int8Gemm {
    /// Tiles of AMX for many rows, and AVX-512 VNNI for few.
    Amx,
    /// Register tiles, for AVX-512 VNNI.
    Avx512Vnni,
    /// The same for AVX-VNNI, with vectors of 256 bits.
    AvxVnni,
    /// Register tiles, for the matrix products of int8 that aarch64 processors have.
    I8mm,
    /// The same for their dot products of int8.
    Dotprod,
    /// Register tiles, for the vectors of 128 bits of WebAssembly.
    Simd128,
    /// The `rten-gemm` crate.
    Rten,
    /// Register tiles, for AVX2.
    Avx2,
    /// Plain loops, for any processor.
    Portable,
}

impl Int8Gemm {
    /// All kernels, the fastest first.
    pub(crate) const ALL: [Self; 9] = [
        Self::Amx,
        Self::Avx512Vnni,
        Self::AvxVnni,
        Self::I8mm,
        Self::Dotprod,
        Self::Simd128,
        Self::Rten,
        Self::Avx2,
        Self::Portable,
    ];

    /// The fastest kernel that this processor has and that is exact for this K.
    pub(crate) fn best(k: usize) -> Self {
        Self::ALL.into_iter().find(|gemm| gemm.is_usable(k)).unwrap_or(Self::Portable)
    }

    /// Whether this processor has the kernel, and the kernel is exact for this K.
    pub(crate) fn is_usable(self, k: usize) -> bool {
        match self {
            Self::Amx => Vnni::Amx.is_available(),
            Self::Avx512Vnni => Vnni::Avx512.is_available(),
            Self::AvxVnni => Vnni::Avx.is_available(),
            Self::I8mm => Neon::I8mm.is_available(),
            Self::Dotprod => Neon::Dotprod.is_available(),
            Self::Simd128 => simd128::available(),
            Self::Rten => cfg!(feature = "threads") && k <= rten_max_k(),
            Self::Avx2 => avx2::available(),
            Self::Portable => true,
        }
    }

    /// The instructions of a kernel for VNNI.
    fn vnni(self) -> Vnni {
        match self {
            Self::Amx => Vnni::Amx,
            Self::AvxVnni => Vnni::Avx,
            _ => Vnni::Avx512,
        }
    }

    /// The instructions of a kernel for NEON.
    fn neon(self) -> Neon {
        if self == Self::I8mm { Neon::I8mm } else { Neon::Dotprod }
    }

    /// The name in logs and errors, with the instruction set.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Rten => rten::name(),
            Self::Amx => "amx-int8".to_owned(),
            Self::Avx512Vnni => "avx512-vnni".to_owned(),
            Self::AvxVnni => "avx-vnni".to_owned(),
            Self::I8mm => "neon-i8mm".to_owned(),
            Self::Dotprod => "neon-dotprod".to_owned(),
            Self::Simd128 => "wasm-simd128".to_owned(),
            Self::Avx2 => "avx2".to_owned(),
            Self::Portable => "portable".to_owned(),
        }
    }
}

/// An int8 weight `[n, k]`, packed for one kernel.
pub(crate) struct Int8Weight {
    n: usize,
    k: usize,
    /// For each channel, 128 · Σ_k w where activations become u8, else 0. It wraps around, like all sums here.
    offsets: Vec<i32>,
    packed: Packed,
}

enum Packed {
    /// Factors of 16 bits as they are.
    Portable16(Vec<i16>),
    Rten(rten::Weight),
    Avx2(avx2::Panels),
    Simd128(simd128::Panels),
    Vnni(vnni::Blocks),
    /// Factors of 16 bits as two int8 weights, those of [`halves`].
    VnniHalves(vnni::Blocks),
    Neon(neon::Panels),
    /// Factors of 16 bits as two int8 weights, as above.
    NeonHalves(neon::Panels),
    /// The caller's weight as it is.
    Portable(Arc<[i8]>),
}

impl std::fmt::Debug for Int8Weight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Int8Weight[{}, {}]", self.n, self.k)
    }
}

impl Int8Weight {
    /// Packs `weight[n, k]`, row-major. `gemm` must be usable for `k`.
    pub(crate) fn new(weight: &Arc<[i8]>, n: usize, k: usize, gemm: Int8Gemm) -> Self {
        let mut offsets = vec![0; n];
        let packed = match gemm {
            Int8Gemm::Amx | Int8Gemm::Avx512Vnni | Int8Gemm::AvxVnni if k > 0 => {
                offsets = offsets_of(weight, n, k);
                Packed::Vnni(vnni::Blocks::new(weight, n, k, gemm.vnni()))
            }
            Int8Gemm::I8mm | Int8Gemm::Dotprod if k > 0 => Packed::Neon(neon::Panels::new(weight, n, k, gemm.neon())),
            // `rten-gemm` refuses empty matrices.
            Int8Gemm::Rten if n > 0 && k > 0 => {
                offsets = offsets_of(weight, n, k);
                Packed::Rten(rten::Weight::new(weight, n, k))
            }
            Int8Gemm::Avx2 => Packed::Avx2(avx2::Panels::new(weight, n, k)),
            Int8Gemm::Simd128 => Packed::Simd128(simd128::Panels::new(weight, n, k)),
            _ => Packed::Portable(Arc::clone(weight)),
        };
        Self { n, k, offsets, packed }
    }

    /// Packs factors `[n, k]` of 16 bits, row-major, of at most 2¹⁵ − 129 in magnitude: int8 weights times the integer scales of their
    /// groups (equation 4). A product with an int8 value has 23 bits, so that two of them fit the exact instructions for int8 as well.
    pub(crate) fn of_16_bits(factors: &[i16], n: usize, k: usize, gemm: Int8Gemm) -> Self {
        let mut offsets = vec![0; n];
        let packed = match gemm {
            Int8Gemm::Amx | Int8Gemm::Avx512Vnni | Int8Gemm::AvxVnni if k > 0 => {
                offsets = offsets_of(factors, n, k);
                Packed::VnniHalves(vnni::Blocks::new(&halves(factors), 2 * n, k, gemm.vnni()))
            }
            Int8Gemm::I8mm | Int8Gemm::Dotprod if k > 0 => {
                Packed::NeonHalves(neon::Panels::new(&halves(factors), 2 * n, k, gemm.neon()))
            }
            Int8Gemm::Rten if n > 0 && k > 0 => {
                offsets = offsets_of(factors, n, k);
                Packed::Rten(rten::Weight::of_16_bits(factors, n, k))
            }
            Int8Gemm::Avx2 => Packed::Avx2(avx2::Panels::of_16_bits(factors, n, k)),
            Int8Gemm::Simd128 => Packed::Simd128(simd128::Panels::of_16_bits(factors, n, k)),
            _ => Packed::Portable16(factors.to_vec()),
        };
        Self { n, k, offsets, packed }
    }

    /// For each channel, the number to subtract from the sums that [`map`](Self::map) gives: 0 if the kernel reads int8 activations.
    pub(crate) fn offsets(&self) -> &[i32] {
        &self.offsets
    }

    /// Computes `acc[m, n] = Σ_k x[m, k] · w[n, k]`, wrapping, and once more with rows that its tasks compute.
    #[cfg(test)]
    pub(crate) fn product(&self, x: &[i8], m: usize) -> Vec<i32> {
        let compute = |row: usize, q: &mut [i8]| q.copy_from_slice(&x[row * self.k..][..q.len()]);
        let [of_values, of_rows] = [Activations::Int8(x), Activations::Rows(&compute)].map(|x| {
            let mut y = vec![0; m * self.n];
            let copy = |_: usize, col: usize, y: &mut [i32], sums: &[i32]| {
                let offsets = &self.offsets[col..];
                y.iter_mut().zip(sums).zip(offsets).for_each(|((y, &sum), &offset)| *y = sum.wrapping_sub(offset));
            };
            self.map_parts(&mut y, x, m, copy, None);
            y
        });
        assert!(of_values == of_rows, "computed rows have other products: m {m}, {self:?}");
        of_values
    }

    /// Computes the product, and runs the epilogue `finish` while the sums are in cache. `finish(row, channel, y, sums)` turns the
    /// sums of consecutive channels of one row, from `channel` on, into their part of `y[m, n]`; it subtracts the
    /// [`offsets`](Self::offsets). Mark it `#[inline(always)]`, so that it is compiled for this processor's vector instructions.
    pub(crate) fn map<T, F>(&self, y: &mut [T], x: &[i8], m: usize, finish: F)
    where
        T: Copy + Default + Send,
        F: Fn(usize, usize, &mut [T], &[i32]) + Sync,
    {
        self.map_parts(y, Activations::Int8(x), m, finish, None);
    }

    /// Computes [`Int8Weight::map`], and calls `after` for each part of `y` when it is complete.
    pub(crate) fn map_parts<T, F>(&self, y: &mut [T], x: Activations<'_>, m: usize, finish: F, after: After<'_, T>)
    where
        T: Copy + Default + Send,
        F: Fn(usize, usize, &mut [T], &[i32]) + Sync,
    {
        let (n, k) = (self.n, self.k);
        if y.is_empty() {
            return;
        }
        match &self.packed {
            Packed::Avx2(panels) => return panels.product(y, x, m, &finish, after),
            Packed::Simd128(panels) => return panels.product(y, x, m, &finish, after),
            Packed::Vnni(blocks) => return blocks.product(y, x, m, &finish, after),
            Packed::Neon(panels) => return panels.product(y, x, m, &finish, after),
            _ => {}
        }
        let block = block_rows(m, n);
        let run = |(flipped, sums): &mut (Vec<u8>, Vec<i32>), (at, y): (usize, &mut [T])| {
            let rows = y.len() / n;
            sums.resize(y.len(), 0);
            let first = at * block;
            x.with_rows(first..first + rows, k, |x| self.sums(sums, flipped, x, rows));
            vectorized(
                #[inline(always)]
                || {
                    for (row, (y, sums)) in y.chunks_exact_mut(n).zip(sums.chunks_exact(n)).enumerate() {
                        finish(first + row, 0, y, sums);
                    }
                },
            );
            if let Some(after) = after {
                after(first, 0, n, y);
            }
        };
        if m <= block {
            // The kernels are parallel themselves. One more hop between threads would cost as much as a small layer.
            run(&mut Default::default(), (0, y));
        } else {
            y.par_chunks_mut(block * n).enumerate().for_each_init(Default::default, run);
        }
    }

    /// Computes `sums[m, n]` of `x[m, k]` by a kernel that gives all of them at once. `flipped` is scratch memory.
    fn sums(&self, sums: &mut [i32], flipped: &mut Vec<u8>, x: &[i8], m: usize) {
        match &self.packed {
            Packed::Rten(weight) => weight.sums(sums, flipped, x, [m, self.n, self.k]),
            Packed::VnniHalves(blocks) => {
                of_halves(sums, self.n, |halves| blocks.product(halves, Activations::Int8(x), m, &copy_sums, None));
            }
            Packed::NeonHalves(panels) => {
                of_halves(sums, self.n, |halves| panels.product(halves, Activations::Int8(x), m, &copy_sums, None));
            }
            Packed::Portable(weight) => portable(sums, x, weight, self.n, self.k),
            Packed::Portable16(weight) => portable(sums, x, weight, self.n, self.k),
            Packed::Avx2(_) | Packed::Simd128(_) | Packed::Vnni(_) | Packed::Neon(_) => {
                unreachable!("`map` calls these kernels itself")
            }
        }
    }
}

/// 128 · Σ_k w of each channel, wrapping.
fn offsets_of<W: Copy + Into<i32> + Sync>(weight: &[W], n: usize, k: usize) -> Vec<i32> {
    let mut offsets = vec![0; n];
    offsets.par_iter_mut().zip(weight.par_chunks_exact(k)).for_each(|(offset, row)| {
        *offset = row.iter().fold(0i32, |sum, &w| sum.wrapping_add(w.into())).wrapping_mul(128);
    });
    offsets
}

/// Factors `[n, k]` of 16 bits as weights `[2 n, k]` of int8: those of 256, and then what is left of all of them.
fn halves(factors: &[i16]) -> Vec<i8> {
    // Rounded, so that what is left fits int8.
    let high = |&w: &i16| ((i32::from(w) + 128) >> 8) as i8;
    let low = |w: &i16| (i32::from(*w) - 256 * i32::from(high(w))) as i8;
    factors.iter().map(high).chain(factors.iter().map(low)).collect()
}

/// The epilogue of a product that gives its sums.
fn copy_sums(_: usize, _: usize, y: &mut [i32], sums: &[i32]) {
    y.copy_from_slice(sums);
}

/// Computes `sums[m, n]` by a product with both halves, `[m, 2 n]`.
fn of_halves(sums: &mut [i32], n: usize, product: impl FnOnce(&mut [i32])) {
    let mut halves = vec![0; 2 * sums.len()];
    product(&mut halves);
    add_halves(sums, &halves, n);
}

/// Computes `sums[m, n]` of the sums of both halves, `[m, 2 n]`.
fn add_halves(sums: &mut [i32], halves: &[i32], n: usize) {
    vectorized(
        #[inline(always)]
        || {
            for (sums, halves) in sums.chunks_exact_mut(n).zip(halves.chunks_exact(2 * n)) {
                let (high, low) = halves.split_at(n);
                for ((sum, &high), &low) in sums.iter_mut().zip(high).zip(low) {
                    *sum = high.wrapping_mul(256).wrapping_add(low);
                }
            }
        },
    );
}

/// Number of rows of one block: enough to be worth streaming the packed weight once more, few enough that the sums stay in the
/// L2 cache and every core has work.
fn block_rows(m: usize, n: usize) -> usize {
    const SUMS: usize = 1 << 17;
    let per_core = m.div_ceil(current_num_threads());
    (SUMS / n.max(1)).clamp(32, 256).min(per_core.max(32))
}

/// Computes `acc[m, n] = Σ_k x[m, k] · w[n, k]`, by one dot product for each element.
fn portable<W: Copy + Into<i32> + Sync>(acc: &mut [i32], x: &[i8], w: &[W], n: usize, k: usize) {
    if k == 0 {
        return acc.fill(0);
    }
    acc.par_chunks_mut(n).zip(x.par_chunks_exact(k)).for_each(|(acc, x)| {
        // The factors are i16, since one SIMD instruction adds two products of i16.
        let x: Vec<i16> = x.iter().map(|&x| i16::from(x)).collect();
        vectorized(
            #[inline(always)]
            || {
                for (acc, w) in acc.iter_mut().zip(w.chunks_exact(k)) {
                    let mut sum = 0i32;
                    for (&x, &w) in x.iter().zip(w) {
                        sum = sum.wrapping_add(i32::from(x) * w.into());
                    }
                    *acc = sum;
                }
            },
        );
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naive(x: &[i8], w: &[i8], m: usize, n: usize, k: usize) -> Vec<i32> {
        let dot = |i: usize, j: usize| (0..k).map(|p| i32::from(x[i * k + p]) * i32::from(w[j * k + p])).sum();
        (0..m * n).map(|at| dot(at / n, at % n)).collect()
    }

    fn usable(k: usize) -> Vec<Int8Gemm> {
        Int8Gemm::ALL.into_iter().filter(|gemm| gemm.is_usable(k)).collect()
    }

    #[test]
    fn products_are_exact_at_the_extremes() {
        let extremes = [-128i8, 127, -127, 1];
        // Sizes are below, at and above pairs, tiles, panels, blocks of features, and the rows of a task.
        let small = [1, 2, 3, 4, 5, 15, 16, 17, 63, 64, 65, 300].map(|k| [1, 2, 7].map(|m| [m, 5, k]));
        let blocks = [383, 384, 385, 769].map(|k| [1, 5, 6].map(|m| [m, 17, k]));
        let rows = [15, 33, 64, 65, 129].map(|n| [1, 3, 16, 17, 129, 200].map(|m| [m, n, 7]));
        // These have more rows than one task takes.
        let tasks = [[400, 3, 769], [1100, 2, 7]];
        let shapes = [small.as_flattened(), blocks.as_flattened(), rows.as_flattened(), &tasks].concat();
        for [m, n, k] in shapes {
            let pick = |i: usize, salt: usize| extremes[(i * 7 + i / 3 + salt) % 4];
            for same in [false, true] {
                let x: Vec<i8> = (0..m * k).map(|i| if same { -128 } else { pick(i, 1) }).collect();
                let w: Vec<i8> = (0..n * k).map(|i| if same { -128 } else { pick(i, 2) }).collect();
                let expected = naive(&x, &w, m, n, k);
                for gemm in usable(k) {
                    let weight = Int8Weight::new(&w.as_slice().into(), n, k, gemm);
                    assert_eq!(weight.product(&x, m), expected, "{gemm:?} m {m} n {n} k {k}");
                }
            }
        }
    }

    /// Products that threads divide, by rows and by channels, in every kernel.
    #[cfg(feature = "threads")]
    #[test]
    fn divided_products_are_exact() {
        for [m, n, k] in [[1, 4099, 1024], [3, 4099, 301], [16, 650, 1000], [100, 70, 500], [600, 200, 100]] {
            let x: Vec<i8> = (0..m * k).map(|i| (i * 37 % 251) as u8 as i8).collect();
            let w: Vec<i8> = (0..n * k).map(|i| (i * 101 % 253) as u8 as i8).collect();
            let expected = naive(&x, &w, m, n, k);
            let weight: Arc<[i8]> = w.as_slice().into();
            for threads in [2, 3, 40] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
                for gemm in usable(k) {
                    let product = pool.install(|| Int8Weight::new(&weight, n, k, gemm).product(&x, m));
                    assert!(product == expected, "{gemm:?}, {threads} threads, m {m} n {n} k {k}");
                }
            }
        }
    }

    /// Weights that kernels may store in 2 or 4 bits, and of one value more, at their extremes; also with the most features of such weights.
    #[test]
    fn products_of_weights_of_few_bits_are_exact() {
        let ranges =
            [(-8, 7), (0, 15), (-15, 0), (-8, 8), (-2, 1), (0, 3), (-3, 0), (-2, 2), (0, 0), (-128, -113), (112, 127)];
        let small = [[1, 1, 1], [1, 70, 300], [2, 17, 16], [7, 65, 31], [33, 70, 200], [70, 129, 5]];
        let shapes = ranges.iter().flat_map(|&range| small.map(|shape| (range, shape)));
        let long =
            [(-8, 7), (-2, 1)].map(|range| [[1, 49, 1 << 16], [1, 49, (1 << 16) + 1]].map(|shape| (range, shape)));
        for ((least, most), [m, n, k]) in shapes.chain(long.into_iter().flatten()) {
            let x: Vec<i8> =
                (0..m * k).map(|i| if k > 1000 { 127 } else { [-128, 127, -127, 1][(i * 7 + i / 3) % 4] }).collect();
            let value = |i: usize| {
                if k > 1000 { [least, most][i / k % 2] } else { least + (i * 31 % (most - least + 1) as usize) as i32 }
            };
            let w: Vec<i8> = (0..n * k).map(|i| value(i) as i8).collect();
            let expected = naive(&x, &w, m, n, k);
            for gemm in usable(k) {
                let product = Int8Weight::new(&w.as_slice().into(), n, k, gemm).product(&x, m);
                assert!(product == expected, "{gemm:?} m {m} n {n} k {k}, weights of {least} to {most}");
                let mut changed = w.clone();
                changed[n * k - 1] = (value(n * k - 1) + if value(n * k - 1) < most { 1 } else { -1 }) as i8;
                let changed = Int8Weight::new(&changed.as_slice().into(), n, k, gemm).product(&x, m);
                let differ = (0..m * n).filter(|&at| changed[at] != expected[at]).count();
                assert_eq!(differ, m, "{gemm:?} notices one changed weight of {least} to {most}");
            }
        }
    }

    /// Factors of groups: the extremes of 255 · int8, in every kernel.
    #[test]
    fn products_of_16_bits_are_exact() {
        let extremes = [-32640i16, 32385, -129, 127, 128, -128, 1, 0, -32639, 255];
        for [m, n, k] in [[1, 1, 1], [1, 5, 300], [2, 17, 16], [7, 33, 31], [64, 16, 385], [70, 15, 769]] {
            let x: Vec<i8> = (0..m * k).map(|i| [-128i8, 127, -127, 1][(i * 7 + i / 3) % 4]).collect();
            let w: Vec<i16> = (0..n * k).map(|i| extremes[(i * 3 + i / 7) % 10]).collect();
            let dot = |i: usize, j: usize| {
                (0..k).map(|p| i64::from(x[i * k + p]) * i64::from(w[j * k + p])).sum::<i64>() as i32
            };
            let expected: Vec<i32> = (0..m * n).map(|at| dot(at / n, at % n)).collect();
            for gemm in usable(k) {
                let weight = Int8Weight::of_16_bits(&w, n, k, gemm);
                assert_eq!(weight.product(&x, m), expected, "{gemm:?} m {m} n {n} k {k}");
                let mut changed = w.clone();
                changed[n * k - 1] ^= 1;
                let changed = Int8Weight::of_16_bits(&changed, n, k, gemm).product(&x, m);
                let differ = (0..m * n).filter(|&at| changed[at] != expected[at]).count();
                assert_eq!(differ, m, "{gemm:?} notices one changed factor");
            }
        }
    }

    #[test]
    fn empty_products_are_zeros() {
        for gemm in usable(0) {
            assert_eq!(Int8Weight::new(&Arc::default(), 17, 0, gemm).product(&[], 2), [0; 34], "{gemm:?}");
            assert_eq!(Int8Weight::new(&Arc::default(), 0, 3, gemm).product(&[1; 6], 2), [0; 0], "{gemm:?}");
        }
    }

    #[test]
    fn one_changed_weight_shows() {
        let x = vec![3i8; 17 * 40];
        for gemm in usable(40) {
            let mut w = vec![1i8; 20 * 40];
            let before = Int8Weight::new(&w.as_slice().into(), 20, 40, gemm).product(&x, 17);
            w[18 * 40 + 17] += 1;
            let after = Int8Weight::new(&w.as_slice().into(), 20, 40, gemm).product(&x, 17);
            let changed: Vec<usize> = (0..17 * 20).filter(|&at| before[at] != after[at]).collect();
            assert_eq!(changed, (0..17).map(|row| row * 20 + 18).collect::<Vec<_>>(), "{gemm:?}");
        }
    }
}

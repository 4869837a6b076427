//! Known answers of cooperative matrices.
//!
//! Vulkan promises nothing of the rounding of cooperative matrices that add products of f16 to f32. These can go wrong:
//! - fewer than 24 bits are kept, by truncation or rounding: sums above 2^bits lose their ones;
//! - the addends of one instruction are aligned to the largest and cut: a one beside a sum of 2^23 goes missing, although
//!   each of the two is exact;
//! - sums in f16 overflow beyond 65504;
//! - bits lost early are covered up by a cancellation later, or the other way round, so both orders matter;
//! - a driver transposes fragments, or pairs features that do not belong together;
//! - the memory model: naga 30 emits no NonPrivatePointer (gfx-rs/wgpu#8805), so stale workgroup memory is possible.
//!
//! Every output of the layer meets all of them, at every position of a fragment. Four chunks of `16 * chunk_vecs` features:
//! a climb to almost 2^24 by odd products, the same downwards, a climb and a cancellation that leaves ones, and a climb
//! followed by ones alone; then a tail of random values. Zero bias, scale 1, no fraction bits, output in f32: the sums of
//! all chunks stay below 2^24, so each bit of each sum shows.
//!
//! If the test fails, the engine tries again with `chunk_vecs` 32, 16, 8: an accumulator of p bits is exact for
//! 2^p / (16 * 128 * 128) vectors, whose last product alone can reach 2^p. Below 8 other kernels are faster.

/// A layer whose sums are known, of `[m, k]` activations and an `[n, k]` weight.
#[derive(Debug)]
pub(crate) struct CoopmatLayer {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) x: Vec<i8>,
    pub(crate) w: Vec<i8>,
}

impl CoopmatLayer {
    pub(crate) fn new(chunk_vecs: usize) -> Self {
        // Past one patch of rows and one block of columns.
        let (m, n) = (35, 70);
        let chunk = chunk_vecs * 16;
        let k = 4 * chunk + 38;
        // A slot of each word for ones: where slots of row and column meet, the product is a one beside huge ones.
        let slot = |i: usize, of: usize, one: i8, other: i8| if i % 16 == of % 16 { one } else { other };
        let x = fill(m, k, |row, i| match (i / chunk, i % chunk) {
            (0, _) => slot(i, row, 1, 127),
            (1 | 2, _) => slot(i, row, 1, -128),
            (3, at) if at >= chunk - 16 => 1,
            (3, _) => -128,
            _ => random(row * k + i, 7),
        });
        let w = fill(n, k, |column, i| match (i / chunk, i % chunk) {
            (0, _) => slot(i, column, 1, 127),
            (1, _) => slot(i, column, -1, 127),
            (2, at) => slot(i, column, 1, if at < chunk / 2 { -128 } else { 127 }),
            (3, at) if at >= chunk - 16 => slot(i, column, -1, 1),
            (3, _) => -128,
            _ => random(column * k + i, 11),
        });
        Self { m, n, k, x, w }
    }

    /// Row by row.
    pub(crate) fn sums(&self) -> impl Iterator<Item = i32> + '_ {
        (0..self.m * self.n).map(|at| {
            let (row, column) = (&self.x[at / self.n * self.k..][..self.k], &self.w[at % self.n * self.k..][..self.k]);
            row.iter().zip(column).map(|(&x, &w)| i32::from(x) * i32::from(w)).sum()
        })
    }
}

fn fill(rows: usize, k: usize, value: impl Fn(usize, usize) -> i8) -> Vec<i8> {
    (0..rows * k).map(|at| value(at / k, at % k)).collect()
}

/// A hash of `i`.
fn random(i: usize, seed: u32) -> i8 {
    let h = (i as u32 ^ seed.wrapping_mul(0x9e37_79b9)).wrapping_mul(0x85eb_ca6b);
    ((h ^ (h >> 13)).wrapping_mul(0xc2b2_ae35) >> 24) as u8 as i8
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNK: usize = 64;
    const SAMPLE: usize = 37;

    /// Hardware that adds `block` products at a time to a sum of `bits` bits, whose addends it first aligns to the largest
    /// and cuts to `bits + extra`.
    #[derive(Clone, Copy, Debug)]
    struct Unit {
        block: usize,
        bits: i32,
        extra: i32,
        nearest: bool,
        /// The number beyond which results are infinite.
        largest: f64,
    }

    fn exponent(v: f64) -> i32 {
        if v == 0.0 { -100 } else { v.abs().log2().floor() as i32 }
    }

    fn cut(v: f64, ulp: i32, nearest: bool) -> f64 {
        let scaled = v * 2f64.powi(-ulp);
        (if nearest { scaled.round_ties_even() } else { scaled.trunc() }) * 2f64.powi(ulp)
    }

    impl Unit {
        fn sum(&self, x: &[i8], w: &[i8], chunk: usize) -> f64 {
            let mut total = 0.0;
            for (x, w) in x.chunks(chunk).zip(w.chunks(chunk)) {
                let mut c = 0.0;
                for (x, w) in x.chunks(self.block).zip(w.chunks(self.block)) {
                    let products: Vec<f64> = x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w)).collect();
                    let largest = products.iter().map(|&p| exponent(p)).fold(exponent(c), i32::max);
                    let ulp = largest - (self.bits + self.extra - 1);
                    let sum =
                        cut(c, ulp, self.nearest) + products.iter().map(|&p| cut(p, ulp, self.nearest)).sum::<f64>();
                    c = cut(sum, exponent(sum) - (self.bits - 1), self.nearest);
                    if c.abs() > self.largest {
                        return f64::INFINITY;
                    }
                }
                total += c;
            }
            total
        }

        fn wrong(&self, layer: &CoopmatLayer, chunk_vecs: usize) -> usize {
            let sums: Vec<i32> = layer.sums().collect();
            let row = |v: &[i8], i: usize| v[i * layer.k..][..layer.k].to_vec();
            // A sample, for speed: all outputs agree on every unit.
            (0..layer.m * layer.n)
                .step_by(SAMPLE)
                .filter(|&at| {
                    let (x, w) = (row(&layer.x, at / layer.n), row(&layer.w, at % layer.n));
                    self.sum(&x, &w, chunk_vecs * 16) != f64::from(sums[at])
                })
                .count()
        }
    }

    const EXACT: Unit = Unit { block: 1, bits: 24, extra: 29, nearest: true, largest: f64::MAX };

    #[test]
    fn exact_sums_pass_and_others_fail() {
        let layer = CoopmatLayer::new(CHUNK);
        let all = (layer.m * layer.n).div_ceil(SAMPLE);
        assert!(layer.sums().all(|sum| sum.abs() < 1 << 24));
        // IEEE, one by one or in blocks; NVIDIA's aligned and truncated blocks with none, one or two extra bits.
        assert_eq!(EXACT.wrong(&layer, CHUNK), 0);
        for block in [4, 8, 16] {
            for extra in [0, 1, 2] {
                for nearest in [false, true] {
                    assert_eq!(Unit { block, extra, nearest, ..EXACT }.wrong(&layer, CHUNK), 0);
                    for bits in [11, 14, 20, 22, 23] {
                        let unit = Unit { block, bits, extra, nearest, ..EXACT };
                        let wrong = unit.wrong(&layer, CHUNK);
                        assert_eq!(wrong, all, "{unit:?}");
                    }
                }
            }
        }
        let f16 = Unit { bits: 11, largest: 65504.0, ..EXACT };
        assert_eq!(f16.wrong(&layer, CHUNK), all);
    }

    #[test]
    fn shorter_chunks_suit_shorter_accumulators() {
        for (bits, chunk_vecs) in [(23, 32), (22, 16), (21, 8)] {
            let layer = CoopmatLayer::new(chunk_vecs);
            let unit = Unit { block: 16, bits, extra: 0, nearest: false, ..EXACT };
            assert_eq!(unit.wrong(&layer, chunk_vecs), 0);
            assert!(Unit { bits: bits - 1, ..unit }.wrong(&layer, chunk_vecs) > 0);
        }
    }

    #[test]
    fn mixed_up_fragments_show() {
        let layer = CoopmatLayer::new(CHUNK);
        let sums: Vec<i32> = layer.sums().collect();
        // Rows and columns of a fragment exchanged, and neighbours.
        for (row, column) in (0..16).flat_map(|row| (0..row).map(move |column| (row, column))) {
            assert_ne!(sums[row * layer.n + column], sums[column * layer.n + row]);
        }
        for at in 0..sums.len() - 1 {
            assert_ne!(sums[at], sums[at + 1]);
        }
    }
}

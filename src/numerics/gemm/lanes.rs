//! Vectors of floats, and the inner loop of products.

use std::ops::Range;

/// Vectors of floats of the processor.
pub(super) trait Lanes: Copy {
    type Vector: Copy;

    /// The number of floats of a vector, at most [`MOST_LANES`].
    fn len(self) -> usize;
    fn zero(self) -> Self::Vector;
    fn load(self, from: &[f32]) -> Self::Vector;
    fn store(self, v: Self::Vector, to: &mut [f32]);
    /// Asks for the line of the cache at an address, which may lie beyond any data.
    fn prefetch(self, at: *const f32);
    /// `a · b + sum`, fused or not.
    fn mul_add(self, a: f32, b: Self::Vector, sum: Self::Vector) -> Self::Vector;
}

pub(super) const MOST_LANES: usize = 16;
/// Vectors of a row of a tile.
pub(super) const VECTORS: usize = 2;

/// A computation in tiles of `ROWS` rows, which is compiled for the vectors of each class of processors. Its functions are
/// `#[inline(always)]`.
pub(super) trait InTiles {
    fn run<const ROWS: usize>(self, lanes: impl Lanes);
}

/// The library's vectors.
#[cfg(feature = "threads")]
mod of_library {
    use rten_simd::ops::{BitOps, NumOps};
    use rten_simd::{Isa, SimdOp};

    use super::{InTiles, Lanes, MOST_LANES};

    #[derive(Clone, Copy)]
    struct LanesOf<I>(I);

    impl<I: Isa> Lanes for LanesOf<I> {
        type Vector = I::F32;

        #[inline(always)]
        fn len(self) -> usize {
            self.0.f32().len()
        }

        #[inline(always)]
        fn zero(self) -> I::F32 {
            self.0.f32().zero()
        }

        #[inline(always)]
        fn load(self, from: &[f32]) -> I::F32 {
            self.0.f32().load(from)
        }

        #[inline(always)]
        fn store(self, v: I::F32, to: &mut [f32]) {
            self.0.f32().store(v, to);
        }

        #[inline(always)]
        fn prefetch(self, at: *const f32) {
            self.0.f32().prefetch(at);
        }

        #[inline(always)]
        fn mul_add(self, a: f32, b: I::F32, sum: I::F32) -> I::F32 {
            self.0.f32().mul_add(self.0.f32().splat(a), b, sum)
        }
    }

    struct Op<T>(T);

    impl<T: InTiles> SimdOp for Op<T> {
        type Output = ();

        #[inline(always)]
        fn eval<I: Isa>(self, isa: I) {
            // AVX-512 has twice as many registers.
            if isa.f32().len() == MOST_LANES {
                self.0.run::<8>(LanesOf(isa));
            } else {
                self.0.run::<4>(LanesOf(isa));
            }
        }
    }

    pub(crate) fn with_lanes(computation: impl InTiles) {
        Op(computation).dispatch();
    }

    /// The floats of a vector of this processor.
    pub(crate) fn lanes_of_processor() -> usize {
        struct Length;
        impl SimdOp for Length {
            type Output = usize;

            #[inline(always)]
            fn eval<I: Isa>(self, isa: I) -> usize {
                isa.f32().len()
            }
        }
        Length.dispatch()
    }
}
#[cfg(feature = "threads")]
pub(super) use of_library::{lanes_of_processor, with_lanes};

/// Vectors that the compiler makes of loops.
#[cfg(not(feature = "threads"))]
mod of_loops {
    use super::{InTiles, Lanes};

    #[derive(Clone, Copy)]
    struct Loops;

    impl Lanes for Loops {
        type Vector = [f32; 4];

        #[inline(always)]
        fn len(self) -> usize {
            4
        }

        #[inline(always)]
        fn zero(self) -> [f32; 4] {
            [0.0; 4]
        }

        #[inline(always)]
        fn load(self, from: &[f32]) -> [f32; 4] {
            std::array::from_fn(|lane| from[lane])
        }

        #[inline(always)]
        fn store(self, v: [f32; 4], to: &mut [f32]) {
            to[..4].copy_from_slice(&v);
        }

        #[inline(always)]
        fn prefetch(self, _: *const f32) {}

        #[inline(always)]
        fn mul_add(self, a: f32, b: [f32; 4], sum: [f32; 4]) -> [f32; 4] {
            std::array::from_fn(|lane| sum[lane] + a * b[lane])
        }
    }

    pub(crate) fn with_lanes(computation: impl InTiles) {
        computation.run::<4>(Loops);
    }

    /// The floats of a vector.
    pub(crate) fn lanes_of_processor() -> usize {
        4
    }
}
#[cfg(not(feature = "threads"))]
pub(super) use of_loops::{lanes_of_processor, with_lanes};

/// What a tile asks for ahead, so that the memory answers while the processor multiplies: for feature i, the line of the cache at `from` and
/// i · `step` bytes.
#[derive(Clone, Copy)]
pub(super) struct Ahead<'p> {
    pub(super) from: &'p [f32],
    pub(super) step: usize,
}

/// The results of a tile: a panel of columns of some rows.
pub(super) trait Results {
    /// What the products of a row are added to, if that is not zero.
    fn begin<L: Lanes>(&self, lanes: L, row: usize) -> Option<[L::Vector; VECTORS]>;
    /// Takes the sums of a row.
    fn store<L: Lanes>(&mut self, lanes: L, row: usize, sums: [L::Vector; VECTORS]);
}

/// The sums of a row, one by one.
#[inline(always)]
pub(super) fn floats<L: Lanes>(lanes: L, sums: [L::Vector; VECTORS]) -> [f32; VECTORS * MOST_LANES] {
    let mut floats = [0f32; VECTORS * MOST_LANES];
    for (sums, floats) in sums.iter().zip(floats.chunks_exact_mut(lanes.len())) {
        lanes.store(*sums, floats);
    }
    floats
}

/// Loads a row of a panel.
#[inline(always)]
pub(super) fn vectors<L: Lanes>(lanes: L, floats: &[f32]) -> [L::Vector; VECTORS] {
    std::array::from_fn(|vector| lanes.load(&floats[vector * lanes.len()..]))
}

/// Computes a panel of columns of `ROWS` rows. A row begins at its start in `left`, and its features are those of the `runs`, counted from
/// there, times `panel[features, VECTORS · lanes]`.
#[inline(always)]
pub(super) fn tile<const ROWS: usize>(
    lanes: impl Lanes,
    (left, starts, runs): (&[f32], [usize; ROWS], &[Range<usize>]),
    panel: &[f32],
    ahead: Option<Ahead<'_>>,
    mut results: impl Results,
) {
    let width = VECTORS * lanes.len();
    let mut sums = [[lanes.zero(); VECTORS]; ROWS];
    for (row, sums) in sums.iter_mut().enumerate() {
        if let Some(begin) = results.begin(lanes, row) {
            *sums = begin;
        }
    }
    let mut first = 0;
    for run in runs {
        let a: [&[f32]; ROWS] = std::array::from_fn(|row| &left[starts[row] + run.start..][..run.len()]);
        let panel = &panel[first * width..][..run.len() * width];
        sums = add_products(lanes, a, panel, ahead, first, sums);
        first += run.len();
    }
    for (row, sums) in sums.into_iter().enumerate() {
        results.store(lanes, row, sums);
    }
}

/// Adds the products of `a[ROWS, features]` and `panel[features, VECTORS · lanes]`. The sums are a value of their own, so that they stay in
/// registers.
#[inline(always)]
fn add_products<L: Lanes, const ROWS: usize>(
    lanes: L,
    a: [&[f32]; ROWS],
    panel: &[f32],
    ahead: Option<Ahead<'_>>,
    first: usize,
    mut sums: [[L::Vector; VECTORS]; ROWS],
) -> [[L::Vector; VECTORS]; ROWS] {
    let length = a[0].len();
    for (i, b) in panel.chunks_exact(VECTORS * lanes.len()).enumerate().take(length) {
        if let Some(Ahead { from, step }) = ahead {
            lanes.prefetch(from.as_ptr().wrapping_byte_add((first + i) * step));
        }
        let b = vectors(lanes, b);
        for row in 0..ROWS {
            for vector in 0..VECTORS {
                sums[row][vector] = lanes.mul_add(a[row][i], b[vector], sums[row][vector]);
            }
        }
    }
    sums
}

//! Vectors of floats, and the inner loop of products.

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

/// Floats of a panel that are asked for so far ahead, where it is read for the first time.
const AHEAD: usize = 1 << 11;

/// Computes a panel of columns of `ROWS` rows: `left[ROWS, k]`, whose rows are `stride` apart, times `panel[k, VECTORS · lanes]`, which is asked
/// for ahead if it `is_first` to read it. `begin(row, sums)` may set what the products of a row are added to, and then returns true. `store(row, sums)` takes the sums of a row.
#[inline(always)]
pub(super) fn tile<const ROWS: usize>(
    lanes: impl Lanes,
    (left, stride): (&[f32], usize),
    (panel, is_first): (&[f32], bool),
    k: usize,
    begin: impl Fn(usize, &mut [f32]) -> bool,
    mut store: impl FnMut(usize, &[f32]),
) {
    let width = VECTORS * lanes.len();
    let a: [&[f32]; ROWS] = std::array::from_fn(|row| &left[row * stride..][..k]);
    let mut sums = [[lanes.zero(); VECTORS]; ROWS];
    for (row, sums) in sums.iter_mut().enumerate() {
        let mut floats = [0f32; VECTORS * MOST_LANES];
        if begin(row, &mut floats[..width]) {
            for (sums, floats) in sums.iter_mut().zip(floats.chunks_exact(lanes.len())) {
                *sums = lanes.load(floats);
            }
        }
    }
    for (i, b) in panel.chunks_exact(width).enumerate().take(k) {
        if is_first {
            lanes.prefetch(b.as_ptr().wrapping_add(AHEAD));
            lanes.prefetch(b.as_ptr().wrapping_add(AHEAD + lanes.len()));
        }
        let b: [_; VECTORS] = [lanes.load(b), lanes.load(&b[lanes.len()..])];
        for row in 0..ROWS {
            for vector in 0..VECTORS {
                sums[row][vector] = lanes.mul_add(a[row][i], b[vector], sums[row][vector]);
            }
        }
    }
    for (row, sums) in sums.iter().enumerate() {
        let mut floats = [0f32; VECTORS * MOST_LANES];
        for (sums, floats) in sums.iter().zip(floats.chunks_exact_mut(lanes.len())) {
            lanes.store(*sums, floats);
        }
        store(row, &floats[..width]);
    }
}

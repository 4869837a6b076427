//! Compilation of plain loops for the vector instructions of the processor that runs them.

/// Runs a copy of `f` that was compiled for this processor's vector instructions. Mark `f` `#[inline(always)]`, since only inlined
/// code is compiled this way. Write loops with `for`: the compiler may make functions of their own of `for_each` and `fold`, which then have
/// no vector instructions. The results have the same bits on all processors, since the compiler never fuses or reorders float
/// operations.
#[cfg(feature = "threads")]
pub(crate) fn vectorized<R>(f: impl FnOnce() -> R) -> R {
    use rten_simd::SimdOp;
    Vectorized(f).dispatch()
}

/// Runs `f`, compiled for the vector instructions that all processors of the target have.
#[cfg(not(feature = "threads"))]
pub(crate) fn vectorized<R>(f: impl FnOnce() -> R) -> R {
    f()
}

#[cfg(feature = "threads")]
struct Vectorized<F>(F);

#[cfg(feature = "threads")]
impl<R, F: FnOnce() -> R> rten_simd::SimdOp for Vectorized<F> {
    type Output = R;

    #[inline(always)]
    fn eval<I: rten_simd::Isa>(self, _: I) -> R {
        (self.0)()
    }
}

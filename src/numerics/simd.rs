//! Compilation of plain loops for the vector instructions of the processor that runs them.

use rten_simd::{Isa, SimdOp};

/// Runs a copy of `f` that was compiled for this processor's vector instructions. Mark `f` `#[inline(always)]`, since only inlined
/// code is compiled this way. Write loops with `for`: the compiler may make functions of their own of `for_each` and `fold`, which then have
/// no vector instructions. The results have the same bits on all processors, since the compiler never fuses or reorders float
/// operations.
pub(crate) fn vectorized<R>(f: impl FnOnce() -> R) -> R {
    Vectorized(f).dispatch()
}

struct Vectorized<F>(F);

impl<R, F: FnOnce() -> R> SimdOp for Vectorized<F> {
    type Output = R;

    #[inline(always)]
    fn eval<I: Isa>(self, _: I) -> R {
        (self.0)()
    }
}

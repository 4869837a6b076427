//! Plain loops, compiled for the widest vectors of the processor they run on.

use rten_simd::{Isa, SimdOp};

/// Runs `f` in a copy of its code that was compiled for this processor's vector instructions. Only what is inlined into
/// `f` profits: mark it `#[inline(always)]`. The results are the same bits on all processors, since the compiler never
/// fuses or reorders float operations.
pub(crate) fn wide<R>(f: impl FnOnce() -> R) -> R {
    Wide(f).dispatch()
}

struct Wide<F>(F);

impl<R, F: FnOnce() -> R> SimdOp for Wide<F> {
    type Output = R;

    #[inline(always)]
    fn eval<I: Isa>(self, _: I) -> R {
        (self.0)()
    }
}

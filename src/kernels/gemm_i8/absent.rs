//! What stands for the kernels of other architectures, for AVX2 and WebAssembly's vectors: never available.

use crate::numerics::gemm::After;

/// A type without values. It is private to this module, since callers would otherwise be warned of unreachable code.
pub(super) struct Panels(std::convert::Infallible);

pub(super) fn available() -> bool {
    false
}

impl Panels {
    pub(super) fn new(_: &[i8], _: usize, _: usize) -> Self {
        unreachable!("the kernel is not available")
    }

    pub(super) fn of_16_bits(_: &[i16], _: usize, _: usize) -> Self {
        unreachable!("the kernel is not available")
    }

    pub(super) fn product<T, F>(&self, _: &mut [T], _: &[i8], _: usize, _: &F, _: After<'_, T>) {
        match self.0 {}
    }
}

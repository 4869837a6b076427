//! What stands for the kernels of other architectures: never available.

use super::Activations;
use crate::numerics::gemm::After;

/// For AVX2 and WebAssembly's vectors, a type without values. It is private to this module, since callers would otherwise be warned of unreachable code.
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

    pub(super) fn product<T, F>(&self, _: &mut [T], _: Activations<'_>, _: usize, _: &F, _: After<'_, T>) {
        match self.0 {}
    }
}

/// On other architectures, VNNI is never available.
#[cfg(not(target_arch = "x86_64"))]
pub(super) mod vnni {
    use super::{Activations, After};

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum Vnni {
        Amx,
        Avx512,
        Avx,
    }

    /// A type without values, as above.
    pub(crate) struct Blocks(std::convert::Infallible);

    impl Vnni {
        pub(crate) fn is_available(self) -> bool {
            false
        }
    }

    impl Blocks {
        pub(crate) fn new(_: &[i8], _: usize, _: usize, vnni: Vnni) -> Self {
            unreachable!("VNNI is not available: {vnni:?}")
        }

        pub(crate) fn product<T, F>(&self, _: &mut [T], _: Activations<'_>, _: usize, _: &F, _: After<'_, T>) {
            match self.0 {}
        }
    }
}

/// On other architectures, NEON is never available.
#[cfg(not(target_arch = "aarch64"))]
pub(super) mod neon {
    use super::{Activations, After};

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum Neon {
        I8mm,
        Dotprod,
    }

    /// A type without values, as above.
    pub(crate) struct Panels(std::convert::Infallible);

    impl Neon {
        pub(crate) fn is_available(self) -> bool {
            false
        }
    }

    impl Panels {
        pub(crate) fn new(_: &[i8], _: usize, _: usize, neon: Neon) -> Self {
            unreachable!("NEON is not available: {neon:?}")
        }

        pub(crate) fn product<T, F>(&self, _: &mut [T], _: Activations<'_>, _: usize, _: &F, _: After<'_, T>) {
            match self.0 {}
        }
    }
}

//! The options of the CPU engine.

/// The kernel that computes int8 matrix products (GEMM). All of them give the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum GemmBackend {
    /// The fastest backend that is exact on this processor, chosen for each layer.
    #[default]
    Auto,
    /// Tiles of AMX (AMX-INT8) for many rows, and AVX-512 VNNI for few. It is an error on processors without both, and on systems other
    /// than Linux.
    ///
    /// Linux gives the state of tiles to a process that asks for it, once for all of its threads. From then on it refuses signal stacks
    /// (`sigaltstack`) that are too small for this state of 8 KiB. [`Auto`](Self::Auto) asks when it first packs a layer; another backend never asks.
    Amx,
    /// Register tiles for AVX-512 VNNI. It is an error on processors without it.
    Avx512Vnni,
    /// Register tiles for AVX-VNNI, with vectors of 256 bits. It is an error on processors without it.
    AvxVnni,
    /// Register tiles for the matrix products of int8 (FEAT_I8MM) of aarch64. It is an error on processors without them.
    I8mm,
    /// Register tiles for the dot products of int8 (FEAT_DotProd) of aarch64. It is an error on processors without them.
    Dotprod,
    /// Register tiles for WebAssembly's vectors of 128 bits. It is an error in programs that are not compiled for them, with the target
    /// feature `simd128`.
    Simd128,
    /// The `rten-gemm` crate. It is an error if its sums may saturate or overflow: on processors without non-saturating int8
    /// instructions, and for K above 65,793.
    Rten,
    /// Register tiles for AVX2. It is an error on processors without AVX2.
    Avx2,
    /// Plain loops, for any processor.
    Portable,
}

impl GemmBackend {
    /// All backends, the fastest first after [`Auto`](Self::Auto).
    pub const ALL: [Self; 10] = [
        Self::Auto,
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
}

/// The options of an [`Engine`](super::Engine). No bit of a result depends on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// Kernel of int8 matrix products.
    pub gemm: GemmBackend,
}

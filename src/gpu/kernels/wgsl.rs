//! The WGSL that shader modules share: each equation once.

use crate::gpu::device::shader::text;

macro_rules! shared {
    ($($name:ident = $file:literal;)*) => {
        $(pub(crate) const $name: &str = text!("shared/", $file);)*
    };
}

/// Declares a shader: its name, its parameters, other structs, its storage buffers, the shared pieces of its WGSL, and its own files.
macro_rules! shader {
    ($name:expr, $params:ty, [$($struct:ty),*], $storage:expr, [$($shared:ident),*], [$($file:literal),*]) => {
        $crate::gpu::device::shader::Shader::new(
            $name,
            <$params>::LAYOUT,
            &[$(<$struct>::LAYOUT),*],
            $storage,
            [&[$($crate::gpu::kernels::wgsl::$shared),*], &[$($crate::gpu::device::shader::text!($file)),*]],
        )
    };
}

pub(crate) use shader;

shared! {
    ADD = "add";
    BYTES = "bytes";
    COOPMAT_ENABLE = "coopmat_enable";
    F16_ENABLE = "f16_enable";
    DOT = "dot";
    EIGHT_THREADS = "eight_threads";
    ELEMENTS = "elements";
    F16 = "f16";
    FACTORS = "factors";
    FLOAT = "float";
    FLOATS = "floats";
    FUNCTIONS = "functions";
    GRID = "grid";
    LOOK_UP = "look_up";
    POINTWISE = "pointwise";
    QPARAMS = "qparams";
    QUANTIZE = "quantize";
    REQUANTIZE = "requantize";
    ROWS_OF_LANES = "rows_of_lanes";
    STRIDED = "strided";
    SUBGROUP_REDUCE = "subgroup_reduce";
    THREAD = "thread";
    VECTORS = "vectors";
    WINDOW = "window";
    WORDS = "words";
    WORKGROUP_REDUCE = "workgroup_reduce";
    WORKGROUP_SUM = "workgroup_sum";
}

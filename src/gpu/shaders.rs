//! The shaders: their WGSL, and what the host supplies to them. For tools that check, translate or display them.

use std::mem::{offset_of, size_of};

use super::layout::{Channels, Digit, LinearParams, OpParams, TensorParams};

/// One shader module.
#[derive(Debug, Clone, Copy)]
pub struct Shader {
    /// The stem of its file.
    pub name: &'static str,
    /// All of its text.
    pub wgsl: &'static str,
    /// Its entry points.
    pub entries: &'static [&'static str],
    /// Its override constants.
    pub overrides: &'static [&'static str],
    /// Its resources, all in group 0.
    pub bindings: &'static [Binding],
    /// Structs that the host writes.
    pub structs: &'static [Struct],
}

/// One resource of a shader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Binding {
    /// Its name.
    pub name: &'static str,
    /// Its number.
    pub binding: u32,
    /// What is bound.
    pub kind: BindingKind,
}

/// What is bound to a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BindingKind {
    /// A uniform buffer of this many bytes.
    Uniform {
        /// Size in bytes.
        size: usize,
        /// Whether its offset is given at each dispatch.
        dynamic: bool,
    },
    /// A storage buffer that is only read.
    Read,
    /// A storage buffer that is written.
    ReadWrite,
}

/// A struct that the host writes and a shader reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Struct {
    /// Its name in WGSL.
    pub name: &'static str,
    /// Its size on the host in bytes.
    pub size: usize,
    /// Names and byte offsets of its fields.
    pub fields: &'static [(&'static str, usize)],
}

macro_rules! host_struct {
    ($t:ident { $($field:ident),* }) => {
        Struct {
            name: stringify!($t),
            size: size_of::<$t>(),
            fields: &[$((stringify!($field), offset_of!($t, $field))),*],
        }
    };
}

const DIGIT: Struct = host_struct!(Digit { value });
const LINEAR_STRUCTS: &[Struct] = &[
    host_struct!(LinearParams {
        k_vecs,
        n,
        row_words,
        rows_factor,
        fraction_bits,
        zero_point,
        lo,
        hi,
        relu,
        pair_stride
    }),
    host_struct!(Channels { bias, factor, offset }),
    DIGIT,
];
const TENSOR_STRUCTS: &[Struct] =
    &[host_struct!(TensorParams { cols, row_words, rows_factor, zero_point, factor, lo, hi }), DIGIT];

const GENERAL_STRUCTS: &[Struct] = &[
    host_struct!(OpParams {
        axes,
        rank,
        rows_factor,
        cols,
        a_col,
        b_col,
        y_offset,
        row_words,
        a_words,
        a_cols,
        kind,
        a_zero_point,
        b_zero_point,
        a_multiplier,
        b_multiplier,
        shift,
        zero_point,
        lo,
        hi,
        factor,
        k,
        m,
        b_k,
        b_n,
        relu
    }),
    DIGIT,
];

const fn uniform(name: &'static str, binding: u32, size: usize, dynamic: bool) -> Binding {
    Binding { name, binding, kind: BindingKind::Uniform { size, dynamic } }
}

const fn storage(name: &'static str, binding: u32, kind: BindingKind) -> Binding {
    Binding { name, binding, kind }
}

/// The bindings of every linear kernel: one layout, so that a layer's bind group survives a change of kernel.
pub(super) const LINEAR_BINDINGS: &[Binding] = &[
    uniform("params", 0, size_of::<LinearParams>(), false),
    uniform("rows_high", 1, size_of::<Digit>(), true),
    uniform("rows_low", 2, size_of::<Digit>(), true),
    storage("x", 3, BindingKind::Read),
    storage("w", 4, BindingKind::Read),
    storage("channels", 5, BindingKind::Read),
    storage("y", 6, BindingKind::ReadWrite),
    storage("pairs", 7, BindingKind::Read),
];

/// The bindings of the kernels that take any shapes.
pub(super) const GENERAL_BINDINGS: &[Binding] = &[
    uniform("params", 0, size_of::<OpParams>(), false),
    uniform("rows_high", 1, size_of::<Digit>(), true),
    uniform("rows_low", 2, size_of::<Digit>(), true),
    storage("a", 3, BindingKind::Read),
    storage("b", 4, BindingKind::Read),
    storage("c", 5, BindingKind::Read),
    storage("y", 6, BindingKind::ReadWrite),
];

/// The bindings of the kernels that handle one word at a time.
pub(super) const TENSOR_BINDINGS: &[Binding] = &[
    uniform("params", 0, size_of::<TensorParams>(), false),
    uniform("rows_high", 1, size_of::<Digit>(), true),
    uniform("rows_low", 2, size_of::<Digit>(), true),
    storage("src", 3, BindingKind::Read),
    storage("dst", 4, BindingKind::ReadWrite),
];

macro_rules! wgsl {
    ($($file:literal),*) => {
        concat!($(include_str!(concat!("../../shaders/", $file, ".wgsl")), "\n"),*)
    };
}

/// [`LinearKernel::Workgroup`](super::LinearKernel::Workgroup).
pub const LINEAR: Shader = Shader {
    name: "linear",
    wgsl: wgsl!("rows", "dot", "requantize", "linear"),
    entries: &["linear_i8_i8", "linear_i8_f32", "linear_dynamic_i8_f32"],
    overrides: &["PACKED_DOT", "THREADS_Y", "K_STEP"],
    bindings: LINEAR_BINDINGS,
    structs: LINEAR_STRUCTS,
};

/// [`LinearKernel::Register`](super::LinearKernel::Register).
pub const LINEAR_REG: Shader = Shader {
    name: "linear_reg",
    wgsl: wgsl!("rows", "dot", "requantize", "linear_reg"),
    entries: &["linear_reg_i8_i8", "linear_reg_i8_f32", "linear_reg_dynamic_i8_f32"],
    overrides: &["PACKED_DOT", "THREADS_Y"],
    bindings: LINEAR_BINDINGS,
    structs: LINEAR_STRUCTS,
};

/// [`LinearKernel::Gemv`](super::LinearKernel::Gemv).
pub const LINEAR_GEMV: Shader = Shader {
    name: "linear_gemv",
    wgsl: wgsl!("rows", "dot", "requantize", "linear_gemv"),
    entries: &["linear_gemv_i8_i8", "linear_gemv_i8_f32", "linear_gemv_dynamic_i8_f32"],
    overrides: &["PACKED_DOT", "ROWS", "K_LANES"],
    bindings: LINEAR_BINDINGS,
    structs: LINEAR_STRUCTS,
};

/// f32 to int8 and back.
pub const QUANTIZE: Shader = Shader {
    name: "quantize",
    wgsl: wgsl!("rows", "tensor", "quantize"),
    entries: &["quantize_f32_i8", "dequantize_i8_f32"],
    overrides: &[],
    bindings: TENSOR_BINDINGS,
    structs: TENSOR_STRUCTS,
};

/// Between dense and padded int8 matrices.
pub const REPACK: Shader = Shader {
    name: "repack",
    wgsl: wgsl!("rows", "tensor", "repack"),
    entries: &["pad_i8_i8", "unpad_i8_i8"],
    overrides: &[],
    bindings: TENSOR_BINDINGS,
    structs: TENSOR_STRUCTS,
};

macro_rules! general {
    ($name:literal, $($entry:literal),*) => {
        Shader {
            name: $name,
            wgsl: wgsl!("rows", "general", $name),
            entries: &[$($entry),*],
            overrides: &[],
            bindings: GENERAL_BINDINGS,
            structs: GENERAL_STRUCTS,
        }
    };
}

/// Kernels on each element.
pub const MAP: Shader = general!(
    "map",
    "copy_f32_f32",
    "add_f32_f32",
    "mul_f32_f32",
    "unary_f32_f32",
    "max_f32_f32",
    "gather_i32_f32",
    "copy_i8_i8",
    "reshape_i8_i8",
    "max_i8_i8",
    "add_i8_i8",
    "mul_i8_i8",
    "table_i8_i8"
);

/// Dynamic quantization.
pub const DYNAMIC: Shader = general!(
    "dynamic",
    "range_f32_f32",
    "choose_per_token_f32_f32",
    "choose_per_tensor_f32_f32",
    "quantize_dynamic_f32_i8",
    "dequantize_dynamic_i8_f32"
);

/// Products of two activations, and float linear layers.
pub const MATMUL: Shader = general!("matmul", "matmul_f32_f32", "matmul_i8_i8", "matmul_i8_f32");

/// Softmax and layer norm.
pub const NORMALIZE: Shader = general!("normalize", "softmax_f32_f32", "layer_norm_f32_f32");

/// Every shader.
pub const ALL: [Shader; 9] = [LINEAR, LINEAR_REG, LINEAR_GEMV, QUANTIZE, REPACK, MAP, DYNAMIC, MATMUL, NORMALIZE];

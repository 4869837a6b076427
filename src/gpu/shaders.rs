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
    /// Whether it uses subgroup operations.
    pub subgroups: bool,
    /// Whether it uses cooperative matrices.
    pub matrices: bool,
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
        first_row,
        end_row,
        first_quad,
        quads,
        part_vecs,
        fraction_bits,
        zero_point,
        lo,
        hi,
        relu,
        pair_stride,
        unary,
        own_zero_point,
        other_zero_point,
        own_multiplier,
        other_multiplier,
        shift,
        sum_zero_point,
        sum_lo,
        sum_hi
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
        a_row,
        relu,
        b_vecs,
        first_group,
        inv_scale,
        a_offset,
        low,
        high,
        unused
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
    storage("x", 3, BindingKind::ReadWrite),
    storage("w", 4, BindingKind::Read),
    storage("channels", 5, BindingKind::Read),
    storage("y", 6, BindingKind::ReadWrite),
    storage("other", 7, BindingKind::ReadWrite),
    storage("partial", 8, BindingKind::ReadWrite),
];

/// The bindings of the kernels that take any shapes.
pub(super) const GENERAL_BINDINGS: &[Binding] = &[
    uniform("params", 0, size_of::<OpParams>(), false),
    uniform("rows_high", 1, size_of::<Digit>(), true),
    uniform("rows_low", 2, size_of::<Digit>(), true),
    storage("a", 3, BindingKind::ReadWrite),
    storage("a_vecs", 3, BindingKind::ReadWrite),
    storage("b", 4, BindingKind::ReadWrite),
    storage("b_vecs", 4, BindingKind::ReadWrite),
    storage("c", 5, BindingKind::ReadWrite),
    storage("y", 6, BindingKind::ReadWrite),
    storage("y_vecs", 6, BindingKind::ReadWrite),
    storage("d", 7, BindingKind::ReadWrite),
    storage("z", 8, BindingKind::ReadWrite),
];

/// The bindings of the kernels that handle one word at a time.
pub(super) const TENSOR_BINDINGS: &[Binding] = &[
    uniform("params", 0, size_of::<TensorParams>(), false),
    uniform("rows_high", 1, size_of::<Digit>(), true),
    uniform("rows_low", 2, size_of::<Digit>(), true),
    storage("src", 3, BindingKind::ReadWrite),
    storage("src_vecs", 3, BindingKind::ReadWrite),
    storage("dst", 4, BindingKind::ReadWrite),
    storage("dst_vecs", 4, BindingKind::ReadWrite),
];

macro_rules! wgsl {
    ($($file:literal),*) => {
        concat!($(include_str!(concat!("../../shaders/", $file, ".wgsl")), "\n"),*)
    };
}

/// A kernel of linear layers, once for each way in which weights are stored: of 8, 4 and 2 bits.
macro_rules! linear {
    ($kernel:literal, [$($override:literal),*], $subgroups:literal) => {
        [linear!($kernel, "weights_8", "_8", [$($override),*], $subgroups),
         linear!($kernel, "weights_4", "_4", [$($override),*], $subgroups),
         linear!($kernel, "weights_2", "_2", [$($override),*], $subgroups)]
    };
    ($kernel:literal, $weights:literal, $suffix:literal, [$($override:literal),*], $subgroups:literal) => {
        Shader {
            name: concat!($kernel, $suffix),
            wgsl: wgsl!("rows", "dot", $weights, "codes", "half", "floats", "unary", "requantize", $kernel),
            entries: &[$kernel],
            overrides: &["PACKED_DOT", "END", "HALVES", $($override),*],
            bindings: LINEAR_BINDINGS,
            structs: LINEAR_STRUCTS,
            subgroups: $subgroups,
            matrices: false,
        }
    };
}

/// [`LinearKernel::Workgroup`](super::LinearKernel::Workgroup), for weights of 8, 4 and 2 bits.
pub const LINEAR: [Shader; 3] = linear!("linear", ["THREADS_Y", "K_STEP"], false);

/// [`LinearKernel::Large`](super::LinearKernel::Large).
pub const LINEAR_LARGE: [Shader; 3] = linear!("linear_large", [], false);

/// [`LinearKernel::Register`](super::LinearKernel::Register).
pub const LINEAR_REG: [Shader; 3] = linear!("linear_reg", ["THREADS_Y"], false);

/// [`LinearKernel::Subgroup`](super::LinearKernel::Subgroup).
pub const LINEAR_SUB: [Shader; 3] = linear!("linear_sub", ["LANES", "ROWS"], true);

/// [`LinearKernel::Gemv`](super::LinearKernel::Gemv).
pub const LINEAR_GEMV: [Shader; 3] = linear!("linear_gemv", ["ROWS", "K_LANES"], false);

macro_rules! coop {
    ($name:literal, $fragments:literal, $matrices:literal, $($enable:literal)?) => {
        [coop!($name, "weights_8", "_8", $fragments, $matrices, $($enable)?),
         coop!($name, "weights_4", "_4", $fragments, $matrices, $($enable)?),
         coop!($name, "weights_2", "_2", $fragments, $matrices, $($enable)?)]
    };
    ($name:literal, $weights:literal, $suffix:literal, $fragments:literal, $matrices:literal, $($enable:literal)?) => {
        Shader {
            name: concat!($name, $suffix),
            wgsl: wgsl!(
                $($enable,)? "rows", $weights, "codes", "half", "floats", "unary", "requantize", "linear_coop", $fragments
            ),
            entries: &["linear_coop"],
            overrides: &["END", "HALVES", "PATCH_ROWS", "THREADS", "K_STEP", "CHUNK_VECS"],
            bindings: LINEAR_BINDINGS,
            structs: LINEAR_STRUCTS,
            subgroups: true,
            matrices: $matrices,
        }
    };
}

/// [`LinearKernel::Coop`](super::LinearKernel::Coop), in the order of `Fragment`, each for weights of 8, 4 and 2 bits.
pub const LINEAR_COOP: [[Shader; 3]; 3] = [
    coop!("linear_coop", "coop", true, "enable_coop"),
    coop!("linear_coop8", "coop8", true, "enable_coop"),
    coop!("linear_coop_emulated", "coop_emulated", false,),
];

/// The end of layers whose K was divided.
pub const LINEAR_FINISH: Shader = Shader {
    name: "linear_finish",
    wgsl: wgsl!("rows", "weights_8", "codes", "half", "floats", "unary", "requantize", "linear_finish"),
    entries: &["linear_finish"],
    overrides: &["END", "HALVES"],
    bindings: LINEAR_BINDINGS,
    structs: LINEAR_STRUCTS,
    subgroups: false,
    matrices: false,
};

macro_rules! tensor {
    ($name:literal, $($entry:literal),*) => {
        Shader {
            name: $name,
            wgsl: wgsl!("rows", "thread", "tensor", $name),
            entries: &[$($entry),*],
            overrides: &[],
            bindings: TENSOR_BINDINGS,
            structs: TENSOR_STRUCTS,
            subgroups: false,
            matrices: false,
        }
    };
}

/// f32 to int8 and back.
pub const QUANTIZE: Shader =
    tensor!("quantize", "quantize_f32_i8", "dequantize_i8_f32", "quantize_flat_f32_i8", "dequantize_flat_i8_f32");

/// Between dense and padded int8 matrices.
pub const REPACK: Shader = tensor!("repack", "pad_i8_i8", "unpad_i8_i8", "copy_u32_u32");

macro_rules! general {
    ($name:literal, [$($file:literal),*], [$($override:literal),*], $subgroups:literal, $($entry:literal),*) => {
        Shader {
            name: $name,
            wgsl: wgsl!("rows", $($file),*),
            entries: &[$($entry),*],
            overrides: &[$($override),*],
            bindings: GENERAL_BINDINGS,
            structs: GENERAL_STRUCTS,
            subgroups: $subgroups,
            matrices: false,
        }
    };
}

/// Kernels on each element.
pub const MAP: Shader = general!(
    "map",
    ["thread", "codes", "half", "floats", "unary", "general", "map"],
    [],
    false,
    "copy_f32_f32",
    "add_f32_f32",
    "mul_f32_f32",
    "div_f32_f32",
    "keep_f32_f32",
    "binary_f32_f32",
    "clamp_f32_f32",
    "sum_f32_f32",
    "to_float_i32_f32",
    "to_integer",
    "int32_i32_i32",
    "sum_i32_i32",
    "max_i32_i32",
    "unary_f32_f32",
    "half_f32_f16",
    "max_f32_f32",
    "gather_i32_f32",
    "copy_i8_i8",
    "reshape_i8_i8",
    "max_i8_i8",
    "add_i8_i8",
    "mul_i8_i8",
    "table_i8_i8"
);

/// Kernels on each element of operands that lie alike.
pub const FLAT: Shader = general!(
    "flat",
    ["thread", "codes", "half", "floats", "unary", "general", "flat"],
    [],
    false,
    "add_flat_f32_f32",
    "mul_flat_f32_f32",
    "div_flat_f32_f32",
    "keep_flat_f32_f32",
    "binary_flat_f32_f32",
    "clamp_flat_f32_f32",
    "unary_flat_f32_f32",
    "add_flat_i8_i8",
    "mul_flat_i8_i8",
    "table_flat_i8_i8"
);

macro_rules! dynamic {
    ($name:literal, $reduce:literal, $subgroups:literal) => {
        general!(
            $name,
            [$reduce, "codes", "floats", "general", "dynamic"],
            [],
            $subgroups,
            "range_f32_f32",
            "choose_per_token_f32_f32",
            "choose_per_tensor_f32_f32",
            "quantize_dynamic_f32_i8",
            "quantize_per_token_f32_i8",
            "dequantize_dynamic_i8_f32"
        )
    };
}

/// Dynamic quantization, without and with subgroup operations.
pub const DYNAMIC: [Shader; 2] =
    [dynamic!("dynamic", "reduce", false), dynamic!("dynamic_subgroup", "reduce_subgroup", true)];

macro_rules! normalize {
    ($name:literal, $reduce:literal, $subgroups:literal) => {
        general!(
            $name,
            [$reduce, "codes", "floats", "general", "normalize"],
            ["ADD", "KEEP_SUM", "QUANTIZE"],
            $subgroups,
            "softmax_f32_f32",
            "layer_norm_f32_f32"
        )
    };
}

/// Softmax and layer norm, without and with subgroup operations.
pub const NORMALIZE: [Shader; 2] =
    [normalize!("normalize", "reduce", false), normalize!("normalize_subgroup", "reduce_subgroup", true)];

/// Products of two float activations, and float linear layers.
pub const MATMUL: Shader = general!(
    "matmul",
    ["thread", "codes", "half", "floats", "unary", "general", "tile", "matmul"],
    ["BIAS", "UNARY"],
    false,
    "matmul_f32_f32"
);

/// Products of two int8 activations.
pub const MATMUL_I8: Shader = general!(
    "matmul_i8",
    ["thread", "codes", "dot", "floats", "general", "tile", "matmul_i8"],
    ["PACKED_DOT", "DYNAMIC"],
    false,
    "matmul_i8_i8",
    "matmul_i8_f32"
);

/// Every shader.
pub const ALL: [Shader; 35] = [
    LINEAR[0],
    LINEAR[1],
    LINEAR[2],
    LINEAR_LARGE[0],
    LINEAR_LARGE[1],
    LINEAR_LARGE[2],
    LINEAR_REG[0],
    LINEAR_REG[1],
    LINEAR_REG[2],
    LINEAR_SUB[0],
    LINEAR_SUB[1],
    LINEAR_SUB[2],
    LINEAR_GEMV[0],
    LINEAR_GEMV[1],
    LINEAR_GEMV[2],
    LINEAR_COOP[0][0],
    LINEAR_COOP[0][1],
    LINEAR_COOP[0][2],
    LINEAR_COOP[1][0],
    LINEAR_COOP[1][1],
    LINEAR_COOP[1][2],
    LINEAR_COOP[2][0],
    LINEAR_COOP[2][1],
    LINEAR_COOP[2][2],
    LINEAR_FINISH,
    QUANTIZE,
    REPACK,
    MAP,
    FLAT,
    DYNAMIC[0],
    DYNAMIC[1],
    NORMALIZE[0],
    NORMALIZE[1],
    MATMUL,
    MATMUL_I8,
];

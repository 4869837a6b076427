//! int8 linear layers: parameters, bindings, shaders and pipelines.

pub(crate) mod choice;
pub(crate) mod coopmat;
mod coopmat_answer;
pub(crate) mod known_answer;
pub(crate) mod layers;
pub(crate) mod plan;
mod rows;
pub(crate) mod tile;
pub(crate) mod tuning;
pub(crate) mod weights;
pub(crate) mod work;

use coopmat::{Coopmat, Fragment};
pub(crate) use rows::LinearRows;
use tile::{LinearKernel, TileShape};
use weights::{Channels, WeightBits};

use super::conv::Window;
use super::elementwise::AddParams;
use super::function::function;
use super::kernel::{Kernel, KernelOptions};
use super::wgsl::shader;
use crate::gpu::device::shader::{Binding, Chosen, FIRST_STORAGE, Piece, Shader, read, read_write, text, wgsl_struct};
use crate::numerics::UnaryOp;

wgsl_struct! {
    /// `LinearParams` of `linear/epilogue.wgsl`.
    LinearParams {
        k_vecs: u32, rows_factor: u32, part_vecs: u32, qparams_stride: u32, first_row: u32, end_row: u32, first_quad: u32,
        quads: u32, layer_columns: u32, layers: u32, layer_words: u32, n: u32, row_words: u32, fraction_bits: u32,
        zero_point: i32, lo: f32, hi: f32, relu: u32, zero: u32, group_shift: u32, add: AddParams, window: Window, pixel_vecs: u32,
        padding: u32, group_inputs: u32, group_outputs: u32,
    }
}

pub(crate) const X: u32 = FIRST_STORAGE;
pub(crate) const WEIGHT: u32 = 4;
pub(crate) const CHANNELS: u32 = 5;
pub(crate) const Y: u32 = 6;
pub(crate) const OPERAND: u32 = 7;
pub(crate) const PARTIAL: u32 = 8;

pub(crate) const STORAGE: &[Binding] = &[
    read_write("x", X),
    read("w", WEIGHT),
    read("channels", CHANNELS),
    read_write("y", Y),
    read_write("operand", OPERAND),
    read_write("partial", PARTIAL),
];

/// The epilogue of a linear kernel: a file of `linear/epilogue`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum LinearEpilogue {
    ToI8,
    ToI8Lut,
    ToI8Add,
    ToF32,
    ToF32Unary(UnaryOp),
    DynamicToF32,
    DynamicToF32Unary(UnaryOp),
    Partial,
}

impl LinearEpilogue {
    /// An example of each.
    const ALL: [Self; 8] = [
        Self::ToI8,
        Self::ToI8Lut,
        Self::ToI8Add,
        Self::ToF32,
        Self::ToF32Unary(UnaryOp::Gelu),
        Self::DynamicToF32,
        Self::DynamicToF32Unary(UnaryOp::Gelu),
        Self::Partial,
    ];

    /// Its WGSL, and that of its function.
    pub(crate) fn pieces(self) -> Chosen {
        macro_rules! epilogue {
            ($file:literal) => {
                Piece { name: $file, wgsl: text!("linear/epilogue/", $file) }
            };
        }
        match self {
            Self::ToI8 => epilogue!("to_i8").alone(),
            Self::ToI8Lut => epilogue!("to_i8_lut").alone(),
            Self::ToI8Add => epilogue!("to_i8_add").alone(),
            Self::ToF32 => epilogue!("to_f32").alone(),
            Self::ToF32Unary(op) => [epilogue!("to_f32_unary"), function(Some(op)), Piece::NONE, Piece::NONE],
            Self::DynamicToF32 => epilogue!("dynamic_to_f32").alone(),
            Self::DynamicToF32Unary(op) => {
                [epilogue!("dynamic_to_f32_unary"), function(Some(op)), Piece::NONE, Piece::NONE]
            }
            Self::Partial => epilogue!("partial").alone(),
        }
    }
}

/// A pipeline of an int8 linear layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum LinearPipeline {
    /// Computes outputs, or sums of parts of K.
    Layer {
        tile: TileShape,
        bits: WeightBits,
        epilogue: LinearEpilogue,
        to_f16: bool,
        /// The use of cooperative matrices, only for [`LinearKernel::Coopmat`].
        coopmat: Option<Coopmat>,
        rows: LinearRows,
    },
    /// Applies the epilogue to the sums of parts of K.
    Finish { epilogue: LinearEpilogue, to_f16: bool },
}

impl Kernel for LinearPipeline {
    fn shader(self, _options: KernelOptions) -> &'static Shader {
        match self {
            Self::Layer { tile, bits, coopmat, .. } => {
                let shaders = shaders_of(tile.kernel(), coopmat.map(|coopmat| coopmat.fragment));
                // `Config::candidates` keeps layers with groups away from cooperative matrices.
                shaders.get(bits as usize).unwrap_or(&shaders[0])
            }
            Self::Finish { .. } => &FINISH,
        }
    }

    fn entry(self) -> &'static str {
        match self {
            Self::Layer { tile, .. } => tile.kernel().name(),
            Self::Finish { .. } => "linear_finish",
        }
    }

    fn chosen(self, options: KernelOptions) -> Chosen {
        let (rows, products) = match self {
            Self::Layer { rows, tile, .. } => (rows.piece(), products(tile.kernel(), options.packed_dot)),
            Self::Finish { .. } => (Piece::NONE, Piece::NONE),
        };
        let (Self::Layer { epilogue, .. } | Self::Finish { epilogue, .. }) = self;
        let [epilogue, function, ..] = epilogue.pieces();
        [epilogue, function, rows, products]
    }

    fn overrides(self, options: KernelOptions) -> Vec<(&'static str, u32)> {
        let (mut overrides, to_f16) = match self {
            Self::Layer { tile, to_f16, coopmat, .. } => {
                let mut overrides = tile.overrides();
                match coopmat {
                    Some(coopmat) => {
                        overrides.push(("THREADS", coopmat.threads(tile.rows())));
                        overrides.push(match tile.kernel() {
                            LinearKernel::CoopmatInt8 => ("FRAGMENT_VECS", coopmat.fragment.k() / 16),
                            _ => ("CHUNK_VECS", coopmat.chunk_vecs),
                        });
                    }
                    None => overrides.push(("PACKED_DOT", options.packed_dot.into())),
                }
                (overrides, to_f16)
            }
            Self::Finish { to_f16, .. } => (Vec::new(), to_f16),
        };
        overrides.push(("F16", to_f16.into()));
        overrides
    }

    fn promises_bits(self) -> bool {
        true
    }

    fn may_be_near(self) -> bool {
        use LinearEpilogue::{DynamicToF32, DynamicToF32Unary, ToF32Unary};
        let (Self::Layer { epilogue, .. } | Self::Finish { epilogue, .. }) = self;
        matches!(epilogue, DynamicToF32 | DynamicToF32Unary(_) | ToF32Unary(_))
    }
}

/// The products of kernels without workgroup memory, with packed dot products or without them.
fn products(kernel: LinearKernel, packed_dot: bool) -> Piece {
    macro_rules! products {
        ($file:literal) => {
            Piece { name: $file, wgsl: text!("linear/", $file) }
        };
    }
    match (kernel, packed_dot) {
        (LinearKernel::Register, true) => products!("register_packed"),
        (LinearKernel::Register, false) => products!("register_words"),
        (LinearKernel::Row, true) => products!("row_packed"),
        (LinearKernel::Row, false) => products!("row_words"),
        _ => Piece::NONE,
    }
}

/// The shaders of a kernel, by [`WeightBits`]: those of cooperative matrices have none for groups, and none without a fragment.
fn shaders_of(kernel: LinearKernel, fragment: Option<Fragment>) -> &'static [Shader] {
    match (kernel, fragment) {
        (LinearKernel::Workgroup, _) => &WORKGROUP,
        (LinearKernel::Large, _) => &LARGE,
        (LinearKernel::Register, _) => &REGISTER,
        (LinearKernel::Row, _) => &ROW,
        (LinearKernel::Subgroup, _) => &SUBGROUP,
        (LinearKernel::Gemv, _) => &GEMV,
        (LinearKernel::Coopmat | LinearKernel::CoopmatInt8, Some(fragment)) => match fragment {
            Fragment::Sixteen => &COOPMAT_16,
            Fragment::Eight => &COOPMAT_8,
            Fragment::Emulated => &COOPMAT_EMULATED,
            Fragment::Int8K16 => &COOPMAT_INT8_K16,
            Fragment::Int8K32 => &COOPMAT_INT8_K32,
        },
        (LinearKernel::Coopmat | LinearKernel::CoopmatInt8, None) => &[],
    }
}

/// All shaders with their entry points: with each epilogue for weights of 8 bits, with one for those of fewer bits and for
/// convolutions.
pub(crate) fn entries() -> Vec<(Shader, &'static str)> {
    let of = |shader: &Shader, epilogue: LinearEpilogue, rows: Piece, products: Piece| {
        let [epilogue, function, ..] = epilogue.pieces();
        Shader { chosen: [epilogue, function, rows, products], ..*shader }
    };
    let mut entries = Vec::new();
    for kernel in LinearKernel::ALL {
        let fragments: &[Option<Fragment>] = match kernel {
            LinearKernel::Coopmat => &[Some(Fragment::Sixteen), Some(Fragment::Eight), Some(Fragment::Emulated)],
            LinearKernel::CoopmatInt8 => &[Some(Fragment::Int8K32), Some(Fragment::Int8K16)],
            _ => &[None],
        };
        let mut both = [true, false].map(|packed_dot| products(kernel, packed_dot)).to_vec();
        both.dedup();
        for (&fragment, products) in
            fragments.iter().flat_map(|fragment| both.iter().map(move |&each| (fragment, each)))
        {
            let [eight, few @ ..] = shaders_of(kernel, fragment) else { continue };
            let with = |shader: &Shader, epilogue| of(shader, epilogue, LinearRows::Matrix.piece(), products);
            entries.extend(LinearEpilogue::ALL.map(|epilogue| (with(eight, epilogue), kernel.name())));
            entries.extend(few.iter().map(|shader| (with(shader, LinearEpilogue::ToI8), kernel.name())));
            let patches = LinearRows::Patches.piece();
            entries.push((of(eight, LinearEpilogue::ToI8, patches, products), kernel.name()));
        }
    }
    // Nothing finishes a part.
    let whole = LinearEpilogue::ALL.into_iter().filter(|epilogue| *epilogue != LinearEpilogue::Partial);
    entries.extend(whole.map(|epilogue| (of(&FINISH, epilogue, Piece::NONE, Piece::NONE), "linear_finish")));
    entries
}

/// One shader for each number of bits of weights, with and without groups.
macro_rules! shaders_with_groups {
    ($name:literal, [$($shared:ident),*], [$($file:literal),*], $($field:ident: $value:expr),*) => {
        [
            shaders!(@ concat!($name, "_8"), [$($shared),*], ["linear/weights_8", "linear/plain" $(, $file)*], $($field: $value),*),
            shaders!(@ concat!($name, "_4"), [$($shared),*], ["linear/weights_4", "linear/plain" $(, $file)*], $($field: $value),*),
            shaders!(@ concat!($name, "_2"), [$($shared),*], ["linear/weights_2", "linear/plain" $(, $file)*], $($field: $value),*),
            shaders!(@ concat!($name, "_groups_8"), [$($shared),*], ["linear/groups", "linear/groups_8" $(, $file)*], $($field: $value),*),
            shaders!(@ concat!($name, "_groups_4"), [$($shared),*], ["linear/groups", "linear/groups_4" $(, $file)*], $($field: $value),*),
            shaders!(@ concat!($name, "_groups_2"), [$($shared),*], ["linear/groups", "linear/groups_2" $(, $file)*], $($field: $value),*),
            shaders!(@ concat!($name, "_groups_words"), [$($shared),*], ["linear/groups_words" $(, $file)*], $($field: $value),*),
        ]
    };
}

/// One shader for each number of bits of weights.
macro_rules! shaders {
    ($name:literal, [$($shared:ident),*], [$($file:literal),*], $($field:ident: $value:expr),*) => {
        [
            shaders!(@ concat!($name, "_8"), [$($shared),*], ["linear/weights_8" $(, $file)*], $($field: $value),*),
            shaders!(@ concat!($name, "_4"), [$($shared),*], ["linear/weights_4" $(, $file)*], $($field: $value),*),
            shaders!(@ concat!($name, "_2"), [$($shared),*], ["linear/weights_2" $(, $file)*], $($field: $value),*),
        ]
    };
    (@ $name:expr, [$($shared:ident),*], [$($file:literal),*], $($field:ident: $value:expr),*) => {
        Shader {
            $($field: $value,)*
            ..shader! {
                $name, LinearParams, [AddParams, Channels, Window], STORAGE,
                [$($shared,)* WINDOW, BYTES, ADD, REQUANTIZE, LOOK_UP, F16, FLOATS, FLOAT, FUNCTIONS],
                ["linear/epilogue" $(, $file)*]
            }
        }
    };
}

static WORKGROUP: [Shader; 7] = shaders_with_groups! {
    "linear_workgroup", [DOT], ["linear/workgroup"],
    overrides: &["F16", "PACKED_DOT", "THREADS_Y", "K_STEP"]
};
static LARGE: [Shader; 7] = shaders_with_groups! {
    "linear_large", [DOT], ["linear/large"],
    overrides: &["F16", "PACKED_DOT"]
};
static REGISTER: [Shader; 7] = shaders_with_groups! {
    "linear_register", [DOT], ["linear/words", "linear/register"],
    overrides: &["F16", "PACKED_DOT", "THREADS_Y"]
};
static ROW: [Shader; 7] = shaders_with_groups! {
    "linear_row", [DOT], ["linear/words", "linear/row"],
    overrides: &["F16", "PACKED_DOT", "THREADS_Y"]
};
static SUBGROUP: [Shader; 7] = shaders_with_groups! {
    "linear_subgroup", [DOT], ["linear/words", "linear/subgroup"],
    overrides: &["F16", "PACKED_DOT", "LANES", "ROWS"], subgroups: true
};
static GEMV: [Shader; 7] = shaders_with_groups! {
    "linear_gemv", [DOT], ["linear/gemv"],
    overrides: &["F16", "PACKED_DOT", "ROWS", "K_LANES", "QUADS"]
};

const COOPMAT_OVERRIDES: &[&str] = &["F16", "PATCH_ROWS", "THREADS", "K_STEP", "CHUNK_VECS"];

static COOPMAT_16: [Shader; 3] = shaders! {
    "linear_coopmat_16", [F16_ENABLE, COOPMAT_ENABLE], ["linear/coopmat", "linear/coopmat_16"],
    overrides: COOPMAT_OVERRIDES, subgroups: true, coopmat: true
};
static COOPMAT_8: [Shader; 3] = shaders! {
    "linear_coopmat_8", [F16_ENABLE, COOPMAT_ENABLE], ["linear/coopmat", "linear/coopmat_8"],
    overrides: COOPMAT_OVERRIDES, subgroups: true, coopmat: true
};
const COOPMAT_INT8_OVERRIDES: &[&str] = &["F16", "PATCH_ROWS", "THREADS", "K_STEP", "FRAGMENT_VECS"];

static COOPMAT_INT8_K32: [Shader; 3] = shaders! {
    "linear_coopmat_int8_k32", [COOPMAT_ENABLE], ["linear/coopmat_int8"],
    overrides: COOPMAT_INT8_OVERRIDES, subgroups: true, coopmat: true, int8_k: 32
};
static COOPMAT_INT8_K16: [Shader; 3] = shaders! {
    "linear_coopmat_int8_k16", [COOPMAT_ENABLE], ["linear/coopmat_int8"],
    overrides: COOPMAT_INT8_OVERRIDES, subgroups: true, coopmat: true, int8_k: 16
};
static COOPMAT_EMULATED: [Shader; 3] = shaders! {
    "linear_coopmat_emulated", [], ["linear/coopmat", "linear/coopmat_emulated"],
    overrides: COOPMAT_OVERRIDES, subgroups: true
};
static FINISH: Shader = shaders! { @ "linear_finish", [], ["linear/weights_8", "linear/finish"], overrides: &["F16"] };

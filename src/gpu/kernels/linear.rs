//! int8 linear layers: parameters, bindings, shaders and pipelines.

pub(crate) mod choice;
pub(crate) mod coopmat;
mod coopmat_answer;
pub(crate) mod known_answer;
pub(crate) mod plan;
pub(crate) mod tile;
pub(crate) mod tuning;
pub(crate) mod weights;
pub(crate) mod work;

use coopmat::{Coopmat, Fragment};
use tile::{LinearKernel, TileShape};
use weights::{Channels, WeightBits};

use super::elementwise::AddParams;
use super::kernel::{Kernel, KernelOptions};
use super::wgsl::shader;
use crate::gpu::device::shader::{Binding, FIRST_STORAGE, Shader, read, read_write, wgsl_struct};
use crate::numerics::UnaryOp;

wgsl_struct! {
    /// `LinearParams` of `linear/epilogue.wgsl`.
    LinearParams {
        k_vecs: u32, n: u32, row_words: u32, rows_factor: u32, first_row: u32, end_row: u32, first_quad: u32,
        quads: u32, part_vecs: u32, fraction_bits: u32, zero_point: i32, lo: f32, hi: f32, relu: u32,
        qparams_stride: u32, zero: u32, add: AddParams,
    }
}

pub(crate) const X: u32 = FIRST_STORAGE;
pub(crate) const WEIGHT: u32 = 4;
pub(crate) const CHANNELS: u32 = 5;
pub(crate) const Y: u32 = 6;
pub(crate) const OPERAND: u32 = 7;
pub(crate) const PARTIAL: u32 = 8;

const STORAGE: &[Binding] = &[
    read_write("x", X),
    read("w", WEIGHT),
    read("channels", CHANNELS),
    read_write("y", Y),
    read_write("operand", OPERAND),
    read_write("partial", PARTIAL),
];

/// The epilogue of a linear kernel: EPILOGUE of `linear/epilogue.wgsl`.
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
    /// The override constants: the number of the epilogue, and that of its function.
    fn overrides(self) -> Vec<(&'static str, u32)> {
        let (number, function) = match self {
            Self::ToI8 => (0, None),
            Self::ToI8Lut => (1, None),
            Self::ToI8Add => (2, None),
            Self::ToF32 => (3, None),
            Self::ToF32Unary(op) => (4, Some(op)),
            Self::DynamicToF32 => (5, None),
            Self::DynamicToF32Unary(op) => (6, Some(op)),
            Self::Partial => (7, None),
        };
        [("EPILOGUE", number)].into_iter().chain(function.map(|op| ("FUNCTION", op as u32))).collect()
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
    },
    /// Applies the epilogue to the sums of parts of K.
    Finish { epilogue: LinearEpilogue, to_f16: bool },
}

impl Kernel for LinearPipeline {
    fn shader(self, _options: KernelOptions) -> &'static Shader {
        match self {
            Self::Layer { tile, bits, coopmat, .. } => {
                let fragment = coopmat.map_or(Fragment::Emulated, |coopmat| coopmat.fragment);
                &shaders_of(tile.kernel(), fragment)[bits as usize]
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

    fn overrides(self, options: KernelOptions) -> Vec<(&'static str, u32)> {
        let (mut overrides, epilogue, to_f16) = match self {
            Self::Layer { tile, epilogue, to_f16, coopmat, .. } => {
                let mut overrides = tile.overrides();
                match coopmat {
                    Some(coopmat) => {
                        let threads = coopmat.threads(tile.rows());
                        overrides.extend([("THREADS", threads), ("CHUNK_VECS", coopmat.chunk_vecs)]);
                    }
                    None => overrides.push(("PACKED_DOT", options.packed_dot.into())),
                }
                (overrides, epilogue, to_f16)
            }
            Self::Finish { epilogue, to_f16 } => (Vec::new(), epilogue, to_f16),
        };
        overrides.extend(epilogue.overrides());
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

/// The shaders of a kernel, for weights of 8, 4 and 2 bits.
fn shaders_of(kernel: LinearKernel, fragment: Fragment) -> &'static [Shader; 3] {
    match (kernel, fragment) {
        (LinearKernel::Workgroup, _) => &WORKGROUP,
        (LinearKernel::Large, _) => &LARGE,
        (LinearKernel::Register, _) => &REGISTER,
        (LinearKernel::Subgroup, _) => &SUBGROUP,
        (LinearKernel::Gemv, _) => &GEMV,
        (LinearKernel::Coopmat, Fragment::Sixteen) => &COOPMAT_16,
        (LinearKernel::Coopmat, Fragment::Eight) => &COOPMAT_8,
        (LinearKernel::Coopmat, Fragment::Emulated) => &COOPMAT_EMULATED,
    }
}

/// All shaders with their entry points.
pub(crate) fn entries() -> Vec<(&'static Shader, &'static str)> {
    let fragments = [Fragment::Sixteen, Fragment::Eight, Fragment::Emulated];
    let kernels = LinearKernel::ALL.into_iter().flat_map(|kernel| match kernel {
        LinearKernel::Coopmat => fragments.map(|fragment| (kernel, fragment)).to_vec(),
        _ => vec![(kernel, Fragment::Emulated)],
    });
    let shaders = kernels
        .flat_map(|(kernel, fragment)| shaders_of(kernel, fragment).iter().map(move |shader| (shader, kernel.name())));
    shaders.chain([(&FINISH, "linear_finish")]).collect()
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
                $name, LinearParams, [AddParams, Channels], STORAGE,
                [$($shared,)* BYTES, ADD, REQUANTIZE, LOOK_UP, F16, FLOATS, FLOAT, FUNCTIONS],
                ["linear/epilogue" $(, $file)*]
            }
        }
    };
}

static WORKGROUP: [Shader; 3] = shaders! {
    "linear_workgroup", [DOT], ["linear/workgroup"],
    overrides: &["EPILOGUE", "FUNCTION", "F16", "PACKED_DOT", "THREADS_Y", "K_STEP"]
};
static LARGE: [Shader; 3] = shaders! {
    "linear_large", [DOT], ["linear/large"],
    overrides: &["EPILOGUE", "FUNCTION", "F16", "PACKED_DOT"]
};
static REGISTER: [Shader; 3] = shaders! {
    "linear_register", [DOT], ["linear/register"],
    overrides: &["EPILOGUE", "FUNCTION", "F16", "PACKED_DOT", "THREADS_Y"]
};
static SUBGROUP: [Shader; 3] = shaders! {
    "linear_subgroup", [DOT], ["linear/subgroup"],
    overrides: &["EPILOGUE", "FUNCTION", "F16", "PACKED_DOT", "LANES", "ROWS"], subgroups: true
};
static GEMV: [Shader; 3] = shaders! {
    "linear_gemv", [DOT], ["linear/gemv"],
    overrides: &["EPILOGUE", "FUNCTION", "F16", "PACKED_DOT", "ROWS", "K_LANES"]
};

const COOPMAT_OVERRIDES: &[&str] = &["EPILOGUE", "FUNCTION", "F16", "PATCH_ROWS", "THREADS", "K_STEP", "CHUNK_VECS"];

static COOPMAT_16: [Shader; 3] = shaders! {
    "linear_coopmat_16", [COOPMAT_ENABLE], ["linear/coopmat", "linear/coopmat_16"],
    overrides: COOPMAT_OVERRIDES, subgroups: true, coopmat: true
};
static COOPMAT_8: [Shader; 3] = shaders! {
    "linear_coopmat_8", [COOPMAT_ENABLE], ["linear/coopmat", "linear/coopmat_8"],
    overrides: COOPMAT_OVERRIDES, subgroups: true, coopmat: true
};
static COOPMAT_EMULATED: [Shader; 3] = shaders! {
    "linear_coopmat_emulated", [], ["linear/coopmat", "linear/coopmat_emulated"],
    overrides: COOPMAT_OVERRIDES, subgroups: true
};
static FINISH: Shader = shaders! { @ "linear_finish", [], ["linear/weights_8", "linear/finish"], overrides: &["EPILOGUE", "FUNCTION", "F16"] };

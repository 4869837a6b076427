//! int8 convolutions with groups of channels, with the epilogues of linear layers.

use super::{channels, has_gaps};
use crate::gpu::device::shader::{Chosen, Shader};
use crate::gpu::kernels::dispatch::{Bound, Operand, PlannedDispatch, Planning};
use crate::gpu::kernels::elementwise::AddParams;
use crate::gpu::kernels::fused_step::FusedStep;
use crate::gpu::kernels::grid::GridSize;
use crate::gpu::kernels::kernel::{Kernel, KernelOptions};
use crate::gpu::kernels::layout::{VEC, k_vecs, matrix_rows};
use crate::gpu::kernels::linear::plan::{epilogue, operand, params_of_rows};
use crate::gpu::kernels::linear::weights::{Channels, WeightBits, WeightPart};
use crate::gpu::kernels::linear::{CHANNELS, LinearEpilogue, LinearParams, STORAGE, WEIGHT, X, Y};
use crate::gpu::kernels::wgsl::shader;
use crate::program::QConv;

static SHADER: Shader = Shader {
    overrides: &["F16", "GAPS"],
    ..shader! {
        "conv_grouped", LinearParams, [AddParams, Channels, super::Window], STORAGE,
        [THREAD, GRID, BYTES, ADD, REQUANTIZE, LOOK_UP, F16, FLOATS, FLOAT, FUNCTIONS, WINDOW],
        ["linear/epilogue", "conv/grouped"]
    }
};

/// A kernel for convolutions of several groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GroupedKernel {
    /// Whether each channel is a group with one output.
    pub(super) depthwise: bool,
    pub(super) epilogue: LinearEpilogue,
    to_f16: bool,
    /// Whether there is padding between the elements of the input.
    pub(super) gaps: bool,
}

impl GroupedKernel {
    /// The kernels that have known answers.
    pub(crate) fn iter() -> impl Iterator<Item = Self> {
        let kernel = |[depthwise, to_float, gaps]: [bool; 3]| Self {
            depthwise,
            epilogue: if to_float { LinearEpilogue::ToF32 } else { LinearEpilogue::ToI8 },
            to_f16: false,
            gaps,
        };
        (0..8).map(move |bits| kernel([0, 1, 2].map(|bit| bits >> bit & 1 == 1)))
    }

    /// The kernel of a convolution without fused steps.
    pub(super) fn plain(conv: &QConv) -> Self {
        let epilogue = match conv.layer.epilogue {
            crate::program::Epilogue::Requantize { .. } => LinearEpilogue::ToI8,
            _ => LinearEpilogue::ToF32,
        };
        Self { depthwise: is_depthwise(conv), epilogue, to_f16: false, gaps: has_gaps(conv) }
    }
}

impl Kernel for GroupedKernel {
    fn shader(self, _options: KernelOptions) -> &'static Shader {
        &SHADER
    }

    fn entry(self) -> &'static str {
        if self.depthwise { "conv_depthwise" } else { "conv_grouped" }
    }

    fn chosen(self, _options: KernelOptions) -> Chosen {
        self.epilogue.pieces()
    }

    fn overrides(self, _options: KernelOptions) -> Vec<(&'static str, u32)> {
        vec![("F16", self.to_f16.into()), ("GAPS", self.gaps.into())]
    }

    fn promises_bits(self) -> bool {
        true
    }

    fn may_be_near(self) -> bool {
        matches!(self.epilogue, LinearEpilogue::ToF32Unary(_))
    }
}

fn is_depthwise(conv: &QConv) -> bool {
    conv.layer.n == conv.groups && channels(conv) == 1
}

/// The weight as the kernel reads it, in whole vectors.
pub(crate) fn weight(conv: &QConv) -> Vec<i8> {
    let (weight, n, taps) = (&conv.layer.weight, conv.layer.n, conv.window.taps());
    if !is_depthwise(conv) {
        let mut packed = weight.to_vec();
        packed.resize(weight.len().next_multiple_of(VEC), 0);
        return packed;
    }
    let padded = k_vecs(n) * VEC;
    let mut packed = vec![0; taps * padded];
    for (tap, packed) in packed.chunks_exact_mut(padded).enumerate() {
        packed.iter_mut().zip(weight[tap..].iter().step_by(taps)).for_each(|(to, &from)| *to = from);
    }
    packed
}

/// The only part of its weight.
pub(crate) fn part(conv: &QConv) -> WeightPart {
    WeightPart { first_column: 0, columns: conv.layer.n, bits: WeightBits::Eight, chunk_vecs: 0 }
}

/// One dispatch, or several of as many rows each as an engine's limit of multiply-adds allows.
pub(super) fn plan(planning: &Planning<'_>, fused: &FusedStep, conv: &QConv) -> Vec<PlannedDispatch> {
    let (program, step, y) = (planning.program, fused.step(planning.program), planning.output(fused));
    let kernel = GroupedKernel {
        depthwise: is_depthwise(conv),
        epilogue: epilogue(program, fused, &conv.layer),
        to_f16: fused.to_f16,
        gaps: has_gaps(conv),
    };
    let threads = if kernel.depthwise { k_vecs(conv.layer.n) } else { conv.layer.n.div_ceil(4) } as u64;
    let reads: Vec<Bound> = [
        planning.at(X, step.inputs[0]),
        Bound::whole(WEIGHT, Operand::Weight { step: fused.main, part: 0, offset: 0 }),
        Bound::whole(CHANNELS, Operand::Channels { step: fused.main, part: 0, offset: 0 }),
    ]
    .into_iter()
    .chain(operand(planning, fused, &conv.layer))
    .collect();
    let output = planning.at(Y, fused.last_step(program).output);
    let (rows, of_row) = (matrix_rows(y, planning.max_rows), (conv.layer.n * conv.layer.k) as u64);
    let most = (planning.config.macs_per_dispatch / of_row.max(1)).max(1);
    let dispatch = |first: u64| {
        let end = first.saturating_add(most);
        let params = params_of_rows(planning, fused, &conv.layer, part(conv), [first, end]);
        let size = GridSize::RowRange { first, end, threads };
        let dispatch = PlannedDispatch::single(planning, &step.name, y, kernel, &params, size);
        dispatch.binding(reads.iter().copied(), [output])
    };
    (0..rows).step_by(usize::try_from(most).unwrap_or(usize::MAX)).map(dispatch).collect()
}

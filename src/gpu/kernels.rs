//! Kernels by family: each file states parameters, bindings, entry points, how a step becomes dispatches, and known answers.

pub(crate) mod case;
pub(crate) mod config;
pub(crate) mod dispatch;
mod elementwise;
mod embedding;
pub(crate) mod fused_step;
pub(crate) mod grid;
pub(crate) mod kernel;
pub(crate) mod layout;
pub(crate) mod linear;
mod matmul;
pub(crate) mod movement;
mod norm;
mod quantize;
mod reduce;
mod strided;
mod unary;
mod wgsl;

use case::{Case, CaseBuilder};
use config::Config;
use dispatch::{PlannedDispatch, Planning, Work};
use fused_step::FusedStep;
use kernel::{Kernel, KernelOptions};
use strum::IntoEnumIterator;

use super::device::error::GpuError;
use super::device::pipeline::PipelineKey;
use super::device::shader::Shader;
use crate::program::{FloatOp, ProgramError, StepOp};

/// The dispatches of a step; none of an int8 linear layer before its weight is packed.
///
/// # Errors
/// [`GpuError::Limit`] if the operands walk through too many axes in different orders.
pub(crate) fn plan(planning: &Planning<'_>, fused: &FusedStep) -> Result<Vec<PlannedDispatch>, GpuError> {
    match &fused.step(planning.program).op {
        StepOp::Linear(linear) => Ok(linear::plan::plan(planning, fused, linear)),
        StepOp::MatMul(_) | StepOp::MatMulDynamic { .. } | StepOp::Float(FloatOp::MatMul | FloatOp::Linear) => {
            matmul::plan(planning, fused)
        }
        StepOp::Add(_)
        | StepOp::Mul(_)
        | StepOp::Int32 { .. }
        | StepOp::Float(
            FloatOp::Add | FloatOp::Mul | FloatOp::Div | FloatOp::Binary(_) | FloatOp::Keep { .. },
        ) => elementwise::plan(planning, fused),
        StepOp::Table { .. }
        | StepOp::ToFloat
        | StepOp::ToInteger { .. }
        | StepOp::ToHalf
        | StepOp::Float(FloatOp::Unary(_) | FloatOp::Clamp { .. }) => unary::plan(planning, fused),
        StepOp::SumInt32 { .. } | StepOp::Max { .. } | StepOp::Float(FloatOp::Sum { .. }) => {
            reduce::plan(planning, fused)
        }
        StepOp::Float(FloatOp::Softmax { .. } | FloatOp::LayerNorm { .. }) => Ok(norm::plan(planning, fused)),
        StepOp::Concat { .. } | StepOp::Reshape | StepOp::Transpose { .. } | StepOp::Slice { .. } => {
            movement::plan(planning, fused)
        }
        StepOp::Gather => Ok(embedding::plan(planning, fused)),
        StepOp::Quantize { .. }
        | StepOp::Dequantize { .. }
        | StepOp::ChooseQParams { .. }
        | StepOp::QuantizeDynamic { .. }
        | StepOp::DequantizeDynamic => Ok(quantize::plan(planning, fused)),
    }
}

/// The pipelines whose known answers a step needs.
///
/// # Errors
/// As [`plan`].
pub(crate) fn needed(planning: &Planning<'_>, fused: &FusedStep) -> Result<Vec<PipelineKey>, GpuError> {
    if let StepOp::Linear(linear) = &fused.step(planning.program).op {
        return Ok(linear::known_answer::needed(planning, fused, linear));
    }
    let pipelines = plan(planning, fused)?.into_iter().filter_map(|dispatch| match dispatch.work {
        Work::Single { pipeline, .. } => Some(pipeline),
        Work::Linear(_) => None,
    });
    Ok(pipelines.collect())
}

/// A family of kernels that has known answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::EnumIter)]
pub(crate) enum Family {
    Linear,
    Matmul,
    Elementwise,
    Unary,
    Reduce,
    Movement,
    Embedding,
    Quantize,
}

impl Family {
    /// The case of its kernels that are needed, or of all; `None` if there are none.
    pub(crate) fn case(
        self,
        config: &Config,
        needed: Option<&std::collections::HashSet<PipelineKey>>,
    ) -> Result<Option<Case>, ProgramError> {
        let mut case = CaseBuilder::new(config, needed);
        match self {
            Self::Linear => linear::known_answer::known_answer(&mut case),
            Self::Matmul => matmul::known_answer(&mut case),
            Self::Elementwise => elementwise::known_answer(&mut case),
            Self::Unary => unary::known_answer(&mut case),
            Self::Reduce => reduce::known_answer(&mut case),
            Self::Movement => movement::known_answer(&mut case),
            Self::Embedding => embedding::known_answer(&mut case),
            Self::Quantize => quantize::known_answer(&mut case),
        }
        case.finish()
    }
}

/// Every shader with its entry points.
pub(crate) fn shaders() -> Vec<(&'static Shader, Vec<&'static str>)> {
    let mut shaders: Vec<(&'static Shader, Vec<&'static str>)> = Vec::new();
    let mut add = |shader: &'static Shader, entry: &'static str| match shaders.iter_mut().find(|(s, _)| *s == shader) {
        Some((_, entries)) if entries.contains(&entry) => {}
        Some((_, entries)) => entries.push(entry),
        None => shaders.push((shader, vec![entry])),
    };
    linear::entries().into_iter().for_each(|(shader, entry)| add(shader, entry));
    for subgroups in [false, true] {
        let options = KernelOptions { packed_dot: true, subgroups, checked: false };
        each_kernel(options, |pipeline, _| add(pipeline.shader, pipeline.entry));
    }
    shaders
}

/// Calls `f` with each pipeline of all families but the linear one, and whether it promises bits.
fn each_kernel(options: KernelOptions, mut f: impl FnMut(PipelineKey, bool)) {
    macro_rules! families {
        ($($kernel:ty),*) => {
            $(<$kernel>::iter().for_each(|kernel| f(kernel.pipeline(options), kernel.promises_bits()));)*
        };
    }
    families!(
        matmul::MatmulKernel,
        elementwise::ElementwiseKernel,
        unary::UnaryKernel,
        reduce::ReduceKernel,
        norm::NormKernel,
        movement::MovementKernel,
        embedding::EmbeddingKernel,
        quantize::QuantizeKernel
    );
}

//! Kernels by family: each file states parameters, bindings, entry points, how a step becomes dispatches, and known answers.

pub(crate) mod answer;
pub(crate) mod attention;
pub(crate) mod case;
pub(crate) mod config;
pub(crate) mod conv;
pub(crate) mod dispatch;
pub(crate) mod elementwise;
mod embedding;
mod function;
pub(crate) mod fused_step;
pub(crate) mod grid;
pub(crate) mod indirect;
pub(crate) mod kernel;
pub(crate) mod layout;
pub(crate) mod linear;
mod matmul;
pub(crate) mod movement;
pub(crate) mod norm;
pub(crate) mod pool;
mod quantize;
mod reduce;
pub(crate) mod strided;
mod unary;
mod wgsl;

use std::collections::{BTreeSet, HashSet};

use case::{Case, CaseBuilder};
use config::Config;
use dispatch::{Operand, PlannedDispatch, Planning, Work};
use fused_step::FusedStep;
use kernel::{Kernel, KernelOptions};
use strum::IntoEnumIterator;

use super::device::error::GpuError;
use super::device::pipeline::PipelineKey;
use super::device::shader::Shader;
use crate::program::{ProgramError, StepOp, ValueId};

/// The dispatches of a step; none of an int8 linear layer before its weight is packed.
///
/// # Errors
/// Returns [`GpuError::Limit`] if the operands walk through too many axes in different orders.
pub(crate) fn plan(planning: &Planning<'_>, fused: &FusedStep) -> Result<Vec<PlannedDispatch>, GpuError> {
    let mut dispatches = of_families(planning, fused)?;
    let steps = planning.program.steps();
    // Layers that share a dispatch are named where they are planned.
    if fused.shares() {
        return Ok(dispatches);
    }
    let others: BTreeSet<usize> = fused.steps().chain(fused.read_through()).collect();
    for dispatch in &mut dispatches {
        let names = others.iter().map(|&step| &steps[step].name).filter(|name| **name != dispatch.name);
        dispatch.fused.extend(names.cloned());
    }
    Ok(dispatches)
}

fn of_families(planning: &Planning<'_>, fused: &FusedStep) -> Result<Vec<PlannedDispatch>, GpuError> {
    let families = [
        attention::plan,
        matmul::plan,
        elementwise::plan,
        unary::plan,
        reduce::plan,
        norm::plan,
        movement::plan,
        movement::index_select::plan,
        conv::unfold::plan,
        pool::plan,
        embedding::plan,
        embedding::blocks::plan,
        quantize::plan,
    ];
    let op = &fused.step(planning.program).op;
    match op {
        StepOp::QLinear(linear) => return Ok(linear::plan::plan(planning, fused, linear)),
        StepOp::QConv(conv) => return Ok(conv::plan(planning, fused, conv)),
        _ => {}
    }
    let planned = families.into_iter().find_map(|plan| plan(planning, fused).transpose());
    planned.unwrap_or_else(|| unreachable!("no program has a step of {}", op.name()))
}

/// The pipelines whose known answers a step needs. `place` is the value in whose place a value lies.
///
/// # Errors
/// Returns the same errors as [`plan`].
pub(crate) fn needed(
    planning: &Planning<'_>,
    fused: &FusedStep,
    place: impl Fn(ValueId) -> ValueId,
) -> Result<Vec<PipelineKey>, GpuError> {
    let placed = |operand: Operand| match operand {
        Operand::Value(id) => Operand::Value(place(id)),
        other => other,
    };
    match &fused.step(planning.program).op {
        StepOp::QLinear(linear) => return Ok(linear::known_answer::needed(planning, fused, linear)),
        StepOp::QConv(conv) => return Ok(conv::needed(planning, fused, conv)),
        _ => {}
    }
    let mut pipelines = Vec::new();
    for dispatch in plan(planning, fused)? {
        let reads = dispatch.reads.iter().enumerate();
        let mut twice = reads.filter(|(at, read)| {
            dispatch.reads[..*at].iter().any(|other| placed(other.operand) == placed(read.operand))
        });
        pipelines.extend(twice.next().map(|_| movement::copies(planning.config)));
        if let Work::Single { pipeline, .. } = dispatch.work {
            pipelines.push(pipeline);
        }
    }
    Ok(pipelines)
}

/// A family of kernels that has known answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::EnumIter)]
pub(crate) enum Family {
    Linear,
    Conv,
    Pool,
    Matmul,
    Attention,
    Elementwise,
    Unary,
    Reduce,
    Norm,
    Movement,
    Embedding,
    Quantize,
}

impl Family {
    /// The case of its kernels that are needed, or of all; `None` if there are none.
    pub(crate) fn case(
        self,
        config: &Config,
        needed: Option<&HashSet<PipelineKey>>,
    ) -> Result<Option<Case>, ProgramError> {
        let mut case = CaseBuilder::new(config, needed);
        match self {
            Self::Linear => linear::known_answer::known_answer(&mut case),
            Self::Conv => conv::known_answer(&mut case),
            Self::Pool => pool::known_answer(&mut case),
            Self::Matmul => matmul::known_answer(&mut case),
            Self::Attention => attention::known_answer(&mut case),
            Self::Elementwise => elementwise::known_answer(&mut case),
            Self::Unary => unary::known_answer(&mut case),
            Self::Reduce => reduce::known_answer(&mut case),
            Self::Movement => {
                movement::known_answer(&mut case);
                movement::index_select::known_answer(&mut case);
            }
            Self::Embedding => {
                embedding::known_answer(&mut case);
                embedding::blocks::known_answer(&mut case);
            }
            Self::Norm => norm::known_answer(&mut case),
            Self::Quantize => quantize::known_answer(&mut case),
        }
        case.finish()
    }
}

/// Every shader with each of the functions that its kernels may choose, and its entry points. Weights of 4 and 2 bits are there once a
/// kernel.
pub(crate) fn shaders() -> Vec<(Shader, Vec<&'static str>)> {
    let mut shaders: Vec<(Shader, Vec<&'static str>)> = Vec::new();
    let mut add = |shader: Shader, entry: &'static str| match shaders.iter_mut().find(|(s, _)| *s == shader) {
        Some((_, entries)) if entries.contains(&entry) => {}
        Some((_, entries)) => entries.push(entry),
        None => shaders.push((shader, vec![entry])),
    };
    linear::entries().into_iter().for_each(|(shader, entry)| add(shader, entry));
    for subgroups in [false, true] {
        let options = KernelOptions { packed_dot: true, subgroups, wide_rows: true, checked: false };
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
        attention::AttentionKernel,
        elementwise::ElementwiseKernel,
        elementwise::chain::ChainKernel,
        unary::UnaryKernel,
        reduce::ReduceKernel,
        norm::NormKernel,
        norm::softmax::SoftmaxKernel,
        movement::MovementKernel,
        movement::index_select::IndexSelectKernel,
        conv::grouped::GroupedKernel,
        conv::unfold::UnfoldKernel,
        pool::PoolKernel,
        embedding::EmbeddingKernel,
        embedding::blocks::BlocksKernel,
        quantize::QuantizeKernel,
        indirect::IndirectKernel
    );
}

#[cfg(test)]
mod tests {
    use super::elementwise::ElementwiseKernel;
    use super::*;

    /// Kernels that other cases test: the changes of layout at inputs and outputs, and the ranges of rows before their qparams. No
    /// program has a lookup table whose operand has another layout.
    const PART_OF_OTHERS: [&str; 5] = ["pad_i8_i8", "unpad_i8_i8", "range_f32_f32", "group_range_f32_f32", "lut_i8_i8"];

    fn pipelines(case: &Case) -> HashSet<PipelineKey> {
        case.expected.iter().map(|expected| expected.key.clone()).collect()
    }

    #[test]
    fn every_kernel_that_promises_bits_has_a_case() {
        let config = Config::for_tests();
        // Other devices: with more workgroup memory, and those that are faster with lanes too.
        let limits = wgpu::Limits { max_compute_workgroup_storage_size: 32_768, ..config.limits.clone() };
        let more_memory = Config { limits, ..config.clone() };
        // Attention of many keys is for software adapters.
        let software = Config { wide_rows: false, ..more_memory.clone() };
        let lanes = Config { float_lanes: true, ..software.clone() };
        let case = |config: &Config, family: Family| family.case(config, None).expect("valid").expect("a case");
        let known = |config| Family::iter().flat_map(move |family| pipelines(&case(config, family)));
        let known: HashSet<PipelineKey> =
            [&config, &more_memory, &software, &lanes].into_iter().flat_map(known).collect();
        let mut found = 0;
        each_kernel(config.kernel_options(), |key, promises_bits| {
            let has_case = known.contains(&key);
            let expected = promises_bits && !PART_OF_OTHERS.contains(&key.entry);
            assert_eq!(has_case, expected, "{}", key.entry);
            found += usize::from(has_case);
        });
        assert!(found > 25, "{found}");
    }

    #[test]
    fn a_case_has_only_the_kernels_that_are_needed() {
        let config = Config::for_tests();
        let needed = HashSet::from([ElementwiseKernel::AddI8.pipeline(config.kernel_options())]);
        let of = |family: Family| family.case(&config, Some(&needed)).expect("valid");
        let case = of(Family::Elementwise).expect("a case");
        assert_eq!((case.program.steps().len(), case.inputs.len()), (1, 2));
        assert_eq!(pipelines(&case), needed);
        assert!(Family::iter().filter(|family| *family != Family::Elementwise).all(|family| of(family).is_none()));
    }
}

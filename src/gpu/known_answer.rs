//! Known-answer tests: some drivers sum packed products wrongly, and Vulkan permits other roundings.
//!
//! The families of kernels state the cases. A case runs once for each pipeline of a device; engines of the device share the results.

use std::collections::HashSet;
use std::sync::Arc;

use strum::IntoEnumIterator;

use super::device::Device;
use super::device::error::GpuError;
use super::device::pipeline::{Batch, PipelineKey};
use super::device::scope::Pending;
use super::kernels::Family;
use super::kernels::answer::{Agreement, compare};
use super::kernels::case::{Case, CaseBuilder, Expected};
use super::kernels::config::Config;
use super::kernels::conv;
use super::kernels::linear::LinearRows;
use super::kernels::linear::choice::{Choice, SplitK};
use super::kernels::linear::known_answer::{coopmat_answer, tile_answer, tile_pipeline};
use super::kernels::linear::tile::TileShape;
use super::model::{Model, Submitted};
use super::progress::{LoadProgress, Progress};
use super::schedule::plan;
use crate::program::{Program, ProgramError};
use crate::values::{Number, Tensor};

/// Tests all kernels of int8 linear layers in an engine's choice.
///
/// # Errors
/// Returns [`GpuError::KnownAnswer`] for the first wrong element.
pub(super) async fn check_choice(
    device: &Arc<Device>,
    config: &Config,
    progress: &mut Progress<impl FnMut(LoadProgress)>,
) -> Result<(), GpuError> {
    let candidates = &config.choice.candidates;
    progress.expect(candidates.len(), 0);
    let mut tests = Tests::new(device);
    let mut started = Ok(());
    for candidate in candidates {
        started = tests.start_tile(config, candidate.tile, candidate.split_below > 0, LinearRows::Matrix).await;
        if started.is_err() {
            break;
        }
        tests.counts(1);
    }
    let finished = tests.finish(progress).await;
    // After a failure, the others are not tested.
    progress.catch_up();
    started.and(finished)
}

/// Whether a shape that the engine's choice lacks computes correctly on this device, on such rows. A driver that cannot compile it counts
/// as wrong.
///
/// # Errors
/// Returns [`GpuError::DeviceLost`] if the device is lost.
pub(super) async fn is_right(
    device: &Arc<Device>,
    config: &Config,
    tile: TileShape,
    rows: LinearRows,
) -> Result<bool, GpuError> {
    let checked = async {
        let mut tests = Tests::new(device);
        tests.start_tile(config, tile, true, LinearRows::Matrix).await?;
        if rows == LinearRows::Patches {
            tests.start_tile(config, tile, true, rows).await?;
        }
        tests.finish(&mut Progress::silent()).await
    };
    match checked.await {
        Ok(()) => Ok(true),
        Err(GpuError::DeviceLost) => Err(GpuError::DeviceLost),
        Err(error) => {
            log::warn!("{tile:?} is not used: {error}");
            Ok(false)
        }
    }
}

/// Tests the kernels that a program needs and that have not been tested on this device.
///
/// # Errors
/// Returns [`GpuError::KnownAnswer`] for the first wrong element.
pub(super) async fn check_program(
    device: &Arc<Device>,
    config: &Arc<Config>,
    program: &Program,
    progress: &mut Progress<impl FnMut(LoadProgress)>,
) -> Result<(), GpuError> {
    let mut needed: HashSet<PipelineKey> = plan::needed(program, config)?.into_iter().collect();
    needed.retain(|key| !device.is_known(key));
    progress.expect(needed.len(), 0);
    let mut untested = needed.clone();
    let mut tests = Tests::new(device);
    for family in Family::iter() {
        if let Some(case) = family.case(config, Some(&needed)).map_err(|error| failed(&error))? {
            let before = untested.len();
            case.expected.iter().for_each(|expected| {
                untested.remove(&expected.key);
            });
            tests.start(config, case).await?;
            tests.counts(before - untested.len());
        }
    }
    if program.steps().iter().any(|step| conv::rows_of(&step.op) == LinearRows::Patches) {
        for candidate in &config.choice.candidates {
            tests.start_tile(config, candidate.tile, candidate.split_below > 0, LinearRows::Patches).await?;
        }
    }
    tests.finish(progress).await?;
    // A kernel that is part of others' cases has none.
    progress.catch_up();
    device.remember(needed);
    Ok(())
}

/// Known-answer tests that are all started before the first is waited for: the device compiles and computes the next meanwhile, and a
/// browser answers them together.
#[derive(Debug)]
struct Tests<'d> {
    device: &'d Arc<Device>,
    batch: Batch,
    running: Vec<Running>,
    /// The pipelines of tile shapes whose tests were started.
    tiles: HashSet<PipelineKey>,
}

/// A case that was submitted.
#[derive(Debug)]
struct Running {
    expected: Vec<Expected>,
    submitted: Submitted,
    /// What it has made.
    pending: Pending,
    /// The pipeline of a tile shape whose last case this is.
    tile: Option<PipelineKey>,
    /// The kernels that are tested when it is done, for the progress.
    kernels: usize,
}

impl<'d> Tests<'d> {
    fn new(device: &'d Arc<Device>) -> Self {
        Self { device, batch: Batch::new(&device.wgpu), running: Vec::new(), tiles: HashSet::new() }
    }

    async fn start(&mut self, config: &Arc<Config>, case: Case) -> Result<(), GpuError> {
        let Case { program, inputs, expected } = case;
        let pending = &mut self.batch.pending;
        let model = Model::load_in(pending, self.device, config, &program, &mut Progress::silent()).await?;
        let submitted = model.submit(&mut self.batch, &inputs).await?;
        let pending = self.batch.pending.take();
        self.running.push(Running { expected, submitted, pending, tile: None, kernels: 0 });
        Ok(())
    }

    async fn start_builder(&mut self, config: &Arc<Config>, case: CaseBuilder<'_>) -> Result<(), GpuError> {
        match case.finish().map_err(|error| failed(&error))? {
            Some(case) => self.start(config, case).await,
            None => Ok(()),
        }
    }

    /// Starts the tests of a tile shape that were not done yet, with such rows: of whole layers and, if `divided`, of layers whose K is
    /// divided.
    async fn start_tile(
        &mut self,
        config: &Config,
        tile: TileShape,
        divided: bool,
        rows: LinearRows,
    ) -> Result<(), GpuError> {
        for (config, is_divided) in alone(config, tile, divided) {
            let key = match rows {
                LinearRows::Matrix => tile_pipeline(&config, tile, is_divided),
                LinearRows::Patches => conv::tile_pipeline(&config, tile, is_divided),
            };
            if self.device.is_known(&key) || !self.tiles.insert(key.clone()) {
                continue;
            }
            let mut case = CaseBuilder::new(&config, None);
            match rows {
                LinearRows::Matrix => tile_answer(&mut case),
                LinearRows::Patches => conv::patches_answer(&mut case),
            }
            self.start_builder(&config, case).await?;
            if let Some(coopmat) = config.choice.coopmat.filter(|_| rows == LinearRows::Matrix && !is_divided) {
                let mut case = CaseBuilder::new(&config, None);
                coopmat_answer(&mut case, coopmat.chunk_vecs);
                self.start_builder(&config, case).await?;
            }
            if let Some(last) = self.running.last_mut() {
                last.tile = Some(key);
            }
        }
        Ok(())
    }

    /// Counts kernels for the progress, with the last case that was started.
    fn counts(&mut self, kernels: usize) {
        if let Some(last) = self.running.last_mut() {
            last.kernels += kernels;
        }
    }

    /// Waits for all tests, in their order.
    ///
    /// # Errors
    /// Returns the first error.
    async fn finish(self, progress: &mut Progress<impl FnMut(LoadProgress)>) -> Result<(), GpuError> {
        let Self { device, batch, running, .. } = self;
        let mut finished = Ok(());
        for Running { expected, submitted, mut pending, tile, kernels } in running {
            pending.done().await?;
            if finished.is_ok() {
                finished = submitted.outputs().await.and_then(|outputs| check(device, &outputs, &expected));
            }
            if finished.is_ok() {
                device.remember(tile);
                if kernels > 0 {
                    progress.add(kernels, 0);
                }
            }
        }
        // What was compiled is kept, right or wrong: other tests may use it.
        device.pipelines.keep(batch).await?;
        finished
    }
}

/// The configuration with one tile shape, for layers whose K is divided and for whole layers.
fn alone(config: &Config, tile: TileShape, divided: bool) -> impl Iterator<Item = (Arc<Config>, bool)> {
    let splits = [SplitK::Always, SplitK::Never].into_iter().skip(usize::from(!divided));
    splits.map(move |split_k| {
        let only = Choice::only(tile, config.choice.packed_dot, split_k, config.choice.coopmat);
        (Arc::new(config.with_choice(only)), split_k == SplitK::Always)
    })
}

fn failed(error: &ProgramError) -> GpuError {
    GpuError::Device { what: "known-answer test".to_owned(), message: error.to_string() }
}

/// Compares the outputs of a case. A kernel whose floats agree within rounding only is used, and named.
fn check(device: &Device, outputs: &[Tensor], expected: &[Expected]) -> Result<(), GpuError> {
    for (kernel, agreement) in agreements(outputs, expected)? {
        if let Agreement::Near(index, actual, expected) = agreement {
            log::warn!(
                "{kernel} gives {:e} where {:e} is right (element {index}): its bits are not the CPU's",
                Number(actual),
                Number(expected)
            );
            device.remember_inexact(kernel);
        }
    }
    Ok(())
}

/// Compares the outputs of a case, each with the name of its kernel.
fn agreements(outputs: &[Tensor], expected: &[Expected]) -> Result<Vec<(&'static str, Agreement)>, GpuError> {
    let pairs = outputs.iter().zip(expected);
    let compared = pairs.map(|(output, Expected { key, tensor, may_be_near })| {
        Ok((key.entry, compare(key.entry, output, tensor, *may_be_near)?))
    });
    compared.collect()
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use super::*;
    use crate::gpu::context::Context;
    use crate::gpu::engine::Engine;
    use crate::gpu::options::Options;

    /// An engine of its own, on the one device of this process; `None` if there is no adapter, and that is allowed.
    fn engine() -> Option<Engine> {
        static CONTEXT: OnceLock<Option<Context>> = OnceLock::new();
        let context = CONTEXT.get_or_init(|| {
            let name = std::env::var("ENFOLD_ADAPTER").ok();
            pollster::block_on(Context::request(name.as_deref())).expect("an adapter that gives a device")
        });
        let Some(Context { device, queue, .. }) = context else {
            assert!(std::env::var("ENFOLD_ALLOW_NO_GPU").is_ok_and(|v| v == "1"), "no adapter");
            return None;
        };
        Some(pollster::block_on(Engine::alone(device, queue, &Options::default())).expect("an engine"))
    }

    async fn check_case(device: &Arc<Device>, config: &Arc<Config>, case: &Case) -> Result<(), GpuError> {
        check(device, &outputs_of(device, config, case).await?, &case.expected)
    }

    async fn agreements_of(
        device: &Arc<Device>,
        config: &Arc<Config>,
        case: &Case,
    ) -> Result<Vec<(&'static str, Agreement)>, GpuError> {
        agreements(&outputs_of(device, config, case).await?, &case.expected)
    }

    async fn outputs_of(device: &Arc<Device>, config: &Arc<Config>, case: &Case) -> Result<Vec<Tensor>, GpuError> {
        Model::load(device, config, &case.program, &mut Progress::silent()).await?.run(&case.inputs).await
    }

    #[test]
    fn every_family_is_right_here_and_notices_a_kernel_that_does_nothing() {
        let Some(engine) = engine() else { return };
        let (device, config) = (&engine.device, &engine.config());
        let pipelines = &device.pipelines;
        let replace = |key: &PipelineKey, by| pollster::block_on(pipelines.replace(&device.wgpu, key, by));
        for family in Family::iter() {
            pipelines.clear();
            let case = family.case(config, None).expect("valid").expect("a case");
            let check = || pollster::block_on(check_case(device, config, &case));
            check().unwrap_or_else(|e| panic!("{family:?}: {e}"));
            // A layer has kernels for more rows than the case, of which none runs.
            let is_linear = |key: &PipelineKey| key.entry.starts_with("linear_");
            let (layers, others): (Vec<_>, Vec<_>) = pipelines.keys().into_iter().partition(is_linear);
            let sets = others.into_iter().map(|key| vec![key]).chain([layers]).filter(|set| !set.is_empty());
            for keys in sets {
                let kept: Vec<_> = keys.iter().map(|key| (key, replace(key, None))).collect();
                let error = check();
                assert!(matches!(error, Err(GpuError::KnownAnswer { .. })), "{family:?} without {keys:?}: {error:?}");
                kept.into_iter().for_each(|(key, pipeline)| drop(replace(key, pipeline)));
            }
            assert_eq!(check(), Ok(()), "{family:?}");
        }
        assert!(engine.inexact_kernels().is_empty(), "{:?}", engine.inexact_kernels());
    }

    /// Some software adapters share factors among lanes, and do not choose the kernels that GPUs do.
    #[test]
    fn kernels_without_lanes_are_right() {
        let Some(engine) = engine() else { return };
        let plain = Arc::new(Config { float_lanes: false, ..(*engine.config()).clone() });
        for family in [Family::Matmul, Family::Attention] {
            let case = family.case(&plain, None).expect("valid").expect("a case");
            assert!(case.expected.iter().all(|expected| !expected.key.entry.contains("lanes")));
            let agreements = pollster::block_on(agreements_of(&engine.device, &plain, &case)).expect("right");
            for (kernel, agreement) in agreements {
                assert_eq!(agreement, Agreement::Exact, "{kernel}");
            }
        }
    }

    /// Kernels for long rows have 256 threads on GPUs, which no software adapter has reason to choose.
    #[test]
    fn kernels_with_256_threads_a_row_are_right() {
        let Some(engine) = engine() else { return };
        let wide = Arc::new(Config { wide_rows: true, ..(*engine.config()).clone() });
        let mut compared = 0;
        for family in [Family::Norm, Family::Quantize, Family::Reduce] {
            let case = family.case(&wide, None).expect("valid").expect("a case");
            let threads = |key: &PipelineKey| key.overrides.contains(&("THREADS", 256));
            let agreements = pollster::block_on(agreements_of(&engine.device, &wide, &case)).expect("right");
            for ((kernel, agreement), expected) in agreements.iter().zip(&case.expected) {
                assert_eq!(*agreement, Agreement::Exact, "{kernel}");
                compared += usize::from(threads(&expected.key));
            }
        }
        assert!(compared > 5, "{compared}");
    }

    /// The rules of equation 11 that keep compilers from changing bits, and what a shader would say without them. A driver may keep to
    /// the rules by itself in some of them; the functions of WGSL have other bits on every driver.
    const WITHOUT_RULES: [(&str, &str, &str); 4] = [
        ("the barrier", "return bitcast<f32>(bitcast<u32>(x) ^ params.zero);", "return x;"),
        (
            "the exponential",
            "let j = mul_add_f(x, 1.44269504f, MAGIC);",
            "if params.zero == 0u { return exp(x); } let j = x;",
        ),
        (
            "the quotient",
            "let inverse = 1.0f / b_fraction;",
            "if params.zero == 0u { return a / b; } let inverse = 1.0f;",
        ),
        (
            "the order of sums",
            "sum_of_two(2u, 4u));\nlet odd = add_f(sum_of_two(1u, 4u),",
            "sum_of_two(1u, 4u));\nlet odd = add_f(sum_of_two(2u, 4u),",
        ),
    ];

    /// Known answers notice a kernel that breaks a rule of equation 11.
    #[test]
    fn kernels_that_break_a_rule_are_noticed() {
        let Some(engine) = engine() else { return };
        let (device, config) = (&engine.device, &engine.config());
        let pipelines = &device.pipelines;
        let mut noticed = Vec::new();
        for family in [Family::Unary, Family::Norm, Family::Reduce] {
            let case = family.case(config, None).expect("valid").expect("a case");
            for (rule, by_rule, without) in WITHOUT_RULES {
                pipelines.clear();
                let exact = || match pollster::block_on(agreements_of(device, config, &case)) {
                    Ok(all) => all.iter().all(|(_, agreement)| *agreement == Agreement::Exact),
                    Err(GpuError::KnownAnswer { .. }) => false,
                    Err(error) => panic!("{family:?} without {rule}: {error}"),
                };
                assert!(exact(), "{family:?}");
                let mut changed = 0;
                for key in pipelines.keys() {
                    let wgsl = key.shader.wgsl();
                    let other = wgsl.replacen(by_rule, without, 1);
                    if other == wgsl {
                        continue;
                    }
                    let pipeline = pollster::block_on(pipelines.of_wgsl(&device.wgpu, &key, &other));
                    drop(pollster::block_on(pipelines.replace(&device.wgpu, &key, Some(pipeline))));
                    changed += 1;
                }
                if changed > 0 && !exact() {
                    noticed.push((family, rule));
                }
            }
        }
        pipelines.clear();
        for expected in [
            (Family::Unary, "the exponential"),
            (Family::Norm, "the exponential"),
            (Family::Norm, "the order of sums"),
            (Family::Reduce, "the order of sums"),
        ] {
            assert!(noticed.contains(&expected), "{expected:?} is not in {noticed:?}");
        }
        // Which of these shows depends on the compiler; a software driver folds (x + c) − c without the barrier.
        assert!(noticed.iter().any(|(_, rule)| *rule == "the barrier"), "{noticed:?}");
    }

    /// The kernels of a program are tested when it is loaded, once for all engines of the device.
    #[test]
    fn a_program_is_refused_whose_kernels_are_wrong() {
        let Some(engine) = engine() else { return };
        let case = Family::Reduce.case(&engine.config(), None).expect("valid").expect("a case");
        let load = |engine: &Engine| pollster::block_on(engine.load(&case.program)).map(drop);
        let pipelines = &engine.device.pipelines;
        let key = &case.expected[0].key;
        let break_it = || pollster::block_on(pipelines.replace(&engine.device.wgpu, key, None));
        break_it();
        assert!(matches!(load(&engine), Err(GpuError::KnownAnswer { kernel, .. }) if kernel == key.entry));
        pipelines.clear();
        assert_eq!(load(&engine), Ok(()));
        break_it();
        assert_eq!(load(&engine), Ok(()), "once is enough");
        let other = pollster::block_on(engine.with_options(&Options { unfused: true, ..Options::default() }));
        assert_eq!(load(&other.expect("an engine")), Ok(()), "once for all engines");
    }

    /// An error names the pipeline that failed, whether wgpu tells at once or later; of several it is the first. Then nothing is kept.
    #[test]
    fn a_pipeline_that_fails_is_named_and_not_kept() {
        let Some(engine) = engine() else { return };
        let Device { wgpu, pipelines, .. } = &*engine.device;
        let case = Family::Reduce.case(&engine.config(), None).expect("valid").expect("a case");
        let key = case.expected[0].key.clone();
        let get = |batch: &mut Batch, key: &PipelineKey| pollster::block_on(pipelines.get(batch, key)).map(drop);
        let mut batch = Batch::new(wgpu);
        let error = get(&mut batch, &PipelineKey { entry: "no_such_entry", ..key.clone() }).expect_err("no entry");
        assert!(error.to_string().contains(key.shader.name), "{error}");
        assert!(error.to_string().contains("no_such_entry"), "{error}");

        let mut batch = Batch::new(wgpu);
        assert_eq!(get(&mut batch, &key), Ok(()));
        let failure = |what: &str| GpuError::Device { what: what.to_owned(), message: "later".to_owned() };
        batch.pending.fail_later(failure("first"));
        batch.pending.fail_later(GpuError::DeviceLost);
        assert_eq!(pollster::block_on(pipelines.keep(batch)), Err(failure("first")));
        assert!(!pipelines.keys().contains(&key));

        let mut batch = Batch::new(wgpu);
        assert_eq!(get(&mut batch, &key), Ok(()));
        assert_eq!(pollster::block_on(pipelines.keep(batch)), Ok(()));
        assert!(pipelines.keys().contains(&key));
    }

    /// A test whose objects fail later is an error, not a right answer; what it stands for is not known.
    #[test]
    fn a_test_that_fails_later_is_an_error() {
        let Some(engine) = engine() else { return };
        let config = engine.config();
        let tile = config.choice.candidates[0].tile;
        let mut tests = Tests::new(&engine.device);
        pollster::block_on(tests.start_tile(&config, tile, false, LinearRows::Matrix)).expect("started");
        let tested = tests.tiles.iter().next().cloned().expect("a tile");
        tests.running[0].pending.fail_later(GpuError::DeviceLost);
        let finished = pollster::block_on(tests.finish(&mut Progress::silent()));
        assert_eq!(finished, Err(GpuError::DeviceLost));
        assert!(!engine.device.is_known(&tested));
        assert_eq!(pollster::block_on(is_right(&engine.device, &config, tile, LinearRows::Matrix)), Ok(true));
        assert!(engine.device.is_known(&tested));
    }

    /// A second engine of a device finds what the first has compiled and tested.
    #[test]
    fn engines_of_a_device_share_it() {
        let Some(alone) = engine() else { return };
        let Device { wgpu, queue, .. } = &*alone.device;
        let new = || pollster::block_on(Engine::new(wgpu, queue, &Options::default())).expect("an engine");
        let case = Family::Reduce.case(&alone.config(), None).expect("valid").expect("a case");
        let (first, key) = (new(), &case.expected[0].key);
        assert!(!first.device.is_known(key));
        pollster::block_on(first.load(&case.program)).expect("loaded");
        let second = new();
        assert!(second.device.is_known(key) && Arc::ptr_eq(&first.device, &second.device));
        drop((first, second));
        assert!(!new().device.is_known(key), "what nobody uses goes");
    }

    /// The kernels of int8 layers are compiled when a program needs them. If some compute wrongly, others are chosen.
    #[test]
    fn int8_kernels_are_chosen_for_the_first_program_that_needs_them() {
        let Some(engine) = engine() else { return };
        let first = engine.config();
        let made = || engine.device.pipelines.keys().into_iter().filter(|key| key.entry.starts_with("linear_"));
        let case = |family: Family| family.case(&first, None).expect("valid").expect("a case").program;
        pollster::block_on(engine.load(&case(Family::Reduce))).expect("loaded");
        assert_eq!(made().count(), 0);
        let wrong = first.choice.candidates[0].tile;
        assert!(first.choice.candidates.len() > 1, "{}", first.choice);
        let key = tile_pipeline(
            &first.with_choice(Choice::only(wrong, first.choice.packed_dot, SplitK::Never, None)),
            wrong,
            false,
        );
        pollster::block_on(engine.device.pipelines.replace(&engine.device.wgpu, &key, None));
        pollster::block_on(engine.load(&case(Family::Linear))).expect("loaded with other kernels");
        assert!(made().count() > 0);
        let chosen = engine.config();
        assert!(chosen.choice.candidates.iter().all(|candidate| candidate.tile != wrong), "{}", chosen.choice);
    }
}

//! Measures which kernel suits which int8 linear layer or convolution.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::device::Device;
use super::device::error::GpuError;
use super::device::scope::Pending;
use super::device::transfer::{allocate, timed_passes};
use super::device::wait::Poll;
#[cfg(not(target_arch = "wasm32"))]
use super::device::wait::{Answer, answered};
use super::kernels::config::Config;
use super::kernels::conv;
use super::kernels::fused_step::FusedStep;
use super::kernels::layout::{dense_bytes, matrix_rows};
use super::kernels::linear::LinearRows;
use super::kernels::linear::choice::{Choice, SplitK};
use super::kernels::linear::layers;
use super::kernels::linear::tile::{LinearKernel, TileShape};
use super::kernels::linear::tuning::{LayerShape, TuningTable};
use super::known_answer;
use super::model::Model;
use super::options::TuneOptions;
use super::progress::{Progress, TuneProgress};
use super::run::Run;
use super::schedule::fuse;
use crate::program::{Epilogue, Program, QConv, QLinear, Step, StepOp, Value, ValueId, ValueType};
use crate::values::Shape;

/// The shapes that may be the fastest for `m` rows on a device.
fn shapes(config: &Config, m: u64) -> Vec<(TileShape, SplitK)> {
    let lanes = config.subgroup_lanes();
    let mut shapes = Vec::new();
    let few = [1, 2, 4, 8].into_iter().filter(|&rows| m <= 8 && u64::from(rows) < 2 * m);
    shapes.extend(few.flat_map(|rows| [1, 2, 4, 8, 16].map(|lanes| (LinearKernel::Gemv, rows, lanes))));
    if m <= 8 {
        shapes.push((LinearKernel::Row, 1, 1));
    }
    shapes.extend([16, 32, 64].into_iter().flat_map(|rows| [2, 4].map(|step| (LinearKernel::Workgroup, rows, step))));
    shapes.extend([8, 32, 64].map(|rows| (LinearKernel::Register, rows, 1)));
    shapes.extend(lanes.into_iter().flat_map(|lanes| [8, 16].map(|rows| (LinearKernel::Subgroup, rows, lanes))));
    if m > 32 {
        shapes.push((LinearKernel::Large, 128, 2));
        if let Some(coopmat) = config.choice.coopmat {
            let kernel = coopmat.fragment.kernel();
            let steps: &[u32] = if kernel == LinearKernel::CoopmatInt8 { &[2, 4] } else { &[2] };
            shapes.extend(steps.iter().flat_map(|&step| [64, 128].map(|rows| (kernel, rows, step))));
        }
    }
    let tile = |(kernel, rows, step)| TileShape::new(kernel, rows, step, &config.limits).ok();
    shapes.into_iter().filter_map(tile).flat_map(|tile| [(tile, SplitK::Never), (tile, SplitK::Always)]).collect()
}

/// The median of this many measurements counts.
const ROUNDS: usize = 5;

/// Shapes read copies of the weights of so many bytes in turn, so that weights come from memory, as in a network, and not from the cache
/// in which the shape before left them.
const LAST_LEVEL_CACHE: u64 = 128 << 20;

/// The time that tuning may take.
struct Budget {
    limit: Duration,
    #[cfg(not(target_arch = "wasm32"))]
    start: std::time::Instant,
    /// What the device measured: the library cannot read a browser's clock.
    #[cfg(target_arch = "wasm32")]
    measured: Duration,
}

impl Budget {
    fn new(limit: Duration) -> Self {
        Self {
            limit,
            #[cfg(not(target_arch = "wasm32"))]
            start: std::time::Instant::now(),
            #[cfg(target_arch = "wasm32")]
            measured: Duration::ZERO,
        }
    }

    #[cfg(not(target_arch = "wasm32"))]
    fn is_spent(&self) -> bool {
        self.start.elapsed() >= self.limit
    }

    #[cfg(target_arch = "wasm32")]
    fn is_spent(&self) -> bool {
        self.measured >= self.limit
    }

    #[cfg(not(target_arch = "wasm32"))]
    fn add(&mut self, _: &[f64]) {}

    #[cfg(target_arch = "wasm32")]
    fn add(&mut self, seconds: &[f64]) {
        self.measured += Duration::try_from_secs_f64(seconds.iter().sum()).unwrap_or(Duration::ZERO);
    }
}

/// A layer to measure: a program of it alone, the batch at which it has `m` matrix rows, and the rows that its kernels multiply.
struct Alone {
    program: Program,
    batch: usize,
    m: u64,
    rows: LinearRows,
}

/// Measures the int8 linear layers and convolutions of a program, those with the most products first.
pub(super) async fn tune(
    device: &Arc<Device>,
    config: &Arc<Config>,
    program: &Program,
    rows: usize,
    options: &TuneOptions,
    mut report: impl FnMut(TuneProgress),
) -> Result<TuningTable, GpuError> {
    if rows == 0 {
        return Err(GpuError::Rows { actual: 0, max: 0 });
    }
    device.check_lost()?;
    let mut budget = Budget::new(options.budget);
    let mut table = TuningTable::new(&device.wgpu.adapter_info());
    let shared = fuse::shared_layers(program, config);
    let siblings: BTreeSet<usize> = shared.iter().flat_map(|fused| fused.siblings).flatten().collect();
    let of_layer = |at: usize| shared.iter().find(|fused| fused.main == at).copied().unwrap_or(FusedStep::single(at));
    let mut all: Vec<(FusedStep, &QLinear, u64)> = Vec::new();
    for (at, step) in program.steps().iter().enumerate().filter(|(at, _)| !siblings.contains(at)) {
        let layer = match &step.op {
            StepOp::QLinear(layer) => layer,
            StepOp::QConv(QConv { layer, groups: 1, .. }) => layer,
            _ => continue,
        };
        all.push((of_layer(at), layer, matrix_rows(program.value(step.output), rows)));
    }
    all.sort_by_key(|(fused, layer, m)| {
        std::cmp::Reverse(m.saturating_mul((layer.n * fused.layers().count() * layer.k) as u64))
    });
    let mut now = TuneProgress { all_layers: all.len(), ..TuneProgress::default() };
    for (at, (fused, first, m)) in all.into_iter().enumerate() {
        now.layers = at;
        let step = fused.step(program);
        let name = &step.name;
        let (layer, alone) = match &step.op {
            StepOp::QConv(conv) => {
                let layer = conv::layer_shape(config, conv);
                if table.contains(layer, m) {
                    continue;
                }
                (layer, Alone { program: conv_alone(program, step)?, batch: rows, m, rows: layer.rows })
            }
            _ => {
                // Weights that share a product are joined for one measurement at a time.
                let linear = layers::merged(program, &fused).unwrap_or_else(|| first.clone());
                let (n, k, bits) = (linear.n, linear.k, config.weight_bits(&linear));
                let layer = LayerShape { n, k, bits, rows: LinearRows::Matrix };
                if table.contains(layer, m) {
                    continue;
                }
                let batch = usize::try_from(m).unwrap_or(usize::MAX);
                (layer, Alone { program: linear_alone(&linear)?, batch, m, rows: layer.rows })
            }
        };
        let mut of_shapes = |shapes, all_shapes| {
            (now.shapes, now.all_shapes) = (shapes, all_shapes);
            report(now);
        };
        let Some((tile, split_k)) = fastest(device, config, &alone, &mut budget, &mut of_shapes).await? else {
            continue;
        };
        let divided = split_k == SplitK::Always;
        log::info!("{name} at {m} rows: {tile:?}, K divided: {divided}");
        table.add(layer, m, tile, divided);
    }
    now.layers = now.all_layers;
    report(now);
    Ok(table)
}

/// The fastest shape for a layer; `None` if the budget is spent before all measurements are done. Shapes take turns, so that a clock that
/// changes favours none.
async fn fastest(
    device: &Arc<Device>,
    config: &Arc<Config>,
    alone: &Alone,
    budget: &mut Budget,
    report: &mut impl FnMut(usize, usize),
) -> Result<Option<(TileShape, SplitK)>, GpuError> {
    let Some(runs) = runs(device, config, alone, budget, report).await? else { return Ok(None) };
    let mut seconds = vec![Vec::with_capacity(ROUNDS); runs.len()];
    for round in 0..=ROUNDS {
        if budget.is_spent() {
            return Ok(None);
        }
        let of_round = measure(device, config.poll, &runs, alone.batch).await?;
        budget.add(&of_round);
        // The first round may compile.
        if round > 0 {
            seconds.iter_mut().zip(of_round).for_each(|(all, one)| all.push(one));
        }
    }
    let median = |mut all: Vec<f64>| {
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    let medians = seconds.into_iter().map(median);
    let best = medians.zip(&runs).min_by(|(a, _), (b, _)| a.total_cmp(b));
    Ok(best.map(|(_, (shape, _))| *shape))
}

/// How many copies of weights of so many bytes `shapes` shapes read in turn. One shape after the other runs, so that more copies than
/// shapes would not be read. A software adapter has one, as its caches are the host's.
fn copies(device: &Device, weight_bytes: u64, shapes: usize) -> usize {
    let is_software = device.wgpu.adapter_info().device_type == wgpu::DeviceType::Cpu;
    let wanted = if is_software { 1 } else { LAST_LEVEL_CACHE.div_ceil(weight_bytes.max(1)) };
    usize::try_from(wanted).unwrap_or(usize::MAX).clamp(1, shapes.max(1))
}

type ShapeRun = ((TileShape, SplitK), Run);

/// A run of a layer for each shape that computes correctly; `None` if the budget is spent before all are made.
async fn runs(
    device: &Arc<Device>,
    config: &Arc<Config>,
    alone: &Alone,
    budget: &Budget,
    report: &mut impl FnMut(usize, usize),
) -> Result<Option<Vec<ShapeRun>>, GpuError> {
    if budget.is_spent() {
        return Ok(None);
    }
    let &Alone { ref program, batch, m, rows } = alone;
    known_answer::check_program(device, config, program, &mut Progress::silent()).await?;
    let shapes = shapes(config, m);
    let mut models = vec![Model::load(device, config, program, &mut Progress::silent()).await?];
    for _ in 1..copies(device, models[0].size_bytes(), shapes.len()) {
        if budget.is_spent() {
            return Ok(None);
        }
        match Model::load(device, config, program, &mut Progress::silent()).await {
            Ok(model) => models.push(model),
            Err(GpuError::DeviceLost) => return Err(GpuError::DeviceLost),
            // A device without memory for another copy makes do with those it has.
            Err(_) => break,
        }
    }
    let bytes = |id: ValueId| dense_bytes(program.value(id), batch);
    let usage = wgpu::BufferUsages::STORAGE;
    let mut pending = Pending::new(&device.wgpu);
    let input = allocate(&mut pending, "x", bytes(program.inputs()[0]), usage)?;
    let output = allocate(&mut pending, "y", bytes(program.outputs()[0]), usage)?;
    pending.done().await?;
    let mut runs: Vec<ShapeRun> = Vec::new();
    let mut dispatches: Vec<usize> = Vec::new();
    let mut wrong: Vec<TileShape> = Vec::new();
    let all_shapes = shapes.len();
    for (at, (tile, split_k)) in shapes.into_iter().enumerate() {
        report(at, all_shapes);
        if budget.is_spent() {
            return Ok(None);
        }
        if split_k == SplitK::Never && !known_answer::is_right(device, config, tile, rows).await? {
            wrong.push(tile);
        }
        if wrong.contains(&tile) {
            continue;
        }
        let only = Choice::only(tile, config.choice.packed_dot, split_k, config.choice.coopmat);
        // Each shape keeps its copy: until it runs again, the others have read theirs.
        let model = &models[runs.len() % models.len()];
        let run = model.with_config(Arc::new(config.with_choice(only))).bind(&[&input], &[&output], batch).await?;
        // A layer that cannot be divided is the same either way.
        let same = split_k == SplitK::Always && dispatches.last() == Some(&run.dispatches());
        dispatches.push(run.dispatches());
        if !same {
            runs.push(((tile, split_k), run));
        }
    }
    Ok(Some(runs))
}

/// The seconds of each run, once, by the device's clock if it has one.
async fn measure(device: &Device, poll: Poll, runs: &[ShapeRun], rows: usize) -> Result<Vec<f64>, GpuError> {
    if device.wgpu.features().contains(wgpu::Features::TIMESTAMP_QUERY) {
        let record = |at: usize, pass: &mut wgpu::ComputePass<'_>| runs[at].1.record_in(pass, rows);
        let durations = timed_passes(&device.wgpu, &device.queue, poll, runs.len(), record).await?;
        return Ok(durations.iter().map(std::time::Duration::as_secs_f64).collect());
    }
    measure_on_host(device, poll, runs, rows).await
}

/// Measures without timestamp queries: one submission each. The application's polls would be what is measured.
#[cfg(not(target_arch = "wasm32"))]
async fn measure_on_host(device: &Device, poll: Poll, runs: &[ShapeRun], rows: usize) -> Result<Vec<f64>, GpuError> {
    if poll == Poll::Application {
        return Err(GpuError::Feature { what: "tuning", needed: wgpu::Features::TIMESTAMP_QUERY });
    }
    let mut seconds = Vec::with_capacity(runs.len());
    for (_, run) in runs {
        let mut encoder = device.wgpu.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        run.record(&mut encoder, rows)?;
        let (answer, receiver) = Answer::new();
        let start = std::time::Instant::now();
        let submission = device.queue.submit([encoder.finish()]);
        let done = answer.clone();
        device.queue.on_submitted_work_done(move || done.give(Ok(start.elapsed().as_secs_f64())));
        seconds.push(answered(&device.wgpu, poll, "tuning", Some(submission), (answer, receiver)).await?);
    }
    Ok(seconds)
}

/// The library cannot read a browser's clock.
#[cfg(target_arch = "wasm32")]
async fn measure_on_host(_: &Device, _: Poll, _: &[ShapeRun], _: usize) -> Result<Vec<f64>, GpuError> {
    Err(GpuError::Feature { what: "tuning", needed: wgpu::Features::TIMESTAMP_QUERY })
}

/// A program of one layer, to int8, or to float by its scales.
fn linear_alone(linear: &QLinear) -> Result<Program, GpuError> {
    let value = |name: &str, cols: usize, value_type: ValueType| Value {
        name: name.to_owned(),
        value_type,
        shape: Shape::rows(cols),
        // Qparams make no difference to the time.
        qparams: None,
    };
    let mut linear = linear.clone();
    // Dynamic qparams are another operand; sums and products are the same.
    if let Epilogue::Dynamic { scale, .. } = &linear.epilogue {
        linear.epilogue = Epilogue::Scale { scale: Arc::clone(scale), relu: false };
    }
    let out = if matches!(linear.epilogue, Epilogue::Requantize { .. }) { ValueType::I8 } else { ValueType::F32 };
    let values = vec![value("x", linear.k, ValueType::I8), value("y", linear.n, out)];
    let step = Step {
        name: "tuned".to_owned(),
        inputs: vec![ValueId::new(0)],
        output: ValueId::new(1),
        op: StepOp::QLinear(linear),
    };
    program_of(values, step)
}

/// A program of a convolution, on images of the same size.
fn conv_alone(program: &Program, step: &Step) -> Result<Program, GpuError> {
    let values = [step.inputs[0], step.output].map(|id| program.value(id).clone());
    let step = Step { inputs: vec![ValueId::new(0)], output: ValueId::new(1), ..step.clone() };
    program_of(values.into(), step)
}

/// A program of one step, from the first value to the second.
fn program_of(values: Vec<Value>, step: Step) -> Result<Program, GpuError> {
    Program::new(values, Vec::new(), vec![ValueId::new(0)], vec![ValueId::new(1)], vec![step])
        .map_err(|error| GpuError::Device { what: "tuning".to_owned(), message: error.to_string() })
}

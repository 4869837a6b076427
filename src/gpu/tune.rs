//! Measures which kernel suits which layer.

use std::sync::Arc;

use super::choice::{Candidate, Choice};
use super::engine::{Engine, SplitK};
use super::error::GpuError;
use super::known_answer;
use super::layout::WeightBits;
use super::run::Run;
use super::tile::{LinearKernel, TileShape};
use super::transfer::{allocate, is_lost_now, timed_passes};
use crate::program::{Epilogue, Program, QLinear, Step, StepOp, Value, ValueId, ValueType};
use crate::values::Shape;

/// The fastest kernels of layers on one adapter, as [`Engine::tune`] measured them.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct TuningTable {
    /// Name and driver of the adapter.
    adapter: String,
    entries: Vec<Entry>,
}

/// What suits a layer at up to so many matrix rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Entry {
    n: usize,
    k: usize,
    /// Of a weight's code: 2, 4 or 8.
    bits: u32,
    /// Measured at this number of matrix rows, and used up to it from the next smaller one.
    rows: u64,
    tile: TileShape,
    split_k: bool,
}

impl TuningTable {
    /// For a file.
    ///
    /// # Errors
    /// [`GpuError::TuningTable`] if it cannot be written as JSON.
    pub fn to_json(&self) -> Result<String, GpuError> {
        serde_json::to_string_pretty(self).map_err(|error| GpuError::TuningTable { message: error.to_string() })
    }

    /// From a file. A table of another adapter or driver may be given to an engine, which then ignores it.
    ///
    /// # Errors
    /// [`GpuError::TuningTable`] says where the text is not that of a table.
    pub fn from_json(text: &str) -> Result<Self, GpuError> {
        serde_json::from_str(text).map_err(|error| GpuError::TuningTable { message: error.to_string() })
    }

    /// Both tables' entries; where both know a layer at the same number of rows, `other` counts. Tables of different adapters
    /// do not merge: then `other` alone is returned.
    #[must_use]
    pub fn merged(mut self, other: Self) -> Self {
        if self.adapter != other.adapter {
            return other;
        }
        let key = |entry: &Entry| (entry.n, entry.k, entry.bits, entry.rows);
        self.entries.retain(|entry| other.entries.iter().all(|newer| key(newer) != key(entry)));
        self.entries.extend(other.entries);
        self.entries.sort_by_key(key);
        self
    }

    /// How many layers and numbers of rows it knows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it knows nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Its shapes, each once.
    pub(super) fn tiles(&self) -> Vec<TileShape> {
        let mut tiles: Vec<TileShape> = Vec::new();
        for entry in &self.entries {
            if !tiles.contains(&entry.tile) {
                tiles.push(entry.tile);
            }
        }
        tiles
    }

    /// Without the entries of these shapes.
    pub(super) fn without(mut self, tiles: &[TileShape]) -> Self {
        self.entries.retain(|entry| !tiles.contains(&entry.tile));
        self
    }

    /// This table, or an empty one if it is of another adapter.
    pub(super) fn for_adapter(self, info: &wgpu::AdapterInfo) -> Self {
        if self.adapter == adapter(info) {
            return self;
        }
        if !self.is_empty() {
            log::warn!("the tuning table of {} is not used on {}", self.adapter, adapter(info));
        }
        Self::default()
    }

    /// What it knows of a layer, by ascending rows, as far as the device can hold it.
    pub(super) fn candidates(
        &self,
        n: usize,
        k: usize,
        bits: WeightBits,
        limits: &wgpu::Limits,
        allowed: impl Fn(TileShape) -> bool,
    ) -> Vec<Candidate> {
        let mut entries: Vec<&Entry> =
            self.entries.iter().filter(|e| (e.n, e.k, e.bits) == (n, k, bits_of(bits))).collect();
        entries.sort_by_key(|entry| entry.rows);
        let candidate = |entry: &&Entry| {
            // The table is a file, and may have been changed.
            let tile = TileShape::new(entry.tile.kernel(), entry.tile.rows(), entry.tile.k_step(), limits).ok()?;
            allowed(tile).then_some(())?;
            let split_below = if entry.split_k { u64::MAX } else { 0 };
            Some(Candidate { tile, most_rows: entry.rows, least_groups: 0, split_below })
        };
        entries.iter().filter_map(candidate).collect()
    }
}

fn adapter(info: &wgpu::AdapterInfo) -> String {
    format!("{} [{:?}], {} {}", info.name, info.backend, info.driver, info.driver_info)
}

fn bits_of(bits: WeightBits) -> u32 {
    bits.vec_bytes() as u32 / 2
}

/// What may be the fastest for `m` rows on this device.
fn shapes(engine: &Engine, m: u64) -> Vec<(TileShape, SplitK)> {
    let limits = &engine.shared.limits;
    let sub = engine.shared.pipelines.subgroup_lanes();
    let mut shapes = Vec::new();
    let few = [1, 2, 4, 8].into_iter().filter(|&rows| m <= 8 && u64::from(rows) < 2 * m);
    shapes.extend(few.flat_map(|rows| [1, 2, 4].map(|lanes| (LinearKernel::Gemv, rows, lanes))));
    shapes.extend([16, 32, 64].into_iter().flat_map(|rows| [2, 4].map(|step| (LinearKernel::Workgroup, rows, step))));
    shapes.extend([8, 32, 64].map(|rows| (LinearKernel::Register, rows, 1)));
    shapes.extend(sub.into_iter().flat_map(|lanes| [8, 16].map(|rows| (LinearKernel::Subgroup, rows, lanes))));
    if m > 32 {
        shapes.push((LinearKernel::Large, 128, 2));
        if engine.uses_matrix_units() {
            shapes.extend([(LinearKernel::Coop, 64, 2), (LinearKernel::Coop, 128, 2)]);
        }
    }
    let shapes = shapes.into_iter().filter_map(|(kernel, rows, step)| TileShape::new(kernel, rows, step, limits).ok());
    shapes.flat_map(|tile| [(tile, SplitK::Never), (tile, SplitK::Always)]).collect()
}

/// The median of so many measurements counts.
const ROUNDS: usize = 5;

pub(super) async fn tune(engine: &Engine, program: &Program, rows: usize) -> Result<TuningTable, GpuError> {
    if rows == 0 {
        return Err(GpuError::Rows { actual: 0, max: 0 });
    }
    let shared = &engine.shared;
    shared.check_lost()?;
    let mut table = TuningTable { adapter: adapter(&shared.device.adapter_info()), entries: Vec::new() };
    for step in program.steps() {
        let StepOp::QLinear(linear) = &step.op else { continue };
        let m = super::plan::matrix_rows(program.value(step.output), rows);
        let bits = if engine.settings.unpacked_weights { WeightBits::Eight } else { WeightBits::of(&linear.weight) };
        let known = |e: &Entry| (e.n, e.k, e.bits, e.rows) == (linear.n, linear.k, bits_of(bits), m);
        if table.entries.iter().any(known) {
            continue;
        }
        let Some((tile, split_k)) = fastest(engine, linear, m).await? else { continue };
        let entry =
            Entry { n: linear.n, k: linear.k, bits: bits_of(bits), rows: m, tile, split_k: split_k == SplitK::Always };
        log::info!("{} at {m} rows: {:?}, K divided: {}", step.name, tile, entry.split_k);
        table.entries.push(entry);
    }
    Ok(table)
}

/// The fastest shape for a layer. Shapes take turns, so that a clock that changes favours none.
async fn fastest(engine: &Engine, linear: &QLinear, m: u64) -> Result<Option<(TileShape, SplitK)>, GpuError> {
    let shared = &engine.shared;
    let program = alone(linear)?;
    let model = engine.load(&program).await?;
    let m = usize::try_from(m).unwrap_or(usize::MAX);
    let bytes = |id: ValueId| super::plan::dense_bytes(program.value(id), m);
    let usage = wgpu::BufferUsages::STORAGE;
    let input = allocate(&shared.device, "x", bytes(program.inputs()[0]), usage).await?;
    let output = allocate(&shared.device, "y", bytes(program.outputs()[0]), usage).await?;
    let mut runs: Vec<((TileShape, SplitK), Run)> = Vec::new();
    let mut dispatches: Vec<usize> = Vec::new();
    let mut wrong: Vec<TileShape> = Vec::new();
    for (tile, split_k) in shapes(engine, m as u64) {
        // The fastest is of no use where it computes wrongly.
        if split_k == SplitK::Never && !known_answer::is_right(engine, tile).await? {
            wrong.push(tile);
        }
        if wrong.contains(&tile) {
            continue;
        }
        let only = engine.with(Choice::only(tile, engine.choice.packed_dot, split_k, engine.choice.coop));
        let run = model.with(only).bind(&[&input], &[&output], m).await?;
        // A layer that cannot be divided is the same either way.
        let same = split_k == SplitK::Always && dispatches.last() == Some(&run.dispatches());
        dispatches.push(run.dispatches());
        if !same {
            runs.push(((tile, split_k), run));
        }
    }
    let mut seconds = vec![Vec::with_capacity(ROUNDS); runs.len()];
    for round in 0..=ROUNDS {
        let of_round = measure(engine, &runs, m).await?;
        // The first may compile.
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

/// Seconds of each run, once, by the device's clock where it has one.
async fn measure(engine: &Engine, runs: &[((TileShape, SplitK), Run)], rows: usize) -> Result<Vec<f64>, GpuError> {
    let shared = &engine.shared;
    if shared.device.features().contains(wgpu::Features::TIMESTAMP_QUERY) {
        let record = |at: usize, pass: &mut wgpu::ComputePass<'_>| runs[at].1.record_in(pass, rows);
        let durations = timed_passes(&shared.device, &shared.queue, runs.len(), record).await?;
        return Ok(durations.iter().map(std::time::Duration::as_secs_f64).collect());
    }
    by_the_hosts_clock(engine, runs, rows)
}

/// Without timestamp queries: one submission each.
#[cfg(not(target_arch = "wasm32"))]
fn by_the_hosts_clock(engine: &Engine, runs: &[((TileShape, SplitK), Run)], rows: usize) -> Result<Vec<f64>, GpuError> {
    let wgpu_error = |error: wgpu::PollError| match is_lost_now(&engine.shared.device) {
        true => GpuError::DeviceLost,
        false => GpuError::Device { what: "tuning".to_owned(), message: error.to_string() },
    };
    let mut seconds = Vec::with_capacity(runs.len());
    for (_, run) in runs {
        let mut encoder = engine.shared.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        run.record(&mut encoder, rows)?;
        let start = std::time::Instant::now();
        engine.shared.queue.submit([encoder.finish()]);
        engine.shared.device.poll(wgpu::PollType::wait_indefinitely()).map_err(wgpu_error)?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    Ok(seconds)
}

/// A browser's clock is not the library's to read.
#[cfg(target_arch = "wasm32")]
fn by_the_hosts_clock(_: &Engine, _: &[((TileShape, SplitK), Run)], _: usize) -> Result<Vec<f64>, GpuError> {
    Err(GpuError::Feature { what: "tuning", needed: wgpu::Features::TIMESTAMP_QUERY })
}

/// A program of the layer alone, from codes to codes, or to floats by its scales.
fn alone(linear: &QLinear) -> Result<Program, GpuError> {
    let error = |message: String| GpuError::Device { what: "tuning".to_owned(), message };
    let value = |name: &str, cols: usize, value_type: ValueType| Value {
        name: name.to_owned(),
        value_type,
        shape: Shape::rows(cols),
        // What codes stand for makes no difference to the time.
        qparams: None,
    };
    let mut linear = linear.clone();
    // Dynamic scales are another operand; sums and products are the same.
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
    Program::new(values, Vec::new(), vec![ValueId::new(0)], vec![ValueId::new(1)], vec![step])
        .map_err(|e| error(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(rows: u64, tile_rows: u32) -> Entry {
        let limits = wgpu::Limits::default();
        let tile = TileShape::new(LinearKernel::Register, tile_rows, 1, &limits).expect("fits");
        Entry { n: 64, k: 32, bits: 8, rows, tile, split_k: rows == 1 }
    }

    #[test]
    fn tables_survive_a_file_and_merge() {
        let table = TuningTable { adapter: "a".to_owned(), entries: vec![entry(1, 8), entry(64, 32)] };
        let read = TuningTable::from_json(&table.to_json().expect("written")).expect("read");
        assert_eq!(read, table);
        let newer = TuningTable { adapter: "a".to_owned(), entries: vec![entry(64, 64)] };
        let merged = table.clone().merged(newer);
        assert_eq!(merged.entries, [entry(1, 8), entry(64, 64)]);
        let other = TuningTable { adapter: "b".to_owned(), entries: Vec::new() };
        assert_eq!(table.merged(other.clone()), other);
        let error = TuningTable::from_json("{\"adapter\": 3}").expect_err("no table");
        assert!(error.to_string().contains("tuning table: invalid type"), "{error}");
    }

    #[test]
    fn entries_serve_up_to_their_rows() {
        let table = TuningTable { adapter: "a".to_owned(), entries: vec![entry(64, 32), entry(1, 8)] };
        let limits = wgpu::Limits::default();
        let candidates = table.candidates(64, 32, WeightBits::Eight, &limits, |_| true);
        assert_eq!(candidates.iter().map(|c| c.most_rows).collect::<Vec<_>>(), [1, 64]);
        assert_eq!(candidates[0].split_below, u64::MAX);
        assert!(table.candidates(64, 33, WeightBits::Eight, &limits, |_| true).is_empty());
        assert!(table.candidates(64, 32, WeightBits::Four, &limits, |_| true).is_empty());
        let small = wgpu::Limits { max_compute_invocations_per_workgroup: 32, ..limits.clone() };
        assert_eq!(table.candidates(64, 32, WeightBits::Eight, &small, |_| true).len(), 1);
        assert!(
            table.candidates(64, 32, WeightBits::Eight, &limits, |tile| tile.kernel() == LinearKernel::Coop).is_empty()
        );
    }
}

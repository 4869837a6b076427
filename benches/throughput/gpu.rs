//! The series on the GPU.

use std::cell::OnceCell;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use enfold::gpu::context::Context;
use enfold::gpu::{Engine, GpuError, LinearKernel, Model, Options, Run, TileShape, TuneOptions};
use enfold::program::Program;
use pollster::block_on;
use wgpu::{Buffer, BufferUsages};

use crate::device::{buffer, calls, empty, encoder, read, staging, timed};
use crate::layer::Layer;
use crate::{Prepared, Runner, Series, baseline, cooperative_matrix, dynamic, time};

pub(crate) const SERIES: [&str; 13] = [
    "gpu naive",
    "gpu f32",
    "gpu resident",
    "gpu checked",
    "gpu tuned",
    "gpu dynamic",
    "gpu groups",
    "gpu groups asymmetric",
    "gpu 4 bit",
    "gpu 2 bit",
    "gpu matrix units",
    "gpu int8 matrices",
    "gpu round trip",
];

/// The series that use the engine's tile, or those of the command line.
pub(crate) const OF_TILES: [&str; 9] = [
    "gpu resident",
    "gpu checked",
    "gpu dynamic",
    "gpu groups",
    "gpu groups asymmetric",
    "gpu 4 bit",
    "gpu 2 bit",
    "gpu int8 matrices",
    "gpu round trip",
];

/// Runs on hardware GPUs rotate through copies of the weights of at least so many bytes, so that weights come from memory, as in a
/// network, and not from a cache.
const LAST_LEVEL_CACHE: usize = 128 << 20;

/// A tile shape: the kernel, its rows and its step along K.
pub(crate) type Tile = (LinearKernel, u32, u32);

/// An adapter, and the engines on it, which all shapes share.
pub(crate) struct Gpu<'c> {
    pub(crate) context: &'c Context,
    /// A tile shape to use instead of the engine's choice.
    pub(crate) tile: Option<Tile>,
    engine: OnceCell<Engine>,
    checked: OnceCell<Engine>,
}

/// The reason why a series is not measured at a shape.
pub(crate) struct LeftOut(pub(crate) String);

impl LeftOut {
    /// Returns a reason if a buffer of one of these sizes cannot be bound.
    pub(crate) fn too_large<const N: usize>(context: &Context, sizes: [usize; N]) -> Option<Self> {
        let limits = context.device.limits();
        let max = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size);
        let size = sizes.into_iter().max().unwrap_or(0) as u64;
        (size > max).then(|| Self(format!("a buffer of {size} bytes is beyond this device's {max}")))
    }

    /// Returns a reason if one run has so many operations that it would take long, or a driver would stop it.
    fn too_long(context: &Context, series: &str, operations: f64) -> Option<Self> {
        let plain = matches!(series, "gpu naive" | "gpu f32");
        let max = match context.info.device_type {
            wgpu::DeviceType::Cpu if series == "gpu tuned" => 3e8,
            wgpu::DeviceType::Cpu if series == "gpu f32" => 1.2e9,
            wgpu::DeviceType::Cpu if series == "gpu naive" => 2e9,
            wgpu::DeviceType::Cpu => 1e10,
            wgpu::DeviceType::IntegratedGpu if plain => 5e10,
            wgpu::DeviceType::IntegratedGpu => 5e11,
            _ => 5e12,
        };
        (operations > max).then(|| {
            let kind = context.info.device_type;
            Self(format!("{operations:.1e} operations are more than {max:.1e}, the most for this series on a {kind:?}"))
        })
    }
}

impl<'c> Gpu<'c> {
    pub(crate) fn new(context: &'c Context, tile: Option<Tile>) -> Self {
        Self { context, tile, engine: OnceCell::new(), checked: OnceCell::new() }
    }

    pub(crate) fn new_engine(&self, options: Options) -> Result<Engine> {
        let shape = |(kernel, rows, k_step)| TileShape::new(kernel, rows, k_step, &self.context.device.limits());
        let options = Options { tile: self.tile.map(shape).transpose()?, ..options };
        Ok(block_on(Engine::new(&self.context.device, &self.context.queue, &options))?)
    }

    /// Returns the engine with its own choice of tiles, unless the user gave one.
    pub(crate) fn engine(&self) -> Result<&Engine> {
        get(&self.engine, || self.new_engine(Options::default()))
    }

    /// Returns a reason if the device cannot have the tile that the user gave.
    fn without_tile(&self) -> Option<LeftOut> {
        let (kernel, rows, k_step) = self.tile?;
        let error = self.engine().err()?;
        let is_refused = matches!(error.downcast_ref(), Some(GpuError::Tile { .. } | GpuError::Feature { .. }));
        is_refused.then(|| LeftOut(format!("tile {},{rows},{k_step}: {error}", kernel.name())))
    }

    fn checked(&self) -> Result<&Engine> {
        get(&self.checked, || self.new_engine(Options { checked: true, ..Options::default() }))
    }

    pub(crate) fn prepare(&self, series: &str, layer: &Layer) -> Result<Prepared> {
        let shape @ [rows, k, n] = [layer.rows, layer.k, layer.n];
        // These series compute whole tiles, however few the rows are.
        let whole_tiles = matches!(series, "gpu f32" | "gpu tuned");
        let computed = if whole_tiles { rows.next_multiple_of(64) } else { rows };
        let operations = 2.0 * computed as f64 * k as f64 * n as f64;
        if let Some(left_out) = LeftOut::too_long(self.context, series, operations) {
            return Ok(left_out.into());
        }
        // Its engine has a device of its own, which can have other tiles.
        let uses_tile = OF_TILES.contains(&series) && series != "gpu int8 matrices";
        if let Some(left_out) = self.without_tile().filter(|_| uses_tile) {
            return Ok(left_out.into());
        }
        match series {
            "gpu naive" => baseline::naive(self.context, layer),
            "gpu f32" => baseline::float(self.context, layer),
            "gpu resident" => self.resident(series, self.engine()?, layer, 8),
            "gpu checked" => self.resident(series, self.checked()?, layer, 8),
            "gpu tuned" => self.tuned(series, layer),
            "gpu dynamic" | "gpu groups" | "gpu groups asymmetric" => dynamic::prepare(self, series, shape),
            "gpu 4 bit" => self.resident(series, self.engine()?, &Layer::of_bits(shape, 4)?, 4),
            "gpu 2 bit" => self.resident(series, self.engine()?, &Layer::of_bits(shape, 2)?, 2),
            "gpu matrix units" => cooperative_matrix::prepare(self, layer),
            "gpu int8 matrices" => cooperative_matrix::prepare_int8(self, layer),
            "gpu round trip" => self.round_trip(series, layer),
            other => bail!("no series {other}"),
        }
    }

    pub(crate) fn resident(&self, series: &str, engine: &Engine, layer: &Layer, bits: usize) -> Result<Prepared> {
        let Layer { rows, k, n, .. } = *layer;
        let model = block_on(engine.load(&layer.program))?;
        // A layer whose weights are not packed would be measured under a wrong name. Each column has three constants of 4 bytes.
        let (packed, least) = (model.size_bytes(), n * k * bits / 8);
        let most = n.next_multiple_of(64) * (k.next_multiple_of(16) * bits / 8 + 64) + 4096;
        ensure!(
            (least..=most).contains(&usize::try_from(packed)?),
            "{series}: {packed} bytes, expected {least} to {most}"
        );
        let got = block_on(model.run(&[&layer.x]))?;
        let compared = layer.check(series, got[0].as_i8().context("an int8 output")?)?;
        let x = padded_input(layer)?;
        let run = self.runner(engine, &layer.program, &x, [rows, rows * n], n * k * bits / 8)?;
        let tile = engine.tile(rows, n);
        let kernel = format!("{} {} x {}, step {}", tile.kernel().name(), tile.rows(), tile.cols(), tile.k_step());
        let bytes = n * k * bits / 8 + rows * k + rows * n;
        Ok(Series { run, bytes, compared, kernel: Some(kernel) }.into())
    }

    /// Prepares a program with one model for each copy of the weights, which the calls use in turn.
    pub(crate) fn runner(
        &self,
        engine: &Engine,
        program: &Program,
        x: &[u8],
        [rows, y_bytes]: [usize; 2],
        weight_bytes: usize,
    ) -> Result<Runner> {
        let context = self.context.clone();
        let mut runs: Vec<(Model, Run)> = Vec::new();
        for _ in 0..copies(&context, weight_bytes) {
            let model = block_on(engine.load(program))?;
            let (input, output) = buffers(&context, x, y_bytes);
            let run = block_on(model.bind(&[&input], &[&output], rows))?;
            runs.push((model, run));
        }
        let run = move |calls: usize| {
            timed(&context, calls, |pass| {
                (0..calls).try_for_each(|i| Ok(runs[i % runs.len()].1.record_in(pass, rows)?))
            })
        };
        let calls = calls(|| run(1))?;
        Ok(Box::new(move || run(calls)))
    }

    fn tuned(&self, series: &str, layer: &Layer) -> Result<Prepared> {
        let table = block_on(self.engine()?.tune(&layer.program, layer.rows, &TuneOptions { budget: Duration::MAX }))?;
        let found: serde_json::Value = serde_json::from_str(&table.to_json()?)?;
        let entry = &found["entries"][0];
        let word = |value: &serde_json::Value| value.to_string().replace('"', "");
        let kernel = format!(
            "{} {} rows, step {}{}",
            word(&entry["tile"]["kernel"]),
            word(&entry["tile"]["rows"]),
            word(&entry["tile"]["k_step"]),
            if entry["split_k"] == true { ", K divided" } else { "" }
        );
        let pipeline_cache = self.engine()?.pipeline_cache_data();
        let engine = self.new_engine(Options { tuning: Some(table), pipeline_cache, ..Options::default() })?;
        let prepared = self.resident(series, &engine, layer, 8)?;
        Ok(match prepared {
            Prepared::Series(series) => Prepared::Series(Series { kernel: Some(kernel), ..series }),
            left_out => left_out,
        })
    }

    /// Prepares upload, run and readback, with buffers that are reused.
    fn round_trip(&self, series: &str, layer: &Layer) -> Result<Prepared> {
        let Layer { rows, k, n, .. } = *layer;
        let model = block_on(self.engine()?.load(&layer.program))?;
        let x = padded_input(layer)?;
        let (input, output) = buffers(self.context, &x, rows * n);
        let run = block_on(model.bind(&[&input], &[&output], rows))?;
        let context = self.context.clone();
        let staging = staging(&context, output.size());
        let trip = move || -> Result<Vec<u8>> {
            context.queue.write_buffer(&input, 0, &x);
            let mut encoder = encoder(&context);
            run.record(&mut encoder, rows)?;
            encoder.copy_buffer_to_buffer(&output, 0, &staging, 0, output.size());
            read(&context, encoder, &staging)
        };
        let bytes = trip().context("gpu round trip")?;
        let outputs: Vec<i8> = bytes[..rows * n].iter().map(|&byte| byte as i8).collect();
        let compared = layer.check(series, &outputs)?;
        let run = Box::new(move || time(|| trip().map(drop)));
        Ok(Series { run, bytes: n * k + rows * k + rows * n, compared, kernel: None }.into())
    }
}

fn get(cell: &OnceCell<Engine>, make: impl FnOnce() -> Result<Engine>) -> Result<&Engine> {
    if let Some(engine) = cell.get() {
        return Ok(engine);
    }
    let engine = make()?;
    Ok(cell.get_or_init(|| engine))
}

/// Returns how many copies of weights of so many bytes a series rotates through.
pub(crate) fn copies(context: &Context, weight_bytes: usize) -> usize {
    if context.is_software() { 1 } else { LAST_LEVEL_CACHE.div_ceil(weight_bytes).clamp(1, 128) }
}

fn buffers(context: &Context, x: &[u8], y_bytes: usize) -> (Buffer, Buffer) {
    let input = buffer(context, x, BufferUsages::STORAGE | BufferUsages::COPY_DST);
    (input, empty(context, "y", y_bytes as u64, BufferUsages::STORAGE | BufferUsages::COPY_SRC))
}

/// Returns the bytes of the input, padded to a multiple of 4.
fn padded_input(layer: &Layer) -> Result<Vec<u8>> {
    let mut bytes = bytemuck::cast_slice(layer.x.as_i8().context("int8 values")?).to_vec();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    Ok(bytes)
}

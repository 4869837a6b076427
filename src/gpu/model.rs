//! A program on a device: its weights, uploaded once.

mod host;
mod weights;

use std::borrow::Borrow;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError, Weak};

pub(super) use self::host::Submitted;
use self::weights::{Packed, storage, upload_grouped, upload_weight};
pub(super) use self::weights::{PartBuffers, StepData};
use super::bind;
use super::bound::Bound;
use super::device::Device;
use super::device::error::GpuError;
use super::device::pipeline::Batch;
use super::device::scope::Pending;
use super::device::wait::pause;
use super::kernels::config::Config;
use super::kernels::conv;
use super::kernels::fused_step::FusedStep;
use super::kernels::layout::pad_rows;
use super::kernels::linear::layers;
use super::kernels::pool;
use super::memory::BufferRange;
use super::progress::{LoadProgress, Progress};
use super::run::Run;
use super::schedule::{fuse, plan};
use crate::ops::Op;
use crate::program::{Program, QConv, QLut, StepOp};
use crate::values::Tensor;

/// A program whose weights are on the device. Several [`Run`]s may share it.
#[derive(Debug)]
pub struct Model {
    pub(super) device: Arc<Device>,
    pub(super) config: Arc<Config>,
    pub(super) program: Program,
    /// For each step, the buffers that it reads besides values.
    pub(super) steps: Vec<StepData>,
    /// The program's constants.
    pub(super) constants: Vec<wgpu::Buffer>,
    /// Its runs.
    pub(super) bound: Mutex<Vec<Weak<Bound>>>,
}

impl Model {
    /// Uploads the weights of a program, and waits until it is known that nothing failed.
    pub(super) async fn load(
        device: &Arc<Device>,
        config: &Arc<Config>,
        program: &Program,
        progress: &mut Progress<impl FnMut(LoadProgress)>,
    ) -> Result<Self, GpuError> {
        let mut pending = Pending::new(&device.wgpu);
        let model = Self::load_in(&mut pending, device, config, program, progress).await?;
        pending.done().await?;
        Ok(model)
    }

    pub(super) async fn load_in(
        pending: &mut Pending,
        device: &Arc<Device>,
        config: &Arc<Config>,
        program: &Program,
        progress: &mut Progress<impl FnMut(LoadProgress)>,
    ) -> Result<Self, GpuError> {
        device.check_lost()?;
        // Steps that no number of rows makes possible are refused here.
        plan::needed(program, config)?;
        let mut steps = Vec::with_capacity(program.steps().len());
        let mut packed = Packed::new();
        let shared = fuse::shared_layers(program, config);
        let siblings: BTreeSet<usize> = shared.iter().flat_map(|fused| fused.siblings).flatten().collect();
        for (at, step) in program.steps().iter().enumerate() {
            steps.push(match &step.op {
                // The weight is part of another.
                StepOp::QLinear(_) if siblings.contains(&at) => StepData::Nothing,
                StepOp::QLinear(linear) => {
                    let fused = shared.iter().find(|fused| fused.main == at).copied().unwrap_or(FusedStep::single(at));
                    let sources = layers::sources(program, &fused);
                    let merged = layers::merged(program, &fused);
                    let linear = merged.as_ref().unwrap_or(linear);
                    StepData::Linear(upload_weight(
                        device,
                        pending,
                        config,
                        &step.name,
                        (linear, sources),
                        &mut packed,
                    )?)
                }
                StepOp::QConv(conv) if conv.groups > 1 => {
                    StepData::Linear(upload_grouped(device, pending, &step.name, conv)?)
                }
                StepOp::QConv(conv) => {
                    let (layer, sources) = (conv::layer_with_weight(conv), vec![conv.layer.weight.as_ptr() as usize]);
                    StepData::Linear(upload_weight(
                        device,
                        pending,
                        config,
                        &step.name,
                        (&layer, sources),
                        &mut packed,
                    )?)
                }
                StepOp::Op(Op::IndexSelect(select)) => {
                    let name = format!("{}.indices", step.name);
                    StepData::Buffer(storage(device, pending, &name, bytemuck::cast_slice(&select.indices))?)
                }
                StepOp::Op(op) if let Some(spans) = pool::spans(op, program.value(step.inputs[0])) => {
                    let name = format!("{}.spans", step.name);
                    StepData::Buffer(storage(device, pending, &name, bytemuck::cast_slice(&spans))?)
                }
                StepOp::QLut(QLut { table }) => {
                    let name = format!("{}.lut", step.name);
                    StepData::Buffer(storage(device, pending, &name, bytemuck::cast_slice(table))?)
                }
                StepOp::QMatMul(matmul) => {
                    let name = format!("{}.factors", step.name);
                    // Kernels read whole vectors of four.
                    let mut factors = matmul.epilogue.factors().to_vec();
                    factors.resize(factors.len().next_multiple_of(4), 0.0);
                    StepData::Buffer(storage(device, pending, &name, bytemuck::cast_slice(&factors))?)
                }
                _ => StepData::Nothing,
            });
            progress.add(0, step_bytes(&step.op));
            pause().await;
        }
        let mut constants = Vec::with_capacity(program.constants().len());
        for (id, tensor) in program.constants() {
            let value = program.value(*id);
            let bytes: Vec<u8> = match &**tensor {
                Tensor::I8(a) => bytemuck::cast_slice(&pad_rows(a.elements(), value.cols())).to_vec(),
                Tensor::F32(a) => bytemuck::cast_slice(a.elements()).to_vec(),
                Tensor::I32(a) => bytemuck::cast_slice(a.elements()).to_vec(),
                Tensor::I64(_) => unreachable!("no value of a program is of i64"),
            };
            constants.push(storage(device, pending, &value.name, &bytes)?);
            progress.add(0, tensor.bytes().len() as u64);
        }
        let (device, config) = (Arc::clone(device), Arc::clone(config));
        Ok(Self { device, config, program: program.clone(), steps, constants, bound: Mutex::default() })
    }

    /// The same weights, executed by another configuration of the device.
    pub(super) fn with_config(&self, config: Arc<Config>) -> Self {
        debug_assert_eq!(config.unfused, self.config.unfused, "layers share dispatches as their weights were packed");
        let (program, steps, constants) = (self.program.clone(), self.steps.clone(), self.constants.clone());
        Self { device: Arc::clone(&self.device), config, program, steps, constants, bound: Mutex::default() }
    }

    /// Returns the program that it executes.
    #[must_use]
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// All buffers, of constants and of steps.
    pub(super) fn buffers(&self) -> Vec<&wgpu::Buffer> {
        let mut all: Vec<&wgpu::Buffer> = self.constants.iter().collect();
        for step in &self.steps {
            match step {
                StepData::Nothing => {}
                StepData::Buffer(buffer) => all.extend([buffer]),
                StepData::Linear(data) => {
                    all.extend(data.buffers.iter().flat_map(|part| [&part.weight, &part.channels]))
                }
            }
        }
        all
    }

    /// Remembers a run, as long as it lives.
    pub(super) fn remember(&self, run: &Arc<Bound>) {
        let mut bound = self.bound.lock().unwrap_or_else(PoisonError::into_inner);
        bound.retain(|bound| bound.strong_count() > 0);
        bound.push(Arc::downgrade(run));
    }

    /// Returns the bytes of weights, biases, multipliers and other constants on the device, padding included.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        let mut all = self.buffers();
        // Layers may share weights.
        all.sort_unstable();
        all.dedup();
        all.into_iter().map(wgpu::Buffer::size).sum()
    }

    /// Makes everything that recording needs, for up to `max_rows` rows: scratch buffers, parameters, pipelines and bind groups. Submits
    /// nothing.
    ///
    /// The buffers or buffer ranges are in the order of [`Program::inputs`] and [`Program::outputs`], dense and with the usage
    /// `STORAGE`. The range of an output overlaps no other range that is bound here.
    ///
    /// ```no_run
    /// # use enfold::gpu::{GpuError, Model, Run, wgpu};
    /// # async fn bound(model: &Model, device: &wgpu::Device) -> Result<Run, GpuError> {
    /// let rows = 64;
    /// let buffer = |id| {
    ///     let value = model.program().value(id);
    ///     let elements = value.len(rows).expect("a size that fits memory");
    ///     let size = (elements * value.value_type.size_bytes()).next_multiple_of(4) as u64;
    ///     let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
    ///     device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
    /// };
    /// let (input, output) = (buffer(model.program().inputs()[0]), buffer(model.program().outputs()[0]));
    /// model.bind(&[&input], &[&output], rows).await
    /// # }
    /// ```
    ///
    /// # Errors
    /// Returns [`GpuError::Count`], [`GpuError::BufferSize`], [`GpuError::BufferOffset`], [`GpuError::BufferUsage`] and
    /// [`GpuError::SameBuffer`] for buffers that do not fit, [`GpuError::Rows`] for a `max_rows` of 0, [`GpuError::Limit`] for sizes
    /// that the device does not allow, [`GpuError::Device`] if it has no memory left.
    pub async fn bind<'b, I, O>(&self, inputs: &[I], outputs: &[O], max_rows: usize) -> Result<Run, GpuError>
    where
        I: Into<BufferRange<'b>> + Copy,
        O: Into<BufferRange<'b>> + Copy,
    {
        let inputs: Vec<BufferRange<'b>> = inputs.iter().map(|&input| input.into()).collect();
        let outputs: Vec<BufferRange<'b>> = outputs.iter().map(|&output| output.into()).collect();
        bind::bind(self, &inputs, &outputs, max_rows, false).await
    }

    /// Does what [`Model::bind`] does, for a run that also takes its number of rows from a buffer: [`Run::record_indirect`] has an
    /// example. The first call on a device compiles and tests one kernel more, and waits for it.
    ///
    /// # Errors
    /// Returns the errors of [`Model::bind`], [`GpuError::Limit`] with the name of a step whose grid has more than 2³² threads for the most
    /// rows, and [`GpuError::KnownAnswer`] if that kernel computes wrongly.
    pub async fn bind_indirect<'b, I, O>(&self, inputs: &[I], outputs: &[O], max_rows: usize) -> Result<Run, GpuError>
    where
        I: Into<BufferRange<'b>> + Copy,
        O: Into<BufferRange<'b>> + Copy,
    {
        let inputs: Vec<BufferRange<'b>> = inputs.iter().map(|&input| input.into()).collect();
        let outputs: Vec<BufferRange<'b>> = outputs.iter().map(|&output| output.into()).collect();
        bind::bind(self, &inputs, &outputs, max_rows, true).await
    }

    /// Uploads inputs `[rows, dims…]`, runs the program, and downloads the outputs: a convenience for tests and first steps. Submits
    /// work and waits for it.
    ///
    /// ```no_run
    /// # async fn first(model: &enfold::gpu::Model) -> Result<(), enfold::Error> {
    /// let x = enfold::Tensor::from_f32(&[1, 2], vec![1.0, 0.2])?;
    /// let outputs = model.run(&[x]).await?;
    /// println!("{:?}", outputs[0].as_f32());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`GpuError`] names the input that does not fit.
    pub async fn run<T: Borrow<Tensor>>(&self, inputs: &[T]) -> Result<Vec<Tensor>, GpuError> {
        let mut batch = Batch::new(&self.device.wgpu);
        let submitted = self.submit(&mut batch, inputs).await?;
        self.device.pipelines.keep(batch).await?;
        submitted.outputs().await
    }

    /// Uploads inputs, and submits a run of the program with copies of its outputs to the host. What it makes is part of a batch.
    pub(super) async fn submit<T: Borrow<Tensor>>(
        &self,
        batch: &mut Batch,
        inputs: &[T],
    ) -> Result<Submitted, GpuError> {
        let device = &self.device;
        device.check_lost()?;
        let rows = host::rows_of(&self.program, inputs)?;
        let inputs = host::upload_inputs(&mut batch.pending, &self.program, inputs)?;
        let results = host::results(&mut batch.pending, &self.program, rows)?;
        let ranges: Vec<BufferRange<'_>> = inputs.iter().map(BufferRange::from).collect();
        let outputs: Vec<BufferRange<'_>> = results.iter().map(|(_, buffer)| BufferRange::from(buffer)).collect();
        let run = bind::bind_in(batch, self, &ranges, &outputs, rows, false).await?;
        let descriptor = wgpu::CommandEncoderDescriptor { label: Some("enfold") };
        let mut encoder = device.wgpu.create_command_encoder(&descriptor);
        run.record(&mut encoder, rows)?;
        Submitted::submit(&mut batch.pending, device, self.config.poll, encoder, results, rows)
    }
}

/// Bytes of weights and constants in a program.
pub(super) fn host_bytes(program: &Program) -> u64 {
    let constants = program.constants().iter().map(|(_, tensor)| tensor.bytes().len() as u64);
    program.steps().iter().map(|step| step_bytes(&step.op)).chain(constants).sum()
}

fn step_bytes(op: &StepOp) -> u64 {
    match op {
        StepOp::QLinear(layer) | StepOp::QConv(QConv { layer, .. }) => layer.weight.len() as u64,
        _ => 0,
    }
}

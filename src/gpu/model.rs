//! A program on a device: its weights, uploaded once.

use std::borrow::Borrow;

use wgpu::BufferUsages;

use super::engine::Engine;
use super::error::GpuError;
use super::layout::{pack_channels, pack_weight, pad_rows};
use super::plan::{Plan, dense_bytes};
use super::run::{self, Run};
use super::transfer::{allocate, download, upload};
use crate::program::{Epilogue, Program, Step, StepOp, Value, ValueType};
use crate::tensor::Tensor;

/// A program whose weights are on the device. Several [`Run`]s may share it.
#[derive(Debug)]
pub struct Model {
    pub(super) engine: Engine,
    pub(super) program: Program,
    /// For each step, what it reads beside values: weight and channels of a layer, a table, factors.
    pub(super) buffers: Vec<Vec<wgpu::Buffer>>,
    /// The program's constants.
    pub(super) constants: Vec<wgpu::Buffer>,
}

impl Model {
    pub(super) async fn load(engine: &Engine, program: &Program) -> Result<Self, GpuError> {
        engine.shared.check_lost()?;
        // What no number of rows can make possible is refused here already.
        Plan::new(program, 1)?;
        let mut buffers = Vec::with_capacity(program.steps().len());
        for step in program.steps() {
            let mut of_step = Vec::new();
            for (suffix, bytes) in step_bytes(step) {
                of_step.push(storage(engine, &format!("{}.{suffix}", step.name), &bytes).await?);
            }
            buffers.push(of_step);
        }
        let mut constants = Vec::with_capacity(program.constants().len());
        for (id, tensor) in program.constants() {
            let value = program.value(*id);
            let bytes: Vec<u8> = match &**tensor {
                Tensor::I8(a) => {
                    bytemuck::cast_slice(&pad_rows(a.as_slice().unwrap_or_default(), value.cols())).to_vec()
                }
                Tensor::F32(a) => bytemuck::cast_slice(a.as_slice().unwrap_or_default()).to_vec(),
                Tensor::I32(a) => bytemuck::cast_slice(a.as_slice().unwrap_or_default()).to_vec(),
                Tensor::I64(_) => Vec::new(),
            };
            constants.push(storage(engine, &value.name, &bytes).await?);
        }
        Ok(Self { engine: engine.clone(), program: program.clone(), buffers, constants })
    }

    /// What it executes.
    #[must_use]
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Bytes that weights, biases, multipliers and other constants take on the device, padding included.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.buffers.iter().flatten().chain(&self.constants).map(wgpu::Buffer::size).sum()
    }

    /// Makes everything that recording needs: scratch buffers, constants and bind groups, for up to `max_rows` rows.
    ///
    /// The buffers are in the order of [`Program::inputs`] and [`Program::outputs`], dense and with the usage `STORAGE`; an
    /// output's buffer serves nothing else.
    ///
    /// # Errors
    /// [`GpuError::Count`], [`GpuError::BufferSize`], [`GpuError::BufferUsage`] and [`GpuError::SameBuffer`] for buffers that
    /// do not fit, [`GpuError::Rows`] for a `max_rows` of 0, [`GpuError::Limit`] for sizes that the device does not allow.
    pub async fn bind(
        &self,
        inputs: &[&wgpu::Buffer],
        outputs: &[&wgpu::Buffer],
        max_rows: usize,
    ) -> Result<Run, GpuError> {
        run::bind(self, inputs, outputs, max_rows).await
    }

    /// Uploads inputs `[rows, dims…]`, runs the program, and returns the outputs: a convenience for tests and first steps.
    /// Submits work and waits for it.
    ///
    /// # Errors
    /// [`GpuError`] names the input that does not fit.
    pub async fn run<T: Borrow<Tensor>>(&self, inputs: &[T]) -> Result<Vec<Tensor>, GpuError> {
        let shared = &self.engine.shared;
        shared.check_lost()?;
        let rows = self.rows(inputs)?;
        let mut uploaded = Vec::with_capacity(inputs.len());
        for (&id, tensor) in self.program.inputs().iter().zip(inputs) {
            let name = &self.program.value(id).name;
            let bytes: &[u8] = match tensor.borrow() {
                Tensor::F32(a) => bytemuck::cast_slice(a.as_slice().unwrap_or_default()),
                Tensor::I8(a) => bytemuck::cast_slice(a.as_slice().unwrap_or_default()),
                Tensor::I32(a) => bytemuck::cast_slice(a.as_slice().unwrap_or_default()),
                Tensor::I64(_) => &[],
            };
            uploaded.push(upload(&shared.device, name, bytes, BufferUsages::STORAGE).await?);
        }
        let mut downloads = Vec::with_capacity(self.program.outputs().len());
        for &id in self.program.outputs() {
            let value = self.program.value(id);
            let usage = BufferUsages::STORAGE | BufferUsages::COPY_SRC;
            downloads.push(allocate(&shared.device, &value.name, dense_bytes(value, rows), usage).await?);
        }
        let run = self.bind(&uploaded.iter().collect::<Vec<_>>(), &downloads.iter().collect::<Vec<_>>(), rows).await?;
        let descriptor = wgpu::CommandEncoderDescriptor { label: Some("enfold") };
        let mut encoder = shared.device.create_command_encoder(&descriptor);
        run.record(&mut encoder, rows)?;
        shared.queue.submit([encoder.finish()]);
        let mut outputs = Vec::with_capacity(downloads.len());
        for (&id, buffer) in self.program.outputs().iter().zip(&downloads) {
            let value = self.program.value(id);
            let size = (value.len(rows).unwrap_or_default() * value.value_type.size_bytes()) as u64;
            let bytes = download(&shared.device, &shared.queue, &value.name, buffer, size).await?;
            outputs.push(tensor(value, rows, &bytes)?);
        }
        Ok(outputs)
    }

    fn rows<T: Borrow<Tensor>>(&self, inputs: &[T]) -> Result<usize, GpuError> {
        let (actual, expected) = (inputs.len(), self.program.inputs().len());
        if actual != expected {
            return Err(GpuError::Count { what: "inputs", actual, expected });
        }
        let mut rows = None;
        for (&id, tensor) in self.program.inputs().iter().zip(inputs) {
            let (value, tensor) = (self.program.value(id), tensor.borrow());
            let expected = value.value_type.dtype();
            if tensor.dtype() != expected {
                return Err(GpuError::DType { input: value.name.clone(), actual: tensor.dtype(), expected });
            }
            let same_rows =
                !value.shape.is_batched() || tensor.shape().first().is_some_and(|&n| *rows.get_or_insert(n) == n);
            if !value.shape.admits(tensor.shape()) || !same_rows {
                let (actual, expected) = (tensor.shape().to_vec(), value.shape.clone());
                return Err(GpuError::Shape { input: value.name.clone(), actual, expected });
            }
        }
        // Without a batch, no value has rows.
        Ok(rows.unwrap_or(1))
    }
}

/// What a step reads beside values, with the names of the buffers.
fn step_bytes(step: &Step) -> Vec<(&'static str, Vec<u8>)> {
    let bytes = |floats: &[f32]| {
        // Kernels read whole vectors of four.
        let mut floats = floats.to_vec();
        floats.resize(floats.len().next_multiple_of(4), 0.0);
        bytemuck::cast_slice(&floats).to_vec()
    };
    match &step.op {
        StepOp::Linear(linear) => {
            let channels = match &linear.epilogue {
                Epilogue::Dynamic { scale, weight_sum, bias, .. } => pack_channels(weight_sum, scale, bias),
                epilogue => pack_channels(&linear.bias, epilogue.factors(), &[]),
            };
            let weight = pack_weight(&linear.weight, linear.n, linear.k);
            vec![
                ("weight", bytemuck::cast_slice(&weight).to_vec()),
                ("channels", bytemuck::cast_slice(&channels).to_vec()),
            ]
        }
        StepOp::Table { table } => vec![("table", bytemuck::cast_slice(table).to_vec())],
        StepOp::MatMul(matmul) => vec![("factors", bytes(matmul.epilogue.factors()))],
        _ => Vec::new(),
    }
}

/// A storage buffer, no larger than a binding can be.
async fn storage(engine: &Engine, name: &str, bytes: &[u8]) -> Result<wgpu::Buffer, GpuError> {
    let shared = &engine.shared;
    let (actual, limit) = (bytes.len() as u64, shared.limits.max_storage_buffer_binding_size);
    if actual > limit {
        return Err(GpuError::Limit { name: name.to_owned(), what: "bytes of a storage binding", actual, limit });
    }
    upload(&shared.device, name, bytes, BufferUsages::STORAGE).await
}

/// A host tensor from the dense bytes of a value.
fn tensor(value: &Value, rows: usize, bytes: &[u8]) -> Result<Tensor, GpuError> {
    let shape = value.shape.with_rows(rows);
    let tensor = match value.value_type {
        ValueType::F32 => Tensor::from_f32(&shape, bytemuck::pod_collect_to_vec(bytes)),
        ValueType::I8 => Tensor::from_i8(&shape, bytemuck::cast_slice(bytes).to_vec()),
        ValueType::I32 => Tensor::from_i32(&shape, bytemuck::pod_collect_to_vec(bytes)),
    };
    tensor.map_err(|error| GpuError::Device { what: value.name.clone(), message: error.to_string() })
}

//! A program on a device: its weights, uploaded once.

use std::borrow::Borrow;

use wgpu::BufferUsages;

use super::engine::Engine;
use super::error::GpuError;
use super::layout::{pack_channels, pack_weight};
use super::plan::dense_bytes;
use super::run::{self, Run};
use super::transfer::{allocate, download, upload};
use crate::program::{Epilogue, Program, QLinear, Step, Value, ValueType};
use crate::tensor::{DType, Tensor};

/// A program whose weights are on the device. Several [`Run`]s may share it.
#[derive(Debug)]
pub struct Model {
    pub(super) engine: Engine,
    pub(super) program: Program,
    /// For each step, the buffers of its layer if it is one.
    pub(super) layers: Vec<Option<Layer>>,
}

/// The buffers of a linear layer.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) weight: wgpu::Buffer,
    pub(super) channels: wgpu::Buffer,
}

impl Model {
    pub(super) async fn load(engine: &Engine, program: &Program) -> Result<Self, GpuError> {
        engine.shared.check_lost()?;
        let mut layers = Vec::with_capacity(program.steps().len());
        for step in program.steps() {
            layers.push(match step {
                Step::Linear(linear) => Some(Layer::load(engine, linear).await?),
                Step::Quantize(_) | Step::Dequantize(_) => None,
            });
        }
        Ok(Self { engine: engine.clone(), program: program.clone(), layers })
    }

    /// What it executes.
    #[must_use]
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Bytes that weights, biases and multipliers take on the device, padding included.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.layers.iter().flatten().map(|layer| layer.weight.size() + layer.channels.size()).sum()
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
                Tensor::I32(_) | Tensor::I64(_) => &[],
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
            let expected = match value.value_type {
                ValueType::F32 => DType::F32,
                ValueType::I8 => DType::I8,
            };
            if tensor.dtype() != expected {
                return Err(GpuError::DType { input: value.name.clone(), actual: tensor.dtype(), expected });
            }
            match tensor.shape().split_first() {
                Some((&n, dims)) if dims == value.dims && *rows.get_or_insert(n) == n => {}
                _ => {
                    let (actual, expected) = (tensor.shape().to_vec(), value.dims.clone());
                    return Err(GpuError::Shape { input: value.name.clone(), actual, expected });
                }
            }
        }
        Ok(rows.unwrap_or_default())
    }
}

impl Layer {
    async fn load(engine: &Engine, linear: &QLinear) -> Result<Self, GpuError> {
        let shared = &engine.shared;
        let factors = match &linear.epilogue {
            Epilogue::Requantize { multiplier, .. } => multiplier,
            Epilogue::Scale { scale, .. } => scale,
        };
        let weight = pack_weight(&linear.weight, linear.n, linear.k);
        let channels = pack_channels(&linear.bias, factors);
        let name = format!("{}.weight", linear.name);
        let limit = shared.limits.max_storage_buffer_binding_size;
        if weight.len() as u64 > limit {
            let (what, actual) = ("bytes of a storage binding", weight.len() as u64);
            return Err(GpuError::Limit { name, what, actual, limit });
        }
        let weight = upload(&shared.device, &name, bytemuck::cast_slice(&weight), BufferUsages::STORAGE).await?;
        let name = format!("{}.channels", linear.name);
        let channels = upload(&shared.device, &name, bytemuck::cast_slice(&channels), BufferUsages::STORAGE).await?;
        Ok(Self { weight, channels })
    }
}

/// A host tensor from the dense bytes of a value.
fn tensor(value: &Value, rows: usize, bytes: &[u8]) -> Result<Tensor, GpuError> {
    let shape: Vec<usize> = std::iter::once(rows).chain(value.dims.iter().copied()).collect();
    let tensor = match value.value_type {
        ValueType::F32 => Tensor::from_f32(&shape, bytemuck::pod_collect_to_vec(bytes)),
        ValueType::I8 => Tensor::from_i8(&shape, bytemuck::cast_slice(bytes).to_vec()),
    };
    tensor.map_err(|error| GpuError::Device { what: value.name.clone(), message: error.to_string() })
}

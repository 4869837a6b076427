//! A batch from the host: uploaded, run, and downloaded.

use std::borrow::Borrow;
use std::sync::Arc;

use futures_channel::oneshot::Receiver;
use wgpu::BufferUsages;

use crate::gpu::device::Device;
use crate::gpu::device::error::GpuError;
use crate::gpu::device::scope::Pending;
use crate::gpu::device::transfer::{allocate, map, unmapped, upload};
use crate::gpu::device::wait::{Answer, Poll, answered};
use crate::gpu::kernels::layout::dense_bytes;
use crate::program::{Program, Value, ValueType};
use crate::values::Tensor;

/// A batch that was submitted, and whose outputs are on their way to the host.
#[derive(Debug)]
pub(in crate::gpu) struct Submitted {
    device: Arc<Device>,
    poll: Poll,
    submission: wgpu::SubmissionIndex,
    rows: usize,
    outputs: Vec<Output>,
}

/// An output on its way.
#[derive(Debug)]
struct Output {
    value: Value,
    staging: wgpu::Buffer,
    answer: (Answer<()>, Receiver<Result<(), String>>),
}

impl Submitted {
    /// Submits what was recorded, with copies of the results to the host. What it makes is pending.
    pub(super) fn submit(
        pending: &mut Pending,
        device: &Arc<Device>,
        poll: Poll,
        mut encoder: wgpu::CommandEncoder,
        results: Vec<(&Value, wgpu::Buffer)>,
        rows: usize,
    ) -> Result<Self, GpuError> {
        let mut outputs = Vec::with_capacity(results.len());
        for (value, result) in results {
            let usage = BufferUsages::MAP_READ | BufferUsages::COPY_DST;
            let staging = allocate(pending, &value.name, bytes_of(value, rows) as u64, usage)?;
            encoder.copy_buffer_to_buffer(&result, 0, &staging, 0, staging.size());
            outputs.push(Output { value: value.clone(), staging, answer: Answer::new() });
        }
        let submission = pending.make("run", || {
            let submission = device.queue.submit([encoder.finish()]);
            outputs.iter().for_each(|output| map(&output.staging, &output.answer.0));
            submission
        })?;
        Ok(Self { device: Arc::clone(device), poll, submission, rows, outputs })
    }

    /// Waits for the outputs.
    pub(in crate::gpu) async fn outputs(self) -> Result<Vec<Tensor>, GpuError> {
        let Self { device, poll, submission, rows, outputs } = self;
        let mut tensors = Vec::with_capacity(outputs.len());
        for Output { value, staging, answer } in outputs {
            answered(&device.wgpu, poll, &value.name, Some(submission.clone()), answer).await?;
            let mut bytes = unmapped(&device.wgpu, &value.name, &staging).await?;
            bytes.truncate(bytes_of(&value, rows));
            tensors.push(tensor(&value, rows, &bytes)?);
        }
        Ok(tensors)
    }
}

/// Uploads the tensors of a batch.
pub(super) fn upload_inputs<T: Borrow<Tensor>>(
    pending: &mut Pending,
    program: &Program,
    inputs: &[T],
) -> Result<Vec<wgpu::Buffer>, GpuError> {
    let mut uploaded = Vec::with_capacity(inputs.len());
    for (&id, tensor) in program.inputs().iter().zip(inputs) {
        let Value { name, value_type, .. } = program.value(id);
        let f16: Vec<u16>;
        let bytes: &[u8] = match tensor.borrow() {
            Tensor::F32(a) if *value_type == ValueType::F16 => {
                f16 = a.elements().iter().map(|&x| half::f16::from_f32(x).to_bits()).collect();
                bytemuck::cast_slice(&f16)
            }
            Tensor::F32(a) => bytemuck::cast_slice(a.elements()),
            Tensor::I8(a) => bytemuck::cast_slice(a.elements()),
            Tensor::I32(a) => bytemuck::cast_slice(a.elements()),
            Tensor::I64(_) => unreachable!("no value of a program is of i64"),
        };
        uploaded.push(upload(pending, name, bytes, BufferUsages::STORAGE)?);
    }
    Ok(uploaded)
}

/// Buffers for the outputs of a batch.
pub(super) fn results<'p>(
    pending: &mut Pending,
    program: &'p Program,
    rows: usize,
) -> Result<Vec<(&'p Value, wgpu::Buffer)>, GpuError> {
    let usage = BufferUsages::STORAGE | BufferUsages::COPY_SRC;
    let values = program.outputs().iter().map(|&id| program.value(id));
    values.map(|value| Ok((value, allocate(pending, &value.name, dense_bytes(value, rows), usage)?))).collect()
}

/// The rows of a batch, whose tensors fit the inputs.
pub(super) fn rows_of<T: Borrow<Tensor>>(program: &Program, inputs: &[T]) -> Result<usize, GpuError> {
    let (actual, expected) = (inputs.len(), program.inputs().len());
    if actual != expected {
        return Err(GpuError::Count { what: "inputs", actual, expected });
    }
    let mut rows = None;
    for (&id, tensor) in program.inputs().iter().zip(inputs) {
        let (value, tensor) = (program.value(id), tensor.borrow());
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

/// Bytes of a value on the host.
fn bytes_of(value: &Value, rows: usize) -> usize {
    value.len(rows).expect("what was bound has a size") * value.value_type.size_bytes()
}

/// A host tensor from the dense bytes of a value.
fn tensor(value: &Value, rows: usize, bytes: &[u8]) -> Result<Tensor, GpuError> {
    let shape = value.shape.with_rows(rows);
    let tensor = match value.value_type {
        ValueType::F32 => Tensor::from_f32(&shape, bytemuck::pod_collect_to_vec(bytes)),
        ValueType::F16 => {
            let f16: Vec<u16> = bytemuck::pod_collect_to_vec(bytes);
            Tensor::from_f32(&shape, f16.iter().map(|&bits| half::f16::from_bits(bits).to_f32()).collect())
        }
        ValueType::I8 => Tensor::from_i8(&shape, bytemuck::cast_slice(bytes).to_vec()),
        ValueType::I32 => Tensor::from_i32(&shape, bytemuck::pod_collect_to_vec(bytes)),
    };
    tensor.map_err(|error| GpuError::Device { what: value.name.clone(), message: error.to_string() })
}

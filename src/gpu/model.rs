//! A program on a device: its weights, uploaded once.

use std::borrow::Borrow;
use std::collections::{BTreeSet, HashMap};

use wgpu::BufferUsages;

use super::bind;
use super::engine::Engine;
use super::error::GpuError;
use super::layout::{BLOCK_COLS, Channels, WeightBits, block_bytes, pack_channels, pack_weight, pad_rows};
use super::memory::Slice;
use super::plan::{Plan, Terms, dense_bytes};
use super::run::Run;
use super::transfer::{allocate, download, scoped, upload};
use crate::program::{Epilogue, Program, QLinear, QLut, StepOp, Value, ValueType};
use crate::values::Tensor;

/// A program whose weights are on the device. Several [`Run`]s may share it.
#[derive(Debug)]
pub struct Model {
    pub(super) engine: Engine,
    pub(super) program: Program,
    /// For each step, what it reads beside values.
    pub(super) of_steps: Vec<OfStep>,
    /// The program's constants.
    pub(super) constants: Vec<wgpu::Buffer>,
}

/// What a step reads beside values.
#[derive(Debug, Clone)]
pub(super) enum OfStep {
    Nothing,
    /// A table, or factors.
    Buffer(wgpu::Buffer),
    /// The weight of a linear layer, in as many parts as the device's bindings ask for.
    Linear(Vec<WeightPart>),
}

/// Some columns of a weight, with their channels.
#[derive(Debug, Clone)]
pub(super) struct WeightPart {
    pub(super) first_column: usize,
    pub(super) columns: usize,
    pub(super) bits: WeightBits,
    /// Words of 16 codes whose products matrix units sum exactly.
    pub(super) chunk_vecs: u32,
    pub(super) weight: wgpu::Buffer,
    pub(super) channels: wgpu::Buffer,
}

impl Model {
    pub(super) async fn load(engine: &Engine, program: &Program) -> Result<Self, GpuError> {
        engine.shared.check_lost()?;
        // What no number of rows can make possible is refused here already.
        Self::kernels(engine, program)?;
        let mut of_steps = Vec::with_capacity(program.steps().len());
        let mut packed = Packed::new();
        for step in program.steps() {
            of_steps.push(match &step.op {
                StepOp::QLinear(linear) => OfStep::Linear(weight_parts(engine, &step.name, linear, &mut packed).await?),
                StepOp::QLut(QLut { table }) => {
                    OfStep::Buffer(storage(engine, &format!("{}.table", step.name), bytemuck::cast_slice(table)).await?)
                }
                StepOp::QMatMul(matmul) => {
                    // Kernels read whole vectors of four.
                    let mut factors = matmul.epilogue.factors().to_vec();
                    factors.resize(factors.len().next_multiple_of(4), 0.0);
                    let bytes = bytemuck::cast_slice(&factors);
                    OfStep::Buffer(storage(engine, &format!("{}.factors", step.name), bytes).await?)
                }
                _ => OfStep::Nothing,
            });
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
            constants.push(storage(engine, &value.name, &bytes).await?);
        }
        Ok(Self { engine: engine.clone(), program: program.clone(), of_steps, constants })
    }

    /// The general kernels that a program needs.
    pub(super) fn kernels(engine: &Engine, program: &Program) -> Result<BTreeSet<&'static str>, GpuError> {
        let copied = vec![false; program.inputs().len()];
        let unfused = engine.settings.unfused;
        let terms = Terms { max_rows: 1, unfused, copied: &copied, alignment: 256, max_bytes: u64::MAX };
        Plan::kernels(program, terms)
    }

    /// The same weights, computed with by another engine of the device.
    pub(super) fn with(&self, engine: Engine) -> Self {
        let (program, of_steps, constants) = (self.program.clone(), self.of_steps.clone(), self.constants.clone());
        Self { engine, program, of_steps, constants }
    }

    /// What it executes.
    #[must_use]
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Bytes that weights, biases, multipliers and other constants take on the device, padding included.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        let mut all: Vec<&wgpu::Buffer> = self.constants.iter().collect();
        for step in &self.of_steps {
            match step {
                OfStep::Nothing => {}
                OfStep::Buffer(buffer) => all.extend([buffer]),
                OfStep::Linear(parts) => all.extend(parts.iter().flat_map(|part| [&part.weight, &part.channels])),
            }
        }
        // Layers may share weights.
        all.sort_unstable();
        all.dedup();
        all.into_iter().map(wgpu::Buffer::size).sum()
    }

    /// Makes everything that recording needs: scratch buffers, constants and bind groups, for up to `max_rows` rows.
    ///
    /// The buffers, or slices of buffers, are in the order of [`Program::inputs`] and [`Program::outputs`], dense and with the usage
    /// `STORAGE`. What an output is written to overlaps nothing else that is bound here. Submits nothing.
    ///
    /// # Errors
    /// [`GpuError::Count`], [`GpuError::BufferSize`], [`GpuError::BufferOffset`], [`GpuError::BufferUsage`] and
    /// [`GpuError::SameBuffer`] for buffers that do not fit, [`GpuError::Rows`] for a `max_rows` of 0, [`GpuError::Limit`] for sizes
    /// that the device does not allow, [`GpuError::Device`] if it has no memory left.
    pub async fn bind<'b, I, O>(&self, inputs: &[I], outputs: &[O], max_rows: usize) -> Result<Run, GpuError>
    where
        I: Into<Slice<'b>> + Copy,
        O: Into<Slice<'b>> + Copy,
    {
        let inputs: Vec<Slice<'b>> = inputs.iter().map(|&input| input.into()).collect();
        let outputs: Vec<Slice<'b>> = outputs.iter().map(|&output| output.into()).collect();
        bind::bind(self, &inputs, &outputs, max_rows).await
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
                Tensor::F32(a) => bytemuck::cast_slice(a.elements()),
                Tensor::I8(a) => bytemuck::cast_slice(a.elements()),
                Tensor::I32(a) => bytemuck::cast_slice(a.elements()),
                Tensor::I64(_) => unreachable!("no value of a program is of i64"),
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
        scoped(&shared.device, "run", || shared.queue.submit([encoder.finish()])).await?;
        let mut outputs = Vec::with_capacity(downloads.len());
        for (&id, buffer) in self.program.outputs().iter().zip(&downloads) {
            let value = self.program.value(id);
            let elements = value.len(rows).expect("what was bound has a size");
            let size = (elements * value.value_type.size_bytes()) as u64;
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

/// The parts of weights that are on the device, by where their codes lie on the host, and their channels and features.
type Packed = HashMap<(usize, usize, usize), Vec<WeightPart>>;

/// A weight in as few parts as the device's bindings allow, each of whole blocks of columns. What several layers read is packed and
/// uploaded once; each has channels of its own.
async fn weight_parts(
    engine: &Engine,
    name: &str,
    linear: &QLinear,
    packed: &mut Packed,
) -> Result<Vec<WeightPart>, GpuError> {
    let QLinear { weight, n, k, bias, epilogue, .. } = linear;
    let bits = if engine.settings.unpacked_weights { WeightBits::Eight } else { WeightBits::of(weight) };
    let shared = &engine.shared;
    let limit = shared.limits.max_storage_buffer_binding_size.min(shared.limits.max_buffer_size);
    let block = block_bytes(*k, bits) as u64;
    // A part's channels are fewer bytes than its weights, unless it has hardly any features.
    let of_block = block.max((BLOCK_COLS * size_of::<Channels>() / 4) as u64);
    if of_block > limit {
        let what = "bytes of 64 columns of a weight";
        return Err(GpuError::Limit { name: name.to_owned(), what, actual: block, limit });
    }
    let columns_of_part = usize::try_from(limit / of_block).unwrap_or(usize::MAX).saturating_mul(BLOCK_COLS);
    let key = (weight.as_ptr() as usize, *n, *k);
    let shared_parts = packed.get(&key);
    let mut parts = Vec::new();
    for (at, first_column) in (0..*n).step_by(columns_of_part).enumerate() {
        let columns = columns_of_part.min(n - first_column);
        let range = first_column..first_column + columns;
        let channels = match epilogue {
            Epilogue::Dynamic { scale, weight_sum, bias, .. } => {
                pack_channels(&weight_sum[range.clone()], &scale[range.clone()], &bias[range.clone()])
            }
            epilogue => pack_channels(&bias[range.clone()], &epilogue.factors()[range.clone()], &[]),
        };
        let channels = storage(engine, &format!("{name}.channels"), bytemuck::cast_slice(&channels)).await?;
        parts.push(match shared_parts {
            Some(parts) => WeightPart { channels, ..parts[at].clone() },
            None => {
                let codes = &weight[range.start * k..range.end * k];
                let packed = pack_weight(codes, columns, *k, bits);
                let chunk_vecs = engine.choice.coop.map_or(0, |coop| coop.exact_chunk_vecs(codes, columns, *k));
                let weight = storage(engine, &format!("{name}.weight"), &packed).await?;
                WeightPart { first_column, columns, bits, chunk_vecs, weight, channels }
            }
        });
    }
    packed.entry(key).or_insert_with(|| parts.clone());
    Ok(parts)
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
        ValueType::F16 => {
            let halves: Vec<u16> = bytemuck::pod_collect_to_vec(bytes);
            Tensor::from_f32(&shape, halves.iter().map(|&half| half::f16::from_bits(half).to_f32()).collect())
        }
        ValueType::I8 => Tensor::from_i8(&shape, bytemuck::cast_slice(bytes).to_vec()),
        ValueType::I32 => Tensor::from_i32(&shape, bytemuck::pod_collect_to_vec(bytes)),
    };
    tensor.map_err(|error| GpuError::Device { what: value.name.clone(), message: error.to_string() })
}

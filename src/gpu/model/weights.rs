//! The weights of a program, uploaded.

use std::collections::HashMap;
use std::ops::Range;

use wgpu::BufferUsages;

use crate::gpu::device::Device;
use crate::gpu::device::error::GpuError;
use crate::gpu::device::scope::Pending;
use crate::gpu::device::transfer::upload;
use crate::gpu::kernels::config::Config;
use crate::gpu::kernels::conv;
use crate::gpu::kernels::linear::coopmat::Coopmat;
use crate::gpu::kernels::linear::weights::{
    BLOCK_COLS, Channels, WeightBits, WeightPart, block_bytes, pack_channels, pack_columns,
};
use crate::program::{Epilogue, QConv, QLinear};

/// The buffers that a step reads besides values.
#[derive(Debug, Clone)]
pub(in crate::gpu) enum StepData {
    Nothing,
    /// A lookup table, or factors.
    Buffer(wgpu::Buffer),
    /// The weight of a linear layer.
    Linear(LinearData),
}

/// The weight of a linear layer, in as many parts as the device's bindings ask for.
#[derive(Debug, Clone)]
pub(in crate::gpu) struct LinearData {
    pub(in crate::gpu) parts: Vec<WeightPart>,
    pub(in crate::gpu) buffers: Vec<PartBuffers>,
}

/// The buffers of part of a weight.
#[derive(Debug, Clone)]
pub(in crate::gpu) struct PartBuffers {
    pub(in crate::gpu) weight: wgpu::Buffer,
    pub(in crate::gpu) channels: wgpu::Buffer,
}

impl StepData {
    /// The parts of a linear layer's weight.
    pub(in crate::gpu) fn parts(&self) -> &[WeightPart] {
        match self {
            Self::Linear(data) => &data.parts,
            Self::Nothing | Self::Buffer(_) => &[],
        }
    }
}

/// The weights that are on the device, by the addresses in the program of those that one consists of, its `n` and `k`, and the bits that
/// the device stores.
pub(super) type Packed = HashMap<(Vec<usize>, usize, usize, WeightBits), LinearData>;

/// Uploads a weight in as few parts as the device's bindings allow, each of whole blocks of columns. A weight that several layers
/// read is packed and uploaded once; each layer has channels of its own.
pub(super) fn upload_weight(
    device: &Device,
    pending: &mut Pending,
    config: &Config,
    name: &str,
    (linear, sources): (&QLinear, Vec<usize>),
    packed: &mut Packed,
) -> Result<LinearData, GpuError> {
    let QLinear { weight, n, k, .. } = linear;
    let bits = config.weight_bits(linear);
    let columns_of_part = columns_of_part(device, name, linear, bits)?;
    let key = (sources, *n, *k, bits);
    let shared = packed.get(&key);
    let mut data = LinearData { parts: Vec::new(), buffers: Vec::new() };
    for (at, first_column) in (0..*n).step_by(columns_of_part).enumerate() {
        let range = first_column..first_column + columns_of_part.min(n - first_column);
        let channels = channels(linear, range.clone());
        let channels = storage(device, pending, &format!("{name}.channels"), bytemuck::cast_slice(&channels))?;
        let (part, weight) = match shared {
            Some(shared) => (shared.parts[at], shared.buffers[at].weight.clone()),
            None => {
                let values = &weight[range.start * k..range.end * k];
                let packed = pack_columns(linear, range.clone(), bits);
                let exact = |coopmat: Coopmat| coopmat.exact_chunk_vecs(values, range.len(), *k);
                let chunk_vecs = config.choice.coopmat.map_or(0, exact);
                let weight = storage(device, pending, &format!("{name}.weight"), &packed)?;
                (WeightPart { first_column, columns: range.len(), bits, chunk_vecs }, weight)
            }
        };
        data.parts.push(part);
        data.buffers.push(PartBuffers { weight, channels });
    }
    packed.entry(key).or_insert_with(|| data.clone());
    Ok(data)
}

/// Uploads the weight of a convolution with groups.
pub(super) fn upload_grouped(
    device: &Device,
    pending: &mut Pending,
    name: &str,
    conv: &QConv,
) -> Result<LinearData, GpuError> {
    let channels = channels(&conv.layer, 0..conv.layer.n);
    let channels = storage(device, pending, &format!("{name}.channels"), bytemuck::cast_slice(&channels))?;
    let weight = conv::grouped::weight(conv);
    let weight = storage(device, pending, &format!("{name}.weight"), bytemuck::cast_slice(&weight))?;
    Ok(LinearData { parts: vec![conv::grouped::part(conv)], buffers: vec![PartBuffers { weight, channels }] })
}

/// Columns of a weight that a binding of the device can hold.
fn columns_of_part(device: &Device, name: &str, linear: &QLinear, bits: WeightBits) -> Result<usize, GpuError> {
    let limit = device.limits.max_storage_buffer_binding_size.min(device.limits.max_buffer_size);
    let block = block_bytes(linear, bits) as u64;
    // The channels of a part take fewer bytes than its weights, unless it has hardly any features.
    let larger = block.max((BLOCK_COLS * size_of::<Channels>() / 4) as u64);
    if larger > limit {
        let what = "bytes of 64 columns of a weight";
        return Err(GpuError::Limit { name: name.to_owned(), what, actual: block, limit });
    }
    Ok(usize::try_from(limit / larger).unwrap_or(usize::MAX).saturating_mul(BLOCK_COLS))
}

/// The channels of some columns.
fn channels(linear: &QLinear, range: Range<usize>) -> Vec<Channels> {
    match &linear.epilogue {
        Epilogue::Dynamic { scale, weight_sum, bias, .. } => {
            pack_channels(&weight_sum[range.clone()], &scale[range.clone()], &bias[range])
        }
        epilogue => pack_channels(&linear.bias[range.clone()], &epilogue.factors()[range], &[]),
    }
}

/// Uploads a storage buffer, no larger than a binding can be.
pub(super) fn storage(
    device: &Device,
    pending: &mut Pending,
    name: &str,
    bytes: &[u8],
) -> Result<wgpu::Buffer, GpuError> {
    let (actual, limit) = (bytes.len() as u64, device.limits.max_storage_buffer_binding_size);
    if actual > limit {
        return Err(GpuError::Limit { name: name.to_owned(), what: "bytes of a storage binding", actual, limit });
    }
    // Other weights may be copied to it, and from it.
    let usage = BufferUsages::STORAGE | BufferUsages::COPY_DST | BufferUsages::COPY_SRC;
    upload(pending, name, bytes, usage)
}

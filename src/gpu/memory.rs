//! What is bound, and how much of the device it takes.

use std::fmt;

use super::engine::Shared;
use super::error::GpuError;
use super::plan::{dense_bytes, padded_bytes};
use crate::program::{Program, Value};

/// Part of a buffer of the caller's.
#[derive(Debug, Clone, Copy)]
pub struct Slice<'b> {
    /// The buffer, with the usage `STORAGE`.
    pub buffer: &'b wgpu::Buffer,
    /// Where it begins, in bytes: a multiple of the device's `min_storage_buffer_offset_alignment`.
    pub offset: u64,
    /// Its length in bytes.
    pub size: u64,
}

impl<'b> From<&'b wgpu::Buffer> for Slice<'b> {
    fn from(buffer: &'b wgpu::Buffer) -> Self {
        Self { buffer, offset: 0, size: buffer.size() }
    }
}

impl<'b> From<wgpu::BufferSlice<'b>> for Slice<'b> {
    fn from(slice: wgpu::BufferSlice<'b>) -> Self {
        Self { buffer: slice.buffer(), offset: slice.offset(), size: slice.size() }
    }
}

impl Slice<'_> {
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        // Sizes are the caller's, and may be anything.
        let end = |slice: &Self| slice.offset.saturating_add(slice.size);
        let together = self.offset < end(other) && other.offset < end(self);
        self.buffer == other.buffer && together
    }
}

/// Bytes of device memory of a bound model, beside the caller's buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Memory {
    /// Weights, biases, multipliers and other constants, which all runs of a model share.
    pub weights: u64,
    /// Intermediate values, which share one buffer over time: the peak of what lives at once.
    pub values: u64,
    /// Sums of divided layers.
    pub partial_sums: u64,
    /// Constants of the steps, and the table of numbers of rows.
    pub constants: u64,
}

impl Memory {
    /// All of it.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.weights + self.values + self.partial_sums + self.constants
    }
}

/// As in `62720 bytes of weights, 138240 of values at the peak, 0 of partial sums, 9152 of constants`.
impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { weights, values, partial_sums, constants } = self;
        write!(
            f,
            "{weights} bytes of weights, {values} of values at the peak, {partial_sums} of partial sums, {constants} of constants"
        )
    }
}

/// No value is larger than the device's bindings, or than 32 bits can address.
pub(super) fn check_sizes(program: &Program, shared: &Shared, max_rows: usize) -> Result<(), GpuError> {
    let limit = shared.limits.max_storage_buffer_binding_size;
    for value in program.values() {
        let actual = padded_bytes(value, max_rows);
        let name = || value.name.clone();
        if actual > limit {
            return Err(GpuError::Limit { name: name(), what: "bytes of a storage binding", actual, limit });
        }
        // Elements are counted in u32, of int8 too, also by threads beyond the last.
        let limit = 1 << 31;
        if actual > limit {
            return Err(GpuError::Limit { name: name(), what: "bytes that kernels can address", actual, limit });
        }
    }
    Ok(())
}

/// What is used of the slices, inputs first, if they fit.
pub(super) fn check_slices<'b>(
    program: &Program,
    shared: &Shared,
    inputs: &[Slice<'b>],
    outputs: &[Slice<'b>],
    rows: usize,
) -> Result<Vec<Slice<'b>>, GpuError> {
    let count = |what, actual, expected| {
        if actual == expected { Ok(()) } else { Err(GpuError::Count { what, actual, expected }) }
    };
    count("input buffers", inputs.len(), program.inputs().len())?;
    count("output buffers", outputs.len(), program.outputs().len())?;
    let ids = program.inputs().iter().chain(program.outputs());
    let all: Vec<(&Value, Slice<'b>)> =
        ids.map(|id| program.value(*id)).zip(inputs.iter().chain(outputs).copied()).collect();
    let alignment = u64::from(shared.limits.min_storage_buffer_offset_alignment);
    let mut used = Vec::with_capacity(all.len());
    for (value, slice) in &all {
        let (name, actual, needed) = (value.name.clone(), slice.size, dense_bytes(value, rows));
        if actual < needed {
            return Err(GpuError::BufferSize { name, actual, needed, rows });
        }
        if slice.offset.checked_add(needed).is_none_or(|end| end > slice.buffer.size()) {
            let actual = slice.buffer.size().saturating_sub(slice.offset);
            return Err(GpuError::BufferSize { name, actual, needed, rows });
        }
        if !slice.offset.is_multiple_of(alignment) {
            return Err(GpuError::BufferOffset { name, actual: slice.offset, alignment });
        }
        let (actual, needed_usage) = (slice.buffer.usage(), wgpu::BufferUsages::STORAGE);
        if !actual.contains(needed_usage) {
            return Err(GpuError::BufferUsage { name, actual, needed: needed_usage });
        }
        used.push(Slice { size: needed, ..*slice });
    }
    for (at, (value, _)) in all.iter().enumerate().skip(inputs.len()) {
        if let Some(other) = (0..at).find(|&other| used[other].overlaps(&used[at])) {
            return Err(GpuError::SameBuffer { name: value.name.clone(), other: all[other].0.name.clone() });
        }
    }
    Ok(used)
}

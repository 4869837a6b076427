//! The caller's buffers, and the device memory of a run.

use std::fmt;

use super::device::error::GpuError;
use super::kernels::layout::{dense_bytes, padded_bytes};
use super::schedule::plan::Plan;
use crate::program::{Program, Value};

/// A range of one of the caller's buffers.
///
/// ```no_run
/// # use enfold::gpu::{BufferRange, GpuError, Model, Run};
/// # async fn bind(model: &Model, frame: &wgpu::Buffer, output: &wgpu::Buffer) -> Result<Run, GpuError> {
/// // The input is the second kilobyte of a larger buffer; the output is a whole buffer.
/// let input = BufferRange::from(frame.slice(1024..2048));
/// model.bind(&[input], &[output], 1).await
/// # }
/// ```
#[derive(Debug, Clone, Copy)]
pub struct BufferRange<'b> {
    /// The buffer, with the usage `STORAGE`.
    pub buffer: &'b wgpu::Buffer,
    /// The offset in bytes: a multiple of the device's `min_storage_buffer_offset_alignment`.
    pub offset: u64,
    /// The size in bytes.
    pub size: u64,
}

impl<'b> From<&'b wgpu::Buffer> for BufferRange<'b> {
    fn from(buffer: &'b wgpu::Buffer) -> Self {
        Self { buffer, offset: 0, size: buffer.size() }
    }
}

impl<'b> From<wgpu::BufferSlice<'b>> for BufferRange<'b> {
    fn from(slice: wgpu::BufferSlice<'b>) -> Self {
        Self { buffer: slice.buffer(), offset: slice.offset(), size: slice.size() }
    }
}

impl BufferRange<'_> {
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        // Sizes are the caller's, and may be anything.
        let end = |range: &Self| range.offset.saturating_add(range.size);
        let together = self.offset < end(other) && other.offset < end(self);
        self.buffer == other.buffer && together
    }
}

/// The device memory of a bound model in bytes, without the caller's buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Memory {
    /// Weights, biases, multipliers and other constants, which all runs of a model share.
    pub weights: u64,
    /// Intermediate values, which share one buffer over time: their peak.
    pub values: u64,
    /// Sums of divided layers.
    pub partial_sums: u64,
    /// Parameters of the dispatches, and the buffer of numbers of rows.
    pub constants: u64,
}

impl Memory {
    /// Returns the sum of all sizes.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.weights + self.values + self.partial_sums + self.constants
    }
}

/// Formats as in `62720 bytes of weights, 138240 of values at the peak, 0 of partial sums, 9152 of constants`.
impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { weights, values, partial_sums, constants } = self;
        write!(
            f,
            "{weights} bytes of weights, {values} of values at the peak, {partial_sums} of partial sums, {constants} of constants"
        )
    }
}

/// Checks that no value is larger than the device's bindings, or than 32 bits can address.
pub(super) fn check_sizes(program: &Program, limits: &wgpu::Limits, max_rows: usize) -> Result<(), GpuError> {
    let limit = limits.max_storage_buffer_binding_size;
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

/// Checks what dispatches bind besides values: memory between the dispatches of a step.
pub(super) fn check_bindings(plan: &Plan, limits: &wgpu::Limits) -> Result<(), GpuError> {
    let limit = limits.max_storage_buffer_binding_size.min(1 << 31);
    for dispatch in &plan.dispatches {
        let bound = dispatch.reads.iter().chain(&dispatch.writes).filter_map(|bound| bound.bytes);
        if let Some(actual) = bound.max().filter(|bytes| *bytes > limit) {
            let (name, what) = (dispatch.name.clone(), "bytes of a storage binding");
            return Err(GpuError::Limit { name, what, actual, limit });
        }
    }
    Ok(())
}

/// Checks the caller's buffer ranges; returns the parts that are used, inputs first.
pub(super) fn check_ranges<'b>(
    program: &Program,
    limits: &wgpu::Limits,
    inputs: &[BufferRange<'b>],
    outputs: &[BufferRange<'b>],
    rows: usize,
) -> Result<Vec<BufferRange<'b>>, GpuError> {
    let count = |what, actual, expected| {
        if actual == expected { Ok(()) } else { Err(GpuError::Count { what, actual, expected }) }
    };
    count("input buffers", inputs.len(), program.inputs().len())?;
    count("output buffers", outputs.len(), program.outputs().len())?;
    let ids = program.inputs().iter().chain(program.outputs());
    let all: Vec<(&Value, BufferRange<'b>)> =
        ids.map(|id| program.value(*id)).zip(inputs.iter().chain(outputs).copied()).collect();
    let alignment = u64::from(limits.min_storage_buffer_offset_alignment);
    let mut used = Vec::with_capacity(all.len());
    for (value, range) in &all {
        let (name, actual, needed) = (value.name.clone(), range.size, dense_bytes(value, rows));
        if actual < needed {
            return Err(GpuError::BufferSize { name, actual, needed, rows });
        }
        if range.offset.checked_add(needed).is_none_or(|end| end > range.buffer.size()) {
            let actual = range.buffer.size().saturating_sub(range.offset);
            return Err(GpuError::BufferSize { name, actual, needed, rows });
        }
        if !range.offset.is_multiple_of(alignment) {
            return Err(GpuError::BufferOffset { name, actual: range.offset, alignment });
        }
        let (actual, needed_usage) = (range.buffer.usage(), wgpu::BufferUsages::STORAGE);
        if !actual.contains(needed_usage) {
            return Err(GpuError::BufferUsage { name, actual, needed: needed_usage });
        }
        used.push(BufferRange { size: needed, ..*range });
    }
    for (at, (value, _)) in all.iter().enumerate().skip(inputs.len()) {
        if let Some(other) = (0..at).find(|&other| used[other].overlaps(&used[at])) {
            return Err(GpuError::SameBuffer { name: value.name.clone(), other: all[other].0.name.clone() });
        }
    }
    Ok(used)
}

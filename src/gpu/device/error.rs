//! Errors of the GPU engine.

use crate::values::{DType, Shape};

/// An error of the GPU engine. Every variant names what it concerns and gives both numbers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GpuError {
    /// A tile shape does not exist, or the device cannot hold it.
    #[error("tile shape of {kernel}: {what} {actual}; {rule} {limit}")]
    Tile {
        /// The kernel.
        kernel: &'static str,
        /// The property in question.
        what: &'static str,
        /// Its value.
        actual: u64,
        /// The required relation to `limit`.
        rule: &'static str,
        /// The limit.
        limit: u64,
    },
    /// A buffer, binding or grid would be larger than this device allows.
    #[error("{name}: {what} {actual}, this device allows {limit}")]
    Limit {
        /// The weight, value or step.
        name: String,
        /// The property that is too large.
        what: &'static str,
        /// Its size.
        actual: u64,
        /// The device's limit.
        limit: u64,
    },
    /// Too few or too many buffers.
    #[error("{actual} {what} for a program that has {expected}")]
    Count {
        /// "input buffers", "output buffers" or "inputs".
        what: &'static str,
        /// Buffers given.
        actual: usize,
        /// Buffers taken.
        expected: usize,
    },
    /// A buffer is too small.
    #[error("buffer of {name}: {actual} bytes, {rows} rows need {needed}")]
    BufferSize {
        /// The input or output.
        name: String,
        /// Its size in bytes.
        actual: u64,
        /// The size needed.
        needed: u64,
        /// The number of rows that need it.
        rows: usize,
    },
    /// A buffer range begins at an offset that no binding can have.
    #[error("buffer of {name}: offset {actual}, this device takes multiples of {alignment}")]
    BufferOffset {
        /// The input or output.
        name: String,
        /// The offset in bytes.
        actual: u64,
        /// The device's alignment of storage bindings.
        alignment: u64,
    },
    /// A buffer lacks a usage.
    #[error("buffer of {name}: usage {actual:?}, needed {needed:?}")]
    BufferUsage {
        /// The input or output.
        name: String,
        /// Its usages.
        actual: wgpu::BufferUsages,
        /// The usages needed.
        needed: wgpu::BufferUsages,
    },
    /// The buffer range of an output overlaps that of another input or output.
    #[error("{name} and {other} have the same buffer, or ranges of it that overlap")]
    SameBuffer {
        /// The output.
        name: String,
        /// The other input or output.
        other: String,
    },
    /// An empty batch, or one larger than was bound.
    #[error("{actual} rows, {}", if *max == 0 { "expected at least 1".to_owned() } else { format!("bound for 1 to {max}") })]
    Rows {
        /// Rows asked for.
        actual: usize,
        /// The most that were bound; 0 if nothing was bound yet.
        max: usize,
    },
    /// A run cannot take its number of rows from a buffer.
    #[error("the run was made by bind; bind_indirect makes runs whose number of rows is in a buffer")]
    NotIndirect,
    /// A model cannot take the weights of another network.
    #[error("{name}: {what} {actual}, the model on the device has {expected}")]
    OtherNetwork {
        /// The layer, the value, or "program".
        name: String,
        /// The property that differs.
        what: &'static str,
        /// It in the program.
        actual: String,
        /// It in the model.
        expected: String,
    },
    /// A query set has too few queries.
    #[error("{actual} queries of a query set, {needed} are needed: two for each step from query {first} on")]
    Queries {
        /// Queries of the set.
        actual: u32,
        /// Queries needed.
        needed: u64,
        /// The first that was asked for.
        first: u32,
    },
    /// A host tensor has the wrong shape.
    #[error("input {input}: the given shape is {actual:?}, expected {expected} with the rows of the first input")]
    Shape {
        /// The input.
        input: String,
        /// The given shape.
        actual: Vec<usize>,
        /// The input's shape.
        expected: Shape,
    },
    /// A host tensor has the wrong element type.
    #[error("input {input}: the given type is {actual}, expected {expected}")]
    DType {
        /// The input.
        input: String,
        /// The given type.
        actual: DType,
        /// The type taken.
        expected: DType,
    },
    /// A kernel gives another result than the reference on this device.
    #[error("{kernel} gives {actual} where {expected} is right, at element {index} of the known-answer test")]
    KnownAnswer {
        /// Kernel and entry point.
        kernel: String,
        /// Row-major index of the first wrong element.
        index: usize,
        /// The device's result: an integer, or the bits of a float.
        actual: i64,
        /// The right result.
        expected: i64,
    },
    /// wgpu reports an error, such as lack of memory.
    #[error("{what}: {message}")]
    Device {
        /// The object or the action that failed.
        what: String,
        /// wgpu's message.
        message: String,
    },
    /// The device lacks a feature.
    #[error("{what} needs {needed:?}, which this device was made without")]
    Feature {
        /// The action that needs the feature.
        what: &'static str,
        /// The feature.
        needed: wgpu::Features,
    },
    /// A tuning table cannot be read.
    #[error("tuning table: {message}")]
    TuningTable {
        /// The problem.
        message: String,
    },
    /// The device was lost, or the application has called [`Engine::mark_lost`](crate::gpu::Engine::mark_lost).
    #[error("the device was lost")]
    DeviceLost,
    /// No adapter has the name that was asked for.
    #[error("no adapter is called {wanted}; there are: {}", if available.is_empty() { "none".to_owned() } else { available.join(", ") })]
    NoSuchAdapter {
        /// Part of the name asked for.
        wanted: String,
        /// The names of all adapters.
        available: Vec<String>,
    },
}

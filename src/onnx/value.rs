//! The kinds of values while importing: stored, known, or computed at run time.

use std::sync::Arc;

use super::host::Host;
use crate::graph::NodeId;
use crate::values::{Tensor, TensorQParams};

/// A value while importing.
#[derive(Debug, Clone)]
pub(super) enum Value {
    /// A stored tensor that is not decoded yet, by its index among the stored tensors.
    Stored(usize),
    /// A known tensor.
    Host(Arc<Host>),
    /// A known tensor of quantized values, which stand for floats.
    Quantized(Arc<Quantized>),
    /// A value that is computed at run time.
    Run(Run),
    /// The result of a node that is not supported.
    Unsupported,
}

/// A value that is computed at run time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) id: NodeId,
    /// The factor by which the model's leading axis is longer than the batch. If it is more than 1, the node has two axes for that axis.
    pub(super) merged: usize,
    pub(super) kind: Kind,
}

/// The kind of numbers that a node computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Float,
    /// Integers of this ONNX type, in `i32`.
    Int(i32),
    /// Booleans: 0 and 1 in `f32`.
    Bool,
    /// Quantized values in int8; those of `uint8` are 128 lower than in the file.
    Quantized {
        unsigned: bool,
    },
}

/// A constant of quantized values.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Quantized {
    pub(super) values: Tensor,
    pub(super) qparams: TensorQParams,
    /// The name of the tensor in the file.
    pub(super) name: String,
}

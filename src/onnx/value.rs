//! The kinds of values while importing: stored, known, or computed at run time.

use std::sync::Arc;

use super::host::Host;
use super::proto::AttributeProto;
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
    /// A value that stands for a node of the graph only together with what reads it.
    Deferred(Arc<Deferred>),
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

/// A value of a quantized model that becomes a node of the graph where a scale meets it.
#[derive(Debug, Clone)]
pub(super) enum Deferred {
    /// A scale that is computed at run time.
    Scale(Scale),
    /// The zero point of dynamic qparams.
    ZeroPoint(NodeId),
    /// A product of quantized values.
    Product(Product),
    /// Rows of a table of quantized values, by ids that are computed or given at run time.
    Rows { table: Value, ids: Value },
    /// A value whose batch the model has at this axis, which is not the first. `value` has the batch in front, and the other axes in the
    /// order of the model.
    Behind { value: Value, axis: usize },
}

/// The product of scales that are computed at run time, and of a known value.
#[derive(Debug, Clone)]
pub(super) struct Scale {
    /// The dynamic qparams that the scales belong to, in ascending order.
    pub(super) qparams: Vec<NodeId>,
    pub(super) known: Option<Arc<Host>>,
}

/// A `MatMulInteger` or `ConvInteger` whose result is not scaled yet.
#[derive(Debug, Clone)]
pub(super) struct Product {
    /// The operator of floats.
    pub(super) op_type: &'static str,
    pub(super) attributes: Vec<AttributeProto>,
    /// The name of the node, if it has one.
    pub(super) name: String,
    pub(super) factors: [Factor; 2],
    /// Whether a `Cast` made floats of the sums.
    pub(super) is_float: bool,
    /// What the product was multiplied by so far.
    pub(super) scale: Scale,
}

/// A factor of a product of quantized values.
#[derive(Debug, Clone)]
pub(super) enum Factor {
    /// Values with dynamic qparams.
    Dynamic { values: Run, qparams: NodeId },
    /// Values with a known zero point; without one, it is 0.
    Known { values: Value, zero_point: Option<Value> },
}

/// A constant of quantized values.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Quantized {
    pub(super) values: Tensor,
    pub(super) qparams: TensorQParams,
    /// The name of the tensor in the file.
    pub(super) name: String,
}

//! The state of an import.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::local_functions::Functions;
use super::operator::Operator;
use crate::graph::NodeId;
use crate::onnx::draft::Draft;
use crate::onnx::error::UnsupportedNode;
use crate::onnx::group_weight::GroupWeight;
use crate::onnx::host::{Budget, Host};
use crate::onnx::tensor::Stored;
use crate::onnx::value::Value;

/// The state of an import, while nodes are translated one after the other.
pub(in crate::onnx) struct Importer {
    pub(in crate::onnx) opset: i64,
    pub(in crate::onnx) draft: Draft,
    pub(in crate::onnx) budget: Budget,
    pub(in crate::onnx) stored: Vec<Stored>,
    /// The indices of the swapped tensors, for stored tensors whose axes were swapped.
    pub(in crate::onnx) swaps: HashMap<usize, usize>,
    /// Stored tensors that were decoded for evaluation.
    pub(in crate::onnx) decoded: HashMap<usize, Arc<Host>>,
    /// Stored tensors of few bits that were unpacked to floats.
    pub(in crate::onnx) unpacked: HashSet<usize>,
    /// Stored tensors that are constants of the graph: as they are, or with their axes swapped.
    pub(in crate::onnx) constants: HashMap<(usize, bool), NodeId>,
    /// The nodes that dequantize dynamically: by the nodes of the quantized values and of their qparams.
    pub(in crate::onnx) dequantized: HashMap<(NodeId, NodeId), NodeId>,
    /// The name of the dimension that is the batch.
    pub(in crate::onnx) batch: Option<String>,
    pub(in crate::onnx) values: HashMap<String, Value>,
    /// The values that the current node reads and that are computed at run time, by name.
    pub(in crate::onnx) reading: Vec<(String, NodeId)>,
    /// The rules for the operators of the default domain.
    pub(super) operator: fn(&str) -> Option<Operator>,
    /// Whether weights with a scale for each block stay quantized.
    pub(in crate::onnx) integer_groups: bool,
    /// The quantized weights that known floats stand for, by the address of the floats.
    pub(super) group_weights: HashMap<*const Host, GroupWeight>,
    /// The functions that the file defines itself.
    pub(in crate::onnx) functions: Functions,
    /// How many functions and branches the current node is inside of.
    pub(in crate::onnx) depth: usize,
    pub(in crate::onnx) unsupported: Vec<UnsupportedNode>,
}

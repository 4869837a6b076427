//! The header of a graph's file: nodes with their operators, outputs and declared types.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

#[cfg(feature = "flow")]
use super::calibration::StatisticsRecord;
use super::error::ArchiveError;
#[cfg(feature = "flow")]
use super::observers::PreparedRecord;
use super::packed::PackedRecord;
use super::tensors::{Reader, Writer};
use crate::files::json::{self, Raw};
use crate::graph::{DeclaredTypes, Node};
use crate::ops::{Constant, Op};
use crate::values::{DType, Shape};

/// Without the flow, it only matters whether there is one.
#[cfg(not(feature = "flow"))]
type PreparedRecord = Raw;
#[cfg(not(feature = "flow"))]
type StatisticsRecord = Raw;

/// The whole header.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Header {
    pub(super) format: u32,
    pub(super) nodes: Vec<NodeRecord>,
    pub(super) outputs: Vec<usize>,
    /// Names of the outputs, where they are not the origins of their nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) output_names: Option<Vec<String>>,
    pub(super) modules: BTreeMap<String, String>,
    /// Types of inputs and outputs in the file that the graph comes from, where they differ from the graph's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) declared: Option<DeclaredTypes>,
    /// Tensors that are packed, by name. Files of format 1 have none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) packed: BTreeMap<String, PackedRecord>,
    pub(super) prepared: Option<PreparedRecord>,
    /// Channel statistics of the graph.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) statistics: Option<StatisticsRecord>,
}

/// The part of the header of a newer file that can be relied on.
#[derive(Debug, Deserialize)]
pub(super) struct Version {
    pub(super) format: u32,
}

/// One node. Its operator and its declared type are read after the rest of the header, so that an error names the node.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct NodeRecord {
    pub(super) name: String,
    pub(super) op: Raw,
    /// The name of the tensor of a constant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) tensor: Option<String>,
    /// The [`DeclaredInput`] of an input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) declared: Option<Raw>,
    pub(super) inputs: Vec<usize>,
    pub(super) origin: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) float_reason: Option<String>,
}

/// Shape and type of an input.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct DeclaredInput {
    pub(super) dtype: DType,
    /// Whether the first axis is the batch.
    pub(super) batched: bool,
    /// Lengths of all other axes.
    pub(super) dims: Vec<usize>,
}

impl DeclaredInput {
    pub(super) fn shape(&self) -> Shape {
        if self.batched { Shape::batched(&self.dims) } else { Shape::fixed(&self.dims) }
    }
}

impl NodeRecord {
    /// The record of a node; its tensor goes to `writer`.
    pub(super) fn new(node: &Node, writer: &mut Writer) -> Result<Self, ArchiveError> {
        let broken = |e: serde_json::Error| ArchiveError::Node { node: node.name.clone(), problem: e.to_string() };
        let declared = matches!(node.op, Op::Input(_)).then(|| DeclaredInput {
            dtype: node.dtype,
            batched: node.shape.is_batched(),
            dims: node.shape.fixed_dims(),
        });
        Ok(Self {
            name: node.name.clone(),
            op: Raw::of(&node.op).map_err(broken)?,
            tensor: match &node.op {
                Op::Constant(Constant { tensor, bits }) => Some(writer.constant(Arc::clone(tensor), *bits)),
                _ => None,
            },
            declared: declared.map(|declared| Raw::of(&declared)).transpose().map_err(broken)?,
            inputs: node.inputs.iter().map(|id| id.index()).collect(),
            origin: node.origin.clone(),
            float_reason: node.float_reason.clone(),
        })
    }

    /// Shape and type of an input; `None` for other nodes.
    pub(super) fn declared(&self) -> Result<Option<DeclaredInput>, ArchiveError> {
        let broken = |e: json::Error| ArchiveError::Node { node: self.name.clone(), problem: e.to_string() };
        self.declared.as_ref().map(|declared| json::from_str(declared.get())).transpose().map_err(broken)
    }

    /// The operator, with the tensor of a constant.
    pub(super) fn op(&self, reader: &Reader<'_>) -> Result<Op, ArchiveError> {
        let broken = |problem: String| ArchiveError::Node { node: self.name.clone(), problem };
        match (json::from_str::<Op>(self.op.get()).map_err(|e| broken(e.to_string()))?, &self.tensor) {
            (Op::Constant(constant), Some(name)) => {
                Ok(Op::Constant(Constant { tensor: reader.shared(name)?, ..constant }))
            }
            (Op::Constant(_), None) => Err(broken("is a constant without a tensor".to_owned())),
            (op, _) => Ok(op),
        }
    }
}

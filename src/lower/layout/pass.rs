//! The state of the pass, and what its parts share.

use super::phases::Phases;
use crate::graph::{Graph, GraphError, Node, NodeId, Rewriter};
use crate::ops::{Constant, ImageLayout, IntegerConv, IntegerLinear, Op, Reshape, Transpose};
use crate::values::Dim;

pub(super) struct Pass<'g> {
    pub(super) graph: &'g Graph,
    pub(super) users: Vec<Vec<NodeId>>,
    pub(super) rewriter: Rewriter<'g>,
    /// The new node of each value as it is in the graph.
    pub(super) first: Vec<Option<NodeId>>,
    /// The new node of each image with the channels last.
    pub(super) last: Vec<Option<NodeId>>,
    /// The convolutions whose results have the channels of several phases; what reads such a result moves them.
    pub(super) phases: Vec<Option<Phases>>,
}

impl<'g> Pass<'g> {
    /// Returns the node of a value as it is in the graph.
    pub(super) fn first(&mut self, id: NodeId) -> Result<NodeId, GraphError> {
        if let Some(first) = self.first[id.index()] {
            return Ok(first);
        }
        // `rewriter.get` names the node that comes before its inputs.
        let Some(last) = self.last[id.index()] else { return self.rewriter.get(id) };
        let rank = self.graph.node(id).shape.rank();
        let perm = [0, rank - 1].into_iter().chain(1..rank - 1).collect();
        let first = self.transposed(id, last, perm, "channels_first")?;
        self.first[id.index()] = Some(first);
        Ok(first)
    }

    /// Returns the node of an image with the channels last.
    pub(super) fn last(&mut self, id: NodeId) -> Result<NodeId, GraphError> {
        if let Some(last) = self.last[id.index()] {
            return Ok(last);
        }
        let first = self.first(id)?;
        let last = self.transposed(id, first, to_last(self.graph.node(id).shape.rank()), "channels_last")?;
        self.last[id.index()] = Some(last);
        Ok(last)
    }

    /// Adds the transpose of a value, or the reshape that does the same.
    pub(super) fn transposed(
        &mut self,
        of: NodeId,
        x: NodeId,
        perm: Vec<usize>,
        suffix: &str,
    ) -> Result<NodeId, GraphError> {
        let node = self.graph.node(of);
        let name = format!("{}.{suffix}", node.name);
        let shape = self.rewriter.node(x).shape.clone();
        let order = |axis: &&usize| shape.dims()[**axis] != Dim::Fixed(1);
        let op: Op = if perm.iter().filter(order).is_sorted() {
            let dims = perm.iter().filter_map(|&axis| shape.dims()[axis].fixed()).collect();
            Reshape { dims }.into()
        } else {
            Transpose { perm }.into()
        };
        self.rewriter.add(&name, op, vec![x], &node.origin)
    }

    /// Adds an int8 convolution with given parameters.
    pub(super) fn conv_of(
        &mut self,
        node: &Node,
        conv: &IntegerConv,
        x: NodeId,
        weight: NodeId,
        bias: NodeId,
    ) -> Result<NodeId, GraphError> {
        if conv.groups != 1 || !conv.window.is_identity() {
            let op = IntegerConv { layout: ImageLayout::ChannelsLast, ..conv.clone() };
            return self.rewriter.add(&node.name, op, vec![x, weight, bias], &node.origin);
        }
        let weight = self.matrix(node, weight)?;
        let op = IntegerLinear { fraction_bits: conv.fraction_bits };
        self.rewriter.add(&node.name, op, vec![x, weight, bias], &node.origin)
    }

    /// Adds a weight `[N, C, 1, 1]` as a matrix `[N, C]`; a constant keeps the bits of its elements.
    fn matrix(&mut self, node: &Node, weight: NodeId) -> Result<NodeId, GraphError> {
        let dims = self.rewriter.node(weight).shape.fixed_dims()[..2].to_vec();
        let name = format!("{}.matrix", self.rewriter.node(weight).name);
        match self.rewriter.node(weight).op.clone() {
            Op::Constant(Constant { tensor, bits }) => {
                let matrix = match tensor.as_i8() {
                    Some(values) => crate::values::slices::codes(&dims, values.to_vec()),
                    None => (*tensor).clone(),
                };
                self.rewriter.add(&name, Constant { tensor: matrix.into(), bits }, Vec::new(), &node.origin)
            }
            _ => self.rewriter.add(&name, Reshape { dims }, vec![weight], &node.origin),
        }
    }

    pub(super) fn part(
        &mut self,
        node: &Node,
        suffix: &str,
        op: impl Into<Op>,
        inputs: Vec<NodeId>,
    ) -> Result<NodeId, GraphError> {
        self.rewriter.add(&format!("{}.{suffix}", node.name), op, inputs, &node.origin)
    }
}

/// The permutation that moves axis 1, the channels, to the end.
pub(super) fn to_last(rank: usize) -> Vec<usize> {
    [0].into_iter().chain(2..rank).chain([1]).collect()
}

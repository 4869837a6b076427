//! Convolutions that stay float, as products of the elements under the window and the weight.

use super::pass::{Pass, to_last};
use crate::graph::{GraphError, Node, NodeId};
use crate::ops::{Add, Constant, ConvTranspose, IndexSelect, Linear, MatMul, Reshape, Transpose, Unfold, Window};
use crate::values::Shape;
use crate::values::slices::tensor;

/// A convolution in float.
pub(super) struct FloatConv {
    pub(super) window: Window,
    pub(super) groups: usize,
    /// The layer that computes it of its patches, which says how floats are multiplied.
    pub(super) layer: Linear,
    /// The new node of the weight `[N, C / groups, …]`.
    pub(super) weight: NodeId,
    pub(super) bias: Option<NodeId>,
}

impl Pass<'_> {
    /// Adds the weight `[N, C / groups, …]` of the convolution that computes a transposed one.
    pub(super) fn mirrored(&mut self, node: &Node, conv: &ConvTranspose) -> Result<NodeId, GraphError> {
        let mut weight = self.first(node.inputs[1])?;
        let dims = self.graph.node(node.inputs[1]).shape.fixed_dims();
        for (axis, &taps) in dims.iter().enumerate().skip(2).filter(|(_, taps)| **taps > 1) {
            let indices = (0..taps as u32).rev().collect();
            weight = self.part(node, "mirrored", IndexSelect { axis, indices }, vec![weight])?;
        }
        let (c, n, taps) = (dims[0] / conv.groups, dims[1], &dims[2..]);
        let split = [&[conv.groups, c, n], taps].concat();
        weight = self.part(node, "grouped", Reshape { dims: split }, vec![weight])?;
        let perm = [0, 2, 1].into_iter().chain(3..3 + taps.len()).collect();
        weight = self.part(node, "swapped", Transpose { perm }, vec![weight])?;
        let dims = [&[conv.groups * n, c], taps].concat();
        self.part(node, "weight", Reshape { dims }, vec![weight])
    }

    /// Adds a convolution in float, as products of the elements under the window and the weight.
    pub(super) fn float_conv(&mut self, node: &Node, conv: FloatConv) -> Result<NodeId, GraphError> {
        let FloatConv { window, groups, layer, weight, bias } = conv;
        let mut x = self.last(node.inputs[0])?;
        if !window.is_identity() {
            let zero = self.part(node, "zero", Constant::new(tensor(Vec::new(), vec![0f32])), Vec::new())?;
            x = self.part(node, "patches", Unfold { window: window.clone() }, vec![x, zero])?;
        }
        let dims = self.rewriter.node(weight).shape.fixed_dims();
        let (n, c, taps) = (dims[0], dims[1], dims[2..].iter().product::<usize>());
        let by_tap = self.part(node, "by_tap", Transpose { perm: to_last(dims.len()) }, vec![weight])?;
        if groups == 1 {
            let weight = self.part(node, "matrix", Reshape { dims: vec![n, taps * c] }, vec![by_tap])?;
            let inputs = [x, weight].into_iter().chain(bias).collect();
            return self.rewriter.add(&node.name, layer, inputs, &node.origin);
        }
        // A stack of one product for each group.
        let (k, n) = (taps * c, n / groups);
        let weight = self.part(node, "matrices", Reshape { dims: vec![groups, n, k] }, vec![by_tap])?;
        let weight = self.part(node, "stack", Transpose { perm: vec![0, 2, 1] }, vec![weight])?;
        let shape: Shape = self.rewriter.node(x).shape.clone();
        let mut image = shape.fixed_dims();
        image.pop();
        // A fixed number of images is an axis of a reshape; a batch is not.
        let (lead, axes) = image.split_at(usize::from(!shape.is_batched()));
        let pixels: usize = axes.iter().product();
        let of = |rest: &[usize]| [lead, rest].concat();
        x = self.part(node, "split", Reshape { dims: of(&[pixels, taps, groups, c]) }, vec![x])?;
        x = self.part(node, "by_group", Transpose { perm: vec![0, 3, 1, 2, 4] }, vec![x])?;
        x = self.part(node, "stacked", Reshape { dims: of(&[groups, pixels, k]) }, vec![x])?;
        x = self.part(node, "products", MatMul { products: layer.products }, vec![x, weight])?;
        x = self.part(node, "by_pixel", Transpose { perm: vec![0, 2, 1, 3] }, vec![x])?;
        let dims = [&image[..], &[groups * n]].concat();
        match bias {
            None => self.rewriter.add(&node.name, Reshape { dims }, vec![x], &node.origin),
            Some(bias) => {
                x = self.part(node, "joined", Reshape { dims }, vec![x])?;
                self.rewriter.add(&node.name, Add, vec![x, bias], &node.origin)
            }
        }
    }
}

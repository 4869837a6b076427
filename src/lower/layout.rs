//! A graph pass that gives images the layout of programs, with the channels last.
//!
//! Convolutions and pools read and write images with the channels last. Operators that compute the same of permuted inputs, such as
//! sums, functions and concatenations, follow the layout of what they read. Elsewhere, a transpose or, if only one axis is longer than 1,
//! a reshape converts an image, so that a classifier has one transpose, at its input.
//!
//! Convolutions that stay float become products of the elements under the window ([`Unfold`]) and the weight. A convolution of one tap
//! is a linear layer.

use ndarray::arr0;

use super::error::LowerError;
use crate::graph::{Graph, GraphError, Node, NodeId, Rewriter};
use crate::ops::{
    Add, Aligned, AveragePool, Constant, Conv, ConvTranspose, ImageLayout, IndexSelect, IntegerAveragePool,
    IntegerConv, IntegerLinear, IntegerResizeLinear, Linear, MatMul, MaxPool, Op, Reshape, ResizeLinear, Transpose,
    Unfold, Window,
};
use crate::values::{Dim, Shape, Tensor};

/// Rewrites a graph so that convolutions and pools have the channels last. Every output keeps its name, its shape and its bits.
pub(super) fn channels_last(graph: &Graph) -> Result<Graph, LowerError> {
    if !graph.nodes().iter().any(|node| is_image_operator(&node.op)) {
        return Ok(graph.clone());
    }
    let nodes = graph.nodes().len();
    let mut pass = Pass { graph, rewriter: Rewriter::new(graph), first: vec![None; nodes], last: vec![None; nodes] };
    for (id, node) in graph.iter() {
        pass.node(id, node)?;
    }
    for &output in graph.outputs().iter().chain(graph.inputs()) {
        let first = pass.first(output)?;
        pass.rewriter.replace(output, first);
    }
    Ok(pass.rewriter.finish()?)
}

/// Whether an operator reads images in a layout that it chooses.
fn is_image_operator(op: &Op) -> bool {
    matches!(
        op,
        Op::Conv(_)
            | Op::ConvTranspose(_)
            | Op::IntegerConv(_)
            | Op::MaxPool(_)
            | Op::AveragePool(_)
            | Op::IntegerAveragePool(_)
            | Op::ResizeLinear(_)
            | Op::IntegerResizeLinear(_)
    )
}

struct Pass<'g> {
    graph: &'g Graph,
    rewriter: Rewriter<'g>,
    /// The new node of each value as it is in the graph.
    first: Vec<Option<NodeId>>,
    /// The new node of each image with the channels last.
    last: Vec<Option<NodeId>>,
}

/// A convolution in float.
struct FloatConv {
    window: Window,
    groups: usize,
    /// The layer that computes it of its patches, which says how floats are multiplied.
    layer: Linear,
    /// The new node of the weight `[N, C / groups, …]`.
    weight: NodeId,
    bias: Option<NodeId>,
}

impl Pass<'_> {
    fn node(&mut self, id: NodeId, node: &Node) -> Result<(), GraphError> {
        let is_last = match &node.op {
            Op::Conv(Conv { window, groups, products }) => {
                let (weight, bias) = (self.first(node.inputs[1])?, self.optional(node, 2)?);
                let layer = Linear { products: *products };
                let conv = FloatConv { window: window.clone(), groups: *groups, layer, weight, bias };
                Some(self.float_conv(node, conv)?)
            }
            Op::ConvTranspose(conv) => {
                let (weight, bias) = (self.mirrored(node, conv)?, self.optional(node, 2)?);
                let layer = Linear { products: conv.products };
                let conv = FloatConv { window: conv.as_conv(), groups: conv.groups, layer, weight, bias };
                Some(self.float_conv(node, conv)?)
            }
            Op::IntegerConv(conv) if conv.layout == ImageLayout::ChannelsFirst => {
                let x = self.last(node.inputs[0])?;
                Some(self.integer_conv(node, conv, x)?)
            }
            Op::IntegerConv(conv) => {
                let x = self.first(node.inputs[0])?;
                self.first[id.index()] = Some(self.integer_conv(node, conv, x)?);
                return Ok(());
            }
            Op::MaxPool(pool) if pool.layout == ImageLayout::ChannelsFirst => {
                Some(self.pool(node, MaxPool { layout: ImageLayout::ChannelsLast, ..pool.clone() })?)
            }
            Op::AveragePool(pool) if pool.layout == ImageLayout::ChannelsFirst => {
                Some(self.pool(node, AveragePool { layout: ImageLayout::ChannelsLast, ..pool.clone() })?)
            }
            Op::IntegerAveragePool(pool) if pool.layout == ImageLayout::ChannelsFirst => {
                Some(self.pool(node, IntegerAveragePool { layout: ImageLayout::ChannelsLast, ..pool.clone() })?)
            }
            Op::ResizeLinear(resize) if resize.layout == ImageLayout::ChannelsFirst => {
                Some(self.pool(node, ResizeLinear { layout: ImageLayout::ChannelsLast, ..resize.clone() })?)
            }
            Op::IntegerResizeLinear(resize) if resize.layout == ImageLayout::ChannelsFirst => {
                Some(self.pool(node, IntegerResizeLinear { layout: ImageLayout::ChannelsLast, ..resize.clone() })?)
            }
            // The caller may want the int8 values of this output, so the transpose comes before.
            Op::Dequantize(_) if self.graph.outputs().contains(&id) => None,
            _ => self.permuted(node)?,
        };
        match is_last {
            Some(new) => self.last[id.index()] = Some(new),
            None => {
                for &input in &node.inputs {
                    let first = self.first(input)?;
                    self.rewriter.replace(input, first);
                }
                self.first[id.index()] = Some(self.rewriter.copy(id)?);
            }
        }
        let new = self.last[id.index()].or(self.first[id.index()]);
        if let (Some(new), Some(reason)) = (new, &node.float_reason) {
            self.rewriter.stays_float(new, reason.clone());
        }
        Ok(())
    }

    /// Returns the node of a value as it is in the graph.
    fn first(&mut self, id: NodeId) -> Result<NodeId, GraphError> {
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
    fn last(&mut self, id: NodeId) -> Result<NodeId, GraphError> {
        if let Some(last) = self.last[id.index()] {
            return Ok(last);
        }
        let first = self.first(id)?;
        let last = self.transposed(id, first, to_last(self.graph.node(id).shape.rank()), "channels_last")?;
        self.last[id.index()] = Some(last);
        Ok(last)
    }

    /// Adds the transpose of a value, or the reshape that does the same.
    fn transposed(&mut self, of: NodeId, x: NodeId, perm: Vec<usize>, suffix: &str) -> Result<NodeId, GraphError> {
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

    /// Adds the operator on permuted inputs, if it reads an image with the channels last and has such a form.
    fn permuted(&mut self, node: &Node) -> Result<Option<NodeId>, GraphError> {
        let rank = node.shape.rank();
        let is_image = |id: &NodeId| self.last[id.index()].is_some() && self.graph.node(*id).shape.rank() == rank;
        if rank < 3 || !node.inputs.iter().any(is_image) {
            return Ok(None);
        }
        let Some((op, aligned)) = node.op.permuted(&to_last(rank)) else { return Ok(None) };
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for (at, &input) in node.inputs.iter().enumerate() {
            inputs.push(if at == 0 || aligned == Aligned::All {
                self.aligned(input, rank)?
            } else {
                self.first(input)?
            });
        }
        self.rewriter.add(&node.name, op, inputs, &node.origin).map(Some)
    }

    /// Returns the node of an operand with the channels last: an image, or a value that is broadcast to an image with `rank` axes.
    fn aligned(&mut self, id: NodeId, rank: usize) -> Result<NodeId, GraphError> {
        let shape = &self.graph.node(id).shape;
        if shape.rank() == rank {
            return self.last(id);
        }
        let mut x = self.first(id)?;
        if shape.dims().iter().all(|&dim| dim == Dim::Fixed(1)) {
            return Ok(x);
        }
        let dims: Vec<usize> = std::iter::repeat_n(1, rank - shape.rank()).chain(shape.fixed_dims()).collect();
        let node = self.graph.node(id);
        x = self.rewriter.add(&format!("{}.expanded", node.name), Reshape { dims }, vec![x], &node.origin)?;
        self.transposed(id, x, to_last(rank), "channels_last")
    }

    /// Adds an operator on one image.
    fn pool(&mut self, node: &Node, op: impl Into<Op>) -> Result<NodeId, GraphError> {
        let x = self.last(node.inputs[0])?;
        self.rewriter.add(&node.name, op, vec![x], &node.origin)
    }

    fn optional(&mut self, node: &Node, input: usize) -> Result<Option<NodeId>, GraphError> {
        node.inputs.get(input).map(|&id| self.first(id)).transpose()
    }

    /// Adds an int8 convolution of an image with the channels last. A window of one tap sees what a linear layer sees.
    fn integer_conv(&mut self, node: &Node, conv: &IntegerConv, x: NodeId) -> Result<NodeId, GraphError> {
        let (weight, bias) = (self.first(node.inputs[1])?, self.first(node.inputs[2])?);
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

    /// Adds the weight `[N, C / groups, …]` of the convolution that computes a transposed one.
    fn mirrored(&mut self, node: &Node, conv: &ConvTranspose) -> Result<NodeId, GraphError> {
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

    fn part(
        &mut self,
        node: &Node,
        suffix: &str,
        op: impl Into<Op>,
        inputs: Vec<NodeId>,
    ) -> Result<NodeId, GraphError> {
        self.rewriter.add(&format!("{}.{suffix}", node.name), op, inputs, &node.origin)
    }

    /// Adds a convolution in float, as products of the elements under the window and the weight.
    fn float_conv(&mut self, node: &Node, conv: FloatConv) -> Result<NodeId, GraphError> {
        let FloatConv { window, groups, layer, weight, bias } = conv;
        let mut x = self.last(node.inputs[0])?;
        if !window.is_identity() {
            let zero = self.part(node, "zero", Constant::new(Tensor::from(arr0(0f32))), Vec::new())?;
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

/// The permutation that moves axis 1, the channels, to the end.
fn to_last(rank: usize) -> Vec<usize> {
    [0].into_iter().chain(2..rank).chain([1]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::GraphBuilder;
    use crate::interp::Interpreter;

    fn floats(shape: &[usize]) -> Tensor {
        let length = shape.iter().product::<usize>();
        Tensor::from_f32(shape, (0..length).map(|i| (i * 37 % 101) as f32 * 0.02 - 1.0).collect()).expect("fits")
    }

    fn count(graph: &Graph, is: impl Fn(&Op) -> bool) -> usize {
        graph.nodes().iter().filter(|node| is(&node.op)).count()
    }

    /// A classifier with a residual sum, a norm's factors, a concatenation and pools: one transpose at its input, and none inside.
    #[test]
    fn a_classifier_has_one_transpose() {
        let mut g = GraphBuilder::new();
        let x = g.input("x", Shape::batched(&[3, 8, 8])).expect("an input");
        let window = || Window::new(&[3, 3]).with_padding(&[1, 1]);
        let a = g.conv("a", x, floats(&[6, 3, 3, 3]), Some(floats(&[6])), Conv::new(window())).expect("a conv");
        let a = g.relu("relu", a).expect("a relu");
        let b = g.conv("b", a, floats(&[6, 1, 3, 3]), None, Conv::new(window()).with_groups(6)).expect("a conv");
        let factors = g.constant("factors", floats(&[6, 1, 1])).expect("a constant");
        let b = g.mul("scaled", b, factors).expect("a product");
        let sum = g.add("sum", a, b).expect("a sum");
        let both = g.concat("both", &[sum, a], 1).expect("joined");
        let pooled = g.max_pool("pooled", both, MaxPool::new(Window::new(&[2, 2]))).expect("a pool");
        let mean = g.average_pool("mean", pooled, AveragePool::adaptive(&[1, 1])).expect("a mean");
        let flat = g.flatten("flat", mean, 1).expect("flat");
        let y = g.linear("fc", flat, floats(&[4, 12]), None).expect("a layer");
        let graph = g.finish([y]).expect("a graph");

        let last = channels_last(&super::super::decompose::decompose(&graph).expect("decomposed")).expect("rewritten");
        let constant = |id: NodeId| matches!(last.node(id).op, Op::Constant(_));
        let moved: Vec<&str> = last
            .nodes()
            .iter()
            .filter(|node| matches!(node.op, Op::Transpose(_)) && node.shape.is_batched())
            .map(|node| node.name.as_str())
            .collect();
        // The groups of b are a stack of products, which moves the patches.
        assert_eq!(moved, ["x.channels_last", "b.by_group", "b.by_pixel"], "{last}");
        assert!(count(&last, |op| matches!(op, Op::Conv(_))) == 0 && !constant(last.outputs()[0]));
        let x = floats(&[2, 3, 8, 8]);
        let run = |graph: &Graph| Interpreter::new(graph).run(&[&x]).expect("run").swap_remove(0);
        let (expected, got) = (run(&graph), run(&last));
        for (got, expected) in got.as_f32().expect("floats").iter().zip(expected.as_f32().expect("floats")) {
            approx::assert_abs_diff_eq!(got, expected, epsilon = 1e-4);
        }
    }

    /// Groups of a fixed number of images.
    #[test]
    fn groups_of_a_fixed_number_of_images() {
        let mut g = GraphBuilder::new();
        let x = g.input("x", Shape::fixed(&[3, 4, 5, 6])).expect("an input");
        let conv = Conv::new(Window::new(&[3, 2])).with_groups(2);
        let y = g.conv("y", x, floats(&[6, 2, 3, 2]), Some(floats(&[6])), conv).expect("a conv");
        let graph = g.finish([y]).expect("a graph");
        let last = channels_last(&graph).expect("rewritten");
        assert_eq!(count(&last, |op| matches!(op, Op::MatMul(_))), 1, "{last}");
        let x = floats(&[3, 4, 5, 6]);
        let run = |graph: &Graph| Interpreter::new(graph).run(&[&x]).expect("run").swap_remove(0);
        let (expected, got) = (run(&graph), run(&last));
        assert_eq!(got.shape(), expected.shape());
        for (got, expected) in got.as_f32().expect("floats").iter().zip(expected.as_f32().expect("floats")) {
            approx::assert_abs_diff_eq!(got, expected, epsilon = 1e-4);
        }
    }

    /// An image that leaves goes back to the layout of the graph.
    #[test]
    fn an_output_keeps_its_layout() {
        let mut g = GraphBuilder::new();
        let x = g.input("x", Shape::batched(&[2, 5])).expect("an input");
        let y = g.max_pool("y", x, MaxPool::new(Window::new(&[2]))).expect("a pool");
        let graph = g.finish([y]).expect("a graph");
        let last = channels_last(&graph).expect("rewritten");
        assert_eq!(count(&last, |op| matches!(op, Op::Transpose(_))), 2, "{last}");
        assert_eq!(last.node(last.outputs()[0]).shape, Shape::batched(&[2, 4]));
        let x = floats(&[3, 2, 5]);
        assert_eq!(Interpreter::new(&last).run(&[&x]), Interpreter::new(&graph).run(&[&x]));
    }
}

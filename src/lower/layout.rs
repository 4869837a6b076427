//! A graph pass that gives images the layout of programs, with the channels last.
//!
//! Convolutions and pools read and write images with the channels last. Operators that compute the same of permuted inputs, such as
//! sums, functions and concatenations, follow the layout of what they read, and so do the patches of a vision transformer, which a
//! graph reshapes and transposes to tokens. Elsewhere, a transpose or, if only one axis is longer than 1, a reshape converts an image,
//! so that a classifier has one transpose, at its input.
//!
//! Convolutions that stay float become products of the elements under the window ([`Unfold`]) and the weight. A convolution of one tap
//! is a linear layer.

mod float_conv;
mod pass;
mod phases;

use self::float_conv::FloatConv;
use self::pass::{Pass, to_last};

use super::error::LowerError;
use crate::graph::{Graph, GraphError, Node, NodeId, Rewriter};
use crate::ops::{
    Aligned, AveragePool, Conv, ImageLayout, IntegerAveragePool, IntegerConv, IntegerResizeLinear, Linear, MaxPool, Op,
    Reshape, ResizeLinear, Transpose,
};
use crate::values::{Dim, Shape};

/// Rewrites a graph so that convolutions and pools have the channels last. Every output keeps its name, its shape and its bits.
pub(super) fn channels_last(graph: &Graph) -> Result<Graph, LowerError> {
    if !graph.nodes().iter().any(|node| is_image_operator(&node.op)) {
        return Ok(graph.clone());
    }
    let nodes = graph.nodes().len();
    let (first, last, phases) = (vec![None; nodes], vec![None; nodes], (0..nodes).map(|_| None).collect());
    let (rewriter, users) = (Rewriter::new(graph), graph.users());
    let mut pass = Pass { graph, users, rewriter, first, last, phases };
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

impl Pass<'_> {
    fn node(&mut self, id: NodeId, node: &Node) -> Result<(), GraphError> {
        let phases = node.inputs.first().and_then(|acc| self.phases[acc.index()].take());
        let is_last = match &node.op {
            _ if let Some(phases) = phases => Some(self.of_phases(node, &phases)?),
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
                let phased = if conv.window.has_gaps() { self.phased(id, node, conv)? } else { None };
                Some(match phased {
                    Some(phased) => phased,
                    None => {
                        let x = self.last(node.inputs[0])?;
                        self.integer_conv(node, conv, x)?
                    }
                })
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
            Op::Reshape(_) if self.keeps_channels(node) => {
                let mut dims = node.shape.fixed_dims();
                let channels = dims.remove(usize::from(!node.shape.is_batched()));
                dims.push(channels);
                let x = self.last(node.inputs[0])?;
                Some(self.rewriter.add(&node.name, Reshape { dims }, vec![x], &node.origin)?)
            }
            // An image whose channels the graph itself moves to the end. The outputs of a graph are nodes of their own.
            Op::Transpose(Transpose { perm })
                if *perm == to_last(perm.len()) && self.last[node.inputs[0].index()].is_some() =>
            {
                let mut x = self.last(node.inputs[0])?;
                if self.graph.outputs().contains(&id) {
                    let same = Reshape { dims: node.shape.fixed_dims() };
                    x = self.rewriter.add(&node.name, same, vec![x], &node.origin)?;
                }
                self.first[id.index()] = Some(x);
                return Ok(());
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

    /// Whether a node has the pixels of an image in another shape, and its channels as they are.
    fn keeps_channels(&self, node: &Node) -> bool {
        let (x, y) = (&self.graph.node(node.inputs[0]).shape, &node.shape);
        let lead = |shape: &Shape| (shape.dims()[0], shape.dims()[1]);
        self.last[node.inputs[0].index()].is_some() && y.rank() >= 3 && lead(x) == lead(y)
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
        self.conv_of(node, conv, x, weight, bias)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::GraphBuilder;
    use crate::interp::Interpreter;
    use crate::ops::Window;
    use crate::values::Tensor;

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

    /// The patches of a vision transformer become tokens where they are. Two outputs do not become one.
    #[test]
    fn patches_become_tokens() {
        let mut g = GraphBuilder::new();
        let x = g.input("x", Shape::batched(&[3, 8, 12])).expect("an input");
        let window = Window::new(&[4, 4]).with_stride(&[4, 4]);
        let h = g.conv("patches", x, floats(&[5, 3, 4, 4]), None, Conv::new(window)).expect("a conv");
        let h = g.flatten("flat", h, 2).expect("flat");
        let tokens = g.transpose("tokens", h, &[0, 2, 1]).expect("moved");
        let again = g.transpose("again", h, &[0, 2, 1]).expect("moved");
        let y = g.linear("fc", tokens, floats(&[7, 5]), None).expect("a layer");
        let graph = g.finish([y, tokens, again]).expect("a graph");
        let x = floats(&[2, 3, 8, 12]);
        let run = |graph: &Graph| Interpreter::new(graph).run(&[&x]).expect("run");
        let moved = |graph: &Graph| {
            let graph =
                channels_last(&super::super::decompose::decompose(graph).expect("decomposed")).expect("rewritten");
            let is_moved = |node: &Node| matches!(node.op, Op::Transpose(_)) && node.shape.is_batched();
            (graph.nodes().iter().filter(|node| is_moved(node)).count(), run(&graph))
        };
        let (transposes, outputs) = moved(&graph);
        for (got, expected) in outputs.iter().zip(run(&graph)) {
            for (got, expected) in got.as_f32().expect("floats").iter().zip(expected.as_f32().expect("floats")) {
                approx::assert_abs_diff_eq!(got, expected, epsilon = 1e-4);
            }
        }
        assert_eq!(transposes, 1);
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

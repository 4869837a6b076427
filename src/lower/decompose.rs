//! A graph pass that rewrites operators without a step into operators with one, so that lowering maps a node to a step.

use super::constants;
use super::error::LowerError;
use crate::graph::{Graph, GraphError, Node, NodeId, Rewriter};
use crate::ops::{Add, AddScalar, BatchNorm, Constant, Flatten, Mask, Mul, MulScalar, Op, Reshape};
use crate::values::Tensor;
use crate::values::slices::{f32s, tensor};

/// Rewrites `Where`, batch norms with constant statistics, sums and products with a number, and `Flatten`. Every output keeps its
/// name and its bits.
pub(super) fn decompose(graph: &Graph) -> Result<Graph, LowerError> {
    if !graph.nodes().iter().any(|node| is_composite(&node.op)) {
        return Ok(graph.clone());
    }
    let norms = graph.nodes().iter().filter(|node| matches!(node.op, Op::BatchNorm(_)));
    let statistics: Vec<NodeId> = norms.flat_map(|node| node.inputs[1..].iter().copied()).collect();
    let known = constants::known(graph, &statistics)?;
    let mut rewriter = Rewriter::new(graph);
    for (id, node) in graph.iter() {
        let mut parts = Parts { rewriter: &mut rewriter, node };
        let new = match &node.op {
            Op::Where(_) => Some(parts.select()?),
            &Op::AddScalar(AddScalar { value }) => Some(parts.with_number(Add.into(), value)?),
            &Op::MulScalar(MulScalar { value }) => Some(parts.with_number(Mul.into(), value)?),
            Op::Flatten(Flatten { .. }) => Some(parts.last(Reshape { dims: node.shape.fixed_dims() }, &node.inputs)?),
            &Op::BatchNorm(norm) => {
                let statistics: Option<Vec<_>> =
                    node.inputs[1..].iter().map(|input| known[input.index()].as_ref()).collect();
                statistics.map(|known| parts.batch_norm(norm, [0, 1, 2, 3].map(|at| f32s(known[at])))).transpose()?
            }
            _ => None,
        };
        match new {
            Some(new) => {
                if let Some(reason) = &node.float_reason {
                    rewriter.stays_float(new, reason.clone());
                }
                rewriter.replace(id, new);
            }
            None => {
                rewriter.copy(id)?;
            }
        }
    }
    Ok(rewriter.finish()?)
}

/// Whether the pass rewrites an operator.
fn is_composite(op: &Op) -> bool {
    matches!(op, Op::Where(_) | Op::AddScalar(_) | Op::MulScalar(_) | Op::Flatten(_) | Op::BatchNorm(_))
}

/// The rewrite of one node.
struct Parts<'p, 'g> {
    rewriter: &'p mut Rewriter<'g>,
    node: &'g Node,
}

impl Parts<'_, '_> {
    /// Adds a node on new inputs, with a suffix to the name.
    fn part(&mut self, suffix: &str, op: impl Into<Op>, inputs: Vec<NodeId>) -> Result<NodeId, GraphError> {
        self.rewriter.add(&format!("{}.{suffix}", self.node.name), op, inputs, &self.node.origin)
    }

    /// Adds the node that computes the result, on old inputs.
    fn last(&mut self, op: impl Into<Op>, inputs: &[NodeId]) -> Result<NodeId, GraphError> {
        let inputs = inputs.iter().map(|&input| self.rewriter.get(input)).collect::<Result<_, _>>()?;
        self.rewriter.add(&self.node.name, op, inputs, &self.node.origin)
    }

    fn input(&self, at: usize) -> Result<NodeId, GraphError> {
        self.rewriter.get(self.node.inputs[at])
    }

    /// Rewrites `Where` as the sum of two values, each masked by the condition.
    fn select(&mut self) -> Result<NodeId, GraphError> {
        let [condition, a, b] = [self.input(0)?, self.input(1)?, self.input(2)?];
        let a = self.part("a", Mask { inverted: false }, vec![a, condition])?;
        let b = self.part("b", Mask { inverted: true }, vec![b, condition])?;
        self.rewriter.add(&self.node.name, Add, vec![a, b], &self.node.origin)
    }

    /// Rewrites an operator with a number as `op` with a constant.
    fn with_number(&mut self, op: Op, value: f32) -> Result<NodeId, GraphError> {
        let x = self.input(0)?;
        let number = self.part("scalar", constant(tensor(Vec::new(), vec![value])), Vec::new())?;
        self.rewriter.add(&self.node.name, op, vec![x, number], &self.node.origin)
    }

    /// Rewrites a batch norm as `x · factor + offset`.
    fn batch_norm(
        &mut self,
        norm: BatchNorm,
        [mean, variance, weight, bias]: [&[f32]; 4],
    ) -> Result<NodeId, GraphError> {
        let affine = |c: usize| norm.factor_and_offset(mean[c], variance[c], weight[c], bias[c]);
        // Channels are axis 1. The axes after it are broadcast.
        let mut shape = vec![mean.len()];
        shape.resize(self.node.shape.rank() - 1, 1);
        let vector = |value: &dyn Fn(usize) -> f32| {
            let values = (0..mean.len()).map(value).collect();
            constant(Tensor::from_f32(&shape, values).expect("one value for each channel"))
        };
        let (factors, offsets) = (vector(&|c| affine(c).0), vector(&|c| affine(c).1));
        let factors = self.part("factor", factors, Vec::new())?;
        let offsets = self.part("offset", offsets, Vec::new())?;
        let scaled = vec![self.input(0)?, factors];
        let scaled = self.part("scaled", Mul, scaled)?;
        self.rewriter.add(&self.node.name, Add, vec![scaled, offsets], &self.node.origin)
    }
}

fn constant(tensor: Tensor) -> Constant {
    Constant::new(tensor)
}

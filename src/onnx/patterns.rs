//! Recognition of layers that a file spells out in smaller nodes: biases, layer normalization, GELU, SiLU, and quantization.
//!
//! The importer writes a quotient by a number as a product, a mean as a sum and a product, and so on, so that each layer has few forms.
//! A match changes one node, which then reads earlier nodes. Nodes that are not read any more are left out of the finished graph.

mod fake_quantize;

use std::collections::BTreeSet;
use std::sync::Arc;

use super::draft::Draft;
use super::names;
use crate::graph::NodeId;
use crate::ops::{Add, AddScalar, Constant, Div, Input, LayerNorm, Linear, Mul, MulScalar, Op, Sum, Unary, UnaryOp};
use crate::values::{DType, Tensor};

/// The relative tolerance for numbers of a pattern that files write with few digits, such as √2.
const NEAR: f32 = 1e-3;
/// The relative tolerance for numbers that files write in full: a factor of 1/(n − 1), for example, is not that of a mean.
const EXACT: f32 = 1e-6;

/// Rewrites every pattern in the draft. `outputs` are read by the caller of the graph too.
pub(super) fn apply(draft: &mut Draft, outputs: &BTreeSet<NodeId>) {
    let mut readers = vec![0usize; draft.nodes.len()];
    draft.nodes.iter().for_each(|node| node.inputs.iter().for_each(|input| readers[input.index()] += 1));
    outputs.iter().for_each(|id| readers[id.index()] += 1);
    for at in 0..draft.nodes.len() {
        let mut pattern = Pattern { draft, at, readers: &mut readers };
        let _found = pattern.expanded()
            || pattern.bias()
            || pattern.gelu()
            || pattern.layer_norm()
            || pattern.affine()
            || pattern.fake_quantize()
            || pattern.limited_quantize();
    }
}

struct Pattern<'d> {
    draft: &'d mut Draft,
    at: usize,
    readers: &'d mut Vec<usize>,
}

impl Pattern<'_> {
    fn op(&self, id: NodeId) -> &Op {
        &self.draft.node(id).op
    }

    fn inputs(&self, id: NodeId) -> &[NodeId] {
        &self.draft.node(id).inputs
    }

    fn here(&self) -> NodeId {
        NodeId::new(self.at)
    }

    /// The input of a node with this function.
    fn unary(&self, id: NodeId, op: UnaryOp) -> Option<NodeId> {
        (*self.op(id) == Op::Unary(Unary { op })).then(|| self.inputs(id)[0])
    }

    /// The input of a product with one number, and the number.
    fn scaled(&self, id: NodeId) -> Option<(NodeId, f32)> {
        match *self.op(id) {
            Op::MulScalar(MulScalar { value }) => Some((self.inputs(id)[0], value)),
            _ => None,
        }
    }

    /// The input of a sum with one number, and the number.
    fn shifted(&self, id: NodeId) -> Option<(NodeId, f32)> {
        match *self.op(id) {
            Op::AddScalar(AddScalar { value }) => Some((self.inputs(id)[0], value)),
            _ => None,
        }
    }

    fn pair(&self, id: NodeId, op: &Op) -> Option<(NodeId, NodeId)> {
        match (self.op(id) == op, self.inputs(id)) {
            (true, &[a, b]) => Some((a, b)),
            _ => None,
        }
    }

    fn constant(&self, id: NodeId) -> Option<Arc<Tensor>> {
        match self.op(id) {
            Op::Constant(Constant { tensor, .. }) if tensor.dtype() == DType::F32 => Some(Arc::clone(tensor)),
            _ => None,
        }
    }

    /// Whether two nodes compute the same value: they are the same node, or have the same operator and inputs.
    fn same(&self, a: NodeId, b: NodeId, depth: usize) -> bool {
        if a == b {
            return true;
        }
        let (x, y) = (self.draft.node(a), self.draft.node(b));
        let alike =
            !matches!(x.op, Op::Input(Input) | Op::Constant(_)) && x.op == y.op && x.inputs.len() == y.inputs.len();
        depth > 0 && alike && x.inputs.iter().zip(&y.inputs).all(|(&a, &b)| self.same(a, b, depth - 1))
    }

    fn becomes(&mut self, op: Op, inputs: Vec<NodeId>) -> bool {
        let node = &mut self.draft.nodes[self.at];
        node.inputs.iter().for_each(|input| self.readers[input.index()] -= 1);
        inputs.iter().for_each(|input| self.readers[input.index()] += 1);
        node.op = op;
        node.inputs = inputs;
        true
    }

    /// A product with ones whose result meets a value of the same shape. Broadcasting makes it unnecessary.
    fn expanded(&mut self) -> bool {
        let (Op::Add(Add) | Op::Mul(Mul) | Op::Div(Div)) = self.op(self.here()) else { return false };
        for position in 0..2 {
            let (a, other) = (self.inputs(self.here())[position], self.inputs(self.here())[1 - position]);
            let Some((x, ones)) = self.pair(a, &Op::Mul(Mul)) else { continue };
            let is_ones = self.constant(ones).is_some_and(|t| t.as_f32().is_some_and(|v| v.iter().all(|v| *v == 1.0)));
            let here = self.draft.shape(self.here());
            if is_ones && self.draft.shape(other) == here && self.draft.shape(x).rank() == here.rank() {
                let mut inputs = self.inputs(self.here()).to_vec();
                inputs[position] = x;
                let op = self.op(self.here()).clone();
                return self.becomes(op, inputs);
            }
        }
        false
    }

    /// The sum of a linear layer and a constant row is a linear layer with a bias.
    fn bias(&mut self) -> bool {
        let Some((a, b)) = self.pair(self.here(), &Op::Add(Add)) else { return false };
        for (product, bias) in [(a, b), (b, a)] {
            let (Op::Linear(_), &[x, weight]) = (self.op(product), self.inputs(product)) else { continue };
            let n = self.draft.shape(weight).fixed_dims()[0];
            let stored = match self.op(bias) {
                Op::Constant(Constant { tensor, .. }) if tensor.dtype() == DType::F32 => Some(bias),
                Op::Dequantize(_) => Some(self.inputs(bias)[0]),
                _ => None,
            };
            let constant = stored.is_some_and(|stored| matches!(self.op(stored), Op::Constant(_)));
            let dims = self.draft.shape(bias).fixed_dims().to_vec();
            let row = dims.last() == Some(&n) && dims[..dims.len() - 1].iter().all(|&d| d == 1);
            let same_shape = self.draft.shape(self.here()) == self.draft.shape(product);
            if !constant || !row || !same_shape || self.readers[product.index()] != 1 {
                continue;
            }
            let mut bias = bias;
            if dims.len() > 1 {
                let Some(tensor) = self.constant(bias) else { continue };
                let Some(flat) = tensor.as_f32().and_then(|v| Tensor::from_f32(&[n], v.to_vec()).ok()) else {
                    continue;
                };
                let Some(place) = self.own_constant(bias, flat) else { continue };
                bias = place;
            }
            let module = self.draft.node(product).origin.clone();
            let module = if module.is_empty() { names::module(&self.draft.node(bias).origin) } else { Some(module) };
            let name = module.clone().unwrap_or_else(|| self.draft.node(product).name.clone());
            let node = &mut self.draft.nodes[self.at];
            node.name = name;
            node.origin = module.unwrap_or_default();
            return self.becomes(Op::Linear(Linear::default()), vec![x, weight, bias]);
        }
        false
    }

    /// Replaces the value of a constant, if no other node reads it.
    fn own_constant(&mut self, id: NodeId, value: Tensor) -> Option<NodeId> {
        if self.readers[id.index()] != 1 {
            return None;
        }
        let node = &mut self.draft.nodes[id.index()];
        node.shape = crate::values::Shape::fixed(value.shape());
        node.op = Constant::new(value).into();
        Some(id)
    }

    /// Collects the factors of a product, with all numbers multiplied into `scalar`; `stop` counts as one factor.
    fn factors(&self, id: NodeId, stop: Option<NodeId>, depth: usize, scalar: &mut f32, factors: &mut Vec<NodeId>) {
        if depth > 0 && stop != Some(id) && factors.len() < 4 {
            if let Some((x, value)) = self.scaled(id) {
                *scalar *= value;
                return self.factors(x, stop, depth - 1, scalar, factors);
            }
            if let Some((a, b)) = self.pair(id, &Op::Mul(Mul)) {
                self.factors(a, stop, depth - 1, scalar, factors);
                return self.factors(b, stop, depth - 1, scalar, factors);
            }
        }
        factors.push(id);
    }

    fn product(&self, id: NodeId, stop: Option<NodeId>) -> (f32, Vec<NodeId>) {
        let (mut scalar, mut factors) = (1.0, Vec::new());
        self.factors(id, stop, 3, &mut scalar, &mut factors);
        (scalar, factors)
    }

    /// Finds SiLU, `x · sigmoid(x)`, and both forms of GELU, `x · 0.5 · (1 + …)`.
    fn gelu(&mut self) -> bool {
        if !matches!(self.op(self.here()), Op::Mul(Mul) | Op::MulScalar(_)) {
            return false;
        }
        let (_, parts) = self.product(self.here(), None);
        for part in parts {
            let (op, scalar, x) = if let Some(x) = self.unary(part, UnaryOp::Sigmoid) {
                (UnaryOp::Silu, 1.0, Some(x))
            } else if let Some((inner, _)) = self.shifted(part).filter(|(_, one)| exact(*one, 1.0)) {
                if let Some(erf) = self.unary(inner, UnaryOp::Erf) {
                    let x = self.scaled(erf).filter(|(_, v)| near(*v, std::f32::consts::FRAC_1_SQRT_2));
                    (UnaryOp::Gelu, 0.5, x.map(|(x, _)| x))
                } else if let Some(tanh) = self.unary(inner, UnaryOp::Tanh) {
                    (UnaryOp::GeluTanh, 0.5, self.cubic(tanh))
                } else {
                    continue;
                }
            } else {
                continue;
            };
            let Some(x) = x else { continue };
            let (factor, parts) = self.product(self.here(), Some(x));
            let only = match parts.as_slice() {
                &[a, b] => (a == part && b == x) || (b == part && a == x),
                _ => false,
            };
            if only && exact(factor, scalar) && self.draft.shape(x) == self.draft.shape(self.here()) {
                return self.becomes(Op::Unary(Unary { op }), vec![x]);
            }
        }
        false
    }

    /// The `x` of `√(2/π) · (x + 0.044715 · x³)`, or of `√(2/π) · x · (1 + 0.044715 · x²)`.
    fn cubic(&self, id: NodeId) -> Option<NodeId> {
        const CUBE: f32 = 0.044_715;
        let root = (2.0 / std::f32::consts::PI).sqrt();
        let (factor, parts) = self.product(id, None);
        if let &[sum] = parts.as_slice()
            && let Some((a, b)) = self.pair(sum, &Op::Add(Add))
            && near(factor, root)
        {
            return [(a, b), (b, a)].into_iter().find_map(|(x, cube)| {
                let (factor, parts) = self.product(cube, Some(x));
                (near(factor, CUBE) && parts == [x, x, x]).then_some(x)
            });
        }
        // In the second form, one factor is the sum and the other is x.
        parts.iter().find_map(|&part| {
            let (square, _) = self.shifted(part).filter(|(_, one)| exact(*one, 1.0))?;
            let x = *parts.iter().find(|&&x| x != part)?;
            let (inner, inner_parts) = self.product(square, Some(x));
            let (factor, outer_parts) = self.product(id, Some(x));
            let fits = near(inner, CUBE) && inner_parts == [x, x] && near(factor, root);
            (fits && outer_parts.len() == 2).then_some(x)
        })
    }

    /// The input of a mean over the last axis.
    fn mean(&self, id: NodeId) -> Option<NodeId> {
        let Op::Reshape(_) = self.op(id) else { return None };
        let (sum, factor) = self.scaled(self.inputs(id)[0])?;
        let Op::Sum(Sum { axis, .. }) = *self.op(sum) else { return None };
        let x = self.inputs(sum)[0];
        let shape = self.draft.shape(x);
        let n = shape.last()?;
        let kept = self.draft.shape(id);
        let last = axis + 1 == shape.rank() && kept.rank() == shape.rank() && kept.last() == Some(1);
        (last && exact(factor * n as f32, 1.0)).then_some(x)
    }

    /// The node from which its own mean is subtracted.
    fn centred(&self, id: NodeId) -> Option<NodeId> {
        let (a, b) = self.pair(id, &Op::Add(Add))?;
        [(a, b), (b, a)].into_iter().find_map(|(x, mean)| {
            let (mean, minus) = self.scaled(mean)?;
            (minus == -1.0 && self.mean(mean)? == x).then_some(x)
        })
    }

    /// Finds `(x − mean) / √(variance + eps)`: a layer normalization whose weight is 1 and whose bias is 0.
    fn layer_norm(&mut self) -> bool {
        let here = self.here();
        let quotient = match self.op(here) {
            Op::Div(Div) => self.pair(here, &Op::Div(Div)),
            // The file may multiply by a reciprocal.
            Op::Mul(Mul) => self.pair(here, &Op::Mul(Mul)).and_then(|(a, b)| {
                [(a, b), (b, a)].into_iter().find_map(|(x, inverse)| {
                    let (one, root) = self.pair(inverse, &Op::Div(Div))?;
                    let one = self.constant(one)?;
                    (one.as_f32() == Some(&[1.0])).then_some((x, root))
                })
            }),
            _ => None,
        };
        let Some((x, eps)) = quotient.and_then(|(difference, root)| {
            let x = self.centred(difference)?;
            let (variance, eps) = self.shifted(self.unary(root, UnaryOp::Sqrt)?)?;
            let square = self.mean(variance)?;
            let (a, b) = self.pair(square, &Op::Mul(Mul))?;
            let fits = self.same(a, difference, 6) && self.same(b, difference, 6) && eps > 0.0;
            fits.then_some((x, eps))
        }) else {
            return false;
        };
        let Some(n) = self.draft.shape(x).last() else { return false };
        let (weight, bias) = (self.row(n, 1.0), self.row(n, 0.0));
        self.becomes(Op::LayerNorm(LayerNorm { eps }), vec![x, weight, bias])
    }

    /// Adds a row of one number. It is the last node of the draft, but a finished graph has constants before their readers.
    fn row(&mut self, n: usize, value: f32) -> NodeId {
        self.readers.push(0);
        self.draft.constant("", Tensor::from(ndarray::Array1::from_elem(n, value)))
    }

    /// A layer normalization times or plus a constant row takes the row as its weight or bias.
    fn affine(&mut self) -> bool {
        let here = self.here();
        let position = match self.op(here) {
            Op::Mul(Mul) => 1,
            Op::Add(Add) => 2,
            _ => return false,
        };
        let inputs = self.inputs(here);
        for (norm, row) in [(inputs[0], inputs[1]), (inputs[1], inputs[0])] {
            let Op::LayerNorm(LayerNorm { eps }) = *self.op(norm) else { continue };
            let (&[x, weight, bias], 1) = (self.inputs(norm), self.readers[norm.index()]) else { continue };
            let plain = |id: NodeId, v: f32| {
                self.constant(id).is_some_and(|t| t.as_f32().is_some_and(|values| values.iter().all(|x| *x == v)))
            };
            let free = if position == 1 { plain(weight, 1.0) && plain(bias, 0.0) } else { plain(bias, 0.0) };
            let n = self.draft.shape(weight).fixed_dims().to_vec();
            let same_shape = self.draft.shape(here) == self.draft.shape(norm);
            if self.constant(row).is_none() || !free || !same_shape || self.draft.shape(row).fixed_dims() != n {
                continue;
            }
            let mut inputs = vec![x, weight, bias];
            inputs[position] = row;
            let module = names::module(&self.draft.node(row).origin);
            let kept = self.draft.node(norm).origin.clone();
            let module = if kept.is_empty() { module } else { Some(kept) };
            let name = module.clone().unwrap_or_else(|| self.draft.node(norm).name.clone());
            let node = &mut self.draft.nodes[self.at];
            node.name = name;
            node.origin = module.unwrap_or_default();
            return self.becomes(Op::LayerNorm(LayerNorm { eps }), inputs);
        }
        false
    }
}

fn near(a: f32, b: f32) -> bool {
    (a - b).abs() <= NEAR * b.abs()
}

fn exact(a: f32, b: f32) -> bool {
    (a - b).abs() <= EXACT * b.abs()
}

//! Random float networks of linear layers, and of images.

#[path = "nets/images.rs"]
mod images;

use enfold::graph::NodeId;
use enfold::ops::UnaryOp;
use enfold::{Graph, GraphBuilder, Shape, Tensor};

use crate::random::Random;

/// A network and how to draw batches for it.
#[derive(Debug)]
pub(crate) struct Net {
    pub(crate) graph: Graph,
    /// Inner dimensions of the input, features last.
    dims: Vec<usize>,
    scale: f32,
    shift: f32,
}

impl Net {
    /// One to three layers, with and without bias and ReLU, inputs of rank 2 to 4.
    pub(crate) fn random(random: &mut Random) -> Self {
        let mut dims: Vec<usize> = (0..random.below(3)).map(|_| 1 + random.below(3)).collect();
        dims.push(1 + random.below(48));
        let (scale, shift) = ((random.normal() * 2.0).exp(), random.normal());
        let mut g = GraphBuilder::new();
        let mut h = g.input("x", Shape::batched(&dims)).expect("an input");
        let mut k = dims[dims.len() - 1];
        for i in 0..1 + random.below(3) {
            let n = 1 + random.below(48);
            let weight_scale = (random.normal() - 1.0).exp();
            let weight = Tensor::from_f32(&[n, k], random.normals(n * k, weight_scale)).expect("lengths fit");
            let bias_scale = weight_scale * scale * random.normal().exp();
            let bias = Tensor::from_f32(&[n], random.normals(n, bias_scale)).expect("lengths fit");
            let bias = (random.below(4) > 0).then_some(bias);
            h = g.linear(&format!("fc.{i}"), h, weight, bias).expect("a layer");
            if random.below(2) == 0 {
                h = g.relu(&format!("relu.{i}"), h).expect("a relu");
            }
            k = n;
        }
        Self { graph: g.finish([h]).expect("a graph"), dims, scale, shift }
    }

    /// Up to six nodes of every kind that a quantizer knows, and of some that stay float: linear layers, sums, products,
    /// concatenations, functions, moves, slices, sums and largest elements, and products of two activations, with and without ReLU.
    pub(crate) fn patterns(random: &mut Random) -> Self {
        let mut dims: Vec<usize> = (0..random.below(2)).map(|_| 1 + random.below(4)).collect();
        dims.push(1 + random.below(24));
        let (scale, shift) = ((random.normal() * 1.5).exp(), random.normal());
        let mut g = GraphBuilder::new();
        let mut h = g.input("x", Shape::batched(&dims)).expect("an input");
        let input_dims = dims.clone();
        // Earlier values, which later nodes add or concatenate.
        let mut earlier: Vec<(NodeId, Vec<usize>)> = vec![(h, dims.clone())];
        let tensor = |shape: &[usize], data| Tensor::from_f32(shape, data).expect("lengths fit");
        // The others would make a large difference of a small one.
        let jumps = |op: &UnaryOp| {
            use UnaryOp::{Ceil, Floor, IsNan, Round, RoundBf16, RoundF16, Sign, Step};
            matches!(op, Ceil | Floor | IsNan | Round | RoundBf16 | RoundF16 | Sign | Step)
        };
        let smooth: Vec<UnaryOp> = UnaryOp::ALL.iter().copied().filter(|op| !jumps(op)).collect();
        for i in 0..1 + random.below(6) {
            let k = dims[dims.len() - 1];
            let last_axis = dims.len();
            let same: Vec<NodeId> =
                earlier.iter().filter(|(id, d)| *d == dims && *id != h).map(|(id, _)| *id).collect();
            let new = match random.below(20) {
                0..=4 => {
                    let n = 1 + random.below(24);
                    let weight_scale = (random.normal() * 0.5 - 1.0).exp();
                    let weight = tensor(&[n, k], random.normals(n * k, weight_scale));
                    let bias = (random.below(4) > 0).then(|| tensor(&[n], random.normals(n, scale * 0.3)));
                    dims[last_axis - 1] = n;
                    g.linear(&format!("fc.{i}"), h, weight, bias)
                }
                5 if !same.is_empty() => g.add(&format!("add.{i}"), same[random.below(same.len())], h),
                6 if !same.is_empty() => g.mul(&format!("mul.{i}"), h, same[random.below(same.len())]),
                5 => {
                    let c = g.constant(&format!("c.{i}"), tensor(&[k], random.normals(k, scale))).expect("a constant");
                    g.add(&format!("add.{i}"), h, c)
                }
                6 => g.mul_scalar(&format!("mul.{i}"), h, random.normal()),
                7 => {
                    let leading = |d: &[usize]| d[..d.len() - 1].to_vec();
                    let fit = |(_, d): &&(NodeId, Vec<usize>)| leading(d) == leading(&dims) && d[d.len() - 1] <= 24;
                    let (other, other_dims) = earlier.iter().rev().find(fit).cloned().unwrap_or((h, dims.clone()));
                    dims[last_axis - 1] += other_dims[other_dims.len() - 1];
                    g.concat(&format!("cat.{i}"), &[h, other], last_axis)
                }
                8 => {
                    let op = smooth[random.below(smooth.len())];
                    // A clamp keeps the function from NaN, infinities and steep slopes.
                    let bounds = match op {
                        UnaryOp::Sqrt | UnaryOp::Log => Some((0.1, f32::INFINITY)),
                        UnaryOp::Exp => Some((f32::NEG_INFINITY, 3.0)),
                        _ => None,
                    };
                    if let Some((min, max)) = bounds {
                        h = g.clamp(&format!("bounded.{i}"), h, min, max).expect("a clamp");
                    }
                    g.unary(&format!("unary.{i}"), op, h)
                }
                9 if dims.len() == 2 => {
                    dims.swap(0, 1);
                    g.transpose(&format!("transpose.{i}"), h, &[0, 2, 1])
                }
                9 => {
                    dims = if k.is_multiple_of(2) { vec![2, k / 2] } else { vec![k, 1] };
                    g.reshape(&format!("reshape.{i}"), h, &dims)
                }
                10 if dims.len() == 2 => {
                    dims = vec![dims[0] * k];
                    g.flatten(&format!("flatten.{i}"), h, 1)
                }
                11 if dims.len() == 2 => {
                    let t = g.transpose(&format!("keys.{i}"), h, &[0, 2, 1]).expect("a transpose");
                    dims[1] = dims[0];
                    g.matmul(&format!("scores.{i}"), h, t)
                }
                12 => g.softmax(&format!("softmax.{i}"), h, last_axis),
                13 if dims.len() == 2 => {
                    let axis = 1 + random.below(2);
                    dims.remove(axis - 1);
                    g.max(&format!("max.{i}"), h, axis)
                }
                14 if k > 1 => {
                    let start = random.below(k - 1);
                    dims[last_axis - 1] = 1 + random.below(k - start);
                    g.slice(&format!("slice.{i}"), h, last_axis, start..start + dims[last_axis - 1])
                }
                15 if dims.len() == 2 => {
                    let axis = 1 + random.below(2);
                    dims.remove(axis - 1);
                    g.sum(&format!("sum.{i}"), h, axis)
                }
                16 => g.clamp(&format!("clamp.{i}"), h, -scale, 2.0 * scale),
                17 => {
                    let after = random.below(3);
                    dims[last_axis - 1] += 1 + after;
                    let ends = |n: usize| [vec![0; last_axis], vec![n]].concat();
                    g.pad(&format!("pad.{i}"), h, &ends(1), &ends(after), 0.0)
                }
                18 => g.rms_norm(&format!("rms.{i}"), h, tensor(&[k], random.normals(k, 1.0)), 1e-3),
                _ => {
                    let (w, b) = (tensor(&[k], vec![1.0; k]), tensor(&[k], random.normals(k, 0.1)));
                    g.layer_norm(&format!("norm.{i}"), h, w, b, 1e-5)
                }
            };
            h = new.expect("a node");
            if random.below(3) == 0 {
                h = g.relu(&format!("relu.{i}"), h).expect("a relu");
            }
            earlier.push((h, dims.clone()));
        }
        Self { graph: g.finish([h]).expect("a graph"), dims: input_dims, scale, shift }
    }

    /// Normals, off centre.
    pub(crate) fn batch(&self, random: &mut Random) -> Tensor {
        let shape: Vec<usize> = [1 + random.below(12)].into_iter().chain(self.dims.iter().copied()).collect();
        let mut data = random.normals(shape.iter().product(), self.scale);
        data.iter_mut().for_each(|v| *v += self.shift * self.scale);
        Tensor::from_f32(&shape, data).expect("lengths fit")
    }
}

//! Random float networks of linear layers.

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

    /// Normals, off centre.
    pub(crate) fn batch(&self, random: &mut Random) -> Tensor {
        let shape: Vec<usize> = [1 + random.below(12)].into_iter().chain(self.dims.iter().copied()).collect();
        let mut data = random.normals(shape.iter().product(), self.scale);
        data.iter_mut().for_each(|v| *v += self.shift * self.scale);
        Tensor::from_f32(&shape, data).expect("lengths fit")
    }
}

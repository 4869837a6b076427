//! Networks whose values have outlier channels, and their batches.

use enfold::graph::{GraphError, NodeId};
use enfold::ops::{Conv, MaxPool, Window};
use enfold::{Graph, GraphBuilder, Shape, Tensor};

use crate::random::Random;

const TOKENS: usize = 12;
pub(super) const HIDDEN: usize = 128;

/// Draws the parameters of a network.
struct Draw {
    g: GraphBuilder,
    random: Random,
    /// Channels of each norm whose weight is 15 to 25 times as large as the others.
    outliers: usize,
}

impl Draw {
    fn new(outliers: usize) -> Self {
        Self { g: GraphBuilder::new(), random: Random::new(17), outliers }
    }

    fn tensor(&mut self, shape: &[usize], scale: f32) -> Tensor {
        let values = self.random.normals(shape.iter().product(), scale);
        Tensor::from_f32(shape, values).expect("as many")
    }

    fn linear(&mut self, name: &str, x: NodeId, [n, k]: [usize; 2]) -> Result<NodeId, GraphError> {
        let (weight, bias) = (self.tensor(&[n, k], 0.05), self.tensor(&[n], 0.05));
        self.g.linear(name, x, weight, Some(bias))
    }

    fn norm(&mut self, name: &str, x: NodeId, width: usize) -> Result<NodeId, GraphError> {
        let mut weight: Vec<f32> = self.random.normals(width, 0.1).into_iter().map(|v| v + 1.0).collect();
        for _ in 0..self.outliers {
            weight[self.random.below(width)] *= 15.0 + 10.0 * self.random.uniform() as f32;
        }
        let weight = Tensor::from_f32(&[width], weight).expect("as many");
        let bias = self.tensor(&[width], 0.1);
        self.g.layer_norm(name, x, weight, bias, 1e-5)
    }

    /// Attention of four heads. The channels of the values are those of the result.
    fn attention(&mut self, of: &dyn Fn(&str) -> String, x: NodeId) -> Result<NodeId, GraphError> {
        let mut head = |name: &str, perm: &[usize]| {
            let h = self.linear(&of(name), x, [HIDDEN, HIDDEN])?;
            let h = self.g.reshape(&of(&format!("{name}.heads")), h, &[TOKENS, 4, HIDDEN / 4])?;
            self.g.transpose(&of(&format!("{name}.turned")), h, perm)
        };
        let [q, k, v] = [head("q", &[0, 2, 1, 3])?, head("k", &[0, 2, 3, 1])?, head("v", &[0, 2, 1, 3])?];
        let scores = self.g.matmul(&of("scores"), q, k)?;
        let scale = self.g.constant(&of("scale"), Tensor::from_f32(&[], vec![0.25]).expect("a number"))?;
        let scores = self.g.mul(&of("scaled"), scores, scale)?;
        let weights = self.g.softmax(&of("weights"), scores, 3)?;
        let mixed = self.g.matmul(&of("mixed"), weights, v)?;
        let joined = self.g.transpose(&of("joined"), mixed, &[0, 2, 1, 3])?;
        let joined = self.g.reshape(&of("tokens"), joined, &[TOKENS, HIDDEN])?;
        self.linear(&of("out"), joined, [HIDDEN, HIDDEN])
    }
}

/// An encoder as BERT has it, whose norms have outlier channels as trained ones do.
pub(super) fn encoder(layers: usize, outliers: usize) -> Result<Graph, GraphError> {
    let mut d = Draw::new(outliers);
    let x = d.g.input("x", Shape::batched(&[TOKENS, HIDDEN]))?;
    let mut x = d.norm("embeddings.norm", x, HIDDEN)?;
    for layer in 0..layers {
        let of = |name: &str| format!("{layer}.{name}");
        let y = d.attention(&of, x)?;
        let sum = d.g.add(&of("residual"), y, x)?;
        x = d.norm(&of("norm"), sum, HIDDEN)?;
        let h = d.linear(&of("up"), x, [2 * HIDDEN, HIDDEN])?;
        let h = d.g.gelu(&of("gelu"), h)?;
        let y = d.linear(&of("down"), h, [HIDDEN, 2 * HIDDEN])?;
        let sum = d.g.add(&of("second residual"), y, x)?;
        x = d.norm(&of("second norm"), sum, HIDDEN)?;
    }
    d.g.finish([x])
}

/// A block whose norms come first, with a gated feed-forward network, and two layers with a ReLU between.
pub(super) fn gated() -> Result<Graph, GraphError> {
    let mut d = Draw::new(3);
    let x = d.g.input("x", Shape::batched(&[TOKENS, HIDDEN]))?;
    let norm = d.norm("norm", x, HIDDEN)?;
    let gate = d.linear("gate", norm, [HIDDEN, HIDDEN])?;
    let gate = d.g.silu("silu", gate)?;
    let up = d.linear("up", norm, [HIDDEN, HIDDEN])?;
    let product = d.g.mul("product", gate, up)?;
    let h = d.linear("down", product, [HIDDEN, HIDDEN])?;
    let h = d.linear("first", h, [HIDDEN, HIDDEN])?;
    let h = d.g.relu("relu", h)?;
    let y = d.linear("second", h, [8, HIDDEN])?;
    d.g.finish([y])
}

/// Convolutions with a batch norm, a ReLU and a pool between, whose channels have very different ranges.
pub(super) fn images() -> Result<Graph, GraphError> {
    let mut d = Draw::new(0);
    let x = d.g.input("x", Shape::batched(&[3, 9, 9]))?;
    let window = Window::new(&[3, 3]).with_padding(&[1, 1]);
    let weight = d.tensor(&[8, 3, 3, 3], 0.3);
    let x = d.g.conv("first", x, weight, None, Conv::new(window.clone()))?;
    let ones = |scale: f32| Tensor::from_f32(&[8], (0..8).map(|c| scale * (1.0 + c as f32)).collect()).expect("eight");
    let x = d.g.batch_norm("norm", x, [ones(0.01), ones(0.5), ones(3.0), ones(0.1)], 1e-5)?;
    let x = d.g.relu("relu", x)?;
    let x = d.g.max_pool("pool", x, MaxPool::new(Window::new(&[2, 2]).with_stride(&[2, 2])))?;
    let weight = d.tensor(&[6, 8, 3, 3], 0.2);
    let x = d.g.conv("second", x, weight, None, Conv::new(window))?;
    d.g.finish([x])
}

/// Tokens near one of 64, as words are, or random pixels.
pub(super) fn batch(graph: &Graph, rows: usize, seed: u64) -> Tensor {
    let shape = graph.node(graph.inputs()[0]).shape.with_rows(rows);
    let mut random = Random::new(seed);
    let mut values = random.normals(shape.iter().product(), 0.2);
    let words = Random::new(1234).normals(64 * HIDDEN, 1.0);
    for token in values.chunks_exact_mut(HIDDEN) {
        let word = &words[random.below(64) * HIDDEN..][..HIDDEN];
        token.iter_mut().zip(word).for_each(|(v, w)| *v += w);
    }
    Tensor::from_f32(&shape, values).expect("as many")
}

//! Float networks that together have every operator that can be exported.

use enfold::graph::{GraphError, NodeId};
use enfold::ops::{
    AveragePool, BinaryOp, Conv, ConvTranspose, MaxPool, ResizeCoordinates, ResizeLinear, UnaryOp, Window,
};
use enfold::values::DType;
use enfold::{Graph, GraphBuilder, Shape, Tensor};

use crate::random::Random;

/// A network and how to draw batches for it.
pub(crate) struct Net {
    pub(crate) name: &'static str,
    pub(crate) graph: Graph,
}

impl Net {
    fn new(
        name: &'static str,
        build: impl FnOnce(&mut GraphBuilder, &mut Parameters) -> Result<Vec<NodeId>, GraphError>,
    ) -> Self {
        let mut g = GraphBuilder::new();
        let seed = name.bytes().fold(1, |seed, byte| seed * 31 + u64::from(byte));
        let outputs = build(&mut g, &mut Parameters(Random::new(seed))).expect("nodes");
        Self { name, graph: g.finish(outputs).expect("a graph") }
    }

    /// Draws a batch: normally distributed floats, ids below 20, and masks that begin with a 1.
    pub(crate) fn batch(&self, random: &mut Random, rows: usize) -> Vec<Tensor> {
        let draw = |id: &NodeId| {
            let node = self.graph.node(*id);
            let shape = node.shape.with_rows(rows);
            let n = shape.iter().product();
            if node.dtype == DType::F32 {
                return Tensor::from_f32(&shape, random.normals(n, 1.0)).expect("lengths fit");
            }
            let last = shape[shape.len() - 1];
            let mask = |at: usize, random: &mut Random| i32::from(at.is_multiple_of(last) || random.below(4) > 0);
            let value = |at: usize| match node.name.as_str() {
                "mask" => mask(at, random),
                _ => random.between(0, 19),
            };
            Tensor::from_i32(&shape, (0..n).map(value).collect()).expect("lengths fit")
        };
        self.graph.inputs().iter().map(draw).collect()
    }
}

/// Draws weights.
struct Parameters(Random);

impl Parameters {
    fn tensor(&mut self, shape: &[usize], scale: f32) -> Tensor {
        Tensor::from_f32(shape, self.0.normals(shape.iter().product(), scale)).expect("lengths fit")
    }

    /// A layer with a bias.
    fn linear(&mut self, g: &mut GraphBuilder, name: &str, x: NodeId, kn: [usize; 2]) -> Result<NodeId, GraphError> {
        let [k, n] = kn;
        let (w, b) = (self.tensor(&[n, k], (k as f32).sqrt().recip()), self.tensor(&[n], 0.2));
        g.linear(name, x, w, Some(b))
    }

    fn layer_norm(&mut self, g: &mut GraphBuilder, name: &str, x: NodeId, n: usize) -> Result<NodeId, GraphError> {
        let weight = self.tensor(&[n], 0.2).as_f32().map(|w| w.iter().map(|w| 1.0 + w).collect()).expect("floats");
        let weight = Tensor::from_f32(&[n], weight).expect("lengths fit");
        g.layer_norm(name, x, weight, self.tensor(&[n], 0.2), 1e-5)
    }

    /// Attention with two heads over `x[rows, 6, 16]`, plus `x`; `mask` is added to the scores.
    fn attention(&mut self, g: &mut GraphBuilder, x: NodeId, mask: Option<NodeId>) -> Result<NodeId, GraphError> {
        let mut heads = |g: &mut GraphBuilder, name: &str, perm: [usize; 4]| {
            let h = self.linear(g, name, x, [16, 16])?;
            let h = g.reshape(&format!("{name}.heads"), h, &[6, 2, 8])?;
            g.transpose(&format!("{name}.moved"), h, &perm)
        };
        let q = heads(g, "attention.q", [0, 2, 1, 3])?;
        let k = heads(g, "attention.k", [0, 2, 3, 1])?;
        let v = heads(g, "attention.v", [0, 2, 1, 3])?;
        let scores = g.matmul("attention.scores", q, k)?;
        let mut scores = g.mul_scalar("attention.scaled", scores, 8f32.sqrt().recip())?;
        if let Some(mask) = mask {
            scores = g.add("attention.masked", scores, mask)?;
        }
        let p = g.softmax("attention.softmax", scores, 3)?;
        let h = g.matmul("attention.context", p, v)?;
        let h = g.transpose("attention.back", h, &[0, 2, 1, 3])?;
        let h = g.flatten("attention.merged", h, 2)?;
        let h = self.linear(g, "attention.out", h, [16, 16])?;
        g.add("attention.add", x, h)
    }
}

pub(super) fn all() -> Vec<Net> {
    vec![
        mlp(),
        functions(),
        residual(),
        attention(),
        encoder(),
        decoder(),
        gated(),
        moves(),
        tied(),
        elementwise(),
        images(),
    ]
}

/// Layers with enough features for groups of 128, which do not divide those of the second.
pub(super) fn grouped() -> Net {
    Net::new("grouped", |g, p| {
        let x = g.input("x", Shape::rows(256))?;
        let h = p.linear(g, "fc1", x, [256, 160])?;
        let h = g.relu("relu", h)?;
        Ok(vec![p.linear(g, "fc2", h, [160, 24])?])
    })
}

/// Three layers with ReLU, as for the handwritten digits.
pub(crate) fn mlp() -> Net {
    Net::new("mlp", |g, p| {
        let x = g.input("x", Shape::rows(64))?;
        let h = p.linear(g, "fc.0", x, [64, 48])?;
        let h = g.relu("relu.0", h)?;
        let h = p.linear(g, "fc.1", h, [48, 32])?;
        let h = g.relu("relu.1", h)?;
        Ok(vec![p.linear(g, "logits", h, [32, 10])?])
    })
}

/// Functions between layers, which become lookup tables.
fn functions() -> Net {
    Net::new("functions", |g, p| {
        let mut h = g.input("x", Shape::rows(24))?;
        for (i, op) in
            [UnaryOp::Gelu, UnaryOp::Tanh, UnaryOp::Sigmoid, UnaryOp::Silu, UnaryOp::GeluTanh].into_iter().enumerate()
        {
            h = p.linear(g, &format!("fc.{i}"), h, [24, 24])?;
            h = g.unary(&format!("function.{i}"), op, h)?;
        }
        Ok(vec![p.linear(g, "y", h, [24, 12])?])
    })
}

/// Sums, products and concatenations of layers, and a layer without bias.
fn residual() -> Net {
    Net::new("residual", |g, p| {
        let x = g.input("x", Shape::rows(16))?;
        let h = p.linear(g, "fc.0", x, [16, 16])?;
        let sum = g.add("sum", x, h)?;
        let sum = g.relu("sum.relu", sum)?;
        let gate = p.linear(g, "gate", sum, [16, 16])?;
        let product = g.mul("product", sum, gate)?;
        let joined = g.concat("joined", &[sum, product], 1)?;
        let shifted = g.add_scalar("shifted", joined, 0.25)?;
        let y = g.linear("y", shifted, p.tensor(&[8, 32], 0.2), None)?;
        // The second of the two outputs is read by another node too.
        Ok(vec![y, product])
    })
}

/// A block of attention on tokens, with the largest value of each feature as a second output.
fn attention() -> Net {
    Net::new("attention", |g, p| {
        let x = g.input("x", Shape::batched(&[6, 16]))?;
        let h = p.attention(g, x, None)?;
        let h = p.layer_norm(g, "norm", h, 16)?;
        let y = p.linear(g, "y", h, [16, 12])?;
        let most = g.max("most", y, 1)?;
        Ok(vec![y, most])
    })
}

/// A gated unit of a decoder on tokens, and RMS norms. The norms come last: ONNX Runtime computes them in another order, and a layer
/// that quantizes their result dynamically would round some values to the next step.
fn decoder() -> Net {
    Net::new("decoder", |g, p| {
        let x = g.input("x", Shape::batched(&[6, 16]))?;
        let gate = p.linear(g, "gate", x, [16, 24])?;
        let gate = g.silu("gate.silu", gate)?;
        let up = p.linear(g, "up", x, [16, 24])?;
        let h = g.mul("gated", gate, up)?;
        let h = p.linear(g, "down", h, [24, 16])?;
        let h = g.add("sum", x, h)?;
        let norm = g.rms_norm("norm", h, p.tensor(&[16], 1.0), 1e-5)?;
        // Over both axes.
        Ok(vec![norm, g.rms_norm("norm.last", h, p.tensor(&[6, 16], 1.0), 1e-5)?])
    })
}

/// A sentence encoder: from ids and a mask to embeddings of length 1.
fn encoder() -> Net {
    Net::new("encoder", |g, p| {
        let ids = g.typed_input("ids", Shape::batched(&[6]), DType::I32)?;
        let mask = g.typed_input("mask", Shape::batched(&[6]), DType::I32)?;
        let h = g.embedding("embedding", ids, p.tensor(&[20, 16], 1.0))?;
        let positions = g.constant("positions", p.tensor(&[6, 16], 0.3))?;
        let h = g.add("embedded", h, positions)?;
        let x = p.layer_norm(g, "norm.0", h, 16)?;
        let mask = g.to_float("mask.float", mask)?;
        let away = g.add_scalar("mask.less", mask, -1.0)?;
        let away = g.mul_scalar("mask.far", away, 1e9)?;
        let away = g.reshape("mask.scores", away, &[1, 1, 6])?;
        let h = p.attention(g, x, Some(away))?;
        let x = p.layer_norm(g, "norm.1", h, 16)?;
        let h = p.linear(g, "ffn.0", x, [16, 32])?;
        let h = g.gelu("ffn.gelu", h)?;
        let h = p.linear(g, "ffn.1", h, [32, 16])?;
        let h = g.add("ffn.add", x, h)?;
        let h = p.layer_norm(g, "norm.2", h, 16)?;
        // The mean of the tokens that the mask keeps is scaled to length 1.
        let mask = g.reshape("mask.tokens", mask, &[6, 1])?;
        let h = g.mul("pool.masked", h, mask)?;
        let h = g.sum("pool.sum", h, 1)?;
        let n = g.sum("pool.count", mask, 1)?;
        let n = g.clamp("pool.some", n, 1e-9, f32::INFINITY)?;
        let h = g.div("pool.mean", h, n)?;
        let squares = g.mul("length.squares", h, h)?;
        let length = g.sum("length.sum", squares, 1)?;
        let length = g.unary("length.root", UnaryOp::Sqrt, length)?;
        let length = g.clamp("length.some", length, 1e-12, f32::INFINITY)?;
        let length = g.reshape("length.column", length, &[1])?;
        Ok(vec![g.div("embedding.normal", h, length)?])
    })
}

/// `down(silu(gate(x)) · up(x))` on tokens, plus `x`.
fn gated() -> Net {
    Net::new("gated", |g, p| {
        let x = g.input("x", Shape::batched(&[5, 16]))?;
        let gate = p.linear(g, "gate", x, [16, 40])?;
        let gate = g.silu("silu", gate)?;
        let up = g.linear("up", x, p.tensor(&[40, 16], 0.25), None)?;
        let h = g.mul("gated", gate, up)?;
        let h = p.linear(g, "down", h, [40, 16])?;
        Ok(vec![g.add("y", x, h)?])
    })
}

/// Operators between layers that move values without another scale, and a batch normalization that is folded.
fn moves() -> Net {
    Net::new("moves", |g, p| {
        let x = g.input("x", Shape::batched(&[4, 12]))?;
        let h = p.linear(g, "fc.0", x, [12, 12])?;
        let h = g.relu("relu", h)?;
        let h = g.transpose("turned", h, &[0, 2, 1])?;
        let h = g.slice("some", h, 1, 2..8)?;
        let h = g.pad("padded", h, &[0, 1, 0], &[0, 0, 0], 0.0)?;
        let h = g.slice("shifted", h, 1, 0..6)?;
        let h = g.reshape("laid", h, &[2, 12])?;
        let h = p.linear(g, "fc.1", h, [12, 12])?;
        let h = g.max("most", h, 1)?;
        let h = p.linear(g, "fc.2", h, [12, 12])?;
        let c = |p: &mut Parameters| p.tensor(&[12], 0.5);
        let statistics = [c(p), Tensor::from_f32(&[12], vec![0.7; 12]).expect("lengths fit"), c(p), c(p)];
        let h = g.batch_norm("norm", h, statistics, 1e-3)?;
        Ok(vec![h])
    })
}

/// Convolutions of images, of which one is transposed and one has a group for each channel, pools, and selected elements.
pub(super) fn images() -> Net {
    Net::new("images", |g, p| {
        let x = g.input("x", Shape::batched(&[3, 9, 8]))?;
        let window = |size: usize, stride: usize, padding: usize| {
            Window::new(&[size; 2]).with_stride(&[stride; 2]).with_padding(&[padding; 2])
        };
        let (weight, bias) = (p.tensor(&[8, 3, 3, 3], 0.2), p.tensor(&[8], 0.2));
        let h = g.conv("conv.0", x, weight, Some(bias), Conv::new(window(3, 1, 1)))?;
        let h = g.relu("relu", h)?;
        let h = g.max_pool("max", h, MaxPool::new(window(2, 2, 0)).with_ceil_mode(true))?;
        let (weight, bias) = (p.tensor(&[8, 1, 3, 3], 0.3), p.tensor(&[8], 0.2));
        let h = g.conv("depthwise", h, weight, Some(bias), Conv::new(window(3, 1, 1)).with_groups(8))?;
        let h = g.conv("pointwise", h, p.tensor(&[6, 8, 1, 1], 0.4), None, Conv::new(window(1, 1, 0)))?;
        let (weight, bias) = (p.tensor(&[6, 4, 2, 2], 0.4), p.tensor(&[4], 0.2));
        let h = g.conv_transpose("transposed", h, weight, Some(bias), ConvTranspose::new(window(2, 2, 0)))?;
        let h = g.index_select("selected", h, 2, &[0, 3, 3, 1, 9, 8, 7, 5])?;
        // Means of quantized values are ties often, which another order of the sum breaks in another way: no layer reads them.
        let mean = g.average_pool("mean", h, AveragePool::new(window(2, 2, 0)))?;
        let parts = g.average_pool("parts", h, AveragePool::adaptive(&[2, 4]))?;
        let whole = g.average_pool("whole", h, AveragePool::adaptive(&[1, 1]))?;
        let larger = g.resize_linear("larger", h, ResizeLinear::new(&[11, 16]))?;
        let corners = ResizeLinear::new(&[5, 13]).with_coordinates(ResizeCoordinates::AlignCorners);
        let corners = g.resize_linear("corners", h, corners)?;
        let h = g.max_pool("most", h, MaxPool::new(window(4, 4, 0)))?;
        let h = g.flatten("flat", h, 1)?;
        Ok(vec![p.linear(g, "y", h, [16, 5])?, mean, parts, whole, larger, corners])
    })
}

/// Three layers that share a weight, as it is and transposed.
fn tied() -> Net {
    Net::new("tied", |g, p| {
        let x = g.input("x", Shape::batched(&[4, 12]))?;
        let w = g.constant("shared", p.tensor(&[12, 12], 0.3))?;
        let h = g.linear_nodes("fc.0", x, w, None)?;
        let h = g.linear_nodes("fc.1", h, w, None)?;
        let h = g.max("most", h, 1)?;
        Ok(vec![g.linear_nodes("fc.2", h, w, None)?])
    })
}

/// A network whose operators stay float, with and without a batch.
fn elementwise() -> Net {
    Net::new("elementwise", |g, p| {
        let x = g.input("x", Shape::batched(&[3, 8]))?;
        let fixed = g.input("fixed", Shape::fixed(&[8]))?;
        let abs = g.unary("abs", UnaryOp::Abs, x)?;
        let one = g.add_scalar("one", abs, 1.0)?;
        let log = g.unary("log", UnaryOp::Log, one)?;
        let root = g.unary("root", UnaryOp::Sqrt, abs)?;
        let erf = g.unary("erf", UnaryOp::Erf, x)?;
        let exp = g.unary("exp", UnaryOp::Exp, erf)?;
        let step = g.unary("step", UnaryOp::Step, x)?;
        let clamped = g.clamp("clamped", x, -0.5, 0.75)?;
        let below = g.clamp("below", x, f32::NEG_INFINITY, 0.5)?;
        let sign = g.unary("sign", UnaryOp::Sign, x)?;
        let half = g.unary("half", UnaryOp::RoundF16, x)?;
        let brain = g.unary("brain", UnaryOp::RoundBf16, half)?;
        let larger = g.binary("larger", BinaryOp::Maximum, x, fixed)?;
        let less = g.binary("less", BinaryOp::Less, larger, erf)?;
        let joined = g.concat("all", &[log, root, exp, step, clamped, below, sign, half, brain, less], 1)?;
        let row = g.linear("row", fixed, p.tensor(&[8, 8], 0.3), Some(p.tensor(&[8], 0.3)))?;
        let quotient = g.div("quotient", joined, row)?;
        let c = g.constant("table", p.tensor(&[2, 8], 1.0))?;
        let table = g.reshape("table.flat", c, &[16])?;
        let y = g.softmax("softmax", joined, 1)?;
        // An input and a constant are outputs.
        Ok(vec![quotient, y, table, fixed, c])
    })
}

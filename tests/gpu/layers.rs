//! Small networks in integers, built layer by layer, of which a test decides everything.

use enfold::graph::NodeId;
use enfold::interp::Interpreter;
use enfold::lower::lower;
use enfold::numerics::{AddMultipliers, EPS};
use enfold::ops::{
    ChooseQParams, Constant, ImageLayout, IntegerAdd, IntegerConv, IntegerLinear, IntegerMatMul, Lut, Op, Quantize,
    QuantizeDynamic, Requantize, ScaleAccumulator, ScaleAccumulatorDynamic, Window,
};
use enfold::program::Program;
use enfold::values::{DType, QParams, QScheme, QuantRange};
use enfold::{Graph, GraphBuilder, Shape, Tensor};

use crate::random::Random;

/// A graph in the making. Names count up.
pub(crate) struct Layers {
    pub(crate) g: GraphBuilder,
    pub(crate) random: Random,
    /// The largest magnitude of weights; below 127, all values of as many bits occur.
    pub(crate) most: i32,
    made: usize,
}

impl Layers {
    pub(crate) fn new(seed: u64) -> Self {
        Self { g: GraphBuilder::new(), random: Random::new(seed), most: 127, made: 0 }
    }

    fn name(&mut self, what: &str) -> String {
        self.made += 1;
        format!("{what}.{}", self.made)
    }

    pub(crate) fn node(&mut self, what: &str, op: Op, inputs: &[NodeId]) -> NodeId {
        let name = self.name(what);
        self.g.node(&name, op, inputs).expect("a node")
    }

    pub(crate) fn constant(&mut self, tensor: Tensor) -> NodeId {
        let name = self.name("constant");
        self.g.constant(&name, tensor).expect("a constant")
    }

    /// The weight of a layer, which states its bits.
    fn weight_constant(&mut self, n: usize, k: usize, weight: Vec<i8>) -> NodeId {
        let name = self.name("constant");
        // These bits hold −most − 1 to most.
        let bits = i32::BITS - self.most.leading_zeros() + 1;
        let constant = Constant { bits: Some(bits), ..Constant::new(i8s(&[n, k], weight)) };
        self.g.node(&name, constant, &[]).expect("a constant")
    }

    pub(crate) fn floats(&mut self, dims: &[usize]) -> NodeId {
        let name = self.name("x");
        self.g.input(&name, Shape::batched(dims)).expect("an input")
    }

    pub(crate) fn int8(&mut self, dims: &[usize]) -> NodeId {
        let name = self.name("x");
        self.g.typed_input(&name, Shape::batched(dims), DType::I8).expect("an input")
    }

    pub(crate) fn normals(&mut self, shape: &[usize], scale: f32) -> Tensor {
        f32s(shape, self.random.normals(shape.iter().product(), scale))
    }

    fn weight(&mut self, n: usize, k: usize) -> Vec<i8> {
        let most = self.most;
        (0..n * k).map(|_| self.random.between(-most - 1, most) as i8).collect()
    }

    /// Factors that spread sums of `k` products over the int8 values.
    fn factors(&mut self, n: usize, k: usize) -> NodeId {
        let typical = 0.01 / (k as f32).sqrt() * 127.0 / self.most as f32;
        let factors = (0..n).map(|_| (self.random.uniform() as f32 + 0.2) * typical).collect();
        self.constant(f32s(&[n], factors))
    }

    fn sums(&mut self, x: NodeId, n: usize, k: usize) -> NodeId {
        let weight = self.weight(n, k);
        let w = self.weight_constant(n, k, weight);
        let bias = (0..n).map(|_| self.random.between(-20_000, 20_000)).collect();
        let bias = self.constant(Tensor::from_i32(&[n], bias).expect("fits"));
        self.node("sums", Op::IntegerLinear(IntegerLinear { fraction_bits: 2 }), &[x, w, bias])
    }

    /// An int8 layer to int8.
    pub(crate) fn linear(&mut self, x: NodeId, n: usize, k: usize) -> NodeId {
        let sums = self.sums(x, n, k);
        let factors = self.factors(n, k);
        let zero_point = self.random.between(-60, 60);
        self.requantized(sums, factors, zero_point)
    }

    /// An int8 layer to int8 values with a zero point.
    pub(crate) fn linear_with(&mut self, x: NodeId, n: usize, k: usize, zero_point: i32) -> NodeId {
        let sums = self.sums(x, n, k);
        let factors = self.factors(n, k);
        self.requantized(sums, factors, zero_point)
    }

    /// An int8 convolution to int8, of an image with so many channels.
    pub(crate) fn conv(&mut self, x: NodeId, [n, channels]: [usize; 2], window: &Window, groups: usize) -> NodeId {
        let shape = [&[n, channels / groups], &window.size()[..]].concat();
        let k = shape[1..].iter().product();
        let weight = self.weight(n, k);
        let name = self.name("constant");
        let bits = i32::BITS - self.most.leading_zeros() + 1;
        let w = self.g.node(&name, Constant { bits: Some(bits), ..Constant::new(i8s(&shape, weight)) }, &[]);
        let w = w.expect("a constant");
        let bias = (0..n).map(|_| self.random.between(-20_000, 20_000)).collect();
        let bias = self.constant(Tensor::from_i32(&[n], bias).expect("fits"));
        let (window, zero_point) = (window.clone(), self.random.between(-128, 127));
        let conv = IntegerConv { window, groups, zero_point, fraction_bits: 2, layout: ImageLayout::ChannelsFirst };
        let sums = self.node("sums", Op::IntegerConv(conv), &[x, w, bias]);
        let factors = self.factors(n, k);
        let qparams = QParams::new(0.05, self.random.between(-60, 60)).expect("valid");
        let requantize = Requantize { qparams, lo: -128, hi: 127, ch_axis: Some(1) };
        self.node("conv", Op::Requantize(requantize), &[sums, factors])
    }

    fn requantized(&mut self, sums: NodeId, factors: NodeId, zero_point: i32) -> NodeId {
        let qparams = QParams::new(0.05, zero_point).expect("valid");
        self.node("linear", Op::Requantize(Requantize { qparams, lo: -128, hi: 127, ch_axis: None }), &[sums, factors])
    }

    /// An int8 layer to float.
    pub(crate) fn linear_to_floats(&mut self, x: NodeId, n: usize, k: usize) -> NodeId {
        let sums = self.sums(x, n, k);
        let factors = self.factors(n, k);
        let relu = self.random.below(2) == 0;
        self.node("linear", Op::ScaleAccumulator(ScaleAccumulator { relu, ch_axis: None }), &[sums, factors])
    }

    /// The dynamic qparams of each row, and its quantized values.
    pub(crate) fn per_token(&mut self, x: NodeId) -> [NodeId; 2] {
        self.chosen(x, QScheme::per_token_affine())
    }

    /// The dynamic qparams of a value, and the value quantized with them.
    pub(crate) fn chosen(&mut self, x: NodeId, qscheme: QScheme) -> [NodeId; 2] {
        let range = QuantRange::INT8;
        let qparams = self.node("qparams", Op::ChooseQParams(ChooseQParams { qscheme, range, eps: EPS }), &[x]);
        [qparams, self.node("quantized", Op::QuantizeDynamic(QuantizeDynamic { range }), &[x, qparams])]
    }

    /// A dynamic layer of floats.
    pub(crate) fn dynamic(&mut self, x: NodeId, n: usize, k: usize) -> NodeId {
        let [qparams, quantized] = self.per_token(x);
        self.after_tokens(qparams, quantized, n, k)
    }

    pub(crate) fn after_tokens(&mut self, qparams: NodeId, quantized: NodeId, n: usize, k: usize) -> NodeId {
        let weight = self.weight(n, k);
        let sums = weight.chunks(k).map(|row| row.iter().map(|&w| i32::from(w)).sum()).collect();
        let w = self.weight_constant(n, k, weight);
        let zeros = self.constant(Tensor::from_i32(&[n], vec![0; n]).expect("fits"));
        let acc = self.node("sums", Op::IntegerLinear(IntegerLinear { fraction_bits: 0 }), &[quantized, w, zeros]);
        let sums = self.constant(Tensor::from_i32(&[n], sums).expect("fits"));
        let scales = (0..n).map(|_| self.random.uniform() as f32 * 0.01 + 1e-3).collect();
        let scales = self.constant(f32s(&[n], scales));
        let bias = self.normals(&[n], 0.1);
        let bias = self.constant(bias);
        self.node(
            "linear",
            Op::ScaleAccumulatorDynamic(ScaleAccumulatorDynamic { relu: false }),
            &[acc, qparams, sums, scales, bias],
        )
    }

    pub(crate) fn lut(&mut self, x: NodeId) -> NodeId {
        let entries = self.random.codes(256);
        let entries = self.constant(i8s(&[256], entries));
        let qparams = QParams::new(0.05, self.random.between(-60, 60)).expect("valid");
        self.node("lut", Op::Lut(Lut { qparams }), &[x, entries])
    }

    /// An int8 sum, perhaps with a ReLU.
    pub(crate) fn sum(&mut self, a: NodeId, b: NodeId, relu: bool) -> NodeId {
        let multipliers = AddMultipliers::new(0.05, 0.031, 0.07).expect("usable");
        let zero_point = self.random.between(-60, 60);
        let qparams = QParams::new(0.07, zero_point).expect("valid");
        let [a_zero_point, b_zero_point] = [0; 2].map(|_| self.random.between(-60, 60));
        let lo = if relu { zero_point } else { -128 };
        self.node(
            "sum",
            Op::IntegerAdd(IntegerAdd { a_zero_point, b_zero_point, multipliers, qparams, lo, hi: 127 }),
            &[a, b],
        )
    }

    pub(crate) fn quantize(&mut self, x: NodeId) -> NodeId {
        let qparams = enfold::values::TensorQParams::PerTensor(QParams::new(0.03, 5).expect("valid"));
        self.node("quantize", Op::Quantize(Quantize::new(qparams, QuantRange::INT8)), &[x])
    }

    pub(crate) fn gelu(&mut self, x: NodeId) -> NodeId {
        let name = self.name("gelu");
        self.g.gelu(&name, x).expect("a function")
    }

    pub(crate) fn add(&mut self, a: NodeId, b: NodeId) -> NodeId {
        let name = self.name("add");
        self.g.add(&name, a, b).expect("a sum")
    }

    pub(crate) fn float_linear(&mut self, x: NodeId, n: usize, k: usize) -> NodeId {
        let (name, weight, bias) = (self.name("float"), self.normals(&[n, k], 0.2), self.normals(&[n], 0.2));
        self.g.linear(&name, x, weight, Some(bias)).expect("a layer")
    }

    pub(crate) fn layer_norm(&mut self, x: NodeId, k: usize) -> NodeId {
        let (name, weight, bias) = (self.name("norm"), self.normals(&[k], 1.0), self.normals(&[k], 0.1));
        self.g.layer_norm(&name, x, weight, bias, 1e-5).expect("a norm")
    }

    pub(crate) fn rms_norm(&mut self, x: NodeId, k: usize) -> NodeId {
        let (name, weight) = (self.name("norm"), self.normals(&[k], 1.0));
        self.g.rms_norm(&name, x, weight, 1e-5).expect("a norm")
    }

    pub(crate) fn transpose(&mut self, x: NodeId, perm: &[usize]) -> NodeId {
        let name = self.name("transpose");
        self.g.transpose(&name, x, perm).expect("moved")
    }

    /// A product of float or of int8 activations, these requantized.
    pub(crate) fn matmul(&mut self, a: NodeId, b: NodeId) -> NodeId {
        let name = self.name("matmul");
        self.g.matmul(&name, a, b).expect("a product")
    }

    pub(crate) fn integer_matmul(&mut self, a: NodeId, b: NodeId, n: usize, k: usize) -> NodeId {
        let acc =
            self.node("products", Op::IntegerMatMul(IntegerMatMul { a_zero_point: 3, b_zero_point: -7 }), &[a, b]);
        let factors = self.constant(f32s(&[n], vec![0.01 / (k as f32).sqrt(); n]));
        let qparams = QParams::new(0.05, -11).expect("valid");
        self.node("matmul", Op::Requantize(Requantize { qparams, lo: -128, hi: 127, ch_axis: None }), &[acc, factors])
    }

    pub(crate) fn finish(self, outputs: &[NodeId]) -> Graph {
        self.g.finish(outputs.iter().copied()).expect("a graph")
    }
}

pub(crate) fn f32s(shape: &[usize], data: Vec<f32>) -> Tensor {
    Tensor::from_f32(shape, data).expect("lengths fit")
}

pub(crate) fn i8s(shape: &[usize], data: Vec<i8>) -> Tensor {
    Tensor::from_i8(shape, data).expect("lengths fit")
}

/// A batch for every input of a graph.
pub(crate) fn batch(graph: &Graph, rows: usize, seed: u64) -> Vec<Tensor> {
    let mut random = Random::new(seed ^ 0xBA7C);
    let input = |&id| {
        let node = graph.node(id);
        let shape = node.shape.with_rows(rows);
        let len = shape.iter().product();
        if node.dtype == DType::I8 { i8s(&shape, random.codes(len)) } else { f32s(&shape, random.normals(len, 1.0)) }
    };
    graph.inputs().iter().map(input).collect()
}

/// The first rows of a batch.
pub(crate) fn first_rows(batch: &[Tensor], rows: usize) -> Vec<Tensor> {
    let first = |tensor: &Tensor| {
        let mut shape = tensor.shape().to_vec();
        let len = tensor.len() / shape[0] * rows;
        shape[0] = rows;
        match tensor.as_f32() {
            Some(floats) => f32s(&shape, floats[..len].to_vec()),
            None => i8s(&shape, tensor.as_i8().expect("int8 values")[..len].to_vec()),
        }
    };
    batch.iter().map(first).collect()
}

/// The right outputs for a batch.
pub(crate) fn expected(graph: &Graph, batch: &[Tensor]) -> Vec<Tensor> {
    Interpreter::new(graph).run(batch).expect("interpreted")
}

/// A deep int8 network: `layers` layers of `width` features.
pub(crate) fn mlp(layers: usize, width: usize, seed: u64) -> (Graph, Program) {
    let mut l = Layers::new(seed);
    let mut h = l.int8(&[width]);
    for _ in 0..layers {
        h = l.linear(h, width, width);
    }
    let graph = l.finish(&[h]);
    let program = lower(&graph).expect("lowered");
    (graph, program)
}

/// Floats rounded to f16; other values as they are.
pub(crate) fn rounded_to_f16(tensor: &Tensor) -> Tensor {
    let Some(floats) = tensor.as_f32() else { return tensor.clone() };
    let rounded = floats.iter().map(|&v| half::f16::from_f32(v).to_f32()).collect();
    Tensor::from_f32(tensor.shape(), rounded).expect("fits")
}

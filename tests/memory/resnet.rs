//! An int8 network of the size of ResNet-18.

use enfold::graph::NodeId;
use enfold::ops::{AveragePool, Conv, MaxPool, Window};
use enfold::quantize::{ConvertOptions, ObserverKind, QuantizationConfig, WgpuQuantizer, convert, prepare, to_integer};
use enfold::{Graph, GraphBuilder, Shape, Tensor};

use crate::random::Random;

/// Height and width of an image.
pub(crate) const SIZE: usize = 224;

/// Uniform numbers, which take less time to make than normal ones.
fn uniform(random: &mut Random, shape: &[usize], deviation: f32) -> Tensor {
    let data = (0..shape.iter().product()).map(|_| (random.uniform() as f32 * 2.0 - 1.0) * deviation * 1.7);
    Tensor::from_f32(shape, data.collect()).expect("lengths fit")
}

pub(crate) fn image(seed: u64) -> Vec<f32> {
    let mut random = Random::new(seed);
    (0..3 * SIZE * SIZE).map(|_| random.uniform() as f32 * 2.0 - 1.0).collect()
}

struct Net {
    g: GraphBuilder,
    random: Random,
}

impl Net {
    /// A convolution of `window · window` with a bias: batch norms are folded.
    fn conv(&mut self, name: &str, x: NodeId, [c, n]: [usize; 2], [window, stride]: [usize; 2]) -> NodeId {
        let shape = [n, c, window, window];
        let weight = uniform(&mut self.random, &shape, (2.0 / (c * window * window) as f32).sqrt());
        let bias = uniform(&mut self.random, &[n], 0.1);
        let window = Window::new(&[window; 2]).with_stride(&[stride; 2]).with_padding(&[window / 2; 2]);
        self.g.conv(name, x, weight, Some(bias), Conv::new(window)).expect("a conv")
    }

    fn relu(&mut self, name: &str, x: NodeId) -> NodeId {
        self.g.relu(&format!("{name}.relu"), x).expect("a relu")
    }

    /// Two convolutions, and the sum with what they read.
    fn block(&mut self, name: &str, x: NodeId, [c, n]: [usize; 2], stride: usize) -> NodeId {
        let h = self.conv(&format!("{name}.conv1"), x, [c, n], [3, stride]);
        let h = self.relu(&format!("{name}.conv1"), h);
        let h = self.conv(&format!("{name}.conv2"), h, [n, n], [3, 1]);
        let shortcut = if c == n { x } else { self.conv(&format!("{name}.downsample"), x, [c, n], [1, stride]) };
        let h = self.g.add(&format!("{name}.sum"), h, shortcut).expect("a sum");
        self.relu(name, h)
    }
}

/// ResNet-18 with random weights, quantized after training by one image.
pub(crate) fn quantized() -> Graph {
    let mut net = Net { g: GraphBuilder::new(), random: Random::new(17) };
    let x = net.g.input("x", Shape::batched(&[3, SIZE, SIZE])).expect("an input");
    let h = net.conv("stem", x, [3, 64], [7, 2]);
    let h = net.relu("stem", h);
    let pool = MaxPool::new(Window::new(&[3, 3]).with_stride(&[2, 2]).with_padding(&[1, 1]));
    let mut h = net.g.max_pool("stem.pool", h, pool).expect("a pool");
    let mut c = 64;
    for (stage, n) in [64, 128, 256, 512].into_iter().enumerate() {
        let stride = if n == c { 1 } else { 2 };
        h = net.block(&format!("stage{stage}.0"), h, [c, n], stride);
        h = net.block(&format!("stage{stage}.1"), h, [n, n], 1);
        c = n;
    }
    let h = net.g.average_pool("mean", h, AveragePool::adaptive(&[1, 1])).expect("a pool");
    let h = net.g.flatten("flat", h, 1).expect("a reshape");
    let weight = uniform(&mut net.random, &[1000, c], 0.05);
    let y = net.g.linear("fc", h, weight, None).expect("a layer");
    let graph = net.g.finish([y]).expect("a graph");

    let config = QuantizationConfig::symmetric().per_channel().activation_observer(ObserverKind::MinMax);
    let mut prepared = prepare(&graph, &WgpuQuantizer::new().set_global(config)).expect("prepared");
    let image = Tensor::from_f32(&[1, 3, SIZE, SIZE], image(3)).expect("an image");
    prepared.observe(&[image]).expect("observed");
    let integers = to_integer(&convert(&prepared, &ConvertOptions::default()).expect("converted")).expect("integers");
    let summary = integers.summary();
    assert!(summary.float.is_empty(), "{summary}");
    integers
}

//! Random networks of images: convolutions, pools, residual sums, concatenations.

use enfold::graph::NodeId;
use enfold::ops::{
    AveragePool, AverageWindows, Conv, ConvTranspose, MaxPool, ResizeCoordinates, ResizeLinear, UnaryOp, Window,
};
use enfold::{GraphBuilder, Shape, Tensor};

use super::Net;
use crate::random::Random;

fn tensor(shape: &[usize], data: Vec<f32>) -> Tensor {
    Tensor::from_f32(shape, data).expect("lengths fit")
}

/// A network under construction: its last value, and the channels and lengths of that.
struct Images<'r> {
    g: GraphBuilder,
    random: &'r mut Random,
    h: NodeId,
    channels: usize,
    lengths: Vec<usize>,
    /// Earlier values with their shapes, which later nodes add or concatenate.
    earlier: Vec<(NodeId, usize, Vec<usize>)>,
}

impl Images<'_> {
    fn all(&mut self, from: usize, below: usize) -> Vec<usize> {
        (0..self.lengths.len()).map(|_| from + self.random.below(below)).collect()
    }

    /// A window that fits the image, whatever the strides.
    fn window(&mut self) -> Window {
        let size: Vec<usize> = self.lengths.iter().map(|&length| 1 + self.random.below(length.min(3))).collect();
        let (stride, before, after) = (self.all(1, 2), self.all(0, 2), self.all(0, 2));
        let dilation: Vec<usize> = self
            .lengths
            .iter()
            .zip(&size)
            .map(|(&length, &size)| if size > 1 && length > 2 * size { 1 + self.random.below(2) } else { 1 })
            .collect();
        Window::new(&size).with_stride(&stride).with_dilation(&dilation).with_uneven_padding(&before, &after)
    }

    fn weight(&mut self, shape: &[usize]) -> Tensor {
        let (scale, length) = ((self.random.normal() * 0.5 - 1.0).exp(), shape.iter().product());
        tensor(shape, self.random.normals(length, scale))
    }

    fn bias(&mut self, n: usize) -> Option<Tensor> {
        (self.random.below(3) > 0).then(|| tensor(&[n], self.random.normals(n, 0.3)))
    }

    /// Takes a node as the last value.
    fn next(&mut self, node: NodeId) {
        self.h = node;
    }

    /// Reads the lengths of the last value, and keeps it for later nodes.
    fn measure(&mut self) {
        let dims = self.g.shape(self.h).expect("a node").fixed_dims();
        self.lengths = dims[1..].to_vec();
        assert_eq!(dims[0], self.channels);
        self.earlier.push((self.h, self.channels, self.lengths.clone()));
    }

    fn conv(&mut self, i: usize) {
        let (name, c) = (format!("conv.{i}"), self.channels);
        let (groups, n) = match self.random.below(4) {
            // Depthwise, with one or two outputs a channel.
            0 => (c, c * (1 + self.random.below(2))),
            1 if c.is_multiple_of(2) => (2, 2 * (1 + self.random.below(5))),
            _ => (1, 1 + self.random.below(20)),
        };
        let window = if self.random.below(4) == 0 { Window::new(&self.all(1, 1)) } else { self.window() };
        let shape = [&[n, c / groups], &window.size()[..]].concat();
        let (weight, bias) = (self.weight(&shape), self.bias(n));
        let y = self.g.conv(&name, self.h, weight, bias, Conv::new(window).with_groups(groups)).expect("a conv");
        self.next(y);
        self.channels = n;
        if self.random.below(3) == 0 {
            self.batch_norm(i);
        }
        self.activation(i);
    }

    fn conv_transpose(&mut self, i: usize) {
        let (name, c) = (format!("up.{i}"), self.channels);
        let groups = [1, 2, c][self.random.below(3)];
        let groups = if c.is_multiple_of(groups) { groups } else { 1 };
        let n = groups * (1 + self.random.below(6).div_ceil(groups));
        let (size, stride, dilation) = (self.all(2, 2), self.all(1, 3), self.all(1, 2));
        let (before, after) = (self.all(0, 2), self.all(0, 3));
        let output_padding: Vec<usize> = stride.iter().map(|&stride| self.random.below(stride)).collect();
        let window = Window::new(&size).with_stride(&stride).with_dilation(&dilation);
        let conv = ConvTranspose::new(window.with_uneven_padding(&before, &after)).with_groups(groups);
        let shape = [&[c, n / groups], &size[..]].concat();
        let (weight, bias) = (self.weight(&shape), self.bias(n));
        let conv = conv.with_output_padding(&output_padding);
        let y = self.g.conv_transpose(&name, self.h, weight, bias, conv);
        // Padding may cut off all of a small image.
        if let Ok(y) = y {
            self.next(y);
            self.channels = n;
            self.activation(i);
        }
    }

    fn batch_norm(&mut self, i: usize) {
        let c = self.channels;
        let mut values = |scale: f32| tensor(&[c], self.random.normals(c, scale));
        let (mean, gamma, beta) = (values(0.5), values(1.0), values(0.5));
        let variance = tensor(&[c], vec![0.7; c]);
        let y = self.g.batch_norm(&format!("bn.{i}"), self.h, [mean, variance, gamma, beta], 1e-5).expect("a norm");
        self.next(y);
    }

    fn activation(&mut self, i: usize) {
        let name = format!("act.{i}");
        let y = match self.random.below(5) {
            0 | 1 => self.g.relu(&name, self.h),
            2 => self.g.clamp(&name, self.h, 0.0, 6.0),
            3 => self.g.unary(&name, UnaryOp::Sigmoid, self.h),
            _ => return,
        };
        self.next(y.expect("a function"));
    }

    fn pool(&mut self, i: usize) {
        let name = format!("pool.{i}");
        let size: Vec<usize> = self.lengths.iter().map(|&length| 1 + self.random.below(length.min(3))).collect();
        let stride = self.all(1, 2);
        let padding: Vec<usize> = size.iter().map(|&size| self.random.below(size.min(2))).collect();
        let window = Window::new(&size).with_stride(&stride).with_padding(&padding);
        // A dilated window sees an element of each image that is long enough.
        let dilated = window.clone().with_dilation(&self.all(1, 2));
        let fits = self.lengths.iter().zip(&size).all(|(&length, &size)| length >= 2 * size);
        let largest = if fits { dilated } else { window.clone() };
        let (ceil_mode, count_include_pad) = (self.random.below(2) == 0, self.random.below(2) == 0);
        let y = match self.random.below(3) {
            0 => self.g.max_pool(&name, self.h, MaxPool::new(largest).with_ceil_mode(ceil_mode)),
            1 => {
                let windows = AverageWindows::Sliding { window, ceil_mode, count_include_pad };
                self.g.average_pool(&name, self.h, windows.into())
            }
            _ => {
                let output: Vec<usize> = self.lengths.iter().map(|&length| 1 + self.random.below(length)).collect();
                self.g.average_pool(&name, self.h, AveragePool::adaptive(&output))
            }
        };
        self.next(y.expect("a pool"));
    }

    /// A sum with an earlier value of the same shape, or a concatenation with one of as many pixels.
    fn join(&mut self, i: usize) {
        let fits = |(id, _, lengths): &&(NodeId, usize, Vec<usize>)| *lengths == self.lengths && *id != self.h;
        let Some((other, channels, _)) = self.earlier.iter().rev().find(fits).cloned() else { return self.conv(i) };
        let y = if channels == self.channels && self.random.below(2) == 0 {
            self.g.add(&format!("add.{i}"), self.h, other)
        } else {
            self.channels += channels;
            self.g.concat(&format!("cat.{i}"), &[self.h, other], 1)
        };
        self.next(y.expect("a join"));
    }

    /// Elements that are repeated, in another order, padded, or interpolated.
    fn moved(&mut self, i: usize) {
        let axis = 2 + self.random.below(self.lengths.len());
        let length = self.lengths[axis - 2];
        let y = match self.random.below(4) {
            // Linear interpolation to any size.
            3 => {
                let output: Vec<usize> = self.lengths.iter().map(|_| 1 + self.random.below(10)).collect();
                let coordinates =
                    [ResizeCoordinates::HalfPixel, ResizeCoordinates::AlignCorners, ResizeCoordinates::Asymmetric];
                let resize = ResizeLinear::new(&output).with_coordinates(coordinates[self.random.below(3)]);
                self.g.resize_linear(&format!("resize.{i}"), self.h, resize)
            }
            // Upsampling by 2, nearest.
            0 if length <= 8 => {
                let indices: Vec<u32> = (0..2 * length as u32).map(|at| at / 2).collect();
                self.g.index_select(&format!("select.{i}"), self.h, axis, &indices)
            }
            1 => {
                let indices: Vec<u32> = (0..self.channels as u32).rev().collect();
                self.g.index_select(&format!("channels.{i}"), self.h, 1, &indices)
            }
            _ => {
                let ends = |n: usize| (0..self.lengths.len() + 2).map(|at| if at == axis { n } else { 0 }).collect();
                let [before, after]: [Vec<usize>; 2] = [ends(1), ends(self.random.below(2))];
                self.g.pad(&format!("pad.{i}"), self.h, &before, &after, 0.0)
            }
        };
        self.next(y.expect("moved"));
    }

    /// A factor for each channel.
    fn scaled(&mut self, i: usize) {
        let shape: Vec<usize> = [self.channels].into_iter().chain(self.lengths.iter().map(|_| 1)).collect();
        let factors = tensor(&shape, self.random.normals(self.channels, 1.0));
        let factors = self.g.constant(&format!("factors.{i}"), factors).expect("a constant");
        let y = self.g.mul(&format!("scaled.{i}"), self.h, factors).expect("a product");
        self.next(y);
    }
}

impl Net {
    /// Up to six nodes on images with one or two axes, and sometimes a linear layer of all that is left.
    pub(crate) fn images(random: &mut Random) -> Self {
        let axes = if random.below(4) == 0 { 1 } else { 2 };
        let channels = 1 + random.below(20);
        let lengths: Vec<usize> = (0..axes).map(|_| 1 + random.below(8)).collect();
        let dims = [&[channels], &lengths[..]].concat();
        let (scale, shift) = ((random.normal() * 0.5).exp(), random.normal() * 0.5);
        let nodes = 1 + random.below(6);
        let ends_in_layer = random.below(3) == 0;
        let mut g = GraphBuilder::new();
        let h = g.input("x", Shape::batched(&dims)).expect("an input");
        let earlier = vec![(h, channels, lengths.clone())];
        let mut net = Images { g, random, h, channels, lengths, earlier };
        for i in 0..nodes {
            match net.random.below(9) {
                0..=2 => net.conv(i),
                3 => net.conv_transpose(i),
                4 | 5 => net.pool(i),
                6 => net.join(i),
                7 => net.moved(i),
                _ => net.scaled(i),
            }
            net.measure();
        }
        if ends_in_layer {
            let flat = net.g.flatten("flat", net.h, 1).expect("flat");
            let k = net.channels * net.lengths.iter().product::<usize>();
            let weight = net.weight(&[5, k]);
            net.h = net.g.linear("head", flat, weight, None).expect("a layer");
        }
        let Images { g, h, .. } = net;
        Self { graph: g.finish([h]).expect("a graph"), dims, scale, shift }
    }
}

//! Measures a step of training (forward, loss, backward and update) with fake quantization and without. `benches/torch_qat.py` compares the
//! step of the convolutional network with PyTorch's.

use std::hint::black_box;

use anyhow::Result;
use enfold::graph::NodeId;
use enfold::ops::{AveragePool, Conv, Window};
use enfold::qat::{Loss, Optimizer, OptimizerKind, TrainableGraph, prepare_qat};
use enfold::quantize::{QuantizationConfig, WgpuQuantizer};
use enfold::{Graph, GraphBuilder, Shape, Tensor};

use crate::random::Random;
use crate::report::Measured;
use crate::{ROUNDS, median, time};

pub(crate) const SERIES: [&str; 1] = ["qat step"];

/// The measured networks of linear layers: rows of a batch, and widths.
const MLPS: [(usize, [usize; 4]); 2] = [(64, [64, 256, 128, 10]), (256, [784, 1024, 1024, 10])];

/// The measured network of convolutions of 3 by 3: rows of a batch, height and width of an image, and channels.
const CONVOLUTIONS: (usize, usize, [usize; 4]) = (32, 32, [3, 16, 32, 64]);

const CLASSES: usize = 10;

/// A network to train, with its batch.
struct Net {
    name: String,
    graph: Graph,
    /// Shape of a batch.
    shape: Vec<usize>,
    /// Operations of the products of a step.
    operations: usize,
}

pub(crate) fn measure() -> Result<Vec<Measured>> {
    let mut random = Random::new(11);
    let mut nets = Vec::new();
    for (rows, dims) in MLPS {
        nets.push(mlp(&mut random, rows, dims)?);
    }
    nets.push(convolutions(&mut random, CONVOLUTIONS)?);
    let mut results = Vec::new();
    for Net { name, graph, shape, operations } in nets {
        let (rows, inputs) = (shape[0], shape[1..].iter().product());
        let x = Tensor::from_f32(&shape, random.normals(rows * inputs, 1.0))?;
        let labels: Vec<i32> = (0..rows).map(|_| random.below(CLASSES) as i32).collect();
        let labels = Tensor::from_i32(&[rows], labels)?;
        let config = QuantizationConfig::symmetric().per_channel().qat();
        let quantized = prepare_qat(&graph, &WgpuQuantizer::new().set_global(config))?;
        let mut runs = [("qat step", quantized, vec![]), ("float step", TrainableGraph::new(&graph)?, vec![])];
        for _ in 0..ROUNDS {
            for (_, model, seconds) in &mut runs {
                let mut optimizer = Optimizer::new(OptimizerKind::Sgd { momentum: 0.9, weight_decay: 0.0 }, 1e-3)?;
                seconds.push(time(|| {
                    let outputs = model.forward(&[&x])?;
                    let (loss, gradient) = Loss::CrossEntropy.evaluate(&outputs[0], &labels)?;
                    model.backward(&[gradient])?;
                    model.step(&mut optimizer);
                    black_box(loss);
                    Ok(())
                })?);
            }
        }
        println!("\ntraining {name} at {rows} rows");
        for (series, _, seconds) in runs {
            let least_seconds = seconds.iter().copied().reduce(f64::min);
            let seconds = median(seconds);
            let gops = 1e-9 * operations as f64 / seconds;
            println!("  {series:<16} {:>12.1} us {gops:>9.1} GFLOPS", seconds * 1e6);
            results.push(Measured {
                series: series.to_owned(),
                shape: [rows, inputs, CLASSES],
                seconds,
                least_seconds,
                gops,
                rounds: ROUNDS,
                ..Measured::default()
            });
        }
    }
    Ok(results)
}

fn mlp(random: &mut Random, rows: usize, dims: [usize; 4]) -> Result<Net> {
    let mut g = GraphBuilder::new();
    let mut h = g.input("x", Shape::rows(dims[0]))?;
    for (i, d) in dims.windows(2).enumerate() {
        h = linear(&mut g, random, &format!("fc{i}"), h, [d[0], d[1]])?;
        if i + 2 < dims.len() {
            h = g.relu(&format!("relu{i}"), h)?;
        }
    }
    let name = dims.map(|d| d.to_string()).join("-");
    let operations = dims.windows(2).map(|d| 6 * rows * d[0] * d[1]).sum();
    Ok(Net { name, graph: g.finish([h])?, shape: vec![rows, dims[0]], operations })
}

/// Convolutions with batch norms and ReLUs, the mean of all pixels, and a linear layer.
fn convolutions(random: &mut Random, (rows, size, channels): (usize, usize, [usize; 4])) -> Result<Net> {
    let mut g = GraphBuilder::new();
    let mut h = g.input("x", Shape::batched(&[channels[0], size, size]))?;
    for (i, c) in channels.windows(2).enumerate() {
        let weight = random.normals(9 * c[0] * c[1], (2.0 / (9 * c[0]) as f32).sqrt());
        let window = Window::new(&[3, 3]).with_padding(&[1, 1]);
        let weight = Tensor::from_f32(&[c[1], c[0], 3, 3], weight)?;
        h = g.conv(&format!("conv{i}"), h, weight, None, Conv::new(window))?;
        let vector = |value| Tensor::from_f32(&[c[1]], vec![value; c[1]]);
        let statistics = [vector(0.0)?, vector(1.0)?, vector(1.0)?, vector(0.0)?];
        h = g.batch_norm(&format!("norm{i}"), h, statistics, 1e-5)?;
        h = g.relu(&format!("relu{i}"), h)?;
    }
    h = g.average_pool("mean", h, AveragePool::adaptive(&[1, 1]))?;
    h = g.flatten("flat", h, 1)?;
    h = linear(&mut g, random, "fc", h, [channels[3], CLASSES])?;
    let name = format!("convolutions of {} channels at {size}x{size}", channels.map(|c| c.to_string()).join("-"));
    let operations = channels.windows(2).map(|c| 6 * rows * size * size * 9 * c[0] * c[1]).sum();
    Ok(Net { name, graph: g.finish([h])?, shape: vec![rows, channels[0], size, size], operations })
}

fn linear(g: &mut GraphBuilder, random: &mut Random, name: &str, x: NodeId, [k, n]: [usize; 2]) -> Result<NodeId> {
    let weight = Tensor::from_f32(&[n, k], random.normals(k * n, 1.0 / (k as f32).sqrt()))?;
    let bias = Tensor::from_f32(&[n], vec![0.0; n])?;
    Ok(g.linear(name, x, weight, Some(bias))?)
}

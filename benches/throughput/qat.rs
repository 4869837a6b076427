//! Measures a step of training (forward, loss, backward and update) with fake quantization and without.

use std::hint::black_box;

use anyhow::Result;
use enfold::qat::{Loss, Optimizer, OptimizerKind, TrainableGraph, prepare_qat};
use enfold::quantize::{QuantizationConfig, WgpuQuantizer};
use enfold::{Graph, GraphBuilder, Shape, Tensor};

use crate::random::Random;
use crate::report::Measured;
use crate::{ROUNDS, median, time};

pub(crate) const SERIES: [&str; 1] = ["qat step"];

/// The measured networks: rows of a batch, and widths.
const NETS: [(usize, [usize; 4]); 2] = [(64, [64, 256, 128, 10]), (256, [784, 1024, 1024, 10])];

pub(crate) fn measure() -> Result<Vec<Measured>> {
    let mut results = Vec::new();
    for (rows, dims) in NETS {
        let mut random = Random::new(11);
        let graph = mlp(&mut random, dims)?;
        let x = Tensor::from_f32(&[rows, dims[0]], random.normals(rows * dims[0], 1.0))?;
        let labels: Vec<i32> = (0..rows).map(|_| random.below(dims[3]) as i32).collect();
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
        println!("\ntraining {} at {rows} rows", dims.map(|d| d.to_string()).join("-"));
        let operations: usize = dims.windows(2).map(|d| 6 * rows * d[0] * d[1]).sum();
        for (series, _, seconds) in runs {
            let seconds = median(seconds);
            let gops = 1e-9 * operations as f64 / seconds;
            println!("  {series:<16} {:>12.1} us {gops:>9.1} GFLOPS", seconds * 1e6);
            results.push(Measured {
                series: series.to_owned(),
                shape: [rows, dims[0], dims[3]],
                seconds,
                gops,
                rounds: ROUNDS,
                ..Measured::default()
            });
        }
    }
    Ok(results)
}

fn mlp(random: &mut Random, dims: [usize; 4]) -> Result<Graph> {
    let mut g = GraphBuilder::new();
    let mut h = g.input("x", Shape::rows(dims[0]))?;
    for (i, d) in dims.windows(2).enumerate() {
        let weight = random.normals(d[0] * d[1], 1.0 / (d[0] as f32).sqrt());
        let (weight, bias) = (Tensor::from_f32(&[d[1], d[0]], weight)?, Tensor::from_f32(&[d[1]], vec![0.0; d[1]])?);
        h = g.linear(&format!("fc{i}"), h, weight, Some(bias))?;
        if i + 2 < dims.len() {
            h = g.relu(&format!("relu{i}"), h)?;
        }
    }
    Ok(g.finish([h])?)
}

//! The network, its training, and its quantization.

use std::collections::HashMap;

use anyhow::{Context as _, Result};
use enfold::ops::{Conv, ResizeLinear, Window};
use enfold::qat::{Loss, Optimizer, Schedule, TrainableGraph, Trainer};
use enfold::quantize::{ConvertOptions, ObserverKind, QuantizationConfig, WgpuQuantizer, convert, prepare, to_integer};
use enfold::{Graph, GraphBuilder, Shape, Tensor};

use crate::picture;

/// Channels between the convolutions.
const CHANNELS: usize = 16;
/// The side of the small pictures that the network learns from, and their number.
const PATCH: usize = 12;
const PATCHES: usize = 512;

/// `[rows, 3, height, width]` pixels to twice as many along each axis: linear interpolation, and what three convolutions add to it. They
/// work on the small picture, and a pixel shuffle makes four pixels of each (Shi et al. 2016).
pub(crate) fn float(parameters: &HashMap<String, Tensor>, [width, height]: [usize; 2]) -> Result<Graph> {
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::batched(&[3, height, width]))?;
    let mut h = x;
    for (name, [inputs, outputs]) in [("wide", [3, CHANNELS]), ("deep", [CHANNELS; 2]), ("detail", [CHANNELS, 12])] {
        let parameter = |part: &str| parameters.get(&format!("{name}.{part}")).cloned().context("a parameter");
        assert_eq!(parameter("weight")?.shape(), [outputs, inputs, 3, 3]);
        let conv = Conv::new(Window::new(&[3, 3]).with_padding(&[1, 1]));
        h = g.conv(name, h, parameter("weight")?, Some(parameter("bias")?), conv)?;
        if name != "detail" {
            h = g.relu(&format!("{name}.relu"), h)?;
        }
    }
    let detail = g.pixel_shuffle("detail.pixels", h, 2)?;
    let smooth = g.resize_linear("smooth", x, ResizeLinear::new(&[2 * height, 2 * width]))?;
    let y = g.add("y", smooth, detail)?;
    Ok(g.finish([y])?)
}

/// Trains the network on parts of pictures other than the one that is drawn.
pub(crate) fn train(epochs: usize) -> Result<HashMap<String, Tensor>> {
    let mut random = fastrand::Rng::with_seed(3);
    let mut parameters = HashMap::new();
    for (name, [inputs, outputs], factor) in
        [("wide", [3, CHANNELS], 1.0), ("deep", [CHANNELS; 2], 1.0), ("detail", [CHANNELS, 12], 0.1)]
    {
        // The initialization of He et al. 2015; the network begins as the interpolation.
        let bound = factor * (6.0 / (9 * inputs) as f32).sqrt();
        let weight = (0..outputs * inputs * 9).map(|_| bound * (2.0 * random.f32() - 1.0)).collect();
        parameters.insert(format!("{name}.weight"), Tensor::from_f32(&[outputs, inputs, 3, 3], weight)?);
        parameters.insert(format!("{name}.bias"), Tensor::from_f32(&[outputs], vec![0.0; outputs])?);
    }
    let (mut small, mut large) = (Vec::new(), Vec::new());
    for _ in 0..PATCHES {
        let scene = picture::Scene::random(&mut random);
        let pixels = scene.pixels([2 * PATCH; 2]);
        small.extend(picture::halved(&pixels, [2 * PATCH; 2]));
        large.extend(pixels);
    }
    let small = Tensor::from_f32(&[PATCHES, 3, PATCH, PATCH], small)?;
    let large = Tensor::from_f32(&[PATCHES, 3, 2 * PATCH, 2 * PATCH], large)?;
    let mut model = TrainableGraph::new(&float(&parameters, [PATCH; 2])?)?;
    let mut trainer = Trainer::new(Loss::Mse, Optimizer::adam(4e-3)?);
    (trainer.epochs, trainer.batch_rows) = (epochs, 32);
    trainer.schedule = Schedule::Cosine { warmup: 0, least: 0.01 };
    trainer.fit(&mut model, &[&small], &large, |progress| log::info!("{progress}"))?;
    Ok(model.parameters().map(|(name, value, _)| (name.to_owned(), value.clone())).collect())
}

/// Quantizes the network to int8. The ranges of activations come from other pictures of the same size.
pub(crate) fn quantized(graph: &Graph, [width, height]: [usize; 2]) -> Result<Graph> {
    let config = QuantizationConfig::symmetric().per_channel().activation_observer(ObserverKind::MinMax);
    let mut prepared = prepare(graph, &WgpuQuantizer::new().set_global(config))?;
    let mut random = fastrand::Rng::with_seed(5);
    for _ in 0..8 {
        let pixels = picture::Scene::random(&mut random).pixels([2 * width, 2 * height]);
        let small = picture::halved(&pixels, [2 * width, 2 * height]);
        prepared.observe(&[&Tensor::from_f32(&[1, 3, height, width], small)?])?;
    }
    Ok(to_integer(&convert(&prepared, &ConvertOptions::default())?)?)
}

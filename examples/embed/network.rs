//! Trains the network with fake quantization, and rewrites it into its integer form.

use std::time::Instant;

use anyhow::Result;
use enfold::qat::{Loss, Optimizer, Schedule, Trainer, prepare_qat};
use enfold::quantize::{ConvertOptions, QuantizationConfig, WgpuQuantizer, convert, to_integer};
use enfold::{Graph, GraphBuilder, Shape, Tensor};
use indicatif::{ProgressBar, ProgressStyle};

use crate::picture::{self, FEATURES};

const HIDDEN: usize = 32;
const EXAMPLES: usize = 1 << 15;
const EPOCHS: usize = 40;

/// Trains on random pixels at random moments, and returns the integer form.
pub(crate) fn train() -> Result<Graph> {
    let start = Instant::now();
    let mut random = fastrand::Rng::with_seed(1);
    // The last layer's output stays float, which is finer than 256 steps: the layer scales its integer sum by one product.
    let config = QuantizationConfig::symmetric().per_channel().qat();
    let quantizer = WgpuQuantizer::new().set_module_name("color", config.clone().float_output()).set_global(config);
    let mut model = prepare_qat(&float_graph(&mut random)?, &quantizer)?;

    let (mut inputs, mut targets) = (Vec::with_capacity(EXAMPLES * FEATURES), Vec::with_capacity(EXAMPLES * 3));
    for _ in 0..EXAMPLES {
        let [x, y, turn] = std::array::from_fn(|_| 2.0 * random.f32() - 1.0);
        let phase = turn * std::f32::consts::PI;
        inputs.extend(picture::features([x, y], phase));
        targets.extend(picture::color([x, y], phase));
    }
    let inputs = Tensor::from_f32(&[EXAMPLES, FEATURES], inputs)?;
    let targets = Tensor::from_f32(&[EXAMPLES, 3], targets)?;

    let mut trainer = Trainer::new(Loss::Mse, Optimizer::adam(2e-2)?);
    (trainer.epochs, trainer.batch_rows) = (EPOCHS, 128);
    trainer.schedule = Schedule::Cosine { warmup: 0, least: 0.01 };
    // The scales are frozen for the last quarter of the epochs.
    trainer.settled_epochs = EPOCHS / 4;
    let bar = ProgressBar::new(0);
    bar.set_style(ProgressStyle::with_template("training {bar:40} {pos}/{len} {msg}")?);
    let mut last = None;
    trainer.fit(&mut model, &[&inputs], &targets, |progress| {
        bar.set_length(progress.steps);
        bar.set_position(progress.step);
        bar.set_message(format!("loss {:.5}", progress.loss));
        last = Some(*progress);
    })?;
    bar.finish_and_clear();
    if let Some(last) = last {
        let (seconds, loss) = (start.elapsed().as_secs_f64(), last.loss);
        println!("trained: {FEATURES}-{HIDDEN}-{HIDDEN}-3 in {seconds:.1} s, {} steps, loss {loss:.5}", last.steps);
    }

    let integers = to_integer(&convert(&model.prepared()?, &ConvertOptions::default())?)?;
    log::info!("{}", integers.summary());
    Ok(integers)
}

fn float_graph(random: &mut fastrand::Rng) -> Result<Graph> {
    let mut g = GraphBuilder::new();
    let mut linear = |g: &mut GraphBuilder, name: &str, x, inputs: usize, outputs: usize| -> Result<_> {
        // The initialization of He et al. 2015, for layers before a ReLU.
        let bound = (6.0 / inputs as f32).sqrt();
        let weight = (0..outputs * inputs).map(|_| bound * (2.0 * random.f32() - 1.0)).collect();
        let weight = Tensor::from_f32(&[outputs, inputs], weight)?;
        Ok(g.linear(name, x, weight, Some(Tensor::from_f32(&[outputs], vec![0.0; outputs])?))?)
    };
    let x = g.input("features", Shape::rows(FEATURES))?;
    let h = linear(&mut g, "hidden1", x, FEATURES, HIDDEN)?;
    let h = g.relu("relu1", h)?;
    let h = linear(&mut g, "hidden2", h, HIDDEN, HIDDEN)?;
    let h = g.relu("relu2", h)?;
    let color = linear(&mut g, "color", h, HIDDEN, 3)?;
    Ok(g.finish([color])?)
}

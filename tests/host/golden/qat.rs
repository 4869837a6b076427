//! Fake quantization, and some steps of training.

use enfold::Tensor;
use enfold::numerics::EPS;
use enfold::qat::{Loss, Optimizer, OptimizerKind, TrainableGraph, prepare_qat};
use enfold::quantize::{
    ConvertOptions, FakeQuantize, ObservedSpec, Observer, ObserverKind, QParamsRule, WgpuQuantizer, convert,
};
use enfold::values::{QScheme, QuantRange, TensorQParams};

use super::file::Golden;
use super::{models, pt2e};

fn text(error: impl ToString) -> String {
    error.to_string()
}

/// Floats within a tolerance of the largest expected.
fn close(name: &str, got: &[f32], expected: &[f32], tolerance: f32) -> Result<(), String> {
    if got.len() != expected.len() {
        return Err(format!("{name}: {} elements, expected {}", got.len(), expected.len()));
    }
    let largest = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
    let near = |at: usize| (got[at] - expected[at]).abs() <= tolerance * largest;
    match (0..got.len()).find(|&at| !near(at)) {
        Some(at) => {
            Err(format!("{name}: element {at} is {:e}, expected {:e} of at most {largest:e}", got[at], expected[at]))
        }
        None => Ok(()),
    }
}

fn equal(name: &str, got: &[f32], expected: &[f32]) -> Result<(), String> {
    close(name, got, expected, 0.0)
}

fn spec(golden: &Golden, qscheme: QScheme, observer: ObserverKind) -> Result<ObservedSpec, String> {
    let range = QuantRange::new(golden.int("quant_min")?, golden.int("quant_max")?).map_err(text)?;
    Ok(ObservedSpec { range, qscheme, observer, eps: EPS })
}

/// Values and gradients, bit for bit.
pub(super) fn compare_fake_quantize(golden: &Golden) -> Result<(), String> {
    let scales = golden.f32s("in.scale")?;
    let (qscheme, qparams) = match golden.int("axis") {
        Ok(axis) => {
            let ch_axis = usize::try_from(axis).map_err(text)?;
            let zeros = vec![0; scales.len()];
            (
                QScheme::per_channel_symmetric(ch_axis),
                TensorQParams::per_channel(scales, &zeros, ch_axis).map_err(text)?,
            )
        }
        Err(_) => {
            let zero_point = golden.i32s("in.zero_point")?[0];
            let qparams = enfold::values::QParams::new(scales[0], zero_point).map_err(text)?;
            (QScheme::per_tensor_affine(), TensorQParams::PerTensor(qparams))
        }
    };
    let spec = spec(golden, qscheme, ObserverKind::MinMax)?;
    let mut fake = FakeQuantize::with_qparams(spec, qparams).map_err(text)?;
    let x = golden.tensor("in.x")?;
    let y = fake.forward(x).map_err(text)?;
    equal("out.y", y.as_f32().unwrap_or_default(), golden.f32s("out.y")?)?;
    let mut gradient = golden.f32s("in.grad")?.to_vec();
    fake.backward(x, &mut gradient);
    equal("out.grad", &gradient, golden.f32s("out.grad")?)
}

/// The module that observes and quantizes at once, over several batches.
pub(super) fn compare_fused(golden: &Golden) -> Result<(), String> {
    let qscheme = match golden.text("qscheme")? {
        "per_channel_symmetric" => QScheme::per_channel_symmetric(0),
        "per_tensor_affine" => QScheme::per_tensor_affine(),
        other => return Err(format!("unknown scheme {other}")),
    };
    let observer = ObserverKind::MovingAverageMinMax { averaging_constant: golden.float("averaging_constant")? };
    let mut fake = FakeQuantize::new(Observer::new(spec(golden, qscheme, observer)?).map_err(text)?);
    fake.set_rule(QParamsRule::TorchFused);
    for batch in 0..golden.int("batches")? {
        let y = fake.forward(golden.tensor(&format!("in.x{batch}"))?).map_err(text)?;
        let channels = fake.qparams().ok_or("no parameters")?.channels();
        let scales: Vec<f32> = channels.iter().map(|q| q.scale()).collect();
        equal("scale", &scales, golden.f32s(&format!("out.scale{batch}"))?)?;
        let zero_points: Vec<i32> = channels.iter().map(|q| q.zero_point()).collect();
        let expected = golden.i32s(&format!("out.zero_point{batch}"))?;
        if zero_points != expected {
            return Err(format!("zero points {zero_points:?}, expected {expected:?}"));
        }
        equal("y", y.as_f32().unwrap_or_default(), golden.f32s(&format!("out.y{batch}"))?)?;
    }
    Ok(())
}

/// PyTorch's rule gives the same numbers. The rule of convert gives nearly the same, and a converted graph that agrees with training.
pub(super) fn compare(golden: &Golden) -> Result<(), String> {
    let trained = train(golden, QParamsRule::TorchFused, 1e-5)?;
    converted(golden, &trained)?;
    let mut ours = train(golden, QParamsRule::Convert, 1e-2)?;
    let x = golden.tensor("in.x")?;
    let quantized = convert(&ours.prepared().map_err(text)?, &ConvertOptions::default()).map_err(text)?;
    let y = enfold::interp::Interpreter::new(&quantized).run(&[x]).map_err(text)?;
    let fake = ours.evaluate(&[x]).map_err(text)?;
    equal("what was trained", y[0].as_f32().unwrap_or_default(), fake[0].as_f32().unwrap_or_default())
}

/// Convolutions: as [`compare`], and the structure of the converted graph.
pub(super) fn compare_conv(golden: &Golden) -> Result<(), String> {
    let trained = train(golden, QParamsRule::TorchFused, 1e-5)?;
    let quantized = convert(&trained.prepared().map_err(text)?, &ConvertOptions::default()).map_err(text)?;
    pt2e::compare_quantized(golden, &quantized)?;
    train(golden, QParamsRule::Convert, 1e-2).map(drop)
}

fn train(golden: &Golden, rule: QParamsRule, tolerance: f32) -> Result<TrainableGraph, String> {
    let float = models::float_graph(golden)?;
    let quantizer = WgpuQuantizer::new().set_global(models::config(golden)?.qat());
    let mut model = prepare_qat(&float, &quantizer).map_err(text)?;
    model.set_rule(rule);
    let number = |field: &str| golden.case["optimizer"][field].as_f64().unwrap_or_default() as f32;
    let kind = OptimizerKind::Sgd { momentum: number("momentum"), weight_decay: 0.0 };
    let mut optimizer = Optimizer::new(kind, number("lr")).map_err(text)?;
    let mut losses = Vec::new();
    for step in 0..golden.int("steps")? {
        let (x, target) = (golden.tensor(&format!("in.x{step}"))?, golden.tensor(&format!("in.target{step}"))?);
        let outputs = model.forward(&[x]).map_err(text)?;
        let (loss, gradient) = Loss::Mse.evaluate(&outputs[0], target).map_err(text)?;
        losses.push(loss as f32);
        model.backward(&[gradient]).map_err(text)?;
        if step == 0 && rule == QParamsRule::TorchFused {
            for (name, _, gradient) in model.parameters() {
                let expected = golden.f32s(&format!("out.grad0.{name}"))?;
                // A norm takes the bias before it away: its gradient is 0 but for noise.
                let is_noise = golden.kind == "conv_qat" && expected.iter().all(|v| v.abs() < 1e-6);
                if is_noise && gradient.iter().zip(expected).all(|(got, expected)| (got - expected).abs() <= 1e-6) {
                    continue;
                }
                close(name, gradient, expected, tolerance)?;
            }
        }
        model.step(&mut optimizer);
    }
    close("losses", &losses, golden.f32s("out.losses")?, tolerance)?;
    for (name, value, _) in model.parameters().filter(|_| rule == QParamsRule::TorchFused) {
        let expected = golden.f32s(&format!("out.trained.{name}"))?;
        close(name, value.as_f32().unwrap_or_default(), expected, tolerance)?;
    }
    Ok(model)
}

/// Folded weights are equal, and outputs are within a step.
fn converted(golden: &Golden, model: &TrainableGraph) -> Result<(), String> {
    let quantized = convert(&model.prepared().map_err(text)?, &ConvertOptions::default()).map_err(text)?;
    let mut weights = golden.names().filter(|name| name.starts_with("out.attr.quantize_per_")).peekable();
    if weights.peek().is_none() {
        return Err("no folded weight".to_owned());
    }
    for (layer, name) in weights.enumerate() {
        let id = quantized.find(&format!("fc.{layer}.weight.quantize")).ok_or("no folded weight")?;
        let value = enfold::interp::Interpreter::new(&quantized).constant_value(id).map_err(text)?;
        let (got, expected) = (value.as_ref().and_then(|v| v.as_i8()).unwrap_or_default(), golden.i8s(name)?);
        if let Some(at) = (0..expected.len()).find(|&at| got.get(at) != Some(&expected[at])) {
            return Err(format!("{name}: element {at} is {:?}, expected {}", got.get(at), expected[at]));
        }
    }
    let x: &Tensor = golden.tensor("in.x")?;
    let y = enfold::interp::Interpreter::new(&quantized).run(&[x]).map_err(text)?;
    // Sums in another order move a value across a step here and there; the first layers' steps are finer than the last's.
    close("out.y", y[0].as_f32().unwrap_or_default(), golden.f32s("out.y")?, 1e-2)
}

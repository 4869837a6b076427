//! Losses, optimizers, schedules and fake quantizers against numbers worked out by hand.

use enfold::numerics::torch_fused_qparams;
use enfold::ops::UnaryOp;
use enfold::qat::{Loss, Optimizer, OptimizerKind, Schedule, TrainableGraph, prepare_qat};
use enfold::quantize::{
    Annotations, FakeQuantize, ObservedSpec, Observer, ObserverKind, PrepareError, QuantizationAnnotation, Quantizer,
};
use enfold::values::{QParams, QScheme, QuantRange, TensorQParams};
use enfold::{Graph, GraphBuilder, Shape, Tensor};

fn floats(shape: &[usize], data: &[f32]) -> Tensor {
    Tensor::from_f32(shape, data.to_vec()).expect("fits")
}

fn close(got: &Tensor, expected: &[f32]) {
    let got = got.as_f32().expect("floats");
    assert_eq!(got.len(), expected.len());
    for (a, b) in got.iter().zip(expected) {
        approx::assert_abs_diff_eq!(*a, *b, epsilon = 1e-6);
    }
}

#[test]
fn losses() {
    let y = floats(&[2, 2], &[1.0, 2.0, -1.0, 0.0]);
    let (loss, gradient) = Loss::Mse.evaluate(&y, &floats(&[2, 2], &[0.0, 2.0, 1.0, 1.0])).expect("a loss");
    assert_eq!(loss, (1.0 + 0.0 + 4.0 + 1.0) / 4.0);
    close(&gradient, &[0.5, 0.0, -1.0, -0.5]);

    // softmax of [1, 2] is [0.268941, 0.731059], and so is that of [−1, 0].
    let labels = Tensor::from_i32(&[2], vec![0, 1]).expect("fits");
    let (loss, gradient) = Loss::CrossEntropy.evaluate(&y, &labels).expect("a loss");
    approx::assert_abs_diff_eq!(loss, (1.313_261_7 + 0.313_261_7) / 2.0, epsilon = 1e-6);
    close(&gradient, &[-0.365_529_3, 0.365_529_3, 0.134_470_7, -0.134_470_7]);
    // Large outputs overflow nothing.
    let (loss, _) = Loss::CrossEntropy.evaluate(&floats(&[1, 2], &[1e30, -1e30]), &labels_of(&[0])).expect("a loss");
    assert_eq!(loss, 0.0);

    // KL of [0.5, 0.5] from [0.268941, 0.731059] is 0.120115.
    let distillation = Loss::Distillation { temperature: 1.0 };
    let (loss, gradient) = distillation.evaluate(&y, &floats(&[2, 2], &[0.0; 4])).expect("a loss");
    approx::assert_abs_diff_eq!(loss, 0.120_114_5, epsilon = 1e-6);
    close(&gradient, &[-0.115_529_3, 0.115_529_3, -0.115_529_3, 0.115_529_3]);
    let (loss, gradient) = distillation.evaluate(&y, &y).expect("a loss");
    assert_eq!(loss, 0.0);
    close(&gradient, &[0.0; 4]);
    // At temperature 2 the outputs are halved, and the loss is four times that.
    let two = Loss::Distillation { temperature: 2.0 };
    let half = floats(&[2, 2], &[0.5, 1.0, -0.5, 0.0]);
    let (at_two, _) = two.evaluate(&y, &floats(&[2, 2], &[0.0; 4])).expect("a loss");
    let (of_half, _) = distillation.evaluate(&half, &floats(&[2, 2], &[0.0; 4])).expect("a loss");
    approx::assert_abs_diff_eq!(at_two, 4.0 * of_half, epsilon = 1e-9);
}

fn labels_of(labels: &[i32]) -> Tensor {
    Tensor::from_i32(&[labels.len()], labels.to_vec()).expect("fits")
}

/// `y = x · w` with one weight: with x = 1, its gradient is the given one.
fn one_weight(w: f32) -> TrainableGraph {
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::rows(1)).expect("an input");
    let y = g.linear("fc", x, floats(&[1, 1], &[w]), None).expect("a layer");
    TrainableGraph::new(&g.finish([y]).expect("a graph")).expect("trainable")
}

fn follow(kind: OptimizerKind, gradients: &[f32]) -> Vec<f32> {
    let mut model = one_weight(1.0);
    let mut optimizer = Optimizer::new(kind, 0.1).expect("an optimizer");
    let one = floats(&[1, 1], &[1.0]);
    let mut weights = Vec::new();
    for &gradient in gradients {
        model.forward(&[&one]).expect("forward");
        model.backward(&[floats(&[1, 1], &[gradient])]).expect("backward");
        model.step(&mut optimizer);
        weights.extend(model.parameters().map(|(_, value, _)| value.as_f32().expect("floats")[0]));
    }
    weights
}

#[test]
fn optimizers() {
    let close = |kind, expected: [f32; 2]| {
        for (a, b) in follow(kind, &[0.5, -0.25]).into_iter().zip(expected) {
            approx::assert_abs_diff_eq!(a, b, epsilon = 1e-6);
        }
    };
    // v = 0.5, then 0.9 · 0.5 − 0.25 = 0.2.
    close(OptimizerKind::Sgd { momentum: 0.9, weight_decay: 0.0 }, [0.95, 0.93]);
    // g = 0.5 + 0.1, then −0.25 + 0.1 · 0.94.
    close(OptimizerKind::Sgd { momentum: 0.0, weight_decay: 0.1 }, [0.94, 0.955_6]);
    // m̂ = 0.5, √v̂ = 0.5; then m̂ = 0.02 / 0.19, v̂ = 0.00031225 / 0.001999.
    let betas = [0.9, 0.999];
    close(OptimizerKind::Adam { betas, eps: 1e-8, weight_decay: 0.0 }, [0.9, 0.873_366]);
    // g = 0.6, then −0.25 + 0.1 · 0.9 = −0.16: m̂ = 0.038 / 0.19, v̂ = 0.00038524 / 0.001999.
    close(OptimizerKind::Adam { betas, eps: 1e-8, weight_decay: 0.1 }, [0.9, 0.854_441]);
    // The decay apart: 1 − 0.1 · 0.5 · 1, then the same steps.
    close(OptimizerKind::AdamW { betas, eps: 1e-8, weight_decay: 0.5 }, [0.85, 0.780_866]);
}

/// Each parameter has a momentum of its own, whichever others are trained.
#[test]
fn parameters_that_rest_leave_the_momentum_of_others_alone() {
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::rows(2)).expect("an input");
    let y = g.linear("fc", x, floats(&[3, 2], &[1.0; 6]), Some(floats(&[3], &[0.0; 3]))).expect("a layer");
    let graph = g.finish([y]).expect("a graph");
    let bias = |rest: bool, kind: OptimizerKind| {
        let mut model = TrainableGraph::new(&graph).expect("trainable");
        let mut optimizer = Optimizer::new(kind, 0.1).expect("an optimizer");
        for step in 0..4 {
            if rest {
                model.set_trained("fc.weight", step % 2 == 0).expect("a parameter");
            }
            model.forward(&[floats(&[1, 2], &[1.0, -2.0])]).expect("forward");
            model.backward(&[floats(&[1, 3], &[1.0, 2.0, -3.0])]).expect("backward");
            model.step(&mut optimizer);
        }
        let (_, bias, _) = model.parameters().find(|(name, _, _)| *name == "fc.bias").expect("the bias");
        bias.clone()
    };
    for kind in [
        OptimizerKind::Sgd { momentum: 0.9, weight_decay: 0.0 },
        OptimizerKind::Adam { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.0 },
    ] {
        assert_eq!(bias(true, kind), bias(false, kind), "{kind:?}");
    }
}

#[test]
fn schedules() {
    let factors = |schedule: Schedule| [0, 1, 5, 9].map(|step| schedule.factor(step, 10));
    assert_eq!(factors(Schedule::Constant), [1.0; 4]);
    assert_eq!(factors(Schedule::Step { every: 5, factor: 0.5 }), [1.0, 1.0, 0.5, 0.5]);
    let cosine = factors(Schedule::Cosine { warmup: 2, least: 0.2 });
    for (a, b) in cosine.into_iter().zip([0.5, 1.0, 0.753_073_4, 0.230_448_2]) {
        approx::assert_abs_diff_eq!(a, b, epsilon = 1e-5);
    }
}

fn spec(qscheme: QScheme) -> ObservedSpec {
    ObservedSpec { range: QuantRange::INT8, qscheme, observer: ObserverKind::MOVING_AVERAGE, eps: 1e-6 }
}

/// The edges of the range: a value that rounds into the range passes its gradient.
#[test]
fn straight_through_at_the_edges() {
    let of = |scale, z| TensorQParams::PerTensor(QParams::new(scale, z).expect("valid"));
    let mut fake = FakeQuantize::with_qparams(spec(QScheme::per_tensor_affine()), of(1.0, 0)).expect("valid");
    let x = floats(&[8], &[127.4, 127.5, -128.5, -128.6, f32::INFINITY, 2.5, 3.5, -0.2]);
    let y = fake.forward(&x).expect("forward");
    assert_eq!(y.as_f32().expect("floats"), [127.0, 127.0, -128.0, -128.0, 127.0, 2.0, 4.0, 0.0]);
    assert!(y.as_f32().expect("floats")[7].is_sign_positive());
    let mut dy = [1.0; 8];
    fake.backward(&x, &mut dy);
    assert_eq!(dy, [1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
    // A NaN stays NaN, so that the loss shows it.
    assert!(fake.forward(&floats(&[1], &[f32::NAN])).expect("forward").as_f32().expect("floats")[0].is_nan());
    // While it is off, values and gradients pass unchanged.
    fake.enable_fake_quant(false);
    assert_eq!(fake.forward(&x).expect("forward"), x);
    let mut dy = [1.0; 8];
    fake.backward(&x, &mut dy);
    assert_eq!(dy, [1.0; 8]);
}

/// The observer moves with each batch until it is switched off.
#[test]
fn switches() {
    let mut fake = FakeQuantize::new(Observer::new(spec(QScheme::per_tensor_affine())).expect("valid"));
    fake.forward(&floats(&[2], &[0.0, 2.55])).expect("forward");
    let first = fake.qparams().cloned();
    fake.forward(&floats(&[2], &[0.0, 255.0])).expect("forward");
    let second = fake.qparams().cloned();
    assert_ne!(first, second);
    fake.enable_observer(false);
    fake.forward(&floats(&[2], &[0.0, 1e6])).expect("forward");
    assert_eq!(fake.qparams().cloned(), second);
    // 2.55 + 0.01 · (255 − 2.55)
    assert_eq!(fake.observer().min_max(), [(0.0, 2.55 + 0.01 * (255.0 - 2.55))]);
}

/// Learned steps: inside, `∂y/∂s = (y − x)/s`; beyond, `q − z`, and `−s` for the zero point.
#[test]
fn gradients_of_learned_steps() {
    struct Output;
    impl Quantizer for Output {
        fn annotate(&self, graph: &Graph) -> Result<Annotations, PrepareError> {
            let mut annotations = Annotations::new(graph);
            let range = QuantRange::new(-4, 3).expect("valid");
            let spec = ObservedSpec { range, ..spec(QScheme::per_tensor_affine()) };
            let annotation = QuantizationAnnotation { output_qspec: Some(spec.into()), ..Default::default() };
            annotations.set(graph.find("fc").expect("the layer"), annotation);
            Ok(annotations)
        }
    }
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::rows(1)).expect("an input");
    let y = g.linear("fc", x, floats(&[1, 1], &[1.0]), None).expect("a layer");
    let mut model = prepare_qat(&g.finish([y]).expect("a graph"), &Output).expect("prepared");
    // A range of 7 steps of 1 from −3 to 4: zero point −1.
    model.forward(&[floats(&[2, 1], &[-3.0, 4.0])]).expect("forward");
    let expected = TensorQParams::PerTensor(QParams::new(1.0, -1).expect("valid"));
    assert_eq!(model.fake_quantizers()[0].qparams(), Some(&expected));
    // With scale gradients, they are divided by √(4 elements · 3).
    for (scaled, factor) in [(false, 1.0), (true, 1.0 / 12f32.sqrt())] {
        let mut model = model.clone();
        model.learn_steps(scaled).expect("learned");
        let batch = floats(&[4, 1], &[1.3, -0.4, 9.0, -9.0]);
        model.forward(&[&batch]).expect("forward");
        model.backward(&[floats(&[4, 1], &[1.0, 2.0, 3.0, 5.0])]).expect("backward");
        let mut optimizer = Optimizer::new(OptimizerKind::Sgd { momentum: 0.0, weight_decay: 0.0 }, 0.01).expect("one");
        model.step(&mut optimizer);
        // ∂/∂s: 1 · (1 − 1.3) + 2 · (0 + 0.4) + 3 · (3 + 1) + 5 · (−4 + 1) = −2.5; ∂/∂z: −(3 + 5) · 1.
        model.evaluate(&[&batch]).expect("run");
        let Some(TensorQParams::PerTensor(q)) = model.fake_quantizers()[0].qparams() else { panic!("per tensor") };
        approx::assert_abs_diff_eq!(q.scale(), 1.0 + 0.01 * 2.5 * factor, epsilon = 1e-6);
        assert_eq!(q.zero_point(), -1, "−1 + 0.08 rounds to −1");
        // The weight's gradient comes from the two values in range.
        let gradients: Vec<f32> = model.parameters().flat_map(|(_, _, gradient)| gradient.to_vec()).collect();
        approx::assert_abs_diff_eq!(gradients[0], 1.3 - 0.8, epsilon = 1e-6);
        // A second pass starts from nothing.
        model.forward(&[&batch]).expect("forward");
        model.backward(&[floats(&[4, 1], &[0.0; 4])]).expect("backward");
        let before = model.fake_quantizers()[0].qparams().cloned();
        model.step(&mut optimizer);
        model.evaluate(&[&batch]).expect("run");
        assert_eq!(model.fake_quantizers()[0].qparams().cloned(), before, "no gradient, no step");
    }
}

/// The two rules: that of PyTorch in training, and that of its convert.
#[test]
fn the_fused_rule() {
    for (min, max, scale, zero_point) in [
        (-1.0, 0.5, 0.007_843_26, 0),
        (-0.5, 1.0, 0.007_905_02, 0),
        (0.2, 1.0, 0.003_937_01, -127),
        (-1.0, -0.2, 0.003_937_01, 127),
        (0.0, 0.0, 0.1, 127),
        (-1e-6, 1e-6, 6.1e-5, 0),
    ] {
        let (s, z) = torch_fused_qparams(min, max, -127, 127, true);
        approx::assert_relative_eq!(s, scale, max_relative = 1e-5);
        assert_eq!(z, zero_point, "[{min}, {max}]");
    }
}

/// Numbers that no quantizer has turned into constants have gradients too.
#[test]
fn scalars_without_a_quantizer() {
    struct Nothing;
    impl Quantizer for Nothing {
        fn annotate(&self, graph: &Graph) -> Result<Annotations, PrepareError> {
            Ok(Annotations::new(graph))
        }
    }
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::rows(1)).expect("an input");
    let h = g.linear("fc", x, floats(&[1, 1], &[2.0]), None).expect("a layer");
    let h = g.add_scalar("shift", h, 5.0).expect("a sum");
    let y = g.mul_scalar("scale", h, -3.0).expect("a product");
    let mut model = prepare_qat(&g.finish([y]).expect("a graph"), &Nothing).expect("prepared");
    let y = model.forward(&[floats(&[1, 1], &[4.0])]).expect("forward");
    assert_eq!(y[0], floats(&[1, 1], &[-39.0]));
    model.backward(&[floats(&[1, 1], &[1.0])]).expect("backward");
    let gradients: Vec<f32> = model.parameters().flat_map(|(_, _, gradient)| gradient.to_vec()).collect();
    assert_eq!(gradients, [-12.0]);
}

/// Running statistics move a tenth of the way to the mean of the batch, and to its sample variance.
#[test]
fn running_statistics() {
    for layer in [false, true] {
        let mut g = GraphBuilder::new();
        let x = g.input("x", Shape::rows(1)).expect("an input");
        let h = if layer { g.linear("fc", x, floats(&[1, 1], &[1.0]), None).expect("a layer") } else { x };
        let y = g.batch_norm("bn", h, [0.0, 1.0, 1.0, 0.0].map(|v| floats(&[1], &[v])), 0.0).expect("a norm");
        let mut model = TrainableGraph::new(&g.finish([y]).expect("a graph")).expect("trainable");
        let y = model.forward(&[floats(&[2, 1], &[1.0, 3.0])]).expect("forward");
        close(&y[0], &[-1.0, 1.0]);
        // Mean 2 and variance 2 · 1 of a sample: 0.2, and 0.9 + 0.2.
        let y = model.evaluate(&[floats(&[1, 1], &[1.2])]).expect("run");
        close(&y[0], &[1.0 / 1.1f32.sqrt()]);
    }
}

/// A constant that is transposed or reshaped before an operator reads it is a parameter too.
#[test]
fn a_weight_that_is_stored_the_other_way_round_is_trained() {
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::rows(2)).expect("an input");
    let stored = g.constant("stored", floats(&[2, 3], &[1.0; 6])).expect("a constant");
    let w = g.transpose("w", stored, &[1, 0]).expect("moved");
    let y = g.linear_nodes("fc", x, w, None).expect("a layer");
    let mut model = TrainableGraph::new(&g.finish([y]).expect("a graph")).expect("trainable");
    model.forward(&[floats(&[1, 2], &[5.0, 7.0])]).expect("forward");
    model.backward(&[floats(&[1, 3], &[1.0, 2.0, 3.0])]).expect("backward");
    let gradients: Vec<(String, Vec<f32>)> = model.parameters().map(|(n, _, g)| (n.to_owned(), g.to_vec())).collect();
    assert_eq!(gradients, [("stored".to_owned(), vec![5.0, 10.0, 15.0, 7.0, 14.0, 21.0])]);
}

/// Known qparams have the channels and the range of their spec.
#[test]
fn known_parameters_fit_their_spec() {
    let of = |z| TensorQParams::PerTensor(QParams::new(1.0, z).expect("valid"));
    let channels = TensorQParams::per_channel(&[1.0, 2.0], &[0, 0], 0).expect("valid");
    let narrow = ObservedSpec { range: QuantRange::new(-4, 3).expect("valid"), ..spec(QScheme::per_tensor_affine()) };
    let dynamic = ObservedSpec { observer: ObserverKind::Placeholder, ..spec(QScheme::per_tensor_affine()) };
    assert!(FakeQuantize::with_qparams(narrow, of(3)).is_ok());
    for (what, spec, qparams) in [
        ("channels", spec(QScheme::per_tensor_affine()), channels.clone()),
        ("no channels", spec(QScheme::per_channel_symmetric(0)), of(0)),
        ("another axis", spec(QScheme::per_channel_symmetric(1)), channels),
        ("a zero point that is no code", narrow, of(4)),
        ("dynamic", dynamic, of(0)),
    ] {
        assert!(FakeQuantize::with_qparams(spec, qparams).is_err(), "{what}");
    }
}

/// Derivatives against central differences of the functions.
#[test]
fn derivatives() {
    for &op in UnaryOp::ALL {
        if matches!(op, UnaryOp::RoundF16 | UnaryOp::RoundBf16) {
            // The gradient passes straight through.
            assert_eq!([-30.0, 0.0, 1e-3].map(|at| op.derivative(at)), [1.0; 3], "{op:?}");
            continue;
        }
        let of_positive = matches!(op, UnaryOp::Sqrt | UnaryOp::Log);
        for at in [-30.0, -3.0, -0.7, -1e-3, 1e-3, 0.4, 2.5, 30.0] {
            // The roundings jump at integers or halfway between them, where they have no derivative.
            let jumps = matches!(op, UnaryOp::Round | UnaryOp::Floor | UnaryOp::Ceil) && at % 0.5 == 0.0;
            if of_positive && at < 0.0 || jumps {
                continue;
            }
            let step = 1e-6 * f64::abs(at).min(1.0);
            let difference = (op.eval(at + step) - op.eval(at - step)) / (2.0 * step);
            // The derivatives of the exponential and of the logarithm grow far beyond 1.
            let epsilon = 1e-7 * difference.abs().max(1.0);
            approx::assert_abs_diff_eq!(op.derivative(at), difference, epsilon = epsilon);
        }
        assert!(op.derivative(700.0).is_finite(), "{op:?}");
        assert!(of_positive || op.derivative(-700.0).is_finite(), "{op:?}");
    }
    assert_eq!(UnaryOp::Relu.derivative(0.0), 0.0);
}

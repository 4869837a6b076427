//! Bad input to training: an error that names the thing, before anything has changed.

use enfold::graph::NodeId;
use enfold::ops::{Dequantize, Op, Quantize};
use enfold::qat::{Loss, Optimizer, OptimizerKind, QatError, TrainableGraph, Trainer, prepare_qat};
use enfold::quantize::{QuantizationConfig, WgpuQuantizer};
use enfold::values::{QParams, QuantRange, TensorQParams};
use enfold::{Error, Graph, GraphBuilder, Shape, Tensor};

use crate::report::report;

fn floats(shape: &[usize], value: f32) -> Tensor {
    Tensor::from_f32(shape, vec![value; shape.iter().product()]).expect("fits")
}

fn labels(labels: &[i32]) -> Tensor {
    Tensor::from_i32(&[labels.len()], labels.to_vec()).expect("fits")
}

/// x `[rows, 4]` → fc `[3, 4]`.
fn net() -> Graph {
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::rows(4)).expect("an input");
    let y = g.linear("fc", x, floats(&[3, 4], 0.5), Some(floats(&[3], 0.1))).expect("a layer");
    g.finish([y]).expect("a graph")
}

fn model() -> TrainableGraph {
    let quantizer = WgpuQuantizer::new().set_global(QuantizationConfig::symmetric().qat());
    prepare_qat(&net(), &quantizer).expect("prepared")
}

fn trainer() -> Trainer {
    Trainer::new(Loss::CrossEntropy, Optimizer::adam(1e-3).expect("an optimizer"))
}

/// A layer whose output goes through an operator.
fn with(op: impl FnOnce(&mut GraphBuilder, NodeId) -> NodeId) -> Graph {
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::rows(4)).expect("an input");
    let h = g.linear("fc", x, floats(&[3, 4], 0.5), None).expect("a layer");
    let y = op(&mut g, h);
    g.finish([y]).expect("a graph")
}

type Row = (&'static str, Result<(), QatError>, Vec<&'static str>);

fn row<T>(what: &'static str, result: Result<T, QatError>, contains: &[&'static str]) -> Row {
    (what, result.map(drop), contains.to_vec())
}

#[test]
fn by_name() {
    let fit = |change: &dyn Fn(&mut Trainer), x: &Tensor, y: &Tensor| {
        let (mut trainer, mut model) = (trainer(), model());
        change(&mut trainer);
        let before: Vec<Tensor> = model.parameters().map(|(_, value, _)| value.clone()).collect();
        let result = trainer.fit(&mut model, &[x], y, |_| {});
        if result.is_err() {
            let after: Vec<Tensor> = model.parameters().map(|(_, value, _)| value.clone()).collect();
            assert_eq!(after, before, "a step that is refused changes nothing");
        }
        result
    };
    let same = |_: &mut Trainer| {};
    let (x, y) = (floats(&[4, 4], 0.5), labels(&[0, 1, 2, 0]));
    assert!(fit(&same, &x, &y).is_ok());
    let mut spoiled = x.clone();
    if let Tensor::F32(a) = &mut spoiled {
        a[[2, 1]] = f32::NAN;
    }
    let diverges = {
        let mut float = TrainableGraph::new(&net()).expect("trainable");
        trainer().fit(&mut float, &[&spoiled], &y, |_| {})
    };
    let overflows = {
        let mut float = TrainableGraph::new(&net()).expect("trainable");
        let mut trainer = trainer();
        trainer.loss = Loss::Mse;
        trainer.fit(&mut float, &[&floats(&[2, 4], 3e38)], &floats(&[2, 3], 0.0), |_| {})
    };
    let integers = with(|g, h| {
        let qparams = TensorQParams::PerTensor(QParams::new(0.1, 0).expect("valid"));
        let q = g.node("q", Op::Quantize(Quantize::new(qparams.clone(), QuantRange::INT8)), &[h]).expect("codes");
        g.node("dq", Op::Dequantize(Dequantize { qparams }), &[q]).expect("reals")
    });
    let nothing = {
        let mut g = GraphBuilder::new();
        let x = g.input("x", Shape::rows(4)).expect("an input");
        let y = g.relu("y", x).expect("a relu");
        g.finish([y]).expect("a graph")
    };
    let normed = {
        let mut g = GraphBuilder::new();
        let x = g.input("x", Shape::rows(4)).expect("an input");
        let h = g.linear("fc", x, floats(&[3, 4], 0.5), None).expect("a layer");
        let y = g.batch_norm("bn", h, [0.0, 1.0, 1.0, 0.0].map(|v| floats(&[3], v)), 1e-5).expect("a norm");
        TrainableGraph::new(&g.finish([y]).expect("a graph")).expect("trainable")
    };
    let tied = {
        let mut g = GraphBuilder::new();
        let x = g.input("x", Shape::rows(3)).expect("an input");
        let w = g.constant("tied", floats(&[3, 3], 0.5)).expect("a constant");
        let h = g.linear_nodes("fc1", x, w, None).expect("a layer");
        let h = g.batch_norm("bn", h, [0.0, 1.0, 1.0, 0.0].map(|v| floats(&[3], v)), 1e-5).expect("a norm");
        let y = g.linear_nodes("fc2", h, w, None).expect("a layer");
        g.finish([y]).expect("a graph")
    };
    let loss = |loss: Loss, target: &Tensor| loss.evaluate(&floats(&[2, 3], 0.5), target);
    let sgd = |momentum, weight_decay, rate| Optimizer::new(OptimizerKind::Sgd { momentum, weight_decay }, rate);
    let adam = |beta, eps| Optimizer::new(OptimizerKind::Adam { betas: [0.9, beta], eps, weight_decay: 0.0 }, 0.1);
    let mut fresh = model();
    let mut passed = model();
    passed.forward(&[&x]).expect("forward");
    let mut alone = model();
    alone.set_trained("fc.bias", false).expect("a parameter");
    let table = vec![
        row("an op without a gradient", TrainableGraph::new(&integers), &["q", "quantize_per_tensor", "no gradient"]),
        row("nothing to train", TrainableGraph::new(&nothing), &["no float parameter"]),
        row("a weight tied to one with a norm", TrainableGraph::new(&tied), &["tied", "fc1", "fc2"]),
        row("a label that is no class", fit(&same, &x, &labels(&[0, 3, 0, 0])), &["label 3", "0 to 2"]),
        row("a negative label", fit(&same, &x, &labels(&[0, -1, 0, 0])), &["label -1"]),
        row("labels for other examples", fit(&same, &x, &labels(&[0, 1])), &["examples", "4", "2"]),
        row("other features", fit(&same, &floats(&[4, 5], 0.5), &y), &["x:", "[4, 5]", "[rows, 4]"]),
        row("no examples", fit(&same, &floats(&[0, 4], 0.5), &labels(&[])), &["examples is 0", "at least 1"]),
        row("no epochs", fit(&|t| t.epochs = 0, &x, &y), &["epochs is 0", "at least 1"]),
        row("empty steps", fit(&|t| t.batch_rows = 0, &x, &y), &["in a step is 0", "at least 1"]),
        row("codes for an input", fit(&same, &Tensor::from_i8(&[4, 4], vec![0; 16]).expect("fits"), &y), &["x:", "i8"]),
        row("a NaN that an observer sees", fit(&same, &spoiled, &y), &["x:", "NaN"]),
        row("a NaN in the loss", diverges, &["step 0", "NaN", "fc.weight"]),
        row("an infinite loss", overflows, &["step 0", "inf", "fc.weight"]),
        row("a target of another shape", loss(Loss::Mse, &floats(&[2, 2], 0.0)), &["f32[2, 2]", "f32[2, 3]"]),
        row("labels where floats belong", loss(Loss::Mse, &labels(&[0, 1])), &["i32[2]", "f32[2, 3]"]),
        row("floats where labels belong", loss(Loss::CrossEntropy, &floats(&[2], 0.0)), &["f32[2]", "i32[2]"]),
        row(
            "a temperature of 0",
            loss(Loss::Distillation { temperature: 0.0 }, &floats(&[2, 3], 0.0)),
            &["temperature", "0"],
        ),
        row("a rate of 0", sgd(0.9, 0.0, 0.0), &["learning rate", "0", "positive"]),
        row("a rate that is NaN", sgd(0.9, 0.0, f32::NAN), &["learning rate", "NaN"]),
        row("a momentum of 1", sgd(1.0, 0.0, 0.1), &["momentum", "1"]),
        row("a negative decay", sgd(0.0, -0.1, 0.1), &["weight decay", "-0.1"]),
        row("a beta of 1", adam(1.0, 1e-8), &["beta", "1"]),
        row("an eps of 0", adam(0.9, 0.0), &["eps", "0"]),
        row("going back without going forward", fresh.backward(&[floats(&[4, 3], 1.0)]), &["no forward pass"]),
        row("a gradient of another shape", passed.backward(&[floats(&[4, 2], 1.0)]), &["8", "12", "[4, 3]"]),
        row("a gradient too many", passed.backward(&[floats(&[4, 3], 1.0), floats(&[4, 3], 1.0)]), &["2", "1"]),
        row("a parameter that is none", passed.set_parameter("fc.wait", &x), &["fc.wait", "fc.weight"]),
        row("a parameter of another shape", passed.set_parameter("fc.weight", &x), &["16", "12 in shape [3, 4]"]),
        row("a batch norm on one example", normed.clone().forward(&[floats(&[1, 4], 1.0)]), &["fc", "more than 1"]),
        row("the last parameter at rest", alone.set_trained("fc.weight", false), &["no float parameter"]),
        row("steps to learn before a batch", model().learn_steps(true), &["x:", "nothing has been observed"]),
    ];
    for (what, result, contains) in &table {
        let message = match result {
            Ok(()) => panic!("{what}: accepted"),
            Err(error) => Error::from(error.clone()).to_string(),
        };
        for part in contains {
            assert!(message.contains(part), "{what}: {part:?} is not in {message:?}");
        }
    }
    macro_rules! reached {
        ($($pattern:pat),+ $(,)?) => {
            $(assert!(table.iter().any(|(_, r, _)| matches!(r, Err($pattern))), "no row reaches {}", stringify!($pattern));)+
        };
    }
    reached!(
        QatError::NoGradient { .. },
        QatError::NoParameters,
        QatError::SharedWithNorm { .. },
        QatError::UnknownParameter { .. },
        QatError::Interp(_),
        QatError::Observer { .. },
        QatError::Target { .. },
        QatError::Label { .. },
        QatError::Size { .. },
        QatError::Option { .. },
        QatError::OneRow { .. },
        QatError::NoForward,
        QatError::Diverged { .. },
    );
    report(&format!("bad input to training: {} kinds refused", table.len()));
}

/// A quantizer that matches nothing is refused as it is in `prepare`.
#[test]
fn by_the_quantizer() {
    let error = prepare_qat(&net(), &WgpuQuantizer::new().set_module_name("fd", None)).expect_err("no match");
    assert!(matches!(&error, QatError::Prepare(_)) && error.to_string().contains("fc"), "{error}");
}

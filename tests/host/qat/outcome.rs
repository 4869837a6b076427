//! Training and the converted graph agree.

use enfold::interp::Interpreter;
use enfold::ops::Constant;
use enfold::qat::{Loss, Optimizer, OptimizerKind, QatError, Schedule, TrainableGraph, Trainer, prepare_qat};
use enfold::quantize::{
    Annotations, ConvertOptions, DerivedRule, DerivedSpec, EdgeOrNode, PrepareError, QuantizationAnnotation,
    QuantizationConfig, Quantizer, WgpuQuantizer, convert, to_integer,
};
use enfold::values::QuantRange;
use enfold::{Graph, GraphBuilder, Shape, Tensor, archive};
use rayon::prelude::*;

use crate::configs::config;
use crate::long::count;
use crate::nets::Net;
use crate::oracle::{Codes, compare_ops};
use crate::random::Random;
use crate::report::report;

fn bits(tensor: &Tensor) -> Vec<u32> {
    tensor.as_f32().expect("floats").iter().map(|v| v.to_bits()).collect()
}

/// Some steps towards smaller outputs.
fn train(model: &mut TrainableGraph, batches: &[Tensor]) -> Result<(), QatError> {
    let mut optimizer = Optimizer::adam(1e-3)?;
    for batch in batches {
        let outputs = model.forward(&[batch])?;
        let half = outputs[0].as_f32().expect("floats").iter().map(|v| v * 0.5).collect();
        let target = Tensor::from_f32(outputs[0].shape(), half).expect("fits");
        let (_, gradient) = Loss::Mse.evaluate(&outputs[0], &target)?;
        model.backward(&[gradient])?;
        model.step(&mut optimizer);
    }
    Ok(())
}

/// Refuses unless the converted graph has the bits of the trained one, and the integer form agrees with it.
fn outcome(model: &mut TrainableGraph, batch: &Tensor) -> Result<Codes, String> {
    let quantized = convert(&model.prepared().map_err(|e| e.to_string())?, &ConvertOptions::default());
    let quantized = quantized.map_err(|e| e.to_string())?;
    let expected = Interpreter::new(&quantized).run(&[batch]).map_err(|e| e.to_string())?;
    let got = model.evaluate(&[batch]).map_err(|e| e.to_string())?;
    if bits(&got[0]) != bits(&expected[0]) {
        return Err(format!("trained {:?}\nconverted {:?}\n{quantized}", got[0], expected[0]));
    }
    let integers = to_integer(&quantized).map_err(|e| e.to_string())?;
    compare_ops(&quantized, &integers, &[batch])
}

/// The outcome of a seed; `None` for a network without parameters.
fn network(seed: u64, few_bits: bool) -> Result<Option<Codes>, String> {
    let mut random = Random::new(seed ^ 0x7A17);
    let net = Net::patterns(&mut random);
    let config = config(&mut random, few_bits);
    // Scales of groups are not learned.
    let in_groups = config.weight.as_ref().is_some_and(|weight| weight.to_string().contains("per group"));
    let quantizer = WgpuQuantizer::new().set_global(config);
    let mut model = match prepare_qat(&net.graph, &quantizer) {
        Err(QatError::NoParameters) => return Ok(None),
        other => other.map_err(|e| format!("seed {seed}: {e}"))?,
    };
    let batches: Vec<Tensor> = (0..3).map(|_| net.batch(&mut random)).collect();
    train(&mut model, &batches).map_err(|e| format!("seed {seed}: {e}"))?;
    if seed.is_multiple_of(4) && !in_groups {
        // Learned steps agree too.
        model.learn_steps(seed.is_multiple_of(8)).map_err(|e| format!("seed {seed}: {e}"))?;
        train(&mut model, &batches).map_err(|e| format!("seed {seed}: {e}"))?;
    }
    outcome(&mut model, &net.batch(&mut random)).map(Some).map_err(|e| format!("seed {seed}: {e}\n{}", net.graph))
}

#[test]
fn networks_convert_to_what_was_trained() {
    let number = count(1_200, 200);
    for few_bits in [false, true] {
        let all: Vec<_> = (0..number).into_par_iter().map(|seed| network(seed, few_bits)).collect();
        let failures: Vec<&String> = all.iter().filter_map(|result| result.as_ref().err()).collect();
        assert!(failures.is_empty(), "{} networks fail, the first:\n{}", failures.len(), failures[0]);
        let (mut codes, mut trained) = (Codes::default(), 0);
        for of_one in all.into_iter().flatten().flatten() {
            codes.add(of_one);
            trained += 1;
        }
        let which = if few_bits { "2 to 4" } else { "8" };
        report(&format!(
            "trained: {trained} random networks with weights of {which} bits equal their conversion; integer ops: {} of {} \
             codes one step apart",
            codes.apart, codes.compared
        ));
        // A fifth of the networks have no parameters to train.
        assert!(trained >= number * 3 / 4 && codes.within_bar(), "{trained} of {number} networks, {codes:?}");
    }
}

/// Two layers with batch norms, one of them after a transpose, and one norm that is not folded.
fn normed(random: &mut Random) -> Graph {
    let mut g = GraphBuilder::new();
    let mut tensor =
        |shape: &[usize]| Tensor::from_f32(shape, random.normals(shape.iter().product(), 0.5)).expect("fits");
    let statistics = |tensor: &mut dyn FnMut(&[usize]) -> Tensor, c: usize| {
        let positive = |t: Tensor| {
            let data = t.as_f32().expect("floats").iter().map(|v| 0.5 + v.abs()).collect();
            Tensor::from_f32(&[c], data).expect("fits")
        };
        [tensor(&[c]), positive(tensor(&[c])), positive(tensor(&[c])), tensor(&[c])]
    };
    let x = g.input("x", Shape::batched(&[3, 4])).expect("an input");
    let h = g.linear("fc1", x, tensor(&[6, 4]), Some(tensor(&[6]))).expect("a layer");
    let h = g.transpose("turn", h, &[0, 2, 1]).expect("moved");
    let h = g.batch_norm("bn1", h, statistics(&mut tensor, 6), 1e-5).expect("a norm");
    let h = g.relu("relu1", h).expect("a relu");
    let h = g.batch_norm("bn2", h, statistics(&mut tensor, 6), 1e-5).expect("a norm");
    let h = g.flatten("flat", h, 1).expect("moved");
    let h = g.linear("fc2", h, tensor(&[5, 18]), None).expect("a layer");
    let h = g.batch_norm("bn3", h, statistics(&mut tensor, 5), 1e-5).expect("a norm");
    let y = g.relu("relu3", h).expect("a relu");
    g.finish([y]).expect("a graph")
}

#[test]
fn batch_norms_run_along_freeze_and_fold() {
    let mut random = Random::new(7);
    let graph = normed(&mut random);
    let quantizer = WgpuQuantizer::new().set_global(QuantizationConfig::symmetric().per_channel().qat());
    let mut model = prepare_qat(&graph, &quantizer).expect("prepared");
    let batch = |random: &mut Random| Tensor::from_f32(&[16, 3, 4], random.normals(16 * 12, 2.0)).expect("fits");
    let before = model.prepared().expect("prepared");
    let batches: Vec<Tensor> = (0..4).map(|_| batch(&mut random)).collect();
    train(&mut model, &batches).expect("trained");
    outcome(&mut model, &batch(&mut random)).unwrap_or_else(|e| panic!("{e}"));

    // The statistics have moved; while they are frozen, they do not.
    let after = model.prepared().expect("prepared");
    let constant = |prepared: &enfold::quantize::PreparedGraph, name: &str| {
        let graph = prepared.graph();
        let id = graph.find(name).unwrap_or_else(|| panic!("no {name} in {graph}"));
        let enfold::ops::Op::Constant(Constant { tensor: value, .. }) = &graph.node(id).op else { panic!("{name}") };
        (**value).clone()
    };
    assert_ne!(constant(&before, "bn2.running_var"), constant(&after, "bn2.running_var"));
    model.freeze_norms(true);
    train(&mut model, &batches).expect("trained");
    let frozen = model.prepared().expect("prepared");
    assert_eq!(constant(&after, "bn2.running_var"), constant(&frozen, "bn2.running_var"));
    outcome(&mut model, &batch(&mut random)).unwrap_or_else(|e| panic!("{e}"));

    // Two backward passes of one forward pass give the same gradients.
    model.freeze_norms(false);
    let y = model.forward(&[&batches[0]]).expect("forward");
    let mut gradients = || -> Vec<Vec<f32>> {
        model.backward(&y).expect("backward");
        model.parameters().map(|(_, _, gradient)| gradient.to_vec()).collect()
    };
    assert_eq!(gradients(), gradients());

    // Without quantization, training agrees with the float graph: the folded norms are separated again.
    let mut float = TrainableGraph::new(&graph).expect("trainable");
    let x = batch(&mut random);
    let frozen = float.evaluate(&[&x]).expect("run");
    let expected = Interpreter::new(&graph).run(&[&x]).expect("run");
    for (a, b) in frozen[0].as_f32().expect("floats").iter().zip(expected[0].as_f32().expect("floats")) {
        approx::assert_abs_diff_eq!(*a, *b, epsilon = 1e-4);
    }
}

/// With fake quantization off, the observers of training observe the same values as those of calibration, and as often.
#[test]
fn training_observes_what_calibration_does() {
    let mut compared = 0;
    for seed in 0..100 {
        let mut random = Random::new(seed);
        let net = Net::patterns(&mut random);
        let quantizer = WgpuQuantizer::new().set_global(config(&mut random, false).qat());
        let Ok(mut model) = prepare_qat(&net.graph, &quantizer) else { continue };
        let mut prepared = enfold::quantize::prepare(&net.graph, &quantizer).expect("prepared");
        model.enable_fake_quant(false);
        for _ in 0..3 {
            let batch = net.batch(&mut random);
            let expected = prepared.observe(&[&batch]).expect("observed");
            assert_eq!(model.forward(&[&batch]).expect("forward"), expected, "seed {seed}");
        }
        assert_eq!(model.prepared().expect("prepared").observers(), prepared.observers(), "seed {seed}\n{}", net.graph);
        compared += 1;
    }
    assert!(compared > 70, "{compared}");
}

/// Gradients of several observers of one value add up: with fake quantization off, they are those of the float graph.
#[test]
fn gradients_behind_observers_are_those_of_the_float_graph() {
    let mut random = Random::new(31);
    let mut g = GraphBuilder::new();
    let mut tensor = |n: usize, k: usize| Tensor::from_f32(&[n, k], random.normals(n * k, 0.7)).expect("fits");
    let x = g.input("x", Shape::rows(4)).expect("an input");
    let h = g.linear("fc0", x, tensor(6, 4), None).expect("a layer");
    let h = g.tanh("tanh", h).expect("tanh");
    let a = g.linear("fc1", h, tensor(5, 6), None).expect("a layer");
    let b = g.linear("fc2", h, tensor(5, 6), None).expect("a layer");
    let y = g.mul("mul", a, b).expect("a product");
    let graph = g.finish([y]).expect("a graph");
    let config = QuantizationConfig::symmetric().qat();
    let narrow = config.clone().activation_range(QuantRange::INT8_NARROW);
    let quantizer = WgpuQuantizer::new().set_global(config).set_module_name("fc2", narrow);
    let mut model = prepare_qat(&graph, &quantizer).expect("prepared");
    let twice = model.graph().nodes().iter().filter(|n| n.name.starts_with("tanh.observe")).count();
    assert_eq!(twice, 2, "{}", model.graph());
    model.enable_fake_quant(false);
    let mut float = TrainableGraph::new(&graph).expect("trainable");
    let batch = tensor(7, 4);
    let gradients = |model: &mut TrainableGraph| -> Vec<Vec<f32>> {
        let y = model.forward(&[&batch]).expect("forward");
        model.backward(&y).expect("backward");
        model.parameters().map(|(_, _, gradient)| gradient.to_vec()).collect()
    };
    let expected = gradients(&mut float);
    assert_eq!(gradients(&mut model), expected);
    assert_eq!(gradients(&mut model), expected, "and again, in the memory of the last pass");
}

/// A layer whose bias has the scales of its input and weight.
struct DerivedBias;

impl Quantizer for DerivedBias {
    fn annotate(&self, graph: &Graph) -> Result<Annotations, PrepareError> {
        let mut annotations = Annotations::new(graph);
        let id = graph.find("fc").expect("the layer");
        let [x, w, b] = graph.node(id).inputs[..] else { panic!("no bias") };
        let edge = |producer| EdgeOrNode::Edge { producer, consumer: id };
        let config = QuantizationConfig::symmetric().per_channel().qat();
        let rule = DerivedRule::BiasScale;
        let bias = DerivedSpec { derived_from: vec![edge(x), edge(w)], rule, range: QuantRange::INT32 };
        let input_qspec_map = vec![(x, config.input_activation), (w, config.weight), (b, Some(bias.into()))];
        annotations.set(id, QuantizationAnnotation { input_qspec_map, ..Default::default() });
        Ok(annotations)
    }
}

#[test]
fn derived_biases_are_trained_too() {
    let mut random = Random::new(41);
    let mut g = GraphBuilder::new();
    let mut tensor =
        |shape: &[usize]| Tensor::from_f32(shape, random.normals(shape.iter().product(), 0.7)).expect("fits");
    let x = g.input("x", Shape::rows(4)).expect("an input");
    let y = g.linear("fc", x, tensor(&[3, 4]), Some(tensor(&[3]))).expect("a layer");
    let mut model = prepare_qat(&g.finish([y]).expect("a graph"), &DerivedBias).expect("prepared");
    let batches = [tensor(&[8, 4]), tensor(&[8, 4])];
    // With fake quantization off, there are no qparams to derive from.
    model.enable_fake_quant(false);
    train(&mut model, &batches).expect("trained");
    model.enable_fake_quant(true);
    train(&mut model, &batches).expect("trained");
    outcome(&mut model, &batches[0]).unwrap_or_else(|e| panic!("{e}"));
    assert!(model.parameters().all(|(_, _, gradient)| gradient.iter().any(|&g| g != 0.0)));
}

/// Points in two rings, which no straight line separates.
fn rings(rows: usize) -> (Tensor, Tensor) {
    let mut random = Random::new(17);
    let (mut points, mut labels) = (Vec::new(), Vec::new());
    for row in 0..rows {
        let ring = row % 3;
        let (radius, angle) = (0.5 + ring as f32 + 0.1 * random.normal(), random.uniform() as f32 * 6.3);
        points.extend([radius * angle.cos(), radius * angle.sin()]);
        labels.push(ring as i32);
    }
    (Tensor::from_f32(&[rows, 2], points).expect("fits"), Tensor::from_i32(&[rows], labels).expect("fits"))
}

fn ring_net() -> Graph {
    let mut random = Random::new(23);
    let mut g = GraphBuilder::new();
    let mut tensor = |n: usize, k: usize| Tensor::from_f32(&[n, k], random.normals(n * k, 0.7)).expect("fits");
    let x = g.input("x", Shape::rows(2)).expect("an input");
    let h =
        g.linear("fc1", x, tensor(24, 2), Some(Tensor::from_f32(&[24], vec![0.1; 24]).expect("fits"))).expect("fc1");
    let h = g.relu("relu", h).expect("a relu");
    let y = g.linear("fc2", h, tensor(3, 24), Some(Tensor::from_f32(&[3], vec![0.0; 3]).expect("fits"))).expect("fc2");
    g.finish([y]).expect("a graph")
}

fn two_bits() -> WgpuQuantizer {
    let few = QuantRange::new(-1, 1).expect("valid");
    WgpuQuantizer::new().set_global(QuantizationConfig::symmetric().per_channel().weight_range(few).qat())
}

fn trainer() -> Trainer {
    let mut trainer = Trainer::new(Loss::CrossEntropy, Optimizer::adam(2e-2).expect("an optimizer"));
    (trainer.epochs, trainer.batch_rows, trainer.settled_epochs) = (30, 16, 6);
    trainer.schedule = Schedule::Cosine { warmup: 5, least: 0.05 };
    trainer
}

fn accuracy(graph: &Graph, x: &Tensor, labels: &Tensor) -> f64 {
    let y = Interpreter::new(graph).run(&[x]).expect("run").swap_remove(0);
    let rows = y.as_f32().expect("floats").chunks(3).zip(labels.as_i32().expect("labels"));
    let best = |row: &[f32]| (0..3).max_by(|&a, &b| row[a].total_cmp(&row[b])).expect("three") as i32;
    rows.filter(|(row, label)| best(row) == **label).count() as f64 / labels.len() as f64
}

/// The float network learns the rings; rounded to weights of two bits it forgets them, and trained on it learns them again.
#[test]
fn training_recovers_what_few_bits_lose() {
    let (x, labels) = rings(300);
    let mut float = TrainableGraph::new(&ring_net()).expect("trainable");
    let mut seen = Vec::new();
    trainer().fit(&mut float, &[&x], &labels, |progress| seen.push(*progress)).expect("trained");
    assert_eq!((seen.len(), seen[0].step, seen[0].steps, seen[569].epoch), (570, 1, 570, 30));
    assert!(seen[569].loss < seen[18].loss * 0.5 && seen[569].accuracy > Some(0.95), "{} to {}", seen[18], seen[569]);
    let float = float.prepared().expect("prepared").graph().clone();

    let mut model = prepare_qat(&float, &two_bits()).expect("prepared");
    model.forward(&[&x]).expect("forward");
    let rounded = convert(&model.prepared().expect("prepared"), &ConvertOptions::default()).expect("converted");
    trainer().fit(&mut model, &[&x], &labels, |_| {}).expect("trained");
    let trained = convert(&model.prepared().expect("prepared"), &ConvertOptions::default()).expect("converted");
    let [of_float, of_rounded, of_trained] = [&float, &rounded, &trained].map(|graph| accuracy(graph, &x, &labels));
    report(&format!("rings: float {of_float:.3}, weights of two bits {of_rounded:.3}, trained {of_trained:.3}"));
    assert!(of_rounded < of_float - 0.1 && of_trained > of_float - 0.03, "{of_float} {of_rounded} {of_trained}");

    // The network is distilled from the float network, without labels.
    let teacher = Interpreter::new(&float).run(&[&x]).expect("run").swap_remove(0);
    let mut student = prepare_qat(&float, &two_bits()).expect("prepared");
    let mut distilled = trainer();
    distilled.loss = Loss::Distillation { temperature: 2.0 };
    distilled.fit(&mut student, &[&x], &teacher, |progress| assert_eq!(progress.accuracy, None)).expect("trained");
    let student = convert(&student.prepared().expect("prepared"), &ConvertOptions::default()).expect("converted");
    assert!(accuracy(&student, &x, &labels) > of_rounded + 0.05);
}

/// In the last epochs, scales and running statistics do not change; the parameters do.
#[test]
fn settled_epochs_leave_scales_and_statistics_alone() {
    let mut random = Random::new(7);
    let graph = normed(&mut random);
    let x = Tensor::from_f32(&[24, 3, 4], random.normals(24 * 12, 2.0)).expect("fits");
    let y = Tensor::from_f32(&[24, 5], random.normals(24 * 5, 1.0)).expect("fits");
    let fit = |epochs, settled_epochs| {
        let config = QuantizationConfig::symmetric().per_channel().qat();
        let mut model = prepare_qat(&graph, &WgpuQuantizer::new().set_global(config)).expect("prepared");
        let mut trainer = Trainer::new(Loss::Mse, Optimizer::adam(1e-2).expect("an optimizer"));
        (trainer.epochs, trainer.settled_epochs, trainer.batch_rows) = (epochs, settled_epochs, 10);
        trainer.fit(&mut model, &[&x], &y, |_| {}).expect("trained");
        let prepared = model.prepared().expect("prepared");
        let running = prepared.graph().find("bn2.running_var").expect("the norm that is left");
        let running = prepared.graph().node(running).op.clone();
        let parameters: Vec<Tensor> = model.parameters().map(|(_, value, _)| value.clone()).collect();
        (prepared.observers().to_vec(), running, parameters)
    };
    let (first, settled, moved) = (fit(1, 0), fit(2, 1), fit(2, 0));
    assert_eq!((&first.0, &first.1), (&settled.0, &settled.1));
    assert!(first.0 != moved.0 && first.1 != moved.1 && first.2 != settled.2);
}

/// The rate of each step is the schedule's, and the optimizer keeps its own; losses and accuracies are means over examples.
#[test]
fn progress_tells_rates_and_means() {
    let (x, labels) = rings(4);
    let fit = |epochs: usize, schedule: Schedule, rate: f32| {
        let mut model = TrainableGraph::new(&ring_net()).expect("trainable");
        let kind = OptimizerKind::Sgd { momentum: 0.0, weight_decay: 0.0 };
        let mut trainer = Trainer::new(Loss::CrossEntropy, Optimizer::new(kind, rate).expect("an optimizer"));
        (trainer.epochs, trainer.batch_rows, trainer.schedule) = (epochs, 3, schedule);
        let mut seen = Vec::new();
        trainer.fit(&mut model, &[&x], &labels, |progress| seen.push(*progress)).expect("trained");
        assert_eq!(trainer.optimizer.learning_rate, rate);
        (seen, model.parameters().map(|(_, value, _)| value.clone()).collect::<Vec<_>>())
    };
    let halves = Schedule::Step { every: 1, factor: 0.5 };
    let rates: Vec<f32> = fit(2, halves, 0.1).0.iter().map(|progress| progress.learning_rate).collect();
    assert_eq!(rates, [0.1, 0.05, 0.025, 0.0125]);
    // Nothing changes after the first step.
    let once = Schedule::Step { every: 1, factor: 0.0 };
    assert_eq!(fit(1, once, 0.1).1, fit(3, once, 0.1).1);
    // At a rate of almost 0, the mean over an epoch of 3 and 1 examples is that of all four.
    let mut still = TrainableGraph::new(&ring_net()).expect("trainable");
    let outputs = still.forward(&[&x]).expect("forward");
    let (loss, _) = Loss::CrossEntropy.evaluate(&outputs[0], &labels).expect("a loss");
    let last = fit(1, Schedule::Constant, 1e-20).0[1];
    approx::assert_relative_eq!(last.loss, loss, max_relative = 1e-6);
    assert_eq!(last.accuracy, Some(accuracy(&ring_net(), &x, &labels)));
    assert_eq!(
        last.to_string(),
        format!("step 2/2, epoch 1: loss {loss:.5}, accuracy {:.4}", last.accuracy.expect("labels"))
    );
}

/// One seed, one network, whatever the number of threads.
#[test]
fn training_is_deterministic() {
    let (x, labels) = rings(200);
    let train = |threads: usize, seed: u64| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        pool.install(|| {
            let mut model = prepare_qat(&ring_net(), &two_bits()).expect("prepared");
            let mut trainer = trainer();
            (trainer.epochs, trainer.settled_epochs, trainer.seed) = (4, 1, seed);
            trainer.fit(&mut model, &[&x], &labels, |_| {}).expect("trained");
            archive::prepared_to_bytes(&model.prepared().expect("prepared")).expect("saved")
        })
    };
    let first = train(1, 3);
    assert!(first == train(1, 3) && first == train(3, 3), "the same seed gives the same network");
    assert!(first != train(1, 4), "another order of examples gives another");
}

/// Learned steps: the scale is trained, stays where observers are switched on, and survives a file.
#[test]
fn learned_steps_are_trained_and_saved() {
    let (x, labels) = rings(200);
    let mut model = prepare_qat(&ring_net(), &two_bits()).expect("prepared");
    let error = model.learn_steps(true).expect_err("nothing has been observed");
    assert!(matches!(&error, QatError::Observer { .. }) && error.to_string().contains("nothing has been"), "{error}");
    model.forward(&[&x]).expect("forward");
    let before = model.prepared().expect("prepared").observers().to_vec();
    model.learn_steps(true).expect("learned");
    let seen = |model: &TrainableGraph| -> Vec<_> {
        model.fake_quantizers().iter().map(|fake| fake.observer().min_max()).collect()
    };
    let ranges = seen(&model);
    model.enable_observers(true);
    model.forward(&[&Tensor::from_f32(&[1, 2], vec![1e3, -1e3]).expect("fits")]).expect("forward");
    assert_eq!(seen(&model), ranges, "what is learned is not observed");
    let mut trainer = trainer();
    // Scales are small, so their steps are.
    trainer.optimizer = Optimizer::adam(1e-4).expect("an optimizer");
    (trainer.epochs, trainer.settled_epochs) = (4, 0);
    trainer.fit(&mut model, &[&x], &labels, |_| {}).expect("trained");
    assert!(model.fake_quantizers().iter().all(|fake| fake.learns_step()));
    let prepared = model.prepared().expect("prepared");
    let scales = |observers: &[enfold::quantize::Observer]| -> Vec<_> {
        observers.iter().map(|observer| observer.calculate_qparams().expect("known")).collect()
    };
    for (before, after) in scales(&before).into_iter().zip(scales(prepared.observers())) {
        assert_ne!(before, after);
    }
    let loaded = archive::prepared_from_bytes(&archive::prepared_to_bytes(&prepared).expect("saved")).expect("loaded");
    assert_eq!(loaded.observers(), prepared.observers());
    // Qparams that were trained separately cannot be merged; equal ones can.
    let mut same = loaded.observers()[0].clone();
    assert_eq!(same.merge(&prepared.observers()[0]), Ok(()));
    trainer.fit(&mut model, &[&x], &labels, |_| {}).expect("trained");
    let other = model.prepared().expect("prepared").observers()[0].clone();
    assert_eq!(same.merge(&other), Err(enfold::quantize::ObserverError::MergeTrained));
    outcome(&mut model, &x).unwrap_or_else(|e| panic!("{e}"));
}

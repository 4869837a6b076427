//! The CPU engine against the interpreter, bit for bit, with every GEMM backend.

use enfold::cpu::{CpuError, Engine, GemmBackend, Options};
use enfold::interp::Interpreter;
use enfold::lower::{LowerOptions, lower, lower_with};
use enfold::ops::{IntegerLinear, Op, Requantize};
use enfold::program::{Step, StepOp};
use enfold::quantize::{ConvertOptions, QuantizationConfig, WgpuQuantizer, convert, prepare, to_integer};
use enfold::values::{DType, QParams};
use enfold::{Graph, GraphBuilder, Shape, Tensor};

use crate::cases::{self, Case, Data, Ends, difference};
use crate::nets::Net;
use crate::random::Random;
use crate::report::report;

/// The GEMM backends that this processor has: `Rten` where it is exact, those of instructions with these, the others always.
fn backends() -> Vec<GemmBackend> {
    let case = Case::new(1, 1, 1, Data::Random, Ends::Codes, 0);
    let usable = |gemm: &GemmBackend| Engine::with_options(&case.program(), &Options { gemm: *gemm }).is_ok();
    let all: Vec<GemmBackend> = GemmBackend::ALL.into_iter().filter(usable).collect();
    #[cfg(target_arch = "x86_64")]
    for (backend, has) in [
        (GemmBackend::Avx2, std::arch::is_x86_feature_detected!("avx2")),
        (GemmBackend::Avx512Vnni, std::arch::is_x86_feature_detected!("avx512vnni")),
        (GemmBackend::AvxVnni, std::arch::is_x86_feature_detected!("avxvnni")),
    ] {
        assert_eq!(all.contains(&backend), has, "{backend:?}");
    }
    #[cfg(target_arch = "aarch64")]
    for (backend, has) in [
        (GemmBackend::I8mm, std::arch::is_aarch64_feature_detected!("i8mm")),
        (GemmBackend::Dotprod, std::arch::is_aarch64_feature_detected!("dotprod")),
    ] {
        assert_eq!(all.contains(&backend), has, "{backend:?}");
    }
    assert_eq!(all.contains(&GemmBackend::Simd128), cfg!(target_feature = "simd128"));
    assert!(all.contains(&GemmBackend::Auto) && all.contains(&GemmBackend::Portable));
    all
}

#[test]
fn every_product_equals_the_interpreter() {
    let (mut cases, backends) = (cases::all(), backends());
    // Sizes below, at and above the features that a tile of the CPU takes at once.
    for (turn, k) in [383, 384, 385, 769].into_iter().enumerate() {
        for data in Data::ALL {
            cases.push(Case::new([1, 7, 129][turn % 3], 50, k, data, Ends::ALL[turn % 3], turn as u64));
        }
    }
    for case in &cases {
        let expected = Interpreter::new(&case.graph()).run(&[case.input()]).expect("interpreted");
        for &gemm in &backends {
            let engine = Engine::with_options(&case.program(), &Options { gemm }).expect("an engine");
            let got = engine.run(&[case.input()]).expect("run");
            if let Some(difference) = difference(&got[0], &expected[0]) {
                panic!("{gemm:?}: {}: {difference}", case.name);
            }
        }
    }
    report(&format!("cpu engine: {} cases equal the interpreter with {backends:?}", cases.len()));
}

/// The interpreter multiplies by the same library as the engine; this does not.
#[test]
fn the_interpreter_equals_the_equations() {
    use enfold::numerics;
    for case in cases::all().iter().filter(|c| c.ends != Ends::Floats) {
        let got = Interpreter::new(&case.graph()).run(&[case.input()]).expect("interpreted").swap_remove(0);
        for at in 0..case.rows * case.n {
            let (x, n) = (&case.x[at / case.n * case.k..][..case.k], at % case.n);
            let w = &case.w[n * case.k..][..case.k];
            let products: i64 = x.iter().zip(w).map(|(&x, &w)| i64::from(x) * i64::from(w)).sum();
            let acc = (products << case.fraction_bits) + i64::from(case.bias[n]);
            let acc = i32::try_from(acc).expect("inside the bound of equation 4");
            let (factor, z) = (case.factors[n], case.zero_point);
            let lo = if case.relu { z } else { -128 };
            match &got {
                Tensor::I8(_) => {
                    let expected = numerics::requantize(acc, factor, z, lo, 127);
                    assert_eq!(i32::from(got.as_i8().expect("codes")[at]), expected, "{} at {at}", case.name);
                }
                _ => {
                    let expected = numerics::scale_accumulator(acc, factor, case.relu);
                    assert_eq!(
                        got.as_f32().expect("floats")[at].to_bits(),
                        expected.to_bits(),
                        "{} at {at}",
                        case.name
                    );
                }
            }
        }
    }
}

/// On processors that have a kernel's instructions, another architecture's kernels are the only way to meet the error.
#[test]
fn tiles_are_there_or_refused() {
    let case = Case::new(1, 1, 1, Data::Random, Ends::Codes, 0);
    for (gemm, name, arch) in [
        (GemmBackend::Avx2, "avx2", "x86_64"),
        (GemmBackend::Amx, "amx-int8", "x86_64"),
        (GemmBackend::Avx512Vnni, "avx512-vnni", "x86_64"),
        (GemmBackend::AvxVnni, "avx-vnni", "x86_64"),
        (GemmBackend::I8mm, "neon-i8mm", "aarch64"),
        (GemmBackend::Dotprod, "neon-dotprod", "aarch64"),
        (GemmBackend::Simd128, "wasm-simd128", "wasm32"),
    ] {
        match Engine::with_options(&case.program(), &Options { gemm }) {
            Ok(_) => assert_eq!(std::env::consts::ARCH, arch, "{name}"),
            Err(error) => {
                assert!(matches!(&error, CpuError::Unavailable { backend, .. } if backend == name), "{error}");
            }
        }
    }
}

#[test]
fn one_weight_changed_by_one_is_named() {
    let case = Case::new(17, 65, 64, Data::Random, Ends::FloatOut, 3);
    let expected = Interpreter::new(&case.graph()).run(&[case.input()]).expect("interpreted");
    let mut changed = case.clone();
    changed.w[64 * 64] ^= 1;
    changed.x[64] = 1;
    let mut same = case.clone();
    same.x[64] = 1;
    let of_same = Interpreter::new(&same.graph()).run(&[same.input()]).expect("run");
    for gemm in backends() {
        let engine = |case: &Case| Engine::with_options(&case.program(), &Options { gemm }).expect("an engine");
        let run = |case: &Case| engine(case).run(&[case.input()]).expect("run");
        let named = difference(&run(&changed)[0], &of_same[0]);
        // Column 64 of some row: the first whose first feature is not 0.
        let at: usize =
            named.as_deref().and_then(|d| d.split(' ').nth(1)).expect("a difference").parse().expect("an index");
        assert_eq!(at % 65, 64, "{gemm:?}: {named:?}");
        assert_eq!(difference(&run(&case)[0], &expected[0]), None, "{gemm:?}");
    }
}

fn integers(net: &Net, random: &mut Random) -> Graph {
    let quantizer = WgpuQuantizer::new().set_global(QuantizationConfig::symmetric().per_channel());
    let mut prepared = prepare(&net.graph, &quantizer).expect("prepared");
    prepared.observe(&[net.batch(random)]).expect("observed");
    to_integer(&convert(&prepared, &ConvertOptions::default()).expect("converted")).expect("rewritten")
}

#[test]
fn whole_networks_equal_the_interpreter_at_any_rank_and_batch() {
    let mut random = Random::new(21);
    for _ in 0..50 {
        let net = Net::random(&mut random);
        let graph = integers(&net, &mut random);
        let engine = Engine::new(&lower(&graph).expect("lowered")).expect("an engine");
        for _ in 0..3 {
            let x = net.batch(&mut random);
            let expected = Interpreter::new(&graph).run(&[&x]).expect("interpreted");
            assert_eq!(difference(&engine.run(&[&x]).expect("run")[0], &expected[0]), None);
        }
    }
}

/// Models are chained through int8 values without a round trip through floats.
#[test]
fn int8_inputs_and_outputs_chain() {
    let mut random = Random::new(22);
    let net = Net::random(&mut random);
    let graph = integers(&net, &mut random);
    let x = net.batch(&mut random);
    let [input, output] = [graph.inputs()[0], graph.outputs()[0]];
    let quantize = graph.iter().find(|(_, n)| n.inputs == [input]).expect("a quantize node").0;
    let last = graph.node(output).inputs[0];
    let values = Interpreter::new(&graph).run_nodes(&[(input, &x)], &[quantize, last]).expect("interpreted");
    let options = LowerOptions { int8_inputs: true, int8_outputs: true, ..LowerOptions::default() };
    let engine = Engine::new(&lower_with(&graph, &options).expect("lowered")).expect("an engine");
    assert_eq!(engine.run(&[&values[0]]).expect("run")[0], values[1]);
    let value = engine.program().value(engine.program().outputs()[0]);
    assert!(value.qparams.is_some(), "an int8 output says what its codes mean");
}

/// Layers that read the same weight, each from a constant of its own, but for the last one if it is `changed`.
fn layers(int8: bool, changed: bool) -> Graph {
    let mut g = GraphBuilder::new();
    let dtype = if int8 { DType::I8 } else { DType::F32 };
    let mut x = g.typed_input("x", Shape::rows(4), dtype).expect("an input");
    for at in 0..16 {
        let mut w: Vec<i8> = (0..16).map(|i| i * 7 % 11 - 5).collect();
        w[3] += i8::from(changed && at == 15);
        let mut constant = |what: &str, tensor: Tensor| g.constant(&format!("{what}{at}"), tensor).expect("a constant");
        if !int8 {
            let w = Tensor::from_f32(&[4, 4], w.iter().map(|&w| f32::from(w) * 0.1).collect()).expect("fits");
            let w = constant("w", w);
            x = g.linear_nodes(&format!("fc{at}"), x, w, None).expect("a layer");
            continue;
        }
        let w = constant("w", Tensor::from_i8(&[4, 4], w).expect("fits"));
        let bias = constant("bias", Tensor::from_i32(&[4], vec![at; 4]).expect("fits"));
        let factors = constant("factors", Tensor::from_f32(&[4], vec![0.1; 4]).expect("fits"));
        let acc = g
            .node(&format!("fc{at}"), Op::IntegerLinear(IntegerLinear { fraction_bits: 0 }), &[x, w, bias])
            .expect("sums");
        let qparams = QParams::new(1.0, 0).expect("valid");
        x = g
            .node(
                &format!("y{at}"),
                Op::Requantize(Requantize { qparams, lo: -128, hi: 127, ch_axis: None }),
                &[acc, factors],
            )
            .expect("codes");
    }
    g.finish([x]).expect("a graph")
}

/// One weight in a program, however many constants hold it.
#[test]
fn weights_that_are_equal_are_one_in_a_program() {
    for (changed, expected) in [(false, 1), (true, 2)] {
        let weight = |step: &Step| match &step.op {
            StepOp::QLinear(linear) => Some(linear.weight.as_ptr()),
            _ => None,
        };
        let codes = lower(&layers(true, changed)).expect("lowered");
        let of_codes: std::collections::HashSet<*const i8> = codes.steps().iter().filter_map(weight).collect();
        let floats = lower(&layers(false, changed)).expect("lowered");
        assert_eq!((of_codes.len(), floats.constants().len()), (expected, expected));
    }
}

/// Errors about an output call it as the caller does, whatever node computes it.
#[test]
fn outputs_have_the_names_that_callers_know() {
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::rows(4)).expect("an input");
    let w = Tensor::from_f32(&[2, 4], vec![0.5; 8]).expect("fits");
    let y = g.linear("fc", x, w, None).expect("a layer");
    let z = g.relu("relu", y).expect("a relu");
    let named = [(x, "same".to_owned()), (z, "logits".to_owned())];
    let float = g.finish_named(named).expect("a graph");
    let mut prepared =
        prepare(&float, &WgpuQuantizer::new().set_global(QuantizationConfig::symmetric())).expect("prepared");
    prepared.observe(&[Tensor::from_f32(&[1, 4], vec![1.0; 4]).expect("fits")]).expect("observed");
    let integers = to_integer(&convert(&prepared, &ConvertOptions::default()).expect("converted")).expect("integers");
    for graph in [&float, &integers] {
        for f16_outputs in [false, true] {
            let options = LowerOptions { f16_outputs, ..LowerOptions::default() };
            let program = lower_with(graph, &options).expect("lowered");
            let names: Vec<&str> = program.outputs().iter().map(|&id| program.value(id).name.as_str()).collect();
            assert_eq!(names, ["same", "logits"], "{f16_outputs}\n{program}");
        }
    }
}

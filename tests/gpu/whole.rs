//! Whole models, float steps included: the interpreter, the CPU engine and the device give the same bits, in every value.

use enfold::gpu::Engine;
use enfold::interp::Interpreter;
use enfold::lower::lower;
use enfold::onnx::{ImportOptions, load};
use enfold::program::{Program, ValueId};
use enfold::quantize::{ConvertOptions, QuantizationConfig, WgpuQuantizer, convert, prepare, to_integer};
use enfold::values::DType;
use enfold::{Graph, Tensor, cpu};
use pollster::block_on;

use crate::cases::difference;
use crate::device::engine;
use crate::long::count;
use crate::random::Random;
use crate::report::report;

pub(crate) fn model(name: &str, dims: &[(&str, usize)]) -> Graph {
    let path = format!("{}/tests/onnx/{name}.onnx", env!("CARGO_MANIFEST_DIR"));
    load(path, &ImportOptions::with_dims(dims.iter().copied())).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Random floats of everyday sizes; random ids below 200, and a mask of random lengths.
pub(crate) fn batch(graph: &Graph, rows: usize, random: &mut Random) -> Vec<Tensor> {
    let tensor = |id: &enfold::graph::NodeId, random: &mut Random| {
        let node = graph.node(*id);
        let shape = node.shape.with_rows(rows);
        let length: usize = shape.iter().product();
        if node.dtype == DType::F32 {
            return Tensor::from_f32(&shape, random.normals(length, 1.0)).expect("fits");
        }
        let seq = shape.last().copied().unwrap_or(1);
        let value = |at: usize| match node.name.as_str() {
            "attention_mask" => i32::from(at % seq <= at / seq % seq),
            _ => random.between(0, 199),
        };
        Tensor::from_i32(&shape, (0..length).map(value).collect()).expect("fits")
    };
    graph.inputs().iter().map(|id| tensor(id, random)).collect()
}

/// Static, dynamic and per token, with products of activations in int8 and in float.
pub(crate) fn forms(float: &Graph) -> Vec<(&'static str, Graph)> {
    let config = || QuantizationConfig::symmetric().per_channel();
    let form = |(name, config, matmul)| {
        let quantizer = WgpuQuantizer::new().set_global(config).quantize_matmul(matmul);
        let mut prepared = prepare(float, &quantizer).expect("prepared");
        let mut random = Random::new(7);
        (0..4).for_each(|_| drop(prepared.observe(&batch(float, 4, &mut random)).expect("observed")));
        let quantized = convert(&prepared, &ConvertOptions::default()).expect("converted");
        (name, to_integer(&quantized).expect("rewritten"))
    };
    [
        ("static", config(), false),
        ("dynamic", config().dynamic(), false),
        ("per token", config().dynamic_per_token(), false),
        ("static, with products of activations", config(), true),
        ("per token, with products of activations", config().dynamic_per_token(), true),
    ]
    .map(form)
    .into()
}

/// The program with every value that a step writes as an output. Nothing is fused then.
fn with_all_outputs(program: &Program) -> Program {
    let outputs: Vec<ValueId> = program.steps().iter().map(|step| step.output).collect();
    let (values, inputs) = (program.values().to_vec(), program.inputs().to_vec());
    Program::new(values, program.constants().to_vec(), inputs, outputs, program.steps().to_vec()).expect("a program")
}

pub(crate) fn by_gpu(engine: &Engine, program: &Program, inputs: &[Tensor]) -> Vec<Tensor> {
    block_on(block_on(engine.load(program)).expect("loaded").run(inputs)).expect("run")
}

fn compare(what: &str, program: &Program, got: &[Tensor], expected: &[Tensor]) -> usize {
    assert_eq!(got.len(), expected.len(), "{what}");
    for ((got, expected), &id) in got.iter().zip(expected).zip(program.outputs()) {
        assert_eq!(difference(got, expected), None, "{what}: {}", program.value(id).name);
    }
    expected.iter().map(Tensor::len).sum()
}

/// On one, two and three threads.
fn by_cpu(program: &Program, inputs: &[Tensor], threads: usize) -> Vec<Tensor> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
    pool.install(|| cpu::Engine::new(program).expect("an engine").run(inputs).expect("run"))
}

#[test]
fn models_give_the_same_bits_in_every_value() {
    let Some((_, engine)) = engine("models") else { return };
    let models = [
        ("digits_mlp", &[][..], &[1, 17, 300][..]),
        ("gated_ffn", &[("seq", 7)], &[1, 17, 300]),
        ("tiny_bert", &[("batch", 3), ("seq", 16)], &[1]),
    ];
    let (mut runs, mut elements) = (0, 0);
    for (name, dims, rows) in models {
        for (form, graph) in forms(&model(name, dims)) {
            let program = lower(&graph).expect("lowered");
            let everything = with_all_outputs(&program);
            // By default, the larger batches of one form each.
            let rows = &rows[..if count(2, 1) == 2 || form == "per token" { rows.len() } else { rows.len().min(2) }];
            for &rows in rows {
                let what = format!("{name}, {form}, {rows} rows");
                let inputs = batch(&graph, rows, &mut Random::new(rows as u64));
                let expected = Interpreter::new(&graph).run(&inputs).expect("interpreted");
                for threads in [1, 2, 3] {
                    let got = by_cpu(&program, &inputs, threads);
                    compare(&format!("{what}, CPU, {threads} threads"), &program, &got, &expected);
                }
                elements += compare(&what, &program, &by_gpu(&engine, &program, &inputs), &expected);
                let (got, all) = (by_gpu(&engine, &everything, &inputs), by_cpu(&everything, &inputs, 2));
                elements += compare(&format!("{what}, every value"), &everything, &got, &all);
                runs += 1;
            }
        }
    }
    report(&format!(
        "models: {runs} runs, {elements} elements of all values equal on the interpreter, the CPU and the device"
    ));
}

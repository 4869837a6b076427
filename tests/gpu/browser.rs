//! Writes networks with their results on this device to `target/browser`, for `tests/web/test.mjs`, which runs them in a browser and
//! expects the same bytes; and the WGSL of all shaders, which a browser's compiler must accept: it is stricter than naga.

use std::path::{Path, PathBuf};

use enfold::gpu::{Engine, shaders};
use enfold::interp::Interpreter;
use enfold::lower::lower;
use enfold::program::Program;
use enfold::{Graph, Tensor, archive, cpu};
use serde_json::{Value, json};

use crate::cases::difference;
use crate::configs;
use crate::device::engine;
use crate::random::Random;
use crate::report::report;
use crate::whole::{batch, by_gpu, forms, model};

/// The rows of the batches of networks that take any number.
const ROWS: [usize; 3] = [1, 17, 256];

/// What is written.
struct Written<'e> {
    engine: &'e Engine,
    folder: PathBuf,
    cases: Vec<Value>,
    runs: usize,
}

impl Written<'_> {
    /// Writes a network with batches and their results, which interpreter, CPU and device agree on.
    fn network(&mut self, name: &str, graph: &Graph, batches: &[Vec<Tensor>]) {
        let program = lower(graph).unwrap_or_else(|e| panic!("{name}: {e}"));
        let file = format!("{}.safetensors", name.replace([' ', ','], "-"));
        archive::save(graph, self.folder.join(&file)).expect("saved");
        let runs: Vec<Value> = batches.iter().map(|inputs| self.run(name, graph, &program, inputs)).collect();
        let float = graph.summary().float.len();
        self.cases.push(json!({ "name": name, "archive": file, "float_nodes": float, "runs": runs }));
    }

    fn run(&mut self, name: &str, graph: &Graph, program: &Program, inputs: &[Tensor]) -> Value {
        let rows = graph.inputs().iter().zip(inputs).find(|(id, _)| graph.node(**id).shape.is_batched());
        let rows = rows.map_or(1, |(_, tensor)| tensor.shape()[0]);
        let expected = Interpreter::new(graph).run(inputs).unwrap_or_else(|e| panic!("{name}: {e}"));
        let on_cpu = cpu::Engine::new(program).expect("an engine").run(inputs).expect("run");
        for (engine, got) in [("CPU", on_cpu), ("GPU", by_gpu(self.engine, program, inputs))] {
            assert_eq!(got.len(), expected.len(), "{name}");
            for (got, expected) in got.iter().zip(&expected) {
                assert_eq!(difference(got, expected), None, "{name}, {rows} rows, {engine}");
            }
        }
        self.runs += 1;
        let tensors = |kind: &str, tensors: &[Tensor]| -> Vec<String> {
            let name = |at| format!("{}.{kind}{at}", self.runs);
            let write = |(at, tensor): (usize, &Tensor)| {
                std::fs::write(self.folder.join(name(at)), bytes(tensor)).expect("written");
                name(at)
            };
            tensors.iter().enumerate().map(write).collect()
        };
        json!({ "rows": rows, "inputs": tensors("in", inputs), "outputs": tensors("out", &expected) })
    }
}

fn bytes(tensor: &Tensor) -> Vec<u8> {
    match tensor {
        Tensor::F32(a) => a.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Tensor::I32(a) => a.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Tensor::I8(a) => a.iter().map(|&v| v as u8).collect(),
        other => panic!("no bytes of {}", other.dtype()),
    }
}

/// A batch of so many rows, those of `batch` one after the other, and again from the first.
fn repeated(batch: &Tensor, rows: usize) -> Tensor {
    let values = batch.as_f32().expect("floats");
    let row = values.len() / batch.shape()[0];
    let shape: Vec<usize> = [rows].into_iter().chain(batch.shape()[1..].iter().copied()).collect();
    Tensor::from_f32(&shape, values.iter().copied().cycle().take(rows * row).collect()).expect("fits")
}

#[test]
fn networks_for_a_browser_are_written() {
    let Some((_, engine)) = engine("networks for a browser") else { return };
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = root.join("target/browser");
    std::fs::create_dir_all(&folder).expect("a folder");
    let mut written = Written { engine: &engine, folder, cases: Vec::new(), runs: 0 };

    for name in ["digits", "silk"] {
        let graph = archive::load(root.join(format!("examples/data/web/{name}.safetensors"))).expect("loaded");
        let batches = ROWS.map(|rows| batch(&graph, rows, &mut Random::new(rows as u64)));
        written.network(name, &graph, &batches);
    }
    // Softmax, norms, gelu, masks and embeddings stay float.
    let models = [
        ("digits_mlp", &[][..], &ROWS[..]),
        ("gated_ffn", &[("seq", 7)], &ROWS),
        ("tiny_bert", &[("batch", 3), ("seq", 16)], &ROWS[..1]),
    ];
    for (name, dims, rows) in models {
        for (form, graph) in forms(&model(name, dims)) {
            let batches: Vec<Vec<Tensor>> =
                rows.iter().map(|&rows| batch(&graph, rows, &mut Random::new(rows as u64))).collect();
            written.network(&format!("{name} {form}"), &graph, &batches);
        }
    }
    for seed in 0..24 {
        let random = if seed % 4 == 3 { configs::quantized_images } else { configs::quantized };
        let configs::Quantized { integers, batch, .. } = random(seed, seed % 8 == 7);
        let batches = ROWS.map(|rows| vec![repeated(&batch, rows)]);
        written.network(&format!("random {seed}"), &integers, &batches);
    }

    let write = |name: &str, value: Value| {
        std::fs::write(written.folder.join(name), serde_json::to_string(&value).expect("JSON")).expect("written");
    };
    let plain = shaders::all().into_iter().filter(|(shader, _)| !shader.subgroups && !shader.coopmat);
    write("shaders.json", plain.map(|(shader, _)| json!({ "name": shader.name, "wgsl": shader.wgsl() })).collect());
    let (networks, runs) = (written.cases.len(), written.runs);
    write("cases.json", Value::Array(written.cases.clone()));
    report(&format!("for a browser: {networks} networks with {runs} batches"));
}

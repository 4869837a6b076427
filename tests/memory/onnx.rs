//! The memory of a process that imports an ONNX file, whose weights are nearly all of it.

use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use enfold::Graph;
use enfold::onnx::{self, ImportOptions};
use enfold::ops::Op;

use crate::random::Random;
use crate::{peak, report, resident};

/// Names the file that a child process imports.
const FILE: &str = "ENFOLD_MEMORY_ONNX";
/// The number of copies of the file that a child process keeps needlessly.
const COPIES: &str = "ENFOLD_MEMORY_ONNX_COPIES";
/// What an import may take, in lengths of the file: its bytes, its weights as constants, and as much again for a moment.
const BAR: u64 = 3;

const VOCABULARY: usize = 30522;
const HIDDEN: usize = 384;
const INTERMEDIATE: usize = 1536;
const LAYERS: usize = 6;

/// A file of ONNX that is written field by field, since its tensors should not be in the memory of this process.
struct Encoder {
    graph: Vec<u8>,
    /// The tensors that follow the nodes, each with its name and lengths.
    tensors: Vec<(String, Vec<usize>)>,
}

fn varint(mut value: usize, bytes: &mut Vec<u8>) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn number(tag: usize, value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    varint(tag << 3, &mut bytes);
    varint(value, &mut bytes);
    bytes
}

/// The tag and the length of a field that holds a message, a text or bytes.
fn head(tag: usize, length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    varint(tag << 3 | 2, &mut bytes);
    varint(length, &mut bytes);
    bytes
}

fn field(tag: usize, content: impl AsRef<[u8]>) -> Vec<u8> {
    [&head(tag, content.as_ref().len()), content.as_ref()].concat()
}

/// The declaration of a value of one type with two symbolic axes and some fixed ones.
fn value(name: &str, data_type: usize, fixed: &[usize]) -> Vec<u8> {
    let symbols = ["batch", "seq"].map(|symbol| field(1, field(2, symbol)));
    let dims: Vec<Vec<u8>> =
        symbols.into_iter().chain(fixed.iter().map(|&length| field(1, number(1, length)))).collect();
    let tensor = [number(1, data_type), field(2, dims.concat())].concat();
    [field(1, name), field(2, field(1, tensor))].concat()
}

impl Encoder {
    fn node(&mut self, op_type: &str, inputs: &[&str], output: &str) -> String {
        let attributes = if op_type == "Transpose" { transposed() } else { Vec::new() };
        let inputs: Vec<Vec<u8>> = inputs.iter().map(|input| field(1, input)).collect();
        let node = [inputs.concat(), field(2, output), field(3, output), field(4, op_type), attributes].concat();
        self.graph.extend(field(1, node));
        output.to_owned()
    }

    fn tensor(&mut self, name: String, dims: &[usize]) -> String {
        self.tensors.push((name.clone(), dims.to_vec()));
        name
    }

    fn linear(&mut self, path: &str, x: &str, [k, n]: [usize; 2]) -> String {
        let weight = self.tensor(format!("{path}.weight"), &[k, n]);
        let bias = self.tensor(format!("{path}.bias"), &[n]);
        let product = self.node("MatMul", &[x, &weight], &format!("{path}/MatMul"));
        self.node("Add", &[&product, &bias], &format!("{path}/Add"))
    }

    /// The sum with what a branch reads, and its normalization.
    fn normalized(&mut self, path: &str, x: &str, branch: &str) -> String {
        let sum = self.node("Add", &[x, branch], &format!("{path}/sum"));
        let [weight, bias] = ["weight", "bias"].map(|part| self.tensor(format!("{path}.{part}"), &[HIDDEN]));
        self.node("LayerNormalization", &[&sum, &weight, &bias], &format!("{path}/LayerNormalization"))
    }

    fn layer(&mut self, path: &str, x: &str) -> String {
        let [q, k, v] =
            ["query", "key", "value"].map(|part| self.linear(&format!("{path}.{part}"), x, [HIDDEN, HIDDEN]));
        let k = self.node("Transpose", &[&k], &format!("{path}/Transpose"));
        let scores = self.node("MatMul", &[&q, &k], &format!("{path}/scores"));
        let shares = self.node("Softmax", &[&scores], &format!("{path}/Softmax"));
        let context = self.node("MatMul", &[&shares, &v], &format!("{path}/context"));
        let context = self.linear(&format!("{path}.output"), &context, [HIDDEN, HIDDEN]);
        let x = self.normalized(&format!("{path}.attention_norm"), x, &context);
        let h = self.linear(&format!("{path}.up"), &x, [HIDDEN, INTERMEDIATE]);
        let h = self.node("Relu", &[&h], &format!("{path}/Relu"));
        let h = self.linear(&format!("{path}.down"), &h, [INTERMEDIATE, HIDDEN]);
        self.normalized(&format!("{path}.norm"), &x, &h)
    }

    /// Writes an encoder, and returns the length of its file.
    fn write(path: &Path) -> std::io::Result<u64> {
        let mut encoder = Self { graph: Vec::new(), tensors: Vec::new() };
        let table = encoder.tensor("words.weight".to_owned(), &[VOCABULARY, HIDDEN]);
        let mut x = encoder.node("Gather", &[&table, "ids"], "words/Gather");
        for layer in 0..LAYERS {
            x = encoder.layer(&format!("layers.{layer}"), &x);
        }
        encoder.graph.extend([field(11, value("ids", 7, &[])), field(12, value(&x, 1, &[HIDDEN]))].concat());
        let Self { graph, tensors } = encoder;
        // The heads of the tensors are all that must be known of them for the length of the graph.
        let heads: Vec<(Vec<u8>, usize)> = tensors
            .iter()
            .map(|(name, dims)| {
                let size_bytes = 4 * dims.iter().product::<usize>();
                let dims: Vec<Vec<u8>> = dims.iter().map(|&length| number(1, length)).collect();
                let fields = [dims.concat(), number(2, 1), field(8, name), head(9, size_bytes)].concat();
                ([head(5, fields.len() + size_bytes), fields].concat(), size_bytes)
            })
            .collect();
        let length = graph.len() + heads.iter().map(|(head, size_bytes)| head.len() + size_bytes).sum::<usize>();
        let mut file = BufWriter::new(std::fs::File::create(path)?);
        file.write_all(&[number(1, 8), field(8, number(2, 17)), head(7, length), graph].concat())?;
        let mut random = Random::new(3);
        let some: Vec<u8> = (0..1 << 16).flat_map(|_| (random.uniform() as f32 * 0.1 - 0.05).to_le_bytes()).collect();
        for (head, mut left) in heads {
            file.write_all(&head)?;
            while left > 0 {
                let part = left.min(some.len());
                file.write_all(&some[..part])?;
                left -= part;
            }
        }
        file.into_inner()?.metadata().map(|metadata| metadata.len())
    }
}

/// The attribute `perm` that swaps the last two of three axes.
fn transposed() -> Vec<u8> {
    let ints = [0, 2, 1].map(|axis| number(8, axis)).concat();
    field(5, [field(1, "perm"), ints, number(20, 7)].concat())
}

/// What a child process has measured: peaks in bytes, of which the second is 0 where the system does not say, and the time in µs.
#[derive(Debug, Clone, Copy)]
struct Measured {
    heap: u64,
    resident: u64,
    micros: u64,
}

impl Measured {
    fn parse(line: &str) -> Option<Self> {
        let numbers: Vec<u64> = line.split(' ').map(|number| number.parse().ok()).collect::<Option<_>>()?;
        let [heap, resident, micros] = numbers.try_into().ok()?;
        Some(Self { heap, resident, micros })
    }

    /// Whether the heap and the whole process are within the bar.
    fn is_within(&self, file: u64) -> [bool; 2] {
        [self.heap, self.resident].map(|bytes| bytes <= BAR * file)
    }
}

/// Floats of the constants of a graph.
fn floats(graph: &Graph) -> usize {
    let constants = graph.nodes().iter().filter_map(|node| match &node.op {
        Op::Constant(constant) => constant.tensor.as_f32().map(<[f32]>::len),
        _ => None,
    });
    constants.sum()
}

/// Imports a file, as an application does.
fn run(path: &Path) -> Measured {
    let copies = std::env::var(COPIES).map_or(0, |copies| copies.parse().expect("a number"));
    let length = std::fs::metadata(path).expect("a file").len();
    let needless = vec![1u8; copies * length as usize];
    let start = Instant::now();
    let graph = onnx::load(path, &ImportOptions::with_dims([("seq", 64)])).unwrap_or_else(|e| panic!("{e}"));
    let micros = start.elapsed().as_micros() as u64;
    let heap = peak() as u64;
    assert!(4 * floats(&graph) as u64 > length / 100 * 99, "the weights are missing: {graph}");
    drop(std::hint::black_box(needless));
    Measured { heap, resident: resident() as u64, micros }
}

/// Imports a file in a process of its own, whose memory has seen nothing else.
fn run_alone(path: &Path, copies: usize) -> Measured {
    let mut child = Command::new(std::env::current_exe().expect("a path"));
    child.args(["--exact", TEST]).env(FILE, path).env(COPIES, copies.to_string());
    let output = child.output().expect("it starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    let found = stderr.lines().find_map(|line| Measured::parse(line.strip_prefix("import: ")?));
    found.unwrap_or_else(|| panic!("{}{stderr}", String::from_utf8_lossy(&output.stdout)))
}

const TEST: &str = "onnx::a_file_is_imported_in_little_memory";

#[test]
fn a_file_is_imported_in_little_memory() {
    if let Some(path) = std::env::var_os(FILE) {
        let Measured { heap, resident, micros } = run(Path::new(&path));
        report(&format!("import: {heap} {resident} {micros}"));
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("encoder.onnx");
    let length = Encoder::write(&path).expect("written");
    let measured = run_alone(&path, 0);
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    report(&format!(
        "peak memory of the import of a file of {:.1} MB: heap {:.1} MB, process {:.1} MB, in {:.2} s",
        megabytes(length),
        megabytes(measured.heap),
        megabytes(measured.resident),
        measured.micros as f64 / 1e6,
    ));
    assert_eq!(measured.is_within(length), [true; 2], "{measured:?} for {length} bytes");
    let more = run_alone(&path, 1);
    assert!(!more.is_within(length)[0], "a needless copy of the file does not show: {more:?}");
    assert!(more.resident == 0 || !more.is_within(length)[1], "a needless copy does not show in the process: {more:?}");
}

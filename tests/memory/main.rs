//! The memory of a process that loads an archive and runs it on the CPU engine, and of one that imports an ONNX file.
// Unsafe code is needed for an allocator that counts.
#![allow(unsafe_code)]

#[cfg(feature = "onnx")]
mod onnx;
#[path = "../common/random.rs"]
mod random;
#[path = "../common/report.rs"]
mod report;
mod resnet;

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use enfold::cpu::Engine;
use enfold::lower::lower;
use enfold::program::Program;
use enfold::{Tensor, archive};

use report::report;

/// Bytes that are allocated, and the most that were.
static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

struct Counting;

fn grow(bytes: usize) {
    let live = LIVE.fetch_add(bytes, Ordering::Relaxed) + bytes;
    PEAK.fetch_max(live, Ordering::Relaxed);
}

fn shrink(bytes: usize) {
    LIVE.fetch_sub(bytes, Ordering::Relaxed);
}

// SAFETY: every call is the system allocator's, which fulfils the contract; counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // A block that moves is there twice for a moment.
        grow(size);
        // SAFETY: the caller's promises are passed on.
        let new = unsafe { System.realloc(old, layout, size) };
        shrink(layout.size());
        new
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        shrink(layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(old, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Names the archive that a child process runs.
const ARCHIVE: &str = "ENFOLD_MEMORY_ARCHIVE";
/// The number of copies of the weights that a child process keeps needlessly.
const COPIES: &str = "ENFOLD_MEMORY_COPIES";
/// Threads of a child process. Each has buffers of its own.
const THREADS: &str = "4";
/// What a process may take beyond its weights and three times its largest activation, in bytes.
const ALLOWANCE: usize = 32_000_000;
/// The same for its heap, beyond twice its weights: the engine holds them as they are and packed.
const HEAP_ALLOWANCE: usize = 4_000_000;

/// What a child process has measured, in bytes.
#[derive(Debug, Clone, Copy)]
struct Measured {
    weights: usize,
    largest_activation: usize,
    /// Peaks of the heap until the program was there, until the engine was, and until it had run.
    loading: usize,
    packing: usize,
    running: usize,
    /// Peak of the memory of the whole process that was resident, code and stacks included; 0 where the system does not say.
    resident: usize,
}

impl Measured {
    fn parse(line: &str) -> Option<Self> {
        let numbers: Vec<usize> = line.split(' ').map(|number| number.parse().ok()).collect::<Option<_>>()?;
        let [weights, largest_activation, loading, packing, running, resident] = numbers.try_into().ok()?;
        Some(Self { weights, largest_activation, loading, packing, running, resident })
    }

    fn heap(&self) -> usize {
        self.loading.max(self.packing).max(self.running)
    }

    /// Whether the heap and the whole process are within their bars.
    fn is_within(&self) -> [bool; 2] {
        let activations = 3 * self.largest_activation;
        [
            self.heap() <= 2 * self.weights + activations + HEAP_ALLOWANCE,
            self.resident <= self.weights + activations + ALLOWANCE,
        ]
    }
}

/// The peak since the last call, in bytes.
fn peak() -> usize {
    PEAK.swap(LIVE.load(Ordering::Relaxed), Ordering::Relaxed)
}

/// The largest size that this process has had in memory, in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse().map_or(0, |kilobytes: usize| kilobytes * 1024)
}

fn weights(program: &Program) -> usize {
    program.steps().iter().filter_map(|step| step.op.layer()).map(|layer| layer.weight.len()).sum()
}

fn largest_activation(program: &Program) -> usize {
    let size = |step: &enfold::program::Step| {
        let value = program.value(step.output);
        value.len(1).expect("it fits") * value.value_type.size_bytes()
    };
    program.steps().iter().map(size).max().expect("steps")
}

/// Loads, packs and runs an archive, as an application does.
fn run(path: &Path) -> Measured {
    let program = lower(&archive::load(path).expect("an archive")).expect("integers");
    let (weights, largest_activation) = (weights(&program), largest_activation(&program));
    let copies = std::env::var(COPIES).map_or(0, |copies| copies.parse().expect("a number"));
    let needless = vec![1u8; copies * weights];
    let loading = peak();
    let engine = Engine::new(&program).expect("packed");
    let packing = peak();
    let image = Tensor::from_f32(&[1, 3, resnet::SIZE, resnet::SIZE], resnet::image(5)).expect("an image");
    let outputs = engine.run(&[image]).expect("outputs");
    let running = peak();
    let scores = outputs[0].as_f32().expect("floats");
    assert!(scores.iter().any(|score| *score != scores[0]), "all scores are {}", scores[0]);
    drop(std::hint::black_box(needless));
    Measured { weights, largest_activation, loading, packing, running, resident: resident() }
}

/// Runs an archive in a process of its own, whose memory has seen nothing else.
fn run_alone(path: &Path, copies: usize) -> Measured {
    let mut child = Command::new(std::env::current_exe().expect("a path"));
    child.args(["--exact", TEST]).env(ARCHIVE, path).env(COPIES, copies.to_string());
    child.env("RAYON_NUM_THREADS", THREADS);
    let output = child.output().expect("it starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    let found = stderr.lines().find_map(|line| Measured::parse(line.strip_prefix("memory: ")?));
    found.unwrap_or_else(|| panic!("{}{stderr}", String::from_utf8_lossy(&output.stdout)))
}

const TEST: &str = "a_network_runs_in_little_memory";

#[test]
fn a_network_runs_in_little_memory() {
    if let Some(path) = std::env::var_os(ARCHIVE) {
        let m = run(Path::new(&path));
        let Measured { weights, largest_activation, loading, packing, running, resident } = m;
        report(&format!("memory: {weights} {largest_activation} {loading} {packing} {running} {resident}"));
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("resnet.safetensors");
    archive::save(&resnet::quantized(), &path).expect("saved");
    let measured = run_alone(&path, 0);
    let megabytes = |bytes: usize| bytes as f64 / 1e6;
    report(&format!(
        "peak memory of a network with {:.1} MB of weights: heap {:.1} MB to load it, {:.1} to pack it, {:.1} to run it; process {:.1}",
        megabytes(measured.weights),
        megabytes(measured.loading),
        megabytes(measured.packing),
        megabytes(measured.running),
        megabytes(measured.resident),
    ));
    assert_eq!(measured.is_within(), [true; 2], "{measured:?}");
    let [one, two] = [1, 2].map(|copies| run_alone(&path, copies));
    assert!(!one.is_within()[0], "a needless copy of the weights does not show: {one:?}");
    assert!(two.resident == 0 || !two.is_within()[1], "two needless copies of the weights do not show: {two:?}");
}

//! Any bytes, as an ONNX file: a graph or an error. An imported graph must verify, and be refused or lowered.
#![no_main]

use enfold::onnx::{ImportOptions, import};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for options in [ImportOptions::default(), ImportOptions::with_dims([("batch", 2), ("seq", 3)])] {
        if let Ok(graph) = import(bytes.to_vec(), None, &options) {
            graph.verify().expect("imported graphs verify");
            let _ = enfold::lower::lower(&graph);
        }
    }
});

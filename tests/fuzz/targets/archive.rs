//! Any bytes, as an archive of a graph and of a prepared graph: a graph or an error. A loaded graph must verify, and is the same
//! after another round trip.
#![no_main]

use enfold::archive;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(graph) = archive::from_bytes(bytes) {
        graph.verify().expect("loaded graphs verify");
        let again = archive::to_bytes(&graph).expect("what was loaded can be saved");
        archive::from_bytes(&again).expect("what was saved can be loaded");
        let _ = enfold::lower::lower(&graph);
    }
    if let Ok(prepared) = archive::prepared_from_bytes(bytes) {
        let again = archive::prepared_to_bytes(&prepared).expect("what was loaded can be saved");
        archive::prepared_from_bytes(&again).expect("what was saved can be loaded");
    }
});

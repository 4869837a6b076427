//! An encoder's int8 forms stay near the float model on the device.

use enfold::interp::Interpreter;
use enfold::lower::lower;
use enfold::quantize::to_integer;
use pollster::block_on;

use crate::device::engine;
use crate::encoder_model::{batches, float, forms, worst_cosine};
use crate::operators::close;
use crate::report::report;

#[test]
fn int8_encoders_stay_near_float() {
    let Some((_, engine)) = engine("encoders") else { return };
    let graph = float();
    let expected = |seed| Interpreter::new(&graph).run(&batches(&graph, seed)).expect("float").swap_remove(0);
    let model = block_on(engine.load(&lower(&graph).expect("a program"))).expect("a model");
    let output = block_on(model.run(&batches(&graph, 0))).expect("a run").swap_remove(0);
    assert_eq!(close(&output, &expected(0), 1e-4), None, "the float model");
    for form in forms(&graph) {
        let program = lower(&to_integer(&form.graph).expect("integers")).expect("a program");
        let model = block_on(engine.load(&program)).expect("a model");
        let mut worst = 1f64;
        for seed in 0..4 {
            let output = block_on(model.run(&batches(&graph, seed))).expect("a run").swap_remove(0);
            worst = worst.min(worst_cosine(&output, &expected(seed)));
        }
        report(&format!("encoder, {}: cosine at least {worst:.5} gpu", form.name));
        assert!(worst >= form.bound, "{}: {worst}, expected {}", form.name, form.bound);
        // Another batch's embeddings are far away: the comparison can fail.
        let other = block_on(model.run(&batches(&graph, 0))).expect("a run").swap_remove(0);
        assert!(worst_cosine(&other, &expected(1)) < form.bound);
    }
}

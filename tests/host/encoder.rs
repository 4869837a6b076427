//! An encoder's int8 forms stay near the float model, in the interpreter and on the CPU engine.

use enfold::interp::Interpreter;
use enfold::lower::lower;
use enfold::ops::{Constant, Op};
use enfold::program::StepOp;
use enfold::quantize::to_integer;
use enfold::{Tensor, cpu};

use crate::encoder_model::{batches, float, forms, worst_cosine};
use crate::report::report;

#[test]
fn int8_encoders_stay_near_float() {
    let float = float();
    for form in forms(&float) {
        let integers = to_integer(&form.graph).expect("integers");
        let program = lower(&integers).expect("a program");
        let layers = program.steps().iter().filter(|step| matches!(step.op, StepOp::QLinear(_))).count();
        assert_eq!(layers, 12, "{}: int8 layers\n{}", form.name, integers.summary());
        let engine = cpu::Engine::new(&program).expect("an engine");
        let mut worst = [1f64; 3];
        for seed in 0..8 {
            let inputs = batches(&float, seed);
            let expected = Interpreter::new(&float).run(&inputs).expect("float").swap_remove(0);
            let by_graph = |graph| Interpreter::new(graph).run(&inputs).expect("a run").swap_remove(0);
            let outputs =
                [by_graph(&form.graph), by_graph(&integers), engine.run(&inputs).expect("a run").swap_remove(0)];
            for (worst, output) in worst.iter_mut().zip(&outputs) {
                *worst = worst.min(worst_cosine(output, &expected));
            }
        }
        let [oracle, interpreter, cpu] = worst;
        let name = form.name;
        report(&format!("encoder, {name}: cosine at least {oracle:.5} q/dq, {interpreter:.5} integers, {cpu:.5} cpu"));
        assert!(worst.iter().all(|&cosine| cosine >= form.bound), "{name}: {worst:?}, expected {}", form.bound);
    }
}

/// The comparison notices one broken layer, and outputs that are no numbers.
#[test]
fn a_broken_layer_is_noticed() {
    let float = float();
    let inputs = batches(&float, 0);
    let expected = Interpreter::new(&float).run(&inputs).expect("float").swap_remove(0);
    let mut form = forms(&float).swap_remove(0);
    let layer = |(id, node): (_, &enfold::graph::Node)| {
        matches!(&node.op, Op::Constant(Constant { tensor: w, .. }) if w.as_i8().is_some()).then_some(id)
    };
    let weight = form.graph.iter().find_map(layer).expect("an int8 weight");
    let bytes = enfold::archive::to_bytes(&form.graph).expect("bytes");
    let Op::Constant(Constant { tensor: codes, .. }) = &form.graph.node(weight).op else {
        unreachable!("found as one")
    };
    let codes = codes.as_i8().expect("codes");
    // The file holds the quantized values as they are.
    let needle: Vec<u8> = codes.iter().map(|&code| code as u8).collect();
    let at = bytes.windows(needle.len()).position(|window| window == needle).expect("the codes in the file");
    let mut broken = bytes;
    broken[at..at + needle.len()].reverse();
    form.graph = enfold::archive::from_bytes(&broken).expect("a graph");
    let output = Interpreter::new(&form.graph).run(&inputs).expect("a run").swap_remove(0);
    assert!(worst_cosine(&output, &expected) < form.bound);
    let nan = Tensor::from_f32(expected.shape(), vec![f32::NAN; expected.len()]).expect("as many");
    assert!(worst_cosine(&nan, &expected) < form.bound);
}

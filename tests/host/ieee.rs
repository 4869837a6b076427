//! NaN, infinities, zeros and subnormal numbers, by the interpreter and by the CPU engine.

use enfold::cpu;
use enfold::interp::Interpreter;
use enfold::lower::lower;

use crate::specials::{assert_that_errors_are_seen, disagreement, specials};

#[test]
fn host_engines_follow_ieee() {
    let mut wrong = Vec::new();
    for special in specials() {
        let name = &special.name;
        let run = Interpreter::new(&special.graph).run(&special.inputs).unwrap_or_else(|e| panic!("{name}: {e}"));
        wrong.extend(disagreement(&special, &run[0]).map(|d| format!("interpreter: {d}")));
        let program = lower(&special.graph).unwrap_or_else(|e| panic!("{name}: {e}"));
        let engine = cpu::Engine::new(&program).unwrap_or_else(|e| panic!("{name}: {e}"));
        let by_cpu = engine.run(&special.inputs).unwrap_or_else(|e| panic!("{name}: {e}"));
        wrong.extend(disagreement(&special, &by_cpu[0]).map(|d| format!("CPU: {d}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn one_wrong_special_value_is_seen() {
    // Those of 36 elements, exact and not.
    let small: Vec<_> =
        specials().into_iter().filter(|special| special.inputs[0].len() == 36 && special.inputs.len() == 1).collect();
    assert!(small.len() > 12, "{}", small.len());
    small.iter().for_each(assert_that_errors_are_seen);
}

//! Every op on the device: the example of each against its known result and against the interpreter.

use enfold::Tensor;
use enfold::interp::Interpreter;
use enfold::lower::lower;
use pollster::block_on;

use crate::cases::difference;
use crate::device::engine;
use crate::ops::table;
use crate::report::report;

/// Floats within a tolerance of the largest, everything else equal.
pub(crate) fn close(got: &Tensor, expected: &Tensor, tolerance: f32) -> Option<String> {
    match (got.as_f32(), expected.as_f32()) {
        (Some(a), Some(b)) if got.shape() == expected.shape() => {
            let largest = b.iter().fold(0f32, |m, v| m.max(v.abs()));
            // A NaN is near nothing.
            let near = |at: usize| (a[at] - b[at]).abs() <= tolerance * largest;
            let at = (0..a.len()).find(|&at| !near(at))?;
            Some(format!("element {at} is {:e}, expected {:e} of at most {largest:e}", a[at], b[at]))
        }
        _ => difference(got, expected),
    }
}

#[test]
fn every_op_equals_the_interpreter() {
    let Some((_, engine)) = engine("operators") else { return };
    let (mut exact, mut close_enough) = (0, 0);
    for case in table() {
        let name = case.name;
        let program = lower(&case.graph).unwrap_or_else(|e| panic!("{name}: {e}"));
        let expected = Interpreter::new(&case.graph).run(&case.inputs).unwrap_or_else(|e| panic!("{name}: {e}"));
        let model = block_on(engine.load(&program)).unwrap_or_else(|e| panic!("{name}: {e}"));
        let got = block_on(model.run(&case.inputs)).unwrap_or_else(|e| panic!("{name}: {e}"));
        if case.exact {
            assert_eq!(difference(&got[0], &expected[0]), None, "{name}");
            exact += 1;
        } else {
            assert_eq!(close(&got[0], &expected[0], 1e-6), None, "{name}");
            close_enough += 1;
        }
        let known = if case.exact { difference } else { |got: &_, expected: &_| close(got, expected, 1e-6) };
        assert_eq!(known(&got[0], &case.expected), None, "{name}");
    }
    report(&format!("operators: {exact} equal the interpreter, {close_enough} within 1e-6"));
}

//! Every op on the device: the example of each against its known result and against the interpreter.

use enfold::interp::Interpreter;
use enfold::lower::lower;
use enfold::numerics::FloatProducts;
use enfold::ops::{Conv, ConvTranspose, Linear, MatMul, Op};
use enfold::{Graph, Tensor};
use pollster::block_on;

use crate::cases::difference;
use crate::device::engine;
use crate::ops::table;
use crate::report::report;

/// Whether a graph multiplies floats of all bits, whose results agree within rounding. All other results have the interpreter's bits.
pub(crate) fn has_full_products(graph: &Graph) -> bool {
    let full = FloatProducts::Full;
    graph.nodes().iter().any(|node| match &node.op {
        Op::Linear(Linear { products }) | Op::MatMul(MatMul { products }) => *products == full,
        Op::Conv(Conv { products, .. }) | Op::ConvTranspose(ConvTranspose { products, .. }) => *products == full,
        _ => false,
    })
}

/// The first difference: of bits, or beyond a tolerance if the graph has full float products.
pub(crate) fn wrong(graph: &Graph, got: &Tensor, expected: &Tensor, tolerance: f32) -> Option<String> {
    if has_full_products(graph) { close(got, expected, tolerance) } else { difference(got, expected) }
}

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
        assert_eq!(wrong(&case.graph, &got[0], &expected[0], 1e-6), None, "{name}");
        if has_full_products(&case.graph) {
            close_enough += 1
        } else {
            exact += 1
        }
        let known = if case.exact { difference } else { |got: &_, expected: &_| close(got, expected, 1e-6) };
        assert_eq!(known(&got[0], &case.expected), None, "{name}");
    }
    assert!(close_enough < 15 && exact > 100, "{exact} and {close_enough}");
    report(&format!("operators: {exact} equal the interpreter, {close_enough} within 1e-6"));
}

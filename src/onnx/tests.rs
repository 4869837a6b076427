//! Small models, written message by message, against values worked out by hand.

mod bad;
mod bounds;
mod codes;
mod contrib;
mod dims;
mod dynamic;
mod exported_dynamic;
mod ids;
mod images;
mod integers;
mod layers;
mod loops;
mod memory;
mod mutations;
mod nan;
mod operators;
mod recurrent;
mod resize;
mod rows;
mod run_time_places;
mod samples;
mod scatter;
mod scopes;

use super::build::{Build, ops, tensor};
use crate::graph::Graph;
use crate::interp::Interpreter;
use crate::ops::{Op, UnaryOp};
use crate::values::Tensor;

/// The only output for these inputs.
fn run(graph: &Graph, inputs: &[Tensor]) -> Tensor {
    let mut outputs = Interpreter::new(graph).run(inputs).unwrap_or_else(|e| panic!("{e}\n{graph}"));
    assert_eq!(outputs.len(), 1);
    outputs.remove(0)
}

#[track_caller]
fn assert_values(actual: &Tensor, dims: &[usize], expected: &[f32]) {
    assert_eq!(actual.shape(), dims);
    let actual = actual.as_f32().expect("floats");
    let close = |(a, e): (&f32, &f32)| (a - e).abs() <= 1e-5 * e.abs().max(1.0);
    assert!(actual.iter().zip(expected).all(close) && actual.len() == expected.len(), "{actual:?}, not {expected:?}");
}

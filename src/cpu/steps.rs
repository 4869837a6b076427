//! The execution of one step, by the family of its operator.

use super::step_run::{Output, StepRun};
use super::{conv, elementwise, embedding, linear, matmul, movement, norm, pool, quantize, reduce, unary};

/// Runs a step if its operator belongs to the family.
type Run = fn(&mut StepRun<'_>) -> Option<Output>;

const FAMILIES: [Run; 11] = [
    linear::run,
    conv::run,
    pool::run,
    matmul::run,
    elementwise::run,
    unary::run,
    reduce::run,
    norm::run,
    movement::run,
    embedding::run,
    quantize::run,
];

impl StepRun<'_> {
    /// Runs the step, and gives the buffer of the first input to the pool if the step has not taken it.
    pub(super) fn run(mut self) -> Output {
        let output = FAMILIES.iter().find_map(|run| run(&mut self));
        self.pool.give(self.first.take());
        output.unwrap_or_else(|| unreachable!("no family runs a step of {}", self.step.op.name()))
    }
}

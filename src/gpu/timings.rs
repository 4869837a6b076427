//! The times of a run's steps.

use std::fmt;
use std::time::Duration;

/// The durations of a run's steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timings {
    /// The steps in execution order. Fused steps are one entry, with the name of one of them, as in [`Run::describe`](super::Run::describe).
    pub steps: Vec<StepTiming>,
}

/// The duration of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepTiming {
    /// The name of the node.
    pub name: String,
    /// The entry point of its kernel, or those of the tile shapes of a linear layer for different numbers of rows.
    pub kernels: String,
    /// The duration by the device's clock.
    pub duration: Duration,
}

/// One line a step.
impl fmt::Display for Timings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.steps.iter().map(|step| step.name.chars().count()).max().unwrap_or(0);
        for StepTiming { name, kernels, duration } in &self.steps {
            writeln!(f, "{name:<width$} {:>10.1} us {kernels}", duration.as_secs_f64() * 1e6)?;
        }
        Ok(())
    }
}

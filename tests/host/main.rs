//! Tests that need no GPU.

#[path = "../common/nets.rs"]
mod nets;
#[path = "../common/random.rs"]
mod random;
#[path = "../common/report.rs"]
mod report;

mod accuracy;
mod bad_input;
mod golden;
mod layering;
#[cfg(feature = "gpu")]
mod shaders;

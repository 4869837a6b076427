//! Tests that need no GPU.

#[path = "../common/random.rs"]
mod random;
#[path = "../common/report.rs"]
mod report;

mod golden;

//! Tests that run on a GPU, or on a driver that plays one. Without an adapter they fail, unless `ENFOLD_ALLOW_NO_GPU=1`.

#[path = "../common/cases.rs"]
mod cases;
#[path = "../common/configs.rs"]
mod configs;
#[path = "../common/nets.rs"]
mod nets;
#[path = "../common/ops.rs"]
mod ops;
#[path = "../common/random.rs"]
mod random;
#[path = "../common/report.rs"]
mod report;

mod bad_input;
mod device;
mod kernels;
mod networks;
mod operators;
mod recording;

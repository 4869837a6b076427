//! Tests that run on a GPU, or on a driver that plays one. Without an adapter they fail, unless `ENFOLD_ALLOW_NO_GPU=1`.

#[path = "../common/cases.rs"]
mod cases;
#[path = "../common/random.rs"]
mod random;
#[path = "../common/report.rs"]
mod report;

mod device;
mod kernels;

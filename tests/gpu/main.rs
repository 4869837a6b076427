//! Tests that run on a GPU, or on a driver that plays one. Without an adapter they fail, unless `ENFOLD_ALLOW_NO_GPU=1`.

#[path = "../common/cases.rs"]
mod cases;
#[path = "../common/configs.rs"]
mod configs;
#[cfg(feature = "onnx")]
#[path = "../common/encoder.rs"]
mod encoder_model;
#[path = "../common/groups.rs"]
mod groups_cases;
#[path = "../common/long.rs"]
mod long;
#[path = "../common/nets.rs"]
mod nets;
#[path = "../common/ops.rs"]
mod ops;
#[path = "../common/random.rs"]
mod random;
#[path = "../common/report.rs"]
mod report;
#[path = "../common/specials.rs"]
mod specials;

mod allocations;
mod bad_input;
#[cfg(feature = "onnx")]
mod browser;
mod buffer_ranges;
#[cfg(feature = "coopmat")]
mod coopmat;
mod device;
#[cfg(feature = "onnx")]
mod encoder;
mod f16;
mod fused;
mod groups;
mod ieee;
mod indirect;
mod kernels;
mod layers;
mod loss;
mod memory;
mod networks;
mod operators;
mod paths;
mod recording;
mod splits;
mod swap;
mod texture;
mod timestamps;
mod tools;
mod waiting;
mod weights;
#[cfg(feature = "onnx")]
mod whole;

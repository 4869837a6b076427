//! Tests that need no GPU.

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

mod accuracy;
mod accuracy_passes;
mod archive;
mod bad_input;
mod completeness;
mod composed;
mod debugger;
#[cfg(feature = "onnx")]
mod encoder;
mod engines;
mod examples;
mod flow;
mod golden;
mod groups;
mod ieee;
#[cfg(all(target_os = "linux", feature = "gpu"))]
#[allow(unsafe_code)] // Vulkan, directly.
mod isa;
mod layering;
mod observers;
#[cfg(feature = "onnx")]
mod onnx;
#[cfg(feature = "onnx")]
mod onnx_dynamic;
#[cfg(feature = "onnx")]
mod onnx_export;
#[cfg(feature = "onnx")]
mod onnx_groups;
#[cfg(feature = "onnx")]
mod onnx_images;
mod oracle;
mod products;
mod properties;
mod qat;
mod quantizer;
mod random_networks;
#[cfg(feature = "gpu")]
mod shaders;
#[cfg(feature = "onnx")]
mod walks;
mod weights;
mod wrong;

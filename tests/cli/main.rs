//! Tests of the command line, which run the built binary on small files.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

#[path = "../common/report.rs"]
mod report;

mod accuracy;
mod bench;
mod calibrate;
mod cases;
mod compare;
mod data;
mod files;
mod messages;
mod models;
mod onnx;
mod proto;
mod run;
mod space;

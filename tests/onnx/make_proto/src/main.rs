//! Writes `src/onnx/proto/onnx.rs`: the messages of `onnx.proto` as prost-build generates them.
//!
//! `cargo run --manifest-path tests/onnx/make_proto/Cargo.toml`

use std::error::Error;
use std::path::Path;
use std::process::Command;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../src/onnx/proto").canonicalize()?;
    let files = protox::compile(["onnx.proto"], [&folder])?;
    let mut config = prost_build::Config::new();
    // Fields of type `bytes` share the file's buffer, so that decoding does not copy weights.
    config.bytes(["."]);
    // Few attributes have a graph. The box keeps the others small.
    config.boxed(".onnx.AttributeProto.g");
    config.out_dir(&folder).compile_fds(files)?;
    let written = folder.join("onnx.rs");
    let status = Command::new("rustfmt").args(["--edition", "2024"]).arg(&written).status()?;
    if !status.success() {
        return Err(format!("rustfmt has refused {}", written.display()).into());
    }
    println!("written: {}", written.display());
    Ok(())
}

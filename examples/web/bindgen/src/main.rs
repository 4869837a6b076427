//! Writes the JavaScript module of a wasm file, as the command line of wasm-bindgen does. It is a program of this workspace, so that its
//! version is that of `wasm-bindgen` in `Cargo.lock`, which must be the same.
//!
//! `enfold-web-bindgen INPUT.wasm FOLDER [--no-names]`

use anyhow::{Context as _, Result};
use wasm_bindgen_cli_support::Bindgen;

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let input = arguments.next().context("expected the wasm file")?;
    let folder = arguments.next().context("expected the folder to write to")?;
    let names = arguments.next().is_none_or(|argument| argument != "--no-names");
    Bindgen::new()
        .input_path(input)
        .web(true)?
        .remove_name_section(!names)
        .typescript(false)
        .omit_default_module_path(false)
        .generate(folder)
}

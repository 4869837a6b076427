//! Writes the JavaScript module of a wasm file, as the command line of wasm-bindgen does. It is a program of this workspace, so that its
//! version is that of `wasm-bindgen` in `Cargo.lock`, which must be the same.
//!
//! `enfold-web-bindgen INPUT.wasm FOLDER [--no-names]`
//!
//! `enfold-web-bindgen order INPUT.wasm OUTPUT.wasm` names the functions by the order in which gzip makes the file smallest.

mod imports;
mod order;

use std::path::Path;

use anyhow::{Context as _, Result};
use wasm_bindgen_cli_support::Bindgen;

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let input = arguments.next().context("expected the wasm file")?;
    if input == "order" {
        let [input, output] = [arguments.next(), arguments.next()];
        let (input, output) = (input.context("expected the wasm file")?, output.context("expected the file to write")?);
        return Ok(std::fs::write(output, order::named_by_order(&std::fs::read(input)?)?)?);
    }
    let folder = arguments.next().context("expected the folder to write to")?;
    let names = arguments.next().is_none_or(|argument| argument != "--no-names");
    let stem = Path::new(&input).file_stem().context("expected the wasm file")?.to_owned();
    Bindgen::new()
        .input_path(input)
        .web(true)?
        .remove_name_section(!names)
        .typescript(false)
        .omit_default_module_path(false)
        .generate(&folder)?;
    let [mut wasm, mut module] = [Path::new(&folder).join(&stem), Path::new(&folder).join(&stem)];
    wasm.as_mut_os_string().push("_bg.wasm");
    module.set_extension("js");
    let (bytes, text) = imports::shortened(&std::fs::read(&wasm)?, &std::fs::read_to_string(&module)?)?;
    std::fs::write(wasm, bytes)?;
    Ok(std::fs::write(module, text)?)
}

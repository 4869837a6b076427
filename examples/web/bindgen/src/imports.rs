//! Short names for what a wasm file imports: wasm-bindgen's end with 16 digits of a hash, which gzip cannot make smaller.

use anyhow::{Context as _, Result, ensure};
use wasm_encoder::reencode::{Reencode, RoundtripReencoder};
use wasm_encoder::{ImportSection, Module, RawSection};
use wasmparser::{Parser, Payload};

/// The wasm file and its JavaScript module, with a short name for each function that JavaScript gives.
pub(crate) fn shortened(wasm: &[u8], module: &str) -> Result<(Vec<u8>, String)> {
    let (mut output, mut module) = (Module::new(), module.to_owned());
    for payload in Parser::new(0).parse_all(wasm) {
        let payload = payload.context("no wasm")?;
        if let Payload::ImportSection(section) = &payload {
            let mut imports = ImportSection::new();
            for (number, import) in section.clone().into_imports().enumerate() {
                let import = import?;
                let name = short_name(number);
                replace_key(&mut module, import.name, &name)?;
                imports.import(import.module, &name, RoundtripReencoder.entity_type(import.ty)?);
            }
            output.section(&imports);
        } else if let Some((id, range)) = payload.as_section() {
            output.section(&RawSection { id, data: &wasm[range] });
        }
    }
    Ok((output.finish(), module))
}

/// Replaces the key of the object that holds the imports.
fn replace_key(module: &mut String, name: &str, by: &str) -> Result<()> {
    let key = format!("\n        {name}: ");
    ensure!(module.matches(&key).count() == 1, "the JavaScript module has not one import {name}");
    *module = module.replace(&key, &format!("\n        {by}: "));
    Ok(())
}

/// Letters, of which no two numbers have the same.
fn short_name(number: usize) -> String {
    let letter = |number: usize| char::from(b'a' + (number % 26) as u8);
    std::iter::successors(Some(number), |number| (number / 26).checked_sub(1)).map(letter).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use wasm_encoder::{EntityType, TypeSection};

    use super::*;

    #[test]
    fn names_differ() {
        let names: HashSet<String> = (0..20_000).map(short_name).collect();
        assert_eq!(names.len(), 20_000);
        assert_eq!(["a", "z"], [&*short_name(0), &*short_name(25)]);
    }

    /// Both files get the same names, and a function that one of them lacks is an error.
    #[test]
    fn files_agree() {
        let (mut wasm, mut types, mut imports) = (Module::new(), TypeSection::new(), ImportSection::new());
        types.ty().function([], []);
        imports.import("m", "call_0123", EntityType::Function(0)).import("m", "call_01", EntityType::Function(0));
        wasm.section(&types).section(&imports);
        let wasm = wasm.finish();
        let module = "return {\n        call_01: call_01,\n        call_0123: f,\n}";
        let (wasm, module) = shortened(&wasm, module).unwrap();
        assert_eq!(module, "return {\n        b: call_01,\n        a: f,\n}");
        assert!(wasm.ends_with(b"\x02\x0d\x02\x01m\x01a\x00\x00\x01m\x01b\x00\x00"), "{wasm:?}");
        assert!(shortened(&wasm, "return {\n        a: f,\n}").is_err());
    }
}

//! Names of nodes and modules, from the names of an ONNX file.

use std::collections::{HashMap, HashSet};

/// The largest number of bytes of a name. Every node that reads a parameter gets its name, so that a long name could become
/// gigabytes.
const MAX_LENGTH: usize = 512;

/// A name, cut to the largest length.
pub(super) fn short(name: &str) -> &str {
    &name[..name.floor_char_boundary(MAX_LENGTH)]
}

/// A name with dots between its parts: `/encoder/layer.0/MatMul` becomes `encoder.layer.0.MatMul`.
pub(super) fn clean(name: &str) -> String {
    short(name).trim_start_matches('/').replace("::", ".").replace('/', ".")
}

/// The module that a parameter belongs to: `encoder.query` for `encoder.query.bias`.
pub(super) fn module(parameter: &str) -> Option<String> {
    let name = parameter.strip_suffix("_quantized").unwrap_or(parameter);
    let module = [".weight", ".bias"].iter().find_map(|suffix| name.strip_suffix(suffix))?;
    (!module.is_empty()).then(|| clean(module))
}

/// The names that are in use.
#[derive(Debug, Default)]
pub(super) struct Names {
    taken: HashSet<String>,
    /// For each name that was asked for again, the last number tried, so that a thousand equal names take a thousand steps.
    last: HashMap<String, usize>,
}

impl Names {
    /// Returns `name`, or the first unused one of `name_1`, `name_2`, ….
    pub(super) fn unique(&mut self, name: &str) -> String {
        let name = if name.is_empty() { "node" } else { name };
        if self.taken.insert(name.to_owned()) {
            return name.to_owned();
        }
        let last = self.last.entry(name.to_owned()).or_default();
        loop {
            *last += 1;
            let candidate = format!("{name}_{last}");
            if self.taken.insert(candidate.clone()) {
                return candidate;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_modules() {
        assert_eq!(clean("/m/encoder/layer.0/MatMul"), "m.encoder.layer.0.MatMul");
        assert_eq!(module("m.encoder.query.bias").as_deref(), Some("m.encoder.query"));
        assert_eq!(module("0.weight_quantized").as_deref(), Some("0"));
        assert_eq!(module("onnx::MatMul_3"), None);
        let mut names = Names::default();
        let given: Vec<String> = ["a", "a", "a_1", "a", ""].iter().map(|name| names.unique(name)).collect();
        assert_eq!(given, ["a", "a_1", "a_1_1", "a_2", "node"]);
    }
}

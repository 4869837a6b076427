//! The layers of the crate: what each module may import. This is the only copy of the table.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Each module with what it may import, beside `values`, which all may.
const LAYERS: [(&str, &[&str]); 17] = [
    ("values", &[]),
    ("files", &[]),
    ("numerics", &[]),
    ("ops", &["numerics"]),
    ("kernels", &["numerics"]),
    ("graph", &["ops"]),
    ("interp", &["graph", "ops"]),
    ("quantize", &["interp", "graph", "ops", "numerics"]),
    ("qat", &["quantize", "interp", "graph", "ops", "numerics"]),
    ("compare", &["interp", "graph", "ops", "numerics"]),
    // The interpreter only in its tests.
    ("onnx", &["interp", "graph", "ops", "files", "numerics"]),
    ("archive", &["quantize", "graph", "ops", "files", "numerics"]),
    ("program", &["ops", "numerics"]),
    ("lower", &["interp", "graph", "ops", "program"]),
    ("cpu", &["program", "ops", "kernels", "numerics"]),
    ("gpu", &["program", "ops", "numerics"]),
    // The union of all errors, and nothing else.
    ("error", &["archive", "compare", "cpu", "gpu", "graph", "interp", "lower", "onnx", "program", "qat", "quantize"]),
];

/// The modules of this crate that a source text imports, by `crate::` paths outside of comments.
fn imports(source: &str) -> BTreeSet<String> {
    let code: Vec<&str> = source.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    let code = code.join("\n");
    let after = code.match_indices("crate::").map(|(at, path)| &code[at + path.len()..]);
    let name = |rest: &str| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    after.map(name).collect()
}

/// What a module imports and may not.
fn violations(module: &str, source: &str) -> Vec<String> {
    let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == module) else {
        return vec![format!("module {module} has no layer")];
    };
    let free = |import: &String| import == module || import == "values" || allowed.contains(&import.as_str());
    imports(source).into_iter().filter(|i| !free(i)).map(|i| format!("{module} imports {i:?}")).collect()
}

fn sources(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).expect("a source folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { sources(&path, files) } else { files.push(path) }
    }
}

#[test]
fn modules_import_downward_only() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut wrong = Vec::new();
    for path in &files {
        let inside = path.strip_prefix(&root).expect("below the root");
        let module = inside.iter().next().map(|c| c.to_string_lossy().trim_end_matches(".rs").to_owned());
        let module = module.expect("a first component");
        // The binary has a crate of its own above the library.
        if ["lib", "main", "cli"].contains(&module.as_str()) {
            continue;
        }
        let source = std::fs::read_to_string(path).expect("source text");
        wrong.extend(violations(&module, &source).into_iter().map(|v| format!("{}: {v}", inside.display())));
    }
    assert!(files.len() > LAYERS.len(), "only {} files found", files.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_table_has_no_circles() {
    // In an order in which every module comes after what it imports.
    let mut done: Vec<&str> = Vec::new();
    while done.len() < LAYERS.len() {
        let ready = |(name, imports): &&(&'static str, &[&str])| {
            !done.contains(name) && imports.iter().all(|import| done.contains(import))
        };
        let next = LAYERS.iter().find(ready).map(|(name, _)| *name);
        done.push(next.unwrap_or_else(|| panic!("a circle among all but {done:?}")));
    }
}

#[test]
fn an_upward_import_is_caught() {
    assert_eq!(violations("graph", "use crate::interp::Interpreter;"), ["graph imports \"interp\""]);
    assert_eq!(violations("gpu", "fn f(g: &crate::graph::Graph) {}"), ["gpu imports \"graph\""]);
    // A grouped import would hide names, so it is not allowed at all.
    assert_eq!(violations("cpu", "use crate::{graph, program};"), ["cpu imports \"\""]);
    assert_eq!(violations("unheard_of", ""), ["module unheard_of has no layer"]);
    assert!(violations("lower", "/// [`x`](crate::quantize)\nuse crate::program::Step;").is_empty());
}

//! The layers of the crate: the modules that each module may import. This is the only copy of the table. Between files, no cycle is
//! larger than two.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Each module with what it may import, beside `values`, which all may.
const LAYERS: [(&str, &[&str]); 20] = [
    ("values", &[]),
    ("files", &[]),
    ("parallel", &[]),
    ("numerics", &["parallel"]),
    ("ops", &["numerics", "parallel"]),
    ("kernels", &["numerics", "parallel"]),
    ("graph", &["ops", "files"]),
    ("interp", &["graph", "ops"]),
    ("quantize", &["interp", "graph", "ops", "numerics"]),
    ("qat", &["quantize", "interp", "graph", "ops", "numerics"]),
    ("compare", &["interp", "graph", "ops", "numerics"]),
    // The interpreter only in its tests.
    ("onnx", &["interp", "graph", "ops", "files", "numerics"]),
    ("archive", &["quantize", "graph", "ops", "files", "numerics"]),
    ("program", &["ops", "numerics"]),
    ("cpu", &["program", "ops", "kernels", "numerics", "parallel"]),
    // The CPU engine computes the constants of a player, which has no interpreter.
    ("lower", &["interp", "graph", "ops", "program", "cpu"]),
    // The CPU engine gives the known answers.
    ("gpu", &["program", "ops", "numerics", "cpu"]),
    // Tests of private parts of the CPU engine in the whole flow.
    ("engine_tests", &["quantize", "interp", "graph", "ops", "numerics", "lower", "cpu"]),
    // Documentation.
    ("guide", &[]),
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

/// Lists the modules that a module imports and may not import.
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
    // `done` lists the modules in an order in which each comes after those that it imports.
    let mut done: Vec<&str> = Vec::new();
    while done.len() < LAYERS.len() {
        let ready = |(name, imports): &&(&'static str, &[&str])| {
            !done.contains(name) && imports.iter().all(|import| done.contains(import))
        };
        let next = LAYERS.iter().find(ready).map(|(name, _)| *name);
        done.push(next.unwrap_or_else(|| panic!("a circle among all but {done:?}")));
    }
}

/// Whether a source text polls a wgpu device.
fn polls(source: &str) -> bool {
    code(source).contains(".poll(wgpu::")
}

#[test]
fn one_file_of_the_gpu_engine_polls_the_device() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/gpu");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let polling = files.iter().filter(|path| polls(&std::fs::read_to_string(path).expect("source text")));
    let polling: Vec<_> = polling.map(|path| path.strip_prefix(&root).expect("below the root")).collect();
    assert_eq!(polling, [Path::new("device/wait.rs")]);
    assert!(!polls("// device.poll(wgpu::PollType::Poll)") && polls("device.poll(wgpu::PollType::Poll)?;"));
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

/// The code of a source text: without comments, and without the tests at its bottom.
fn code(source: &str) -> String {
    let source = source.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    source.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The paths of a use tree: `a::{b, c::{d}}` names `a::b` and `a::c::d`.
fn paths(tree: &str) -> Vec<String> {
    let tree = tree.trim();
    let Some((prefix, rest)) = tree.split_once('{') else {
        return vec![tree.split(" as ").next().unwrap_or_default().to_owned()];
    };
    // Text in a string is not a use tree.
    let Some(inside) = rest.trim_end().strip_suffix('}') else { return Vec::new() };
    let (mut depth, mut start, mut found) = (0, 0, Vec::new());
    for (at, c) in inside.char_indices().chain([(inside.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                let part = &inside[start..at];
                found.extend(paths(part).into_iter().filter(|p| !p.is_empty()).map(|p| format!("{prefix}{p}")));
                start = at + 1;
            }
            _ => {}
        }
    }
    found
}

/// The files that a file imports from, by their module paths.
fn imported(file: &[String], source: &str, files: &BTreeMap<Vec<String>, String>) -> BTreeSet<Vec<String>> {
    let code = code(source);
    let uses = code.split("use ").skip(1).filter_map(|rest| rest.split_once(';')).flat_map(|(tree, _)| paths(tree));
    let starts = ["crate::", "super::"].into_iter().flat_map(|start| code.match_indices(start));
    let path = |(at, _): (usize, &str)| {
        code[at..].chars().take_while(|c| c.is_alphanumeric() || matches!(c, '_' | ':')).collect::<String>()
    };
    let mut found = BTreeSet::new();
    for path in uses.chain(starts.map(path)) {
        let mut parts = path.split("::").map(str::trim).peekable();
        let mut module: Vec<String> = match parts.peek() {
            Some(&"crate") => Vec::new(),
            Some(&("super" | "self")) => file.to_vec(),
            _ => continue,
        };
        for part in parts {
            match part {
                "crate" | "self" => {}
                "super" => drop(module.pop()),
                part => {
                    module.push(part.to_owned());
                    if !files.contains_key(&module) {
                        module.pop();
                        break;
                    }
                }
            }
        }
        if files.contains_key(&module) && module != file {
            found.insert(module);
        }
    }
    found
}

/// Groups of more than two files, each of which imports from all others, directly or through them.
fn circles(files: &BTreeMap<Vec<String>, String>) -> BTreeSet<BTreeSet<String>> {
    let direct: BTreeMap<_, _> = files.iter().map(|(file, source)| (file, imported(file, source, files))).collect();
    let reach = |file: &Vec<String>| {
        let mut seen = BTreeSet::new();
        let mut next = vec![file];
        while let Some(file) = next.pop() {
            next.extend(direct[file].iter().filter(|import| seen.insert((*import).clone())));
        }
        seen
    };
    let reached: BTreeMap<_, _> = files.keys().map(|file| (file, reach(file))).collect();
    let circle = |file: &&Vec<String>| -> BTreeSet<String> {
        let back = reached[*file].iter().filter(|other| reached[*other].contains(*file));
        back.map(|other| other.join("/")).chain([file.join("/")]).collect()
    };
    files.keys().map(|file| circle(&file)).filter(|circle| circle.len() > 2).collect()
}

#[test]
fn no_circle_of_files_is_larger_than_two() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut all = Vec::new();
    sources(&root, &mut all);
    let mut files = BTreeMap::new();
    for path in all.iter().filter(|path| path.extension().is_some_and(|e| e == "rs")) {
        let inside = path.strip_prefix(&root).expect("below the root").with_extension("");
        let module: Vec<String> = inside.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        // The binary has a crate of its own above the library, and `lib` only names its parts.
        if !["lib", "main", "cli"].contains(&module[0].as_str()) {
            files.insert(module, std::fs::read_to_string(path).expect("source text"));
        }
    }
    assert!(files.len() > 100, "only {} files found", files.len());
    assert_eq!(circles(&files), BTreeSet::new());
}

#[test]
fn a_circle_of_three_is_found() {
    let files = |sources: [(&str, &str); 4]| {
        let module = |path: &str| path.split('/').map(str::to_owned).collect::<Vec<_>>();
        sources.map(|(path, source)| (module(path), source.to_owned())).into()
    };
    let three = [
        ("a", "mod b; mod c; use self::b::B;"),
        ("a/b", "use super::c::{self, C};"),
        ("a/c", "fn f() { super::g() }"),
        ("d", "use crate::a::{A, b::{B}};"),
    ];
    assert_eq!(circles(&files(three)), BTreeSet::from([["a", "a/b", "a/c"].map(str::to_owned).into()]));
    let two =
        [("a", "use self::b::B;"), ("a/b", "use super::A;"), ("a/c", "use super::b::B;"), ("d", "use crate::a::A;")];
    assert!(circles(&files(two)).is_empty());
    // Comments and tests do not count.
    let comments = [
        ("a", "use self::b::B;"),
        ("a/b", "use super::c::C;"),
        ("a/c", "// use super::A;\n#[cfg(test)]\nmod tests { use super::super::A; }"),
        ("d", ""),
    ];
    assert!(circles(&files(comments)).is_empty());
}

/// The calls of `for_each` and `fold` inside of the closures of `vectorized`, by line. The compiler may make functions of their own of
/// them, which have none of the processor's vector instructions: GELU took three times as long.
fn without_vectors(source: &str) -> Vec<usize> {
    let source = &source[..source.find("#[cfg(test)]\nmod tests").unwrap_or(source.len())];
    let mut found = Vec::new();
    for (start, call) in source.match_indices("vectorized(") {
        let mut depth = 0;
        let end = source[start..].char_indices().find_map(|(at, letter)| {
            match letter {
                '(' => depth += 1,
                ')' => depth -= 1,
                _ => {}
            }
            (letter == ')' && depth == 0).then_some(start + at)
        });
        let closure = &source[start + call.len()..end.unwrap_or(source.len())];
        for (at, _) in closure.match_indices(".for_each(").chain(closure.match_indices(".fold(")) {
            found.push(source[..start + call.len() + at].matches('\n').count() + 1);
        }
    }
    found
}

#[test]
fn vectorized_loops_keep_their_vectors() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut found = Vec::new();
    for file in &files {
        let source = std::fs::read_to_string(file).expect("a source");
        let shown = file.strip_prefix(&root).expect("under src").display().to_string();
        found.extend(without_vectors(&source).into_iter().map(|line| format!("{shown}:{line}")));
    }
    assert_eq!(found, Vec::<String>::new(), "write these loops with `for`");
    let planted = "vectorized(\n    || x.iter_mut().for_each(|x| *x = f(*x)),\n);\ny.iter().for_each(g);\n";
    assert_eq!(without_vectors(planted), [2]);
}

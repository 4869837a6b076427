//! Runs models after public reports of users of inference engines, and compares their outputs. `tests/cases/README.md` documents the
//! files. `ENFOLD_CASES_DIR` names another directory. A case that cannot be read is a failure.

pub(crate) mod array;
mod compare;
mod hostile;
mod watch;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use array::read_npz;
use rayon::prelude::*;
use serde_json::Value;
use watch::watched;

use crate::report::report;
use crate::space::{Space, has_adapter};

const DEVICES: [&str; 3] = ["reference", "cpu", "gpu"];

/// The groups of cases.
const GROUPS: [&str; 21] = [
    "softmax",
    "nan",
    "qdq",
    "integers",
    "shapes",
    "unused-outputs",
    "fp16",
    "data",
    "float",
    "deep",
    "quantize",
    "fold",
    "opset",
    "contrib",
    "functions",
    "qoperator",
    "int4",
    "dynamic-int8",
    "codes",
    "int16",
    "ids",
];

/// Returns the directory of the cases.
fn root() -> PathBuf {
    let ours = || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    std::env::var_os("ENFOLD_CASES_DIR").map_or_else(ours, PathBuf::from)
}

/// Lists the folders with a `case.json`, sorted by name, each with its description. Panics if one cannot be read.
fn folders(root: &Path) -> Vec<(String, PathBuf, Value)> {
    let entries = std::fs::read_dir(root).unwrap_or_else(|e| panic!("{}: {e}", root.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect();
    paths.sort();
    let case = |path: PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(path.join("case.json")).unwrap_or_else(|e| panic!("{name}: {e}"));
        let case: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
        (name, path, case)
    };
    // Cases of hostile files have rules of their own.
    paths.into_iter().filter(|path| !path.ends_with("hostile")).map(case).collect()
}

/// Returns the strings of a list.
fn words(list: &Value) -> Vec<String> {
    let items = list.as_array().into_iter().flatten();
    items.map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned)).collect()
}

/// Returns the devices that a case names.
fn devices(case: &Value) -> Vec<&'static str> {
    let named = words(&case["devices"]);
    assert!(named.iter().all(|name| DEVICES.contains(&name.as_str())), "devices {named:?} of {DEVICES:?}");
    DEVICES.into_iter().filter(|device| named.iter().any(|name| name == device)).collect()
}

/// Whether Python is installed, which makes the files that are too large to keep. Panics if it is missing and that is not allowed.
fn has_python() -> bool {
    let found = Command::new("python3").arg("--version").stdout(Stdio::null()).status().is_ok_and(|s| s.success());
    assert!(found || std::env::var("ENFOLD_ALLOW_NO_PYTHON").is_ok_and(|a| a == "1"), "python3 is missing");
    found
}

/// Collects the cases that failed, each with its name.
#[derive(Debug, Default)]
struct Failures(Vec<String>);

impl Failures {
    fn add(&mut self, name: &str, result: Result<(), String>) {
        self.0.extend(result.err().map(|error| format!("{name}: {error}")));
    }

    fn finish(&self) {
        assert!(self.0.is_empty(), "{} fail:\n{}", self.0.len(), self.0.join("\n"));
    }
}

/// Runs one case on one device.
fn check(name: &str, folder: &Path, case: &Value, device: &str) -> Result<(), String> {
    let space = Space::new(&format!("cases/{device}/{name}"));
    let seconds = case["seconds"].as_u64().unwrap_or(60);
    let enfold = |command: &str, model: &Path, arguments: &[String]| {
        let mut run = space.command(command);
        run.arg(model).args(arguments);
        watched(run, &space.path(command), seconds).map(|watched| watched.ran)
    };
    let dims: Vec<String> = case["dims"]
        .as_object()
        .ok_or("no dims in case.json")?
        .iter()
        .flat_map(|(dim, value)| ["--dim".to_owned(), format!("{dim}={value}")])
        .collect();
    // An archive has fixed dimensions and takes no --dim.
    let (mut model, mut model_dims) = (folder.join("model.onnx"), dims.clone());
    if !case["quantize"].is_null() {
        let quantized = space.path("quantized.enfold");
        let in_folder =
            |word: String| if folder.join(&word).is_file() { folder.join(word).display().to_string() } else { word };
        let mut arguments: Vec<String> = words(&case["quantize"]).into_iter().map(in_folder).collect();
        arguments.extend(["--output".to_owned(), quantized.display().to_string()]);
        arguments.extend(dims);
        let ran = enfold("quantize", &model, &arguments)?;
        if ran.code != Some(0) {
            return Err(format!("quantize ended with {ran:?}"));
        }
        (model, model_dims) = (quantized, Vec::new());
    }
    let output = space.path("output.npz");
    let mut arguments = model_dims;
    let (input, device) = (folder.join("input.npz").display().to_string(), device.to_owned());
    arguments.extend(["--input".to_owned(), input, "--output".to_owned(), output.display().to_string()]);
    // What a quantized model leaves in float is compared with float results of others.
    arguments.extend(["--full-products".to_owned(), "--device".to_owned(), device]);
    if let (Some(adapter), "gpu") = (adapter(), arguments[arguments.len() - 1].as_str()) {
        arguments.extend(["--adapter".to_owned(), adapter]);
    }
    let ran = enfold("run", &model, &arguments)?;
    if case["expect"] == "error" {
        let missing: Vec<String> =
            words(&case["mentions"]).into_iter().filter(|word| !ran.err.contains(word)).collect();
        let refused = matches!(ran.code, Some(1 | 2)) && ran.err.lines().count() == 1 && missing.is_empty();
        return if refused { Ok(()) } else { Err(format!("it must be refused, and mention {missing:?}: {ran:?}")) };
    }
    if ran.code != Some(0) {
        return Err(format!("{ran:?}"));
    }
    compare::compare(case, &read_npz(&output)?, &read_npz(&folder.join("expected.npz"))?)
}

/// Returns the adapter to test on, if `ENFOLD_ADAPTER` names one.
fn adapter() -> Option<String> {
    std::env::var("ENFOLD_ADAPTER").ok().filter(|name| !name.is_empty())
}

fn cases_hold(device: &str) {
    let cases = folders(&root());
    assert!(!cases.is_empty(), "no cases in {}", root().display());
    for (name, _, case) in &cases {
        let group = case["group"].as_str().unwrap_or_else(|| panic!("{name} has no group"));
        assert!(GROUPS.contains(&group), "{name} is of the unknown group {group:?}");
    }
    let on_device: Vec<_> = cases.iter().filter(|(_, _, case)| devices(case).contains(&device)).collect();
    let results: Vec<_> =
        on_device.par_iter().map(|(name, folder, case)| (name, check(name, folder, case, device))).collect();
    let mut failures = Failures::default();
    results.into_iter().for_each(|(name, result)| failures.add(name, result));
    report(&format!("cases on {device}: {} compared, {} differ", on_device.len(), failures.0.len()));
    failures.finish();
}

#[test]
fn cases_hold_in_the_interpreter() {
    cases_hold("reference");
}

#[test]
fn cases_hold_on_the_cpu() {
    cases_hold("cpu");
}

#[test]
fn cases_hold_on_the_gpu() {
    if has_adapter(&Space::new("cases/adapter")) {
        cases_hold("gpu");
    }
}

/// Each group has a case in this repository's directory.
#[test]
fn every_group_has_a_case() {
    let cases = folders(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases"));
    for group in GROUPS {
        assert!(cases.iter().any(|(_, _, case)| case["group"] == group), "{group}");
    }
}

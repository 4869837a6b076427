//! Runs hostile files: the binary must succeed or fail with one line, within limits of time and memory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::array::{Array, read_npz};
use super::watch::{Watched, watched};
use super::{Failures, devices, folders, has_python, root, words};
use crate::report::report;
use crate::space::Space;

/// Makes a command whose address space is limited to so many MB.
fn limited(space: &Space, arguments: &[String], address_space_mb: u64) -> Command {
    let enfold = space.command("");
    let mut command = Command::new("sh");
    let limit = format!("ulimit -v {} && exec \"$@\"", address_space_mb * 1024);
    command.args(["-c", &limit, "sh"]).arg(enfold.get_program()).args(arguments);
    command.current_dir(space.path("")).env("XDG_RUNTIME_DIR", space.path(""));
    command
}

/// Returns the folder with a hostile case's files. Files that are too large to keep are made first.
fn files(space: &Space, folder: &Path, case: &Value) -> Result<PathBuf, String> {
    if case["make"].is_null() {
        return Ok(folder.to_owned());
    }
    let made = space.path("made");
    std::fs::create_dir_all(&made).map_err(|e| e.to_string())?;
    for entry in std::fs::read_dir(folder).map_err(|e| e.to_string())? {
        let entry = entry.map_err(|e| e.to_string())?;
        std::fs::copy(entry.path(), made.join(entry.file_name())).map_err(|e| e.to_string())?;
    }
    let status = Command::new("python3").args(words(&case["make"])).current_dir(&made).status();
    if status.map_err(|e| e.to_string())?.success() { Ok(made) } else { Err("its script failed".to_owned()) }
}

/// Checks the exit status, the output and the memory of a command against the case.
fn judge(watched: &Watched, case: &Value) -> Result<(), String> {
    let Watched { ran, peak_mb } = watched;
    let limit = case["megabytes"].as_u64().ok_or("no megabytes in case.json")?;
    if *peak_mb > limit {
        return Err(format!("it took {peak_mb} MB of {limit}"));
    }
    let control = |c: char| c.is_control() && c != '\n' && c != '\t';
    if let Some(c) = ran.out.chars().chain(ran.err.chars()).find(|&c| control(c)) {
        return Err(format!("it printed the control character {c:?}"));
    }
    match (ran.code, case["expect"].as_str()) {
        (Some(0), Some("clean" | "runs" | "agree")) => Ok(()),
        (Some(1 | 2), Some("error" | "clean" | "agree")) if ran.err.lines().count() == 1 => Ok(()),
        (code, expect) => Err(format!("exit status {code:?}, expected {expect:?}; it said {:?}", ran.err)),
    }
}

fn check(folder: &Path, name: &str, case: &Value) -> Result<(), String> {
    let space = Space::new(&format!("hostile/{name}"));
    let files = files(&space, folder, case)?;
    let seconds = case["seconds"].as_u64().ok_or("no seconds in case.json")?;
    let address_space = case["address_space_mb"].as_u64().ok_or("no address_space_mb in case.json")?;
    let commands = case["commands"].as_array().ok_or("no commands in case.json")?;
    let mut outputs = Vec::new();
    let all = devices(case);
    // Cases whose devices must agree are compared with the interpreter too.
    let reference = (case["expect"] == "agree").then_some("reference");
    for device in reference.into_iter().chain(all) {
        for (index, command) in commands.iter().enumerate() {
            let out = space.path(&format!("{device}{index}"));
            let mut arguments = Vec::new();
            for word in words(command) {
                match word.as_str() {
                    "{device}" => arguments.extend(["--device".to_owned(), device.to_owned()]),
                    file if files.join(file).is_file() => arguments.push(files.join(file).display().to_string()),
                    word => arguments.push(word.replace("{out}", &out.display().to_string())),
                }
            }
            // GPU drivers map more memory than they use, so a run on the GPU has no limit on its address space, only on its memory.
            let command = match device {
                "gpu" => {
                    let mut command = space.command("");
                    command.args(&arguments);
                    command
                }
                _ => limited(&space, &arguments, address_space),
            };
            let with_command = |error| format!("{device}: enfold {}: {error}", arguments.join(" "));
            let watched = watched(command, &out, seconds).map_err(with_command)?;
            judge(&watched, case).map_err(with_command)?;
            outputs.push((device, watched.ran.code, read_npz(&out.with_extension("npz")).ok()));
        }
    }
    if reference.is_some() {
        let bits = |arrays: &Option<BTreeMap<String, Array>>| format!("{arrays:?}");
        let first = &outputs[0];
        if let Some(other) = outputs.iter().find(|o| o.1 != first.1 || bits(&o.2) != bits(&first.2)) {
            return Err(format!("{} gives {other:?}, the reference {first:?}", other.0));
        }
    }
    Ok(())
}

#[test]
fn hostile_files_are_harmless() {
    let folders = folders(&root().join("hostile"));
    assert!(!folders.is_empty(), "no hostile files in {}", root().display());
    let mut failures = Failures::default();
    let (mut checked, mut without_python) = (0, 0);
    for (name, folder, case) in &folders {
        if !case["make"].is_null() && !has_python() {
            without_python += 1;
            continue;
        }
        checked += 1;
        failures.add(name, check(folder, name, case));
    }
    report(&format!("hostile files: {checked} checked, {without_python} without Python not made"));
    failures.finish();
}

/// The checks must fail for a command that exceeds a limit.
#[test]
fn limits_are_noticed() {
    let space = Space::new("limits_are_noticed");
    let shell = |script: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    };
    let run = |script: &str, seconds| watched(shell(script), &space.path("out"), seconds);
    assert!(run("sleep 20", 1).is_err_and(|error| error.contains("more than 1 s")));
    let case = |expect: &str, megabytes: u64| serde_json::json!({ "expect": expect, "megabytes": megabytes });
    let said = run("echo a; echo b >&2; sleep 0.1; exit 1", 10).unwrap();
    judge(&said, &case("error", 100)).unwrap();
    judge(&said, &case("runs", 100)).unwrap_err();
    assert!(judge(&said, &case("error", 0)).unwrap_err().contains("it took"));
    let two_lines = run("printf 'b\\nc\\n' >&2; sleep 0.1; exit 1", 10).unwrap();
    judge(&two_lines, &case("error", 100)).unwrap_err();
    let escape = run("printf '\\033[31m'", 10).unwrap();
    assert!(judge(&escape, &case("runs", 100)).unwrap_err().contains("control"));
    judge(&run("kill -SEGV $$", 10).unwrap(), &case("clean", 100)).unwrap_err();
    judge(&run("exit 101", 10).unwrap(), &case("clean", 100)).unwrap_err();
}

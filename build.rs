//! Copies the shaders without comments and indentation, which no compiler reads and which are a third of what an application would ship.
//! Every line keeps its number, so that messages of a shader compiler still name the right one.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=shaders");
    println!("cargo::rerun-if-changed=build.rs");
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or(io::ErrorKind::NotFound)?);
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?);
    copy(&root.join("shaders"), &out.join("shaders"))
}

/// Copies a folder.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name()))?;
        if path.is_dir() {
            copy(&path, &to.join(name))?;
        } else if path.extension().is_some_and(|extension| extension == "wgsl") {
            fs::write(to.join(name), bare(&path)?)?;
        }
    }
    Ok(())
}

/// The text of a shader without comments and indentation. WGSL has no string literals, so `//` is a comment wherever it stands.
fn bare(path: &Path) -> io::Result<String> {
    let text = fs::read_to_string(path)?;
    if text.contains("/*") {
        let problem = format!("{}: comments of a line each (//) can be removed, others cannot", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
    }
    let line = |line: &str| line.split("//").next().unwrap_or_default().trim().to_owned();
    let lines: Vec<String> = text.lines().map(line).collect();
    Ok(lines.join("\n").trim_end().to_owned() + "\n")
}

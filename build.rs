//! Copies the shaders without comments and indentation, which no compiler reads and which are a third of what an application would ship.
//! Every line keeps its number, so that messages of a shader compiler still name the right one. A player, which is built without the
//! feature `flow`, gets short names too: it is what a browser loads.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

#[path = "build/short_names.rs"]
mod short_names;

use short_names::{ShortNames, WRITERS};

fn main() -> io::Result<()> {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or(io::ErrorKind::NotFound)?);
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?);
    for path in ["shaders", "build.rs", "build"].into_iter().chain(WRITERS) {
        println!("cargo::rerun-if-changed={path}");
    }
    let mut shaders = Vec::new();
    read(&root.join("shaders"), &out.join("shaders"), &mut shaders)?;
    if env::var_os("CARGO_FEATURE_FLOW").is_none() {
        let writers = WRITERS.iter().map(|path| fs::read_to_string(root.join(path))).collect::<io::Result<Vec<_>>>()?;
        let texts: Vec<String> = shaders.iter().map(|(_, wgsl)| wgsl.clone()).collect();
        let names = ShortNames::new(&texts, &writers);
        shaders.iter_mut().for_each(|(_, wgsl)| *wgsl = names.shorten(wgsl));
    }
    shaders.iter().try_for_each(|(path, wgsl)| fs::write(path, wgsl))
}

/// Reads the shaders of a folder, each with the path of its copy.
fn read(from: &Path, to: &Path, shaders: &mut Vec<(PathBuf, String)>) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name()))?;
        if path.is_dir() {
            read(&path, &to.join(name), shaders)?;
        } else if path.extension().is_some_and(|extension| extension == "wgsl") {
            shaders.push((to.join(name), bare(&path)?));
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

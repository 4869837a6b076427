//! Reading golden files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use enfold::Tensor;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// One case.
#[derive(Debug, Clone)]
pub(super) struct Golden {
    /// Path inside the directory.
    pub(super) name: String,
    /// The kind, which decides the test that compares it.
    pub(super) kind: String,
    /// The description.
    pub(super) case: Value,
    tensors: BTreeMap<String, Tensor>,
}

pub(super) fn replaced() -> bool {
    std::env::var_os("ENFOLD_GOLDEN_DIR").is_some()
}

pub(super) fn directory() -> PathBuf {
    std::env::var_os("ENFOLD_GOLDEN_DIR").map_or_else(ours, PathBuf::from)
}

/// The directory of this repository.
pub(super) fn ours() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// Every file below a directory, sorted by name. Panics, which fails the test, for one that cannot be read.
pub(super) fn all(root: &Path) -> Vec<Golden> {
    let mut paths = Vec::new();
    collect(root, &mut paths);
    paths.sort();
    paths.iter().map(|path| Golden::read(root, path)).collect()
}

fn collect(directory: &Path, paths: &mut Vec<PathBuf>) {
    let entries = std::fs::read_dir(directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
    for entry in entries {
        let path = entry.unwrap_or_else(|e| panic!("{}: {e}", directory.display())).path();
        if path.is_dir() { collect(&path, paths) } else { paths.push(path) }
    }
}

impl Golden {
    fn read(root: &Path, path: &Path) -> Self {
        let name = path.strip_prefix(root).unwrap_or(path).display().to_string();
        let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{name}: {e}"));
        Self::parse(name.clone(), &bytes).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    fn parse(name: String, bytes: &[u8]) -> Result<Self, String> {
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| e.to_string())?;
        let case = metadata.metadata().as_ref().and_then(|m| m.get("case")).ok_or("no case in its metadata")?;
        let case: Value = serde_json::from_str(case).map_err(|e| e.to_string())?;
        let file = SafeTensors::deserialize(bytes).map_err(|e| e.to_string())?;
        let mut tensors = BTreeMap::new();
        for (tensor_name, view) in file.tensors() {
            let (shape, data) = (view.shape(), view.data());
            let words = || data.chunks_exact(4).map(|b| [b[0], b[1], b[2], b[3]]);
            let tensor = match view.dtype() {
                Dtype::F32 => Tensor::from_f32(shape, words().map(f32::from_le_bytes).collect()),
                Dtype::I32 => Tensor::from_i32(shape, words().map(i32::from_le_bytes).collect()),
                Dtype::I8 => Tensor::from_i8(shape, data.iter().map(|&b| b as i8).collect()),
                // Types of kinds that are not covered.
                Dtype::I64 | Dtype::F64 | Dtype::BOOL | Dtype::U8 | Dtype::I16 => continue,
                other => return Err(format!("{tensor_name} is {other:?}")),
            };
            tensors.insert(tensor_name, tensor.map_err(|e| e.to_string())?);
        }
        Ok(Self { name, kind: kind(&case), case, tensors })
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    pub(super) fn tensor(&self, name: &str) -> Result<&Tensor, String> {
        self.tensors.get(name).ok_or_else(|| format!("no tensor {name}"))
    }

    pub(super) fn f32s(&self, name: &str) -> Result<&[f32], String> {
        self.tensor(name)?.as_f32().ok_or_else(|| format!("{name} is not f32"))
    }

    pub(super) fn i32s(&self, name: &str) -> Result<&[i32], String> {
        self.tensor(name)?.as_i32().ok_or_else(|| format!("{name} is not i32"))
    }

    pub(super) fn i8s(&self, name: &str) -> Result<&[i8], String> {
        self.tensor(name)?.as_i8().ok_or_else(|| format!("{name} is not i8"))
    }

    pub(super) fn int(&self, field: &str) -> Result<i32, String> {
        let value = self.case[field].as_i64().and_then(|v| i32::try_from(v).ok());
        value.ok_or_else(|| format!("no integer {field} in the case"))
    }

    pub(super) fn float(&self, field: &str) -> Result<f32, String> {
        self.case[field].as_f64().map(|v| v as f32).ok_or_else(|| format!("no number {field} in the case"))
    }

    pub(super) fn text(&self, field: &str) -> Result<&str, String> {
        self.case[field].as_str().ok_or_else(|| format!("no text {field} in the case"))
    }

    pub(super) fn flag(&self, field: &str) -> Result<bool, String> {
        self.case[field].as_bool().ok_or_else(|| format!("no flag {field} in the case"))
    }

    pub(super) fn f32_mut(&mut self, name: &str) -> &mut [f32] {
        match self.tensors.get_mut(name) {
            Some(Tensor::F32(a)) => a.elements_mut(),
            other => panic!("{name}: {other:?}"),
        }
    }

    pub(super) fn i32_mut(&mut self, name: &str) -> &mut [i32] {
        match self.tensors.get_mut(name) {
            Some(Tensor::I32(a)) => a.elements_mut(),
            other => panic!("{name}: {other:?}"),
        }
    }

    pub(super) fn i8_mut(&mut self, name: &str) -> &mut [i8] {
        match self.tensors.get_mut(name) {
            Some(Tensor::I8(a)) => a.elements_mut(),
            other => panic!("{name}: {other:?}"),
        }
    }
}

/// The kind of a file, which is finer than the one that it states.
fn kind(case: &Value) -> String {
    let text = |field: &str| case[field].as_str().unwrap_or("missing").to_owned();
    match text("kind").as_str() {
        "observer" => format!("observer/{}", text("observer")),
        "pt2e" => {
            let (mode, reference) = (text("mode"), case["reference"] == true);
            format!("pt2e/{mode}{}", if reference { "/reference" } else { "" })
        }
        kind => kind.to_owned(),
    }
}

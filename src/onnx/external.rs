//! Tensors whose data lie in other files. They are read from the folder of the model only, and never beyond the end of a file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use prost::Message;
use prost::bytes::Bytes;

use super::error::OnnxError;
use super::proto::{ModelProto, TensorProto};
use super::scan;

/// The range of a file that holds the data of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Region {
    path: PathBuf,
    offset: u64,
    length: usize,
}

/// The folders in which other files of a model may lie.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Folders<'a> {
    /// The folder that the paths are relative to. Without it, other files are refused.
    pub(super) base: Option<&'a Path>,
    /// A second folder that links may lead to: that of the file to which the path of the model is a link. Caches keep files under a
    /// hash, and models as folders of links to them.
    pub(super) linked: Option<&'a Path>,
}

/// The paths of the files in `folder` that hold tensors of a model.
pub(super) fn files(bytes: Bytes, folder: &Path) -> Result<Vec<PathBuf>, OnnxError> {
    scan::check(&bytes)?;
    let model = ModelProto::decode(bytes).map_err(|e| OnnxError::Decode { message: e.to_string() })?;
    let Some(graph) = model.graph else { return Ok(Vec::new()) };
    let attributes = graph.node.iter().flat_map(|node| &node.attribute).filter_map(|attribute| attribute.t.as_ref());
    let entries = graph.initializer.iter().chain(attributes).flat_map(|tensor| &tensor.external_data);
    let names: BTreeSet<&str> = entries.filter(|e| e.key == "location").map(|e| e.value.as_str()).collect();
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

/// The number of bytes that tensors refer to, and the number of different bytes among them.
pub(super) fn coverage<'a>(regions: impl Iterator<Item = &'a Region>) -> (u64, u64) {
    let mut files: BTreeMap<&Path, Vec<(u64, u64)>> = BTreeMap::new();
    let mut total = 0u64;
    for region in regions {
        let length = region.length as u64;
        total = total.saturating_add(length);
        files.entry(&region.path).or_default().push((region.offset, region.offset.saturating_add(length)));
    }
    let mut covered = 0u64;
    for ranges in files.values_mut() {
        ranges.sort_unstable();
        let mut end = 0;
        for &(from, to) in ranges.iter() {
            covered = covered.saturating_add(to.saturating_sub(from.max(end)));
            end = end.max(to);
        }
    }
    (total, covered)
}

/// Finds the data of a tensor, which must have `expected` bytes.
pub(super) fn locate(proto: &TensorProto, folders: Folders<'_>, expected: usize) -> Result<Region, OnnxError> {
    let entry = |key: &str| proto.external_data.iter().find(|e| e.key == key).map(|e| e.value.as_str());
    let location = entry("location").unwrap_or("");
    let fail = |problem: String| {
        Err(OnnxError::External { tensor: proto.name.clone(), location: location.to_owned(), problem })
    };
    let Some(folder) = folders.base else {
        return fail("the model was given without a folder".to_owned());
    };
    let relative = Path::new(location);
    let plain = relative.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
    // Some systems take a backslash as a separator, so that it is refused on all.
    if location.is_empty() || !plain || location.contains('\\') || location.contains('\0') {
        return fail("the path must be relative, and stay inside the model's folder".to_owned());
    }
    let real = |path: &Path| path.canonicalize().map_err(|e| e.to_string());
    let (root, path) = match (real(folder), real(&folder.join(relative))) {
        (Ok(root), Ok(path)) => (root, path),
        (Err(problem), _) | (_, Err(problem)) => return fail(problem),
    };
    let linked = || folders.linked.and_then(|folder| folder.canonicalize().ok());
    if !path.starts_with(&root) && !linked().is_some_and(|linked| path.starts_with(linked)) {
        return fail("it lies outside the model's folder".to_owned());
    }
    let size = match path.metadata() {
        Ok(metadata) if metadata.is_file() => metadata.len(),
        Ok(_) => return fail("it is not a file".to_owned()),
        Err(e) => return fail(e.to_string()),
    };
    let number = |key: &str| entry(key).map(|text| text.parse::<u64>().map_err(|_| format!("{key} is {text:?}")));
    let (offset, length) = match (number("offset").transpose(), number("length").transpose()) {
        (Ok(offset), Ok(length)) => (offset.unwrap_or(0), length),
        (Err(problem), _) | (_, Err(problem)) => return fail(problem),
    };
    let length = length.unwrap_or(expected as u64);
    if length != expected as u64 {
        return fail(format!("it has {length} bytes, expected {expected}"));
    }
    if offset.checked_add(length).is_none_or(|end| end > size) {
        return fail(format!("bytes from {offset}, {length} of them, lie beyond its end at {size}"));
    }
    Ok(Region { path, offset, length: expected })
}

impl Region {
    /// Reads the bytes.
    pub(super) fn read(&self) -> Result<Vec<u8>, String> {
        let mut bytes = vec![0; self.length];
        let read = |bytes: &mut [u8]| {
            let mut file = File::open(&self.path)?;
            file.seek(SeekFrom::Start(self.offset))?;
            file.read_exact(bytes)
        };
        read(&mut bytes).map_err(|e| format!("{}: {e}", self.path.display()))?;
        Ok(bytes)
    }
}

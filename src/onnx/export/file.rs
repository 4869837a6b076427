//! Models as bytes, in one file or two.

use std::ffi::OsStr;
use std::io::{BufWriter, Write};
use std::path::Path;

use prost::Message as _;
use prost::bytes::Bytes;

use super::ExportError;
use crate::files::Replacement;
use crate::onnx::proto::{ModelProto, StringStringEntryProto};

/// The largest size of a file. Protocol buffers end at 2 GiB, and some readers stop before that.
pub(super) const LIMIT_BYTES: usize = 1_900_000_000;

/// The smallest tensor that goes to the second file. Scales, shapes and biases stay in the model.
const EXTERNAL_FROM_BYTES: usize = 1024;

/// The alignment of tensors in the second file, which readers map into memory.
const ALIGNMENT_BYTES: usize = 4096;

pub(super) fn encode(model: &ModelProto, limit_bytes: usize) -> Result<Vec<u8>, ExportError> {
    let size_bytes = model.encoded_len();
    if size_bytes > limit_bytes {
        return Err(ExportError::TooLarge { size_bytes, limit_bytes });
    }
    Ok(model.encode_to_vec())
}

/// Writes one file, or two files if one would exceed `limit_bytes`.
pub(super) fn save(mut model: ModelProto, path: &Path, limit_bytes: usize) -> Result<(), ExportError> {
    let mut data = None;
    if model.encoded_len() > limit_bytes {
        let mut beside = path.file_name().unwrap_or(OsStr::new("")).to_owned();
        beside.push(".data");
        let data_path = path.with_file_name(&beside);
        let failed = |e: std::io::Error| io(&data_path, &e);
        let mut file = Replacement::new(&data_path).map_err(failed)?;
        write_data(&mut model, &mut file, &beside.to_string_lossy()).map_err(failed)?;
        data = Some((data_path, file));
    }
    let bytes = encode(&model, limit_bytes)?;
    let failed = |e: std::io::Error| io(path, &e);
    let mut file = Replacement::new(path).map_err(failed)?;
    file.write_all(&bytes).map_err(failed)?;
    // Both files are complete before one of them replaces an existing file.
    if let Some((data_path, data)) = data {
        data.commit().map_err(|e| io(&data_path, &e))?;
    }
    file.commit().map_err(failed)
}

/// Moves the large tensors of `model` to a file of their own.
fn write_data(model: &mut ModelProto, file: &mut impl Write, location: &str) -> std::io::Result<()> {
    let mut file = BufWriter::new(file);
    let mut at = 0;
    let tensors = model.graph.iter_mut().flat_map(|graph| &mut graph.initializer);
    for tensor in tensors.filter(|tensor| tensor.raw_data.len() >= EXTERNAL_FROM_BYTES) {
        let data = std::mem::replace(&mut tensor.raw_data, Bytes::new());
        let offset = at + (ALIGNMENT_BYTES - at % ALIGNMENT_BYTES) % ALIGNMENT_BYTES;
        file.write_all(&vec![0; offset - at])?;
        file.write_all(&data)?;
        at = offset + data.len();
        let entry = |key: &str, value: String| StringStringEntryProto { key: key.to_owned(), value };
        tensor.external_data = vec![
            entry("location", location.to_owned()),
            entry("offset", offset.to_string()),
            entry("length", data.len().to_string()),
        ];
        tensor.data_location = 1;
    }
    file.flush()
}

fn io(path: &Path, error: &std::io::Error) -> ExportError {
    ExportError::Io { path: path.display().to_string(), message: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::GraphBuilder;
    use crate::onnx::export::{ExportOptions, model};
    use crate::values::{Shape, Tensor};

    #[test]
    fn what_cannot_be_written_leaves_what_was_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        let graph = |value: f32| {
            let mut g = GraphBuilder::new();
            let x = g.input("x", Shape::rows(64)).expect("an input");
            let weight = Tensor::from_f32(&[32, 64], vec![value; 32 * 64]).expect("lengths fit");
            let y = g.linear("y", x, weight, None).expect("a layer");
            model(&g.finish([y]).expect("a graph"), &ExportOptions::default()).expect("a model")
        };
        save(graph(1.0), &at("model.onnx"), LIMIT_BYTES).expect("one file");
        // The file is replaced, not overwritten: a program that has the old file open goes on reading it.
        std::fs::hard_link(at("model.onnx"), at("other.onnx")).expect("a link");
        save(graph(2.0), &at("model.onnx"), LIMIT_BYTES).expect("one file");
        let read = |name: &str| ModelProto::decode(&*std::fs::read(at(name)).expect("a file")).expect("a model");
        assert_eq!((read("other.onnx"), read("model.onnx")), (graph(1.0), graph(2.0)));
        // The model cannot replace a folder, so its weights replace nothing either.
        std::fs::create_dir(at("folder.onnx")).expect("a folder");
        std::fs::write(at("folder.onnx.data"), "before").expect("written");
        assert!(matches!(save(graph(1.0), &at("folder.onnx"), 2000), Err(ExportError::Io { .. })));
        assert_eq!(std::fs::read(at("folder.onnx.data")).expect("a file"), b"before");
        let mut names: Vec<_> =
            std::fs::read_dir(folder.path()).expect("a folder").map(|e| e.expect("one").file_name()).collect();
        names.sort();
        assert_eq!(names, ["folder.onnx", "folder.onnx.data", "model.onnx", "other.onnx"]);
    }

    #[test]
    fn weights_beyond_the_limit_lie_beside_the_model() {
        let mut g = GraphBuilder::new();
        let x = g.input("x", Shape::rows(64)).expect("an input");
        let weight: Vec<f32> = (0..64 * 32u16).map(f32::from).collect();
        let weight = |rows: usize| Tensor::from_f32(&[rows, 64], weight[..rows * 64].to_vec()).expect("lengths fit");
        let a = g.linear("a", x, weight(32), None).expect("a layer");
        let b = g.linear("b", x, weight(16), None).expect("a layer");
        let graph = g.finish([a, b]).expect("a graph");
        let model = model(&graph, &ExportOptions::default()).expect("a model");
        let size_bytes = model.encoded_len();
        let refused = ExportError::TooLarge { size_bytes, limit_bytes: 9000 };
        assert_eq!(encode(&model, 9000), Err(refused));

        let directory = std::env::temp_dir().join(format!("enfold-onnx-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a folder");
        let path = directory.join("model.onnx");
        save(model.clone(), &path, 9000).expect("two files");
        let read = |name: &str| std::fs::read(directory.join(name)).expect("a file");
        let (small, data) = (read("model.onnx"), read("model.onnx.data"));
        save(model.clone(), &path, LIMIT_BYTES).expect("one file");
        let whole = read("model.onnx");
        std::fs::remove_dir_all(&directory).expect("removed");

        assert_eq!(ModelProto::decode(&*whole).expect("a model"), model);
        assert!(small.len() < 2000 && data.len() == 8192 + 4096, "{} and {} bytes", small.len(), data.len());
        let small = ModelProto::decode(&*small).expect("a model").graph.expect("a graph");
        for (tensor, whole) in small.initializer.iter().zip(model.graph.expect("a graph").initializer) {
            let of = |key: &str| &tensor.external_data.iter().find(|e| e.key == key).expect("an entry").value;
            let number = |key: &str| of(key).parse::<usize>().expect("a number");
            assert_eq!((of("location").as_str(), tensor.data_location), ("model.onnx.data", 1));
            assert_eq!(data[number("offset")..number("offset") + number("length")], whole.raw_data);
        }
    }
}

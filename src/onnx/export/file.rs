//! Messages as bytes, in one file or two.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use prost::Message as _;
use prost::bytes::Bytes;

use super::ExportError;
use crate::onnx::proto::{ModelProto, StringStringEntryProto};

/// Protocol buffers end at 2 GiB; readers differ in how close to it they go.
pub(super) const LIMIT_BYTES: usize = 1_900_000_000;

/// Smaller tensors stay in the model's file: scales, shapes, biases.
const EXTERNAL_FROM_BYTES: usize = 1024;

/// What readers map into memory begins at multiples of this.
const ALIGNMENT_BYTES: usize = 4096;

pub(super) fn encode(model: &ModelProto, limit_bytes: usize) -> Result<Vec<u8>, ExportError> {
    let size_bytes = model.encoded_len();
    if size_bytes > limit_bytes {
        return Err(ExportError::TooLarge { size_bytes, limit_bytes });
    }
    Ok(model.encode_to_vec())
}

/// Writes one file, or two if one would exceed `limit_bytes`.
pub(super) fn save(mut model: ModelProto, path: &Path, limit_bytes: usize) -> Result<(), ExportError> {
    if model.encoded_len() > limit_bytes {
        let mut beside = path.file_name().unwrap_or_default().to_owned();
        beside.push(".data");
        let data_path = path.with_file_name(&beside);
        write_data(&mut model, &data_path, &beside.to_string_lossy()).map_err(|e| io(&data_path, &e))?;
    }
    std::fs::write(path, encode(&model, limit_bytes)?).map_err(|e| io(path, &e))
}

/// Moves the large tensors of `model` to a file of their own.
fn write_data(model: &mut ModelProto, path: &Path, location: &str) -> std::io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
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
    use crate::tensor::{Shape, Tensor};

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

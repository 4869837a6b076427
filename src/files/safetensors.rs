//! Headers of safetensors files.

use std::io::{self, ErrorKind};

use safetensors::tensor::{Metadata, TensorInfo};
use serde::Deserialize as _;

use super::json;

/// Size of the header's length, which precedes the header.
const LENGTH_BYTES: usize = size_of::<u64>();

/// Largest header that the `safetensors` crate reads.
const MAX_HEADER_BYTES: usize = 100_000_000;

/// The field of the header that is no tensor.
const METADATA: &str = "__metadata__";

/// Parses the header of a file. Returns the offset of the tensor data, in bytes, and the metadata of the tensors.
///
/// [`safetensors::SafeTensors::read_metadata`] returns the same for a valid file, but may overflow for an invalid one. After this
/// check, the `safetensors` crate can read the file.
///
/// # Errors
/// Returns an error for a file that is not valid.
pub fn metadata(bytes: &[u8]) -> io::Result<(usize, Metadata)> {
    let size = bytes.len();
    let (length, rest) = bytes
        .split_first_chunk::<LENGTH_BYTES>()
        .ok_or_else(|| invalid(format!("it has {size} bytes, expected at least {LENGTH_BYTES}")))?;
    let length = u64::from_le_bytes(*length);
    let header = usize::try_from(length).ok().filter(|&length| length <= MAX_HEADER_BYTES);
    let header =
        header.ok_or_else(|| invalid(format!("its header has {length} bytes, expected at most {MAX_HEADER_BYTES}")))?;
    let (header, data) = rest.split_at_checked(header).ok_or_else(|| {
        invalid(format!("it is cut short: its header has {length} bytes, and there are only {}", rest.len()))
    })?;
    let header = str::from_utf8(header).map_err(|e| invalid(format!("its header: {e}")))?;
    let metadata = parse(header).map_err(|e| invalid(format!("its header: {e}")))?;
    match metadata.data_len() {
        end if end == data.len() => Ok((size - end, metadata)),
        end => Err(invalid(format!("its tensors take {end} bytes, and there are {}", data.len()))),
    }
}

/// Reads the header, as `Metadata`'s own deserializer does, which is a large part of a player.
fn parse(header: &str) -> Result<Metadata, String> {
    let text = |error: json::Error| error.to_string();
    let fields = json::Value::parse(header).and_then(json::Value::fields).map_err(text)?;
    let mut fields = fields.ok_or("it is no object")?;
    fields.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    if let Some([(name, _), _]) = fields.array_windows().find(|[(a, _), (b, _)]| a == b) {
        return Err(format!("there are two tensors {name:?}"));
    }
    let (mut metadata, mut tensors) = (None, Vec::with_capacity(fields.len()));
    for (name, value) in fields {
        let problem = |error: json::Error| format!("{name}: {error}");
        if name == METADATA {
            metadata = Option::deserialize(value).map_err(problem)?;
        } else {
            let info = TensorInfo::deserialize(value).map_err(problem)?;
            tensors.push((name.into_owned(), info));
        }
    }
    tensors.sort_unstable_by_key(|(_, info)| info.data_offsets);
    Metadata::new(metadata, tensors).map_err(|error| error.to_string())
}

/// Makes the error of a file that is not valid.
fn invalid(problem: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, problem)
}

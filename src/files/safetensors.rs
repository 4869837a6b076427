//! Headers of safetensors files.

use std::collections::BTreeMap;

use safetensors::tensor::TensorInfo;
use serde::Deserialize as _;

use super::json;
use crate::values::Quoted;

/// Size of the header's length, which precedes the header.
const LENGTH_BYTES: usize = size_of::<u64>();

/// Largest header that the `safetensors` crate reads.
const MAX_HEADER_BYTES: usize = 100_000_000;

/// The field of the header that is no tensor.
const METADATA: &str = "__metadata__";

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct InvalidFile(String);

/// What a file says of its tensors and of itself. The `safetensors` crate has the same type, whose hash maps are a large part of a player.
#[derive(Debug)]
pub struct Header {
    /// By name, in the order of names.
    tensors: Vec<(String, TensorInfo)>,
    texts: BTreeMap<String, String>,
}

impl Header {
    /// Returns type, shape and place of a tensor; `None` if there is none with this name.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        let at = self.tensors.binary_search_by(|(other, _)| other.as_str().cmp(name)).ok()?;
        Some(&self.tensors[at].1)
    }

    /// Returns the tensors in the order of their names.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &TensorInfo)> {
        self.tensors.iter().map(|(name, info)| (name.as_str(), info))
    }

    /// Returns a text that belongs to the whole file.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&str> {
        self.texts.get(key).map(String::as_str)
    }
}

/// Reads the header of a file. Returns the offset of the tensor data, in bytes, and the header.
///
/// [`safetensors::SafeTensors::read_metadata`] returns the same for a valid file, but may overflow for an invalid one. After this
/// check, the `safetensors` crate can read the file.
///
/// # Errors
/// Returns an error for a file that is not valid.
pub fn header(bytes: &[u8]) -> Result<(usize, Header), InvalidFile> {
    let size = bytes.len();
    let (length, rest) = bytes
        .split_first_chunk::<LENGTH_BYTES>()
        .ok_or_else(|| InvalidFile(format!("it has {size} bytes, expected at least {LENGTH_BYTES}")))?;
    let length = u64::from_le_bytes(*length);
    let header = usize::try_from(length).ok().filter(|&length| length <= MAX_HEADER_BYTES);
    let header = header
        .ok_or_else(|| InvalidFile(format!("its header has {length} bytes, expected at most {MAX_HEADER_BYTES}")))?;
    let (header, data) = rest.split_at_checked(header).ok_or_else(|| {
        InvalidFile(format!("it is cut short: its header has {length} bytes, and there are only {}", rest.len()))
    })?;
    let header = str::from_utf8(header).map_err(|e| InvalidFile(format!("its header: {e}")))?;
    let header = parse(header).map_err(|e| InvalidFile(format!("its header: {e}")))?;
    match end(&header.tensors).map_err(|e| InvalidFile(format!("its header: {e}")))? {
        end if end == data.len() => Ok((size - end, header)),
        end => Err(InvalidFile(format!("its tensors take {end} bytes, and there are {}", data.len()))),
    }
}

fn parse(header: &str) -> Result<Header, String> {
    let text = |error: json::Error| error.to_string();
    let fields = json::Value::parse(header).and_then(json::Value::fields).map_err(text)?;
    let mut fields = fields.ok_or("it is no object")?;
    fields.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    if let Some([(name, _), _]) = fields.array_windows().find(|[(a, _), (b, _)]| a == b) {
        return Err(format!("there are two tensors {}", Quoted(name)));
    }
    let (mut texts, mut tensors) = (None, Vec::with_capacity(fields.len()));
    for (name, value) in fields {
        let problem = |error: json::Error| format!("{name}: {error}");
        if name == METADATA {
            texts = Option::deserialize(value).map_err(problem)?;
        } else {
            let info = TensorInfo::deserialize(value).map_err(problem)?;
            tensors.push((name.into_owned(), info));
        }
    }
    Ok(Header { tensors, texts: texts.unwrap_or_default() })
}

/// Where the last tensor ends. Each has the bytes of its shape and begins where another ends, as the `safetensors` crate demands.
fn end(tensors: &[(String, TensorInfo)]) -> Result<usize, String> {
    let mut by_place: Vec<&(String, TensorInfo)> = tensors.iter().collect();
    by_place.sort_unstable_by_key(|(_, info)| info.data_offsets);
    let mut end = 0;
    for (name, TensorInfo { dtype, shape, data_offsets: (from, to) }) in by_place {
        let elements = shape.iter().try_fold(1usize, |elements, &length| elements.checked_mul(length));
        let bits = elements.and_then(|elements| elements.checked_mul(dtype.bitsize()));
        let expected = bits.filter(|bits| bits.is_multiple_of(8)).and_then(|bits| from.checked_add(bits / 8));
        if *from != end || Some(*to) != expected {
            return Err(format!("{name}: {dtype} of shape {shape:?} does not lie at {from} to {to}, behind {end}"));
        }
        end = *to;
    }
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with this header and `size` bytes of data.
    fn file(header: &str, size: usize) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0; size]].concat()
    }

    #[test]
    fn tensors_are_found_by_name() {
        let text = r#"{"z":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"I8","shape":[0],"data_offsets":[8,8]},
            "m":{"dtype":"U8","shape":[3],"data_offsets":[8,11]},"__metadata__":{"kind":"test"}}"#;
        let (data, header) = header(&file(text, 11)).expect("a header");
        assert_eq!((data, header.text("kind"), header.text("z")), (8 + text.len(), Some("test"), None));
        let place = |name| header.tensor(name).map(|info| info.data_offsets);
        assert_eq!(["a", "m", "z", "b"].map(place), [Some((8, 8)), Some((8, 11)), Some((0, 8)), None]);
        assert_eq!(header.tensors().map(|(name, _)| name).collect::<Vec<_>>(), ["a", "m", "z"]);
    }

    #[test]
    fn headers_that_safetensors_refuses_are_refused() {
        let largest = usize::MAX;
        let one = |tensor: &str| format!(r#"{{"t":{{"dtype":{tensor}}}}}"#);
        for (text, size, problem) in [
            (one(r#""F32","shape":[2],"data_offsets":[0,8]"#), 8, None),
            (one(r#""F32","shape":[2],"data_offsets":[0,8]"#), 9, Some("take 8 bytes")),
            (one(r#""F32","shape":[2],"data_offsets":[0,7]"#), 7, Some("t: F32 of shape [2]")),
            (one(r#""F32","shape":[2],"data_offsets":[1,9]"#), 9, Some("lie at 1 to 9")),
            (one(r#""F32","shape":[2],"data_offsets":[8,0]"#), 8, Some("lie at 8 to 0")),
            (one(r#""F4","shape":[3],"data_offsets":[0,1]"#), 1, Some("t: F4")),
            (one(&format!(r#""I8","shape":[{largest},2],"data_offsets":[0,{}]"#, largest - 1)), 8, Some("t: I8")),
            (one(&format!(r#""F32","shape":[{largest}],"data_offsets":[0,{}]"#, largest - 3)), 8, Some("t: F32")),
            (r#"{"t":1,"t":2}"#.to_owned(), 0, Some("two tensors \"t\"")),
            ("[]".to_owned(), 0, Some("no object")),
        ] {
            let bytes = file(&text, size);
            let problem_found = header(&bytes).err().map(|error| error.to_string());
            match problem {
                None => assert_eq!(problem_found, None),
                Some(problem) => {
                    assert!(problem_found.is_some_and(|found| found.contains(problem)), "{text}: {problem}")
                }
            }
            assert_eq!(safetensors::SafeTensors::deserialize(&bytes).is_ok(), problem.is_none(), "{text}");
        }
    }
}

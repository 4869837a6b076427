//! Headers of safetensors files.

use std::io::{self, ErrorKind};

use safetensors::tensor::Metadata;

/// The length of the header stands before it.
const LENGTH_BYTES: usize = size_of::<u64>();

/// The library's own limit.
const MOST_HEADER_BYTES: usize = 100_000_000;

/// Where the tensors of a file begin, and what they are. [`safetensors::SafeTensors::read_metadata`] gives the same of a sound file,
/// but adds the end that a header claims to the length of the header, which may overflow.
///
/// # Errors
/// For a file that is not sound: afterwards the library can read it.
pub fn metadata(bytes: &[u8]) -> io::Result<(usize, Metadata)> {
    let there = bytes.len();
    let (length, rest) = bytes
        .split_first_chunk::<LENGTH_BYTES>()
        .ok_or_else(|| unsound(format!("it has {there} bytes, expected at least {LENGTH_BYTES}")))?;
    let length = u64::from_le_bytes(*length);
    let header = usize::try_from(length).ok().filter(|&length| length <= MOST_HEADER_BYTES);
    let header = header
        .ok_or_else(|| unsound(format!("its header has {length} bytes, expected at most {MOST_HEADER_BYTES}")))?;
    let (header, data) = rest.split_at_checked(header).ok_or_else(|| {
        unsound(format!("it is cut short: its header has {length} bytes, and there are only {}", rest.len()))
    })?;
    let metadata: Metadata = serde_json::from_slice(header).map_err(|e| unsound(format!("its header: {e}")))?;
    match metadata.data_len() {
        end if end == data.len() => Ok((there - end, metadata)),
        end => Err(unsound(format!("its tensors take {end} bytes, and there are {}", data.len()))),
    }
}

fn unsound(problem: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, problem)
}

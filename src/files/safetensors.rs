//! Headers of safetensors files.

use std::io::{self, ErrorKind};

use safetensors::tensor::Metadata;

/// Size of the header's length, which precedes the header.
const LENGTH_BYTES: usize = size_of::<u64>();

/// Largest header that the `safetensors` crate reads.
const MAX_HEADER_BYTES: usize = 100_000_000;

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
    let metadata: Metadata = serde_json::from_slice(header).map_err(|e| invalid(format!("its header: {e}")))?;
    match metadata.data_len() {
        end if end == data.len() => Ok((size - end, metadata)),
        end => Err(invalid(format!("its tensors take {end} bytes, and there are {}", data.len()))),
    }
}

/// Makes the error of a file that is not valid.
fn invalid(problem: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, problem)
}

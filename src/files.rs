//! Reading and atomic writing of whole files.
//!
//! The module is hidden, since only the library and the command line need it.

pub(crate) mod json;
#[cfg(feature = "flow")]
mod replacement;
pub mod safetensors;

#[cfg(feature = "flow")]
pub use replacement::{Replacement, write};

use std::fs::{File, Metadata};
use std::io::{self, ErrorKind, Read};
use std::path::Path;

/// Largest number of bytes that are read from a pipe, which has no length and may never end. No ONNX file is larger.
const MAX_PIPE_BYTES: u64 = 2 << 30;

/// Opens a file or a pipe for reading. It refuses folders and devices: opening one may block or change something, and reading one may
/// never end.
///
/// # Errors
/// Returns errors of the system, and an error for a path that is neither a file nor a pipe.
pub fn open(path: &Path) -> io::Result<(File, Metadata)> {
    readable(&std::fs::metadata(path)?)?;
    let file = File::open(path)?;
    // Another file may have taken its place since the first check.
    let metadata = file.metadata()?;
    readable(&metadata)?;
    Ok((file, metadata))
}

/// Refuses folders and devices.
fn readable(metadata: &Metadata) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        let kind = metadata.file_type();
        if kind.is_char_device() || kind.is_block_device() {
            return Err(io::Error::new(ErrorKind::InvalidInput, "it is a device, not a file"));
        }
    }
    if metadata.is_dir() { Err(ErrorKind::IsADirectory.into()) } else { Ok(()) }
}

/// Reads a whole file, or a pipe up to its end.
///
/// # Errors
/// Returns the errors of [`open`], and an error for a pipe of more than 2 GiB.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let (mut file, metadata) = open(path)?;
    let mut bytes = Vec::new();
    if metadata.is_file() {
        file.read_to_end(&mut bytes)?;
    } else {
        file.take(MAX_PIPE_BYTES + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_PIPE_BYTES {
            let message = format!("the pipe has not ended after {MAX_PIPE_BYTES} bytes; write it to a file first");
            return Err(io::Error::new(ErrorKind::FileTooLarge, message));
        }
    }
    Ok(bytes)
}

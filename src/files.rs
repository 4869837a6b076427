//! Whole files. What is read has an end; what is written takes the place of another file when it is whole, or not at all.
//!
//! Hidden, since only the command line needs it beside the library.

pub mod safetensors;

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// A pipe does not say how much is to come, and may never end. No ONNX file is larger than this.
const MOST_OF_A_PIPE: u64 = 2 << 30;

/// Linux follows no more either.
const MOST_LINKS: usize = 40;

/// Opens a file, or a pipe. Folders and devices are refused: to open some waits or changes something, and to read some never ends.
///
/// # Errors
/// Those of the system, and for what is neither a file nor a pipe.
pub fn open(path: &Path) -> io::Result<(File, Metadata)> {
    readable(&std::fs::metadata(path)?)?;
    let file = File::open(path)?;
    // Another may have taken its place.
    let metadata = file.metadata()?;
    readable(&metadata)?;
    Ok((file, metadata))
}

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

/// Reads a file, or a pipe up to its end.
///
/// # Errors
/// As [`open`], and for a pipe of more than 2 GiB.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let (mut file, metadata) = open(path)?;
    let mut bytes = Vec::new();
    if metadata.is_file() {
        file.read_to_end(&mut bytes)?;
    } else {
        file.take(MOST_OF_A_PIPE + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MOST_OF_A_PIPE {
            let message = format!("the pipe has not ended after {MOST_OF_A_PIPE} bytes; write it to a file first");
            return Err(io::Error::new(ErrorKind::FileTooLarge, message));
        }
    }
    Ok(bytes)
}

/// Where links lead, also if nothing is there yet.
fn followed(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MOST_LINKS {
        match (std::fs::canonicalize(&path), std::fs::read_link(&path)) {
            (Ok(real), _) => return Ok(real),
            (Err(_), Ok(next)) => path = path.parent().unwrap_or(Path::new("")).join(next),
            (Err(_), Err(_)) => return Ok(path),
        }
    }
    // The system says that there are too many.
    std::fs::canonicalize(path)
}

/// A file that is written under another name in the folder of the one it replaces, and takes its name when it is whole. If it
/// never is, nothing of it stays.
#[derive(Debug)]
pub struct Replacement {
    target: PathBuf,
    file: Sink,
}

#[derive(Debug)]
enum Sink {
    Beside(NamedTempFile),
    Direct(File),
}

impl Replacement {
    /// Begins a file. Where `path` is a link, what it leads to is replaced, or made if it is not there; a pipe or a device is
    /// written to as it is.
    ///
    /// # Errors
    /// Those of the system.
    pub fn new(path: &Path) -> io::Result<Self> {
        let target = followed(path)?;
        let there = std::fs::metadata(&target).ok();
        if there.as_ref().is_some_and(|there| !there.is_file()) {
            let file = Sink::Direct(OpenOptions::new().write(true).open(&target)?);
            return Ok(Self { target, file });
        }
        let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut name = tempfile::Builder::new();
        name.prefix(".enfold.").suffix(".partial");
        // A random name that nothing has: a process of the same number in another container cannot choose it too, and a link that
        // somebody has planted is not followed.
        let create = |path: &Path| OpenOptions::new().write(true).create_new(true).open(path);
        let beside = name.make_in(folder, create)?;
        if let Some(there) = there {
            beside.as_file().set_permissions(there.permissions())?;
        }
        Ok(Self { target, file: Sink::Beside(beside) })
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// Those of the system; then what was there before still is.
    pub fn commit(self) -> io::Result<()> {
        match self.file {
            Sink::Direct(mut file) => file.flush(),
            Sink::Beside(beside) => {
                // Some file systems say only now that the disk is full.
                beside.as_file().sync_all()?;
                beside.persist(&self.target).map(drop).map_err(|e| e.error)
            }
        }
    }
}

impl Write for Replacement {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.file {
            Sink::Direct(file) => file.write(bytes),
            Sink::Beside(beside) => beside.as_file_mut().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.file {
            Sink::Direct(file) => file.flush(),
            Sink::Beside(beside) => beside.as_file_mut().flush(),
        }
    }
}

/// Writes a whole file in the place of the one that is there, if one is.
///
/// # Errors
/// Those of the system; then what was there before still is.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = Replacement::new(path)?;
    file.write_all(bytes)?;
    file.commit()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("a folder")
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).expect("a folder");
        let name = |entry: io::Result<std::fs::DirEntry>| entry.expect("an entry").file_name().into_string();
        let mut names: Vec<String> = entries.map(|entry| name(entry).expect("a name")).collect();
        names.sort();
        names
    }

    #[test]
    fn two_writers_of_one_process_do_not_meet() {
        let folder = folder();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        let mut first = Replacement::new(&a).expect("a file");
        let mut second = Replacement::new(&b).expect("a file");
        let mut again = Replacement::new(&a).expect("a file");
        first.write_all(b"first").expect("written");
        second.write_all(b"second").expect("written");
        again.write_all(b"again").expect("written");
        again.commit().expect("renamed");
        second.commit().expect("renamed");
        first.commit().expect("renamed");
        let text = |path: &Path| std::fs::read_to_string(path).expect("a file");
        assert_eq!((text(&a), text(&b)), ("first".to_owned(), "second".to_owned()));
        assert_eq!(names(folder.path()), ["a", "b"]);
    }

    #[test]
    fn what_is_not_committed_leaves_nothing() {
        let folder = folder();
        let path = folder.path().join("a");
        write(&path, b"old").expect("written");
        let mut file = Replacement::new(&path).expect("a file");
        file.write_all(b"ne").expect("written");
        assert_eq!(names(folder.path()).len(), 2, "it is written beside");
        drop(file);
        assert_eq!(names(folder.path()), ["a"]);
        assert_eq!(std::fs::read(&path).expect("a file"), b"old");
        // A name that cannot be taken.
        assert!(write(&folder.path().join("none").join("a"), b"new").is_err());
        assert!(write(folder.path(), b"new").is_err(), "a folder");
        assert_eq!(names(folder.path()), ["a"]);
    }

    #[test]
    #[cfg(unix)]
    fn permissions_are_those_of_the_file_before_or_of_any_new_one() {
        use std::os::unix::fs::PermissionsExt;
        let folder = folder();
        let mode =
            |name: &str| std::fs::metadata(folder.path().join(name)).expect("a file").permissions().mode() & 0o777;
        std::fs::write(folder.path().join("plain"), b"").expect("written");
        write(&folder.path().join("ours"), b"").expect("written");
        assert_eq!(mode("ours"), mode("plain"));
        for kept in [0o600, 0o666] {
            let permissions = std::fs::Permissions::from_mode(kept);
            std::fs::set_permissions(folder.path().join("plain"), permissions).expect("changed");
            write(&folder.path().join("plain"), b"new").expect("written");
            assert_eq!(mode("plain"), kept);
        }
    }

    #[test]
    #[cfg(unix)]
    fn links_are_followed_and_devices_are_not_read() {
        use std::os::unix::fs::symlink;
        let folder = folder();
        let at = |name: &str| folder.path().join(name);
        // One behind another, and relative to their folder.
        symlink("next", at("link")).expect("a link");
        symlink("target", at("next")).expect("a link");
        write(&at("link"), b"old").expect("made");
        assert_eq!(std::fs::read(at("target")).expect("a file"), b"old");
        write(&at("link"), b"new").expect("written");
        assert_eq!(std::fs::read(at("target")).expect("a file"), b"new");
        assert!(std::fs::symlink_metadata(at("link")).expect("a link").is_symlink());
        symlink("circle", at("circle")).expect("a link");
        assert!(write(&at("circle"), b"new").is_err());
        assert!(std::fs::symlink_metadata(at("circle")).expect("a link").is_symlink());
        write(Path::new("/dev/null"), b"gone").expect("written");
        assert!(!std::fs::metadata("/dev/null").expect("a device").is_file());
        symlink("/dev/zero", at("endless")).expect("a link");
        let error = read(&at("endless")).expect_err("it has no end");
        assert!(error.to_string().contains("a device"), "{error}");
        assert_eq!(read(folder.path()).expect_err("a folder").kind(), ErrorKind::IsADirectory);
        assert_eq!(read(&at("link")).expect("a file"), b"new");
    }
}

//! Files that are written under a temporary name, and renamed at the end.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// Largest number of symbolic links that are followed, as on Linux.
const MAX_LINKS: usize = 40;

/// Follows symbolic links, even if their target does not exist yet.
fn followed(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        match (std::fs::canonicalize(&path), std::fs::read_link(&path)) {
            (Ok(real), _) => return Ok(real),
            (Err(_), Ok(next)) => path = path.parent().unwrap_or(Path::new("")).join(next),
            (Err(_), Err(_)) => return Ok(path),
        }
    }
    // There are too many links. The system's error says so.
    std::fs::canonicalize(path)
}

/// A file that replaces another one atomically. It is written under a temporary name in the same folder, and renamed by
/// [`commit`](Self::commit). Without a commit, it is deleted.
#[derive(Debug)]
pub struct Replacement {
    target: PathBuf,
    file: Sink,
}

#[derive(Debug)]
enum Sink {
    Temporary(NamedTempFile),
    Direct(File),
}

impl Replacement {
    /// Creates the temporary file. If `path` is a symbolic link, the file replaces the target of the link, or creates it. A pipe or a
    /// device is written to directly.
    ///
    /// # Errors
    /// Returns errors of the system.
    pub fn new(path: &Path) -> io::Result<Self> {
        let target = followed(path)?;
        let old = std::fs::metadata(&target).ok();
        if old.as_ref().is_some_and(|old| !old.is_file()) {
            let file = Sink::Direct(OpenOptions::new().write(true).open(&target)?);
            return Ok(Self { target, file });
        }
        let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut name = tempfile::Builder::new();
        name.prefix(".enfold.").suffix(".partial");
        // The name is random and must not exist yet. A process with the same id in another container cannot choose it too, and a
        // link that an attacker has planted is not followed.
        let create = |path: &Path| OpenOptions::new().write(true).create_new(true).open(path);
        let temporary = name.make_in(folder, create)?;
        if let Some(old) = old {
            temporary.as_file().set_permissions(old.permissions())?;
        }
        Ok(Self { target, file: Sink::Temporary(temporary) })
    }

    /// Renames the file to its final name.
    ///
    /// # Errors
    /// Returns errors of the system. Then the old file is unchanged.
    pub fn commit(self) -> io::Result<()> {
        match self.file {
            Sink::Direct(mut file) => file.flush(),
            Sink::Temporary(temporary) => {
                // Some file systems report a full disk only here.
                temporary.as_file().sync_all()?;
                temporary.persist(&self.target).map(drop).map_err(|e| e.error)
            }
        }
    }
}

impl Write for Replacement {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.file {
            Sink::Direct(file) => file.write(bytes),
            Sink::Temporary(temporary) => temporary.as_file_mut().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.file {
            Sink::Direct(file) => file.flush(),
            Sink::Temporary(temporary) => temporary.as_file_mut().flush(),
        }
    }
}

/// Writes a whole file, and replaces an old one atomically.
///
/// # Errors
/// Returns errors of the system. Then the old file is unchanged.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = Replacement::new(path)?;
    file.write_all(bytes)?;
    file.commit()
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::super::read;
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
        // These paths cannot be written.
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
        // A chain of links, relative to their folder.
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

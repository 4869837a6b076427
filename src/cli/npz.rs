//! Reads `.npz` files, NumPy's files of several arrays, which are zip archives of `.npy` files. Time and memory stay in proportion to
//! the size of the file.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom};
use std::rc::Rc;

use anyhow::{Context, Result, ensure};
use zip::ZipArchive;
use zip::read::ZipFile;

use super::npy::Header;

/// The most bytes that one deflated byte can stand for: a bit stands for at most 129 bytes.
const MAX_UNPACKED: u64 = 1032;

/// The most bytes that the elements of an array may take, as a multiple of the file's bytes. Arrays that deflate to less hold next to
/// no information, and would let a small file take all memory.
const MAX_GROWTH: u64 = 100;

/// The most bytes that may be read to find the directory, as a multiple of the file's bytes. A file may claim to have thousands of
/// directories, and `zip` tries each.
const MAX_READS: u64 = 8;

/// The bytes that may be read to find the directory, however small the file is.
const FREE_READS: u64 = 1 << 20;
/// The bytes that the elements of an array may take, however small the file is.
const FREE_BYTES: u64 = 64 << 20;

/// A file that returns an error after `left` more bytes were read.
#[derive(Debug)]
struct Limited<R> {
    file: R,
    at: u64,
    left: Rc<Cell<u64>>,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(bytes)?;
        self.at += read as u64;
        let left = self.left.get().checked_sub(read as u64);
        self.left.set(left.ok_or_else(|| io::Error::other("its directory is not sound, and has too many ends"))?);
        Ok(read)
    }
}

impl<R: Seek> Seek for Limited<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        // Seeking drops the buffer of a `BufReader`, and `zip` seeks to the current position after every member.
        if to != SeekFrom::Current(0) && to != SeekFrom::Start(self.at) {
            self.at = self.file.seek(to)?;
        }
        Ok(self.at)
    }
}

/// The arrays of an `.npz` file. Each is read when it is asked for.
#[derive(Debug)]
pub(crate) struct Npz<R> {
    zip: ZipArchive<Limited<R>>,
    file_bytes: u64,
    /// The indices of the members, by the names of their arrays.
    members: BTreeMap<String, usize>,
}

impl<R: Read + Seek> Npz<R> {
    pub(crate) fn new(mut file: R) -> Result<Self> {
        let file_bytes = file.seek(SeekFrom::End(0))?;
        let left = Rc::new(Cell::new(file_bytes.saturating_mul(MAX_READS).saturating_add(FREE_READS)));
        let zip = ZipArchive::new(Limited { file, at: file_bytes, left: Rc::clone(&left) })?;
        // From here on, the sizes in the directory limit the reads.
        left.set(u64::MAX);
        let mut members = BTreeMap::new();
        for at in 0..zip.len() {
            let name = zip.name_for_index(at).context("a member of the directory has no name")?;
            let name = name.strip_suffix(".npy").unwrap_or(name);
            ensure!(members.insert(name.to_owned(), at).is_none(), "two arrays are called {name}");
        }
        Ok(Self { zip, file_bytes, members })
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.members.keys().map(String::as_str)
    }

    /// Reads the header of an array.
    pub(crate) fn header(&mut self, name: &str) -> Result<Header> {
        self.member(name, |header, _| Ok(header))
    }

    /// Reads the elements of an array, as [`Header::elements`] does.
    pub(crate) fn elements(&mut self, name: &str) -> Result<Vec<u8>> {
        let file_bytes = self.file_bytes;
        self.member(name, |header, file| {
            let size = file.size();
            ensure!(
                size <= file_bytes.saturating_mul(MAX_GROWTH).max(FREE_BYTES),
                "it has {size} bytes, more than {MAX_GROWTH} times the {file_bytes} of the file; write it without compression, as \
                numpy.savez does"
            );
            header.elements(file)
        })
    }

    fn member<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(Header, &mut ZipFile<'_, Limited<R>>) -> Result<T>,
    ) -> Result<T> {
        let at = *self.members.get(name).with_context(|| format!("there is no array {name}"))?;
        let member = self.zip.name_for_index(at).unwrap_or(name).to_owned();
        let within = || -> Result<T> {
            let mut file = self.zip.by_index(at)?;
            let (packed, unpacked) = (file.compressed_size(), file.size());
            ensure!(
                unpacked <= packed.saturating_mul(MAX_UNPACKED),
                "it is said to have {unpacked} bytes in {packed}, which is more than can be packed into as many"
            );
            let header = Header::read(&mut file, unpacked)?;
            read(header, &mut file)
        };
        within().with_context(|| format!("array {member}"))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write};

    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    use super::*;

    fn npy(length: usize) -> Vec<u8> {
        let header = format!("{{'descr': '|u1', 'fortran_order': False, 'shape': ({length},)}}");
        [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), &vec![7; length]].concat()
    }

    fn zip(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, bytes) in members {
            zip.start_file(*name, SimpleFileOptions::default()).expect("a member");
            zip.write_all(bytes).expect("written");
        }
        zip.finish().expect("a zip").into_inner()
    }

    #[test]
    fn members_are_read_when_they_are_asked_for() {
        let whole = npy(100_000);
        let bytes = zip(&[("a.npy", &whole), ("b.npy", b"no array"), ("c", &whole)]);
        let mut npz = Npz::new(Cursor::new(bytes.clone())).expect("a zip");
        assert_eq!(npz.names().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(npz.header("a").expect("an array").shape, [100_000]);
        assert_eq!(npz.elements("c").expect("an array"), [7; 100_000]);
        assert!(npz.header("b").is_err() && npz.header("d").is_err());
        let error = Npz::new(Cursor::new(zip(&[("a.npy", &whole), ("a", &whole)]))).expect_err("twice").to_string();
        assert!(error.contains("two arrays are called a"), "{error}");
        // The directory claims that a member has more bytes than deflate can pack into its compressed size. The claimed length, of 4
        // bytes, begins 24 bytes after the start of the entry.
        let entry = bytes.windows(4).position(|four| four == b"PK\x01\x02").expect("an entry");
        let mut bomb = bytes;
        bomb[entry + 24..][..4].copy_from_slice(&u32::MAX.to_le_bytes());
        let error = Npz::new(Cursor::new(bomb)).expect("a zip").elements("a").expect_err("a bomb");
        assert!(format!("{error:#}").contains("4294967295 bytes in"), "{error:#}");
    }

    #[test]
    fn memory_stays_in_proportion_to_the_file() {
        let most = FREE_BYTES as usize;
        let whole = npy(most + 1);
        let error = Npz::new(Cursor::new(zip(&[("a.npy", &whole)]))).expect("a zip").elements("a").expect_err("a bomb");
        assert!(format!("{error:#}").contains("more than 100 times the"), "{error:#}");
        // The size of the whole file counts: beside a member that does not deflate, the same array is allowed.
        let mut state = 1u32;
        let noise = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        });
        let noise: Vec<u8> = noise.take(1 << 20).collect();
        let mut npz = Npz::new(Cursor::new(zip(&[("a.npy", &whole), ("b.npy", &noise)]))).expect("a zip");
        assert_eq!(npz.elements("a").expect("in proportion").len(), most + 1);
    }

    #[test]
    fn directories_that_fail_are_not_all_tried() {
        // Each end record of the directory claims one member more than there is.
        let members = 2000u16;
        let member = |_| [&b"PK\x01\x02"[..], &[0; 24], &[1, 0], &[0; 16], b"a"].concat();
        let end = [&b"PK\x05\x06\0\0\0\0"[..], &(members + 1).to_le_bytes().repeat(2), &[0; 10]].concat();
        let file = |ends: usize| [(0..members).flat_map(member).collect(), end.repeat(ends)].concat();
        let error = |ends: usize| format!("{:#}", Npz::new(Cursor::new(file(ends))).expect_err("no member there"));
        assert!(!error(1).contains("too many ends"), "{}", error(1));
        assert!(error(2000).contains("too many ends"), "{}", error(2000));
    }
}

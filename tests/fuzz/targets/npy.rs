//! Any bytes, as an .npy file and as an .npz file: arrays of as many elements as their shapes say, or an error.
#![no_main]

// The command line's own files: a binary has no library that could be linked.
#[path = "../../../src/cli/elements.rs"]
#[allow(dead_code)]
mod elements;
#[path = "../../../src/cli/npy.rs"]
mod npy;
#[path = "../../../src/cli/npz.rs"]
mod npz;

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use npy::Header;
use npz::Npz;

/// Members of one file that are read.
const MOST: usize = 8;

fn check(header: &Header, elements: &[u8]) {
    assert_eq!(header.element.bytes_of(&header.shape), Some(elements.len()));
    let length = elements.len() / header.element.size_bytes();
    // Conversion to a type that cannot hold the elements is an error.
    let floats = header.element.floats(elements).map(|values| values.len());
    let integers = header.element.integers::<i64>(elements).map(|values| values.len());
    assert!(floats.is_err() || integers.is_err(), "an array is of one kind");
    assert!(floats.or(integers).map_or(true, |values| values == length));
}

fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes;
    if let Ok(header) = Header::read(&mut rest, bytes.len() as u64) {
        let elements = header.elements(&mut rest).expect("the header was compared with the length");
        check(&header, &elements);
    }
    if let Ok(mut npz) = Npz::new(Cursor::new(bytes)) {
        let names: Vec<String> = npz.names().take(MOST).map(str::to_owned).collect();
        for name in names {
            let Ok(header) = npz.header(&name) else { continue };
            if let Ok(elements) = npz.elements(&name) {
                check(&header, &elements);
            }
        }
    }
});

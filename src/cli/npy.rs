//! Reads `.npy` files, NumPy's files of one array. A header is accepted only if the file has as many bytes as its shape needs.

use std::io::Read;

use anyhow::{Context, Result, bail, ensure};
use ndarray::{ArrayView, IxDyn, ShapeBuilder};

use super::elements::Element;

/// The longest header that is read. NumPy writes about a hundred bytes; only arrays of records, which are not read, have more.
const MAX_HEADER_BYTES: usize = 1 << 16;

/// The largest number of axes, which is NumPy's own limit.
const MAX_AXES: usize = 64;

/// The header of an array: its element type, its shape, and the order of its elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) element: Element,
    pub(crate) shape: Vec<usize>,
    big_endian: bool,
    /// Whether the elements are in Fortran order, which is column-major, instead of row-major.
    fortran_order: bool,
    /// The bytes of all elements.
    size_bytes: usize,
}

impl Header {
    /// Reads the header of a file of `file_bytes` bytes, up to the first element. Refuses a header whose elements would take another
    /// number of bytes than the rest of the file has.
    pub(crate) fn read(file: &mut impl Read, file_bytes: u64) -> Result<Self> {
        let mut start = [0; 8];
        let is_npy = file.read_exact(&mut start).is_ok() && start.starts_with(b"\x93NUMPY");
        ensure!(is_npy, "it is no .npy file, which begins with \\x93NUMPY");
        let mut length = [0; 4];
        let width = match start[6] {
            1 => 2,
            2 | 3 => 4,
            other => bail!("it is of version {other}.{} of the format; versions 1 to 3 are read", start[7]),
        };
        file.read_exact(&mut length[..width]).context("it is cut short in its header")?;
        let length = u32::from_le_bytes(length) as usize;
        ensure!(length <= MAX_HEADER_BYTES, "its header has {length} bytes, expected at most {MAX_HEADER_BYTES}");
        let mut header = Vec::new();
        file.by_ref().take(length as u64).read_to_end(&mut header)?;
        ensure!(
            header.len() == length,
            "it is cut short: its header has {length} bytes, and there are only {}",
            header.len()
        );
        let text = std::str::from_utf8(&header).context("its header is no text")?;
        let header = HeaderParser(text).header()?;
        let data = file_bytes.saturating_sub((start.len() + width + length) as u64);
        let elements = header.shape.iter().fold(1u128, |n, &length| n.saturating_mul(length as u128));
        match u64::try_from(header.size_bytes) {
            Ok(size) if size == data => Ok(header),
            Ok(size) if size < data => {
                bail!("its shape has {elements} elements, which take {size} bytes, and there are {data}")
            }
            _ => bail!(
                "it is cut short: its shape has {elements} elements, which take {} bytes, and there are only {data}",
                header.size_bytes
            ),
        }
    }

    /// Reads the elements, which follow the header. Returns them row-major and little-endian.
    pub(crate) fn elements(&self, file: &mut impl Read) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        // Reserves exactly the needed bytes; a vector that grows would take up to twice as much.
        bytes.try_reserve_exact(self.size_bytes)?;
        file.by_ref().take(self.size_bytes as u64 + 1).read_to_end(&mut bytes)?;
        let read = bytes.len();
        ensure!(
            read >= self.size_bytes,
            "it is cut short: {} bytes of elements, and only {read} there",
            self.size_bytes
        );
        ensure!(read == self.size_bytes, "there is more than {} bytes of elements", self.size_bytes);
        let size = self.element.size_bytes();
        if self.big_endian {
            bytes.chunks_exact_mut(size).for_each(<[u8]>::reverse);
        }
        if self.fortran_order && self.shape.iter().filter(|&&length| length > 1).count() > 1 {
            bytes = match size {
                1 => row_major::<1>(&bytes, &self.shape),
                2 => row_major::<2>(&bytes, &self.shape),
                4 => row_major::<4>(&bytes, &self.shape),
                _ => row_major::<8>(&bytes, &self.shape),
            }?;
        }
        Ok(bytes)
    }
}

/// Reorders elements of `N` bytes from column-major to row-major.
fn row_major<const N: usize>(bytes: &[u8], shape: &[usize]) -> Result<Vec<u8>> {
    let columns = ArrayView::from_shape(IxDyn(shape).f(), bytes.as_chunks::<N>().0)?;
    Ok(columns.iter().flatten().copied().collect())
}

/// Parses a header, which is a dictionary as Python writes it. Holds the text that is not parsed yet.
struct HeaderParser<'a>(&'a str);

impl<'a> HeaderParser<'a> {
    fn header(mut self) -> Result<Header> {
        let (mut descr, mut fortran_order, mut shape) = (None, None, None);
        self.expect('{')?;
        while !self.take('}') {
            let key = self.quoted()?;
            self.expect(':')?;
            let given_before = match key {
                "descr" => descr.replace(self.descr()?).is_some(),
                "fortran_order" => fortran_order.replace(self.boolean()?).is_some(),
                "shape" => shape.replace(self.lengths()?).is_some(),
                other => {
                    bail!("its header has a key {:?}, which is none of descr, fortran_order and shape", short(other))
                }
            };
            ensure!(!given_before, "its header gives {key} twice");
            if !self.take(',') {
                self.expect('}')?;
                break;
            }
        }
        self.spaces();
        ensure!(self.0.is_empty(), "its header goes on after its end, with {:?}", short(self.0));
        let (element, big_endian) = descr.context("its header lacks descr")?;
        let shape = shape.context("its header lacks shape")?;
        let fortran_order = fortran_order.context("its header lacks fortran_order")?;
        let size_bytes =
            element.bytes_of(&shape).with_context(|| format!("no memory holds an array of shape {shape:?}"))?;
        Ok(Header { element, shape, big_endian, fortran_order, size_bytes })
    }

    fn spaces(&mut self) {
        self.0 = self.0.trim_start_matches([' ', '\t', '\n', '\r']);
    }

    /// Skips `c` if it comes next. Returns whether it did.
    fn take(&mut self, c: char) -> bool {
        self.spaces();
        let rest = self.0.strip_prefix(c);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    fn expect(&mut self, c: char) -> Result<()> {
        match self.take(c) {
            true => Ok(()),
            false => bail!("its header has {:?} where {c:?} is expected", short(self.0)),
        }
    }

    fn quoted(&mut self) -> Result<&'a str> {
        let quote = if self.take('"') { '"' } else { '\'' };
        if quote == '\'' {
            self.expect('\'')?;
        }
        let (text, rest) = self.0.split_once(quote).context("a text in its header has no end")?;
        self.0 = rest;
        Ok(text)
    }

    /// Parses the type of the elements, and whether they are big-endian.
    fn descr(&mut self) -> Result<(Element, bool)> {
        let only = "which is not one of f16, f32, f64, bool, and signed or unsigned integers; convert it with astype";
        self.spaces();
        ensure!(!self.0.starts_with('['), "its elements are records, {only}");
        let descr = self.quoted()?;
        let mut kind = descr.chars();
        let order = kind.next();
        let element = match kind.as_str() {
            "f2" => Element::F16,
            "f4" => Element::F32,
            "f8" => Element::F64,
            "b1" => Element::Bool,
            "i1" => Element::I8,
            "i2" => Element::I16,
            "i4" => Element::I32,
            "i8" => Element::I64,
            "u1" => Element::U8,
            "u2" => Element::U16,
            "u4" => Element::U32,
            "u8" => Element::U64,
            _ => bail!("its element type is {:?}, {only}", short(descr)),
        };
        match order {
            Some('<') => Ok((element, false)),
            Some('>') => Ok((element, true)),
            Some('|') if element.size_bytes() == 1 => Ok((element, false)),
            _ => bail!("its element type is {descr:?}, whose first character is not its byte order, < or >"),
        }
    }

    fn boolean(&mut self) -> Result<bool> {
        self.spaces();
        for (word, value) in [("True", true), ("False", false)] {
            if let Some(rest) = self.0.strip_prefix(word) {
                self.0 = rest;
                return Ok(value);
            }
        }
        bail!("its header has {:?} where True or False is expected", short(self.0))
    }

    fn lengths(&mut self) -> Result<Vec<usize>> {
        let mut lengths = Vec::new();
        self.expect('(')?;
        while !self.take(')') {
            lengths.push(self.length()?);
            ensure!(lengths.len() <= MAX_AXES, "its shape has more than {MAX_AXES} lengths");
            if !self.take(',') {
                self.expect(')')?;
                // In Python, a number in parentheses is that number, not a tuple.
                ensure!(lengths.len() > 1, "its shape is a number, expected a tuple as in ({},)", lengths[0]);
                break;
            }
        }
        Ok(lengths)
    }

    fn length(&mut self) -> Result<usize> {
        self.spaces();
        let digits = self.0.len() - self.0.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, rest) = self.0.split_at(digits);
        ensure!(digits > 0, "its shape has {:?} where a length is expected", short(self.0));
        self.0 = rest;
        number.parse().with_context(|| format!("its shape has a length of {digits} digits, {}", short(number)))
    }
}

/// Returns the beginning of a text that may be long.
fn short(text: &str) -> &str {
    &text[..text.floor_char_boundary(32)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(version: u8, header: &str, data: &[u8]) -> Vec<u8> {
        let length = (header.len() as u32).to_le_bytes();
        let length = if version == 1 { &length[..2] } else { &length };
        [b"\x93NUMPY", [version, 0].as_slice(), length, header.as_bytes(), data].concat()
    }

    fn read(bytes: &[u8]) -> Result<(Header, Vec<u8>)> {
        let mut rest = bytes;
        let header = Header::read(&mut rest, bytes.len() as u64)?;
        let elements = header.elements(&mut rest)?;
        assert!(rest.is_empty());
        Ok((header, elements))
    }

    #[test]
    fn headers_as_python_may_write_them() {
        for header in [
            "{'descr': '<u2', 'fortran_order': False, 'shape': (2, 3), }          \n",
            "{\"shape\" : (2,3,),\"fortran_order\":False , 'descr' :\"<u2\"}",
            "{ 'fortran_order' : False,\n 'descr':\t'<u2', 'shape':( 2 , 3 ) , }",
        ] {
            for version in 1..=3 {
                let (header, elements) =
                    read(&file(version, header, &[1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0])).expect(header);
                assert_eq!((header.element, header.shape.as_slice()), (Element::U16, [2, 3].as_slice()));
                assert_eq!(Element::U16.integers::<i8>(&elements), Ok(vec![1, 2, 3, 4, 5, 6]));
            }
        }
        let (header, elements) = read(&file(
            1,
            "{'descr': '>i4', 'fortran_order': True, 'shape': (2, 3)}",
            &[0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0, 2, 0, 0, 0, 5, 0, 0, 0, 3, 255, 255, 255, 250],
        ))
        .expect("columns");
        assert_eq!(header.element.integers::<i32>(&elements), Ok(vec![1, 2, 3, 4, 5, -6]));
        for (shape, length) in [("()", 1), ("(3,)", 3), ("(0, 4)", 0)] {
            let header = format!("{{'descr': '|b1', 'fortran_order': True, 'shape': {shape}}}");
            assert_eq!(read(&file(1, &header, &vec![1; length])).expect("sound").1.len(), length);
        }
    }

    #[test]
    fn headers_that_are_not_sound() {
        let with = |shape: &str| format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}");
        let digits = "1".repeat(60_000);
        for (header, part) in [
            (
                with("(1000000000000, 4)"),
                "has 4000000000000 elements, which take 16000000000000 bytes, and there are only 8",
            ),
            (with("(1,)"), "take 4 bytes, and there are 8"),
            (with("(0, 9223372036854775807, 9223372036854775807)"), "no memory"),
            (with("(18446744073709551615,)"), "no memory"),
            (with("(18446744073709551616,)"), "a length of 20 digits"),
            (with(&format!("({digits},)")), "a length of 60000 digits"),
            (with(&format!("({})", "1,".repeat(65))), "more than 64 lengths"),
            (with("(2)"), "a tuple as in (2,)"),
            (with("(-2,)"), "\"-2,)}\" where a length"),
            (with("[2]"), "where '(' is expected"),
            (with("(2,), 'shape': (3,)"), "gives shape twice"),
            (with("(2,)").replace("False", "0"), "True or False"),
            (with("(2,)").replace("'<f4'", "[('a', '<f4')]"), "records"),
            (with("(2,)").replace("<f4", "<c8"), "\"<c8\""),
            (with("(2,)").replace("<f4", "f4"), "\"f4\""),
            (with("(2,)").replace("<f4", "é"), "\"é\""),
            (with("(2,)").replace("<f4", ""), "element type"),
            (with("(2,)").replace("<f4", "|f4"), "byte order"),
            (with("(2,)").replace("'descr'", "'dtype'"), "\"dtype\""),
            (with("(2,)").replace("'descr': '<f4',", ""), "lacks descr"),
            (with("(2,)") + "x", "after its end"),
            (with("(2,)").replace('}', ""), "where '}' is expected"),
            (with("(2,)").replace("': (", "(: ("), "no end"),
            (String::new(), "where '{' is expected"),
        ] {
            let error = read(&file(1, &header, &[0; 8])).expect_err(&header).to_string();
            assert!(error.contains(part), "{error} lacks {part}");
            assert!(error.len() < 300, "{error}");
        }
        let whole = file(1, &with("(2,)"), &[0; 8]);
        assert!(read(&whole).is_ok());
        for length in 0..whole.len() {
            assert!(read(&whole[..length]).is_err(), "cut at {length}");
        }
        let long = with(&format!("({},)", "1".repeat(2_000_000)));
        let error = read(&file(2, &long, &[])).expect_err("long").to_string();
        assert!(error.contains(&format!("{} bytes, expected at most 65536", long.len())), "{error}");
        assert!(read(&file(4, &with("(2,)"), &[0; 8])).expect_err("newer").to_string().contains("version 4.0"));
        // The elements end before the length that the caller gave.
        let mut half = &whole[..whole.len() - 1];
        let header = Header::read(&mut half, whole.len() as u64).expect("sound");
        assert!(header.elements(&mut half).expect_err("cut").to_string().contains("only 7"));
    }
}

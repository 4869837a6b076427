//! Codes of 2 to 4 bits, several to a byte.
//!
//! The first code is in the lowest bits, in two's complement. Codes of 2 bits lie four to a byte; those of 3 bits take as much
//! room as those of 4, two to a byte, so that none lies across two bytes. What is left of the last byte is 0.

use serde::{Deserialize, Serialize};

use crate::values::Tensor;

/// What a file's header says of a packed tensor, which is stored as `U8`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct PackedRecord {
    /// 2, 3 or 4: codes are `−2^(bits − 1)..2^(bits − 1)`.
    bits: u32,
    shape: Vec<usize>,
}

/// The bytes of an int8 tensor whose codes have at most 4 bits, and what to say of them; `None` for others. A converted graph
/// has forgotten the range that its weights were quantized to, so the codes themselves decide.
pub(super) fn pack(tensor: &Tensor) -> Option<(PackedRecord, Vec<u8>)> {
    let codes = tensor.as_i8()?;
    let (min, max) = codes.iter().fold((0, 0), |(min, max), &code| (code.min(min), code.max(max)));
    let bits = (2..=4).find(|&bits| (-1i8 << (bits - 1)) <= min && max < 1 << (bits - 1))?;
    let bytes = match bits {
        2 => codes.chunks(4).map(byte::<2>).collect(),
        _ => codes.chunks(2).map(byte::<4>).collect(),
    };
    Some((PackedRecord { bits, shape: tensor.shape().to_vec() }, bytes))
}

fn byte<const WIDTH: u32>(codes: &[i8]) -> u8 {
    let mask = (1u8 << WIDTH) - 1;
    codes.iter().rev().fold(0, |byte, &code| byte << WIDTH | (code as u8 & mask))
}

fn codes<const WIDTH: u32>(bytes: &[u8]) -> Vec<i8> {
    // Shifted up until the code's sign is the byte's, and back with it.
    let code = |byte: u8, at: u32| ((byte << (8 - WIDTH * (at + 1))) as i8) >> (8 - WIDTH);
    let mut codes = Vec::with_capacity(bytes.len() * (8 / WIDTH) as usize);
    bytes.iter().for_each(|&byte| codes.extend((0..8 / WIDTH).map(|at| code(byte, at))));
    codes
}

impl PackedRecord {
    /// The tensor of a file's bytes.
    ///
    /// # Errors
    /// What is wrong with the record or the bytes, with both numbers.
    pub(super) fn unpack(&self, bytes: &[u8]) -> Result<Tensor, String> {
        let Self { bits, shape } = self;
        let per_byte = match bits {
            2 => 4,
            3 | 4 => 2,
            _ => return Err(format!("is packed to {bits} bits a code, expected 2 to 4")),
        };
        let count = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let Some(count) = count.filter(|count| count.div_ceil(per_byte) == bytes.len()) else {
            let expected = count.map_or("more than memory can hold".to_owned(), |n| n.div_ceil(per_byte).to_string());
            return Err(format!("has {} bytes, expected {expected} for shape {shape:?} at {bits} bits", bytes.len()));
        };
        let mut codes = if *bits == 2 { codes::<2>(bytes) } else { codes::<4>(bytes) };
        let (lo, hi) = (-1i8 << (bits - 1), (1i8 << (bits - 1)) - 1);
        if let Some(at) = codes[..count].iter().position(|code| !(lo..=hi).contains(code)) {
            return Err(format!("code {at} is {}, expected {lo}..={hi} of {bits} bits", codes[at]));
        }
        if let Some(at) = (count..codes.len()).find(|&at| codes[at] != 0) {
            return Err(format!("code {at} is {} behind the last of {count}, expected 0", codes[at]));
        }
        codes.truncate(count);
        Tensor::from_i8(shape, codes).map_err(|e| e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every pair of codes of four bits, and every four of two bits, in the bytes that the format promises.
    #[test]
    fn codes_lie_where_the_format_says() {
        let tensor = |codes: &[i8]| Tensor::from_i8(&[codes.len()], codes.to_vec()).expect("fits");
        for (codes, bits, expected) in [
            (&[-2i8, -1, 0, 1, 1][..], 2, &[0b01_00_11_10u8, 0b01][..]),
            (&[-4, 3, -1], 3, &[0b0011_1100, 0b1111]),
            (&[-8, 7, 5], 4, &[0b0111_1000, 0b0101]),
            (&[2], 3, &[2]),
            (&[-3], 3, &[13]),
            (&[4], 4, &[4]),
            (&[-5], 4, &[11]),
            (&[], 2, &[]),
        ] {
            let (record, bytes) = pack(&tensor(codes)).expect("few bits");
            assert_eq!((record.bits, bytes.as_slice()), (bits, expected), "{codes:?}");
        }
        assert!(pack(&tensor(&[8])).is_none() && pack(&tensor(&[0, -9])).is_none());
        for byte in 0..=u8::MAX {
            for bits in [2, 4] {
                let shape = vec![8 / bits as usize];
                let record = PackedRecord { bits, shape };
                let unpacked = record.unpack(&[byte]).expect("any byte");
                let codes = unpacked.as_i8().expect("codes");
                let again = if bits == 2 { super::byte::<2>(codes) } else { super::byte::<4>(codes) };
                assert_eq!(again, byte, "{codes:?}");
            }
        }
    }
}

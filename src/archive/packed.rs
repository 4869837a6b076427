//! Packs quantized values of 2 to 4 bits, several to a byte.
//!
//! The first value is in the lowest bits, in two's complement. Values of 2 bits lie four to a byte, and values of 3 and of 4 bits two to a
//! byte, so that no value lies across two bytes. The unused bits of the last byte are 0.

use serde::{Deserialize, Serialize};

use crate::values::Tensor;

/// The record of a packed tensor in a file's header. The tensor itself is stored as `U8`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct PackedRecord {
    /// 2, 3 or 4: values are `−2^(bits − 1)..2^(bits − 1)`.
    bits: u32,
    shape: Vec<usize>,
}

/// The record and the packed bytes of quantized values of 2 to 4 bits, which hold all of them; `None` for other tensors.
pub(super) fn pack(tensor: &Tensor, bits: Option<u32>) -> Option<(PackedRecord, Vec<u8>)> {
    let bits = bits.filter(|bits| (2..=4).contains(bits))?;
    let values = tensor.as_i8()?;
    let bytes = match bits {
        2 => values.chunks(4).map(byte::<2>).collect(),
        _ => values.chunks(2).map(byte::<4>).collect(),
    };
    Some((PackedRecord { bits, shape: tensor.shape().to_vec() }, bytes))
}

fn byte<const WIDTH: u32>(values: &[i8]) -> u8 {
    let mask = (1u8 << WIDTH) - 1;
    values.iter().rev().fold(0, |byte, &value| byte << WIDTH | (value as u8 & mask))
}

fn values<const WIDTH: u32>(bytes: &[u8]) -> Vec<i8> {
    // Shifts the value up to the sign bit of the byte, and back with its sign.
    let value = |byte: u8, at: u32| ((byte << (8 - WIDTH * (at + 1))) as i8) >> (8 - WIDTH);
    let mut values = Vec::with_capacity(bytes.len() * (8 / WIDTH) as usize);
    bytes.iter().for_each(|&byte| values.extend((0..8 / WIDTH).map(|at| value(byte, at))));
    values
}

impl PackedRecord {
    /// Unpacks the bytes of a tensor.
    ///
    /// # Errors
    /// Returns a message that says what is wrong with the record or the bytes, with both numbers.
    pub(super) fn unpack(&self, bytes: &[u8]) -> Result<Tensor, String> {
        let Self { bits, shape } = self;
        let per_byte = match bits {
            2 => 4,
            3 | 4 => 2,
            _ => return Err(format!("is packed to {bits} bits a value, expected 2 to 4")),
        };
        let count = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let Some(count) = count.filter(|count| count.div_ceil(per_byte) == bytes.len()) else {
            let expected = count.map_or("more than memory can hold".to_owned(), |n| n.div_ceil(per_byte).to_string());
            return Err(format!("has {} bytes, expected {expected} for shape {shape:?} at {bits} bits", bytes.len()));
        };
        let mut values = if *bits == 2 { values::<2>(bytes) } else { values::<4>(bytes) };
        let (lo, hi) = (-1i8 << (bits - 1), (1i8 << (bits - 1)) - 1);
        if let Some(at) = values[..count].iter().position(|value| !(lo..=hi).contains(value)) {
            return Err(format!("value {at} is {}, expected {lo}..={hi} of {bits} bits", values[at]));
        }
        if let Some(at) = (count..values.len()).find(|&at| values[at] != 0) {
            return Err(format!("value {at} is {} after the last of {count}, expected 0", values[at]));
        }
        values.truncate(count);
        Tensor::from_i8(shape, values).map_err(|e| e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every pair of values of four bits, and every four of two bits, in the bytes that the format promises.
    #[test]
    fn values_lie_where_the_format_says() {
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
            let (record, bytes) = pack(&tensor(codes), Some(bits)).expect("few bits");
            assert_eq!((record.bits, bytes.as_slice()), (bits, expected), "{codes:?}");
        }
        assert!(pack(&tensor(&[1]), None).is_none() && pack(&tensor(&[1]), Some(5)).is_none());
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

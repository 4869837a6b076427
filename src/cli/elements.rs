//! The element types of data files, and the conversion of their bytes.

use half::{bf16, f16};

/// The element type of an array in a data file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Element {
    F16,
    Bf16,
    F32,
    F64,
    Bool,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
}

/// An element whose value does not fit the type of the input.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ElementError {
    /// The index of the element.
    pub(crate) at: usize,
    pub(crate) value: String,
    pub(crate) expected: &'static str,
}

/// The integer types that an input can have.
pub(crate) trait Integer: TryFrom<i128> {
    const NAME: &'static str;
}

impl Integer for i8 {
    const NAME: &'static str = "i8";
}

impl Integer for i32 {
    const NAME: &'static str = "i32";
}

impl Integer for i64 {
    const NAME: &'static str = "i64";
}

impl Element {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::Bool => "bool",
            Self::I8 => "i8",
            Self::I16 => "i16",
            Self::I32 => "i32",
            Self::I64 => "i64",
            Self::U8 => "u8",
            Self::U16 => "u16",
            Self::U32 => "u32",
            Self::U64 => "u64",
        }
    }

    pub(crate) fn size_bytes(self) -> usize {
        match self {
            Self::Bool | Self::I8 | Self::U8 => 1,
            Self::F16 | Self::Bf16 | Self::I16 | Self::U16 => 2,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F64 | Self::I64 | Self::U64 => 8,
        }
    }

    pub(crate) fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::Bf16 | Self::F32 | Self::F64)
    }

    /// Returns how many bytes an array of this shape takes. Returns `None` if that number overflows when lengths of 0 count as 1.
    pub(crate) fn bytes_of(self, shape: &[usize]) -> Option<usize> {
        let times = |bytes: usize, length: &usize| bytes.checked_mul((*length).max(1));
        let max = shape.iter().try_fold(self.size_bytes(), times).filter(|&bytes| isize::try_from(bytes).is_ok())?;
        Some(if shape.contains(&0) { 0 } else { max })
    }

    /// Converts little-endian bytes of a float type to f32. Refuses finite numbers beyond the range of f32.
    pub(crate) fn floats(self, bytes: &[u8]) -> Result<Vec<f32>, ElementError> {
        let narrow = |(at, bytes): (usize, &[u8; 8])| match f64::from_le_bytes(*bytes) {
            value if (value as f32).is_infinite() && value.is_finite() => {
                Err(ElementError { at, value: format!("{value:e}"), expected: "f32" })
            }
            value => Ok(value as f32),
        };
        match self {
            Self::F16 => Ok(bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect()),
            Self::Bf16 => Ok(bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect()),
            Self::F32 => Ok(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()),
            Self::F64 => bytes.as_chunks().0.iter().enumerate().map(narrow).collect(),
            other => Err(other.wrong_type("f32")),
        }
    }

    /// Converts little-endian bytes of an integer type to `T`. Refuses numbers outside the range of `T`, and booleans that are neither 0
    /// nor 1.
    pub(crate) fn integers<T: Integer>(self, bytes: &[u8]) -> Result<Vec<T>, ElementError> {
        fn each<const N: usize, T: Integer>(
            bytes: &[u8],
            of: impl Fn([u8; N]) -> i128,
        ) -> Result<Vec<T>, ElementError> {
            let integer = |(at, bytes): (usize, &[u8; N])| {
                let value = of(*bytes);
                T::try_from(value).map_err(|_| ElementError { at, value: value.to_string(), expected: T::NAME })
            };
            bytes.as_chunks().0.iter().enumerate().map(integer).collect()
        }
        match self {
            Self::Bool => match bytes.iter().position(|&byte| byte > 1) {
                Some(at) => Err(ElementError { at, value: bytes[at].to_string(), expected: "bool" }),
                None => each(bytes, |b| u8::from_le_bytes(b).into()),
            },
            Self::I8 => each(bytes, |b| i8::from_le_bytes(b).into()),
            Self::I16 => each(bytes, |b| i16::from_le_bytes(b).into()),
            Self::I32 => each(bytes, |b| i32::from_le_bytes(b).into()),
            Self::I64 => each(bytes, |b| i64::from_le_bytes(b).into()),
            Self::U8 => each(bytes, |b| u8::from_le_bytes(b).into()),
            Self::U16 => each(bytes, |b| u16::from_le_bytes(b).into()),
            Self::U32 => each(bytes, |b| u32::from_le_bytes(b).into()),
            Self::U64 => each(bytes, |b| u64::from_le_bytes(b).into()),
            Self::F16 | Self::Bf16 | Self::F32 | Self::F64 => Err(self.wrong_type(T::NAME)),
        }
    }

    fn wrong_type(self, expected: &'static str) -> ElementError {
        ElementError { at: 0, value: format!("of type {}", self.name()), expected }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_do_not_fit_are_refused() {
        let bytes = |values: &[f64]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        assert_eq!(Element::F64.floats(&bytes(&[1.0, f64::INFINITY])), Ok(vec![1.0, f32::INFINITY]));
        let error = Element::F64.floats(&bytes(&[1.0, 1e300])).expect_err("beyond f32");
        assert_eq!((error.at, error.value.as_str()), (1, "1e300"));
        assert!(Element::U64.integers::<i64>(&u64::MAX.to_le_bytes()).is_err());
        assert_eq!(Element::U64.integers::<i8>(&127u64.to_le_bytes()), Ok(vec![127]));
        assert_eq!(Element::I16.integers::<i8>(&(-129i16).to_le_bytes()).expect_err("beyond i8").value, "-129");
        assert_eq!(Element::Bool.integers::<i32>(&[0, 1, 2]).expect_err("no bool").at, 2);
    }

    #[test]
    fn lengths_that_no_memory_holds() {
        let bytes = |shape: &[usize]| Element::F32.bytes_of(shape);
        assert_eq!((bytes(&[]), bytes(&[3, 4]), bytes(&[0, 4])), (Some(4), Some(48), Some(0)));
        assert_eq!((bytes(&[usize::MAX]), bytes(&[0, usize::MAX, usize::MAX])), (None, None));
        assert_eq!(bytes(&[isize::MAX as usize / 4 + 1]), None);
    }
}

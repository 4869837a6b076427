//! Weights of 4 or 2 bits as fields of bytes: two or four to a byte. A field holds a weight less the least one, and the highest field of a
//! byte, whose first bit is the byte's sign, half the number of its values less.

/// A weight less the least one, as a field of a byte of `fields`.
pub(super) fn in_field(w: i32, field: usize, fields: usize) -> i8 {
    let is_signed = field + 1 == fields;
    let w = if is_signed { w - half(fields) } else { w };
    (w << (bits(fields) * field as u32)) as i8
}

/// The bits of a field, for so many in a byte.
pub(super) const fn bits(fields: usize) -> u32 {
    8 / fields as u32
}

/// Half the number of values of a field.
pub(super) const fn half(fields: usize) -> i32 {
    1 << (bits(fields) - 1)
}

/// The bits of a byte from a field on.
pub(super) const fn from_field(field: usize, fields: usize) -> i8 {
    (0xff_u8 << (bits(fields) * field as u32)).cast_signed()
}

/// What the sums of a field lack for each unit of the sum of the activations.
pub(super) const fn base(field: usize, fields: usize, lowest: i32) -> i32 {
    if field + 1 == fields { lowest + half(fields) } else { lowest }
}

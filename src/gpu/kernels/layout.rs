//! The layout of values in device buffers.

use crate::program::{Value, ValueType};

/// int8 values of a `vec4<u32>`.
pub(crate) const VEC: usize = 16;

/// Vectors of 16 int8 values that hold `cols` of them.
pub(crate) fn k_vecs(cols: usize) -> usize {
    cols.div_ceil(VEC)
}

/// Words of 4 int8 values of a padded row.
pub(crate) fn row_words(cols: usize) -> usize {
    k_vecs(cols) * 4
}

/// Whether int8 rows have padding on the device.
pub(crate) fn padded_rows(cols: usize) -> bool {
    cols != row_words(cols) * 4
}

/// Whether the caller's dense int8 rows differ from the padded rows of the kernels.
pub(crate) fn needs_padding(value: &Value) -> bool {
    value.value_type == ValueType::I8 && padded_rows(value.cols())
}

/// Bytes of a value in the layout of the kernels. Saturates; `bind` compares sizes with limits later.
pub(crate) fn padded_bytes(value: &Value, rows: usize) -> u64 {
    match value.value_type {
        ValueType::I8 => matrix_rows(value, rows).saturating_mul(row_words(value.cols()) as u64).saturating_mul(4),
        ValueType::F16 => dense_bytes(value, rows),
        ValueType::F32 | ValueType::I32 => {
            matrix_rows(value, rows).saturating_mul(value.cols() as u64).saturating_mul(4)
        }
    }
}

/// Bytes of a value in the caller's layout, rounded up to whole words.
pub(crate) fn dense_bytes(value: &Value, rows: usize) -> u64 {
    let elements = matrix_rows(value, rows).saturating_mul(value.cols() as u64);
    elements.saturating_mul(value.value_type.size_bytes() as u64).div_ceil(4).saturating_mul(4)
}

/// Matrix rows of a value at a batch of `rows`.
pub(crate) fn matrix_rows(value: &Value, rows: usize) -> u64 {
    let rows = if value.shape.is_batched() { rows } else { 1 };
    (rows as u64).saturating_mul(value.rows_factor() as u64)
}

/// int8 values in rows of `cols`, each row padded to 16 bytes.
pub(crate) fn pad_rows(values: &[i8], cols: usize) -> Vec<i8> {
    let mut padded = vec![0; values.len() / cols.max(1) * row_words(cols) * 4];
    for (padded, row) in padded.chunks_exact_mut(row_words(cols) * 4).zip(values.chunks_exact(cols.max(1))) {
        padded[..row.len()].copy_from_slice(row);
    }
    padded
}

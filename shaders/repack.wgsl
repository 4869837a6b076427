// int8 matrices between the dense layout of callers and the padded one of the kernels, one word of the result a thread.

fn byte(index: u32) -> u32 {
    return (src[index / 4u] >> (8u * (index % 4u))) & 0xffu;
}

fn dense_byte(row: u32, column: u32) -> u32 {
    if column < params.cols {
        return byte(row * params.cols + column);
    }
    return 0u;
}

@compute @workgroup_size(64)
fn pad_i8_i8(thread: Thread) {
    let word = word_of(thread);
    let row = word / params.row_words;
    if row >= matrix_rows() {
        return;
    }
    let column = (word % params.row_words) * 4u;
    dst[word] = dense_byte(row, column)
        | (dense_byte(row, column + 1u) << 8u)
        | (dense_byte(row, column + 2u) << 16u)
        | (dense_byte(row, column + 3u) << 24u);
}

// Bytes behind the last row, which round the size up to whole words, are 0.
fn padded_byte(index: u32) -> u32 {
    let row = index / params.cols;
    if row < matrix_rows() {
        return byte(row * params.row_words * 4u + index % params.cols);
    }
    return 0u;
}

@compute @workgroup_size(64)
fn unpad_i8_i8(thread: Thread) {
    let word = word_of(thread);
    let index = word * 4u;
    if index >= matrix_rows() * params.cols {
        return;
    }
    dst[word] = padded_byte(index)
        | (padded_byte(index + 1u) << 8u)
        | (padded_byte(index + 2u) << 16u)
        | (padded_byte(index + 3u) << 24u);
}

// Rows of words as they are, for a kernel that would else be bound to one value twice.
@compute @workgroup_size(64)
fn copy_u32_u32(thread: Thread) {
    let word = word_of(thread);
    if word < matrix_rows() * params.row_words {
        dst[word] = src[word];
    }
}

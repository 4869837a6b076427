// int8 matrices between the dense layout of callers and the padded layout of kernels: one word of the result a thread.

fn byte(index: u32) -> u32 {
    return (a[index / 4u] >> (8u * (index % 4u))) & 0xffu;
}

fn dense_byte(row: u32, column: u32) -> u32 {
    if column < params.strided.cols {
        return byte(row * params.strided.cols + column);
    }
    return 0u;
}

@compute @workgroup_size(64)
fn pad_i8_i8(thread: Thread) {
    let word = thread_index(thread);
    let row = word / params.strided.row_threads;
    if row >= matrix_rows() {
        return;
    }
    let column = (word % params.strided.row_threads) * 4u;
    y[word] = dense_byte(row, column)
        | (dense_byte(row, column + 1u) << 8u)
        | (dense_byte(row, column + 2u) << 16u)
        | (dense_byte(row, column + 3u) << 24u);
}

// Bytes after the last row round the size up to whole words; they are 0.
fn padded_byte(index: u32) -> u32 {
    let row = index / params.strided.cols;
    if row < matrix_rows() {
        return byte(row * params.a_row_words * 4u + index % params.strided.cols);
    }
    return 0u;
}

@compute @workgroup_size(64)
fn unpad_i8_i8(thread: Thread) {
    let word = thread_index(thread);
    let index = word * 4u;
    if index >= matrix_rows() * params.strided.cols {
        return;
    }
    y[word] = padded_byte(index)
        | (padded_byte(index + 1u) << 8u)
        | (padded_byte(index + 2u) << 16u)
        | (padded_byte(index + 3u) << 24u);
}

// Copies rows of words, for a kernel that would otherwise bind one value twice.
@compute @workgroup_size(64)
fn copy_u32_u32(thread: Thread) {
    let word = thread_index(thread);
    if word < matrix_rows() * params.strided.row_threads {
        y[word] = a[word];
    }
}

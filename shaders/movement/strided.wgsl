// Reshape, transpose, slice and concat: one element or one word of int8 values a thread.

@compute @workgroup_size(64)
fn copy_f32_f32(thread: Thread) {
    let e = element(thread);
    if e.inside {
        y[e.y] = a[e.a];
    }
}

// Keeps the bytes of `old` that do not belong to the row.
fn merged(word: Word, values: vec4<i32>, old: u32) -> u32 {
    let columns = vec4<u32>(word.column, word.column + 1u, word.column + 2u, word.column + 3u);
    return pack4xI8(select(unpack4xI8(old), values, columns < vec4<u32>(params.strided.cols)));
}

@compute @workgroup_size(64)
fn copy_i8_i8(thread: Thread) {
    let word = word_at(thread);
    if word.inside {
        y[word.y] = merged(word, a_values(word), y[word.y]);
    }
}

// The same elements in rows of another length.
@compute @workgroup_size(64)
fn reshape_i8_i8(thread: Thread) {
    let index = thread_index(thread);
    let row = index / params.strided.row_threads;
    if row >= matrix_rows() {
        return;
    }
    var values = vec4<i32>(0);
    for (var lane = 0u; lane < 4u; lane++) {
        let column = (index % params.strided.row_threads) * 4u + lane;
        if column < params.strided.cols {
            let at = row * params.strided.cols + column;
            values[lane] = a_byte(at / params.a_cols * params.a_row_words * 4u + at % params.a_cols);
        }
    }
    y[index] = pack4xI8(values);
}

// Kernels that compute one word of four int8 values in each thread, over any strides.

// A word of y: four columns. The first may lie before the row and the last after it.
struct Word {
    inside: bool,
    // The beginnings of the rows of a and b, in bytes.
    a: u32,
    b: u32,
    // Index into y.
    y: u32,
    // The row's column of the first byte; wraps around if that lies before the row.
    column: u32,
}

fn word_at(thread: Thread) -> Word {
    // The offset of a row need not be a multiple of 4: then the row shares words with what it is concatenated to.
    let index = thread_index(thread);
    let row = index / params.strided.row_threads;
    let at = offsets(row);
    let word = at.z / 4u + index % params.strided.row_threads;
    return Word(row < matrix_rows(), at.x, at.y, word, word * 4u - at.z);
}

fn a_byte(at: u32) -> i32 {
    return signed_byte(a[at / 4u], at);
}

// The values of a for a word of y; 0 outside the row.
fn a_values(word: Word) -> vec4<i32> {
    var values = vec4<i32>(0);
    for (var lane = 0u; lane < 4u; lane++) {
        let column = word.column + lane;
        if column < params.strided.cols {
            values[lane] = a_byte(word.a + column * params.strided.a_col);
        }
    }
    return values;
}

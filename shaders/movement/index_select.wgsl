// Elements at known indices along an axis: one element or one word of int8 values a thread.

struct IndexSelectParams {
    // Rows of the result for each row of the batch.
    rows_factor: u32,
    // Elements of a row of the result, and the threads that compute them.
    cols: u32,
    row_threads: u32,
    // Words of a row of a and of y.
    a_words: u32,
    y_words: u32,
    // The lengths of the axis in y and in a, and the rows of each of its elements; 0 rows if it is the last axis.
    count: u32,
    length: u32,
    inner: u32,
}

@group(0) @binding(0) var<uniform> params: IndexSelectParams;
// Operands and results share a buffer, which cannot be bound in two ways at once, so all of them are bound as read_write.
@group(0) @binding(3) var<storage, read_write> a: array<u32>;
@group(0) @binding(4) var<storage, read_write> y: array<u32>;
@group(0) @binding(5) var<storage, read> indices: array<u32>;

// The first word of the row of a that a row of y is made of.
fn source_row(row: u32) -> u32 {
    if params.inner == 0u {
        return row * params.a_words;
    }
    let rows = params.count * params.inner;
    let outer = row / rows;
    let rest = row - outer * rows;
    let at = rest / params.inner;
    return ((outer * params.length + indices[at]) * params.inner + rest - at * params.inner) * params.a_words;
}

// The element of that row which becomes an element of y.
fn source_column(column: u32) -> u32 {
    if params.inner == 0u {
        return indices[column];
    }
    return column;
}

@compute @workgroup_size(64)
fn index_select_f32_f32(thread: Thread) {
    let index = thread_index(thread);
    let row = index / params.row_threads;
    if row >= batch_rows() * params.rows_factor {
        return;
    }
    let column = index - row * params.row_threads;
    y[row * params.y_words + column] = a[source_row(row) + source_column(column)];
}

@compute @workgroup_size(64)
fn index_select_i8_i8(thread: Thread) {
    let index = thread_index(thread);
    let row = index / params.row_threads;
    if row >= batch_rows() * params.rows_factor {
        return;
    }
    let word = index - row * params.row_threads;
    let source = source_row(row);
    var values = vec4<i32>();
    for (var lane = 0u; lane < 4u; lane++) {
        if word * 4u + lane < params.cols {
            let column = source_column(word * 4u + lane);
            values[lane] = signed_byte(a[source + column / 4u], column);
        }
    }
    y[row * params.y_words + word] = pack4xI8(values);
}

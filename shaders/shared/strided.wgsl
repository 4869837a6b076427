// Values with any shapes and strides. A result is a matrix whose last axis is the row. The other axes are decoded from the number
// of the row, so that operands can be broadcast, transposed, sliced or concatenated.
//
// Floats and int32 values are dense, one word each. int8 rows are padded to 16 bytes; offsets and strides of int8 values are in
// bytes, all others are in elements.

struct Strided {
    // The axes before the last, outermost first: (length, stride of a, stride of b, stride of y). The length of the first axis is
    // not used, because it may be the batch.
    axes: array<vec4<u32>, 5>,
    rank: u32,
    // Matrix rows for each row of the batch.
    rows_factor: u32,
    // Elements of a row.
    cols: u32,
    // Threads that compute a row: one for each element, word or vector.
    row_threads: u32,
    // Strides along a row: 0 for a broadcast operand.
    a_col: u32,
    b_col: u32,
    // The beginnings of the first rows of a and y.
    a_offset: u32,
    y_offset: u32,
}

fn matrix_rows() -> u32 {
    return batch_rows() * params.strided.rows_factor;
}

// The beginnings of row `row` in a, b and y.
fn offsets(row: u32) -> vec3<u32> {
    var at = vec3<u32>(params.strided.a_offset, 0u, params.strided.y_offset);
    var rest = row;
    for (var axis = params.strided.rank; axis > 1u; axis--) {
        let lengths = params.strided.axes[axis - 1u];
        at += (rest % lengths.x) * lengths.yzw;
        rest /= lengths.x;
    }
    return at + rest * params.strided.axes[0].yzw;
}

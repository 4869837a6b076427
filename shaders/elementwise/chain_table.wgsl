// Chains that begin with a lookup in an embedding table.

// As many elements a row as the result.
@group(0) @binding(7) var<storage, read_write> table: array<u32>;

// An id outside the table gives the nearest row.
fn looked_up(id: u32, column: u32) -> u32 {
    let signed = bitcast<i32>(id);
    let from_start = signed + select(0, i32(params.below), signed < 0);
    let row = clamp(from_start, 0, i32(params.table_rows) - 1);
    return table[u32(row) * params.strided.cols + column];
}

// The rows of a matrix of activations, as they lie in memory.

alias RowStart = u32;

// The beginning of a row of `x`. Rows beyond the last repeat it; `store` drops them.
fn row_start(row: u32) -> RowStart {
    return min(row, end_row() - 1u) * params.k_vecs;
}

fn x_load(start: RowStart, k: u32) -> vec4<u32> {
    return x[start + k];
}

// Convolutions replace padding here.
fn x_masked(start: RowStart, k: u32, word: vec4<u32>) -> vec4<u32> {
    return word;
}

fn x_vec(start: RowStart, k: u32) -> vec4<u32> {
    return x_load(start, k);
}

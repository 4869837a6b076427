// Rows of a table, one element a thread.

struct EmbeddingParams {
    // Rows of the result for each row of the batch.
    rows_factor: u32,
    cols: u32,
    table_rows: u32,
    // What is added to ids below 0: the rows of the table if they count from its end, else 0.
    below: u32,
}

@group(0) @binding(0) var<uniform> params: EmbeddingParams;
// Operands and results share a buffer, which cannot be bound in two ways at once, so all of them are bound as read_write.
@group(0) @binding(3) var<storage, read_write> ids: array<u32>;
@group(0) @binding(4) var<storage, read_write> table: array<u32>;
@group(0) @binding(5) var<storage, read_write> y: array<u32>;

// An id outside the table gives the nearest row.
@compute @workgroup_size(64)
fn embedding_i32_f32(thread: Thread) {
    let index = thread_index(thread);
    let row = index / params.cols;
    if row >= batch_rows() * params.rows_factor {
        return;
    }
    let id = bitcast<i32>(ids[row]);
    let from_start = id + select(0, i32(params.below), id < 0);
    let nearest = clamp(from_start, 0, i32(params.table_rows) - 1);
    y[index] = table[u32(nearest) * params.cols + index % params.cols];
}

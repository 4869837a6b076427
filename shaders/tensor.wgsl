// What the kernels that handle one word at a time share. An int8 matrix comes in two layouts: dense, as callers see it, and
// with each row padded to 16 bytes, as the linear kernels read it. Floats are dense.

struct TensorParams {
    // Columns of the matrix.
    cols: u32,
    // Row stride of the padded int8 matrix, in words of 4 codes.
    row_words: u32,
    // Matrix rows for each row of the batch.
    rows_factor: u32,
    zero_point: i32,
    // inv_scale of equation 2, or scale of equation 1.
    factor: f32,
    // quant_min - zero_point and quant_max - zero_point of equation 2.
    lo: f32,
    hi: f32,
}

@group(0) @binding(0) var<uniform> params: TensorParams;
// Both may lie in one buffer, which cannot be bound in two ways at once. One entry point uses either the words or the vectors
// of a binding.
@group(0) @binding(3) var<storage, read_write> src: array<u32>;
@group(0) @binding(3) var<storage, read_write> src_vecs: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> dst: array<u32>;
@group(0) @binding(4) var<storage, read_write> dst_vecs: array<vec4<u32>>;

fn matrix_rows() -> u32 {
    return batch_rows() * params.rows_factor;
}

// The grid has two dimensions, since one holds no more than 65535 groups of 64 threads.
fn word_of(thread: Thread) -> u32 {
    return (thread.group.y * thread.groups.x + thread.group.x) * 64u + thread.local;
}

// Parameters and bindings of the kernels that move values.

struct MovementParams {
    strided: Strided,
    // Columns of a, and the words of its padded rows.
    a_cols: u32,
    a_row_words: u32,
    unused_0: u32,
    unused_1: u32,
}

@group(0) @binding(0) var<uniform> params: MovementParams;
// Operands and results share a buffer, which cannot be bound in two ways at once, so all of them are bound as read_write.
@group(0) @binding(3) var<storage, read_write> a: array<u32>;
@group(0) @binding(4) var<storage, read_write> y: array<u32>;

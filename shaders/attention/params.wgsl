// Attention: y = softmax(q · k · scale + mask) · v for a stack of matrices, with the bits of the steps one after the other.

struct AttentionParams {
    // The axes of the stack, with the strides of q, k and y. Its columns are those of v.
    strided: Strided,
    // The same axes, with the strides of v and the mask.
    others: Strided,
    // Rows of q, features of q and k, and keys: the columns of k and the rows of v.
    m: u32,
    depth: u32,
    keys: u32,
    // The strides from one row of q and y to the next.
    q_row: u32,
    y_row: u32,
    // The strides of k from feature to feature and from key to key.
    k_row: u32,
    k_col: u32,
    // The strides of v from key to key and from column to column.
    v_row: u32,
    v_col: u32,
    // The strides of the mask from row to row and from key to key.
    mask_row: u32,
    mask_col: u32,
    // The blocks of rows of earlier dispatches of the same step.
    first_block: u32,
    scale: f32,
    // Equation 2, where results are int8 values. `lo` and `hi` are relative to the zero point.
    factor: f32,
    zero_point: i32,
    lo: f32,
    hi: f32,
    // 0, which no compiler knows.
    zero: u32,
    unused_0: u32,
    unused_1: u32,
}

@group(0) @binding(0) var<uniform> params: AttentionParams;
// Operands and results share a buffer, which cannot be bound in two ways at once, so all of them are bound as read_write.
@group(0) @binding(3) var<storage, read_write> q: array<u32>;
@group(0) @binding(4) var<storage, read_write> k: array<u32>;
@group(0) @binding(5) var<storage, read_write> v: array<u32>;
@group(0) @binding(6) var<storage, read_write> y: array<u32>;
@group(0) @binding(7) var<storage, read_write> mask: array<u32>;

// Whether scores are multiplied by the scale, and whether the mask is added.
override SCALE: bool = false;
override MASK: bool = false;
// Whether results are quantized. Their rows have no padding, and a word lies in one row of one matrix.
override QUANTIZE: bool = false;

// The beginnings of matrix `matrix` in v and the mask.
fn other_offsets(matrix: u32) -> vec2<u32> {
    var at = vec2<u32>();
    var rest = matrix;
    for (var axis = params.others.rank; axis > 1u; axis--) {
        let lengths = params.others.axes[axis - 1u];
        at += (rest % lengths.x) * lengths.yz;
        rest /= lengths.x;
    }
    return at + rest * params.others.axes[0].yz;
}

// What the kernels share that take any shapes. Their results are matrices whose last axis is the row; the other axes are
// decoded from the row's number, so that inputs may be broadcast, transposed or joined.
//
// Floats and ids are dense, one word each. int8 rows are padded to 16 bytes; offsets and strides of int8 values are in bytes.

struct OpParams {
    // The axes before the last, outermost first: (length, stride of a, stride of b, stride of y). The length of the first is
    // not used, since it may be the batch.
    axes: array<vec4<u32>, 5>,
    rank: u32,
    // Rows for each row of the batch.
    rows_factor: u32,
    // Elements of a row.
    cols: u32,
    // Strides along a row: 1, or 0 for what is broadcast. b_col is also that from the scale and zero point of one row to those
    // of the next.
    a_col: u32,
    b_col: u32,
    // Where the first row of y begins, in elements.
    y_offset: u32,
    // Row lengths of padded int8 values in words: of y, and where it matters of a.
    row_words: u32,
    a_words: u32,
    // Columns of a, where they are not those of y.
    a_cols: u32,
    // Which function, or which form.
    kind: u32,
    a_zero_point: i32,
    b_zero_point: i32,
    // Equation 8.
    a_multiplier: i32,
    b_multiplier: i32,
    shift: u32,
    zero_point: i32,
    // Codes: smallest and largest.
    lo: i32,
    hi: i32,
    // A multiplier, or eps.
    factor: f32,
    // Products in a sum; for matmul, rows of a stack's matrices, and strides of b. For max and sum, elements taken together, and
    // their stride.
    k: u32,
    m: u32,
    b_k: u32,
    b_n: u32,
    // Row stride of a's matrices.
    a_row: u32,
    relu: u32,
    // Where b repeats, in vectors: kernels without axes.
    b_vecs: u32,
    // The groups of rows of earlier dispatches of the same step.
    first_group: u32,
    inv_scale: f32,
    // Where the first row of a begins, in elements or, of int8, in bytes.
    a_offset: u32,
    // The bounds of a clamp.
    low: f32,
    high: f32,
    unused: u32,
}

@group(0) @binding(0) var<uniform> params: OpParams;
// Operands and results share a buffer, which cannot be bound in two ways at once, so all are bound for writing. One entry point
// uses either the words or the vectors of a binding.
@group(0) @binding(3) var<storage, read_write> a: array<u32>;
@group(0) @binding(3) var<storage, read_write> a_vecs: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> b: array<u32>;
@group(0) @binding(4) var<storage, read_write> b_vecs: array<vec4<u32>>;
@group(0) @binding(5) var<storage, read_write> c: array<u32>;
@group(0) @binding(6) var<storage, read_write> y: array<u32>;
@group(0) @binding(6) var<storage, read_write> y_vecs: array<vec4<u32>>;
// A fourth operand, and a second result.
@group(0) @binding(7) var<storage, read_write> d: array<u32>;
@group(0) @binding(8) var<storage, read_write> z: array<u32>;

fn matrix_rows() -> u32 {
    return batch_rows() * params.rows_factor;
}

// The grid has two dimensions, since one holds no more than 65535 groups.
fn group_of(thread: Thread) -> u32 {
    return params.first_group + thread.group.y * thread.groups.x + thread.group.x;
}

// Where row `row` begins in a, b and y.
fn offsets(row: u32) -> vec3<u32> {
    var at = vec3<u32>(params.a_offset, 0u, params.y_offset);
    var rest = row;
    for (var axis = params.rank; axis > 1u; axis--) {
        let lengths = params.axes[axis - 1u];
        at += (rest % lengths.x) * lengths.yzw;
        rest /= lengths.x;
    }
    return at + rest * params.axes[0].yzw;
}

// The bits of a float, or of the bound that it is beyond; NaN is beyond neither.
fn clamped(bits: u32) -> u32 {
    let order = order_of(bits);
    let low = bitcast<u32>(params.low);
    let high = bitcast<u32>(params.high);
    let raised = select(bits, low, order < order_of(low));
    return select(raised, high, order > order_of(high) && !is_nan(bits));
}

// A function of two floats, in the order of the host's list.
fn binary(left: u32, right: u32) -> u32 {
    let ordered = !is_nan(left) && !is_nan(right);
    switch params.kind {
        case 0u: {
            return select(0u, ONE, ordered && order_of(left) == order_of(right));
        }
        case 1u: {
            return select(0u, ONE, ordered && order_of(left) < order_of(right));
        }
        case 2u: {
            return select(0u, ONE, ordered && order_of(left) <= order_of(right));
        }
        case 3u: {
            return larger(left, right);
        }
        default: {
            return smaller(left, right);
        }
    }
}

// The bits of a float where a condition is not 0, or, of kind 1, where it is 0; elsewhere those of -0, which changes nothing
// that it is added to. By the bits, so that neither NaN nor a subnormal condition depends on the driver.
fn kept(bits: u32, condition: u32) -> u32 {
    let is_zero = (condition & 0x7fffffffu) == 0u;
    return select(0x80000000u, bits, is_zero == (params.kind == 1u));
}

fn a_code(at: u32) -> i32 {
    return signed_byte(a[at / 4u], at);
}

fn b_code(at: u32) -> i32 {
    return signed_byte(b[at / 4u], at);
}

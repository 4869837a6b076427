// Chains of elementwise steps over any strides: each step takes the result of the one before it, and only the last result is stored.
// The host writes `chained`, which computes all steps.

struct ChainParams {
    // The strides of a, b and y.
    strided: Strided,
    // Those of c, as the first operand.
    others: Strided,
    // The bits of up to two numbers for each step.
    numbers: array<vec4<u32>, 8>,
    // 0, which no compiler knows.
    zero: u32,
    // Rows of the embedding table, where a chain begins with a lookup.
    table_rows: u32,
    // What is added to ids below 0: the rows of the table if they count from its end, else 0.
    below: u32,
    unused: u32,
}

@group(0) @binding(0) var<uniform> params: ChainParams;
// Operands and results share a buffer, which cannot be bound in two ways at once, so all of them are bound as read_write.
@group(0) @binding(3) var<storage, read_write> a: array<u32>;
@group(0) @binding(4) var<storage, read_write> b: array<u32>;
@group(0) @binding(5) var<storage, read_write> c: array<u32>;
@group(0) @binding(6) var<storage, read_write> y: array<u32>;

// The beginning of row `row` in c.
fn c_offset(row: u32) -> u32 {
    var at = 0u;
    var rest = row;
    for (var axis = params.others.rank; axis > 1u; axis--) {
        let lengths = params.others.axes[axis - 1u];
        at += (rest % lengths.x) * lengths.y;
        rest /= lengths.x;
    }
    return at + rest * params.others.axes[0].y;
}

// What the steps may read besides the result before each.
struct Operands {
    a: u32,
    b: u32,
    c: u32,
    // The column of the element.
    column: u32,
}

@compute @workgroup_size(64)
fn chain_f32_f32(thread: Thread) {
    let e = element(thread);
    if !e.inside {
        return;
    }
    let index = thread_index(thread);
    let column = index % params.strided.cols;
    let c_at = c_offset(index / params.strided.cols) + column * params.others.a_col;
    y[e.y] = chained(Operands(a[e.a], b[e.b], c[c_at], column));
}

// Reductions along one axis, which the result lacks: one element or one word of int8 values a thread, or one row a workgroup.

struct ReduceParams {
    // The strides of a and b are those of their first elements along the axis.
    strided: Strided,
    // Elements along the axis, and their strides in a and b.
    length: u32,
    stride: u32,
    b_stride: u32,
    // 0, which no compiler knows.
    zero: u32,
}

// Whether each element is first multiplied by one of b, or by itself. Only sums of floats.
override PRODUCT: bool = false;
override SQUARE: bool = false;

@group(0) @binding(0) var<uniform> params: ReduceParams;
// Operands and results share a buffer, which cannot be bound in two ways at once, so all of them are bound as read_write.
@group(0) @binding(3) var<storage, read_write> a: array<u32>;
@group(0) @binding(4) var<storage, read_write> y: array<u32>;
@group(0) @binding(5) var<storage, read_write> b: array<u32>;

// An element of a sum, canonical.
fn summand(at: u32, b_at: u32) -> f32 {
    var bits = a[at];
    if PRODUCT {
        bits = product_of(bits, b[b_at]);
    }
    if SQUARE {
        bits = product_of(bits, bits);
    }
    return bitcast<f32>(canonical_bits(bits));
}

@compute @workgroup_size(64)
fn sum_i32_i32(thread: Thread) {
    let e = element(thread);
    if !e.inside {
        return;
    }
    var sum = 0;
    for (var i = 0u; i < params.length; i++) {
        sum += bitcast<i32>(a[e.a + i * params.stride]);
    }
    y[e.y] = bitcast<u32>(sum);
}

@compute @workgroup_size(64)
fn max_i32_i32(thread: Thread) {
    let e = element(thread);
    if !e.inside {
        return;
    }
    var largest = bitcast<i32>(a[e.a]);
    for (var i = 1u; i < params.length; i++) {
        largest = max(largest, bitcast<i32>(a[e.a + i * params.stride]));
    }
    y[e.y] = bitcast<u32>(largest);
}

@compute @workgroup_size(64)
fn max_f32_f32(thread: Thread) {
    let e = element(thread);
    if !e.inside {
        return;
    }
    var largest = a[e.a];
    for (var i = 1u; i < params.length; i++) {
        largest = larger(largest, a[e.a + i * params.stride]);
    }
    y[e.y] = largest;
}

// Along an axis that is not the last: blocks of 32 elements in order, then the blocks in order (equation 11).
@compute @workgroup_size(64)
fn sum_f32_f32(thread: Thread) {
    let e = element(thread);
    if !e.inside {
        return;
    }
    var sum = 0.0f;
    for (var first = 0u; first < params.length; first += 32u) {
        var part = 0.0f;
        for (var i = first; i < min(first + 32u, params.length); i++) {
            part = add_f(part, summand(e.a + i * params.stride, e.b + i * params.b_stride));
        }
        sum = add_f(sum, part);
    }
    y[e.y] = canonical_bits(bitcast<u32>(sum));
}

@compute @workgroup_size(64)
fn max_i8_i8(thread: Thread) {
    var word = word_at(thread);
    if !word.inside {
        return;
    }
    var largest = a_values(word);
    for (var i = 1u; i < params.length; i++) {
        word.a += params.stride;
        largest = max(largest, a_values(word));
    }
    y[word.y] = pack4xI8(largest);
}

// Sums along the last axis, one row a workgroup: 64 partial sums, each of every 64th element in order (equation 11).
@compute @workgroup_size(64)
fn sum_rows_f32_f32(thread: Thread) {
    let row = group_index(thread);
    let inside = row < matrix_rows();
    let start = offsets(select(0u, row, inside));
    var part = 0.0f;
    for (var i = thread.local; i < params.length; i += 64u) {
        part = add_f(part, summand(start.x + i * params.stride, start.y + i * params.b_stride));
    }
    let sum = workgroup_sum(thread, part);
    if inside && thread.local == 0u {
        y[row] = canonical_bits(bitcast<u32>(sum));
    }
}

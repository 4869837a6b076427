// Sums of floats along one axis, perhaps of products or squares, means with weights, and the function of each sum that the kernel chooses: one element a
// thread, or one row a workgroup.

// Whether each element is first multiplied by one of b, or by itself.
override PRODUCT: bool = false;
override SQUARE: bool = false;
// Whether the elements of a and b are integers, which are cast first.
override A_INTEGER: bool = false;
override B_INTEGER: bool = false;
// Whether a sum of products is divided by the sum of its factors of b, within the limits: a mean with weights.
override MEAN: bool = false;

@group(0) @binding(5) var<storage, read_write> b: array<u32>;

// An element of a sum, canonical.
fn summand(at: u32, b_at: u32) -> f32 {
    var bits = a[at];
    if A_INTEGER {
        bits = float_of_integer(bits);
    }
    if PRODUCT {
        var factor = b[b_at];
        if B_INTEGER {
            factor = float_of_integer(factor);
        }
        bits = product_of(bits, factor);
    }
    if SQUARE {
        bits = product_of(bits, bits);
    }
    return bitcast<f32>(canonical_bits(bits));
}

// An element of a sum of factors of b, canonical.
fn weight_at(at: u32) -> f32 {
    var weight = b[at];
    if B_INTEGER {
        weight = float_of_integer(weight);
    }
    return bitcast<f32>(canonical_bits(weight));
}

// Adds four elements in order.
fn plus_four(sum: f32, next: vec4<f32>) -> f32 {
    return add_f(add_f(add_f(add_f(sum, next.x), next.y), next.z), next.w);
}

// The sum of b along the axis, in the order of `sum_f32_f32`, as bits.
fn total_weight(at: u32) -> u32 {
    var sum = 0.0f;
    for (var first = 0u; first < params.length; first += 32u) {
        let end = min(first + 32u, params.length);
        var part = 0.0f;
        var i = first;
        for (; i + 3u < end; i += 4u) {
            let next = at + i * params.b_stride;
            part = plus_four(part, vec4<f32>(
                weight_at(next), weight_at(next + params.b_stride), weight_at(next + 2u * params.b_stride),
                weight_at(next + 3u * params.b_stride)
            ));
        }
        for (; i < end; i++) {
            part = add_f(part, weight_at(at + i * params.b_stride));
        }
        sum = add_f(sum, part);
    }
    return limited(canonical_bits(bitcast<u32>(sum)), params.low, params.high);
}

fn summand_at(e: Element, i: u32) -> f32 {
    return summand(e.a + i * params.stride, e.b + i * params.b_stride);
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
        let end = min(first + 32u, params.length);
        var part = 0.0f;
        var i = first;
        // Four loads are in flight before the first is waited for.
        for (; i + 3u < end; i += 4u) {
            part = plus_four(part, vec4<f32>(
                summand_at(e, i), summand_at(e, i + 1u), summand_at(e, i + 2u), summand_at(e, i + 3u)
            ));
        }
        for (; i < end; i++) {
            part = add_f(part, summand_at(e, i));
        }
        sum = add_f(sum, part);
    }
    var bits = canonical_bits(bitcast<u32>(sum));
    if MEAN {
        bits = quotient_of(bits, total_weight(e.b));
    }
    y[e.y] = apply_bits(bits);
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
        y[row] = apply_bits(canonical_bits(bitcast<u32>(sum)));
    }
}

// Dynamic quantization: scale and zero point of each row, or of all rows, and the codes.
//
// Equation 10 to the bit: WGSL's division is not exact, so quotients are made by long division of integers. They are made once
// a row.

// a / b, correctly rounded, for positive b; a quotient below the normal numbers is 0.
fn quotient(a: f32, b: f32) -> f32 {
    let a_bits = bitcast<u32>(a);
    let b_bits = bitcast<u32>(b);
    let sign = a_bits & 0x80000000u;
    let a_exponent = (a_bits >> 23u) & 0xffu;
    let b_exponent = (b_bits >> 23u) & 0xffu;
    if a_exponent == 0u || b_exponent == 0u {
        return 0.0;
    }
    let dividend = (a_bits & 0x7fffffu) | 0x800000u;
    let divisor = (b_bits & 0x7fffffu) | 0x800000u;
    // floor(dividend * 2^26 / divisor), 26 or 27 bits, eight at a time; remainders stay below 2^24.
    var digits = dividend / divisor;
    var rest = dividend % divisor;
    for (var step = 0u; step < 3u; step++) {
        rest <<= 8u;
        digits = (digits << 8u) | (rest / divisor);
        rest %= divisor;
    }
    rest <<= 2u;
    digits = (digits << 2u) | (rest / divisor);
    // To 24 bits. There are no ties: 25 significant bits times the divisor would be more than the dividend's 24.
    let wide = digits >= 0x4000000u;
    let drop = select(2u, 3u, wide);
    let half = 1u << (drop - 1u);
    let tail = digits & ((1u << drop) - 1u);
    var mantissa = digits >> drop;
    if tail >= half {
        mantissa += 1u;
    }
    // A carry out of the mantissa moves into the exponent by itself.
    let exponent = i32(a_exponent) - i32(b_exponent) + select(126, 127, wide);
    if exponent <= 0 {
        return 0.0;
    }
    if exponent >= 255 {
        return bitcast<f32>(sign | 0x7f800000u);
    }
    return bitcast<f32>(sign | ((u32(exponent) << 23u) + (mantissa - 0x800000u)));
}

// Smallest and largest of the elements of a row that a thread looks at, widened to include 0, in the order of floats. NaN is
// left out.
fn own_range(thread: Thread, row: u32) -> vec2<i32> {
    var low = 0;
    var high = 0;
    if row < matrix_rows() {
        for (var column = thread.local; column < params.cols; column += 64u) {
            let bits = a[row * params.cols + column];
            let order = select(order_of(bits), 0, is_nan(bits));
            low = min(low, order);
            high = max(high, order);
        }
    }
    return vec2<i32>(low, high);
}

// Smallest and largest value of each row of a, widened to include 0. One row a group.
@compute @workgroup_size(64)
fn range_f32_f32(thread: Thread) {
    let row = group_of(thread);
    let own = own_range(thread, row);
    let range = group_range(thread, own.x, own.y);
    if thread.local == 0u && row < matrix_rows() {
        y[row * 2u] = bits_of(range.x);
        y[row * 2u + 1u] = bits_of(range.y);
    }
}

// Equation 10: scale and zero point. kind is 0 for affine, 1 for symmetric, 2 for the rule of single rows.
fn chosen(low: f32, high: f32) -> vec2<u32> {
    let lo = f32(params.lo);
    let hi = f32(params.hi);
    var scale = 0.0;
    if params.kind == 1u {
        scale = max(quotient(max(-low, high), (hi - lo) * 0.5), params.factor);
    } else {
        scale = max(quotient(high - low, hi - lo), params.factor);
    }
    var zero_point = 0.0;
    if params.kind == 0u {
        zero_point = clamp(lo - round(quotient(low, scale)), lo, hi);
    } else if params.kind == 2u {
        let from_low = quotient(low, scale);
        let from_high = quotient(high, scale);
        let worse_above = (lo + from_low) + (hi + from_high) > 0.0;
        zero_point = round(clamp(select(hi - from_high, lo - from_low, worse_above), lo, hi));
    }
    // Without the sign of a negative 0, which by way of an integer a driver would keep.
    return vec2<u32>(bitcast<u32>(scale), select(bitcast<u32>(zero_point), 0u, zero_point == 0.0));
}

// One pair of a row from its range.
@compute @workgroup_size(64)
fn choose_per_token_f32_f32(thread: Thread) {
    let row = group_of(thread) * 64u + thread.local;
    if row < matrix_rows() {
        let pair = chosen(bitcast<f32>(a[row * 2u]), bitcast<f32>(a[row * 2u + 1u]));
        y[row * 2u] = pair.x;
        y[row * 2u + 1u] = pair.y;
    }
}

// One pair for all from the ranges of the rows, by one group.
@compute @workgroup_size(64)
fn choose_per_tensor_f32_f32(thread: Thread) {
    var low = 0;
    var high = 0;
    for (var row = thread.local; row < matrix_rows(); row += 64u) {
        low = min(low, order_of(a[row * 2u]));
        high = max(high, order_of(a[row * 2u + 1u]));
    }
    let range = group_range(thread, low, high);
    if thread.local == 0u {
        let pair = chosen(bitcast<f32>(bits_of(range.x)), bitcast<f32>(bits_of(range.y)));
        y[0] = pair.x;
        y[1] = pair.y;
    }
}

// NaN has code zero_point.
fn code_of(bits: u32, inv_scale: f32, zero_point: i32) -> i32 {
    let v = clamp(round(bitcast<f32>(bits) * inv_scale), f32(params.lo - zero_point), f32(params.hi - zero_point));
    return select(i32(v), 0, is_nan(bits)) + zero_point;
}

// Equation 2 for a row of a, to words of y.
fn store_row(thread: Thread, row: u32, inv_scale: f32, zero_point: i32) {
    for (var word = thread.local; word < params.row_words; word += 64u) {
        var codes = vec4<i32>(0);
        let at = row * params.cols + word * 4u;
        if word * 4u < params.cols {
            codes.x = code_of(a[at], inv_scale, zero_point);
        }
        if word * 4u + 1u < params.cols {
            codes.y = code_of(a[at + 1u], inv_scale, zero_point);
        }
        if word * 4u + 2u < params.cols {
            codes.z = code_of(a[at + 2u], inv_scale, zero_point);
        }
        if word * 4u + 3u < params.cols {
            codes.w = code_of(a[at + 3u], inv_scale, zero_point);
        }
        y[row * params.row_words + word] = pack4xI8(codes);
    }
}

// What one thread computes for its row's others: a scale, a zero point and an inverse scale.
var<workgroup> shared_pair: vec2<u32>;
var<workgroup> shared_inv_scale: f32;

// Equation 2 with the pairs b, whose stride is b_col: one row a group, which divides once.
@compute @workgroup_size(64)
fn quantize_dynamic_f32_i8(thread: Thread) {
    let row = group_of(thread);
    let inside = row < matrix_rows();
    let pair = select(0u, row * params.b_col, inside);
    if thread.local == 0u {
        shared_inv_scale = quotient(1.0, bitcast<f32>(b[pair]));
    }
    workgroupBarrier();
    if inside {
        store_row(thread, row, shared_inv_scale, i32(bitcast<f32>(b[pair + 1u])));
    }
}

// Equations 10 and 2 together: the pairs z of the rows, and the codes. One row a group, whose second look at it is served by
// a cache.
@compute @workgroup_size(64)
fn quantize_per_token_f32_i8(thread: Thread) {
    let row = group_of(thread);
    let own = own_range(thread, row);
    let range = group_range(thread, own.x, own.y);
    if thread.local == 0u {
        shared_pair = chosen(bitcast<f32>(bits_of(range.x)), bitcast<f32>(bits_of(range.y)));
        shared_inv_scale = quotient(1.0, bitcast<f32>(shared_pair.x));
    }
    workgroupBarrier();
    if row >= matrix_rows() {
        return;
    }
    if thread.local == 0u {
        z[row * 2u] = shared_pair.x;
        z[row * 2u + 1u] = shared_pair.y;
    }
    store_row(thread, row, shared_inv_scale, i32(bitcast<f32>(shared_pair.y)));
}

// Equation 1 with the pairs b: one element a thread.
@compute @workgroup_size(64)
fn dequantize_dynamic_i8_f32(thread: Thread) {
    let index = group_of(thread) * 64u + thread.local;
    let row = index / params.cols;
    if row >= matrix_rows() {
        return;
    }
    let scale = bitcast<f32>(b[row * params.b_col]);
    let zero_point = i32(bitcast<f32>(b[row * params.b_col + 1u]));
    let code = a_code(row * params.a_words * 4u + index % params.cols);
    y[index] = bitcast<u32>(f32(code - zero_point) * scale);
}

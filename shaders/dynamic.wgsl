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

var<workgroup> smallest: array<f32, 64>;
var<workgroup> largest: array<f32, 64>;

// NaN compares false, and is left out.
fn reduce(local: u32, low: f32, high: f32) {
    smallest[local] = low;
    largest[local] = high;
    workgroupBarrier();
    for (var half = 32u; half > 0u; half >>= 1u) {
        if local < half {
            smallest[local] = min(smallest[local], smallest[local + half]);
            largest[local] = max(largest[local], largest[local + half]);
        }
        workgroupBarrier();
    }
}

// Smallest and largest value of each row of a, widened to include 0. One row a group.
@compute @workgroup_size(64)
fn range_f32_f32(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let row = group_of(group, groups);
    var low = 0.0;
    var high = 0.0;
    if row < matrix_rows() {
        for (var column = local; column < params.cols; column += 64u) {
            let x = bitcast<f32>(a[row * params.cols + column]);
            low = select(low, x, x < low);
            high = select(high, x, x > high);
        }
    }
    reduce(local, low, high);
    if local == 0u && row < matrix_rows() {
        y[row * 2u] = bitcast<u32>(smallest[0]);
        y[row * 2u + 1u] = bitcast<u32>(largest[0]);
    }
}

// Equation 10; kind is 0 for affine, 1 for symmetric, 2 for the rule of single rows.
fn choose(low: f32, high: f32, at: u32) {
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
    y[at] = bitcast<u32>(scale);
    // Without the sign of a negative 0, which by way of an integer a driver would keep.
    y[at + 1u] = select(bitcast<u32>(zero_point), 0u, zero_point == 0.0);
}

// From the ranges of the rows: one row a thread.
@compute @workgroup_size(64)
fn choose_per_token_f32_f32(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let row = group_of(group, groups) * 64u + local;
    if row < matrix_rows() {
        choose(bitcast<f32>(a[row * 2u]), bitcast<f32>(a[row * 2u + 1u]), row * 2u);
    }
}

// From the ranges of the rows: one pair for all, by one group.
@compute @workgroup_size(64)
fn choose_per_tensor_f32_f32(@builtin(local_invocation_index) local: u32) {
    var low = 0.0;
    var high = 0.0;
    for (var row = local; row < matrix_rows(); row += 64u) {
        low = min(low, bitcast<f32>(a[row * 2u]));
        high = max(high, bitcast<f32>(a[row * 2u + 1u]));
    }
    reduce(local, low, high);
    if local == 0u {
        choose(smallest[0], largest[0], 0u);
    }
}

// NaN has code zero_point. Tested by its bits: compilers may assume that floats are not NaN.
fn code_of(bits: u32, inv_scale: f32, zero_point: i32) -> i32 {
    let v = clamp(round(bitcast<f32>(bits) * inv_scale), f32(params.lo - zero_point), f32(params.hi - zero_point));
    return select(i32(v), 0, (bits & 0x7fffffffu) > 0x7f800000u) + zero_point;
}

var<workgroup> inv_scale: f32;

// Equation 2 with the pairs b, whose stride is b_col: one row a group, which divides once.
@compute @workgroup_size(64)
fn quantize_dynamic_f32_i8(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let row = group_of(group, groups);
    let inside = row < matrix_rows();
    let pair = select(0u, row * params.b_col, inside);
    if local == 0u {
        inv_scale = quotient(1.0, bitcast<f32>(b[pair]));
    }
    workgroupBarrier();
    if !inside {
        return;
    }
    let zero_point = i32(bitcast<f32>(b[pair + 1u]));
    for (var word = local; word < params.row_words; word += 64u) {
        var codes = vec4<i32>(0);
        for (var lane = 0u; lane < 4u; lane++) {
            let column = word * 4u + lane;
            if column < params.cols {
                codes[lane] = code_of(a[row * params.cols + column], inv_scale, zero_point);
            }
        }
        y[row * params.row_words + word] = pack4xI8(codes);
    }
}

// Equation 1 with the pairs b: one element a thread.
@compute @workgroup_size(64)
fn dequantize_dynamic_i8_f32(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let index = group_of(group, groups) * 64u + local;
    let row = index / params.cols;
    if row >= matrix_rows() {
        return;
    }
    let scale = bitcast<f32>(b[row * params.b_col]);
    let zero_point = i32(bitcast<f32>(b[row * params.b_col + 1u]));
    let code = a_code(row * params.a_words * 4u + index % params.cols);
    y[index] = bitcast<u32>(f32(code - zero_point) * scale);
}

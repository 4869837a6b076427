// Clamps and casts of each element, over any strides and on vectors.

// The bits of a float, or of the bound that it exceeds. NaN exceeds neither.
fn clamped(bits: u32) -> u32 {
    let order = order_of(bits);
    let low = bitcast<u32>(params.low);
    let high = bitcast<u32>(params.high);
    let raised = select(bits, low, order < order_of(low));
    return select(raised, high, order > order_of(high) && !is_nan(bits));
}

@compute @workgroup_size(64)
fn clamp_f32_f32(thread: Thread) {
    let e = element(thread);
    if e.inside {
        y[e.y] = clamped(a[e.a]);
    }
}

@compute @workgroup_size(64)
fn clamp_vec4_f32_f32(thread: Thread) {
    let v = vector_at(thread);
    if v.inside {
        let bits = a_vecs[v.at];
        y_vecs[v.at] = vec4<u32>(clamped(bits.x), clamped(bits.y), clamped(bits.z), clamped(bits.w));
    }
}

// WGSL does not define how f32(i32) rounds integers of more than 24 bits. This kernel first shifts out the bits that a float lacks,
// to nearest and ties to even; then it converts and scales back, both exactly.
@compute @workgroup_size(64)
fn to_float_i32_f32(thread: Thread) {
    let e = element(thread);
    if !e.inside {
        return;
    }
    let bits = a[e.a];
    let negative = (bits >> 31u) == 1u;
    let magnitude = select(bits, ~bits + 1u, negative);
    let shift = 8u - min(countLeadingZeros(magnitude), 8u);
    let half = (1u << shift) >> 1u;
    let rounding = select(0u, half - 1u + ((magnitude >> shift) & 1u), shift > 0u);
    let v = f32((magnitude + rounding) >> shift) * f32(1u << shift);
    y[e.y] = bitcast<u32>(select(v, -v, negative));
}

// Cuts off the fraction of a float, and then the bits that the type lacks.
@compute @workgroup_size(64)
fn to_integer(thread: Thread) {
    let e = element(thread);
    if !e.inside {
        return;
    }
    var bits = a[e.a];
    if params.from_float == 1u {
        // The smallest and the largest float in the range of i32, because devices convert floats beyond it differently.
        bits = bitcast<u32>(i32(clamp(bitcast<f32>(bits), -2147483648.0, 2147483520.0)));
    }
    bits <<= params.shift;
    y[e.y] = select(bits >> params.shift, bitcast<u32>(bitcast<i32>(bits) >> params.shift), params.has_sign == 1u);
}

// Two elements a thread, since they share a word; rows may share words too.
@compute @workgroup_size(64)
fn to_f16_f32_f16(thread: Thread) {
    let at = thread_index(thread) * 2u;
    let elements = matrix_rows() * params.strided.cols;
    if at >= elements {
        return;
    }
    let second = select(0.0, bitcast<f32>(a[min(at + 1u, elements - 1u)]), at + 1u < elements);
    y[at / 2u] = pack_f16(bitcast<f32>(a[at]), second);
}

// Clamps and casts of each element, over any strides and on vectors.

fn clamped(bits: u32) -> u32 {
    return limited(bits, bitcast<u32>(params.low), bitcast<u32>(params.high));
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

@compute @workgroup_size(64)
fn to_float_i32_f32(thread: Thread) {
    let e = element(thread);
    if e.inside {
        y[e.y] = float_of_integer(a[e.a]);
    }
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

// Two elements share a word; rows may share words too.
@compute @workgroup_size(64)
fn from_f16_f16_f32(thread: Thread) {
    let at = thread_index(thread);
    if at < matrix_rows() * params.strided.cols {
        y[at] = f32_bits((a[at / 2u] >> (16u * (at % 2u))) & 0xffffu);
    }
}

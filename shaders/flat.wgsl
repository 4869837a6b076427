// Kernels on each element where all operands lie alike, or the second repeats: vectors of four floats or sixteen codes a
// thread. Padding of codes is computed on like the rest.

// The vector of this thread, and of b; or none.
struct Vectors {
    inside: bool,
    at: u32,
    b: u32,
}

fn vectors(thread: Thread) -> Vectors {
    let at = group_of(thread) * 64u + thread.local;
    // Vectors of a row.
    return Vectors(at < matrix_rows() * params.row_words, at, at % params.b_vecs);
}

@compute @workgroup_size(64)
fn add_flat_f32_f32(thread: Thread) {
    let v = vectors(thread);
    if v.inside {
        y_vecs[v.at] = bitcast<vec4<u32>>(bitcast<vec4<f32>>(a_vecs[v.at]) + bitcast<vec4<f32>>(b_vecs[v.b]));
    }
}

@compute @workgroup_size(64)
fn mul_flat_f32_f32(thread: Thread) {
    let v = vectors(thread);
    if v.inside {
        y_vecs[v.at] = bitcast<vec4<u32>>(bitcast<vec4<f32>>(a_vecs[v.at]) * bitcast<vec4<f32>>(b_vecs[v.b]));
    }
}

@compute @workgroup_size(64)
fn div_flat_f32_f32(thread: Thread) {
    let v = vectors(thread);
    if v.inside {
        y_vecs[v.at] = bitcast<vec4<u32>>(bitcast<vec4<f32>>(a_vecs[v.at]) / bitcast<vec4<f32>>(b_vecs[v.b]));
    }
}

@compute @workgroup_size(64)
fn keep_flat_f32_f32(thread: Thread) {
    let v = vectors(thread);
    if v.inside {
        let bits = a_vecs[v.at];
        let condition = b_vecs[v.b];
        y_vecs[v.at] = vec4<u32>(
            kept(bits.x, condition.x), kept(bits.y, condition.y), kept(bits.z, condition.z), kept(bits.w, condition.w)
        );
    }
}

@compute @workgroup_size(64)
fn binary_flat_f32_f32(thread: Thread) {
    let v = vectors(thread);
    if v.inside {
        let left = a_vecs[v.at];
        let right = b_vecs[v.b];
        y_vecs[v.at] = vec4<u32>(
            binary(left.x, right.x), binary(left.y, right.y), binary(left.z, right.z), binary(left.w, right.w)
        );
    }
}

@compute @workgroup_size(64)
fn clamp_flat_f32_f32(thread: Thread) {
    let v = vectors(thread);
    if v.inside {
        let bits = a_vecs[v.at];
        y_vecs[v.at] = vec4<u32>(clamped(bits.x), clamped(bits.y), clamped(bits.z), clamped(bits.w));
    }
}

@compute @workgroup_size(64)
fn unary_flat_f32_f32(thread: Thread) {
    let v = vectors(thread);
    if v.inside {
        let x = bitcast<vec4<f32>>(a_vecs[v.at]);
        let kind = params.kind;
        y_vecs[v.at] = bitcast<vec4<u32>>(
            vec4<f32>(unary(kind, x.x), unary(kind, x.y), unary(kind, x.z), unary(kind, x.w))
        );
    }
}

// Equation 8.
fn added(left: u32, right: u32) -> u32 {
    let acc = (unpack4xI8(left) - vec4<i32>(params.a_zero_point)) * params.a_multiplier
        + (unpack4xI8(right) - vec4<i32>(params.b_zero_point)) * params.b_multiplier;
    return pack4xI8(rounded_sum(acc, params.shift, params.zero_point, params.lo, params.hi));
}

@compute @workgroup_size(64)
fn add_flat_i8_i8(thread: Thread) {
    let v = vectors(thread);
    if v.inside {
        let left = a_vecs[v.at];
        let right = b_vecs[v.b];
        y_vecs[v.at] = vec4<u32>(
            added(left.x, right.x), added(left.y, right.y), added(left.z, right.z), added(left.w, right.w)
        );
    }
}

// Equation 9 of single elements, and equation 5.
fn multiplied(left: u32, right: u32) -> u32 {
    let acc = (unpack4xI8(left) - vec4<i32>(params.a_zero_point)) * (unpack4xI8(right) - vec4<i32>(params.b_zero_point));
    let lo = vec4<f32>(f32(params.lo - params.zero_point));
    let hi = vec4<f32>(f32(params.hi - params.zero_point));
    let v = clamp(round(vec4<f32>(acc) * params.factor), lo, hi);
    return pack4xI8(vec4<i32>(v) + vec4<i32>(params.zero_point));
}

@compute @workgroup_size(64)
fn mul_flat_i8_i8(thread: Thread) {
    let v = vectors(thread);
    if v.inside {
        let left = a_vecs[v.at];
        let right = b_vecs[v.b];
        y_vecs[v.at] = vec4<u32>(
            multiplied(left.x, right.x), multiplied(left.y, right.y), multiplied(left.z, right.z),
            multiplied(left.w, right.w)
        );
    }
}

// Entry code + 128 of the table b.
fn looked_up(word: u32) -> u32 {
    let at = vec4<u32>(unpack4xI8(word) + vec4<i32>(128));
    return pack4xI8(vec4<i32>(b_code(at.x), b_code(at.y), b_code(at.z), b_code(at.w)));
}

@compute @workgroup_size(64)
fn table_flat_i8_i8(thread: Thread) {
    let at = group_of(thread) * 64u + thread.local;
    if at < matrix_rows() * params.row_words {
        let codes = a_vecs[at];
        y_vecs[at] = vec4<u32>(looked_up(codes.x), looked_up(codes.y), looked_up(codes.z), looked_up(codes.w));
    }
}

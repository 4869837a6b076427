// f32 to int8 and back, four columns a thread.

fn float_at(at: u32, column: u32) -> f32 {
    if column < params.cols {
        return bitcast<f32>(src[at]);
    }
    return 0.0;
}

// NaN has code zero_point. Tested by its bits: compilers may assume that floats are not NaN.
fn is_nan(x: vec4<f32>) -> vec4<bool> {
    return (bitcast<vec4<u32>>(x) & vec4<u32>(0x7fffffffu)) > vec4<u32>(0x7f800000u);
}

// Equation 2, from a dense matrix to a padded one.
@compute @workgroup_size(64)
fn quantize_f32_i8(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let word = word_of(group, groups, local);
    let row = word / params.row_words;
    if row >= matrix_rows() {
        return;
    }
    let column = (word % params.row_words) * 4u;
    let at = row * params.cols + column;
    let x = vec4<f32>(
        float_at(at, column), float_at(at + 1u, column + 1u), float_at(at + 2u, column + 2u), float_at(at + 3u, column + 3u)
    );
    let v = clamp(round(x * params.factor), vec4<f32>(params.lo), vec4<f32>(params.hi));
    let q = select(vec4<i32>(v), vec4<i32>(0), is_nan(x)) + vec4<i32>(params.zero_point);
    dst[word] = pack4xI8(q);
}

// Equation 1, from a padded matrix to a dense one.
@compute @workgroup_size(64)
fn dequantize_i8_f32(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let word = word_of(group, groups, local);
    let row = word / params.row_words;
    if row >= matrix_rows() {
        return;
    }
    let column = (word % params.row_words) * 4u;
    let at = row * params.cols + column;
    let x = bitcast<vec4<u32>>(vec4<f32>(unpack4xI8(src[word]) - vec4<i32>(params.zero_point)) * params.factor);
    if column < params.cols {
        dst[at] = x.x;
    }
    if column + 1u < params.cols {
        dst[at + 1u] = x.y;
    }
    if column + 2u < params.cols {
        dst[at + 2u] = x.z;
    }
    if column + 3u < params.cols {
        dst[at + 3u] = x.w;
    }
}

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

// Equation 2.
fn codes_of(x: vec4<f32>) -> u32 {
    let v = clamp(round(x * params.factor), vec4<f32>(params.lo), vec4<f32>(params.hi));
    return pack4xI8(select(vec4<i32>(v), vec4<i32>(0), is_nan(x)) + vec4<i32>(params.zero_point));
}

// Equation 1.
fn floats_of(codes: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xI8(codes) - vec4<i32>(params.zero_point)) * params.factor;
}

// Where rows have no padding.
@compute @workgroup_size(64)
fn quantize_flat_f32_i8(thread: Thread) {
    let word = word_of(thread);
    if word < matrix_rows() * params.row_words {
        dst[word] = codes_of(bitcast<vec4<f32>>(src_vecs[word]));
    }
}

@compute @workgroup_size(64)
fn dequantize_flat_i8_f32(thread: Thread) {
    let word = word_of(thread);
    if word < matrix_rows() * params.row_words {
        dst_vecs[word] = bitcast<vec4<u32>>(floats_of(src[word]));
    }
}

// From a dense matrix to a padded one.
@compute @workgroup_size(64)
fn quantize_f32_i8(thread: Thread) {
    let word = word_of(thread);
    let row = word / params.row_words;
    if row >= matrix_rows() {
        return;
    }
    let column = (word % params.row_words) * 4u;
    let at = row * params.cols + column;
    let x = vec4<f32>(
        float_at(at, column), float_at(at + 1u, column + 1u), float_at(at + 2u, column + 2u), float_at(at + 3u, column + 3u)
    );
    dst[word] = codes_of(x);
}

// From a padded matrix to a dense one.
@compute @workgroup_size(64)
fn dequantize_i8_f32(thread: Thread) {
    let word = word_of(thread);
    let row = word / params.row_words;
    if row >= matrix_rows() {
        return;
    }
    let column = (word % params.row_words) * 4u;
    let at = row * params.cols + column;
    let x = bitcast<vec4<u32>>(floats_of(src[word]));
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

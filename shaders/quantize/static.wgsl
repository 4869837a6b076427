// f32 to int8 and back with static qparams, four columns a thread.

// One entry point uses either the words or the vectors of a binding.
@group(0) @binding(3) var<storage, read_write> a_vecs: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> y_vecs: array<vec4<u32>>;

fn float_at(at: u32, column: u32) -> f32 {
    if column < params.cols {
        return bitcast<f32>(a[at]);
    }
    return 0.0;
}

// `factor` is the inverse scale; 1 for numbers that are divided by the scale already.
fn quantize_word(x: vec4<f32>, factor: f32) -> u32 {
    let z = params.zero_point;
    let range = range_about(z);
    return pack4xI8(vec4<i32>(
        quantize(x.x, factor, z, range.x, range.y), quantize(x.y, factor, z, range.x, range.y),
        quantize(x.z, factor, z, range.x, range.y), quantize(x.w, factor, z, range.x, range.y)
    ));
}

fn divided(x: vec4<u32>) -> vec4<f32> {
    let scale = bitcast<u32>(params.scale);
    return bitcast<vec4<f32>>(vec4<u32>(
        quotient_of(x.x, scale), quotient_of(x.y, scale), quotient_of(x.z, scale), quotient_of(x.w, scale)
    ));
}

fn dequantize_word(word: u32) -> vec4<f32> {
    let q = unpack4xI8(word);
    let z = params.zero_point;
    return vec4<f32>(
        dequantize(q.x, params.scale, z), dequantize(q.y, params.scale, z), dequantize(q.z, params.scale, z),
        dequantize(q.w, params.scale, z)
    );
}

// Rows without padding.
@compute @workgroup_size(64)
fn quantize_vec4_f32_i8(thread: Thread) {
    let word = thread_index(thread);
    if word < matrix_rows() * params.row_words {
        y[word] = quantize_word(bitcast<vec4<f32>>(a_vecs[word]), params.inv_scale);
    }
}

@compute @workgroup_size(64)
fn quantize_divide_vec4_f32_i8(thread: Thread) {
    let word = thread_index(thread);
    if word < matrix_rows() * params.row_words {
        y[word] = quantize_word(divided(a_vecs[word]), 1.0f);
    }
}

@compute @workgroup_size(64)
fn dequantize_vec4_i8_f32(thread: Thread) {
    let word = thread_index(thread);
    if word < matrix_rows() * params.row_words {
        y_vecs[word] = bitcast<vec4<u32>>(dequantize_word(a[word]));
    }
}

// Four columns of a dense matrix for a word of a padded one.
fn columns_of(row: u32, word: u32) -> vec4<f32> {
    let column = (word % params.row_words) * 4u;
    let at = row * params.cols + column;
    return vec4<f32>(
        float_at(at, column), float_at(at + 1u, column + 1u), float_at(at + 2u, column + 2u), float_at(at + 3u, column + 3u)
    );
}

// From a dense matrix to a padded one.
@compute @workgroup_size(64)
fn quantize_f32_i8(thread: Thread) {
    let word = thread_index(thread);
    let row = word / params.row_words;
    if row < matrix_rows() {
        y[word] = quantize_word(columns_of(row, word), params.inv_scale);
    }
}

@compute @workgroup_size(64)
fn quantize_divide_f32_i8(thread: Thread) {
    let word = thread_index(thread);
    let row = word / params.row_words;
    if row < matrix_rows() {
        y[word] = quantize_word(divided(bitcast<vec4<u32>>(columns_of(row, word))), 1.0f);
    }
}

// From a padded matrix to a dense one.
@compute @workgroup_size(64)
fn dequantize_i8_f32(thread: Thread) {
    let word = thread_index(thread);
    let row = word / params.row_words;
    if row >= matrix_rows() {
        return;
    }
    let column = (word % params.row_words) * 4u;
    let at = row * params.cols + column;
    let x = bitcast<vec4<u32>>(dequantize_word(a[word]));
    if column < params.cols {
        y[at] = x.x;
    }
    if column + 1u < params.cols {
        y[at + 1u] = x.y;
    }
    if column + 2u < params.cols {
        y[at + 2u] = x.z;
    }
    if column + 3u < params.cols {
        y[at + 3u] = x.w;
    }
}

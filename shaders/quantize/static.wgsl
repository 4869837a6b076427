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

fn quantize_word(x: vec4<f32>) -> u32 {
    let z = params.zero_point;
    let range = range_about(z);
    return pack4xI8(vec4<i32>(
        quantize(x.x, params.inv_scale, z, range.x, range.y), quantize(x.y, params.inv_scale, z, range.x, range.y),
        quantize(x.z, params.inv_scale, z, range.x, range.y), quantize(x.w, params.inv_scale, z, range.x, range.y)
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
        y[word] = quantize_word(bitcast<vec4<f32>>(a_vecs[word]));
    }
}

@compute @workgroup_size(64)
fn dequantize_vec4_i8_f32(thread: Thread) {
    let word = thread_index(thread);
    if word < matrix_rows() * params.row_words {
        y_vecs[word] = bitcast<vec4<u32>>(dequantize_word(a[word]));
    }
}

// From a dense matrix to a padded one.
@compute @workgroup_size(64)
fn quantize_f32_i8(thread: Thread) {
    let word = thread_index(thread);
    let row = word / params.row_words;
    if row >= matrix_rows() {
        return;
    }
    let column = (word % params.row_words) * 4u;
    let at = row * params.cols + column;
    let x = vec4<f32>(
        float_at(at, column), float_at(at + 1u, column + 1u), float_at(at + 2u, column + 2u), float_at(at + 3u, column + 3u)
    );
    y[word] = quantize_word(x);
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

// A lookup table from int8 values to int8 values, over any strides and on vectors.

// 256 int8 values: entry `q + 128` is the result for q.
@group(0) @binding(5) var<storage, read_write> lut: array<u32>;

fn lut_word(at: u32) -> u32 {
    return lut[at];
}

@compute @workgroup_size(64)
fn lut_i8_i8(thread: Thread) {
    let word = word_at(thread);
    if word.inside {
        y[word.y] = pack4xI8(look_up(a_values(word)));
    }
}

fn look_up_word(word: u32) -> u32 {
    return pack4xI8(look_up(unpack4xI8(word)));
}

@compute @workgroup_size(64)
fn lut_vec4_i8_i8(thread: Thread) {
    let v = vector_at(thread);
    if v.inside {
        let words = a_vecs[v.at];
        y_vecs[v.at] = vec4<u32>(look_up_word(words.x), look_up_word(words.y), look_up_word(words.z), look_up_word(words.w));
    }
}

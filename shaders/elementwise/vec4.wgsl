// Two values of the same layout, of which the second may repeat: four floats or sixteen int8 values a thread.

@compute @workgroup_size(64)
fn add_vec4_f32_f32(thread: Thread) {
    let v = vector_at(thread);
    if v.inside {
        let left = a_vecs[v.at];
        let right = b_vecs[v.at % params.b_vecs];
        y_vecs[v.at] = vec4<u32>(
            sum_of(left.x, right.x), sum_of(left.y, right.y), sum_of(left.z, right.z), sum_of(left.w, right.w)
        );
    }
}

@compute @workgroup_size(64)
fn mul_vec4_f32_f32(thread: Thread) {
    let v = vector_at(thread);
    if v.inside {
        let left = a_vecs[v.at];
        let right = b_vecs[v.at % params.b_vecs];
        y_vecs[v.at] = vec4<u32>(
            product_of(left.x, right.x), product_of(left.y, right.y), product_of(left.z, right.z), product_of(left.w, right.w)
        );
    }
}

@compute @workgroup_size(64)
fn div_vec4_f32_f32(thread: Thread) {
    let v = vector_at(thread);
    if v.inside {
        let left = a_vecs[v.at];
        let right = b_vecs[v.at % params.b_vecs];
        y_vecs[v.at] = vec4<u32>(
            quotient_of(left.x, right.x), quotient_of(left.y, right.y), quotient_of(left.z, right.z), quotient_of(left.w, right.w)
        );
    }
}

@compute @workgroup_size(64)
fn mask_vec4_f32_f32(thread: Thread) {
    let v = vector_at(thread);
    if v.inside {
        let bits = a_vecs[v.at];
        let condition = b_vecs[v.at % params.b_vecs];
        y_vecs[v.at] = vec4<u32>(
            masked(bits.x, condition.x), masked(bits.y, condition.y), masked(bits.z, condition.z), masked(bits.w, condition.w)
        );
    }
}

@compute @workgroup_size(64)
fn binary_vec4_f32_f32(thread: Thread) {
    let v = vector_at(thread);
    if v.inside {
        let left = a_vecs[v.at];
        let right = b_vecs[v.at % params.b_vecs];
        y_vecs[v.at] = vec4<u32>(
            binary(left.x, right.x), binary(left.y, right.y), binary(left.z, right.z), binary(left.w, right.w)
        );
    }
}

fn add_words(left: u32, right: u32) -> u32 {
    return pack4xI8(add(unpack4xI8(left), unpack4xI8(right), params.add));
}

@compute @workgroup_size(64)
fn add_vec4_i8_i8(thread: Thread) {
    let v = vector_at(thread);
    if v.inside {
        let left = a_vecs[v.at];
        let right = b_vecs[v.at % params.b_vecs];
        y_vecs[v.at] = vec4<u32>(
            add_words(left.x, right.x), add_words(left.y, right.y), add_words(left.z, right.z), add_words(left.w, right.w)
        );
    }
}

fn multiply_words(left: u32, right: u32) -> u32 {
    return pack4xI8(multiply(unpack4xI8(left), unpack4xI8(right)));
}

@compute @workgroup_size(64)
fn mul_vec4_i8_i8(thread: Thread) {
    let v = vector_at(thread);
    if v.inside {
        let left = a_vecs[v.at];
        let right = b_vecs[v.at % params.b_vecs];
        y_vecs[v.at] = vec4<u32>(
            multiply_words(left.x, right.x), multiply_words(left.y, right.y), multiply_words(left.z, right.z),
            multiply_words(left.w, right.w)
        );
    }
}

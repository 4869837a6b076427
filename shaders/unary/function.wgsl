// A function of each element, over any strides and on vectors.

@compute @workgroup_size(64)
fn unary_f32_f32(thread: Thread) {
    let e = element(thread);
    if e.inside {
        y[e.y] = apply_bits(a[e.a]);
    }
}

@compute @workgroup_size(64)
fn unary_vec4_f32_f32(thread: Thread) {
    let v = vector_at(thread);
    if v.inside {
        y_vecs[v.at] = apply_to_four(a_vecs[v.at]);
    }
}

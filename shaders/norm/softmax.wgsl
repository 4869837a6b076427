// Softmax (equation 11).

fn element(at: u32) -> f32 {
    return bitcast<f32>(canonical_bits(a[at]));
}

@compute @workgroup_size(64)
fn softmax_f32_f32(thread: Thread) {
    let line = group_index(thread);
    let inside = line < batch_rows() * params.rows_factor;
    let stride = params.stride;
    let start = select(0u, line / stride * stride * params.length + line % stride, inside);
    var order = LOWEST;
    for (var i = thread.local; i < params.length; i += 64u) {
        order = max(order, order_of(a[start + i * stride]));
    }
    order = workgroup_range(thread, order, order).y;
    // A line of infinities of either sign only, or with +∞ or NaN, becomes NaN.
    let defined = order > LOWEST && order < HIGHEST;
    let largest = bitcast<f32>(canonical_bits(select(0u, bits_of(order), defined)));
    var total = 0.0f;
    for (var i = thread.local; i < params.length; i += 64u) {
        total = add_f(total, exp_of_negative(sub_f(element(start + i * stride), largest)));
    }
    let inv_total = flush(quotient(1.0f, workgroup_sum(thread, total)));
    if !inside {
        return;
    }
    for (var i = thread.local; i < params.length; i += 64u) {
        let share = mul_f(exp_of_negative(sub_f(element(start + i * stride), largest)), inv_total);
        y[start + i * stride] = select(NAN, canonical_bits(bitcast<u32>(share)), defined);
    }
}

// Softmax.

// e to the power of the element minus the largest. Below −104 that is 0 in f32, also for −∞.
fn share(bits: u32, largest: f32) -> f32 {
    return exp(max(bitcast<f32>(bits) - largest, -104.0));
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
    // A line of −∞ only, or with +∞ or NaN, becomes NaN.
    let defined = order > LOWEST && order < HIGHEST;
    let largest = bitcast<f32>(bits_of(order));
    var total = 0.0;
    for (var i = thread.local; i < params.length; i += 64u) {
        total += share(a[start + i * stride], largest);
    }
    let inv_total = 1.0 / workgroup_sum(thread, total);
    if !inside {
        return;
    }
    for (var i = thread.local; i < params.length; i += 64u) {
        y[start + i * stride] = select(NAN, bitcast<u32>(share(a[start + i * stride], largest) * inv_total), defined);
    }
}

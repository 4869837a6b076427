// Softmax (equation 11): a workgroup for each line. Another file gives the element i of a line, as bits, and the place of its result.

@compute @workgroup_size(64)
fn softmax_f32_f32(thread: Thread) {
    let group = group_index(thread);
    let inside = group < lines();
    let line = select(0u, group, inside);
    let length = line_length();
    var order = LOWEST;
    for (var i = thread.local; i < length; i += 64u) {
        order = max(order, order_of(element_bits(line, i)));
    }
    order = workgroup_range(thread, order, order).y;
    // A line of −∞ only, or with +∞ or NaN, becomes NaN.
    let defined = order > LOWEST && order < HIGHEST;
    let largest = bitcast<f32>(canonical_bits(select(0u, bits_of(order), defined)));
    var total = 0.0f;
    for (var i = thread.local; i < length; i += 64u) {
        total = add_f(total, exp_of_negative(sub_f(bitcast<f32>(canonical_bits(element_bits(line, i))), largest)));
    }
    let inv_total = flush(quotient(1.0f, workgroup_sum(thread, total)));
    if !inside {
        return;
    }
    for (var i = thread.local; i < length; i += 64u) {
        let e = exp_of_negative(sub_f(bitcast<f32>(canonical_bits(element_bits(line, i))), largest));
        y[result_at(line, i)] = select(NAN, canonical_bits(bitcast<u32>(mul_f(e, inv_total))), defined);
    }
}

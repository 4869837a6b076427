// Softmax (equation 11) of lines of at most 128 elements: eight threads a line and eight lines a workgroup, so that barriers serve eight
// lines. Each thread has eight of the 64 sums of a line: of the elements whose number is its own, and 8, 16, and so on more.

// The bits of elements, then of their exponentials: element i of a line is entry 64 (i / 8) + its thread.
var<workgroup> held: array<u32, 1024>;

// Adds the exponential of element `i` to a sum.
fn plus(sum: f32, i: u32, local: u32, largest: f32) -> f32 {
    if i >= line_length() {
        return sum;
    }
    let at = i / 8u * 64u + local;
    let e = exp_of_negative(sub_f(bitcast<f32>(canonical_bits(held[at])), largest));
    held[at] = bitcast<u32>(e);
    return add_f(sum, e);
}

@compute @workgroup_size(64)
fn softmax_short_f32_f32(thread: Thread) {
    let local = thread.local;
    let lane = local % 8u;
    let index = thread_index(thread) / 8u;
    let inside = index < lines();
    let line = line_at(select(0u, index, inside));
    let length = line_length();
    var order = LOWEST;
    for (var i = lane; i < length; i += 8u) {
        let bits = element_bits(line, i);
        order = max(order, order_of(bits));
        held[i / 8u * 64u + local] = bits;
    }
    order = largest_of_eight(local, order);
    // A line of −∞ only, or with +∞ or NaN, becomes NaN.
    let defined = order > LOWEST && order < HIGHEST;
    let largest = bitcast<f32>(canonical_bits(select(0u, bits_of(order), defined)));
    var s0 = 0.0f;
    var s1 = 0.0f;
    var s2 = 0.0f;
    var s3 = 0.0f;
    var s4 = 0.0f;
    var s5 = 0.0f;
    var s6 = 0.0f;
    var s7 = 0.0f;
    for (var i = lane; i < length; i += 64u) {
        s0 = plus(s0, i, local, largest);
        s1 = plus(s1, i + 8u, local, largest);
        s2 = plus(s2, i + 16u, local, largest);
        s3 = plus(s3, i + 24u, local, largest);
        s4 = plus(s4, i + 32u, local, largest);
        s5 = plus(s5, i + 40u, local, largest);
        s6 = plus(s6, i + 48u, local, largest);
        s7 = plus(s7, i + 56u, local, largest);
    }
    let total = sum_of_eight(local, vec4<f32>(s0, s1, s2, s3), vec4<f32>(s4, s5, s6, s7));
    let inv_total = flush(quotient(1.0f, total));
    if !inside {
        return;
    }
    for (var i = lane; i < length; i += 8u) {
        let e = bitcast<f32>(held[i / 8u * 64u + local]);
        y[result_at(line, i)] = select(NAN, canonical_bits(bitcast<u32>(mul_f(e, inv_total))), defined);
    }
}

// Softmax (equation 11): a workgroup for each line. Another file gives the elements of lines, as bits, and the places of their results.

// The elements of a line that workgroup memory holds: as many as any line of these has, or 1 if it holds none.
override HELD: u32 = 1u;

var<workgroup> held: array<u32, HELD>;

// Element `i`, canonical, less the largest.
fn difference(line: Line, i: u32, largest: f32) -> f32 {
    if HELD > 1u {
        return sub_f(bitcast<f32>(canonical_bits(held[i])), largest);
    }
    return sub_f(bitcast<f32>(canonical_bits(element_bits(line, i))), largest);
}

// A thread reads what it has left in workgroup memory itself, so there is no barrier.
@compute @workgroup_size(64)
fn softmax_f32_f32(thread: Thread) {
    let group = group_index(thread);
    let inside = group < lines();
    let line = line_at(select(0u, group, inside));
    let length = line_length();
    var order = LOWEST;
    for (var i = thread.local; i < length; i += 64u) {
        let bits = element_bits(line, i);
        order = max(order, order_of(bits));
        if HELD > 1u {
            held[i] = bits;
        }
    }
    order = workgroup_range(thread, order, order).y;
    // A line of −∞ only, or with +∞ or NaN, becomes NaN.
    let defined = order > LOWEST && order < HIGHEST;
    let largest = bitcast<f32>(canonical_bits(select(0u, bits_of(order), defined)));
    var total = 0.0f;
    for (var i = thread.local; i < length; i += 64u) {
        let e = exp_of_negative(difference(line, i, largest));
        total = add_f(total, e);
        if HELD > 1u {
            held[i] = bitcast<u32>(e);
        }
    }
    let inv_total = flush(quotient(1.0f, workgroup_sum(thread, total)));
    if !inside {
        return;
    }
    for (var i = thread.local; i < length; i += 64u) {
        var e = 0.0f;
        if HELD > 1u {
            e = bitcast<f32>(held[i]);
        } else {
            e = exp_of_negative(difference(line, i, largest));
        }
        y[result_at(line, i)] = select(NAN, canonical_bits(bitcast<u32>(mul_f(e, inv_total))), defined);
    }
}

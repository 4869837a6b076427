// Softmax and layer norm. One line a group of 64 threads.

// e to the power of how far an element lies below the largest. Below −104 that is 0 in f32, also of −∞.
fn share(bits: u32, largest: f32) -> f32 {
    return exp(max(bitcast<f32>(bits) - largest, -104.0));
}

// A line has k elements, a_col apart; a_col lines lie side by side.
@compute @workgroup_size(64)
fn softmax_f32_f32(thread: Thread) {
    let line = group_of(thread);
    let inside = line < matrix_rows();
    let stride = params.a_col;
    let start = select(0u, line / stride * stride * params.k + line % stride, inside);
    var order = LOWEST;
    for (var i = thread.local; i < params.k; i += 64u) {
        order = max(order, order_of(a[start + i * stride]));
    }
    order = group_range(thread, order, order).y;
    // A line of which nothing but −∞ is there, or that has +∞ or NaN, is NaN.
    let defined = order > LOWEST && order < HIGHEST;
    let largest = bitcast<f32>(bits_of(order));
    var sum = 0.0;
    for (var i = thread.local; i < params.k; i += 64u) {
        sum += share(a[start + i * stride], largest);
    }
    let inv_sum = 1.0 / group_sum(thread, sum);
    if !inside {
        return;
    }
    for (var i = thread.local; i < params.k; i += 64u) {
        y[start + i * stride] = select(NAN, bitcast<u32>(share(a[start + i * stride], largest) * inv_sum), defined);
    }
}

// Whether d is added to a first, and whether the sum is wanted in z.
override ADD: bool = false;
override KEEP_SUM: bool = false;
// Whether codes are written, by equation 2.
override QUANTIZE: bool = false;

fn element(at: u32) -> f32 {
    let x = bitcast<f32>(a[at]);
    if ADD {
        return x + bitcast<f32>(d[at]);
    }
    return x;
}

fn normalized(at: u32, i: u32, mean: f32, inv_std: f32) -> f32 {
    return (element(at + i) - mean) * inv_std * bitcast<f32>(b[i]) + bitcast<f32>(c[i]);
}

// NaN has code zero_point.
fn code_of(x: f32) -> u32 {
    let lo = f32(params.lo - params.zero_point);
    let hi = f32(params.hi - params.zero_point);
    let v = i32(clamp(round(x * params.inv_scale), lo, hi));
    return u32(select(v, 0, is_nan(bitcast<u32>(x))) + params.zero_point) & 0xffu;
}

// A line has k elements; b is the weight, c the bias, factor is eps.
@compute @workgroup_size(64)
fn layer_norm_f32_f32(thread: Thread) {
    let line = group_of(thread);
    let inside = line < matrix_rows();
    let start = select(0u, line * params.k, inside);
    var sum = 0.0;
    for (var i = thread.local; i < params.k; i += 64u) {
        let x = element(start + i);
        if KEEP_SUM && inside {
            z[start + i] = bitcast<u32>(x);
        }
        sum += x;
    }
    let mean = group_sum(thread, sum) / f32(params.k);
    var squares = 0.0;
    for (var i = thread.local; i < params.k; i += 64u) {
        let deviation = element(start + i) - mean;
        squares += deviation * deviation;
    }
    let inv_std = 1.0 / sqrt(group_sum(thread, squares) / f32(params.k) + params.factor);
    if !inside {
        return;
    }
    if QUANTIZE {
        for (var word = thread.local; word < params.row_words; word += 64u) {
            var codes = 0u;
            for (var i = word * 4u; i < min(word * 4u + 4u, params.k); i++) {
                codes |= code_of(normalized(start, i, mean, inv_std)) << (8u * (i % 4u));
            }
            y[line * params.row_words + word] = codes;
        }
        return;
    }
    for (var i = thread.local; i < params.k; i += 64u) {
        y[start + i] = bitcast<u32>(normalized(start, i, mean, inv_std));
    }
}

// Softmax and layer norm. One line a group of 64 threads.

// A line has k elements, a_col apart; a_col lines lie side by side.
@compute @workgroup_size(64)
fn softmax_f32_f32(thread: Thread) {
    let line = group_of(thread);
    let inside = line < matrix_rows();
    let stride = params.a_col;
    let start = select(0u, line / stride * stride * params.k + line % stride, inside);
    var largest = -3.402823e38;
    for (var i = thread.local; i < params.k; i += 64u) {
        largest = max(largest, bitcast<f32>(a[start + i * stride]));
    }
    largest = group_range(thread, largest, largest).y;
    var sum = 0.0;
    for (var i = thread.local; i < params.k; i += 64u) {
        sum += exp(bitcast<f32>(a[start + i * stride]) - largest);
    }
    let inv_sum = 1.0 / group_sum(thread, sum);
    if !inside {
        return;
    }
    for (var i = thread.local; i < params.k; i += 64u) {
        y[start + i * stride] = bitcast<u32>(exp(bitcast<f32>(a[start + i * stride]) - largest) * inv_sum);
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

// NaN has code zero_point. Tested by its bits: compilers may assume that floats are not NaN.
fn code_of(x: f32) -> u32 {
    let lo = f32(params.lo - params.zero_point);
    let hi = f32(params.hi - params.zero_point);
    let v = i32(clamp(round(x * params.inv_scale), lo, hi));
    let is_nan = (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u;
    return u32(select(v, 0, is_nan) + params.zero_point) & 0xffu;
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

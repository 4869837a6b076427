// Layer norm and RMS norm (equation 11), with a sum before it and a quantization after it if the step has them.

@group(0) @binding(5) var<storage, read_write> weight: array<u32>;
@group(0) @binding(6) var<storage, read_write> bias: array<u32>;
// A value that is added to a before the norm, and where that sum is written.
@group(0) @binding(7) var<storage, read_write> addend: array<u32>;
@group(0) @binding(8) var<storage, read_write> sum: array<u32>;

// Whether the mean is subtracted and a bias added. Without both it is an RMS norm.
override CENTER: bool = false;
// Whether `addend` is added first, and whether that sum is written too.
override ADD: bool = false;
override KEEP_SUM: bool = false;
// Whether the result is int8 values, by equation 2.
override QUANTIZE: bool = false;

fn element(at: u32) -> f32 {
    if ADD {
        return bitcast<f32>(canonical_bits(sum_of(a[at], addend[at])));
    }
    return bitcast<f32>(canonical_bits(a[at]));
}

// The square, at least 2^-100. Both the floor and the test of bits keep the product from being contracted.
fn square(x: f32) -> f32 {
    return bitcast<f32>(max(bitcast<u32>(mul_f(x, x)), TINY));
}

// The number, or 1 where a line is not defined.
fn or_one(x: f32, defined: bool) -> f32 {
    return bitcast<f32>(select(ONE, bitcast<u32>(x), defined));
}

// sum / count of a canonical sum, canonical.
fn mean_of(sum: f32) -> f32 {
    return flush(quotient(sum, f32(params.length)));
}

fn normalized(at: u32, i: u32, mean: f32, inv_std: f32) -> u32 {
    let scale = bitcast<f32>(canonical_bits(weight[i]));
    let scaled = flush(mul_f(flush(mul_f(sub_f(element(at + i), mean), inv_std)), scale));
    if CENTER {
        return canonical_bits(bitcast<u32>(add_f(scaled, bitcast<f32>(canonical_bits(bias[i])))));
    }
    return canonical_bits(bitcast<u32>(scaled));
}

fn quantized_byte(bits: u32) -> u32 {
    return u32(quantize(bitcast<f32>(bits), params.inv_scale, params.zero_point, params.lo, params.hi)) & 0xffu;
}

@compute @workgroup_size(64)
fn layer_norm_f32_f32(thread: Thread) {
    let line = group_index(thread);
    let inside = line < batch_rows() * params.rows_factor;
    let start = select(0u, line * params.length, inside);
    var total = 0.0f;
    for (var i = thread.local; i < params.length; i += 64u) {
        if KEEP_SUM && inside {
            sum[start + i] = sum_of(a[start + i], addend[start + i]);
        }
        let x = element(start + i);
        total = add_f(total, select(square(x), x, CENTER));
    }
    // The sum of the elements, or of their squares.
    var line_sum = workgroup_sum(thread, total);
    var defined = !is_special(bitcast<u32>(line_sum));
    var mean = 0.0f;
    if CENTER {
        mean = mean_of(or_one(line_sum, defined));
        var squares = 0.0f;
        for (var i = thread.local; i < params.length; i += 64u) {
            squares = add_f(squares, square(sub_f(element(start + i), mean)));
        }
        line_sum = workgroup_sum(thread, squares);
        defined = defined && !is_special(bitcast<u32>(line_sum));
    }
    let variance = add_f(mean_of(or_one(line_sum, defined)), canonical(params.eps));
    defined = defined && !is_special(bitcast<u32>(variance));
    let inv_std = inverse_root(or_one(variance, defined));
    if !inside {
        return;
    }
    if QUANTIZE {
        for (var word = thread.local; word < params.row_words; word += 64u) {
            var bytes = 0u;
            for (var i = word * 4u; i < min(word * 4u + 4u, params.length); i++) {
                let x = select(NAN, normalized(start, i, mean, inv_std), defined);
                bytes |= quantized_byte(x) << (8u * (i % 4u));
            }
            y[line * params.row_words + word] = bytes;
        }
        return;
    }
    for (var i = thread.local; i < params.length; i += 64u) {
        y[start + i] = select(NAN, normalized(start, i, mean, inv_std), defined);
    }
}

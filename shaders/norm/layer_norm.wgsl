// Layer norm and RMS norm, with a sum before it and a quantization after it if the step has them.

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
    let x = bitcast<f32>(a[at]);
    if ADD {
        return x + bitcast<f32>(addend[at]);
    }
    return x;
}

fn normalized(at: u32, i: u32, mean: f32, inv_std: f32) -> f32 {
    let scaled = (element(at + i) - mean) * inv_std * bitcast<f32>(weight[i]);
    if CENTER {
        return scaled + bitcast<f32>(bias[i]);
    }
    return scaled;
}

fn quantized_byte(x: f32) -> u32 {
    return u32(quantize(x, params.inv_scale, params.zero_point, params.lo, params.hi)) & 0xffu;
}

@compute @workgroup_size(64)
fn layer_norm_f32_f32(thread: Thread) {
    let line = group_index(thread);
    let inside = line < batch_rows() * params.rows_factor;
    let start = select(0u, line * params.length, inside);
    var total = 0.0;
    for (var i = thread.local; i < params.length; i += 64u) {
        let x = element(start + i);
        if KEEP_SUM && inside {
            sum[start + i] = bitcast<u32>(x);
        }
        total += select(x * x, x, CENTER);
    }
    // The mean of the elements, or of their squares.
    var variance = workgroup_sum(thread, total) / f32(params.length);
    var mean = 0.0;
    if CENTER {
        mean = variance;
        var squares = 0.0;
        for (var i = thread.local; i < params.length; i += 64u) {
            let deviation = element(start + i) - mean;
            squares += deviation * deviation;
        }
        variance = workgroup_sum(thread, squares) / f32(params.length);
    }
    let inv_std = 1.0 / sqrt(variance + params.eps);
    if !inside {
        return;
    }
    if QUANTIZE {
        for (var word = thread.local; word < params.row_words; word += 64u) {
            var bytes = 0u;
            for (var i = word * 4u; i < min(word * 4u + 4u, params.length); i++) {
                bytes |= quantized_byte(normalized(start, i, mean, inv_std)) << (8u * (i % 4u));
            }
            y[line * params.row_words + word] = bytes;
        }
        return;
    }
    for (var i = thread.local; i < params.length; i += 64u) {
        y[start + i] = bitcast<u32>(normalized(start, i, mean, inv_std));
    }
}

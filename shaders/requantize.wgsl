// What every linear kernel shares: its bindings, and the way from the sums of products to the output.
//
// Four adjacent output columns are a quad: one word of int8 output, one entry of `channels`.
//
// Equations 4, 5 and 7. Between an int8 input and an int8 output there is one float product and no float sum, so there is
// nothing that a compiler could fuse or reorder, and every device gives the same bits.

struct LinearParams {
    // Input features in words of 16 codes: the row stride of `x`.
    k_vecs: u32,
    // Output columns: the row stride of a float output.
    n: u32,
    // Row stride of an int8 output, in words of 4 codes.
    row_words: u32,
    // Matrix rows for each row of the batch.
    rows_factor: u32,
    // p of equation 4.
    fraction_bits: u32,
    zero_point: i32,
    // lo - zero_point and hi - zero_point of equation 5.
    lo: f32,
    hi: f32,
    // 1 if negative float outputs become 0.
    relu: u32,
    // From the scale and zero point of one row of `x` to those of the next: 2, or 0 if one pair serves all. Dynamic layers.
    pair_stride: u32,
}

struct Channels {
    // The bias of equation 4; of dynamic layers, the sums of the weights.
    bias: vec4<i32>,
    // Multipliers of equation 3, or scales of equation 7.
    factor: vec4<f32>,
    // The bias of dynamic layers, in real units.
    offset: vec4<f32>,
}

@group(0) @binding(0) var<uniform> params: LinearParams;
// Activations `[m][k_vecs]`, each row padded to 16 bytes.
@group(0) @binding(3) var<storage, read> x: array<vec4<u32>>;
// Weights `[n / 64][k_vecs][64]`, where slot 16 j + i of a block of 64 holds column 4 i + j. Padding is 0, so padding of
// `x` may hold anything.
@group(0) @binding(4) var<storage, read> w: array<vec4<u32>>;
// One entry for each quad, padded to blocks of 64 columns.
@group(0) @binding(5) var<storage, read> channels: array<Channels>;
// int8 codes four to a word, or the bits of floats.
@group(0) @binding(6) var<storage, read_write> y: array<u32>;
// Scale and zero point of each row of `x`, or of all. Dynamic layers.
@group(0) @binding(7) var<storage, read> pairs: array<f32>;

fn matrix_rows() -> u32 {
    return batch_rows() * params.rows_factor;
}

// Equation 4.
fn accumulator(sum: vec4<i32>, bias: vec4<i32>) -> vec4<i32> {
    return (sum << vec4<u32>(params.fraction_bits)) + bias;
}

// Equation 5. Rows and quads beyond the output are dropped.
fn store_i8(sum: vec4<i32>, row: u32, quad: u32) {
    if row >= matrix_rows() || quad >= params.row_words {
        return;
    }
    let channel = channels[quad];
    let acc = accumulator(sum, channel.bias);
    let v = clamp(round(vec4<f32>(acc) * channel.factor), vec4<f32>(params.lo), vec4<f32>(params.hi));
    y[row * params.row_words + quad] = pack4xI8(vec4<i32>(v) + vec4<i32>(params.zero_point));
}

// Equation 7. Rows and columns beyond the output are dropped.
fn store_f32(sum: vec4<i32>, row: u32, quad: u32) {
    if row >= matrix_rows() {
        return;
    }
    let channel = channels[quad];
    let v = vec4<f32>(accumulator(sum, channel.bias)) * channel.factor;
    write_f32(v, row, quad);
}

// Equation 7, dynamic form. Its sum may be fused, so it is not promised to the bit.
fn store_dynamic(sum: vec4<i32>, row: u32, quad: u32) {
    if row >= matrix_rows() {
        return;
    }
    let channel = channels[quad];
    let scale = pairs[row * params.pair_stride];
    let zero_point = i32(pairs[row * params.pair_stride + 1u]);
    let acc = sum - vec4<i32>(zero_point) * channel.bias;
    write_f32(vec4<f32>(acc) * scale * channel.factor + channel.offset, row, quad);
}

fn write_f32(value: vec4<f32>, row: u32, quad: u32) {
    var v = value;
    if params.relu != 0u {
        v = max(v, vec4<f32>(0.0));
    }
    let column = quad * 4u;
    let at = row * params.n + column;
    if column < params.n {
        y[at] = bitcast<u32>(v.x);
    }
    if column + 1u < params.n {
        y[at + 1u] = bitcast<u32>(v.y);
    }
    if column + 2u < params.n {
        y[at + 2u] = bitcast<u32>(v.z);
    }
    if column + 3u < params.n {
        y[at + 3u] = bitcast<u32>(v.w);
    }
}

// Parameters, bindings and equations 4, 5 and 7 of all int8 linear kernels. The files in linear/epilogue say what is made of the sums: a
// module has one of them.
//
// Four adjacent output columns are a quad: one word of int8 output, one entry of `channels`.

struct LinearParams {
    // Input features in vectors of 16 int8 values: the row stride of `x`.
    k_vecs: u32,
    // Matrix rows for each row of the batch.
    rows_factor: u32,
    // Vectors of 16 features in each part of K, where it is divided.
    part_vecs: u32,
    // The stride from the dynamic qparams of one row of `x` to those of the next: 2, or 0 if all rows share them.
    qparams_stride: u32,
    // The range of matrix rows of this dispatch.
    first_row: u32,
    end_row: u32,
    // What follows is loaded together by the epilogue. The first quad of this dispatch, and the number of quads in its blocks of weights.
    first_quad: u32,
    quads: u32,
    // Up to four layers that read the same values share a dispatch: the columns of each, their number, and the words from the result of
    // one to that of the next. A layer alone has 2^30 - 1 columns: more than there are.
    layer_columns: u32,
    layers: u32,
    layer_words: u32,
    // Output columns of a layer: the row stride of a float output.
    n: u32,
    // Row stride of an int8 output, in words.
    row_words: u32,
    // p of equation 4.
    fraction_bits: u32,
    zero_point: i32,
    // Bounds of equation 5, relative to the zero point.
    lo: f32,
    hi: f32,
    // 1 to replace negative float results by 0.
    relu: u32,
    // 0, which no compiler knows.
    zero: u32,
    // Of group-wise weights, a group has 16 features times 2 to this power.
    group_shift: u32,
    // Equation 8, where another value is added: a is the result of the layer, b the other value.
    add: AddParams,
    // Where x are images: the window, the vectors of a pixel, four int8 values of padding, and the channels of a group.
    window: Window,
    pixel_vecs: u32,
    padding: u32,
    group_inputs: u32,
    group_outputs: u32,
}

struct Channels {
    // The bias of equation 4. Dynamic layers: the sums of the weights.
    bias: vec4<i32>,
    // Factors of the accumulator: multipliers of equation 3 or scales of equation 7.
    factor: vec4<f32>,
    // Dynamic layers: the bias in real units.
    offset: vec4<f32>,
}

// Whether float results are written as f16.
override F16: bool = false;

@group(0) @binding(0) var<uniform> params: LinearParams;
// Activations `[m][k_vecs]`, each row padded to 16 bytes. All activations share a buffer, which cannot be bound in two ways at once,
// so they are bound as read_write.
@group(0) @binding(3) var<storage, read_write> x: array<vec4<u32>>;
// One entry for each quad, padded to blocks of 64 columns.
@group(0) @binding(5) var<storage, read> channels: array<Channels>;
// int8 values, four to a word, or the bits of floats.
@group(0) @binding(6) var<storage, read_write> y: array<u32>;
// The operand of the epilogue: dynamic qparams of the rows of `x`, a lookup table of 256 int8 values, or the value to add.
@group(0) @binding(7) var<storage, read_write> operand: array<u32>;
// Sums of parts of K, `[rows][4 quads]`; all 0 between dispatches.
@group(0) @binding(8) var<storage, read_write> partial: array<atomic<i32>>;

fn end_row() -> u32 {
    return min(batch_rows() * params.rows_factor, params.end_row);
}

// The first row of a workgroup that has `tile_rows` rows. Rows use two dimensions of the grid, unless the third divides K.
fn first_row(group: vec3<u32>, groups: vec3<u32>, tile_rows: u32) -> u32 {
    let tile = select(group.z * groups.y + group.y, group.y, DIVIDES_K);
    return params.first_row + tile * tile_rows;
}

// The range of vectors along K of a workgroup.
fn k_range(group: vec3<u32>) -> vec2<u32> {
    if DIVIDES_K {
        let first = group.z * params.part_vecs;
        return vec2<u32>(first, min(first + params.part_vecs, params.k_vecs));
    }
    return vec2<u32>(0u, params.k_vecs);
}

// Whether a quad has columns, or the padding of a row of int8 values: a block of weights may have more.
fn is_stored(quad: u32) -> bool {
    return (params.first_quad + quad) * 4u < max(params.n * params.layers, params.row_words * 4u);
}

// What the epilogue reads for all rows of a quad. A thread loads it once, before the branches of the rows.
struct Output {
    quad: u32,
    // The first column of the quad in its layer, and where the result of the layer begins in `y`. Beyond the last layer, no result has
    // such a column.
    column: u32,
    start: u32,
    end_row: u32,
    channel: Channels,
    constants: LinearParams,
}

fn output_at(quad: u32) -> Output {
    let column = (params.first_quad + quad) * 4u;
    let of_layer = params.layer_columns;
    // Of at most four layers, without a division.
    let layer = u32(column >= of_layer) + u32(column >= 2u * of_layer) + u32(column >= 3u * of_layer);
    let own = select(0xfffffff0u, column - layer * of_layer, layer < params.layers && column < 4u * of_layer);
    let at = min(quad, params.quads - 1u);
    // What is used first is loaded last: the one wait for it is a wait for both.
    let factor = channels[at].factor;
    let bias = channels[at].bias;
    let channel = Channels(bias, factor, channels[at].offset);
    return Output(quad, own, layer * params.layer_words, end_row(), channel, params);
}

// Applies the epilogue to the sums of products with what `weight` or `weight_at` gives.
fn store(sum: vec4<i32>, row: u32, to: Output) {
    store_sum(sum >> vec4<u32>(WEIGHT_SHIFT), row, to);
}

// Applies the epilogue to the sums of a quad and writes the result. It drops rows and quads beyond the output.
fn store_sum(sum: vec4<i32>, row: u32, to: Output) {
    if row >= to.end_row || to.quad >= to.constants.quads {
        return;
    }
    apply_epilogue(sum, row, to);
}

// Equation 4.
fn accumulator(sum: vec4<i32>, to: Output) -> vec4<i32> {
    return (sum << vec4<u32>(to.constants.fraction_bits)) + to.channel.bias;
}

fn requantized(sum: vec4<i32>, to: Output) -> vec4<i32> {
    let c = to.constants;
    return requantize(accumulator(sum, to), to.channel.factor, c.zero_point, c.lo, c.hi);
}

fn lut_word(at: u32) -> u32 {
    return operand[at];
}

// The sum with another value of the same shape.
fn added(values: vec4<i32>, row: u32, to: Output) -> vec4<i32> {
    let word = to.column / 4u;
    if word >= to.constants.row_words {
        return values;
    }
    return add(values, unpack4xI8(operand[row * to.constants.row_words + word]), to.constants.add);
}

// Equation 7.
fn scaled(sum: vec4<i32>, to: Output) -> vec4<f32> {
    // A function may follow.
    return rectified(keep_four(vec4<f32>(accumulator(sum, to)) * to.channel.factor), to);
}

// One sum of equation 7, dynamic form. Each result is rounded (equation 11).
fn scaled_channel(acc: i32, scale: f32, factor: f32, offset: f32) -> f32 {
    let product = flush(mul_f(flush(mul_f(f32(acc), scale)), factor));
    return canonical(add_f(product, canonical(offset)));
}

// Equation 7, dynamic form.
fn scaled_dynamic(sum: vec4<i32>, row: u32, to: Output) -> vec4<f32> {
    let channel = to.channel;
    let scale = bitcast<f32>(operand[row * to.constants.qparams_stride]);
    let zero_point = i32(bitcast<f32>(operand[row * to.constants.qparams_stride + 1u]));
    let acc = sum - vec4<i32>(zero_point) * channel.bias;
    let v = vec4<f32>(
        scaled_channel(acc.x, scale, channel.factor.x, channel.offset.x),
        scaled_channel(acc.y, scale, channel.factor.y, channel.offset.y),
        scaled_channel(acc.z, scale, channel.factor.z, channel.offset.z),
        scaled_channel(acc.w, scale, channel.factor.w, channel.offset.w)
    );
    return rectified(v, to);
}

fn rectified(v: vec4<f32>, to: Output) -> vec4<f32> {
    if to.constants.relu != 0u {
        return relu_of_four(v);
    }
    return v;
}

fn store_int8(values: vec4<i32>, row: u32, to: Output) {
    let word = to.column / 4u;
    if word < to.constants.row_words {
        y[to.start + row * to.constants.row_words + word] = pack4xI8(values);
    }
}

fn store_floats(v: vec4<f32>, row: u32, to: Output) {
    let n = to.constants.n;
    let column = to.column;
    let at = to.start + row * n + column;
    if F16 {
        // n is even, so that no two rows share a word.
        if column < n {
            y[at / 2u] = pack_f16(v.x, v.y);
        }
        if column + 2u < n {
            y[at / 2u + 1u] = pack_f16(v.z, v.w);
        }
        return;
    }
    if column < n {
        y[at] = bitcast<u32>(v.x);
    }
    if column + 1u < n {
        y[at + 1u] = bitcast<u32>(v.y);
    }
    if column + 2u < n {
        y[at + 2u] = bitcast<u32>(v.z);
    }
    if column + 3u < n {
        y[at + 3u] = bitcast<u32>(v.w);
    }
}

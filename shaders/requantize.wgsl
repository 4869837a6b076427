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
    // The matrix rows of this dispatch.
    first_row: u32,
    end_row: u32,
    // Its first quad, and how many quads its blocks of weights have.
    first_quad: u32,
    quads: u32,
    // Words of 16 codes that each part of K has, where it is divided.
    part_vecs: u32,
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
    // Which function follows a float output.
    unary: u32,
    // Equation 8, where codes are added: of the layer's own codes, and of the others.
    own_zero_point: i32,
    other_zero_point: i32,
    own_multiplier: i32,
    other_multiplier: i32,
    shift: u32,
    sum_zero_point: i32,
    sum_lo: i32,
    sum_hi: i32,
}

struct Channels {
    // The bias of equation 4; of dynamic layers, the sums of the weights.
    bias: vec4<i32>,
    // Multipliers of equation 3, or scales of equation 7.
    factor: vec4<f32>,
    // The bias of dynamic layers, in real units.
    offset: vec4<f32>,
}

// What becomes of the sums: one of the constants below.
override END: u32 = 0u;
const END_I8: u32 = 0u;
const END_TABLE: u32 = 1u;
const END_ADD: u32 = 2u;
const END_F32: u32 = 3u;
const END_UNARY: u32 = 4u;
const END_DYNAMIC: u32 = 5u;
const END_DYNAMIC_UNARY: u32 = 6u;
// Added to what other parts of K give; linear_finish takes it from there.
const END_PARTIAL: u32 = 7u;

// Whether float outputs are written as halves.
override HALVES: bool = false;

@group(0) @binding(0) var<uniform> params: LinearParams;
// Activations `[m][k_vecs]`, each row padded to 16 bytes. Like all activations it is bound for writing too, because they share
// a buffer, which cannot be bound in two ways at once.
@group(0) @binding(3) var<storage, read_write> x: array<vec4<u32>>;
// One entry for each quad, padded to blocks of 64 columns.
@group(0) @binding(5) var<storage, read> channels: array<Channels>;
// int8 codes four to a word, or the bits of floats.
@group(0) @binding(6) var<storage, read_write> y: array<u32>;
// Dynamic layers: scale and zero point of each row of `x`, or of all. Else a table of 256 codes, or codes to add.
@group(0) @binding(7) var<storage, read_write> other: array<u32>;
// Sums of parts of K, `[rows][4 quads]`, 0 between dispatches.
@group(0) @binding(8) var<storage, read_write> partial: array<atomic<i32>>;

fn end_row() -> u32 {
    return min(batch_rows() * params.rows_factor, params.end_row);
}

// The first row of a group with `tile_rows` rows. Rows take two dimensions of the grid, unless the third divides K.
fn first_row(group: vec3<u32>, groups: vec3<u32>, tile_rows: u32) -> u32 {
    let tile = select(group.z * groups.y + group.y, group.y, END == END_PARTIAL);
    return params.first_row + tile * tile_rows;
}

// Where a row of `x` begins; rows beyond the last repeat it, and are dropped on the way out.
fn row_start(row: u32) -> u32 {
    return min(row, end_row() - 1u) * params.k_vecs;
}

// The words of 16 codes of a group: first, and end.
fn k_range(group: vec3<u32>) -> vec2<u32> {
    if END == END_PARTIAL {
        let first = group.z * params.part_vecs;
        return vec2<u32>(first, min(first + params.part_vecs, params.k_vecs));
    }
    return vec2<u32>(0u, params.k_vecs);
}

// The sums of a row's quad, on their way out. Rows and quads beyond the output are dropped.
fn store(sum: vec4<i32>, row: u32, quad: u32) {
    if row >= end_row() || quad >= params.quads {
        return;
    }
    if END == END_I8 {
        store_codes(requantized(sum, quad), row, quad);
    } else if END == END_TABLE {
        store_codes(looked_up(requantized(sum, quad)), row, quad);
    } else if END == END_ADD {
        store_codes(added(requantized(sum, quad), row, quad), row, quad);
    } else if END == END_F32 {
        store_floats(scaled(sum, quad), row, quad);
    } else if END == END_UNARY {
        store_floats(applied(scaled(sum, quad)), row, quad);
    } else if END == END_DYNAMIC {
        store_floats(scaled_dynamic(sum, row, quad), row, quad);
    } else if END == END_DYNAMIC_UNARY {
        store_floats(applied(scaled_dynamic(sum, row, quad)), row, quad);
    } else if END == END_PARTIAL {
        let at = ((row - params.first_row) * params.quads + quad) * 4u;
        atomicAdd(&partial[at], sum.x);
        atomicAdd(&partial[at + 1u], sum.y);
        atomicAdd(&partial[at + 2u], sum.z);
        atomicAdd(&partial[at + 3u], sum.w);
    }
}

// Equation 4.
fn accumulator(sum: vec4<i32>, bias: vec4<i32>) -> vec4<i32> {
    return (sum << vec4<u32>(params.fraction_bits)) + bias;
}

// Equation 5.
fn requantized(sum: vec4<i32>, quad: u32) -> vec4<i32> {
    let channel = channels[quad];
    let acc = accumulator(sum, channel.bias);
    let v = clamp(round(vec4<f32>(acc) * channel.factor), vec4<f32>(params.lo), vec4<f32>(params.hi));
    return vec4<i32>(v) + vec4<i32>(params.zero_point);
}

fn looked_up(codes: vec4<i32>) -> vec4<i32> {
    let at = vec4<u32>(codes + vec4<i32>(128));
    return vec4<i32>(
        signed_byte(other[at.x / 4u], at.x), signed_byte(other[at.y / 4u], at.y),
        signed_byte(other[at.z / 4u], at.z), signed_byte(other[at.w / 4u], at.w)
    );
}

// Equation 8 with the codes of another value of the same shape.
fn added(codes: vec4<i32>, row: u32, quad: u32) -> vec4<i32> {
    let column_quad = params.first_quad + quad;
    if column_quad >= params.row_words {
        return codes;
    }
    let others = unpack4xI8(other[row * params.row_words + column_quad]);
    let acc = (codes - vec4<i32>(params.own_zero_point)) * params.own_multiplier
        + (others - vec4<i32>(params.other_zero_point)) * params.other_multiplier;
    return rounded_sum(acc, params.shift, params.sum_zero_point, params.sum_lo, params.sum_hi);
}

// Equation 7.
fn scaled(sum: vec4<i32>, quad: u32) -> vec4<f32> {
    let channel = channels[quad];
    return rectified(vec4<f32>(accumulator(sum, channel.bias)) * channel.factor);
}

// Equation 7, dynamic form. Its sum may be fused, so it is not promised to the bit.
fn scaled_dynamic(sum: vec4<i32>, row: u32, quad: u32) -> vec4<f32> {
    let channel = channels[quad];
    let scale = bitcast<f32>(other[row * params.pair_stride]);
    let zero_point = i32(bitcast<f32>(other[row * params.pair_stride + 1u]));
    let acc = sum - vec4<i32>(zero_point) * channel.bias;
    return rectified(vec4<f32>(acc) * scale * channel.factor + channel.offset);
}

fn rectified(v: vec4<f32>) -> vec4<f32> {
    if params.relu != 0u {
        return relu_of_four(v);
    }
    return v;
}

fn applied(v: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(
        unary(params.unary, v.x), unary(params.unary, v.y), unary(params.unary, v.z), unary(params.unary, v.w)
    );
}

fn store_codes(codes: vec4<i32>, row: u32, quad: u32) {
    let column_quad = params.first_quad + quad;
    if column_quad < params.row_words {
        y[row * params.row_words + column_quad] = pack4xI8(codes);
    }
}

fn store_floats(v: vec4<f32>, row: u32, quad: u32) {
    let column = (params.first_quad + quad) * 4u;
    let at = row * params.n + column;
    if HALVES {
        // n is even, so that no two rows share a word.
        if column < params.n {
            y[at / 2u] = two_halves(v.x, v.y);
        }
        if column + 2u < params.n {
            y[at / 2u + 1u] = two_halves(v.z, v.w);
        }
        return;
    }
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

// Products of two int8 activations, equation 9. Either the rows or the columns of b are contiguous: one of their strides is 1.
// 4 x 4 outputs a thread, 64 elements of K at a time. Rows begin at multiples of 16 bytes.

@group(0) @binding(3) var<storage, read_write> a: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> b: array<u32>;
// Static qparams: a multiplier or scale for each column.
@group(0) @binding(5) var<storage, read_write> factors: array<u32>;
// Dynamic qparams: of the rows of a, and of b.
@group(0) @binding(7) var<storage, read_write> a_qparams: array<u32>;
@group(0) @binding(8) var<storage, read_write> b_qparams: array<u32>;

// Whether the operands have dynamic qparams.
override DYNAMIC: bool = false;

// As in linear/workgroup.wgsl: slot 16 j + i of the columns holds column 4 i + j.
var<workgroup> a_tile: array<vec4<u32>, 264>;
var<workgroup> b_tile: array<vec4<u32>, 256>;

// A word whose first `count` bytes are 1 and whose others are 0.
fn ones(count: u32) -> u32 {
    return select(0x01010101u >> (8u * (4u - min(count, 4u))), 0u, count == 0u);
}

// 1 for each existing feature of the 16 at `k_vec`.
fn ones16(k_vec: u32) -> vec4<u32> {
    let first = k_vec * 16u;
    let count = select(0u, params.k - first, first < params.k);
    return vec4<u32>(
        ones(count), ones(select(0u, count - 4u, count > 4u)), ones(select(0u, count - 8u, count > 8u)),
        ones(select(0u, count - 12u, count > 12u))
    );
}

// 16 features of a row of a. Features that do not exist are 0, so that the padding of b does not matter.
fn a_word(tile: Tile, row: u32, k_vec: u32) -> vec4<u32> {
    if k_vec * 16u >= params.k {
        return vec4<u32>(0u);
    }
    let at = tile.at.x + min(row, tile.rows - 1u) * params.a_row;
    return a[at / 16u + k_vec] & (ones16(k_vec) * 255u);
}

// Four features of a column, where the columns are contiguous.
fn b_bytes(at: u32, k: u32) -> u32 {
    let last = params.k - 1u;
    let i = vec4<u32>(min(k, last), min(k + 1u, last), min(k + 2u, last), min(k + 3u, last)) * params.b_row + at;
    return (u32(b_byte(i.x)) & 0xffu) | ((u32(b_byte(i.y)) & 0xffu) << 8u) | ((u32(b_byte(i.z)) & 0xffu) << 16u)
        | (u32(b_byte(i.w)) << 24u);
}

fn b_byte(at: u32) -> i32 {
    return signed_byte(b[at / 4u], at);
}

// 16 features of a column of b.
fn b_word(tile: Tile, column: u32, k_vec: u32) -> vec4<u32> {
    let at = tile.at.y + min(column, params.strided.cols - 1u) * params.strided.b_col;
    let k = k_vec * 16u;
    return vec4<u32>(b_bytes(at, k), b_bytes(at, k + 4u), b_bytes(at, k + 8u), b_bytes(at, k + 12u));
}

// 16 features of a column, where the features are contiguous.
fn b_words(at: u32, k_vec: u32) -> vec4<u32> {
    let word = at / 4u + k_vec * 4u;
    return vec4<u32>(b[word], b[word + 1u], b[word + 2u], b[word + 3u]);
}

// The sum of four parts, which the threads that stage a row or column have left in its tile.
fn row_sum(row: u32) -> i32 {
    let at = row * 4u;
    return bitcast<i32>(a_tile[at].x + a_tile[at + 1u].x + a_tile[at + 2u].x + a_tile[at + 3u].x);
}

fn column_sum(column: u32) -> i32 {
    let at = column * 4u;
    return bitcast<i32>(b_tile[at].x + b_tile[at + 1u].x + b_tile[at + 2u].x + b_tile[at + 3u].x);
}

// The sums of a quad, and those of its row of a and of its columns of b.
struct Quad {
    sum: vec4<i32>,
    row_sum: i32,
    column_sums: vec4<i32>,
}

fn factors_at(column: u32) -> vec4<f32> {
    let last = params.strided.cols - 1u;
    return vec4<f32>(
        bitcast<f32>(factors[column]), bitcast<f32>(factors[min(column + 1u, last)]),
        bitcast<f32>(factors[min(column + 2u, last)]), bitcast<f32>(factors[min(column + 3u, last)])
    );
}

fn accumulator(quad: Quad, a_zero_point: i32, b_zero_point: i32) -> vec4<i32> {
    let both = i32(params.k) * a_zero_point * b_zero_point;
    return quad.sum - a_zero_point * quad.column_sums - vec4<i32>(b_zero_point * quad.row_sum - both);
}

// Equation 9d: each product is rounded (equation 11).
fn scaled_twice(acc: i32, a_scale: f32, b_scale: f32) -> f32 {
    return flush(mul_f(flush(mul_f(f32(acc), a_scale)), b_scale));
}

// Equation 5 or 7.
fn store_quad(tile: Tile, row: u32, column: u32, quad: Quad, to_int8: bool) {
    if row >= tile.rows || column >= params.strided.cols {
        return;
    }
    if to_int8 {
        let acc = accumulator(quad, params.a_zero_point, params.b_zero_point);
        let q = requantize(acc, factors_at(column), params.zero_point, params.lo, params.hi);
        y[(tile.at.z + row * params.y_row + column) / 4u] = pack4xI8(q);
        return;
    }
    var v = vec4<f32>();
    if DYNAMIC {
        // The row of a, which differs from the row of y where a is broadcast.
        let at = (tile.at.x / params.a_row + row) * params.qparams_stride;
        let a_zero_point = i32(bitcast<f32>(a_qparams[at + 1u]));
        let b_zero_point = i32(bitcast<f32>(b_qparams[1]));
        let acc = accumulator(quad, a_zero_point, b_zero_point);
        let a_scale = bitcast<f32>(a_qparams[at]);
        let b_scale = bitcast<f32>(b_qparams[0]);
        v = vec4<f32>(
            scaled_twice(acc.x, a_scale, b_scale), scaled_twice(acc.y, a_scale, b_scale),
            scaled_twice(acc.z, a_scale, b_scale), scaled_twice(acc.w, a_scale, b_scale)
        );
    } else {
        let acc = accumulator(quad, params.a_zero_point, params.b_zero_point);
        v = vec4<f32>(acc) * factors_at(column);
    }
    if params.relu != 0u {
        v = relu_of_four(v);
    }
    let at = tile.at.z + row * params.y_row + column;
    y[at] = bitcast<u32>(v.x);
    if column + 1u < params.strided.cols {
        y[at + 1u] = bitcast<u32>(v.y);
    }
    if column + 2u < params.strided.cols {
        y[at + 2u] = bitcast<u32>(v.z);
    }
    if column + 3u < params.strided.cols {
        y[at + 3u] = bitcast<u32>(v.w);
    }
}

fn product(thread: Thread, to_int8: bool) {
    let tile = tile_of(thread, 64u, 64u);
    let x = thread.local % 16u;
    let y = thread.local / 16u;
    var s0 = vec4<i32>();
    var s1 = vec4<i32>();
    var s2 = vec4<i32>();
    var s3 = vec4<i32>();
    // The sums of what this thread stages of a row of a, and of a column of b.
    var row_part = 0;
    var column_part = 0;
    for (var k0 = 0u; k0 * 16u < params.k; k0 += 4u) {
        let word = a_word(tile, tile.row + thread.local / 4u, k0 + thread.local % 4u);
        a_tile[thread.local % 4u * 66u + thread.local / 4u] = word;
        row_part = add_dot16(row_part, word, vec4<u32>(0x01010101u));
        // Neighbouring threads load neighbouring words: features of one column, or else neighbouring columns.
        if params.b_row == 1u {
            let column = thread.local / 4u;
            let at = tile.at.y + min(tile.column + column, params.strided.cols - 1u) * params.strided.b_col;
            let k_vec = min(k0 + thread.local % 4u, (params.k - 1u) / 16u);
            let word = b_words(at, k_vec);
            b_tile[thread.local % 4u * 64u + column % 4u * 16u + column / 4u] = word;
            column_part = add_dot16(column_part, word, ones16(k0 + thread.local % 4u));
        } else {
            let column = thread.local % 64u;
            let word = b_word(tile, tile.column + column, k0 + thread.local / 64u);
            b_tile[thread.local / 64u * 64u + column % 4u * 16u + column / 4u] = word;
            column_part = add_dot16(column_part, word, ones16(k0 + thread.local / 64u));
        }
        workgroupBarrier();
        for (var k = 0u; k < 4u; k++) {
            let at = k * 64u + x;
            let b0 = b_tile[at];
            let b1 = b_tile[at + 16u];
            let b2 = b_tile[at + 32u];
            let b3 = b_tile[at + 48u];
            let row = k * 66u + y * 4u;
            s0 = add_dot16x4(s0, a_tile[row], b0, b1, b2, b3);
            s1 = add_dot16x4(s1, a_tile[row + 1u], b0, b1, b2, b3);
            s2 = add_dot16x4(s2, a_tile[row + 2u], b0, b1, b2, b3);
            s3 = add_dot16x4(s3, a_tile[row + 3u], b0, b1, b2, b3);
        }
        workgroupBarrier();
    }
    // Part `i` of row or column `j` is entry 4 j + i.
    a_tile[thread.local].x = bitcast<u32>(row_part);
    b_tile[select(thread.local % 64u * 4u + thread.local / 64u, thread.local, params.b_row == 1u)].x = bitcast<u32>(column_part);
    workgroupBarrier();
    if !tile.inside {
        return;
    }
    let column_sums = vec4<i32>(
        column_sum(x * 4u), column_sum(x * 4u + 1u), column_sum(x * 4u + 2u), column_sum(x * 4u + 3u)
    );
    let row = tile.row + y * 4u;
    let column = tile.column + x * 4u;
    store_quad(tile, row, column, Quad(s0, row_sum(y * 4u), column_sums), to_int8);
    store_quad(tile, row + 1u, column, Quad(s1, row_sum(y * 4u + 1u), column_sums), to_int8);
    store_quad(tile, row + 2u, column, Quad(s2, row_sum(y * 4u + 2u), column_sums), to_int8);
    store_quad(tile, row + 3u, column, Quad(s3, row_sum(y * 4u + 3u), column_sums), to_int8);
}

@compute @workgroup_size(256)
fn matmul_i8_i8(thread: Thread) {
    product(thread, true);
}

@compute @workgroup_size(256)
fn matmul_i8_f32(thread: Thread) {
    product(thread, false);
}

// A workgroup computes some rows of one matrix. The scores of all keys stay in workgroup memory. lanes.wgsl or workgroup.wgsl
// multiplies: a thread has OWN_ROWS rows and four of COLUMNS columns of a product. They define THREADS, ROWS, Sums, first_row, next_rows,
// row_of, column_of, score_sums and result_sums.

// The scores that workgroup memory holds: of as many keys as any matrix has, in multiples of 16.
override HELD: u32 = 256u;

// The bits of scores, then of exponentials, then of the factors that weigh v: key i of row r is entry ROWS i + r.
var<workgroup> held: array<u32, HELD>;

// Some rows of a matrix.
struct Block {
    // The beginnings of the matrices in q, k and y, and in v and the mask.
    at: vec3<u32>,
    others: vec2<u32>,
    // The first row.
    row: u32,
    // False for a block after the last, which exists where the grid is rounded up.
    inside: bool,
}

fn block_of(thread: Thread) -> Block {
    let index = params.first_block + thread.group.z * thread.groups.y + thread.group.y;
    let blocks = (params.m + ROWS - 1u) / ROWS;
    let inside = index / blocks * params.m < matrix_rows();
    let matrix = select(0u, index / blocks, inside);
    return Block(offsets(matrix), other_offsets(matrix), index % blocks * ROWS, inside);
}

// Factors, or 0 beyond the operands. Loads without a branch are in flight together.
fn q_at(block: Block, row: u32, feature: u32) -> f32 {
    let own = block.row + row;
    let at = block.at.x + min(own, params.m - 1u) * params.q_row + min(feature, params.depth - 1u);
    return select(0.0f, factor(q[at]), own < params.m && feature < params.depth);
}

fn k_at(block: Block, feature: u32, key: u32) -> f32 {
    let at = block.at.y + min(feature, params.depth - 1u) * params.k_row + min(key, params.keys - 1u) * params.k_col;
    return select(0.0f, factor(k[at]), feature < params.depth && key < params.keys);
}

fn v_at(block: Block, key: u32, column: u32) -> f32 {
    let columns = params.strided.cols;
    let at = block.others.x + min(key, params.keys - 1u) * params.v_row + min(column, columns - 1u) * params.v_col;
    return select(0.0f, factor(v[at]), key < params.keys && column < columns);
}

// Leaves the score of a row and a key, or 0 beyond the keys, up to a multiple of 16. The result of a product is canonical.
fn store_score(block: Block, row: u32, key: u32, sum: f32) {
    if key >= (params.keys + 15u) / 16u * 16u {
        return;
    }
    var bits = bitcast<u32>(sum);
    if REPRODUCIBLE {
        bits = canonical_bits(bits);
    }
    if SCALE {
        bits = product_of(bits, bitcast<u32>(params.scale));
    }
    if MASK {
        let own = min(block.row + row, params.m - 1u);
        bits = sum_of(bits, mask[block.others.y + own * params.mask_row + min(key, params.keys - 1u) * params.mask_col]);
    }
    held[key * ROWS + row] = select(0u, bits, key < params.keys);
}

fn scores(block: Block, local: u32, lane: u32) {
    for (var first = 0u; first < params.keys; first += COLUMNS) {
        var sums = score_sums(block, first, local, lane);
        // A loop, so that what follows a sum is compiled once.
        for (var i = 0u; i < OWN_ROWS; i++) {
            let row = row_of(local, i);
            let own = first_row(sums);
            store_score(block, row, first + column_of(local, 0u), own.x);
            store_score(block, row, first + column_of(local, 1u), own.y);
            store_score(block, row, first + column_of(local, 2u), own.z);
            store_score(block, row, first + column_of(local, 3u), own.w);
            sums = next_rows(sums);
        }
    }
    workgroupBarrier();
}

// Adds the exponential of a score to a sum.
fn plus_exponential(sum: f32, key: u32, row: u32, largest: f32) -> f32 {
    if key >= params.keys {
        return sum;
    }
    let at = key * ROWS + row;
    let e = exp_of_negative(sub_f(bitcast<f32>(canonical_bits(held[at])), largest));
    held[at] = bitcast<u32>(e);
    return add_f(sum, e);
}

// Softmax (equation 11) of a row by eight threads. Each has eight of the 64 sums of a row: of the keys whose number is its own, and 8,
// 16, and so on more.
fn softmax_row(local: u32, row: u32) {
    let lane = local % 8u;
    var order = LOWEST;
    for (var key = lane; key < params.keys; key += 8u) {
        order = max(order, order_of(held[key * ROWS + row]));
    }
    order = largest_of_eight(local, order);
    // A row of −∞ only, or with +∞ or NaN, becomes NaN.
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
    for (var key = lane; key < params.keys; key += 64u) {
        s0 = plus_exponential(s0, key, row, largest);
        s1 = plus_exponential(s1, key + 8u, row, largest);
        s2 = plus_exponential(s2, key + 16u, row, largest);
        s3 = plus_exponential(s3, key + 24u, row, largest);
        s4 = plus_exponential(s4, key + 32u, row, largest);
        s5 = plus_exponential(s5, key + 40u, row, largest);
        s6 = plus_exponential(s6, key + 48u, row, largest);
        s7 = plus_exponential(s7, key + 56u, row, largest);
    }
    let total = sum_of_eight(local, vec4<f32>(s0, s1, s2, s3), vec4<f32>(s4, s5, s6, s7));
    let inv_total = flush(quotient(1.0f, total));
    for (var key = lane; key < params.keys; key += 8u) {
        let at = key * ROWS + row;
        let weight = canonical_bits(bitcast<u32>(mul_f(bitcast<f32>(held[at]), inv_total)));
        held[at] = bitcast<u32>(factor(select(NAN, weight, defined)));
    }
    // Before the next row reuses the sums.
    workgroupBarrier();
}

fn result_bits(sum: f32) -> u32 {
    if REPRODUCIBLE {
        return canonical_bits(bitcast<u32>(sum));
    }
    return bitcast<u32>(sum);
}

fn store_result(at: u32, column: u32, sum: f32) {
    if column < params.strided.cols {
        y[at + column] = result_bits(sum);
    }
}

fn quantized(sum: f32) -> i32 {
    return quantize_bits(result_bits(sum), params.factor, params.zero_point, vec2<f32>(params.lo, params.hi));
}

// Stores four columns of a row.
fn store_results(block: Block, row: u32, first: u32, local: u32, sums: vec4<f32>) {
    let own = block.row + row;
    if !block.inside || own >= params.m {
        return;
    }
    let at = block.at.z + own * params.y_row;
    let column = first + column_of(local, 0u);
    if QUANTIZE {
        if column < params.strided.cols {
            let values = vec4<i32>(quantized(sums.x), quantized(sums.y), quantized(sums.z), quantized(sums.w));
            y[(at + column) / 4u] = pack4xI8(values);
        }
        return;
    }
    store_result(at, column, sums.x);
    store_result(at, first + column_of(local, 1u), sums.y);
    store_result(at, first + column_of(local, 2u), sums.z);
    store_result(at, first + column_of(local, 3u), sums.w);
}

fn results(block: Block, local: u32, lane: u32) {
    for (var first = 0u; first < params.strided.cols; first += COLUMNS) {
        var sums = result_sums(block, first, local, lane);
        for (var i = 0u; i < OWN_ROWS; i++) {
            store_results(block, row_of(local, i), first, local, first_row(sums));
            sums = next_rows(sums);
        }
    }
}

fn attend(thread: Thread, lane: u32) {
    let block = block_of(thread);
    let local = thread.local;
    scores(block, local, lane);
    for (var first = 0u; first < ROWS; first += THREADS / 8u) {
        softmax_row(local, first + local / 8u);
    }
    results(block, local, lane);
}

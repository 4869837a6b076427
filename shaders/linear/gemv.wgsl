// int8 linear layer for few rows: 4 * QUADS columns and ROWS rows a workgroup, one column a thread, so that each weight is read once.
// K_LANES threads share the features of a column and add their sums in workgroup memory; the order of integer sums does not matter.
//
// What limits this kernel on a GPU is how many bytes of weights are in flight, so a large GPU wants many workgroups of few columns.

// 1, 2, 4 or 8.
override ROWS: u32 = 1u;
override K_LANES: u32 = 4u;
// 16, 8 or 4: a block of weights is for 16 quads of columns.
override QUADS: u32 = 16u;

// One sum for each lane, column and row: four rows, and four more if there are eight.
var<workgroup> sums_low: array<vec4<i32>, K_LANES * QUADS * 4u>;
var<workgroup> sums_high: array<vec4<i32>, select(1u, K_LANES * QUADS * 4u, ROWS > 4u)>;

struct Sums {
    low: vec4<i32>,
    high: vec4<i32>,
}

struct Starts {
    x0: RowStart,
    x1: RowStart,
    x2: RowStart,
    x3: RowStart,
    x4: RowStart,
    x5: RowStart,
    x6: RowStart,
    x7: RowStart,
}

fn plus(sums: Sums, at: Starts, k: u32, b: vec4<u32>, factor: ColumnFactor) -> Sums {
    var sum = sums;
    sum.low.x = add_column(sum.low.x, x_vec(at.x0, k), b, factor);
    if ROWS > 1u {
        sum.low.y = add_column(sum.low.y, x_vec(at.x1, k), b, factor);
    }
    if ROWS > 2u {
        sum.low.z = add_column(sum.low.z, x_vec(at.x2, k), b, factor);
        sum.low.w = add_column(sum.low.w, x_vec(at.x3, k), b, factor);
    }
    if ROWS > 4u {
        sum.high.x = add_column(sum.high.x, x_vec(at.x4, k), b, factor);
        sum.high.y = add_column(sum.high.y, x_vec(at.x5, k), b, factor);
        sum.high.z = add_column(sum.high.z, x_vec(at.x6, k), b, factor);
        sum.high.w = add_column(sum.high.w, x_vec(at.x7, k), b, factor);
    }
    return sum;
}

// Stores four columns of the first `rows` of four rows.
fn store_quads(c0: vec4<i32>, c1: vec4<i32>, c2: vec4<i32>, c3: vec4<i32>, row: u32, output: Output, rows: u32) {
    store(vec4<i32>(c0.x, c1.x, c2.x, c3.x), row, output);
    if rows > 1u {
        store(vec4<i32>(c0.y, c1.y, c2.y, c3.y), row + 1u, output);
    }
    if rows > 2u {
        store(vec4<i32>(c0.z, c1.z, c2.z, c3.z), row + 2u, output);
        store(vec4<i32>(c0.w, c1.w, c2.w, c3.w), row + 3u, output);
    }
}

@compute @workgroup_size(QUADS * 4u, K_LANES)
fn linear_gemv(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let row = first_row(group, groups, ROWS);
    let at = Starts(
        row_start(row), row_start(row + 1u), row_start(row + 2u), row_start(row + 3u),
        row_start(row + 4u), row_start(row + 5u), row_start(row + 6u), row_start(row + 7u)
    );
    // In a block of weights, the first columns of its 16 quads come first.
    let parts = 16u / QUADS;
    let slot = local.x / QUADS * 16u + group.x % parts * QUADS + local.x % QUADS;
    let w_start = weight_start(group.x / parts, slot);
    let range = k_range(group);
    var sums: Sums;
    var k = range.x + local.y;
    // Four loads are in flight before the first is waited for.
    for (; k + 3u * K_LANES < range.y; k += 4u * K_LANES) {
        let b0 = weight_at(w_start, k);
        let b1 = weight_at(w_start, k + K_LANES);
        let b2 = weight_at(w_start, k + 2u * K_LANES);
        let b3 = weight_at(w_start, k + 3u * K_LANES);
        sums = plus(sums, at, k, b0, column_factor(w_start, k));
        sums = plus(sums, at, k + K_LANES, b1, column_factor(w_start, k + K_LANES));
        sums = plus(sums, at, k + 2u * K_LANES, b2, column_factor(w_start, k + 2u * K_LANES));
        sums = plus(sums, at, k + 3u * K_LANES, b3, column_factor(w_start, k + 3u * K_LANES));
    }
    for (; k < range.y; k += K_LANES) {
        sums = plus(sums, at, k, weight_at(w_start, k), column_factor(w_start, k));
    }
    sums_low[local.y * QUADS * 4u + local.x] = sums.low;
    if ROWS > 4u {
        sums_high[local.y * QUADS * 4u + local.x] = sums.high;
    }
    workgroupBarrier();
    // The sums of a quad's columns are QUADS apart.
    if local.x >= QUADS || local.y > 0u {
        return;
    }
    let output = output_at(group.x * QUADS + local.x);
    var c0 = vec4<i32>();
    var c1 = vec4<i32>();
    var c2 = vec4<i32>();
    var c3 = vec4<i32>();
    for (var lane = 0u; lane < K_LANES; lane++) {
        let at_lane = lane * QUADS * 4u + local.x;
        c0 += sums_low[at_lane];
        c1 += sums_low[at_lane + QUADS];
        c2 += sums_low[at_lane + 2u * QUADS];
        c3 += sums_low[at_lane + 3u * QUADS];
    }
    store_quads(c0, c1, c2, c3, row, output, ROWS);
    if ROWS > 4u {
        c0 = vec4<i32>();
        c1 = vec4<i32>();
        c2 = vec4<i32>();
        c3 = vec4<i32>();
        for (var lane = 0u; lane < K_LANES; lane++) {
            let at_lane = lane * QUADS * 4u + local.x;
            c0 += sums_high[at_lane];
            c1 += sums_high[at_lane + QUADS];
            c2 += sums_high[at_lane + 2u * QUADS];
            c3 += sums_high[at_lane + 3u * QUADS];
        }
        store_quads(c0, c1, c2, c3, row + 4u, output, 4u);
    }
}

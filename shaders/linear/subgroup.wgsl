// int8 linear layer with subgroup operations: 64 columns and 16 rows a workgroup, 16 x 4 outputs a thread. The lanes of a subgroup
// have the same rows, so each lane loads the words of one row and broadcasts them. It suits drivers on which a load costs much more
// than a shuffle: software adapters.

// Lanes that load different rows: 8, or 4 where a subgroup may have no more.
override LANES: u32 = 8u;
// 8 or 16.
override ROWS: u32 = 16u;

// The int8 values of a word. Two shifts extend the sign.
fn unpack(word: u32) -> vec4<i32> {
    let v = bitcast<i32>(word);
    return vec4<i32>((v << 24u) >> 24u, (v << 16u) >> 24u, (v << 8u) >> 24u, v >> 24u);
}

struct Columns {
    c0: vec4<i32>,
    c1: vec4<i32>,
    c2: vec4<i32>,
    c3: vec4<i32>,
    factors: WordFactors,
}

fn product(a: vec4<i32>, b: vec4<i32>) -> i32 {
    return a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w;
}

fn plus(sum: vec4<i32>, a: vec4<i32>, w: Columns) -> vec4<i32> {
    let products = vec4<i32>(product(a, w.c0), product(a, w.c1), product(a, w.c2), product(a, w.c3));
    return add_scaled(sum, products, w.factors);
}

// Sums of eight rows.
struct Rows {
    r0: vec4<i32>,
    r1: vec4<i32>,
    r2: vec4<i32>,
    r3: vec4<i32>,
    r4: vec4<i32>,
    r5: vec4<i32>,
    r6: vec4<i32>,
    r7: vec4<i32>,
}

// Eight lanes have all eight rows in their first words; four lanes have four rows in the first and four in the second words. The
// lane indices are constants, which drivers turn into single instructions.
fn plus_rows(sums: Rows, first: u32, second: u32, w: Columns) -> Rows {
    let a = unpack(first);
    if LANES == 4u {
        let b = unpack(second);
        return Rows(
            plus(sums.r0, quadBroadcast(a, 0u), w), plus(sums.r1, quadBroadcast(a, 1u), w),
            plus(sums.r2, quadBroadcast(a, 2u), w), plus(sums.r3, quadBroadcast(a, 3u), w),
            plus(sums.r4, quadBroadcast(b, 0u), w), plus(sums.r5, quadBroadcast(b, 1u), w),
            plus(sums.r6, quadBroadcast(b, 2u), w), plus(sums.r7, quadBroadcast(b, 3u), w)
        );
    }
    return Rows(
        plus(sums.r0, subgroupShuffle(a, 0u), w), plus(sums.r1, subgroupShuffle(a, 1u), w),
        plus(sums.r2, subgroupShuffle(a, 2u), w), plus(sums.r3, subgroupShuffle(a, 3u), w),
        plus(sums.r4, subgroupShuffle(a, 4u), w), plus(sums.r5, subgroupShuffle(a, 5u), w),
        plus(sums.r6, subgroupShuffle(a, 6u), w), plus(sums.r7, subgroupShuffle(a, 7u), w)
    );
}

// The second vector of a lane; only groups of four lanes need it.
fn second_word(start: RowStart, k: u32) -> vec4<u32> {
    if LANES == 4u {
        return x_vec(start, k);
    }
    return vec4<u32>();
}

fn store_rows(sums: Rows, row: u32, output: Output) {
    store(sums.r0, row, output);
    store(sums.r1, row + 1u, output);
    store(sums.r2, row + 2u, output);
    store(sums.r3, row + 3u, output);
    store(sums.r4, row + 4u, output);
    store(sums.r5, row + 5u, output);
    store(sums.r6, row + 6u, output);
    store(sums.r7, row + 7u, output);
}

@compute @workgroup_size(16)
fn linear_sub(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
    @builtin(subgroup_invocation_id) invocation: u32,
) {
    let row = first_row(group, groups, ROWS);
    let lane = invocation % LANES;
    let x0 = row_start(row + lane);
    let x1 = row_start(row + 4u + lane);
    let x2 = row_start(row + 8u + lane);
    let x3 = row_start(row + 12u + lane);
    let w0 = weight_start(group.x, local);
    let w1 = weight_start(group.x, local + 16u);
    let w2 = weight_start(group.x, local + 32u);
    let w3 = weight_start(group.x, local + 48u);
    let f_start = factor_start(group.x, local);
    let range = k_range(group);
    var low = Rows();
    var high = Rows();
    for (var k = range.x; k < range.y; k++) {
        let b0 = weight_at(w0, k);
        let b1 = weight_at(w1, k);
        let b2 = weight_at(w2, k);
        let b3 = weight_at(w3, k);
        let f = factors_at(f_start, k);
        let v0 = x_vec(x0, k);
        let v1 = second_word(x1, k);
        var v2 = vec4<u32>();
        var v3 = vec4<u32>();
        if ROWS > 8u {
            v2 = x_vec(x2, k);
            v3 = second_word(x3, k);
        }
        let wx = Columns(unpack(b0.x), unpack(b1.x), unpack(b2.x), unpack(b3.x), word_factors(f, 0u));
        low = plus_rows(low, v0.x, v1.x, wx);
        if ROWS > 8u {
            high = plus_rows(high, v2.x, v3.x, wx);
        }
        let wy = Columns(unpack(b0.y), unpack(b1.y), unpack(b2.y), unpack(b3.y), word_factors(f, 1u));
        low = plus_rows(low, v0.y, v1.y, wy);
        if ROWS > 8u {
            high = plus_rows(high, v2.y, v3.y, wy);
        }
        let wz = Columns(unpack(b0.z), unpack(b1.z), unpack(b2.z), unpack(b3.z), word_factors(f, 2u));
        low = plus_rows(low, v0.z, v1.z, wz);
        if ROWS > 8u {
            high = plus_rows(high, v2.z, v3.z, wz);
        }
        let ww = Columns(unpack(b0.w), unpack(b1.w), unpack(b2.w), unpack(b3.w), word_factors(f, 3u));
        low = plus_rows(low, v0.w, v1.w, ww);
        if ROWS > 8u {
            high = plus_rows(high, v2.w, v3.w, ww);
        }
    }
    let output = output_at(group.x * 16u + local);
    store_rows(low, row, output);
    if ROWS > 8u {
        store_rows(high, row + 8u, output);
    }
}

// int8 linear layer with subgroup operations: 64 columns and 16 rows a workgroup, 16 x 4 outputs a thread. The lanes of a subgroup
// have the same rows, so each lane loads the words of one row and broadcasts them. It suits drivers on which a load costs much more
// than a shuffle: software adapters.

// Lanes that load different rows: 8, or 4 where a subgroup may have no more.
override LANES: u32 = 8u;
// 8 or 16.
override ROWS: u32 = 16u;

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
        var b0 = weight_at(w0, k);
        var b1 = weight_at(w1, k);
        var b2 = weight_at(w2, k);
        var b3 = weight_at(w3, k);
        let f = factors_at(f_start, k);
        var v0 = x_vec(x0, k);
        var v1 = second_word(x1, k);
        var v2 = vec4<u32>();
        var v3 = vec4<u32>();
        if ROWS > 8u {
            v2 = x_vec(x2, k);
            v3 = second_word(x3, k);
        }
        // A loop, so that the products of a word are compiled once: drivers that run on a CPU take long for many instructions.
        for (var word = 0u; word < 4u; word++) {
            let columns = Columns(unpack(b0.x), unpack(b1.x), unpack(b2.x), unpack(b3.x), word_factors(f, word));
            low = plus_rows(low, v0.x, v1.x, columns);
            v0 = v0.yzwx;
            v1 = v1.yzwx;
            if ROWS > 8u {
                high = plus_rows(high, v2.x, v3.x, columns);
                v2 = v2.yzwx;
                v3 = v3.yzwx;
            }
            b0 = b0.yzwx;
            b1 = b1.yzwx;
            b2 = b2.yzwx;
            b3 = b3.yzwx;
        }
    }
    let output = output_at(group.x * 16u + local);
    store_rows(low, row, output);
    if ROWS > 8u {
        store_rows(high, row + 8u, output);
    }
}

// int8 linear layer with tiles in workgroup memory: 64 columns and 4 * THREADS_Y rows a workgroup, 4 x 4 outputs a thread.

// Threads along the rows.
override THREADS_Y: u32 = 16u;
// Vectors along K that are staged at a time.
override K_STEP: u32 = 4u;

// Two vectors of padding keep the stores of a workgroup in different banks.
var<workgroup> x_tile: array<vec4<u32>, K_STEP * (THREADS_Y * 4u + 2u)>;
var<workgroup> w_tile: array<vec4<u32>, K_STEP * 64u>;

fn x_slot(i: u32) -> u32 {
    return i % K_STEP * (THREADS_Y * 4u + 2u) + i / K_STEP;
}

@compute @workgroup_size(16, THREADS_Y)
fn linear(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let tile_rows = THREADS_Y * 4u;
    let x_stride = tile_rows + 2u;
    let x_vecs = K_STEP * tile_rows;
    let threads = THREADS_Y * 16u;
    let thread = local.y * 16u + local.x;
    let tile_row = first_row(group, groups, tile_rows);
    let w_start = weight_start(group.x, thread % 64u);
    let f_start = factor_start(group.x, local.x);
    let range = k_range(group);
    // The first vectors of a stage that this thread loads.
    let x_first = min(thread, x_vecs - 1u);
    let x_start = row_start(tile_row + x_first / K_STEP);
    let last_k = params.k_vecs - 1u;
    var s0 = vec4<i32>();
    var s1 = vec4<i32>();
    var s2 = vec4<i32>();
    var s3 = vec4<i32>();
    // The loads of a stage are in flight during the products of the one before. Beyond the last vector `w` counts as 0, so x may have any
    // value there.
    var x_word = vec4<u32>();
    var w_word = vec4<u32>();
    if range.x < range.y {
        x_word = x_load(x_start, min(range.x + x_first % K_STEP, last_k));
        w_word = weight_at(w_start, min(range.x + thread / 64u, range.y - 1u));
    }
    for (var k0 = range.x; k0 < range.y; k0 += K_STEP) {
        let w_k = k0 + thread / 64u;
        let x_k = min(k0 + x_first % K_STEP, last_k);
        if thread < x_vecs {
            x_tile[x_slot(thread)] = x_masked(x_start, x_k, x_word);
        }
        if thread < K_STEP * 64u {
            w_tile[thread] = select(vec4<u32>(), w_word, w_k < range.y);
        }
        // Where a stage has more vectors than the group has threads.
        if x_vecs > threads {
            for (var i = thread + threads; i < x_vecs; i += threads) {
                x_tile[x_slot(i)] = x_vec(row_start(tile_row + i / K_STEP), min(k0 + i % K_STEP, last_k));
            }
        }
        if K_STEP * 64u > threads {
            for (var i = thread + threads; i < K_STEP * 64u; i += threads) {
                let k = k0 + i / 64u;
                let word = weight_at(weight_start(group.x, i % 64u), min(k, range.y - 1u));
                w_tile[i] = select(vec4<u32>(), word, k < range.y);
            }
        }
        workgroupBarrier();
        x_word = x_load(x_start, min(k0 + K_STEP + x_first % K_STEP, last_k));
        w_word = weight_at(w_start, min(w_k + K_STEP, range.y - 1u));
        for (var k = 0u; k < K_STEP; k++) {
            let w_at = k * 64u + local.x;
            let b0 = w_tile[w_at];
            let b1 = w_tile[w_at + 16u];
            let b2 = w_tile[w_at + 32u];
            let b3 = w_tile[w_at + 48u];
            let f = factors_at(f_start, min(k0 + k, last_k));
            let x_at = k * x_stride + local.y * 4u;
            s0 = add_products(s0, x_tile[x_at], b0, b1, b2, b3, f);
            s1 = add_products(s1, x_tile[x_at + 1u], b0, b1, b2, b3, f);
            s2 = add_products(s2, x_tile[x_at + 2u], b0, b1, b2, b3, f);
            s3 = add_products(s3, x_tile[x_at + 3u], b0, b1, b2, b3, f);
        }
        workgroupBarrier();
    }
    let output = output_at(group.x * 16u + local.x);
    let row = tile_row + local.y * 4u;
    // A loop, so that the epilogue is compiled once.
    for (var i = 0u; i < 4u; i++) {
        store(s0, row + i, output);
        s0 = s1;
        s1 = s2;
        s2 = s3;
    }
}

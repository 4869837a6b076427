// int8 linear layer with tiles in workgroup memory: 64 columns and 4 * THREADS_Y rows a workgroup, 4 x 4 outputs a thread.

// Threads along the rows.
override THREADS_Y: u32 = 16u;
// Vectors along K that are staged at a time.
override K_STEP: u32 = 4u;

// Two vectors of padding keep the stores of a workgroup in different banks.
var<workgroup> x_tile: array<vec4<u32>, K_STEP * (THREADS_Y * 4u + 2u)>;
var<workgroup> w_tile: array<vec4<u32>, K_STEP * 64u>;

@compute @workgroup_size(16, THREADS_Y)
fn linear(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let tile_rows = THREADS_Y * 4u;
    let x_stride = tile_rows + 2u;
    let threads = THREADS_Y * 16u;
    let thread = local.y * 16u + local.x;
    let tile_row = first_row(group, groups, tile_rows);
    let w_start = group.x * params.k_vecs * 64u;
    let range = k_range(group);
    var s0 = vec4<i32>();
    var s1 = vec4<i32>();
    var s2 = vec4<i32>();
    var s3 = vec4<i32>();
    for (var k0 = range.x; k0 < range.y; k0 += K_STEP) {
        for (var i = thread; i < K_STEP * tile_rows; i += threads) {
            let k = i % K_STEP;
            let row = i / K_STEP;
            // Beyond the last vector, `w` is 0.
            x_tile[k * x_stride + row] = x[row_start(tile_row + row) + min(k0 + k, params.k_vecs - 1u)];
        }
        for (var i = thread; i < K_STEP * 64u; i += threads) {
            let k = k0 + i / 64u;
            var word = vec4<u32>(0u);
            if k < range.y {
                word = weight(w_start + k * 64u + i % 64u);
            }
            w_tile[i] = word;
        }
        workgroupBarrier();
        for (var k = 0u; k < K_STEP; k++) {
            let w_at = k * 64u + local.x;
            let b0 = w_tile[w_at];
            let b1 = w_tile[w_at + 16u];
            let b2 = w_tile[w_at + 32u];
            let b3 = w_tile[w_at + 48u];
            let x_at = k * x_stride + local.y * 4u;
            s0 += dot16x4(x_tile[x_at], b0, b1, b2, b3);
            s1 += dot16x4(x_tile[x_at + 1u], b0, b1, b2, b3);
            s2 += dot16x4(x_tile[x_at + 2u], b0, b1, b2, b3);
            s3 += dot16x4(x_tile[x_at + 3u], b0, b1, b2, b3);
        }
        workgroupBarrier();
    }
    let quad = group.x * 16u + local.x;
    let row = tile_row + local.y * 4u;
    // A loop, so that the epilogue is compiled once.
    for (var i = 0u; i < 4u; i++) {
        store(s0, row + i, quad);
        s0 = s1;
        s1 = s2;
        s2 = s3;
    }
}

// int8 linear layer through workgroup memory: 64 columns and 4 * THREADS_Y rows a group, 4 x 4 outputs a thread.

// Threads along the rows.
override THREADS_Y: u32 = 16u;
// Words of 16 codes that are staged at a time.
override K_STEP: u32 = 4u;

// Two words of padding keep the stores of a group off each other's banks.
var<workgroup> x_tile: array<vec4<u32>, K_STEP * (THREADS_Y * 4u + 2u)>;
var<workgroup> w_tile: array<vec4<u32>, K_STEP * 64u>;

struct Sums {
    r0: vec4<i32>,
    r1: vec4<i32>,
    r2: vec4<i32>,
    r3: vec4<i32>,
}

fn product(block: u32, first_row: u32, local: vec2<u32>) -> Sums {
    let tile_rows = THREADS_Y * 4u;
    let x_stride = tile_rows + 2u;
    let threads = THREADS_Y * 16u;
    let thread = local.y * 16u + local.x;
    let last_row = matrix_rows() - 1u;
    let k_vecs = params.k_vecs;
    var sums: Sums;
    for (var k0 = 0u; k0 < k_vecs; k0 += K_STEP) {
        for (var i = thread; i < K_STEP * tile_rows; i += threads) {
            let k = i % K_STEP;
            let row = i / K_STEP;
            // Rows beyond the last repeat it, and are dropped on the way out; words beyond the last are 0 in `w`.
            x_tile[k * x_stride + row] = x[min(first_row + row, last_row) * k_vecs + min(k0 + k, k_vecs - 1u)];
        }
        for (var i = thread; i < K_STEP * 64u; i += threads) {
            let k = k0 + i / 64u;
            var word = vec4<u32>(0u);
            if k < k_vecs {
                word = w[(block * k_vecs + k) * 64u + i % 64u];
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
            sums.r0 += dot16x4(x_tile[x_at], b0, b1, b2, b3);
            sums.r1 += dot16x4(x_tile[x_at + 1u], b0, b1, b2, b3);
            sums.r2 += dot16x4(x_tile[x_at + 2u], b0, b1, b2, b3);
            sums.r3 += dot16x4(x_tile[x_at + 3u], b0, b1, b2, b3);
        }
        workgroupBarrier();
    }
    return sums;
}

@compute @workgroup_size(16, THREADS_Y)
fn linear_i8_i8(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let first_row = (group.z * groups.y + group.y) * THREADS_Y * 4u;
    let sums = product(group.x, first_row, local.xy);
    let quad = group.x * 16u + local.x;
    let row = first_row + local.y * 4u;
    store_i8(sums.r0, row, quad);
    store_i8(sums.r1, row + 1u, quad);
    store_i8(sums.r2, row + 2u, quad);
    store_i8(sums.r3, row + 3u, quad);
}

@compute @workgroup_size(16, THREADS_Y)
fn linear_i8_f32(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let first_row = (group.z * groups.y + group.y) * THREADS_Y * 4u;
    let sums = product(group.x, first_row, local.xy);
    let quad = group.x * 16u + local.x;
    let row = first_row + local.y * 4u;
    store_f32(sums.r0, row, quad);
    store_f32(sums.r1, row + 1u, quad);
    store_f32(sums.r2, row + 2u, quad);
    store_f32(sums.r3, row + 3u, quad);
}

@compute @workgroup_size(16, THREADS_Y)
fn linear_dynamic_i8_f32(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let first_row = (group.z * groups.y + group.y) * THREADS_Y * 4u;
    let sums = product(group.x, first_row, local.xy);
    let quad = group.x * 16u + local.x;
    let row = first_row + local.y * 4u;
    store_dynamic(sums.r0, row, quad);
    store_dynamic(sums.r1, row + 1u, quad);
    store_dynamic(sums.r2, row + 2u, quad);
    store_dynamic(sums.r3, row + 3u, quad);
}

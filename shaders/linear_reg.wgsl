// int8 linear layer without workgroup memory: 64 columns and 8 * THREADS_Y rows a group, 8 x 4 outputs a thread. For
// devices whose workgroup memory is no faster than a cache: mobile ones, and those that are a CPU.

// Threads along the rows.
override THREADS_Y: u32 = 4u;

struct Sums {
    r0: vec4<i32>,
    r1: vec4<i32>,
    r2: vec4<i32>,
    r3: vec4<i32>,
    r4: vec4<i32>,
    r5: vec4<i32>,
    r6: vec4<i32>,
    r7: vec4<i32>,
}

// Where a row of `x` begins; rows beyond the last repeat it, and are dropped on the way out.
fn row_start(row: u32) -> u32 {
    return min(row, matrix_rows() - 1u) * params.k_vecs;
}

fn product(block: u32, row: u32, column: u32) -> Sums {
    let x0 = row_start(row);
    let x1 = row_start(row + 1u);
    let x2 = row_start(row + 2u);
    let x3 = row_start(row + 3u);
    let x4 = row_start(row + 4u);
    let x5 = row_start(row + 5u);
    let x6 = row_start(row + 6u);
    let x7 = row_start(row + 7u);
    let w_start = block * params.k_vecs * 64u + column;
    var sums: Sums;
    for (var k = 0u; k < params.k_vecs; k++) {
        let w_at = w_start + k * 64u;
        let b0 = w[w_at];
        let b1 = w[w_at + 16u];
        let b2 = w[w_at + 32u];
        let b3 = w[w_at + 48u];
        sums.r0 += dot16x4(x[x0 + k], b0, b1, b2, b3);
        sums.r1 += dot16x4(x[x1 + k], b0, b1, b2, b3);
        sums.r2 += dot16x4(x[x2 + k], b0, b1, b2, b3);
        sums.r3 += dot16x4(x[x3 + k], b0, b1, b2, b3);
        sums.r4 += dot16x4(x[x4 + k], b0, b1, b2, b3);
        sums.r5 += dot16x4(x[x5 + k], b0, b1, b2, b3);
        sums.r6 += dot16x4(x[x6 + k], b0, b1, b2, b3);
        sums.r7 += dot16x4(x[x7 + k], b0, b1, b2, b3);
    }
    return sums;
}

fn first_row(group: vec3<u32>, groups: vec3<u32>, thread: u32) -> u32 {
    return ((group.z * groups.y + group.y) * THREADS_Y + thread) * 8u;
}

@compute @workgroup_size(16, THREADS_Y)
fn linear_reg_i8_i8(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let row = first_row(group, groups, local.y);
    let sums = product(group.x, row, local.x);
    let quad = group.x * 16u + local.x;
    store_i8(sums.r0, row, quad);
    store_i8(sums.r1, row + 1u, quad);
    store_i8(sums.r2, row + 2u, quad);
    store_i8(sums.r3, row + 3u, quad);
    store_i8(sums.r4, row + 4u, quad);
    store_i8(sums.r5, row + 5u, quad);
    store_i8(sums.r6, row + 6u, quad);
    store_i8(sums.r7, row + 7u, quad);
}

@compute @workgroup_size(16, THREADS_Y)
fn linear_reg_i8_f32(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let row = first_row(group, groups, local.y);
    let sums = product(group.x, row, local.x);
    let quad = group.x * 16u + local.x;
    store_f32(sums.r0, row, quad);
    store_f32(sums.r1, row + 1u, quad);
    store_f32(sums.r2, row + 2u, quad);
    store_f32(sums.r3, row + 3u, quad);
    store_f32(sums.r4, row + 4u, quad);
    store_f32(sums.r5, row + 5u, quad);
    store_f32(sums.r6, row + 6u, quad);
    store_f32(sums.r7, row + 7u, quad);
}

@compute @workgroup_size(16, THREADS_Y)
fn linear_reg_dynamic_i8_f32(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let row = first_row(group, groups, local.y);
    let sums = product(group.x, row, local.x);
    let quad = group.x * 16u + local.x;
    store_dynamic(sums.r0, row, quad);
    store_dynamic(sums.r1, row + 1u, quad);
    store_dynamic(sums.r2, row + 2u, quad);
    store_dynamic(sums.r3, row + 3u, quad);
    store_dynamic(sums.r4, row + 4u, quad);
    store_dynamic(sums.r5, row + 5u, quad);
    store_dynamic(sums.r6, row + 6u, quad);
    store_dynamic(sums.r7, row + 7u, quad);
}

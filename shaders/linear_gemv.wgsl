// int8 linear layer for few rows: 64 columns and ROWS rows a group, one column a thread. The features are dealt out to
// K_LANES threads, whose sums meet in workgroup memory: integers, so their order does not matter.

// 1, 2 or 4.
override ROWS: u32 = 1u;
override K_LANES: u32 = 4u;

// For each lane and column, one sum for each row.
var<workgroup> partial: array<vec4<i32>, K_LANES * 64u>;

struct Sums {
    c0: vec4<i32>,
    c1: vec4<i32>,
    c2: vec4<i32>,
    c3: vec4<i32>,
}

// Where a row of `x` begins; rows beyond the last repeat it, and are dropped on the way out.
fn row_start(row: u32) -> u32 {
    return min(row, matrix_rows() - 1u) * params.k_vecs;
}

// For a thread of the first lane and the first 16 columns: the sums of its quad, a vector of rows for each column.
fn product(block: u32, row: u32, local: vec2<u32>) -> Sums {
    let x0 = row_start(row);
    let x1 = row_start(row + 1u);
    let x2 = row_start(row + 2u);
    let x3 = row_start(row + 3u);
    let w_start = block * params.k_vecs * 64u + local.x;
    var sum = vec4<i32>(0);
    for (var k = local.y; k < params.k_vecs; k += K_LANES) {
        let b = w[w_start + k * 64u];
        sum.x += dot16(x[x0 + k], b);
        if ROWS > 1u {
            sum.y += dot16(x[x1 + k], b);
        }
        if ROWS > 2u {
            sum.z += dot16(x[x2 + k], b);
            sum.w += dot16(x[x3 + k], b);
        }
    }
    partial[local.y * 64u + local.x] = sum;
    workgroupBarrier();
    var sums: Sums;
    if local.x < 16u && local.y == 0u {
        for (var lane = 0u; lane < K_LANES; lane++) {
            let at = lane * 64u + local.x;
            sums.c0 += partial[at];
            sums.c1 += partial[at + 16u];
            sums.c2 += partial[at + 32u];
            sums.c3 += partial[at + 48u];
        }
    }
    return sums;
}

@compute @workgroup_size(64, K_LANES)
fn linear_gemv_i8_i8(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let row = (group.z * groups.y + group.y) * ROWS;
    let sums = product(group.x, row, local.xy);
    if local.x >= 16u || local.y > 0u {
        return;
    }
    let quad = group.x * 16u + local.x;
    store_i8(vec4<i32>(sums.c0.x, sums.c1.x, sums.c2.x, sums.c3.x), row, quad);
    if ROWS > 1u {
        store_i8(vec4<i32>(sums.c0.y, sums.c1.y, sums.c2.y, sums.c3.y), row + 1u, quad);
    }
    if ROWS > 2u {
        store_i8(vec4<i32>(sums.c0.z, sums.c1.z, sums.c2.z, sums.c3.z), row + 2u, quad);
        store_i8(vec4<i32>(sums.c0.w, sums.c1.w, sums.c2.w, sums.c3.w), row + 3u, quad);
    }
}

@compute @workgroup_size(64, K_LANES)
fn linear_gemv_i8_f32(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let row = (group.z * groups.y + group.y) * ROWS;
    let sums = product(group.x, row, local.xy);
    if local.x >= 16u || local.y > 0u {
        return;
    }
    let quad = group.x * 16u + local.x;
    store_f32(vec4<i32>(sums.c0.x, sums.c1.x, sums.c2.x, sums.c3.x), row, quad);
    if ROWS > 1u {
        store_f32(vec4<i32>(sums.c0.y, sums.c1.y, sums.c2.y, sums.c3.y), row + 1u, quad);
    }
    if ROWS > 2u {
        store_f32(vec4<i32>(sums.c0.z, sums.c1.z, sums.c2.z, sums.c3.z), row + 2u, quad);
        store_f32(vec4<i32>(sums.c0.w, sums.c1.w, sums.c2.w, sums.c3.w), row + 3u, quad);
    }
}

@compute @workgroup_size(64, K_LANES)
fn linear_gemv_dynamic_i8_f32(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let row = (group.z * groups.y + group.y) * ROWS;
    let sums = product(group.x, row, local.xy);
    if local.x >= 16u || local.y > 0u {
        return;
    }
    let quad = group.x * 16u + local.x;
    store_dynamic(vec4<i32>(sums.c0.x, sums.c1.x, sums.c2.x, sums.c3.x), row, quad);
    if ROWS > 1u {
        store_dynamic(vec4<i32>(sums.c0.y, sums.c1.y, sums.c2.y, sums.c3.y), row + 1u, quad);
    }
    if ROWS > 2u {
        store_dynamic(vec4<i32>(sums.c0.z, sums.c1.z, sums.c2.z, sums.c3.z), row + 2u, quad);
        store_dynamic(vec4<i32>(sums.c0.w, sums.c1.w, sums.c2.w, sums.c3.w), row + 3u, quad);
    }
}

// int8 linear layer without workgroup memory: 64 columns and 8 * THREADS_Y rows a workgroup, 8 x 4 outputs a thread. It suits
// devices whose workgroup memory is no faster than a cache: mobile GPUs and software adapters.

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

// Vectors of eight rows. `register_packed.wgsl` and `register_words.wgsl` add their products with four columns.
struct RowVectors {
    r0: vec4<u32>,
    r1: vec4<u32>,
    r2: vec4<u32>,
    r3: vec4<u32>,
    r4: vec4<u32>,
    r5: vec4<u32>,
    r6: vec4<u32>,
    r7: vec4<u32>,
}

// Threads along the rows.
override THREADS_Y: u32 = 4u;

@compute @workgroup_size(16, THREADS_Y)
fn linear_reg(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let row = first_row(group, groups, THREADS_Y * 8u) + local.y * 8u;
    let x0 = row_start(row);
    let x1 = row_start(row + 1u);
    let x2 = row_start(row + 2u);
    let x3 = row_start(row + 3u);
    let x4 = row_start(row + 4u);
    let x5 = row_start(row + 5u);
    let x6 = row_start(row + 6u);
    let x7 = row_start(row + 7u);
    let w0 = weight_start(group.x, local.x);
    let w1 = weight_start(group.x, local.x + 16u);
    let w2 = weight_start(group.x, local.x + 32u);
    let w3 = weight_start(group.x, local.x + 48u);
    let f_start = factor_start(group.x, local.x);
    let quad = group.x * 16u + local.x;
    let range = k_range(group);
    // Bounds of loops, not a return: drivers that run on a CPU may compute what follows a branch for no thread, but leave loops.
    let stored_rows = select(0u, 8u, is_stored(quad));
    let k_end = select(range.x, range.y, stored_rows > 0u);
    var sums: Rows;
    for (var k = range.x; k < k_end; k++) {
        let b0 = weight_at(w0, k);
        let b1 = weight_at(w1, k);
        let b2 = weight_at(w2, k);
        let b3 = weight_at(w3, k);
        let a = RowVectors(
            x_vec(x0, k), x_vec(x1, k), x_vec(x2, k), x_vec(x3, k), x_vec(x4, k), x_vec(x5, k), x_vec(x6, k), x_vec(x7, k)
        );
        sums = add_rows(sums, a, b0, b1, b2, b3, factors_at(f_start, k));
    }
    let output = output_at(quad);
    // A loop, so that the epilogue is compiled once.
    for (var i = 0u; i < stored_rows; i++) {
        store(sums.r0, row + i, output);
        sums = Rows(sums.r1, sums.r2, sums.r3, sums.r4, sums.r5, sums.r6, sums.r7, sums.r7);
    }
}

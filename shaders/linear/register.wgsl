// int8 linear layer without workgroup memory: 64 columns and 8 * THREADS_Y rows a workgroup, 8 x 4 outputs a thread. It suits
// devices whose workgroup memory is no faster than a cache: mobile GPUs and software adapters.

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
    let range = k_range(group);
    var s0 = vec4<i32>();
    var s1 = vec4<i32>();
    var s2 = vec4<i32>();
    var s3 = vec4<i32>();
    var s4 = vec4<i32>();
    var s5 = vec4<i32>();
    var s6 = vec4<i32>();
    var s7 = vec4<i32>();
    for (var k = range.x; k < range.y; k++) {
        let b0 = weight_at(w0, k);
        let b1 = weight_at(w1, k);
        let b2 = weight_at(w2, k);
        let b3 = weight_at(w3, k);
        let f = factors_at(f_start, k);
        s0 = add_products(s0, x_vec(x0, k), b0, b1, b2, b3, f);
        s1 = add_products(s1, x_vec(x1, k), b0, b1, b2, b3, f);
        s2 = add_products(s2, x_vec(x2, k), b0, b1, b2, b3, f);
        s3 = add_products(s3, x_vec(x3, k), b0, b1, b2, b3, f);
        s4 = add_products(s4, x_vec(x4, k), b0, b1, b2, b3, f);
        s5 = add_products(s5, x_vec(x5, k), b0, b1, b2, b3, f);
        s6 = add_products(s6, x_vec(x6, k), b0, b1, b2, b3, f);
        s7 = add_products(s7, x_vec(x7, k), b0, b1, b2, b3, f);
    }
    let output = output_at(group.x * 16u + local.x);
    // A loop, so that the epilogue is compiled once.
    for (var i = 0u; i < 8u; i++) {
        store(s0, row + i, output);
        s0 = s1;
        s1 = s2;
        s2 = s3;
        s3 = s4;
        s4 = s5;
        s5 = s6;
        s6 = s7;
    }
}

// int8 linear layer for few rows, without workgroup memory: 64 columns and THREADS_Y rows a workgroup, one row and 4 columns a thread. It
// suits software adapters, which compile it in a third of the time that the kernel with shared sums takes.

// Threads along the rows.
override THREADS_Y: u32 = 1u;

@compute @workgroup_size(16, THREADS_Y)
fn linear_row(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let row = first_row(group, groups, THREADS_Y) + local.y;
    let start = row_start(row);
    let w0 = weight_start(group.x, local.x);
    let w1 = weight_start(group.x, local.x + 16u);
    let w2 = weight_start(group.x, local.x + 32u);
    let w3 = weight_start(group.x, local.x + 48u);
    let f_start = factor_start(group.x, local.x);
    let quad = group.x * 16u + local.x;
    let range = k_range(group);
    let k_end = select(range.x, range.y, is_stored(quad));
    var sum = vec4<i32>();
    for (var k = range.x; k < k_end; k++) {
        let a = x_vec(start, k);
        let b0 = weight_at(w0, k);
        let b1 = weight_at(w1, k);
        let b2 = weight_at(w2, k);
        let b3 = weight_at(w3, k);
        sum = add_row(sum, a, b0, b1, b2, b3, factors_at(f_start, k));
    }
    store(sum, row, output_at(quad));
}

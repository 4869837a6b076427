// Float products of matrices so small that tiles would be almost empty: one element a thread.

@compute @workgroup_size(64)
fn matmul_elements_f32_f32(thread: Thread) {
    let index = thread_index(thread);
    let cols = params.strided.cols;
    let row = index / cols;
    if row >= matrix_rows() {
        return;
    }
    let matrix = row / params.m;
    let tile = Tile(offsets(matrix), params.m, 0u, 0u, true);
    var sums = vec4<f32>();
    for (var k = 0u; k < params.k; k++) {
        sums = plus_products(sums, a_at(tile, row % params.m, k), vec4<f32>(b_at(tile, k, index % cols), 0.0f, 0.0f, 0.0f));
    }
    store_float(tile, row % params.m, index % cols, sums.x);
}

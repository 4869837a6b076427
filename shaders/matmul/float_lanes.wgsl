// Float products with subgroup operations: 16 rows and 32 columns a workgroup, 16 x 4 outputs a thread. Each lane loads the factors of two
// rows and broadcasts them. It suits drivers on which a load costs much more than a shuffle: software adapters.

// Four features of a row.
fn row_factors(tile: Tile, row: u32, k: u32) -> vec4<f32> {
    return vec4<f32>(a_at(tile, row, k), a_at(tile, row, k + 1u), a_at(tile, row, k + 2u), a_at(tile, row, k + 3u));
}

@compute @workgroup_size(8)
fn matmul_lanes_f32_f32(thread: Thread, @builtin(subgroup_invocation_id) invocation: u32) {
    let tile = tile_of(thread, 16u, 32u);
    let row = tile.row + invocation % 8u;
    let column = tile.column + thread.local * 4u;
    var low = Rows();
    var high = Rows();
    for (var k = 0u; k < params.k; k += 4u) {
        let first = row_factors(tile, row, k);
        let second = row_factors(tile, row + 8u, k);
        let b0 = column_factors(tile, k, column);
        let b1 = column_factors(tile, k + 1u, column);
        let b2 = column_factors(tile, k + 2u, column);
        let b3 = column_factors(tile, k + 3u, column);
        low = plus_rows(low, first.x, b0);
        high = plus_rows(high, second.x, b0);
        low = plus_rows(low, first.y, b1);
        high = plus_rows(high, second.y, b1);
        low = plus_rows(low, first.z, b2);
        high = plus_rows(high, second.z, b2);
        low = plus_rows(low, first.w, b3);
        high = plus_rows(high, second.w, b3);
    }
    if !tile.inside {
        return;
    }
    // A loop, so that what follows a sum is compiled once.
    for (var i = 0u; i < 8u; i++) {
        store_quad(tile, tile.row + i, column, low.r0);
        store_quad(tile, tile.row + 8u + i, column, high.r0);
        low = Rows(low.r1, low.r2, low.r3, low.r4, low.r5, low.r6, low.r7, low.r7);
        high = Rows(high.r1, high.r2, high.r3, high.r4, high.r5, high.r6, high.r7, high.r7);
    }
}

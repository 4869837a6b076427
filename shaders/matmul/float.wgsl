// Float products with tiles in workgroup memory: 4 x 4 outputs a thread.

var<workgroup> a_tile: array<vec4<f32>, 256>;
var<workgroup> b_tile: array<vec4<f32>, 256>;

// A feature of four rows.
fn factors_of_rows(tile: Tile, row: u32, k: u32) -> vec4<f32> {
    return vec4<f32>(a_at(tile, row, k), a_at(tile, row + 1u, k), a_at(tile, row + 2u, k), a_at(tile, row + 3u, k));
}

@compute @workgroup_size(256)
fn matmul_f32_f32(thread: Thread) {
    let tile = tile_of(thread, 64u, 64u);
    let x = thread.local % 16u;
    let y = thread.local / 16u;
    var s0 = vec4<f32>();
    var s1 = vec4<f32>();
    var s2 = vec4<f32>();
    var s3 = vec4<f32>();
    let row = tile.row + x * 4u;
    let column = tile.column + x * 4u;
    for (var k0 = 0u; k0 < params.k; k0 += 16u) {
        // Entry [k][quad] of a tile holds four rows of a, or four columns of b.
        a_tile[thread.local] = factors_of_rows(tile, row, k0 + y);
        b_tile[thread.local] = column_factors(tile, k0 + y, column);
        workgroupBarrier();
        for (var i = 0u; i < 256u; i += 16u) {
            let left = a_tile[i + y];
            let right = b_tile[i + x];
            s0 = plus_products(s0, left.x, right);
            s1 = plus_products(s1, left.y, right);
            s2 = plus_products(s2, left.z, right);
            s3 = plus_products(s3, left.w, right);
        }
        workgroupBarrier();
    }
    if !tile.inside {
        return;
    }
    let first = tile.row + y * 4u;
    store_quad(tile, first, column, s0);
    store_quad(tile, first + 1u, column, s1);
    store_quad(tile, first + 2u, column, s2);
    store_quad(tile, first + 3u, column, s3);
}

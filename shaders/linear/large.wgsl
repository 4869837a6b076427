// int8 linear layer for large GPUs: 128 columns and 128 rows a workgroup, 8 x 8 outputs a thread. While a thread computes on one
// stage of workgroup memory, it loads its vectors of the next, so that each stage costs one barrier.

// Two stages of two vectors for 128 rows, and for the 128 columns of two blocks: 16 KiB in all.
var<workgroup> x_tile: array<vec4<u32>, 512>;
var<workgroup> w_tile: array<vec4<u32>, 512>;

// Eight outputs of a row: a quad of either block.
struct Row {
    a: vec4<i32>,
    b: vec4<i32>,
}

struct Columns {
    a0: vec4<u32>,
    a1: vec4<u32>,
    a2: vec4<u32>,
    a3: vec4<u32>,
    b0: vec4<u32>,
    b1: vec4<u32>,
    b2: vec4<u32>,
    b3: vec4<u32>,
    a: Factors,
    b: Factors,
}

fn columns_at(at: u32, a: Factors, b: Factors) -> Columns {
    return Columns(
        w_tile[at], w_tile[at + 16u], w_tile[at + 32u], w_tile[at + 48u],
        w_tile[at + 64u], w_tile[at + 80u], w_tile[at + 96u], w_tile[at + 112u], a, b
    );
}

fn plus(sum: Row, word: vec4<u32>, w: Columns) -> Row {
    return Row(
        add_products(sum.a, word, w.a0, w.a1, w.a2, w.a3, w.a), add_products(sum.b, word, w.b0, w.b1, w.b2, w.b3, w.b)
    );
}

fn store_row(sum: Row, row: u32, a: Output, b: Output) {
    store(sum.a, row, a);
    store(sum.b, row, b);
}

@compute @workgroup_size(16, 16)
fn linear_large(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let thread = local.y * 16u + local.x;
    let tile_row = first_row(group, groups, 128u);
    let range = k_range(group);
    // This thread loads one of two vectors of a row of x, and one of two vectors of a slot of w.
    let x_start = row_start(tile_row + thread / 2u);
    let x_k = thread % 2u;
    let x_slot = x_k * 128u + thread / 2u;
    let slot = thread % 128u;
    let w_k = thread / 128u;
    // The last block may have no neighbour; `store` drops the columns of the second then.
    let block = min(group.x * 2u + slot / 64u, params.quads / 16u - 1u);
    let w_start = weight_start(block, slot % 64u);
    let fa_start = factor_start(group.x * 2u, local.x);
    let fb_start = factor_start(min(group.x * 2u + 1u, params.quads / 16u - 1u), local.x);
    // Beyond the last vector, `w` counts as 0, so x may have any value there. Loads without a branch need not be waited for before the
    // products.
    var x_word = x_load(x_start, min(range.x + x_k, params.k_vecs - 1u));
    var w_word = weight_at(w_start, min(range.x + w_k, range.y - 1u));
    var s0 = Row();
    var s1 = Row();
    var s2 = Row();
    var s3 = Row();
    var s4 = Row();
    var s5 = Row();
    var s6 = Row();
    var s7 = Row();
    var stage = 0u;
    for (var k0 = range.x; k0 < range.y; k0 += 2u) {
        x_tile[stage + x_slot] = x_masked(x_start, min(k0 + x_k, params.k_vecs - 1u), x_word);
        w_tile[stage + thread] = select(vec4<u32>(), w_word, k0 + w_k < range.y);
        workgroupBarrier();
        x_word = x_load(x_start, min(k0 + 2u + x_k, params.k_vecs - 1u));
        w_word = weight_at(w_start, min(k0 + 2u + w_k, range.y - 1u));
        for (var k = 0u; k < 256u; k += 128u) {
            let k_vec = min(k0 + k / 128u, params.k_vecs - 1u);
            let w = columns_at(stage + k + local.x, factors_at(fa_start, k_vec), factors_at(fb_start, k_vec));
            let x_at = stage + k + local.y * 8u;
            s0 = plus(s0, x_tile[x_at], w);
            s1 = plus(s1, x_tile[x_at + 1u], w);
            s2 = plus(s2, x_tile[x_at + 2u], w);
            s3 = plus(s3, x_tile[x_at + 3u], w);
            s4 = plus(s4, x_tile[x_at + 4u], w);
            s5 = plus(s5, x_tile[x_at + 5u], w);
            s6 = plus(s6, x_tile[x_at + 6u], w);
            s7 = plus(s7, x_tile[x_at + 7u], w);
        }
        stage ^= 256u;
    }
    let a = output_at(group.x * 32u + local.x);
    let b = output_at(group.x * 32u + local.x + 16u);
    let row = tile_row + local.y * 8u;
    // A loop, so that the epilogue is compiled once.
    for (var i = 0u; i < 8u; i++) {
        store_row(s0, row + i, a, b);
        s0 = s1;
        s1 = s2;
        s2 = s3;
        s3 = s4;
        s4 = s5;
        s5 = s6;
        s6 = s7;
    }
}

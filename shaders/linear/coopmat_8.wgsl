// `coopmat_16.wgsl` for devices with matrices of 8 x 8: Metal, and Mesa's llvmpipe. The tiles hold scalars, because MSL loads
// matrices through pointers to scalars only.

// The sums of a patch of 32 x 32, by pieces of 16 x 16, each of 2 x 2 fragments, row by row.
alias Fragments = array<coop_mat8x8<f32, C>, 16>;

var<workgroup> x_tile: array<f16, PATCH_ROWS * 32u * (K_STEP * 16u + 8u)>;
var<workgroup> w_tile: array<f16, 64u * (K_STEP * 16u + 8u)>;

fn tile_stride() -> u32 {
    return K_STEP * 16u + 8u;
}

fn stage_x4(at: u32, word: u32) {
    let values = vec4<f16>(unpack4xI8(word));
    x_tile[at] = values.x;
    x_tile[at + 1u] = values.y;
    x_tile[at + 2u] = values.z;
    x_tile[at + 3u] = values.w;
}

fn stage_w4(at: u32, word: u32) {
    let values = vec4<f16>(weight_values(word));
    w_tile[at] = values.x;
    w_tile[at + 1u] = values.y;
    w_tile[at + 2u] = values.z;
    w_tile[at + 3u] = values.w;
}

fn stage_x(row: u32, k: u32, word: vec4<u32>) {
    let at = row * tile_stride() + k * 16u;
    stage_x4(at, word.x);
    stage_x4(at + 4u, word.y);
    stage_x4(at + 8u, word.z);
    stage_x4(at + 12u, word.w);
}

fn stage_w(column: u32, k: u32, word: vec4<u32>) {
    let at = column * tile_stride() + k * 16u;
    stage_w4(at, word.x);
    stage_w4(at + 4u, word.y);
    stage_w4(at + 8u, word.z);
    stage_w4(at + 12u, word.w);
}

fn clear(c: ptr<function, Fragments>, area: u32) {
    let zero = coopLoadT<coop_mat8x8<f32, C>>(&sum_tile[area], 16u);
    (*c)[0] = zero;
    (*c)[1] = zero;
    (*c)[2] = zero;
    (*c)[3] = zero;
    (*c)[4] = zero;
    (*c)[5] = zero;
    (*c)[6] = zero;
    (*c)[7] = zero;
    (*c)[8] = zero;
    (*c)[9] = zero;
    (*c)[10] = zero;
    (*c)[11] = zero;
    (*c)[12] = zero;
    (*c)[13] = zero;
    (*c)[14] = zero;
    (*c)[15] = zero;
}

// Adds the products of half a vector along K.
fn multiply8(c: ptr<function, Fragments>, x_at: u32, w_at: u32) {
    let stride = tile_stride();
    let a0 = coopLoadT<coop_mat8x8<f16, A>>(&x_tile[x_at], stride);
    let a1 = coopLoadT<coop_mat8x8<f16, A>>(&x_tile[x_at + 8u * stride], stride);
    let a2 = coopLoadT<coop_mat8x8<f16, A>>(&x_tile[x_at + 16u * stride], stride);
    let a3 = coopLoadT<coop_mat8x8<f16, A>>(&x_tile[x_at + 24u * stride], stride);
    let b0 = coopLoad<coop_mat8x8<f16, B>>(&w_tile[w_at], stride);
    let b1 = coopLoad<coop_mat8x8<f16, B>>(&w_tile[w_at + 8u * stride], stride);
    let b2 = coopLoad<coop_mat8x8<f16, B>>(&w_tile[w_at + 16u * stride], stride);
    let b3 = coopLoad<coop_mat8x8<f16, B>>(&w_tile[w_at + 24u * stride], stride);
    (*c)[0] = coopMultiplyAdd(a0, b0, (*c)[0]);
    (*c)[1] = coopMultiplyAdd(a0, b1, (*c)[1]);
    (*c)[2] = coopMultiplyAdd(a1, b0, (*c)[2]);
    (*c)[3] = coopMultiplyAdd(a1, b1, (*c)[3]);
    (*c)[4] = coopMultiplyAdd(a0, b2, (*c)[4]);
    (*c)[5] = coopMultiplyAdd(a0, b3, (*c)[5]);
    (*c)[6] = coopMultiplyAdd(a1, b2, (*c)[6]);
    (*c)[7] = coopMultiplyAdd(a1, b3, (*c)[7]);
    (*c)[8] = coopMultiplyAdd(a2, b0, (*c)[8]);
    (*c)[9] = coopMultiplyAdd(a2, b1, (*c)[9]);
    (*c)[10] = coopMultiplyAdd(a3, b0, (*c)[10]);
    (*c)[11] = coopMultiplyAdd(a3, b1, (*c)[11]);
    (*c)[12] = coopMultiplyAdd(a2, b2, (*c)[12]);
    (*c)[13] = coopMultiplyAdd(a2, b3, (*c)[13]);
    (*c)[14] = coopMultiplyAdd(a3, b2, (*c)[14]);
    (*c)[15] = coopMultiplyAdd(a3, b3, (*c)[15]);
}

fn multiply(c: ptr<function, Fragments>, row: u32, column: u32, k: u32, lane: Lane) {
    let x_at = row * tile_stride() + k * 16u;
    let w_at = column * tile_stride() + k * 16u;
    multiply8(c, x_at, w_at);
    multiply8(c, x_at + 8u, w_at + 8u);
}

fn store_piece(c: ptr<function, Fragments>, piece: u32, area: u32, lane: Lane) {
    coopStoreT((*c)[piece * 4u], &sum_tile[area], 16u);
    coopStoreT((*c)[piece * 4u + 1u], &sum_tile[area + 8u], 16u);
    coopStoreT((*c)[piece * 4u + 2u], &sum_tile[area + 128u], 16u);
    coopStoreT((*c)[piece * 4u + 3u], &sum_tile[area + 136u], 16u);
}

// Cooperative matrices of 16 x 16: factors in f16, sums in f32. `coopmat_8.wgsl` has the same functions for matrices of 8 x 8,
// `coopmat_emulated.wgsl` for devices without cooperative matrices.

// The sums of a patch of 32 x 32, by pieces of 16 x 16, row by row.
alias Fragments = array<coop_mat16x16<f32, C>, 4>;

// Rows of activations, and columns of weights, K_STEP * 16 values each. Fragments must start at multiples of 16 bytes. Two vectors of
// padding keep to that, and keep the rows of a fragment in different banks.
var<workgroup> x_tile: array<vec4<f16>, PATCH_ROWS * 32u * (K_STEP * 4u + 2u)>;
var<workgroup> w_tile: array<vec4<f16>, 64u * (K_STEP * 4u + 2u)>;

// The stride is in vectors, like the strides of the loads below, which count elements of the pointer's type.
fn tile_stride() -> u32 {
    return K_STEP * 4u + 2u;
}

// Every int8 value is exact in f16.
fn stage_x(row: u32, k: u32, word: vec4<u32>) {
    let at = row * tile_stride() + k * 4u;
    x_tile[at] = vec4<f16>(unpack4xI8(word.x));
    x_tile[at + 1u] = vec4<f16>(unpack4xI8(word.y));
    x_tile[at + 2u] = vec4<f16>(unpack4xI8(word.z));
    x_tile[at + 3u] = vec4<f16>(unpack4xI8(word.w));
}

fn stage_w(column: u32, k: u32, word: vec4<u32>) {
    let at = column * tile_stride() + k * 4u;
    w_tile[at] = vec4<f16>(weight_values(word.x));
    w_tile[at + 1u] = vec4<f16>(weight_values(word.y));
    w_tile[at + 2u] = vec4<f16>(weight_values(word.z));
    w_tile[at + 3u] = vec4<f16>(weight_values(word.w));
}

// Sums start as the zeros in `area`: naga's zero value of a fragment is undefined in MSL.
fn clear(c: ptr<function, Fragments>, area: u32) {
    let zero = coopLoadT<coop_mat16x16<f32, C>>(&sum_tile[area], 16u);
    (*c)[0] = zero;
    (*c)[1] = zero;
    (*c)[2] = zero;
    (*c)[3] = zero;
}

// Adds the products of one vector along K. `T` means row-major; the weights are column-major.
fn multiply(c: ptr<function, Fragments>, row: u32, column: u32, k: u32, lane: Lane) {
    let stride = tile_stride();
    let x_at = row * stride + k * 4u;
    let w_at = column * stride + k * 4u;
    let a0 = coopLoadT<coop_mat16x16<f16, A>>(&x_tile[x_at], stride);
    let a1 = coopLoadT<coop_mat16x16<f16, A>>(&x_tile[x_at + 16u * stride], stride);
    let b0 = coopLoad<coop_mat16x16<f16, B>>(&w_tile[w_at], stride);
    let b1 = coopLoad<coop_mat16x16<f16, B>>(&w_tile[w_at + 16u * stride], stride);
    (*c)[0] = coopMultiplyAdd(a0, b0, (*c)[0]);
    (*c)[1] = coopMultiplyAdd(a0, b1, (*c)[1]);
    (*c)[2] = coopMultiplyAdd(a1, b0, (*c)[2]);
    (*c)[3] = coopMultiplyAdd(a1, b1, (*c)[3]);
}

// `piece` is a constant where this is called.
fn store_piece(c: ptr<function, Fragments>, piece: u32, area: u32, lane: Lane) {
    coopStoreT((*c)[piece], &sum_tile[area], 16u);
}

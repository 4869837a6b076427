// A float matrix product with the engine's tile, to compare with: a workgroup computes 64 x 64 outputs, a thread 4 x 4, and 16 features
// at a time go through workgroup memory. x is [m][k] and w is [k][n]. m and n are padded with zeros to whole tiles and k to a multiple
// of 16, so that the shader needs no bounds checks.

struct Params {
    n_vecs: u32,
    k_vecs: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> w: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4<f32>>;

// Rows of the tile have one vector of padding, so that they begin in different memory banks.
const X_STRIDE = 5u;
var<workgroup> tile_x: array<vec4<f32>, 320>;
var<workgroup> tile_w: array<vec4<f32>, 256>;

@compute @workgroup_size(16, 16)
fn matmul_f32(
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(local_invocation_index) index: u32,
    @builtin(workgroup_id) group: vec3<u32>,
) {
    let x_row = index / 4u;
    let x_at = (group.y * 64u + x_row) * params.k_vecs + index % 4u;
    let w_at = local.y * params.n_vecs + group.x * 16u + local.x;
    // The loops over these are unrolled by hand: some drivers keep an array that a loop indexes in memory.
    var sum0 = vec4<f32>();
    var sum1 = vec4<f32>();
    var sum2 = vec4<f32>();
    var sum3 = vec4<f32>();
    for (var k = 0u; k < params.k_vecs; k += 4u) {
        tile_x[x_row * X_STRIDE + index % 4u] = x[x_at + k];
        tile_w[index] = w[w_at + k * 4u * params.n_vecs];
        workgroupBarrier();
        for (var step = 0u; step < 4u; step++) {
            let at = local.y * 4u * X_STRIDE + step;
            let x0 = tile_x[at];
            let x1 = tile_x[at + X_STRIDE];
            let x2 = tile_x[at + 2u * X_STRIDE];
            let x3 = tile_x[at + 3u * X_STRIDE];
            let w0 = tile_w[step * 64u + local.x];
            let w1 = tile_w[step * 64u + 16u + local.x];
            let w2 = tile_w[step * 64u + 32u + local.x];
            let w3 = tile_w[step * 64u + 48u + local.x];
            sum0 += x0.x * w0 + x0.y * w1 + x0.z * w2 + x0.w * w3;
            sum1 += x1.x * w0 + x1.y * w1 + x1.z * w2 + x1.w * w3;
            sum2 += x2.x * w0 + x2.y * w1 + x2.z * w2 + x2.w * w3;
            sum3 += x3.x * w0 + x3.y * w1 + x3.z * w2 + x3.w * w3;
        }
        workgroupBarrier();
    }
    let y_at = (group.y * 64u + local.y * 4u) * params.n_vecs + group.x * 16u + local.x;
    y[y_at] = sum0;
    y[y_at + params.n_vecs] = sum1;
    y[y_at + 2u * params.n_vecs] = sum2;
    y[y_at + 3u * params.n_vecs] = sum3;
}

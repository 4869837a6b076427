// The functions of `coopmat_16.wgsl` by plain f32 sums, so that the rest of `coopmat.wgsl` can be tested on devices without
// cooperative matrices. Slow.

// The quads of this lane in each of four pieces.
alias Fragments = array<vec4<f32>, 32>;

var<workgroup> x_tile: array<vec4<f32>, PATCH_ROWS * 32u * (K_STEP * 4u + 2u)>;
var<workgroup> w_tile: array<vec4<f32>, 64u * (K_STEP * 4u + 2u)>;

fn tile_stride() -> u32 {
    return K_STEP * 4u + 2u;
}

fn stage_x(row: u32, k: u32, word: vec4<u32>) {
    let at = row * tile_stride() + k * 4u;
    x_tile[at] = vec4<f32>(unpack4xI8(word.x));
    x_tile[at + 1u] = vec4<f32>(unpack4xI8(word.y));
    x_tile[at + 2u] = vec4<f32>(unpack4xI8(word.z));
    x_tile[at + 3u] = vec4<f32>(unpack4xI8(word.w));
}

fn stage_w(column: u32, k: u32, word: vec4<u32>) {
    let at = column * tile_stride() + k * 4u;
    w_tile[at] = vec4<f32>(weight_values(word.x));
    w_tile[at + 1u] = vec4<f32>(weight_values(word.y));
    w_tile[at + 2u] = vec4<f32>(weight_values(word.z));
    w_tile[at + 3u] = vec4<f32>(weight_values(word.w));
}

fn clear(c: ptr<function, Fragments>, area: u32) {
    for (var i = 0u; i < 32u; i++) {
        (*c)[i] = vec4<f32>(sum_tile[area]);
    }
}

fn dot_at(x_at: u32, w_at: u32) -> f32 {
    return dot(x_tile[x_at], w_tile[w_at]) + dot(x_tile[x_at + 1u], w_tile[w_at + 1u])
        + dot(x_tile[x_at + 2u], w_tile[w_at + 2u]) + dot(x_tile[x_at + 3u], w_tile[w_at + 3u]);
}

fn multiply(c: ptr<function, Fragments>, row: u32, column: u32, k: u32, lane: Lane) {
    let stride = tile_stride();
    for (var piece = 0u; piece < 4u; piece++) {
        for (var i = 0u; i < 8u; i++) {
            let quad = lane.index + i * lane.size;
            if quad < 64u {
                let x_at = (row + piece / 2u * 16u + quad / 4u) * stride + k * 4u;
                let w_at = (column + piece % 2u * 16u + quad % 4u * 4u) * stride + k * 4u;
                (*c)[piece * 8u + i] += vec4<f32>(
                    dot_at(x_at, w_at), dot_at(x_at, w_at + stride),
                    dot_at(x_at, w_at + 2u * stride), dot_at(x_at, w_at + 3u * stride)
                );
            }
        }
    }
}

fn store_piece(c: ptr<function, Fragments>, piece: u32, area: u32, lane: Lane) {
    for (var i = 0u; i < 8u; i++) {
        let quad = lane.index + i * lane.size;
        if quad < 64u {
            let sum = (*c)[piece * 8u + i];
            sum_tile[area + quad * 4u] = sum.x;
            sum_tile[area + quad * 4u + 1u] = sum.y;
            sum_tile[area + quad * 4u + 2u] = sum.z;
            sum_tile[area + quad * 4u + 3u] = sum.w;
        }
    }
}

// Float products: of two activations, and float linear layers, where b is stored transposed. 4 x 4 outputs a thread.

@group(0) @binding(3) var<storage, read_write> a: array<u32>;
@group(0) @binding(4) var<storage, read_write> b: array<u32>;
@group(0) @binding(5) var<storage, read_write> bias: array<u32>;

// Whether a bias is added.
override BIAS: bool = false;

// Whether factors are rounded to 12 bits, so that products are exact, and sums keep their order (equation 11).
override REPRODUCIBLE: bool = false;

fn factor(bits: u32) -> f32 {
    if !REPRODUCIBLE {
        return bitcast<f32>(bits);
    }
    let rounded = (bits + 0x7ffu + ((bits >> 12u) & 1u)) & 0xfffff000u;
    let magnitude = rounded & MAGNITUDE;
    let bounded = select(select(rounded, INFINITY | (bits & SIGN), magnitude > 0x5d800000u), 0u, magnitude < 0x26800000u);
    return bitcast<f32>(select(bounded, NAN, is_nan(bits)));
}

// Adds products to sums. Products of rounded factors are exact, so it does not matter whether a compiler fuses them; fma() would be a
// call for each number on CPUs without the instruction.
fn plus_products(sums: vec4<f32>, left: f32, right: vec4<f32>) -> vec4<f32> {
    let more = left * right + sums;
    if REPRODUCIBLE {
        return keep_four(more);
    }
    return more;
}

var<workgroup> a_tile: array<vec4<f32>, 256>;
var<workgroup> b_tile: array<vec4<f32>, 256>;

// Factors, or 0 beyond the operands. Loads without a branch are in flight together.
fn a_at(tile: Tile, row: u32, k: u32) -> f32 {
    let bits = a[tile.at.x + min(row, max(tile.rows, 1u) - 1u) * params.a_row + min(k, params.k - 1u)];
    return select(0.0f, factor(bits), row < tile.rows && k < params.k);
}

fn b_at(tile: Tile, k: u32, column: u32) -> f32 {
    let columns = params.strided.cols;
    let bits = b[tile.at.y + min(k, params.k - 1u) * params.b_row + min(column, columns - 1u) * params.strided.b_col];
    return select(0.0f, factor(bits), k < params.k && column < columns);
}

fn store_float(tile: Tile, row: u32, column: u32, sum: f32) {
    if row >= tile.rows || column >= params.strided.cols {
        return;
    }
    var v = bitcast<u32>(sum);
    if BIAS {
        v = sum_of(v, bias[column]);
    } else if REPRODUCIBLE {
        v = canonical_bits(v);
    }
    y[tile.at.z + row * params.y_row + column] = apply_bits(v);
}

fn store_quad(tile: Tile, row: u32, column: u32, sums: vec4<f32>) {
    store_float(tile, row, column, sums.x);
    store_float(tile, row, column + 1u, sums.y);
    store_float(tile, row, column + 2u, sums.z);
    store_float(tile, row, column + 3u, sums.w);
}

// One element a thread, for matrices so small that tiles would be almost empty.
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

@compute @workgroup_size(256)
fn matmul_f32_f32(thread: Thread) {
    let tile = tile_of(thread);
    let x = thread.local % 16u;
    let y = thread.local / 16u;
    var s0 = vec4<f32>();
    var s1 = vec4<f32>();
    var s2 = vec4<f32>();
    var s3 = vec4<f32>();
    for (var k0 = 0u; k0 < params.k; k0 += 16u) {
        // Entry [k][quad] of a tile holds four rows of a, or four columns of b.
        let row = tile.row + x * 4u;
        let k = k0 + y;
        a_tile[thread.local] = vec4<f32>(
            a_at(tile, row, k), a_at(tile, row + 1u, k), a_at(tile, row + 2u, k), a_at(tile, row + 3u, k)
        );
        let column = tile.column + x * 4u;
        b_tile[thread.local] = vec4<f32>(
            b_at(tile, k, column), b_at(tile, k, column + 1u), b_at(tile, k, column + 2u), b_at(tile, k, column + 3u)
        );
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
    let row = tile.row + y * 4u;
    let column = tile.column + x * 4u;
    store_quad(tile, row, column, s0);
    store_quad(tile, row + 1u, column, s1);
    store_quad(tile, row + 2u, column, s2);
    store_quad(tile, row + 3u, column, s3);
}

// Products of two activations, and float linear layers: y[…, M, N] = a[…, M, K] · b[…, K, N], where b may be stored either way
// round.

struct Matrices {
    // Where the matrices begin in a, b and y, and the rows of each.
    at: vec3<u32>,
    rows: u32,
}

// m is 0 where the rows are those of the batch: then there is one matrix.
fn matrices(stack: u32) -> Matrices {
    if params.m == 0u {
        return Matrices(offsets(0u), matrix_rows());
    }
    return Matrices(offsets(stack), params.m);
}

var<workgroup> a_tile: array<f32, 256>;
var<workgroup> b_tile: array<f32, 256>;

// 16 x 16 outputs a group. c is the bias if kind is 1.
@compute @workgroup_size(16, 16)
fn matmul_f32_f32(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let tile = group.z * groups.y + group.y;
    let all_rows = select(params.m, matrix_rows(), params.m == 0u);
    let tiles = (all_rows + 15u) / 16u;
    let it = matrices(tile / tiles);
    let row = tile % tiles * 16u + local.y;
    let column = group.x * 16u + local.x;
    var sum = 0.0;
    for (var k0 = 0u; k0 < params.k; k0 += 16u) {
        let a_k = k0 + local.x;
        let b_k = k0 + local.y;
        var left = 0.0;
        var right = 0.0;
        if row < it.rows && a_k < params.k {
            left = bitcast<f32>(a[it.at.x + row * params.k + a_k]);
        }
        if b_k < params.k && column < params.cols {
            right = bitcast<f32>(b[it.at.y + b_k * params.b_k + column * params.b_n]);
        }
        a_tile[local.y * 16u + local.x] = left;
        b_tile[local.y * 16u + local.x] = right;
        workgroupBarrier();
        for (var k = 0u; k < 16u; k++) {
            sum += a_tile[local.y * 16u + k] * b_tile[k * 16u + local.x];
        }
        workgroupBarrier();
    }
    // Tiles behind the last matrix exist where the grid is rounded up.
    let at = it.at.z + row * params.cols + column;
    if row < it.rows && column < params.cols && tile / tiles * all_rows < matrix_rows() {
        if params.kind == 1u {
            sum += bitcast<f32>(c[column]);
        }
        y[at] = bitcast<u32>(sum);
    }
}

// Equation 9: the sums of four columns of a row. Strides are in bytes; a_words is the row length of a.
fn sums(it: Matrices, row: u32, column: u32) -> vec4<i32> {
    var sum = vec4<i32>(0);
    for (var k = 0u; k < params.k; k++) {
        let left = a_code(it.at.x + row * params.a_words * 4u + k) - params.a_zero_point;
        let at = it.at.y + k * params.b_k + column * params.b_n;
        // Columns behind the last read padding or the next row, and are dropped.
        let right = vec4<i32>(
            b_code(at), b_code(at + params.b_n), b_code(at + 2u * params.b_n), b_code(at + 3u * params.b_n)
        );
        sum += left * (right - vec4<i32>(params.b_zero_point));
    }
    return sum;
}

fn factors(column: u32) -> vec4<f32> {
    // c is padded to whole vectors.
    return bitcast<vec4<f32>>(vec4<u32>(c[column], c[column + 1u], c[column + 2u], c[column + 3u]));
}

struct Quad {
    inside: bool,
    it: Matrices,
    row: u32,
    column: u32,
}

// Four columns of a row a thread.
fn quad_at(index: u32) -> Quad {
    let quads = (params.cols + 3u) / 4u;
    let row = index / quads;
    let rows = select(params.m, matrix_rows(), params.m == 0u);
    return Quad(row < matrix_rows(), matrices(row / rows), row % rows, index % quads * 4u);
}

// Equations 9 and 5.
@compute @workgroup_size(64)
fn matmul_i8_i8(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let quad = quad_at(group_of(group, groups) * 64u + local);
    if !quad.inside {
        return;
    }
    let acc = sums(quad.it, quad.row, quad.column);
    let lo = vec4<f32>(f32(params.lo - params.zero_point));
    let hi = vec4<f32>(f32(params.hi - params.zero_point));
    let v = clamp(round(vec4<f32>(acc) * factors(quad.column)), lo, hi);
    y[(quad.it.at.z + quad.row * params.row_words * 4u + quad.column) / 4u] = pack4xI8(vec4<i32>(v) + vec4<i32>(params.zero_point));
}

// Equations 9 and 7.
@compute @workgroup_size(64)
fn matmul_i8_f32(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let quad = quad_at(group_of(group, groups) * 64u + local);
    if !quad.inside {
        return;
    }
    var v = vec4<f32>(sums(quad.it, quad.row, quad.column)) * factors(quad.column);
    if params.relu != 0u {
        v = max(v, vec4<f32>(0.0));
    }
    for (var lane = 0u; lane < 4u; lane++) {
        if quad.column + lane < params.cols {
            y[quad.it.at.z + quad.row * params.cols + quad.column + lane] = bitcast<u32>(v[lane]);
        }
    }
}

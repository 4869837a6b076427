// int8 linear layer on cooperative matrices of int8 values, whose sums are i32: 128 columns and 32 * PATCH_ROWS rows a workgroup. naga knows
// matrices of floats only. So this file writes f32 where a matrix has other elements, and `device/spirv.rs` replaces the types in
// the SPIR-V: factors of 16 x (16 * FRAGMENT_VECS) and (16 * FRAGMENT_VECS) x 16 int8 values, and sums of 16 x 16 i32, whose bits pass
// through arrays of f32.
//
// The outputs of a workgroup are patches of 32 x 64, one for each subgroup. The driver decides how many lanes a subgroup has, and so how
// many subgroups there are. Too few subgroups take several passes; superfluous subgroups repeat the last patch and drop it.

// Rows of patches: 2 or 4.
override PATCH_ROWS: u32 = 4u;
// A multiple of the largest subgroup size: 2 * PATCH_ROWS subgroups.
override THREADS: u32 = 256u;
// Vectors along K that are staged at a time: 2 or 4.
override K_STEP: u32 = 4u;
// Vectors along K of a factor: 1 or 2.
override FRAGMENT_VECS: u32 = 2u;

// No matrix has this row, or one of the next few.
const DROPPED: u32 = 0xffffff00u;

// Two stages of rows of activations, and of columns of weights. One vector of padding keeps the rows of a fragment in different banks.
// The columns of a block have the order of the packed weight: the first columns of its 16 quads, then the second ones, and so on.
var<workgroup> x_tile: array<vec4<u32>, 2u * PATCH_ROWS * 32u * (K_STEP + 1u)>;
var<workgroup> w_tile: array<vec4<u32>, 256u * (K_STEP + 1u)>;
// A piece of each patch, 16 x 16. The sums pass through it, because the layout of fragments is unknown.
var<workgroup> sum_tile: array<f32, PATCH_ROWS * 512u>;

// The sums of a patch of 32 x 64 by pieces of 16 x 16, row by row.
alias Patch = array<coop_mat16x16<f32, C>, 8>;

struct Invocation {
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,
    @builtin(subgroup_invocation_id) lane: u32,
    @builtin(subgroup_size) lanes: u32,
}

// The rows of a thread's vectors of activations.
struct Rows {
    r0: RowStart,
    r1: RowStart,
}

// What a thread stages: up to two vectors of activations, and up to four of weights.
struct Staged {
    x0: vec4<u32>,
    x1: vec4<u32>,
    w0: vec4<u32>,
    w1: vec4<u32>,
    w2: vec4<u32>,
    w3: vec4<u32>,
}

// Every `lanes`-th element of a piece, from this lane's on.
struct Elements {
    low: vec4<i32>,
    high: vec4<i32>,
}

fn tile_stride() -> u32 {
    return K_STEP + 1u;
}

// The vector along K of the `i`-th vector of activations of a stage. All weights beyond the last vector are 0.
fn x_k(k0: u32, i: u32) -> u32 {
    return min(k0 + i % K_STEP, params.k_vecs - 1u);
}

// The `i`-th vector of weights of a stage; zeros from `end` on. Blocks beyond the last repeat it, and `store` drops their columns.
fn staged_weight(group: u32, i: u32, k0: u32, end: u32) -> vec4<u32> {
    let k = k0 + i / 128u;
    let block = min(group * 2u + i % 128u / 64u, params.quads / 16u - 1u);
    let word = weight((block * params.k_vecs + min(k, end - 1u)) * 64u + i % 64u);
    return select(vec4<u32>(), word, k < end);
}

// Loads what this thread stages of the vectors from `k0` on. Nothing waits for the loads here.
fn load(group: u32, rows: Rows, thread: u32, k0: u32, end: u32) -> Staged {
    var s: Staged;
    s.x0 = x_load(rows.r0, x_k(k0, thread));
    if THREADS < PATCH_ROWS * 32u * K_STEP {
        s.x1 = x_load(rows.r1, x_k(k0, thread + THREADS));
    }
    s.w0 = staged_weight(group, thread, k0, end);
    if THREADS < 128u * K_STEP {
        s.w1 = staged_weight(group, thread + THREADS, k0, end);
    }
    if 2u * THREADS < 128u * K_STEP {
        s.w2 = staged_weight(group, thread + 2u * THREADS, k0, end);
        s.w3 = staged_weight(group, thread + 3u * THREADS, k0, end);
    }
    return s;
}

fn store_x(stage: u32, i: u32, word: vec4<u32>) {
    if i < PATCH_ROWS * 32u * K_STEP {
        x_tile[(stage * PATCH_ROWS * 32u + i / K_STEP) * tile_stride() + i % K_STEP] = word;
    }
}

fn store_w(stage: u32, i: u32, word: vec4<u32>) {
    if i < 128u * K_STEP {
        w_tile[(stage * 128u + i % 128u) * tile_stride() + i / 128u] = word;
    }
}

fn store_staged(s: Staged, rows: Rows, thread: u32, k0: u32, stage: u32) {
    store_x(stage, thread, x_masked(rows.r0, x_k(k0, thread), s.x0));
    if THREADS < PATCH_ROWS * 32u * K_STEP {
        store_x(stage, thread + THREADS, x_masked(rows.r1, x_k(k0, thread + THREADS), s.x1));
    }
    store_w(stage, thread, s.w0);
    if THREADS < 128u * K_STEP {
        store_w(stage, thread + THREADS, s.w1);
    }
    if 2u * THREADS < 128u * K_STEP {
        store_w(stage, thread + 2u * THREADS, s.w2);
        store_w(stage, thread + 3u * THREADS, s.w3);
    }
}

// Sums start as the zeros in `area`: naga's zero value of a matrix would be one of floats.
fn clear(c: ptr<function, Patch>, area: u32) {
    let zero = coopLoadT<coop_mat16x16<f32, C>>(&sum_tile[area], 16u);
    (*c)[0] = zero;
    (*c)[1] = zero;
    (*c)[2] = zero;
    (*c)[3] = zero;
    (*c)[4] = zero;
    (*c)[5] = zero;
    (*c)[6] = zero;
    (*c)[7] = zero;
}

// Adds the products of the vectors from `k` on. `row` and `column` are those of the tiles, stages included. `T` means row-major; the weights
// are column-major. Strides are in vectors.
fn multiply(c: ptr<function, Patch>, row: u32, column: u32, k: u32) {
    let stride = tile_stride();
    let x_at = row * stride + k;
    let w_at = column * stride + k;
    let a0 = coopLoadT<coop_mat16x16<f32, A>>(&x_tile[x_at], stride);
    let a1 = coopLoadT<coop_mat16x16<f32, A>>(&x_tile[x_at + 16u * stride], stride);
    let b0 = coopLoad<coop_mat16x16<f32, B>>(&w_tile[w_at], stride);
    let b1 = coopLoad<coop_mat16x16<f32, B>>(&w_tile[w_at + 16u * stride], stride);
    let b2 = coopLoad<coop_mat16x16<f32, B>>(&w_tile[w_at + 32u * stride], stride);
    let b3 = coopLoad<coop_mat16x16<f32, B>>(&w_tile[w_at + 48u * stride], stride);
    (*c)[0] = coopMultiplyAdd(a0, b0, (*c)[0]);
    (*c)[1] = coopMultiplyAdd(a0, b1, (*c)[1]);
    (*c)[2] = coopMultiplyAdd(a0, b2, (*c)[2]);
    (*c)[3] = coopMultiplyAdd(a0, b3, (*c)[3]);
    (*c)[4] = coopMultiplyAdd(a1, b0, (*c)[4]);
    (*c)[5] = coopMultiplyAdd(a1, b1, (*c)[5]);
    (*c)[6] = coopMultiplyAdd(a1, b2, (*c)[6]);
    (*c)[7] = coopMultiplyAdd(a1, b3, (*c)[7]);
}

// The sums of the patch at `row` and `column` of the group's outputs.
fn product(c: ptr<function, Patch>, it: Invocation, tile_row: u32, row: u32, column: u32, area: u32) {
    let range = k_range(it.group);
    let rows = Rows(row_start(tile_row + it.thread / K_STEP), row_start(tile_row + (it.thread + THREADS) / K_STEP));
    store_staged(load(it.group.x, rows, it.thread, range.x, range.y), rows, it.thread, range.x, 0u);
    for (var i = it.lane; i < 256u; i += it.lanes) {
        sum_tile[area + i] = 0.0;
    }
    workgroupBarrier();
    clear(c, area);
    var stage = 0u;
    for (var k0 = range.x; k0 < range.y; k0 += K_STEP) {
        // The next vectors are on their way during the products. After the last ones these are zeros, which nothing reads.
        let next = load(it.group.x, rows, it.thread, k0 + K_STEP, range.y);
        for (var k = 0u; k < K_STEP; k += FRAGMENT_VECS) {
            multiply(c, stage * PATCH_ROWS * 32u + row, stage * 128u + column, k);
        }
        stage = 1u - stage;
        store_staged(next, rows, it.thread, k0 + K_STEP, stage);
        workgroupBarrier();
    }
}

fn element(area: u32, at: u32) -> i32 {
    return bitcast<i32>(sum_tile[area + min(at, 255u)]);
}

// `piece` is a constant where this is called.
fn elements(c: ptr<function, Patch>, piece: u32, area: u32, it: Invocation) -> Elements {
    workgroupBarrier();
    coopStoreT((*c)[piece], &sum_tile[area], 16u);
    workgroupBarrier();
    var e: Elements;
    e.low.x = element(area, it.lane);
    e.low.y = element(area, it.lane + it.lanes);
    e.low.z = element(area, it.lane + 2u * it.lanes);
    e.low.w = element(area, it.lane + 3u * it.lanes);
    if it.lanes < 64u {
        e.high.x = element(area, it.lane + 4u * it.lanes);
        e.high.y = element(area, it.lane + 5u * it.lanes);
        e.high.z = element(area, it.lane + 6u * it.lanes);
        e.high.w = element(area, it.lane + 7u * it.lanes);
    }
    return e;
}

// Stores the `number`-th quad of a lane. A subgroup has 32 lanes or more, so that a piece has at most 8 quads for each of them.
fn store_quad(sum: vec4<i32>, row: u32, number: u32, it: Invocation, to: Output) {
    let at = it.lane + number * it.lanes;
    store(sum, select(DROPPED, row + at / 16u, at < 256u), to);
}

// Stores 16 rows of 16 quads, whose columns lie in four pieces.
fn store_rows(e0: Elements, e1: Elements, e2: Elements, e3: Elements, row: u32, it: Invocation, to: Output) {
    store_quad(vec4<i32>(e0.low.x, e1.low.x, e2.low.x, e3.low.x), row, 0u, it, to);
    store_quad(vec4<i32>(e0.low.y, e1.low.y, e2.low.y, e3.low.y), row, 1u, it, to);
    store_quad(vec4<i32>(e0.low.z, e1.low.z, e2.low.z, e3.low.z), row, 2u, it, to);
    store_quad(vec4<i32>(e0.low.w, e1.low.w, e2.low.w, e3.low.w), row, 3u, it, to);
    if it.lanes < 64u {
        store_quad(vec4<i32>(e0.high.x, e1.high.x, e2.high.x, e3.high.x), row, 4u, it, to);
        store_quad(vec4<i32>(e0.high.y, e1.high.y, e2.high.y, e3.high.y), row, 5u, it, to);
        store_quad(vec4<i32>(e0.high.z, e1.high.z, e2.high.z, e3.high.z), row, 6u, it, to);
        store_quad(vec4<i32>(e0.high.w, e1.high.w, e2.high.w, e3.high.w), row, 7u, it, to);
    }
}

@compute @workgroup_size(THREADS)
fn linear_coopmat_int8(it: Invocation) {
    let tile_row = first_row(it.group, it.groups, PATCH_ROWS * 32u);
    let patches = PATCH_ROWS * 2u;
    for (var first = 0u; first < patches; first += it.subgroups) {
        let index = min(first + it.subgroup, patches - 1u);
        let row = index / 2u * 32u;
        let area = index * 256u;
        var c: Patch;
        product(&c, it, tile_row, row, index % 2u * 64u, area);
        // Only one of the subgroups that computed a patch stores it. A lane's quads lie in the same columns.
        let row0 = select(DROPPED, tile_row + row, first + it.subgroup < patches);
        let to = output_at((it.group.x * 2u + index % 2u) * 16u + it.lane % 16u);
        let e0 = elements(&c, 0u, area, it);
        let e1 = elements(&c, 1u, area, it);
        let e2 = elements(&c, 2u, area, it);
        let e3 = elements(&c, 3u, area, it);
        store_rows(e0, e1, e2, e3, row0, it, to);
        let e4 = elements(&c, 4u, area, it);
        let e5 = elements(&c, 5u, area, it);
        let e6 = elements(&c, 6u, area, it);
        let e7 = elements(&c, 7u, area, it);
        store_rows(e4, e5, e6, e7, select(DROPPED, row0 + 16u, first + it.subgroup < patches), it, to);
        workgroupBarrier();
    }
}

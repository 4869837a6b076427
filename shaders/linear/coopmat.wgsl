// int8 linear layer on cooperative matrices of floats: 64 columns and 32 * PATCH_ROWS rows a workgroup. An int8 value is exact in
// f16, a product of two in f32, and so are sums of products up to 2^24, in any order. Before the sums can exceed that, they are
// added to sums in i32.
//
// The outputs of a workgroup are patches of 32 x 32, one for each subgroup. The driver decides how many lanes a subgroup has, and
// so how many subgroups there are. Too few subgroups take several passes; superfluous subgroups repeat the last patch and drop it.

// naga wants overrides before the arrays whose lengths they set, so this file comes before `coopmat_16.wgsl`.

// Rows of patches.
override PATCH_ROWS: u32 = 2u;
// A multiple of the largest subgroup size. 2 * PATCH_ROWS subgroups are fastest.
override THREADS: u32 = 128u;
// Vectors along K that are staged at a time: an even number.
override K_STEP: u32 = 2u;
// Vectors along K whose products are summed in f32: as many as keep every sum of the layer's channels within 2^24. For any weights
// that is 64: only the last product can bring the sum to 2^24, which is exact too. Each bit that a device's sums lack halves it.
override CHUNK_VECS: u32 = 64u;

// No matrix has this row, or one of the next few.
const DROPPED: u32 = 0xffffff00u;

// A piece of each patch, 16 x 16. The sums pass through it, because the layout of fragments is unknown.
var<workgroup> sum_tile: array<f32, PATCH_ROWS * 512u>;

struct Invocation {
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,
    @builtin(subgroup_invocation_id) lane: u32,
    @builtin(subgroup_size) lanes: u32,
}

// Lane `index` of `size` has every `size`-th of the 64 quads of a piece: at most 8, because a subgroup has 8 lanes or more.
struct Lane {
    index: u32,
    size: u32,
}

struct Quads {
    q0: vec4<i32>,
    q1: vec4<i32>,
    q2: vec4<i32>,
    q3: vec4<i32>,
    q4: vec4<i32>,
    q5: vec4<i32>,
    q6: vec4<i32>,
    q7: vec4<i32>,
}

// The sums of the pieces of a patch, row by row.
struct Sums {
    p0: Quads,
    p1: Quads,
    p2: Quads,
    p3: Quads,
}

// The values of a word that `weight` gave, each as large as it is.
fn weight_values(word: u32) -> vec4<i32> {
    return unpack4xI8(word) >> vec4<u32>(WEIGHT_SHIFT);
}

// Stages the vectors from `k0` on, up to `end`. `own` is where the first row of this thread starts, for all vectors along K: where
// subgroups are large enough, a thread has no other row.
fn stage(block: u32, tile_row: u32, own: RowStart, thread: u32, k0: u32, end: u32) {
    let k_vecs = params.k_vecs;
    for (var i = thread; i < K_STEP * PATCH_ROWS * 32u; i += THREADS) {
        let k = i % K_STEP;
        let row = i / K_STEP;
        var start = own;
        if i != thread {
            start = row_start(tile_row + row);
        }
        // Rows beyond the last repeat it, and `store` drops them; vectors from `end` on are 0 in `w_tile`.
        stage_x(row, k, x_vec(start, min(k0 + k, k_vecs - 1u)));
    }
    for (var i = thread; i < K_STEP * 64u; i += THREADS) {
        let k = i / 64u;
        let column = i % 64u;
        var word = vec4<u32>(0u);
        if k0 + k < end {
            word = weight((block * k_vecs + k0 + k) * 64u + column % 4u * 16u + column / 4u);
        }
        stage_w(column, k, word);
    }
}

fn quad_at(area: u32, quad: u32) -> vec4<i32> {
    let at = area + min(quad, 63u) * 4u;
    return vec4<i32>(vec4<f32>(sum_tile[at], sum_tile[at + 1u], sum_tile[at + 2u], sum_tile[at + 3u]));
}

// Adds the piece in `area` to `sums`.
fn plus(sums: Quads, area: u32, lane: Lane) -> Quads {
    var s = sums;
    s.q0 += quad_at(area, lane.index);
    if lane.size < 64u {
        s.q1 += quad_at(area, lane.index + lane.size);
    }
    if lane.size < 32u {
        s.q2 += quad_at(area, lane.index + 2u * lane.size);
        s.q3 += quad_at(area, lane.index + 3u * lane.size);
    }
    if lane.size < 16u {
        s.q4 += quad_at(area, lane.index + 4u * lane.size);
        s.q5 += quad_at(area, lane.index + 5u * lane.size);
        s.q6 += quad_at(area, lane.index + 6u * lane.size);
        s.q7 += quad_at(area, lane.index + 7u * lane.size);
    }
    return s;
}

// The patch at `row` and `column` of the group's outputs.
fn product(it: Invocation, tile_row: u32, row: u32, column: u32, area: u32, lane: Lane) -> Sums {
    let range = k_range(it.group);
    let own = row_start(tile_row + it.thread / K_STEP);
    var sums: Sums;
    for (var start = range.x; start < range.y; start += CHUNK_VECS) {
        let end = min(start + CHUNK_VECS, range.y);
        for (var i = lane.index; i < 256u; i += lane.size) {
            sum_tile[area + i] = 0.0;
        }
        workgroupBarrier();
        var fragments: Fragments;
        clear(&fragments, area);
        for (var k0 = start; k0 < end; k0 += K_STEP) {
            stage(it.group.x, tile_row, own, it.thread, k0, end);
            workgroupBarrier();
            for (var k = 0u; k < K_STEP; k += 2u) {
                multiply(&fragments, row, column, k, lane);
                multiply(&fragments, row, column, k + 1u, lane);
            }
            workgroupBarrier();
        }
        store_piece(&fragments, 0u, area, lane);
        workgroupBarrier();
        sums.p0 = plus(sums.p0, area, lane);
        workgroupBarrier();
        store_piece(&fragments, 1u, area, lane);
        workgroupBarrier();
        sums.p1 = plus(sums.p1, area, lane);
        workgroupBarrier();
        store_piece(&fragments, 2u, area, lane);
        workgroupBarrier();
        sums.p2 = plus(sums.p2, area, lane);
        workgroupBarrier();
        store_piece(&fragments, 3u, area, lane);
        workgroupBarrier();
        sums.p3 = plus(sums.p3, area, lane);
        workgroupBarrier();
    }
    return sums;
}

// Quad `index` of the piece at `row` and `quad`.
fn store_quad(sum: vec4<i32>, row: u32, quad: u32, index: u32) {
    store_sum(sum, select(DROPPED, row + index / 4u, index < 64u), output_at(quad + index % 4u));
}

fn store_quads(sums: Quads, row: u32, quad: u32, lane: Lane) {
    store_quad(sums.q0, row, quad, lane.index);
    if lane.size < 64u {
        store_quad(sums.q1, row, quad, lane.index + lane.size);
    }
    if lane.size < 32u {
        store_quad(sums.q2, row, quad, lane.index + 2u * lane.size);
        store_quad(sums.q3, row, quad, lane.index + 3u * lane.size);
    }
    if lane.size < 16u {
        store_quad(sums.q4, row, quad, lane.index + 4u * lane.size);
        store_quad(sums.q5, row, quad, lane.index + 5u * lane.size);
        store_quad(sums.q6, row, quad, lane.index + 6u * lane.size);
        store_quad(sums.q7, row, quad, lane.index + 7u * lane.size);
    }
}

@compute @workgroup_size(THREADS)
fn linear_coopmat(it: Invocation) {
    let tile_row = first_row(it.group, it.groups, PATCH_ROWS * 32u);
    let lane = Lane(it.lane, it.lanes);
    let patches = PATCH_ROWS * 2u;
    for (var first = 0u; first < patches; first += it.subgroups) {
        let patch_index = min(first + it.subgroup, patches - 1u);
        let row = patch_index / 2u * 32u;
        let column = patch_index % 2u * 32u;
        let sums = product(it, tile_row, row, column, patch_index * 256u, lane);
        // Only one of the subgroups that computed a patch stores it.
        let mine = first + it.subgroup < patches;
        let row0 = select(DROPPED, tile_row + row, mine);
        let row2 = select(DROPPED, tile_row + row + 16u, mine);
        let quad = it.group.x * 16u + column / 4u;
        store_quads(sums.p0, row0, quad, lane);
        store_quads(sums.p1, row0, quad + 4u, lane);
        store_quads(sums.p2, row2, quad, lane);
        store_quads(sums.p3, row2, quad + 4u, lane);
    }
}

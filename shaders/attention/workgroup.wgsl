// Attention with tiles in workgroup memory: 64 threads and 16 rows a workgroup, 4 x 4 sums a thread.

const THREADS: u32 = 64u;
const ROWS: u32 = 16u;
const OWN_ROWS: u32 = 4u;
const COLUMNS: u32 = 64u;

// The factors of 16 rows: feature i of row r is entry 16 i + r. Factors of 64 columns: feature i of column c is entry 65 i + c, so that
// threads that write features of one column use different banks.
var<workgroup> left: array<f32, 256>;
var<workgroup> right: array<f32, 1040>;

struct Sums {
    r0: vec4<f32>,
    r1: vec4<f32>,
    r2: vec4<f32>,
    r3: vec4<f32>,
}

fn row_of(local: u32, i: u32) -> u32 {
    return local / 16u * 4u + i;
}

// Threads have columns next to each other, unless a thread has those of a word.
fn column_of(local: u32, i: u32) -> u32 {
    return select(local % 16u + i * 16u, local % 16u * 4u + i, QUANTIZE);
}

fn first_row(sums: Sums) -> vec4<f32> {
    return sums.r0;
}

// The sums without those of the first row.
fn next_rows(sums: Sums) -> Sums {
    return Sums(sums.r1, sums.r2, sums.r3, sums.r3);
}

// Adds the products of four rows with four columns, for one feature.
fn plus_four(sums: Sums, rows: vec4<f32>, feature: u32, local: u32) -> Sums {
    let at = feature * 65u;
    let columns = vec4<f32>(
        right[at + column_of(local, 0u)], right[at + column_of(local, 1u)],
        right[at + column_of(local, 2u)], right[at + column_of(local, 3u)]
    );
    return Sums(
        plus_products(sums.r0, rows.x, columns), plus_products(sums.r1, rows.y, columns),
        plus_products(sums.r2, rows.z, columns), plus_products(sums.r3, rows.w, columns)
    );
}

fn score_sums(block: Block, first: u32, local: u32, lane: u32) -> Sums {
    var sums = Sums();
    for (var feature = 0u; feature < params.depth; feature += 16u) {
        workgroupBarrier();
        let own = local % 16u;
        for (var i = local / 16u; i < 16u; i += 4u) {
            left[own * 16u + i] = q_at(block, i, feature + own);
        }
        for (var i = local / 16u; i < 64u; i += 4u) {
            right[own * 65u + i] = k_at(block, feature + own, first + i);
        }
        workgroupBarrier();
        for (var i = 0u; i < 16u; i++) {
            let at = i * 16u + local / 16u * 4u;
            sums = plus_four(sums, vec4<f32>(left[at], left[at + 1u], left[at + 2u], left[at + 3u]), i, local);
        }
    }
    return sums;
}

fn result_sums(block: Block, first: u32, local: u32, lane: u32) -> Sums {
    var sums = Sums();
    for (var key = 0u; key < params.keys; key += 16u) {
        workgroupBarrier();
        for (var i = 0u; i < 16u; i++) {
            right[i * 65u + local] = v_at(block, key + i, first + local);
        }
        workgroupBarrier();
        for (var i = 0u; i < 16u; i++) {
            let at = (key + i) * ROWS + local / 16u * 4u;
            let weights = vec4<u32>(held[at], held[at + 1u], held[at + 2u], held[at + 3u]);
            sums = plus_four(sums, bitcast<vec4<f32>>(weights), i, local);
        }
    }
    return sums;
}

@compute @workgroup_size(64)
fn attention(thread: Thread) {
    attend(thread, 0u);
}

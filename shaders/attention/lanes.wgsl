// Attention with subgroup operations: eight threads and 16 rows a workgroup. Each thread loads the factors of two rows and broadcasts
// them. It suits drivers on which a load costs much more than a shuffle: software adapters.

const THREADS: u32 = 8u;
const ROWS: u32 = 16u;
const OWN_ROWS: u32 = 16u;
const COLUMNS: u32 = 32u;

struct Sums {
    low: Rows,
    high: Rows,
}

// Four factors of each of the two rows of a thread.
struct Own {
    low: vec4<f32>,
    high: vec4<f32>,
}

fn row_of(local: u32, i: u32) -> u32 {
    return i;
}

// Threads have columns next to each other, unless a thread has those of a word.
fn column_of(local: u32, i: u32) -> u32 {
    return select(local + i * 8u, local * 4u + i, QUANTIZE);
}

fn row_factors(block: Block, row: u32, feature: u32) -> vec4<f32> {
    return vec4<f32>(
        q_at(block, row, feature), q_at(block, row, feature + 1u), q_at(block, row, feature + 2u), q_at(block, row, feature + 3u)
    );
}

fn own_factors(block: Block, lane: u32, feature: u32) -> Own {
    return Own(row_factors(block, lane, feature), row_factors(block, lane + 8u, feature));
}

fn row_weights(at: u32) -> vec4<f32> {
    return bitcast<vec4<f32>>(vec4<u32>(held[at], held[at + ROWS], held[at + 2u * ROWS], held[at + 3u * ROWS]));
}

fn own_weights(lane: u32, key: u32) -> Own {
    let at = key * ROWS + lane;
    return Own(row_weights(at), row_weights(at + 8u));
}

// Adds the products of the rows with four columns, for four features or keys.
fn plus_four(sums: Sums, own: Own, r0: vec4<f32>, r1: vec4<f32>, r2: vec4<f32>, r3: vec4<f32>) -> Sums {
    var low = plus_rows(sums.low, own.low.x, r0);
    var high = plus_rows(sums.high, own.high.x, r0);
    low = plus_rows(low, own.low.y, r1);
    high = plus_rows(high, own.high.y, r1);
    low = plus_rows(low, own.low.z, r2);
    high = plus_rows(high, own.high.z, r2);
    low = plus_rows(low, own.low.w, r3);
    high = plus_rows(high, own.high.w, r3);
    return Sums(low, high);
}

fn first_row(sums: Sums) -> vec4<f32> {
    return sums.low.r0;
}

// The sums without those of the first row.
fn next_rows(sums: Sums) -> Sums {
    let low = sums.low;
    let high = sums.high;
    return Sums(
        Rows(low.r1, low.r2, low.r3, low.r4, low.r5, low.r6, low.r7, high.r0),
        Rows(high.r1, high.r2, high.r3, high.r4, high.r5, high.r6, high.r7, high.r7)
    );
}

fn columns_of(first: u32, local: u32) -> vec4<u32> {
    return vec4<u32>(first) + vec4<u32>(column_of(local, 0u), column_of(local, 1u), column_of(local, 2u), column_of(local, 3u));
}

fn key_factors(block: Block, feature: u32, keys: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(
        k_at(block, feature, keys.x), k_at(block, feature, keys.y), k_at(block, feature, keys.z), k_at(block, feature, keys.w)
    );
}

fn value_factors(block: Block, key: u32, columns: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(
        v_at(block, key, columns.x), v_at(block, key, columns.y), v_at(block, key, columns.z), v_at(block, key, columns.w)
    );
}

fn score_sums(block: Block, first: u32, local: u32, lane: u32) -> Sums {
    let keys = columns_of(first, local);
    var sums = Sums();
    for (var feature = 0u; feature < params.depth; feature += 4u) {
        let own = own_factors(block, lane, feature);
        let k0 = key_factors(block, feature, keys);
        let k1 = key_factors(block, feature + 1u, keys);
        let k2 = key_factors(block, feature + 2u, keys);
        let k3 = key_factors(block, feature + 3u, keys);
        sums = plus_four(sums, own, k0, k1, k2, k3);
    }
    return sums;
}

fn result_sums(block: Block, first: u32, local: u32, lane: u32) -> Sums {
    let columns = columns_of(first, local);
    var sums = Sums();
    for (var key = 0u; key < params.keys; key += 4u) {
        let own = own_weights(lane, key);
        let v0 = value_factors(block, key, columns);
        let v1 = value_factors(block, key + 1u, columns);
        let v2 = value_factors(block, key + 2u, columns);
        let v3 = value_factors(block, key + 3u, columns);
        sums = plus_four(sums, own, v0, v1, v2, v3);
    }
    return sums;
}

// A workgroup lies in one subgroup.
@compute @workgroup_size(8)
fn attention_lanes(thread: Thread, @builtin(subgroup_invocation_id) invocation: u32) {
    attend(thread, invocation % 8u);
}

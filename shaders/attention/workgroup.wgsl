// Attention with tiles in workgroup memory: 64 threads and 16 rows a workgroup, 4 x 4 sums a thread.

const THREADS: u32 = 64u;
const ROWS: u32 = 16u;
const OWN_ROWS: u32 = 4u;
const COLUMNS: u32 = 64u;

// Sixteen features of 16 rows: rows 4 g to 4 g + 3 of feature i are entry 4 i + g. Sixteen features, or keys, of 64 columns: columns 4 c to
// 4 c + 3 of feature i are entry 17 i + c, so that threads that write features of the same columns use different banks.
var<workgroup> left: array<vec4<f32>, 64>;
var<workgroup> right: array<vec4<f32>, 272>;

struct Sums {
    r0: vec4<f32>,
    r1: vec4<f32>,
    r2: vec4<f32>,
    r3: vec4<f32>,
}

// What a thread loads of sixteen features or keys: its loads are on their way together.
struct Loaded {
    left: vec4<f32>,
    right0: vec4<f32>,
    right1: vec4<f32>,
    right2: vec4<f32>,
    right3: vec4<f32>,
}

fn row_of(local: u32, i: u32) -> u32 {
    return local / 16u * 4u + i;
}

fn column_of(local: u32, i: u32) -> u32 {
    return local % 16u * 4u + i;
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
    let columns = right[feature * 17u + local % 16u];
    return Sums(
        plus_products(sums.r0, rows.x, columns), plus_products(sums.r1, rows.y, columns),
        plus_products(sums.r2, rows.z, columns), plus_products(sums.r3, rows.w, columns)
    );
}

fn key_factors(block: Block, feature: u32, key: u32) -> vec4<f32> {
    return vec4<f32>(
        k_at(block, feature, key), k_at(block, feature, key + 1u), k_at(block, feature, key + 2u), k_at(block, feature, key + 3u)
    );
}

fn value_factors(block: Block, key: u32, column: u32) -> vec4<f32> {
    return vec4<f32>(
        v_at(block, key, column), v_at(block, key, column + 1u), v_at(block, key, column + 2u), v_at(block, key, column + 3u)
    );
}

// Neighbouring threads load neighbouring features of the same rows and keys.
fn load_features(block: Block, first: u32, feature: u32, local: u32) -> Loaded {
    let own = feature + local % 16u;
    let group = local / 16u * 4u;
    let rows = vec4<f32>(
        q_at(block, group, own), q_at(block, group + 1u, own), q_at(block, group + 2u, own), q_at(block, group + 3u, own)
    );
    let key = first + group;
    return Loaded(
        rows, key_factors(block, own, key), key_factors(block, own, key + 16u), key_factors(block, own, key + 32u),
        key_factors(block, own, key + 48u)
    );
}

fn store_features(loaded: Loaded, local: u32) {
    left[local % 16u * 4u + local / 16u] = loaded.left;
    let at = local % 16u * 17u + local / 16u;
    right[at] = loaded.right0;
    right[at + 4u] = loaded.right1;
    right[at + 8u] = loaded.right2;
    right[at + 12u] = loaded.right3;
}

fn score_sums(block: Block, first: u32, local: u32, lane: u32) -> Sums {
    var sums = Sums();
    for (var feature = 0u; feature < params.depth; feature += 16u) {
        let loaded = load_features(block, first, feature, local);
        workgroupBarrier();
        store_features(loaded, local);
        workgroupBarrier();
        for (var i = 0u; i < 16u; i++) {
            sums = plus_four(sums, left[i * 4u + local / 16u], i, local);
        }
    }
    return sums;
}

// Neighbouring threads load neighbouring columns of the same keys.
fn load_values(block: Block, first: u32, key: u32, local: u32) -> Loaded {
    let own = key + local / 16u;
    let column = first + column_of(local, 0u);
    return Loaded(
        vec4<f32>(), value_factors(block, own, column), value_factors(block, own + 4u, column), value_factors(block, own + 8u, column),
        value_factors(block, own + 12u, column)
    );
}

fn store_values(loaded: Loaded, local: u32) {
    let at = local / 16u * 17u + local % 16u;
    right[at] = loaded.right0;
    right[at + 4u * 17u] = loaded.right1;
    right[at + 8u * 17u] = loaded.right2;
    right[at + 12u * 17u] = loaded.right3;
}

fn result_sums(block: Block, first: u32, local: u32, lane: u32) -> Sums {
    var sums = Sums();
    for (var key = 0u; key < params.keys; key += 16u) {
        let loaded = load_values(block, first, key, local);
        workgroupBarrier();
        store_values(loaded, local);
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

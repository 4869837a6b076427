// Products of eight rows, of which each lane of a subgroup has one, with four columns.

// Sums of eight rows.
struct Rows {
    r0: vec4<f32>,
    r1: vec4<f32>,
    r2: vec4<f32>,
    r3: vec4<f32>,
    r4: vec4<f32>,
    r5: vec4<f32>,
    r6: vec4<f32>,
    r7: vec4<f32>,
}

// Adds the products of eight rows with four columns, for one feature. The lane indices are constants, which drivers turn into single
// instructions.
fn plus_rows(sums: Rows, own: f32, right: vec4<f32>) -> Rows {
    return Rows(
        plus_products(sums.r0, subgroupShuffle(own, 0u), right), plus_products(sums.r1, subgroupShuffle(own, 1u), right),
        plus_products(sums.r2, subgroupShuffle(own, 2u), right), plus_products(sums.r3, subgroupShuffle(own, 3u), right),
        plus_products(sums.r4, subgroupShuffle(own, 4u), right), plus_products(sums.r5, subgroupShuffle(own, 5u), right),
        plus_products(sums.r6, subgroupShuffle(own, 6u), right), plus_products(sums.r7, subgroupShuffle(own, 7u), right)
    );
}

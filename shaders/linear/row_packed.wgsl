// The sum of a row by packed dot products.

fn add_row(
    sum: vec4<i32>, a: vec4<u32>, b0: vec4<u32>, b1: vec4<u32>, b2: vec4<u32>, b3: vec4<u32>, factors: Factors,
) -> vec4<i32> {
    return add_products(sum, a, b0, b1, b2, b3, factors);
}

// Products of words of four int8 values, which are unpacked once for all products of a word.

// The int8 values of a word. Two shifts extend the sign.
fn unpack(word: u32) -> vec4<i32> {
    let v = bitcast<i32>(word);
    return vec4<i32>((v << 24u) >> 24u, (v << 16u) >> 24u, (v << 8u) >> 24u, v >> 24u);
}

// A word of each of four columns.
struct Columns {
    c0: vec4<i32>,
    c1: vec4<i32>,
    c2: vec4<i32>,
    c3: vec4<i32>,
    factors: WordFactors,
}

fn product(a: vec4<i32>, b: vec4<i32>) -> i32 {
    return a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w;
}

fn plus(sum: vec4<i32>, a: vec4<i32>, w: Columns) -> vec4<i32> {
    let products = vec4<i32>(product(a, w.c0), product(a, w.c1), product(a, w.c2), product(a, w.c3));
    return add_scaled(sum, products, w.factors);
}

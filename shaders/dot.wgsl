// Dot products of int8 codes, four to a word.

// Off where a driver's packed dot product gives wrong sums.
override PACKED_DOT: bool = true;

fn dot4(a: u32, b: u32) -> i32 {
    if PACKED_DOT {
        return dot4I8Packed(a, b);
    }
    let p = vec4<i32>(
        extractBits(bitcast<i32>(a), 0u, 8u) * extractBits(bitcast<i32>(b), 0u, 8u),
        extractBits(bitcast<i32>(a), 8u, 8u) * extractBits(bitcast<i32>(b), 8u, 8u),
        extractBits(bitcast<i32>(a), 16u, 8u) * extractBits(bitcast<i32>(b), 16u, 8u),
        extractBits(bitcast<i32>(a), 24u, 8u) * extractBits(bitcast<i32>(b), 24u, 8u),
    );
    return p.x + p.y + p.z + p.w;
}

fn dot16(a: vec4<u32>, b: vec4<u32>) -> i32 {
    return dot4(a.x, b.x) + dot4(a.y, b.y) + dot4(a.z, b.z) + dot4(a.w, b.w);
}

// One row of activations against four columns of weights.
fn dot16x4(a: vec4<u32>, b0: vec4<u32>, b1: vec4<u32>, b2: vec4<u32>, b3: vec4<u32>) -> vec4<i32> {
    return vec4<i32>(dot16(a, b0), dot16(a, b1), dot16(a, b2), dot16(a, b3));
}

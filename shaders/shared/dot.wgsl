// Dot products of int8 values, four to a word.

// False on drivers whose packed dot product gives wrong sums.
override PACKED_DOT: bool = true;

fn dot4(a: u32, b: u32) -> i32 {
    if PACKED_DOT {
        return dot4I8Packed(a, b);
    }
    let x = bitcast<i32>(a);
    let y = bitcast<i32>(b);
    // Two shifts extend the sign. Drivers that run on a CPU are faster with them than with extractBits.
    return ((x << 24u) >> 24u) * ((y << 24u) >> 24u) + ((x << 16u) >> 24u) * ((y << 16u) >> 24u)
        + ((x << 8u) >> 24u) * ((y << 8u) >> 24u) + (x >> 24u) * (y >> 24u);
}

// Adds 16 products to a sum. The sum comes first, so that each packed dot product adds to it: GPUs have one instruction for both.
fn add_dot16(sum: i32, a: vec4<u32>, b: vec4<u32>) -> i32 {
    return sum + dot4(a.x, b.x) + dot4(a.y, b.y) + dot4(a.z, b.z) + dot4(a.w, b.w);
}

// Adds the products of one row of activations with four columns of weights.
fn add_dot16x4(sum: vec4<i32>, a: vec4<u32>, b0: vec4<u32>, b1: vec4<u32>, b2: vec4<u32>, b3: vec4<u32>) -> vec4<i32> {
    return vec4<i32>(add_dot16(sum.x, a, b0), add_dot16(sum.y, a, b1), add_dot16(sum.z, a, b2), add_dot16(sum.w, a, b3));
}
